"""What the tests of the engine share."""

import functools
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_backbone() -> Iterator[None]:
    """Runs of a module load the same model once: loading it takes longer than a tiny run."""
    import datus.segmenter.model  # noqa: F401  # has the function itself: training changes its model
    from datus.models import vit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit, "load_backbone", functools.lru_cache(vit.load_backbone))
        yield

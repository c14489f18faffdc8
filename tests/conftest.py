"""What several tests of the machine share: one tiny dataset and one finished run on it."""

import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_runs import Dataset, go, make_dataset

settings.register_profile("datus", deadline=None)  # a busy machine is no failure
settings.load_profile("datus")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten images with truth. Only to read; tests that change images make their own."""
    return make_dataset(tmp_path_factory.mktemp("tiny") / "photos")


@pytest.fixture(scope="session")
def finished(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run with K = 3 on `tiny`. Only to read."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    go(tiny.config(run_dir))
    return run_dir


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run to change."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))

"""DatUS: semantic masks from unlabelled images.

A folder of images goes in; one dense pseudo-mask per image comes out, its classes shared by the
whole folder. No labels, no training (Kumar, Sur and Baruah, "DatUS", section III).

    import datus
    result = datus.mine("photos", clusters=12)
    result[0].mask                      uint8 (H, W), the image's own size
    result.plot(), result.scores, result.export("coco", "out"), result.predict("more")

`datus.method` is the method, arrays in and arrays out; `datus.stages` has the stages of a run,
`datus.engine` runs them, and `datus.api` is what the names below are.

They are loaded on first use, so that `import datus` costs nothing. Functions of the method are in
their modules: `from datus.method.louvain import partition`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from datus.version import __version__

if TYPE_CHECKING:
    from datus.api.functions import compare_runs, evaluate, export, load, mine
    from datus.api.result import Cluster, MaskedImage, Result
    from datus.config import Config
    from datus.errors import DatusError
    from datus.method.metrics import Scores
    from datus.pipeline import run
    from datus.store.store import Store

__all__ = [
    "Cluster",
    "Config",
    "DatusError",
    "MaskedImage",
    "Result",
    "Scores",
    "Store",
    "__version__",
    "compare_runs",
    "evaluate",
    "export",
    "load",
    "mine",
    "run",
]

_HOME = {
    **dict.fromkeys(("compare_runs", "evaluate", "export", "load", "mine"), "api.functions"),
    **dict.fromkeys(("Cluster", "MaskedImage", "Result"), "api.result"),
    "Config": "config",
    "DatusError": "errors",
    "Scores": "method.metrics",
    "Store": "store.store",
    "run": "pipeline",
}

if not TYPE_CHECKING:  # or a name that is not there would have the type Any

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'datus' has no attribute {name!r}")
        return getattr(importlib.import_module(f"datus.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""DatUS: semantic masks from unlabelled images.

A folder of images goes in; one dense pseudo-mask per image comes out, its classes shared by the
whole folder. No labels, no training (Kumar, Sur and Baruah, "DatUS", section III).

The package reads top to bottom: `images`, `backbones`, `affinity`, `louvain`, `segments`,
`embeddings`, `clusters`, `masks` and `metrics` are the method, arrays in and arrays out. `store`,
`executors` and `runner` are the machine around it. `stages` is the table that joins the two.

    from datus import Config, Store, run
    config = Config.load(None, {"data.images": "photos", "clusters.k": [12]})
    run(config, Store(config.run_path))

The names below are loaded on first use, so that `import datus` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Config": "config",
    "DatusError": "errors",
    "Store": "store",
    "affinity_graph": "affinity",
    "assign": "clusters",
    "evaluate_folders": "evaluation",
    "fit_clusters": "clusters",
    "load_backbone": "backbones",
    "load_classes": "classes",
    "paint": "masks",
    "partition": "louvain",
    "pool": "embeddings",
    "run": "runner",
    "score_all": "metrics",
    "split": "segments",
}

__all__ = ["__version__"]
__all__ += list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'datus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"datus.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""Hand-made cells of a comparison."""

from typing import Any

import numpy as np

from datus.compare.cells import CellResult
from datus.method.metrics import Scores


def scores_of(rule: str, miou: float, accuracy: float, f1: float, coverage: float) -> Scores:
    """Two classes, two clusters; per class whatever."""
    per_class = np.array([miou, np.nan])
    return Scores(
        rule=rule,
        miou=miou,
        accuracy=accuracy,
        f1=f1,
        coverage=coverage,
        iou=per_class,
        precision=per_class,
        recall=per_class,
        f1_per_class=per_class,
        match=np.array([0, -1], np.int16),
        n_pixels=100,
    )


def cell(backbone: str, miou: float, **more: Any) -> CellResult:
    """mIoU as given, accuracy 30 and F1 10 above it; `hungarian_covered` 1 above the strict."""
    rules = ("hungarian_strict", "hungarian_covered", "hungarian_legacy")
    made: dict[str, Any] = {
        "k": 6,
        "n_images": 10,
        "n_segments": 1000,
        "n_valid": 250,
        "valid_patches": 80.0,
        "scores": {
            rule: scores_of(rule, miou + i, miou + 30 + i, miou + 10 + i, 90.0)
            for i, rule in enumerate(rules)
        },
    }
    return CellResult(backbone=backbone, **{**made, **more})

"""Training folders with labels that are wrong in one way, for `denoise.py`.

    imperfect_folder(config, records, row, seed, folder)      folder/images, folder/masks; quality

The ways are those of data/make_imperfect.py. Levels of a kind make a line of the plot.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datus.config import Config
from datus.inputs.labels import load_classes, truth_classes
from datus.inputs.read import read_truth
from datus.method.masks import encode_mask
from datus.method.metrics import add, count_pixels, score
from datus.types import ImageRecord

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from make_imperfect import imperfect


@dataclass(frozen=True)
class Row:
    """kind and level as in data/make_imperfect.py; no kind = the truth as it is."""

    name: str
    kind: str = ""
    level: int = 0


LABELS = (
    Row("true masks"),
    Row("points, 2 a region", "points", 2),
    Row("scribbles, 3 %", "scribbles", 3),
    Row("flip 10 %", "flip", 10),
    Row("flip 30 %", "flip", 30),
    Row("flip 50 %", "flip", 50),
    Row("shift 2 %", "shift", 2),
    Row("shift 5 %", "shift", 5),
    Row("shift 10 %", "shift", 10),
)


def imperfect_folder(
    config: Config, records: Sequence[ImageRecord], row: Row, seed: int, folder: Path
) -> dict[str, float]:
    """Write images and labels; how good the labels are, in percent.

    mIoU and accuracy are those of the pixels that have a label, coverage is their share.
    """
    classes = load_classes(Path(config.data.classes))
    n_classes, counts = classes.n_classes, []
    for record in records:
        image = folder / "images" / record.path
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes((Path(config.data.images) / record.path).read_bytes())
        labels = read_truth(config, record)
        truth = truth_classes(labels, classes, (record.height, record.width))
        made = imperfect(truth, row.kind, row.level, seed, record.image_id) if row.kind else truth
        target = folder / "masks" / f"{record.image_id}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_mask(made))
        counts.append(count_pixels(made, truth, n_classes, n_classes))
    same = np.arange(n_classes, dtype=np.int16)
    found = score(add(counts), "hungarian_covered", match=same)
    return {"miou": found.miou, "accuracy": found.accuracy, "coverage": found.coverage}

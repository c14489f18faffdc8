"""yolo: what is written, trap by trap."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from export_cases import same, traps, write

from datus.formats.names import make_classes
from datus.types import IGNORE


@pytest.mark.parametrize("to_whole", [np.trunc, np.round])
def test_yolo_fills_to_the_same_pixels(to_whole: Any, tmp_path: Path) -> None:
    """Holes open, parts apart, whether a reader rounds or cuts decimals off."""
    folder = write("yolo", tmp_path / "out")
    found = {}
    for image_id, labels in traps().items():
        height, width = labels.shape
        found[image_id] = np.full(labels.shape, IGNORE, np.uint8)
        for line in (folder / "labels" / "train" / f"{image_id}.txt").read_text().splitlines():
            label, *numbers = line.split()
            assert len(numbers) >= 6
            assert len(numbers) % 2 == 0
            shares = np.array(numbers, np.float32).reshape(-1, 2)
            assert shares.min() >= 0
            assert shares.max() <= 1
            points = to_whole(shares * np.array([width, height], np.float32)).astype(np.int32)
            drawn = np.zeros(labels.shape, np.uint8)
            cv2.fillPoly(drawn, [points], 1)
            assert (found[image_id][drawn > 0] == IGNORE).all()
            found[image_id][drawn > 0] = int(label)
    same(found)


def test_yolo_names_survive_yaml(tmp_path: Path) -> None:
    odd = make_classes(['a: "b"', "# c", "true", "naïve"])[0]
    folder = write("yolo", tmp_path / "out", classes=odd, items=[])
    lines = (folder / "data.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == ["train: images/train", "val: images/train", "nc: 4", "names:"]
    assert [json.loads(line.partition(": ")[2]) for line in lines[4:]] == list(odd.names)

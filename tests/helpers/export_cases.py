"""Masks in which every known trap of exports lies, for tests of writers and of importers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datus.formats.formats import FORMATS
from datus.formats.names import default_names, make_classes
from datus.formats.parts import Part
from datus.formats.pngs import png_bytes
from datus.formats.records import Classes, Item, Options
from datus.types import IGNORE, Array

K = 5
"""Class 3 has no pixels anywhere."""


def classes() -> Classes:
    return make_classes(default_names(K))[0]


def traps() -> dict[str, Any]:
    """image id -> uint8 (H, W)."""
    rings = np.full((23, 31), IGNORE, np.uint8)
    rings[2:20, 3:28] = 0
    rings[5:17, 6:25] = IGNORE  # a hole that nobody labelled
    rings[7:15, 8:23] = 1  # an island in it
    rings[9:12, 10:13] = 2  # two holes in the island, one in two pixels
    rings[10, 17] = IGNORE
    rings[11, 18] = IGNORE  # ... that touch at a corner
    rings[10, 11] = 0  # and a pixel in one of them
    scattered = np.zeros((11, 14), np.uint8)
    scattered[::2, ::2] = 4  # single pixels
    scattered[3:6, 5:8] = np.array([[1, 4, 1], [4, 1, 4], [1, 4, 1]])  # parts that touch at corners
    thin = np.full((10, 12), IGNORE, np.uint8)  # smaller images are none to some importers
    thin[0], thin[0, 3] = 2, IGNORE
    thin[2:10, 11] = thin[9, 4:] = 1
    return {
        "rings": rings,
        "b/scattered": scattered,
        "b/with space": thin,
        "b/whole": np.full((16, 10), 4, np.uint8),
        "nothing": np.full((10, 18), IGNORE, np.uint8),
    }


def items() -> list[Item]:
    """With images, PNGs of noise; confidences on the first."""
    found = []
    for number, (image_id, labels) in enumerate(traps().items()):
        noise = np.random.default_rng(number).integers(0, 255, (*labels.shape, 3))
        image = png_bytes(Image.fromarray(noise.astype(np.uint8)))
        confidence = None
        if number == 0:
            confidence = np.full(labels.shape, 0.25, np.float32)
            confidence[:, :10] = np.nan
        found.append(Item(image_id, f"{image_id}.png", labels, confidence, image))
    return found


def same(found: dict[str, Any]) -> None:
    """All images came back with all their pixels."""
    expected = traps()
    assert set(found) == set(expected)
    for image_id, labels in expected.items():
        if found[image_id] is None:  # an importer that knows no size of an empty image
            assert (labels == IGNORE).all()
            continue
        np.testing.assert_array_equal(found[image_id], labels, err_msg=image_id)


def write(name: str, folder: Path, options: Options = Options(), **more: Any) -> Path:  # noqa: B008
    """The traps in a format, in a new folder; `more`: other items or classes."""
    folder.mkdir()
    FORMATS[name].write(folder, more.get("items", items()), more.get("classes", classes()), options)
    return folder


def read_json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def part_in_image(part: Part, labels: Array) -> Array:
    """bool (H, W): the part in its image."""
    top, left, bottom, right = part.box
    mask = np.zeros(labels.shape, bool)
    mask[top:bottom, left:right] = part.mask
    return mask

"""True masks: which ids a label file holds, and which class each of them is.

load_classes(path)                        ClassTable of a TOML such as data/classes/suim6.toml
find_labels(folder)                       label files by name
decode_labels(data, max_pixels)           uint8 (H, W): ids in a label file
truth_classes(labels, classes, size)      uint8 (H, W): classes, IGNORE where nothing is known
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import read_toml
from datus.errors import ImageError, UsageError
from datus.inputs.decode import Picture, load_picture, pillow_errors
from datus.types import IGNORE, Array, ClassTable

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def load_classes(path: Path) -> ClassTable:
    """Read a class table. Raises UsageError with the cure.

    name = "suim6"
    source = "..."
    ignore = [255]              # ids that mean "not known"; 255 always does
    [[classes]]
    name = "background"
    colour = [0, 0, 0]
    ids = [0, 2, 7]             # ids in the truth files that make up this class
    """
    table = read_toml(path)
    classes = table.get("classes")
    if not isinstance(classes, list) or not classes:
        raise UsageError(f"{path}: expected one [[classes]] block per class, got none")
    lookup = np.full(256, IGNORE, np.uint8)
    known = np.zeros(256, bool)
    known[IGNORE] = True
    known[_class_ids(path, "ignore", table.get("ignore", []))] = True
    for number, entry in enumerate(classes):
        if not isinstance(entry, dict) or set(entry) != {"name", "colour", "ids"}:
            raise UsageError(f"{path}: class {number}: expected name, colour and ids")
        name = entry["name"]
        for label in _class_ids(path, f"class {name!r}", entry["ids"]):
            if known[label]:
                raise UsageError(f"{path}: class {name!r}: id {label} is used twice")
            lookup[label], known[label] = number, True
    return ClassTable(
        name=str(table.get("name", path.stem)),
        names=tuple(str(entry["name"]) for entry in classes),
        colours=tuple(_colour(path, entry) for entry in classes),
        lookup=lookup,
        known=known,
        source=str(table.get("source", "")),
    )


def _class_ids(path: Path, where: str, values: Any) -> list[int]:
    if not isinstance(values, list):
        raise UsageError(f"{path}: {where}: expected a list of ids, got {values!r}")
    for value in values:
        if type(value) is not int or not 0 <= value <= 255:
            raise UsageError(f"{path}: {where}: expected ids 0 to 255, got {value!r}")
    return values


def _colour(path: Path, entry: Mapping[str, Any]) -> tuple[int, int, int]:
    colour = entry["colour"]
    if (
        not isinstance(colour, list)
        or len(colour) != 3
        or not all(type(value) is int and 0 <= value <= 255 for value in colour)
    ):
        name = entry["name"]
        raise UsageError(f"{path}: class {name!r}: expected colour = [r, g, b], got {colour}")
    red, green, blue = colour
    return red, green, blue


def find_labels(folder: Path) -> dict[str, str]:
    """Label files below a folder: path without suffix -> path, both relative and `/`-separated.

    Hidden files are passed over. Raises UsageError: no folder, no label file, two of one name.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    by_name: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        name = relative[: -len(path.suffix)]
        if path.suffix.lower() not in LABEL_SUFFIXES or path.name.startswith("."):
            continue
        if name in by_name:
            raise UsageError(f"{folder}: {by_name[name]} and {relative} share one name: remove one")
        by_name[name] = relative
    if not by_name:
        raise UsageError(f"{folder}: no label file in it ({' '.join(LABEL_SUFFIXES)})")
    return by_name


def decode_labels(data: bytes, max_pixels: int) -> Array:
    """uint8 (H, W): the ids in a PNG, BMP or TIFF of labels.

    Palette pictures: the index, not the colour. Grey and 1-bit ones: the stored number. 16-bit ones
    and grey RGB pass if they say nothing more than an 8-bit id.

    Raises ImageError: a colour picture, ids above 255, JPEG or the like, damaged, too large.
    """
    picture = load_picture(data, max_pixels)
    if picture.format not in ("PNG", "BMP", "TIFF"):
        raise ImageError(f"labels: expected PNG, BMP or TIFF, which keep ids, got {picture.format}")
    with pillow_errors(f"labels: cannot read {picture.format} of type {picture.image.mode}"):
        return _ids(picture)


# Pillow spreads grey levels of 2 and 4 bits over 0..255
_GREY_STEPS = {"L;2": 85, "L;4": 17}


def _ids(picture: Picture) -> Array:
    mode, values = picture.image.mode, np.asarray(picture.image)
    if mode in ("1", "P"):
        return values.astype(np.uint8)
    if mode == "L":
        step = _GREY_STEPS.get(picture.rawmode[:3], 1)
        return (values // step).astype(np.uint8)
    if mode.startswith("I"):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 255:
            raise ImageError(f"labels: expected ids 0 to 255, got {low} to {high}; renumber them")
        return values.astype(np.uint8)
    if mode in ("RGB", "RGBA", "LA") and ";16" not in picture.rawmode:
        alpha = values[..., -1] if mode.endswith("A") else np.uint8(255)
        colours = values[..., :3] if mode.startswith("RGB") else values[..., :1]
        if np.all(alpha == 255) and np.all(colours == colours[..., :1]):
            return np.array(colours[..., 0])
    raise ImageError(
        "labels: this is a colour picture, not class ids: convert it first, see data/prepare"
    )


def truth_classes(labels: Array, classes: ClassTable, size: tuple[int, int]) -> Array:
    """uint8 (H, W): class 0..C-1 or IGNORE of every pixel of a true mask.

    labels: uint8 (H, W), ids of the file; size: (H, W) of the image. Raises ImageError if the sizes
    differ or an id is not in the table.
    """
    (height, width), (image_height, image_width) = labels.shape, size
    if (height, width) != (image_height, image_width):
        raise ImageError(
            f"truth is {height}x{width}, the image {image_height}x{image_width} (height x width): "
            "expected the same size; use the truth made for this image"
        )
    from datus.compute.compiled import looked_up, value_counts

    counts = value_counts(labels)
    unknown = np.flatnonzero((counts > 0) & ~classes.known)
    if len(unknown):
        some = ", ".join(f"{label} ({counts[label]} px)" for label in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise ImageError(
            f"truth has ids that class table {classes.name!r} does not: {some}{more}; "
            "add them to the ids of a class or to ignore"
        )
    return looked_up(labels, classes.lookup)

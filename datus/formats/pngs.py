"""Formats whose masks are PNGs: png (ADE20K's folders), voc, and cvat's "Segmentation mask 1.1".

    png    0..C-1 are classes, 255 is no label
    voc    0 is background and never drawn, 1..C are classes, 255 is void = no label
    cvat   0 is background = no label, 1..C are classes; matched by colour

voc and cvat have a second PNG of objects: one number a connected part. 8 bits hold 254 of
them: in an image with more, small parts of a class are one object. Holes stay holes in both.
"""

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from datus.errors import UsageError
from datus.formats.folder import put, write_json
from datus.formats.parts import find_parts
from datus.formats.records import Classes, Item, Options
from datus.method.label_png import png_of
from datus.types import IGNORE, Array

Put = Callable[[str, bytes], None]

MAX_OBJECTS = 254
"""0 is no object and 255 is void."""

PNG_MASKS, CLASS_MASKS, LABELMAP = "annotations/training", "SegmentationClass", "labelmap.txt"
"""Where masks and class names are; `datus.formats.corrections` reads them back."""

CVAT_ARCHIVE = "annotations.zip"

NOT_CLASSES = ("background", "void")
"""Names in a labelmap that are no classes."""


def write_png(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations/training/ID.png, confidence/training/, images/training/, classes.json and .txt.

    confidence: grey, 255 times the confidence of the segment, 0 where there is none.
    """
    for item in items:
        png = png_of(item.labels, classes.colours)
        put(folder, f"{PNG_MASKS}/{item.image_id}.png", png)
        if item.confidence is not None:
            grey = np.rint(255 * np.nan_to_num(item.confidence)).astype(np.uint8)
            png = png_of(np.where(item.labels == IGNORE, np.uint8(0), grey))
            put(folder, f"confidence/training/{item.image_id}.png", png)
        if item.image is not None:
            put(folder, f"images/training/{item.file_name}", item.image)
    palette = [classes.colour(label) for label in range(len(classes.names))]
    meta = {"classes": [*classes.names], "palette": palette, "ignore_index": IGNORE}
    write_json(folder / "classes.json", meta)
    lines = [f"{label}\t{name}\n" for label, name in enumerate(classes.names)]
    put(folder, "classes.txt", "".join(lines).encode())


def write_voc(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """SegmentationClass/, SegmentationObject/, JPEGImages/, ImageSets/Segmentation/, labelmap.txt.

    Raises UsageError: more than 254 classes, a name that labelmap.txt cannot hold.
    """
    labelmap = [*_labelmap(classes), f"void:{','.join(map(str, VOID))}::"]
    _write_classes_and_objects(lambda n, data: put(folder, n, data), items, classes, IGNORE)
    put(folder, LABELMAP, _lines(labelmap))


def write_cvat(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations.zip, to upload as "Segmentation mask 1.1", and labels.json for a new task."""
    labelmap = _labelmap(classes)
    with zipfile.ZipFile(folder / CVAT_ARCHIVE, "w") as archive:

        def add(name: str, data: bytes) -> None:
            # a fixed date: the same masks give the same bytes. PNGs are compressed already
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)

        _write_classes_and_objects(add, items, classes, 0)
        add(LABELMAP, _lines(labelmap))
    rows = []
    for label, name in enumerate(classes.names):
        colour = "#" + "".join(f"{value:02x}" for value in classes.colour(label))
        rows.append({"name": name, "color": colour, "type": "mask", "attributes": []})
    write_json(folder / "labels.json", rows)


VOID = (224, 224, 192)
"""Colour 255 of Pascal VOC."""


def _write_classes_and_objects(
    add: Put, items: Iterable[Item], classes: Classes, void: int
) -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[1:IGNORE] = classes.colours[: IGNORE - 1]
    if void:
        palette[void] = VOID
    ids = []
    for item in items:
        if (
            item.image_id != item.image_id.strip()
            or "\n" in item.image_id
            or item.image_id[0] == "#"
        ):
            raise UsageError(f"image {item.image_id!r}: lists of this format cannot hold that name")
        labels = np.where(item.labels == IGNORE, void, item.labels + np.uint8(1))
        add(f"{CLASS_MASKS}/{item.image_id}.png", png_of(labels, palette))
        objects = png_of(_objects(item.labels), VOC_COLOURS)
        add(f"SegmentationObject/{item.image_id}.png", objects)
        if item.image is not None:
            add(f"JPEGImages/{item.file_name}", item.image)
        ids.append(item.image_id)
    add("ImageSets/Segmentation/default.txt", _lines(ids))


def _objects(labels: Array) -> Array:
    """uint8 (H, W): number of the part, 0 = none. Where there are too many parts, the largest have
    their own and what is left of each class is one object."""
    parts = find_parts(labels)
    kept = parts
    objects = np.zeros(labels.shape, np.uint8)
    if len(parts) > MAX_OBJECTS:
        present = np.unique(labels[labels != IGNORE])
        first = MAX_OBJECTS - len(present) + 1
        kept = sorted(parts, key=lambda part: -part.area)[: first - 1]
        rest = np.zeros(256, np.uint8)
        rest[present] = np.arange(first, first + len(present))
        objects = rest[labels]
    for number, part in enumerate(kept, start=1):
        top, left, bottom, right = part.box
        objects[top:bottom, left:right][part.mask] = number
    return objects


def _labelmap(classes: Classes) -> list[str]:
    if len(classes.names) > MAX_OBJECTS:
        raise UsageError(
            f"this format holds {MAX_OBJECTS} classes beside background and void, "
            f"got {len(classes.names)}: export as png or coco"
        )
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    for label, name in enumerate(classes.names):
        if ":" in name or name.startswith("#") or name in NOT_CLASSES:
            raise UsageError(f"class {name!r}: this format keeps : # background void for itself")
        lines.append(f"{name}:{','.join(map(str, classes.colour(label)))}::")
    return lines


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def png_bytes(image: Image.Image) -> bytes:
    """For pictures of colours; labels are written by `png.png_of`."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def _voc_colours() -> Array:
    """uint8 (256, 3): Pascal VOC's colours: the bits of the number, three at a time, high first."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (numbers >> (3 * place + channel) & 1) << (7 - place)
    return colours.astype(np.uint8)


VOC_COLOURS = _voc_colours()
"""Of objects: readers look the number up by its colour."""

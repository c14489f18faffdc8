"""COCO instances and COCO panoptic.

    is_coco(table), read_instances(files, name, table), read_panoptic(files, name, table)

Run lengths, compressed or not, give exactly their pixels. Of a polygon a pixel is inside if its
centre is; the polygons of one annotation are joined. Where two annotations overlap the later one
counts, as tools draw it. Classes are the categories in order of their ids.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from datus.errors import ImageError, UsageError
from datus.formats.read_files import Files, stem
from datus.formats.read_pngs import MAX_PIXELS, header_size
from datus.formats.read_records import Corrections, Draw, Size
from datus.formats.shapes import coco_mask, polygon_mask
from datus.inputs.decode import load_picture
from datus.types import IGNORE, Array

Table = Mapping[str, Any]


def is_coco(table: Any) -> bool:
    needed = ("images", "annotations", "categories")
    return isinstance(table, dict) and all(isinstance(table.get(name), list) for name in needed)


def read_instances(files: Files, name: str, table: Table) -> Corrections:
    """`table`: the JSON of the file `name`. Raises UsageError."""
    try:
        names, labels = _categories(table)
        by_image: dict[Any, list[Table]] = {}
        for row in table["annotations"]:
            by_image.setdefault(row["image_id"], []).append(row)
        images: dict[str, Draw] = {}
        sizes: dict[str, Size] = {}
        for image in table["images"]:
            size = _size(image)
            rows = by_image.get(image["id"], [])
            draw = functools.partial(_drawn, files.where(name), size, rows, labels)
            images[stem(image["file_name"])] = draw
            sizes[stem(image["file_name"])] = functools.partial(_size, image)
    except _BROKEN as error:
        raise _wrong(files.where(name), error) from None
    return Corrections("COCO instances", names, images, sizes)


def read_panoptic(files: Files, name: str, table: Table) -> Corrections:
    """The PNGs of segment ids lie in a folder named as the JSON, beside it. Raises UsageError."""
    try:
        names, labels = _categories(table)
        file_names = {image["id"]: image["file_name"] for image in table["images"]}
        images: dict[str, Draw] = {}
        sizes: dict[str, Size] = {}
        for row in table["annotations"]:
            png = str(PurePosixPath(name).with_suffix("") / row["file_name"])
            if png not in files.names:
                raise UsageError(
                    f"corrections: {files.where(name)}: {png} is missing: COCO panoptic is the "
                    "JSON and a folder of PNGs beside it; give the folder that holds both"
                )
            draw = functools.partial(_segments, files, png, row["segments_info"], labels)
            images[stem(file_names[row["image_id"]])] = draw
            sizes[stem(file_names[row["image_id"]])] = functools.partial(header_size, files, png)
    except _BROKEN as error:
        raise _wrong(files.where(name), error) from None
    return Corrections("COCO panoptic", names, images, sizes)


_BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What tables of another shape raise on the way."""


def _wrong(where: str, error: Exception) -> UsageError:
    reason = f"no {error}" if isinstance(error, KeyError) else str(error)
    return UsageError(f"corrections: {where}: not as COCO wants it: {reason}; export it again")


def _categories(table: Table) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(names, id -> label)."""
    rows = sorted(table["categories"], key=lambda row: int(row["id"]))
    names = tuple(str(row["name"]) for row in rows)
    if not 0 < len(names) <= IGNORE or len(set(names)) < len(names):
        raise ValueError(f"expected 1 to {IGNORE} categories, no two of one name")
    return names, {row["id"]: label for label, row in enumerate(rows)}


def _size(image: Table) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if min(height, width) < 1:
        raise ValueError(f"{image['file_name']}: {height} x {width} pixels")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{image['file_name']}: more than {MAX_PIXELS} pixels")
    return height, width


def _drawn(
    where: str, size: tuple[int, int], rows: Sequence[Table], labels: Mapping[Any, int]
) -> Array:
    height, width = size
    drawn = np.full((height, width), IGNORE, np.uint8)
    for row in rows:
        try:
            drawn[_shape(row["segmentation"], height, width)] = labels[row["category_id"]]
        except _BROKEN as error:
            number = row.get("id", "without id")
            raise _wrong(f"{where}: annotation {number}", error) from None
    return drawn


def _shape(shape: Any, height: int, width: int) -> Array:
    """bool (H, W)."""
    if isinstance(shape, dict):
        if [int(side) for side in shape["size"]] != [height, width]:
            raise ValueError(f"size {shape['size']}, the image has {[height, width]}")
        return coco_mask(shape["counts"], height, width)
    inside = np.zeros((height, width), bool)
    for points in shape:
        inside |= polygon_mask(points, height, width)
    return inside


def _segments(
    files: Files, png: str, segments: Sequence[Table], labels: Mapping[Any, int]
) -> Array:
    try:
        picture = np.asarray(load_picture(files.read(png), MAX_PIXELS).image.convert("RGB"))
        ids = picture.astype(np.int64) @ np.array([1, 256, 65536])
        values, where = np.unique(ids, return_inverse=True)
        known = {int(row["id"]): labels[row["category_id"]] for row in segments} | {0: IGNORE}
        found = np.array([known[value] for value in values.tolist()], np.uint8)
    except ImageError as error:
        raise UsageError(f"corrections: {files.where(png)}: {error}") from None
    except _BROKEN as error:
        raise _wrong(files.where(png), error) from None
    return found[where].reshape(ids.shape)

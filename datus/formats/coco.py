"""coco (instances) and coco-panoptic. Ids of images, categories and annotations count from 1.

An instance is a connected part. As run lengths it has exactly the pixels of the mask; as polygons
(`options.polygons`) it has one path along the sides of its pixels, holes cut in, which pycocotools
fills to the same pixels; tools that draw the border too make it a pixel larger.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from datus.errors import WorkError
from datus.formats.folder import put
from datus.formats.outlines import outline
from datus.formats.parts import Part, coco_counts, coco_text, find_parts
from datus.formats.pngs import png_bytes
from datus.formats.records import Classes, Item, Options
from datus.types import IGNORE, Array

MAX_SEGMENTS = 2**24 - 1
"""Panoptic PNGs hold a segment's id in three bytes; 0 is no label."""


def write_coco(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations/instances_default.json, and images/default/."""
    images, number = [], 0
    with _table(folder, "instances_default.json") as file:
        for image_number, item in enumerate(items, start=1):
            images.append(_image_row(image_number, item))
            _put_image(folder, item)
            for part in find_parts(item.labels, item.confidence, options.min_area):
                number += 1
                row = {"id": number, "image_id": image_number, "category_id": part.label + 1}
                row |= _shape(part, item.labels.shape, options.polygons)
                _add(file, row, first=number == 1)
        _finish(file, images, _categories(classes), options)


def write_panoptic(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations/panoptic_default.json, annotations/panoptic_default/ID.png, images/default/.

    A segment is all of a class in an image, as is usual for what cannot be counted (`isthing` 0).
    """
    images, number = [], 0
    with _table(folder, "panoptic_default.json") as file:
        for image_number, item in enumerate(items, start=1):
            images.append(_image_row(image_number, item))
            _put_image(folder, item)
            segments, ids = _segments(item, number)
            number += len(segments)
            name = f"{item.image_id}.png"
            put(folder, f"annotations/panoptic_default/{name}", _id_png(ids))
            row = {"image_id": image_number, "file_name": name, "segments_info": segments}
            _add(file, row, first=image_number == 1)
        _finish(file, images, [{**row, "isthing": 0} for row in _categories(classes)], options)


def _shape(part: Part, size: tuple[int, ...], polygons: bool) -> dict[str, Any]:
    top, left, _, _ = part.box
    shape: Any
    if polygons:
        shape = [np.add(outline(part.mask), (left, top)).ravel().tolist()]
    else:
        counts = coco_counts(part, size[0] * size[1])
        shape = {"size": [size[0], size[1]], "counts": coco_text(counts)}
    row = {"segmentation": shape, "area": part.area, "bbox": part.box_xywh, "iscrowd": 0}
    return row if part.score is None else {**row, "score": part.score}


def _segments(item: Item, n_before: int) -> tuple[list[dict[str, Any]], Array]:
    """(segments_info, int64 (H, W): segment of each pixel, 0 = none)."""
    ids = np.zeros(item.labels.shape, np.int64)
    rows: list[dict[str, Any]] = []
    for label in np.unique(item.labels[item.labels != IGNORE]).tolist():
        number = n_before + len(rows) + 1
        if number > MAX_SEGMENTS:
            raise WorkError(f"coco-panoptic holds {MAX_SEGMENTS} segments: export as png or coco")
        mine = item.labels == label
        ids[mine] = number
        ys, xs = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        left, top = int(xs[0]), int(ys[0])
        box = [left, top, int(xs[-1]) + 1 - left, int(ys[-1]) + 1 - top]
        row = {"id": number, "category_id": label + 1, "area": int(mine.sum()), "bbox": box}
        rows.append({**row, "iscrowd": 0})
    return rows, ids


def _id_png(ids: Array) -> bytes:
    """id = red + 256 green + 65536 blue."""
    colours = np.stack((ids & 255, ids >> 8 & 255, ids >> 16), axis=-1).astype(np.uint8)
    return png_bytes(Image.fromarray(colours))


def _image_row(number: int, item: Item) -> dict[str, Any]:
    height, width = item.labels.shape
    return {"id": number, "file_name": item.file_name, "height": height, "width": width}


def _put_image(folder: Path, item: Item) -> None:
    if item.image is not None:
        put(folder, f"images/default/{item.file_name}", item.image)


def _categories(classes: Classes) -> list[dict[str, Any]]:
    return [
        {"id": label + 1, "name": name, "supercategory": "", "color": classes.colour(label)}
        for label, name in enumerate(classes.names)
    ]


# --- the JSON, written as it grows --------------------------------------------------------------


@contextmanager
def _table(folder: Path, name: str) -> Iterator[TextIO]:
    path = folder / "annotations" / name
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        yield file


def _add(file: TextIO, row: dict[str, Any], first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(row, ensure_ascii=False))


def _finish(
    file: TextIO, images: list[dict[str, Any]], categories: list[dict[str, Any]], options: Options
) -> None:
    info = {"description": "made by datus", **(options.about or {})}
    rest = {"images": images, "categories": categories, "licenses": [], "info": info}
    file.write("\n], " + json.dumps(rest, ensure_ascii=False)[1:] + "\n")

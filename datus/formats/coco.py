"""coco (instances) and coco-panoptic. Ids of images, categories and annotations count from 1.

An instance is a connected part. As run lengths it has exactly the pixels of the mask; as polygons
(`options.polygons`) it has one path along the sides of its pixels, holes cut in, which pycocotools
fills to the same pixels; tools that draw the border too make it a pixel larger.

Read back, run lengths, compressed or not, give exactly their pixels. Of a polygon a pixel is inside
if its centre is; the polygons of one annotation are joined. Where two annotations overlap the later
one counts, as tools draw it. Classes are the categories in order of their ids.

Run lengths are spelled here: pycocotools takes twice as long to write those of a part, and for a
text that does not cover the image it returns memory that nobody wrote.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from datus.compute.compiled import compiled
from datus.errors import UsageError, WorkError
from datus.formats.files import MAX_PIXELS, Files, stem, table_errors
from datus.formats.folder import put, write_rows
from datus.formats.parts import Part, find_parts
from datus.formats.pngs import png_bytes
from datus.formats.polygons import outline, polygon_mask
from datus.formats.records import Classes, Corrections, Drawing, Item, Options
from datus.types import IGNORE, Array

Table = Mapping[str, Any]

MAX_SEGMENTS = 2**24 - 1
"""Panoptic PNGs hold a segment's id in three bytes; 0 is no label."""


def write_coco(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations/instances_default.json, and images/default/."""

    def instances(images: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        number = count(1)
        for item in items:
            image = _add_image(folder, item, images)
            for part in find_parts(item.labels, item.confidence, options.min_area):
                row = {"id": next(number), "image_id": image, "category_id": part.label + 1}
                yield row | _shape(part, item.labels.shape, options.polygons)

    _write_table(folder, "instances_default.json", instances, _categories(classes), options)


def write_panoptic(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations/panoptic_default.json, annotations/panoptic_default/ID.png, images/default/.

    A segment is all of a class in an image, as is usual for what cannot be counted (`isthing` 0).
    """

    def annotations(images: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        n_segments = 0
        for item in items:
            image = _add_image(folder, item, images)
            segments, ids = _segments(item, n_segments)
            n_segments += len(segments)
            name = f"{item.image_id}.png"
            # id = red + 256 green + 65536 blue
            colours = np.stack((ids & 255, ids >> 8 & 255, ids >> 16), axis=-1).astype(np.uint8)
            png = png_bytes(Image.fromarray(colours))
            put(folder, f"annotations/panoptic_default/{name}", png)
            yield {"image_id": image, "file_name": name, "segments_info": segments}

    categories = [{**row, "isthing": 0} for row in _categories(classes)]
    _write_table(folder, "panoptic_default.json", annotations, categories, options)


def _add_image(folder: Path, item: Item, images: list[dict[str, Any]]) -> int:
    """Write the image, add its row to `images`; its number."""
    if item.image is not None:
        put(folder, f"images/default/{item.file_name}", item.image)
    number, (height, width) = len(images) + 1, item.labels.shape
    images.append({"id": number, "file_name": item.file_name, "height": height, "width": width})
    return number


def _write_table(
    folder: Path,
    name: str,
    annotations: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]],
    categories: list[dict[str, Any]],
    options: Options,
) -> None:
    """Annotations as they come; they fill the list of images, which is written behind them."""
    path = folder / "annotations" / name
    path.parent.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    info = {"description": "made by datus", **(options.about or {})}
    with path.open("w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        write_rows(file, annotations(images))
        tables = {"images": images, "categories": categories, "licenses": [], "info": info}
        file.write("\n], " + json.dumps(tables, ensure_ascii=False)[1:] + "\n")


def _shape(part: Part, size: tuple[int, ...], polygons: bool) -> dict[str, Any]:
    top, left, _, _ = part.box
    shape: Any
    if polygons:
        shape = [np.add(outline(part.mask, False), (left, top)).ravel().tolist()]
    else:
        shape = {"size": [*size], "counts": coco_text(part.counts)}
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
        mask = item.labels == label
        ids[mask] = number
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(xs[0]), int(ys[0])
        box = [left, top, int(xs[-1]) + 1 - left, int(ys[-1]) + 1 - top]
        row = {"id": number, "category_id": label + 1, "area": int(mask.sum()), "bbox": box}
        rows.append({**row, "iscrowd": 0})
    return rows, ids


def _categories(classes: Classes) -> list[dict[str, Any]]:
    return [
        {"id": label + 1, "name": name, "supercategory": "", "color": classes.colour(label)}
        for label, name in enumerate(classes.names)
    ]


# --- reading ------------------------------------------------------------------------------------


_EXPECTED = "COCO wants it: {}; export it again"


def is_coco(table: Any) -> bool:
    needed = ("images", "annotations", "categories")
    return isinstance(table, dict) and all(isinstance(table.get(name), list) for name in needed)


def read_coco(files: Files, name: str, table: Table) -> Corrections:
    """`table`: the JSON of the file `name`, instances or panoptic. Raises UsageError."""
    rows = table["annotations"]
    panoptic = bool(rows) and isinstance(rows[0], dict) and "segments_info" in rows[0]
    with table_errors(files.where(name), _EXPECTED):
        return (_read_panoptic if panoptic else _read_instances)(files, name, table)


def _read_instances(files: Files, name: str, table: Table) -> Corrections:
    names, labels = _category_labels(table)
    by_image: dict[Any, list[Table]] = {}
    for row in table["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row)
    images = {}
    for image in table["images"]:
        size, rows = _image_size(image), by_image.get(image["id"], [])
        draw = partial(_draw, files.where(name), size, rows, labels)
        images[stem(image["file_name"])] = Drawing(draw, partial(_image_size, image))
    return Corrections("COCO instances", names, images)


def _read_panoptic(files: Files, name: str, table: Table) -> Corrections:
    """The PNGs of segment ids lie in a folder named as the JSON, beside it."""
    names, labels = _category_labels(table)
    file_names = {image["id"]: stem(image["file_name"]) for image in table["images"]}
    images = {}
    for row in table["annotations"]:
        png = str(PurePosixPath(name).with_suffix("") / row["file_name"])
        if png not in files.names:
            raise UsageError(
                f"corrections: {files.where(name)}: {png} is missing: COCO panoptic is the "
                "JSON and a folder of PNGs beside it; give the folder that holds both"
            )
        draw = partial(_draw_segments, files, png, row["segments_info"], labels)
        images[file_names[row["image_id"]]] = Drawing(draw, partial(files.size, png))
    return Corrections("COCO panoptic", names, images)


def _category_labels(table: Table) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(names, id -> label)."""
    rows = sorted(table["categories"], key=lambda row: int(row["id"]))
    names = tuple(str(row["name"]) for row in rows)
    if not 0 < len(names) <= IGNORE or len(set(names)) < len(names):
        raise ValueError(f"expected 1 to {IGNORE} categories, no two of one name")
    return names, {row["id"]: label for label, row in enumerate(rows)}


def _image_size(image: Table) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if min(height, width) < 1:
        raise ValueError(f"{image['file_name']}: {height} x {width} pixels")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{image['file_name']}: more than {MAX_PIXELS} pixels")
    return height, width


def _draw(
    where: str, size: tuple[int, int], rows: Sequence[Table], labels: Mapping[Any, int]
) -> Array:
    drawn = np.full(size, IGNORE, np.uint8)
    for row in rows:
        with table_errors(f"{where}: annotation {row.get('id', 'without id')}", _EXPECTED):
            drawn[_segmentation_mask(row["segmentation"], *size)] = labels[row["category_id"]]
    return drawn


def _segmentation_mask(shape: Any, height: int, width: int) -> Array:
    """bool (H, W)."""
    if isinstance(shape, dict):
        if [int(side) for side in shape["size"]] != [height, width]:
            raise ValueError(f"size {shape['size']}, the image has {[height, width]}")
        return coco_mask(shape["counts"], height, width)
    inside = np.zeros((height, width), bool)
    for points in shape:
        inside |= polygon_mask(points, height, width)
    return inside


def _draw_segments(
    files: Files, png: str, segments: Sequence[Table], labels: Mapping[Any, int]
) -> Array:
    with table_errors(files.where(png), _EXPECTED):
        ids = files.rgb(png).astype(np.int64) @ np.array([1, 256, 65536])
        values, where = np.unique(ids, return_inverse=True)
        known = {int(row["id"]): labels[row["category_id"]] for row in segments} | {0: IGNORE}
        value_labels = np.array([known[value] for value in values.tolist()], np.uint8)
    return value_labels[where].reshape(ids.shape)


# --- run lengths --------------------------------------------------------------------------------


def coco_text(counts: Array) -> str:
    """COCO's compressed run lengths: from the fourth on the difference to two before, in groups of
    five bits, low ones first, bit 6 = more follow, 48 added to make letters of them."""
    return str(_letters(counts).tobytes(), "ascii")


@compiled
def _letters(counts: Array) -> Array:
    """uint8 (n,): the letters of `coco_text`."""
    letters = np.empty(13 * len(counts), np.uint8)  # 64 bits in groups of five
    n_letters = 0
    for place in range(len(counts)):
        rest = counts[place] - (counts[place - 2] if place > 2 else 0)
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)
            letters[n_letters] = group + (32 if more else 0) + 48
            n_letters += 1
    return letters[:n_letters]


def coco_mask(counts: str | Sequence[int], height: int, width: int) -> Array:
    """counts: pixels off, on, off ... down the columns."""
    runs = _counts_of_text(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    n_all = height * width
    if runs.ndim != 1 or (runs < 0).any() or (runs > n_all).any() or runs.sum() != n_all:
        raise ValueError(f"run lengths do not add up to {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _counts_of_text(text: str) -> Array:
    """int64 (n,): COCO's compressed run lengths, see `coco_text`."""
    letters = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(letters):
        return np.zeros(0, np.int64)
    if letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ValueError("run lengths have letters that COCO does not use")
    last = (letters & 32) == 0
    starts = np.r_[0, np.flatnonzero(last)[:-1] + 1]
    place = np.arange(len(letters)) - np.repeat(starts, np.diff(np.r_[starts, len(letters)]))
    if place.max() > 10:
        raise ValueError("a run length is too long")
    runs = np.add.reduceat((letters & 31) << 5 * place, starts)
    negative = (letters[last] & 16) != 0
    runs -= np.where(negative, np.int64(1) << 5 * (place[last] + 1), 0)
    for first in (1, 2):  # from the fourth on, the difference to two before
        runs[first::2] = np.cumsum(runs[first::2])
    return runs

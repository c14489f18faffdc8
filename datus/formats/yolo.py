"""yolo: one text file an image, one line a part: class, then x y of its outline, 0 to 1.

A line of YOLO is one polygon without holes. So a part with holes is one path around it with the
holes cut in, and a class in several parts has several lines: nothing is filled, nothing joined.
The path goes through the outermost pixels of the part, since readers draw the border as well; each
point is a quarter of a pixel past the pixel's corner, so that whoever rounds and whoever
cuts decimals off gets the same pixel.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from datus.formats.folder import put
from datus.formats.parts import Part, find_parts
from datus.formats.polygons import outline
from datus.formats.records import Classes, Item, Options


def write_yolo(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """labels/train/ID.txt, images/train/, data.yaml. Classes count from 0, as YOLO wants."""
    for item in items:
        parts = find_parts(item.labels, None, options.min_area)
        lines = [_line(part, item.labels.shape) for part in parts]
        put(folder, f"labels/train/{item.image_id}.txt", "".join(lines).encode())
        if item.image is not None:
            put(folder, f"images/train/{item.file_name}", item.image)
    names = [f"  {label}: {json.dumps(name)}" for label, name in enumerate(classes.names)]
    # no `path`: readers then start from where this file is
    lines = ["train: images/train", "val: images/train", f"nc: {len(names)}", "names:", *names]
    put(folder, "data.yaml", "".join(f"{line}\n" for line in lines).encode())


def _line(part: Part, size: tuple[int, ...]) -> str:
    top, left, _, _ = part.box
    columns, rows = _shares(size[1]), _shares(size[0])
    points = [f"{columns[left + x]} {rows[top + y]}" for x, y in outline(part.mask, True).tolist()]
    return f"{part.label} {' '.join(points)}\n"


@lru_cache(8)
def _shares(n_pixels: int) -> list[str]:
    """What is written for each pixel of a side."""
    return [f"{(pixel + 0.25) / n_pixels:.7g}" for pixel in range(n_pixels)]

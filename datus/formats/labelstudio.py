"""label-studio: tasks.json with brush masks as predictions, and label_config.xml.

A brush mask is the RGBA image of one class, white where it is, packed by Label Studio's own run
lengths (`pack`), which are not COCO's. Several parts and holes are one mask.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from datus.formats.folder import put
from datus.formats.records import Classes, Item, Options
from datus.types import IGNORE, Array

RUN_BITS = (4, 8, 12, 16)
"""Widths that the length of a run may take; the code chooses one of four."""

CONFIG = "label_config.xml"
"""The classes, in their order."""


def write_labelstudio(
    folder: Path, items: Iterable[Item], classes: Classes, options: Options
) -> None:
    """tasks.json, label_config.xml, and images/."""
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for number, item in enumerate(items):
            task = _task(item, classes, options)
            file.write((",\n" if number else "\n") + json.dumps(task, ensure_ascii=False))
            if item.image is not None:
                put(folder, f"images/{item.file_name}", item.image)
        file.write("\n]\n")
    put(folder, CONFIG, _config(classes).encode())


def _task(item: Item, classes: Classes, options: Options) -> dict[str, Any]:
    results = [
        _region(item, classes.names[label], label)
        for label in np.unique(item.labels[item.labels != IGNORE]).tolist()
    ]
    prediction: dict[str, Any] = {"model_version": "datus", "result": results}
    scores = [one["score"] for one in results if "score" in one]
    if scores:
        prediction["score"] = round(sum(scores) / len(scores), 6)
    data = {"image": options.image_url + quote(item.file_name), "image_id": item.image_id}
    return {"data": data, "predictions": [prediction]}


def _region(item: Item, name: str, label: int) -> dict[str, Any]:
    height, width = item.labels.shape
    mine = item.labels == label
    value = {"format": "rle", "rle": pack(mine).tolist(), "brushlabels": [name]}
    region = {
        "id": f"class-{label}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }
    known = (
        item.confidence[mine & np.isfinite(item.confidence)] if item.confidence is not None else ()
    )
    return {**region, "score": round(float(np.mean(known)), 6)} if len(known) else region


def pack(mask: Array) -> Array:
    """uint8 (n,): bool (H, W) as Label Studio's brush run lengths.

    Head: 32 bits number of values, 5 bits their width - 1, four times 4 bits RUN_BITS - 1. Then for
    each run a 1, two bits that choose the width, the length - 1, and the value in eight bits.
    """
    values = np.repeat(mask.ravel(), 4)  # red, green, blue, alpha
    starts = np.r_[0, np.flatnonzero(values[1:] != values[:-1]) + 1]
    lengths = np.diff(np.r_[starts, values.size])
    longest = 2 ** RUN_BITS[-1]
    pieces = (lengths + longest - 1) // longest
    colours = np.repeat(values[starts].astype(np.int64) * 255, pieces)
    runs = np.full(len(colours), longest)
    runs[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    choice = np.searchsorted(2 ** np.array(RUN_BITS), runs)
    widths = np.array(RUN_BITS)[choice]
    codes = (((4 + choice) << widths | (runs - 1)) << 8) | colours
    head = ([values.size, 7, *(bits - 1 for bits in RUN_BITS)], [32, 5, 4, 4, 4, 4])
    return np.packbits(np.r_[_bits(*map(np.array, head)), _bits(codes, widths + 11)])


def _bits(codes: Array, widths: Array) -> Array:
    """uint8 (sum of widths,): the low `width` bits of each code, high ones first."""
    places = np.arange(int(widths.max()) - 1, -1, -1)
    bits = (codes[:, None] >> places & 1).astype(np.uint8)
    found: Array = bits[places < widths[:, None]]
    return found


def _config(classes: Classes) -> str:
    labels = []
    for label, name in enumerate(classes.names):
        colour = "#" + "".join(f"{value:02x}" for value in classes.colour(label))
        labels.append(f'    <Label value={quoteattr(name)} background="{colour}"/>\n')
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{"".join(labels)}'
        "  </BrushLabels>\n</View>\n"
    )

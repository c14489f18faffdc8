"""label-studio: tasks.json with brush masks as predictions, and label_config.xml.

A brush mask is the RGBA image of one class, white where it is, packed by Label Studio's own run
lengths (`pack`), which are not COCO's. Several parts and holes are one mask.

Read back are brushes and polygons of the annotations. Predictions are what a model said, not a
person: a task counts once somebody submitted it. Of several annotations of a task the last one
counts that was not cancelled. Classes are in the order of label_config.xml where it lies beside the
JSON, else in that of their first use.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from datus.errors import UsageError
from datus.formats.files import MAX_PIXELS, Files, stem, table_errors
from datus.formats.folder import put, write_rows
from datus.formats.polygons import polygon_mask
from datus.formats.records import Classes, Corrections, Drawing, Item, Options
from datus.types import IGNORE, Array

Table = Mapping[str, Any]

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
        write_rows(file, (_write_task(folder, item, classes, options) for item in items))
        file.write("\n]\n")
    put(folder, CONFIG, _config(classes).encode())


def _write_task(folder: Path, item: Item, classes: Classes, options: Options) -> dict[str, Any]:
    """The row of tasks.json; the image is written."""
    if item.image is not None:
        put(folder, f"images/{item.file_name}", item.image)
    results = [
        _region(item, classes.names[label], label)
        for label in np.unique(item.labels[item.labels != IGNORE]).tolist()
    ]
    prediction: dict[str, Any] = {"model_version": "datus", "result": results}
    scores = [region["score"] for region in results if "score" in region]
    if scores:
        prediction["score"] = round(sum(scores) / len(scores), 6)
    data = {"image": options.image_url + quote(item.file_name), "image_id": item.image_id}
    return {"data": data, "predictions": [prediction]}


def _region(item: Item, name: str, label: int) -> dict[str, Any]:
    height, width = item.labels.shape
    mask = item.labels == label
    value = {"format": "rle", "rle": pack(mask).tolist(), "brushlabels": [name]}
    region: dict[str, Any] = {
        "id": f"class-{label}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }
    if item.confidence is not None:
        known = item.confidence[mask & np.isfinite(item.confidence)]
        if len(known):
            region["score"] = round(float(np.mean(known)), 6)
    return region


def _config(classes: Classes) -> str:
    labels = [
        f'    <Label value={quoteattr(name)} background="{classes.hex_colour(label)}"/>\n'
        for label, name in enumerate(classes.names)
    ]
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{"".join(labels)}'
        "  </BrushLabels>\n</View>\n"
    )


# --- reading ------------------------------------------------------------------------------------


_EXPECTED = "Label Studio's JSON is: {}; export it again as JSON"

_READ = {"brushlabels", "polygonlabels"}
"""Types of regions."""

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What the server puts before the name of an image."""


def is_tasks(table: Any) -> bool:
    tasks = table if isinstance(table, list) else []
    return bool(tasks) and all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    )


def read_tasks(files: Files, name: str, table: Sequence[Table]) -> Corrections:
    """`table`: the JSON of the file `name`. Raises UsageError."""
    where = files.where(name)
    config = str(PurePosixPath(name).with_name(CONFIG))
    labels = _configured(files, config) if config in files.names else {}
    images: dict[str, list[Table]] = {}
    with table_errors(where, _EXPECTED):
        for task in table:
            regions = _regions(task, where)
            for region in regions:
                labels.setdefault(_label(region, where), len(labels))
            if regions:
                images[_image_name(task["data"])] = regions
    if not images:
        raise UsageError(
            f"corrections: {where}: no task has an annotation: submit tasks in Label Studio "
            "(predictions alone are not corrections), then export as JSON"
        )
    if len(labels) > IGNORE:
        raise UsageError(f"corrections: {where}: more than {IGNORE} classes")
    drawings = {
        image: Drawing(partial(_draw, where, regions, labels), partial(_size, where, regions))
        for image, regions in images.items()
    }
    return Corrections("Label Studio", tuple(labels), drawings)


def _regions(task: Table, where: str) -> list[Table]:
    """Regions of the annotation that counts; none where there is no annotation."""
    kept = [row for row in task.get("annotations") or () if not row.get("was_cancelled")]
    results = kept[-1]["result"] if kept else []
    regions = [region for region in results if str(region["type"]).endswith("labels")]
    for region in regions:
        if region["type"] not in _READ:
            raise UsageError(
                f"corrections: {where}: task {task.get('id', '')}: regions of type "
                f"{region['type']} have no mask: expected {' or '.join(sorted(_READ))}"
            )
    return regions


def _label(region: Table, where: str) -> str:
    labels = region["value"].get(region["type"]) or []
    if len(labels) != 1:
        raise UsageError(
            f"corrections: {where}: region {region.get('id', '')}: expected one label, "
            f"got {len(labels)}: choose one for it"
        )
    return str(labels[0])


def _image_name(data: Table) -> str:
    """As we wrote it, or what the address of the image ends with."""
    if "image_id" in data:
        return str(data["image_id"])
    address = str(data.get("image") or next(iter(data.values()), ""))
    parts = urlsplit(address)
    path = parts.query.partition("d=")[2] or parts.path  # local files are ...?d=PATH
    path = unquote(path).lstrip("/")
    if "upload" in PurePosixPath(path).parts[:-1]:  # the server's own folders, a number in front
        path = _UPLOAD.sub("", PurePosixPath(path).name)
    return stem(path)


def _configured(files: Files, name: str) -> dict[str, int]:
    """Name -> label, of the classes in label_config.xml."""
    try:
        tree = ElementTree.fromstring(files.read(name))
    except (ElementTree.ParseError, LookupError, ValueError):  # the latter two: of its encoding
        raise UsageError(
            f"corrections: {files.where(name)}: not valid XML: save it again as UTF-8, or remove it"
        ) from None
    names = dict.fromkeys(element.get("value") or "" for element in tree.iter("Label"))
    return {name: label for label, name in enumerate(names)}


def _size(where: str, regions: Sequence[Table]) -> tuple[int, int]:
    with table_errors(where, _EXPECTED):
        height, width = int(regions[0]["original_height"]), int(regions[0]["original_width"])
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise ValueError(f"{height} x {width} pixels")
    return height, width


def _draw(where: str, regions: Sequence[Table], labels: Mapping[str, int]) -> Array:
    size = _size(where, regions)
    with table_errors(where, _EXPECTED):
        drawn = np.full(size, IGNORE, np.uint8)
        for region in regions:
            drawn[_region_mask(region, *size)] = labels[_label(region, where)]
    return drawn


def _region_mask(region: Table, height: int, width: int) -> Array:
    """bool (H, W)."""
    if region.get("image_rotation"):
        raise ValueError("the image was rotated in the editor, which is not read")
    value = region["value"]
    if region["type"] == "brushlabels":
        return brush_mask(value["rle"], height, width)
    points = np.asarray(value["points"], np.float64)  # in percent
    return polygon_mask(points * np.array([width / 100, height / 100]), height, width)


# --- run lengths --------------------------------------------------------------------------------


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
    return np.asarray(bits[places < widths[:, None]])


def brush_mask(packed: Sequence[int], height: int, width: int) -> Array:
    """packed: bytes 0..255, see `pack`. A pixel is on where alpha is not 0."""
    try:
        data = bytes(iter(packed))  # of a number bytes() would make so many zeros
    except (TypeError, ValueError):
        raise ValueError("brush run lengths: expected numbers 0 to 255") from None
    digits = np.unpackbits(np.frombuffer(data, np.uint8)) + np.uint8(ord("0"))
    bits, place = digits.tobytes(), 0

    def take(width: int) -> int:
        nonlocal place
        place += width
        if place > len(bits):
            raise ValueError("brush run lengths end too early")
        return int(bits[place - width : place], 2)

    n_values, word = take(32), take(5) + 1
    if n_values != 4 * height * width:
        raise ValueError(f"brush run lengths hold {n_values} values, not 4 x {height} x {width}")
    widths = [take(4) + 1 for _ in RUN_BITS]
    values, lengths, n_done = [], [], 0
    while n_done < n_values:
        repeats = take(1)
        length = take(widths[take(2)]) + 1
        if repeats:
            values.append(take(word))
            lengths.append(length)
        else:
            values += [take(word) for _ in range(length)]
            lengths += [1] * length
        n_done += length
    if n_done > n_values:
        raise ValueError("brush run lengths go past the image")
    return np.repeat(np.array(values) > 0, lengths).reshape(height, width, 4)[..., 3]  # alpha

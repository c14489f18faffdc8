"""Label Studio's JSON: brushes (run lengths) and polygons of the annotations.

    is_tasks(table), read_tasks(files, name, table)

Predictions are what a model said, not a person: a task counts once somebody submitted it. Of
several annotations of a task the last one counts that was not cancelled. Classes are in the order
of label_config.xml where it lies beside the JSON, else in that of their first use.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import numpy as np

from datus.errors import UsageError
from datus.formats.labelstudio import CONFIG
from datus.formats.read_files import Files, stem
from datus.formats.read_pngs import MAX_PIXELS
from datus.formats.read_records import Corrections, Draw, Size
from datus.formats.shapes import brush_mask, polygon_mask
from datus.types import IGNORE, Array

Table = Mapping[str, Any]

READ = {"brushlabels", "polygonlabels"}


def is_tasks(table: Any) -> bool:
    return (
        isinstance(table, list)
        and bool(table)
        and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in table)
    )


def read_tasks(files: Files, name: str, table: Sequence[Table]) -> Corrections:
    """`table`: the JSON of the file `name`. Raises UsageError."""
    where = files.where(name)
    config = str(PurePosixPath(name).with_name(CONFIG))
    names: dict[str, int] = dict(_configured(files, config)) if config in files.names else {}
    found: dict[str, list[Table]] = {}
    try:
        for task in table:
            regions = _regions(task, where)
            for region in regions:
                names.setdefault(_label(region, where), len(names))
            if regions:
                found[_image_name(task["data"])] = regions
    except _BROKEN as error:
        raise _wrong(where, error) from None
    if not found:
        raise UsageError(
            f"corrections: {where}: no task has an annotation: submit tasks in Label Studio "
            "(predictions alone are not corrections), then export as JSON"
        )
    if len(names) > IGNORE:
        raise UsageError(f"corrections: {where}: more than {IGNORE} classes")
    images: dict[str, Draw] = {
        image: functools.partial(_drawn, where, regions, names) for image, regions in found.items()
    }
    sizes: dict[str, Size] = {
        image: functools.partial(_size, where, regions) for image, regions in found.items()
    }
    return Corrections("Label Studio", tuple(names), images, sizes)


_BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
"""What tables of another shape raise on the way."""


def _wrong(where: str, error: Exception) -> UsageError:
    reason = f"no {error}" if isinstance(error, KeyError) else str(error)
    return UsageError(
        f"corrections: {where}: not as Label Studio's JSON is: {reason}; export it again as JSON"
    )


def _regions(task: Table, where: str) -> list[Table]:
    """Regions of the annotation that counts; none where there is no annotation."""
    kept = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
    regions = (
        [one for one in kept[-1]["result"] if str(one["type"]).endswith("labels")] if kept else []
    )
    for region in regions:
        if region["type"] not in READ:
            raise UsageError(
                f"corrections: {where}: task {task.get('id', '')}: regions of type "
                f"{region['type']} have no mask: expected {' or '.join(sorted(READ))}"
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


_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")


def _configured(files: Files, name: str) -> list[tuple[str, int]]:
    try:
        tree = ElementTree.fromstring(files.read(name))
    except (ElementTree.ParseError, LookupError, ValueError):  # the latter two: of its encoding
        raise UsageError(
            f"corrections: {files.where(name)}: not valid XML: save it again as UTF-8, or remove it"
        ) from None
    found = dict.fromkeys(one.get("value") or "" for one in tree.iter("Label"))
    return [(label, number) for number, label in enumerate(found)]


def _size(where: str, regions: Sequence[Table]) -> tuple[int, int]:
    try:
        height, width = int(regions[0]["original_height"]), int(regions[0]["original_width"])
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise ValueError(f"{height} x {width} pixels")
    except _BROKEN as error:
        raise _wrong(where, error) from None
    return height, width


def _drawn(where: str, regions: Sequence[Table], names: Mapping[str, int]) -> Array:
    height, width = _size(where, regions)
    try:
        drawn = np.full((height, width), IGNORE, np.uint8)
        for region in regions:
            drawn[_shape(region, height, width)] = names[_label(region, where)]
    except _BROKEN as error:
        raise _wrong(where, error) from None
    return drawn


def _shape(region: Table, height: int, width: int) -> Array:
    """bool (H, W)."""
    if region.get("image_rotation"):
        raise ValueError("the image was rotated in the editor, which is not read")
    value = region["value"]
    if region["type"] == "brushlabels":
        return brush_mask(value["rle"], height, width)
    points = np.asarray(value["points"], np.float64)  # in percent
    return polygon_mask(points * np.array([width / 100, height / 100]), height, width)

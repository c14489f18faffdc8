"""Class tables: the true classes of a dataset, and how the files of truth spell them.

In:  a TOML such as data/classes/suim6.toml.
Out: ClassTable: names, colours, and the class (or IGNORE) of every id 0..255.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import read_toml
from datus.errors import UsageError
from datus.types import IGNORE, ClassTable


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
    for one in _class_ids(path, "ignore", table.get("ignore", [])):
        known[one] = True
    for number, entry in enumerate(classes):
        if not isinstance(entry, dict) or set(entry) != {"name", "colour", "ids"}:
            raise UsageError(f"{path}: class {number}: expected name, colour and ids")
        name = entry["name"]
        for one in _class_ids(path, f"class {name!r}", entry["ids"]):
            if known[one]:
                raise UsageError(f"{path}: class {name!r}: id {one} is used twice")
            lookup[one], known[one] = number, True
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

"""Which class a cluster is, and what the class is called.

default_names(12)                       "cluster 0" ... "cluster 11"
read_names(Path("names.toml"), names)   a person's names; the rest stay what they are
matched_names(report, row, names, "hungarian_strict")    those of the true classes
classes, lookup = make_classes(names)   clusters of one name become one class
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import read_toml
from datus.errors import UsageError
from datus.formats.records import Classes
from datus.method.masks import PALETTE
from datus.types import IGNORE, Array


def default_names(k: int, taken: Collection[str] = ()) -> list[str]:
    """(K,) names by number; with "(new)" behind those that are `taken`.

    A corrected class may be called "cluster 7", after a cluster of an earlier run, and clusters of
    one name become one class.
    """
    names = [f"cluster {number}" for number in range(k)]
    return [f"{name} (new)" if name in taken else name for name in names]


def read_names(path: Path, known: Sequence[str]) -> list[str]:
    """(K,) names from a TOML file, the others as in `known`. Raises UsageError with the cure.

    [names]
    0 = "road"
    3 = "sky"
    7 = "sky"        # two clusters of one name become one class
    """
    table = read_toml(path).get("names")
    if not isinstance(table, dict):
        raise UsageError(f'{path}: expected a block [names] with lines such as 3 = "sky"')
    names, k = list(known), len(known)
    for key, name in table.items():
        if not key.isdecimal() or int(key) >= k:
            raise UsageError(f"{path}: expected clusters 0 to {k - 1}, got {key}")
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UsageError(f"{path}: cluster {key}: expected a name, got {name!r}")
        if name in default_names(k) and name != f"cluster {int(key)}":
            raise UsageError(f"{path}: cluster {key}: {name!r} is the name of another cluster")
        names[int(key)] = name
    return names


def matched_names(
    report: Mapping[str, Any],
    row: Mapping[str, Any],
    known: Sequence[str],
    rule: str,
    denoised: bool = False,
) -> list[str]:
    """(K,) names of the classes that `rule` matched; a cluster without one stays as in `known`.

    report: report.json; row: of its sweep, the K in question.

    Raises UsageError: the run had no true masks, or no such rule for this K.
    """
    scores = (row.get("denoised") or {} if denoised else row).get("scores") or {}
    if not report.get("classes") or rule not in scores:
        have = f"; its report has {', '.join(scores)}" if scores else ""
        raise UsageError(
            f"--names: the run was not scored by {rule} for K = {len(known)}{have}; "
            "give the run --truth and --classes, or a names.toml"
        )
    names = list(known)
    for cluster, label in enumerate(scores[rule]["match"]):
        if label >= 0:
            names[cluster] = str(report["classes"]["names"][label])
    return names


def make_classes(names: Sequence[str | None]) -> tuple[Classes, Array]:
    """(Classes, uint8 (256,): class of each cluster). Clusters of one name become one class, which
    has the place and the colour of the first of them; None makes no class."""
    numbers: dict[str, int] = {}
    colours = np.zeros((256, 3), np.uint8)
    lookup = np.full(256, IGNORE, np.uint8)
    for cluster, name in enumerate(names):
        if name is None:
            continue
        if name not in numbers:
            colours[len(numbers)] = PALETTE[cluster]
            numbers[name] = len(numbers)
        lookup[cluster] = numbers[name]
    return Classes(tuple(numbers), colours), lookup

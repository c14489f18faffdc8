"""Which class a cluster is, and what the class is called.

default_names(12)                       "cluster 0" ... "cluster 11"
read_names(Path("names.toml"), 12)      a person's names; the rest keep their number
matched_names(report, 12, "hungarian_strict")    those of the true classes, from report.json
classes, lookup = make_classes(names)   clusters of one name become one class
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import read_toml
from datus.errors import UsageError
from datus.exports.records import Classes
from datus.masks import PALETTE
from datus.records import IGNORE, Array


def default_names(k: int) -> list[str]:
    return [f"cluster {number}" for number in range(k)]


def read_names(path: Path, k: int) -> list[str]:
    """(K,) names from a TOML file. Raises UsageError with the cure.

    [names]
    0 = "road"
    3 = "sky"
    7 = "sky"        # two clusters of one name become one class
    """
    table = read_toml(path).get("names")
    if not isinstance(table, dict):
        raise UsageError(f'{path}: expected a block [names] with lines such as 3 = "sky"')
    names = default_names(k)
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
    report: Mapping[str, Any], k: int, rule: str, denoised: bool = False
) -> list[str]:
    """(K,) names of the classes that `rule` matched; a cluster without one keeps its number.

    Raises UsageError: the run had no true masks, or no such rule for this K.
    """
    rows = [row for row in report.get("sweep", []) if row["k"] == k]
    row = rows[0] if rows else {}
    scores = (row.get("denoised") or {} if denoised else row).get("scores") or {}
    if not report.get("classes") or rule not in scores:
        have = f"; its report has {', '.join(scores)}" if scores else ""
        raise UsageError(
            f"--names: the run was not scored by {rule} for K = {k}{have}; "
            "give the run --truth and --classes, or a names.toml"
        )
    names = default_names(k)
    for cluster, label in enumerate(scores[rule]["match"]):
        if label >= 0:
            names[cluster] = str(report["classes"]["names"][label])
    return names


def make_classes(names: Sequence[str]) -> tuple[Classes, Array]:
    """(Classes, uint8 (256,): class of each cluster). Clusters of one name become one class, which
    has the place and the colour of the first of them."""
    found: dict[str, int] = {}
    colours = np.zeros((256, 3), np.uint8)
    lookup = np.full(256, IGNORE, np.uint8)
    for cluster, name in enumerate(names):
        if name not in found:
            colours[len(found)] = PALETTE[cluster]
            found[name] = len(found)
        lookup[cluster] = found[name]
    return Classes(tuple(found), colours), lookup

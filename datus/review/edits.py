"""Merges, splits, names and drops of clusters that a person saved as edits.json, replayed.

    edits = parse(data, "edits.json")                 checked, in the order they were made
    n_labels(edits, 12)                               labels that masks may hold: splits add some
    replay = follow(edits, centroids, identity)       the same edits on the clusters of a later run
    names(replay, 12), gone(replay)                   what the labels are called, which are empty
    arrays = packed(...); relabelled(arrays, ...)     what a stage keeps, and what it does to masks

A cluster keeps its number for life: of merged clusters the first number stays and the others are
empty, part 0 of a split keeps the number and the others get the next free ones, K, K + 1 and so on.

After a re-run clusters have other numbers. They are followed by centroid in the space of the
embeddings: old and new ones are matched one to one so that the sum of distances is least. A match
is a conflict, and every edit that needs it is left out and named, where the new centroid is not
nearer than CLEAR times the distance to the next one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from datus.errors import UsageError
from datus.types import MAX_CLUSTERS, Array

FORMAT, VERSION = "datus-edits", 1

CLEAR = 0.8
"""A new centroid is clearly the old one if the next new one is so much farther: d1 < CLEAR d2. Two
k-means runs on the same vectors move a stable centroid by far less."""

MAX_PARTS, MAX_NAME = 16, 100

DIGITS = 6
"""Of the centroids in edits.json, behind the point: unit vectors as exact as float32."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One step of a person."""

    op: str
    """merge, split, rename or drop."""
    clusters: tuple[int, ...]
    """The one that it is about; of a merge all, the one that stays first."""
    name: str = ""
    parts: int = 0
    fresh: tuple[int, ...] = ()
    """Of a split: the numbers of the parts after the first, which keeps the number."""

    @property
    def emptied(self) -> tuple[int, ...]:
        """Labels that no pixel has afterwards."""
        return {"merge": self.clusters[1:], "drop": self.clusters}.get(self.op, ())

    def __str__(self) -> str:
        numbers = " and ".join(map(str, self.clusters))
        more = {"rename": f" to {self.name!r}", "split": f" into {self.parts}"}.get(self.op, "")
        return f"{self.op} {numbers}{more}"


@dataclass(frozen=True, slots=True)
class Edits:
    """A file of them, and the clusters that they were made on."""

    edits: tuple[Edit, ...]
    k: int
    identity: str
    """Hash of the clusters."""
    centroids: Array
    """float32 (K, E) in the space of the embeddings."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The edits in the numbers of a run."""

    edits: tuple[Edit, ...]
    conflicts: tuple[str, ...]
    """Why edits were left out, one sentence each."""


def parse(data: bytes, origin: str) -> Edits:
    """Raises UsageError that names the edit and the cure; `origin` is the file, for messages."""
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{origin}: not JSON: {error}") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise UsageError(f"{origin}: expected a file that the report page saved, edits.json")
    if table.get("version") != VERSION:
        raise UsageError(
            f"{origin}: version {table.get('version')}, this DatUS reads {VERSION}: "
            "save it again from a report of this version"
        )
    base, rows = table.get("clusters"), table.get("edits")
    if not isinstance(base, dict) or not isinstance(rows, list):
        raise UsageError(f"{origin}: expected clusters and a list of edits")
    k, centroids = _base(base, origin)
    edits = [_edit(row, f"{origin}: edit {place}") for place, row in enumerate(rows, 1)]
    return Edits(_in_order(edits, k, origin), k, str(base.get("id", "")), centroids)


def base_of(k: int, identity: str, centroids: Array) -> dict[str, Any]:
    """What edits.json says of the clusters it was made on; centroids float32 (K, E)."""
    rows = [[round(float(value), DIGITS) for value in row] for row in centroids]
    return {"k": k, "id": identity, "centroids": rows}


def as_json(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """The edits as the file has them."""
    more: dict[str, Callable[[Edit], dict[str, Any]]] = {
        "merge": lambda one: {"clusters": [*one.clusters]},
        "split": lambda one: {"cluster": one.clusters[0], "parts": one.parts},
        "rename": lambda one: {"cluster": one.clusters[0], "name": one.name},
        "drop": lambda one: {"cluster": one.clusters[0]},
    }
    return [{"op": one.op, **more[one.op](one)} for one in edits]


def n_labels(edits: Edits | None, k: int) -> int:
    """Numbers that labels may have: K, and the parts of splits that come after them."""
    return k + sum(one.parts - 1 for one in (edits.edits if edits else ()) if one.op == "split")


def follow(edits: Edits, centroids: Array, identity: str) -> Replay:
    """The edits on the clusters of this run: float32 (K', E) centroids, `identity` their hash.

    The same clusters: as they are. Others: see the module's docstring. Raises UsageError if the
    embeddings have another size: then nothing can be followed.
    """
    if identity == edits.identity and len(centroids) == edits.k:
        return Replay(edits.edits, ())
    if centroids.shape[1] != edits.centroids.shape[1]:
        raise UsageError(
            f"clusters.edits: made on embeddings of size {edits.centroids.shape[1]}, this run has "
            f"{centroids.shape[1]}: they hold for runs of one backbone"
        )
    numbers, unclear = _matched(edits.centroids, centroids)
    shift = len(centroids) - edits.k  # parts of splits are numbered after the clusters
    kept, conflicts, lost = [], [], dict(unclear)
    for one in edits.edits:
        why = [lost[number] for number in one.clusters if number in lost]
        if why:
            conflicts.append(f"{one} is left out: {why[0]}")
            lost |= {number: f"cluster {number} is of a split left out" for number in one.fresh}
            continue
        moved = tuple(numbers.get(number, number + shift) for number in one.clusters)
        fresh = tuple(number + shift for number in one.fresh)
        kept.append(replace(one, clusters=moved, fresh=fresh))
    return Replay(tuple(kept), tuple(conflicts))


def edited(labels: Array, edit: Edit, part: Array | None = None) -> Array:
    """int16 (n,): labels after one edit; -1 = none.

    part: int (m,), needed for a split: of each of the m labels that it takes apart, which part.
    """
    found = labels.copy()
    if edit.op == "merge":
        found[np.isin(labels, edit.clusters[1:])] = edit.clusters[0]
    elif edit.op == "drop":
        found[labels == edit.clusters[0]] = -1
    elif edit.op == "split" and part is not None:
        numbers = np.array([*edit.clusters, *edit.fresh], np.int16)
        found[labels == edit.clusters[0]] = numbers[part]
    return found


def nearest_part(places: Array, centroids: Array) -> Array:
    """int64 (n,): which part of a split, by distance; float32 (n, P) and (parts, P)."""
    wide = places.astype(np.float64)
    distances = np.array([((wide - one) ** 2).sum(axis=1) for one in centroids])
    return np.asarray(distances.argmin(axis=0))


def packed(replay: Replay, centroids: Array, splits: Mapping[int, Array]) -> dict[str, Array]:
    """The replay as arrays; `splits`: of each split, by its place in the list, float32 (parts, P).

    centroids: float32 (K, P). "centroids" float32 (L, P): of each label, in the space of the
    clusters; "group" as `groups` says; "edits" the list as JSON; "split N" the parts.
    """
    n_all = max([len(centroids) - 1, *(one for edit in replay.edits for one in edit.fresh)]) + 1
    middle = np.zeros((n_all, centroids.shape[1]), np.float32)
    middle[: len(centroids)] = centroids
    for place, parts in splits.items():
        middle[[*replay.edits[place].clusters, *replay.edits[place].fresh]] = parts
    rows = [(one.op, one.clusters, one.parts, one.fresh) for one in replay.edits]
    return {
        "centroids": middle,
        "group": groups(replay, len(centroids)),
        "edits": np.frombuffer(json.dumps(rows).encode(), np.uint8),
        **{f"split {place}": parts for place, parts in splits.items()},
    }


def relabelled(arrays: Mapping[str, Array], cluster: Array, places: Array) -> Array:
    """int16 (S,): labels after all edits; cluster int16 (S,), places float32 (S, P)."""
    labels = cluster
    for number, edit in enumerate(unpacked(arrays)):
        part = None
        if edit.op == "split":
            taken = labels == edit.clusters[0]
            part = nearest_part(places[taken], arrays[f"split {number}"])
        labels = edited(labels, edit, part)
    return labels


def unpacked(arrays: Mapping[str, Array]) -> list[Edit]:
    """The edits of `packed`, without names."""
    rows = json.loads(arrays["edits"].tobytes())
    return [Edit(op, tuple(ks), "", parts, tuple(fresh)) for op, ks, parts, fresh in rows]


def groups(replay: Replay, k: int) -> Array:
    """int16 (K,): of each cluster the number of the group that merges put it in.

    Distances inside a group say nothing about how sure a label is. A split ends a group's growth:
    its parts may be merged with others, the cluster that they came from stays as it was.
    """
    group, split = np.arange(k, dtype=np.int16), set[int]()
    for one in replay.edits:
        if one.op == "split":
            split |= {*one.clusters, *one.fresh}
        if one.op == "merge" and not split & set(one.clusters):
            for number in one.clusters[1:]:
                group[group == number] = one.clusters[0]
    return group


def names(replay: Replay, n_labels: int) -> tuple[str, ...]:
    """(L,) what each label is called; empty where nobody named it."""
    found = [""] * n_labels
    for one in replay.edits:
        if one.op == "rename":
            found[one.clusters[0]] = one.name
    return tuple(found)


def gone(replay: Replay) -> frozenset[int]:
    """Labels that no pixel can have any more: merged into another one, or dropped."""
    return frozenset(number for one in replay.edits for number in one.emptied)


# --- what a file says ---------------------------------------------------------------------------


def _base(base: Mapping[str, Any], origin: str) -> tuple[int, Array]:
    try:
        centroids = np.array(base["centroids"], np.float32)
        k = int(base["k"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{origin}: its clusters cannot be read ({error}): save it again"
        ) from None
    if centroids.ndim != 2 or len(centroids) != k or not 1 <= k <= MAX_CLUSTERS:
        raise UsageError(f"{origin}: expected {k} centroids, got {centroids.shape}: save it again")
    if not np.isfinite(centroids).all():
        raise UsageError(f"{origin}: centroids that are no numbers: save it again")
    return k, centroids


def _edit(row: Any, where: str) -> Edit:
    op = row.get("op") if isinstance(row, dict) else None
    if op not in ("merge", "split", "rename", "drop"):
        raise UsageError(f"{where}: expected op merge, split, rename or drop, got {op!r}")
    clusters = row.get("clusters") if op == "merge" else [row.get("cluster")]
    if not isinstance(clusters, list) or not all(type(one) is int for one in clusters):
        raise UsageError(f"{where} ({op}): expected numbers of clusters, got {clusters!r}")
    if op == "merge" and (len(clusters) < 2 or len(set(clusters)) < len(clusters)):
        raise UsageError(f"{where} (merge): expected two or more clusters, got {clusters}")
    name, parts = row.get("name", ""), row.get("parts", 0)
    is_name = isinstance(name, str) and 0 < len(name.strip()) <= MAX_NAME and name.isprintable()
    if op == "rename" and not is_name:
        raise UsageError(
            f"{where} (rename): expected a name of 1 to {MAX_NAME} characters, got {name!r}"
        )
    if op == "split" and not (type(parts) is int and 2 <= parts <= MAX_PARTS):
        raise UsageError(f"{where} (split): expected 2 to {MAX_PARTS} parts, got {parts!r}")
    name, parts = name.strip() if op == "rename" else "", parts if op == "split" else 0
    return Edit(op, tuple(clusters), name, parts)


def _in_order(edits: Sequence[Edit], k: int, origin: str) -> tuple[Edit, ...]:
    """Every edit names clusters that are there when its turn comes; parts get their numbers."""
    there, free = set(range(k)), k
    went: dict[int, str] = {}
    found = []
    for place, one in enumerate(edits, 1):
        for number in one.clusters:
            if number not in there:
                why = went.get(number, f"there is no cluster {number}")
                raise UsageError(f"{origin}: edit {place} ({one}): {why}")
        fresh = range(free, free + max(one.parts - 1, 0))
        there, free = there | set(fresh), free + len(fresh)
        found.append(replace(one, fresh=tuple(fresh)))
        there -= set(one.emptied)
        went |= dict.fromkeys(one.emptied, f"it is gone since edit {place} ({one})")
    if free > MAX_CLUSTERS:
        raise UsageError(
            f"{origin}: {free} labels with all parts of splits, masks hold {MAX_CLUSTERS}"
        )
    return tuple(found)


def _matched(old: Array, new: Array) -> tuple[dict[int, int], dict[int, str]]:
    """(old number -> new number, old number -> why it has no clear counterpart)."""
    distances = np.sqrt(((old[:, None].astype(np.float64) - new[None]) ** 2).sum(axis=2))
    rows, columns = linear_sum_assignment(distances)
    numbers = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    unclear = {}
    for number in range(len(old)):
        if number not in numbers:
            unclear[number] = f"cluster {number} has no counterpart among {len(new)} clusters"
            continue
        others = np.delete(distances[number], numbers[number])
        if others.size and distances[number, numbers[number]] > CLEAR * others.min():
            nearest = np.argsort(distances[number], kind="stable")[:2].tolist()
            unclear[number] = (
                f"cluster {number} has no clear counterpart: clusters {nearest[0]} and "
                f"{nearest[1]} are nearly as near"
            )
    return numbers, unclear

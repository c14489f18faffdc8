"""edits.json of a config, replayed on the clusters of a run; `review.edits` says what edits are.

load(config)                     Edits, or None where none are given
settings(config), reads_vectors(config)      of the stage, see `stages.edits`
named(config, arrays)            what labels are called (by corrections, too), which are gone, which
                                 edits failed
read_base(arrays)                what a page needs to save an edits.json
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import Config
from datus.errors import ClusterError, UsageError
from datus.review import edits
from datus.review.cluster_arrays import cluster_model, corrected_names
from datus.review.edits import Edit, Edits, Replay, edited, nearest_part
from datus.review.frozen import arrays_id
from datus.types import Array

MAX_BYTES = 64_000_000
"""Of an edits.json: 255 centroids of 8192 dimensions take 20 MB."""


@dataclass(frozen=True, slots=True)
class Named:
    """What the report and the exports say of the labels."""

    names: tuple[str, ...]
    """(L,); empty where nobody named it."""
    gone: tuple[int, ...]
    conflicts: tuple[str, ...]


def load(config: Config) -> Edits | None:
    """Raises UsageError: not there, not an edits.json."""
    if not config.clusters.edits:
        return None
    path = Path(config.clusters.edits)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--edits {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"--edits {path}: more than {MAX_BYTES:,} bytes: not an edits.json")
    return edits.parse(data, f"--edits {path}")


def n_labels(config: Config, k: int) -> int:
    """L: K, and a label more for each part that a split adds."""
    return edits.n_labels(load(config), k)


def reads_vectors(config: Config) -> bool:
    """Splits look at the embeddings, the other edits do not."""
    found = load(config)
    return found is not None and any(one.op == "split" for one in found.edits)


def settings(config: Config) -> dict[str, Any]:
    """What is hashed. Names are not: to rename a cluster makes no mask again."""
    found = load(config)
    if found is None:
        return {}
    base = hashlib.sha256(found.centroids.tobytes()).hexdigest()
    steps = [one for one in edits.as_json(found.edits) if one["op"] != "rename"]
    return {"edits": steps, "clusters": f"{found.identity} sha256:{base}"}


def name_settings(config: Config) -> list[dict[str, Any]]:
    """The names, which only the report needs."""
    found = load(config)
    rows = edits.as_json(found.edits if found else ())
    return [one for one in rows if one["op"] == "rename"]


def replayed(config: Config, arrays: Mapping[str, Array], names: bool = True) -> Replay:
    """The edits in the numbers of this run; `arrays`: what the clusters stage stored.

    names: with renames, which nothing that is stored before the report may depend on.
    """
    from datus.method.clusters import embedded_centroids

    found = load(config)
    if found is None:
        return Replay((), ())
    if not names:
        found = replace(found, edits=tuple(one for one in found.edits if one.op != "rename"))
    return edits.follow(found, embedded_centroids(cluster_model(arrays)), arrays_id(arrays))


def named(config: Config, arrays: Mapping[str, Array]) -> Named:
    replay, corrected = replayed(config, arrays), corrected_names(arrays)
    given = edits.names(replay, n_labels(config, len(arrays["centroids"])))
    drawn = (*corrected, *[""] * (len(given) - len(corrected)))
    names = tuple(name or other for name, other in zip(given, drawn, strict=True))
    return Named(names, tuple(sorted(edits.gone(replay))), replay.conflicts)


def read_base(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The "clusters" of an edits.json made on these; `arrays`: what the clusters stage stored."""
    from datus.method.clusters import embedded_centroids

    model = cluster_model(arrays)
    return edits.base_of(model.n_clusters, arrays_id(arrays), embedded_centroids(model))


def split_all(
    config: Config, arrays: Mapping[str, Array], vectors: Array
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """(what the stage stores, why edits were left out); vectors float32 (n, E), unit rows.

    A split is k-means among the vectors that have the label when its turn comes.
    """
    from datus.method.clusters import fit_clusters, offsets, places_of

    model, replay = cluster_model(arrays), replayed(config, arrays, names=False)
    labels, places = np.zeros(0, np.int16), np.zeros((0, model.centroids.shape[1]), np.float32)
    if len(vectors):
        labels, places = offsets(model, vectors)[0], places_of(model, vectors)
    kept, splits, conflicts = list[Edit](), dict[int, Array](), list(replay.conflicts)
    for one in replay.edits:
        part = None
        if one.op == "split":
            taken = np.ascontiguousarray(places[labels == one.clusters[0]])
            chosen = replace(config.clusters, k=(one.parts,), pca=0)
            try:
                fitted = fit_clusters(taken, one.parts, chosen, config.seed, "cpu").centroids
            except ClusterError as error:
                conflicts.append(f"{one} is left out: {error}")
                continue
            splits[len(kept)] = fitted
            part = nearest_part(taken, fitted)
        labels = edited(labels, one, part)
        kept.append(one)
    done = Replay(tuple(kept), tuple(conflicts))
    return edits.packed(done, model.centroids, splits), done.conflicts

"""The stage `edits`: merges, splits, names and drops that a person saved, done again.

Stored of the dataset: centroids (L, P), group int16 (K,), edits (text), split N (parts, P), see
`review.edits`; the file conflicts.txt, edits that could not be done again.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from datus.config import Config
from datus.engine.dataset import Dataset, DatasetWork
from datus.engine.stage import Context, Stage, numbers_of
from datus.engine.workers import Advance
from datus.inputs.index import Index
from datus.review import replay
from datus.stages.clusters import cluster_arrays_of
from datus.stages.sample import taken
from datus.store.store import ShardReport
from datus.types import WHOLE, Array, ShardData

K_MEANS = ("spherical", "restarts", "sample")
"""Settings of [clusters] that a split follows, which is a k-means of its own."""


def is_active(config: Config) -> bool:
    return bool(config.clusters.edits)


def needs(config: Config) -> tuple[str, ...]:
    if replay.reads_vectors(config):
        return ("embeddings", "samples", "clusters")
    return ("clusters",)


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    hashed = {**replay.settings(config), "k": k}
    if replay.reads_vectors(config):
        hashed |= {name: getattr(config.clusters, name) for name in K_MEANS}
        hashed |= {"seed": config.seed, "dataset": index.content}
    return hashed


def build(context: Context) -> DatasetWork:
    def work(dataset: Dataset, advance: Advance) -> ShardData:
        config, vectors = context.config, np.zeros((0, 1), np.float32)
        if replay.reads_vectors(config):
            limit = config.clusters.sample
            vectors, _ = taken(dataset, context.k, limit, config.seed, advance)
        clusters = cluster_arrays_of(dataset, context.k)
        arrays, conflicts = replay.split_all(config, clusters, vectors)
        return ShardData(
            arrays={WHOLE: arrays},
            numbers={WHOLE: {"n_conflicts": float(len(conflicts))}},
            files={"conflicts.txt": "".join(f"{one}\n" for one in conflicts).encode()},
        )

    return work


def label_centroids(config: Config, dataset: Dataset, k: int) -> Array:
    """float32 (L, P): of the clusters, or where they were edited, of each label."""
    if not config.clusters.edits:
        return cluster_arrays_of(dataset, k)["centroids"]
    return dataset.whole("edits", k).arrays[WHOLE]["centroids"]


def warn(reports: Iterable[ShardReport]) -> list[str]:
    left_out = sum(numbers_of(reports, "n_conflicts"))
    if not left_out:
        return []
    return [f"{left_out:.0f} edits could not be done again on these clusters: the report says why"]


STAGE = Stage(
    name="edits",
    version=2,
    scope="dataset",
    needs=needs,
    settings=settings,
    build=build,
    is_active=is_active,
    per_k=True,
    reads_files=True,
    warn=warn,
)

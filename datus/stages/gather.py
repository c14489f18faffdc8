"""What the stages do to the whole dataset: k-means over all segments, and the report.

Both read shard by shard, so that memory stays bounded: clusters keeps one vector per valid segment,
the report a few pictures.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from datus.config import Config
from datus.engine.stage import Arrays, Context
from datus.engine.workers import Advance
from datus.errors import ClusterError, WorkError
from datus.inputs.index import Index, Shard
from datus.method.centering import SAMPLE_IMAGES, KeySample, KeySums, join
from datus.review import corrections as corrected
from datus.review import frozen, review
from datus.review.cluster_arrays import cluster_arrays, cluster_model
from datus.review.corrected_clusters import make_clusters
from datus.stages import warnings as stage_warnings
from datus.stages.sample import taken
from datus.stages.work import key_sample_of, key_sums_of
from datus.store.store import ShardReport
from datus.types import WHOLE, Array, ClusterModel, ShardData


class Dataset(Protocol):
    """All shards of the stages that a dataset stage needs, one in memory at a time."""

    index: Index
    warnings: tuple[str, ...]

    def data(
        self, stage: str, k: int, images: Collection[str] | None = None
    ) -> Iterator[tuple[Shard, ShardData]]:
        """In order; `images`: only the shards that hold one of these."""
        ...

    def reports(self, stage: str, k: int) -> Iterator[ShardReport]: ...
    def file(self, stage: str, k: int, name: str) -> bytes: ...
    def keep(self, name: str, content: bytes) -> None:
        """A file of the stage under way, written at once: not all of them have to be in memory."""
        ...

    def workplace(self, stage: str, k: int) -> AbstractContextManager[Path]:
        """A folder for a stage under way; it outlives a kill and goes when the stage is done."""
        ...


DatasetWork = Callable[[Dataset, Advance], ShardData]


# --- clusters: centroids (K, P), pca_mean, pca_axes, figures, library; and for later runs ---------
#     quantiles float32 (2, K + 1, 101), members int64 (K,), images uint64: see `frozen`


def build_clusters(context: Context) -> DatasetWork:
    from datus.method.clusters import fit_clusters, offsets

    if context.config.clusters.frozen:
        return _build_taken(context, "clusters")

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        config = context.config
        if corrections := corrected.load(config, dataset.index.records):
            return make_clusters(context, corrections, dataset, advance)
        limit = config.clusters.sample
        vectors, records = taken(dataset, context.k, limit, config.seed, advance)
        if len(vectors) < context.k:
            _check_valid(dataset, context.k, len(vectors))
        model = fit_clusters(
            vectors,
            context.k,
            config.clusters,
            config.seed,
            context.runtime.device,
            n_threads=context.runtime.threads,
        )
        cluster, measures = offsets(model, vectors)
        kept = frozen.reference_arrays(measures, cluster, context.k, records)
        arrays = {**cluster_arrays(model), **kept}
        return ShardData(arrays={WHOLE: arrays}, numbers={WHOLE: _cluster_figures(model)})

    return work


def _check_valid(dataset: Dataset, k: int, n_vectors: int) -> None:
    """ClusterError with the cure where images give too few segments, not where images are few."""
    reports = dataset.reports("embeddings", k)
    shares = [row["valid_patch_share"] for one in reports for row in one.numbers.values()]
    words = stage_warnings.few_valid(sum(shares) / len(shares)) if shares else []
    if words:
        raise ClusterError(f"{k} clusters asked of {n_vectors} valid segments: {words[0]}")


def _cluster_figures(model: ClusterModel) -> dict[str, float]:
    return {"inertia": model.inertia, "n_trained": float(model.n_trained)}


def _build_taken(context: Context, stage: str) -> DatasetWork:
    """Center or clusters of an earlier run, array for array."""

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        k = context.k or context.config.clusters.k[0]
        found = frozen.load(context.config.clusters.frozen, k)
        advance(len(dataset.index.records))
        if stage == "center":
            return ShardData(arrays={WHOLE: dict(found.center)})
        numbers = {WHOLE: _cluster_figures(found.model)}
        return ShardData(arrays={WHOLE: dict(found.clusters)}, numbers=numbers)

    return work


# --- edits: centroids (L, P), group int16 (K,), edits text, split N (parts, P): see `edits` -------


def build_edits(context: Context) -> DatasetWork:
    def work(dataset: Dataset, advance: Advance) -> ShardData:
        config, vectors = context.config, np.zeros((0, 1), np.float32)
        if review.reads_vectors(config):
            limit = config.clusters.sample
            vectors, _ = taken(dataset, context.k, limit, config.seed, advance)
        found = cluster_arrays_of(dataset, context.k)
        arrays, conflicts = review.split_all(config, found, vectors)
        figures = {"n_conflicts": float(len(conflicts))}
        return ShardData(
            arrays={WHOLE: arrays},
            numbers={WHOLE: figures},
            files={"conflicts.txt": "".join(f"{one}\n" for one in conflicts).encode()},
        )

    return work


# --- center: mean float32 (G, G, D) or (1, 1, D), choice text; threshold float64 (1,)


def build_center(context: Context) -> DatasetWork:
    from datus.method import centering

    if context.config.clusters.frozen:
        return _build_taken(context, "center")
    from datus.method.clusters import mean_of_groups

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        sample = _Sample()
        parts = _key_sums(dataset.data("keysums", context.k), sample, advance)
        first = next(parts, None)
        if first is None or sample.joined is None:
            raise WorkError("no image gave keys: see the failures of features")
        sums = centering.add(chain([first], parts))
        share = centering.position_share(sums)
        settings = context.config.graphs
        choice: str = settings.center
        if choice == "auto":
            choice = centering.best_center(sums)
        elif choice == "position" and sums.n_images < 2:
            raise WorkError(
                "graphs.center: position needs the mean of several images, got one image; "
                "use image, or auto"
            )
        whole = choice != "position"
        mean = centering.dataset_mean(sums) if whole else centering.position_mean(sums)
        if settings.center == "auto":
            wanted = centering.GROUPED_KEYS
            keys = centering.spread_keys(sample.joined, choice, mean, wanted)
            mean = mean + mean_of_groups(keys, centering.GROUPS)
        arrays = {"mean": mean, "choice": np.frombuffer(choice.encode(), np.uint8)}
        figures = {"position_share": share}
        if settings.by_density:
            found = centering.cosine_threshold(sample.joined, choice, mean, settings.density)
            arrays["threshold"] = np.array([found])
            figures |= {"threshold": found, "density": settings.density}
        return ShardData(arrays={WHOLE: arrays}, numbers={WHOLE: figures})

    return work


@dataclass(slots=True)
class _Sample:
    """The keys that the threshold is taken from, of the shards so far."""

    joined: KeySample | None = None

    def add(self, part: KeySample) -> None:
        if self.joined is None:
            self.joined = join([part])
        elif len(self.joined.draw) < SAMPLE_IMAGES or part.draw.min() < self.joined.draw[-1]:
            self.joined = join([self.joined, part])


def _key_sums(
    data: Iterable[tuple[Shard, ShardData]], sample: _Sample, advance: Advance
) -> Iterator[KeySums]:
    """Those of one shard after the other: a megabyte each, so they are never held together."""
    for shard, stored in data:
        if WHOLE in stored.arrays:
            sample.add(key_sample_of(stored.arrays[WHOLE]))
            yield key_sums_of(stored.arrays[WHOLE])
        advance(len(shard.records))


# --- what others read of it -----------------------------------------------------------------------


def label_centroids(config: Config, dataset: Dataset, k: int) -> Array:
    """float32 (L, P): of the clusters, or where they were edited, of each label."""
    if not config.clusters.edits:
        return model_of(dataset, k).centroids
    _, data = next(iter(dataset.data("edits", k)))
    return data.arrays[WHOLE]["centroids"]


def model_of(dataset: Dataset, k: int) -> ClusterModel:
    return cluster_model(cluster_arrays_of(dataset, k))


def cluster_arrays_of(dataset: Dataset, k: int) -> Arrays:
    for _, data in dataset.data("clusters", k):
        return data.arrays[WHOLE]
    raise WorkError(f"no clusters for K = {k}")

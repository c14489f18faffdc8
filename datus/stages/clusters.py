"""The stage `clusters`: k-means over the valid segments of the dataset (paper III-D, second stage).

Stored of the dataset: the arrays of a ClusterModel (`review.cluster_arrays`), and for later runs
that take these clusters quantiles float32 (2, K + 1, 101), members int64 (K,) and images uint64
(n,), see `review.frozen`; of each corrected image what `review.corrections` keeps.
"""

from collections.abc import Iterable
from typing import Any

from datus.config import Config
from datus.engine.dataset import Dataset, DatasetWork
from datus.engine.stage import Arrays, Context, Stage, numbers_of
from datus.engine.workers import Advance
from datus.errors import ClusterError
from datus.inputs.index import Index
from datus.review import corrections as corrected
from datus.review import frozen
from datus.review.cluster_arrays import cluster_arrays
from datus.stages.corrected_clusters import make_clusters
from datus.stages.embeddings import few_valid
from datus.stages.frozen import build_frozen, cluster_figures, frozen_run
from datus.stages.sample import taken
from datus.store.store import ShardReport
from datus.types import WHOLE, ShardData


def needs(config: Config) -> tuple[str, ...]:
    if config.clusters.frozen:
        return ()
    return ("embeddings", "samples", *(("segments",) if config.clusters.corrections else ()))


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    if config.clusters.frozen:
        return {"k": k, "frozen": frozen.arrays_id(frozen_run(config, k, index).clusters)}
    hashed = corrected.hashed(config, index.records)
    hashed |= {"seed": config.seed, "dataset": index.content}
    for name in ("frozen", "edits"):
        del hashed[name]
    return {**hashed, "k": k}


def build(context: Context) -> DatasetWork:
    from datus.method.clusters import fit_clusters, offsets

    if context.config.clusters.frozen:
        return build_frozen(context, "clusters")

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        config = context.config
        if corrections := corrected.load(config, dataset.index.records):
            return make_clusters(context, corrections, dataset, advance)
        limit = config.clusters.sample
        vectors, records = taken(dataset, context.k, limit, config.seed, advance)
        if len(vectors) < context.k:
            # an error with the cure where images give too few segments, not where images are few
            reports = dataset.reports("embeddings", context.k)
            shares = [row["valid_patch_share"] for one in reports for row in one.numbers.values()]
            if shares and (words := few_valid(sum(shares) / len(shares))):
                raise ClusterError(
                    f"{context.k} clusters asked of {len(vectors)} valid segments: {words[0]}"
                )
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
        return ShardData(arrays={WHOLE: arrays}, numbers={WHOLE: cluster_figures(model)})

    return work


def cluster_arrays_of(dataset: Dataset, k: int) -> Arrays:
    return dataset.whole("clusters", k).arrays[WHOLE]


def warn(reports: Iterable[ShardReport]) -> list[str]:
    """Corrections that were left out, or that leave nothing to find."""
    report, warnings = list(reports), list[str]()
    if n_unused := sum(numbers_of(report, "n_unused")):
        warnings.append(f"{n_unused:.0f} corrected images are not in this run: they were left out")
    if 0 < sum(numbers_of(report, "n_images")) == sum(numbers_of(report, "n_corrected")):
        warnings.append(
            "every image of the run is corrected, so every mask is as it was given: "
            "give only the images that a person looked at"
        )
    return warnings


STAGE = Stage(
    name="clusters",
    version=3,
    scope="dataset",
    needs=needs,
    settings=settings,
    build=build,
    per_k=True,
    reads_files=True,
    warn=warn,
)

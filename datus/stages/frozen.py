"""Clusters and mean key of an earlier run in place of new ones: `clusters.frozen`.

frozen_run(config, k, index)     what is taken, checked against this run's settings
build_frozen(context, stage)     work that stores the arrays of `center` or `clusters` unchanged
"""

from datus.config import Config
from datus.engine.dataset import Dataset, DatasetWork
from datus.engine.stage import Context
from datus.engine.workers import Advance
from datus.inputs.index import Index
from datus.review import frozen
from datus.types import WHOLE, ClusterModel, ShardData


def frozen_run(config: Config, k: int, index: Index) -> frozen.Frozen:
    """What is taken of an earlier run, which looked at its images as this run does.

    Raises UsageError if a setting or the version of a stage differs, and what `frozen.load` raises.
    """
    from datus.stages import embeddings, features, graphs, segments

    run = frozen.load(config.clusters.frozen, k or config.clusters.k[0])
    stages = (features.STAGE, graphs.STAGE, segments.STAGE, embeddings.STAGE)
    frozen.check_same(
        run,
        {
            stage.name: {"version": stage.version, "settings": stage.settings(config, k, index)}
            for stage in stages
        },
    )
    return run


def build_frozen(context: Context, stage: str) -> DatasetWork:
    """Work that stores the arrays of `stage`, center or clusters, as the earlier run has them."""

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        k = context.k or context.config.clusters.k[0]
        run = frozen.load(context.config.clusters.frozen, k)
        advance(len(dataset.index.records))
        if stage == "center":
            return ShardData(arrays={WHOLE: dict(run.center)})
        return ShardData(
            arrays={WHOLE: dict(run.clusters)}, numbers={WHOLE: cluster_figures(run.model)}
        )

    return work


def cluster_figures(model: ClusterModel) -> dict[str, float]:
    return {"inertia": model.inertia, "n_trained": float(model.n_trained)}

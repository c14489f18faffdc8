"""The stages of a run, in order. Read this first, then `datus/stages` from top to bottom.

    index -> features (-> keysums -> center) -> graphs -> segments -> embeddings -> samples
          -> clusters (-> edits) -> masks (-> denoise-fit -> denoise) -> evaluate -> tallies
          -> views -> report

A stage of scope "shard" works on one shard of images, one of scope "dataset" on all of them. The
index is not in the table: it finds the images and cuts the shards (`inputs.index`). To add a stage,
write one file in `datus/stages` and put its object here.
"""

from datus.config import Config
from datus.engine import plan as plans
from datus.engine import run as runs
from datus.engine.plan import Plan
from datus.engine.run import QUIET, Console, RunResult
from datus.engine.stage import Stage
from datus.inputs.index import Index
from datus.review.frozen import kept_recipes
from datus.stages import (
    centering,
    clusters,
    denoise,
    edits,
    embeddings,
    evaluate,
    features,
    graphs,
    masks,
    report,
    sample,
    segments,
    totals,
    views,
)
from datus.store.store import Store

STAGES: tuple[Stage, ...] = (
    features.STAGE,
    centering.KEYSUMS,
    centering.CENTER,
    graphs.STAGE,
    segments.STAGE,
    embeddings.STAGE,
    sample.STAGE,
    clusters.STAGE,
    edits.STAGE,
    masks.STAGE,
    denoise.FIT,
    denoise.STAGE,
    evaluate.STAGE,
    totals.STAGE,
    views.STAGE,
    report.STAGE,
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)


def active_stages(config: Config) -> tuple[Stage, ...]:
    """The stages that this config has: no evaluation without truth, and so on."""
    return tuple(stage for stage in STAGES if stage.is_active(config))


def make_plan(config: Config, index: Index) -> Plan:
    """The stages that this config has, each with its fingerprint."""
    return plans.make_plan(config, index, active_stages(config), kept_recipes(config))


def run(
    config: Config,
    store: Store,
    console: Console = QUIET,
    until: str = "",
    only: bool = False,
) -> RunResult:
    """All stages, or those up to `until`, or `until` alone (`only`; upstream must exist).

    Holds the lock of the run folder. Raises a DatusError; what is finished is kept.
    """
    return runs.run(config, store, make_plan, console, until, only)

"""The table of stages: the only place that sees both the method and the machine.

    index -> features (-> keysums -> center) -> graphs -> segments -> embeddings -> samples
          -> clusters (-> edits) -> masks (-> denoise-fit -> denoise) -> evaluate -> tallies
          -> views -> report

A stage of scope "shard" works on one shard: `work(shard, inputs, advance)`, module `work`. One of
scope "dataset" works on all: `work(dataset, advance)`, module `gather`. A recipe is all that can
change a stage's bytes; its hash names the stage's folder. Index is not in the table: it makes the
shards (module `index`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datus.config import Config, settings_of
from datus.engine.resources import resolve_device
from datus.engine.stage import Context
from datus.inputs.classes import load_classes
from datus.inputs.index import Index
from datus.models.image_size import denoise_size, input_size
from datus.models.weights import check_learnable
from datus.review import corrections as corrected
from datus.review import frozen, review
from datus.stages import (
    browse_page as browsing,
)
from datus.stages import (
    denoise as denoising,
)
from datus.stages import (
    evaluate as scoring,
)
from datus.stages import (
    gather,
    work,
)
from datus.stages import (
    sample as vectors,
)
from datus.stages import (
    totals as tallies,
)
from datus.stages import (
    views as consistency_work,
)
from datus.stages import (
    warnings as stage_warnings,
)
from datus.store.store import ShardReport

Numbers = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Stage:
    """One row of the table."""

    name: str
    version: int
    """Raise it when the same input would give other bytes."""
    scope: Literal["shard", "dataset"]
    needs: Callable[[Config], tuple[str, ...]]
    settings: Callable[[Config, int, Index], dict[str, Any]]
    """(config, k, index) -> what is hashed besides name, version and needs."""
    build: Callable[[Context], Any]
    per_k: bool = False
    """Runs once for each K of a sweep."""
    on_device: Callable[[Config], bool] = lambda config: False
    """Has work for a GPU, or runs a model: what it loads is too large to be loaded often."""
    sees_truth: bool = False
    """Where there are true masks its shards are named by their contents, too."""
    warn: Callable[[Iterable[ShardReport]], list[str]] = lambda reports: []
    """What people should know of the finished stage. Reports go by once, one at a time."""


def _features(config: Config, k: int, index: Index) -> dict[str, Any]:
    from datus.models.vit import check_keys

    check_keys(config.features.backbone)
    settings = settings_of(config.features)
    settings["weights"] = _weights(config, config.features.backbone, config.features.weights)
    return settings | input_size(config.features)._asdict()


def _no_settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    return {}


def _center(config: Config, k: int, index: Index) -> dict[str, Any]:
    if config.clusters.frozen:
        return {"frozen": frozen.arrays_id(_frozen(config, k, index).center)}
    settings = {"center": config.graphs.center, "dataset": index.content}
    return settings | ({"density": config.graphs.density} if config.graphs.by_density else {})


def _graphs(config: Config, k: int, index: Index) -> dict[str, Any]:
    settings = settings_of(config.graphs)
    if not config.graphs.by_density:
        del settings["density"]
    return settings


def _segments(config: Config, k: int, index: Index) -> dict[str, Any]:
    return {**settings_of(config.segments), "seed": config.seed}


def _embeddings(config: Config, k: int, index: Index) -> dict[str, Any]:
    settings = settings_of(config.embeddings)
    if config.embeddings.mode == "pool":
        return {key: settings[key] for key in ("mode", "min_patches")}
    settings["weights"] = _weights(config, *work.embedder(config))
    settings["backbone"] = work.embedder(config)[0]
    for name in ("precision", "allow_missing", "allow_unexpected"):
        settings[name] = settings_of(config.features)[name]
    return settings


def _clusters(config: Config, k: int, index: Index) -> dict[str, Any]:
    if config.clusters.frozen:
        return {"k": k, "frozen": frozen.arrays_id(_frozen(config, k, index).clusters)}
    settings = corrected.hashed(config, index.records)
    settings |= {"seed": config.seed, "dataset": index.content}
    for name in ("frozen", "edits"):
        del settings[name]
    return {**settings, "k": k}


def _edits(config: Config, k: int, index: Index) -> dict[str, Any]:
    found = {**review.settings(config), "k": k}
    if review.reads_vectors(config):  # splits are k-means
        found |= {name: getattr(config.clusters, name) for name in _OF_SPLITS} | {
            "seed": config.seed,
            "dataset": index.content,
        }
    return found


_OF_SPLITS = ("spherical", "restarts", "sample")


def _edits_needs(config: Config) -> tuple[str, ...]:
    return ("embeddings", "samples", "clusters") if review.reads_vectors(config) else ("clusters",)


def _masks_needs(config: Config) -> tuple[str, ...]:
    made = ("segments", "embeddings", "clusters")
    return (*made, "edits") if config.clusters.edits else made


def _frozen(config: Config, k: int, index: Index) -> frozen.Frozen:
    """What is taken of an earlier run, which looked at its images as this run does."""
    found = frozen.load(config.clusters.frozen, k or config.clusters.k[0])
    rows = {stage.name: stage for stage in STAGES if stage.name in frozen.SEEN}
    frozen.check_same(
        found,
        {
            name: {"version": row.version, "settings": row.settings(config, k, index)}
            for name, row in rows.items()
        },
    )
    return found


def _masks(config: Config, k: int, index: Index) -> dict[str, Any]:
    return settings_of(config.masks)


def _denoise_fit(config: Config, k: int, index: Index) -> dict[str, Any]:
    settings = {**settings_of(config.denoise), "seed": config.seed, "dataset": index.content}
    del settings["enabled"]
    if config.denoise.kind == "probe":
        check_learnable(config.features.backbone)
        settings["backbone"] = config.features.backbone
        settings["weights"] = _weights(config, config.features.backbone, config.features.weights)
    return settings | denoise_size(config)._asdict()


def _evaluate(config: Config, k: int, index: Index) -> dict[str, Any]:
    classes = load_classes(Path(config.data.classes))
    return {
        "classes": [classes.name, list(classes.names), classes.lookup.tolist()],
        "known": np.flatnonzero(classes.known).tolist(),
    }


def _report(config: Config, k: int, index: Index) -> dict[str, Any]:
    settings = {**settings_of(config.report), "dataset": index.content, "preset": config.preset}
    settings["title"] = config.name
    if list(config.clusters.k) != sorted(config.clusters.k):
        settings["k"] = list(config.clusters.k)  # in this order: the page shows the first
    settings["failures"] = index.failures
    settings["names"] = review.name_settings(config)
    if config.clusters.frozen:
        settings["drift"] = True
    if config.data.truth:
        settings["truth"] = index.truth_content
    if config.data.classes:
        settings["colours"] = [list(c) for c in load_classes(Path(config.data.classes)).colours]
    return settings


def _weights(config: Config, backbone: str, weights: str) -> str:
    from datus.models.vit import weights_id

    known = weights_id(backbone, weights)
    return f"{known}:seed {config.seed}" if known.startswith("random") else known


def _nothing(config: Config) -> tuple[str, ...]:
    return ()


def _denoise_needs(config: Config) -> tuple[str, ...]:
    tokens = ("features",) if denoising.reads_tokens(config) else ()
    drawn: tuple[str, ...] = ("clusters",) if config.clusters.corrections else ()
    drawn += ("edits",) if drawn and config.clusters.edits else ()
    return (*tokens, *drawn, "masks", "denoise-fit")


def _denoise_fit_needs(config: Config) -> tuple[str, ...]:
    tokens = ("features",) if denoising.reads_tokens(config) else ()
    return (*tokens, "masks")


def _evaluate_needs(config: Config) -> tuple[str, ...]:
    return ("segments", "masks", *(("denoise",) if config.denoise.enabled else ()))


def _tallies_needs(config: Config) -> tuple[str, ...]:
    return (*_evaluate_needs(config), *(("evaluate",) if config.data.truth else ()))


def _embedding_needs(config: Config) -> tuple[str, ...]:
    return ("features", "segments") if config.embeddings.mode == "pool" else ("segments",)


def _clusters_needs(config: Config) -> tuple[str, ...]:
    if config.clusters.frozen:
        return ()
    return ("embeddings", "samples", *(("segments",) if config.clusters.corrections else ()))


def _views_needs(config: Config) -> tuple[str, ...]:
    center = ("center",) if config.graphs.over_dataset else ()
    return ("features", *center, "graphs", "segments", "embeddings")


def _report_needs(config: Config) -> tuple[str, ...]:
    made: tuple[str, ...] = ("features", "graphs", "segments", "embeddings", "clusters", "masks")
    made += ("views",)
    made += ("edits",) if config.clusters.edits else ()
    made += ("denoise-fit", "denoise") if config.denoise.enabled else ()
    return (*made, "evaluate", "tallies") if config.data.truth else (*made, "tallies")


STAGES: tuple[Stage, ...] = (
    Stage(
        name="features",
        version=2,
        scope="shard",
        needs=_nothing,
        settings=_features,
        build=work.build_features,
        on_device=lambda config: True,
    ),
    Stage(
        name="keysums",
        version=3,
        scope="shard",
        needs=lambda config: ("features",),
        settings=_no_settings,
        build=work.build_keysums,
    ),
    Stage(
        name="center",
        version=2,
        scope="dataset",
        needs=lambda config: () if config.clusters.frozen else ("keysums",),
        settings=_center,
        build=gather.build_center,
    ),
    Stage(
        name="graphs",
        version=3,
        scope="shard",
        needs=lambda config: (
            ("features", "center") if config.graphs.over_dataset else ("features",)
        ),
        settings=_graphs,
        build=work.build_graphs,
        on_device=lambda config: resolve_device(config) != "cpu",
        warn=stage_warnings.degenerate,
    ),
    Stage(
        name="segments",
        version=4,
        scope="shard",
        needs=lambda config: ("graphs",),
        settings=_segments,
        build=work.build_segments,
        warn=stage_warnings.weak,
    ),
    Stage(
        name="embeddings",
        version=1,
        scope="shard",
        needs=_embedding_needs,
        settings=_embeddings,
        build=work.build_embeddings,
        on_device=lambda config: config.embeddings.mode == "crop",
        warn=stage_warnings.invalid,
    ),
    Stage(
        name="samples",
        version=1,
        scope="shard",
        needs=lambda config: ("embeddings",),
        settings=lambda config, k, index: {"seed": config.seed, "share": vectors.KEPT_SHARE},
        build=vectors.build_samples,
    ),
    Stage(
        name="clusters",
        version=3,
        scope="dataset",
        needs=_clusters_needs,
        settings=_clusters,
        build=gather.build_clusters,
        per_k=True,
        warn=stage_warnings.corrections,
    ),
    Stage(
        name="edits",
        version=2,
        scope="dataset",
        needs=_edits_needs,
        settings=_edits,
        build=gather.build_edits,
        per_k=True,
        warn=stage_warnings.conflicts,
    ),
    Stage(
        name="masks",
        version=5,
        scope="shard",
        needs=_masks_needs,
        settings=_masks,
        build=work.build_masks,
        per_k=True,
    ),
    Stage(
        name="denoise-fit",
        version=2,
        scope="dataset",
        needs=_denoise_fit_needs,
        settings=_denoise_fit,
        build=denoising.build_denoise_fit,
        per_k=True,
        warn=stage_warnings.dropped,
    ),
    Stage(
        name="denoise",
        version=3,
        scope="shard",
        needs=_denoise_needs,
        settings=_no_settings,
        build=denoising.build_denoise,
        on_device=lambda config: True,
        per_k=True,
    ),
    Stage(
        name="evaluate",
        version=4,
        scope="shard",
        needs=_evaluate_needs,
        settings=_evaluate,
        build=scoring.build_evaluate,
        per_k=True,
        sees_truth=True,
    ),
    Stage(
        name="tallies",
        version=1,
        scope="shard",
        needs=_tallies_needs,
        settings=_no_settings,
        build=tallies.build_tallies,
        per_k=True,
        sees_truth=True,
    ),
    Stage(
        name="views",
        version=1,
        scope="dataset",
        needs=_views_needs,
        settings=lambda config, k, index: {"dataset": index.content},
        build=consistency_work.build_views,
        on_device=lambda config: True,
    ),
    Stage(
        name="report",
        version=6,
        scope="dataset",
        needs=_report_needs,
        settings=_report,
        build=browsing.build_report_stage,
        warn=stage_warnings.drift,
    ),
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)


def active_stages(config: Config) -> tuple[Stage, ...]:
    """No evaluation without truth, no de-noising unless asked for; no mean keys over the dataset
    where none are subtracted."""
    left_out = set() if config.data.truth else {"evaluate"}
    if not config.denoise.enabled:
        left_out |= {"denoise-fit", "denoise"}
    if not config.clusters.edits:
        left_out |= {"edits"}
    if not config.graphs.over_dataset:
        left_out |= {"keysums", "center"}
    elif config.clusters.frozen:
        left_out |= {"keysums"}
    if config.clusters.frozen and not review.reads_vectors(config):
        left_out |= {"samples"}
    return tuple(stage for stage in STAGES if stage.name not in left_out)

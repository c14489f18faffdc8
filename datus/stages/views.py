"""The stage `views`: some images looked at again, mirrored and enlarged; and what their labels say.

    figures_of(config, dataset, k)          mirror, crop, place and uniform, of one K

A view goes through the stages of its image with the mean key and the threshold of the run; labels
come from the run's own clusters. Nothing is learned anew, and another K needs no further passes.

Stored of the dataset, by VIEW/image id: what segments and embeddings store of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datus.config import Config
from datus.engine.dataset import Dataset, DatasetWork
from datus.engine.stage import Context, Stage, always
from datus.engine.workers import Advance, no_progress
from datus.inputs.index import Index, Shard
from datus.method import consistency
from datus.method.consistency import VIEWS
from datus.stages import embeddings, features, graphs, segments
from datus.stages.masks import labelled
from datus.types import Array, ImageRecord, ShardData, evenly

PASSED = (features.STAGE, graphs.STAGE, segments.STAGE, embeddings.STAGE)
"""Stages that a view goes through."""

READ = ("segments", "embeddings")
"""Of these, what labels are made of."""


def n_viewed(n_images: int) -> int:
    """How many images are looked at again: a tenth, at least 4, at most 16. Two passes of the ViT
    each, so a run of 40 images takes a fifth more of them and one of 1,000 a thirtieth."""
    return min(n_images, max(4, min(16, n_images // 10)))


N_PLACED = 64
"""Images whose labels are compared with their place. Their shards are read whole."""


def viewed(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Spread evenly over the dataset."""
    return evenly(records, n_viewed(len(records)))


def placed(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Those whose labels are compared with their place, spread evenly too."""
    return evenly(records, N_PLACED)


def needs(config: Config) -> tuple[str, ...]:
    center = ("center",) if config.graphs.over_dataset else ()
    return ("features", *center, "graphs", "segments", "embeddings")


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    return {"dataset": index.content}


def cost(config: Config, n_images: int) -> float:
    return float(n_viewed(n_images))


def build(context: Context) -> DatasetWork:
    def look(dataset: Dataset, advance: Advance) -> ShardData:
        records, center, arrays = viewed(dataset.index.records), {}, {}
        # those that gave no segments are left out: their files may crash or hang the decoder
        parts = dataset.data("segments", context.k, {record.image_id for record in records})
        segmented = {image_id for _, data in parts for image_id in data.arrays}
        shard = Shard("", tuple(r for r in records if r.image_id in segmented))
        if context.config.graphs.over_dataset:
            center["center"] = dataset.whole("center")
        for view in VIEWS:
            made: dict[str, ShardData] = dict(center)
            for stage in PASSED:
                work = stage.build(replace(context, view=view))
                made[stage.name] = work(shard, made, no_progress)
            for image_id, embedded in made["embeddings"].arrays.items():
                arrays[f"{view}/{image_id}"] = {**made["segments"].arrays[image_id], **embedded}
        advance(len(dataset.index.records))
        return ShardData(arrays=arrays)

    return look


# --- what the report says -------------------------------------------------------------------------


def figures_of(config: Config, dataset: Dataset, k: int) -> dict[str, float]:
    """Of the labels of K, where every segment has one: what `masks.noise` and `min_confidence`
    leave out of the masks would count neither for nor against them."""
    masks = replace(config.masks, noise="nearest", min_confidence=0.0)
    config, records = replace(config, masks=masks), dataset.index.records
    views = dataset.whole("views", k)
    names = ("clusters", "edits") if config.clusters.edits else ("clusters",)
    taken = {name: dataset.whole(name, k) for name in names}
    wanted = {record.image_id: record for record in (*viewed(records), *placed(records))}
    stored = {}
    parts = (dataset.data(stage, k, wanted.keys()) for stage in READ)
    for (_, segmented), (_, embedded) in zip(*parts, strict=True):
        for image_id in sorted(wanted.keys() & embedded.arrays.keys()):
            arrays = {**segmented.arrays[image_id], **embedded.arrays[image_id]}
            stored[image_id] = _labels(config, wanted[image_id], arrays, taken)
    others = [stored[one.image_id] for one in placed(records) if one.image_id in stored]
    figures = consistency.figures_of(others)
    for view in VIEWS:
        expected, found = [np.zeros(0, np.uint8)], [np.zeros(0, np.uint8)]
        for record in viewed(records):
            seen = views.arrays.get(f"{view}/{record.image_id}")
            if seen is not None and record.image_id in stored:
                expected.append(consistency.labels_in(stored[record.image_id], view).ravel())
                found.append(_labels(config, record, seen, taken).ravel())
        figures[view] = consistency.kappa(np.concatenate(expected), np.concatenate(found))
    return figures


def _labels(
    config: Config, record: ImageRecord, arrays: Mapping[str, Array], taken: Mapping[str, ShardData]
) -> Array:
    """uint8 (gh, gw) of an image or a view, from what segments and embeddings store of it."""
    made = ShardData(arrays={record.image_id: dict(arrays)})
    inputs = {**taken, **dict.fromkeys(READ, made)}
    cluster, _, _ = labelled(config, record, inputs, None)
    labels: Array = cluster.astype(np.uint8)[arrays["labels"]]  # -1 becomes 255 = IGNORE
    return labels


STAGE = Stage(
    name="views",
    version=1,
    scope="dataset",
    needs=needs,
    settings=settings,
    build=build,
    is_last=True,
    on_device=always,
    cost=cost,
    size=cost,
)

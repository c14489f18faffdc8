"""The stage `segments`: Louvain communities, split into connected segments (paper III-C, eq. 2).

Stored of an image: labels int32 (gh, gw); community and n_patches int32 (S,), together float32
(S,), boxes int32 (S, 4), modularity float64 (1,), size int32 (2,).
"""

from collections.abc import Iterable
from typing import Any
from zlib import crc32

import numpy as np

from datus.config import Config, settings_of
from datus.engine.stage import (
    Arrays,
    Context,
    Inputs,
    ShardWork,
    Stage,
    numbers_of,
    one_image,
    per_image,
)
from datus.inputs.index import Index
from datus.store.store import ShardReport
from datus.types import AffinityGraph, ImageRecord, SegmentMap, ShardData

WEAK_MODULARITY = 0.03
"""Of a partition: below it communities may be noise."""


def needs(config: Config) -> tuple[str, ...]:
    return ("graphs",)


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    return {**settings_of(config.segments), "seed": config.seed}


def build(context: Context) -> ShardWork:
    from datus.method.confidence import together
    from datus.method.louvain import partition
    from datus.method.segments import split

    settings = context.config.segments

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        graph = inputs["graphs"].arrays[record.image_id]
        seeds = np.random.SeedSequence([context.config.seed, crc32(record.image_id.encode())])
        found = partition(
            AffinityGraph(graph["bits"]),
            settings.backend,
            settings.restarts,
            int(seeds.generate_state(1)[0]),
        )
        rows, columns = graph["grid"].tolist()
        segments = split(found.labels, (rows, columns), found.modularity)
        arrays = {
            "labels": segments.labels,
            "community": segments.community,
            "n_patches": segments.n_patches,
            "boxes": segments.boxes,
            "together": together(segments.labels.ravel(), found.tried),
            "modularity": np.array([segments.modularity]),
            "size": graph["size"],
        }
        figures = {
            "modularity": found.modularity,
            "n_communities": float(found.labels.max() + 1),
            "n_segments": float(segments.n_segments),
        }
        return one_image(record, arrays, figures)

    return per_image(context, one)


def segment_map(arrays: Arrays) -> SegmentMap:
    """A SegmentMap from what the segments stage stored."""
    return SegmentMap(
        labels=arrays["labels"],
        community=arrays["community"],
        n_patches=arrays["n_patches"],
        boxes=arrays["boxes"],
        modularity=float(arrays["modularity"][0]),
    )


def warn(reports: Iterable[ShardReport]) -> list[str]:
    """Partitions that are hardly better than chance."""
    values = numbers_of(reports, "modularity")
    weak = [value for value in values if value < WEAK_MODULARITY]
    if 2 * len(weak) <= len(values):
        return []
    return [
        f"{len(weak)} of {len(values)} images have modularity below {WEAK_MODULARITY}: "
        "their communities may be noise"
    ]


STAGE = Stage(
    name="segments",
    version=4,
    scope="shard",
    needs=needs,
    settings=settings,
    build=build,
    warn=warn,
    figures=("modularity", "n_communities", "n_segments"),
)

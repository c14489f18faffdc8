"""The stage `graphs`: which patches of an image agree, one bit a pair (paper III-B, eq. 1).

Stored of an image: bits uint64 (N, words), grid int32 (2,) = (gh, gw), size int32 (2,).
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from datus.config import Config, settings_of
from datus.engine.resources import resolve_device
from datus.engine.stage import Context, Inputs, ShardWork, Stage, numbers_of, one_image, per_image
from datus.engine.workers import Advance
from datus.inputs.index import Index, Shard
from datus.models.image_size import input_size
from datus.stages.centering import choice_of
from datus.stages.features import model_shape, patch_grid
from datus.store.store import ShardReport
from datus.types import WHOLE, Array, ImageRecord, ShardData


def needs(config: Config) -> tuple[str, ...]:
    return ("features", "center") if config.graphs.over_dataset else ("features",)


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    hashed = settings_of(config.graphs)
    if not config.graphs.by_density:
        del hashed["density"]
    return hashed


def build(context: Context) -> ShardWork:
    from datus.method.affinity import affinity_graph, density
    from datus.method.centering import resample, without

    settings = context.config.graphs

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        over_dataset = inputs["center"].arrays[WHOLE] if "center" in inputs else {}
        center = choice_of(over_dataset) if over_dataset else settings.center
        if settings.threshold == "auto":
            threshold: float | None = float(over_dataset["threshold"][0])
        else:
            threshold = settings.threshold or None  # 0, the paper's: positive products

        @cache  # most images of a dataset have one grid
        def mean_on(grid: tuple[int, int]) -> Array:
            return resample(over_dataset["mean"], grid)

        def one(record: ImageRecord, inputs: Inputs) -> ShardData:
            features = inputs["features"].arrays[record.image_id]
            keys = features["keys"]
            if center in ("dataset", "position"):
                keys = without(keys, mean_on(keys.shape[:2]))
            graph = affinity_graph(keys, "image" if center == "image" else "none", threshold)
            arrays = {
                "bits": graph.bits,
                "grid": np.array(keys.shape[:2], np.int32),
                "size": features["size"],
            }
            return one_image(record, arrays, {"density": density(graph)})

        return per_image(context, one)(shard, inputs, advance)

    return work


def warn(reports: Iterable[ShardReport]) -> list[str]:
    """Graphs in which most pairs are linked."""
    from datus.method.affinity import DEGENERATE_DENSITY

    densities = numbers_of(reports, "density")
    dense = [value for value in densities if value > DEGENERATE_DENSITY]
    if not dense:
        return []
    return [
        f"{len(dense)} of {len(densities)} graphs are degenerate (over "
        f"{100 * DEGENERATE_DENSITY:.0f} % of patch pairs linked): their segments say little; "
        "try a lower graphs.density, --set graphs.center=image or another backbone"
    ]


def min_bytes(config: Config, record: ImageRecord) -> int | None:
    """N rows of N bits, in whole words of 64; None if the model's patches are not known."""
    if (shape := model_shape(config.features.backbone)) is None:
        return None
    n = math.prod(patch_grid(input_size(config.features), record, shape[0]))
    return n * ((n + 63) // 64) * 8


def on_device(config: Config) -> bool:
    """On a machine with a GPU graphs stay in the process that holds the model."""
    return resolve_device(config) != "cpu"


STAGE = Stage(
    name="graphs",
    version=3,
    scope="shard",
    needs=needs,
    settings=settings,
    build=build,
    on_device=on_device,
    warn=warn,
    figures=("density",),
    min_bytes=min_bytes,
)

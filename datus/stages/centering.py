"""The stages `keysums` and `center`: mean keys and the threshold of a density, over the dataset.

keysums stores of a shard the sums of its keys and a sample of them (`method.centering`): keys
float64 (G, G, D), squares float64 (1,), n_images int64 (1,), and sample_* of `KeySample`.

center stores of the dataset mean float32 (G, G, D) or (1, 1, D), choice (text), and with
`graphs.density` threshold float64 (1,).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from datus.compute.threads import map_threads
from datus.config import Config
from datus.engine.dataset import Dataset, DatasetWork
from datus.engine.stage import Arrays, Context, Inputs, ShardWork, Stage, constant, no_settings
from datus.engine.workers import Advance
from datus.errors import WorkError
from datus.inputs.index import Index, Shard
from datus.method.centering import SAMPLE_IMAGES, KeySample, KeySums, join
from datus.review.frozen import arrays_id
from datus.stages.frozen import build_frozen, frozen_run
from datus.types import WHOLE, ShardData

# --- keysums --------------------------------------------------------------------------------------


def needs_features(config: Config) -> tuple[str, ...]:
    return ("features",)


def sums_keys(config: Config) -> bool:
    """Frozen clusters bring their mean key with them."""
    return config.graphs.over_dataset and not config.clusters.frozen


def build_keysums(context: Context) -> ShardWork:
    from datus.method.centering import add, key_sample, key_sums

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        arrays = inputs["features"].arrays
        usable = [r.image_id for r in shard.records if r.image_id in arrays]

        def one(image_id: str) -> tuple[KeySums, KeySample]:
            keys = arrays[image_id]["keys"]
            return key_sums(keys), key_sample(keys, image_id)

        parts = map_threads(one, usable, context.runtime.threads)
        advance(len(shard.records))
        if not parts:
            return ShardData(arrays={})
        sums = add(sums for sums, _ in parts)
        sample = join(sample for _, sample in parts)
        whole = {
            "keys": sums.keys,
            "squares": np.array([sums.squares]),
            "n_images": np.array([sums.n_images], np.int64),
        }
        whole |= {f"sample_{name}": getattr(sample, name) for name in KeySample.__slots__}
        return ShardData(arrays={WHOLE: whole})

    return work


# --- center ---------------------------------------------------------------------------------------


def needs(config: Config) -> tuple[str, ...]:
    return () if config.clusters.frozen else ("keysums",)


def is_active(config: Config) -> bool:
    """No mean over the dataset where none is subtracted and the threshold is given."""
    return config.graphs.over_dataset


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    if config.clusters.frozen:
        return {"frozen": arrays_id(frozen_run(config, k, index).center)}
    hashed = {"center": config.graphs.center, "dataset": index.content}
    return hashed | ({"density": config.graphs.density} if config.graphs.by_density else {})


def build(context: Context) -> DatasetWork:
    from datus.method import centering

    if context.config.clusters.frozen:
        return build_frozen(context, "center")
    from datus.method.clusters import mean_of_groups

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        sample = _Sample()
        parts = _key_sums(dataset.data("keysums", context.k), sample, advance)
        first = next(parts, None)
        if first is None or sample.joined is None:
            raise WorkError("no image gave keys: see the failures of features")
        sums = centering.add(chain([first], parts))
        settings = context.config.graphs
        choice: str = settings.center
        if choice == "auto":
            choice = centering.best_center(sums)
        elif choice == "position" and sums.n_images < 2:
            raise WorkError(
                "graphs.center: position needs the mean of several images, got one image; "
                "use image, or auto"
            )
        by_position = choice == "position"
        mean = centering.position_mean(sums) if by_position else centering.dataset_mean(sums)
        if settings.center == "auto":
            keys = centering.spread_keys(sample.joined, choice, mean, centering.GROUPED_KEYS)
            mean = mean + mean_of_groups(keys, centering.GROUPS)
        arrays = {"mean": mean, "choice": np.frombuffer(choice.encode(), np.uint8)}
        figures = {"position_share": centering.position_share(sums)}
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
            whole = stored.arrays[WHOLE]
            sample.add(KeySample(*(whole[f"sample_{name}"] for name in KeySample.__slots__)))
            yield KeySums(whole["keys"], float(whole["squares"][0]), int(whole["n_images"][0]))
        advance(len(shard.records))


KEYSUMS = Stage(
    name="keysums",
    version=3,
    scope="shard",
    needs=needs_features,
    settings=no_settings,
    build=build_keysums,
    is_active=sums_keys,
)


def choice_of(arrays: Arrays) -> str:
    """none, image, dataset or position: the mean that the center stage chose."""
    return str(arrays["choice"].tobytes().decode())


CENTER = Stage(
    name="center",
    version=2,
    scope="dataset",
    needs=needs,
    settings=settings,
    build=build,
    is_active=is_active,
    cost=constant,
)

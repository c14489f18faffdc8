"""The stage `samples`: the vectors that k-means learns from, all valid segments or an even sample.

    taken(dataset, k, limit, seed, advance)                float32 (n, E), and their images
    sample_vectors(data, n_all, limit, seed, advance)      the same, from all vectors

Stored of a shard: vectors float32 (m, E) and draws float64 (m,) of the segments that were drawn.

One shard is in memory at a time; what stays is `limit` vectors, however many there are. Beyond
1 / KEPT_SHARE times `limit` only what each shard kept is read: a small part of its vectors, among
which are all that would be drawn, and so the same ones.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from datus.config import Config
from datus.engine.dataset import Dataset
from datus.engine.stage import Arrays, Context, Inputs, ShardWork, Stage
from datus.engine.workers import Advance
from datus.inputs.index import Index, Shard
from datus.review.replay import reads_vectors
from datus.types import WHOLE, Array, ImageRecord, ShardData

KEPT_SHARE = 1 / 16
"""Of the vectors of a shard. Below 16 times `clusters.sample` (500,000 images of 31 segments) all
vectors are read, from there on a 16th of the valid ones: either takes minutes."""


def taken(
    dataset: Dataset, k: int, limit: int, seed: int, advance: Advance
) -> tuple[Array, list[ImageRecord]]:
    """`sample_vectors` of a run, which reads no more than it has to."""
    n_all = count_valid(dataset, k)
    share = limit / max(1, n_all)
    if share > KEPT_SHARE:
        return sample_vectors(dataset.data("embeddings", k), n_all, limit, seed, advance)
    found, records = _Rows(n_all, share), []
    for shard, stored in dataset.data("samples", k):
        if WHOLE in stored.arrays:
            kept = stored.arrays[WHOLE]
            found.add(kept["vectors"][kept["draws"] < share])
        records += [record for record in shard.records if record.image_id in stored.arrays]
        advance(len(shard.records))
    return found.rows, records


class _Rows:
    """float32 (n, E), where they will stay: gathered in parts they would be there twice."""

    def __init__(self, n_all: int, share: float) -> None:
        """Room for as many of `n_all` as a draw with the chance `share` gives, and then some."""
        self._room = min(n_all, int(n_all * share + 6 * math.sqrt(n_all * share)) + 1)
        self._rows, self._n = np.zeros((0, 1), np.float32), 0

    def add(self, rows: Array) -> None:
        end = self._n + len(rows)
        if self._n == 0:
            self._rows = np.empty((max(self._room, end), rows.shape[1]), rows.dtype)
        elif end > len(self._rows):
            self._rows = np.concatenate([self._rows[: self._n], np.empty_like(rows)])
        self._rows[self._n : end] = rows
        self._n = end

    @property
    def rows(self) -> Array:
        return self._rows[: self._n]


def count_valid(dataset: Dataset, k: int) -> int:
    """Valid segments of all images."""
    reports = dataset.reports("samples", k)
    return sum(int(report.numbers[WHOLE]["n_valid"]) for report in reports if report.numbers)


def sample_vectors(
    data: Iterable[tuple[Shard, ShardData]], n_all: int, limit: int, seed: int, advance: Advance
) -> tuple[Array, list[ImageRecord]]:
    """(float32 (n, E) unit rows in the order of the images, the images that have a row or none).

    data: what the embeddings stage stored, shard by shard; n_all: its valid segments. Up to `limit`
    of them all are taken. Of more, each is taken with the same chance, so that about `limit` are;
    the draw of an image depends on the seed and its id alone, not on the other images.
    """
    share = min(1.0, limit / max(1, n_all))
    found, records = _Rows(n_all, share), []
    for shard, stored in data:
        for record in shard.records:
            if record.image_id in stored.arrays:
                arrays = stored.arrays[record.image_id]
                rows = arrays["vectors"][arrays["valid"]]
                if share < 1:
                    rows = rows[_draws(record, seed, len(rows)) < share]
                found.add(rows)
                records.append(record)
        advance(len(shard.records))
    return found.rows, records


def build(context: Context) -> ShardWork:
    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        embedded = inputs["embeddings"].arrays
        usable = [record for record in shard.records if record.image_id in embedded]
        advance(len(shard.records))
        return kept_sample(usable, embedded, context.config.seed)

    return work


def kept_sample(
    records: Sequence[ImageRecord], arrays: Mapping[str, Arrays], seed: int
) -> ShardData:
    """Vectors float32 (m, E) whose draw is below KEPT_SHARE, in order, and draws float64 (m,).

    arrays: what the embeddings stage made of the images of a shard, by image id. Each of them is
    named, with no arrays of its own.
    """
    vectors, draws, n_valid = [], [], 0
    for record in records:
        rows = arrays[record.image_id]["vectors"][arrays[record.image_id]["valid"]]
        drawn = _draws(record, seed, len(rows))
        vectors.append(rows[drawn < KEPT_SHARE])
        draws.append(drawn[drawn < KEPT_SHARE])
        n_valid += len(rows)
    if not records:
        return ShardData(arrays={})
    whole = {"vectors": np.concatenate(vectors), "draws": np.concatenate(draws)}
    named: dict[str, dict[str, Array]] = {record.image_id: {} for record in records}
    return ShardData(arrays={WHOLE: whole, **named}, numbers={WHOLE: {"n_valid": float(n_valid)}})


def _draws(record: ImageRecord, seed: int, n: int) -> Array:
    """float64 (n,), 0 to 1: one for each valid segment of an image."""
    return np.random.default_rng([seed, crc32(record.image_id.encode())]).random(n)


def needs(config: Config) -> tuple[str, ...]:
    return ("embeddings",)


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    return {"seed": config.seed, "share": KEPT_SHARE}


def is_active(config: Config) -> bool:
    """Frozen clusters need no vectors, unless an edit splits one of them."""
    return not config.clusters.frozen or reads_vectors(config)


STAGE = Stage(
    name="samples",
    version=1,
    scope="shard",
    needs=needs,
    settings=settings,
    build=build,
    is_active=is_active,
)

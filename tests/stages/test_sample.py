"""Vectors to learn from: all of them, or an even sample that does not depend on the others."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datus.inputs.index import Shard
from datus.stages.sample import KEPT_SHARE, kept_sample, sample_vectors
from datus.stages.sample import taken as read_taken
from datus.store.store import ShardReport
from datus.types import WHOLE, Array, ImageRecord, ShardData


def image(name: str) -> ImageRecord:
    return ImageRecord(name, f"{name}.png", 8, 8, "0" * 64, "s", None, None)


def shards(counts: list[int], n_invalid: int = 2) -> list[tuple[Shard, ShardData]]:
    """One image a shard; its vectors are (number of the image, number of the segment)."""
    made = []
    for number, n_valid in enumerate(counts):
        record = image(f"i{number}")
        vectors = np.array([(number, row) for row in range(n_valid + n_invalid)], np.float32)
        valid = np.arange(n_valid + n_invalid) < n_valid
        arrays = {record.image_id: {"vectors": vectors.reshape(-1, 2), "valid": valid}}
        made.append((Shard(f"k{number}", (record,)), ShardData(arrays=arrays)))
    return made


def taken(counts: list[int], limit: int, seed: int = 0) -> tuple[Array, list[int]]:
    advanced: list[int] = []
    rows, records = sample_vectors(shards(counts), sum(counts), limit, seed, advanced.append)
    assert [record.image_id for record in records] == [f"i{i}" for i in range(len(counts))]
    return rows, advanced


def test_all_valid_ones_in_order_up_to_the_limit() -> None:
    rows, advanced = taken([3, 0, 2], limit=5)
    assert rows.tolist() == [[0, 0], [0, 1], [0, 2], [2, 0], [2, 1]]
    assert advanced == [1, 1, 1]


def test_no_image_gives_no_vector() -> None:
    rows, records = sample_vectors([], 0, 10, 0, lambda n: None)
    assert (rows.shape, records) == ((0, 1), [])


def test_of_more_about_as_many_as_asked_for_and_evenly() -> None:
    rows, _ = taken([1000] * 40, limit=4000)
    assert abs(len(rows) - 4000) < 5 * 60  # five standard deviations
    by_image = np.bincount(rows[:, 0].astype(int), minlength=40)
    assert by_image.min() > 50
    assert abs(rows[:, 1].mean() - 499.5) < 25


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=6), st.integers(0, 9))
def test_a_draw_does_not_depend_on_the_other_images(counts: list[int], seed: int) -> None:
    """The same share, and the same first image: the same rows of it."""
    whole = shards(counts)
    n_all, limit = 100, 50
    alone, _ = sample_vectors(whole[:1], n_all, limit, seed, lambda n: None)
    together, _ = sample_vectors(whole, n_all, limit, seed, lambda n: None)
    assert np.array_equal(alone, together[: len(alone)])


class Stored:
    """What the stages stored, and which of it was read."""

    def __init__(self, embedded: list[tuple[Shard, ShardData]], seed: int) -> None:
        self.stages = {"embeddings": embedded, "samples": list[tuple[Shard, ShardData]]()}
        for shard, data in embedded:
            usable = [one for one in shard.records if one.image_id in data.arrays]
            self.stages["samples"].append((shard, kept_sample(usable, data.arrays, seed)))
        self.read = set[str]()

    def data(self, stage: str, k: int) -> Iterator[tuple[Shard, ShardData]]:
        self.read.add(stage)
        yield from self.stages[stage]

    def reports(self, stage: str, k: int) -> Iterator[ShardReport]:
        for _, data in self.stages[stage]:
            yield ShardReport((), data.numbers, {}, {}, True, "", 0, 0.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=6),
    st.integers(1, 400),
    st.integers(0, 9),
)
def test_what_shards_kept_gives_the_vectors_that_all_would_give(
    counts: list[int], limit: int, seed: int
) -> None:
    embedded = shards(counts)
    embedded.insert(1, (Shard("none", (image("lost"),)), ShardData(arrays={})))
    stored, counted = Stored(embedded, seed), list[int]()
    rows, records = read_taken(stored, 3, limit, seed, counted.append)
    expected, named = sample_vectors(embedded, sum(counts), limit, seed, lambda n: None)
    assert rows.tobytes() == expected.tobytes()
    assert (rows.shape, rows.dtype, records) == (expected.shape, expected.dtype, named)
    assert counted == [1] * len(embedded)
    few = limit / max(1, sum(counts)) <= KEPT_SHARE
    assert stored.read == {"samples" if few else "embeddings"}


def test_a_shard_keeps_a_small_even_part_in_order() -> None:
    ((shard, data),) = shards([16_000], n_invalid=0)
    kept = kept_sample(shard.records, data.arrays, seed=1)
    whole = kept.arrays[WHOLE]
    assert abs(len(whole["draws"]) - 1000) < 5 * 32  # five standard deviations
    assert whole["draws"].max() < KEPT_SHARE
    places = whole["vectors"][:, 1]
    assert (np.diff(places) > 0).all()
    assert abs(places.mean() - 8000) < 5 * 150
    assert kept.numbers == {WHOLE: {"n_valid": 16_000.0}}
    assert set(kept.arrays) == {WHOLE, "i0"}


def test_more_than_were_counted_are_all_there() -> None:
    counts = [5, 0, 7, 3]
    expected, _ = sample_vectors(shards(counts), sum(counts), 100, 0, lambda n: None)
    found, _ = sample_vectors(shards(counts), 4, 100, 0, lambda n: None)
    assert np.array_equal(found, expected)


def test_they_are_gathered_where_they_stay() -> None:
    counts = [200] * 50
    stored = shards(counts)
    tracemalloc.start()
    try:
        rows, _ = sample_vectors(stored, sum(counts), sum(counts), 0, lambda n: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * rows.nbytes

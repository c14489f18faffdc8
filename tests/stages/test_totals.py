"""What a shard adds up for the report, against the arrays of its images, however shards are cut."""

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datus.config import Config
from datus.engine.stage import Context, Runtime
from datus.errors import WorkError
from datus.inputs.index import Shard
from datus.method.confidence import N_BINS
from datus.stages.totals import Candidate, Totals, build, candidates, surest, totals_of
from datus.types import WHOLE, Array, ImageRecord, ShardData

N_LABELS, N_CLASSES, N_SEGMENTS = 3, 2, 6


def image(number: int) -> ImageRecord:
    return ImageRecord(f"i{number:02d}", f"{number}.png", 8, 8, "0" * 64, "s")


def masks_of(rng: np.random.Generator) -> dict[str, Array]:
    return {
        "cluster": rng.integers(-1, N_LABELS, N_SEGMENTS).astype(np.int16),
        "margin": (rng.integers(0, 4, N_SEGMENTS) / 7).astype(np.float32),  # many are equal
        "pixels": rng.integers(0, 99, N_LABELS + 1),
    }


def segments_of(rng: np.random.Generator) -> dict[str, Array]:
    labels = np.arange(N_SEGMENTS, dtype=np.int32).reshape(2, 3)
    return {"labels": labels, "boxes": rng.integers(0, 3, (N_SEGMENTS, 4)).astype(np.int32)}


def scores_of(rng: np.random.Generator) -> dict[str, Array]:
    shape = (N_BINS, N_LABELS, N_CLASSES)
    pixels = rng.integers(0, 2, shape) * rng.integers(0, 9, shape)
    where = np.nonzero(pixels)
    return {
        "counts": rng.integers(0, 99, (N_LABELS + 1, N_CLASSES)),
        "by_confidence": np.stack([*where, pixels[where]], axis=1).astype(np.int32),
    }


class Images:
    """Images with masks, some of which have true ones."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.records = [image(number) for number in range(n)]
        names = [record.image_id for record in self.records]
        self.masks = {name: masks_of(rng) for name in names if rng.random() < 0.8}
        self.segments = {name: segments_of(rng) for name in names}
        self.scores = {name: scores_of(rng) for name in self.masks if rng.random() < 0.7}

    def data(self, stage: str, k: int) -> Iterator[tuple[Shard, ShardData]]:
        yield from self.shards

    def cut(self, size: int, n_best: int) -> None:
        """Tallies of shards of `size` images."""
        config = Config.load(None, {"data.images": "x"})
        work = build(Context(config, N_LABELS, Runtime("cpu", 1, 1)))
        self.shards, self.counted = list[tuple[Shard, ShardData]](), list[int]()
        for start in range(0, len(self.records), size):
            shard = Shard(f"k{start}", tuple(self.records[start : start + size]))
            inside = {record.image_id for record in shard.records}
            inputs = {
                stage: ShardData({name: a for name, a in arrays.items() if name in inside})
                for stage, arrays in (
                    *(("masks", self.masks), ("segments", self.segments)),
                    ("evaluate", self.scores),
                )
            }
            with patch("datus.stages.totals.GALLERY", n_best):
                self.shards.append((shard, work(shard, inputs, self.counted.append)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 10), st.integers(0, 3), st.integers(0, 99))
def test_the_sums_of_all_images_however_shards_are_cut(
    n: int, size: int, n_best: int, seed: int
) -> None:
    images = Images(n, seed)
    images.cut(size, n_best)
    assert sum(images.counted) == n
    totals = totals_of(images, N_LABELS, N_LABELS, n_best)
    zeros = np.zeros(N_LABELS + 1, np.int64)
    np.testing.assert_array_equal(
        totals.pixels, sum((m["pixels"] for m in images.masks.values()), zeros)
    )
    assert totals.best == slow_gallery(images, n_best)
    if not images.scores:
        assert (totals.counts, len(totals.by_confidence)) == ({}, 0)
        return
    counts = sum(one["counts"] for one in images.scores.values())
    np.testing.assert_array_equal(totals.confusion().counts, counts)
    by_confidence = np.zeros((N_BINS, N_LABELS, N_CLASSES), np.int64)
    for one in images.scores.values():
        for bins, label, true_class, pixels in one["by_confidence"].tolist():
            by_confidence[bins, label, true_class] += pixels
    np.testing.assert_array_equal(totals.by_confidence, by_confidence)


def slow_gallery(images: Images, n_best: int) -> list[list[Candidate]]:
    found: list[list[Candidate]] = [[] for _ in range(N_LABELS)]
    for record in images.records:
        if record.image_id in images.masks:
            masks, segments = images.masks[record.image_id], images.segments[record.image_id]
            for label, one in candidates(record, masks, segments):
                found[label].append(one)
    return [sorted(one, reverse=True)[:n_best] for one in found]


def test_a_shard_whose_images_all_failed_has_nothing_to_add() -> None:
    images = Images(2, 0)
    images.masks = {}
    images.cut(1, 2)
    assert [data.arrays for _, data in images.shards] == [{}, {}]
    totals = totals_of(images, N_LABELS, N_LABELS, 2)
    assert (totals.pixels.tolist(), totals.best) == ([0] * 4, [[], [], []])


def test_without_a_usable_true_mask_nothing_can_be_scored() -> None:
    totals = Totals(np.zeros(4, np.int64), np.zeros(4, np.int64))
    with pytest.raises(WorkError, match="no image has a usable true mask, nothing can be scored"):
        totals.confusion()


def test_de_noised_masks_are_added_beside_the_others() -> None:
    work = build(Context(Config(), 2, Runtime("cpu", 1, 1)))
    mask = {"cluster": np.zeros(1, np.int16), "margin": np.ones(1, np.float32)}
    inputs = {
        "masks": ShardData({"i00": mask | {"pixels": np.array([4, 0, 1])}}),
        "segments": ShardData(
            {"i00": {"labels": np.zeros((1, 2), np.int32), "boxes": np.array([[0, 0, 1, 2]])}}
        ),
        "denoise": ShardData({"i00": {"pixels": np.array([3, 2, 0])}}),
        "evaluate": ShardData(
            {
                "i00": {
                    "counts": np.array([[1], [0], [0]]),
                    "denoised": np.array([[0], [1], [0]]),
                    "by_confidence": np.array([[49, 0, 0, 1]], np.int32),
                }
            }
        ),
    }
    data = work(Shard("k", (image(0),)), inputs, lambda n: None)
    whole = data.arrays[WHOLE]
    assert whole["denoised_pixels"].tolist() == [3, 2, 0]
    assert whole["denoised"].tolist() == [[0], [1], [0]]
    assert whole["by_confidence"].tolist() == [[49, 0, 0, 1]]
    assert whole["box"].tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_the_surest_of_each_label_the_surest_first() -> None:
    one, two, three = (Candidate(m, "i", (0, 0, 1, 1), 0) for m in (0.1, 0.2, 0.3))
    found = [(0, one), (0, three), (1, one), (0, two)]
    assert surest(found, 3, 2) == [[three, two], [one], []]
    assert surest(found, 2, 0) == [[], []]

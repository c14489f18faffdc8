"""Confidence of segments: each sign by hand, the curve against a slow count."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.method.confidence import N_BINS, bin_of, binned, confidence, kept_counts, together


def test_together_is_the_share_of_pairs_that_stay_in_one_community() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2], np.int32)
    tried = np.array([[0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 3, 3]], np.int32)
    # segment 0, pairs with themselves: 9 of 9, then 2 * 2 + 1 = 5 of 9, then 3 of 9
    expected = [(9 + 5 + 3) / 27, 1.0, 1.0]
    assert together(labels, tried) == pytest.approx(expected, abs=1e-6)
    assert together(labels, tried).dtype == np.float32


def test_one_partition_alone_contradicts_nothing() -> None:
    labels = np.array([0, 1, 0, 2], np.int32)
    assert together(labels, labels[None]).tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12))
def test_together_counts_pairs(rows: list[tuple[int, int, int]]) -> None:
    array = np.array(rows, np.int32)
    labels, tried = np.unique(array[:, 0], return_inverse=True)[1].astype(np.int32), array[:, 1:].T
    for segment, value in enumerate(together(labels, tried)):
        members = np.flatnonzero(labels == segment)
        pairs = itertools.product(members, members)
        same = [tried[:, i] == tried[:, j] for i, j in pairs]
        assert value == pytest.approx(np.mean(same), abs=1e-6)


def test_confidence_is_the_geometric_mean() -> None:
    margin = np.array([0.5, 0.0, 1.0], np.float32)
    votes = np.array([0.5, 1.0, 1.0], np.float32)
    found = confidence(margin, votes, np.array([0.5, 1.0, 1.0], np.float32))
    assert found.tolist() == [0.5, 0.0, 1.0]
    assert found.dtype == np.float32


def test_pixels_are_counted_by_confidence_cluster_and_class() -> None:
    sure = np.array([[0.0, 0.0, 0.31, 1.0]], np.float32).repeat(3, axis=0)
    mask = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [255, 0, 1, 1]], np.uint8)
    truth = np.array([[0, 2, 1, 1], [0, 0, 1, 255], [0, 2, 1, 1]], np.uint8)
    rows = binned(bin_of(sure), mask, truth, (2, 3))
    last = N_BINS - 1  # 1.0 is in the last bin, not in one of its own
    assert rows.tolist() == [
        [0, 0, 0, 2], [0, 0, 2, 2], [0, 1, 0, 1], [15, 1, 1, 3], [last, 1, 1, 2],
    ]  # fmt: skip
    assert rows.dtype == np.int32


def test_what_is_kept_and_what_is_dropped_add_up() -> None:
    rng = np.random.default_rng(0)
    rows, unlabelled = rng.integers(0, 9, (N_BINS, 3, 2)), np.array([4, 5])
    kept = kept_counts(rows, unlabelled)
    assert kept.shape == (N_BINS, 4, 2)
    total = rows.sum(axis=(0, 1)) + unlabelled
    for number, counts in enumerate(kept):
        assert counts[:-1].tolist() == rows[number:].sum(axis=0).tolist()
        assert counts.sum(axis=0).tolist() == total.tolist()

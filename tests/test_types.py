"""Shapes and dtypes are checked on creation, and the message says which field is wrong."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus import types
from datus.types import (
    AffinityGraph,
    Assignments,
    ClassTable,
    ClusterModel,
    Confusion,
    FeatureGrid,
    SegmentEmbeddings,
    SegmentMap,
    ShardData,
    evenly,
)


def f4(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def i4(*shape: int) -> Any:
    return np.zeros(shape, np.int32)


GOOD: dict[type, dict[str, Any]] = {
    FeatureGrid: {"keys": f4(3, 4, 6), "tokens": f4(3, 4, 5), "cls": f4(5)},
    AffinityGraph: {"bits": np.zeros((65, 2), np.uint64)},
    SegmentMap: {
        "labels": i4(3, 4),
        "community": i4(2),
        "n_patches": i4(2),
        "boxes": i4(2, 4),
        "modularity": 0.5,
    },
    SegmentEmbeddings: {"vectors": f4(2, 5), "valid": np.zeros(2, bool)},
    ClusterModel: {
        "centroids": f4(3, 2),
        "pca_mean": f4(5),
        "pca_axes": f4(2, 5),
        "inertia": 1.0,
        "n_trained": 9,
        "seed": 0,
        "library": "faiss",
        "restart_centroids": f4(4, 3, 2),
    },
    Assignments: {"cluster": np.zeros(2, np.int16), "margin": f4(2)},
    Confusion: {"counts": np.zeros((3, 2), np.int64)},
    ClassTable: {
        "name": "two",
        "names": ("a", "b"),
        "colours": ((0, 0, 0), (1, 1, 1)),
        "lookup": np.zeros(256, np.uint8),
        "known": np.zeros(256, bool),
    },
}

WRONG_SHAPE: list[tuple[type, str, Any, str]] = [
    (FeatureGrid, "keys", f4(3, 4), "expected shape (any, any, any), got (3, 4)"),
    (FeatureGrid, "tokens", f4(4, 3, 5), "expected shape (3, 4, any), got (4, 3, 5)"),
    (FeatureGrid, "cls", f4(6), "expected shape (5), got (6,)"),
    (AffinityGraph, "bits", np.zeros((65, 1), np.uint64), "expected shape (any, 2), got (65, 1)"),
    (AffinityGraph, "bits", np.zeros((), np.uint64), "expected shape (any, 0), got ()"),
    (SegmentMap, "labels", i4(12), "expected shape (any, any), got (12,)"),
    (SegmentMap, "community", i4(3), "expected shape (2), got (3,)"),
    (SegmentMap, "boxes", i4(2, 3), "expected shape (2, 4), got (2, 3)"),
    (SegmentEmbeddings, "vectors", f4(3, 5), "expected shape (2, any), got (3, 5)"),
    (ClusterModel, "pca_axes", f4(2, 4), "expected shape (any, 5), got (2, 4)"),
    (Assignments, "margin", f4(3), "expected shape (2), got (3,)"),
    (Confusion, "counts", np.zeros(3, np.int64), "expected shape (any, any), got (3,)"),
    (ClassTable, "lookup", np.zeros(255, np.uint8), "expected shape (256), got (255,)"),
]

WRONG_DTYPE: list[tuple[type, str, Any, str]] = [
    (FeatureGrid, "keys", np.zeros((3, 4, 6)), "expected dtype float32 or float16, got float64"),
    (AffinityGraph, "bits", i4(65, 2), "expected dtype uint64, got int32"),
    (SegmentMap, "n_patches", np.zeros(2, np.int64), "expected dtype int32, got int64"),
    (SegmentEmbeddings, "valid", np.zeros(2, np.uint8), "expected dtype bool, got uint8"),
    (Assignments, "cluster", i4(2), "expected dtype int16, got int32"),
    (Confusion, "counts", f4(3, 2), "expected dtype int64, got float32"),
    (ClassTable, "known", np.zeros(256, np.uint8), "expected dtype bool, got uint8"),
]


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_what_fits_is_accepted_and_frozen(kind: type) -> None:
    made = kind(**GOOD[kind])
    name = next(iter(GOOD[kind]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, None)


@pytest.mark.parametrize(
    ("kind", "name", "array", "text"), WRONG_SHAPE, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_wrong_shape_is_named(kind: type, name: str, array: Any, text: str) -> None:
    with pytest.raises(ValueError, match="expected shape") as caught:
        kind(**{**GOOD[kind], name: array})
    assert str(caught.value) == f"{kind.__name__}.{name}: {text}"


@pytest.mark.parametrize(
    ("kind", "name", "array", "text"), WRONG_DTYPE, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_wrong_dtype_is_named(kind: type, name: str, array: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        kind(**{**GOOD[kind], name: array})
    assert str(caught.value) == f"{kind.__name__}.{name}: {text}"


def test_what_is_no_array_is_named() -> None:
    with pytest.raises(TypeError) as caught:
        FeatureGrid(**{**GOOD[FeatureGrid], "keys": [[1.0]]})
    assert str(caught.value) == "FeatureGrid.keys: expected an array, got list"


def test_counts_without_the_unlabelled_row_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least the unlabelled row, got none"):
        Confusion(np.zeros((0, 3), np.int64))


@pytest.mark.parametrize(("n_nodes", "n_words"), [(0, 0), (1, 1), (64, 1), (65, 2), (784, 13)])
def test_one_bit_for_each_pair(n_nodes: int, n_words: int) -> None:
    assert AffinityGraph(np.zeros((n_nodes, n_words), np.uint64)).n_nodes == n_nodes


def test_sizes_are_read_from_the_arrays() -> None:
    assert SegmentMap(**GOOD[SegmentMap]).n_segments == 2
    assert ClusterModel(**GOOD[ClusterModel]).n_clusters == 3
    counts = Confusion(**GOOD[Confusion])
    assert (counts.n_clusters, counts.n_classes) == (2, 2)
    assert ClassTable(**GOOD[ClassTable]).n_classes == 2


def test_half_precision_features_are_features() -> None:
    halves = {name: array.astype(np.float16) for name, array in GOOD[FeatureGrid].items()}
    assert FeatureGrid(**halves).keys.dtype == np.float16


def test_shards_do_not_share_what_they_hold() -> None:
    ShardData({}).failures["a"] = "b"
    assert ShardData({}).failures == {}


def test_masks_of_eight_bits_have_room_for_every_cluster_and_for_no_label() -> None:
    assert types.MAX_CLUSTERS - 1 < types.IGNORE <= np.iinfo(np.uint8).max


@pytest.mark.parametrize(
    ("n_items", "n", "expected"),
    [(1, 5, [0]), (4, 4, [0, 1, 2, 3]), (10, 2, [2, 7]), (0, 3, []), (3, 0, [])],
)
def test_items_are_taken_evenly(n_items: int, n: int, expected: list[int]) -> None:
    assert evenly(range(n_items), n) == expected


@given(st.integers(0, 500), st.integers(1, 500))
def test_gaps_between_items_differ_by_one_at_most(n: int, wanted: int) -> None:
    found = evenly(range(n), wanted)
    assert len(found) == min(n, wanted)
    assert all(0 <= one < n for one in found)
    assert found == sorted(set(found))
    if len(found) > 1:
        gaps = np.diff(found)
        assert gaps.max() - gaps.min() <= 1

"""Keys to bits, against a double loop over pairs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_cases import integer_keys, normal_keys

from datus.errors import ConfigError
from datus.method import affinity
from datus.method.affinity import affinity_graph, density, n_self_loops
from datus.method.louvain import unpack
from datus.types import Array


def slow_adjacency(keys: Array, center: str, threshold: float | None = None) -> Array:
    rows = keys.reshape(-1, keys.shape[2]).astype(np.float64)
    if center == "image":
        rows = rows - rows.mean(axis=0)
    n_nodes = len(rows)
    linked = np.zeros((n_nodes, n_nodes), bool)
    for i in range(n_nodes):
        for j in range(n_nodes):
            product = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
            lengths = math.hypot(*rows[i]) * math.hypot(*rows[j])
            if threshold is None:
                linked[i, j] = product > 0
            else:
                linked[i, j] = lengths > 0 and product / lengths > threshold
    return linked


def test_hand_made_pairs() -> None:
    # patches: right, right, up, left; right and left oppose, up is at right angles to both
    keys = np.array([[[1, 0], [2, 0]], [[0, 1], [-1, 0]]], np.float32)
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    graph = affinity_graph(keys)
    np.testing.assert_array_equal(unpack(graph), np.array(expected, bool))
    assert density(graph) == 2 / 12


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    size=st.integers(1, 5),
)
def test_equals_the_double_loop(seed: int, rows: int, columns: int, size: int) -> None:
    keys = integer_keys(seed, (rows, columns), size)
    np.testing.assert_array_equal(
        unpack(affinity_graph(keys, "none")), slow_adjacency(keys, "none")
    )


def test_image_centre_equals_the_double_loop() -> None:
    keys = integer_keys(3, (5, 4), 6) + np.float32(10)  # a shared mean links every pair
    assert density(affinity_graph(keys, "none")) == 1.0
    centred = affinity_graph(keys, "image")
    np.testing.assert_array_equal(unpack(centred), slow_adjacency(keys, "image"))
    assert 0.2 < density(centred) < 0.8


@given(seed=st.integers(0, 2**31), threshold=st.floats(-0.9, 0.9), center=st.booleans())
@settings(max_examples=25)
def test_threshold_equals_the_double_loop(seed: int, threshold: float, center: bool) -> None:
    keys = normal_keys(seed, (4, 5), 6)
    name = "image" if center else "none"
    np.testing.assert_array_equal(
        unpack(affinity_graph(keys, name, threshold)), slow_adjacency(keys, name, threshold)
    )


@pytest.mark.parametrize("threshold", [None, -0.5, 0.0, 0.5])
def test_a_zero_key_is_linked_to_nothing(threshold: float | None) -> None:
    keys = np.ones((2, 3, 4), np.float32)
    keys[1, 2] = 0
    graph = affinity_graph(keys, "none", threshold)
    expected = np.ones((6, 6), bool)
    expected[5] = expected[:, 5] = False
    np.testing.assert_array_equal(unpack(graph), expected)
    assert n_self_loops(graph) == 5


def test_higher_thresholds_keep_fewer_links() -> None:
    keys = normal_keys(1, (9, 9), 8)
    found = [density(affinity_graph(keys, "none", t)) for t in (-0.5, 0.0, 0.3, 0.6)]
    assert found == sorted(found, reverse=True)
    assert density(affinity_graph(keys)) == found[1]


@pytest.mark.parametrize("threshold", [1.0, -1.0, 5.0, math.nan])
def test_thresholds_that_are_no_cosine_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigError) as error:
        affinity_graph(np.ones((1, 2, 3), np.float32), "none", threshold)
    assert str(error.value) == (
        f"graphs.threshold: expected a cosine between -1 and 1, got {threshold}; "
        "leave it out to link positive products"
    )


@pytest.mark.parametrize("threshold", [None, -0.25])
def test_blocks_do_not_change_the_graph(
    monkeypatch: pytest.MonkeyPatch, threshold: float | None
) -> None:
    keys = integer_keys(5, (17, 11), 7)
    whole = affinity_graph(keys, "none", threshold).bits
    for rows, columns in ((8, 8), (64, 16), (16, 64)):
        monkeypatch.setattr(affinity, "BLOCK_ROWS", rows)
        monkeypatch.setattr(affinity, "BLOCK_COLUMNS", columns)
        np.testing.assert_array_equal(affinity_graph(keys, "none", threshold).bits, whole)


@pytest.mark.parametrize("grid", [(1, 1), (8, 8), (5, 13), (40, 30)])
def test_graph_is_symmetric_on_real_valued_keys(grid: tuple[int, int]) -> None:
    adjacency = unpack(affinity_graph(normal_keys(0, grid, 16), "none"))
    np.testing.assert_array_equal(adjacency, adjacency.T)
    assert adjacency.diagonal().all()


def test_keys_of_half_precision_are_taken() -> None:
    keys = integer_keys(8, (4, 4), 3)
    np.testing.assert_array_equal(
        affinity_graph(keys.astype(np.float16)).bits, affinity_graph(keys).bits
    )


def test_one_patch_has_density_zero() -> None:
    assert density(affinity_graph(np.ones((1, 1, 4), np.float32), "none")) == 0.0

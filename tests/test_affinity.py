"""Keys to bits, against a double loop over pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus import affinity
from datus.affinity import affinity_graph, density, n_self_loops
from datus.louvain import unpack
from datus.records import Array


def slow_adjacency(keys: Array, center: str) -> Array:
    rows = keys.reshape(-1, keys.shape[2]).astype(np.float64)
    if center == "image":
        rows = rows - rows.mean(axis=0)
    n_nodes = len(rows)
    linked = np.zeros((n_nodes, n_nodes), bool)
    for i in range(n_nodes):
        for j in range(n_nodes):
            linked[i, j] = sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) > 0
    return linked


def integer_keys(seed: int, grid: tuple[int, int], size: int) -> Array:
    """Small integers: every product is exact, so no pair is a matter of rounding."""
    return np.random.default_rng(seed).integers(-3, 4, (*grid, size)).astype(np.float32)


def test_hand_made_pairs() -> None:
    # patches: right, right, up, left; right and left oppose, up is at right angles to both
    keys = np.array([[[1, 0], [2, 0]], [[0, 1], [-1, 0]]], np.float32)
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    graph = affinity_graph(keys, "none")
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


def test_blocks_do_not_change_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = integer_keys(5, (9, 11), 7)
    whole = affinity_graph(keys, "none").bits
    for block in (8, 16, 64):
        monkeypatch.setattr(affinity, "BLOCK_NODES", block)
        np.testing.assert_array_equal(affinity_graph(keys, "none").bits, whole)


def test_graph_is_symmetric_on_real_valued_keys() -> None:
    keys = np.random.default_rng(0).normal(size=(40, 30, 16)).astype(np.float32)
    adjacency = unpack(affinity_graph(keys, "none"))
    np.testing.assert_array_equal(adjacency, adjacency.T)


def test_self_loops_are_in_but_a_zero_key_has_none() -> None:
    keys = np.ones((2, 3, 4), np.float32)
    keys[1, 2] = 0
    assert n_self_loops(affinity_graph(keys, "none")) == 5


def test_one_patch_has_density_zero() -> None:
    assert density(affinity_graph(np.ones((1, 1, 4), np.float32), "none")) == 0.0

"""Back ends against brute force and planted partitions; modularity against networkx."""

from collections.abc import Iterator

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datus.louvain import BACKENDS, in_order_of_first_node, modularity, partition, unpack
from datus.records import AffinityGraph, Array

NAMES = sorted(BACKENDS)


def pack(adjacency: Array) -> AffinityGraph:
    n_nodes = len(adjacency)
    padded = np.zeros((n_nodes, (n_nodes + 63) // 64 * 64), bool)
    padded[:, :n_nodes] = adjacency
    packed = np.packbits(padded, axis=1, bitorder="little")
    return AffinityGraph(packed.view("<u8").astype(np.uint64))


def random_graph(seed: int, n_nodes: int, share: float) -> Array:
    upper = np.triu(np.random.default_rng(seed).random((n_nodes, n_nodes)) < share, 1)
    return upper | upper.T | np.eye(n_nodes, dtype=bool)


def cliques(*sizes: int) -> Array:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return groups[:, None] == groups[None, :]


def all_partitions(n_nodes: int) -> Iterator[list[int]]:
    """Restricted growth strings: every set partition once."""

    def grow(prefix: list[int]) -> Iterator[list[int]]:
        if len(prefix) == n_nodes:
            yield prefix
            return
        for label in range(max(prefix) + 2):
            yield from grow([*prefix, label])

    yield from grow([0])


@given(seed=st.integers(0, 10**6), n_nodes=st.integers(2, 12), share=st.floats(0.1, 0.9))
@settings(max_examples=40)
def test_modularity_equals_networkx(seed: int, n_nodes: int, share: float) -> None:
    adjacency = random_graph(seed, n_nodes, share)
    labels = np.random.default_rng(seed).integers(0, 3, n_nodes)
    graph = networkx.Graph()
    graph.add_nodes_from(range(n_nodes))
    for i, j in zip(*np.nonzero(np.triu(adjacency)), strict=True):
        # networkx counts a loop twice in the degree; A counts it once
        graph.add_edge(int(i), int(j), weight=0.5 if i == j else 1.0)
    groups = [set(np.flatnonzero(labels == one).tolist()) for one in set(labels.tolist())]
    for resolution in (0.5, 1.0, 2.0):
        expected = networkx.community.modularity(graph, groups, resolution=resolution)
        assert modularity(adjacency, labels, resolution) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("backend", NAMES)
def test_small_graphs_come_near_the_best_of_all_partitions(backend: str) -> None:
    for seed in range(8):
        adjacency = random_graph(seed, 7, 0.4)
        best = max(modularity(adjacency, np.array(p)) for p in all_partitions(7))
        found = partition(pack(adjacency), backend, 1.0, 8, seed=0)
        assert found.modularity == pytest.approx(modularity(adjacency, found.labels))
        assert best - 0.02 <= found.modularity <= best + 1e-12


@pytest.mark.parametrize("backend", NAMES)
def test_planted_cliques_are_recovered(backend: str) -> None:
    expected = np.repeat(np.arange(4), (10, 25, 7, 18))
    shuffle = np.random.default_rng(1).permutation(60)
    adjacency = cliques(10, 25, 7, 18)[np.ix_(shuffle, shuffle)]
    found = partition(pack(adjacency), backend, 1.0, 2, seed=0)
    np.testing.assert_array_equal(found.labels, in_order_of_first_node(expected[shuffle]))


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize(
    "adjacency",
    [
        np.ones((1, 1), bool),
        np.zeros((1, 1), bool),
        np.zeros((5, 5), bool),
        np.eye(5, dtype=bool),
        np.ones((6, 6), bool),
        np.pad(cliques(3, 3), (0, 2)),
    ],
    ids=["one node", "one empty node", "no edge", "only loops", "all edges", "isolated nodes"],
)
def test_strange_graphs_are_partitioned(backend: str, adjacency: Array) -> None:
    found = partition(pack(adjacency), backend, 1.0, 2, seed=0)
    assert found.labels.dtype == np.int32
    assert len(found.labels) == len(adjacency)
    assert np.isfinite(found.modularity)
    if len(adjacency) > 1 and adjacency.all():
        assert found.labels.max() == 0  # every partition has Q = 0: one community is the simplest


def test_higher_resolution_gives_more_communities() -> None:
    graph, backend = pack(random_graph(2, 40, 0.3)), "scikit-network"
    counts = [
        partition(graph, backend, resolution, 2, 0).labels.max() for resolution in (0.2, 1, 5)
    ]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("backend", NAMES)
def test_same_seed_same_labels_and_restarts_never_hurt(backend: str) -> None:
    graph = pack(random_graph(4, 60, 0.5))
    once = partition(graph, backend, 1.0, 1, seed=7)
    several = partition(graph, backend, 1.0, 5, seed=7)
    again = partition(graph, backend, 1.0, 5, seed=7)
    np.testing.assert_array_equal(several.labels, again.labels)
    assert several.modularity >= once.modularity


def test_unpack_inverts_pack() -> None:
    adjacency = random_graph(0, 130, 0.5)
    np.testing.assert_array_equal(unpack(pack(adjacency)), adjacency)


def test_order_of_first_node() -> None:
    np.testing.assert_array_equal(
        in_order_of_first_node(np.array([5, 2, 5, 9, 2])), [0, 1, 0, 2, 1]
    )

"""Back ends against brute force and planted partitions; modularity against networkx."""

import re
import sys
from collections.abc import Iterator

import networkx
import numpy as np
import pytest
from graphs import cliques, pack, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from datus.errors import ConfigError, MissingPackage
from datus.method.louvain import BACKENDS, in_order_of_first_node, modularity, partition, unpack
from datus.types import AffinityGraph, Array

RESOLUTION_FREE = [name for name in BACKENDS if name != "python-louvain"]
"""python-louvain is only right at resolution 1."""


def all_partitions(n_nodes: int) -> Iterator[list[int]]:
    """Restricted growth strings: every set partition once."""

    def grow(prefix: list[int]) -> Iterator[list[int]]:
        if len(prefix) == n_nodes:
            yield prefix
            return
        for label in range(max(prefix) + 2):
            yield from grow([*prefix, label])

    yield from grow([0])


def best_of_all(adjacency: Array, resolution: float = 1.0) -> float:
    """The greatest modularity there is, by the definition."""
    degrees = adjacency.sum(axis=1, dtype=np.float64)
    weights = adjacency - resolution * np.outer(degrees, degrees) / degrees.sum()
    labels = np.array(list(all_partitions(len(adjacency))))
    together = labels[:, :, None] == labels[:, None, :]
    return float((together * weights).sum(axis=(1, 2)).max() / degrees.sum())


@given(seed=st.integers(0, 10**6), n_nodes=st.integers(2, 90), share=st.floats(0.1, 0.9))
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
        found = modularity(pack(adjacency), labels, resolution)
        assert found == pytest.approx(expected, abs=1e-12, rel=0)


def test_modularity_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = pack(random_graph(3, 150, 0.4))
    labels = np.arange(150) % 7
    whole = modularity(graph, labels)
    monkeypatch.setattr("datus.method.louvain.BLOCK_WORDS", 30)
    assert modularity(graph, labels) == whole


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_graphs_come_near_the_best_of_all_partitions(backend: str) -> None:
    for seed in range(8):
        adjacency = random_graph(seed, 7, 0.4)
        best = best_of_all(adjacency)
        found = partition(pack(adjacency), backend, 1.0, 8, seed=0)
        assert best - 0.02 <= found.modularity <= best + 1e-12


@pytest.mark.parametrize("resolution", [0.5, 1.0, 1.7])
def test_bits_nearly_always_finds_the_best_of_all_partitions(resolution: float) -> None:
    losses = []
    for seed in range(40):
        adjacency = random_graph(seed, 8, 0.25 + 0.5 * seed / 40)
        found = partition(pack(adjacency), "bits", resolution, 8, seed=0)
        losses.append(best_of_all(adjacency, resolution) - found.modularity)
    assert min(losses) > -1e-12
    assert max(losses) < 0.01
    assert np.mean(np.array(losses) < 1e-12) >= 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_planted_cliques_are_recovered(backend: str) -> None:
    expected = np.repeat(np.arange(4), (10, 25, 7, 18))
    shuffle = np.random.default_rng(1).permutation(60)
    adjacency = cliques(10, 25, 7, 18)[np.ix_(shuffle, shuffle)]
    found = partition(pack(adjacency), backend, 1.0, 2, seed=0)
    np.testing.assert_array_equal(found.labels, in_order_of_first_node(expected[shuffle]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_noisy_planted_groups_are_recovered(backend: str) -> None:
    group = np.repeat(np.arange(3), 50)
    share = np.where(group[:, None] == group[None, :], 0.7, 0.25)
    adjacency = random_graph(5, 150, share)
    found = partition(pack(adjacency), backend, 1.0, 2, seed=0)
    np.testing.assert_array_equal(found.labels, group)


@pytest.mark.parametrize("backend", BACKENDS)
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
    expected = {"all": np.zeros(6), "isolated": [0, 0, 0, 1, 1, 1, 2, 3]}
    if len(adjacency) > 1 and adjacency.all():
        np.testing.assert_array_equal(found.labels, expected["all"])  # Q is 0 however one cuts
    elif len(adjacency) == 8:
        np.testing.assert_array_equal(found.labels, expected["isolated"])
    else:
        np.testing.assert_array_equal(found.labels, np.arange(len(adjacency)))
    assert found.modularity == pytest.approx(
        modularity(pack(adjacency), found.labels), abs=1e-12, rel=0
    )


@pytest.mark.parametrize("backend", RESOLUTION_FREE)
def test_higher_resolution_gives_more_communities(backend: str) -> None:
    graph = pack(random_graph(2, 40, 0.3))
    counts = [
        partition(graph, backend, resolution, 2, 0).labels.max() for resolution in (0.2, 1, 5)
    ]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("backend", RESOLUTION_FREE)
def test_a_complete_graph_falls_apart_above_resolution_one(backend: str) -> None:
    found = partition(pack(np.ones((6, 6), bool)), backend, 1.5, 1, 0)
    np.testing.assert_array_equal(found.labels, np.arange(6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_same_labels_and_restarts_never_hurt(backend: str) -> None:
    graph = pack(random_graph(4, 60, 0.5))
    once = partition(graph, backend, 1.0, 1, seed=7)
    several = partition(graph, backend, 1.0, 5, seed=7)
    again = partition(graph, backend, 1.0, 5, seed=7)
    np.testing.assert_array_equal(several.labels, again.labels)
    assert several.modularity >= once.modularity


@pytest.mark.parametrize("resolution", [0.0001, 1e30])
def test_resolutions_that_integers_cannot_hold_are_refused(resolution: float) -> None:
    with pytest.raises(ConfigError, match="is too fine for 64-bit integers and"):
        partition(pack(random_graph(0, 9, 0.5)), "bits", resolution, 1, 0)


def test_the_bound_on_the_resolution_is_stated() -> None:
    graph = AffinityGraph(np.full((16384, 256), 2**64 - 1, np.uint64))
    graph.bits[0, 0] = 2**64 - 2  # w^2 is just below 2^56
    text = (
        "segments.resolution: 1.234 = 617/500 is too fine for 64-bit integers and 268435455 edges; "
        "take a fraction of numbers of 1 to 64, such as 1.5, or another segments.backend"
    )
    with pytest.raises(ConfigError, match=re.escape(text)):
        partition(graph, "bits", 1.234, 1, 0)


def test_leiden_without_its_packages_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "leidenalg", None)
    with pytest.raises(MissingPackage) as error:
        partition(pack(random_graph(0, 9, 0.5)), "leiden", 1.0, 1, 0)
    assert str(error.value) == (
        "segments.backend = leiden needs the package leidenalg: "
        "pip install 'datus[leiden]', or take backend bits"
    )


def test_unpack_inverts_pack() -> None:
    adjacency = random_graph(0, 130, 0.5)
    np.testing.assert_array_equal(unpack(pack(adjacency)), adjacency)


def test_order_of_first_node() -> None:
    np.testing.assert_array_equal(
        in_order_of_first_node(np.array([5, 2, 5, 9, 2])), [0, 1, 0, 2, 1]
    )

"""Back ends against brute force and planted partitions; modularity against networkx."""

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
from datus.types import Array


def all_partitions(n_nodes: int) -> Iterator[list[int]]:
    """Restricted growth strings: every set partition once."""

    def grow(prefix: list[int]) -> Iterator[list[int]]:
        if len(prefix) == n_nodes:
            yield prefix
            return
        for label in range(max(prefix) + 2):
            yield from grow([*prefix, label])

    yield from grow([0])


def best_of_all(adjacency: Array) -> float:
    """The greatest modularity there is, by the definition."""
    degrees = adjacency.sum(axis=1, dtype=np.float64)
    weights = adjacency - np.outer(degrees, degrees) / degrees.sum()
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
    expected = networkx.community.modularity(graph, groups)
    assert modularity(pack(adjacency), labels) == pytest.approx(expected, abs=1e-12, rel=0)


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
        found = partition(pack(adjacency), backend, 8, seed=0)
        assert best - 0.02 <= found.modularity <= best + 1e-12


def test_bits_nearly_always_finds_the_best_of_all_partitions() -> None:
    losses = []
    for seed in range(40):
        adjacency = random_graph(seed, 8, 0.25 + 0.5 * seed / 40)
        found = partition(pack(adjacency), "bits", 8, seed=0)
        losses.append(best_of_all(adjacency) - found.modularity)
    assert min(losses) > -1e-12
    assert max(losses) < 0.01
    assert np.mean(np.array(losses) < 1e-12) >= 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_planted_cliques_are_recovered(backend: str) -> None:
    expected = np.repeat(np.arange(4), (10, 25, 7, 18))
    shuffle = np.random.default_rng(1).permutation(60)
    adjacency = cliques(10, 25, 7, 18)[np.ix_(shuffle, shuffle)]
    found = partition(pack(adjacency), backend, 2, seed=0)
    np.testing.assert_array_equal(found.labels, in_order_of_first_node(expected[shuffle]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_noisy_planted_groups_are_recovered(backend: str) -> None:
    group = np.repeat(np.arange(3), 50)
    share = np.where(group[:, None] == group[None, :], 0.7, 0.25)
    adjacency = random_graph(5, 150, share)
    found = partition(pack(adjacency), backend, 2, seed=0)
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
    found = partition(pack(adjacency), backend, 2, seed=0)
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_same_labels_and_restarts_never_hurt(backend: str) -> None:
    graph = pack(random_graph(4, 60, 0.5))
    once = partition(graph, backend, 1, seed=7)
    several = partition(graph, backend, 5, seed=7)
    again = partition(graph, backend, 5, seed=7)
    np.testing.assert_array_equal(several.labels, again.labels)
    assert several.modularity >= once.modularity


def test_graphs_with_more_links_than_integers_can_count_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datus.method.louvain.MAX_LINKS", 24)
    text = "segments.backend = bits counts at most 24 links .* got 25: use a smaller"
    with pytest.raises(ConfigError, match=text):
        partition(pack(np.pad(np.ones((5, 5), bool), (0, 1))), "bits", 1, 0)


def test_leiden_without_its_packages_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "leidenalg", None)
    with pytest.raises(MissingPackage) as error:
        partition(pack(random_graph(0, 9, 0.5)), "leiden", 1, 0)
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

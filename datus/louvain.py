"""Packed affinity bits -> communities of highest modularity (paper III-C, eq. 2).

In:  AffinityGraph (N nodes, weight 1 an edge, self loops counted once), a back end by name.
Out: Partition: int32 (N,) communities 0..c-1 in order of first node, and their modularity

     Q = 1/w sum_ij (A_ij - resolution k_i k_j / w) [c_i = c_j],  k_i = sum_j A_ij,  w = sum_i k_i.

Louvain (Blondel et al. 2008) is greedy and its result depends on the order of the nodes:
`restarts` tries that many orders and keeps the best Q. The same seed gives the same labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx
import numpy as np
from scipy import sparse

from datus.records import AffinityGraph, Array


@dataclass(frozen=True, slots=True)
class Partition:
    """Communities of one graph."""

    labels: Array
    """int32 (N,): 0..c-1, numbered in order of first node."""
    modularity: float


def partition(
    graph: AffinityGraph, backend: str, resolution: float, restarts: int, seed: int
) -> Partition:
    """Best of `restarts` Louvain runs. Of equal runs the first is kept."""
    run = BACKENDS[backend]
    adjacency = unpack(graph)
    if adjacency.all():  # every partition has Q = 0: one community is the simplest
        return Partition(np.zeros(len(adjacency), np.int32), 0.0)
    if len(adjacency) < 2 or not adjacency.any():
        labels = np.arange(len(adjacency), dtype=np.int32)
        return Partition(labels, modularity(adjacency, labels, resolution))
    seeds = np.random.default_rng(seed).integers(0, 2**31 - 1, restarts)
    found = []
    for order_seed in (None, *seeds[1:].tolist()):
        labels = in_order_of_first_node(run(adjacency, resolution, order_seed))
        found.append(Partition(labels, modularity(adjacency, labels, resolution)))
    return max(found, key=lambda one: one.modularity)


def unpack(graph: AffinityGraph) -> Array:
    """bool (N, N) adjacency."""
    packed = graph.bits.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(packed, axis=1, count=graph.n_nodes, bitorder="little").astype(bool)


def modularity(adjacency: Array, labels: Array, resolution: float = 1.0) -> float:
    """Q of a partition of a bool (N, N) graph; 0 for a graph without edges."""
    degrees = adjacency.sum(axis=1, dtype=np.int64)
    total = int(degrees.sum())
    if total == 0:
        return 0.0
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    inside, volumes = 0, np.add.reduceat(degrees[order], starts)
    for members in np.split(order, starts[1:]):
        inside += int(adjacency[np.ix_(members, members)].sum(dtype=np.int64))
    expected = sum(int(volume) ** 2 for volume in volumes)  # exact: Python integers
    return inside / total - resolution * expected / total**2


def in_order_of_first_node(labels: Array) -> Array:
    """int32 (N,): the same partition, communities renumbered 0.. in order of first node."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def _scikit_network(adjacency: Array, resolution: float, order_seed: int | None) -> Array:
    """What the authors ran. No seed: its defaults, nodes in raster order."""
    from sknetwork.clustering import Louvain

    louvain = Louvain(
        resolution=resolution, shuffle_nodes=order_seed is not None, random_state=order_seed
    )
    return np.asarray(louvain.fit_predict(sparse.csr_matrix(adjacency, dtype=np.float64)))


def _python_louvain(adjacency: Array, resolution: float, order_seed: int | None) -> Array:
    """The reference on networkx, slow. It shuffles always; no seed means seed 0.

    networkx counts a self loop twice in a degree, so loops get weight 1/2 here. Away from
    resolution 1 it stops early (moves and stopping rule disagree); the config refuses that.
    """
    import community

    graph: networkx.Graph[int] = networkx.Graph()
    graph.add_nodes_from(range(len(adjacency)))
    rows, columns = np.nonzero(np.triu(adjacency))
    weights = np.where(rows == columns, 0.5, 1.0)
    edges = zip(rows.tolist(), columns.tolist(), weights.tolist(), strict=True)
    graph.add_weighted_edges_from(edges)
    found = community.best_partition(
        graph, resolution=resolution, random_state=0 if order_seed is None else order_seed
    )
    return np.array([found[node] for node in range(len(adjacency))])


BACKENDS: Mapping[str, Callable[[Array, float, int | None], Array]] = {
    "scikit-network": _scikit_network,
    "python-louvain": _python_louvain,
}
"""Name -> function of (bool (N, N) adjacency, resolution, seed of the node order or None)."""

"""Packed affinity bits -> communities of highest modularity (paper III-C, eq. 2).

In:  AffinityGraph (N nodes, weight 1 an edge, self loops counted once), a back end by name.
Out: Partition: int32 (N,) communities 0..c-1 in order of first node, and their modularity

     Q = 1/w sum_ij (A_ij - k_i k_j / w) [c_i = c_j],  k_i = sum_j A_ij,  w = sum_i k_i.

Louvain (Blondel et al. 2008) is greedy and its result depends on the order of the nodes:
`restarts` tries that many orders and keeps the best Q. The same seed gives the same labels.

`bits` is ours (module `louvain_bits`): integers on packed bits. The others are libraries, each
imported at its first use. They unpack the graph: N^2 bytes and more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from datus.errors import ConfigError, MissingPackage
from datus.types import AffinityGraph, Array

MAX_LINKS = 2**31 - 1
"""Of a graph for `bits`: 2 w^2 bounds all that it adds up, and must fit 64 bits. A graph of 46,340
patches that are all linked has as many."""

BLOCK_WORDS = 2**17
"""Words of the graph that `modularity` looks at at a time: 1 MB."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Communities of one graph."""

    labels: Array
    """int32 (N,): 0..c-1, numbered in order of first node."""
    modularity: float
    tried: Array
    """int32 (T, N): all partitions that were found, `labels` among them, each numbered likewise."""


@dataclass(frozen=True, slots=True)
class Library:
    """Someone else's Louvain."""

    build: Callable[[AffinityGraph], Any]
    """The graph as the library wants it."""
    run: Callable[[Any, int | None], Array]
    """(that graph, seed of the node order or None for the default) -> labels (N,)."""


def partition(graph: AffinityGraph, backend: str, restarts: int, seed: int) -> Partition:
    """Best of `restarts` Louvain runs. Of equal runs the first is kept.

    backend: one of BACKENDS. Raises MissingPackage if its library is not installed, ConfigError if
    the graph has more than MAX_LINKS and the backend is `bits`.
    """
    n_nodes, total = graph.n_nodes, _n_links(graph)
    if total == n_nodes**2:  # every partition has Q <= 0: take the simplest
        labels = np.zeros(n_nodes, np.int32)
    elif total == 0:
        labels = np.arange(n_nodes, dtype=np.int32)
    elif backend == "bits":
        return _bits(graph, total, restarts, seed)
    else:
        return _best_of_orders(graph, LIBRARIES[backend], restarts, seed)
    return Partition(labels, modularity(graph, labels), labels[None])


def modularity(graph: AffinityGraph, labels: Array) -> float:
    """Q of a partition, labels 0.. of any integer dtype; 0 for a graph without edges.

    Counted on the bits in integers, so only the last three operations round.
    """
    bits, node = graph.bits, np.arange(graph.n_nodes)
    masks = np.zeros((int(labels.max(initial=0)) + 1, bits.shape[1]), np.uint64)
    members = np.uint64(1) << (node % 64).astype(np.uint64)
    np.bitwise_or.at(masks, (labels, node // 64), members)
    inside, volumes = 0, np.zeros(len(masks), np.int64)
    step = max(1, BLOCK_WORDS // max(1, bits.shape[1]))
    for start in range(0, graph.n_nodes, step):
        rows, own = bits[start : start + step], labels[start : start + step]
        inside += int(np.bitwise_count(rows & masks[own]).sum(dtype=np.int64))
        np.add.at(volumes, own, np.bitwise_count(rows).sum(axis=1, dtype=np.int64))
    total = int(volumes.sum())
    if total == 0:
        return 0.0
    # exact: Python integers
    return _q(inside, sum(volume**2 for volume in volumes.tolist()), total)


def unpack(graph: AffinityGraph) -> Array:
    """bool (N, N) adjacency."""
    packed = graph.bits.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(packed, axis=1, count=graph.n_nodes, bitorder="little").view(bool)


def in_order_of_first_node(labels: Array) -> Array:
    """int32 (N,): the same partition, communities renumbered 0.. in order of first node."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def _n_links(graph: AffinityGraph) -> int:
    """w: ordered pairs with an edge, self loops counted once."""
    return int(np.bitwise_count(graph.bits).sum(dtype=np.int64))


def _q(inside: int, squares: int, total: int) -> float:
    """Q from the links inside communities, the sum of their squared volumes, and w."""
    return inside / total - squares / total**2


def _bits(graph: AffinityGraph, total: int, restarts: int, seed: int) -> Partition:
    from datus.method.louvain_bits import best_partition

    if total > MAX_LINKS:
        raise ConfigError(
            f"segments.backend = bits counts at most {MAX_LINKS} links between the patches of an "
            f"image in 64-bit integers, got {total}: use a smaller features.image_px"
        )
    labels, inside, squares, tried = best_partition(graph.bits, restarts, seed % 2**63)
    return Partition(labels, _q(inside, squares, total), tried)


def _best_of_orders(graph: AffinityGraph, library: Library, restarts: int, seed: int) -> Partition:
    built = library.build(graph)
    seeds = np.random.default_rng(seed).integers(0, 2**31 - 1, restarts)
    orders = (None, *seeds[1:].tolist())
    tried = np.stack([in_order_of_first_node(library.run(built, order)) for order in orders])
    qualities = [modularity(graph, labels) for labels in tried]
    best = int(np.argmax(qualities))  # of equal ones the first
    return Partition(tried[best], qualities[best], tried)


def _sparse_matrix(graph: AffinityGraph) -> Any:
    from scipy import sparse

    return sparse.csr_matrix(unpack(graph), dtype=np.float64)


def _scikit_network(adjacency: Any, order_seed: int | None) -> Array:
    """What the authors ran. No seed: its defaults, nodes in raster order."""
    from sknetwork.clustering import Louvain

    louvain = Louvain(shuffle_nodes=order_seed is not None, random_state=order_seed)
    return np.asarray(louvain.fit_predict(adjacency))


def _weighted_edges(graph: AffinityGraph) -> tuple[Array, Array, Array]:
    """Both ends and the weight of each edge. Libraries count a loop twice in a degree: half."""
    rows, columns = np.nonzero(np.triu(unpack(graph)))
    return rows, columns, np.where(rows == columns, 0.5, 1.0)


def _networkx_graph(graph: AffinityGraph) -> Any:
    import networkx

    built: networkx.Graph[int] = networkx.Graph()
    built.add_nodes_from(range(graph.n_nodes))
    ends_and_weight = (part.tolist() for part in _weighted_edges(graph))
    built.add_weighted_edges_from(zip(*ends_and_weight, strict=True))
    return built


def _python_louvain(built: Any, order_seed: int | None) -> Array:
    """The reference on networkx, slow. It shuffles always; no seed means seed 0."""
    import community

    communities = community.best_partition(built, random_state=order_seed or 0)
    return np.array([communities[node] for node in range(len(communities))])


def _igraph_graph(graph: AffinityGraph) -> Any:
    try:
        import igraph
        import leidenalg  # noqa: F401  (better missed before the graph is built than after)
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"segments.backend = leiden needs the package {error.name}: "
            "pip install 'datus[leiden]', or take backend bits"
        ) from None
    rows, columns, weights = _weighted_edges(graph)
    built = igraph.Graph(n=graph.n_nodes, edges=np.stack([rows, columns], axis=1))
    built.es["weight"] = weights
    return built


def _leiden(built: Any, order_seed: int | None) -> Array:
    """Traag et al. 2019, until nothing improves. It shuffles always; no seed means seed 0."""
    import leidenalg

    communities = leidenalg.find_partition(
        built,
        leidenalg.RBConfigurationVertexPartition,
        weights="weight",
        n_iterations=-1,
        seed=order_seed or 0,
    )
    return np.array(communities.membership)


LIBRARIES: Mapping[str, Library] = {
    "scikit-network": Library(_sparse_matrix, _scikit_network),
    "python-louvain": Library(_networkx_graph, _python_louvain),
    "leiden": Library(_igraph_graph, _leiden),
}

BACKENDS = ("bits", *LIBRARIES)
"""What `partition` knows by name."""

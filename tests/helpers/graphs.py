"""Small graphs that several tests are about."""

import numpy as np

from datus.types import AffinityGraph, Array


def pack(adjacency: Array) -> AffinityGraph:
    """AffinityGraph from bool (N, N)."""
    n_nodes = len(adjacency)
    padded = np.zeros((n_nodes, (n_nodes + 63) // 64 * 64), bool)
    padded[:, :n_nodes] = adjacency
    packed = np.packbits(padded, axis=1, bitorder="little")
    return AffinityGraph(packed.view("<u8").astype(np.uint64))


def random_graph(seed: int, n_nodes: int, share: float | Array) -> Array:
    """bool (N, N): each pair linked with probability `share`; all self loops."""
    upper = np.triu(np.random.default_rng(seed).random((n_nodes, n_nodes)) < share, 1)
    return upper | upper.T | np.eye(n_nodes, dtype=bool)


def cliques(*sizes: int) -> Array:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return groups[:, None] == groups[None, :]

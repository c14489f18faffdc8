"""Keys -> packed affinity bits: which patches of an image agree (paper III-B, eq. 1).

In:  keys float32 (gh, gw, D), raw keys of the last attention block.
Out: AffinityGraph, uint64 (N, words): bit j of row i is set where k_i . k_j > 0. Only signs matter,
     so one bit a pair says it all: 98 KB at 784 patches. Self loops are part of the graph.

Where nearly all products are positive the keys share one large mean and the graph says nothing;
`center="image"` subtracts the mean key of the image first.
"""

from typing import Literal

import numpy as np

from datus.records import AffinityGraph, Array

DEGENERATE_DENSITY = 0.9
"""Above this share of linked pairs, communities were seen to be noise (modularity near 0.02)."""

BLOCK_NODES = 1024
"""Rows of the product held at a time; a multiple of 8, so that blocks end on whole bytes."""


def affinity_graph(
    keys: Array, center: Literal["none", "image"], threshold: float | None = None
) -> AffinityGraph:
    """Link patches whose keys have a positive inner product, or a cosine above `threshold`.

    keys: float (gh, gw, D). The product is computed in float32 and mirrored, so the graph is
    exactly symmetric.
    """
    keys_ND = keys.reshape(-1, keys.shape[2]).astype(np.float32)
    if center == "image":
        keys_ND = keys_ND - keys_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    if threshold is not None:
        lengths = np.linalg.norm(keys_ND.astype(np.float64), axis=1, keepdims=True)
        keys_ND = (keys_ND / np.maximum(lengths, 1e-30)).astype(np.float32)
    return AffinityGraph(bits=_linked(keys_ND, threshold or 0.0))


def density(graph: AffinityGraph) -> float:
    """Share of the N (N - 1) ordered pairs of different patches that are linked, 0..1."""
    n_nodes = graph.n_nodes
    if n_nodes < 2:
        return 0.0
    links = int(np.bitwise_count(graph.bits).sum(dtype=np.int64)) - n_self_loops(graph)
    return links / (n_nodes * (n_nodes - 1))


def n_self_loops(graph: AffinityGraph) -> int:
    """Nodes linked to themselves: all but those with an all-zero key."""
    node = np.arange(graph.n_nodes)
    words = graph.bits[node, node // 64]
    return int(((words >> (node % 64).astype(np.uint64)) & np.uint64(1)).sum())


def _linked(keys_ND: Array, threshold: float) -> Array:
    """uint64 (N, words) from float32 (N, D). Only blocks on and above the diagonal are computed."""
    n_nodes = len(keys_ND)
    packed = np.zeros((n_nodes, (n_nodes + 63) // 64 * 8), np.uint8)
    for top in range(0, n_nodes, BLOCK_NODES):
        rows = keys_ND[top : top + BLOCK_NODES]
        for left in range(top, n_nodes, BLOCK_NODES):
            linked = rows @ keys_ND[left : left + BLOCK_NODES].T > threshold
            if left == top:  # the two halves of a square block may differ in the last bit
                linked = np.triu(linked) | np.triu(linked, 1).T
            _store(packed, top, left, linked)
            if left > top:
                _store(packed, left, top, np.ascontiguousarray(linked.T))
    return packed.view("<u8").astype(np.uint64, copy=False)


def _store(packed: Array, top: int, left: int, linked: Array) -> None:
    bytes_of_block = np.packbits(linked, axis=1, bitorder="little")
    first = left // 8
    packed[top : top + len(linked), first : first + bytes_of_block.shape[1]] = bytes_of_block

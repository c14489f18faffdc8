"""Keys -> packed affinity bits: which patches of an image agree (paper III-B, eq. 1).

In:  keys float32 (gh, gw, D), raw keys of the last attention block.
Out: AffinityGraph, uint64 (N, words): bit j of row i is set where k_i . k_j > 0. Only signs matter,
     so one bit a pair says it all: 98 KB at 784 patches. Self loops are part of the graph.

Where nearly all products are positive the keys share one large mean and the graph says nothing;
`center="image"` subtracts the mean key of the image first. `threshold` links patches by the cosine
of their keys instead: only pairs that agree more than that.

The product is made in float32, in blocks that stay in cache, on and above the diagonal only; bits
below are mirrored, so the graph is exactly symmetric. `affinity_torch` does the same for a
batch on a GPU.
"""

from typing import Literal

import numpy as np

from datus.compute.float16 import as_float32
from datus.errors import ConfigError
from datus.types import AffinityGraph, Array

DEGENERATE_DENSITY = 0.9
"""Above this share of linked pairs, communities were seen to be noise (modularity near 0.02)."""

BLOCK_ROWS, BLOCK_COLUMNS = 64, 1024
"""A block of products is 256 KB and stays in a usual L2 cache. Multiples of 8: whole bytes."""


def affinity_graph(
    keys: Array, center: Literal["none", "image"] = "none", threshold: float | None = None
) -> AffinityGraph:
    """Link patches whose keys have a positive inner product, or a cosine above `threshold`.

    keys: float (gh, gw, D). threshold: None, or -1 < t < 1; a zero key has no links then either.
    Raises ConfigError if the threshold is out of range.
    """
    check_threshold(threshold)
    keys_ND: Array = as_float32(keys.reshape(-1, keys.shape[2]))
    if center == "image":
        keys_ND = keys_ND - keys_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    if threshold is not None:
        from datus.compute.compiled import unit_rows

        keys_ND = unit_rows(keys_ND)
    return AffinityGraph(bits=_bits_above(keys_ND, threshold or 0.0))


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


def check_threshold(threshold: float | None) -> None:
    """Raises ConfigError: not a cosine between -1 and 1."""
    if threshold is not None and not -1 < threshold < 1:
        raise ConfigError(
            f"graphs.threshold: expected a cosine between -1 and 1, got {threshold}; "
            "leave it out to link positive products"
        )


def _bits_above(keys_ND: Array, bound: float) -> Array:
    """uint64 (N, words): products above `bound`. Zero keys are linked to nothing."""
    from datus.compute.compiled import mirror

    n_nodes = len(keys_ND)
    packed = np.zeros((n_nodes, (n_nodes + 63) // 64 * 8), np.uint8)
    no_key = np.zeros(n_nodes, bool)
    if bound < 0:
        no_key[:] = ~keys_ND.any(axis=1)
    # one block of memory for all: a new one each would cost the system's time, above all in threads
    products = np.empty(BLOCK_ROWS * BLOCK_COLUMNS, np.float32)
    above = np.empty(BLOCK_ROWS * BLOCK_COLUMNS, bool)
    for top in range(0, n_nodes, BLOCK_ROWS):
        rows = keys_ND[top : top + BLOCK_ROWS]
        for left in range(top, n_nodes, BLOCK_COLUMNS):
            columns = keys_ND[left : left + BLOCK_COLUMNS]
            shape = len(rows), len(columns)
            product = products[: shape[0] * shape[1]].reshape(shape)
            linked: Array = above[: product.size].reshape(shape)
            np.greater(np.matmul(rows, columns.T, out=product), bound, out=linked)
            if bound < 0:
                linked[no_key[top : top + BLOCK_ROWS]] = False
                linked[:, no_key[left : left + BLOCK_COLUMNS]] = False
            some = np.packbits(linked, axis=1, bitorder="little")
            packed[top : top + len(rows), left // 8 : left // 8 + some.shape[1]] = some
    bits = as_words(packed)
    mirror(bits)
    return bits


def as_words(packed: Array) -> Array:
    """uint64 (N, words) from uint8 (N, 8 words), the lowest byte first on every machine."""
    return packed.view("<u8").astype(np.uint64, copy=False)

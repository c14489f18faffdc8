"""Machine code for graphs of packed bits: Louvain communities and their connected parts.

In:  uint64 (N, words) adjacency bits as in AffinityGraph, a resolution as an exact fraction.
Out: int32 (N,) communities of the best of several node orders; int32 (gh, gw) connected parts.

A community is a bit mask of N bits, like a row of the adjacency, so the links of a node to a
community are the set bits of (row & mask): at 784 patches 16 words, two AVX-512 registers. All
arithmetic is in 64-bit integers: results are exact, and the same on every machine and thread.

With k_i = links of node i, w = sum of k, resolution p / q, moving node i into community c changes
modularity (paper III-C, eq. 2) by 2 / (q w^2) times the difference of its gains after and before,

    gain(i, c) = q w links(i, c without i) - p k_i (volume of c without i).

One run goes through these phases (Blondel et al. 2008, with refinement as in Rotta & Noack 2011):

    1  single nodes, each once in the given order, join the best community or the best single node
    2  every node moves to the best community, or to an empty one, until none gains
    3  whole communities merge, each with the best other one; from 2 again until none gains

Every move raises modularity, so it ends. Memory: N^2 / 8 bytes of masks at worst, far less in
dense graphs, and no matrix. numba compiles the functions at their first call and keeps the result
in __pycache__, or in NUMBA_CACHE_DIR, or in the user's cache folder, whichever can be written; if
none can, every process compiles anew. The GIL is released. There is no global state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from datus.records import Array

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

WORDS_AT_ONCE = 8
"""Rows are padded to this many words, one AVX-512 register: no rest is left for slow code."""

WORDS_PER_NEIGHBOUR = 8
"""So many words of (row & mask) are counted in the time that one neighbour is looked up."""


def _compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile at the first call, without the GIL; keep the machine code where that is possible."""
    compiled: Callable[Parameters, Result]
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        compiled = njit(nogil=True)(function)
    return compiled


def _popcount_code(typing_context: Any, word: Any) -> Any:
    """LLVM's ctpop: one instruction where the machine has it, right everywhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


_popcount: Callable[[Any], Any] = intrinsic(_popcount_code)


class Graph(NamedTuple):
    """A graph and what every gain needs. Weights are int64."""

    rows: Array
    """uint64 (N, W): adjacency bits, W a multiple of WORDS_AT_ONCE."""
    degrees: Array
    """int64 (N,): set bits of each row; a self loop counts once."""
    link_weight: int
    """q w: what one link adds to a gain."""
    volume_weight: int
    """p: what k_i times one unit of volume takes from a gain."""


class Communities(NamedTuple):
    """A partition. The last slot is empty at first: nodes may move out into it."""

    labels: Array
    """int64 (N,): slot of each node, -1 for a single node in phase 1."""
    masks: Array
    """uint64 (slots, W): members as bits."""
    volumes: Array
    """int64 (slots,): sum of the members' degrees."""
    sizes: Array
    """int64 (slots,): number of members."""


@_compiled
def best_partition(bits: Array, p: int, q: int, restarts: int, seed: int) -> tuple[Array, int]:
    """Communities of the best of `restarts` runs; of equal runs the first.

    bits: uint64 (N, words). p / q: the resolution; 2 max(p, q) w^2 must be below 2^63.
    seed: uint64. The first run takes the nodes in raster order, run r > 0 in an order drawn from
    (seed, r). Returns int32 (N,) labels 0.. in order of first node, and how many runs gave the
    best score.
    """
    graph = _graph(bits, p, q)
    n_nodes = len(bits)
    best_labels = np.zeros(n_nodes, np.int32)
    best_score = np.int64(0)
    for run in range(restarts):
        order = np.arange(n_nodes)
        if run > 0:
            _shuffle(order, np.uint64(seed), np.uint64(run))
        communities = _run(graph, order)
        score = _score(graph, communities)
        if run == 0 or score > best_score:
            best_score = score
            best_labels[:] = communities.labels
    return best_labels

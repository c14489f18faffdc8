"""What numba compiles: the way it does, and short work on bits and grids.

Functions are compiled at their first call, some seconds for all. The machine code is kept in
__pycache__, or where that cannot be written in the user's cache folder; NUMBA_CACHE_DIR names
another one. If no folder can be written, every process compiles anew. All release the GIL.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from datus.types import Array

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile at the first call, without the GIL; keep the machine code where that is possible."""
    ready: Callable[Parameters, Result]
    try:
        ready = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        ready = njit(nogil=True)(function)
    return ready


def inlined(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile into every caller: a call costs more than the work."""
    ready: Callable[Parameters, Result] = njit(nogil=True, forceinline=True)(function)
    return ready


def _popcount_code(typing_context: Any, word: Any) -> Any:
    """LLVM's ctpop: one instruction where the machine has it, right everywhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


popcount: Callable[[Any], Any] = intrinsic(_popcount_code)


@compiled
def value_counts(values: Array) -> Array:
    """int64 (256,): how often each value is in uint8 (H, W)."""
    counts = np.zeros(256, np.int64)
    for row in range(values.shape[0]):
        value, n_equal = 0, 0  # masks are runs of one label: a run is added once
        for column in range(values.shape[1]):
            if values[row, column] != value:
                counts[value] += n_equal
                value, n_equal = values[row, column], 0
            n_equal += 1
        counts[value] += n_equal
    return counts


@compiled
def pair_counts(first: Array, second: Array) -> Array:
    """int64 (256, 256): how often two values stand at one place; uint8 (H, W) each."""
    counts = np.zeros((256, 256), np.int64)
    for row in range(first.shape[0]):
        a, b, n_equal = 0, 0, 0
        for column in range(first.shape[1]):
            if first[row, column] != a or second[row, column] != b:
                counts[a, b] += n_equal
                a, b, n_equal = first[row, column], second[row, column], 0
            n_equal += 1
        counts[a, b] += n_equal
    return counts


@compiled
def triple_counts(first: Array, second: Array, third: Array, sizes: tuple[int, int, int]) -> Array:
    """int64 of `sizes`: how often three values stand at one place; uint8 (H, W) each.

    Places where a value is not below its size are left out.
    """
    counts = np.zeros(sizes, np.int64)
    for row in range(first.shape[0]):
        a, b, c, n_equal = 0, 0, 0, 0
        for column in range(first.shape[1]):
            x, y, z = first[row, column], second[row, column], third[row, column]
            if x != a or y != b or z != c:
                if a < sizes[0] and b < sizes[1] and c < sizes[2]:
                    counts[a, b, c] += n_equal
                a, b, c, n_equal = x, y, z, 0
            n_equal += 1
        if a < sizes[0] and b < sizes[1] and c < sizes[2]:
            counts[a, b, c] += n_equal
    return counts


@compiled
def looked_up(values: Array, table: Array) -> Array:
    """uint8 (H, W): `table`, uint8 (256,), at each of uint8 (H, W)."""
    found = np.empty(values.shape, np.uint8)
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            found[row, column] = table[values[row, column]]
    return found


@compiled
def unit_rows(rows: Array) -> Array:
    """float32 (N, D): each row of length 1; lengths are float64, rows of zeros stay."""
    found = np.empty(rows.shape, np.float32)
    for row in range(len(rows)):
        squares = 0.0
        for i in range(rows.shape[1]):
            squares += np.float64(rows[row, i]) * np.float64(rows[row, i])
        length = np.float32(np.sqrt(squares)) if squares > 0 else np.float32(1)
        for i in range(rows.shape[1]):
            found[row, i] = rows[row, i] / length
    return found


@compiled
def mirror(bits: Array) -> None:
    """Copy the upper triangle of uint64 (N, words) onto the lower one, in place."""
    n_nodes = len(bits)
    one, block = np.uint64(1), np.zeros(64, np.uint64)
    for row in range(bits.shape[1]):
        for column in range(row, bits.shape[1]):
            for i in range(64):
                node = 64 * row + i
                block[i] = bits[node, column] if node < n_nodes else np.uint64(0)
            _transpose(block)
            for i in range(min(64, n_nodes - 64 * column)):
                node = 64 * column + i
                if column > row:
                    bits[node, row] = block[i]
                else:
                    below = (one << np.uint64(i)) - one
                    bits[node, row] = (bits[node, row] & ~below) | (block[i] & below)


@inlined
def _transpose(block: Array) -> None:
    """64 x 64 bits in place: quarters of ever smaller squares change places (Warren 2012, 7-3)."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    while half > np.uint64(0):
        step = np.int64(half)
        for first in range(0, 64, 2 * step):
            for row in range(first, first + step):
                swap = ((block[row] >> half) ^ block[row + step]) & low
                block[row + step] ^= swap
                block[row] ^= swap << half
        half >>= np.uint64(1)
        low ^= low << half

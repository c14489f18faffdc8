"""Keys of patches for tests of graphs."""

import numpy as np

from datus.types import Array


def integer_keys(seed: int, grid: tuple[int, int], size: int) -> Array:
    """Small integers: every product is exact, so no pair is a matter of rounding."""
    return np.random.default_rng(seed).integers(-3, 4, (*grid, size)).astype(np.float32)


def normal_keys(seed: int, grid: tuple[int, int], size: int) -> Array:
    return np.random.default_rng(seed).normal(size=(*grid, size)).astype(np.float32)

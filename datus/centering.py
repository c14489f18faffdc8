"""Take out of the keys what only says where a patch lies (docs/method.md, "Mean keys").

In:  keys float (gh, gw, D) of every image, one at a time.
Out: the mean key of each place, float32 (GRID, GRID, D), and keys without it.

Keys carry position. With a weak backbone position explains most of their variance, and the graph
splits images into top and bottom. Grids of different shapes meet on one GRID x GRID frame: places
are relative, as position embeddings are when a ViT interpolates them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from datus.compiled import compiled
from datus.halves import as_float32
from datus.records import Array

GRID = 28
"""Places along a side of the common frame: the grid of a ViT /8 at 224 pixels."""

POSITION_BOUND = 0.5
"""Share of the keys' variance above which `center = "auto"` removes the mean of each place. The
embedded backbone stands at 0.7: what the content says is in the rest."""

MIN_IMAGES = 8
"""Fewer say too little about a place: what is common to two images is mostly the two images."""


@dataclass(frozen=True, slots=True)
class KeySums:
    """Sums over images on the common frame; those of two sets of images add up."""

    keys: Array
    """float64 (GRID, GRID, D)."""
    squares: float
    """Of all key entries, summed over places and sizes."""
    n_images: int


def key_sums(keys: Array) -> KeySums:
    """Of one image: keys float (gh, gw, D) resampled to the common frame."""
    framed = resample(as_float32(keys), (GRID, GRID))
    return KeySums(framed, float(np.square(framed).sum()), 1)


def add(parts: Iterable[KeySums]) -> KeySums:
    """In the order given: the same parts give the same bytes. One part is held at a time.

    Raises ValueError if there is none.
    """
    keys: Array | None = None
    squares, n_images = [], 0
    for part in parts:
        keys = np.zeros_like(part.keys) if keys is None else keys
        keys += part.keys
        squares.append(part.squares)
        n_images += part.n_images
    if keys is None:
        raise ValueError("nothing to add: expected at least one KeySums")
    return KeySums(keys, sum(squares), n_images)


def position_mean(sums: KeySums) -> Array:
    """float32 (GRID, GRID, D): the mean key of each place."""
    mean: Array = (sums.keys / sums.n_images).astype(np.float32)
    return mean


def dataset_mean(sums: KeySums) -> Array:
    """float32 (1, 1, D): the mean key of all places."""
    mean = position_mean(sums).mean(axis=(0, 1), keepdims=True, dtype=np.float64)
    return np.asarray(mean, np.float32)


def position_share(sums: KeySums) -> float:
    """Share of the keys' variance that the place explains, 0..1.

    Between-place over total variance; the noise that the mean of n images has anyway is taken off
    (the analysis of variance's omega-squared). 0 for one image, of which nothing can be told.
    """
    if sums.n_images < 2:
        return 0.0
    mean = sums.keys / sums.n_images
    n_places = mean.shape[0] * mean.shape[1]
    total = sums.squares / (sums.n_images * n_places) - np.square(mean.mean(axis=(0, 1))).sum()
    between = np.square(mean - mean.mean(axis=(0, 1))).sum() / n_places
    if total <= 0:
        return 0.0
    noise = (total - between) / (sums.n_images - 1)
    return float(np.clip((between - noise) / total, 0.0, 1.0))


def best_center(sums: KeySums) -> str:
    """What `center = "auto"` takes: "position" where keys are bound to it, else "image"."""
    bound = sums.n_images >= MIN_IMAGES and position_share(sums) > POSITION_BOUND
    return "position" if bound else "image"


def without(keys: Array, mean: Array) -> Array:
    """float32 (gh, gw, D): keys minus the mean of each place, brought to their grid.

    mean: float32 (GRID, GRID, D) or (1, 1, D), or what `resample` made of it for this grid.
    """
    here = resample(mean, (keys.shape[0], keys.shape[1]))
    return _difference(as_float32(keys), here)


def resample(grid: Array, shape: tuple[int, int]) -> Array:
    """float64 (h, w, D): linear interpolation, averaging where the grid shrinks."""
    if grid.shape[:2] == shape:
        return grid.astype(np.float64, copy=False)
    rows, columns = _weights(shape[0], grid.shape[0]), _weights(shape[1], grid.shape[1])
    wide = np.ascontiguousarray(grid).reshape(1, grid.shape[0], -1)
    tall = _blended(wide, rows).reshape(shape[0], *grid.shape[1:])
    return _blended(tall, columns)


@compiled
def _blended(grids: Array, weights: Array) -> Array:
    """float64 (n, h, m) from float (n, g, m) and weights (h, g), most of which are 0."""
    blended = np.zeros((len(grids), len(weights), grids.shape[2]))
    for one in range(len(grids)):
        for place in range(len(weights)):
            for source in range(weights.shape[1]):
                weight = weights[place, source]
                if weight != 0:
                    for i in range(grids.shape[2]):
                        blended[one, place, i] += weight * grids[one, source, i]
    return blended


@compiled
def _difference(keys: Array, here: Array) -> Array:
    """float32 (h, w, D) of float32 - float64, rounded once."""
    found = np.empty(keys.shape, np.float32)
    for row in range(keys.shape[0]):
        for column in range(keys.shape[1]):
            for i in range(keys.shape[2]):
                found[row, column, i] = np.float32(keys[row, column, i] - here[row, column, i])
    return found


def _weights(n_out: int, n_in: int) -> Array:
    """float64 (n_out, n_in): a triangle around each output's centre, rows sum to 1."""
    centres = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    reach = max(1.0, n_in / n_out)
    distance = np.abs(np.clip(centres, 0, n_in - 1)[:, None] - np.arange(n_in)[None, :])
    weights: Array = np.maximum(0.0, 1.0 - distance / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights

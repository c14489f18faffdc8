"""Mean keys, and how much the keys of a dataset agree (docs/method.md, "Mean keys").

In:  keys float (gh, gw, D) of every image, one at a time.
Out: the mean key of each place, float32 (GRID, GRID, D), keys without it, and the cosine above
     which a given share of all pairs of patches lies.

Keys carry position. With a weak backbone position explains most of their variance, and the graph
splits images into top and bottom. Grids of different shapes meet on one GRID x GRID frame: places
are relative, as position embeddings are when a ViT interpolates them.

Keys of one model agree more than those of another, so a fixed cosine links nearly all patches of
one and none of the other. A share of the pairs means the same for both. `cosine_threshold` takes
it over the dataset, not over each image: an image of one colour has more links than a crowded one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np

from datus.compute.compiled import compiled
from datus.compute.float16 import as_float32
from datus.compute.threads import map_threads
from datus.types import Array

GRID = 28
"""Places along a side of the common frame: the grid of a ViT /8 at 224 pixels."""

POSITION_BOUND = 0.62
"""Share of the keys' variance above which `center = "auto"` removes the mean of each place. Keys
that hold the position stand at 0.67 and more, on any images; those that do not reach 0.58 where a
scene has a fixed layout (a camera in a car), and there it is content (docs/decisions.md 75)."""

GROUPS, GROUPED_KEYS = 32, 8192
"""Groups of keys whose means count once each for `center = "auto"`, and keys that they are found
from. With 8 groups scores are the same (docs/decisions.md 71)."""

MIN_IMAGES = 8
"""Fewer say too little about a place: what is common to two images is mostly the two images."""


SAMPLE_KEYS, SAMPLE_IMAGES = 64, 512
"""Keys of an image, and images of a dataset, that the threshold is taken from: a million pairs.
More images change the share of linked pairs by less than the images themselves differ. A shard
keeps as many, so that those of the dataset do not depend on how it is cut into shards."""

MAX_THRESHOLD = 0.999
"""Keys that are all alike would else be linked to nothing: a cosine is above no threshold of 1. Nor
is any below -1, where pairs of zero keys stand."""


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


@dataclass(frozen=True, slots=True)
class KeySample:
    """Some keys of some images; those of two sets of images are joined by `join`."""

    keys: Array
    """float (n, SAMPLE_KEYS, D), drawn without replacement; zeros where an image has fewer."""
    place: Array
    """int32 (n, SAMPLE_KEYS): row * gw + column of each key; -1 where an image has fewer."""
    grid: Array
    """int32 (n, 2): gh, gw."""
    mean: Array
    """float32 (n, D): the mean of all keys of each image."""
    draw: Array
    """float64 (n,), 0 to 1: the images with the lowest draws are kept."""


def key_sample(keys: Array, image_id: str) -> KeySample:
    """Of one image: keys float (gh, gw, D). What is drawn depends on the id of the image alone."""
    rows, columns, size = keys.shape
    flat = keys.reshape(-1, size)
    rng = np.random.default_rng(crc32(image_id.encode()))
    draw = rng.random()
    drawn = np.sort(rng.permutation(len(flat))[:SAMPLE_KEYS])
    taken = np.zeros((1, SAMPLE_KEYS, size), keys.dtype)
    taken[0, : len(drawn)] = flat[drawn]
    place = np.full((1, SAMPLE_KEYS), -1, np.int32)
    place[0, : len(drawn)] = drawn
    mean = as_float32(flat).mean(axis=0, dtype=np.float64).astype(np.float32)
    grid = np.array([[rows, columns]], np.int32)
    return KeySample(taken, place, grid, mean[None], np.array([draw]))


def join(parts: Iterable[KeySample], n_images: int = SAMPLE_IMAGES) -> KeySample:
    """The `n_images` with the lowest draws, in the order of their draws: how the images were
    divided into parts does not matter.

    Raises ValueError if there is no part.
    """
    held = list(parts)
    if not held:
        raise ValueError("nothing to join: expected at least one KeySample")
    order = np.argsort(np.concatenate([part.draw for part in held]), kind="stable")[:n_images]
    return KeySample(
        *(
            np.concatenate([getattr(part, name) for part in held])[order]
            for name in KeySample.__slots__
        )
    )


def cosine_threshold(sample: KeySample, center: str, mean: Array, density: float) -> float:
    """The cosine that the share `density` of all pairs of patches within an image exceeds.

    center: none, image, dataset or position; mean: float32 (GRID, GRID, D) or (1, 1, D), what
    "position" and "dataset" subtract. Rounded to four digits, between -MAX_THRESHOLD and
    MAX_THRESHOLD. Pairs with a key that is zero are never linked, and count. 0 if no image has two
    patches.
    """

    centred = _centred(sample, center, mean)

    def cosines(number: int) -> Array:
        keys = centred(number)
        lengths = np.linalg.norm(keys.astype(np.float64), axis=1, keepdims=True)
        unit = (keys / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
        products = unit @ unit.T
        products[lengths[:, 0] == 0] = products[:, lengths[:, 0] == 0] = -1.0
        return np.asarray(products[np.triu_indices(len(unit), 1)])

    # map_threads, though for one item after the other: inside it products run on one thread, so
    # their last bits do not depend on the number of cores
    of_images = map_threads(cosines, range(len(sample.draw)), 1)
    pairs = np.concatenate([np.zeros(0, np.float32), *of_images])
    if not len(pairs):
        return 0.0
    n_linked = min(max(int(density * len(pairs)), 1), len(pairs))
    bound = float(np.partition(pairs, len(pairs) - n_linked)[len(pairs) - n_linked])
    return min(max(round(bound, 4), -MAX_THRESHOLD), MAX_THRESHOLD)


def spread_keys(sample: KeySample, center: str, mean: Array, n_keys: int) -> Array:
    """float32 (n, D): about `n_keys` of a sample, centred; as many of each image."""
    centred = _centred(sample, center, mean)
    n_each = max(1, n_keys // max(1, len(sample.draw)))
    of_images = map(centred, range(len(sample.draw)))
    return np.concatenate([keys[:: max(1, len(keys) // n_each)] for keys in of_images])


def _centred(sample: KeySample, center: str, mean: Array) -> Callable[[int], Array]:
    """number of an image -> float32 (m, D): its keys in the sample, less what `center` says."""

    @cache
    def mean_on(grid: tuple[int, int]) -> Array:
        return resample(mean, grid).reshape(-1, mean.shape[2])

    def centred(number: int) -> Array:
        drawn = sample.place[number] >= 0
        keys = as_float32(sample.keys[number][drawn])
        if center == "image":
            keys = keys - sample.mean[number]
        elif center != "none":
            on_grid = mean_on((int(sample.grid[number, 0]), int(sample.grid[number, 1])))
            keys = (keys - on_grid[sample.place[number][drawn]]).astype(np.float32)
        return keys

    return centred


def position_mean(sums: KeySums) -> Array:
    """float32 (GRID, GRID, D): the mean key of each place."""
    return np.asarray(sums.keys / sums.n_images, np.float32)


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
    """What `center = "auto"` starts from: "position" where keys are bound to it, else "dataset"."""
    bound = sums.n_images >= MIN_IMAGES and position_share(sums) > POSITION_BOUND
    return "position" if bound else "dataset"


def without(keys: Array, mean: Array) -> Array:
    """float32 (gh, gw, D): keys minus the mean of each place, brought to their grid.

    mean: float32 (GRID, GRID, D) or (1, 1, D), or what `resample` made of it for this grid.
    """
    return _difference(as_float32(keys), resample(mean, (keys.shape[0], keys.shape[1])))


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
    for number in range(len(grids)):
        for place in range(len(weights)):
            for source in range(weights.shape[1]):
                weight = weights[place, source]
                if weight != 0:
                    for i in range(grids.shape[2]):
                        blended[number, place, i] += weight * grids[number, source, i]
    return blended


@compiled
def _difference(keys: Array, mean: Array) -> Array:
    """float32 (h, w, D) of float32 - float64, rounded once."""
    difference = np.empty(keys.shape, np.float32)
    for row in range(keys.shape[0]):
        for column in range(keys.shape[1]):
            for i in range(keys.shape[2]):
                exact = keys[row, column, i] - mean[row, column, i]
                difference[row, column, i] = np.float32(exact)
    return difference


def _weights(n_out: int, n_in: int) -> Array:
    """float64 (n_out, n_in): a triangle around each output's centre, rows sum to 1."""
    centres = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    reach = max(1.0, n_in / n_out)
    distance = np.abs(np.clip(centres, 0, n_in - 1)[:, None] - np.arange(n_in)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / reach)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))

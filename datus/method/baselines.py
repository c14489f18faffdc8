"""What colour alone gives: masks of k-means on the colours of pixels, with and without their place.

    in    uint8 (h, w, 3) RGB images, how many clusters
    out   uint8 (h, w) cluster numbers of each

A run should be read beside these: where colour gives the same masks, the backbone adds nothing.
Colours are R, G, B, each 0..1; the position adds y / h and x / w, so that all five weigh the same.
"""

from collections.abc import Sequence

import numpy as np

from datus.config import ClustersConfig
from datus.errors import ClusterError
from datus.method.clusters import fit_clusters
from datus.types import Array, ClusterModel

SAMPLE = 20_000
"""Pixels that k-means sees at most, as many of each image."""

RESTARTS = 3


def pixel_features(image: Array, position: bool, rows: Array) -> Array:
    """float32 (n, 3 or 5) of the pixels `rows`, numbered row by row: R, G, B (, y / h, x / w)."""
    height, width = image.shape[:2]
    colours = image.reshape(-1, 3)[rows].astype(np.float32) / 255
    if not position:
        return colours
    places = np.stack([rows // width / height, rows % width / width], axis=1)
    return np.concatenate([colours, places.astype(np.float32)], axis=1)


def nearest(points: Array, centroids: Array) -> Array:
    """uint8 (n,): nearest centroid of float32 (n, P); |x|² is the same for all of them."""
    distances = (centroids**2).sum(axis=1) - 2 * (points @ centroids.T)
    return np.asarray(distances.argmin(axis=1), np.uint8)


def colour_masks(images: Sequence[Array], k: int, position: bool, seed: int) -> list[Array]:
    """uint8 (h, w) of each image, 0..K-1; K is less than `k` where there are fewer colours.

    All images share the clusters. The same images, k and seed give the same masks.
    """
    n_each = max(1, SAMPLE // max(1, len(images)))
    sample = np.concatenate([_features(image, position, n_each) for image in images])
    centroids = _fit(sample, min(k, len(np.unique(sample, axis=0))), seed).centroids
    return [
        nearest(_features(image, position), centroids).reshape(image.shape[:2]) for image in images
    ]


def _features(image: Array, position: bool, n_pixels: int = 0) -> Array:
    """`pixel_features` of about `n_pixels` pixels, evenly spread; of all for 0."""
    size = image.shape[0] * image.shape[1]
    step = max(1, size // n_pixels) if n_pixels else 1
    return pixel_features(image, position, np.arange(0, size, step))


def _fit(sample: Array, k: int, seed: int) -> ClusterModel:
    """With fewer clusters where k-means finds no `k` groups: images may have few colours."""
    settings = ClustersConfig(pca=0, spherical=False, restarts=RESTARTS)
    try:
        return fit_clusters(sample, k, settings, seed, n_threads=1)
    except ClusterError:
        if k == 1:
            raise
        return _fit(sample, k // 2, seed)


def renumbered(masks: Sequence[Array], like: Sequence[Array], k: int) -> list[Array]:
    """The masks with cluster numbers that overlap most with those of `like` (Hungarian), so that
    both can be shown in the same colours.

    masks, like: uint8 (H, W) each; values from `k` on are no labels and stay.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((256, 256), np.int64)
    for mask, like_mask in zip(masks, like, strict=True):
        np.add.at(counts, (mask.ravel(), like_mask.ravel()), 1)
    numbers = np.arange(256, dtype=np.uint8)
    numbers[:k] = linear_sum_assignment(counts[:k, :k], maximize=True)[1]
    return [np.asarray(numbers[mask]) for mask in masks]

"""Figures of partitions, and draws to compare them with. Helpers of module `trust`.

    silhouette, centroid_silhouette      how far apart the clusters lie
    adjusted_rand, agreement             how far two partitions are the same
    between                              share of a variance that lies between groups
    beyond_place, kurtosis               what the place does not explain; is that a Gaussian cloud
    directions, cloud, rows_of_images    the view of spherical k-means; chance; a resample

In: vectors (n, P), partitions int (n,) with numbers from 0. Out: numbers, float64.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from datus.types import Array

TINY = 1e-12
"""A variance or a length below it is rounding."""


def nearest(centroids: Array, places: Array) -> Array:
    """int64 (n,): the nearest of (K, P) to each of (n, P)."""
    wide = centroids.astype(np.float64)
    return np.asarray(((wide**2).sum(axis=1) - 2 * places.astype(np.float64) @ wide.T).argmin(1))


def silhouette(view: Array, labels: Array) -> float:
    """Mean silhouette of float64 (n, P), -1 to 1, from all pairs; 0 for a single cluster. A segment
    alone in its cluster counts 0, as in Rousseeuw's paper."""
    found, number = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        return 0.0
    member_NK = np.eye(len(found))[number]
    counts, rows = member_NK.sum(axis=0), np.arange(len(view))
    sums_NK = _distances(view, view) @ member_NK
    own = sums_NK[rows, number] / np.maximum(counts[number] - 1, 1)
    means_NK = sums_NK / counts
    means_NK[rows, number] = np.inf
    share = _silhouettes(own, means_NK.min(axis=1))
    return float(np.where(counts[number] > 1, share, 0.0).mean())


def centroid_silhouette(view: Array, labels: Array) -> tuple[float, float]:
    """(silhouette from distances to the means of clusters, share of the variance inside them)."""
    found, number = np.unique(labels, return_inverse=True)
    member_NK, rows = np.eye(len(found))[number], np.arange(len(view))
    means = (member_NK.T @ view) / member_NK.sum(axis=0)[:, None]
    distances_NK = _distances(view, means)
    own = distances_NK[rows, number].copy()
    total = float(((view - view.mean(axis=0)) ** 2).sum())
    left = float((own**2).sum()) / total if total > TINY else 0.0
    if len(found) < 2:
        return 0.0, left
    distances_NK[rows, number] = np.inf
    return float(_silhouettes(own, distances_NK.min(axis=1)).mean()), left


def between(values: Array, group: Array) -> float:
    """Share of the variance of float64 (n, P) between the groups of int (n,), less what groups
    drawn by lot would explain (so it can be a little below 0); 0 where there is no variance."""
    _, number = np.unique(group, return_inverse=True)
    n_groups = int(number.max()) + 1
    centred = values - values.mean(axis=0)
    whole = float((centred**2).sum())
    if n_groups == len(values) or whole < TINY:
        return 0.0
    sums = np.zeros((n_groups, values.shape[1]))
    np.add.at(sums, number, centred)
    found = float((sums**2 / np.bincount(number)[:, None]).sum())
    by_lot = (n_groups - 1) * (whole - found) / (len(values) - n_groups)
    return (found - by_lot) / whole


def adjusted_rand(one: Array, other: Array) -> float:
    """Adjusted Rand index of two int (n,) partitions, at most 1; 1 if both are the same."""
    table = _contingency(one, other)
    both = _pairs(table)
    rows, columns = _pairs(table.sum(axis=1)), _pairs(table.sum(axis=0))
    by_lot = rows * columns / max(_pairs(table.sum()), 1.0)
    most = (rows + columns) / 2
    return 1.0 if most == by_lot else (both - by_lot) / (most - by_lot)


def agreement(one: Array, other: Array) -> float:
    """Share of int (n,) in the same cluster, clusters matched one to one as well as can be."""
    table = _contingency(one, other)
    matched = linear_sum_assignment(table, maximize=True)
    return float(table[matched].sum()) / len(one)


def beyond_place(places: Array, layout: Array, image: Array) -> tuple[Array, float]:
    """(`places` float64 (n, P) less what place explains, share of the variance that it explains).

    A segment's place, `layout` float64 (n, L), predicts the mean of those segments of other images
    that lie most like it, and a quadratic on top of that.
    """
    z = (layout - layout.mean(axis=0)) / np.maximum(layout.std(axis=0), TINY)
    centred = places - places.mean(axis=0)
    whole = float((centred**2).sum())
    if whole < TINY:
        return centred, 0.0
    rest = _less_quadratic(_less_neighbours(centred, z, image), z)
    return rest, 1 - float((rest**2).sum()) / whole


NEIGHBOURS, SEARCHED = 10, 60
"""Segments of other images, among so many."""


def _less_neighbours(values: Array, z: Array, image: Array) -> Array:
    """Each row less the mean of its neighbours; as it is where there are none in other images."""
    n_near = min(SEARCHED, len(values))
    near = np.asarray(cKDTree(z).query(z, k=range(1, n_near + 1))[1])
    other = image[near] != image[:, None]
    other &= other.cumsum(axis=1) <= NEIGHBOURS
    counts = other.sum(axis=1, keepdims=True)
    means = np.zeros_like(values)
    for column in range(n_near):
        means += values[near[:, column]] * other[:, [column]]
    means /= np.maximum(counts, 1)
    # a mean of m neighbours adds 1 / m of their variance to the difference
    shrink = np.sqrt(np.where(counts > 0, counts / (counts + 1.0), 1.0))
    return np.asarray((values - means) * shrink)


def _less_quadratic(values: Array, z: Array) -> Array:
    """Least squares; the rest is scaled up for the terms that were fitted."""
    n, size = z.shape
    products = [z[:, [i]] * z[:, [j]] for i in range(size) for j in range(i, size)]
    terms = np.concatenate([np.ones((n, 1)), z, *products], axis=1)
    weights, _, rank, _ = np.linalg.lstsq(terms, values, rcond=None)
    if n <= rank + 1:
        return values
    return np.asarray((values - terms @ weights) * np.sqrt((n - 1) / (n - int(rank))))


def kurtosis(values: Array, n_axes: int = 8) -> float:
    """Mean excess kurtosis of float64 (n, P) along its first principal axes: 0 for a Gaussian."""
    centred = values - values.mean(axis=0)
    sides, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    used = lengths[:n_axes] > TINY
    if not used.any():
        return 0.0
    standard = sides[:, :n_axes][:, used] * np.sqrt(len(values))
    return float((standard**4).mean() - 3)


def rows_of_images(image: Array, rng: np.random.Generator) -> Array:
    """Rows of as many images as there are, drawn with replacement."""
    order = np.argsort(image, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(image))[:-1])
    return np.concatenate([members[one] for one in rng.integers(len(members), size=len(members))])


def covariance_root(places: Array) -> Array:
    """float64 (P, P), R: standard normal rows times R have the covariance of `places`."""
    covariance = np.atleast_2d(np.cov(places.astype(np.float64), rowvar=False, bias=True))
    values, axes = np.linalg.eigh(covariance)
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * axes.T)


def cloud(places: Array, root: Array, rng: np.random.Generator) -> Array:
    """float32 (n, P): a Gaussian with the mean of `places`, and the covariance behind `root`."""
    mean = places.mean(axis=0, dtype=np.float64)
    return np.asarray(rng.standard_normal(places.shape) @ root + mean, np.float32)


def directions(places: Array, spherical: bool) -> Array:
    """float64 (n, P): of length 1 where only directions count."""
    wide = places.astype(np.float64)
    if not spherical:
        return wide
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), TINY))


def _contingency(one: Array, other: Array) -> Array:
    n_rows, n_columns = int(one.max()) + 1, int(other.max()) + 1
    counts = np.bincount(one * n_columns + other, minlength=n_rows * n_columns)
    return np.asarray(counts.reshape(n_rows, n_columns))


def _pairs(counts: Array) -> float:
    wide = np.asarray(counts, np.float64)
    return float((wide * (wide - 1)).sum()) / 2


def _distances(one: Array, other: Array) -> Array:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _silhouettes(own: Array, other: Array) -> Array:
    return np.asarray((other - own) / np.maximum(np.maximum(own, other), TINY))

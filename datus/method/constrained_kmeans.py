"""Labels of a person -> labelled segments, and clusters beside them.

    label_segments(segment, labels, n_segments, n_classes, share)   which segments a person labelled
    fit_free(places, labelled, n_free, settings, seed)              centroids of everything else

Seeded k-means after Basu, Banerjee and Mooney, "Semi-supervised Clustering by Seeding" (2002), with
one change. There a class is one centroid, which starts at the mean of its seeds and then moves with
all that joins it. Here each labelled segment is a centroid that never moves, and only the centroids
of what nobody labelled are learnt; a segment goes to the nearest of them all. One mean cannot hold
a class as mixed as "building", and one that moves leaves its seeds: docs/corrections.md has the
figures.
"""

from functools import partial

import numpy as np

from datus.compute.threads import map_threads
from datus.config import ClustersConfig
from datus.errors import ClusterError
from datus.method.clusters import ITERATIONS
from datus.types import IGNORE, Array

_CELLS = 2**23
"""Of a table of distances at a time: 32 MB."""


def label_segments(
    segment: Array, labels: Array, n_segments: int, n_classes: int, share: float
) -> tuple[Array, Array]:
    """(int16 (S,): the class that covers more than `share` of each segment, or -1;
    int64 (S, C): pixels of each segment by class).

    segment: int (H, W), the segment under each pixel; labels: uint8 (H, W), class or IGNORE.
    share: 0.5 or more, so that no two classes can cover as much.
    """
    size = np.bincount(segment.ravel(), minlength=n_segments)
    labelled = labels != IGNORE
    cells = segment[labelled].astype(np.int64) * n_classes + labels[labelled]
    counts = np.bincount(cells, minlength=n_segments * n_classes).reshape(n_segments, n_classes)
    main = counts.argmax(axis=1)
    covered = counts[np.arange(n_segments), main] > share * size
    return np.where(covered, main, -1).astype(np.int16), counts.astype(np.int64)


def class_centroids(places: Array, weights: Array, spherical: bool) -> Array:
    """float32 (C, P): weighted mean place of each class; the mean of all where it has no weight.

    places: float32 (n, P); weights: float64 (n, C). With `spherical` of length 1.
    """
    sums = np.einsum("np,nc->cp", places.astype(np.float64), weights, optimize=False)
    total = weights.sum(axis=0)
    means = np.where(total[:, None] > 0, sums / np.maximum(total, 1e-12)[:, None], places.mean(0))
    return on_sphere(means) if spherical else means.astype(np.float32)


def on_sphere(places: Array) -> Array:
    """float32 (n, P) of length 1; a zero stays."""
    lengths = np.linalg.norm(places.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(places / np.maximum(lengths, 1e-30), np.float32)


def fit_free(
    places: Array,
    labelled: Array,
    n_free: int,
    settings: ClustersConfig,
    seed: int,
    *,
    n_threads: int = 1,
) -> tuple[Array, float, int]:
    """(float32 (n_free, P) centroids, inertia of `places`, seed of the best restart).

    places: float32 (n, P), segments that nobody labelled; labelled: float32 (L, P), fixed. The
    first centroids are chosen by k-means++ among what lies far from `labelled`. Same input and
    seed, same bytes, whatever `n_threads` is. Raises ClusterError: nothing is left for so many.
    """
    (near,) = map_threads(partial(_best, places), [labelled], 1)
    squares = np.einsum("np,np->n", places, places, dtype=np.float64)
    if not n_free:
        return np.zeros((0, places.shape[1]), np.float32), _inertia(squares, near[0]), seed
    train = partial(_train, places, squares, near[0], n_free, settings)
    starts = np.random.SeedSequence(seed).generate_state(settings.restarts).tolist()
    runs = [run for run in map_threads(train, starts, n_threads) if run is not None]
    if not runs:
        raise ClusterError(
            f"the corrections leave {len(places)} segments without a label, too few or too alike "
            f"for {n_free} clusters beside the corrected classes: use fewer --clusters"
        )
    inertia, start, centroids = min(runs, key=lambda run: run[0])
    return centroids, inertia, start


def _train(
    places: Array, squares: Array, near: Array, n_free: int, settings: ClustersConfig, seed: int
) -> tuple[float, int, Array] | None:
    """Inertia, seed and centroids of one start; None if a cluster stays empty."""
    centroids = _first(places, squares, near, n_free, settings, seed)
    if centroids is None:
        return None
    before = np.full(len(places), -2)
    for _ in range(ITERATIONS):
        score, nearest = _best(places, centroids)
        nearest = np.where(score > near, nearest, -1)
        if (nearest == before).all():
            break
        before = nearest
        for cluster in range(n_free):
            members = places[nearest == cluster]
            if len(members):
                mean = members.mean(axis=0, dtype=np.float64)[None]
                centroids[cluster] = on_sphere(mean)[0] if settings.spherical else mean[0]
    score, nearest = _best(places, centroids)
    if np.bincount(nearest[score > near], minlength=n_free).min() == 0:
        return None
    return _inertia(squares, np.maximum(score, near)), seed, centroids


def _first(
    places: Array, squares: Array, near: Array, n_free: int, settings: ClustersConfig, seed: int
) -> Array | None:
    """k-means++: one after the other, with a chance that grows with the squared distance."""
    rng = np.random.default_rng(seed)
    centroids = np.zeros((n_free, places.shape[1]), np.float32)
    score = near
    for number in range(n_free):
        distances = np.maximum(squares - 2 * score, 0.0)
        total = distances.sum()
        if not total > 0:
            return None
        chosen = places[rng.choice(len(places), p=distances / total)][None]
        centroids[number] = on_sphere(chosen)[0] if settings.spherical else chosen[0]
        score = np.maximum(score, _best(places, centroids[number][None])[0])
    return centroids


def _best(places: Array, centroids: Array) -> tuple[Array, Array]:
    """Of each place (float64 (n,): x.c - c.c / 2 of the nearest centroid, int64 (n,): which).

    The largest x.c - c.c / 2 is the smallest distance, whose square is x.x minus twice that.
    """
    half = np.einsum("cp,cp->c", centroids, centroids, dtype=np.float64) / 2
    score, which = np.empty(len(places)), np.empty(len(places), np.int64)
    step = max(1, _CELLS // max(1, len(centroids)))
    for start in range(0, len(places), step):
        rows = slice(start, start + step)
        scores = (places[rows] @ centroids.T).astype(np.float64) - half
        which[rows] = scores.argmax(axis=1)
        score[rows] = scores.max(axis=1)
    return score, which


def _inertia(squares: Array, score: Array) -> float:
    return float(np.maximum(squares - 2 * score, 0.0).sum())

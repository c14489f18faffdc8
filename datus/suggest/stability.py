"""How many clusters, and how far to believe them, from unlabelled vectors alone.

    layout = layout_of((28, 28), boxes, n_patches)       where the segments of one image lie
    points = make_points(places, image, layout, True)    all segments, where k-means sees them
    seen = overview(points)                              is there anything but copies and place
    found = measure(points, 12, fit, seed)               one K: its figures, and those of chance

Which K follows from them, and what to say, is in `datus.method.verdict`.

In:  places float32 (n, P) of the valid segments; of each its image, and where it lies in it; a
     k-means as a callable.
Out: for each K the variance left, silhouettes, and how far the partition comes back: from other
     starts, from other segments, from other images. Then the same of clouds without groups, drawn
     from a Gaussian with the covariance of `places`: what k-means finds there is chance.

A stable partition can still be one of places (top, middle, bottom), which is just as stable on
images of noise. So what the place of a segment explains is taken out of its vector, and the rest
must tell images apart.

Ideas: silhouette, Rousseeuw 1987; adjusted Rand index, Hubert and Arabie 1985; the cloud as
reference, the gap statistic of Tibshirani, Walther and Hastie 2001; stability as evidence for K,
Ben-Hur, Elisseeff and Guyon 2002. Segments of one image are alike, so whole images are drawn too.
What these figures can tell and what not was measured: docs/choosing_k.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.stats import kurtosis

from datus.errors import ClusterError
from datus.method.verdict import STABILITY, TINY, KFigures, Measured, Overview
from datus.types import Array

Fit = Callable[[Array, int, int, int], Array]
"""(float32 (n, P), k, starts, seed) -> centroids float32 (k, P), those of the best start. May raise
ClusterError. A vector belongs to the nearest centroid."""

COMES_BACK = ("starts", "segments", "images")
"""Where a second partition comes from: one other start; as many segments, drawn with replacement;
as many images, drawn with replacement."""

FIGURES = (
    *("unexplained", "silhouette", "centroid silhouette", "content", "agreement"),
    *(*COMES_BACK, STABILITY),
)
"""Of a partition. `unexplained`: share of the variance inside clusters; `content`: share of what
place leaves unexplained that clusters do explain; `agreement`: share of the segments in the same
cluster after another start, matched one to one; COMES_BACK: adjusted Rand indices of that second
partition with the first, 1 = the same, 0 = as good as drawn by lot; STABILITY: their mean."""

SEGMENTS_A_CLUSTER = 3
"""Different segments a cluster that are needed: of fewer, a resample lacks whole clusters."""


@dataclass(frozen=True, slots=True)
class StabilitySettings:
    """How much work goes into each K."""

    starts: int = 3
    """Of each k-means, but for the single ones that are compared."""
    repeats: int = 6
    """Second partitions of each kind."""
    clouds: int = 6
    cloud_repeats: int = 2
    """The same for each cloud."""
    pairs: int = 1000
    """Segments of the exact silhouette, which is quadratic."""


DEFAULTS = StabilitySettings()


@dataclass(frozen=True, slots=True)
class Points:
    """The segments of a run."""

    places: Array
    """float32 (n, P): what k-means sees."""
    view: Array
    """float64 (n, P): the same, of length 1 where only directions count."""
    rest: Array
    """float64 (n, P): of `places`, what the place in the image does not explain."""
    image: Array
    """int64 (n,), 0..n_images - 1."""
    spherical: bool
    place_share: float
    """Of the variance of `places`: what the place explains."""


def layout_of(grid: tuple[int, int], boxes: Array, n_patches: Array) -> Array:
    """float64 (S, 5): middle from the top and from the left, height, width, and the root of the
    area, in shares of the image. `grid`: rows and columns of patches; `boxes`: int (S, 4) (top,
    left, bottom, right), half-open, and `n_patches`: int (S,), both in patches."""
    top, left, bottom, right = (boxes / np.array([*grid, *grid])).T
    area = np.sqrt(n_patches / (grid[0] * grid[1]))
    return np.stack([(top + bottom) / 2, (left + right) / 2, bottom - top, right - left, area], 1)


def make_points(places: Array, image: Array, layout: Array, spherical: bool) -> Points:
    """`places` float32 (n, P), n > 0; `image` int (n,), any numbers; `layout` float (n, L): where a
    segment lies, in shares of its image. With `spherical`, silhouettes compare directions, as
    spherical k-means does."""
    _, number = np.unique(image, return_inverse=True)
    rest, share = beyond_place(places.astype(np.float64), layout.astype(np.float64), number)
    view = directions(places, spherical)
    return Points(places, view, rest, number.astype(np.int64), spherical, share)


def overview(points: Points) -> Overview:
    """Figures of the segments themselves."""
    return Overview(
        n_images=int(points.image.max()) + 1,
        n_segments=len(points.view),
        n_different=len(np.unique(np.round(points.view, 3) + 0.0, axis=0)),
        place_share=points.place_share,
        image_share=between(points.rest, points.image),
        kurtosis=mean_kurtosis(points.rest),
    )


def usable_k(seen: Overview, wanted: Sequence[int]) -> list[int]:
    """Those of `wanted`, in order, for which there are enough different segments; K = 1 says
    nothing and is left out."""
    most = seen.n_different // SEGMENTS_A_CLUSTER
    return sorted({k for k in wanted if 2 <= k <= most})


def measure(
    points: Points, k: int, fit: Fit, seed: int, settings: StabilitySettings = DEFAULTS
) -> KFigures:
    """Figures of K, and of chance. The same input and seed give the same figures.

    Raises ClusterError if k-means cannot make K clusters of `points`.
    """
    rng = np.random.default_rng([seed, k])

    def partition(seen: Array, places: Array, starts: int) -> Array:
        """int64 (n,): the clusters of `places` by a k-means that learns from `seen`."""
        drawn = int(rng.integers(2**31))
        return nearest(fit(np.ascontiguousarray(seen), k, starts, drawn), places)

    real = _figures(points, partition, rng, settings, settings.repeats)
    clouds = []
    for _ in range(settings.clouds):
        places = cloud(points.places, rng)
        null = replace(points, places=places, view=directions(places, points.spherical))
        clouds.append(_figures(null, partition, rng, settings, settings.cloud_repeats))
    chance = {name: _measured([figures[name].mean for figures in clouds]) for name in real}
    return KFigures(k, real, chance)


# --- one partition and its figures --------------------------------------------------------------


def _figures(
    points: Points,
    partition: Callable[[Array, Array, int], Array],
    rng: np.random.Generator,
    settings: StabilitySettings,
    repeats: int,
) -> dict[str, Measured]:
    from sklearn.metrics import adjusted_rand_score

    starts, places = settings.starts, points.places
    labels = partition(places, places, starts)
    some = np.sort(rng.permutation(len(labels))[: settings.pairs])

    def again(seen: Array, starts: int) -> Array:
        """A second partition; a single group where `seen` does not hold K clusters."""
        try:
            return partition(seen, places, starts)
        except ClusterError:
            return np.zeros(len(places), np.int64)

    rows: dict[str, list[float]] = {name: [] for name in ("agreement", *COMES_BACK)}
    for _ in range(repeats):
        other = again(places, 1)
        drawn = places[rng.integers(len(labels), size=len(labels))]
        rows["agreement"].append(agreement(labels, other))
        rows["starts"].append(adjusted_rand_score(labels, other))
        rows["segments"].append(adjusted_rand_score(labels, again(drawn, starts)))
        drawn = places[rows_of_images(points.image, rng)]
        rows["images"].append(adjusted_rand_score(labels, again(drawn, starts)))
    together = [float(np.mean(parts)) for parts in zip(*(rows[n] for n in COMES_BACK), strict=True)]
    near, left = centroid_silhouette(points.view, labels)
    return {
        "unexplained": Measured(left),
        "silhouette": Measured(silhouette(points.view[some], labels[some])),
        "centroid silhouette": Measured(near),
        "content": Measured(between(points.rest, labels)),
        **{name: _measured(values) for name, values in rows.items()},
        STABILITY: _measured(together),
    }


def _measured(values: Sequence[float]) -> Measured:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Measured(float(np.mean(values)), sd)


# --- figures of a partition: vectors float (n, P), labels int (n,) --------------------------------


def nearest(centroids: Array, places: Array) -> Array:
    """int64 (n,): the nearest of (K, P) to each of (n, P)."""
    wide = centroids.astype(np.float64)
    return np.asarray(((wide**2).sum(axis=1) - 2 * places.astype(np.float64) @ wide.T).argmin(1))


def silhouette(view: Array, labels: Array) -> float:
    """Mean silhouette of float64 (n, P), -1 to 1, from all pairs; 0 for a single cluster, and where
    every segment is alone in its own."""
    from sklearn.metrics import silhouette_score

    if not 1 < len(np.unique(labels)) < len(labels):
        return 0.0
    return float(silhouette_score(view, labels))


def centroid_silhouette(view: Array, labels: Array) -> tuple[float, float]:
    """(silhouette from distances to the means of clusters, share of the variance inside them)."""
    _, number = np.unique(labels, return_inverse=True)
    member_NK, rows = np.eye(int(number.max()) + 1)[number], np.arange(len(view))
    means = (member_NK.T @ view) / member_NK.sum(axis=0)[:, None]
    distances_NK = cdist(view, means)
    own = distances_NK[rows, number].copy()
    total = float(((view - view.mean(axis=0)) ** 2).sum())
    left = float((own**2).sum()) / total if total > TINY else 0.0
    if len(means) < 2:
        return 0.0, left
    distances_NK[rows, number] = np.inf
    other = distances_NK.min(axis=1)
    return float(((other - own) / np.maximum(np.maximum(own, other), TINY)).mean()), left


def between(values: Array, group: Array) -> float:
    """Share of the variance of float64 (n, P) between the groups of int (n,), less what groups
    drawn by lot would explain (so it can be a little below 0); 0 where there is no variance."""
    _, number = np.unique(group, return_inverse=True)
    n_groups = int(number.max()) + 1
    centred = values - values.mean(axis=0)
    total = float((centred**2).sum())
    if n_groups == len(values) or total < TINY:
        return 0.0
    sums = np.zeros((n_groups, values.shape[1]))
    np.add.at(sums, number, centred)
    explained = float((sums**2 / np.bincount(number)[:, None]).sum())
    by_lot = (n_groups - 1) * (total - explained) / (len(values) - n_groups)
    return (explained - by_lot) / total


def agreement(labels: Array, others: Array) -> float:
    """Share of int (n,) in the same cluster, clusters matched one to one as well as can be."""
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, others)
    return float(table[linear_sum_assignment(table, maximize=True)].sum()) / len(labels)


def beyond_place(places: Array, layout: Array, image: Array) -> tuple[Array, float]:
    """(`places` float64 (n, P) less what place explains, share of the variance that it explains).

    A segment's place, `layout` float64 (n, L), predicts the mean of those segments of other images
    that lie most like it, and a quadratic on top of that.
    """
    z = (layout - layout.mean(axis=0)) / np.maximum(layout.std(axis=0), TINY)
    centred = places - places.mean(axis=0)
    total = float((centred**2).sum())
    if total < TINY:
        return centred, 0.0
    rest = _less_quadratic(_less_neighbours(centred, z, image), z)
    return rest, 1 - float((rest**2).sum()) / total


NEIGHBOURS, SEARCHED = 10, 60
"""Segments of other images, among so many."""


def _less_neighbours(values: Array, z: Array, image: Array) -> Array:
    """Each row less the mean of its neighbours; as it is where there are none in other images."""
    n_near = min(SEARCHED, len(values))
    tree = KDTree(z, leafsize=16)  # the order of the many ties follows from it
    near = np.asarray(tree.query(z, k=range(1, n_near + 1))[1])
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
    from sklearn.preprocessing import PolynomialFeatures

    n, terms = len(z), PolynomialFeatures(2).fit_transform(z)
    weights, _, rank, _ = np.linalg.lstsq(terms, values, rcond=None)
    if n <= rank + 1:
        return values
    return np.asarray((values - terms @ weights) * np.sqrt((n - 1) / (n - int(rank))))


def mean_kurtosis(values: Array, n_axes: int = 8) -> float:
    """Mean excess kurtosis of float64 (n, P) along its first principal axes: 0 for a Gaussian."""
    centred = values - values.mean(axis=0)
    along, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    used = lengths[:n_axes] > TINY
    return float(kurtosis(along[:, :n_axes][:, used]).mean()) if used.any() else 0.0


def rows_of_images(image: Array, rng: np.random.Generator) -> Array:
    """Rows of as many images as there are, drawn with replacement."""
    order = np.argsort(image, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(image))[:-1])
    drawn = rng.integers(len(members), size=len(members))
    return np.concatenate([members[number] for number in drawn])


def cloud(places: Array, rng: np.random.Generator) -> Array:
    """float32 (n, P): a Gaussian with the mean and the covariance of `places`."""
    wide = places.astype(np.float64)
    covariance = np.atleast_2d(np.cov(wide, rowvar=False, bias=True))
    made = rng.multivariate_normal(
        wide.mean(axis=0), covariance, len(places), check_valid="ignore", method="eigh"
    )
    return np.asarray(made, np.float32)


def directions(places: Array, spherical: bool) -> Array:
    """float64 (n, P): of length 1 where only directions count."""
    wide = places.astype(np.float64)
    if not spherical:
        return wide
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), TINY))

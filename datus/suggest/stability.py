"""How many clusters, and how far to believe them, from unlabelled vectors alone.

    layout = layout_of((28, 28), boxes, n_patches)       where the segments of one image lie
    points = make_points(places, image, layout, True)    all segments, where k-means sees them
    seen = overview(points)                              is there anything but copies and place
    found = measure(points, 12, fit, seed)               one K: its figures, and those of chance

Which K follows from them, and what to say, is in module `verdicts`.

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

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from datus.errors import ClusterError
from datus.suggest.partitions import (
    TINY,
    adjusted_rand,
    agreement,
    between,
    beyond_place,
    centroid_silhouette,
    cloud,
    covariance_root,
    directions,
    kurtosis,
    nearest,
    rows_of_images,
    silhouette,
)
from datus.types import Array

Fit = Callable[[Array, int, int, int], Array]
"""(float32 (n, P), k, starts, seed) -> centroids float32 (k, P), those of the best start. May raise
ClusterError. A vector belongs to the nearest centroid."""

COMES_BACK = ("starts", "segments", "images")
"""Where a second partition comes from: one other start; as many segments, drawn with replacement;
as many images, drawn with replacement."""

STABILITY = "stability"
"""The mean of COMES_BACK."""

FIGURES = (
    *("unexplained", "silhouette", "centroid silhouette", "content", "agreement"),
    *(*COMES_BACK, STABILITY),
)
"""Of a partition. `unexplained`: share of the variance inside clusters; `content`: share of what
place leaves unexplained that clusters do explain; `agreement`: share of the segments in the same
cluster after another start, matched one to one; COMES_BACK: adjusted Rand indices of that second
partition with the first, 1 = the same, 0 = as good as drawn by lot."""

NO_SEGMENT = (
    "no image gave a valid segment, so there is nothing to judge: lower embeddings.min_patches"
)

SEGMENTS_A_CLUSTER = 3
"""Different segments a cluster that are needed: of fewer, a resample lacks whole clusters."""

SURE_SDS = 2.8
"""Standard deviations above chance: a seventh cloud lies there once in 40 times (Student's t with
five degrees of freedom, one side, for a new draw beside six)."""


@dataclass(frozen=True, slots=True)
class TrustSettings:
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


DEFAULTS = TrustSettings()


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


@dataclass(frozen=True, slots=True)
class Overview:
    """What is known before any clustering."""

    n_images: int
    n_segments: int
    n_different: int
    """Segments that are not copies of others, to three digits."""
    place_share: float
    """Of the variance of the vectors: what place and size of a segment explain."""
    image_share: float
    """Of the rest: what the image explains, beyond what a random split into images would."""
    kurtosis: float
    """Mean excess kurtosis of the rest: 0 for a Gaussian cloud."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Mean and standard deviation over repeats; a deviation of 0 where there is only one."""

    mean: float
    sd: float = 0.0


@dataclass(frozen=True, slots=True)
class KFigures:
    """One K: every name of FIGURES, and STABILITY."""

    k: int
    real: Mapping[str, Measured]
    chance: Mapping[str, Measured]
    """Over clouds."""

    def excess(self, name: str) -> float:
        """How far above chance."""
        return self.real[name].mean - self.chance[name].mean

    def sure(self, name: str) -> bool:
        """Above what one of 40 clouds reaches."""
        return self.excess(name) > SURE_SDS * self.chance[name].sd

    @property
    def gap(self) -> float:
        """Logarithm of the unexplained variance by chance, less that of the segments."""
        left = self.chance["unexplained"].mean, self.real["unexplained"].mean
        return math.log(max(left[0], TINY)) - math.log(max(left[1], TINY))


def layout_of(grid: tuple[int, int], boxes: Array, n_patches: Array) -> Array:
    """float64 (S, 5): middle from the top and from the left, height, width, and the root of the
    area, in shares of the image. `grid`: rows and columns of patches; `boxes`: int (S, 4) (top,
    left, bottom, right), half-open, and `n_patches`: int (S,), both in patches."""
    rows, columns = grid
    top, left, bottom, right = (boxes / np.array([rows, columns, rows, columns])).T
    area = np.sqrt(n_patches / (rows * columns))
    return np.stack([(top + bottom) / 2, (left + right) / 2, bottom - top, right - left, area], 1)


def make_points(places: Array, image: Array, layout: Array, spherical: bool) -> Points:
    """`places` float32 (n, P), n > 0; `image` int (n,), any numbers; `layout` float (n, L): where a
    segment lies, in shares of its image. With `spherical`, silhouettes compare directions, as
    spherical k-means does. Raises ClusterError if there is no segment."""
    if not len(places):
        raise ClusterError(NO_SEGMENT)
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
        kurtosis=kurtosis(points.rest),
    )


def usable_k(seen: Overview, wanted: Sequence[int]) -> list[int]:
    """Those of `wanted`, in order, for which there are enough different segments; K = 1 says
    nothing and is left out."""
    most = seen.n_different // SEGMENTS_A_CLUSTER
    return sorted({k for k in wanted if 2 <= k <= most})


def measure(
    points: Points, k: int, fit: Fit, seed: int, settings: TrustSettings = DEFAULTS
) -> KFigures:
    """Figures of K, and of chance. The same input and seed give the same figures.

    Raises ClusterError if k-means cannot make K clusters of `points`.
    """
    trial = _Trial(k, fit, settings, np.random.default_rng([seed, k]))
    real = _figures(points, trial, settings.repeats)
    root = covariance_root(points.places)
    clouds = []
    for _ in range(settings.clouds):
        places = cloud(points.places, root, trial.rng)
        null = replace(points, places=places, view=directions(places, points.spherical))
        clouds.append(_figures(null, trial, settings.cloud_repeats))
    chance = {name: _measured([one[name].mean for one in clouds]) for name in real}
    return KFigures(k, real, chance)


# --- one partition and its figures --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Trial:
    k: int
    fit: Fit
    settings: TrustSettings
    rng: np.random.Generator = field(repr=False)

    def labels(self, places: Array, rows: Array | None, starts: int) -> Array:
        """int64 (n,): k-means learns from `rows` of `places` and places them all."""
        seen = places if rows is None else places[rows]
        seed = int(self.rng.integers(2**31))
        return nearest(self.fit(np.ascontiguousarray(seen), self.k, starts, seed), places)

    def again(self, places: Array, rows: Array | None, starts: int) -> Array:
        """As `labels`; a single group where the drawn rows do not hold K clusters."""
        try:
            return self.labels(places, rows, starts)
        except ClusterError:
            return np.zeros(len(places), np.int64)


def _figures(points: Points, trial: _Trial, repeats: int) -> dict[str, Measured]:
    starts, places = trial.settings.starts, points.places
    labels = trial.labels(places, None, starts)
    some = np.sort(trial.rng.permutation(len(labels))[: trial.settings.pairs])
    rows: dict[str, list[float]] = {name: [] for name in ("agreement", *COMES_BACK)}
    for _ in range(repeats):
        other = trial.again(places, None, 1)
        drawn = trial.rng.integers(len(labels), size=len(labels))
        rows["agreement"].append(agreement(labels, other))
        rows["starts"].append(adjusted_rand(labels, other))
        rows["segments"].append(adjusted_rand(labels, trial.again(places, drawn, starts)))
        drawn = rows_of_images(points.image, trial.rng)
        rows["images"].append(adjusted_rand(labels, trial.again(places, drawn, starts)))
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
    return Measured(
        float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    )

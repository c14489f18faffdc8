"""How far new segments lie from clusters that were made without them (docs/growing.md).

    known = reference(measures, cluster, k, n_axes)       of the run that the clusters come from
    change = drift(known, measures, cluster, image)       of the segments of new images
    Gathered(known).add(...) ... .drift()                 the same in parts
    change.words                                          a warning, or nothing

In:  measures float32 (2, n): a segment's distance to its centroid, and the length of the part of
     its vector that lies outside the space of the clusters (what their PCA dropped); cluster int16
     (n,); image int (n,), any number that is the same for the segments of one image.
Out: quantiles then and now, the share of segments farther out than nearly all were then, by measure
     and by cluster, and of images with most segments that far out.

A segment is held against those of its own cluster: some clusters are tight and others are wide. The
second measure is there because k-means never sees it: what is unlike all that the clusters were
made from may project close to a centroid, and only the rest of its vector tells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from datus.types import Array

MEASURES = ("distance to the centroid", "length outside the clusters' space")

SEGMENTS = "new segments"

LEVELS = np.linspace(0.0, 1.0, 101)
"""Percentiles that are kept of each cluster, the least and the most among them."""

FAR, VERY_FAR = 95, 99
"""Percent of the old segments that are nearer."""

MIN_MEMBERS = 40
"""A cluster with fewer old segments says too little about its own tail: all segments stand in."""

LARGE_PERCENT = 15.0
"""Of new segments that are far, by either measure: three times the 5 that are expected. CamVid val
after CamVid train has 3 and 6, clothing 28 and 49, under water 31 and 94 (docs/growing.md)."""

PER_CLUSTER, PER_AXIS = 15, 20
"""Old segments for each cluster, and for each axis of the PCA, that a measure needs: centroids and
axes were fitted to the old segments, which lie nearer for that. With half as many, up to 20 of 100
new segments of the same kind are far, in place of 5 (docs/growing.md)."""

FEW_SEGMENTS = 20
"""Of fewer nothing is said: one image can have more that are odd."""

KEPT, KEPT_OF_CLUSTER = 2**20, 2**16
"""New segments whose measures are kept for quantiles: 16 MB, and 1 MB for each cluster."""

PARTS = 64
"""Of a sample, before they are joined: many small arrays take more memory than what they hold."""

NOTHING = 1e-3
"""Unit vectors that lie no farther outside lie inside, but for rounding: there was no PCA, or a
full rotation."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What is kept of the segments that the clusters were made from."""

    quantiles: Array
    """float32 (2, K + 1, 101): of each measure, by cluster at LEVELS; the last row: of all."""
    members: Array
    """int64 (K,): segments of each cluster."""
    n_axes: int = 0
    """Of the PCA; 0 = none."""

    @property
    def used(self) -> tuple[int, ...]:
        """Measures that say something."""
        return tuple(m for m in range(len(MEASURES)) if self.quantiles[m].max() > NOTHING)

    @property
    def sure(self) -> tuple[bool, bool]:
        """Of each measure: there were enough old segments to judge new ones by them."""
        n_old = int(self.members.sum())
        return n_old >= PER_CLUSTER * len(self.members), n_old >= PER_AXIS * self.n_axes

    def limits(self, percent: int) -> Array:
        """float32 (2, K): what so many percent of a cluster's old segments stay below."""
        of_cluster, of_all = self.quantiles[:, :-1, percent], self.quantiles[:, -1:, percent]
        return np.where(self.members >= MIN_MEMBERS, of_cluster, of_all)


@dataclass(frozen=True, slots=True)
class MeasureDrift:
    """One measure then and now. Shares are percent; NaN where there are no new segments."""

    name: str
    before: Array
    """float64 (101,): quantiles over all old segments."""
    now: Array
    """float64 (101,)."""
    far: float
    """Segments farther than FAR percent of their cluster's old ones: 5 are expected."""
    very_far: float
    images: float
    """Images with more than half of their segments far."""
    sure: bool
    """False: too few old segments to judge new ones by; the shares are too high."""


@dataclass(frozen=True, slots=True)
class ClusterDrift:
    """One cluster then and now."""

    n_before: int
    n_now: int
    median_before: float
    """Distance to the centroid."""
    median_now: float
    far: tuple[float, ...]
    """Percent, by each measure that is used."""


@dataclass(frozen=True, slots=True)
class Drift:
    """New images against the run that the clusters come from."""

    n_images: int
    """New ones that have a valid segment."""
    n_segments: int
    measures: tuple[MeasureDrift, ...]
    clusters: tuple[ClusterDrift, ...]

    @property
    def words(self) -> str:
        """A warning, or an empty text."""
        return warning(self.figures)

    @property
    def figures(self) -> dict[str, float]:
        """What `warning` needs, all of it finite."""
        if not self.n_segments:
            return {SEGMENTS: 0.0}
        far = {measure.name: measure.far for measure in self.measures if measure.sure}
        return {SEGMENTS: float(self.n_segments), **far}


def reference(measures: Array, cluster: Array, k: int, n_axes: int = 0) -> Reference:
    """Of the segments that the clusters were made from; every cluster has one or more.

    measures: float32 (2, n); cluster: int16 (n,), 0..k-1; n_axes: of the PCA, 0 = none.
    """
    sets = [*(measures[:, cluster == number] for number in range(k)), measures]
    quantiles = np.stack([np.quantile(values, LEVELS, axis=1).T for values in sets], axis=1)
    members = np.bincount(cluster, minlength=k).astype(np.int64)
    return Reference(quantiles.astype(np.float32), members, n_axes)


def drift(known: Reference, measures: Array, cluster: Array, image: Array) -> Drift:
    """New segments against the old ones. No new segment: figures are NaN."""
    gathered = Gathered(known)
    gathered.add(measures, cluster, image)
    return gathered.drift()


class Gathered:
    """The same for segments that come in parts, in bounded memory.

    Shares are counted. Quantiles are exact up to KEPT segments, and KEPT_OF_CLUSTER of a cluster;
    of more they are those of an even sample, which depends on the order of the segments alone.
    """

    def __init__(self, known: Reference) -> None:
        self._known, k = known, len(known.members)
        self._far, self._very_far = known.limits(FAR), known.limits(VERY_FAR)
        self._n_images = 0
        self._n_far = np.zeros((len(MEASURES), k), np.int64)
        self._n_very_far = np.zeros(len(MEASURES), np.int64)
        self._n_mostly = np.zeros(len(MEASURES), np.int64)
        self._members = np.zeros(k, np.int64)
        self._random = np.random.default_rng(0)
        self._all = _Sample(KEPT)
        self._of_cluster = [_Sample(KEPT_OF_CLUSTER) for _ in range(k)]

    def add(self, measures: Array, cluster: Array, image: Array) -> None:
        """All segments of some images that were not there yet. For the arrays see the module."""
        far, k = measures > self._far[:, cluster], len(self._members)
        self._n_images += len(np.unique(image))
        self._n_far += [np.bincount(cluster[row], minlength=k) for row in far]
        self._n_very_far += (measures > self._very_far[:, cluster]).sum(axis=1)
        self._n_mostly += [_mostly(row, image).sum() for row in far]
        self._members += np.bincount(cluster, minlength=k)
        draws = self._random.random(len(cluster))
        self._all.add(measures, draws)
        for number, sample in enumerate(self._of_cluster):
            sample.add(measures[:1, cluster == number], draws[cluster == number])

    def drift(self) -> Drift:
        """What was added so far against the reference; figures of nothing are NaN."""
        known, n_segments, kept = self._known, int(self._members.sum()), self._all.values
        measures = tuple(
            MeasureDrift(
                name=MEASURES[m],
                before=known.quantiles[m, -1].astype(np.float64),
                now=_quantiles(kept[m]),
                far=_percent(self._n_far[m].sum(), n_segments),
                very_far=_percent(self._n_very_far[m], n_segments),
                images=_percent(self._n_mostly[m], self._n_images),
                sure=known.sure[m],
            )
            for m in known.used
        )
        clusters = tuple(map(self._cluster, range(len(known.members))))
        return Drift(self._n_images, n_segments, measures, clusters)

    def _cluster(self, number: int) -> ClusterDrift:
        known, n_now = self._known, int(self._members[number])
        return ClusterDrift(
            n_before=int(known.members[number]),
            n_now=n_now,
            median_before=float(known.quantiles[0, number, 50]),
            median_now=float(_quantiles(self._of_cluster[number].values[0])[50]),
            far=tuple(_percent(self._n_far[m, number], n_now) for m in known.used),
        )


class _Sample:
    """Columns with the lowest draws: all of them up to `most`, then half or more of as many."""

    def __init__(self, most: int) -> None:
        self._most, self._share, self._n = most, 1.0, 0
        self._parts: list[tuple[Array, Array]] = []

    def add(self, values: Array, draws: Array) -> None:
        kept = draws < self._share
        if kept.any():
            self._parts.append((values[:, kept], draws[kept]))
            self._n += int(kept.sum())
        if self._n > self._most or len(self._parts) > PARTS:
            self._join()

    def _join(self) -> None:
        values = np.concatenate([values for values, _ in self._parts], axis=1)
        draws = np.concatenate([draws for _, draws in self._parts])
        while len(draws) > self._most:
            self._share /= 2
            kept = draws < self._share
            values, draws = values[:, kept], draws[kept]
        self._parts, self._n = [(values, draws)], len(draws)

    @property
    def values(self) -> Array:
        """float32 (rows, n); nothing was added: (2, 0)."""
        parts = [values for values, _ in self._parts]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(MEASURES), 0), np.float32)


def warning(figures: Mapping[str, float]) -> str:
    """What to say of `Drift.figures`; an empty text if there is no drift to speak of."""
    n_segments = round(figures.get(SEGMENTS, 0))
    large = {name: figures.get(name, 0.0) for name in MEASURES}
    large = {name: share for name, share in large.items() if share > LARGE_PERCENT}
    if n_segments < FEW_SEGMENTS or not large:
        return ""
    shares = " and ".join(f"{share:.0f} % by {name}" for name, share in large.items())
    return (
        f"the new images are unlike those that the clusters come from: of {n_segments} new "
        f"segments {shares} lie farther out than {FAR} % of the old ones of their cluster "
        f"({100 - FAR} % would be usual): look at their masks before you trust them, or make new "
        "clusters without --frozen-clusters"
    )


def _mostly(far: Array, image: Array) -> Array:
    """bool, one an image: more than half of its segments are far."""
    _, number = np.unique(image, return_inverse=True)
    wanted = np.bincount(number, weights=far) / np.maximum(np.bincount(number), 1)
    return np.asarray(wanted > 0.5)


def _quantiles(values: Array) -> Array:
    """float64 (101,); NaN of nothing."""
    if not len(values):
        return np.full(len(LEVELS), math.nan)
    return np.asarray(np.quantile(values.astype(np.float64), LEVELS))


def _percent(count: int, n_all: int) -> float:
    return 100.0 * (int(count) / n_all) if n_all else math.nan

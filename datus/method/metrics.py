"""Counts to match to scores: how far clusters agree with true classes (paper IV-C).

In: masks of cluster ids and true masks, uint8 (H, W). Out: `Scores` in percent, under a named rule.
Everything after `count_pixels` reads one matrix, so all rules see the same pixels:

    counts (K + 1, C)    pixels by cluster (row K: unlabelled) and true class

    rule               a cluster becomes             unlabelled pixels   unmatched clusters
    hungarian_strict   its class, one to one         errors              errors
    hungarian_covered  its class, one to one         left out            errors      (the paper)
    hungarian_legacy   its class, one to one         left out            left out    (its code)
    majority           the class most often in it    errors              errors, if new here
    merge_nearest      its class, one to one; a      errors              there are none
                       leftover cluster joins the
                       nearest matched centroid

"Errors" are false negatives of their true class and false positives of no class. Decisions:

- A class is present, and so part of the means, if the whole truth has a pixel of it, under every
  rule alike. A class whose pixels a rule leaves out entirely scores 0, so no rule gains by
  dropping a class. Hence strict <= covered <= legacy in every figure, when the match is the same.
- A present class that is never predicted has precision 0. No pixel left to score is accuracy 0.
- Coverage is the share of known pixels with any cluster id, matched or not: the same for all rules.
- A cluster may be matched to a class that it never meets (K <= C, or a class absent from the
  truth). It counts as matched then, and its pixels as errors, under every rule.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from datus.errors import ImageError, WorkError
from datus.types import IGNORE, MAX_CLUSTERS, Array, Confusion

RULES: tuple[str, ...] = (
    "hungarian_strict",
    "hungarian_covered",
    "hungarian_legacy",
    "majority",
    "merge_nearest",
)

_ONE_TO_ONE = ("hungarian_strict", "hungarian_covered", "hungarian_legacy")
_LEAVES_OUT_UNLABELLED = ("hungarian_covered", "hungarian_legacy")
_LEAVES_OUT_UNMATCHED = ("hungarian_legacy",)

_UNMATCHED = -1


@dataclass(frozen=True, slots=True)
class Scores:
    """What one rule says, in percent. NaN marks a class that is absent from the truth."""

    rule: str
    miou: float
    """Mean of `iou` over the classes present in the truth."""
    accuracy: float
    """Share of the scored pixels with the right class."""
    f1: float
    """Mean of `f1_per_class` over the classes present in the truth."""
    coverage: float
    """Share of the known pixels that got a cluster id."""
    iou: Array
    """float64 (C,)."""
    precision: Array
    """float64 (C,)."""
    recall: Array
    """float64 (C,)."""
    f1_per_class: Array
    """float64 (C,), Dice."""
    match: Array
    """int16 (K,): class of each cluster, or -1."""
    n_pixels: int
    """Pixels scored: those with a known class, less what the rule leaves out."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: _plain_list(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }


def count_pixels(mask: Array, truth: Array, n_clusters: int, n_classes: int) -> Confusion:
    """Count the pixels of one image by cluster and true class.

    `mask` uint8 (H, W) holds cluster ids 0..n_clusters-1 or IGNORE, `truth` uint8 (H, W) holds
    class numbers 0..n_classes-1 or IGNORE. Raises ImageError on different shapes or other ids.
    """
    _check_masks(mask, truth)
    if not 0 <= n_clusters <= MAX_CLUSTERS or not 0 < n_classes <= IGNORE:
        raise ValueError(
            f"expected at most {MAX_CLUSTERS} clusters and 1 to {IGNORE} classes, "
            f"got {n_clusters} and {n_classes}"
        )
    from datus.compute.compiled import pair_counts

    pairs = pair_counts(mask, truth)
    _check_ids("mask", "cluster ids", pairs.sum(axis=1), n_clusters)
    _check_ids("true mask", "class numbers", pairs.sum(axis=0), n_classes)
    rows = [*range(n_clusters), IGNORE]
    return Confusion(np.ascontiguousarray(pairs[rows, :n_classes], dtype=np.int64))


def add(confusions: Iterable[Confusion]) -> Confusion:
    """The sum of at least one Confusion, all of one shape. Raises ValueError otherwise."""
    total: Array | None = None
    for confusion in confusions:
        if total is None:
            total = np.zeros_like(confusion.counts)
        if confusion.counts.shape != total.shape:
            raise ValueError(f"cannot add counts {confusion.counts.shape} to counts {total.shape}")
        total += confusion.counts
    if total is None:
        raise ValueError("nothing to add: expected at least one Confusion")
    return Confusion(total)


def fit_match(confusion: Confusion, rule: str, centroids: Array | None = None) -> Array:
    """The class of each cluster, int16 (K,); -1 = none.

    One to one (Hungarian, the paper's reference [43]) the sum of matched pixels is the largest
    possible. With K < C some classes stay without cluster, with K > C some clusters without class.
    Equal sums are settled by scipy's solver, always in the same way. `majority` takes the lowest
    class, and none for a cluster without counted pixels; `merge_nearest` the lowest cluster.
    `centroids` float32 (K, P) are needed for `merge_nearest` with K > C only.
    Raises WorkError if no pixel has a known class, or centroids are needed and not given.
    """
    _check_rule(rule)
    _check_known(confusion)
    clusters_KC = confusion.counts[:-1]
    if rule == "majority":
        majority = np.asarray(clusters_KC.argmax(axis=1), np.int16)
        majority[clusters_KC.sum(axis=1) == 0] = _UNMATCHED
        return majority
    match = np.full(confusion.n_clusters, _UNMATCHED, np.int16)
    rows, classes = linear_sum_assignment(clusters_KC, maximize=True)
    match[rows] = classes
    if rule == "merge_nearest" and confusion.n_clusters > confusion.n_classes:
        return _join_nearest(match, confusion, centroids)
    return match


def score(
    confusion: Confusion,
    rule: str,
    *,
    centroids: Array | None = None,
    match: Array | None = None,
) -> Scores:
    """Scores under one of RULES.

    `match` int16 (K,), if given, was fitted on another split and is applied here as it is;
    otherwise it is fitted here. Raises WorkError as `fit_match` does.
    """
    _check_rule(rule)
    _check_known(confusion)
    if match is None:
        match = fit_match(confusion, rule, centroids)
    else:
        _check_match(match, confusion, rule)
    predicted = _predicted_counts(confusion, rule, match)
    present = confusion.counts.sum(axis=0) > 0
    hit = predicted[:-1].diagonal()
    n_true, n_predicted = predicted.sum(axis=0), predicted[:-1].sum(axis=1)
    iou = _percent_of(hit, n_true + n_predicted - hit, present)
    f1 = _percent_of(2 * hit, n_true + n_predicted, present)
    n_known, n_pixels = int(confusion.counts.sum()), int(predicted.sum())
    return Scores(
        rule=rule,
        miou=float(iou[present].mean()),
        accuracy=100.0 * int(hit.sum()) / max(n_pixels, 1),
        f1=float(f1[present].mean()),
        coverage=100.0 * int(confusion.counts[:-1].sum()) / n_known,
        iou=iou,
        precision=_percent_of(hit, n_predicted, present),
        recall=_percent_of(hit, n_true, present),
        f1_per_class=f1,
        match=match,
        n_pixels=n_pixels,
    )


def score_all(confusion: Confusion, centroids: Array | None = None) -> dict[str, Scores]:
    """`score` under every rule; without `merge_nearest` if K > C and there are no centroids."""
    joins = centroids is not None or confusion.n_clusters <= confusion.n_classes
    rules = [rule for rule in RULES if joins or rule != "merge_nearest"]
    return {rule: score(confusion, rule, centroids=centroids) for rule in rules}


def _predicted_counts(confusion: Confusion, rule: str, match: Array) -> Array:
    """int64 (C + 1, C): pixels by predicted (last row: nothing) and true class."""
    n_classes = confusion.n_classes
    predicted = np.zeros((n_classes + 1, n_classes), np.int64)
    matched = match != _UNMATCHED
    np.add.at(predicted, match[matched], confusion.counts[:-1][matched])
    if rule not in _LEAVES_OUT_UNMATCHED:
        predicted[-1] += confusion.counts[:-1][~matched].sum(axis=0)
    if rule not in _LEAVES_OUT_UNLABELLED:
        predicted[-1] += confusion.counts[-1]
    return predicted


def _percent_of(part: Array, total: Array, present: Array) -> Array:
    """float64 (C,): 100 * part / total, 0 where total is 0, NaN where the class is not present."""
    return np.where(present, 100.0 * part / np.maximum(total, 1), np.nan)


def _join_nearest(match: Array, confusion: Confusion, centroids: Array | None) -> Array:
    """Give every unmatched cluster the class of the matched cluster with the nearest centroid."""
    n_clusters, n_classes = confusion.n_clusters, confusion.n_classes
    if centroids is None:
        raise WorkError(
            f"merge_nearest: {n_clusters} clusters for {n_classes} classes need centroids, "
            "got none: score a run that has them, or use majority"
        )
    if centroids.ndim != 2 or len(centroids) != n_clusters:
        raise ValueError(f"centroids: expected shape ({n_clusters}, any), got {centroids.shape}")
    places = centroids.astype(np.float64)
    matched = np.flatnonzero(match != _UNMATCHED)
    joined = match.copy()
    for cluster in np.flatnonzero(match == _UNMATCHED):
        distances = ((places[matched] - places[cluster]) ** 2).sum(axis=1)
        joined[cluster] = match[matched[distances.argmin()]]
    return joined


def _plain_list(array: Array) -> list[Any]:
    values = array.tolist()
    return [None if isinstance(x, float) and math.isnan(x) else x for x in values]


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")


def _check_known(confusion: Confusion) -> None:
    if not confusion.counts.any():
        raise WorkError(
            "no pixel has a known true class, so there is nothing to score: "
            "check the true masks and the class table's ids"
        )


def _check_match(match: Array, confusion: Confusion, rule: str) -> None:
    if match.dtype != np.int16 or match.shape != (confusion.n_clusters,):
        raise ValueError(
            f"match: expected int16 ({confusion.n_clusters},), got {match.dtype} {match.shape}"
        )
    used = match[match != _UNMATCHED]
    if used.size and not 0 <= used.min() <= used.max() < confusion.n_classes:
        raise ValueError(
            f"match: expected -1 or classes 0 to {confusion.n_classes - 1}, got {used}"
        )
    if rule in _ONE_TO_ONE and len(np.unique(used)) < len(used):
        raise ValueError(f"match: {rule} is one to one, but a class is used twice: {used}")


def _check_masks(mask: Array, truth: Array) -> None:
    for name, array in (("mask", mask), ("true mask", truth)):
        if array.dtype != np.uint8 or array.ndim != 2:
            raise TypeError(f"{name}: expected uint8 (H, W), got {array.dtype} {array.shape}")
    if mask.shape != truth.shape:
        raise ImageError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels but the true mask is "
            f"{truth.shape[1]} x {truth.shape[0]}: both must have the size of the image"
        )


def _check_ids(name: str, what: str, n_pixels: Array, n_ids: int) -> None:
    """`n_pixels` int64 (256,): how often each id occurs."""
    wrong = np.flatnonzero(n_pixels[n_ids:IGNORE]) + n_ids
    if wrong.size:
        raise ImageError(
            f"the {name} holds id {wrong[0]}; expected {what} below {n_ids}, or {IGNORE}: "
            "was it made with another class table or number of clusters?"
        )

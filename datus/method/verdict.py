"""Figures without labels to words: a number of clusters, and what speaks against its masks.

    choice = recommend([figures_of_k, ...])     the K that stands out most from chance
    judged = verdict(seen, figures_of_k)        no objection, look closely, do not trust

In: `Overview` and `KFigures`, which `datus.suggest.stability` measures. Out: a K with its reason; a
verdict with the figures behind it. Every threshold was set on sets whose truth is known, and tried
on others: docs/choosing_k.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datus.errors import ClusterError
from datus.types import Verdict

STABILITY = "stability"
"""The figure that says how far a partition comes back."""

TINY = 1e-12
"""A variance or a length below it is rounding."""

SURE_SDS = 2.8
"""Standard deviations above chance: a seventh cloud lies there once in 40 times (Student's t with
five degrees of freedom, one side, for a new draw beside six)."""

NEARLY = 0.9
"""Of the best: smaller differences are within the spread of the repeats."""

LEAST_IMAGE_SHARE, MOST_IMAGE_SHARE = 0.03, 0.6
"""Of `Overview.image_share`. Noise, copies and the frames of one camera have up to 0.01, other
photographs and rendered scenes 0.10 to 0.33, images of one colour 0.76 (docs/choosing_k.md)."""

LEAST_KURTOSIS = 1.5
"""Of `Overview.kurtosis`, where images do not differ. Noise has 0.1 to 0.8, one camera 2.8."""

FEW_IMAGES = 20


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
    """One K: every name of `datus.suggest.stability.FIGURES`."""

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


@dataclass(frozen=True, slots=True)
class Choice:
    """A recommended number of clusters."""

    k: int
    others: tuple[int, ...]
    """Further K that stand out from their neighbours."""
    reason: str


def recommend(found: Sequence[KFigures]) -> Choice:
    """The largest K whose stability is as far above chance as that of any other, or nearly so.

    What that is worth was measured, against other rules: docs/choosing_k.md. `found`: one or more,
    by K. Raises ClusterError if there is none.
    """
    if not found:
        raise ClusterError("too few different segments for any K: use more, or other, images")
    excess = [one.excess(STABILITY) for one in found]
    near = [one for one, far in zip(found, excess, strict=True) if far >= NEARLY * max(excess)]
    best = near[-1] if max(excess) > 0 else found[int(np.argmax(excess))]
    reason = (
        f"with K = {best.k} the partition comes back as well as any, compared with chance: "
        f"stability {best.real[STABILITY].mean:.3f}, where clouds without groups have "
        f"{best.chance[STABILITY].mean:.3f} ± {best.chance[STABILITY].sd:.3f}"
    )
    return Choice(best.k, _peaks(found, excess, best.k), reason)


def _peaks(found: Sequence[KFigures], excess: Sequence[float], best: int) -> tuple[int, ...]:
    """K that are higher than both neighbours, the highest first, three at most."""
    walled = [-math.inf, *excess, -math.inf]
    tops = [
        (-value, one.k)
        for one, value, before, after in zip(found, excess, walled, walled[2:], strict=False)
        if value > max(before, after, 0.0) and one.k != best
    ]
    return tuple(k for _, k in sorted(tops)[:3])


def verdict(seen: Overview, found: KFigures) -> Verdict:
    """What speaks against the clusters of one K, with the figures behind it.

    There is no "trust": between runs no figure ranked as the true scores did, and the features of a
    network with random weights pass all of this (docs/choosing_k.md).
    """
    against = [text for text in (_noise(seen), _copies(seen), _chance(found)) if text]
    if against:
        return Verdict("do not trust this", tuple(against))
    doubts = [
        text for text in (_few(seen), _same_view(seen), _one_thing(seen), *_doubts(found)) if text
    ]
    if doubts:
        return Verdict("look closely", tuple(doubts))
    reason = (
        f"stability {_against(found, STABILITY)}, silhouette {_against(found, 'silhouette')}, and "
        f"images differ beyond the place of their segments ({_percent(seen.image_share)} of the "
        "rest); that clusters are the classes you mean, only a look or true masks can tell"
    )
    return Verdict("no objection", (reason,))


def _noise(seen: Overview) -> str:
    if not _alike(seen) or seen.kurtosis >= LEAST_KURTOSIS:
        return ""
    return (
        "segments are as their place in the image makes them, and what is left is noise: the image "
        f"explains {_percent(seen.image_share)} of it (expected: {_percent(LEAST_IMAGE_SHARE)} or "
        f"more), and its kurtosis is {seen.kurtosis:.1f} (expected: {LEAST_KURTOSIS:.1f} or more)"
    )


def _alike(seen: Overview) -> bool:
    return seen.n_images > 1 and seen.image_share < LEAST_IMAGE_SHARE


def _same_view(seen: Overview) -> str:
    if not _alike(seen):
        return ""
    return (
        "images hardly differ, as with one camera or copies of one image: which one it is explains "
        f"{_percent(seen.image_share)} of what place leaves of a segment (expected: "
        f"{_percent(LEAST_IMAGE_SHARE)} or more), so clusters may be places"
    )


def _copies(seen: Overview) -> str:
    if 2 * seen.n_different > seen.n_segments:
        return ""
    return f"only {seen.n_different} of {seen.n_segments} segments differ: copies of the same image"


def _chance(found: KFigures) -> str:
    if found.sure(STABILITY) or found.sure("silhouette"):
        return ""
    return (
        f"K = {found.k} is no better than chance: stability {_against(found, STABILITY)}, "
        f"silhouette {_against(found, 'silhouette')}"
    )


def _few(seen: Overview) -> str:
    if seen.n_images >= FEW_IMAGES:
        return ""
    return f"{seen.n_images} images say little: {FEW_IMAGES} or more were needed for steady figures"


def _one_thing(seen: Overview) -> str:
    if seen.image_share <= MOST_IMAGE_SHARE:
        return ""
    return (
        f"images are uniform: which one it is explains {_percent(seen.image_share)} of what place "
        "leaves of a segment, so clusters sort whole images rather than their parts"
    )


def _doubts(found: KFigures) -> list[str]:
    return [
        f"{name} is not surely above chance: {_against(found, name)}"
        for name in (STABILITY, "silhouette", "content")
        if not found.sure(name)
    ]


def _against(found: KFigures, name: str) -> str:
    real, chance = found.real[name].mean, found.chance[name]
    return f"{real:.3f} (chance {chance.mean:.3f} ± {chance.sd:.3f})"


def _percent(share: float) -> str:
    return f"{100 * max(share, 0.0):.0f} %"

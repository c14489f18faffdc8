"""Recommendations and verdicts on figures made by hand, with their exact words."""

from dataclasses import replace

import pytest

from datus.errors import ClusterError
from datus.method.verdict import STABILITY, KFigures, Measured, Overview, recommend, verdict
from datus.suggest.stability import FIGURES

GOOD = Overview(
    n_images=50, n_segments=900, n_different=900, place_share=0.7, image_share=0.12, kurtosis=1.4
)


def figures(k: int, **real: float) -> KFigures:
    """Stability and silhouette above chance unless something else is said."""
    values = {"stability": 0.9, "silhouette": 0.3, "content": 0.1, **real}
    chance = {"stability": 0.5, "silhouette": 0.2, "content": 0.0}
    return KFigures(
        k,
        {name: Measured(values.get(name, 0.0)) for name in FIGURES},
        {name: Measured(chance.get(name, 0.0), 0.02) for name in FIGURES},
    )


def test_the_k_farthest_above_chance_is_recommended() -> None:
    found = recommend([figures(2), figures(3, stability=0.95), figures(4, stability=0.8)])
    assert (found.k, found.others) == (3, ())
    assert found.reason == (
        "with K = 3 the partition comes back as well as any, compared with chance: stability "
        "0.950, where clouds without groups have 0.500 ± 0.020"
    )


def test_of_nearly_equals_the_largest() -> None:
    found = [figures(5), figures(6, stability=0.87), figures(7, stability=0.85)]
    assert recommend(found).k == 6  # 0.37 is over nine tenths of 0.40, and 0.35 is not


def test_nothing_above_chance_is_the_least_bad() -> None:
    found = [figures(5, stability=0.4), figures(6, stability=0.45), figures(7, stability=0.45)]
    assert recommend(found).k == 6


def test_chance_is_taken_off() -> None:
    easy = replace(figures(2, stability=1.0), chance={STABILITY: Measured(0.95, 0.02)})
    assert recommend([easy, figures(3, stability=0.8)]).k == 3


def test_other_peaks_are_named_the_highest_first() -> None:
    heights = [0.9, 0.6, 0.7, 0.6, 0.8, 0.55, 0.58, 0.52, 0.54, 0.4, 0.45]
    found = recommend([figures(k, stability=s) for k, s in enumerate(heights, start=2)])
    assert (found.k, found.others) == (2, (6, 4, 8))  # 12 is a peak below chance


def test_nothing_to_recommend() -> None:
    with pytest.raises(ClusterError, match="too few different segments for any K: use more"):
        recommend([])


def test_no_objection() -> None:
    found = verdict(GOOD, figures(6))
    assert found.word == "no objection"
    assert found.words == (
        "no objection: stability 0.900 (chance 0.500 ± 0.020), silhouette 0.300 (chance 0.200 ± "
        "0.020), and images differ beyond the place of their segments (12 % of the rest); that "
        "clusters are the classes you mean, only a look or true masks can tell"
    )


@pytest.mark.parametrize(
    ("seen", "found", "word", "reason"),
    [
        (
            replace(GOOD, image_share=-0.01, kurtosis=0.3),
            figures(6),
            "do not trust this",
            "segments are as their place in the image makes them, and what is left is noise: the "
            "image explains 0 % of it (expected: 3 % or more), and its kurtosis is 0.3 (expected: "
            "1.5 or more)",
        ),
        (
            replace(GOOD, n_different=450),
            figures(6),
            "do not trust this",
            "only 450 of 900 segments differ: copies of the same image",
        ),
        (
            GOOD,
            figures(6, stability=0.53, silhouette=0.21),
            "do not trust this",
            "K = 6 is no better than chance: stability 0.530 (chance 0.500 ± 0.020), silhouette "
            "0.210 (chance 0.200 ± 0.020)",
        ),
        (
            replace(GOOD, n_images=8),
            figures(6),
            "look closely",
            "8 images say little: 20 or more were needed for steady figures",
        ),
        (
            replace(GOOD, image_share=0.002, kurtosis=2.8),
            figures(6),
            "look closely",
            "images hardly differ, as with one camera or copies of one image: which one it is "
            "explains 0 % of what place leaves of a segment (expected: 3 % or more), so clusters "
            "may be places",
        ),
        (
            replace(GOOD, image_share=0.76),
            figures(6),
            "look closely",
            "images are uniform: which one it is explains 76 % of what place leaves of a segment, "
            "so clusters sort whole images rather than their parts",
        ),
        (
            GOOD,
            figures(6, silhouette=0.21),
            "look closely",
            "silhouette is not surely above chance: 0.210 (chance 0.200 ± 0.020)",
        ),
        (
            GOOD,
            figures(6, content=0.01),
            "look closely",
            "content is not surely above chance: 0.010 (chance 0.000 ± 0.020)",
        ),
    ],
)
def test_what_speaks_against(seen: Overview, found: KFigures, word: str, reason: str) -> None:
    judged = verdict(seen, found)
    assert (judged.word, judged.reasons) == (word, (reason,))


def test_one_image_is_few_and_not_noise() -> None:
    seen = replace(GOOD, n_images=1, image_share=0.0, kurtosis=0.0)
    assert verdict(seen, figures(6)).word == "look closely"


def test_all_reasons_are_given() -> None:
    seen = replace(GOOD, n_images=8, image_share=0.9)
    assert len(verdict(seen, figures(6, content=0.0)).reasons) == 3

"""Do labels follow what is in an image: kappa, place, views, and what is said of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.method.consistency import (
    BOUNDS,
    CELLS,
    UNIFORM,
    VIEWS,
    View,
    figures_of,
    judge,
    kappa,
    labels_in,
    picture_of,
    place_kappa,
)
from datus.types import IGNORE, Array, Verdict, worst

# --- kappa --------------------------------------------------------------------------------------


def slow_kappa(first: Array, second: Array) -> float:
    """Cohen 1960, with a loop over pairs of places."""
    pairs = [
        (a, b)
        for a, b in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True)
        if IGNORE not in (a, b)
    ]
    if not pairs:
        return 0.0
    same = sum(a == b for a, b in pairs) / len(pairs)
    by_chance = sum((a == other) for a, _ in pairs for _, other in pairs) / len(pairs) ** 2
    return 1.0 if by_chance == 1 else (same - by_chance) / (1 - by_chance)


@given(st.integers(0, 10**6), st.integers(1, 4), st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_kappa_equals_the_loop_and_is_symmetric(
    seed: int, n_labels: int, shape: tuple[int, int]
) -> None:
    labels = np.array([*range(n_labels - 1), 254, IGNORE], np.uint8)
    first, second = labels[np.random.default_rng(seed).integers(0, len(labels), (2, *shape))]
    found = kappa(first, second)
    assert found == pytest.approx(slow_kappa(first, second))
    assert found == pytest.approx(kappa(second, first))
    assert -1 <= found <= 1


def grid(*rows: str) -> Array:
    """uint8 labels from digits; '.' is IGNORE."""
    return np.array([[IGNORE if sign == "." else int(sign) for sign in row] for row in rows], "u1")


def test_kappa_by_hand() -> None:
    first = grid("0011", "0011", "0011")
    # three of twelve differ: 0.75 observed, 0.5 * 0.25 + 0.5 * 0.75 = 0.5 by chance
    assert kappa(first, grid("0111", "0111", "0111")) == pytest.approx(0.5)
    # half of all agree, and half do by chance
    assert kappa(first, grid("0101", "0101", "0101")) == pytest.approx(0.0)
    # none agrees: as far from chance as it gets
    assert kappa(first, grid("1100", "1100", "1100")) == pytest.approx(-1.0)
    # one label everywhere says nothing about the other two
    assert kappa(first, np.zeros_like(first)) == pytest.approx(0.0)
    # a name is not a label: the same parts under other numbers do not agree
    assert kappa(first, first + 2) == pytest.approx(0.0)


@given(st.integers(0, 10**6), st.integers(2, 5))
def test_equal_labels_have_kappa_one(seed: int, n_labels: int) -> None:
    labels = np.random.default_rng(seed).integers(0, n_labels, (3, 4)).astype(np.uint8)
    assert kappa(labels, labels) == pytest.approx(1.0)


def test_independent_labels_have_kappa_near_zero() -> None:
    rng = np.random.default_rng(0)
    shares = [0.7, 0.2, 0.1]  # most places agree, and that is by chance
    first, second = rng.choice(3, (2, 200, 200), p=shares).astype(np.uint8)
    assert np.mean(first == second) > 0.5
    assert kappa(first, second) == pytest.approx(0.0, abs=0.02)


def test_places_without_a_label_do_not_count() -> None:
    first, second = grid("0011", "0011", "0011"), grid("0111", "0111", "0111")
    gaps = grid("0.11", "0.11", "....")
    assert kappa(gaps, second) == kappa(first[:2, [0, 2, 3]], second[:2, [0, 2, 3]]) == 1.0
    assert kappa(second, gaps) == 1.0
    nothing = np.full_like(first, IGNORE)
    assert kappa(first, nothing) == kappa(nothing, nothing) == 0.0
    assert kappa(np.zeros(0, np.uint8), np.zeros(0, np.uint8)) == 0.0


def test_one_label_and_the_same_in_both_is_kappa_one() -> None:
    same = np.full((3, 4), 7, np.uint8)
    assert kappa(same, same) == 1.0
    assert kappa(same, np.full((3, 4), 8, np.uint8)) == 0.0


# --- place --------------------------------------------------------------------------------------


def by_place(shape: tuple[int, int]) -> Array:
    """uint8: the cell of CELLS x CELLS that a patch lies in."""
    rows, columns = (np.arange(side) * CELLS // side for side in shape)
    return (rows[:, None] * CELLS + columns).astype(np.uint8)


@pytest.mark.parametrize("n_images", [2, 3, 8])
def test_labels_that_are_the_place_have_place_kappa_one(n_images: int) -> None:
    shapes = [(12, 12), (6, 18), (9, 7), (28, 28)] * 2
    assert place_kappa([by_place(shape) for shape in shapes[:n_images]]) == pytest.approx(1.0)


def test_labels_independent_of_the_place_have_place_kappa_near_zero() -> None:
    rng = np.random.default_rng(1)
    noise = [rng.choice(3, (14, 14), p=[0.6, 0.3, 0.1]).astype(np.uint8) for _ in range(30)]
    assert place_kappa(noise) == pytest.approx(0.0, abs=0.05)
    whole = [np.full((14, 14), number % 4, np.uint8) for number in rng.integers(0, 99, 60)]
    assert abs(place_kappa(whole)) < 0.2


def test_labels_that_are_the_place_in_part_lie_between() -> None:
    rng = np.random.default_rng(2)
    half = []
    for _ in range(20):
        noise = rng.integers(0, CELLS**2, (12, 12)).astype(np.uint8)
        half.append(np.where(rng.random((12, 12)) < 0.5, by_place((12, 12)), noise))
    assert place_kappa(half) == pytest.approx(0.5, abs=0.05)


def slow_place_kappa(labels: list[Array]) -> float:
    """Every second image is predicted from the other half, patch by patch."""
    pairs = []
    for half in (0, 1):
        seen: dict[tuple[int, int], list[int]] = {}
        for one in labels[half::2]:
            for (y, x), label in np.ndenumerate(one):
                cell = (y * CELLS // one.shape[0], x * CELLS // one.shape[1])
                if label != IGNORE:
                    seen.setdefault(cell, []).append(int(label))
        for one in labels[1 - half :: 2]:
            for (y, x), label in np.ndenumerate(one):
                cell = (y * CELLS // one.shape[0], x * CELLS // one.shape[1])
                pairs.append((int(label), np.bincount(seen[cell]).argmax()))
    first, second = np.array(pairs, np.uint8).T
    return slow_kappa(first, second)


@given(st.integers(0, 10**6), st.integers(4, 7))
def test_place_kappa_equals_the_loop(seed: int, n_images: int) -> None:
    rng = np.random.default_rng(seed)
    labels = []
    for _ in range(n_images):
        one = rng.integers(0, 3, rng.integers(CELLS, 9, 2)).astype(np.uint8)
        one[: one.shape[0] // 2] = 1
        one[0, 0] = IGNORE if rng.random() < 0.1 and len(labels) > 3 else 0
        labels.append(one)
    assert place_kappa(labels) == pytest.approx(slow_place_kappa(labels))


def test_of_one_image_place_says_nothing() -> None:
    assert place_kappa([by_place((6, 6))]) == place_kappa([]) == 0.0


def test_places_without_a_label_predict_nothing_and_do_not_count() -> None:
    """A grid with fewer places than cells leaves some cells empty: they do not vote for 0."""
    whole, gaps = by_place((6, 6)) + 1, by_place((6, 6)) + 1
    gaps[2:4] = IGNORE
    assert place_kappa([whole, gaps]) == pytest.approx(1.0)
    few = (by_place((6, 6)) + 1)[::2]  # three rows: every second row of cells
    assert place_kappa([whole, few]) == pytest.approx(1.0)
    nothing = np.full((6, 6), IGNORE, np.uint8)
    assert place_kappa([nothing, nothing]) == place_kappa([whole, nothing]) == 0.0


def test_images_of_one_label_are_counted() -> None:
    flat, parts = np.full((10, 10), 3, np.uint8), by_place((10, 10))
    nearly, not_quite = flat.copy(), flat.copy()
    nearly.ravel()[:5], not_quite.ravel()[:6] = 1, 1
    assert figures_of([flat, nearly, not_quite, parts])["uniform"] == 0.5
    gaps = flat.copy()
    gaps[:8] = IGNORE
    assert figures_of([gaps])["uniform"] == 1.0
    assert figures_of([np.full((3, 3), IGNORE, np.uint8)]) == {"place": 0.0, "uniform": 0.0}
    assert figures_of([]) == {"place": 0.0, "uniform": 0.0}
    same = [by_place((10, 10))] * 3
    assert figures_of(same) == {"place": pytest.approx(1.0), "uniform": 0.0}


# --- views --------------------------------------------------------------------------------------


def enlarged(labels: Array, patch_px: int) -> Array:
    """uint8 (h, w, 3): an image whose grey values are the labels of its patches."""
    return np.repeat(labels.repeat(patch_px, 0).repeat(patch_px, 1)[:, :, None], 3, axis=2)


def patches_of(image: Array, shape: tuple[int, int]) -> Array:
    """The grey value in the middle of each patch of an image that is looked at as a grid."""
    rows, columns = (
        ((np.arange(n) + 0.5) * side / n).astype(int)
        for n, side in zip(shape, image.shape, strict=False)
    )
    return image[rows][:, columns, 0]


SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(st.integers(0, 10**6), SHAPES)
def test_the_labels_of_a_mirror_image_are_its_grey_values(
    seed: int, shape: tuple[int, int]
) -> None:
    labels = np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)
    seen = picture_of(enlarged(labels, 8), "mirror")
    np.testing.assert_array_equal(labels_in(labels, "mirror"), patches_of(seen, shape))


@given(st.integers(0, 10**6), SHAPES)
def test_the_labels_of_a_crop_are_its_grey_values(seed: int, shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)
    image = enlarged(labels, 8)  # an eighth of each side is whole pixels
    seen = picture_of(image, "crop")
    assert [side * 4 for side in seen.shape[:2]] == [side * 3 for side in image.shape[:2]]
    tinted = (labels_in(labels, "crop") * 0.75 + 20).astype(np.uint8)  # the red of picture_of
    np.testing.assert_array_equal(tinted, patches_of(seen, shape))


def test_a_crop_is_the_middle() -> None:
    labels = by_place((12, 12))
    seen = labels_in(labels, "crop")
    assert seen.shape == labels.shape
    assert seen[0, 0] == labels[1, 1]
    assert seen[-1, -1] == labels[-2, -2]


def test_views_of_labels_keep_their_shape_and_make_no_new_ones() -> None:
    for view in ("", *VIEWS):
        for shape in ((1, 1), (1, 9), (7, 2)):
            labels = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
            seen = labels_in(labels, view)
            assert seen.shape == shape
            assert set(seen.ravel()) <= set(labels.ravel())
    np.testing.assert_array_equal(labels_in(labels, ""), labels)
    np.testing.assert_array_equal(labels_in(labels_in(labels, "mirror"), "mirror"), labels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (8, 9)])
@pytest.mark.parametrize("view", ["", *VIEWS])
def test_views_of_tiny_images_are_images(view: View, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    before = image.copy()
    seen = picture_of(image, view)
    assert seen.dtype == np.uint8
    assert seen.ndim == 3
    assert min(seen.shape) > 0
    np.testing.assert_array_equal(image, before)


def test_a_crop_has_other_colours_and_no_overflow() -> None:
    white = picture_of(np.full((16, 16, 3), 255, np.uint8), "crop")
    assert white[0, 0].tolist() == [211, 198, 147]
    black = picture_of(np.zeros((16, 16, 3), np.uint8), "crop")
    assert black[0, 0].tolist() == [20, 20, 20]


# --- what is said -------------------------------------------------------------------------------

GOOD = {"mirror": 0.9, "crop": 0.8, "place": 0.1, "uniform": 0.0}


def said(random: bool = False, few: str = "", **more: float) -> Verdict:
    return judge({**GOOD, **more}, random, few)


def test_no_objection() -> None:
    assert said() == Verdict(
        "no objection",
        (
            "labels stay when images are changed (mirrored kappa 0.90, enlarged and recoloured "
            "kappa 0.80); that they are the classes you mean, only a look or true masks can tell",
        ),
    )
    assert (
        said(mirror=BOUNDS["mirror"][1], crop=BOUNDS["crop"][1], uniform=UNIFORM).word
        == "no objection"
    )
    assert said(place=1.0).word == "no objection", "skies are above, whatever a model sees"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"mirror": 0.59}, "an image and its mirror image do not get the same labels (kappa 0.59"),
        ({"crop": 0.69}, "an image and its middle, enlarged and in other colours, do not get the"),
        ({"uniform": 0.81}, "81 % of the images are one label each: clusters sort whole images"),
    ],
)
def test_look_closely(more: dict[str, float], reason: str) -> None:
    found = said(**more)
    assert found.word == "look closely"
    (text,) = found.reasons
    assert text.startswith(reason)
    assert all(f"no objection from {BOUNDS[name][1]} on" in text for name in more.keys() & BOUNDS)


def test_few_images_are_a_doubt() -> None:
    assert judge(GOOD, False, n_images=20).word == "no objection"
    few = judge(GOOD, False, n_images=19)
    assert few == Verdict("look closely", ("19 images say little: 20 or more give steady figures",))


def test_doubts_add_up() -> None:
    found = said(mirror=0.5, crop=0.6, uniform=0.9)
    assert found.word == "look closely"
    assert len(found.reasons) == 3


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"mirror": 0.2, "place": 0.71},
            "an image and its mirror image do not get the same labels (kappa 0.20, no "
            "objection from 0.6 on, not trusted below 0.45): labels follow the place in the image, "
            "which alone predicts them with kappa 0.71 (fewer clusters or another backbone may "
            "help)",
        ),
        (
            {"crop": 0.54},
            "an image and its middle, enlarged and in other colours, do not get the same labels "
            "(kappa 0.54, no objection from 0.7 on, not trusted below 0.55): labels follow "
            "colour, size or place",
        ),
        ({"random": True}, "the weights of the backbone are random: nothing was learned"),
        ({"few": "too few"}, "too few"),
    ],
)
def test_do_not_trust_this(more: dict[str, Any], reason: str) -> None:
    assert said(**more) == Verdict("do not trust this", (reason,))


def test_place_is_not_blamed_where_it_predicts_nothing() -> None:
    """As for a single image, of which nothing can be told."""
    (reason,) = said(mirror=0.2, place=0.0).reasons
    assert reason.endswith(
        "labels follow the place in the image (fewer clusters or another backbone may help)"
    )


def test_what_is_worse_leaves_out_what_is_less_bad_and_all_of_it_is_said() -> None:
    found = said(random=True, few="too few", mirror=0.1, crop=0.6, uniform=1.0)
    assert found.word == "do not trust this"
    first, second, third = found.reasons
    assert (first, second[:11], third[:8]) == ("too few", "the weights", "an image")


def test_the_worst_of_several_verdicts() -> None:
    fine, doubt = Verdict("no objection", ("a",)), Verdict("look closely", ("b",))
    bad, worse = Verdict("do not trust this", ("c",)), Verdict("do not trust this", ("d", "e"))
    assert worst([fine]) == fine
    assert worst([fine, doubt, fine]) == doubt
    assert worst([worse, doubt, bad]) == Verdict("do not trust this", ("d", "e", "c"))
    assert worst([doubt, fine]).words == "look closely: b"

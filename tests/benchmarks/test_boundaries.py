"""Boundary F-scores against a reference that compares every pair of border pixels."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datus.errors import ImageError
from datus.types import IGNORE, Array

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("boundaries", ROOT / "benchmarks" / "boundaries.py")
assert SPEC is not None
assert SPEC.loader is not None
boundaries = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(boundaries)
TOLERANCE, borders = boundaries.TOLERANCE, boundaries.borders
boundary_f, class_boundary_f = boundaries.boundary_f, boundaries.class_boundary_f

U = IGNORE


def border_pixels(labels: Array, known: Array) -> set[tuple[int, int]]:
    """(row, column) of every known pixel with another known label to the right or below."""
    found = set()
    for y, x in np.ndindex(*labels.shape):
        for v, w in ((y, x + 1), (y + 1, x)):
            inside = v < labels.shape[0] and w < labels.shape[1]
            if inside and known[y, x] and known[v, w] and labels[y, x] != labels[v, w]:
                found.add((y, x))
    return found


def share_near(points: set, others: set, far_px: float) -> float:
    near = [p for p in points if any(math.dist(p, other) <= far_px for other in others)]
    return len(near) / len(points) if points else 0.0


def slow_f(mask: Array, labels: Array, known: Array, far_px: float) -> float:
    found = border_pixels(mask, np.ones(mask.shape, bool))
    true = border_pixels(labels, known)
    unknown = {tuple(p) for p in np.argwhere(~known).tolist()}
    counted = {p for p in found if not any(math.dist(p, u) <= far_px for u in unknown)}
    if not counted and not true:
        return math.nan
    precision, recall = share_near(counted, true, far_px), share_near(true, found, far_px)
    return 200 * precision * recall / (precision + recall) if precision + recall else 0.0


LABELS = st.sampled_from([0, 0, 0, 1, 2, U])
PAIRS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.tuples(*[arrays.arrays(np.uint8, size, elements=LABELS)] * 2)
)


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.sampled_from([0.0, 0.05, 0.13, 0.3, 1.0]))
def test_the_same_as_comparing_every_pair_of_border_pixels(pair, tolerance):
    mask, truth = pair
    known, far_px = truth != U, tolerance * math.hypot(*truth.shape)
    expected = slow_f(mask, truth, known, far_px)
    assert boundary_f(mask, truth, tolerance) == pytest.approx(expected, nan_ok=True)
    by_class = class_boundary_f(mask, truth, 3, tolerance)
    for one in range(3):
        expected = slow_f(mask == one, truth == one, known, far_px)
        expected = expected if (truth == one).any() else math.nan
        assert by_class[one] == pytest.approx(expected, nan_ok=True)


def halves(column: int, width: int = 100) -> Array:
    """Class 0 to the left of `column`, class 1 from there on."""
    return np.tile((np.arange(width) >= column).astype(np.uint8), (100, 1))


def test_a_border_is_right_within_the_tolerance_and_wrong_beyond_it():
    # the diagonal is 141.4 pixels, the tolerance 1.06
    assert TOLERANCE == 0.0075
    assert boundary_f(halves(50), halves(50)) == 100
    assert boundary_f(halves(51), halves(50)) == 100
    assert boundary_f(halves(52), halves(50)) == 0
    assert class_boundary_f(halves(51), halves(50), 3)[:2].tolist() == [100, 100]


def test_half_of_the_found_borders_wrong_is_two_thirds():
    mask = halves(50) + 2 * halves(80)  # a second, invented border
    assert boundary_f(mask, halves(50)) == pytest.approx(100 * 2 * 0.5 / 1.5)


def test_labels_need_not_correspond_but_classes_must():
    assert boundary_f(7 - halves(50), halves(50)) == 100
    swapped = class_boundary_f(1 - halves(50), halves(50), 2)
    assert swapped.tolist() == [100, 100], "of two classes each has the border of the other"
    assert class_boundary_f(7 - halves(50), halves(50), 2).tolist() == [0, 0]


def test_nothing_is_said_where_the_truth_is_unknown():
    truth = halves(50)
    truth[:, 45:55] = U
    assert math.isnan(boundary_f(halves(50), truth)), "no border that can be judged"
    assert math.isnan(boundary_f(np.zeros_like(truth), np.full_like(truth, U)))
    assert boundary_f(halves(20), truth) == 0, "but here the truth is known: an invented border"


def test_a_hole_in_the_mask_has_borders_that_are_wrong():
    mask = halves(50)
    mask[10:40, 10:40] = U
    assert 0 < boundary_f(mask, halves(50)) < 100


def test_borders_are_one_pixel_wide():
    assert borders(halves(2, 4))[0].tolist() == [False, True, False, False]
    assert not borders(np.zeros((3, 3), np.uint8)).any()


def test_masks_of_another_size_are_refused():
    with pytest.raises(ImageError) as caught:
        boundary_f(halves(5, 50), halves(5))
    assert str(caught.value) == (
        "the mask is 100x50, the true mask 100x100 (height x width): expected the same size"
    )

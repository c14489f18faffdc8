"""Outlines of parts, against two ways of filling and OpenCV's."""

from typing import Any

import cv2
import export_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datus.formats.parts import find_parts
from datus.formats.polygons import outline
from datus.types import IGNORE, Array

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
LABELS = arrays(np.uint8, SIZES, elements=st.sampled_from([0, 1, 2, IGNORE]))


def crossings(path: Array, shape: Any) -> tuple[Array, Array]:
    """(sides to the left of each pixel's centre, the same with down +1 and up -1)."""
    x, y = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    count, winding = np.zeros(shape, int), np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(path, np.roll(path, -1, 0), strict=True):
        assert x0 == x1 or y0 == y1, "a slanted side"
        passed = (x > x0) & (y > min(y0, y1)) & (y < max(y0, y1))
        count += passed
        winding += passed * int(np.sign(y1 - y0))
    return count, winding


def check_outlines(labels: Array) -> None:
    for part in find_parts(labels):
        count, winding = crossings(outline(part.mask), part.mask.shape)
        np.testing.assert_array_equal(count % 2 == 1, part.mask)
        np.testing.assert_array_equal(winding != 0, part.mask)
        drawn = np.zeros(part.mask.shape, np.uint8)
        cv2.fillPoly(drawn, [outline(part.mask, centres=True)], 1)
        np.testing.assert_array_equal(drawn > 0, part.mask)


@settings(max_examples=40)
@given(LABELS)
def test_outlines_fill_to_the_same_pixels_by_every_rule(labels: Array) -> None:
    check_outlines(labels)


@pytest.mark.parametrize("image_id", export_cases.traps())
def test_outlines_of_the_traps(image_id: str) -> None:
    check_outlines(export_cases.traps()[image_id])


def test_the_outline_of_a_ring_by_hand() -> None:
    ring = np.ones((3, 4), bool)
    ring[1, 1] = False
    assert outline(ring).tolist() == [
        *([0, 3], [0, 1]),
        *([1, 1], [1, 2], [2, 2], [2, 1], [1, 1]),  # in, around the hole
        *([0, 1], [0, 0], [4, 0], [4, 3]),  # out again
    ]
    one = np.ones((1, 1), bool)
    assert sorted(outline(one).tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert outline(one, centres=True).tolist() == [[0, 0]] * 4

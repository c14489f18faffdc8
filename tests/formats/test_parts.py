"""Label images to connected parts, against OpenCV."""

import cv2
import numpy as np
from export_cases import part_in_image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datus.formats.parts import find_parts
from datus.types import IGNORE, Array

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
LABELS = arrays(np.uint8, SIZES, elements=st.sampled_from([0, 1, 2, IGNORE]))


@settings(max_examples=40)
@given(LABELS)
def test_parts_are_connected_and_cover_what_is_labelled(labels: Array) -> None:
    claimed = np.zeros(labels.shape, int)
    for part in find_parts(labels):
        mask = part_in_image(part, labels)
        claimed += mask
        assert (labels[mask] == part.label).all()
        assert part.area == mask.sum()
        assert part.mask.any(0)[[0, -1]].all()
        assert part.mask.any(1)[[0, -1]].all()
        assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] == 2
    np.testing.assert_array_equal(claimed, labels != IGNORE)


def test_parts_come_by_label_then_down_the_columns() -> None:
    labels = np.array([[1, 0, 0], [255, 255, 255], [0, 255, 1]], np.uint8)
    found = [(part.label, part.box, part.box_xywh) for part in find_parts(labels)]
    assert found == [
        (0, (2, 0, 3, 1), [0, 2, 1, 1]),
        (0, (0, 1, 1, 3), [1, 0, 2, 1]),
        (1, (0, 0, 1, 1), [0, 0, 1, 1]),
        (1, (2, 2, 3, 3), [2, 2, 1, 1]),
    ]


def test_a_score_is_the_mean_of_the_known_margins() -> None:
    labels = np.array([[0, 0, 0], [1, 1, 255]], np.uint8)
    confidence = np.array([[0.5, np.nan, 0.25], [np.nan, np.nan, 0.9]], np.float32)
    assert [part.score for part in find_parts(labels, confidence)] == [0.375, None]
    assert [part.score for part in find_parts(labels)] == [None, None]


def test_small_parts_can_be_left_out() -> None:
    labels = np.array([[0, 0, 255, 0]], np.uint8)
    assert [part.area for part in find_parts(labels, None, 2)] == [2]


def test_nothing_has_no_parts() -> None:
    assert find_parts(np.full((3, 4), IGNORE, np.uint8)) == []

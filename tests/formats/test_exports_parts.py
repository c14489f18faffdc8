"""Parts, run lengths and outlines, against decoders written out here and cv2's fill."""

from typing import Any

import cv2
import export_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datus.formats.coco import coco_text
from datus.formats.labelstudio import pack
from datus.formats.parts import Part, find_parts
from datus.formats.polygons import outline
from datus.types import IGNORE, Array

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
LABELS = arrays(np.uint8, SIZES, elements=st.sampled_from([0, 1, 2, IGNORE]))


def whole(part: Part, labels: Array) -> Array:
    """bool (H, W): the part in its image."""
    top, left, bottom, right = part.box
    mask = np.zeros(labels.shape, bool)
    mask[top:bottom, left:right] = part.mask
    return mask


# --- parts --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(LABELS)
def test_parts_are_connected_and_cover_what_is_labelled(labels: Array) -> None:
    claimed = np.zeros(labels.shape, int)
    for part in find_parts(labels):
        mask = whole(part, labels)
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


# --- run lengths --------------------------------------------------------------------------------


def from_text(text: str) -> list[int]:
    """COCO's compressed counts, letter by letter."""
    counts: list[int] = []
    value = place = 0
    for letter in text.encode():
        group = letter - 48
        value |= (group & 31) << place
        place += 5
        if not group & 32:
            if group & 16:
                value -= 1 << place
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = place = 0
    return counts


@settings(max_examples=40)
@given(LABELS)
def test_coco_runs_go_down_the_columns(labels: Array) -> None:
    for part in find_parts(labels):
        counts = part.counts
        assert counts.sum() == labels.size
        assert (counts[1:] > 0).all(), "the foot of a column and the head of the next are one run"
        values = np.repeat(np.arange(len(counts)) % 2, counts)
        columns = values.reshape(labels.shape[::-1]).T
        np.testing.assert_array_equal(columns, whole(part, labels))
        assert from_text(coco_text(counts)) == counts.tolist()


def test_coco_text_of_long_runs_and_negative_differences() -> None:
    counts = np.array([0, 70000, 5, 3, 1_000_000, 2, 1, 40])
    assert from_text(coco_text(counts)) == counts.tolist()
    assert coco_text(np.array([6, 1, 40, 4, 5, 4, 5, 4, 21])) == "61X13mN000`0"  # of the COCO API


def unpack(data: Array) -> Array:
    """Label Studio's brush run lengths, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data.tolist())
    place = 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    n_values, width = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < n_values:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(width)] * length if repeated else [read(width) for _ in range(length)]
    return np.array(values)


@settings(max_examples=40)
@given(arrays(bool, SIZES))
def test_label_studio_brush_is_white_rgba(mask: Array) -> None:
    pixels = unpack(pack(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(pixels, np.where(mask[..., None], 255, 0) + np.zeros(4))


def test_label_studio_brush_splits_long_runs() -> None:
    mask = np.zeros((160, 300), bool)
    mask[100:, 10:] = True
    mask[80:] = True
    pixels = unpack(pack(mask)).reshape(160, 300, 4)
    np.testing.assert_array_equal(pixels[..., 3] > 0, mask)
    assert len(pack(mask)) < 60


# --- outlines -----------------------------------------------------------------------------------


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

"""Masks: labels to pixels, label files in and out, truth to classes, pictures for people."""

import io
import zlib
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datus.inputs.labels import decode_labels
from datus.method.masks import PALETTE, encode_mask, fill_from_neighbours, labels_to_pixels, overlay
from datus.types import IGNORE, Array, Assignments, SegmentMap

BIG = 10**7
IDS = np.array([[0, 1, 2, 3], [7, 7, 200, 255], [9, 8, 7, 6]], np.uint8)


# --- labels to pixels ----------------------------------------------------------------


def test_a_grid_of_patches_becomes_blocks_of_pixels():
    labels = np.array([[1, 2], [3, 4]], np.int32)
    assert labels_to_pixels(labels, 4, 6).tolist() == [
        [1, 1, 1, 2, 2, 2],
        [1, 1, 1, 2, 2, 2],
        [3, 3, 3, 4, 4, 4],
        [3, 3, 3, 4, 4, 4],
    ]


def test_a_pixel_centre_on_a_border_belongs_to_the_label_behind_it():
    assert labels_to_pixels(np.array([[1, 2]], np.int32), 1, 3).tolist() == [[1, 2, 2]]
    assert labels_to_pixels(np.array([[1, 2, 3]], np.int32), 1, 2).tolist() == [[1, 3]]


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([np.uint8, np.int16, np.int32]),
)
def test_every_pixel_takes_the_label_under_its_centre(grid, size, dtype):
    labels = np.arange(grid[0] * grid[1], dtype=dtype).reshape(grid)
    pixels = labels_to_pixels(labels, *size)
    assert pixels.dtype == dtype
    assert pixels.shape == size
    for y, x in np.ndindex(*size):
        row = (Fraction(y) + Fraction(1, 2)) * grid[0] // size[0]
        column = (Fraction(x) + Fraction(1, 2)) * grid[1] // size[1]
        assert pixels[y, x] == labels[int(row), int(column)]


def test_labels_of_their_own_size_stay_as_they_are():
    assert np.array_equal(labels_to_pixels(IDS, 3, 4), IDS)


def test_noise_takes_the_cluster_it_touches_most():
    segments = split(np.array([[0, 0, 1, 1], [0, 2, 2, 1], [3, 3, 1, 4]], np.int32))
    found = Assignments(np.array([5, 7, -1, -1, -1], np.int16), np.zeros(5, np.float32))
    filled = fill_from_neighbours(segments, found)
    # segment 2 touches 0 in four pairs and 1 in six; 3 touches 0 twice and 1 once; 4 only 1
    assert filled.cluster.tolist() == [5, 7, 7, 5, 7]
    assert found.cluster.tolist() == [5, 7, -1, -1, -1]


def test_noise_far_from_any_cluster_is_reached_in_steps_and_without_any_it_stays():
    segments = split(np.array([[0, 1, 2, 3]], np.int32))
    margin = np.zeros(4, np.float32)
    one = Assignments(np.array([3, -1, -1, -1], np.int16), margin)
    assert fill_from_neighbours(segments, one).cluster.tolist() == [3, 3, 3, 3]
    none = Assignments(np.full(4, -1, np.int16), margin)
    assert fill_from_neighbours(segments, none).cluster.tolist() == [-1] * 4


def split(labels):
    """A SegmentMap of which only the labels matter."""
    n_segments = int(labels.max()) + 1
    ones = np.ones(n_segments, np.int32)
    return SegmentMap(labels, ones, ones, np.zeros((n_segments, 4), np.int32), 0.0)


# --- mask files ----------------------------------------------------------------


def test_a_mask_comes_back_as_it_was_written():
    every = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for mask in (IDS, every, every[:, ::2], np.zeros((1, 1), np.uint8)):
        assert np.array_equal(decode_labels(encode_mask(mask), BIG), mask)


def test_a_mask_file_is_an_8_bit_palette_png_and_always_the_same_bytes():
    data = encode_mask(IDS)
    assert data == encode_mask(IDS.copy(order="F"))
    assert data[24:26] == b"\x08\x03"  # bit depth 8, colour type palette
    image = Image.open(io.BytesIO(data))
    assert image.getpalette() == PALETTE.ravel().tolist()
    assert np.array_equal(np.asarray(image.convert("RGB")), PALETTE[IDS])
    assert len(image.info) == 0  # no time stamp, no software


# --- colours ----------------------------------------------------------------


def test_every_cluster_has_its_own_colour_and_no_label_is_black():
    assert PALETTE.dtype == np.uint8
    assert PALETTE.shape == (256, 3)
    assert len(np.unique(PALETTE, axis=0)) == 256
    assert PALETTE[IGNORE].tolist() == [0, 0, 0]


def test_the_first_colours_are_far_apart_and_no_colour_is_nearly_black_white_or_grey():
    from skimage.color import rgb2lab

    lab = rgb2lab(PALETTE[None] / 255)[0]
    apart = np.linalg.norm(lab[:20, None] - lab[None, :20], axis=-1)
    assert apart[~np.eye(20, dtype=bool)].min() > 35
    nearest = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 999 * np.eye(256)
    assert nearest.min() > 6  # two colours can be told apart side by side from about 2.3 on
    assert lab[:255, 0].min() > 37
    assert lab[:255, 0].max() < 91
    assert np.hypot(lab[:255, 1], lab[:255, 2]).min() > 24


def test_the_palette_never_changes():
    expected = [[119, 0, 255], [0, 255, 0], [255, 34, 0], [0, 170, 204], [255, 221, 102]]
    assert PALETTE[:5].tolist() == expected
    assert zlib.crc32(PALETTE.tobytes()) == 3004600366


def test_an_overlay_mixes_colours_dims_unlabelled_pixels_and_darkens_borders():
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[2] = (200, 0, 100), (0, 100, 200)
    image = np.full((3, 4, 3), 100, np.uint8)
    mask = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 255, 255]], np.uint8)
    shown = overlay(image, mask, palette, 0.5)
    assert shown.dtype == np.uint8
    one, two, dim = [150, 50, 100], [50, 100, 150], [40, 40, 40]
    border_one, border_two = [75, 25, 50], [25, 50, 75]
    assert shown.tolist() == [
        [one, border_one, two, two],
        [one, border_one, border_two, border_two],
        [one, border_one, dim, dim],
    ]


def test_alpha_goes_from_the_image_to_the_colours():
    image, mask = np.full((2, 2, 3), 90, np.uint8), np.full((2, 2), 3, np.uint8)
    assert np.array_equal(overlay(image, mask, PALETTE, 0.0), image)
    assert np.array_equal(overlay(image, mask, PALETTE, 1.0), PALETTE[mask])
    assert np.all(image == 90)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 8), st.integers(0, 10_000))
def test_noise_takes_the_label_it_touches_most_as_loops_say(
    rows: int, columns: int, n_segments: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_segments, (rows, columns)).astype(np.int32)
    cluster = rng.integers(-1, 3, n_segments).astype(np.int16)
    n_patches = np.bincount(labels.ravel(), minlength=n_segments).astype(np.int32)
    boxes = np.zeros((n_segments, 4), np.int32)
    segments = SegmentMap(labels, np.zeros(n_segments, np.int32), n_patches, boxes, 0.0)
    found = fill_from_neighbours(segments, Assignments(cluster, np.zeros(n_segments, np.float32)))
    np.testing.assert_array_equal(found.cluster, slow_fill(labels, cluster))


def slow_fill(labels: Array, cluster: Array) -> Array:
    contacts = np.zeros((len(cluster), len(cluster)), int)
    for (row, column), one in np.ndenumerate(labels):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            at = row + down, column + right
            if 0 <= at[0] < labels.shape[0] and 0 <= at[1] < labels.shape[1] and labels[at] != one:
                contacts[one, labels[at]] += 1
                contacts[labels[at], one] += 1
    filled = cluster.copy()
    while True:
        before = filled.copy()
        for one in np.flatnonzero(before < 0):
            votes = np.where(before >= 0, contacts[one], 0)
            if votes.any():
                filled[one] = before[votes.argmax()]
        if np.array_equal(before, filled):
            return filled

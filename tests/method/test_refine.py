"""Patch blocks to borders that follow the image, against a reference that adds vote by vote."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datus.errors import ImageError
from datus.method.masks import labels_to_pixels
from datus.method.refine import Bilateral, _mean_colours, refine
from datus.types import IGNORE, Array

U = IGNORE
SHARP = Bilateral(blur_patches=0.0)
RED, BLUE = (220, 40, 30), (20, 60, 210)


def halves(height: int, width: int, column: int) -> Array:
    """Red to the left of `column`, blue from there on."""
    image = np.full((height, width, 3), RED, np.uint8)
    image[:, column:] = BLUE
    return image


# --- what it is for -----------------------------------------------------------------------------


def test_a_border_moves_from_the_block_to_where_the_colour_changes():
    image = halves(60, 80, 43)  # patches of ten pixels: the blocks end at 40
    labels = np.tile(np.array([3, 3, 3, 3, 9, 9, 9, 9], np.uint8), (6, 1))
    expected = np.where(np.arange(80) < 43, 3, 9)
    assert np.array_equal(refine(image, labels, SHARP), np.tile(expected, (60, 1)))
    assert (refine(image, labels) == expected).mean() > 0.97, "the blur may move it by a pixel"


def test_a_thin_part_is_found_where_patches_of_its_colour_are_near():
    image = halves(60, 80, 40)
    image[30:33, 40:50] = RED  # three pixels high, less than half of any patch
    labels = np.tile(np.array([3, 3, 3, 3, 9, 9, 9, 9], np.uint8), (6, 1))
    refined = refine(image, labels, SHARP)
    assert (refined[30:33, 40:50] == 3).all()
    assert np.count_nonzero(refined[:, 40:] == 3) == 30


def test_where_all_colours_are_equal_place_decides():
    labels = np.array([[0, 0, 0, 1, 1, 1]], np.uint8)
    refined = refine(np.full((10, 60, 3), 90, np.uint8), labels)
    assert np.array_equal(refined, labels_to_pixels(labels, 10, 60))


def test_where_no_colour_is_near_place_decides():
    image = halves(40, 40, 20)
    image[5, 5] = (0, 255, 0)
    labels = np.array([[1, 2], [1, 2]], np.uint8)
    assert refine(image, labels, SHARP)[5, 5] == 1


# --- pixels without a label ---------------------------------------------------------------------


def test_patches_without_label_do_not_vote_and_keep_their_pixels():
    labels = np.array([[0, U, 1], [0, U, 1]], np.uint8)
    image = halves(20, 30, 15)
    refined = refine(image, labels)
    assert np.array_equal(refined == U, labels_to_pixels(labels, 20, 30) == U)
    assert set(np.unique(refined)) == {0, 1, U}


@pytest.mark.parametrize("label", [0, 7, U])
def test_one_label_stays_everywhere(label):
    refined = refine(halves(9, 7, 3), np.full((2, 3), label, np.uint8))
    assert refined.dtype == np.uint8
    assert np.array_equal(refined, np.full((9, 7), label))


# --- against a reference ------------------------------------------------------------------------


def slow_means(image: Array, n_rows: int, n_columns: int) -> Array:
    """Every pixel is cut into n_rows x n_columns equal pieces, every patch takes its own."""
    pieces = image.repeat(n_rows, axis=0).repeat(n_columns, axis=1).astype(float)
    height, width = image.shape[:2]
    blocks = pieces.reshape(n_rows, height, n_columns, width, 3)
    return np.floor(blocks.mean(axis=(1, 3)) + 0.5)


def slow(image: Array, labels: Array, settings: Bilateral) -> Array:
    """Sums of exact weights, pixel by pixel; nothing is rounded. NaN-free float64 (H, W, 256)."""
    height, width = image.shape[:2]
    mean = slow_means(image, *labels.shape)
    votes = np.zeros((height, width, 256))
    for y, x in np.ndindex(height, width):
        row = (2 * y + 1) * labels.shape[0] // (2 * height)
        column = (2 * x + 1) * labels.shape[1] // (2 * width)
        down = (y + 0.5) * labels.shape[0] / height - 0.5
        right = (x + 0.5) * labels.shape[1] / width - 0.5
        for v, u in np.ndindex(*labels.shape):
            near = max(abs(v - row), abs(u - column)) <= settings.reach
            if near and labels[v, u] != U:
                place = math.dist((v, u), (down, right)) / settings.sigma_patches
                colour = math.dist(mean[v, u], image[y, x]) / 255 / settings.sigma_colour
                alike = max(1 - colour**2 / 16, 0) ** 8 + 1e-6  # e^(-colour²/2), and an end
                votes[y, x, labels[v, u]] += math.exp(-(place**2) / 2) * alike
    return votes


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.data())
def test_mean_colours_are_exact(height, width, n_rows, n_columns, data):
    seed = data.draw(st.integers(0, 2**31))
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = slow_means(image, n_rows, n_columns)
    assert np.array_equal(_mean_colours(image, n_rows, n_columns), expected)


def test_sums_of_a_very_high_image_do_not_overflow():
    image = np.full((2**31 // 255 + 1, 1, 3), 255, np.uint8)
    image[:, 0, 1] = 7
    assert _mean_colours(image, 1, 1).tolist() == [[[255, 7, 255]]]


def test_mean_colours_of_a_photo_are_those_of_opencv():
    image = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    expected = cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA)
    assert np.array_equal(_mean_colours(image, 24, 32), expected)


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(0, 2**31), st.sampled_from([(0, 1), (1, 1), (4, 3)]))
def test_the_winner_has_as_many_votes_as_the_best_of_exact_sums(size, seed, reach_sigma):
    height, width, n_rows, n_columns = size
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 200, U], np.uint8), (n_rows, n_columns))
    settings = Bilateral(reach_sigma[0], float(reach_sigma[1]), 0.2, 0.0, step=1)
    refined, votes = refine(image, labels, settings), slow(image, labels, settings)
    hidden = labels_to_pixels(labels, height, width) == U
    assert np.array_equal(refined == U, hidden)
    won = np.take_along_axis(votes, refined[..., None].astype(int), axis=2)[..., 0]
    assert (won[~hidden] >= 0.99999 * votes.max(axis=2)[~hidden]).all(), "float32 has 7 digits"


def in_between(every: Array, shape: tuple[int, int], step: int) -> Array:
    """What `step` makes of the winners at every pixel: each block is looked at by itself."""
    height, width = every.shape
    rows = labels_to_pixels(np.arange(shape[0])[:, None], height, 1)[:, 0]
    columns = labels_to_pixels(np.arange(shape[1])[None], 1, width)[0]
    expected = every.copy()
    for y, x in np.ndindex(height, width):
        corners = [
            (min(low, last), min(low + step * (here != low), last))
            for here, first, last in (
                (y, np.flatnonzero(rows == rows[y])[0], np.flatnonzero(rows == rows[y])[-1]),
                (x, *np.flatnonzero(columns == columns[x])[[0, -1]]),
            )
            for low in [here if here == last else here - (here - first) % step]
        ]
        around = {int(every[v, u]) for v in corners[0] for u in corners[1]}
        if len(around) == 1:
            expected[y, x] = around.pop()
    return expected


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 2**31), st.integers(2, 4))
def test_a_pixel_between_lattice_pixels_of_one_label_takes_it_the_others_are_counted(
    size, seed, step
):
    height, width, n_rows, n_columns = 4 * size[0], 4 * size[1], size[2], size[3]
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 200, U], np.uint8), (n_rows, n_columns))
    every = refine(image, labels, replace(SHARP, step=1))
    found = refine(image, labels, replace(SHARP, step=step))
    assert np.array_equal(found, in_between(every, labels.shape, step))


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.uint8, (12, 15, 3)), arrays.arrays(np.uint8, (3, 4)))
def test_only_labels_of_the_patches_and_always_the_same_bytes(image, labels):
    refined = refine(image, labels)
    assert set(np.unique(refined)) <= set(np.unique(labels))
    assert np.array_equal(refine(np.asfortranarray(image), labels), refined)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "labels", "text"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((2, 2), np.uint8), "image: expected uint8 (H, W, 3)"),
        (np.zeros((4, 4, 3)), np.zeros((2, 2), np.uint8), "image: expected uint8 (H, W, 3)"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2), int), "labels: expected uint8 (gh, gw)"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((0, 2), np.uint8), "labels: expected uint8"),
    ],
)
def test_other_shapes_and_types_are_refused(image, labels, text):
    with pytest.raises(ImageError) as caught:
        refine(image, labels)
    assert text in str(caught.value)

"""Imperfect labels to what a model learns from. Dense masks, scribbles and points alike.

    cell_shares(labels, grid, n)     uint8 (n, gh, gw): how much of each cell has which label
    largest_share(labels)            of the labelled pixels, the most frequent label
    count_labels(labels, n)          int64 (n,): pixels of each label
    cut(image, labels, choice)       one crop of both, at one scale, mirrored or not

Labels are uint8 (H, W), IGNORE where nothing is known. They are counted or picked, never
interpolated. A cell is a patch of the ViT: every known pixel in it counts, be it one.
"""

from dataclasses import dataclass

import numpy as np

from datus.errors import ImageError
from datus.inputs.images import resize_image
from datus.types import IGNORE, Array

FULL = 255
"""A cell share of 1: all pixels of the cell have the label."""


def cell_shares(labels: Array, grid: tuple[int, int], n_classes: int) -> Array:
    """uint8 (n_classes, gh, gw), in 255ths of the cell's pixels; at least 1 where there is one.

    A pixel belongs to the cell under its centre. An image with fewer pixels than cells gives cells
    without any. Raises ImageError on a label that is neither below `n_classes` nor IGNORE.
    """
    count_labels(labels, n_classes)
    (height, width), (rows, columns) = labels.shape, grid
    row = (2 * np.arange(height) + 1) * rows // (2 * height)
    column = (2 * np.arange(width) + 1) * columns // (2 * width)
    cell = (row * columns)[:, None] + column
    known = labels != IGNORE
    place = labels[known].astype(np.int64) * (rows * columns) + cell[known]
    counts = np.bincount(place, minlength=n_classes * rows * columns)
    sizes = np.bincount(row, minlength=rows)[:, None] * np.bincount(column, minlength=columns)
    counts = counts.reshape(n_classes, rows, columns)
    # rounded up: a single point in a large cell must not vanish
    shares: Array = -(-FULL * counts // np.maximum(sizes, 1))
    return shares.astype(np.uint8)


def count_labels(labels: Array, n_classes: int) -> Array:
    """int64 (n_classes,). Raises ImageError on other labels than these and IGNORE."""
    counts = np.bincount(labels.ravel(), minlength=256).astype(np.int64)
    wrong = np.flatnonzero(counts[n_classes:IGNORE])
    if len(wrong):
        raise ImageError(
            f"labels: expected ids below {n_classes}, or {IGNORE} for unknown, "
            f"got {wrong[0] + n_classes}; were they made for another class table?"
        )
    return counts[:n_classes]


def largest_share(counts: Array) -> float:
    """Of `count_labels`: 0..1, and 1 where no pixel is labelled: nothing to learn there."""
    total = int(counts.sum())
    return int(counts.max(initial=0)) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of an image, at which size. Pixels of the image as it was made larger."""

    size: tuple[int, int]
    """(h, w) of the whole image when it is cut."""
    box: tuple[int, int, int, int]
    """(top, left, height, width) in it; what lies outside is black and unlabelled."""
    mirrored: bool


SCALE = 1.5
"""Augmented images are this much larger or smaller at most."""


def choose_cut(
    size: tuple[int, int], side: tuple[int, int], augment: bool, rng: np.random.Generator
) -> Cut:
    """A crop of `side` (h, w) from an image of `size` (h, w), anywhere in it; augmented, at another
    scale, and mirrored or not."""
    factor = float(np.exp(rng.uniform(-np.log(SCALE), np.log(SCALE)))) if augment else 1.0
    height, width = (max(1, round(one * factor)) for one in size)
    top = int(rng.integers(0, max(0, height - side[0]) + 1))
    left = int(rng.integers(0, max(0, width - side[1]) + 1))
    return Cut((height, width), (top, left, *side), bool(augment and rng.integers(2)))


def cut(image: Array, labels: Array, choice: Cut) -> tuple[Array, Array]:
    """(uint8 (h, w, 3), uint8 (h, w)) of the chosen part. `labels` may have another size than
    `image` but must show the same."""
    top, left, height, width = choice.box
    whole = resize_image(image, choice.size)
    part = whole[top : top + height, left : left + width]
    rows = (2 * np.arange(choice.size[0]) + 1) * labels.shape[0] // (2 * choice.size[0])
    columns = (2 * np.arange(choice.size[1]) + 1) * labels.shape[1] // (2 * choice.size[1])
    known = labels[rows[top : top + height]][:, columns[left : left + width]]
    pixels = np.zeros((height, width, 3), np.uint8)
    marks = np.full((height, width), IGNORE, np.uint8)
    pixels[: part.shape[0], : part.shape[1]] = part
    marks[: known.shape[0], : known.shape[1]] = known
    if choice.mirrored:
        pixels, marks = pixels[:, ::-1], marks[:, ::-1]
    return np.ascontiguousarray(pixels), np.ascontiguousarray(marks)

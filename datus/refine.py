"""Blocks of patches -> borders that follow the image: joint bilateral upsampling.

    refine(image, labels)      uint8 (H, W): a label for every pixel

In:  the image, uint8 (H, W, 3) RGB at its own size, and uint8 (gh, gw) labels of its patches.
Out: uint8 (H, W). A pixel takes the label that wins the votes of the patches around it; a patch
     votes the more, the nearer it is and the closer its mean colour is to the pixel's (Kopf et al.,
     "Joint bilateral upsampling", 2007, here with labels instead of values).

Patches without a label (IGNORE) do not vote, and pixels under them stay IGNORE, so refinement moves
no share of coverage. Weights are whole numbers from tables: sums do not depend on their order, and
the same input gives the same bytes. Memory is the image twice and the result, whatever the number
of labels. One pass on one thread; the GIL is free.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from datus.compiled import compiled
from datus.errors import ImageError
from datus.records import IGNORE, Array


@dataclass(frozen=True, slots=True)
class Bilateral:
    """Who votes. Chosen on CamVid train and SUIM; the optimum is flat (docs/refine.md)."""

    reach: int = 4
    """Patches on each side that vote: 9 x 9 of them."""
    sigma_patches: float = 3.0
    """A patch this far from the pixel has 0.61 of the weight of one that is there."""
    sigma_colour: float = 0.07
    """Of RGB in 0..1: at this distance in colour the weight is 0.61."""
    blur_patches: float = 0.08
    """Sigma of the blur of the image before colours are compared: against single odd pixels."""


STANDARD = Bilateral()

_FAR = 3 * 255**2
"""The greatest squared distance of two colours."""
_COLOUR_STEP = 64
"""Squared distances share an entry of the table: 3,048 of them stay in the fastest cache."""
_COLOUR_ONE = 1 << 20
_PLACE_ONE = 1 << 10
"""Weight 1. 81 votes of 2^20 · 2^10 · 2^10 fit int64."""


def refine(image: Array, labels: Array, settings: Bilateral = STANDARD) -> Array:
    """uint8 (H, W): the label of every pixel, IGNORE under patches that have none.

    image: uint8 (H, W, 3) RGB; labels: uint8 (gh, gw) of its patches, which cover all of it.
    Raises ImageError if the shapes or types are others.
    """
    _check(image, labels)
    height, width = image.shape[:2]
    rows, columns = _under(height, labels.shape[0]), _under(width, labels.shape[1])
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) == 1:
        return np.full((height, width), names[0], np.uint8)
    voters = np.where(labels == IGNORE, -1, numbers.reshape(labels.shape)).astype(np.int64)
    won = _vote(
        _blurred(image, labels.shape, settings.blur_patches),
        _mean_colours(image, labels.shape),
        voters,
        (rows, columns),
        (
            _place_weights(height, labels.shape[0], settings),
            _place_weights(width, labels.shape[1], settings),
            _colour_weights(settings.sigma_colour),
        ),
    )
    refined: Array = names[won]
    return refined


def _check(image: Array, labels: Array) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(f"image: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
        raise ImageError(f"labels: expected uint8 (gh, gw), got {labels.dtype} {labels.shape}")


def _blurred(image: Array, grid: tuple[int, int], blur_patches: float) -> Array:
    """uint8 (H, W, 3). Sigma in pixels follows the size of a patch."""
    patch_px = max(image.shape[0] / grid[0], image.shape[1] / grid[1])
    sigma_px = blur_patches * patch_px
    if sigma_px < 0.3:  # the kernel would be one pixel
        return np.ascontiguousarray(image)
    blurred = cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.uint8)


def _mean_colours(image: Array, grid: tuple[int, int]) -> Array:
    """int64 (gh, gw, 3), 0..255."""
    mean = cv2.resize(image, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(mean, np.int64)


def _under(n_pixels: int, n_patches: int) -> Array:
    """int64 (n_pixels,): the patch that each pixel's centre lies in, as the painted blocks."""
    under: Array = (2 * np.arange(n_pixels) + 1) * n_patches // (2 * n_pixels)
    return under


def _place_weights(n_pixels: int, n_patches: int, settings: Bilateral) -> Array:
    """int64 (n_pixels, 2 reach + 1): weight of the patches around, along one side."""
    centres = (np.arange(n_pixels) + 0.5) * n_patches / n_pixels - 0.5
    offsets = np.arange(-settings.reach, settings.reach + 1)
    distances = (_under(n_pixels, n_patches)[:, None] + offsets) - centres[:, None]
    weights = np.exp(-(distances**2) / (2 * settings.sigma_patches**2))
    table: Array = np.maximum(np.rint(_PLACE_ONE * weights), 1).astype(np.int64)
    return table


def _colour_weights(sigma: float) -> Array:
    """int64 table by squared distance / _COLOUR_STEP. Never 0: where no colour is near, place
    alone decides."""
    squared = (np.arange(_FAR // _COLOUR_STEP + 1) + 0.5) * _COLOUR_STEP / 255**2
    weights = np.exp(-squared / (2 * sigma**2))
    table: Array = np.maximum(np.rint(_COLOUR_ONE * weights), 1).astype(np.int64)
    return table


@compiled
def _vote(
    image: Array,
    patches: Array,
    voters: Array,
    under: tuple[Array, Array],
    weights: tuple[Array, Array, Array],
) -> Array:
    """uint8 (H, W): number of the label that wins; the lowest on a tie.

    patches: int64 (gh, gw, 3) mean colours. voters: int64 (gh, gw) numbers of labels; -1 has no
    vote, its pixels get the number after the last. under: the patch of each row and column of
    pixels. weights: by row, by column, by colour.
    """
    rows, columns = under
    by_row, by_column, by_colour = weights
    reach, n_labels = by_row.shape[1] // 2, voters.max() + 1
    won = np.empty((len(rows), len(columns)), np.uint8)
    votes = np.empty(n_labels, np.int64)
    for y in range(len(rows)):
        first_row, last_row = max(rows[y] - reach, 0), min(rows[y] + reach, len(voters) - 1)
        for x in range(len(columns)):
            if voters[rows[y], columns[x]] < 0:
                won[y, x] = n_labels
                continue
            votes[:] = 0
            first, last = max(columns[x] - reach, 0), min(columns[x] + reach, voters.shape[1] - 1)
            for row in range(first_row, last_row + 1):
                weight_row = by_row[y, row - rows[y] + reach]
                for column in range(first, last + 1):
                    if voters[row, column] >= 0:
                        apart = 0
                        for channel in range(3):
                            step = patches[row, column, channel] - image[y, x, channel]
                            apart += step * step
                        weight = weight_row * by_column[x, column - columns[x] + reach]
                        votes[voters[row, column]] += weight * by_colour[apart // _COLOUR_STEP]
            won[y, x] = votes.argmax()
    return won

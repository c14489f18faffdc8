"""Blocks of patches -> borders that follow the image: joint bilateral upsampling.

    refine(image, labels)      uint8 (H, W): a label for every pixel

In:  the image, uint8 (H, W, 3) RGB at its own size, and uint8 (gh, gw) labels of its patches.
Out: uint8 (H, W). A pixel takes the label that wins the votes of the patches around it; a patch
     votes the more, the nearer it is and the closer its mean colour is to the pixel's (Kopf et al.,
     "Joint bilateral upsampling", 2007, here with labels instead of values).

Patches without a label (IGNORE) do not vote, and pixels under them stay IGNORE, so refinement moves
no share of coverage. Every pixel adds its votes in one fixed order: same input, same bytes. Memory
is the image twice and the result, whatever the number of labels. One pass on one thread; the GIL is
free.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from datus.compiled import compiled, inlined
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
    """Of RGB in 0..1: at this distance in colour the weight is 0.60."""
    blur_patches: float = 0.08
    """Sigma of the blur of the image before colours are compared: against single odd pixels."""


STANDARD = Bilateral()

_NO_COLOUR = np.float32(1e-6)
"""Weight of a patch of quite another colour. Not 0: where no colour is near, place decides."""


def refine(image: Array, labels: Array, settings: Bilateral = STANDARD) -> Array:
    """uint8 (H, W): the label of every pixel, IGNORE under patches that have none.

    image: uint8 (H, W, 3) RGB; labels: uint8 (gh, gw) of its patches, which cover all of it.
    Raises ImageError if the shapes or types are others.
    """
    _check(image, labels)
    height, width = image.shape[:2]
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) == 1:
        return np.full((height, width), names[0], np.uint8)
    won = _vote(
        _blurred(image, labels.shape, settings.blur_patches),
        _mean_colours(image, labels.shape),
        np.where(labels == IGNORE, -1, numbers.reshape(labels.shape)).astype(np.int64),
        (_edges(height, labels.shape[0]), _edges(width, labels.shape[1])),
        (
            _place_weights(height, labels.shape[0], settings),
            _place_weights(width, labels.shape[1], settings),
            np.float32(1 / (16 * (255 * settings.sigma_colour) ** 2)),
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
    """float32 (gh, gw, 3), whole numbers 0..255."""
    mean = cv2.resize(image, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(mean, np.float32)


def _under(n_pixels: int, n_patches: int) -> Array:
    """int64 (n_pixels,): the patch that each pixel's centre lies in, as the painted blocks."""
    under: Array = (2 * np.arange(n_pixels) + 1) * n_patches // (2 * n_pixels)
    return under


def _edges(n_pixels: int, n_patches: int) -> Array:
    """int64 (n_patches + 1,): the first pixel of each patch, and the end. Some may have none."""
    return np.searchsorted(_under(n_pixels, n_patches), np.arange(n_patches + 1))


def _place_weights(n_pixels: int, n_patches: int, settings: Bilateral) -> Array:
    """float32 (n_pixels, 2 reach + 1): weight of the patches around, along one side."""
    centres = (np.arange(n_pixels) + 0.5) * n_patches / n_pixels - 0.5
    offsets = np.arange(-settings.reach, settings.reach + 1)
    distances = (_under(n_pixels, n_patches)[:, None] + offsets) - centres[:, None]
    weights: Array = np.exp(-(distances**2) / (2 * settings.sigma_patches**2)).astype(np.float32)
    return weights


@compiled
def _vote(
    image: Array,
    patches: Array,
    voters: Array,
    edges: tuple[Array, Array],
    weights: tuple[Array, Array, np.float32],
) -> Array:
    """uint8 (H, W): number of the label that wins; the lowest on a tie.

    image: uint8 (H, W, 3). patches: float32 (gh, gw, 3) mean colours. voters: int64 (gh, gw)
    numbers of labels; -1 has no vote, its pixels get the number after the last. edges: first row
    of pixels of each row of patches, and the same for columns, with the end. weights: float32 by
    row, by column, and what a squared distance of colours is multiplied by.

    All pixels of a patch see the same patches, so they are counted together.
    """
    tops, lefts = edges
    reach, n_labels = weights[0].shape[1] // 2, voters.max() + 1
    n_most = np.diff(tops).max() * np.diff(lefts).max()
    colours = np.empty((3, n_most), np.float32)
    by_place = np.empty((2, 2 * reach + 1, n_most), np.float32)
    votes = np.empty((min(n_labels, (2 * reach + 1) ** 2), n_most), np.float32)
    slots, names = np.full(n_labels, -1), np.empty(n_labels, np.int64)
    won = np.empty(image.shape[:2], np.uint8)
    for row in range(len(voters)):
        for column in range(voters.shape[1]):
            block = won[tops[row] : tops[row + 1], lefts[column] : lefts[column + 1]]
            if voters[row, column] < 0:
                block[:] = n_labels
                continue
            top, left = max(row - reach, 0), max(column - reach, 0)
            around = voters[top : row + reach + 1, left : column + reach + 1]
            n_names = _name(around, slots, names)
            if n_names == 1:
                block[:] = names[0]
            else:
                corner = tops[row], lefts[column]
                _gather(image, corner, block.shape, colours)
                _places(weights, corner, block.shape, (top - row, left - column), by_place)
                votes[:n_names, : block.size] = 0
                seen = patches[top : row + reach + 1, left : column + reach + 1]
                _count(
                    colours, by_place, (around, seen), (slots, weights[2]), votes[:, : block.size]
                )
                _elect(votes, names[:n_names], block)
            slots[names[:n_names]] = -1
    return won


@inlined
def _name(around: Array, slots: Array, names: Array) -> int:
    """Number the labels of a window in `slots`, list them in `names`; how many there are."""
    n_names = 0
    for label in around.flat:
        if label >= 0 and slots[label] < 0:
            slots[label] = n_names
            names[n_names] = label
            n_names += 1
    return n_names


@inlined
def _gather(image: Array, corner: tuple[int, int], shape: tuple[int, int], colours: Array) -> None:
    """The pixels of a block as three rows of colours: the sums run over them at a stretch."""
    pixel = 0
    for y in range(corner[0], corner[0] + shape[0]):
        for x in range(corner[1], corner[1] + shape[1]):
            for channel in range(3):
                colours[channel, pixel] = image[y, x, channel]
            pixel += 1


@inlined
def _places(
    weights: tuple[Array, Array, np.float32],
    corner: tuple[int, int],
    shape: tuple[int, int],
    first: tuple[int, int],
    by_place: Array,
) -> None:
    """For the pixels of a block, the weights of the rows and of the columns of its window."""
    reach = weights[0].shape[1] // 2
    pixel = 0
    for y in range(corner[0], corner[0] + shape[0]):
        for x in range(corner[1], corner[1] + shape[1]):
            for offset in range(2 * reach + 1):
                by_place[0, offset, pixel] = weights[0][
                    y, min(offset + first[0] + reach, 2 * reach)
                ]
                by_place[1, offset, pixel] = weights[1][
                    x, min(offset + first[1] + reach, 2 * reach)
                ]
            pixel += 1


@inlined
def _count(
    colours: Array,
    by_place: Array,
    window: tuple[Array, Array],
    names: tuple[Array, np.float32],
    votes: Array,
) -> None:
    """Add the votes of a window's patches. (1 - x / 8)^8 for e^-x: no table, no call, 6 times as
    fast, and a bound beyond which a colour does not count."""
    around, patches = window
    slots, scale = names
    one, none = np.float32(1), np.float32(0)
    red, green, blue = colours[0], colours[1], colours[2]
    for row in range(around.shape[0]):
        for column in range(around.shape[1]):
            if around[row, column] < 0:
                continue
            sums = votes[slots[around[row, column]]]
            above, beside = by_place[0, row], by_place[1, column]
            r, g, b = patches[row, column, 0], patches[row, column, 1], patches[row, column, 2]
            for pixel in range(votes.shape[1]):
                dr, dg, db = red[pixel] - r, green[pixel] - g, blue[pixel] - b
                near = max(one - (dr * dr + dg * dg + db * db) * scale, none)
                near *= near
                near *= near
                near *= near
                sums[pixel] += above[pixel] * beside[pixel] * (near + _NO_COLOUR)


@inlined
def _elect(votes: Array, names: Array, block: Array) -> None:
    """Write the label with most votes; the lowest of equals."""
    pixel = 0
    for y in range(block.shape[0]):
        for x in range(block.shape[1]):
            best = 0
            for slot in range(1, len(names)):
                more, least = votes[slot, pixel], votes[best, pixel]
                if more > least or (more == least and names[slot] < names[best]):
                    best = slot
            block[y, x] = names[best]
            pixel += 1

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
from functools import lru_cache

import cv2
import numpy as np

from datus.compute.compiled import compiled, inlined
from datus.errors import ImageError
from datus.types import IGNORE, Array


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
    step: int = 2
    """Votes are counted at every second pixel of each side; one between four that agree takes their
    label, the others are counted too. 1 = all are counted (docs/refine.md)."""


STANDARD = Bilateral()

LANES = 16
"""float32 in the widest vectors."""

_NO_COLOUR = np.float32(1e-6)
"""Weight of a patch of quite another colour. Not 0: where no colour is near, place decides."""


def refine(image: Array, labels: Array, settings: Bilateral = STANDARD) -> Array:
    """uint8 (H, W): the label of every pixel, IGNORE under patches that have none.

    image: uint8 (H, W, 3) RGB; labels: uint8 (gh, gw) of its patches, which cover all of it.
    Raises ImageError if the shapes or types are others.
    """
    _check(image, labels)
    height, width = image.shape[:2]
    if np.all(labels == labels[0, 0]):
        return np.full((height, width), labels[0, 0], np.uint8)
    return _vote(
        _blurred(image, labels.shape, settings.blur_patches),
        _mean_colours(np.ascontiguousarray(image), *labels.shape),
        np.where(labels == IGNORE, -1, labels.astype(np.int64)),
        (_edges(height, labels.shape[0]), _edges(width, labels.shape[1])),
        (
            _place_weights(height, labels.shape[0], settings),
            _place_weights(width, labels.shape[1], settings),
            np.float32(1 / (16 * (255 * settings.sigma_colour) ** 2)),
            settings.step,
        ),
    )


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


def _mean_colours(image: Array, n_rows: int, n_columns: int) -> Array:
    """float32 (gh, gw, 3): mean colours of the patches, whole numbers 0..255, halves upwards.

    image: uint8 (H, W, 3), C order. A pixel that lies in several patches counts in each by its
    share, in whole units of 1 / gh and 1 / gw of a pixel: sums are exact.
    """
    height, width = image.shape[:2]
    fits = 255 * height <= np.iinfo(np.int32).max  # the shares in a patch add up to the height
    return _means(image, np.empty(width * 3, np.int32 if fits else np.int64), n_rows, n_columns)


@compiled
def _means(image: Array, sums: Array, n_rows: int, n_columns: int) -> Array:
    """Rows are added first, at the width of the machine's vectors. sums: room for 3 W numbers."""
    height, width = image.shape[:2]
    lines = image.reshape(height, width * 3)
    means = np.empty((n_rows, n_columns, 3), np.float32)
    for row in range(n_rows):
        sums[:] = 0
        for y in range(row * height // n_rows, -(-(row + 1) * height // n_rows)):
            share = np.int32(_shared(y, row, n_rows, height))
            line = lines[y]
            for i in range(width * 3):
                sums[i] += share * np.int32(line[i])
        for column in range(n_columns):
            red, green, blue = 0, 0, 0
            for x in range(column * width // n_columns, -(-(column + 1) * width // n_columns)):
                part = _shared(x, column, n_columns, width)
                red += part * sums[3 * x]
                green += part * sums[3 * x + 1]
                blue += part * sums[3 * x + 2]
            for channel, total in enumerate((red, green, blue)):
                means[row, column, channel] = (2 * total + height * width) // (2 * height * width)
    return means


@inlined
def _shared(pixel: int, patch: int, n_patches: int, n_pixels: int) -> int:
    """What a pixel and a patch have in common along one side, in units of 1 / n_patches pixels."""
    return min((pixel + 1) * n_patches, (patch + 1) * n_pixels) - max(
        pixel * n_patches, patch * n_pixels
    )


def _under(n_pixels: int, n_patches: int) -> Array:
    """int64 (n_pixels,): the patch that each pixel's centre lies in, as the painted blocks."""
    return np.asarray((2 * np.arange(n_pixels) + 1) * n_patches // (2 * n_pixels))


@lru_cache(64)
def _edges(n_pixels: int, n_patches: int) -> Array:
    """int64 (n_patches + 1,): the first pixel of each patch, and the end. Some may have none."""
    return np.searchsorted(_under(n_pixels, n_patches), np.arange(n_patches + 1))


@lru_cache(64)
def _place_weights(n_pixels: int, n_patches: int, settings: Bilateral) -> Array:
    """float32 (2 reach + 1, n_pixels): weight of the patches around, along one side."""
    centres = (np.arange(n_pixels) + 0.5) * n_patches / n_pixels - 0.5
    offsets = np.arange(-settings.reach, settings.reach + 1)
    distances = (_under(n_pixels, n_patches)[:, None] + offsets) - centres[:, None]
    weights = np.exp(-(distances**2) / (2 * settings.sigma_patches**2)).astype(np.float32)
    return np.ascontiguousarray(weights.T)


@compiled
def _vote(
    image: Array,
    patches: Array,
    voters: Array,
    edges: tuple[Array, Array],
    weights: tuple[Array, Array, np.float32, int],
) -> Array:
    """uint8 (H, W): the label that wins; the lowest on a tie.

    image: uint8 (H, W, 3). patches: float32 (gh, gw, 3) mean colours. voters: int64 (gh, gw)
    labels; -1 has no vote, its pixels get IGNORE. edges: first row of pixels of each row of
    patches, and the same for columns, with the end. weights: float32 by row, by column, what a
    squared distance of colours is multiplied by; and `Bilateral.step`.

    All pixels of a patch see the same patches, so they are counted together: first those on the
    lattice, then those between lattice pixels that do not agree.
    """
    tops, lefts = edges
    reach = len(weights[0]) // 2
    n_most = _padded(np.diff(tops).max() * np.diff(lefts).max())
    points = np.empty((2, n_most), np.int64)
    memory = (
        np.zeros((3, n_most), np.float32),
        np.zeros((2, 2 * reach + 1, n_most), np.float32),
        np.empty((min(IGNORE, (2 * reach + 1) ** 2), n_most), np.float32),
    )
    slots, names = np.full(IGNORE, -1), np.empty(IGNORE, np.int64)
    won = np.empty(image.shape[:2], np.uint8)
    for row in range(len(voters)):
        for column in range(voters.shape[1]):
            box = tops[row], tops[row + 1], lefts[column], lefts[column + 1]
            if voters[row, column] < 0:
                won[box[0] : box[1], box[2] : box[3]] = IGNORE
                continue
            top, left = max(row - reach, 0), max(column - reach, 0)
            around = voters[top : row + reach + 1, left : column + reach + 1]
            n_names = _name(around, slots, names)
            if n_names == 1:
                won[box[0] : box[1], box[2] : box[3]] = names[0]
            else:
                seen = patches[top : row + reach + 1, left : column + reach + 1]
                window = around, seen, top - row + reach, left - column + reach
                known = slots, names[:n_names]
                n_points = _lattice(box, weights[3], points)
                _decide(image, points, window, weights, (*known, n_points), memory, won)
                n_points = _between(box, weights[3], won, points)
                if n_points > 0:
                    _decide(image, points, window, weights, (*known, n_points), memory, won)
            slots[names[:n_names]] = -1
    return won


@inlined
def _padded(n_points: int) -> int:
    """Whole vectors: what is left over would be counted one by one."""
    return (n_points + LANES - 1) // LANES * LANES


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
def _lattice(box: tuple[int, int, int, int], step: int, points: Array) -> int:
    """List (y, x) of every `step`-th row and column of a block, its last ones among them."""
    n_points = 0
    for y in range(box[0], box[1]):
        if (y - box[0]) % step == 0 or y == box[1] - 1:
            for x in range(box[2], box[3]):
                if (x - box[2]) % step == 0 or x == box[3] - 1:
                    points[0, n_points], points[1, n_points] = y, x
                    n_points += 1
    return n_points


@inlined
def _between(box: tuple[int, int, int, int], step: int, won: Array, points: Array) -> int:
    """Pixels between lattice pixels of one label take it; the others are listed."""
    n_points, above, last_row, last_column = 0, box[0], box[1] - 1, box[3] - 1
    while above <= last_row:
        below, left = min(above + step, last_row), box[2]
        while left <= last_column:
            right = min(left + step, last_column)
            label = won[above, left]
            beside, under = won[above, right] == label, won[below, left] == label
            inside = beside and under and won[below, right] == label
            for y in range(above, max(below, above + 1)):
                for x in range(left, max(right, left + 1)):
                    if y == above and x == left:
                        continue
                    if (beside and y == above) or (under and x == left) or inside:
                        won[y, x] = label
                    else:
                        points[0, n_points], points[1, n_points] = y, x
                        n_points += 1
            left = max(right, left + 1)
        above = max(below, above + 1)
    return n_points


@compiled
def _decide(
    image: Array,
    points: Array,
    window: tuple[Array, Array, int, int],
    weights: tuple[Array, Array, np.float32, int],
    known: tuple[Array, Array, int],
    memory: tuple[Array, Array, Array],
    won: Array,
) -> None:
    """Count the votes for some pixels of a block, and write who wins.

    points: int64 (2, most) rows and columns; window: labels and colours of the patches that vote,
    and where in the weights its first row and column stand; known: `slots` and `names` of `_name`,
    and how many points; memory: room for colours, weights of places and votes. The rows of room
    are taken whole: a compiler makes vectors of what it knows to lie side by side.
    """
    around, patches, first_row, first_column = window
    slots, names, n_points = known
    colours, by_place, votes = memory
    for i in range(n_points):
        y, x = points[0, i], points[1, i]
        for channel in range(3):
            colours[channel, i] = image[y, x, channel]
    for row in range(around.shape[0]):
        for i in range(n_points):
            by_place[0, row, i] = weights[0][first_row + row, points[0, i]]
    for column in range(around.shape[1]):
        for i in range(n_points):
            by_place[1, column, i] = weights[1][first_column + column, points[1, i]]
    n_padded = _padded(n_points)
    votes[: len(names), :n_padded] = 0
    _count(colours, by_place, (around, patches), (slots, weights[2], n_padded), votes)
    _elect(votes, names, (points, n_points), won)


@inlined
def _count(
    colours: Array,
    by_place: Array,
    window: tuple[Array, Array],
    names: tuple[Array, np.float32, int],
    votes: Array,
) -> None:
    """Add the votes of a window's patches. (1 - x / 8)^8 for e^-x: no table, no call, 6 times as
    fast, and a bound beyond which a colour does not count."""
    around, patches = window
    slots, scale, n_points = names
    one, none = np.float32(1), np.float32(0)
    red, green, blue = colours[0], colours[1], colours[2]
    for row in range(around.shape[0]):
        for column in range(around.shape[1]):
            if around[row, column] < 0:
                continue
            sums = votes[slots[around[row, column]]]
            above, beside = by_place[0, row], by_place[1, column]
            r, g, b = patches[row, column, 0], patches[row, column, 1], patches[row, column, 2]
            for pixel in range(n_points):
                dr, dg, db = red[pixel] - r, green[pixel] - g, blue[pixel] - b
                near = max(one - (dr * dr + dg * dg + db * db) * scale, none)
                near *= near
                near *= near
                near *= near
                sums[pixel] += above[pixel] * beside[pixel] * (near + _NO_COLOUR)


@inlined
def _elect(votes: Array, names: Array, where: tuple[Array, int], won: Array) -> None:
    """Write the label with most votes; the lowest of equals."""
    points, n_points = where
    for i in range(n_points):
        best = 0
        for slot in range(1, len(names)):
            more, least = votes[slot, i], votes[best, i]
            if more > least or (more == least and names[slot] < names[best]):
                best = slot
        won[points[0, i], points[1, i]] = names[best]

"""Logits on a grid -> labels of pixels, and logits of tiles -> logits of a large image.

    logits_to_pixels(logits, height, width)     labels, and how sure they are
    tile_starts(length, tile, overlap)          where tiles begin along a side
    Blend(n_classes, grid_rows, grid_columns)   add tiles, then read `logits()`

Logits are resized and then compared; labels never are (that is for `masks`). No torch here.
"""

import cv2
import numpy as np

from datus.types import Array


def logits_to_pixels(
    logits: Array, height: int, width: int, confidence: bool = False
) -> tuple[Array, Array | None]:
    """(labels uint8 (height, width), probability of that label in 255ths or None).

    logits: float32 (C, gh, gw). They are resized bilinearly (centres of pixels), then compared: the
    first of equal ones wins. Works in strips, one class at a time: beside the output it takes a few
    MB, however large the image and however many the classes.
    """
    labels = np.empty((height, width), np.uint8)
    sure = np.empty((height, width), np.uint8) if confidence else None
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = slice(top, min(height, top + rows))
        best = _resized_rows(logits[0], strip, height, width)
        label, rest = np.zeros(best.shape, np.uint8), np.ones(best.shape, np.float32)
        for number in range(1, len(logits)):
            plane = _resized_rows(logits[number], strip, height, width)
            higher = plane > best
            label[higher] = number
            if sure is not None:  # the sum of exp(logit - best) so far
                gap = np.exp(-np.abs(plane - best))
                rest = np.where(higher, rest * gap + 1, rest + gap)
            np.maximum(best, plane, out=best)
        labels[strip] = label
        if sure is not None:
            sure[strip] = np.rint(255 / rest).astype(np.uint8)
    return labels, sure


STRIP_PIXELS = 2**20


def _resized_rows(plane: Array, strip: slice, height: int, width: int) -> Array:
    """float32 (rows, width): these rows of `plane` (gh, gw) resized to (height, width)."""
    grid_rows = plane.shape[0]
    at = (np.arange(strip.start, strip.stop) + 0.5) * grid_rows / height - 0.5
    at = np.clip(at, 0, grid_rows - 1)
    above = np.floor(at).astype(np.int64)
    share = (at - above).astype(np.float32)[:, None]
    below = np.minimum(above + 1, grid_rows - 1)
    rows = plane[above] * (1 - share) + plane[below] * share
    resized: Array = cv2.resize(rows, (width, len(rows)), interpolation=cv2.INTER_LINEAR)
    return resized


# --- tiles --------------------------------------------------------------------------------------


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of `tile` cells begin that cover 0..length, neighbours sharing `overlap` or more.

    As even as whole cells allow; the last one ends at `length`. One tile if it is long enough.
    """
    if length <= tile:
        return [0]
    n_tiles = 1 + -(-(length - tile) // (tile - overlap))
    return [round(i * (length - tile) / (n_tiles - 1)) for i in range(n_tiles)]


class Blend:
    """Weighted mean of overlapping tiles, on the grid of the logits.

    A tile counts most in its middle and little at its edges, where it knows only one side of what
    it sees. Holds float32 (C, rows, columns), 1 / stride² of what the pixels would take.
    """

    def __init__(self, n_classes: int, rows: int, columns: int) -> None:
        self._sum = np.zeros((n_classes, rows, columns), np.float32)
        self._weight = np.zeros((rows, columns), np.float32)

    def add(self, logits: Array, top: int, left: int) -> None:
        """float32 (C, th, tw) of the tile whose first cell is (top, left)."""
        rows, columns = logits.shape[1:]
        weight = np.outer(_ramp(rows), _ramp(columns))
        place = slice(top, top + rows), slice(left, left + columns)
        self._sum[:, *place] += logits * weight
        self._weight[place] += weight

    def logits(self) -> Array:
        """float32 (C, rows, columns); every cell must have been covered. Use it once, at the end:
        the sums become the answer in place."""
        self._sum /= self._weight
        return self._sum


def _ramp(length: int) -> Array:
    """float32 (length,): up from the edge to the middle in equal steps, and down again."""
    place = np.arange(length)
    ramp: Array = np.minimum(place + 1, length - place).astype(np.float32)
    return ramp

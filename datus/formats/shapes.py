"""Run lengths and polygons -> pixels. The inverses of `exports.parts`, `outlines`, `labelstudio`.

    coco_mask(counts, height, width)     COCO's run lengths, as text or as numbers
    brush_mask(values, height, width)    Label Studio's
    polygon_mask(points, height, width)  a pixel is inside if its centre is, by the even-odd rule

All give bool (H, W) and raise ValueError with the reason, whatever they are given.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from datus.formats.labelstudio import RUN_BITS
from datus.types import Array

BLOCK_ROWS = 1 << 20
"""Crossings of polygon sides with rows that are computed at a time."""


def coco_mask(counts: str | Sequence[int], height: int, width: int) -> Array:
    """counts: pixels off, on, off ... down the columns."""
    runs = _spelled(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    n_all = height * width
    if runs.ndim != 1 or (runs < 0).any() or (runs > n_all).any() or runs.sum() != n_all:
        raise ValueError(f"run lengths do not add up to {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    mask: Array = np.repeat(values, runs).reshape(width, height).T
    return mask


def _spelled(text: str) -> Array:
    """int64 (n,): COCO's compressed run lengths, see `exports.parts.coco_text`."""
    letters = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(letters):
        return np.zeros(0, np.int64)
    if letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ValueError("run lengths have letters that COCO does not use")
    last = (letters & 32) == 0
    starts = np.r_[0, np.flatnonzero(last)[:-1] + 1]
    place = np.arange(len(letters)) - np.repeat(starts, np.diff(np.r_[starts, len(letters)]))
    if place.max() > 10:
        raise ValueError("a run length is too long")
    runs = np.add.reduceat((letters & 31) << 5 * place, starts)
    negative = (letters[last] & 16) != 0
    runs -= np.where(negative, np.int64(1) << 5 * (place[last] + 1), 0)
    for first in (1, 2):  # from the fourth on, the difference to two before
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def brush_mask(packed: Sequence[int], height: int, width: int) -> Array:
    """packed: bytes 0..255, see `exports.labelstudio.pack`. A pixel is on where alpha is not 0."""
    try:
        data = bytes(iter(packed))  # of a number bytes() would make so many zeros
    except (TypeError, ValueError):
        raise ValueError("brush run lengths: expected numbers 0 to 255") from None
    bits = _Bits(data)
    n_values, word = bits.take(32), bits.take(5) + 1
    if n_values != 4 * height * width:
        raise ValueError(f"brush run lengths hold {n_values} values, not 4 x {height} x {width}")
    widths = [bits.take(4) + 1 for _ in RUN_BITS]
    values, lengths, n_done = [], [], 0
    while n_done < n_values:
        repeats = bits.take(1)
        length = bits.take(widths[bits.take(2)]) + 1
        if repeats:
            values.append(bits.take(word))
            lengths.append(length)
        else:
            values += [bits.take(word) for _ in range(length)]
            lengths += [1] * length
        n_done += length
    if n_done > n_values:
        raise ValueError("brush run lengths go past the image")
    alpha: Array = np.repeat(np.array(values) > 0, lengths).reshape(height, width, 4)[..., 3]
    return alpha


class _Bits:
    """Numbers of any width from bytes, high bits first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, width: int) -> int:
        start, self.place = self.place, self.place + width
        if self.place > 8 * len(self.data):
            raise ValueError("brush run lengths end too early")
        last = (self.place + 7) // 8
        number = int.from_bytes(self.data[start // 8 : last], "big")
        return number >> (8 * last - self.place) & ((1 << width) - 1)


def polygon_mask(points: Any, height: int, width: int) -> Array:
    """points: (n, 2) columns and rows (x, y), or the same flat; (0, 0) is the corner of a pixel."""
    flat = np.asarray(points, np.float64).ravel()
    if flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all():
        raise ValueError("polygon: expected three points x, y or more")
    start = flat.reshape(-1, 2)
    end = np.roll(start, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    # rows whose centre, y + 0.5, is in [low, high): a corner counts for one of its two sides
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    turns = np.zeros((height, width + 1), np.uint8)  # only whether it is odd counts
    for part in _blocks(np.maximum(last - first, 0)):
        n_rows = (last - first)[part]
        side = np.repeat(np.arange(len(start))[part], n_rows)
        rows = np.arange(len(side)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
        rows += first[side]
        (x0, y0), (x1, y1) = start[side].T, end[side].T
        across = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(across - 0.5), 0, width).astype(np.int64)
        np.add.at(turns, (rows, columns), np.uint8(1))
    inside: Array = np.cumsum(turns, axis=1, dtype=np.uint8)[:, :width] % 2 == 1
    return inside


def _blocks(n_rows: Array) -> Iterator[slice]:
    """Sides of a polygon that cross BLOCK_ROWS rows together, or one of them."""
    ends, start = np.cumsum(n_rows), 0
    while start < len(n_rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK_ROWS, "right")))
        yield slice(start, stop)
        start = stop

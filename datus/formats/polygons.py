"""One connected part -> one closed path, holes cut in, and polygons -> pixels.

    outline(part)                          sides of pixels: the path encloses exactly the part
    outline(part, centres=True)            from centre to centre of the outermost pixels, for tools
                                           that draw the border too
    polygon_mask(points, height, width)    a pixel is inside if its centre is, by the even-odd rule

Written here because contours of OpenCV and scikit-image neither follow the sides of pixels nor join
holes to the rim. The rings of a part (its rim and its holes) are joined by cuts of no width: from
the top left of each hole level to the left, through pixels of the part, to the next ring. Both ways
of filling, even-odd and by winding number, leave the holes open, since rim and holes run in
opposite ways.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from datus.compute.compiled import compiled, inlined
from datus.types import Array

BLOCK_ROWS = 1 << 20
"""Crossings of polygon sides with rows that are computed at a time."""


_CORNERS = np.full((16, 2), -1)
"""Of four pixels around a point, one bit each (upper left, upper right, lower left, lower right):
the pixel of the part that each corner goes around. Where two pixels touch in a point there are two
corners, the upper one first."""
for _pixel in range(4):
    _CORNERS[1 << _pixel, 0] = _pixel
    _CORNERS[15 - (1 << _pixel), 0] = 3 - _pixel
_CORNERS[0b1001], _CORNERS[0b0110] = (0, 3), (1, 2)


@compiled
def outline(part: Array, centres: bool = False) -> Array:
    """int32 (n, 2): columns and rows (x, y) of one closed path around a part; the last point joins
    the first.

    part: bool (h, w), connected by sides of pixels. (0, 0) is the upper left corner of the first
    pixel, or with `centres` its centre.
    """
    points, steps = _corners(part)
    order, edges = _walked(points, steps, _row_mates(points, steps, part.shape[0]))
    rings = np.empty((len(points), 2), np.int32)
    for place in range(len(order)):
        for axis in range(2):
            back = centres and steps[order[place], axis] < 0
            rings[place, axis] = points[order[place], axis] - back
    return _joined(rings, edges)


@inlined
def _corners(part: Array) -> tuple[Array, Array]:
    """(int32 (n, 2) x and y, (n, 2) of -1 or 1: where the part's pixel lies), by column, then row.

    So each two in turn are the ends of one side along a column.
    """
    height, width = part.shape
    around = np.zeros((width + 1, height + 1), np.int64)
    for y in range(height):
        for x in range(width):
            if part[y, x]:
                around[x + 1, y + 1] += 1
                around[x, y + 1] += 2
                around[x + 1, y] += 4
                around[x, y] += 8
    n_corners = 0
    for x in range(width + 1):
        for y in range(height + 1):
            for pixel in range(2):
                n_corners += _CORNERS[around[x, y], pixel] >= 0
    points, steps = np.empty((n_corners, 2), np.int32), np.empty((n_corners, 2), np.int32)
    n_corners = 0
    for x in range(width + 1):
        for y in range(height + 1):
            for which in range(2):
                pixel = _CORNERS[around[x, y], which]
                if pixel >= 0:
                    points[n_corners, 0], points[n_corners, 1] = x, y
                    steps[n_corners, 0] = 2 * (pixel % 2) - 1
                    steps[n_corners, 1] = 2 * (pixel // 2) - 1
                    n_corners += 1
    return points, steps


@inlined
def _row_mates(points: Array, steps: Array, height: int) -> Array:
    """int64 (n,): the other end of each corner's side along its row."""
    ends = np.zeros(height + 2, np.int64)
    for corner in range(len(points)):
        ends[points[corner, 1] + 1] += 1
    for y in range(height + 1):
        ends[y + 1] += ends[y]
    order, mates = np.empty(len(points), np.int64), np.empty(len(points), np.int64)
    for corner in range(len(points)):
        x, y = points[corner, 0], points[corner, 1]
        place = ends[y]
        order[place] = corner
        ends[y] += 1
        # two corners in one point: the one whose pixel is on the left comes first
        second = corner > 0 and points[corner - 1, 0] == x and points[corner - 1, 1] == y
        if second and steps[corner, 0] < 0:
            order[place - 1], order[place] = corner, corner - 1
    for place in range(0, len(order), 2):
        mates[order[place]], mates[order[place + 1]] = order[place + 1], order[place]
    return mates


@inlined
def _walked(points: Array, steps: Array, row_mates: Array) -> tuple[Array, Array]:
    """(corners, ring after ring, first of each ring and the end): the rim, then the holes from left
    to right, each along a column, along a row, and so on. The part is at the right hand."""
    seen = np.zeros(len(points), np.bool_)
    order, edges = np.empty(len(points), np.int64), np.empty(len(points) + 1, np.int64)
    n_walked = n_rings = 0
    for start in range(len(points)):
        # the other end of its side along the column; who walks down has the part to the left
        down = points[start ^ 1, 1] > points[start, 1]
        if seen[start] or down != (steps[start, 0] < 0):
            continue
        edges[n_rings] = n_walked
        n_rings += 1
        here, along_column = start, True
        while not seen[here]:
            seen[here] = True
            order[n_walked] = here
            n_walked += 1
            here = here ^ 1 if along_column else row_mates[here]
            along_column = not along_column
    edges[n_rings] = n_walked
    return order, edges[: n_rings + 1]


@inlined
def _joined(points: Array, edges: Array) -> Array:
    """One path. A cut to the left of a hole meets the rim or a hole that came before."""
    path = np.empty((len(points) + 3 * (len(edges) - 2), 2), np.int32)
    n_path = edges[1]
    for i in range(n_path):
        path[i, 0], path[i, 1] = points[i, 0], points[i, 1]
    for hole in range(1, len(edges) - 1):
        first, end = edges[hole], edges[hole + 1]
        lead = first  # leftmost, uppermost
        for i in range(first, end):
            level = points[i, 0] == points[lead, 0] and points[i, 1] < points[lead, 1]
            lead = i if points[i, 0] < points[lead, 0] or level else lead
        x, y = points[lead, 0], points[lead, 1]
        side = _left_of(path, n_path, x, y)
        cut_x, n_more = path[side, 0], end - first + 3
        for i in range(n_path - 1, side, -1):
            path[i + n_more, 0], path[i + n_more, 1] = path[i, 0], path[i, 1]
        path[side + 1, 0], path[side + 1, 1] = cut_x, y
        for i in range(end - first):
            from_lead = lead + i if lead + i < end else lead + i - (end - first)
            path[side + 2 + i, 0] = points[from_lead, 0]
            path[side + 2 + i, 1] = points[from_lead, 1]
        path[side + n_more - 1, 0], path[side + n_more - 1, 1] = x, y
        path[side + n_more, 0], path[side + n_more, 1] = cut_x, y
        n_path += n_more
    return path


@inlined
def _left_of(path: Array, n_path: int, x: int, y: int) -> int:
    """The nearest side of the path along a column, level with the point or at it."""
    side = -1
    for i in range(n_path):
        after = i + 1 if i + 1 < n_path else 0
        if path[i, 0] == path[after, 0] and path[i, 0] <= x:
            above, below = min(path[i, 1], path[after, 1]), max(path[i, 1], path[after, 1])
            if above <= y <= below and (side < 0 or path[i, 0] > path[side, 0]):
                side = i
    return side


def polygon_mask(points: Any, height: int, width: int) -> Array:
    """bool (H, W): the pixels whose centre is inside.

    points: (n, 2) columns and rows (x, y), or the same flat; (0, 0) is the corner of a pixel.
    Raises ValueError: fewer than three points, or no numbers.
    """
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
    return np.asarray(np.cumsum(turns, axis=1, dtype=np.uint8)[:, :width] % 2 == 1)


def _blocks(n_rows: Array) -> Iterator[slice]:
    """Sides of a polygon that cross BLOCK_ROWS rows together, or one of them."""
    ends, start = np.cumsum(n_rows), 0
    while start < len(n_rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK_ROWS, "right")))
        yield slice(start, stop)
        start = stop

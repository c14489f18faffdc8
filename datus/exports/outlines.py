"""One connected part -> one closed path. Holes are cut in, nothing is filled or simplified.

    corners     whole numbers, on the sides of pixels: the path encloses exactly the part
    centres     from centre to centre of the outermost pixels, for tools that draw the border too

The rings of a part (its rim and its holes) are joined by cuts of no width: from the top left of
each hole level to the left, through pixels of the part, to the next ring. Both ways of filling,
even-odd and by winding number, leave the holes open, since rim and holes run in opposite ways.
"""

import numpy as np

from datus.records import Array

Ring = list[tuple[int, int]]


def outline(part: Array, centres: bool = False) -> Array:
    """int32 (n, 2): columns and rows (x, y) of one closed path around a part; the last point joins
    the first.

    part: bool (h, w), connected by sides of pixels. (0, 0) is the upper left corner of the first
    pixel, or with `centres` its centre.
    """
    return np.array(_joined(_rings(part, centres)), np.int32)


def _rings(part: Array, centres: bool) -> list[Ring]:
    """The rim, then the holes from left to right. The part is at the right hand of who walks."""
    points, steps = _corners(part)
    # two corners in one point: in their row, the one whose pixel is on the left comes first
    upper = np.r_[(points[1:] == points[:-1]).all(1), False]
    lower = np.r_[False, upper[:-1]]
    later = 1.5 * (upper & (steps[:, 0] > 0)) - 1.5 * (lower & (steps[:, 0] < 0))
    column_mates = _mates(points[:, 0], points[:, 1], np.zeros(len(points)))
    row_mates = _mates(points[:, 1], points[:, 0], later)
    # who walks down has the part to the left
    down = points[column_mates, 1] > points[:, 1]
    leads = down == (steps[:, 0] < 0)
    rings = _walked(column_mates.tolist(), row_mates.tolist(), leads.tolist())
    places = (points + (steps - 1) // 2 if centres else points).tolist()
    return [[(places[one][0], places[one][1]) for one in ring] for ring in rings]


def _corners(part: Array) -> tuple[Array, Array]:
    """((n, 2) x and y, (n, 2) of -1 or 1: where the part's pixel lies), by column, then row.

    Where two pixels of the part touch in a point there are two corners, the upper one first.
    """
    padded = np.pad(part, 1)
    pixels = np.stack((padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]), -1)
    n_set = pixels.sum(-1)
    touching = (n_set == 2) & (pixels[..., 0] == pixels[..., 3])
    y, x = np.nonzero((n_set == 1) | (n_set == 3))
    inside = pixels[y, x] == (n_set[y, x] == 1)[:, None]  # the odd one of the four
    odd = inside.argmax(1)
    where = np.where(n_set[y, x] == 1, odd, 3 - odd)
    pinch_y, pinch_x = np.nonzero(touching)
    upper = pixels[pinch_y, pinch_x, 1].astype(np.int64)  # upper left or upper right
    every = np.concatenate([where, upper, 3 - upper])
    points = np.c_[np.r_[x, pinch_x, pinch_x], np.r_[y, pinch_y, pinch_y]]
    order = np.lexsort((every, points[:, 1], points[:, 0]))
    steps = np.c_[2 * (every % 2) - 1, 2 * (every // 2) - 1]
    return points[order], steps[order]


def _mates(line: Array, along: Array, later: Array) -> Array:
    """(n,): the other end of each corner's side on its line; they come in pairs along it."""
    order = np.lexsort((np.arange(len(line)) + later, along, line))
    mates = np.empty(len(line), np.int64)
    mates[order[0::2]], mates[order[1::2]] = order[1::2], order[0::2]
    return mates


def _walked(columns: list[int], rows: list[int], leads: list[bool]) -> list[list[int]]:
    """Corners of each ring: along a column, along a row, and so on. leads: may begin a walk."""
    seen = [False] * len(leads)
    rings = []
    for start, may_begin in enumerate(leads):
        if seen[start] or not may_begin:
            continue
        ring, here, mates, others = [], start, columns, rows
        while not seen[here]:
            seen[here] = True
            ring.append(here)
            here, mates, others = mates[here], others, mates
        rings.append(ring)
    return rings


def _joined(rings: list[Ring]) -> Ring:
    """One path. A cut to the left of a hole meets the rim or a hole that came before."""
    path = rings[0]
    for hole in rings[1:]:
        lead = hole.index(min(hole))  # leftmost, uppermost
        x, y = hole[lead]
        xs, ys = np.array(path).T
        next_ys = np.roll(ys, -1)
        meets = (xs == np.roll(xs, -1)) & (xs <= x)
        meets &= (np.minimum(ys, next_ys) <= y) & (np.maximum(ys, next_ys) >= y)
        candidates = np.flatnonzero(meets)
        side = int(candidates[np.argmax(xs[candidates])])
        cut = (int(xs[side]), y)
        path = [*path[: side + 1], cut, *hole[lead:], *hole[:lead], (x, y), cut, *path[side + 1 :]]
    return path

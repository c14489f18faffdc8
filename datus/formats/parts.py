"""Label image -> its connected parts, with area, box, score and COCO's run lengths.

A part is a 4-connected region of one label. Pixels that touch only at a corner are two parts: the
outline of a part then never passes through a point between two of its own pixels, and every tool
fills it alike.

Runs of one label down each column are the nodes of a graph, linked where they touch runs of the
column beside them; its connected components are the parts. An image costs one pass over its pixels,
whatever its number of labels.
"""

from dataclasses import dataclass

import numpy as np

from datus.types import IGNORE, Array


@dataclass(frozen=True, slots=True)
class Part:
    """One connected part."""

    label: int
    area: int
    """Pixels."""
    box: tuple[int, int, int, int]
    """(top, left, bottom, right), half-open."""
    score: float | None
    """Mean confidence 0..1 over the pixels where it is known; None where it is nowhere."""
    counts: Array
    """int64 (n,): pixels off, on, off ... down the columns of the whole image, as COCO counts."""
    number: int
    numbers: Array
    """int32 (H, W): number of the part of each pixel, 0 where there is none."""

    @property
    def box_xywh(self) -> list[int]:
        top, left, bottom, right = self.box
        return [left, top, right - left, bottom - top]

    @property
    def mask(self) -> Array:
        """bool (bottom - top, right - left): which pixels of the box are the part's."""
        top, left, bottom, right = self.box
        return np.equal(self.numbers[top:bottom, left:right], self.number)


def find_parts(labels: Array, confidence: Array | None = None, min_area: int = 1) -> list[Part]:
    """Parts in order of label, then of their first pixel down the columns.

    labels: uint8 (H, W), IGNORE = none; confidence: float32 (H, W), NaN = not known.
    """
    starts, lengths, values = _column_runs(labels)
    run_numbers, part_labels = _number_parts(starts, lengths, values, labels.shape[0])
    if not len(part_labels):
        return []
    numbers = np.repeat(run_numbers, lengths).reshape(labels.shape[::-1]).T
    scores = _scores(confidence, numbers, len(part_labels))
    order = np.argsort(run_numbers, kind="stable")[np.count_nonzero(run_numbers == 0) :]
    runs = run_numbers[order], starts[order], lengths[order]
    areas = np.bincount(runs[0], runs[2])[1:].astype(np.int64).tolist()
    boxes = _boxes(*runs, labels.shape[0]).tolist()
    counts = _coco_counts(*runs, labels.size)
    rows = zip(part_labels.tolist(), areas, boxes, scores, counts, strict=True)
    return [
        Part(label, area, tuple(box), score, part_counts, number, numbers)
        for number, (label, area, box, score, part_counts) in enumerate(rows, start=1)
        if area >= min_area
    ]


def _column_runs(labels: Array) -> tuple[Array, Array, Array]:
    """(R,) starts, lengths and labels of the runs of one label down each column, IGNORE among them;
    starts are counted down the columns of the whole image."""
    pixels = labels.T.ravel()
    begins = np.empty(pixels.size, bool)
    np.not_equal(pixels[1:], pixels[:-1], out=begins[1:])
    begins[:: labels.shape[0]] = True
    starts = np.flatnonzero(begins)
    return starts, np.diff(starts, append=pixels.size), pixels[starts]


def _number_parts(starts: Array, lengths: Array, values: Array, height: int) -> tuple[Array, Array]:
    """(int32 (R,) part of each run from 1 on, 0 for IGNORE; uint8 (P,) label of each part)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    # runs cover the image, so those that touch a run in the next column follow each other
    first = np.searchsorted(starts, starts + height, "right") - 1
    n_beside = np.searchsorted(starts, starts + lengths + height) - first
    n_beside[np.searchsorted(starts, starts[-1] // height * height) :] = 0  # the last column
    edges = np.concatenate([[0], np.cumsum(n_beside)])
    rows = np.repeat(np.arange(len(starts)), n_beside)
    columns = np.arange(len(rows)) + np.repeat(first - edges[:-1], n_beside)
    graph = csr_array((values[rows] == values[columns], columns, edges), shape=(len(starts),) * 2)
    graph.eliminate_zeros()
    n_regions, regions = connected_components(graph, directed=False)
    first_run = np.empty(n_regions, np.int64)
    first_run[regions[::-1]] = np.arange(len(regions))[::-1]
    order = np.lexsort((first_run, values[first_run]))
    order = order[values[first_run[order]] != IGNORE]
    numbers = np.zeros(n_regions, np.int32)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers[regions], values[first_run[order]]


def _scores(confidence: Array | None, numbers: Array, n_parts: int) -> list[float | None]:
    if confidence is None:
        return [None] * n_parts
    # down the columns: the order of a sum is part of its bytes
    value = confidence.T.ravel()
    number = np.where(np.isfinite(value), numbers.T.ravel(), np.int64(0))
    totals = np.bincount(number, value, n_parts + 1)[1:].tolist()
    n_known = np.bincount(number, minlength=n_parts + 1)[1:].tolist()
    return [round(total / n, 6) if n else None for total, n in zip(totals, n_known, strict=True)]


def _boxes(numbers: Array, starts: Array, lengths: Array, height: int) -> Array:
    """int64 (P, 4): (top, left, bottom, right) from runs sorted by part, then start."""
    firsts = np.flatnonzero(np.diff(numbers, prepend=0))
    lasts = np.append(firsts[1:], len(numbers)) - 1
    columns, rows = np.divmod(starts, height)
    top = np.minimum.reduceat(rows, firsts)
    bottom = np.maximum.reduceat(rows + lengths, firsts)
    return np.stack([top, columns[firsts], bottom, columns[lasts] + 1], axis=1)


def _coco_counts(numbers: Array, starts: Array, lengths: Array, n_pixels: int) -> list[Array]:
    """`Part.counts` of each part, from runs sorted by part, then start."""
    # a run to the foot of one column and on from the head of the next is one
    ends = starts + lengths
    goes_on = (np.diff(numbers, prepend=0) == 0) & (starts == np.roll(ends, 1))
    numbers, starts, ends = numbers[~goes_on], starts[~goes_on], ends[np.roll(~goes_on, -1)]
    firsts = np.flatnonzero(np.diff(numbers, prepend=0))
    before = np.roll(ends, 1)
    before[firsts] = 0
    lasts = np.append(firsts[1:], len(numbers)) - 1
    rest = n_pixels - ends[lasts]
    on_off = np.stack([starts - before, ends - starts], axis=1).ravel()
    counts = np.insert(on_off, 2 * lasts + 2, rest)
    count_starts = 2 * firsts + np.arange(len(firsts))
    count_ends = 2 * lasts + 2 + np.arange(len(lasts)) + (rest > 0)
    spans = zip(count_starts.tolist(), count_ends.tolist(), strict=True)
    return [counts[start:end] for start, end in spans]

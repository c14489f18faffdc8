"""Label image -> its connected parts, with area, box, score and column-wise run lengths.

A part is what hangs together by sides of pixels (4-neighbourhood) and has one label. Pixels that
touch only at a corner are two parts: the outline of a part then never passes through a point
between two of its own pixels, and every tool fills it alike.

Runs of one label down the columns are joined where they touch those of the column before, so that
an image costs one pass over its pixels, whatever its number of labels.
"""

import math
from dataclasses import dataclass

import numpy as np

from datus.compute.compiled import compiled, inlined
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
    starts: Array
    """int64 (n,): first pixel of each run, counted down the columns of the whole image."""
    lengths: Array
    """int64 (n,): pixels of each run."""
    height: int
    """Of the whole image."""

    @property
    def box_xywh(self) -> list[int]:
        top, left, bottom, right = self.box
        return [left, top, right - left, bottom - top]

    @property
    def mask(self) -> Array:
        """bool (bottom - top, right - left): which pixels of the box are the part's."""
        return _filled(self.starts, self.lengths, self.box, self.height)


def find_parts(labels: Array, confidence: Array | None = None, min_area: int = 1) -> list[Part]:
    """Parts in order of label, then of their first pixel down the columns.

    labels: uint8 (H, W), IGNORE = none; confidence: float32 (H, W), NaN = not known.
    """
    tables = _parts(np.ascontiguousarray(labels))
    values, areas, boxes, edges, starts, lengths = tables
    scores: list[float | None] = [None] * len(areas)
    if confidence is not None:
        means = _means(np.ascontiguousarray(confidence), edges, starts, lengths)
        scores = [None if math.isnan(mean) else round(mean, 6) for mean in means.tolist()]
    ends = edges.tolist()
    rows = zip(values.tolist(), areas.tolist(), boxes.tolist(), scores, strict=True)
    return [
        Part(
            label=label,
            area=area,
            box=tuple(box),
            score=score,
            starts=starts[ends[number] : ends[number + 1]],
            lengths=lengths[ends[number] : ends[number + 1]],
            height=labels.shape[0],
        )
        for number, (label, area, box, score) in enumerate(rows)
        if area >= min_area
    ]


@compiled
def _parts(labels: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Of P parts with R runs: int64 labels (P,), areas (P,), boxes (P, 4), edges (P + 1,) of their
    runs, and starts (R,) and lengths (R,)."""
    height = labels.shape[0]
    starts, lengths, firsts = _runs(labels)
    roots = _roots(labels, starts, lengths, firsts)
    numbers, values = _numbered(labels, starts, roots)
    n_parts = len(values)
    areas, edges = np.zeros(n_parts, np.int64), np.zeros(n_parts + 1, np.int64)
    boxes = np.empty((n_parts, 4), np.int64)
    boxes[:, 0], boxes[:, 1], boxes[:, 2:] = height, labels.shape[1], 0
    ends = np.full(n_parts, -1)
    for run in range(len(starts)):
        number, column, row = numbers[roots[run]], starts[run] // height, starts[run] % height
        areas[number] += lengths[run]
        boxes[number, 0] = min(boxes[number, 0], row)
        boxes[number, 1] = min(boxes[number, 1], column)
        boxes[number, 2] = max(boxes[number, 2], row + lengths[run])
        boxes[number, 3] = max(boxes[number, 3], column + 1)
        # a run to the foot of one column and on from the head of the next is one
        edges[number + 1] += ends[number] != starts[run]
        ends[number] = starts[run] + lengths[run]
    edges = np.cumsum(edges)
    places, ends[:] = edges.copy(), -1
    sorted_starts, sorted_lengths = np.empty(edges[-1], np.int64), np.zeros(edges[-1], np.int64)
    for run in range(len(starts)):
        number = numbers[roots[run]]
        if ends[number] != starts[run]:
            sorted_starts[places[number]] = starts[run]
            places[number] += 1
        sorted_lengths[places[number] - 1] += lengths[run]
        ends[number] = starts[run] + lengths[run]
    return values, areas, boxes, edges, sorted_starts, sorted_lengths


@inlined
def _runs(labels: Array) -> tuple[Array, Array, Array]:
    """int64 starts and lengths of the runs down the columns; (W + 1,) first run of each column."""
    height, width = labels.shape
    firsts = np.zeros(width + 1, np.int64)
    for x in range(width):
        before = IGNORE
        for y in range(height):
            firsts[x + 1] += labels[y, x] != before and labels[y, x] != IGNORE
            before = labels[y, x]
    firsts = np.cumsum(firsts)
    starts, lengths = np.empty(firsts[-1], np.int64), np.zeros(firsts[-1], np.int64)
    for x in range(width):
        run, before = firsts[x] - 1, IGNORE
        for y in range(height):
            if labels[y, x] != IGNORE:
                if labels[y, x] != before:
                    run += 1
                    starts[run] = x * height + y
                lengths[run] += 1
            before = labels[y, x]
    return starts, lengths, firsts


@inlined
def _roots(labels: Array, starts: Array, lengths: Array, firsts: Array) -> Array:
    """int64 (R,): the first run of each run's part."""
    height = labels.shape[0]
    parents = np.arange(len(starts))
    for x in range(1, labels.shape[1]):
        left, here = firsts[x - 1], firsts[x]
        while left < firsts[x] and here < firsts[x + 1]:
            left_top, top = starts[left] % height, starts[here] % height
            left_end, end = left_top + lengths[left], top + lengths[here]
            touch = left_top < end and top < left_end
            if touch and labels[left_top, x - 1] == labels[top, x]:
                one, other = left, here
                while parents[one] != one:
                    one = parents[one]
                while parents[other] != other:
                    other = parents[other]
                low = min(one, other)
                parents[one] = parents[other] = parents[left] = parents[here] = low
            if left_end <= end:
                left += 1
            else:
                here += 1
    for run in range(len(parents)):  # a parent is never behind its run
        parents[run] = parents[parents[run]]
    return parents


@inlined
def _numbered(labels: Array, starts: Array, roots: Array) -> tuple[Array, Array]:
    """((R,) number of the part that begins with a run, (P,) label of each number), in order of
    label, then of first run."""
    height = labels.shape[0]
    ends = np.zeros(257, np.int64)
    for run in range(len(starts)):
        if roots[run] == run:
            ends[labels[starts[run] % height, starts[run] // height] + 1] += 1
    ends = np.cumsum(ends)
    numbers, values = np.full(len(starts), -1), np.empty(ends[-1], np.int64)
    for run in range(len(starts)):
        if roots[run] == run:
            label = labels[starts[run] % height, starts[run] // height]
            numbers[run] = ends[label]
            values[ends[label]] = label
            ends[label] += 1
    return numbers, values


@compiled
def _means(confidence: Array, edges: Array, starts: Array, lengths: Array) -> Array:
    """float64 (P,): mean of the known confidences of each part, NaN where none is."""
    height = confidence.shape[0]
    means = np.full(len(edges) - 1, np.nan)
    for part in range(len(means)):
        total, n_known = 0.0, 0
        for run in range(edges[part], edges[part + 1]):
            for pixel in range(starts[run], starts[run] + lengths[run]):
                value = confidence[pixel % height, pixel // height]
                if np.isfinite(value):
                    total += value
                    n_known += 1
        if n_known:
            means[part] = total / n_known
    return means


@compiled
def _filled(starts: Array, lengths: Array, box: tuple[int, int, int, int], height: int) -> Array:
    """bool of the size of the box: True under the runs."""
    top, left, bottom, right = box
    mask = np.zeros((bottom - top, right - left), np.bool_)
    for run in range(len(starts)):
        for pixel in range(starts[run], starts[run] + lengths[run]):
            mask[pixel % height - top, pixel // height - left] = True
    return mask


def coco_counts(part: Part, n_pixels: int) -> Array:
    """int64 (2n + 1,): pixels off, on, off ... down the columns of an image of n_pixels."""
    return _counts(part.starts, part.lengths, n_pixels)


@compiled
def _counts(starts: Array, lengths: Array, n_pixels: int) -> Array:
    counts = np.empty(2 * len(starts) + 1, np.int64)
    end = 0
    for run in range(len(starts)):
        counts[2 * run], counts[2 * run + 1] = starts[run] - end, lengths[run]
        end = starts[run] + lengths[run]
    counts[-1] = n_pixels - end
    return counts if counts[-1] else counts[:-1]


def coco_text(counts: Array) -> str:
    """COCO's compressed run lengths: from the fourth on the difference to two before, in groups of
    five bits, low ones first, bit 6 = more follow, 48 added to make letters of them."""
    letters: bytes = _letters(counts).tobytes()
    return letters.decode("ascii")


@compiled
def _letters(counts: Array) -> Array:
    """uint8 (n,): the letters of `coco_text`."""
    found = np.empty(13 * len(counts), np.uint8)  # 64 bits in groups of five
    n_found = 0
    for place in range(len(counts)):
        rest = counts[place] - (counts[place - 2] if place > 2 else 0)
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)
            found[n_found] = group + (32 if more else 0) + 48
            n_found += 1
    return found[:n_found]

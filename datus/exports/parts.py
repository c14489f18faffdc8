"""Label image -> its connected parts, with area, box, score and column-wise run lengths.

A part is what hangs together by sides of pixels (4-neighbourhood) and has one label. Pixels that
touch only at a corner are two parts: the outline of a part then never passes through a point
between two of its own pixels, and every tool fills it alike.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from datus.records import IGNORE, Array


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
    mask: Array
    """bool (bottom - top, right - left): which pixels of the box are the part's."""

    @property
    def box_xywh(self) -> list[int]:
        top, left, bottom, right = self.box
        return [left, top, right - left, bottom - top]


def find_parts(labels: Array, confidence: Array | None = None, min_area: int = 1) -> list[Part]:
    """Parts in order of label, then of their first pixel down the columns.

    labels: uint8 (H, W), IGNORE = none; confidence: float32 (H, W), NaN = not known.
    """
    numbers = _numbered(labels)
    flat = numbers.T.ravel()
    starts = np.r_[0, np.flatnonzero(flat[1:] != flat[:-1]) + 1]
    lengths = np.diff(np.r_[starts, flat.size])
    values, run_labels = flat[starts], labels.T.ravel()[starts]
    scores = _scores(numbers, confidence)
    by_part = np.argsort(values, kind="stable")
    edges = np.r_[np.flatnonzero(np.diff(values[by_part], prepend=-1)), values.size]
    boxes = ndimage.find_objects(numbers)
    found = []
    for first, last in itertools.pairwise(edges.tolist()):
        mine = by_part[first:last]
        number = int(values[mine[0]])
        area = int(lengths[mine].sum())
        if number and area >= min_area:
            rows, columns = boxes[number - 1]
            part = Part(
                label=int(run_labels[mine[0]]),
                area=area,
                box=(rows.start, columns.start, rows.stop, columns.stop),
                score=scores[number],
                starts=starts[mine],
                lengths=lengths[mine],
                mask=numbers[rows, columns] == number,
            )
            found.append(part)
    return sorted(found, key=lambda part: (part.label, int(part.starts[0])))


def _numbered(labels: Array) -> Array:
    """int32 (H, W): 0 = no label, else one number a part."""
    numbers = np.zeros(labels.shape, np.int32)
    n_parts = 0
    for label in np.unique(labels[labels != IGNORE]).tolist():
        mine = (labels == label).astype(np.uint8)
        n_here, here = cv2.connectedComponents(mine, connectivity=4, ltype=cv2.CV_32S)
        numbers[here > 0] = here[here > 0] + n_parts
        n_parts += n_here - 1
    return numbers


def _scores(numbers: Array, confidence: Array | None) -> list[float | None]:
    """Mean of the known confidences by number, six decimals."""
    n_numbers = int(numbers.max(initial=0)) + 1
    if confidence is None:
        return [None] * n_numbers
    known = np.isfinite(confidence)
    where = numbers[known]
    counts = np.bincount(where, minlength=n_numbers)
    sums = np.bincount(where, weights=confidence[known].astype(np.float64), minlength=n_numbers)
    return [
        round(total / count, 6) if count else None
        for total, count in zip(sums.tolist(), counts.tolist(), strict=True)
    ]


def coco_counts(part: Part, n_pixels: int) -> Array:
    """int64 (2n + 1,): pixels off, on, off ... down the columns of an image of n_pixels."""
    ends = part.starts + part.lengths
    gaps = part.starts - np.r_[0, ends[:-1]]
    counts = np.empty(2 * len(gaps) + 1, np.int64)
    counts[0:-1:2], counts[1::2], counts[-1] = gaps, part.lengths, n_pixels - ends[-1]
    return counts if counts[-1] else counts[:-1]


def coco_text(counts: Array) -> str:
    """COCO's compressed run lengths: from the fourth on the difference to two before, in groups of
    five bits, low ones first, bit 6 = more follow, 48 added to make letters of them."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    letters = np.zeros((len(rest), 8), np.uint8)
    open_ones = np.ones(len(rest), bool)
    for place in range(letters.shape[1]):
        group = rest & 31
        rest = rest >> 5
        more = open_ones & np.where(group & 16, rest != -1, rest != 0)
        letters[open_ones, place] = (group + 32 * more + 48)[open_ones]
        open_ones = more
        if not more.any():
            break
    return letters[letters > 0].tobytes().decode("ascii")

"""How well borders are placed: boundary F-score of a mask against the truth, one image at a time.

    boundary_f(mask, truth)              percent: any border between labels, whatever they are
    class_boundary_f(mask, truth, C)     percent for each class, of masks that hold classes

A border pixel has another label to its right or below. Precision is the share of the mask's border
pixels with a true one within the tolerance, recall the share of the true ones with one of the mask
within it, F their harmonic mean. The tolerance is 0.75 % of the image's diagonal, as in Csurka et
al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013). mIoU hardly sees
borders: a band of five pixels along them is a few percent of an image.

Where the truth is unknown nothing can be said: a true border lies between two known pixels, and a
border of the mask within the tolerance of an unknown pixel counts neither way. Unlabelled pixels of
the mask are a label of their own: a hole has borders, and they are wrong.
"""

import cv2
import numpy as np

from datus.errors import ImageError
from datus.types import IGNORE, Array

TOLERANCE = 0.0075
"""Of the diagonal: 4.5 pixels at 480 x 360."""


def boundary_f(mask: Array, truth: Array, tolerance: float = TOLERANCE) -> float:
    """Percent; labels need not correspond. NaN if neither has a border that can be judged.

    mask, truth: uint8 (H, W), IGNORE = unlabelled, unknown. tolerance: share of the diagonal.
    Raises ImageError if the sizes differ.
    """
    far_px = _tolerance_px(mask, truth, tolerance)
    known = truth != IGNORE
    return _f_score(borders(mask), _true_borders(truth, known), _judged(known, far_px), far_px)


def class_boundary_f(
    mask: Array, truth: Array, n_classes: int, tolerance: float = TOLERANCE
) -> Array:
    """float64 (n_classes,) percent: F of each class against the rest, as Csurka et al.

    mask: uint8 (H, W) of classes (clusters after their match). NaN where the truth of this image
    lacks the class, or where neither has a border of it that can be judged.
    """
    far_px = _tolerance_px(mask, truth, tolerance)
    known = truth != IGNORE
    judged = _judged(known, far_px)
    found = np.full(n_classes, np.nan)
    for one in range(n_classes):
        is_true = truth == one
        if is_true.any():
            true = _true_borders(is_true, known)
            found[one] = _f_score(borders(mask == one), true, judged, far_px)
    return found


def borders(labels: Array) -> Array:
    """bool (H, W): the label to the right or below is another one. One pixel wide."""
    return _true_borders(labels, np.ones(labels.shape, bool))


def _true_borders(labels: Array, known: Array) -> Array:
    """Borders between two known pixels."""
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) & known[:, :-1] & known[:, 1:]
    found[:-1] |= (labels[:-1] != labels[1:]) & known[:-1] & known[1:]
    return found


def _judged(known: Array, far_px: float) -> Array:
    """bool (H, W): further than the tolerance from every unknown pixel."""
    return _distance_to(~known) > far_px


def _f_score(found: Array, true: Array, judged: Array, far_px: float) -> float:
    """The mask's borders count only where judged, but may explain a true one anywhere."""
    counted = found & judged
    n_found, n_true = int(np.count_nonzero(counted)), int(np.count_nonzero(true))
    if n_found + n_true == 0:
        return float("nan")
    precision = int(np.count_nonzero(_distance_to(true)[counted] <= far_px)) / max(n_found, 1)
    recall = int(np.count_nonzero(_distance_to(found)[true] <= far_px)) / max(n_true, 1)
    return 200.0 * precision * recall / max(precision + recall, 1e-12)


def _distance_to(marked: Array) -> Array:
    """float32 (H, W): Euclidean distance to the nearest marked pixel; infinite if there is none."""
    if not marked.any():
        return np.full(marked.shape, np.inf, np.float32)
    rest = np.where(marked, np.uint8(0), np.uint8(1))
    return np.asarray(cv2.distanceTransform(rest, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def _tolerance_px(mask: Array, truth: Array, tolerance: float) -> float:
    if mask.shape != truth.shape:
        raise ImageError(
            f"the mask is {mask.shape[0]}x{mask.shape[1]}, the true mask {truth.shape[0]}x"
            f"{truth.shape[1]} (height x width): expected the same size"
        )
    return tolerance * float(np.hypot(*truth.shape))

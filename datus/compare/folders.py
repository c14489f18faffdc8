"""Score any two folders of label PNGs: ours, another method's, a hand-made one.

In:  a folder of masks (cluster ids, 255 = unlabelled), a folder of true masks, a class table.
Out: the scores of all rules (`method.metrics`) as a JSON-ready dict, and who was left out and why.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datus.compute.threads import map_threads, n_cores
from datus.config import DataConfig
from datus.errors import ImageError, TooManyFailures, UsageError
from datus.inputs.labels import decode_labels, find_labels, load_classes, truth_classes
from datus.method.metrics import RULES, add, count_pixels, score_all
from datus.types import IGNORE, MAX_CLUSTERS, Array, ClassTable, Confusion


def evaluate_folders(
    masks: Path, truth: Path, classes: Path, n_clusters: int = 0, max_failed: int = 0
) -> dict[str, Any]:
    """The scores of two folders, ready for JSON; arguments and errors of `count_folders`."""
    counted = count_folders(masks, truth, classes, n_clusters, max_failed)
    scores = {rule: score.as_dict() for rule, score in score_all(counted.confusion).items()}
    return {
        "n_images": counted.n_images,
        "clusters": counted.confusion.n_clusters,
        "classes": counted.confusion.n_classes,
        "scores": {rule: scores[rule] for rule in RULES if rule in scores},
        "failures": counted.failures,
    }


@dataclass(frozen=True, slots=True)
class Counted:
    """The pixels of two folders."""

    confusion: Confusion
    n_images: int
    failures: dict[str, str]
    """name -> why it was left out, in order."""


def count_folders(
    masks: Path, truth: Path, classes: Path, n_clusters: int = 0, max_failed: int = 0
) -> Counted:
    """`n_clusters` = 0: the highest label + 1. Files are matched by relative path without suffix.

    Raises UsageError if folders do not fit, TooManyFailures if more than `max_failed` masks lack a
    partner or cannot be used.
    """
    table = load_classes(classes)
    made, true = find_labels(masks), find_labels(truth)
    shared = sorted(made.keys() & true.keys())
    if not shared:
        raise UsageError(
            f"{masks} and {truth} share no file name: expected for example "
            f"{next(iter(true))}.png in both"
        )
    failures = dict.fromkeys(true.keys() - made.keys(), f"no mask in {masks}")
    failures |= dict.fromkeys(made.keys() - true.keys(), f"no true mask in {truth}")

    def one(name: str) -> tuple[str, Array | str]:
        try:
            return name, _counts(masks / made[name], truth / true[name], table)
        except ImageError as error:
            return name, str(error)

    counted = dict(map_threads(one, shared, n_cores()))
    failures |= {name: result for name, result in counted.items() if isinstance(result, str)}
    counts = [result for result in counted.values() if not isinstance(result, str)]
    if len(failures) > max_failed or not counts:
        raise TooManyFailures(_refusal(failures, max_failed))
    return Counted(fitted(counts, n_clusters), len(counts), dict(sorted(failures.items())))


def _refusal(failures: dict[str, str], max_failed: int) -> str:
    n_failed = len(failures)
    masks, them = ("1 mask", "it") if n_failed == 1 else (f"{n_failed} masks", "them")
    text = f"{masks} cannot be used, {max_failed} are allowed: mend {them}, or add "
    text += f"--max-failed {n_failed}"
    if n_failed <= max_failed:
        text = "no mask is left to score, mend or replace them:"
    rows = [f"  {name}: {reason}" for name, reason in sorted(failures.items())[:10]]
    more = [f"  and {n_failed - 10} more"] if n_failed > 10 else []
    return "\n".join([text, *rows, *more])


def _counts(mask_path: Path, truth_path: Path, table: ClassTable) -> Array:
    """int64 (256, C): pixels by (label, class); row 255 is unlabelled."""
    mask, labels = _labels(mask_path), _labels(truth_path)
    (height, width), truth_size = mask.shape, labels.shape
    if truth_size != (height, width):
        raise ImageError(
            f"the mask is {height}x{width}, the true mask {truth_size[0]}x{truth_size[1]} "
            "(height x width): expected the same size"
        )
    truth = truth_classes(labels, table, (height, width))
    return count_pixels(mask, truth, MAX_CLUSTERS, table.n_classes).counts


def _labels(path: Path) -> Array:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None
    return decode_labels(data, DataConfig().max_pixels)


def fitted(counts: list[Array], n_clusters: int) -> Confusion:
    """The sum over images, with only as many cluster rows as there are clusters."""
    total = add(Confusion(matrix) for matrix in counts).counts
    used = np.flatnonzero(total[:IGNORE].sum(axis=1))
    highest = int(used.max()) + 1 if len(used) else 1
    if not 0 <= n_clusters <= MAX_CLUSTERS:
        raise UsageError(
            f"--clusters {n_clusters}: expected 1 to {MAX_CLUSTERS}, or 0 to derive it"
        )
    if n_clusters and highest > n_clusters:
        raise UsageError(f"--clusters {n_clusters}: the masks hold label {highest - 1}")
    kept = n_clusters or highest
    return Confusion(np.concatenate([total[:kept], total[IGNORE:]]))

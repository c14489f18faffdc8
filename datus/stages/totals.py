"""The stage `tallies`: what the report needs of a shard, added up beside it.

    totals_of(dataset, k, n_labels)   Totals, those of all shards together

A report reads a few kilobytes a shard so, in place of its masks, segments and counts. Sums are of
whole numbers, and the order of segments is a total one: how shards are cut changes nothing.

Stored of a shard: pixels, denoised_pixels, counts and denoised as in `Totals`; by_confidence int64
(n, 4) as in `method.confidence.binned`; candidates of the gallery: margin float32, cluster int16
and segment int32 (m,), box float64 (m, 4), images (JSON text).
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from datus.config import Config
from datus.engine.dataset import Dataset
from datus.engine.stage import Arrays, Context, Inputs, ShardWork, Stage, no_settings
from datus.engine.workers import Advance, no_progress
from datus.errors import WorkError
from datus.inputs.index import Shard
from datus.types import WHOLE, Array, Confusion, ImageRecord, ShardData


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A segment for the gallery; the order is by confidence, then by name."""

    margin: float
    image_id: str
    box: tuple[float, float, float, float]
    """In shares of the image's height and width."""
    segment: int


@dataclass(slots=True)
class Totals:
    """Of L labels over all images."""

    pixels: Array
    """int64 (L + 1,): of each label, those without one last."""
    denoised_pixels: Array
    """The same of de-noised masks."""
    counts: dict[str, Array] = field(default_factory=dict)
    """"counts" and "denoised" -> int64 (L + 1, C), where an image has a usable true mask."""
    by_confidence: Array = field(default_factory=lambda: np.zeros((0, 0, 0), np.int64))
    """int64 (N_BINS, L, C): pixels by bin of confidence, label and class, of the same images."""
    best: list[list[Candidate]] = field(default_factory=list)
    """Of each label, the surest first."""

    def confusion(self, name: str = "counts") -> Confusion:
        """Raises WorkError where nothing can be scored."""
        if name not in self.counts:
            raise WorkError(
                "no image has a usable true mask, nothing can be scored: see the failures"
            )
        return Confusion(self.counts[name])


GALLERY = 8
"""Segments that the report shows of each cluster, the most confident first."""


def needs(config: Config) -> tuple[str, ...]:
    drawn = ("denoise",) if config.denoise.enabled else ()
    return ("segments", "masks", *drawn, *(("evaluate",) if config.data.truth else ()))


def build(context: Context) -> ShardWork:
    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        advance(len(shard.records))
        masks, segments = inputs["masks"].arrays, inputs["segments"].arrays
        usable = [record for record in shard.records if record.image_id in masks]
        if not usable:
            return ShardData(arrays={})
        stored = {
            stage: [data.arrays[r.image_id] for r in usable if r.image_id in data.arrays]
            for stage, data in inputs.items()
        }
        whole = {"pixels": _total(stored["masks"], "pixels")}
        if "denoise" in stored:
            whole["denoised_pixels"] = _total(stored["denoise"], "pixels")
        if stored.get("evaluate"):
            whole |= _scored(stored["evaluate"])
        pairs = ((r, masks[r.image_id], segments[r.image_id]) for r in usable)
        found = (pair for one in pairs for pair in candidates(*one))
        best = surest(found, len(whole["pixels"]) - 1, GALLERY)
        return ShardData(arrays={WHOLE: whole | _packed(best)})

    return work


def _total(arrays: Sequence[Arrays], name: str) -> Array:
    return np.asarray(np.sum([one[name] for one in arrays], axis=0, dtype=np.int64))


def _scored(arrays: Sequence[Arrays]) -> dict[str, Array]:
    names = [name for name in ("counts", "denoised") if name in arrays[0]]
    rows = np.concatenate([one["by_confidence"] for one in arrays]).astype(np.int64)
    places, where = np.unique(rows[:, :3], axis=0, return_inverse=True)
    pixels = np.zeros(len(places), np.int64)
    np.add.at(pixels, where.ravel(), rows[:, 3])
    found = {name: _total(arrays, name) for name in names}
    return {**found, "by_confidence": np.column_stack([places, pixels])}


def candidates(
    record: ImageRecord, masks: Arrays, segments: Arrays
) -> Iterator[tuple[int, Candidate]]:
    """(cluster, the image's most confident segment of it)."""
    rows, columns = segments["labels"].shape
    cluster, margin = masks["cluster"], masks["margin"]
    for one in np.unique(cluster[cluster >= 0]).tolist():
        members = np.flatnonzero(cluster == one)
        segment = int(members[np.argmax(margin[members])])
        top, left, bottom, right = segments["boxes"][segment].tolist()
        box = (top / rows, left / columns, bottom / rows, right / columns)
        yield one, Candidate(float(margin[segment]), record.image_id, box, segment)


def surest(
    found: Iterable[tuple[int, Candidate]], n_labels: int, size: int
) -> list[list[Candidate]]:
    """The `size` largest of each label, the largest first."""
    best: list[list[Candidate]] = [[] for _ in range(n_labels)]
    for label, one in found:
        heap = best[label]
        if len(heap) < size:
            heapq.heappush(heap, one)
        elif size:
            heapq.heappushpop(heap, one)
    return [sorted(heap, reverse=True) for heap in best]


def _packed(best: list[list[Candidate]]) -> dict[str, Array]:
    rows = [(label, one) for label, some in enumerate(best) for one in some]
    names = json.dumps([one.image_id for _, one in rows]).encode()
    return {
        "cluster": np.array([label for label, _ in rows], np.int16),
        "margin": np.array([one.margin for _, one in rows], np.float32),
        "segment": np.array([one.segment for _, one in rows], np.int32),
        "box": np.array([one.box for _, one in rows], np.float64).reshape(-1, 4),
        "images": np.frombuffer(names, np.uint8),
    }


def _unpacked(whole: Arrays) -> Iterator[tuple[int, Candidate]]:
    columns = (whole[name].tolist() for name in ("cluster", "margin", "box", "segment"))
    names = json.loads(whole["images"].tobytes())
    for label, margin, box, segment, name in zip(*columns, names, strict=True):
        yield label, Candidate(margin, name, tuple(box), segment)


# --- of all shards ------------------------------------------------------------------------------


def totals_of(
    dataset: Dataset, k: int, n_labels: int, n_best: int = 0, advance: Advance = no_progress
) -> Totals:
    """n_best: segments of each label to keep, no more than the shards kept."""
    totals = Totals(np.zeros(n_labels + 1, np.int64), np.zeros(n_labels + 1, np.int64))
    totals.best = [[] for _ in range(n_labels)]
    for shard, data in dataset.data("tallies", k):
        if WHOLE in data.arrays:
            whole = data.arrays[WHOLE]
            _add(totals, whole)
            if n_best:
                former = ((label, one) for label, some in enumerate(totals.best) for one in some)
                totals.best = surest(chain(former, _unpacked(whole)), n_labels, n_best)
        advance(len(shard.records))
    return totals


def _add(totals: Totals, whole: Arrays) -> None:
    from datus.method.confidence import N_BINS

    totals.pixels += whole["pixels"]
    totals.denoised_pixels += whole.get("denoised_pixels", 0)
    for name in ("counts", "denoised"):
        if name in whole:
            totals.counts[name] = totals.counts.get(name, 0) + whole[name]
    if "by_confidence" in whole:
        if not len(totals.by_confidence):
            n_labels, n_classes = len(totals.pixels) - 1, whole["counts"].shape[1]
            totals.by_confidence = np.zeros((N_BINS, n_labels, n_classes), np.int64)
        bins, label, true_class, pixels = whole["by_confidence"].T
        totals.by_confidence[bins, label, true_class] += pixels  # no place is there twice


STAGE = Stage(
    name="tallies",
    version=1,
    scope="shard",
    needs=needs,
    settings=no_settings,
    build=build,
    per_k=True,
    sees_truth=True,
)

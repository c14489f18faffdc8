"""What a person corrected, on its way through the stages: the setting `clusters.corrections`.

    load(config, records)               corrections of a run's images, or None
    hashed(config, records)             settings of [clusters] for the recipe
    kept_arrays(record, labels, fixed)  what the clusters stage keeps of a corrected image
    drawn_in(clusters, record)          Drawn, read back for the masks stage; None for other images

The clusters stage keeps the drawn labels of each corrected image beside the clusters, as PNG under
its image id. So masks need nothing but the run folder, and the corrections may go once they are in.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import Config, settings_of
from datus.engine.stage import Arrays
from datus.formats.matching import Matched, matched
from datus.formats.read import open_corrections
from datus.formats.records import Corrections
from datus.inputs.labels import decode_labels
from datus.method.masks import encode_mask
from datus.review.edits import edited, unpacked
from datus.review.frozen import image_number
from datus.types import IGNORE, Array, Assignments, ImageRecord, ShardData


def load(config: Config, records: Sequence[ImageRecord]) -> Matched | None:
    """None where the run has none. Raises UsageError with the cure.

    Read and hashed once in a process, until a file or the index changes.
    """
    if not config.clusters.corrections:
        return None
    path = Path(config.clusters.corrections)
    return _matched(path, _stamp(path), tuple(records))


def hashed(config: Config, records: Sequence[ImageRecord]) -> dict[str, Any]:
    """Settings of [clusters] as a recipe holds them: what the corrections say, not their path.

    Without corrections nothing of them, as before there were any.
    """
    settings, found = settings_of(config.clusters), load(config, records)
    if found is None:
        del settings["corrections"]
        return settings
    return {**settings, "corrections": found.digest}


@functools.lru_cache(maxsize=2)
def _matched(path: Path, stamp: tuple[object, ...], records: tuple[ImageRecord, ...]) -> Matched:
    return matched(path, _opened(path, stamp), records)


@functools.lru_cache(maxsize=2)
def _opened(path: Path, stamp: tuple[object, ...]) -> Corrections:
    return open_corrections(path)


def _stamp(path: Path) -> tuple[object, ...]:
    """Changes when a file does. Not hashed into anything."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
    except OSError:
        return (object(),)  # never the same twice; reading it will say what is wrong
    return tuple(_state(one) for one in files)


def _state(path: Path) -> tuple[object, ...]:
    """Of one file or what its link leads to; a link that leads nowhere has its name alone."""
    try:
        found = path.stat()
    except OSError:
        return (str(path),)
    return str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns


# --- kept beside the clusters: labels (the PNG's bytes), fixed int16 (S,), image uint64 (1,) ----


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a person said of one image."""

    labels: Array
    """uint8 (H, W): class or IGNORE."""
    fixed: Array
    """int16 (S,): the class of each segment, -1 where not enough of it was drawn."""

    def keep(self, found: Assignments) -> Assignments:
        """Segments that were drawn have their class, surely."""
        is_fixed = self.fixed >= 0
        return Assignments(
            cluster=np.where(is_fixed, self.fixed, found.cluster).astype(np.int16),
            margin=np.where(is_fixed, 1, found.margin).astype(np.float32),
        )

    def sure(self, confidence: Array) -> Array:
        """float32 (S,): 1 where a segment was drawn."""
        return np.asarray(np.where(self.fixed >= 0, np.float32(1), confidence))

    def paint(self, mask: Array, edits: Arrays | None = None) -> Array:
        """uint8 (H, W): `mask` with every drawn pixel as it was drawn.

        edits: what the edits stage stored: a class that a person merged into another one later or
        dropped is so here, too; of a class that was split drawn pixels keep the number.
        """
        labels = self.labels if edits is None else _lookup(edits)[self.labels]
        return np.asarray(np.where(self.labels == IGNORE, mask, labels))


def _lookup(edits: Arrays) -> Array:
    """uint8 (256,): what became of each label."""
    labels = np.arange(256, dtype=np.int16)
    for one in unpacked(edits):
        labels = edited(labels, one, np.zeros(int((labels == one.clusters[0]).sum()), np.int64))
    return np.where(labels < 0, IGNORE, labels).astype(np.uint8)


def kept_arrays(record: ImageRecord, labels: Array, fixed: Array) -> dict[str, Array]:
    png = np.frombuffer(encode_mask(labels), np.uint8)
    return {"labels": png, "fixed": fixed, "image": np.array([image_number(record)], np.uint64)}


def drawn_in(clusters: ShardData, record: ImageRecord) -> Drawn | None:
    """`clusters`: what the clusters stage stored. None where nobody drew, or in another image of
    that name, which frozen clusters may meet."""
    stored: Arrays = clusters.arrays.get(record.image_id, {})
    if not stored or int(stored["image"][0]) != image_number(record):
        return None
    labels = decode_labels(stored["labels"].tobytes(), record.height * record.width)
    return Drawn(labels, stored["fixed"])

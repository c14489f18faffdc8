"""Names of a tool -> images of a run, and which classes were used.

    matched(origin, corrections, records)     -> Matched
    places(origin, corrections, ids)          image id -> name

A name fits an image whose id it is; else the longest id that it ends with (tools put folders before
a name); else the one id that ends with it (others drop folders).
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from datus.errors import UsageError
from datus.formats.records import Corrections
from datus.types import IGNORE, Array, ImageRecord


@dataclass(frozen=True)
class Matched:
    """Corrections of the images of a run. Its labels are those of classes with a pixel."""

    origin: Path
    names: tuple[str, ...]
    """(C,): classes with at least one pixel, in the order of the file."""
    images: dict[str, str]
    """image id -> name in `corrections`; images without a labelled pixel are left out."""
    unused: tuple[str, ...]
    """Names that fit no image of the run."""
    corrections: Corrections

    def labels(self, image_id: str) -> Array:
        """uint8 (H, W): class 0..C-1 or IGNORE."""
        lookup = np.full(256, IGNORE, np.uint8)
        for new, name in enumerate(self.names):
            lookup[self.corrections.names.index(name)] = new
        return np.asarray(lookup[self.corrections.images[self.images[image_id]].draw()])

    @cached_property
    def digest(self) -> str:
        """'sha256:...' of what is said: names, image ids and labels, not how they are spelled."""
        digest = hashlib.sha256(repr(self.names).encode())
        for image_id in sorted(self.images):
            labels = self.labels(image_id)
            digest.update(repr((image_id, labels.shape)).encode())
            digest.update(labels.tobytes())
        return f"sha256:{digest.hexdigest()}"


def matched(origin: Path, corrections: Corrections, records: Sequence[ImageRecord]) -> Matched:
    """Raises UsageError: no name or two names fit an image, another size, no labelled pixel."""
    by_id = {record.image_id: record for record in records}
    by_image = places(origin, corrections, list(by_id))
    used, images = np.zeros(256, bool), {}
    for image_id, name in sorted(by_image.items()):
        record = by_id[image_id]
        drawing = corrections.images[name]
        # a file may claim any size: before it takes memory
        _check_size(origin, name, drawing.size(), record)
        labels = drawing.draw()
        _check_size(origin, name, labels.shape, record)
        values = np.unique(labels)
        if values[0] != IGNORE:
            images[image_id] = name
            used[values[values != IGNORE]] = True
    if not images:
        raise UsageError(
            f"corrections: {origin}: no pixel has a label in any of {len(by_image)} images: "
            "nothing to learn from; label some, or leave the corrections out"
        )
    names = tuple(corrections.names[label] for label in np.flatnonzero(used))
    unused = tuple(sorted(corrections.images.keys() - set(by_image.values())))
    return Matched(origin, names, images, unused, corrections)


def places(origin: Path, corrections: Corrections, ids: Sequence[str]) -> dict[str, str]:
    """image id -> name, of images that have one. Raises UsageError: none has, or two fit."""
    normal = {unicodedata.normalize("NFC", image_id): image_id for image_id in ids}
    by_last: dict[str, list[str]] = {}
    for image_id in normal:
        by_last.setdefault(PurePosixPath(image_id).name, []).append(image_id)
    names: dict[str, str] = {}
    for name in sorted(corrections.images):
        fits = _fits(unicodedata.normalize("NFC", name), normal, by_last)
        if len(fits) > 1:
            raise UsageError(
                f"corrections: {origin}: {name} may be {fits[0]} or {fits[1]}: "
                "name it with its folders"
            )
        for image_id in fits:
            first = names.setdefault(normal[image_id], name)
            if first != name:
                raise UsageError(f"corrections: {origin}: {first} and {name} are both {image_id}")
    if not names:
        raise UsageError(
            f"corrections: {origin}: none of its {len(corrections.images)} images is in the run: "
            f"got for example {min(corrections.images)}, expected for example {ids[0]}"
        )
    return names


def _fits(name: str, ids: dict[str, str], by_last: dict[str, list[str]]) -> list[str]:
    if name in ids:
        return [name]
    same = by_last.get(PurePosixPath(name).name, [])
    shorter = [image_id for image_id in same if name.endswith(f"/{image_id}")]
    if shorter:
        return [max(shorter, key=len)]
    return [image_id for image_id in same if image_id.endswith(f"/{name}")]


def _check_size(origin: Path, name: str, size: tuple[int, ...], record: ImageRecord) -> None:
    if size != (record.height, record.width):
        raise UsageError(
            f"corrections: {origin}: {name} is {size[0]}x{size[1]}, its image {record.height}x"
            f"{record.width} (height x width): expected the same size; export it at full size"
        )

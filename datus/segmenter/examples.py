"""What a segmenter learns from: images and labels, or features that were made once.

    CacheWriter(folder, n_classes, drop_share)     features and label shares to disk, one by one
    FeatureSet(folder)                             ... and back: for frozen backbones
    ImageSet(sources, n_classes, drop_share, view) images read again in each epoch
    cell_shares(labels, grid, n_classes)           labels as both sets hold them

Both sets give `Example`s. Only the images of one step are in memory: those of a cache are mapped
from the disk. An image whose labels are nearly all of one class is left out (paper III-F).

Labels are uint8 (H, W), IGNORE where nothing is known: dense masks, scribbles and points alike.
They are counted or picked, never interpolated. A cell is a patch of the ViT: every known pixel in
it counts, be it one.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from datus.config import Config
from datus.errors import ImageError, WorkError
from datus.inputs.decode import fit_size, normalise, resize_image
from datus.store import whole_file
from datus.types import IGNORE, Array

if TYPE_CHECKING:
    from datus.segmenter.model import Segmenter


@dataclass(frozen=True, slots=True)
class Example:
    """One image of one step."""

    inputs: Array
    """float32 (F, gh, gw) features, or (3, h, w) normalised pixels."""
    shares: Array
    """uint8 (C, gh, gw): how much of each cell has which label, in 255ths."""


@dataclass(slots=True)
class Selection:
    """Which images teach something: those with labels that are not nearly all of one class."""

    n_classes: int
    drop_share: float
    n_taken: int = 0
    dropped: list[str] = field(default_factory=list)
    any_label: bool = False
    """A label was seen, if only in an image that is left out."""

    def takes(self, image_id: str, labels: Array) -> bool:
        """Whether an image is taken; it is counted. labels: uint8 (H, W)."""
        counts = count_labels(labels, self.n_classes)
        self.any_label |= bool(counts.any())
        taken = bool(counts.any()) and largest_share(counts) <= self.drop_share
        self.n_taken += taken
        self.dropped += [] if taken else [image_id]
        return taken

    def check(self) -> None:
        """WorkError if no image was taken."""
        n_images = len(self.dropped)
        if self.n_taken:
            return
        if not n_images:
            raise WorkError(
                "nothing to learn from: no image has labels that can be used; mend or add some"
            )
        if not self.any_label:
            raise WorkError(
                f"nothing to learn from: no pixel of {n_images} masks has a label, all are 255 or "
                "ignored; label some, or put their ids into a class of the class table"
            )
        raise WorkError(
            f"nothing to learn from: of {n_images} masks all have no label, or one label on more "
            f"than {100 * self.drop_share:.0f} % of the pixels; look at the masks, or raise "
            "denoise.drop_share"
        )


# --- features on disk ---------------------------------------------------------------------------

_INDEX = "cache.json"
_FEATURES = "features.f16"
_SHARES = "shares.u8"


class CacheWriter:
    """Fills a folder. Without `finish` the folder counts as empty, so a kill leaves no half set.

    float16: half the disk, and tokens keep three decimals, far more than the labels know.
    """

    def __init__(self, folder: Path, n_classes: int, drop_share: float) -> None:
        self.folder, self.selection = folder, Selection(n_classes, drop_share)
        self.grids: list[tuple[int, int]] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _INDEX).unlink(missing_ok=True)
        for name in (_FEATURES, _SHARES):
            (folder / name).write_bytes(b"")

    def wants(self, image_id: str, labels: Array) -> bool:
        """Whether an image teaches anything; if not, it is noted. labels: uint8 (H, W)."""
        return self.selection.takes(image_id, labels)

    def add(self, features: Array, labels: Array) -> None:
        """One image that is wanted. features: float (F, gh, gw); labels: uint8 (H, W)."""
        grid = (int(features.shape[1]), int(features.shape[2]))
        shares = cell_shares(labels, grid, self.selection.n_classes)
        self.grids.append(grid)
        with (self.folder / _FEATURES).open("ab") as file:
            file.write(np.ascontiguousarray(features, np.float16).tobytes())
        with (self.folder / _SHARES).open("ab") as file:
            file.write(shares.tobytes())

    def finish(self) -> "FeatureSet":
        """The set is complete. Raises WorkError if no image is left."""
        self.selection.check()
        table = {"grids": self.grids, "dropped": self.selection.dropped}
        whole_file.write(self.folder / _INDEX, [json.dumps(table).encode()])
        return FeatureSet(self.folder)


class FeatureSet:
    """What a CacheWriter left in a folder."""

    are_features = True
    """`inputs` go to the head, not through the whole model."""

    def __init__(self, folder: Path) -> None:
        table = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        self.dropped: list[str] = table["dropped"]
        self._grids = [(int(rows), int(columns)) for rows, columns in table["grids"]]
        cells = [rows * columns for rows, columns in self._grids]
        self._starts = [0, *np.cumsum(cells).tolist()]
        features = np.memmap(folder / _FEATURES, np.float16, "r")
        shares = np.memmap(folder / _SHARES, np.uint8, "r")
        n_cells = self._starts[-1]
        self._parts = ((features, len(features) // n_cells), (shares, len(shares) // n_cells))

    @staticmethod
    def stored(folder: Path) -> "FeatureSet | None":
        """What is complete in a folder, if anything."""
        try:
            return FeatureSet(folder)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __len__(self) -> int:
        return len(self._grids)

    def take(self, numbers: Sequence[int], rng: np.random.Generator) -> list[Example]:
        """Images by number. Nothing here is random."""
        return [self._example(number) for number in numbers]

    def _example(self, number: int) -> Example:
        start, end = self._starts[number : number + 2]
        features, shares = (
            part[start * depth : end * depth].reshape(depth, *self._grids[number])
            for part, depth in self._parts
        )
        return Example(features.astype(np.float32), np.array(shares))


# --- images read again and again ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """How to read one image and its labels. Both raise ImageError."""

    image_id: str
    image: Callable[[], Array]
    """uint8 (H, W, 3)."""
    labels: Callable[[], Array]
    """uint8 (H, W), of the same size."""


@dataclass(frozen=True, slots=True)
class View:
    """How a model sees images."""

    image_px: int
    resize: Literal["keep", "squash"]
    stride: int
    """Sides are multiples of it; labels are counted in cells of this many pixels."""
    crop: bool = False
    """Always a square of `image_px`, cut at random."""
    augment: bool = False
    """Mirrored, and at other scales."""


def training_view(config: Config, segmenter: "Segmenter") -> View:
    """How a model that is not frozen sees images while it learns."""
    spec, crop = segmenter.spec, config.denoise.kind == "deeplabv3"
    return View(spec.image_px, spec.resize, segmenter.stride, crop, config.denoise.augment)


class ImageSet:
    """Images and labels, decoded when they are needed."""

    are_features = False

    def __init__(
        self, sources: Iterable[Source], n_classes: int, drop_share: float, view: View
    ) -> None:
        """Reads all labels once. Raises ImageError, or WorkError if no image is left."""
        selection = Selection(n_classes, drop_share)
        self._sources = [one for one in sources if selection.takes(one.image_id, one.labels())]
        selection.check()
        self.dropped = selection.dropped
        self._n_classes, self._view = n_classes, view

    def __len__(self) -> int:
        return len(self._sources)

    def take(self, numbers: Sequence[int], rng: np.random.Generator) -> list[Example]:
        """Images by number, each cut and mirrored as chance and the settings want."""
        return [self._example(self._sources[number], rng) for number in numbers]

    def _example(self, source: Source, rng: np.random.Generator) -> Example:
        view = self._view
        image, labels = source.image(), source.labels()
        height, width = image.shape[:2]
        size = fit_size(height, width, view.image_px, view.stride, view.resize)
        if view.crop or view.augment:
            side = fit_size(1, 1, view.image_px, view.stride, "squash") if view.crop else size
            image, labels = cut(image, labels, choose_cut(size, side, view.augment, rng))
        else:
            image = resize_image(image, size)
        pixels = normalise(image)
        grid = (pixels.shape[1] // view.stride, pixels.shape[2] // view.stride)
        return Example(pixels, cell_shares(labels, grid, self._n_classes))


Examples = FeatureSet | ImageSet
"""All that is learnt from."""

# --- labels -------------------------------------------------------------------------------------

FULL = 255
"""A cell share of 1: all pixels of the cell have the label."""


def cell_shares(labels: Array, grid: tuple[int, int], n_classes: int) -> Array:
    """uint8 (n_classes, gh, gw), in 255ths of the cell's pixels; at least 1 where there is one.

    A pixel belongs to the cell under its centre. An image with fewer pixels than cells gives cells
    without any. Raises ImageError on a label that is neither below `n_classes` nor IGNORE.
    """
    count_labels(labels, n_classes)
    (height, width), (rows, columns) = labels.shape, grid
    row = (2 * np.arange(height) + 1) * rows // (2 * height)
    column = (2 * np.arange(width) + 1) * columns // (2 * width)
    cell = (row * columns)[:, None] + column
    known = labels != IGNORE
    place = labels[known].astype(np.int64) * (rows * columns) + cell[known]
    counts = np.bincount(place, minlength=n_classes * rows * columns)
    sizes = np.bincount(row, minlength=rows)[:, None] * np.bincount(column, minlength=columns)
    counts = counts.reshape(n_classes, rows, columns)
    # rounded up: a single point in a large cell must not vanish
    shares: Array = -(-FULL * counts // np.maximum(sizes, 1))
    return shares.astype(np.uint8)


def count_labels(labels: Array, n_classes: int) -> Array:
    """int64 (n_classes,). Raises ImageError on other labels than these and IGNORE."""
    counts = np.bincount(labels.ravel(), minlength=256).astype(np.int64)
    wrong = np.flatnonzero(counts[n_classes:IGNORE])
    if len(wrong):
        raise ImageError(
            f"labels: expected ids below {n_classes}, or {IGNORE} for unknown, "
            f"got {wrong[0] + n_classes}; were they made for another class table?"
        )
    return counts[:n_classes]


def largest_share(counts: Array) -> float:
    """Of `count_labels`: 0..1, and 1 where no pixel is labelled: nothing to learn there."""
    total = int(counts.sum())
    return int(counts.max(initial=0)) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of an image, at which size. Pixels of the image as it was made larger."""

    size: tuple[int, int]
    """(h, w) of the whole image when it is cut."""
    box: tuple[int, int, int, int]
    """(top, left, height, width) in it; what lies outside is black and unlabelled."""
    mirrored: bool


SCALE = 1.5
"""Augmented images are this much larger or smaller at most."""


def choose_cut(
    size: tuple[int, int], side: tuple[int, int], augment: bool, rng: np.random.Generator
) -> Cut:
    """A crop of `side` (h, w) from an image of `size` (h, w), anywhere in it; augmented, at another
    scale, and mirrored or not."""
    factor = float(np.exp(rng.uniform(-np.log(SCALE), np.log(SCALE)))) if augment else 1.0
    height, width = (max(1, round(one * factor)) for one in size)
    top = int(rng.integers(0, max(0, height - side[0]) + 1))
    left = int(rng.integers(0, max(0, width - side[1]) + 1))
    return Cut((height, width), (top, left, *side), bool(augment and rng.integers(2)))


def cut(image: Array, labels: Array, choice: Cut) -> tuple[Array, Array]:
    """(uint8 (h, w, 3), uint8 (h, w)) of the chosen part. `labels` may have another size than
    `image` but must show the same."""
    top, left, height, width = choice.box
    whole = resize_image(image, choice.size)
    part = whole[top : top + height, left : left + width]
    rows = (2 * np.arange(choice.size[0]) + 1) * labels.shape[0] // (2 * choice.size[0])
    columns = (2 * np.arange(choice.size[1]) + 1) * labels.shape[1] // (2 * choice.size[1])
    known = labels[rows[top : top + height]][:, columns[left : left + width]]
    pixels = np.zeros((height, width, 3), np.uint8)
    marks = np.full((height, width), IGNORE, np.uint8)
    pixels[: part.shape[0], : part.shape[1]] = part
    marks[: known.shape[0], : known.shape[1]] = known
    if choice.mirrored:
        pixels, marks = pixels[:, ::-1], marks[:, ::-1]
    return np.ascontiguousarray(pixels), np.ascontiguousarray(marks)

"""What a segmenter learns from: images and labels, or features that were made once.

    CacheWriter(folder, n_classes)     features and label shares to disk, image by image
    FeatureSet(folder)                 ... and back, any image at any time: for frozen backbones
    ImageSet(sources, ...)             images read again in each epoch, augmented if asked for

Both sets give `Example`s. Only the images of one step are in memory: those of a cache are mapped
from the disk. An image whose labels are nearly all of one class is left out (paper III-F).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from datus.errors import WorkError
from datus.inputs.images import fit_size, normalise, resize_image
from datus.segmenter.targets import cell_shares, choose_cut, count_labels, cut, largest_share
from datus.store import whole_file as wholefile
from datus.types import Array


@dataclass(frozen=True, slots=True)
class Example:
    """One image of one step."""

    inputs: Array
    """float32 (F, gh, gw) features, or (3, h, w) normalised pixels."""
    shares: Array
    """uint8 (C, gh, gw): how much of each cell has which label, in 255ths."""


class Examples(Protocol):
    """All that is learnt from."""

    are_features: bool
    """`inputs` go to the head, not through the whole model."""

    def __len__(self) -> int: ...
    def take(self, places: Sequence[int], rng: np.random.Generator) -> list[Example]: ...


# --- features on disk ---------------------------------------------------------------------------

_INDEX = "cache.json"
_FEATURES = "features.f16"
_SHARES = "shares.u8"


@dataclass(slots=True)
class CacheWriter:
    """Fills a folder. Without `finish` the folder counts as empty, so a kill leaves no half set.

    float16: half the disk, and tokens keep three decimals, far more than the labels know.
    """

    folder: Path
    n_classes: int
    drop_share: float
    grids: list[tuple[int, int]] = field(default_factory=list)
    n_features: int = 0
    dropped: list[str] = field(default_factory=list)
    any_label: bool = False
    """A label was seen, if only in an image that is left out."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _INDEX).unlink(missing_ok=True)
        for name in (_FEATURES, _SHARES):
            (self.folder / name).write_bytes(b"")

    def wants(self, image_id: str, labels: Array) -> bool:
        """Whether an image teaches anything; if not, it is noted. labels: uint8 (H, W)."""
        counts = count_labels(labels, self.n_classes)
        self.any_label |= bool(counts.any())
        if not counts.any() or largest_share(counts) > self.drop_share:
            self.dropped.append(image_id)
            return False
        return True

    def add(self, features: Array, labels: Array) -> None:
        """One image that is wanted. features: float (F, gh, gw); labels: uint8 (H, W)."""
        grid = (int(features.shape[1]), int(features.shape[2]))
        self.n_features = len(features)
        self.grids.append(grid)
        with (self.folder / _FEATURES).open("ab") as file:
            file.write(np.ascontiguousarray(features, np.float16).tobytes())
        with (self.folder / _SHARES).open("ab") as file:
            file.write(cell_shares(labels, grid, self.n_classes).tobytes())

    def finish(self) -> "FeatureSet":
        """The set is complete. Raises WorkError if no image is left."""
        n_images = len(self.grids) + len(self.dropped)
        if not self.grids:
            raise WorkError(nothing_left(n_images, self.drop_share, self.any_label))
        table = {
            "n_classes": self.n_classes,
            "n_features": self.n_features,
            "grids": self.grids,
            "dropped": self.dropped,
        }
        write_whole(self.folder / _INDEX, json.dumps(table).encode())
        return FeatureSet(self.folder)


class FeatureSet:
    """What a CacheWriter left in a folder."""

    are_features = True

    def __init__(self, folder: Path) -> None:
        table = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        self.folder = folder
        self.dropped: list[str] = table["dropped"]
        self._n_classes, self._n_features = int(table["n_classes"]), int(table["n_features"])
        self._grids = [(int(rows), int(columns)) for rows, columns in table["grids"]]
        cells = np.array([rows * columns for rows, columns in self._grids], np.int64)
        self._starts = np.r_[0, np.cumsum(cells)].tolist()
        self._features = np.memmap(folder / _FEATURES, np.float16, "r")
        self._shares = np.memmap(folder / _SHARES, np.uint8, "r")

    @staticmethod
    def stored(folder: Path) -> "FeatureSet | None":
        """What is complete in a folder, if anything."""
        try:
            return FeatureSet(folder)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __len__(self) -> int:
        return len(self._grids)

    def take(self, places: Sequence[int], rng: np.random.Generator) -> list[Example]:
        """Images by number. Nothing here is random."""
        return [self._example(place) for place in places]

    def _example(self, place: int) -> Example:
        (rows, columns), start = self._grids[place], self._starts[place]
        end = start + rows * columns
        features = self._features[start * self._n_features : end * self._n_features]
        shares = self._shares[start * self._n_classes : end * self._n_classes]
        return Example(
            features.reshape(-1, rows, columns).astype(np.float32),
            np.array(shares.reshape(-1, rows, columns)),
        )


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
    resize: str
    stride: int
    """Sides are multiples of it; labels are counted in cells of this many pixels."""
    crop: bool = False
    """Always a square of `image_px`, cut at random."""
    augment: bool = False
    """Mirrored, and at other scales."""


class ImageSet:
    """Images and labels, decoded when they are needed."""

    are_features = False

    def __init__(
        self, sources: Iterable[Source], n_classes: int, drop_share: float, view: View
    ) -> None:
        """Reads all labels once. Raises ImageError, or WorkError if no image is left."""
        self.dropped: list[str] = []
        self._sources, self._n_classes, self._view = [], n_classes, view
        any_label = False
        for one in sources:
            counts = count_labels(one.labels(), n_classes)
            any_label |= bool(counts.any())
            if not counts.any() or largest_share(counts) > drop_share:
                self.dropped.append(one.image_id)
            else:
                self._sources.append(one)
        if not self._sources:
            raise WorkError(nothing_left(len(self.dropped), drop_share, any_label))

    def __len__(self) -> int:
        return len(self._sources)

    def take(self, places: Sequence[int], rng: np.random.Generator) -> list[Example]:
        """Images by number, each cut and mirrored as chance and the settings want."""
        return [self._one(self._sources[place], rng) for place in places]

    def _one(self, source: Source, rng: np.random.Generator) -> Example:
        view = self._view
        image, labels = source.image(), source.labels()
        height, width = image.shape[:2]
        size = fit_size(height, width, view.image_px, view.stride, _resize(view))
        if view.crop or view.augment:
            side = fit_size(1, 1, view.image_px, view.stride, "squash") if view.crop else size
            image, labels = cut(image, labels, choose_cut(size, side, view.augment, rng))
        else:
            image = resize_image(image, size)
        pixels = normalise(image)
        grid = (pixels.shape[1] // view.stride, pixels.shape[2] // view.stride)
        return Example(pixels, cell_shares(labels, grid, self._n_classes))


def _resize(view: View) -> Literal["keep", "squash"]:
    return "squash" if view.resize == "squash" else "keep"


def nothing_left(n_images: int, drop_share: float, any_label: bool) -> str:
    """The error text where every image was left out."""
    if not n_images:
        return "nothing to learn from: no image has labels that can be used; mend or add some"
    if not any_label:
        return (
            f"nothing to learn from: no pixel of {n_images} masks has a label, all are 255 or "
            "ignored; label some, or put their ids into a class of the class table"
        )
    return (
        f"nothing to learn from: of {n_images} masks all have no label, or one label on more than "
        f"{100 * drop_share:.0f} % of the pixels; look at the masks, or raise denoise.drop_share"
    )


def write_whole(path: Path, data: bytes) -> None:
    """The whole file, on disk, or what was there before. Raises OSError."""
    wholefile.write(path, [data], f".tmp-{path.name}")  # what a kill leaves is written over

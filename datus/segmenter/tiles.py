"""A segmenter on images of any size: one view, or overlapping tiles whose logits are blended.

    in    a Segmenter, uint8 (H, W, 3) RGB images
    out   for each the labels, uint8 (H, W), and if asked for their probability, uint8 (H, W)

    ((labels, confidence),) = predict_images(segmenter, [image], Prediction(confidence=True))
    logits_to_pixels(logits, height, width)     labels of pixels from logits on a grid

An image is seen at the size that the model was trained at, unless another is asked for. What is
larger than a tile then goes in tiles. Beside images and labels memory is one tile a thread and
the logits on the model's grid: float32 for each class, at 1 / stride² of the pixels that it sees.
Folders are in `predict_folder`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from datus.compute.threads import map_threads, n_cores
from datus.engine.workers import no_progress
from datus.errors import BackboneError, UsageError
from datus.inputs.decode import fit_size, normalise, resize_image
from datus.models.forward import map_images
from datus.types import Array

if TYPE_CHECKING:
    from datus.segmenter.model import Segmenter

NATIVE = -1
"""`image_px`: every image at its own size."""

MANY_TILES = 32
"""From here on, tiles have a progress of their own."""

Answer = tuple[Array, Array | None]

Bar = Callable[[str, int, str], AbstractContextManager[Callable[[int], Any]]]
"""(name, total, unit) -> a context that gives what is called with steps done."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Settings. The first three change labels, the others do not on a CPU."""

    image_px: int = 0
    """Size at which an image is seen: 0 = as in training; else the side of a square of the same
    area (more pixels, finer borders, things larger than in training); NATIVE = its own size."""
    tile_px: int = 512
    """An image that is larger as it is seen goes in tiles of this side."""
    overlap_px: int = 128
    """That neighbouring tiles share, at least."""
    confidence: bool = False
    """Also the probability of the label, in 255ths."""
    device: str = "auto"
    threads: int = 0
    """Images or tiles at a time on a CPU; 0 = the cores."""
    batch: int = 8
    """Images or tiles of one size at a time on a GPU."""

    def __post_init__(self) -> None:
        if self.image_px != NATIVE and not 0 <= self.image_px <= 2**15:
            raise UsageError(f"image_px: expected 0 to {2**15} or native, got {self.image_px}")
        if self.tile_px < 1 or not 0 <= self.overlap_px <= self.tile_px // 2:
            raise UsageError(
                f"overlap_px: expected 0 to half of tile_px = {self.tile_px}, got {self.overlap_px}"
            )
        if self.threads < 0 or self.batch < 1:
            raise UsageError(
                f"expected threads 0 or more and batch 1 or more, got {self.threads}, {self.batch}"
            )

    @property
    def n_threads(self) -> int:
        return self.threads or n_cores()


def predict_images(
    segmenter: "Segmenter", images: Sequence[Array], settings: Prediction, bar: Bar | None = None
) -> list[Answer]:
    """(labels, probability of the label in 255ths or None) of each uint8 (H, W, 3) RGB image.

    Tiles of all images run side by side, so that neither many small images nor a large one leave
    threads without work; each is computed alone, so company changes no byte on a CPU. Raises
    BackboneError: not finite, or a backbone of one size that is asked for another.
    """
    blends: list[Blend] = []
    tiles: list[_Tile] = []
    for number, image in enumerate(images):
        size = seen_size(segmenter, image.shape[0], image.shape[1], settings)
        seen = resize_image(image, size)
        grid = size[0] // segmenter.stride, size[1] // segmenter.stride
        blends.append(Blend(segmenter.spec.n_classes, *grid))
        tiles += _tiles(number, seen, segmenter.stride, settings)
    many = len(tiles) >= max(MANY_TILES, 4 * len(images))
    with bar("tiles", len(tiles), "tile") if bar and many else nullcontext(no_progress) as advance:
        for tile, logits in zip(tiles, _logits(segmenter, tiles, settings), strict=True):
            blends[tile.image].add(logits, tile.top, tile.left)
            advance(1)

    def answer(number: int) -> Answer:
        height, width = images[number].shape[:2]
        return logits_to_pixels(blends[number].logits(), height, width, settings.confidence)

    return map_threads(answer, range(len(images)), settings.n_threads)


@dataclass(frozen=True, slots=True)
class _Tile:
    """A part of a view; places and sizes in cells of the grid."""

    image: int
    top: int
    left: int
    view: tuple[int, int]
    pixels: Array
    """uint8 (th, tw, 3), not a copy."""


def _tiles(number: int, seen: Array, stride: int, settings: Prediction) -> Iterator[_Tile]:
    rows, columns = seen.shape[0] // stride, seen.shape[1] // stride
    side, overlap = max(1, settings.tile_px // stride), settings.overlap_px // stride
    for top in tile_starts(rows, side, overlap):
        for left in tile_starts(columns, side, overlap):
            down, right = min(rows, top + side), min(columns, left + side)
            part = seen[top * stride : down * stride, left * stride : right * stride]
            yield _Tile(number, top, left, (rows, columns), part)


def _logits(segmenter: "Segmenter", tiles: list[_Tile], settings: Prediction) -> Iterator[Array]:
    """float32 (C, gh, gw) of each tile, in order; not those of all tiles at once."""
    device = str(next(segmenter.parameters()).device)
    n_threads, batch = settings.n_threads, settings.batch
    chunk = 2 * max(batch, n_threads)

    def logits(some: list[_Tile]) -> list[Array]:
        return list(_forward(segmenter, some))

    def size(tile: _Tile) -> tuple[int, ...]:
        return (*tile.view, *tile.pixels.shape)

    for start in range(0, len(tiles), chunk):
        yield from map_images(logits, tiles[start : start + chunk], device, n_threads, batch, size)


def _forward(segmenter: "Segmenter", tiles: list[_Tile]) -> Array:
    """float32 (B, C, gh, gw) logits of tiles of one size, of views of one size."""
    import torch

    pixels = np.stack([normalise(one.pixels) for one in tiles])
    device = next(segmenter.parameters()).device
    size = pixels.shape[2] // segmenter.stride, pixels.shape[3] // segmenter.stride
    places = [(one.top, one.left) for one in tiles]
    with torch.inference_mode(), segmenter.placed(places, size, tiles[0].view):
        logits: Array = (
            segmenter.grid_logits(torch.from_numpy(pixels).to(device)).float().cpu().numpy()
        )
    if not np.isfinite(logits).all():
        raise BackboneError("infinite values or NaN came out of the model: train it again")
    return logits


def seen_size(
    segmenter: "Segmenter", height: int, width: int, settings: Prediction
) -> tuple[int, int]:
    """(height, width) at which the model sees an image: multiples of its stride."""
    spec, stride = segmenter.spec, segmenter.stride
    if settings.image_px == NATIVE:
        rows, columns = (max(1, round(side / stride)) for side in (height, width))
        return rows * stride, columns * stride
    return fit_size(height, width, settings.image_px or spec.image_px, stride, spec.resize)


# --- logits --------------------------------------------------------------------------------------


def logits_to_pixels(
    logits: Array, height: int, width: int, confidence: bool = False
) -> tuple[Array, Array | None]:
    """(labels uint8 (height, width), probability of that label in 255ths or None).

    logits: float32 (C, gh, gw). They are resized bilinearly (centres of pixels), then compared: the
    first of equal ones wins. Works in strips, one class at a time: beside the output it takes a few
    MB, however large the image and however many the classes.
    """
    labels = np.empty((height, width), np.uint8)
    sure = np.empty((height, width), np.uint8) if confidence else None
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = slice(top, min(height, top + rows))
        best = _resized_rows(logits[0], strip, height, width)
        label, rest = np.zeros(best.shape, np.uint8), np.ones(best.shape, np.float32)
        for number in range(1, len(logits)):
            plane = _resized_rows(logits[number], strip, height, width)
            higher = plane > best
            label[higher] = number
            if sure is not None:  # the sum of exp(logit - best) so far
                gap = np.exp(-np.abs(plane - best))
                rest = np.where(higher, rest * gap + 1, rest + gap)
            np.maximum(best, plane, out=best)
        labels[strip] = label
        if sure is not None:
            sure[strip] = np.rint(255 / rest).astype(np.uint8)
    return labels, sure


STRIP_PIXELS = 2**20


def _resized_rows(plane: Array, strip: slice, height: int, width: int) -> Array:
    """float32 (rows, width): these rows of `plane` (gh, gw) resized to (height, width)."""
    grid_rows = plane.shape[0]
    at = (np.arange(strip.start, strip.stop) + 0.5) * grid_rows / height - 0.5
    at = np.clip(at, 0, grid_rows - 1)
    above = np.floor(at).astype(np.int64)
    share = (at - above).astype(np.float32)[:, None]
    below = np.minimum(above + 1, grid_rows - 1)
    rows = plane[above] * (1 - share) + plane[below] * share
    resized: Array = cv2.resize(rows, (width, len(rows)), interpolation=cv2.INTER_LINEAR)
    return resized


# --- tiles --------------------------------------------------------------------------------------


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of `tile` cells begin that cover 0..length, neighbours sharing `overlap` or more.

    As even as whole cells allow; the last one ends at `length`. One tile if it is long enough.
    """
    if length <= tile:
        return [0]
    n_tiles = 1 + -(-(length - tile) // (tile - overlap))
    return [round(i * (length - tile) / (n_tiles - 1)) for i in range(n_tiles)]


class Blend:
    """Weighted mean of overlapping tiles, on the grid of the logits.

    A tile counts most in its middle and little at its edges, where it knows only one side of what
    it sees. Holds float32 (C, rows, columns), 1 / stride² of what the pixels would take.
    """

    def __init__(self, n_classes: int, rows: int, columns: int) -> None:
        self._sum = np.zeros((n_classes, rows, columns), np.float32)
        self._weight = np.zeros((rows, columns), np.float32)

    def add(self, logits: Array, top: int, left: int) -> None:
        """float32 (C, th, tw) of the tile whose first cell is (top, left)."""
        rows, columns = logits.shape[1:]
        weight = np.outer(_ramp(rows), _ramp(columns))
        place = slice(top, top + rows), slice(left, left + columns)
        self._sum[:, *place] += logits * weight
        self._weight[place] += weight

    def logits(self) -> Array:
        """float32 (C, rows, columns); every cell must have been covered. Use it once, at the end:
        the sums become the answer in place."""
        self._sum /= self._weight
        return self._sum


def _ramp(length: int) -> Array:
    """float32 (length,): up from the edge to the middle in equal steps, and down again."""
    place = np.arange(length)
    ramp: Array = np.minimum(place + 1, length - place).astype(np.float32)
    return ramp

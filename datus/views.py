"""Crops of unlabelled images for pretraining: which, where, and in what colours.

In:  paths of images, a step. Out: Views, float32 (B, 3, px, px) in 0..1, and boxes in image pixels.

Everything random comes from (seed, step): a training that goes on sees what it would have seen.
"""

import io
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from datus.errors import WorkError
from datus.selfsupervised import Views
from datus.types import Array

AHEAD = 4
"""Batches that wait, ready, in memory."""

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises."""

MAX_BAD = 0.5
"""More unreadable images than this share, and something is wrong with the folder."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps first (inclusive) to last (exclusive) with `batch` images; with one crop or two."""

    first: int
    last: int
    batch: int
    pairs: bool


class Photographs:
    """Batches of crops, made ahead of use in threads. Unreadable images are passed over."""

    def __init__(self, paths: list[Path], phases: tuple[Phase, ...], px: int, seed: int) -> None:
        self.paths, self._phases, self._px, self._seed = paths, phases, px, seed
        self._bad: set[int] = set()

    @property
    def n_bad(self) -> int:
        return len(self._bad)

    def batches(self, start: int) -> Iterator[tuple[int, Views]]:
        """(step, its views), from `start` to the end of the last phase."""
        stop = self._phases[-1].last
        with ThreadPoolExecutor(2) as pool:
            waiting: dict[int, Future[Views]] = {}
            try:
                for step in range(start, stop):
                    for ahead in range(step, min(step + AHEAD, stop)):
                        if ahead not in waiting:
                            waiting[ahead] = pool.submit(self.batch, ahead)
                    yield step, waiting.pop(step).result()
            finally:
                for one in waiting.values():
                    one.cancel()

    def batch(self, step: int) -> Views:
        """The views of one step."""
        phase = next(one for one in self._phases if step < one.last)
        rng = np.random.default_rng([self._seed, step])
        crops = np.zeros((2, phase.batch, self._px, self._px, 3), np.uint8)
        boxes = np.zeros((phase.batch, 2, 4), np.float32)
        for row in range(phase.batch):
            image = self._image(rng)
            boxes[row, 0] = random_box(image.shape[:2], rng, 0.2 if phase.pairs else 0.3, None)
            crops[0, row] = cut(image, boxes[row, 0], self._px)
            if phase.pairs:
                boxes[row, 1] = random_box(image.shape[:2], rng, 0.2, boxes[row, 0])
                crops[0, row] = recoloured(crops[0, row], rng)
                crops[1, row] = recoloured(cut(image, boxes[row, 1], self._px), rng)
        both = torch.from_numpy(crops).permute(0, 1, 4, 2, 3).contiguous().float() / 255
        return Views(both[0], both[1], torch.from_numpy(boxes))

    def sample(self, n_images: int, px: int) -> list[Array]:
        """uint8 (px, px, 3), squashed: of every so many images, at most `n_images`, those that can
        be read."""
        found = []
        for path in self.paths[:: max(1, len(self.paths) // n_images)][:n_images]:
            with suppress(*UNREADABLE):
                image = read(path, px)
                whole = np.array([0, 0, *image.shape[:2]], np.float32)
                found.append(cut(image, whole, px))
        return found

    def _image(self, rng: np.random.Generator) -> Array:
        """uint8 (h, w, 3) RGB: one that can be read. Draws again where one cannot."""
        while True:
            place = int(rng.integers(len(self.paths)))
            try:
                return read(self.paths[place], 2 * self._px)
            except UNREADABLE as error:
                self._bad.add(place)
                if len(self._bad) > MAX_BAD * len(self.paths):
                    raise WorkError(
                        f"{len(self._bad)} of {len(self.paths)} images cannot be read; the last: "
                        f"{self.paths[place]} ({error})"
                    ) from None


def read(path: Path, enough_px: int) -> Array:
    """uint8 (h, w, 3) RGB; large JPEGs are decoded at a fraction of their size, at least
    `enough_px` on a side."""
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.draft("RGB", (enough_px, enough_px))
        return np.asarray(picture.convert("RGB"))


def random_box(
    size: tuple[int, int], rng: np.random.Generator, least: float, near: Array | None
) -> Array:
    """float32 (top, left, bottom, right), maybe mirrored: left > right.

    A part of `least` to 1 of the area. With `near`, another box, they share at least a quarter of
    the smaller one, if twenty tries find such a box.
    """
    height, width = size
    box = np.zeros(4, np.float32)
    for _ in range(20):
        area, ratio = rng.uniform(least, 1.0) * height * width, math.exp(rng.uniform(-0.29, 0.29))
        tall = max(8.0, min(float(height), math.sqrt(area / ratio)))
        wide = max(8.0, min(float(width), math.sqrt(area * ratio)))
        top, left = rng.uniform(0, max(0.0, height - tall)), rng.uniform(0, max(0.0, width - wide))
        box = np.array([top, left, top + tall, left + wide], np.float32)
        if near is None or _shared(box, near) >= 0.25:
            break
    return box[[0, 3, 2, 1]] if rng.random() < 0.5 else box


def _shared(box: Array, other: Array) -> float:
    """Area that both cover, over the smaller of their areas."""
    sides, areas = 1.0, [1.0, 1.0]
    for axis in (0, 1):
        low, high = (sorted((one[axis], one[axis + 2])) for one in (box, other))
        sides *= max(0.0, min(low[1], high[1]) - max(low[0], high[0]))
        areas = [areas[0] * (low[1] - low[0]), areas[1] * (high[1] - high[0])]
    return float(sides / min(areas))


def cut(image: Array, box: Array, px: int) -> Array:
    """uint8 (px, px, 3)."""
    left, right = sorted((float(box[1]), float(box[3])))
    top, bottom = float(box[0]), float(box[2])
    rows = slice(int(top), max(int(top) + 1, math.ceil(bottom)))
    columns = slice(int(left), max(int(left) + 1, math.ceil(right)))
    part = cv2.resize(image[rows, columns], (px, px), interpolation=cv2.INTER_AREA)
    return np.asarray(part[:, ::-1] if box[1] > box[3] else part)


def recoloured(crop: Array, rng: np.random.Generator) -> Array:
    """Brightness, contrast, saturation and tint moved a little; sometimes grey or blurred."""
    pixels = crop.astype(np.float32)
    pixels *= rng.uniform(0.7, 1.3)
    mean = pixels.mean()
    pixels = (pixels - mean) * rng.uniform(0.7, 1.3) + mean
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.6, 1.4)
    pixels = (pixels - grey[..., None]) * saturation + grey[..., None]
    pixels *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    if rng.random() < 0.2:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.2))
    return np.asarray(np.clip(pixels, 0, 255).astype(np.uint8))

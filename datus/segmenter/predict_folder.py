"""A saved model on a folder of images: `datus predict MODEL IMAGES --out OUT`.

    in    NAME.safetensors and NAME.json, a folder of images or one image
    out   OUT/ID.png, the class of every pixel at the image's own size, in the model's colours;
          if asked for, FOLDER/ID.png, the probability of that class in 255ths;
          OUT/predict.jsonl: model and settings, then what is finished (`predict_list`)

    found = predict_folder(Path("scenes"), Path("photos"), Path("masks"), Prediction())

An image that cannot be used is recorded and the others go on. The same command goes on where it
stopped; another model, other settings or changed images make anew what they touch.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from datus.compute.threads import map_threads
from datus.errors import ImageError, TooManyFailures, UsageError
from datus.inputs.decode import decode_image, image_size
from datus.inputs.find import find_images, image_id_of, read_file, sha256_of
from datus.method.masks import PALETTE
from datus.segmenter.files import read_record
from datus.segmenter.predict_list import Done, held
from datus.segmenter.tiles import Answer, Bar, Prediction, predict_images
from datus.types import Array

GROUP_PIXELS = 24_000_000
"""Images that are in memory together have no more, unless one alone has."""

GROUP_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things are, and what is allowed."""

    images: Path
    """Folder, sub-folders included, or one file."""
    out: Path
    confidence: Path | None = None
    """Folder for the second PNG of each image; neither below `out` nor above it."""
    max_pixels: int = 200_000_000
    max_failed: int = 0

    def __post_init__(self) -> None:
        if self.max_failed < 0:
            raise UsageError(f"max_failed: expected 0 or more, got {self.max_failed}")

    @property
    def written(self) -> dict[str, Path]:
        """Kind of file -> folder."""
        more = {"confidence": self.confidence} if self.confidence is not None else {}
        return {"mask": self.out, **more}


@dataclass(slots=True)
class Predicted:
    """What was done."""

    made: int = 0
    kept: int = 0
    """Finished before, with the same model and settings."""
    failures: dict[str, str] = field(default_factory=dict)
    """Image id -> why it could not be used."""


def predict_folder(
    model: Path, folders: Folders, settings: Prediction, bar: Bar | None = None
) -> Predicted:
    """A mask for every image.

    Raises UsageError (no image, a wrong folder), BackboneError (the model cannot be used),
    WorkError (the disk refuses, the folders are in use), and TooManyFailures, after the last image.
    """
    record = read_record(model)
    root, paths = _find(folders)
    with held(folders.written):
        done = Done(folders.written, _recipe(record, settings))
        done.begin({image_id_of(path): root / path for path in paths})
        result = _predict(model, _Images(root, paths, folders, done), settings, bar or _no_bar)
    if len(result.failures) > folders.max_failed:
        raise TooManyFailures(_too_many(result.failures, folders.max_failed))
    return result


def _predict(model: Path, given: "_Images", settings: Prediction, bar: Bar) -> Predicted:
    from datus.segmenter.model import load_segmenter  # loads torch

    segmenter = load_segmenter(model, settings.device)
    settings = replace(settings, confidence=given.folders.confidence is not None)
    colours = segmenter.record["classes"]["colours"]
    result = Predicted()
    with bar("predict", len(given.paths), "image") as update:
        for group in _groups(_read(given), settings.n_threads):
            usable = [one for one in group if one.pixels is not None]
            images = [one.pixels for one in usable if one.pixels is not None]
            answers = predict_images(segmenter, images, settings, bar)
            names = [(one.image_id, one.sha256) for one in usable]
            given.done.write(names, partial(_pngs, answers, colours), settings.n_threads)
            failures = {one.image_id: one.reason for one in group if one.reason}
            given.done.fail(failures)
            result.failures |= failures
            result.made += len(usable)
            result.kept += sum(one.is_done for one in group)
            update(len(group))
    return result


# --- in -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Item:
    """One image on its way."""

    image_id: str
    sha256: str = ""
    data: bytes = b""
    n_pixels: int = 0
    pixels: Array | None = None
    reason: str = ""
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class _Images:
    """What is asked for."""

    root: Path
    paths: tuple[str, ...]
    """Relative to it."""
    folders: Folders
    done: Done


def _find(folders: Folders) -> tuple[Path, tuple[str, ...]]:
    """(folder, paths in it). UsageError: no image, or masks would become images of the next run."""
    images = folders.images
    root = images.parent if images.is_file() else images
    paths = (images.name,) if images.is_file() else find_images(images).paths
    place, out = root.resolve(), folders.out.resolve()
    for folder in folders.written.values():
        # of a single image the folder may be the one that people work in
        if folder.resolve() == place or (
            not images.is_file() and folder.resolve().is_relative_to(place)
        ):
            raise UsageError(f"{folder}: lies in the folder of the images; choose another")
    if folders.confidence is not None:
        second = folders.confidence.resolve()
        if second.is_relative_to(out):
            text = f"{folders.confidence}: lies in {folders.out}, which holds masks"
            raise UsageError(f"{text}; choose another")
        if out.is_relative_to(second):
            text = f"{folders.out}: lies in {folders.confidence}, which holds how sure masks are"
            raise UsageError(f"{text}; choose another")
    return root, paths


def _read(given: _Images) -> Iterator[_Item]:
    """Every image: finished, or its bytes, or why it cannot be used."""
    for path in given.paths:
        item = _Item(image_id_of(path))
        try:
            item.data = read_file(given.root / path)
            item.sha256 = sha256_of(item.data)
            item.is_done = given.done.has(item.image_id, item.sha256)
            if item.is_done:
                item.data = b""
            else:
                height, width = image_size(item.data, given.folders.max_pixels)
                item.n_pixels = height * width
        except ImageError as error:
            item.reason = str(error)
        yield item


def _groups(items: Iterable[_Item], n_threads: int) -> Iterator[list[_Item]]:
    """Items that fit in memory together, decoded."""

    def decode(item: _Item) -> None:
        if item.n_pixels and not item.reason:
            try:
                item.pixels = decode_image(item.data, item.n_pixels)
            except ImageError as error:
                item.reason = str(error)
            item.data = b""

    group: list[_Item] = []
    for item in items:
        n_pixels = sum(one.n_pixels for one in group) + item.n_pixels
        if group and (n_pixels > GROUP_PIXELS or len(group) >= GROUP_IMAGES):
            map_threads(decode, group, n_threads)
            yield group
            group = []
        group.append(item)
    if group:
        map_threads(decode, group, n_threads)
        yield group


# --- out ----------------------------------------------------------------------------------------


def _recipe(record: dict[str, Any], settings: Prediction) -> dict[str, Any]:
    """What masks depend on beside the image: the first line of the list."""
    return {
        "format": 1,
        "model": record["weights"]["sha256"],
        "spec": record["spec"],
        "classes": record["classes"],
        "image_px": settings.image_px,
        "tile_px": settings.tile_px,
        "overlap_px": settings.overlap_px,
    }


def _pngs(answers: list[Answer], colours: list[list[int]], number: int) -> dict[str, bytes]:
    """Kind of file -> PNG, of one image."""
    labels, sure = answers[number]
    found = {"mask": encode_labels(labels, colours)}
    return found if sure is None else {**found, "confidence": _grey(sure)}


def encode_labels(labels: Array, colours: list[list[int]]) -> bytes:
    """uint8 (H, W) -> 8-bit palette PNG in the colours of the classes; ids are kept as they are."""
    palette = PALETTE.copy()
    palette[: len(colours)] = colours
    image = Image.fromarray(labels)
    image.putpalette(palette.tobytes())
    return _png(image)


def _grey(sure: Array) -> bytes:
    return _png(Image.fromarray(sure))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=8, optimize=False, compress_level=6)
    return buffer.getvalue()


def _too_many(failures: dict[str, str], allowed: int) -> str:
    shown = [f"{image_id}: {reason}" for image_id, reason in list(failures.items())[:5]]
    return (
        f"{len(failures)} images could not be used, {allowed} allowed: {'; '.join(shown)}"
        f"\nMend or remove them, or allow them with --max-failed {len(failures)}"
    )


@contextlib.contextmanager
def _no_bar(name: str, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
    yield lambda n: None

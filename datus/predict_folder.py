"""A saved model on a folder of images: `datus predict MODEL IMAGES --out OUT`.

    in    NAME.safetensors and NAME.json, a folder of images or one image
    out   OUT/ID.png, the class of every pixel at the image's own size, in the model's colours;
          if asked for, FOLDER/ID.png, the probability of that class in 255ths;
          OUT/predict.jsonl: model and settings, then one line an image

    found = predict_folder(Path("scenes"), Path("photos"), Path("masks"), Prediction())

An image that cannot be used is recorded and the others go on. The same command goes on where it
stopped; another model, other settings or changed images make anew what they touch.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datus.errors import ImageError, TooManyFailures, UsageError, WorkError
from datus.images import decode_image, find_images, image_id_of, image_size, sha256_of
from datus.masks import PALETTE
from datus.modelfiles import read_record, write_whole
from datus.predict import Answer, Bar, Prediction, predict_images
from datus.records import Array
from datus.threads import map_threads

GROUP_PIXELS = 24_000_000
"""Images that are in memory together have no more, unless one alone has."""

GROUP_IMAGES = 64

LIST = "predict.jsonl"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things are, and what is allowed."""

    images: Path
    """Folder, sub-folders included, or one file."""
    out: Path
    confidence: Path | None = None
    """Folder for the second PNG of each image; not below `out`, which holds masks only."""
    max_pixels: int = 200_000_000
    max_failed: int = 0


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
    WorkError (the disk refuses), and TooManyFailures, after the last image.
    """
    record = read_record(model)
    root, paths = _find(folders)
    done = _Done(folders, _recipe(record, settings), [image_id_of(path) for path in paths])
    from datus.segmenter import load_segmenter  # loads torch

    segmenter = load_segmenter(model, settings.device)
    settings = replace(settings, confidence=folders.confidence is not None)
    result = Predicted()
    with (bar or _no_bar)("predict", len(paths), "image") as update:
        for group in _groups(_read(root, paths, folders, done), settings.n_threads):
            usable = [one for one in group if one.pixels is not None]
            images = [one.pixels for one in usable if one.pixels is not None]
            answers = predict_images(segmenter, images, settings, bar)
            done.write(usable, answers, record["classes"]["colours"], settings.n_threads)
            failures = {one.image_id: one.reason for one in group if one.reason}
            done.add_failures(failures)
            result.failures |= failures
            result.made += len(usable)
            result.kept += sum(one.is_done for one in group)
            update(len(group))
    if len(result.failures) > folders.max_failed:
        raise TooManyFailures(_too_many(result.failures, folders.max_failed))
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


def _find(folders: Folders) -> tuple[Path, tuple[str, ...]]:
    """(folder, paths in it). UsageError: no image, or masks would become images of the next run."""
    images = folders.images
    root = images.parent if images.is_file() else images
    paths = (images.name,) if images.is_file() else find_images(images).paths
    for folder in (folders.out, folders.confidence):
        if folder and not images.is_file() and folder.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"{folder}: lies in the folder of the images; choose another")
    second = folders.confidence
    if second and second.resolve().is_relative_to(folders.out.resolve()):
        raise UsageError(f"{second}: lies in {folders.out}, which holds masks; choose another")
    return root, paths


def _read(root: Path, paths: tuple[str, ...], folders: Folders, done: "_Done") -> Iterator[_Item]:
    """Every image: finished, or its bytes, or why it cannot be used."""
    for path in paths:
        item = _Item(image_id_of(path))
        try:
            item.data = (root / path).read_bytes()
            item.sha256 = sha256_of(item.data)
            item.is_done = done.has(item)
            if item.is_done:
                item.data = b""
            else:
                height, width = image_size(item.data, folders.max_pixels)
                item.n_pixels = height * width
        except OSError as error:
            item.reason = error.strerror or str(error)
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


class _Done:
    """The list of what is finished, in a file that grows by a line an image."""

    def __init__(self, folders: Folders, recipe: dict[str, Any], image_ids: list[str]) -> None:
        """Reads the list if it is of this recipe; else begins a new one. UsageError if `out` has
        files that would be written over and no list, so that another tool made them."""
        self._folders = folders
        self._path = folders.out / LIST
        self._lines: dict[str, dict[str, Any]] = {}
        lines = self._read_lines()
        if lines and lines[0] == recipe:
            named = (line for line in lines[1:] if isinstance(line.get("image"), str))
            self._lines = {line["image"]: line for line in named}
        elif not lines:
            self._refuse_foreign(image_ids)
        write_whole(self._path, b"".join(_line(one) for one in (recipe, *self._lines.values())))

    def has(self, item: _Item) -> bool:
        """The mask of this very image is there, whole, and its confidence if that is asked for."""
        line = self._lines.get(item.image_id)
        if line is None or line.get("sha256") != item.sha256:
            return False
        return all(
            path.is_file() and path.stat().st_size == line.get(name)
            for name, path in self._files(item.image_id).items()
        )

    def write(
        self, items: list[_Item], answers: list[Answer], colours: list[list[int]], n_threads: int
    ) -> None:
        """The PNGs of each, then its line."""

        def one(number: int) -> dict[str, Any]:
            item, (labels, sure) = items[number], answers[number]
            line: dict[str, Any] = {"image": item.image_id, "sha256": item.sha256}
            for name, path in self._files(item.image_id).items():
                data = encode_labels(labels, colours) if name == "mask" else _grey(sure)
                write_whole(path, data)
                line[name] = len(data)
            return line

        self._append(map_threads(one, range(len(items)), n_threads))

    def add_failures(self, failures: dict[str, str]) -> None:
        """They are tried again by the next command."""
        self._append([{"image": name, "failed": reason} for name, reason in failures.items()])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(_line(line) for line in lines))
        except OSError as error:
            raise WorkError(f"cannot write {self._path}: {error.strerror}") from None

    def _files(self, image_id: str) -> dict[str, Path]:
        files = {"mask": self._folders.out / f"{image_id}.png"}
        if self._folders.confidence is not None:
            files["confidence"] = self._folders.confidence / f"{image_id}.png"
        return files

    def _read_lines(self) -> list[dict[str, Any]]:
        """What a kill left half written at the end is passed over."""
        try:
            texts = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self._path}: cannot be read ({error}); remove it") from None
        lines = []
        for text in texts:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            lines.append(line if isinstance(line, dict) else {})
        return lines

    def _refuse_foreign(self, image_ids: list[str]) -> None:
        for image_id in image_ids:
            for path in self._files(image_id).values():
                if path.exists():
                    raise UsageError(
                        f"{path}: would be written over, and no {LIST} says that it is ours; "
                        "choose another --out"
                    )


def encode_labels(labels: Array, colours: list[list[int]]) -> bytes:
    """uint8 (H, W) -> 8-bit palette PNG in the colours of the classes; ids are kept as they are."""
    palette = PALETTE.copy()
    palette[: len(colours)] = colours
    image = Image.fromarray(labels)
    image.putpalette(palette.tobytes())
    return _png(image)


def _grey(sure: Array | None) -> bytes:
    return _png(Image.fromarray(np.zeros((1, 1), np.uint8) if sure is None else sure))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=8, optimize=False, compress_level=6)
    return buffer.getvalue()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode() + b"\n"


def _too_many(failures: dict[str, str], allowed: int) -> str:
    shown = [f"{image_id}: {reason}" for image_id, reason in list(failures.items())[:5]]
    return (
        f"{len(failures)} images could not be used, {allowed} allowed: {'; '.join(shown)}"
        f"\nMend or remove them, or allow them with --max-failed {len(failures)}"
    )


@contextlib.contextmanager
def _no_bar(name: str, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
    yield lambda n: None

"""A saved model on a folder of images: `datus predict MODEL IMAGES --out OUT`.

    in    NAME.safetensors and NAME.json, a folder of images or one image
    out   OUT/ID.png, the class of every pixel at the image's own size, in the model's colours;
          if asked for, FOLDER/ID.png, the probability of that class in 255ths;
          OUT/predict.jsonl: model and settings, then what is finished (`PredictionLog`)

    result = predict_folder(Path("scenes"), Folders(Path("photos"), Path("masks")), Prediction())

An image that cannot be used is recorded and the others go on. The same command goes on where it
stopped; another model, other settings or changed images make anew what they touch.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from PIL import Image

from datus.compute.threads import map_threads
from datus.config import DataConfig
from datus.engine.workers import no_progress
from datus.errors import ImageError, TooManyFailures, UsageError, WorkError
from datus.inputs.decode import decode_image, image_size
from datus.inputs.find import find_images, image_id_of, read_file, sha256_of
from datus.method.masks import PALETTE
from datus.segmenter.files import read_record
from datus.segmenter.tiles import Answer, Bar, Prediction, predict_images
from datus.store.whole_file import write_output
from datus.types import Array

if TYPE_CHECKING:
    from datus.segmenter.model import Segmenter

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
    max_pixels: int = DataConfig().max_pixels
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
    settings = replace(settings, confidence=folders.confidence is not None)
    with locked(folders.written):
        log = PredictionLog(folders.written, _recipe(record, settings))
        log.begin({image_id_of(path): root / path for path in paths})

        from datus.segmenter.model import load_segmenter  # loads torch

        segmenter = load_segmenter(model, settings.device)
        items = (_read(root, path, folders.max_pixels, log) for path in paths)
        result = Predicted()
        with bar("predict", len(paths), "image") if bar else nullcontext(no_progress) as advance:
            for group in _groups(items, settings.n_threads):
                result.failures |= _predict_group(segmenter, group, settings, log, bar)
                result.made += sum(one.pixels is not None for one in group)
                result.kept += sum(one.is_done for one in group)
                advance(len(group))
    if len(result.failures) > folders.max_failed:
        raise TooManyFailures(_too_many(result.failures, folders.max_failed))
    return result


def _predict_group(
    segmenter: "Segmenter",
    group: list["_Item"],
    settings: Prediction,
    log: "PredictionLog",
    bar: Bar | None,
) -> dict[str, str]:
    """Writes the masks of a group. Image id -> reason of those that cannot be used."""
    usable = [one for one in group if one.pixels is not None]
    images = [one.pixels for one in usable if one.pixels is not None]
    answers = predict_images(segmenter, images, settings, bar)
    colours = segmenter.record["classes"]["colours"]
    log.write(
        [(one.image_id, one.sha256) for one in usable],
        lambda number: _pngs(answers[number], colours),
        settings.n_threads,
    )
    failures = {one.image_id: one.reason for one in group if one.reason}
    log.fail(failures)
    return failures


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


def _read(root: Path, path: str, max_pixels: int, log: "PredictionLog") -> _Item:
    """An image that is finished, or its bytes, or why it cannot be used."""
    item = _Item(image_id_of(path))
    try:
        data = read_file(root / path)
        item.sha256 = sha256_of(data)
        item.is_done = log.has(item.image_id, item.sha256)
        if not item.is_done:
            height, width = image_size(data, max_pixels)
            item.data, item.n_pixels = data, height * width
    except ImageError as error:
        item.reason = str(error)
    return item


def _groups(items: Iterator[_Item], n_threads: int) -> Iterator[list[_Item]]:
    """Items that fit in memory together, decoded."""

    def decode(item: _Item) -> None:
        if item.data:
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


def _pngs(answer: Answer, colours: list[list[int]]) -> dict[str, bytes]:
    """Kind of file -> 8-bit PNG, of one image. The mask has a palette with the colours of the
    classes; ids are kept as they are."""
    labels, confidence = answer
    palette = PALETTE.copy()
    palette[: len(colours)] = colours
    files = {"mask": _png(labels, palette.tobytes())}
    return files if confidence is None else {**files, "confidence": _png(confidence)}


def _png(pixels: Array, palette: bytes = b"") -> bytes:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if palette:
        image.putpalette(palette)
    image.save(buffer, "PNG", bits=8, optimize=False, compress_level=6)
    return buffer.getvalue()


def _too_many(failures: dict[str, str], allowed: int) -> str:
    shown = [f"{image_id}: {reason}" for image_id, reason in list(failures.items())[:5]]
    return (
        f"{len(failures)} images could not be used, {allowed} allowed: {'; '.join(shown)}"
        f"\nMend or remove them, or allow them with --max-failed {len(failures)}"
    )


# --- what is finished ---------------------------------------------------------------------------

LIST = "predict.jsonl"
LOCK = ".predict.lock"

TEMPORARY = ".tmp-predict-"
"""Whoever holds the lock of a folder may remove all that is called so: its writer is dead."""

OPTIONS = {"mask": "--out", "confidence": "--confidence"}
"""What a folder holds -> the option that chooses it."""


@contextmanager
def locked(folders: Mapping[str, Path]) -> Iterator[None]:
    """One process at a time. The system frees a lock when its owner dies, however it dies.

    folders: by the keys of OPTIONS. Raises WorkError: in use, or no folder can be there.
    """
    with ExitStack() as stack:
        for kind, folder in folders.items():
            stack.enter_context(_locked(folder, f"choose another {OPTIONS[kind]}"))
        yield


@contextmanager
def _locked(folder: Path, cure: str) -> Iterator[None]:
    lock = FileLock(str(folder / LOCK))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise WorkError(
            f"{folder} is in use by another datus predict: wait for it, stop it, or {cure}"
        ) from None
    except (NotADirectoryError, FileExistsError):
        raise WorkError(f"cannot write {folder}: not a directory; {cure}") from None
    except OSError as error:
        raise WorkError(f"cannot write {folder}: {error.strerror}; {cure}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # a folder of masks is to hold no more than that
            (folder / LOCK).unlink()
        lock.release()


class PredictionLog:
    """OUT/predict.jsonl: what is finished, and which files in the folders are our own.

        log = PredictionLog({"mask": out, "confidence": second}, recipe)     while they are locked
        log.begin({image_id: path})                  UsageError: a file of others is in the way
        log.has(image_id, sha256)                    finished
        log.write([(image_id, sha256)], pngs, 2)     the PNGs, and their lines
        log.fail({image_id: reason})                 an earlier mask goes

    The first line is the recipe, what masks depend on beside the image. Each other line is about an
    image, the last one of an image counts. `ours` are the folders, relative to OUT, whose file of
    that image is ours; a line says so before the file is there, so that a kill leaves no file
    without one.

        {"image": ID, "ours": [".", "../confidence"]}     begun, or made by another recipe
        {... "sha256": ..., "mask": BYTES, "confidence": BYTES}     finished
        {... "failed": REASON}
    """

    def __init__(self, folders: Mapping[str, Path], recipe: dict[str, Any]) -> None:
        """Reads the file. Of another recipe it only says what is ours. UsageError: cannot be read.

        folders: by the keys of OPTIONS; "mask" is always there.
        """
        out = folders["mask"]
        self._folders, self._recipe, self._path = folders, recipe, out / LIST
        self._names = {
            kind: os.path.relpath(folder.resolve(), out.resolve())
            for kind, folder in folders.items()
        }
        self._lines: dict[str, dict[str, Any]] = {}
        lines = self._read_lines()
        is_same = lines[:1] == [recipe]
        for line in lines[1:]:
            image_id = line.get("image")
            if isinstance(image_id, str):
                self._lines[image_id] = line
                if not is_same:
                    self._lines[image_id] = self._begun(image_id)

    def begin(self, images: Mapping[str, Path]) -> None:
        """Writes the list anew and removes what killed commands left half written.

        images: image id -> its file. UsageError if a PNG would go over one of them, or over a
        file that the list does not know.
        """
        inputs: set[tuple[int, int]] = set()
        for image_id in images:
            for kind, path in self._files(image_id).items():
                seen = _number(path, follow=False)
                if seen is None:
                    continue
                inputs = inputs or {_number(one, follow=True) or (0, 0) for one in images.values()}
                if seen in inputs:
                    raise UsageError(
                        f"{path}: is one of the images; choose another {OPTIONS[kind]}"
                    )
                if self._names[kind] not in self._ours(image_id):
                    raise UsageError(
                        f"{path}: would be written over, and no {LIST} says that it is ours; "
                        f"choose another {OPTIONS[kind]}"
                    )
        self._sweep(images)
        lines = (self._recipe, *self._lines.values())
        write_output(self._path, b"".join(map(_packed, lines)), TEMPORARY)

    def has(self, image_id: str, sha256: str) -> bool:
        """The mask of this very image is there, whole, and its confidence if that is asked for."""
        line = self._lines.get(image_id)
        if line is None or line.get("sha256") != sha256:
            return False
        return all(
            self._names[kind] in self._ours(image_id)
            and path.is_file()
            and path.stat().st_size == line.get(kind)
            for kind, path in self._files(image_id).items()
        )

    def write(
        self,
        images: Sequence[tuple[str, str]],
        pngs: Callable[[int], Mapping[str, bytes]],
        n_threads: int,
    ) -> None:
        """images: (image id, sha256) each; pngs(number): kind -> the file of that image."""
        self._append([self._begun(image_id, *self._names.values()) for image_id, _ in images])

        def one(number: int) -> dict[str, Any]:
            image_id, sha256 = images[number]
            line = {**self._begun(image_id), "sha256": sha256}
            found = pngs(number)
            for kind, path in self._files(image_id).items():
                write_output(path, found[kind], TEMPORARY)
                line[kind] = len(found[kind])
            return line

        self._append(map_threads(one, range(len(images)), n_threads))

    def fail(self, failures: Mapping[str, str]) -> None:
        """image id -> reason. They are tried again by the next command; masks of what the images
        once were go, in the folders that this command was given."""
        lines = []
        for image_id, reason in failures.items():
            ours = self._ours(image_id)
            for kind, path in self._files(image_id).items():
                if self._names[kind] in ours:
                    _remove(path)
                    ours.remove(self._names[kind])
            lines.append({"image": image_id, "failed": reason, "ours": ours})
        self._append(lines)

    def _begun(self, image_id: str, *more: str) -> dict[str, Any]:
        ours = self._ours(image_id)
        return {"image": image_id, "ours": [*ours, *(one for one in more if one not in ours)]}

    def _ours(self, image_id: str) -> list[str]:
        ours = self._lines.get(image_id, {}).get("ours")
        return list(ours) if isinstance(ours, list) else []

    def _files(self, image_id: str) -> dict[str, Path]:
        return {kind: folder / f"{image_id}.png" for kind, folder in self._folders.items()}

    def _append(self, lines: list[dict[str, Any]]) -> None:
        """On the disk when this returns: a file without a line would be taken for another's."""
        if not lines:
            return
        self._lines |= {line["image"]: line for line in lines}
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(map(_packed, lines)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WorkError(f"cannot write {self._path}: {error.strerror}") from None

    def _read_lines(self) -> list[dict[str, Any]]:
        """What a kill left half written at the end is passed over."""
        try:
            texts = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            reason = f"{error.strerror}; mend that or choose another --out"
            raise UsageError(f"{self._path}: cannot be read: {reason}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{self._path}: cannot be read ({error}); remove it") from None
        lines = []
        for text in texts:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            lines.append(line if isinstance(line, dict) else {})
        return lines

    def _sweep(self, images: Mapping[str, Path]) -> None:
        """Only where this command writes: folders below may be held by others."""
        places = {path.parent for one in images for path in self._files(one).values()}
        for place in places | set(self._folders.values()):
            for path in place.glob(f"{TEMPORARY}*"):
                with suppress(OSError):
                    path.unlink()


def _number(path: Path, follow: bool) -> tuple[int, int] | None:
    """What the system knows a file by, whatever its names; None if there is none."""
    try:
        found = path.stat(follow_symlinks=follow)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WorkError(f"cannot remove {path}: {error.strerror}; remove it yourself") from None


def _packed(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True).encode() + b"\n"

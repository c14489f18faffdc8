"""What `datus predict` has finished, and which files in its folders are its own: OUT/predict.jsonl.

    with held({"mask": out, "confidence": sure}):     nobody else writes there
        done = Done({"mask": out, "confidence": sure}, recipe)
        done.begin({image_id: path})                  UsageError: a file of others is in the way
        done.has(image_id, sha256)                    finished
        done.write([(image_id, sha256)], pngs, 2)     the PNGs, and their lines
        done.fail({image_id: reason})                 an earlier mask goes

The first line is the recipe, what masks depend on beside the image. Each other line is about an
image, the last one of an image counts. `ours` are the folders, relative to OUT, whose file of that
image is ours; a line says so before the file is there, so that a kill leaves no file without one.

    {"image": ID, "ours": [".", "../sure"]}           begun, or made by another recipe
    {... "sha256": ..., "mask": BYTES, "confidence": BYTES}     finished
    {... "failed": REASON}
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datus.compute.threads import map_threads
from datus.errors import UsageError, WorkError
from datus.segmenter.files import write_whole

LIST = "predict.jsonl"

LOCK = ".predict.lock"

TEMPORARY = ".tmp-predict-"
"""Who holds the folder may remove all that is called so: its writer is dead."""

OPTIONS = {"mask": "--out", "confidence": "--confidence"}
"""What a folder holds -> the option that chooses it."""

Folders = Mapping[str, Path]
"""By the keys of OPTIONS; "mask" is always there."""


@contextmanager
def held(folders: Folders) -> Iterator[None]:
    """One process at a time. The system frees the lock when its owner dies, however it dies.

    Raises WorkError: in use, or no folder can be there.
    """
    with ExitStack() as stack:
        for kind, folder in folders.items():
            stack.enter_context(_locked(folder, OPTIONS[kind]))
        yield


@contextmanager
def _locked(folder: Path, option: str) -> Iterator[None]:
    path = folder / LOCK
    cure = f"choose another {option}"
    lock = FileLock(str(path))
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
            path.unlink()
        lock.release()


class Done:
    """The list, in a file that grows. Only while the folders are held."""

    def __init__(self, folders: Folders, recipe: dict[str, Any]) -> None:
        """Reads it. Of another recipe it only says what is ours. UsageError: cannot be read."""
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
        write_whole(self._path, b"".join(map(_packed, lines)), TEMPORARY)

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
                write_whole(path, found[kind], TEMPORARY)
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
        line = self._lines.get(image_id, {})
        ours = line.get("ours")
        if isinstance(ours, list):
            return list(ours)
        return [name for kind, name in self._names.items() if kind in line]  # of older versions

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

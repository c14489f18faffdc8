"""Which images a folder holds, what they are called, and their bytes.

find_images(folder)     relative paths, sorted by image id
image_id_of(path)       'x/a.b.jpg' -> 'x/a.b'
read_file(path)         the bytes, or ImageError
"""

import hashlib
import itertools
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datus.errors import ImageError, UsageError
from datus.types import EXPORT_MARK, RUN_MARK

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .apng .bmp .tif .tiff .gif .webp .pbm .pgm .ppm .pnm"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Of file names, in lower case; case does not matter. What a file holds is seen from its bytes."""


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What is in a folder."""

    paths: tuple[str, ...]
    """Relative to the folder, `/`-separated, sorted by image id."""
    n_other: int
    """Files with other suffixes; hidden ones not counted."""


def find_images(folder: Path) -> FoundImages:
    """All image files at any depth below `folder`, by suffix.

    Names that start with a dot are skipped, and runs and exports that lie among the images: their
    masks are no images. Linked folders are read, each folder once, under its own name before that
    of a link. A link that leads nowhere counts as an image if it is called one, so that reading it
    fails where failures are recorded.

    Raises UsageError: no such folder, no image in it, a name that is not UTF-8, two images with the
    same id, or a folder called as the mask of an image.
    """
    if not folder.exists():
        raise UsageError(f"{folder}: no such folder; check the path")
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of images, got a file")
    files = list(_files_below(folder))
    paths = sorted((path for path in files if image_id_of(path) != path), key=image_id_of)
    n_other = len(files) - len(paths)
    if not paths:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"{folder}: no image in it ({n_other} other files); known are {known}")
    for path in paths:
        _check_utf8(path)
    _check_unique(folder, paths)
    _check_folders(folder, paths)
    return FoundImages(tuple(paths), n_other)


def image_id_of(path: str) -> str:
    """`path` without its last suffix, if that is an image suffix: 'x/a.b.jpg' -> 'x/a.b'."""
    stem, dot, suffix = path.rpartition(".")
    is_name = stem and not stem.endswith("/")
    return stem if is_name and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else path


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises ImageError, also for a pipe: to read one could take forever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("cannot be read: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def sha256_of(data: bytes) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def _files_below(folder: Path) -> Iterator[str]:
    """Relative paths of files that are not hidden. Real folders come before linked ones."""
    root = folder.resolve()
    seen = {_identity(above) for above in root.parents}  # a link to above the root is a loop
    real, linked = deque([""]), deque[str]()
    while real or linked:
        below = real.popleft() if real else linked.popleft()
        here = os.path.join(folder, below)
        identity = _identity(here)
        if identity in seen:
            continue
        seen.add(identity)
        if below and any(os.path.isfile(os.path.join(here, mark)) for mark in OURS):
            continue
        for entry in _entries(here):
            path = f"{below}/{entry.name}" if below else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else real).append(path)
            else:
                yield path


OURS = (RUN_MARK, EXPORT_MARK)
"""What a folder has that DatUS wrote."""


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Entries that are not hidden, sorted by name. macOS leaves '._x.jpg' on foreign disks."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _check_utf8(path: str) -> None:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{path!r}: the name is not valid UTF-8; rename the file") from None


def _check_unique(folder: Path, paths: list[str]) -> None:
    """`paths` are sorted by id, so files that share one are neighbours."""
    pairs = [
        f"{first} and {second}"
        for first, second in itertools.pairwise(paths)
        if image_id_of(first) == image_id_of(second)
    ]
    if pairs:
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise UsageError(
            f"{folder}: files that differ only in their suffix: {', '.join(pairs[:5])}{more}; "
            "rename one of each pair"
        )


def _check_folders(folder: Path, paths: list[str]) -> None:
    """Masks lie in folders called as those of the images, so no mask may be called as one."""
    folders = {path[:end] for path in paths for end, sign in enumerate(path) if sign == "/"}
    for path in paths:
        mask = f"{image_id_of(path)}.png"
        if mask in folders:
            raise UsageError(f"{folder}: {path}: its mask {mask} is a folder here; rename one")

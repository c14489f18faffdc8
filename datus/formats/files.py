"""What the readers of corrections read: a folder, a zip or one file, all alike.

    files = open_files(path)
    files.names                                   what is in it
    files.read(name), .json(name), .text(name)    contents
    files.rgb(name), .ids(name), .size(name)      pictures

Only names that were listed can be read, so a path inside an annotation file leads nowhere else.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datus.config import DataConfig
from datus.errors import ImageError, UsageError
from datus.inputs.decode import image_size, load_picture
from datus.inputs.labels import decode_labels
from datus.types import Array

MAX_BYTES = 2_000_000_000
"""Of one file: more is no mask and no table that fits in memory."""

MAX_PIXELS = DataConfig().max_pixels
"""Of one picture."""


@dataclass(frozen=True, slots=True)
class Files:
    path: Path
    names: tuple[str, ...]
    """`/`-separated, sorted; hidden files are left out."""
    fetch: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        """Raises UsageError if it cannot be read."""
        try:
            return self.fetch(name)
        except MemoryError:
            raise UsageError(
                f"corrections: {self.where(name)}: takes more memory than there is: split it"
            ) from None
        except (OSError, *_BAD_ZIP) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"corrections: {self.where(name)}: cannot be read: {reason}") from None

    def json(self, name: str) -> Any:
        """Raises UsageError: not JSON."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"corrections: {self.where(name)}: not valid JSON ({type(error).__name__}): "
                "export it again from the tool"
            ) from None

    def text(self, name: str) -> str:
        """Raises UsageError: not UTF-8."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError:
            raise UsageError(f"corrections: {self.where(name)}: expected UTF-8 text") from None

    def rgb(self, name: str) -> Array:
        """uint8 (H, W, 3). Raises UsageError: not a picture, more than MAX_PIXELS."""
        with self._image_errors(name):
            return np.asarray(load_picture(self.read(name), MAX_PIXELS).image.convert("RGB"))

    def ids(self, name: str) -> Array:
        """uint8 (H, W) of a picture of labels. Raises UsageError: not one, more than MAX_PIXELS."""
        with self._image_errors(name):
            return decode_labels(self.read(name), MAX_PIXELS)

    def size(self, name: str) -> tuple[int, int]:
        """(H, W) of a picture, from its header. Raises UsageError as `rgb` does."""
        with self._image_errors(name):
            return image_size(self.read(name), MAX_PIXELS)

    @contextmanager
    def _image_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except ImageError as error:
            raise UsageError(f"corrections: {self.where(name)}: {error}") from None

    def where(self, name: str) -> str:
        """For messages."""
        return str(self.path) if self.names == (name,) else f"{self.path}/{name}"

    def below(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
        """Name below `folder` without suffix -> whole name, of files that end so."""
        start = f"{folder}/" if folder else ""
        return {
            stem(name.removeprefix(start)): name
            for name in self.names
            if name.startswith(start) and PurePosixPath(name).suffix.lower() in suffixes
        }


def open_files(path: Path) -> Files:
    """Raises UsageError: not there, cannot be listed, a damaged zip."""
    try:
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
            names = sorted(file.relative_to(path).as_posix() for file in inside)
            return Files(path, tuple(names), lambda name: _limited(path / name).read_bytes())
        if not path.is_file():
            raise UsageError(f"corrections: {path}: no such file or folder")
        if zipfile.is_zipfile(path):
            return _zip(path)
        return Files(path, (path.name,), lambda name: _limited(path).read_bytes())
    except (OSError, *_BAD_ZIP) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"corrections: {path}: cannot be read: {reason}") from None


def stem(name: str) -> str:
    """Without the suffix."""
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


@contextmanager
def table_errors(where: str, expected: str) -> Iterator[None]:
    """UsageError for what a table of another shape raises inside: `where` is not as `expected`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"corrections: {where}: not as {expected.format(reason)}") from None


_BAD_ZIP = (
    *(zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError),
    UnicodeDecodeError,
)
"""What zipfile raises for damage, encryption, unknown ways of packing and names."""


def _limited(path: Path) -> Path:
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"corrections: {path}: more than {MAX_BYTES} bytes: split it")
    return path


def _zip(path: Path) -> Files:
    archive = zipfile.ZipFile(path)  # open while it is used: to open it reads all names
    names = [name for name in archive.namelist() if name and not name.endswith("/")]
    names = [name for name in names if not PurePosixPath(name).name.startswith(".")]

    def fetch(name: str) -> bytes:
        member = archive.getinfo(name)
        if member.file_size > MAX_BYTES:
            raise UsageError(f"corrections: {path}/{name}: more than {MAX_BYTES} bytes")
        if member.compress_size > path.stat().st_size:  # so much memory would be asked for
            raise zipfile.BadZipFile(f"{name} is larger than the zip")
        return archive.read(name)

    return Files(path, tuple(sorted(names)), fetch)

"""The whole folder or none of it: written under another name beside it, then renamed.

    with new_folder(out, overwrite=False, about={...}) as folder:
        ...                        write below `folder`

A folder that is there is never touched, unless `overwrite` is given and it is an export: it has the
file `datus_export.about`, which also says where the masks come from.
"""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from datus.errors import UsageError, WorkError
from datus.types import EXPORT_MARK


@contextmanager
def new_folder(out: Path, overwrite: bool, about: dict[str, Any]) -> Iterator[Path]:
    """Raises UsageError if `out` may not be written, WorkError if the disk refuses."""
    check_free(out, overwrite)
    fresh = out.with_name(f".tmp-{out.name}-{uuid.uuid4().hex[:8]}")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        write_json(fresh / EXPORT_MARK, about)
        _take_place(fresh, out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkError(f"cannot write {out}: {reason}; choose another --out") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_free(out: Path, overwrite: bool) -> None:
    """UsageError if `out` is there and is not an export that may be replaced."""
    if not out.name:
        raise UsageError(f"--out {out}: expected the name of a new folder")
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise UsageError(f"{out} is there already: choose another --out, or add --overwrite")
    if out.is_symlink() or not (out / EXPORT_MARK).is_file():
        raise UsageError(f"{out} is not an export of datus, it stays: choose another --out")


def put(folder: Path, name: str, data: bytes) -> None:
    """A file below `folder`. `name` is `/`-separated; UsageError if it leads elsewhere."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{name}: leads out of the export")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Readable, always the same bytes for the same value."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rows(file: TextIO, rows: Iterable[Any]) -> None:
    """The inside of a JSON list, a line each, written as it grows."""
    for number, row in enumerate(rows):
        file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))


def _take_place(fresh: Path, out: Path) -> None:
    old = out.with_name(f".old-{fresh.name.rpartition('-')[2]}-{out.name}")
    if out.exists():
        out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        with suppress(OSError):
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)

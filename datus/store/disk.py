"""Errors of local disks, as a person needs them: what, where, and the cure.

with explained(path, "write"): ...             of a run folder, chosen with --run-dir
with explained(path, "write", "--out"): ...    of what another option names; "" = of no option
check_writable(path, "--out")                  before any work
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datus.errors import StoreError

RUN_DIR = "--run-dir"


@contextmanager
def explained(path: str, verb: str, option: str = RUN_DIR) -> Iterator[None]:
    """OSError -> StoreError that names the cure. FileNotFoundError on reading passes through.

    option: the one that names the place; empty where there is none to choose another with.
    """
    try:
        yield
    except FileNotFoundError:
        if verb == "read":
            raise
        raise StoreError(f"cannot {verb} {path}: no such folder") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"cannot {verb} {path}: {reason}; {_cure(error, verb, option)}") from None


def check_writable(path: Path, option: str) -> None:
    """StoreError unless a file `path` could be written now. Makes no folder and leaves no file."""
    with explained(str(path), "write", option):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(one for one in path.absolute().parents if one.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass


def _cure(error: OSError, verb: str, option: str) -> str:
    number, kept = error.errno, ", finished shards are kept" if option == RUN_DIR else ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"free some space and run the same command again{kept}"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        able = "readable" if verb == "read" else "writable"
        if option == RUN_DIR:
            return f"make the run folder {able} or choose another with --run-dir"
        what = "it" if verb == "read" else "its folder"
        return f"make {what} {able}" + (f" or choose another {option}" if option else "")
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        what = "folder" if number == errno.EISDIR else "file"
        return f"a {what} is in the way, " + (f"choose another {option}" if option else "remove it")
    if number == errno.ENAMETOOLONG and option:
        return f"choose another {option}"
    return f"run the same command again{kept}"

"""Errors of local disks, as a person needs them: what, where, and the cure."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from datus.errors import StoreError


@contextmanager
def explained(path: str, verb: str) -> Iterator[None]:
    """OSError -> StoreError that names the cure. FileNotFoundError on reading passes through."""
    try:
        yield
    except FileNotFoundError:
        if verb == "read":
            raise
        raise StoreError(f"cannot {verb} {path}: no such folder") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"cannot {verb} {path}: {reason}; {_cure(error.errno)}") from None


def _cure(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run the same command again, finished shards are kept"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "make the run folder writable or choose another with --run-dir"
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file is in the way, choose another --run-dir"
    return "run the same command again, finished shards are kept"

"""Object stores fail now and then: calls to one are tried again, with longer and longer waits.

    Patient(file_system)     the same file system; a call that fails is made again

Only for run folders that are not on a local disk: there an error is an answer, and the second try
would get the same one. What a store says for good (no such file, not allowed) is passed on at once.
"""

import random
import time
from collections.abc import Callable
from typing import Any

from datus.errors import StoreError

TRIES = 6
"""Stores that lose one call in ten lose six in a row once in a million calls: a run makes fewer."""

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 10.0
"""0.1, 0.4, 1.6, 6.4, 10: half a minute in all with the calls themselves, which outlives a leader
change or a throttled second of S3 and GCS. What is down for longer needs a person."""

FINAL = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(NotImplementedError, TypeError, ValueError, ImportError, MemoryError),
)
"""Asking again gets the same answer, or the error is in the asking."""


class Patient:
    """An fsspec file system whose calls are tried again. Raises StoreError when patience ends."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        if not callable(found) or name == "unstrip_protocol":
            return found
        return lambda *given, **options: _tried(found, name, given, options)


def _tried(
    call: Callable[..., Any], name: str, given: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    wait = FIRST_WAIT_SECONDS
    for number in range(1, TRIES + 1):
        try:
            return call(*given, **options)
        except FileNotFoundError:
            if name == "rm" and number > 1:
                return None  # the try before did it, and the answer was lost
            raise
        except FINAL:
            raise
        except Exception as error:  # clients of object stores have their own trees of errors
            if number == TRIES:
                raise StoreError(_gave_up(name, given, error)) from error
        time.sleep(wait * random.uniform(0.5, 1.0))  # workers that failed together part ways
        wait = min(4 * wait, LONGEST_WAIT_SECONDS)
    raise AssertionError("the last try returns or raises")


def _gave_up(name: str, given: tuple[Any, ...], error: Exception) -> str:
    what = {"cat_file": "read", "pipe_file": "write", "rm": "remove"}.get(name, "look at")
    path = str(given[0]) if given else "the run folder"
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"cannot {what} {path}: {reason} ({TRIES} tries); run the same command again when the "
        "store answers, finished shards are kept"
    )

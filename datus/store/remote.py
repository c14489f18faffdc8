"""Run folders that are not on a local disk: how they are opened, and what is said when that fails.

    opened("s3://bucket/run")    (Patient, "bucket/run"); of a local folder the plain file system
    Patient(file_system)         the same file system; a call that fails is made again

Object stores fail now and then: calls to one are tried again, with longer and longer waits. Not on
a local disk: there an error is an answer, and the second try would get the same one. What a store
says for good (no such file, not allowed) is passed on at once. The loop is shorter than the rules
of which answers are final, so no library does it.
"""

import os
import random
import time
from collections.abc import Callable
from typing import Any

import fsspec

from datus.errors import MissingPackage, StoreError

TRIES = 6
"""Stores that lose one call in ten lose six in a row once in a million calls: a run makes fewer."""

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 10.0
"""0.1, 0.4, 1.6, 6.4, 10: half a minute in all with the calls themselves, which outlives a leader
change or a throttled second of S3 and GCS. What is down for longer needs a person."""

LARGE_BYTES = 50 * 2**20
"""From here on a file is read in several streams, for which its size must be asked first."""

FINAL = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError),
    *(NotImplementedError, TypeError, ValueError, ImportError, MemoryError),
)
"""Asking again gets the same answer, or the error is in the asking."""

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


def opened(root: str) -> tuple[Any, str]:
    """(file system, path in it) of a run folder. Raises MissingPackage, StoreError."""
    if "://" not in root:
        fs, path = fsspec.core.url_to_fs(root)
        return fs, str(path)
    name = root.partition("://")[0].rpartition("::")[2]
    options: dict[str, Any] = {}
    if PACKAGES.get(name) == "s3fs" and "AWS_MAX_ATTEMPTS" not in os.environ:
        # five tries by botocore in each of five by s3fs in each of ours are a quarter of an hour
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}
    try:
        # a listing that a client remembers does not know what other processes write
        fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False, **options)
    except ImportError:
        package = PACKAGES.get(name, f"the fsspec package for {name}")
        raise MissingPackage(f"{root} needs {package}: pip install {package}") from None
    except ValueError as error:
        raise StoreError(
            f"{root}: {error}; expected a folder, or an address that fsspec knows such as "
            "s3://BUCKET/FOLDER"
        ) from None
    return (fs if "file" in _protocols(fs) else Patient(fs)), str(path)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


class Patient:
    """An fsspec file system whose calls are tried again. Raises StoreError when patience ends."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        if not callable(found) or name == "unstrip_protocol":
            return found
        return lambda *given, **options: self._tried(found, name, given, options)

    def read(self, path: str, n_bytes: int = 0) -> Any:
        """A whole file. n_bytes: about so many; a small one is one request."""
        alone = "s3" in _protocols(self._fs) and n_bytes < LARGE_BYTES
        return self.cat_file(path, **({"max_concurrency": 1} if alone else {}))

    def exists(self, path: str) -> bool:
        return bool(self._type(path))

    def isfile(self, path: str) -> bool:
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        return self._type(path) == "directory"

    def _type(self, path: str) -> str:
        """file or directory; empty if there is neither. fsspec's own three take a call that fails
        for that, too."""
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _tried(
        self,
        call: Callable[..., Any],
        name: str,
        given: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        wait = FIRST_WAIT_SECONDS
        for number in range(1, TRIES + 1):
            try:
                return call(*given, **options)
            except Exception as error:  # clients of object stores have their own trees of errors
                if name == "rm" and number > 1 and isinstance(error, FileNotFoundError):
                    return None  # the try before did it, and the answer was lost
                text = _lasting(name, error) or (GAVE_UP if number == TRIES else "")
                if text:
                    raise StoreError(self._failed(name, given, error, text)) from error
            time.sleep(wait * random.uniform(0.5, 1.0))  # workers that failed together part ways
            wait = min(4 * wait, LONGEST_WAIT_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _failed(self, name: str, given: tuple[Any, ...], error: Exception, text: str) -> str:
        what = {"cat_file": "read", "pipe_file": "write", "rm": "remove"}.get(name, "look at")
        path = str(given[0]) if given else "the run folder"
        address = getattr(self._fs, "unstrip_protocol", str)(path)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return f"cannot {what} {address}: {text.format(reason)}"


GAVE_UP = (
    f"{{}} ({TRIES} tries); run the same command again when the store answers, finished shards "
    "are kept"
)
NO_BUCKET = "{}; make the bucket first, or choose another --run-dir"
NOT_ALLOWED = (
    "{}; check the credentials of this machine and what they allow (read, write, list and delete "
    "below the run folder), then run the same command again"
)
BY_NAME = {"credential": NOT_ALLOWED, "paramvalidation": "{}; choose another --run-dir"}
"""Errors of clients that are not imported here, and are for good."""


def _lasting(name: str, error: Exception) -> str:
    """What to say of an error that asking again would not change; raises it if it says enough."""
    if isinstance(error, PermissionError):
        return NOT_ALLOWED
    if isinstance(error, FileNotFoundError) and name == "pipe_file":
        return NO_BUCKET
    if isinstance(error, FINAL):
        raise error
    kind = type(error).__name__.lower()
    return next((text for word, text in BY_NAME.items() if word in kind), "")

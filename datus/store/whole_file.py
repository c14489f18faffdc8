"""A file is whole on the disk, or what was there before: written under another name, then renamed.

write(path, pieces)            raises OSError, and leaves nothing half written
write_output(path, data)       the same for what people asked for: WorkError with the cure
"""

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from datus.errors import WorkError

TEMPORARY = ".tmp-"
"""How the names of files begin that are not whole yet."""


def write(path: Path, pieces: Iterable[bytes | memoryview], temporary: str = "") -> None:
    """The pieces one after the other. Folders are made.

    temporary: the file's name until it is whole. A kill leaves it: with one name for all tries, as
    by default, the next one writes over it; with one for each process several can write at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(temporary or f"{TEMPORARY}{path.name}")
    try:
        with fresh.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):  # a full disk needs the place
            fresh.unlink(missing_ok=True)
        raise


def write_output(
    path: Path, data: bytes, temporary: str = TEMPORARY, cure: str = "choose another place"
) -> None:
    """A file that somebody named. Raises WorkError if the disk refuses.

    temporary: how the name begins that the file has until it is whole.
    """
    try:
        # not longer than names may be, and no other process takes the same
        write(path, [data], f"{temporary}{uuid.uuid4().hex[:16]}")
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}; {cure}") from None

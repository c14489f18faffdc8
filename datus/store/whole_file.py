"""A file is whole on the disk, or what was there before: written under another name, then renamed.

write(path, pieces, temporary)        raises OSError, and leaves nothing half written
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def write(path: Path, pieces: Iterable[bytes | memoryview], temporary: str) -> None:
    """The pieces one after the other. Folders are made.

    temporary: the file's name until it is whole. A kill leaves it: with one name for all tries the
    next one writes over it, with one for each process several can write at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(temporary)
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

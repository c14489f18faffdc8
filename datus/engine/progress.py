"""How a run tells a person what it does: progress bars on stderr, and text that is safe to print.

    run(config, store, ProgressBars())      a bar with an ETA for each stage
    printable(text)                         without what would steer a terminal

The bars are tqdm's: rich says nothing in a batch log before a bar is done, and needs ipywidgets
in a notebook.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BATCH_LOG_SECONDS = 15.0
"""A log wants few lines; a terminal gets five a second."""

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but line ends and tabs, and marks that turn the direction of writing."""


def printable(text: str) -> str:
    """Text that may hold names of files, which must not steer a terminal: '\\x1b' for an escape."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class ProgressBars:
    """Progress on stderr: a bar for each stage, and messages between them."""

    @contextmanager
    def bar(self, name: str, total: int, unit: str = "image") -> Iterator[Any]:
        from tqdm import tqdm

        interval = 0.2 if sys.stderr.isatty() else BATCH_LOG_SECONDS
        with tqdm(total=total, desc=name, unit=unit, mininterval=interval) as progress:
            yield progress.update

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(printable(text), file=sys.stderr)

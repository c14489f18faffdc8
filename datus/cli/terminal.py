"""What a person sees: tables, progress with an ETA, errors of one or two lines."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from datus.errors import INTERRUPTED, DatusError, WorkError

Row = tuple[str, ...]


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Errors are one or two lines with the cure; --debug shows the traceback."""
    try:
        yield
    except DatusError as error:
        if debug:
            traceback.print_exc()
        print(shown(f"error: {error}"), file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        raise typer.Exit(130) from None


def shown(text: str) -> str:
    """Text that may hold names of files, which must not steer a terminal: '\\x1b' for an escape.

    Control characters but line ends and tabs, and the marks that turn the direction of writing.
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Bars:
    """Progress on stderr: a bar with an ETA for each stage."""

    @contextmanager
    def bar(self, name: str, total: int, unit: str = "image") -> Iterator[Any]:
        from tqdm import tqdm

        interval = 0.2 if sys.stderr.isatty() else 15.0  # a batch log wants few lines
        with tqdm(total=total, desc=name, unit=unit, mininterval=interval) as progress:
            yield progress.update

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(shown(text), file=sys.stderr)


def table(rows: list[Row]) -> str:
    """Aligned columns; the first to the left, figures to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 or not rows[-1][i][:1].isdigit() else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return shown("\n".join(lines))


def scores_table(scores: dict[str, dict[str, Any]]) -> str:
    rows: list[Row] = [("rule", "mIoU", "accuracy", "F1", "coverage")]
    for rule, row in scores.items():
        figures = (row[name] for name in ("miou", "accuracy", "f1", "coverage"))
        rows.append((rule, *(f"{figure:.2f}" for figure in figures)))
    return table(rows)


def write_text(path: Path, text: str) -> None:
    """The whole file or, on a full disk, what was there before."""
    fresh = path.with_name(f".tmp-{path.name}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise WorkError(f"cannot write {path}: {error.strerror}; choose another --json") from None

"""Temporary files of killed writers, found without a look at every file of a run folder.

    note(root, parts)          before a file is written: its folder is being written to
    sweep(root)                remove what is left where a note is, and the notes
    sweep(root, everywhere)    the same in all folders
    end_notes(root)            all writers ended by themselves

A note is an empty file RUN/writing/STAGE--FINGERPRINT; it outlives a kill. A run of 10⁷ images has
as many files, and each would be looked at at every start. Local run folders only.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from datus.store.whole_file import TEMPORARY

NOTES = "writing"

SHALLOW = ("", "index", "latest")
"""Folders with few files, written to without a note."""

LOST = ("lost", "worker")
"""In place of a stage and its fingerprint: a worker was killed, so notes stay for the next run."""


def note(root: str, parts: Sequence[str]) -> None:
    """parts: of a file in the run folder; the first two are stage and fingerprint."""
    if len(parts) < 3:
        return
    path = Path(root) / NOTES / "--".join(parts[:2])
    with suppress(OSError):  # the write that follows says what is wrong
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def note_loss(root: str) -> None:
    """A worker was killed while others go on: it may have left something."""
    note(root, (*LOST, ""))


def end_notes(root: str) -> None:
    """Only while holding the lock, at the end of a run that no worker was lost in."""
    notes = Path(root) / NOTES
    if not (notes / "--".join(LOST)).exists():
        shutil.rmtree(notes, ignore_errors=True)


def sweep(root: str, everywhere: bool = False) -> None:
    """Only while holding the lock. Raises OSError."""
    for path in _left(Path(root), everywhere):
        path.unlink(missing_ok=True)
    shutil.rmtree(Path(root) / NOTES, ignore_errors=True)


def _left(root: Path, everywhere: bool) -> Iterator[Path]:
    if everywhere:
        yield from root.rglob(f"{TEMPORARY}*")
        return
    for name in SHALLOW:
        yield from (root / name).glob(f"{TEMPORARY}*")
    for one in (root / NOTES).glob("*--*"):
        yield from root.joinpath(*one.name.split("--", 1)).rglob(f"{TEMPORARY}*")

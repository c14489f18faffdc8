"""What the tests of the executors run in workers. Imports little: each worker reads it anew."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datus.engine.workers import Advance, processes

Job = tuple[int, str]
"""(number, folder to leave notes in)."""


class Picky(Exception):
    """It can be pickled but not read again, like many exceptions with arguments of their own."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


def square(job: Job, advance: Advance) -> int:
    for _ in range(job[0]):
        advance(1)
    return job[0] ** 2


def late_first(job: Job, advance: Advance) -> int:
    """Job 0 ends last, if anything runs beside it."""
    time.sleep(0.3 if job[0] == 0 else 0)
    return square(job, advance)


def fails_on_two(job: Job, advance: Advance) -> int:
    if job[0] == 2:
        raise ValueError("two is bad")
    return square(job, advance)


def raises_what_cannot_travel(job: Job, advance: Advance) -> int:
    if job[0] == 1:
        raise Picky(404, "no such thing")
    if job[0] == 2:
        error = RuntimeError("it has a hook")
        error.hook = lambda: None
        raise error
    return square(job, advance)


def returns_what_cannot_travel(job: Job, advance: Advance) -> Any:
    return (lambda: None) if job[0] == 1 else square(job, advance)


def is_killed_once(job: Job, advance: Advance) -> int:
    note = Path(job[1]) / "killed"
    if job[0] == 1 and not note.exists():
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(job, advance)


def is_killed_while_counting(job: Job, advance: Advance) -> int:
    """The lock of the shared counter dies with its holder."""
    note = Path(job[1]) / "killed"
    if job[0] == 1 and not note.exists():
        note.touch()
        if processes._counter is not None:  # Ray counts in a process of its own
            processes._counter.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(job, advance)


def kills_its_worker(job: Job, advance: Advance) -> int:
    """Job 0 kills each worker that takes it; job 1 is under way until that has happened thrice."""
    number, folder = job[0], Path(job[1])
    with (folder / f"tries-{number}").open("a") as notes:
        notes.write("x")
    if number == 0:
        mine = (folder / "tries-0").read_text()
        _wait_until(lambda: _text(folder / "tries-1") >= mine, 0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 1:
        _wait_until(lambda: _text(folder / "tries-0") >= "xxx", 1.2)
        time.sleep(0.3)  # the note is written a little before the kill
    return square(job, advance)


def _wait_until(happened: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def waits(job: Job, advance: Advance) -> int:
    """Job 0 ends when another has begun; the others do not end by themselves."""
    folder = Path(job[1])
    if job[0] == 0:
        while not list(folder.iterdir()):
            time.sleep(0.02)
        return 0
    (folder / str(os.getpid())).touch()
    time.sleep(600)
    return 0


def died_and_careful(job: tuple[int, str, bool], advance: Advance) -> str:
    """Job 0 kills its worker, but not when it is told to take care."""
    number, _, careful = job
    if number == 0 and not careful:
        os.kill(os.getpid(), signal.SIGKILL)
    return "with care" if careful else "at once"


def tells_where_it_is(job: Job, advance: Advance) -> tuple[int, str, str, str]:
    """(process, folder, and two settings of its environment)."""
    named = (os.environ.get(name, "none") for name in ("DATUS_OFFLINE", "CUDA_VISIBLE_DEVICES"))
    return os.getpid(), os.getcwd(), *named  # type: ignore[return-value]


def says_its_pid(job: Job, advance: Advance) -> int:
    time.sleep(0.1)
    return os.getpid()


_marks: list[str] = []


def leaves_a_mark() -> None:
    _marks.append("here")


def finds_the_mark(job: Job, advance: Advance) -> bool:
    return _marks == ["here"]

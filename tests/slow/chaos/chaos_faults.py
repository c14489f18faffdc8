"""Faults for chaos.py: what each one changes in a process before the command line starts in it.

A fault is a function without arguments. It runs in a process that was forked for one command.
"""

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

Fault = Callable[[], None]


def at_write(stage: str, number: int, moment: str) -> Fault:
    """kill -9 at write `number` of a stage: before it, with half a temporary file, or after."""

    def install() -> None:
        from datus.store.leftovers import TEMPORARY, note
        from datus.store.store import Store

        whole, count = Store._write, [0]

        def write(self: Any, pieces: Any, *parts: str) -> str:
            count[0] += parts[0] == stage
            chosen = parts[0] == stage and count[0] == number
            if chosen and moment == "torn":
                folder = Path(self.path(*parts)).parent
                folder.mkdir(parents=True, exist_ok=True)
                note(self.root, parts)  # as the store does before it writes
                data = b"".join(pieces)
                (folder / f"{TEMPORARY}torn").write_bytes(data[: len(data) // 2])
            if chosen and moment != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            path = whole(self, pieces, *parts)
            if chosen:
                os.kill(os.getpid(), signal.SIGKILL)
            return path

        Store._write = write  # type: ignore[method-assign]

    return install


def at_write_do(stage: str, action: Callable[[], None], number: int = 1) -> Fault:
    """Something happens in the world right before write `number` of a stage."""

    def install() -> None:
        from datus.store.store import Store

        whole, count = Store._write, [0]

        def write(self: Any, pieces: Any, *parts: str) -> str:
            is_recipe = parts[-1] == "stage.json"  # those of all stages are written at the start
            count[0] += parts[0] == stage and not is_recipe
            if parts[0] == stage and not is_recipe and count[0] == number:
                action()
            return whole(self, pieces, *parts)

        Store._write = write  # type: ignore[method-assign]

    return install


ENTERED: list[Any] = []
"""Contexts that last as long as the process."""


def without_rights() -> None:
    """Root writes where nobody may: it lays that down."""
    from bad_files import rights_count

    ENTERED.append(rights_count())
    ENTERED[-1].__enter__()


def full_disk(stage: str, after: int) -> Fault:
    """fsync says that the disk is full, for files of a stage, after some that went well."""

    def install() -> None:
        whole, count = os.fsync, [0]

        def fsync(number: int) -> None:
            count[0] += f"/{stage}/" in os.readlink(f"/proc/self/fd/{number}")
            if count[0] > after and f"/{stage}/" in os.readlink(f"/proc/self/fd/{number}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            whole(number)

        os.fsync = fsync

    return install


def nobody_knows_the_space() -> None:
    """As under a quota: else a disk that is too small is refused before the first write."""
    from datus.engine import budget

    budget.free_bytes = lambda store: None  # type: ignore[assignment]


def jumping_clock() -> None:
    """The clock of the wall jumps by up to ten years at every look; files get such times too."""
    whole, rng = time.time, random.Random(0)
    time.time = lambda: whole() + rng.uniform(-3e8, 3e8)
    time.time_ns = lambda: int(time.time() * 1e9)


def slow_writes() -> None:
    """So that a second driver meets the first one at work."""
    from datus.store.store import Store

    whole = Store._write

    def write(self: Any, pieces: Any, *parts: str) -> str:
        time.sleep(0.03)
        return whole(self, pieces, *parts)

    Store._write = write  # type: ignore[method-assign]


# --- an object store ----------------------------------------------------------------------------

CALLS = ("cat_file", "pipe_file", "info", "ls", "exists", "isdir", "size", "rm", "du")


def object_store(lose: float = 0.0, wait: float = 0.0, down_at: str = "", seed: int = 0) -> Fault:
    """flaky://FOLDER is that folder, behind calls that are lost or slow.

    lose: the share of calls that fail, half of them after they were done. down_at: from the first
    write of that stage on, all of them.
    """

    def install() -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        from datus.store import remote

        class Flaky(LocalFileSystem):
            protocol = ("flaky",)

            def __init__(self, **options: Any) -> None:
                super().__init__(**{**options, "auto_mkdir": True})

            @classmethod
            def _strip_protocol(cls, path: Any) -> str:
                return str(super()._strip_protocol(str(path).removeprefix("flaky://")))

        mood = _Mood(lose, wait, down_at, random.Random(seed))
        for name in CALLS:
            setattr(Flaky, name, mood.around(name, getattr(Flaky, name)))
        fsspec.register_implementation("flaky", Flaky, clobber=True)
        remote.FIRST_WAIT_SECONDS = 0.005  # the waits are tested elsewhere
        remote.LONGEST_WAIT_SECONDS = 0.02

    return install


class _Mood:
    """Decides which calls fail. Calls within calls are left alone."""

    def __init__(self, lose: float, wait: float, down_at: str, rng: random.Random) -> None:
        self.lose, self.wait, self.down_at, self.rng = lose, wait, down_at, rng
        self.inside, self.down = threading.local(), False

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def moody(fs: Any, path: str, *given: Any, **options: Any) -> Any:
            if getattr(self.inside, "call", False):
                return call(fs, path, *given, **options)
            time.sleep(self.wait * self.rng.random())
            at_stage = self.down_at and f"/{self.down_at}/" in str(path)
            self.down = self.down or bool(name == "pipe_file" and at_stage)
            lost = self.rng.random() < self.lose
            if self.down or (lost and self.rng.random() < 0.5):
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            self.inside.call = True
            try:
                answer = call(fs, path, *given, **options)
            finally:
                self.inside.call = False
            if lost:
                raise TimeoutError("the answer was lost")
            return answer

        return moody

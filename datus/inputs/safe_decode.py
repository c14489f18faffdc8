"""Files whose decoding hangs or crashes the process: found in a child process, one by one.

    guarded(config, store, key, ...)         around the work on a shard
    reading(config, sha256)                  around the decoding of a file
    crashed(store)                           what was under way when the last run was killed
    journal(store, name)                     the note of it, while it lasts
    too_slow(store, seconds)                 shards with a file that shorter limits left out

A decoder is C code: one wrong byte may crash it, or keep it busy for ever, and no `except` helps.
So a shard that killed its worker is looked through here before it is tried again: a child decodes
its images and true masks, each within `speed.decode_seconds`. A file that kills the child, or takes
longer, is a recorded failure like any other, and the other images of the shard go on. The child is
started anew after each of them. `speed.isolate` looks through every shard beforehand.

Without workers a crash takes the run with it. So each shard under way in the main process leaves a
note in RUN/under-way, and the same command looks through these shards first.

Not by pebble: spawned, its processes run the user's script again; forked beside torch, they hang.
"""

import json
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from datus.config import Config
from datus.errors import ImageError, WorkError
from datus.inputs.decode import decode_image, image_size
from datus.inputs.labels import decode_labels
from datus.store.store import Store
from datus.types import ImageRecord

SLOW = (
    "its decoder did not end within the time limit: mend or remove the file, "
    "or raise speed.decode_seconds"
)
START_SECONDS = 120.0
"""For a child to load the decoders; half a second on an idle machine."""
ORPHAN_SECONDS = 1.0
"""A child whose parent was killed ends so long after the limit. The parent ends it before."""

_refused: dict[str, str] = {}
_deadlines: dict[int, float] = {}
_guard = threading.Lock()
_limited = threading.Event()
"""This is a worker process, which may end."""


@contextmanager
def guarded(
    config: Config, store: Store, key: str, records: Iterable[ImageRecord], careful: bool
) -> Iterator[None]:
    """In the process that works on a shard. careful: it ended one, so look through it first."""
    in_worker = config.speed.executor not in ("serial", "auto")
    with nullcontext() if in_worker else journal(store, key):
        if careful and SLOW in look_through(config, records):
            store.write(str(config.speed.decode_seconds).encode(), SLOW_NOTES, key)
        if in_worker:
            _limited.set()
        try:
            yield
        finally:
            _limited.clear()


def look_through(config: Config, records: Iterable[ImageRecord]) -> set[str]:
    """Decode all files of these images in a child; `reading` one that it did not survive fails.

    Returns the reasons that there were.
    """
    folders = (("image", config.data.images), ("truth", config.data.truth))
    reasons = set()
    with Decoder(config.data.max_pixels, config.speed.decode_seconds) as decoder:
        for record in records:
            files = (record.path, record.sha256), (record.truth_path, record.truth_sha256)
            for (kind, folder), (path, sha256) in zip(folders, files, strict=True):
                if path and sha256 and (reason := decoder.reason(kind, str(Path(folder) / path))):
                    _refused[sha256] = reason
                    reasons.add(reason)
    return reasons


@contextmanager
def reading(config: Config, sha256: str) -> Iterator[None]:
    """Around the decoding of the file with this hash. Raises ImageError if it was refused.

    In a worker a decoder that takes longer than speed.decode_seconds ends the process: SIGALRM,
    whose default that is, for C code that never returns lets no Python code run. There is one timer
    for all threads of a process, set to the first deadline.
    """
    if sha256 in _refused:
        raise ImageError(_refused[sha256])
    if not _limited.is_set():
        yield
        return
    me = threading.get_ident()
    _set_deadline(me, time.monotonic() + config.speed.decode_seconds)
    try:
        yield
    finally:
        _set_deadline(me, None)


def _set_deadline(thread: int, deadline: float | None) -> None:
    with _guard:
        _deadlines.pop(thread, None)
        if deadline is not None:
            _deadlines[thread] = deadline
        first = min(_deadlines.values(), default=None)
        wait = 0.0 if first is None else max(first - time.monotonic(), 0.001)
        signal.setitimer(signal.ITIMER_REAL, wait)


# --- notes for the run after a crash ------------------------------------------------------------

NOTES = "under-way"
"""Folder in the run folder. Gone when a run ends by itself, well or not."""


@contextmanager
def crashed(store: Store) -> Iterator[frozenset[str]]:
    """Names of what was under way when the last run was killed. Only while holding the lock."""
    try:
        yield frozenset(store.files(NOTES)) if store.is_local else frozenset()
    finally:
        if store.is_local:
            shutil.rmtree(store.path(NOTES), ignore_errors=True)


@contextmanager
def journal(store: Store, name: str) -> Iterator[None]:
    """A note while the main process works on a shard or on the index."""
    if not store.is_local:
        yield
        return
    note = Path(store.path(NOTES, name))
    with suppress(OSError):  # it helps after a crash, and is no reason to fail
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)


SLOW_NOTES = "slow"
"""Folder in the run folder: by shard, the limit in seconds that a file of it was left out by."""


def too_slow(store: Store, seconds: float) -> list[str]:
    """Keys of shards that a limit below `seconds` left a file of out: it may be decoded now. Their
    notes are removed. Only while holding the lock."""
    _refused.clear()
    found = []
    for key in store.files(SLOW_NOTES):
        with suppress(ValueError, FileNotFoundError):
            if float(store.read(SLOW_NOTES, key)) < seconds:
                found.append(key)
                store.remove(SLOW_NOTES, key)
    return found


# --- the child ----------------------------------------------------------------------------------


class Decoder:
    """A child process that decodes files; started when needed, ended with the context."""

    def __init__(self, max_pixels: int, seconds: float) -> None:
        self._max_pixels, self._seconds = max_pixels, seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def reason(self, kind: str, path: str) -> str:
        """Why no process survives the file; empty if one does. kind: size, image or truth."""
        with self._lock:
            child = self._child or self._start()
            request = [kind, path, self._max_pixels, self._seconds + ORPHAN_SECONDS]
            stdin: Any = child.stdin
            with suppress(BrokenPipeError):
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            answer = _line(child, self._seconds)
            if answer:
                return ""
            code = None if answer is None else child.wait()
            self._end()
            if code == -signal.SIGKILL:
                return ""  # somebody, or the system for want of memory: not the file's doing
            if code is None or code == -signal.SIGALRM:
                return SLOW  # by SIGALRM if this process was held up for longer than that
            return f"its decoder crashed ({_signal(code)}): mend or remove the file"

    def _start(self) -> "subprocess.Popen[bytes]":
        self._child = subprocess.Popen(
            [sys.executable, "-c", SERVE.format(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if _line(self._child, START_SECONDS) != READY:
            self._end()
            raise WorkError(
                f"no process to decode files in starts, {START_SECONDS:.0f} s were waited for it: "
                "run the same command again where there is memory to spare"
            )
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            with suppress(OSError), self._child:  # closes the pipes and waits
                pass
            self._child = None


def _line(child: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
    """What the child writes; empty if it ended, None if nothing comes in time."""
    stdout: Any = child.stdout
    ready = select.select([stdout], [], [], seconds)[0]
    return stdout.readline() if ready else None


def _signal(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


READY = b"ready\n"
SERVE = "import sys; sys.path[:] = {!r}; from datus.inputs.safe_decode import serve; serve()"


def serve() -> None:
    """In the child. A line in: [kind, path, max_pixels, seconds]; a line out: decoded, or an
    ImageError. After `seconds` the child ends by itself: its parent may be gone. It ends by
    SIGALRM's default, which no C code holds up."""
    decoders: dict[str, Any] = {"size": image_size, "image": decode_image, "truth": decode_labels}
    print(READY.decode(), end="", flush=True)
    for line in sys.stdin:
        kind, path, max_pixels, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with suppress(ImageError, OSError, MemoryError):  # the stages meet it again
            decoders[kind](Path(path).read_bytes(), max_pixels)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print("done", flush=True)

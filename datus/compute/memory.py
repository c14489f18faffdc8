"""Memory: when Python collects garbage, and where the C library keeps what was freed."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datus.compute.threads import n_cores

OBJECTS_BEFORE_COLLECTION = 50_000
"""Python's own number is 700 to 2,000."""

_M_ARENA_MAX = -8
"""Of glibc's mallopt."""


@contextmanager
def tuned_allocator() -> Iterator[None]:
    """Inside, as after `tune_allocator`; Python collects as before when it ends."""
    before = gc.get_threshold()
    tune_allocator()
    try:
        yield
    finally:
        gc.set_threshold(*before)


def tune_allocator() -> None:
    """For good: in worker processes, and the command line.

    Python looks for objects that hold one another less often: each search goes through what torch
    has loaded, and a run makes hardly any of them. Without, torch and timm load in two thirds of
    the time. And glibc keeps freed memory in up to eight places a core, each with holes of its own.
    A run asks for few large pieces: one place for four cores is enough, and took a tenth less.
    """
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, max(2, n_cores() // 4))
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION, *gc.get_threshold()[1:])


def give_back_memory() -> None:
    """What was freed goes back to the system, where the C library can be told.

    Threads of glibc keep what they freed, each in a place of its own; after thousands of shards
    that was hundreds of megabytes.
    """
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Memory: when Python looks for rubbish, and where the C library keeps what was freed."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datus.compute.threads import n_cores

OBJECTS_BEFORE_COLLECTION = 50_000
"""Python's own number is 700 to 2,000."""


@contextmanager
def frugal() -> Iterator[None]:
    """Inside, Python looks for objects that hold one another less often, and C's memory is kept in
    few places.

    Each search goes through what torch has loaded, and a run makes hardly any of them. Without
    them torch and timm load in two thirds of the time.
    """
    before = gc.get_threshold()
    be_frugal()
    try:
        yield
    finally:
        gc.set_threshold(*before)


def be_frugal() -> None:
    """For good: in worker processes, and the command line."""
    _few_arenas()
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION, *gc.get_threshold()[1:])


_M_ARENA_MAX = -8
"""Of glibc's mallopt."""


def _few_arenas() -> None:
    """glibc keeps up to eight stores of freed memory a core, each with holes of its own. A run
    asks for few large pieces: one for each four cores is enough, and took a tenth less memory."""
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, max(2, n_cores() // 4))


def give_back_memory() -> None:
    """What was freed goes back to the system, where the C library can be told.

    Threads of glibc keep what they freed, each in a place of its own; after thousands of shards
    that was hundreds of megabytes.
    """
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

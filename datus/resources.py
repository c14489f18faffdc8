"""What a run may use: processes, threads, shards at a time, a device. Never what it makes."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from datus.config import Config
from datus.shardwork import Runtime
from datus.threads import n_cores


def parallel(config: Config) -> tuple[int, int]:
    """(worker processes, threads in each)."""
    speed, cores = config.speed, n_cores()
    workers = (speed.workers or cores) if speed.executor == "processes" else 1
    return workers, speed.threads or max(1, cores // workers)


IN_FLIGHT = 2
"""Shards that are under way in one process. A third one would only take memory."""


def at_a_time(config: Config) -> int:
    """Shards that are under way in all processes."""
    return parallel(config)[0] if config.speed.executor == "processes" else IN_FLIGHT


def in_workers(config: Config) -> Config:
    """A Ray worker has as many threads as CPUs of its own, not the cores of its node."""
    speed = config.speed
    if speed.executor != "ray" or speed.threads:
        return config
    return replace(config, speed=replace(speed, threads=max(1, int(speed.ray_cpus))))


def runtime_of(config: Config) -> Runtime:
    """Device, threads and batch of one worker process."""
    return Runtime(resolve_device(config), parallel(config)[1], config.speed.batch)


def resolve_device(config: Config) -> str:
    """auto = a CUDA device if torch sees one, else the CPU."""
    if config.speed.device != "auto":
        return config.speed.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


OBJECTS_BEFORE_COLLECTION = 50_000
"""Python's own number is 700 to 2,000."""


@contextmanager
def frugal() -> Iterator[None]:
    """Inside, Python looks for objects that hold one another less often, and C's memory is kept in
    few places.

    Each search goes through what torch has loaded, and a run makes hardly any of them.
    """
    _few_arenas()
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


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

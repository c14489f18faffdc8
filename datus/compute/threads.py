"""Items in parallel, one thread inside an item: the same bytes on any number of cores.

Library code that splits one matrix product over threads may add in another order when the number
of threads changes, and the last bit moves. So nothing here splits an item: images run side by side,
each on one thread, and results do not depend on threads, workers, batch size or machine load.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from threading import Condition, Event, Lock, local
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

In = TypeVar("In")
Out = TypeVar("Out")


def n_cores() -> int:
    """Cores this process may use: affinity is respected, so batch jobs get what they were given."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_threads(function: Callable[[In], Out], items: Iterable[In], n_threads: int) -> list[Out]:
    """`[function(item) for item in items]`, `n_threads` items at a time, in order of the items.

    The first exception is raised after the running items end. numpy, OpenMP and torch are limited
    to one thread per item meanwhile. A map inside an item stays on the thread of that item.
    """
    todo = list(items)
    if _TURNS.has_one:  # inside an item of another map: its thread, and all limits are set
        return [_unless_stopped(function, item) for item in todo]
    with _one_thread_each():
        if n_threads <= 1 or len(todo) <= 1:
            return [_in_turn(function, item, max(1, n_threads)) for item in todo]
        return _shared_out(function, todo, min(n_threads, len(todo)))


@contextmanager
def thread_pool(n_threads: int) -> Iterator[Callable[[Callable[[In], Out], list[In]], list[Out]]]:
    """`map_threads` for many short lists: `with thread_pool(2) as mapped: mapped(function, items)`.

    Threads are started once, and hold until the end.
    """
    with _one_thread_each():
        if n_threads <= 1:
            yield lambda function, items: [function(item) for item in items]
            return
        with ThreadPoolExecutor(n_threads, initializer=_LIMITS.limit_thread) as pool:
            yield lambda function, items: list(pool.map(function, items))


class Stopped(Exception):
    """Raised by `map_threads` in other threads while one is `stopping`."""


_STOP = Event()


@contextmanager
def stopping() -> Iterator[None]:
    """Inside, maps of other threads end with `Stopped` after the items under way."""
    _STOP.set()
    try:
        yield
    finally:
        _STOP.clear()


def _shared_out(function: Callable[[In], Out], todo: list[In], n_threads: int) -> list[Out]:
    """Threads take the next item when they are free: for items of a tenth of a millisecond a
    future each would cost as much as the work."""
    found: dict[int, Out] = {}
    errors: dict[int, BaseException] = {}
    places, guard = iter(range(len(todo))), Lock()

    def work() -> None:
        _LIMITS.limit_worker()
        place = 0
        while place >= 0 and not errors:
            with _TURNS.one(n_threads):
                end = time.monotonic() + TURN_SECONDS
                while not errors and (place := _next(places, guard)) >= 0:
                    try:
                        found[place] = _unless_stopped(function, todo[place])
                    except BaseException as error:
                        errors[place] = error
                    if time.monotonic() > end:
                        break

    threads = [_workers().submit(work) for _ in range(n_threads)]
    try:
        wait(threads)
    except BaseException as error:  # Ctrl-C here: no further item begins
        errors[-1] = error
        wait(threads)
    if errors:
        raise errors[min(errors)]
    for thread in threads:
        thread.result()
    return [found[place] for place in range(len(todo))]


@cache
def _workers() -> ThreadPoolExecutor:
    """Threads that wait for the next map: to make one known to OpenMP takes most of a millisecond.

    As many as were ever busy at a time. A forked process has none of them and makes its own.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_workers.cache_clear)
    return ThreadPoolExecutor(MOST_THREADS)


MOST_THREADS = 4096
"""More than any map asks for."""


def end_waiting() -> None:
    """The threads that wait for a next map end; one that comes makes its own."""
    if _workers.cache_info().currsize:
        _workers().shutdown()
        _workers.cache_clear()


def _next(places: Iterator[int], guard: Lock) -> int:
    with guard:
        return next(places, -1)


class _Turns:
    """Several maps may run side by side (two shards of one process). All of them together work on
    no more items than the cores that each was given: more would only take each other's cache.

    A turn is for one item, or for several short ones: to hand it over takes a change of threads."""

    def __init__(self) -> None:
        self._free, self._running = Condition(), 0
        self._mine = local()

    @property
    def has_one(self) -> bool:
        """The calling thread."""
        return getattr(self._mine, "has_turn", False)

    @contextmanager
    def one(self, n_threads: int) -> Iterator[None]:
        if self.has_one:  # a map inside an item
            yield
            return
        with self._free:
            while self._running >= n_threads and not _STOP.is_set():
                self._free.wait(STOP_SECONDS)
            self._running += 1
        self._mine.has_turn = True
        try:
            yield
        finally:
            self._mine.has_turn = False
            with self._free:
                self._running -= 1
                self._free.notify()


TURN_SECONDS = 0.05
"""After so long another map has its turn."""

STOP_SECONDS = 0.2
"""A waiting thread looks this often whether all shall stop."""

_TURNS = _Turns()


def _in_turn(function: Callable[[In], Out], item: In, n_threads: int) -> Out:
    with _TURNS.one(n_threads):
        return _unless_stopped(function, item)


def _unless_stopped(function: Callable[[In], Out], item: In) -> Out:
    if _STOP.is_set():
        raise Stopped("stopped before the end")
    return function(item)


# --- limits of libraries ------------------------------------------------------------------------


class _Limits:
    """BLAS and torch have one limit for the program: who enters first sets it, who leaves last puts
    it back. OpenMP has one for each thread that calls it: each puts its own back."""

    def __init__(self) -> None:
        self._guard, self._inside = Lock(), 0
        self._blas: list[Any] = []
        self._torch_threads = 0
        self._controller: Any = None
        self._n_modules = 0
        self._mine = local()

    def enter(self) -> Any:
        """Returns what `leave` wants."""
        with self._guard:
            is_new = self._look()
            if self._inside == 0:
                self._torch_threads = _torch_threads()
            # before BLAS: an OpenBLAS on OpenMP sets the limit of the calling thread too
            mine = self.limit_thread()
            if self._inside == 0 or is_new:  # new: a library that came after the first
                self._blas.append(self._limit_blas())
            self._inside += 1
        return mine

    def limit_thread(self) -> Any:
        """The calling thread only; one that ends soon needs not put it back."""
        mine = self._controller.select(user_api="openmp").limit(limits=1)
        _limit_torch(1)
        return mine

    def limit_worker(self) -> None:
        """The calling thread, for good; again only after a library came."""
        if getattr(self._mine, "limited_by", None) is not self._controller:
            self.limit_thread()
            self._mine.limited_by = self._controller

    def leave(self, mine: Any) -> None:
        with self._guard:
            self._inside -= 1
            if self._inside == 0:
                self._allow_this_thread()
                while self._blas:  # the first limits, which are the oldest, come back last
                    self._blas.pop().restore_original_limits()
                _limit_torch(self._torch_threads)
            mine.restore_original_limits()

    def _limit_blas(self) -> Any:
        self._allow_this_thread()
        return self._controller.select(user_api="blas").limit(limits=1)

    def _allow_this_thread(self) -> None:
        """From 3.8 on, threadpoolctl lets only one thread limit OpenBLAS, and ignores others in
        silence. Here the guard keeps threads apart."""
        for library in self._controller.lib_controllers:
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread(force=True)

    def _look(self) -> bool:
        """Find the libraries: some milliseconds, and only an import can bring a new one."""
        if self._n_modules == len(sys.modules):
            return False
        self._controller = ThreadpoolController()
        self._n_modules = len(sys.modules)
        return True


_LIMITS = _Limits()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    mine = _LIMITS.enter()
    try:
        yield
    finally:
        _LIMITS.leave(mine)


def loaded_torch() -> Any:
    """torch; None where it is not loaded, or another thread is loading it: half of it crashes."""
    torch = sys.modules.get("torch")
    # what the import statement itself asks of a module that it finds
    is_loading = getattr(getattr(torch, "__spec__", None), "_initializing", False)
    return None if is_loading else torch


def _torch_threads() -> int:
    """0 = torch is not loaded."""
    torch = loaded_torch()
    return int(torch.get_num_threads()) if torch else 0


def _limit_torch(n_threads: int) -> None:
    """Set torch's threads, of the program and of the calling thread, if torch is loaded."""
    torch = loaded_torch()
    if torch and n_threads:
        torch.set_num_threads(n_threads)

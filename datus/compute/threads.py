"""Items in parallel, one thread inside an item: the same bytes on any number of cores.

Library code that splits one matrix product over threads may add in another order when the number
of threads changes, and the last bit moves. So nothing here splits an item: images run side by side,
each on one thread, and results do not depend on threads, workers, batch size or machine load.

Threads are those of concurrent.futures, limits are set by threadpoolctl. Here is only that threads
take items by themselves (a future for each would cost as much as a short item), and who puts the
limits back when several maps overlap, for which threadpoolctl has no count.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Lock, local
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
    to one thread per item meanwhile. A map inside an item stays on the thread of that item. Maps
    side by side share their threads: all of them together work on `n_threads` items, since more
    would only take each other's cache.
    """
    todo = list(items)
    if getattr(_THREAD, "is_worker", False):
        return [_unless_stopped(function, item) for item in todo]
    results: dict[int, Out] = {}
    errors: dict[int, BaseException] = {}
    places = iter(range(len(todo)))  # Python lets only one thread take the next of a range

    def work() -> None:
        _LIMITS.limit_worker()
        for place in places:
            if errors:
                return
            try:
                results[place] = _unless_stopped(function, todo[place])
            except BaseException as error:
                errors[place] = error

    with _LIMITS:
        pool = _pool(max(1, n_threads))
        futures = [pool.submit(work) for _ in range(min(max(1, n_threads), len(todo)))]
        try:
            wait(futures)
        except BaseException as error:  # Ctrl-C here: no further item begins
            errors[-1] = error
            wait(futures)
    if errors:
        raise errors[min(errors)]
    for future in futures:
        future.result()
    return [results[place] for place in range(len(todo))]


_THREAD = local()
_pools: dict[int, ThreadPoolExecutor] = {}
_pools_guard = Lock()


def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Threads that wait for the next map: to make one known to OpenMP takes most of a millisecond.

    A forked process has none of them and makes its own.
    """
    with _pools_guard:
        if n_threads not in _pools:
            _pools[n_threads] = ThreadPoolExecutor(
                n_threads, initializer=setattr, initargs=(_THREAD, "is_worker", True)
            )
        return _pools[n_threads]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


def end_waiting() -> None:
    """The threads that wait for a next map end; one that comes makes its own."""
    with _pools_guard:
        while _pools:
            _pools.popitem()[1].shutdown()


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

    def __enter__(self) -> None:
        with self._guard:
            is_new = self._look()
            if self._inside == 0:
                self._torch_threads = _torch_threads()
            # before BLAS: an OpenBLAS on OpenMP sets the limit of the calling thread too
            limits = self._limit_thread()
            if self._inside == 0 or is_new:  # new: a library that came after the first
                self._allow_this_thread()
                self._blas.append(self._controller.select(user_api="blas").limit(limits=1))
            self._inside += 1
        _THREAD.limits = [*getattr(_THREAD, "limits", []), limits]

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._inside -= 1
            if self._inside == 0:
                self._allow_this_thread()
                while self._blas:  # the first limits, which are the oldest, come back last
                    self._blas.pop().restore_original_limits()
                _limit_torch(self._torch_threads)
            _THREAD.limits.pop().restore_original_limits()

    def limit_worker(self) -> None:
        """The calling thread, for good; again only after a library came."""
        if getattr(_THREAD, "limited_by", None) is not self._controller:
            self._limit_thread()
            _THREAD.limited_by = self._controller

    def _limit_thread(self) -> Any:
        """Returns what puts the OpenMP of the calling thread back."""
        limits = self._controller.select(user_api="openmp").limit(limits=1)
        _limit_torch(1)
        return limits

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


def one_thread() -> AbstractContextManager[None]:
    """Inside, libraries have one thread, in the calling thread and in maps."""
    return _LIMITS


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

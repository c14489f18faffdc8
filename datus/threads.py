"""Items in parallel, one thread inside an item: the same bytes on any number of cores.

Library code that splits one matrix product over threads may add in another order when the number
of threads changes, and the last bit moves. So nothing here splits an item: images run side by side,
each on one thread, and results do not depend on threads, workers, batch size or machine load.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from threadpoolctl import threadpool_limits

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
    to one thread per item meanwhile.
    """
    todo = list(items)
    with threadpool_limits(limits=1):
        torch_threads = _limit_torch(1)
        try:
            if n_threads <= 1 or len(todo) <= 1:
                return [function(item) for item in todo]
            return _shared_out(function, todo, min(n_threads, len(todo)))
        finally:
            _limit_torch(torch_threads)


@contextmanager
def thread_pool(n_threads: int) -> Iterator[Callable[[Callable[[In], Out], list[In]], list[Out]]]:
    """`map_threads` for many short lists: `with thread_pool(2) as mapped: mapped(function, items)`.

    Setting the limits takes ten milliseconds; here they are set once, and hold until the end.
    """
    with threadpool_limits(limits=1):
        torch_threads = _limit_torch(1)
        try:
            if n_threads <= 1:
                yield lambda function, items: [function(item) for item in items]
                return
            with ThreadPoolExecutor(n_threads, initializer=_limit_this_thread) as pool:
                yield lambda function, items: list(pool.map(function, items))
        finally:
            _limit_torch(torch_threads)


def _limit_this_thread() -> None:
    threadpool_limits(limits=1)  # OpenMP keeps its limit per calling thread
    _limit_torch(1)


def _shared_out(function: Callable[[In], Out], todo: list[In], n_threads: int) -> list[Out]:
    """Threads take the next item when they are free: for items of a tenth of a millisecond a
    future each would cost as much as the work."""
    found: dict[int, Out] = {}
    errors: dict[int, BaseException] = {}
    places, guard = iter(range(len(todo))), Lock()

    def work() -> None:
        _limit_this_thread()
        while not errors:
            with guard:
                place = next(places, -1)
            if place < 0:
                return
            try:
                found[place] = function(todo[place])
            except BaseException as error:
                errors[place] = error

    with ThreadPoolExecutor(n_threads) as pool:
        threads = [pool.submit(work) for _ in range(n_threads)]
    if errors:
        raise errors[min(errors)]
    for thread in threads:
        thread.result()
    return [found[place] for place in range(len(todo))]


def _limit_torch(n_threads: int) -> int:
    """Set torch's threads if torch is loaded; return what it was (0 = not loaded, nothing done)."""
    torch = sys.modules.get("torch")
    if torch is None or n_threads == 0:
        return 0
    before = int(torch.get_num_threads())
    torch.set_num_threads(n_threads)
    return before

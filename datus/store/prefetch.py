"""Read what comes next while somebody works on what is here: one process that reads many shards.

    read_ahead(read, items, at_once)            like map(read, items), some of them in threads ahead

What a file on a network or an object store takes is mostly waiting; hashing lets other threads
work, too. Order, and so every byte that is made of it, is as without threads.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

AT_ONCE = 16
"""Default of `speed.read_ahead`."""


def read_ahead(
    read: Callable[[In], Out],
    items: Iterable[In],
    at_once: int,
    n_bytes: Callable[[Out], int] = lambda found: 0,
    room: float = math.inf,
) -> Generator[Out, None, None]:
    """`read(item)` of each item, in order; up to `at_once` are read or wait to be taken.

    n_bytes: of what was read. What waits and what is being read has no more than `room` bytes, one
    under way counted as the largest so far; one is always read. An error is raised in its turn.
    After an error, or when the caller stops early, nothing more is started, and what is under way
    ends first. With `at_once` 1 or less there are no threads, and nothing is read ahead.
    """
    if at_once <= 1:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="datus-read")
    waiting: deque[Future[tuple[Out, int]]] = deque()
    todo = iter(items)

    def one(item: In) -> tuple[Out, int]:
        found = read(item)
        return found, n_bytes(found)

    def fill(largest: float) -> None:
        while len(waiting) < at_once and (not waiting or _held(waiting, largest) + largest <= room):
            try:
                waiting.append(pool.submit(one, next(todo)))
            except StopIteration:
                return

    try:
        largest = 0
        fill(room)  # one, if there is a limit
        while waiting:
            found, size = waiting.popleft().result()
            largest = max(largest, size)
            fill(largest)
            yield found
            del found  # not held while the next one is waited for
    finally:
        pool.shutdown(cancel_futures=True)


def _held(waiting: Iterable[Future[tuple[Any, int]]], largest: float) -> float:
    return sum(
        one.result()[1] if one.done() and one.exception() is None else largest for one in waiting
    )

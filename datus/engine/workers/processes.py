"""Shards side by side in worker processes of this machine.

Workers are spawned, not forked: a fork after torch has started threads can hang. Each loads its
model once; those without one may be kept for the next jobs of the run. A worker that dies (killed,
out of memory) breaks the pool, and a new one takes what is left. Which of the jobs under way killed
it cannot be known, so all of them are tried again; a third and last try is made with nothing beside
it, and ends in a result or a failure.

This is the pool of the standard library. pebble knows which job killed a worker, but it starts new
workers from a thread of its own, where neither the user's script nor Ctrl-C can be kept from them.
"""

import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from datus.engine.workers import ExecutorSettings, Outcome, ShardFunction, died, travels
from datus.errors import WorkError

ATTEMPTS = 3
POLL_SECONDS = 0.2

_counter: Any = None
"""In a worker: the shared number of finished images."""


def run(
    function: ShardFunction, jobs: Sequence[Any], settings: ExecutorSettings
) -> Iterator[Outcome]:
    attempts = dict.fromkeys(range(len(jobs)), 0)
    while attempts:
        numbers, workers = _next(attempts, settings.workers)
        todo = [
            (number, settings.again(jobs[number]) if attempts[number] else jobs[number])
            for number in numbers
        ]
        pool, sound = _take(workers, settings.prepare), False
        here = dataclasses.replace(settings, workers=workers)
        try:
            for number, ended in _drain(pool, function, todo, here):
                attempts[number] += ended is None  # its worker died
                if ended is None and attempts[number] < ATTEMPTS:
                    continue
                del attempts[number]
                yield ended or Outcome(jobs[number], error=WorkError(died(ATTEMPTS)))
            sound = not pool.broken
        finally:
            if sound and settings.keep and _KEEPING:
                _kept.append(pool)
            else:
                _stop(pool.executor)


@dataclasses.dataclass
class _Pool:
    """Worker processes, and their shared number of finished images."""

    executor: ProcessPoolExecutor
    counter: Any
    workers: int
    broken: bool = False


_kept: list[_Pool] = []
"""At most one, which has nothing to do now."""

_KEEPING: list[bool] = []
"""One for each `kept` that holds."""


@contextmanager
def kept() -> Iterator[None]:
    """Inside, workers that may be kept are; at the end they are stopped."""
    _KEEPING.append(True)
    try:
        yield
    finally:
        _KEEPING.pop()
        while _kept:
            _stop(_kept.pop().executor)


def _take(workers: int, prepare: Callable[[], None]) -> _Pool:
    """The kept pool if it is large enough, or a new one."""
    while _kept:
        pool = _kept.pop()
        if pool.workers >= workers and all(one.is_alive() for one in _processes(pool.executor)):
            return pool
        _stop(pool.executor)
    context = multiprocessing.get_context("spawn")
    # a counter for each pool: who was killed may have held the lock of the old one
    counter = context.Value("q", 0)
    executor = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(counter, os.getpid(), prepare),
    )
    return _Pool(executor, counter, workers)


def _next(attempts: Mapping[int, int], workers: int) -> tuple[list[int], int]:
    """(jobs, workers) of the next pool. No job may fail for what runs beside it."""
    last = [number for number, tries in attempts.items() if tries == ATTEMPTS - 1]
    return (last, 1) if last else (list(attempts), max(1, min(workers, len(attempts))))


def _drain(
    pool: _Pool,
    function: ShardFunction,
    todo: Sequence[tuple[int, Any]],
    settings: ExecutorSettings,
) -> Iterator[tuple[int, Outcome | None]]:
    """(number, outcome) as jobs end; None for the jobs under way when a worker died.

    Only as many jobs as workers are handed over at a time, so that a broken pool tells which jobs
    were under way.
    """
    queue = list(todo)
    running: dict[Future[Any], tuple[int, Any]] = {}
    count = pool.counter.get_obj()  # read without the lock: a worker may die holding it
    shown = count.value
    while running or (queue and not pool.broken):
        while queue and not pool.broken and len(running) < settings.workers:
            try:
                with _interrupts_later(), _nothing_to_import():
                    running[pool.executor.submit(_work, function, queue[0][1])] = queue[0]
            except BrokenProcessPool:
                pool.broken = True
            else:
                queue.pop(0)
        ended, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        before, shown = shown, count.value
        settings.advance(shown - before)
        for future in ended:
            number, job = running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                pool.broken = True
                yield number, None
            elif error is not None:
                yield number, Outcome(job, error=error)
            else:
                yield number, Outcome(job, result=future.result())


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal. A worker ignores it once it runs, and until then
    what it inherits from here counts: it is held back, for the worker for good, for us until the
    worker is started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _nothing_to_import() -> Iterator[None]:
    """A worker imports the program that started it, so a script without `if __name__ ==
    "__main__":` would begin again in each of them. Workers need nothing of it."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _work(function: ShardFunction, job: Any) -> Any:
    try:
        return function(job, _advance)
    except Exception as error:
        known = travels(error)
        if known is error:
            raise
        raise known from None


def _advance(n_images: int) -> None:
    with _counter.get_lock():
        _counter.value += n_images


def _start_worker(counter: Any, parent: int, prepare: Callable[[], None]) -> None:
    global _counter  # noqa: PLW0603 - a shared value reaches a worker only through its initializer
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends the workers, silently
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    prepare()


def _die_with(parent: int) -> None:
    """A parent killed with -9 cannot stop its workers: they stop themselves."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End workers at once; nothing is lost, a shard is written whole or not at all."""
    processes = _processes(pool)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _processes(pool: ProcessPoolExecutor) -> list[multiprocessing.process.BaseProcess]:
    return list((pool._processes or {}).values())

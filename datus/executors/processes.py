"""Shards side by side in worker processes of this machine.

Workers are spawned, not forked: a fork after torch has started threads can hang. Each loads its
model once. A worker that dies (killed, out of memory) breaks the pool; a new pool takes what is
left, and a job that was under way in three broken pools is reported as failed.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from datus.errors import WorkError
from datus.executors.base import ExecutorSettings, Outcome, ShardFunction

ATTEMPTS = 3
POLL_SECONDS = 0.2

_counter: Any = None
"""In a worker: the shared number of finished images."""


def run(
    function: ShardFunction, jobs: Sequence[Any], settings: ExecutorSettings
) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    attempts = dict.fromkeys(range(len(jobs)), 0)
    waiting = list(attempts)
    while waiting:
        pool = ProcessPoolExecutor(
            max(1, min(settings.workers, len(waiting))),
            mp_context=context,
            initializer=_start_worker,
            initargs=(counter, os.getpid()),
        )
        try:
            todo = [(number, jobs[number]) for number in waiting]
            for number, ended in _drain(pool, function, todo, counter, settings):
                attempts[number] += ended is None  # its worker died
                if ended is None and attempts[number] < ATTEMPTS:
                    continue
                waiting.remove(number)
                yield ended or Outcome(jobs[number], error=WorkError(_died(ATTEMPTS)))
        finally:
            _stop(pool)


def _drain(
    pool: ProcessPoolExecutor,
    function: ShardFunction,
    todo: Sequence[tuple[int, Any]],
    counter: Any,
    settings: ExecutorSettings,
) -> Iterator[tuple[int, Outcome | None]]:
    """(number, outcome) as jobs end; None for the jobs under way when a worker died.

    Only as many jobs as workers are handed over at a time, so that a broken pool tells which jobs
    were under way.
    """
    queue = list(todo)
    running: dict[Future[Any], tuple[int, Any]] = {}
    shown = counter.value
    broken = False
    while running or (queue and not broken):
        while queue and not broken and len(running) < max(1, settings.workers):
            try:
                running[pool.submit(_work, function, queue[0][1])] = queue[0]
            except BrokenProcessPool:
                broken = True
            else:
                queue.pop(0)
        ended, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        settings.advance(counter.value - shown)
        shown = counter.value
        for future in ended:
            number, job = running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                broken = True
                yield number, None
            elif error is not None:
                yield number, Outcome(job, error=error)
            else:
                yield number, Outcome(job, result=future.result())


def _work(function: ShardFunction, job: Any) -> Any:
    return function(job, _advance)


def _advance(n_images: int) -> None:
    with _counter.get_lock():
        _counter.value += n_images


def _start_worker(counter: Any, parent: int) -> None:
    global _counter  # noqa: PLW0603 - a shared value reaches a worker only through its initializer
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends the workers, silently
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """A parent killed with -9 cannot stop its workers: they stop themselves."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End workers at once; nothing is lost, a shard is written whole or not at all."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _died(attempts: int) -> str:
    return (
        f"a worker died {attempts} times on this shard (killed, or out of memory): "
        "use fewer --workers, or look at its images"
    )

"""Shards in this process, a few at a time: while one waits for the disk, for its last image or for
the GPU, the next one uses the cores.

A shard is worked on by one thread, which hands its images to others (`compute.threads`). Nothing is
started after an interrupt, and images under way end first.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from datus.compute.threads import stopping
from datus.engine.workers import ExecutorSettings, Outcome, ShardFunction


def run(
    function: ShardFunction, jobs: Sequence[Any], settings: ExecutorSettings
) -> Iterator[Outcome]:
    if settings.workers <= 1 or len(jobs) <= 1:
        yield from (_one(function, job, settings) for job in jobs)
        return
    pool = ThreadPoolExecutor(settings.workers)
    running: set[Future[Outcome]] = set()
    todo = iter(jobs)
    try:
        while True:
            while len(running) < settings.workers and (job := next(todo, None)) is not None:
                running.add(pool.submit(_one, function, job, settings))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
    finally:
        with stopping():
            pool.shutdown(cancel_futures=True)


def _one(function: ShardFunction, job: Any, settings: ExecutorSettings) -> Outcome:
    try:
        return Outcome(job, result=function(job, settings.advance))
    except Exception as error:  # reported with its shard; the others go on
        return Outcome(job, error=error)

"""How shards are run: one small file each, one contract.

    map(function, jobs, settings) -> iterator of Outcome, in any order, one for each job

`function(job, advance)` does one shard and calls `advance(n)` for progress. A job that raises is
reported as failed while the others finish; a worker that dies is replaced and its job tried again.
Jobs and results must be picklable.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from datus.config import SpeedConfig
from datus.errors import WorkError

Advance = Callable[[int], None]
"""Called with the number of images that were just finished."""

ShardFunction = Callable[[Any, Advance], Any]


def no_progress(_: int) -> None:
    """Work that nobody watches, or that was not counted in the bar's total."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job: a result, or the error that ended it."""

    job: Any
    result: Any = None
    error: BaseException | None = None


def nothing() -> None:
    """What a worker does before its first job, if it is told nothing else."""


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Nothing here changes results."""

    workers: int
    advance: Advance
    again: Callable[[Any], Any] = lambda job: job
    """(job that a worker died on) -> the job as it is tried again."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """Of Ray: where it is and what one worker takes of it."""
    prepare: Callable[[], None] = nothing
    """Called once in a worker process."""
    keep: bool = False
    """Worker processes wait for the next jobs of this run: they hold nothing large."""


Executor = Callable[[ShardFunction, Sequence[Any], ExecutorSettings], Iterator[Outcome]]


def by_name(name: str) -> Executor:
    """'serial', 'processes' or 'ray'. Imports only the one that is asked for. 'auto' is one of the
    first two for each group of stages (`resources.placed`); undecided it is 'serial'."""
    if name in ("serial", "auto"):
        from datus.engine.workers import serial

        return serial.run
    if name == "ray":
        from datus.engine.workers import ray

        return ray.run
    from datus.engine.workers import processes

    return processes.run


def connected(speed: SpeedConfig) -> AbstractContextManager[None]:
    """What a whole run holds. With Ray, a cluster that answers: no answer is said at the door. Else
    worker processes, once there are some."""
    if speed.executor == "serial":
        return nullcontext()
    if speed.executor != "ray":
        from datus.engine.workers import processes

        return processes.kept()
    from datus.engine.workers import ray

    return ray.connected(speed)


def travels(error: Exception) -> Exception:
    """`error` if the parent can read it, else what it says: an unreadable one breaks the pool."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkError(f"{type(error).__name__}: {error}")
    return error


def died(attempts: int) -> str:
    """What is said of a shard that no worker survives."""
    return (
        f"a worker died {attempts} times on this shard (killed, or out of memory): "
        "use fewer --workers, or look at its images"
    )

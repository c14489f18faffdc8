"""The types that all executors share, and how those with workers speak of their deaths."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datus.errors import WorkError

Advance = Callable[[int], None]
"""Called with the number of images that were just finished."""

ShardFunction = Callable[[Any, Advance], Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job: a result, or the error that ended it."""

    job: Any
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Of Ray: where it is and what one worker takes of it."""

    address: str = ""
    """HOST:PORT, local, or auto; empty = RAY_ADDRESS, else auto: the cluster of this machine."""
    cpus: float = 1.0
    gpus: float = 0.0
    wait: float = 0.0
    """Seconds until a node must be there that has room for a worker."""


def nothing() -> None:
    """What a worker does before its first job, if it is told nothing else."""


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Nothing here changes results."""

    workers: int
    advance: Advance
    again: Callable[[Any], Any] = lambda job: job
    """(job that a worker died on) -> the job as it is tried again."""
    cluster: Cluster = Cluster()
    prepare: Callable[[], None] = nothing
    """Called once in a worker process."""
    keep: bool = False
    """Worker processes wait for the next jobs of this run: they hold nothing large."""


Executor = Callable[[ShardFunction, Sequence[Any], ExecutorSettings], Iterator[Outcome]]


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

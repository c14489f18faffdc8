"""The types that all executors share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
class ExecutorSettings:
    """Nothing here changes results."""

    workers: int
    advance: Advance


Executor = Callable[[ShardFunction, Sequence[Any], ExecutorSettings], Iterator[Outcome]]

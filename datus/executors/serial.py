"""One shard after the other in this process."""

from collections.abc import Iterator, Sequence
from typing import Any

from datus.executors.base import ExecutorSettings, Outcome, ShardFunction


def run(
    function: ShardFunction, jobs: Sequence[Any], settings: ExecutorSettings
) -> Iterator[Outcome]:
    for job in jobs:
        try:
            yield Outcome(job, result=function(job, settings.advance))
        except Exception as error:  # reported with its shard; the others go on
            yield Outcome(job, error=error)

"""How shards are run: one small file each, one contract.

    map(function, jobs, settings) -> iterator of Outcome, in any order, one for each job

`function(job, advance)` does one shard and calls `advance(n)` for progress. A job that raises is
reported as failed while the others finish; a worker that dies is replaced and its job tried again.
Jobs and results must be picklable.
"""

from datus.executors.base import Advance, Executor, ExecutorSettings, Outcome, ShardFunction

__all__ = ["Advance", "Executor", "ExecutorSettings", "Outcome", "ShardFunction", "by_name"]


def by_name(name: str) -> Executor:
    """'serial' or 'processes'. Imports only the one that is asked for."""
    if name == "serial":
        from datus.executors import serial

        return serial.run
    from datus.executors import processes

    return processes.run

"""How shards are run: one small file each, one contract.

    map(function, jobs, settings) -> iterator of Outcome, in any order, one for each job

`function(job, advance)` does one shard and calls `advance(n)` for progress. A job that raises is
reported as failed while the others finish; a worker that dies is replaced and its job tried again.
Jobs and results must be picklable.
"""

from contextlib import AbstractContextManager, nullcontext

from datus.config import SpeedConfig
from datus.engine.workers.base import (
    Advance,
    Cluster,
    Executor,
    ExecutorSettings,
    Outcome,
    ShardFunction,
)

__all__ = [
    "Advance",
    "Cluster",
    "Executor",
    "ExecutorSettings",
    "Outcome",
    "ShardFunction",
    "by_name",
    "cluster_of",
    "connected",
]


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


def cluster_of(speed: SpeedConfig) -> Cluster:
    """What the settings say of Ray."""
    return Cluster(speed.ray_address, speed.ray_cpus, speed.ray_gpus, speed.ray_wait)


def connected(speed: SpeedConfig) -> AbstractContextManager[None]:
    """What a whole run holds. With Ray, a cluster that answers: no answer is said at the door. Else
    worker processes, once there are some."""
    if speed.executor == "serial":
        return nullcontext()
    if speed.executor != "ray":
        from datus.engine.workers import processes

        return processes.kept()
    from datus.engine.workers import ray

    return ray.connected(cluster_of(speed))

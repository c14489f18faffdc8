"""Workers of a Ray cluster between two groups of stages.

    with IDLE.open(ray):                   a whole run; the outermost dismisses whoever is left
        IDLE.put(ray, cluster, worker)     a worker that has nothing to do
        IDLE.take(cluster, n)              up to n of them, for the next group

A worker that stays need not start, import torch and load its models again. One that waits longer
than IDLE_SECONDS, while k-means runs, would keep others from its GPU and the cluster from growing
smaller.
"""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from datus.engine.workers.base import Cluster

IDLE_SECONDS = 60.0


@dataclasses.dataclass(slots=True)
class Worker:
    """One actor, on the node where it was started."""

    actor: Any
    node: str = ""
    number: int = -1
    """Of the job that it works on."""


class IdleWorkers:
    """The workers that wait. One for a process, as there is one connection to Ray."""

    def __init__(self) -> None:
        self._workers: list[tuple[Cluster, Worker]] = []
        self._lock, self._depth = threading.Lock(), 0
        self._timer: threading.Timer | None = None

    @contextmanager
    def open(self, ray: Any) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._dismiss(ray)

    def put(self, ray: Any, cluster: Cluster, worker: Worker) -> None:
        with self._lock:
            self._workers.append((cluster, worker))
            if self._timer is None:
                self._timer = threading.Timer(IDLE_SECONDS, self._dismiss, [ray])
                self._timer.daemon = True
                self._timer.start()

    def take(self, cluster: Cluster, n: int) -> list[Worker]:
        """Of those that hold as much of the cluster."""
        with self._lock:
            mine = [one for one in self._workers if one[0] == cluster][:n]
            self._workers = [one for one in self._workers if one not in mine]
            if not self._workers:
                self._stop_timer()
        return [worker for _, worker in mine]

    def _dismiss(self, ray: Any) -> None:
        with self._lock:
            self._stop_timer()
            workers, self._workers = self._workers, []
        for _, worker in workers:
            with suppress(Exception):  # gone already
                ray.kill(worker.actor)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None


IDLE = IdleWorkers()

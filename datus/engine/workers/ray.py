"""Shards on a Ray cluster. The only module that imports Ray, and only when it is asked for.

Each worker is an actor: a process that keeps its CPUs and its GPU and loads its models once. There
are as many as `workers` says; 0 = as the cluster has room for, and as many again are asked for, so
that a cluster that grows does. Workers wait a little for the next group of stages (`IdleWorkers`).
A shard whose worker dies goes to another one. A worker holds one shard at a time, so it is known
which one it was: the third death on a shard is its failure, and its alone. The loss of a whole node
is nobody's fault and is not counted, up to LOST_NODES times.

Workers must have the same datus and see the same paths; they work in the folder of the driver.
`ray.util.ActorPool` has a fixed number of actors and ends with the first that dies, so hiring and
the loss of workers and nodes are handled here.
"""

import logging
import os
import pickle
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from datus.config import SpeedConfig
from datus.engine.workers import ExecutorSettings, Outcome, ShardFunction, died, travels
from datus.errors import MissingPackage, WorkError

ATTEMPTS = 3
LOST_NODES = 10
"""A shard may lose its node so often. Nodes that are hired by the minute do go."""
LOST_STARTS = 3
"""So many workers in a row that do not start, while none works, mean that none will."""
POLL_SECONDS = 0.5
ROOM_SECONDS = 5.0
"""How often it is looked up which nodes there are."""
PATIENCE_SECONDS = 60.0
"""With a cluster that had room and lost it."""
ANSWER_SECONDS = 10.0
IDLE_SECONDS = 60.0


def run(
    function: ShardFunction, jobs: Sequence[Any], settings: ExecutorSettings
) -> Iterator[Outcome]:
    if not jobs:
        return
    with connected(settings.speed):
        pool = _Pool(function, jobs, settings)
        try:
            yield from pool.outcomes()
        finally:
            pool.stop()


@contextmanager
def connected(speed: SpeedConfig) -> Iterator[None]:
    """A connection to the cluster, or the one that is there. Raises WorkError with the cure."""
    ray = _package()
    if ray.is_initialized():
        with IDLE.open(ray):
            yield
        return
    address = _answering(speed.ray_address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # workers print to logs of their own: progress is in one place
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise WorkError(_no_cluster(address, str(error))) from None
    try:
        with IDLE.open(ray):
            yield
    finally:
        ray.shutdown()


def _package() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingPackage("executor ray needs Ray: pip install 'datus[ray]'") from None
    return ray


def _answering(address: str) -> str:
    """The address to connect to. Ray itself waits for minutes where nobody answers."""
    address = address or os.environ.get("RAY_ADDRESS", "") or "auto"
    if "://" in address:
        raise WorkError(
            f"speed.ray_address: expected auto, local or HOST:PORT, got {address}; start datus on "
            "a node of the cluster (pipelines/batch/ray_job.sh)"
        )
    if address == "auto":
        with suppress(ImportError, AttributeError, OSError):  # not public: without it Ray looks
            from ray._private.services import canonicalize_bootstrap_address

            try:
                address = canonicalize_bootstrap_address("auto") or address
            except ConnectionError:
                raise WorkError(_no_cluster("auto", "no cluster runs on this machine")) from None
    host, colon, port = address.rpartition(":")
    if colon:
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            raise WorkError(_no_cluster(address, str(error))) from None
    return address


def _no_cluster(address: str, reason: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({' '.join(reason.split())[:200]}): start one with "
        "ray start --head, name it with --set speed.ray_address=HOST:PORT, or use "
        "--executor processes"
    )


# --- between two groups of stages ----------------------------------------------------------------


@dataclass(slots=True)
class Worker:
    """One actor, on the node where it was started."""

    actor: Any
    node: str = ""
    number: int = -1
    """Of the job that it works on."""


class IdleWorkers:
    """The workers that wait between two groups of stages. One for a process, as there is one
    connection to Ray.

    A worker that stays need not start, import torch and load its models again. One that waits
    longer than IDLE_SECONDS, while k-means runs, would keep others from its GPU and the cluster
    from growing smaller.
    """

    def __init__(self) -> None:
        self._workers: list[tuple[SpeedConfig, Worker]] = []
        self._lock, self._depth = threading.Lock(), 0
        self._timer: threading.Timer | None = None

    @contextmanager
    def open(self, ray: Any) -> Iterator[None]:
        """For a whole run; the outermost dismisses whoever is left."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._dismiss(ray)

    def put(self, ray: Any, speed: SpeedConfig, worker: Worker) -> None:
        with self._lock:
            self._workers.append((speed, worker))
            if self._timer is None:
                self._timer = threading.Timer(IDLE_SECONDS, self._dismiss, [ray])
                self._timer.daemon = True
                self._timer.start()

    def take(self, speed: SpeedConfig, n: int) -> list[Worker]:
        """Up to n of those that hold as much of the cluster."""
        with self._lock:
            mine = [one for one in self._workers if one[0] == speed][:n]
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


# --- in the driver ------------------------------------------------------------------------------


class _Pool:
    """Hires workers, hands out shards, tells progress."""

    def __init__(
        self, function: ShardFunction, jobs: Sequence[Any], settings: ExecutorSettings
    ) -> None:
        self._ray = _package()
        self._function, self._jobs, self._settings = function, jobs, settings
        self._queue = deque(range(len(jobs)))
        self._attempts = dict.fromkeys(self._queue, 0)
        self._lost_nodes = dict.fromkeys(self._queue, 0)
        self._starting: dict[Any, Worker] = {}
        self._running: dict[Any, Worker] = {}
        self._failed_starts, self._begun = 0, False
        self._room, self._looked, self._had_room = 0, -ROOM_SECONDS, time.monotonic()
        self._counter = _beside_the_driver(self._ray, _Counter)
        self._asked, self._shown = self._counter.total.remote(), 0

    def outcomes(self) -> Iterator[Outcome]:
        while self._queue or self._running:
            self._hire()
            refs = [*self._running, *self._starting]
            ended, _ = self._ray.wait(refs, timeout=POLL_SECONDS) if refs else ([], [])
            if not refs:
                time.sleep(POLL_SECONDS)
            for ref in ended:
                if ref in self._starting:
                    self._begin(ref)
                else:
                    outcome = self._end(ref)
                    if outcome is not None:
                        yield outcome
            self._tell()
        self._tell(last=True)

    def stop(self) -> None:
        for worker in (*self._starting.values(), *self._running.values()):
            self._dismiss(worker)
        with suppress(Exception):
            self._ray.kill(self._counter)

    # --- workers --------------------------------------------------------------------------------

    def _hire(self) -> None:
        """As many workers as there is work for and room, or a little more than room."""
        self._look()
        n_wanted = len(self._queue) + len(self._running)
        limit = self._settings.workers or max(1, 2 * self._room)
        speed = self._settings.speed
        cls = self._ray.remote(_Worker)
        n_more = max(0, min(n_wanted, limit) - len(self._running) - len(self._starting))
        rested = IDLE.take(speed, n_more)
        for worker in rested:
            self._start(worker.actor)  # it tells whether it is still there
        for _ in range(n_more - len(rested)):
            needs = {"num_cpus": speed.ray_cpus, "num_gpus": speed.ray_gpus, "max_restarts": 0}
            self._start(cls.options(**needs).remote())

    def _start(self, actor: Any) -> None:
        gpus = self._settings.speed.ray_gpus > 0
        # what workers inherit: DATUS_OFFLINE, DATUS_WEIGHTS ...
        given = {name: text for name, text in os.environ.items() if name.startswith("DATUS_")}
        self._starting[actor.start.remote(given, os.getcwd(), gpus)] = Worker(actor)

    def _look(self) -> None:
        """Count the workers that the nodes have room for. Raises WorkError: none, for too long."""
        now, speed = time.monotonic(), self._settings.speed
        if now - self._looked < ROOM_SECONDS:
            return
        self._looked = now
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._room = sum(_seats(node, speed) for node in nodes)
        if self._room:
            self._had_room = now
            return
        patience = max(speed.ray_wait, PATIENCE_SECONDS) if self._begun else speed.ray_wait
        if now - self._had_room >= patience:
            raise WorkError(_no_room(speed, nodes))

    def _begin(self, ref: Any) -> None:
        """A worker has started: it gets its first shard."""
        worker = self._starting.pop(ref)
        try:
            worker.node, found = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._dismiss(worker)
            self._failed_starts += 1
            if self._failed_starts >= LOST_STARTS and not self._running:
                raise WorkError(_no_start(error)) from None
            return
        self._failed_starts, self._begun = 0, True
        mine = _version()
        if found != mine:
            self._dismiss(worker)
            raise WorkError(
                f"a node of the cluster has {found}, here is {mine}: results could differ; install "
                "the same on every node"
            )
        self._give(worker)

    def _give(self, worker: Worker) -> None:
        if not self._queue:
            IDLE.put(self._ray, self._settings.speed, worker)
            return
        worker.number = self._queue.popleft()
        job = self._jobs[worker.number]
        if self._attempts[worker.number]:
            job = self._settings.again(job)
        packed = pickle.dumps((self._function, job))
        self._running[worker.actor.work.remote(packed, self._counter)] = worker

    def _end(self, ref: Any) -> Outcome | None:
        """What came of a job; None if its worker or node died and it is tried again."""
        worker = self._running.pop(ref)
        number, job = worker.number, self._jobs[worker.number]
        try:
            result, error = pickle.loads(self._ray.get(ref))
        except self._ray.exceptions.RayError:
            return self._lost(worker)
        self._give(worker)
        del self._attempts[number]
        return Outcome(job, error=error) if error is not None else Outcome(job, result=result)

    def _lost(self, worker: Worker) -> Outcome | None:
        self._dismiss(worker)  # it may live on, out of reach
        number = worker.number
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        self._looked = -ROOM_SECONDS if worker.node not in alive else self._looked
        if worker.node not in alive and self._lost_nodes[number] < LOST_NODES:
            self._lost_nodes[number] += 1
            self._settings.again(self._jobs[number])  # the loss is noted; the job is not to blame
        else:
            self._attempts[number] += 1
        if self._attempts[number] < ATTEMPTS:
            self._queue.append(number)
            return None
        return Outcome(self._jobs[number], error=WorkError(died(ATTEMPTS)))

    def _dismiss(self, worker: Worker) -> None:
        with suppress(Exception):  # gone already
            self._ray.kill(worker.actor)

    # --- progress -------------------------------------------------------------------------------

    def _tell(self, last: bool = False) -> None:
        """What was counted since the last time. Workers wait for the counter before they answer."""
        if not last and not self._ray.wait([self._asked], timeout=0)[0]:
            return
        try:
            if last:
                self._asked = self._counter.total.remote()
            total = self._ray.get(self._asked)
        except self._ray.exceptions.RayError:  # progress is not worth a failure
            total = self._shown
        self._asked = self._counter.total.remote()
        before, self._shown = self._shown, total
        self._settings.advance(total - before)


def _beside_the_driver(ray: Any, cls: type) -> Any:
    """An actor that takes no CPU and does not go with another node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(cls).options(num_cpus=0, scheduling_strategy=here).remote()


def _seats(node: Mapping[str, float], speed: SpeedConfig) -> int:
    """Workers that fit on a node."""
    kinds = (("CPU", speed.ray_cpus), ("GPU", speed.ray_gpus))
    return min(int(node.get(kind, 0.0) / each + 1e-6) for kind, each in kinds if each)


def _no_room(speed: SpeedConfig, nodes: Sequence[Mapping[str, float]]) -> str:
    has = [f"{n.get('CPU', 0.0):g} CPUs and {n.get('GPU', 0.0):g} GPUs" for n in nodes]
    return (
        f"no node of the Ray cluster has room for a worker: expected {speed.ray_cpus:g} CPUs and "
        f"{speed.ray_gpus:g} GPUs, got {'; '.join(sorted(set(has))) or 'no node'}: lower "
        "speed.ray_cpus or speed.ray_gpus, or give nodes time to come with speed.ray_wait"
    )


def _no_start(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"workers do not start on the Ray cluster: {(lines or ['no reason given'])[-1][:300]}: "
        "install datus in the same environment on every node"
    )


def _version() -> str:
    from datus.version import __version__

    return f"datus {__version__}"


# --- in workers ---------------------------------------------------------------------------------


class _Worker:
    """The actor. One shard at a time."""

    def start(self, environment: dict[str, str], folder: str, gpus: bool) -> tuple[str, str]:
        """(node, version). Before anything imports torch, which looks for GPUs once."""
        os.environ.update(environment)
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        with suppress(OSError):  # then relative paths lead nowhere, and the shard says which
            os.chdir(folder)
        return _package().get_runtime_context().get_node_id(), _version()

    def work(self, packed: bytes, counter: Any) -> bytes:
        """A pickled pair (function, job) in, a pickled pair (result, error) out."""
        steps = _Steps(counter)
        try:
            function, job = pickle.loads(packed)
            return pickle.dumps((function(job, steps), None))
        except Exception as error:
            return pickle.dumps((None, travels(error)))
        finally:
            steps.send(wait=True)


class _Steps:
    """Counts images and sends the number now and then. Called by several threads."""

    def __init__(self, counter: Any) -> None:
        self._counter, self._lock = counter, threading.Lock()
        self._n, self._sent = 0, 0.0

    def __call__(self, n_images: int) -> None:
        with self._lock:
            self._n += n_images
            late = time.monotonic() - self._sent > POLL_SECONDS
        if late:
            self.send()

    def send(self, wait: bool = False) -> None:
        with self._lock:
            n_images, self._n, self._sent = self._n, 0, time.monotonic()
            answer = self._counter.add.remote(n_images)
        if wait:
            with suppress(Exception):  # progress is not worth a failure
                _package().get(answer)


class _Counter:
    """The actor that adds up progress, next to the driver."""

    def __init__(self) -> None:
        self._total = 0

    def add(self, n_images: int) -> None:
        self._total += n_images

    def total(self) -> int:
        return self._total

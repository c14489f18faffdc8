"""A farm of machines that works on shards, played event by event.

In:  Group and Whole, what a run consists of, with seconds of one image; a Farm.
Out: Played: when it ends, what the GPUs computed, what was lost and done again.

What is modelled is what datus does. Groups of shard stages run one after the other; between them
stand stages that need all shards, in one process. A worker does one phase after the other: read,
decode, ViT, the other stages, write; a node's GPU does one shard at a time.

    dynamic    one queue (executors/ray.py): a worker that is free gets the next shard from the
               driver, which then looks whether what it made has arrived; that is one server
    static     `--shards i/n` (shares.py): shards are dealt beforehand, one share to a node; every
               round starts processes that look through the whole index

A lost node loses the shards under way and comes back after a delay. All draws come from the seed.
Where a group has more than MOST_HANDED shards, several in a row are handed out at once; a loss
still costs one shard.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MOST_HANDED = 30_000
HOUR = 3600.0


@dataclass(frozen=True)
class Group:
    """Shard stages that run in one go. Seconds of one image, or of one shard."""

    name: str
    gpu: float
    cpu: float
    """Of one core."""
    per_shard: float
    """On a worker, whatever the shard holds."""
    spread: float
    """Deviation of the logarithm of a shard's seconds."""
    stages: int = 1
    reads: float = 0.0
    """Requests to storage for one image, one after the other in each thread."""
    writes: float = 0.0
    """Files written for one image, one after the other."""
    requests: float = 0.0
    """Of a worker for one shard: is it done, what it needs, what it made."""
    n_bytes: float = 0.0
    """Read and written for one image."""


@dataclass(frozen=True)
class Whole:
    """A stage that needs all shards: one process."""

    name: str
    per_image: float
    per_shard: float = 0.0
    once: float = 0.0
    requests: float = 0.0
    """To storage for one shard; those of several shards side by side."""
    own_round: bool = True
    """static: needs a process of its own (`--shards none`)."""


@dataclass(frozen=True)
class Farm:
    """Machines, and what befalls them."""

    gpus: int = 64
    cores: int = 8
    """Of a node; a node has one GPU."""
    flights: int = 1
    """Shards under way on one node; they share its cores."""
    policy: str = "dynamic"
    latency: float = 0.0
    """Of one request to storage, seconds."""
    bandwidth: float = math.inf
    """Of a node to storage, bytes a second."""
    driver_give: float = 0.0
    """To hand out a shard."""
    asks: float = 0.0
    """Requests of the driver for one shard and stage, before the work and after it."""
    read_at_once: int = 16
    """Requests of one process under way at a time (speed.read_ahead): what it waits for is divided
    by them, what it computes is not."""
    round_start: float = 0.0
    """static: until the processes of a round run."""
    index_look: float = 0.0
    """To look again at one image of the index: once a process."""
    slow_nodes: int = 0
    slow_node_factor: float = 3.0
    slow_shards: float = 0.0
    """Share of the shards."""
    slow_shard_factor: float = 5.0
    hours_to_loss: float = math.inf
    """Mean time until a node is lost."""
    back_after: float = 300.0
    """Seconds until a lost node, or one in its place, works."""


@dataclass(frozen=True)
class Tasks:
    """What is handed out, arrays (n,) of seconds on a node of usual speed."""

    before: Floats
    gpu: Floats
    after: Floats
    parts: int = 1
    """Shards in one."""

    def __len__(self) -> int:
        return len(self.before)


@dataclass
class Played:
    """What came of one group, or of a whole run."""

    end: float
    gpu: float = 0.0
    """GPU seconds of the work that was kept."""
    lost: float = 0.0
    """Seconds of nodes' slots on work that was done again."""
    losses: int = 0
    """Nodes lost while they worked; a loss that hits two shards counts twice."""
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    """(name, start, end) of groups and whole stages."""
    busy: list[tuple[int, float, float]] = field(default_factory=list)
    """(node, start, end) of tasks, where they were asked for."""


def play(
    plan: Sequence[Group | Whole], farm: Farm, n_images: int, shard_images: int, seed: int = 0
) -> Played:
    """A whole run."""
    rng = np.random.default_rng([seed, shard_images])
    losses = _losses(farm, rng)
    n_shards = math.ceil(n_images / shard_images)
    total = Played(0.0)
    for step in plan:
        start = total.end
        if isinstance(step, Whole):
            per_shard = step.per_shard + step.requests * farm.latency / farm.read_at_once
            total.end += step.once + step.per_image * n_images + per_shard * n_shards
            if farm.policy == "static" and step.own_round:
                total.end += farm.round_start + farm.index_look * n_images
        else:
            tasks = draw(step, farm, n_images, shard_images, rng)
            asked = step.stages * n_shards * farm.asks * farm.latency / farm.read_at_once
            if farm.policy == "static":  # every share asks for its own shards, beside the others
                begin = start + farm.round_start + farm.index_look * n_images + asked / farm.gpus
            else:
                begin = start + asked
            one = run_group(tasks, farm, begin, losses, step.stages)
            total.end = one.end
            total.gpu += one.gpu
            total.lost += one.lost
            total.losses += one.losses
        total.spans.append((step.name, start, total.end))
    return total


def draw(
    group: Group, farm: Farm, n_images: int, shard_images: int, rng: np.random.Generator
) -> Tasks:
    """The shards of a group with their luck: lognormal seconds of mean as measured, some slow."""
    n_shards = math.ceil(n_images / shard_images)
    parts = math.ceil(n_shards / MOST_HANDED)
    n_tasks = math.ceil(n_shards / parts)
    luck = np.exp(group.spread * rng.standard_normal(n_tasks * parts) - group.spread**2 / 2)
    slow = rng.random(n_tasks * parts) < farm.slow_shards
    luck = np.where(slow, farm.slow_shard_factor, 1.0) * luck
    luck[n_shards:] = 0.0
    luck = luck.reshape(n_tasks, parts).sum(axis=1)
    threads = max(1.0, farm.cores / farm.flights)
    before = shard_images * (group.reads * farm.latency + group.cpu) / threads
    after = shard_images * (group.writes * farm.latency + group.n_bytes / farm.bandwidth)
    after += group.requests * farm.latency + group.per_shard
    return Tasks(luck * before, luck * shard_images * group.gpu, luck * 0 + after * parts, parts)


def run_group(
    tasks: Tasks, farm: Farm, start: float, losses: Sequence[Floats], stages: int = 1
) -> Played:
    """All tasks on all nodes, from `start` on. losses: for each node, when it is lost, sorted."""
    nodes = range(farm.gpus)
    if farm.policy == "dynamic":
        check = stages * farm.latency  # the report
        return _pool(tasks, range(len(tasks)), nodes, farm, start, losses, check)
    found = [
        _pool(tasks, range(n, len(tasks), farm.gpus), [n], farm, start, losses, None) for n in nodes
    ]
    return Played(
        max(one.end for one in found),
        sum(one.gpu for one in found),
        sum(one.lost for one in found),
        sum(one.losses for one in found),
        busy=[piece for one in found for piece in one.busy],
    )


def _pool(
    tasks: Tasks,
    mine: Sequence[int],
    nodes: Sequence[int],
    farm: Farm,
    start: float,
    losses: Sequence[Floats],
    check: float | None,
) -> Played:
    """Nodes that take from one queue. check: seconds of the driver for what arrived; None = no
    driver stands between."""
    queue = deque((n, tasks.parts, start) for n in mine)
    done = Played(start)
    free = [(start, node, slot) for node in nodes for slot in range(farm.flights)]
    heapq.heapify(free)
    gpu_free = dict.fromkeys(nodes, start)
    next_loss = {(node, slot): 0 for _, node, slot in free}
    driver, first = start, set(next_loss)
    while queue:
        ready, node, slot = heapq.heappop(free)
        number, left, there = queue.popleft()
        ready = max(ready, there)
        share = left / tasks.parts
        if check is not None:
            # who comes back has its work looked at; the next job is handed out before that
            ready = max(ready, driver) + farm.driver_give * left
            driver = ready + (0.0 if (node, slot) in first else check * left)
            first.discard((node, slot))
        pace = farm.slow_node_factor if node < farm.slow_nodes else 1.0
        at_gpu = max(ready + pace * share * tasks.before[number], gpu_free[node])
        off_gpu = at_gpu + pace * share * tasks.gpu[number]
        end = off_gpu + pace * share * tasks.after[number]
        lost_at = _next_loss(losses[node], next_loss, (node, slot), ready)
        if lost_at < end:
            each = (end - ready) / left
            kept = min(left - 1, int((lost_at - ready) / each))
            done.lost += lost_at - ready - kept * each
            done.losses += 1
            done.gpu += kept / tasks.parts * tasks.gpu[number]
            queue.append((number, left - kept, lost_at))
            gpu_free[node] = max(gpu_free[node], lost_at)
            heapq.heappush(free, (lost_at + farm.back_after, node, slot))
            continue
        gpu_free[node] = off_gpu
        done.gpu += share * tasks.gpu[number]
        done.end = max(done.end, end, driver)
        done.busy.append((node, ready, end))
        heapq.heappush(free, (end, node, slot))
    return done


def _next_loss(
    losses: Floats, seen: dict[tuple[int, int], int], key: tuple[int, int], now: float
) -> float:
    """When the node is lost next, for a slot that is at `now`."""
    place = seen[key]
    while place < len(losses) and losses[place] <= now:
        place += 1
    seen[key] = place
    return float(losses[place]) if place < len(losses) else math.inf


def _losses(farm: Farm, rng: np.random.Generator, days: int = 60) -> list[Floats]:
    """For each node the seconds at which it is lost."""
    if math.isinf(farm.hours_to_loss):
        return [np.zeros(0)] * farm.gpus
    n = int(3 * days * 24 / farm.hours_to_loss) + 10
    gaps = rng.exponential(farm.hours_to_loss * HOUR, (farm.gpus, n)) + farm.back_after
    return list(np.cumsum(gaps, axis=1))

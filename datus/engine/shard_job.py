"""One shard through one group of stages, in a worker.

    run_job(job, advance)      makes what is missing, and says what was strange

A shard passes through the stages of its group in memory. What else they need is read from the
store; a stage that was not kept, or is damaged, is made again on the way.
"""

import time
from dataclasses import dataclass
from threading import Lock

from datus.compute.memory import give_back_memory
from datus.config import Config
from datus.engine.plan import Node, check_unchanged, find_node
from datus.engine.resources import runtime_of
from datus.engine.stage import Context, ShardWork
from datus.engine.workers import Advance, no_progress
from datus.errors import CorruptShard, WorkError
from datus.inputs.index import Shard
from datus.inputs.safe_decode import guarded
from datus.store.store import Store
from datus.types import ShardData


@dataclass(frozen=True, slots=True)
class Job:
    """One shard through one group of stages. Travels to worker processes."""

    config: Config
    root: str
    group: tuple[Node, ...]
    """What to make, in order."""
    nodes: tuple[Node, ...]
    """Everything that may have to be read or made again on the way."""
    shard: Shard
    careful: bool = False
    """It ended a process before: its files are looked through first."""


def run_job(job: Job, advance: Advance) -> list[str]:
    """One shard through the stages of its group; runs in a worker. Returns what is to be said."""
    maker = Maker(job, advance)
    with guarded(job.config, maker.store, job.shard.key, job.shard.records, job.careful):
        for node in job.group:
            if is_done(maker.store, node, job.shard):
                advance(len(job.shard.records))
            else:
                maker.make(node)
    said = maker.said
    del maker  # with all that it holds
    give_back_memory()
    return said


class Maker:
    """The outputs of one shard: from memory, from the store, or made now.

    files: what is stored counts only if all its files are there, as they were written.
    """

    def __init__(self, job: Job, advance: Advance, files: bool = True) -> None:
        self.job, self.store, self.advance = job, Store(job.root), advance
        self._files = files
        self.said: list[str] = []
        self._memory: dict[str, ShardData] = {}

    def data(self, node: Node) -> ShardData:
        if node.is_dataset:
            return self._whole(node)
        if node.fingerprint not in self._memory:
            self._memory[node.fingerprint] = self._stored(node) or self._made(node)
        return self._memory[node.fingerprint]

    def _whole(self, node: Node) -> ShardData:
        """What each shard reads alike is read once by a process."""
        place = (self.store.url, node.fingerprint)
        found = READ.get(place)
        if found is None:
            found = self._stored(node) or self._made(node)
            for array in (a for arrays in found.arrays.values() for a in arrays.values()):
                array.flags.writeable = False
            while len(READ) >= MOST_READ:
                READ.pop(next(iter(READ)), None)
            READ[place] = found
        return found

    def make(self, node: Node) -> None:
        """What is known not to be stored; in memory it may be, on the way to another stage."""
        if node.fingerprint not in self._memory:
            self._memory[node.fingerprint] = self._made(node)

    def _stored(self, node: Node) -> ShardData | None:
        try:
            return self.store.read_shard(node.place(self.job.shard), self._files)
        except CorruptShard as error:
            self.said.append(f"{error}: made again")
            self.store.forget_shard(node.place(self.job.shard))
            return None

    def _made(self, node: Node) -> ShardData:
        if node.is_dataset:
            raise WorkError(f"{node.label} was damaged and is gone: run the same command again")
        inputs = {need: self.data(find_node(self.job.nodes, need, node.k)) for need in node.needs}
        started = time.monotonic()
        advance = self.advance if node in self.job.group else no_progress
        data = _loaded(self.job.config, node)(self.job.shard, inputs, advance)
        seconds = time.monotonic() - started
        self.store.write_shard(node.place(self.job.shard), data, seconds, keep=node.keep)
        return data


LOADED: dict[tuple[Config, str], ShardWork] = {}
"""(config, fingerprint) -> work: a process loads each model once."""

READ: dict[tuple[str, str], ShardData] = {}
"""(run folder, fingerprint) -> the output of a stage over the whole dataset."""

MOST_READ = 4
"""The mean key, and clusters and edits of one K."""

_LOADING = Lock()


def _loaded(config: Config, node: Node) -> ShardWork:
    with _LOADING:
        if (config, node.fingerprint) not in LOADED:
            work = node.stage.build(Context(config, node.k, runtime_of(config)))
            check_unchanged(config, [node])
            LOADED[config, node.fingerprint] = work
        return LOADED[config, node.fingerprint]


def is_done(store: Store, node: Node, shard: Shard) -> bool:
    return store.report(*node.place(shard)) is not None

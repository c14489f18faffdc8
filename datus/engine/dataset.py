"""What stages over the whole dataset read of a run folder, and where they work.

Shards are read ahead (`store.prefetch`), at most `speed.read_ahead` of them and SHARD_BYTES each on
average. One that is damaged, or was not kept, is made again on the way, when it is its turn.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

from datus.config import Config
from datus.engine.plan import Node, Plan, find_node
from datus.engine.shard_job import Job, Maker
from datus.engine.workers import Advance, no_progress
from datus.errors import CorruptShard
from datus.inputs.find import sha256_of
from datus.inputs.index import Index, Shard
from datus.store.prefetch import read_ahead
from datus.store.reports import reports
from datus.store.store import DATASET_KEY, ShardReport, Store
from datus.types import ShardData

WORKPLACE = "work"
"""Folder of a dataset stage that is under way, below its fingerprint."""

SHARD_BYTES = 16_000_000
"""Times `speed.read_ahead` is what is read ahead of each stage that is read: 256 MB by default. A
shard of 32 images has 5 MB of embeddings, 10 of a ViT-S."""


@dataclass
class Dataset:
    """All shards of one run, for its stage `node`; one of them is in memory at a time."""

    config: Config
    store: Store
    plan: Plan
    index: Index
    node: Node
    say: Callable[[str], None]
    warned: Mapping[str, list[str]] = field(default_factory=dict)
    """Fingerprint -> the warnings of a stage, where they are known."""
    written: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Relative path -> (bytes, sha256) of what `keep` wrote."""

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        found = (
            self.warned[node.fingerprint]
            if node.fingerprint in self.warned
            else node.stage.warn(self._reports(node))
            for node in self.plan.nodes
        )
        return tuple(dict.fromkeys(chain.from_iterable(found)))

    def data(
        self, stage: str, k: int, images: Collection[str] | None = None
    ) -> Iterator[tuple[Shard, ShardData]]:
        """What a stage made, in order; `images`: only of the shards that hold one of these."""
        node = find_node(self.plan.nodes, stage, k)
        if node.is_dataset:
            yield Shard(DATASET_KEY, ()), self.whole(stage, k)
            return
        shards = self.plan.shards
        if images is not None:
            shards = tuple(s for s in shards if any(r.image_id in images for r in s.records))
        at_once = self.config.speed.read_ahead
        found = read_ahead(
            partial(self._read, node), shards, at_once, _n_bytes, at_once * SHARD_BYTES
        )
        with closing(found):
            for shard, data in zip(shards, found, strict=True):
                yield shard, data or self._made(node, shard)
                del data

    def whole(self, stage: str, k: int = 0) -> ShardData:
        """What a stage over the dataset made. A process reads it once, see `Maker`."""
        return self._made(find_node(self.plan.nodes, stage, k), Shard(DATASET_KEY, ()))

    def _read(self, node: Node, shard: Shard) -> ShardData | None:
        try:
            return self.store.read_shard(node.place(shard), files=False)
        except CorruptShard:
            return None  # who makes it again meets it again, and says so

    def _made(self, node: Node, shard: Shard) -> ShardData:
        """One at a time: to make a shard takes the memory and the threads of a shard."""
        job = Job(self.config, self.store.url, (), self.plan.nodes, shard)
        maker = Maker(job, no_progress, files=False)
        data = maker.data(node)
        for text in maker.said:
            self.say(text)
        return data

    def reports(self, stage: str, k: int) -> Iterator[ShardReport]:
        return self._reports(find_node(self.plan.nodes, stage, k))

    def _reports(self, node: Node) -> Iterator[ShardReport]:
        """Of the shards that are finished, in order; `is_done` has looked at their files."""
        return filter(None, reports(self.store, self.plan.places(node), files=False))

    def file(self, stage: str, k: int, name: str) -> bytes:
        """Raises WorkError if it is not as it was written; its shard is made again then."""
        node = find_node(self.plan.nodes, stage, k)
        key = self.plan.key_of(node, name.removesuffix(".png"))
        return self.store.read_file((stage, node.fingerprint, key), name)

    def keep(self, name: str, content: bytes) -> None:
        """Write a file of the stage under way at once: not all of them have to be in memory."""
        self.store.write(content, self.node.name, self.node.fingerprint, "files", name)
        self.written[name] = len(content), sha256_of(content)

    @contextmanager
    def workplace(self, stage: str, k: int) -> Iterator[Path]:
        """A folder for a stage under way, which goes when the stage is done. It outlives a kill,
        but not where the run folder is on an object store."""
        if self.store.is_local:
            node = find_node(self.plan.nodes, stage, k)
            folder = Path(self.store.path(stage, node.fingerprint, WORKPLACE))
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
        else:
            with tempfile.TemporaryDirectory(prefix="datus-work-") as temporary:
                yield Path(temporary)


DatasetWork = Callable[[Dataset, Advance], ShardData]
"""The work of a stage on the dataset."""


def _n_bytes(data: ShardData | None) -> int:
    arrays = data.arrays.values() if data else ()
    return sum(array.nbytes for named in arrays for array in named.values())

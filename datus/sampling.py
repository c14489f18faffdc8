"""What each stage costs, measured: the real stage bodies on a few images of the dataset.

    with sample_of(config, plan, store, records, runtime) as sample:
        cost = sample.cost(node)      seconds, bytes and memory of one stage

A stage is timed on one image first, which pays for imports, the model and compiled code, and then
on the others until BUDGET_SECONDS are spent. Its output is written to a temporary run folder and
read again, so that packing, hashing and the disk are in the figures. What is finished in the real
run folder is read from there and not made again; the real run folder is never written.
"""

import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from datus.config import Config
from datus.engine.budget import n_patches
from datus.engine.plan import DATASET_KEY, Node, Plan, find_node
from datus.engine.stage import Context, Runtime, chunks, merged
from datus.errors import CorruptShard
from datus.inputs.index import Index, Shard
from datus.method.centering import SAMPLE_IMAGES
from datus.models.image_size import input_size
from datus.review.cluster_arrays import cluster_arrays
from datus.review.frozen import reference_arrays
from datus.stages.views import n_viewed
from datus.store.store import ShardReport, Store
from datus.types import WHOLE, Array, ImageRecord, ShardData

BUDGET_SECONDS = 10.0
"""For the images after the first, in one stage."""

KMEANS_ROWS = 2000
"""Vectors that k-means is timed on; its time grows with their number."""

KMEANS_NOISE = 0.02
"""Drawn vectors must differ, or k-means leaves clusters empty."""

UNITS: dict[str, tuple[str, str]] = {
    "features": ("patches", "patches"),
    "keysums": ("patches", "shards"),
    "center": ("once", "once"),
    "graphs": ("pairs", "pairs"),
    "segments": ("pairs", "patches"),
    "embeddings": ("images", "images"),
    "samples": ("images", "images"),
    "clusters": ("images", "once"),
    "masks": ("pixels", "images"),
    "denoise-fit": ("images", "once"),
    "denoise": ("pixels", "images"),
    "evaluate": ("pixels", "images"),
    "tallies": ("images", "shards"),
    "views": ("views", "views"),
    "report": ("once", "once"),
}
"""Stage -> what its seconds and its bytes grow with; `Sample.amount` counts it."""

SUMS = ("keysums", "samples", "tallies")
"""Shard stages that keep something of all images of a shard together."""

LESS_AND_LESS = ("keysums", "tallies")
"""Those whose bytes grow with the images of a shard, but less than they do."""

REPORT_READS = (
    "segments",
    "embeddings",
    "clusters",
    "masks",
    "denoise-fit",
    "denoise",
    "evaluate",
    "tallies",
    "views",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one stage."""

    start: float = 0.0
    """Seconds once a process: imports, the model, code that is compiled; all of a dataset stage."""
    seconds: float = 0.0
    """For one unit of work, without reading and writing."""
    n_bytes: float = 0.0
    """On disk, for one unit."""
    shard_bytes: int = 0
    """On disk, for a shard without images."""
    recipe_bytes: int = 0
    write: float = 0.0
    """Seconds to write what one unit of bytes stands for."""
    read: float = 0.0
    """Seconds to read it again and check it."""
    held: float = 0.0
    """Bytes of the arrays of one image in memory."""


@dataclass(slots=True)
class _Timed:
    """What a stage made of the sample and how long that took."""

    data: ShardData
    records: Sequence[ImageRecord] = ()
    """Images it worked on."""
    n_rest: int = 0
    """The last of them, those after the first."""
    first: float = 0.0
    """Seconds of loading and the first image."""
    rest: float = 0.0
    typical: ShardData | None = None
    """Of as many images as a shard has, where bytes do not grow with the images of a shard."""


@dataclass(slots=True)
class Sample:
    """A few images and what the stages make of them. Also what dataset stages read."""

    config: Config
    plan: Plan
    real: Store
    """The run folder; only read."""
    store: Store
    """A temporary one."""
    index: Index
    runtime: Runtime
    warnings: tuple[str, ...] = ()
    patch_px: int = 0
    """Known after features, graphs or segments."""
    _outputs: dict[str, ShardData] = field(default_factory=dict)
    _costs: dict[str, Cost] = field(default_factory=dict)

    def cost(self, node: Node) -> Cost:
        """Of one stage; what it needs is made or read first. Raises what the stage raises."""
        self.output(node)
        return self._costs[node.mark]

    def output(self, node: Node) -> ShardData:
        """What the stage makes of the sample, from the run folder if all of it is there."""
        if node.mark not in self._outputs:
            stored = self._stored(node)
            timed = _Timed(stored, self.index.records) if stored else self._made(node)
            self._learn(node, timed.data)
            self._outputs[node.mark] = timed.data
            self._costs[node.mark] = self._priced(node, timed)
        return self._outputs[node.mark]

    @property
    def known(self) -> set[str]:
        """Fingerprints of the stages that were made or read."""
        return set(self._costs)

    def n_trained(self, node: Node) -> int:
        """Valid segments that a clusters stage was given."""
        return int(self.output(node).numbers[WHOLE]["n_trained"])

    def report(self, node: Node) -> ShardReport | None:
        """Figures and failures of the sample's images, where `cost` was asked."""
        return self.store.report(node.stage, node.mark, DATASET_KEY)

    def amount(self, unit: str, records: Sequence[ImageRecord], n_shards: int = 1) -> float:
        """How much work `records` are, in one of the units of UNITS."""
        n_images = len(records)
        counts = {"once": 1, "shards": n_shards, "images": n_images, "views": n_viewed(n_images)}
        if unit in counts:
            return float(counts[unit])
        if unit == "pixels":
            return float(sum(record.height * record.width for record in records))
        seen = input_size(self.config.features)
        grids = [n_patches(seen, record, self.patch_px) for record in records]
        return float(sum(n if unit == "patches" else n * n for n in grids))

    # --- gather.Dataset -------------------------------------------------------------------------

    def data(
        self, stage: str, k: int, images: Collection[str] | None = None
    ) -> Iterator[tuple[Shard, ShardData]]:
        node = find_node(self.plan.nodes, stage, k)
        yield Shard(DATASET_KEY, self.index.records), self.output(node)

    def reports(self, stage: str, k: int) -> Iterator[ShardReport]:
        found = self.report(find_node(self.plan.nodes, stage, k))
        if found is not None:
            yield found

    def file(self, stage: str, k: int, name: str) -> bytes:
        mark = find_node(self.plan.nodes, stage, k).mark
        return self.store.read(stage, mark, "files", name)

    def keep(self, name: str, content: bytes) -> None:
        """Written for its bytes and seconds; nobody reads it."""
        node = find_node(self.plan.nodes, "report", 0)
        self.store.write(content, node.stage, node.mark, "files", name)

    @contextmanager
    def workplace(self, stage: str, k: int) -> Iterator[Path]:
        """A new one each time."""
        with tempfile.TemporaryDirectory(prefix="datus-sample-") as folder:
            yield Path(folder)

    # --- reading what is there ------------------------------------------------------------------

    def _stored(self, node: Node) -> ShardData | None:
        """The sample's part of the run folder's output; None if not all of it is there."""
        images = {record.image_id for record in self.index.records}
        shards = {record.shard for record in self.index.records}
        keys = {node.key(shard) for shard in self.plan.shards if shard.key in shards}
        parts = []
        for key in sorted(keys):
            try:
                found = self.real.read_shard((node.stage, node.mark, key))
            except CorruptShard:  # the run makes it again
                return None
            if found is None:
                return None
            whole = WHOLE in found.arrays
            parts.append(found if whole else _part(found, images))
        if node.stage in SUMS:
            return None if len(parts) > 1 else parts[0]
        data = merged(parts)
        if node.stage == "masks":
            for name in (f"{image_id}.png" for image_id in data.arrays):
                data.files[name] = self.real.read(node.stage, node.mark, "files", name)
        return data

    # --- making and timing ----------------------------------------------------------------------

    def _made(self, node: Node) -> _Timed:
        needs = REPORT_READS if node.stage == "report" else node.needs
        for one in self.plan.nodes:
            if one.stage in needs and (not node.k or one.k in (0, node.k)):
                self.output(one)
        if node.stage == "clusters" and not self.config.clusters.frozen:
            return self._made_clusters(node)
        if node.stage == "denoise-fit":
            return self._made_denoise_fit(node)
        if node.scope == "shard":
            return self._made_by_image(node)
        started = time.perf_counter()
        work = node.row.build(Context(self.config, node.k, self.runtime))
        data: ShardData = work(self, _silent)
        seconds = time.perf_counter() - started
        if node.stage == "views":  # of a sample, fewer images are looked at again
            every = [record for shard in self.plan.shards for record in shard.records]
            seconds *= self.amount("views", every) / self.amount("views", self.index.records)
        return _Timed(data, self.index.records, first=seconds)

    def _made_by_image(self, node: Node) -> _Timed:
        """The body on one image, then on the others while there is time."""
        inputs = {
            need: self.output(find_node(self.plan.nodes, need, node.k)) for need in node.needs
        }
        by_image = [data.arrays for data in inputs.values() if WHOLE not in data.arrays]
        records = [r for r in self.index.records if all(r.image_id in found for found in by_image)]
        if not records:
            return _Timed(ShardData(arrays={}))
        started = time.perf_counter()
        work = node.row.build(Context(self.config, node.k, self.runtime))
        loaded = time.perf_counter()
        parts = [work(Shard(DATASET_KEY, tuple(records[:1])), inputs, _silent)]
        one = time.perf_counter() - loaded
        timed = _Timed(ShardData(arrays={}), first=one + loaded - started)
        # all in one go where that is quick: a call costs more than an image of some stages
        size = max(self.runtime.images_at_a_time, int(BUDGET_SECONDS / max(one, 1e-6)))
        for some in chunks(records[1:] or records, size):
            started = time.perf_counter()
            parts.append(work(Shard(DATASET_KEY, tuple(some)), inputs, _silent))
            timed.rest += time.perf_counter() - started
            timed.n_rest += len(some)
            if timed.rest > BUDGET_SECONDS:
                break
        timed.records = records[: timed.n_rest + (len(records) > 1)]
        if node.stage in SUMS:  # of all images together
            parts = [work(Shard(DATASET_KEY, tuple(records)), inputs, _silent)]
        if node.stage in LESS_AND_LESS:
            n_images = sum(len(shard.records) for shard in self.plan.shards)
            n = max(1, round(n_images / max(1, len(self.plan.shards))))
            if node.stage == "keysums":  # keys of a few images, one after the other
                n = min(n, SAMPLE_IMAGES)
                records = records * -(-n // len(records))
            timed.typical = work(Shard(DATASET_KEY, tuple(records[:n])), inputs, _silent)
        timed.data = merged(parts)
        return timed

    def _made_clusters(self, node: Node) -> _Timed:
        """Centroids of the sample, repeated up to K; the seconds are those of more vectors."""
        from datus.method.clusters import fit_clusters, load_faiss, offsets

        settings, seed, device = self.config.clusters, self.config.seed, self.runtime.device
        embedded = self.output(find_node(self.plan.nodes, "embeddings", node.k)).arrays.values()
        valid = [arrays["vectors"][arrays["valid"]] for arrays in embedded]
        vectors: Array = np.concatenate(valid) if valid else np.zeros((0, 1), np.float32)
        started = time.perf_counter()
        load_faiss()
        few = max(1, min(node.k, len(vectors) // 2))
        model = fit_clusters(vectors, few, settings, seed, device)
        rows = np.minimum(np.arange(node.k), few - 1)
        model = replace(model, centroids=model.centroids[rows], jury=model.jury[:, rows])
        first = time.perf_counter() - started
        rng = np.random.default_rng(seed)
        many = vectors[rng.integers(0, len(vectors), KMEANS_ROWS)]
        many = many + rng.normal(0, KMEANS_NOISE, many.shape).astype(np.float32)
        started = time.perf_counter()
        fit_clusters(many, node.k, settings, seed, device, n_threads=self.runtime.threads)
        each = (time.perf_counter() - started) / KMEANS_ROWS
        figures = {"inertia": model.inertia, "n_trained": float(model.n_trained)}
        every = np.arange(KMEANS_ROWS) % node.k  # each cluster has a segment
        kept = reference_arrays(offsets(model, many)[1], every, node.k, self.index.records)
        arrays = {**cluster_arrays(model), **kept}
        data = ShardData(arrays={WHOLE: arrays}, numbers={WHOLE: figures})
        return _Timed(data, self.index.records, len(valid), first, each * len(vectors))

    def _made_denoise_fit(self, node: Node) -> _Timed:
        """Two epochs; the seconds are those of all. A sample must not be left out as too plain."""
        own, spent = self.config.denoise, []
        for epochs in (1, 2):
            settings = replace(own, epochs=epochs, drop_share=1.0)
            context = Context(replace(self.config, denoise=settings), node.k, self.runtime)
            started = time.perf_counter()
            data: ShardData = node.row.build(context)(self, _silent)
            spent.append(time.perf_counter() - started)
        each = max(0.0, spent[1] - spent[0]) * own.epochs
        n_images = len(self.index.records)
        return _Timed(data, self.index.records, n_images, max(0.0, 2 * spent[0] - spent[1]), each)

    def _learn(self, node: Node, data: ShardData) -> None:
        """The side of a patch, from the first image whose grid is known."""
        grids = {"features": "keys", "graphs": "grid", "segments": "labels"}
        if node.stage not in grids or self.patch_px or not data.arrays:
            return
        arrays = next(iter(data.arrays.values()))
        grid = arrays[grids[node.stage]]
        rows = int(grid[0]) if node.stage == "graphs" else grid.shape[0]
        self.patch_px = int(arrays["size"][0]) // rows

    def _priced(self, node: Node, timed: _Timed) -> Cost:
        """Write, look, read again; then everything by unit."""
        if not timed.records:
            return Cost()
        place = (node.stage, node.mark, DATASET_KEY)
        started = time.perf_counter()
        self.store.write_shard(place, timed.typical or timed.data, 0.0, node.keep)
        write = time.perf_counter() - started
        n_bytes = self.store.disk_bytes(node.stage, node.mark)
        self.store.write_shard((*place[:2], "empty"), ShardData(arrays={}), 0.0, node.keep)
        shard_bytes = self.store.disk_bytes(node.stage, node.mark) - n_bytes
        self.store.write_recipe(node.stage, node.mark, node.recipe)
        started = time.perf_counter()
        self.store.read_shard(place)
        read = time.perf_counter() - started
        unit, size_unit = UNITS[node.stage]
        last = timed.records[-timed.n_rest :] if timed.n_rest else ()
        seconds = timed.rest / self.amount(unit, last) if last else 0.0
        work = seconds * self.amount(unit, timed.records[:1]) if node.scope == "shard" else 0.0
        stored = self.amount(size_unit, timed.records)
        return Cost(
            start=max(0.0, timed.first - work),
            seconds=seconds,
            n_bytes=(n_bytes - shard_bytes) / stored,
            shard_bytes=shard_bytes,
            recipe_bytes=self.store.disk_bytes(node.stage, node.mark) - n_bytes - shard_bytes,
            write=write / stored,
            read=read / stored,
            held=_held(timed.data) / len(timed.records),
        )


@contextmanager
def sample_of(
    config: Config, plan: Plan, store: Store, records: Sequence[ImageRecord], runtime: Runtime
) -> Iterator[Sample]:
    """A Sample of `records`, spread over the dataset; its temporary folder goes at the end."""
    mixed = np.random.default_rng(0).permutation(len(records)).tolist()
    index = Index(tuple(records[i] for i in mixed), {}, 0)  # any few of them are spread too
    with tempfile.TemporaryDirectory(prefix="datus-sample-") as folder:
        yield Sample(config, plan, store, Store(folder), index, runtime)


def _part(data: ShardData, images: set[str]) -> ShardData:
    """Only what belongs to some images."""
    return ShardData(
        arrays={name: arrays for name, arrays in data.arrays.items() if name in images},
        numbers={name: row for name, row in data.numbers.items() if name in images},
        failures={name: why for name, why in data.failures.items() if name in images},
    )


def _held(data: ShardData) -> int:
    return sum(array.nbytes for arrays in data.arrays.values() for array in arrays.values())


def _silent(_: int) -> None:
    """Nobody watches."""

"""What a run would do, take and need, before it starts: `--dry-run`.

    estimate = dry_run(config, store, console, until, only)

The index is made, a sample of images and true masks is decoded, and the stages that are missing
run on SAMPLE_IMAGES of them in a temporary run folder. Their seconds and bytes are scaled to all
images. Nothing is written to the run folder. A sample is no proof: what it cannot see (one bad file
among thousands, a disk that others fill) the run itself still meets.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datus.compute.threads import map_threads, n_cores
from datus.config import Config
from datus.engine.budget import free_bytes, free_memory, nearest_folder, no_room, todo
from datus.engine.dataset import Dataset
from datus.engine.plan import Node, Plan, wanted_groups
from datus.engine.resources import at_a_time, parallel, placed, runtime_of
from datus.engine.run import Console, require_upstream
from datus.engine.shard_job import LOADED, READ, Job, Maker
from datus.engine.stage import Context, merged
from datus.engine.workers import no_progress
from datus.errors import BackboneError, CorruptShard, ImageError, StoreError, WorkError, size_text
from datus.inputs.index import Index, Shard, check_inputs, make_index
from datus.inputs.labels import load_classes
from datus.inputs.read import read_image
from datus.models.image_size import input_size, patch_px_of
from datus.models.registry import find
from datus.models.weights import hub_file, licence, notice, presence
from datus.pipeline import make_plan
from datus.stages.evaluate import true_classes
from datus.stages.features import patch_grid
from datus.store.store import Store
from datus.types import WHOLE, ImageRecord, ShardData, evenly

SAMPLE_IMAGES = 16
"""Images that the stages run on: one first, which pays for the model and compiled code."""

CHECKED_IMAGES = 32
"""Images that are decoded, with their true masks."""

TYPICAL = 1001
"""Images whose shapes are compared to find the typical one."""

TIGHT = 0.8
"""The share of the free disk or memory above which an estimate deserves a warning."""

COPIES = 3
"""Of the arrays of a shard while they are written, and of all vectors while k-means sees them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stage."""

    name: str
    images: int
    """To do; an image that is done twice counts twice."""
    seconds: float | None
    """None = not measured."""
    n_bytes: int | None


@dataclass(slots=True)
class Estimate:
    """What is known before a run."""

    rows: list[Row] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    """Weights, licence, what was looked at, disk, memory."""
    warnings: list[str] = field(default_factory=list)
    """What should be looked at, with the cure."""
    problems: list[str] = field(default_factory=list)
    """Why the run could not succeed, with the cure."""

    @property
    def seconds(self) -> float:
        return sum(row.seconds or 0.0 for row in self.rows)

    @property
    def n_bytes(self) -> int:
        return sum(row.n_bytes or 0 for row in self.rows)


def dry_run(
    config: Config, store: Store, console: Console, until: str = "", only: bool = False
) -> Estimate:
    """What `pipeline.run` would do. Writes nothing to the run folder.

    Raises the DatusError that the run would raise before its first shard, and what loading the
    model raises. Everything else that stops a run is a problem in the answer.
    """
    estimate = Estimate()
    check_inputs(config)
    _check_folder(store, estimate)
    reader = _Reader(store.url)
    started = time.perf_counter()
    index = make_index(config, reader, console.bar)
    seconds = time.perf_counter() - started
    estimate.rows.append(Row("index", len(index.records), seconds, reader.n_bytes))
    _check_share(config, "index", index.failures, estimate)
    if not index.records:
        estimate.problems[:] = ["index: no image is left, mend or replace them"]
        return estimate
    plan = make_plan(config, index)
    groups = wanted_groups(plan, until, only)
    if only:
        for group in groups:
            require_upstream(store, plan, group)
    missing = todo(store, plan, groups)
    _tell_weights(config, plan, estimate)
    _tell_size(config, index, estimate)
    nodes = [node for group in groups for node in group]
    if not any(missing.values()):
        estimate.rows += [Row(node.label, 0, 0.0, 0) for node in nodes]
        estimate.facts.append("everything is done: the run would make nothing")
    elif records := _readable(config, index, estimate):
        sample = _Sample(config, plan, store, evenly(records, SAMPLE_IMAGES))
        sample.measure([node for node in nodes if missing[node.fingerprint]], estimate)
        estimate.rows += [sample.row(node, missing[node.fingerprint]) for node in nodes]
        _tell_room(config, store, estimate)
        _tell_memory(sample.peak_bytes(groups), estimate)
    return estimate


class _Reader(Store):
    """Reads the run folder and counts what would be written to it."""

    n_bytes = 0

    def write(self, data: bytes, *parts: str) -> None:
        self.n_bytes += len(data)


# --- the stages on a sample -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Measured:
    """Of one stage on the sample."""

    start: float = 0.0
    """Seconds once in a process: imports, the model, code that is compiled."""
    seconds: float = 0.0
    """Of an image, or of the whole sample where the stage works on the dataset."""
    n_bytes: float = 0.0
    """On disk, of the same."""
    shard_bytes: float = 0.0
    """On disk, of a shard without images."""
    recipe_bytes: int = 0
    held: float = 0.0
    """Bytes of the arrays of one image in memory."""


class _Sample:
    """A few images in a temporary run folder: the first in one shard, the others in another."""

    def __init__(
        self, config: Config, plan: Plan, real: Store, records: Sequence[ImageRecord]
    ) -> None:
        self.config, self.whole, self.real = config, plan, real
        cuts = (records[:1], records[1:]) if len(records) > 1 else (records,)
        shards = tuple(Shard(f"sample{i}", tuple(cut)) for i, cut in enumerate(cuts))
        self.plan = Plan(tuple(replace(n, keep=True) for n in plan.nodes), shards, plan.stages)
        self.not_kept = {node.fingerprint for node in plan.nodes if not node.keep}
        self.index = Index(tuple(records), {}, 0)
        self.n_images = sum(len(shard.records) for shard in plan.shards)
        self.measured: dict[str, _Measured] = {}

    def measure(self, missing: Sequence[Node], estimate: Estimate) -> None:
        """Run the stages that are missing. What they need is copied from the run folder where it is
        there, and made where it is not."""
        lacking = {node.fingerprint for node in missing}
        wanted = set(lacking)
        for node in reversed(self.plan.nodes):
            if node.fingerprint in wanted:
                wanted |= {n.fingerprint for n in self.plan.nodes if node.reads(n)}
        n_sample = len(self.index.records)
        with tempfile.TemporaryDirectory(prefix="datus-dry-run-") as folder:
            store = Store(folder)
            for node in self.plan.nodes:
                is_lacking = node.fingerprint in lacking
                if node.fingerprint not in wanted or (not is_lacking and self._copy(node, store)):
                    continue
                try:
                    self.measured[node.fingerprint] = self._run(node, store)
                except WorkError as error:
                    if isinstance(error, BackboneError | StoreError) or not node.is_dataset:
                        raise
                    # a few images may have too few segments, or masks too plain to learn from
                    if n_sample == self.n_images:
                        estimate.problems.append(f"{node.label}: {error}")
                    else:
                        estimate.warnings.append(
                            f"{node.label}: it and what follows could not be tried on {n_sample} "
                            f"images: {error}"
                        )
                    break
                if is_lacking:
                    reports = (store.report(*place) for place in node.places(self.plan.shards))
                    texts = node.stage.warn(filter(None, reports))
                    estimate.warnings += [f"{node.label}, in the sample: {one}" for one in texts]
        LOADED.clear()
        READ.clear()

    def _copy(self, node: Node, store: Store) -> bool:
        """Take the sample's part of what the run folder holds; False if not all of it is there."""
        shards = {record.shard for record in self.index.records}
        places = list(node.places(s for s in self.whole.shards if s.key in shards))
        try:
            stored = [self.real.read_shard(place) for place in places]
        except CorruptShard:  # the run makes it again
            return False
        if node.is_dataset and stored[0]:
            store.write_shard(node.place(), stored[0], 0.0, keep=True)
            return True
        if not all(stored) or any(WHOLE in data.arrays for data in stored if data):
            return False
        data = merged([data for data in stored if data])
        reports = [self.real.report(*place) for place in places]
        files = {name for report in reports if report for name in report.files}
        for shard in self.plan.shards:
            ids = [r.image_id for r in shard.records if r.image_id in data.arrays]
            pngs = [f"{image_id}.png" for image_id in ids if f"{image_id}.png" in files]
            part = ShardData(
                arrays={image_id: data.arrays[image_id] for image_id in ids},
                numbers={name: data.numbers[name] for name in ids if name in data.numbers},
                files={name: self.real.read(*places[0][:2], "files", name) for name in pngs},
            )
            store.write_shard(node.place(shard), part, 0.0, keep=True)
        return True

    def _run(self, node: Node, store: Store) -> _Measured:
        """The work of a stage, with reading and writing."""
        store.write_recipe(node.name, node.fingerprint, node.recipe)
        recipe_bytes = before = store.disk_bytes(node.name, node.fingerprint)
        seconds, sizes, held = [], [], 0
        for shard in [None] if node.is_dataset else self.plan.shards:
            started = time.perf_counter()
            if shard is None:
                data = self._on_dataset(node, store)
            else:
                job = Job(self.config, store.url, (), self.plan.nodes, shard)
                data = Maker(job, no_progress).data(node)
            seconds.append(time.perf_counter() - started)
            after = store.disk_bytes(node.name, node.fingerprint)
            sizes.append(after - before)
            if node.fingerprint in self.not_kept and (report := store.report(*node.place(shard))):
                sizes[-1] -= report.n_bytes
            before = after
            held += sum(array.nbytes for named in data.arrays.values() for array in named.values())
        n_rest = len(self.index.records) - 1
        held_each = held / (n_rest + 1)
        if len(seconds) == 1:
            return _Measured(0.0, seconds[0], sizes[0], 0.0, recipe_bytes, held_each)
        each = seconds[1] / n_rest
        # two shards of 1 and n images: a line through both gives the bytes of an image and a shard
        per_image = (sizes[1] - sizes[0]) / (n_rest - 1) if n_rest > 1 else float(sizes[1])
        per_image = min(max(per_image, 0.0), sizes[1] / n_rest)
        start, shard_bytes = max(0.0, seconds[0] - each), sizes[1] - n_rest * per_image
        return _Measured(start, each, per_image, shard_bytes, recipe_bytes, held_each)

    def _on_dataset(self, node: Node, store: Store) -> ShardData:
        work = node.stage.build(Context(self.config, node.k, runtime_of(self.config)))
        dataset = Dataset(self.config, store, self.plan, self.index, node, lambda text: None)
        data: ShardData = work(dataset, no_progress)
        data.written.update(dataset.written)
        store.write_shard(node.place(), data, 0.0, keep=True)
        return data

    def row(self, node: Node, shards: Sequence[Shard]) -> Row:
        """What a stage takes for `shards`."""
        n_images = sum(len(shard.records) for shard in shards)
        measured = self.measured.get(node.fingerprint)
        if measured is None or not shards:
            return Row(node.label, n_images, None if shards else 0.0, None if shards else 0)
        n_bytes, n_sample = 0.0, len(self.index.records)
        if not self.real.exists(node.name, node.fingerprint, "stage.json"):
            n_bytes += measured.recipe_bytes
        if node.is_dataset:
            cost, size = node.stage.cost, node.stage.size
            seconds = measured.seconds * cost(self.config, n_images) / cost(self.config, n_sample)
            n_bytes += measured.n_bytes * size(self.config, n_images) / size(self.config, n_sample)
        else:
            here = placed(self.config, n_images, lambda: node.stage.on_device(self.config))
            workers, threads = parallel(here)
            at_once = max(1, min(workers, len(shards), max(1, n_cores() // threads)))
            seconds = measured.start + measured.seconds * n_images / at_once
            n_bytes += measured.n_bytes * n_images + measured.shard_bytes * len(shards)
        return Row(node.label, n_images, seconds, round(n_bytes))

    def peak_bytes(self, groups: Sequence[Sequence[Node]]) -> int:
        """Memory of all processes together, at the most."""

        def held(node: Node) -> float:
            return self.measured.get(node.fingerprint, _Measured()).held

        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resident *= 1 if sys.platform == "darwin" else 1024
        largest = max(len(shard.records) for shard in self.whole.shards)
        peak = 0.0
        for group in groups:
            if group[0].name == "clusters":
                vectors = (held(node) for node in self.plan.nodes if node.name == "embeddings")
                peak = max(peak, COPIES * self.n_images * sum(vectors))
            elif not group[0].is_dataset:
                nodes = {n.fingerprint: n for n in self.plan.nodes for g in group if g.reads(n)}
                nodes |= {node.fingerprint: node for node in group}
                sizes = [held(node) for node in nodes.values()]
                shard_bytes = largest * (sum(sizes) + (COPIES - 1) * max(sizes))
                peak = max(peak, at_a_time(self.config) * shard_bytes)
        return int(resident * parallel(self.config)[0] + peak)


def _tell_room(config: Config, store: Store, estimate: Estimate) -> None:
    free, needed = free_bytes(store), estimate.n_bytes
    room = "unknown" if free is None else size_text(free)
    estimate.facts.append(f"disk: {size_text(needed)} to write, free: {room}")
    if free is not None and needed > free:
        estimate.problems.append(no_room(config, store, needed, free))
    elif free is not None and needed > TIGHT * free:
        estimate.warnings.append(f"the disk is tight: {size_text(needed)} to write, {room} free")


def _tell_memory(needed: int, estimate: Estimate) -> None:
    free = free_memory()
    room = "unknown" if free is None else size_text(free)
    estimate.facts.append(f"memory: about {size_text(needed)} at the peak, free: {room}")
    if free is not None and needed > TIGHT * free:
        estimate.warnings.append(
            f"memory may not suffice, {size_text(needed)} of {room}: use fewer --workers, or add "
            "--set data.shard_images=8"
        )


# --- checks -------------------------------------------------------------------------------------


def _check_folder(store: Store, estimate: Estimate) -> None:
    """The run folder can be written, as far as its rights tell. Raises StoreError."""
    if not store.is_local:
        return
    nearest = nearest_folder(store)
    if not nearest.is_dir():
        raise StoreError(f"{nearest} is a file, expected a folder: choose another --run-dir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(
            f"{nearest} may not be written: make it writable or choose another --run-dir"
        )
    if store.exists("owner.json"):
        estimate.warnings.append(
            f"{store.root} is in use, or its last run was killed: while it is in use no other "
            "run can start"
        )


def _readable(config: Config, index: Index, estimate: Estimate) -> list[ImageRecord]:
    """Images of a sample that can be decoded; what cannot, and true masks, are told."""
    sample = evenly(index.records, CHECKED_IMAGES)
    bad = _unusable(config, sample, lambda record: read_image(config, record))
    estimate.facts.append(
        f"images: {len(sample) - len(bad)} of {len(sample)} looked at can be decoded"
    )
    _check_share(config, "features", bad, estimate)
    if config.data.truth:
        n_truth = sum(record.truth_path is not None for record in index.records)
        classes = load_classes(Path(config.data.classes))
        with_truth = [record for record in sample if record.truth_path is not None]
        wrong = _unusable(config, with_truth, lambda record: true_classes(config, record, classes))
        estimate.facts.append(
            f"true masks: {n_truth} for {len(index.records)} images; "
            f"{len(with_truth) - len(wrong)} of {len(with_truth)} looked at fit the class table"
        )
        _check_share(config, "evaluate", wrong, estimate)
    return [record for record in sample if record.image_id not in bad]


def _unusable(
    config: Config, records: Sequence[ImageRecord], read: Callable[[ImageRecord], object]
) -> dict[str, str]:
    """Image id -> why `read` refuses it."""

    def refusal(record: ImageRecord) -> str:
        try:
            read(record)
        except ImageError as error:
            return str(error)
        return ""

    reasons = map_threads(refusal, records, parallel(config)[1])
    return {r.image_id: why for r, why in zip(records, reasons, strict=True) if why}


def _check_share(config: Config, stage: str, bad: dict[str, str], estimate: Estimate) -> None:
    """More failures than allowed stop the run; fewer are told."""
    if not bad:
        return
    image_id, why = min(bad.items())
    them = "1 image" if len(bad) == 1 else f"{len(bad)} images"
    text = f"{stage}: {them} cannot be used, for example {image_id}: {why}"
    if len(bad) > config.speed.max_failed:
        cure = f"mend or remove them, or add --max-failed {len(bad)} or more"
        estimate.problems.append(f"{text}; {config.speed.max_failed} are allowed: {cure}")
    else:
        estimate.warnings.append(text)


def _tell_size(config: Config, index: Index, estimate: Estimate) -> None:
    """How the ViT sees an image: the side, and the grid of the image of median aspect ratio."""
    seen, patch_px = input_size(config.features), patch_px_of(config.features.backbone)
    some = sorted(evenly(index.records, TYPICAL), key=lambda one: one.height / one.width)
    typical = some[len(some) // 2]
    rows, columns = patch_grid(seen, typical, patch_px)
    estimate.facts.append(
        f"images: {seen.image_px} pixels a side for patches of {patch_px}: {rows} x {columns} "
        f"patches for an image of {typical.height} x {typical.width}"
    )


# --- weights ------------------------------------------------------------------------------------


def _tell_weights(config: Config, plan: Plan, estimate: Estimate) -> None:
    """Each model once: which weights, on what terms."""
    told = set()
    for node in plan.nodes:
        known = node.recipe["settings"].get("weights")
        if known is None:
            continue
        crops = node.name == "embeddings" and config.embeddings.backbone != "same"
        section = config.embeddings if crops else config.features
        if (section.backbone, known) in told:
            continue
        told.add((section.backbone, known))
        shown = "random, for tests only" if known.startswith("random") else known
        if known.startswith("hub"):
            here = find(section.backbone) or hub_file(section.backbone)
            shown = presence(section.backbone) if here else "from the hub, not here yet"
        estimate.facts.append(f"weights: {section.backbone}, {shown}")
        estimate.facts.append(f"licence: {licence(section.backbone, known)}")
        terms = notice(section.backbone, section.weights)
        if terms:
            estimate.warnings.append(terms)
        _check_digest(section.backbone, section.weights, known, estimate)


def _check_digest(backbone: str, weights: str, known: str, estimate: Estimate) -> None:
    """A file with the name of the authors' own is the file that they released."""
    row = find(backbone)
    if not row or Path(weights).name != row.file or not row.digest.startswith("sha256:"):
        return
    if known.startswith(row.digest):
        estimate.facts.append(f"weights: {weights} is the file that its authors released")
    else:
        estimate.problems.append(
            f"{weights}: expected {row.digest}, as its authors state, got {known[:23]}: "
            "damaged or another file; fetch it again, or rename it if that is meant"
        )

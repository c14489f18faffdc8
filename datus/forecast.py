"""From the costs of a sample to the whole run: seconds, bytes, room on the disk, memory.

    Forecast(config, store, plan, groups, missing).fill(records, found)

Work of a shard is divided by the worker processes, as far as there are cores and shards for them.
Disk and memory are compared with what is free now; nobody knows what others will take meanwhile.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from datus.compute.threads import n_cores
from datus.config import Config
from datus.engine.budget import free_bytes, free_memory, no_room
from datus.engine.plan import Node, Plan, find_node
from datus.engine.resources import at_a_time, parallel, runtime_of
from datus.errors import ClusterError, size_text
from datus.inputs.index import Shard
from datus.sampling import REPORT_READS, UNITS, Cost, Sample, sample_of
from datus.stages.report import BASELINE_PICTURES, EXAMPLES
from datus.stages.totals import GALLERY
from datus.store.store import Store
from datus.types import ImageRecord

TIMED_IMAGES = 17
"""Images that go through the stages: one to warm up, sixteen to measure."""

TIGHT = 0.8
"""The share of the free disk or memory above which an estimate deserves a warning."""

COPIES = 2
"""Of the arrays of a shard, while they are written: their bytes, and the file."""

KMEANS_COPIES = 3
"""Of all vectors: those of each image, all of them together, and as k-means sees them."""

WORKER_IMPORTS = (
    "import datus.engine.run, datus.method.affinity, datus.inputs.images, datus.method.louvain, "
    "datus.method.masks"
)


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
class Findings:
    """What is known before a run."""

    rows: list[Row] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    """Weights, licence, what was looked at, disk, memory."""
    warnings: list[str] = field(default_factory=list)
    """What should be looked at."""
    problems: list[str] = field(default_factory=list)
    """Why the run could not succeed, with the cure."""

    @property
    def seconds(self) -> float:
        return sum(row.seconds or 0.0 for row in self.rows)

    @property
    def n_bytes(self) -> int:
        return sum(row.n_bytes or 0 for row in self.rows)


def spread(records: Sequence[ImageRecord], n_wanted: int) -> list[ImageRecord]:
    """At most `n_wanted` of them, evenly over all."""
    n_taken = min(n_wanted, len(records))
    return [records[(2 * i + 1) * len(records) // (2 * n_taken)] for i in range(n_taken)]


@dataclass(slots=True)
class Forecast:
    """What making `missing` (fingerprint -> shards) takes."""

    config: Config
    store: Store
    plan: Plan
    groups: Sequence[tuple[Node, ...]]
    missing: dict[str, list[Shard]]
    costs: dict[str, Cost] = field(default_factory=dict)
    """Fingerprint -> cost, of what is missing and of what is read for it."""

    @property
    def n_images(self) -> int:
        """Of the dataset."""
        return sum(len(shard.records) for shard in self.plan.shards)

    def fill(self, records: Sequence[ImageRecord], found: Findings) -> None:
        """Rows, room and memory from a sample of `records`, which can all be decoded."""
        started = time.perf_counter()
        runtime = runtime_of(self.config)  # loads torch where the device is auto
        once = time.perf_counter() - started
        worker = _worker_seconds() if self.config.speed.executor == "processes" else 0.0
        some = spread(records, TIMED_IMAGES)
        with sample_of(self.config, self.plan, self.store, some, runtime) as sample:
            self._measure(sample, found)
            memory = self._memory()
            found.rows += self._rows(sample, once, worker)
        self._tell_room(found)
        self._tell_memory(memory, found)

    # --- measuring ------------------------------------------------------------------------------

    def _measure(self, sample: Sample, found: Findings) -> None:
        """The cost of what is missing and of what it reads; and what the sample tells."""
        reads: set[str] = set()
        for node in (one for group in self.groups for one in group):
            if not self.missing[node.mark]:
                continue
            try:
                self.costs[node.mark] = sample.cost(node)
            except ClusterError as error:
                self._unclustered(node, error, sample, found)
                break
            reads |= set(REPORT_READS if node.stage == "report" else node.needs)
            report = sample.report(node)
            texts = node.row.warn([report]) if report else []
            found.warnings += [f"{node.label}, in the sample: {text}" for text in texts]
            if node.stage == "clusters":
                self._check_k(node, sample, found)
        for node in self.plan.nodes:
            if node.stage in reads and node.mark in sample.known:
                self.costs[node.mark] = sample.cost(node)

    def _unclustered(
        self, node: Node, error: ClusterError, sample: Sample, found: Findings
    ) -> None:
        if len(sample.index.records) == self.n_images:
            found.problems.append(f"{node.label}: {error}")
        else:
            n_images = len(sample.index.records)
            found.warnings.append(
                f"{node.label} and what follows could not be tried on {n_images} images: {error}"
            )

    def _check_k(self, node: Node, sample: Sample, found: Findings) -> None:
        """More clusters than segments stop the run after hours of work."""
        n_trained = sample.n_trained(node)
        expected = round(n_trained * self.n_images / len(sample.index.records))
        if expected >= node.k:
            return
        text = (
            f"{node.label}: {expected} valid segments are expected of {self.n_images} images: "
            f"use --clusters {max(1, expected)} or fewer, or more images"
        )
        sure = len(sample.index.records) == self.n_images
        (found.problems if sure else found.warnings).append(text)

    # --- seconds and bytes ----------------------------------------------------------------------

    def _rows(self, sample: Sample, once: float, worker: float) -> list[Row]:
        """`once`: seconds to load torch, in each process; `worker`: to start a worker process."""
        rows, paid = [], False
        for group in self.groups:
            elsewhere = worker > 0 and group[0].scope == "shard"
            due = once + worker if elsewhere else 0.0 if paid else once
            for node in group:
                row = self._row(sample, node, group)
                if row.images and row.seconds is not None:
                    row = replace(row, seconds=row.seconds + due)
                    paid, due = paid or not elsewhere, 0.0
                rows.append(row)
        return rows

    def _row(self, sample: Sample, node: Node, group: Sequence[Node]) -> Row:
        shards = self.missing[node.mark]
        records = [record for shard in shards for record in shard.records]
        cost = self.costs.get(node.mark)
        if not shards:
            return Row(node.label, 0, 0.0, 0)
        if cost is None:
            return Row(node.label, len(records), None, None)
        scale = self._pictures(len(sample.index.records)) if node.stage == "report" else 1.0
        unit, size_unit = UNITS[node.stage]
        work = cost.seconds * sample.amount(unit, records, len(shards))
        stored = scale * sample.amount(size_unit, records, len(shards))
        work += cost.write * stored + self._read_seconds(sample, node, group)
        if node.scope == "shard":
            work /= self._speedup(len(shards))
        n_bytes = cost.n_bytes * stored + cost.shard_bytes * len(shards)
        if not self.store.exists(node.stage, node.mark, "stage.json"):
            n_bytes += cost.recipe_bytes
        return Row(node.label, len(records), cost.start * scale + work, round(n_bytes))

    def _read_seconds(self, sample: Sample, node: Node, group: Sequence[Node]) -> float:
        """To read what is needed; nothing where it is handed over in memory."""
        before = {need for one in group[: group.index(node)] for need in one.needs}
        reads = [
            one
            for one in self._reads(node)
            if one not in group and one.stage not in before and one.mark in self.costs
        ]
        shards = self.missing[node.mark] if node.scope == "shard" else self.plan.shards
        records = [record for shard in shards for record in shard.records]
        return sum(
            self.costs[one.mark].read * sample.amount(UNITS[one.stage][1], records, len(shards))
            for one in reads
        )

    def _reads(self, node: Node) -> list[Node]:
        if node.stage == "views":  # made of a few images, with what was found over the dataset
            return [one for one in self.plan.nodes if one.stage == "center"]
        if node.stage != "report":
            return [find_node(self.plan.nodes, need, node.k) for need in node.needs]
        reads = [one for one in self.plan.nodes if one.stage in REPORT_READS]
        return reads + [one for one in reads if one.stage == "masks"][:1]  # again for the gallery

    def _pictures(self, n_sample: int) -> float:
        """Pictures in the report of all images over those in the report of the sample."""
        settings = self.config.report

        def count(n_images: int) -> int:
            shown = min(GALLERY, n_images) * self.config.clusters.k[0]
            shown += min(settings.browse, n_images)
            shown += min(BASELINE_PICTURES, n_images) if settings.baselines else 0
            return 1 + min(EXAMPLES, n_images) + shown

        return count(self.n_images) / count(n_sample)

    def _speedup(self, n_shards: int) -> int:
        """Worker processes that have a shard and cores to work on."""
        workers, threads = parallel(self.config)
        return max(1, min(workers, n_shards, max(1, n_cores() // threads)))

    # --- memory and room ------------------------------------------------------------------------

    def _memory(self) -> int:
        """Bytes at the peak, of all processes together."""
        workers, peak, n_shards = parallel(self.config)[0], 0.0, at_a_time(self.config)
        largest = max(len(shard.records) for shard in self.plan.shards)
        for group in self.groups:
            made = [self._held(node) for node in group if self.missing[node.mark]]
            if not any(made):
                continue
            if group[0].scope == "shard":
                needs = {need for node in group for need in node.needs}
                read = [n for n in self.plan.nodes if n.stage in needs and n not in group]
                held = sum(made) + sum(map(self._held, read)) + COPIES * max(made)
                peak = max(peak, n_shards * largest * held)
            elif group[0].stage == "clusters":
                vectors = [self._held(n) for n in self.plan.nodes if n.stage == "embeddings"]
                peak = max(peak, KMEANS_COPIES * self.n_images * sum(vectors))
        return int(_resident_bytes() * workers + peak)

    def _held(self, node: Node) -> float:
        """Bytes of the arrays of one image."""
        return self.costs.get(node.mark, Cost()).held

    def _tell_memory(self, needed: int, found: Findings) -> None:
        free = free_memory()
        if free is None:
            found.facts.append(f"memory: about {size_text(needed)} at the peak, free: unknown")
            return
        found.facts.append(f"memory: about {size_text(needed)} at the peak, {size_text(free)} free")
        if needed > TIGHT * free:
            found.warnings.append(
                f"memory may not suffice, {size_text(needed)} of {size_text(free)}: "
                "use fewer --workers, or add --set data.shard_images=8"
            )

    def _tell_room(self, found: Findings) -> None:
        free, needed = free_bytes(self.store), found.n_bytes
        if free is None:
            found.facts.append(f"disk: {size_text(needed)} to write, free: unknown")
            return
        found.facts.append(f"disk: {size_text(needed)} to write, {size_text(free)} free")
        if needed > free:
            found.problems.append(no_room(self.config, self.store, needed, free))
        elif needed > TIGHT * free:
            found.warnings.append(
                f"the disk is tight: {size_text(needed)} to write, {size_text(free)} free"
            )


def _resident_bytes() -> int:
    """The most memory that this process has held."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else 1024 * found


def _worker_seconds() -> float:
    """To start one worker process and import what stages need."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", WORKER_IMPORTS], check=True)
    return time.perf_counter() - started

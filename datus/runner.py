"""Find what is missing, run it, sum the reports.

    run(config, store, console)      index, then whatever of the plan is not done yet
    run_job(job, advance)            one shard through one group of stages, in a worker

Stages whose output is not kept (`keep = false`) are made in one go with those that need them: a
shard passes through all of them in memory, and the bytes that come out are the same.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from datus import executors
from datus.budget import check_door
from datus.config import Config
from datus.errors import CorruptShard, DatusError, TooManyFailures, WorkError
from datus.executors import Advance, ExecutorSettings, Outcome
from datus.index import Index, Shard, check_inputs, make_index
from datus.plan import DATASET_KEY, Node, Plan, find_node, make_plan
from datus.records import ShardData
from datus.shardwork import Context, Runtime, ShardWork
from datus.stages import STAGE_NAMES
from datus.store import ShardReport, Store
from datus.threads import n_cores


class Console(Protocol):
    """Where a run tells how it goes; the command line draws bars, tests listen."""

    def bar(self, name: str, total: int) -> AbstractContextManager[Advance]: ...
    def say(self, text: str) -> None: ...


class Quiet:
    """A console that shows nothing."""

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        yield _silent

    def say(self, text: str) -> None:
        """Nobody listens."""


QUIET: Console = Quiet()


@dataclass(slots=True)
class StageResult:
    """One line of the summary table."""

    name: str
    shards: int = 0
    made: int = 0
    images: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class RunResult:
    """What a run did."""

    plan: Plan
    index: Index
    stages: list[StageResult] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    """What people look for -> where it is."""


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


def run(
    config: Config,
    store: Store,
    console: Console = QUIET,
    until: str = "report",
    only: bool = False,
) -> RunResult:
    """All stages, or those up to `until`, or `until` alone (`only`; upstream must exist).

    Holds the lock of the run folder. Raises a DatusError; what is finished is kept.
    """
    check_inputs(config)
    with store.lock():
        _LOADED.clear()
        store.sweep_temporary()
        started = time.monotonic()
        index = make_index(config, store, console.bar)
        result = RunResult(make_plan(config, index), index)
        row = StageResult("index", 1, 1, len(index.records), len(index.failures))
        row.seconds = time.monotonic() - started
        result.stages.append(row)
        _check_failures(config, "index", index.failures, len(index.records))
        groups = wanted_groups(result.plan, until, only)
        check_door(config, store, result.plan, groups, console.say)
        for node in result.plan.nodes:
            store.write_recipe(node.stage, node.mark, node.recipe)
        for group in groups:
            if only:
                require_upstream(store, result.plan, group)
            _run_group(config, store, result, group, console)
        if until == "report":
            result.links = _link(store, result.plan)
    return result


def wanted_groups(plan: Plan, until: str, only: bool) -> list[tuple[Node, ...]]:
    """The groups to run, for every K of a sweep."""
    names = STAGE_NAMES[: STAGE_NAMES.index(until) + 1] if until else STAGE_NAMES
    wanted = {until} if only else set(names)
    return [group for group in plan.groups() if wanted & {node.stage for node in group}]


LINKS = {
    "masks": ("masks-k{}", "masks of K = {}"),
    "denoise-fit": ("model-k{}", "model of K = {}"),
    "denoise": ("denoised-k{}", "de-noised masks of K = {}"),
}
"""Stage -> name of the link, and what people are told it is."""


def _link(store: Store, plan: Plan) -> dict[str, str]:
    """RUN/latest/masks-k12, RUN/latest/report ... stay where people can find them."""
    found = {}
    for node in plan.nodes:
        if node.stage in LINKS:
            name, label = (text.format(node.k) for text in LINKS[node.stage])
            found[label] = store.link(name, node.stage, node.mark, "files")
        if node.stage == "report":
            folder = store.link("report", node.stage, node.mark, "files")
            found["report"] = f"{folder}/report.html"
    return found


def _run_group(
    config: Config, store: Store, result: RunResult, group: tuple[Node, ...], console: Console
) -> None:
    if group[0].scope == "dataset":
        _run_dataset(config, store, result, group[0], console)
    else:
        _run_shards(config, store, result, group, console)
    for row, node in zip(result.stages[-len(group) :], group, strict=True):
        reports = _reports(store, result.plan, node)
        for warning in node.row.warn(reports):
            console.say(f"warning: {warning}")
        failures = {image: why for report in reports for image, why in report.failures.items()}
        row.failed = len(failures)
        _check_failures(config, node.stage, failures, len(result.index.records))


def _run_shards(
    config: Config, store: Store, result: RunResult, group: tuple[Node, ...], console: Console
) -> None:
    """Every shard that lacks a stage of the group, through the executor."""
    started, plan = time.monotonic(), result.plan
    missing = [s for s in plan.shards if any(not _done(store, n, s.key) for n in group)]
    rows = [StageResult(node.label, len(plan.shards)) for node in group]
    for row in rows:
        row.images = len(result.index.records)
        row.made = len(missing)
    result.stages += rows
    if not missing:
        return
    nodes = tuple(node for node in plan.nodes if node.stage != "report")
    jobs = [Job(config, store.url, group, nodes, shard) for shard in missing]
    total = len(group) * sum(len(shard.records) for shard in missing)
    broken: list[str] = []
    with console.bar(" + ".join(node.label for node in group), total) as advance:
        run_all = executors.by_name(config.speed.executor)
        for outcome in run_all(run_job, jobs, ExecutorSettings(parallel(config)[0], advance)):
            _note(outcome, broken, console)
    for row in rows:
        row.seconds = (time.monotonic() - started) / len(rows)
    if broken:
        raise WorkError(
            f"{group[-1].label}: {len(broken)} of {len(jobs)} shards failed, the others are kept; "
            f"the first: {broken[0]}"
        )


def _note(outcome: Outcome, broken: list[str], console: Console) -> None:
    """Errors that every shard would meet end the run; a surprise in one shard does not."""
    if outcome.error is None:
        for text in outcome.result:
            console.say(text)
    elif isinstance(outcome.error, DatusError) and type(outcome.error) is not WorkError:
        raise outcome.error
    else:
        name = type(outcome.error).__name__
        reason = (
            str(outcome.error)
            if isinstance(outcome.error, WorkError)
            else (f"{name}: {outcome.error}")
        )
        broken.append(f"shard {outcome.job.shard.key}: {reason}")
        console.say(broken[-1])


def _run_dataset(
    config: Config, store: Store, result: RunResult, node: Node, console: Console
) -> None:
    started, row = time.monotonic(), StageResult(node.label, 1)
    row.images = len(result.index.records)
    result.stages.append(row)
    if _done(store, node, DATASET_KEY):
        return
    row.made = 1
    with console.bar(node.label, len(result.index.records)) as advance:
        work = node.row.build(Context(config, node.k, runtime_of(config)))
        data: ShardData = work(_Dataset(config, store, result, console), advance)
    seconds = time.monotonic() - started
    store.write_shard((node.stage, node.mark, DATASET_KEY), data, seconds, keep=True)
    store.remove(node.stage, node.mark, WORKPLACE)
    row.seconds = seconds


WORKPLACE = "work"
"""Folder of a dataset stage that is under way, below its fingerprint."""


class _Dataset:
    """What dataset stages read (gather.Dataset). A corrupt shard is made again on the way."""

    def __init__(self, config: Config, store: Store, result: RunResult, console: Console) -> None:
        self._config, self._store, self._plan = config, store, result.plan
        self._console = console
        self.index = result.index

    @property
    def warnings(self) -> tuple[str, ...]:
        rows = ((n, _reports(self._store, self._plan, n)) for n in self._plan.nodes)
        return tuple(dict.fromkeys(w for node, reports in rows for w in node.row.warn(reports)))

    def data(self, stage: str, k: int) -> Iterator[tuple[Shard, ShardData]]:
        node = find_node(self._plan.nodes, stage, k)
        whole = (Shard(DATASET_KEY, ()),)
        for shard in whole if node.scope == "dataset" else self._plan.shards:
            job = Job(self._config, self._store.url, (), self._plan.nodes, shard)
            maker = _Maker(job, _silent)
            yield shard, maker.data(node)
            for text in maker.said:
                self._console.say(text)

    def reports(self, stage: str, k: int) -> Iterator[ShardReport]:
        yield from _reports(self._store, self._plan, find_node(self._plan.nodes, stage, k))

    def file(self, stage: str, k: int, name: str) -> bytes:
        return self._store.read(stage, find_node(self._plan.nodes, stage, k).mark, "files", name)

    @contextmanager
    def workplace(self, stage: str, k: int) -> Iterator[Path]:
        """On an object store it does not outlive a kill."""
        if self._store.is_local:
            node = find_node(self._plan.nodes, stage, k)
            folder = Path(self._store.path(stage, node.mark, WORKPLACE))
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
        else:
            with tempfile.TemporaryDirectory(prefix="datus-work-") as temporary:
                yield Path(temporary)


def run_job(job: Job, advance: Advance) -> list[str]:
    """One shard through the stages of its group; runs in a worker. Returns what is to be said."""
    maker = _Maker(job, advance)
    for node in job.group:
        if _done(maker.store, node, job.shard.key):
            advance(len(job.shard.records))
        else:
            maker.data(node)
    return maker.said


class _Maker:
    """The outputs of one shard: from memory, from the store, or made now."""

    def __init__(self, job: Job, advance: Advance) -> None:
        self.job, self.store, self.advance = job, Store(job.root), advance
        self.said: list[str] = []
        self._memory: dict[str, ShardData] = {}

    def data(self, node: Node) -> ShardData:
        if node.mark not in self._memory:
            self._memory[node.mark] = self._stored(node) or self._made(node)
        return self._memory[node.mark]

    def _place(self, node: Node) -> tuple[str, str, str]:
        key = DATASET_KEY if node.scope == "dataset" else self.job.shard.key
        return node.stage, node.mark, key

    def _stored(self, node: Node) -> ShardData | None:
        try:
            return self.store.read_shard(self._place(node))
        except CorruptShard as error:
            self.said.append(f"{error}: made again")
            self.store.forget_shard(self._place(node))
            return None

    def _made(self, node: Node) -> ShardData:
        if node.scope == "dataset":
            raise WorkError(f"{node.label} was damaged and is gone: run the same command again")
        inputs = {need: self.data(find_node(self.job.nodes, need, node.k)) for need in node.needs}
        started = time.monotonic()
        advance = self.advance if node in self.job.group else _silent
        data = _loaded(self.job.config, node)(self.job.shard, inputs, advance)
        seconds = time.monotonic() - started
        self.store.write_shard(self._place(node), data, seconds, keep=node.keep)
        return data


_LOADED: dict[tuple[Config, str], ShardWork] = {}
"""(config, fingerprint) -> work: a process loads each model once."""


def _loaded(config: Config, node: Node) -> ShardWork:
    if (config, node.mark) not in _LOADED:
        _LOADED[config, node.mark] = node.row.build(Context(config, node.k, runtime_of(config)))
    return _LOADED[config, node.mark]


def _silent(_: int) -> None:
    """Work that was not counted in the bar's total."""


def _reports(store: Store, plan: Plan, node: Node) -> list[ShardReport]:
    """Of the shards that are finished."""
    found = (store.report(*place) for place in plan.places(node))
    return [report for report in found if report is not None]


def _done(store: Store, node: Node, key: str) -> bool:
    return store.report(node.stage, node.mark, key) is not None


def require_upstream(store: Store, plan: Plan, group: Sequence[Node]) -> None:
    names = {node.stage for node in group}
    for node in group:
        for upstream in plan.nodes:
            reads = upstream.stage in node.needs and (not node.k or upstream.k in (0, node.k))
            absent = [p for p in plan.places(upstream) if store.report(*p) is None] if reads else []
            if upstream.stage not in names and absent:
                n_places = len(list(plan.places(upstream)))
                raise WorkError(
                    f"{node.label} needs {upstream.label}, which lacks {len(absent)} of its "
                    f"{n_places} shards: run that first, or add --with-needs"
                )


def _check_failures(config: Config, stage: str, failures: dict[str, str], n_images: int) -> None:
    """More failures than allowed end the run, with the first few by name."""
    if len(failures) <= config.speed.max_failed:
        if n_images == 0 or (failures and len(failures) == n_images and stage != "index"):
            raise TooManyFailures(
                f"{stage}: no image is left, mend or replace them:\n{_listed(failures)}"
            )
        return
    images, them = ("1 image", "it") if len(failures) == 1 else (f"{len(failures)} images", "them")
    raise TooManyFailures(
        f"{stage}: {images} cannot be used, {config.speed.max_failed} are allowed; "
        f"the others are kept. Mend or remove {them}, or add --max-failed {len(failures)}.\n"
        f"{_listed(failures)}"
    )


def _listed(failures: dict[str, str]) -> str:
    rows = [f"  {image_id}: {reason}" for image_id, reason in sorted(failures.items())[:10]]
    more = [f"  and {len(failures) - 10} more"] if len(failures) > 10 else []
    return "\n".join(rows + more)


def parallel(config: Config) -> tuple[int, int]:
    """(worker processes, threads in each)."""
    speed, cores = config.speed, n_cores()
    workers = (speed.workers or cores) if speed.executor == "processes" else 1
    return workers, speed.threads or max(1, cores // workers)


def runtime_of(config: Config) -> Runtime:
    """Device, threads and batch of one worker process."""
    return Runtime(resolve_device(config), parallel(config)[1], config.speed.batch)


def resolve_device(config: Config) -> str:
    """auto = a CUDA device if torch sees one, else the CPU."""
    if config.speed.device != "auto":
        return config.speed.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

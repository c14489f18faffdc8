"""Find what is missing, run it, sum the reports.

    run(config, store, make_plan, console)      index, then whatever of the plan is not done yet

Stages whose output is not kept (`keep = false`) are made in one go with those that need them: a
shard passes through all of them in memory, and the bytes that come out are the same.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from datus.compute.memory import tune_allocator, tuned_allocator
from datus.config import Config, parse_share
from datus.engine import workers as executors
from datus.engine.budget import check_disk_space
from datus.engine.dataset import WORKPLACE, Dataset
from datus.engine.plan import Node, Plan, unchanged, wanted_groups
from datus.engine.resources import at_a_time, in_workers, placed, runtime_of
from datus.engine.shard_job import LOADED, READ, Job, is_done, run_job
from datus.engine.shares import Waiting, agreed_index, check_arrived, left_notes, locked, part_of
from datus.engine.stage import Context
from datus.engine.workers import Advance, ExecutorSettings, Outcome, no_progress
from datus.errors import DatusError, TooManyFailures, WorkError
from datus.inputs.index import Index, Shard, check_inputs, make_index
from datus.inputs.safe_decode import journal, too_slow
from datus.store.disk import explained
from datus.store.latest import point
from datus.store.leftovers import note_loss
from datus.store.reports import dropped, reports, undone
from datus.store.store import ShardReport, Store
from datus.types import ShardData


class Console(Protocol):
    """Where a run tells how it goes; the command line draws bars, tests listen."""

    def bar(self, name: str, total: int) -> AbstractContextManager[Advance]: ...
    def say(self, text: str) -> None: ...


class Quiet:
    """A console that shows nothing."""

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        yield no_progress

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
    next_step: str = ""
    """What to run next, where this process had only a share of the shards."""
    warned: dict[str, list[str]] = field(default_factory=dict)
    """Fingerprint -> what was said of a stage."""
    suspects: frozenset[str] = frozenset()
    """Shards that were under way when the last run was killed."""


def run(
    config: Config,
    store: Store,
    make_plan: Callable[[Config, Index], Plan],
    console: Console = QUIET,
    until: str = "",
    only: bool = False,
) -> RunResult:
    """All stages, or those up to `until`, or `until` alone (`only`; upstream must exist).

    Holds the lock of the run folder. Raises a DatusError; what is finished is kept.
    """
    check_inputs(config)
    share = parse_share(config.speed.shards)
    lock = locked(store, share)
    with tuned_allocator(), lock as suspects, executors.connected(config.speed):
        LOADED.clear()
        READ.clear()
        result = _indexed(config, store, make_plan, console, suspects)
        groups = wanted_groups(result.plan, until, only)
        check_disk_space(config, store, result.plan, groups, console.say)
        for node in result.plan.nodes:
            store.write_recipe(node.name, node.fingerprint, node.recipe)
        waiting = Waiting(store, result.plan, share)
        for group in filter(None, map(waiting.ready, groups)):
            if only:
                require_upstream(store, result.plan, group)
            _run_group(config, store, result, group, console)
        result.next_step = waiting.next_step(made=any(one.made for one in result.stages[1:]))
        if until in ("", result.plan.stages[-1]) and not result.next_step:
            if share is None:
                _forget_dropped(config, store, result.plan)
            result.links = _link(config, store, result.plan)
    return result


def _indexed(
    config: Config,
    store: Store,
    make_plan: Callable[[Config, Index], Plan],
    console: Console,
    suspects: frozenset[str],
) -> RunResult:
    """A run whose images are known, and that has done nothing with them yet."""
    for name in sorted(suspects):
        console.say(f"the last run was killed at {name}: its files are looked through first")
    started, share = time.monotonic(), parse_share(config.speed.shards)
    with journal(store, "index"):
        isolate = config.speed.isolate or "index" in suspects
        make = partial(make_index, config, store, console.bar, isolate)
        index = agreed_index(make, store, share)
    if index.n_replaced:
        console.say(
            f"warning: none of the {index.n_replaced} images of the last run in {store.url} is "
            "among these: if they are of another folder, give this one a --run-dir of its own"
        )
    row = StageResult("index", 1, 1, len(index.records), len(index.failures))
    row.seconds = time.monotonic() - started
    _check_failures(config, "index", index.failures, len(index.records))
    plan = part_of(make_plan(config, index), share)
    suspects |= left_notes(store, plan, share)
    if share is None:
        suspects |= _looked_at_again(config, store, plan)
    return RunResult(plan, index, [row], suspects=suspects)


def _looked_at_again(config: Config, store: Store, plan: Plan) -> frozenset[str]:
    """Shards with a file that a shorter speed.decode_seconds left out: they are made again."""
    keys = frozenset(too_slow(store, config.speed.decode_seconds))
    for shard in (shard for shard in plan.shards if shard.key in keys):
        for node in plan.nodes:
            if not node.is_dataset:
                store.forget_shard(node.place(shard))
    return keys


def _forget_dropped(config: Config, store: Store, plan: Plan) -> None:
    """Masks of images that went, where frozen clusters keep the folder: people take all of it."""
    for node in plan.nodes:
        if not node.is_dataset and node.stage.links(config, node.k):
            for name in dropped(store, node.name, node.fingerprint, list(plan.places(node))):
                store.remove(node.name, node.fingerprint, *name)


def _link(config: Config, store: Store, plan: Plan) -> dict[str, str]:
    """RUN/latest/masks-k12, RUN/latest/report ... stay where people can find them."""
    links = {}
    for node in plan.nodes:
        for label, (name, file) in node.stage.links(config, node.k).items():
            folder = point(store, name, node.name, node.fingerprint, "files")
            links[label] = f"{folder}/{file}" if file else folder
    return links


def _run_group(
    config: Config, store: Store, result: RunResult, group: tuple[Node, ...], console: Console
) -> None:
    if group[0].is_dataset:
        _run_dataset(config, store, result, group[0], console)
    else:
        _run_shards(config, store, result, group, console)
    for row, node in zip(result.stages[-len(group) :], group, strict=True):
        failures: dict[str, str] = {}
        found = filter(None, reports(store, result.plan.places(node), files=False))
        noted = _noting(failures, found)
        result.warned[node.fingerprint] = node.stage.warn(noted)
        for warning in result.warned[node.fingerprint]:
            console.say(f"warning: {warning}")
        deque(noted, maxlen=0)  # those that no warning looked at
        row.failed = len(failures)
        _check_failures(config, node.name, failures, len(result.index.records))


def _run_shards(
    config: Config, store: Store, result: RunResult, group: tuple[Node, ...], console: Console
) -> None:
    """Every shard that lacks a stage of the group, through the executor."""
    started, plan = time.monotonic(), result.plan
    lacking = [(node, undone(store, plan.places(node))) for node in group]
    missing = [s for s in plan.shards if any(node.key(s) in keys for node, keys in lacking)]
    rows = [StageResult(node.label, len(plan.shards)) for node in group]
    for row, (node, keys) in zip(rows, lacking, strict=True):
        row.images = sum(len(shard.records) for shard in plan.shards)
        row.made = len(keys) if node.keep else len(missing)
    result.stages += rows
    if not missing:
        return
    nodes = tuple(node for node in plan.nodes if not node.stage.is_last)
    careful = {s.key for s in missing if config.speed.isolate or s.key in result.suspects}
    n_images = sum(len(shard.records) for shard in missing)
    here = placed(config, n_images, lambda: any(node.stage.on_device(config) for node in group))
    theirs = in_workers(here)
    jobs = [Job(theirs, store.url, group, nodes, s, s.key in careful) for s in missing]
    broken: list[tuple[Shard, str]] = []
    with console.bar(" + ".join(node.label for node in group), len(group) * n_images) as advance:
        run_all = executors.by_name(here.speed.executor)
        settings = _executor_settings(here, store, advance, config.speed.executor == "auto")
        for outcome in run_all(run_job, jobs, settings):
            _note(outcome, broken, console)
            if config.speed.executor == "ray" and outcome.error is None:
                made = outcome.job.shard
                check_arrived(store, [node.place(made) for node in group])
    worked = [
        _seconds(store, node, [s for s in missing if node.key(s) in keys or not node.keep])
        for node, keys in lacking
    ]
    _share_seconds(rows, worked, time.monotonic() - started)
    if broken:
        order = {shard.key: place for place, shard in enumerate(plan.shards)}
        shard, text = min(broken, key=lambda one: order[one[0].key])
        failed = next((n for n in group if not is_done(store, n, shard)), group[-1])
        raise WorkError(
            f"{failed.label}: {len(broken)} of {len(jobs)} shards failed, the others are kept; "
            f"the first: {text}"
        )


def _seconds(store: Store, node: Node, shards: Sequence[Shard]) -> float:
    """What the finished ones of `shards` took, added up."""
    found = reports(store, [node.place(shard) for shard in shards], files=False)
    return sum(report.seconds for report in filter(None, found))


def _share_seconds(rows: list[StageResult], worked: list[float], seconds: float) -> None:
    """Stages of one group ran together: each gets its share of the time that passed."""
    whole = sum(worked)
    for row, mine in zip(rows, worked, strict=True):
        row.seconds = seconds * (mine / whole if whole else 1 / len(rows))


def _note(outcome: Outcome, broken: list[tuple[Shard, str]], console: Console) -> None:
    """Errors that every shard would meet end the run; a surprise in one shard does not."""
    error = outcome.error
    if error is None:
        for text in outcome.result:
            console.say(text)
    elif isinstance(error, DatusError) and type(error) is not WorkError:
        raise error
    else:
        reason = str(error) if isinstance(error, WorkError) else f"{type(error).__name__}: {error}"
        broken.append((outcome.job.shard, f"shard {outcome.job.shard.key}: {reason}"))
        console.say(broken[-1][1])


def _run_dataset(
    config: Config, store: Store, result: RunResult, node: Node, console: Console
) -> None:
    started, row = time.monotonic(), StageResult(node.label, 1, images=len(result.index.records))
    result.stages.append(row)
    if store.report(*node.place()) is not None:
        return
    row.made = 1
    same, disk = unchanged(config, result.plan, node, result.index), explained(store.root, "write")
    with console.bar(node.label, len(result.index.records)) as advance, same, disk:
        work = node.stage.build(Context(config, node.k, runtime_of(config)))
        dataset = Dataset(
            config, store, result.plan, result.index, node, console.say, result.warned
        )
        data: ShardData = work(dataset, advance)
    data.written.update(dataset.written)
    seconds = time.monotonic() - started
    store.write_shard(node.place(), data, seconds, keep=True)
    if store.is_local:
        store.remove(node.name, node.fingerprint, WORKPLACE)
    row.seconds = seconds


def _noting(failures: dict[str, str], reports: Iterable[ShardReport]) -> Iterator[ShardReport]:
    """The reports; what failed is put into `failures` as they go by."""
    for report in reports:
        failures.update(report.failures)
        yield report


def require_upstream(store: Store, plan: Plan, group: Sequence[Node]) -> None:
    names = {node.name for node in group}
    for node in group:
        for upstream in plan.nodes:
            if upstream.name in names or not node.reads(upstream):
                continue
            absent = len(undone(store, plan.places(upstream)))
            if absent:
                n_places = len(list(plan.places(upstream)))
                raise WorkError(
                    f"{node.label} needs {upstream.label}, which lacks {absent} of its "
                    f"{n_places} shards: run that first, or add --with-needs"
                )


def _check_failures(config: Config, stage: str, failures: dict[str, str], n_images: int) -> None:
    """More failures than allowed end the run, with the first few by name."""
    if len(failures) <= config.speed.max_failed:
        if n_images == 0 or (failures and len(failures) == n_images and stage != "index"):
            raise TooManyFailures(
                f"{stage}: no image is left, mend or replace them:\n{listed_failures(failures)}"
            )
        return
    images, them = ("1 image", "it") if len(failures) == 1 else (f"{len(failures)} images", "them")
    raise TooManyFailures(
        f"{stage}: {images} cannot be used, {config.speed.max_failed} are allowed; "
        f"the others are kept. Mend or remove {them}, or add --max-failed {len(failures)}.\n"
        f"{listed_failures(failures)}"
    )


def listed_failures(failures: Mapping[str, str]) -> str:
    """The first ten, a line each."""
    rows = [f"  {image_id}: {reason}" for image_id, reason in sorted(failures.items())[:10]]
    more = [f"  and {len(failures) - 10} more"] if len(failures) > 10 else []
    return "\n".join(rows + more)


def _executor_settings(
    config: Config, store: Store, advance: Advance, keep: bool
) -> ExecutorSettings:
    speed = config.speed

    def again(job: Job) -> Job:
        if store.is_local:
            note_loss(store.root)
        return replace(job, careful=True)

    workers = speed.workers if speed.executor == "ray" else at_a_time(config)
    return ExecutorSettings(workers, advance, again, speed, tune_allocator, keep)

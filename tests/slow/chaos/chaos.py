"""Faults x stages: whatever happens, the same command ends with the bytes of an undisturbed run.

    python tests/slow/chaos/chaos.py [--quick] [--seed 0]

Each cell is real: the command line in a process of its own, on ten small images with truth, with
the backbone that the package ships. Processes are forked from one that has imported the libraries,
so that a run takes a second; those of bad decoders and of workers are started anew. Prints a
Markdown matrix and counts, and exits 1 if a byte is lost or wrong.

    =    the same command, alone or after the one that was killed, ends with the same bytes
    e=   one clear error first, exit code 1; then the same command, and the same bytes
    v=   nothing reads the damaged file any more: `datus verify --mend` first; then the same bytes
    X    lost or wrong bytes, an unclear error, or no end
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import chaos_ends
import chaos_files
import chaos_given
import chaos_ray
from chaos_bench import ANY, LIMIT_SECONDS, ROOT, STAGES, Bench, tree_of
from chaos_faults import (
    at_write,
    full_disk,
    jumping_clock,
    nobody_knows_the_space,
    object_store,
    slow_writes,
)

QUICK = ("index", "features", "clusters", "masks", "report")
LONG = ("decoders", "ray", "signals", "images", "frozen", "growing")
"""Parts that are left out of the quick matrix."""

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


# --- the driver ---------------------------------------------------------------------------------


def kills_at_writes(bench: Bench, moments: tuple[str, ...] = ("before", "torn", "after")) -> None:
    """Three times in each stage, one after the other in the same run folder."""
    for stage in bench.stages:
        n_writes = sum(name.startswith(f"{stage}/") for name in bench.expected)
        run_dir = bench.fresh(without=stage)
        for moment in moments:
            number = bench.rng.randint(1, min(n_writes, 3))
            killed = bench.run(run_dir, fault=at_write(stage, number, moment))
            bench.counts["kills"] += killed.code == -signal.SIGKILL
        bench.note("driver: kill -9 at a write", stage, bench.heals(run_dir))


def kills_at_random(bench: Bench, n_runs: int = 4) -> None:
    for _ in range(n_runs):
        run_dir = bench.fresh(without="index")
        for _ in range(4):
            seconds = bench.rng.uniform(0, 0.7 * bench.seconds)
            killed = bench.run(run_dir, seconds=seconds)
            bench.counts["kills"] += killed.code == -signal.SIGKILL
        bench.note("driver: kill -9 at random", ANY, bench.heals(run_dir))


def two_drivers(bench: Bench) -> None:
    """On one folder: one works, the other says who does. On an object store both may."""
    for row, address in (("two drivers", ""), ("object store: two drivers", "flaky://")):
        run_dir = bench.fresh(without="index")
        where, logs = f"{address}{run_dir}", [bench.folder / f"log{i}" for i in range(2)]
        fault = object_store(wait=0.002) if address else slow_writes
        children = []
        for log in logs:
            children.append(bench.start(["run", *bench.arguments(where)], log, fault))
            time.sleep(0.5)
        ended = [bench.wait(child, log) for child, log in zip(children, logs, strict=True)]
        refused = "is in use by process" in ended[1].stderr
        wrong = [one for one in ended if not one.is_clear]
        if wrong or (not address and (ended[0].code or not refused)):
            text = " / ".join(one.stderr[-600:] for one in ended)
            bench.note(row, ANY, bench.problem(f"codes {[one.code for one in ended]}: {text}"))
        else:
            check = object_store() if address else None
            bench.note(row, ANY, bench.heals(run_dir, where, check))


def clocks(bench: Bench) -> None:
    run_dir = bench.fresh(without="index")
    bench.run(run_dir, fault=jumping_clock, seconds=bench.seconds / 2)
    bench.note("clock jumps by years", ANY, bench.heals(run_dir, fault=jumping_clock))


# --- disks --------------------------------------------------------------------------------------


def full_disks(bench: Bench) -> None:
    for stage in bench.stages:
        run_dir = bench.fresh(without=stage)
        stopped = bench.run(run_dir, fault=full_disk(stage, bench.rng.randint(0, 2)))
        outcome = bench.after_error(stopped, partial(bench.heals, run_dir))
        bench.note("disk full", stage, outcome)


def small_disk(bench: Bench) -> None:
    """A real one. It grows after the first error."""
    from bad_files import mount, remount, unmount

    disk = bench.folder / "disk"
    reason = mount(disk, "400k")
    if reason:
        print(f"no disk can be mounted here: {reason}", file=sys.stderr)
        return
    try:
        stopped = bench.run(disk / "run", fault=nobody_knows_the_space)
        remount(disk, "size=64m")
        outcome = bench.after_error(stopped, lambda: bench.heals(disk / "run"))
        bench.note("disk full", ANY, outcome)
    finally:
        unmount(disk)


# --- object stores ------------------------------------------------------------------------------


def object_stores(bench: Bench) -> None:
    cases = {"object store: one call in ten fails": {"lose": 0.1}}
    cases["object store: slow"] = {"wait": 0.02}
    for row, options in cases.items():
        run_dir = bench.fresh(without="index")
        fault = object_store(**options, seed=bench.rng.randrange(1000))  # type: ignore[arg-type]
        bench.note(row, ANY, bench.heals(run_dir, f"flaky://{run_dir}", fault))
    for stage in bench.stages:
        run_dir = bench.fresh(without=stage)
        shutil.rmtree(run_dir / "latest", ignore_errors=True)  # links, which no object store has
        stopped = bench.run(f"flaky://{run_dir}", fault=object_store(down_at=stage))
        check = partial(bench.heals, run_dir, f"flaky://{run_dir}", object_store())
        bench.note("object store: down for good", stage, bench.after_error(stopped, check))


# --- workers and decoders -----------------------------------------------------------------------


def workers(bench: Bench, n_kills: int = 4) -> None:
    """Worker processes are killed while the driver lives; then the driver, above its workers. With
    `auto` only stages without a model have some, which stay for the later ones."""
    for name in ("processes", "auto"):
        given = ("--executor", name, "--workers", "2")
        run_dir, log = bench.fresh(without="index"), bench.folder / "log"
        child = bench.start(["run", *bench.arguments(run_dir, *given)], log, slow_writes)
        for _ in range(n_kills):
            time.sleep(bench.rng.uniform(1.0, 4.0))
            living = worker_processes(child)
            if living:
                os.kill(bench.rng.choice(living), signal.SIGKILL)
                bench.counts["kills"] += 1
        ended = bench.wait(child, log)
        outcome = bench.after_end(ended, partial(bench.heals, run_dir))
        bench.note(f"workers ({name}): kill -9", ANY, outcome)
        run_dir, limit = bench.fresh(without="index"), 10 if name == "processes" else 4
        killed = bench.run(
            run_dir, *given, seconds=limit + bench.rng.uniform(0, 5), fault=slow_writes
        )
        bench.counts["kills"] += killed.code == -signal.SIGKILL
        bench.note(f"driver of workers ({name}): kill -9", ANY, bench.heals(run_dir))


def worker_processes(driver: int) -> list[int]:
    found = []
    with suppress(OSError):  # one of them has ended
        for text in Path(f"/proc/{driver}/task/{driver}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{text}/cmdline").read_bytes():
                found.append(int(text))
    return found


def decoders(bench: Bench) -> None:
    """One image of ten crashes or hangs the decoder; the others have the same bytes every way."""
    from tiny_runs import make_dataset

    ways = {
        "workers": ["--executor", "processes", "--workers", "2"],
        "speed.isolate": ["--set", "speed.isolate=true"],
        "serial, run again": [],
    }
    saboteur = str(ROOT / "tests" / "helpers" / "saboteur")
    words = {"crashes": b"CRASHES THE DECODER", "hangs": b"HANGS THE DECODER"}
    for what, word in words.items():
        dataset = make_dataset(bench.folder / f"data-{what}")
        (dataset.images / "a1.png").write_bytes((dataset.images / "a1.png").read_bytes() + word)
        trees = {}
        for way, options in ways.items():
            run_dir = bench.folder / f"{what}-{way.replace(' ', '-')}"
            arguments = [*dataset.arguments(run_dir), "--max-failed", "1", *options]
            arguments += ["--set", "speed.decode_seconds=10"]
            # the first serial run ends here: by itself, or by the hand of somebody who waited
            ended = bench.anew(["run", *arguments], LIMIT_SECONDS if options else 60.0, saboteur)
            if not options:
                ended = bench.anew(["run", *arguments], path=saboteur)
            row = f"an image that {what} the decoder: {way}"
            trees[way] = tree_of(run_dir)
            same = trees[way] == trees["workers"] and "its decoder" in str(failures(run_dir))
            text = f"{ended.code} {failures(run_dir)} {ended.stderr[-800:]}"
            outcome = "=" if ended.code == 0 and same else bench.problem(text)
            bench.note(row, ANY, outcome)


def failures(run_dir: Path) -> dict[str, str]:
    import json

    found: dict[str, str] = {}
    for path in run_dir.glob("*/*/shard-*.json"):
        found |= json.loads(path.read_text())["failures"]
    return found


# --- all of it ----------------------------------------------------------------------------------


def matrix(bench: Bench) -> str:
    """Faults below one another, stages side by side."""
    columns = [stage for stage in (*STAGES, ANY) if any(s == stage for _, s in bench.cells)]
    rows = list(dict.fromkeys(fault for fault, _ in bench.cells))
    lines = [f"| fault | {' | '.join(columns)} |", f"|---|{':-:|' * len(columns)}"]
    for fault in rows:
        cells = (bench.cells.get((fault, stage), "") for stage in columns)
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[Bench], None]] = {
    "kills": kills_at_writes,
    "damage": chaos_files.damages,
    "pages": chaos_files.pages,
    "full": full_disks,
    "small": small_disk,
    "random": kills_at_random,
    "store": object_stores,
    "two": two_drivers,
    "clock": clocks,
    "edits": chaos_given.edits,
    "corrections": chaos_given.corrections,
    "frozen": chaos_given.frozen,
    "growing": chaos_given.growing,
    "shares": chaos_ends.shares,
    "signals": chaos_ends.signals,
    "images": chaos_files.images,
    "read-only": chaos_files.read_only,
    "workers": workers,
    "decoders": decoders,
    "ray": chaos_ray.clusters,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="five stages, the shorter parts")
    parser.add_argument("--only", action="append", choices=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        # threads of OpenMP do not outlive a fork: with one core there are none
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for name in (
        "torch",
        "timm",
        "faiss",
        "datus.engine.run",
        "datus.cli.app",
        "datus.pipeline",
    ):
        __import__(name)  # in the forked processes they are there
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it for children
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="datus-chaos-", dir=MEMORY) as folder:
        stages = QUICK if args.quick else STAGES
        bench = Bench(Path(folder), random.Random(args.seed), stages)
        bench.prepare()
        names = args.only or [name for name in PARTS if not (args.quick and name in LONG)]
        for name in names:
            try:
                PARTS[name](bench)
            except KeyboardInterrupt:
                print(f"{name}: interrupted, the rest is left out", file=sys.stderr)
                break
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    counts = bench.counts
    print(matrix(bench))
    print(
        f"\n{counts['cases']} cases, {counts['commands']} commands, {counts['kills']} kills, "
        f"{counts['signals']} other signals: "
        f"{counts['=']} mended by the same command alone, {counts['e=']} after one clear error, "
        f"{counts['v=']} by `datus verify --mend`, {counts['X']} lost or wrong"
    )
    for text in bench.problems:
        print(f"\n{text}")
    return 1 if counts["X"] else 0


if __name__ == "__main__":
    sys.exit(main())

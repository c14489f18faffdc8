"""How good is `datus run --dry-run`? Seconds and bytes of every stage, estimated against real.

    taskset -c 1 python benchmarks/bench_preflight.py --images FOLDER [--truth DIR --classes TOML]
        [--clusters 12] [--set section.key=value] [--again] [--cpu]

The estimate and then the run, each in a fresh process, on the same cores: on a busy machine the two
see different speeds. --again estimates once more after the run, into another folder, to show how
far the machine itself drifted; --cpu counts seconds of the processor instead, which others cannot
take (use one core: those of threads add up). Prints one table.
"""

import argparse
import importlib
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Figures = dict[str, tuple[float, int]]
"""Stage -> (seconds, bytes)."""


def estimate(overrides: dict[str, Any]) -> tuple[Figures, float]:
    """What the dry run says, and the seconds that it took itself."""
    started = time.perf_counter()
    from datus.compare.plots import look
    from datus.config import Config
    from datus.engine.run import QUIET
    from datus.store.store import Store

    config = Config.load(None, overrides)
    found = look(config, Store(config.run_path), QUIET)
    for text in (*found.facts, *found.warnings, *found.problems):
        print(text)
    rows = {row.name: (row.seconds or 0.0, row.n_bytes or 0) for row in found.rows}
    return rows, time.perf_counter() - started


def real(overrides: dict[str, Any]) -> tuple[Figures, float]:
    """What the run took, and its seconds from start to end."""
    import resource

    started = time.perf_counter()
    from datus.config import Config
    from datus.pipeline import run
    from datus.store.store import Store

    config = Config.load(None, overrides)
    store = Store(config.run_path)
    result = run(config, store)
    seconds = time.perf_counter() - started
    sizes = {"index": store.disk_bytes("index")}
    sizes |= {
        node.label: store.disk_bytes(node.name, node.fingerprint) for node in result.plan.nodes
    }
    rows = {row.name: (row.seconds, sizes[row.name]) for row in result.stages}
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"the run: {peak / 1e9:.2f} GB at the peak")
    return rows, seconds


def on_cpu_clock() -> None:
    """In a child: every clock that estimate and run look at is that of the process."""
    for name in ("sampling", "forecast", "preflight", "runner"):
        clocks = SimpleNamespace(perf_counter=time.process_time, monotonic=time.process_time)
        importlib.import_module(f"datus.{name}").time = clocks


def apart(function: Any, overrides: dict[str, Any], cpu: bool) -> tuple[Figures, float]:
    """In a process of its own: nothing is imported or warm."""
    context = multiprocessing.get_context("spawn")
    start = on_cpu_clock if cpu else None
    with ProcessPoolExecutor(1, mp_context=context, initializer=start) as pool:
        found: tuple[Figures, float] = pool.submit(function, overrides).result()
        return found


def show(guess: Figures, truth: Figures) -> None:
    header = ("stage", "s estimated", "s real", "ratio", "MB estimated", "MB real", "ratio")
    print("{:20} {:>12} {:>8} {:>6} {:>13} {:>9} {:>6}".format(*header))
    names = [*truth, "total"]
    for one in (guess, truth):
        one["total"] = (sum(s for s, _ in one.values()), sum(b for _, b in one.values()))
    for name in names:
        (seconds, size), (took, wrote) = guess[name], truth[name]
        times = f"{seconds:12.2f} {took:8.2f} {seconds / max(took, 1e-9):6.2f}"
        sizes = f"{size / 1e6:13.3f} {wrote / 1e6:9.3f} {size / max(wrote, 1):6.2f}"
        print(f"{name:20} {times} {sizes}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--truth", default="")
    parser.add_argument("--classes", default="")
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--again", action="store_true", help="estimate after the run as well")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor")
    args = parser.parse_args()
    from datus.config import parse_override

    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            "data.images": args.images,
            "data.truth": args.truth,
            "data.classes": args.classes,
            "clusters.k": [args.clusters],
            "run_dir": str(Path(folder) / "run"),
            **dict(parse_override(text) for text in args.set),
        }
        guess, spent = apart(estimate, overrides, args.cpu)
        truth, took = apart(real, overrides, args.cpu)
        show(guess, truth)
        print(f"the dry run itself took {spent:.1f} s, the run {took:.1f} s from start to end")
        if args.again:
            fresh = {**overrides, "run_dir": str(Path(folder) / "fresh")}
            guess, spent = apart(estimate, fresh, args.cpu)
            show(guess, {name: row for name, row in truth.items() if name != "total"})


if __name__ == "__main__":
    main()

"""Measure what docs/scale.md reckons with: bytes, files and seconds per image, and what grows.

    python benchmarks/measure_scale.py run --images DIR [--truth DIR --classes TOML] [--clusters 11]
        [--every 1] [--set section.key=value]
    python benchmarks/measure_scale.py growth [--n 30000]

`run` makes a whole run, one shard and one thread at a time, in a folder of its own. It prints for
every stage the files, the bytes and the processor seconds per image, how seconds per image spread
over the shards (deviation of their logarithm), and what it takes to read the stage's arrays again.
Processor seconds, so that other work on the machine counts little.

`growth` makes an index of --n invented images and prints what one process holds and takes per image
or shard: what is fine for a thousand images and not for 10⁹.
"""

import argparse
import math
import os
import pickle
import statistics
import tempfile
import time
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from datus.config import Config, parse_override
from datus.engine import resources
from datus.engine import run as runner
from datus.engine import shard_job as shardjobs
from datus.engine.dataset import Dataset
from datus.engine.plan import Plan
from datus.inputs import index
from datus.inputs.index import Index
from datus.pipeline import make_plan
from datus.stages import report as reporting
from datus.stages.sample import sample_vectors, taken
from datus.stages.totals import GALLERY, tally_of
from datus.store.store import ShardReport, Store
from datus.types import ImageRecord, ShardData

N_IN_SHARD = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("run")
    for name in ("images", "truth", "classes"):
        one.add_argument(f"--{name}", default="", required=name == "images")
    one.add_argument("--clusters", type=int, default=11)
    one.add_argument("--every", type=int, default=1, help="take every n-th image")
    one.add_argument("--set", action="append", default=[], help="section.key=value")
    kinds.add_parser("growth").add_argument("--n", type=int, default=30_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="datus-scale-") as folder:
        print(of_run(args, Path(folder)) if args.kind == "run" else growth(args.n, Path(folder)))


# --- a real run ---------------------------------------------------------------------------------


def of_run(args: argparse.Namespace, folder: Path) -> str:
    """Markdown: one row a stage."""
    settings: dict[str, Any] = {
        "data.images": str(_some(Path(args.images), args.every, folder)),
        "data.truth": args.truth,
        "data.classes": args.classes,
        "clusters.k": [args.clusters],
        "run_dir": str(folder / "run"),
        "speed.threads": 1,
        "speed.device": "cpu",
        **dict(parse_override(text) for text in args.set),
    }
    config = Config.load(None, settings)
    store = Store(config.run_path)
    clock = SimpleNamespace(monotonic=time.process_time)
    asked = Counter[str]()
    with (
        patch.object(shardjobs, "time", clock),  # seconds of the processor
        patch.object(runner, "time", clock),
        patch.object(resources, "IN_FLIGHT", 1),  # else two shards share one clock
        _counted(Store, "report", asked),
        _counted(Store, "size", asked),
    ):
        result = runner.run(config, store)
    n = len(result.index.records)
    seconds = [row.seconds for row in result.stages]
    lines = [
        f"{n} images, {len(result.plan.shards)} shards, processor seconds",
        "",
        "| stage | files | bytes an image | of them reports | ms an image | spread | ms to read |",
        "|---|---|---|---|---|---|---|",
    ]
    lines.append(_row(Path(store.path("index")), "index", n, seconds[0], "") + "  |")
    for node in result.plan.nodes:
        place = Path(store.path(node.name, node.fingerprint))
        took, spread = _shard_seconds(store, result.plan, node)
        read = f"{1000 * _read_seconds(store, result.plan, node) / n:.3f}"
        lines.append(f"{_row(place, node.name, n, took, spread)} {read} |")
    lines += ["", "| one process reads for | ms an image |", "|---|---|"]
    for what, read in _of_one_process(config, store, result).items():
        lines.append(f"| {what} | {1000 * min(map(_processor, [read] * 3)) / n:.4f} |")
    lines += [
        "",
        f"{len(result.plan.shards)} shards: "
        + ", ".join(f"{name} asked {times} times" for name, times in asked.items()),
    ]
    return "\n".join(lines)


@contextmanager
def _counted(cls: type, name: str, asked: Counter[str]) -> Iterator[None]:
    """Calls of a method, counted."""
    method = getattr(cls, name)

    def counting(*args: Any, **more: Any) -> Any:
        asked[name] += 1
        return method(*args, **more)

    with patch.object(cls, name, counting):
        yield


def _some(images: Path, every: int, folder: Path) -> Path:
    if every == 1:
        return images
    few = folder / "images"
    few.mkdir()
    for path in sorted(images.iterdir())[::every]:
        (few / path.name).symlink_to(path.resolve())
    return few


def _row(place: Path, name: str, n: int, seconds: float, spread: str) -> str:
    files = [path for path in place.rglob("*") if path.is_file()]
    n_bytes = sum(path.stat().st_size for path in files)
    reports = sum(
        path.stat().st_size
        for path in files
        if path.name.startswith("shard-") and path.suffix == ".json"
    )
    return (
        f"| {name} | {len(files)} | {n_bytes / n:.0f} | {reports / n:.0f} | "
        f"{1000 * seconds / n:.2f} | {spread} |"
    )


def _of_one_process(
    config: Config, store: Store, result: runner.RunResult
) -> dict[str, Callable[[], Any]]:
    """What stages over all shards read, one shard after the other: pictures do not grow."""
    speed, k = replace(config.speed, read_ahead=1), config.clusters.k[0]
    dataset = Dataset(
        replace(config, speed=speed), store, result.plan, result.index, result.plan.nodes[-1], print
    )
    all_of = dict[str, Callable[[], Any]]()
    all_of["center: sums of keys"] = lambda: deque(dataset.data("keysums", k), maxlen=0)
    all_of["clusters: a sample of all vectors"] = lambda: sample_vectors(
        dataset.data("embeddings", k), 10, 1, 0, shardjobs.no_progress
    )
    all_of["clusters: a sample of what shards kept"] = lambda: taken(
        dataset, k, 1, 0, shardjobs.no_progress
    )
    n_labels, gallery = config.clusters.k[0], GALLERY
    all_of["report: tallies"] = lambda: tally_of(dataset, k, n_labels, gallery)
    all_of["report: what shards say of their images"] = lambda: reporting._read_reports(
        config, dataset
    )
    return all_of


def _processor(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _read_seconds(store: Store, plan: Plan, node: Any) -> float:
    """To read all arrays of a stage, their hashes checked; the best of three."""
    found = []
    for _ in range(3):
        started = time.process_time()
        for place in plan.places(node):
            store.read_shard(place, files=False)
        found.append(time.process_time() - started)
    return min(found)


def _shard_seconds(store: Store, plan: Plan, node: Any) -> tuple[float, str]:
    """(all seconds, spread over shards of 4 images and more). The first shard compiles and loads:
    it is left out of the spread."""
    found = [store.report(*place) for place in plan.places(node)]
    reports = [one for one in found if one is not None]
    logs = [
        math.log(one.seconds / len(shard.records))
        for one, shard in list(zip(reports, plan.shards, strict=False))[1:]
        if one.seconds > 0 and len(shard.records) >= 4
    ]
    spread = f"{statistics.stdev(logs):.2f}" if not node.is_dataset and len(logs) > 2 else ""
    # the median stands for the first shard, which pays for loading and compiling
    whole = sum(one.seconds for one in reports)
    if not node.is_dataset and logs:
        usual = math.exp(statistics.median(logs)) * len(plan.shards[0].records)
        whole = whole - reports[0].seconds + usual
    return whole, spread


# --- what grows ---------------------------------------------------------------------------------


def growth(n: int, folder: Path) -> str:
    """Markdown: what one process holds and takes, per image and per shard."""
    records = [_record(number) for number in range(n)]
    config = Config.load(None, {"data.images": "images", "run_dir": str(folder / "run")})
    store = Store(config.run_path)
    made = Index(index._sharded(records, N_IN_SHARD), {}, 0)
    seen = {r.path: [100_000, [1, 2], r.sha256, r.height, r.width] for r in made.records}
    rows = [
        ("index: cut and hashed into shards", n, *_cost(lambda: _reshard(records))),
        ("index: written", n, *_cost(lambda: index._write(store, made, seen))),
        ("index: read again", n, *_cost(lambda: index.read_index(store))),
        ("index: what was seen last time", n, *_cost(lambda: index._known(store))),
        ("index: hash of its content, once", n, *_cost(lambda: _content(made))),
        ("shards of the index", n, *_cost(lambda: made.shards)),
        ("plan", n, *_cost(lambda: make_plan(config, made))),
    ]
    plan = make_plan(config, made)
    rows += _of_jobs(config, store, plan, n)
    rows += _of_reports(store, plan)
    rows += _of_looking(folder, min(n, 10_000))
    lines = ["| what | bytes held | µs |", "|---|---|---|"]
    lines += [f"| {what} | {held / of:.0f} | {1e6 * s / of:.2f} |" for what, of, held, s in rows]
    files = [f"{name} {store.size('index', name) / n:.0f}" for name in store.files("index")]
    return "\n".join([*lines, "", f"bytes an image on disk: {', '.join(files)}"])


Row = tuple[str, int, float, float]


def _of_jobs(config: Config, store: Store, plan: Plan, n: int) -> list[Row]:
    nodes = tuple(node for node in plan.nodes if node.name != "report")

    def jobs() -> list[Any]:
        return [shardjobs.Job(config, store.url, nodes, nodes, s) for s in plan.shards]

    some = jobs()[:200]
    sent = sum(len(pickle.dumps(job)) for job in some)
    _, seconds = _cost(lambda: [pickle.dumps(job) for job in some])
    return [
        ("jobs of a group, per shard", len(plan.shards), *_cost(jobs)),
        (f"a job for a worker: {sent // len(some)} bytes sent, per shard", len(some), 0.0, seconds),
    ]


def _of_reports(store: Store, plan: Plan) -> list[Row]:
    """Reports of 100 shards of masks, with and without a look at their files."""
    node = next(node for node in plan.nodes if node.name == "masks")
    shards = plan.shards[:100]
    for shard in shards:
        ids = [record.image_id for record in shard.records]
        numbers = {i: {"labelled": 1.0, "confidence": 0.123456789012345} for i in ids}
        files = {f"{i}.png": b"x" for i in ids}
        arrays = {i: {"cluster": np.zeros(60, np.int16)} for i in ids}
        data = ShardData(arrays=arrays, numbers=numbers, files=files)
        store.write_shard((node.name, node.fingerprint, shard.key), data, 1.0, keep=True)
    places = [(node.name, node.fingerprint, shard.key) for shard in shards]
    n = sum(len(shard.records) for shard in shards)

    def reports(files: bool) -> list[ShardReport | None]:
        return [store.report(*place, files=files) for place in places]

    return [
        ("reports of masks, all in memory, per image", n, *_cost(lambda: reports(True))),
        ("the same without a look at the files", n, *_cost(lambda: reports(False))),
    ]


def _of_looking(folder: Path, n: int) -> list[Row]:
    """A whole index of `n` files, one small PNG under many names, and of nothing that changed."""
    from PIL import Image

    (folder / "images").mkdir()
    first = folder / "images" / "image00000000.png"
    Image.new("RGB", (8, 8)).save(first)
    for number in range(1, n):
        os.link(first, folder / "images" / f"image{number:08d}.png")
    config = Config.load(None, {"data.images": str(folder / "images")})
    store = Store(folder / "looked")

    def look() -> Any:
        return index.make_index(config, store, runner.QUIET.bar)

    return [
        ("index of new images, at the peak", n, *_peak(look)),
        ("index of known images, at the peak", n, *_peak(look)),
    ]


def _cost(work: Callable[[], Any]) -> tuple[float, float]:
    """(bytes that the result holds, processor seconds)."""
    started = time.process_time()
    work()
    seconds = time.process_time() - started
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = work()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    del kept
    return held, seconds


def _peak(work: Callable[[], Any]) -> tuple[float, float]:
    """(most bytes held on the way, processor seconds, which are too many: memory is traced)."""
    tracemalloc.start()
    started = time.process_time()
    work()
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, seconds


def _record(number: int) -> ImageRecord:
    name = f"folder{number // 10_000:05d}/image{number:010d}"
    return ImageRecord(name, f"{name}.jpg", 480, 640, f"{number:064x}", "")


def _reshard(records: list[ImageRecord]) -> Any:
    return index._sharded(records, N_IN_SHARD)


def _content(made: Index) -> str:
    return Index(made.records, {}, 0).content


if __name__ == "__main__":
    main()

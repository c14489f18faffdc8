"""Where the time of a run goes, and what it costs beside the ViT passes.

    make bench-pipeline IMAGES=DIR [TRUTH=DIR CLASSES=TOML SIZES=0,4000]
    python benchmarks/bench_pipeline.py --images DIR [--truth DIR --classes TOML] [--sizes 0,4000]

For each size (0 = the folder as it is; more = its images again under new names) a process of its
own makes a whole run, and before and after it the same ViT passes alone: same images, batch,
precision, threads and device.

    overhead = seconds of the run / seconds of the passes alone, mean of before and after

All after the libraries were loaded, which is told apart ("start"). With crops the passes are those
of the crops, too, timed after the run. Passes alone are timed on `--alone` images and scaled.
Columns of the table: seconds, images a second, share of the cores that was busy, bytes in the run
folder. Peak memory is that of the process and its workers together (and of the GPU).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MIB = 2**20


@dataclass
class Watch:
    """A console that notes wall and CPU seconds of every bar."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield lambda n: None
        row = {"name": name, "seconds": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu}
        row["peak"] = PEAK.most
        self.rows.append(row)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)


def _cpu_seconds() -> float:
    """Of this process, of its workers, and of those that ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    for child in workers():
        with suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def workers() -> list[str]:
    """Process ids of the children that live now."""
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found += (task / "children").read_text().split()
    return found


class Peak(threading.Thread):
    """The most memory that this process and its workers have in use together.

    Pages that several processes hold are counted for each: the sum is an upper bound.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        while True:
            found = [self.alone(), *map(resident, workers())]
            self.most = max(self.most, sum(found))
            time.sleep(0.1)

    @staticmethod
    def alone() -> int:
        return resident("self")


def resident(process: str) -> int:
    """Bytes in memory; 0 if it has ended."""
    with suppress(OSError):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return 0


PEAK = Peak()


# --- one size, in a process of its own ----------------------------------------------------------


def measure(given: dict[str, Any], n_alone: int) -> dict[str, Any]:
    started = time.perf_counter()
    import timm  # noqa: F401  loading it is no part of either figure
    import torch

    from datus.config import Config
    from datus.engine.resources import parallel, resolve_device
    from datus.pipeline import run
    from datus.store.store import Store

    config = Config.load(None, given)
    warm_up(config)
    start = time.perf_counter() - started
    records = index_of(config).records
    passes_alone(config, records, 32)  # or the first ones would be slower than those of the run
    before = passes_alone(config, records, n_alone)
    watch, store = Watch(), Store(config.run_path)
    PEAK.start()
    started = time.perf_counter()
    result = run(config, store, watch)
    whole = time.perf_counter() - started
    peak = PEAK.most
    marks = {node.name: (node.name, node.fingerprint) for node in result.plan.nodes}
    for row in watch.rows:
        names = [one.split(" ")[0] for one in row["name"].split(" + ")]
        row["bytes"] = sum(store.disk_bytes(*marks.get(name, (name,))) for name in names)
    after = passes_alone(config, records, n_alone)
    crops, passes = crops_alone(config, result, n_alone)
    alone = (before + after) / 2 + crops
    on_gpu = resolve_device(config).startswith("cuda")
    return {
        "n_images": len(result.index.records),
        "cores": parallel(config)[0] * parallel(config)[1],
        "start": start,
        "rows": watch.rows,
        "whole": whole,
        "alone": alone,
        "before_after": (before, after),
        "passes": passes,
        "peak": peak,
        "gpu_peak": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


def warm_up(config: Any) -> None:
    """A run of two images: compiled code and kernels are loaded."""
    from dataclasses import replace

    from datus.inputs.find import find_images
    from datus.pipeline import run
    from datus.store.store import Store

    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        source = Path(config.data.images)
        for path in find_images(source).paths[:2]:
            target = images / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((source / path).resolve())
        few = replace(
            config,
            data=replace(config.data, images=str(images), truth=""),
            clusters=replace(config.clusters, k=(2,)),
        )
        run(few, Store(str(Path(folder) / "run")))


def index_of(config: Any) -> Any:
    """The images of a run that is still to come."""
    from datus.inputs.index import make_index
    from datus.store.store import Store

    with tempfile.TemporaryDirectory() as folder:
        return make_index(config, Store(folder), Watch().bar, isolate=False)


def passes_alone(config: Any, records: Any, n_alone: int) -> float:
    """Seconds of a forward pass for each image; decoding is not counted."""
    from datus.engine.resources import runtime_of
    from datus.inputs.decode import fit_size, normalise
    from datus.models.image_size import input_size
    from datus.models.vit import load_backbone
    from datus.stages.features import vit_image

    runtime, settings = runtime_of(config), config.features
    seen = input_size(settings)
    model = load_backbone(
        settings.backbone, settings.weights, settings, runtime.device, config.seed
    )
    some = records[:: max(1, len(records) // n_alone)][:n_alone]
    seconds = 0.0
    for first in range(0, len(some), 64):  # as many decoded images in memory
        images = [
            normalise(
                vit_image(
                    config,
                    one,
                    fit_size(one.height, one.width, seen.image_px, model.patch_px, seen.resize),
                ),
            )
            for one in some[first : first + 64]
        ]
        started = time.perf_counter()
        model.features(images, runtime.threads, runtime.batch)
        seconds += time.perf_counter() - started
    return seconds * len(records) / len(some)


def crops_alone(config: Any, result: Any, n_alone: int) -> tuple[float, float]:
    """(seconds of the passes of all crops, passes an image with that of the image)."""
    if config.embeddings.mode == "pool":
        return 0.0, 1.0
    from datus.engine.resources import runtime_of
    from datus.method.embeddings import crop_side
    from datus.models.vit import load_backbone

    runtime, settings = runtime_of(config), config.features
    model = load_backbone(
        settings.backbone, settings.weights, settings, runtime.device, config.seed
    )
    n_crops = _n_crops(config, result)
    side = crop_side(config.embeddings.crop_px, model.patch_px)
    crop = np.zeros((3, side, side), np.float32)
    n_timed = min(n_crops, 4 * n_alone)
    started = time.perf_counter()
    for first in range(0, n_timed, 64):
        n_some = min(64, n_timed - first)
        model.class_tokens([crop] * n_some, runtime.threads, runtime.batch)
    per_crop = (time.perf_counter() - started) / max(1, n_timed)
    return per_crop * n_crops, 1.0 + n_crops / len(result.index.records)


def _n_crops(config: Any, result: Any) -> int:
    from datus.engine.plan import find_node
    from datus.store.store import Store

    store, node = Store(config.run_path), find_node(result.plan.nodes, "embeddings", 0)
    reports = (store.report(*place) for place in result.plan.places(node))
    return int(sum(row["n_valid"] for report in reports for row in report.numbers.values()))


# --- all sizes ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--sizes", default="0,4000")
    parser.add_argument("--alone", type=int, default=367, help="images of the passes alone")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(json.loads(args.child), args.alone)))
        return
    found = [one_size(args, int(size)) for size in args.sizes.split(",")]
    for one in found:
        print(table(one))
    peaks = [one["peak"] for one in found]
    if len(peaks) > 1:
        print(f"peak memory, most over least: {max(peaks) / min(peaks):.2f}")


def one_size(args: argparse.Namespace, n_images: int) -> dict[str, Any]:
    from datus.config import parse_override

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = repeated(args.images, folder / "images", n_images)
        truth = repeated(args.truth, folder / "truth", n_images) if args.truth else ""
        given = {
            "data.images": str(images),
            "data.truth": str(truth),
            "data.classes": str(args.classes.resolve()) if args.classes else "",
            "clusters.k": [args.clusters],
            "run_dir": str(folder / "run"),
            **dict(parse_override(text) for text in args.set),
        }
        command = [sys.executable, __file__, "--images", str(args.images), "--child"]
        command += [json.dumps(given), "--alone", str(args.alone)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def repeated(folder: Path, target: Path, n_files: int) -> Path:
    """`folder`, or `n_files` links to its files under new names, round and round."""
    if not n_files:
        return folder.resolve()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    target.mkdir()
    for number in range(n_files):
        source = files[number % len(files)]
        os.symlink(source.resolve(), target / f"{number // len(files):03d}_{source.name}")
    return target


def table(found: dict[str, Any]) -> str:
    n_images = found["n_images"]
    lines = [
        f"\n{n_images} images\n",
        "| stages | s | images/s | cores busy | MiB written | peak memory so far, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        seconds = max(row["seconds"], 1e-9)
        lines.append(
            f"| {row['name']} | {seconds:.2f} | {n_images / seconds:.0f} | "
            f"{100 * row['cpu'] / seconds / found['cores']:.0f} % | {row['bytes'] / MIB:.1f} | "
            f"{row['peak'] / MIB:.0f} |"
        )
    lines += [
        f"| whole run | {found['whole']:.2f} | {n_images / found['whole']:.1f} | | | |",
        f"| ViT passes alone, {found['passes']:.1f} an image | {found['alone']:.2f} | "
        f"{n_images / found['alone']:.1f} | | | |",
        "",
        f"overhead {found['whole'] / found['alone']:.2f}; start {found['start']:.1f} s; "
        f"peak memory {found['peak'] / MIB:.0f} MiB"
        + "; passes before and after the run {:.2f} and {:.2f} s".format(*found["before_after"])
        + (f", GPU {found['gpu_peak'] / MIB:.0f} MiB" if found["gpu_peak"] else ""),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

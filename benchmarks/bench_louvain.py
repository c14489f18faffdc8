"""Graph and Louvain: every back end on the same keys, in one run.

    python benchmarks/bench_louvain.py [--images FOLDER] [--quick] [--out NAME]

Keys come from photographs through the shipped backbone (rendered scenes if there is no folder), and
from noise around five centres. At 784 patches figures are means over four photographs, else of
one. For each number of patches: ms from keys to the graph in the form of the back end, ms of one
Louvain run on it, modularity, communities, peak extra memory (a process of its own), and ratios to
scikit-network and python-louvain. Then best of 8, keys -> segments on one and two threads, and what
the first call costs. One thread, the least of several repetitions; a back end whose first run takes
longer than --limit seconds has no others, nor one for its memory (nan), and its row says so. Needs
quiet cores, above all for two threads.
"""

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, markdown
from threadpoolctl import threadpool_limits

from datus.compute.threads import map_threads
from datus.method.affinity import affinity_graph
from datus.method.louvain import BACKENDS, LIBRARIES, modularity, partition
from datus.method.segments import split
from datus.types import Array

PHOTOGRAPHS = ROOT.parent / "shared" / "datasets" / "camvid11_val" / "images"
SIDES = (14, 28, 37, 56, 74)
RESTARTS = 8

CLEAR_PEAK = Path("/proc/self/clear_refs")
"""Writing 5 makes the peak of memory what is held now."""


@dataclass(frozen=True, slots=True)
class Row:
    """One back end on one graph. Times in ms."""

    backend: str
    n_nodes: int
    build: float
    run: float
    modularity: float
    communities: float
    memory_mb: float
    repetitions: float


class Page:
    """Prints lines and remembers them for --out."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str = "") -> None:
        print(text, flush=True)
        self.lines.append(text)

    def table(self, header: str, rows: list[tuple[str, ...]]) -> None:
        """header: cells between ' | '."""
        self.say(f"\n{markdown(header.split(' | '), rows)}\n")


def main() -> None:
    args = arguments()
    if args.memory_of:
        print(memory_of(args.memory_of, args.keys))
        return
    page, name = Page(), args.out or "louvain"
    page.say(f"# {name}")
    page.say()
    page.say(f"{platform.machine()}, {os.cpu_count()} cores, {cpu_model()}, one thread unless said")
    page.say()
    sides = SIDES[:2] if args.quick else SIDES
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(limits=1):
        images = args.images or rendered(Path(folder), 16)
        first_call(page)
        photographs = {
            side: photograph_keys(images, side, 16 if side == 28 else 1) for side in sides
        }
        throughput(page, photographs[28])
        for kind, keys in (
            (f"photographs ({images.name}), mean key of the image subtracted", photographs),
            ("synthetic keys", {side: [synthetic_keys(side)] for side in sides}),
        ):
            page.say(f"## {kind}")
            rows = [row for side in sides for row in measured(keys[side][:4], args.limit, folder)]
            report(page, rows)
        best_of_eight(page, photographs[28], args)
    if args.out:
        target = ROOT / "benchmarks" / "results" / f"{args.out}.md"
        target.parent.mkdir(exist_ok=True)
        target.write_text("\n".join(page.lines) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    images = PHOTOGRAPHS if PHOTOGRAPHS.is_dir() else None
    parser.add_argument("--images", type=Path, default=images, help="folder of photographs")
    parser.add_argument("--quick", action="store_true", help="196 and 784 patches, few images")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds, see above")
    parser.add_argument("--out", default="", help="also write benchmarks/results/NAME.md")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    parser.add_argument("--keys", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- keys ---------------------------------------------------------------------------------------


def photograph_keys(images: Path, side: int, n_images: int) -> list[Array]:
    """float32 (side, side, D) of some images of a folder, evenly spread."""
    from datus.config import FeaturesConfig
    from datus.inputs.decode import decode_image, normalise, resize_image
    from datus.inputs.find import find_images
    from datus.models.vit import load_backbone

    backbone = load_backbone("datus_t8", "auto", FeaturesConfig(), "cpu", seed=0)
    size = (side * backbone.patch_px, side * backbone.patch_px)
    paths = sorted(find_images(images).paths)
    paths = paths[:: max(1, len(paths) // n_images)][:n_images]
    pixels = [resize_image(decode_image((images / p).read_bytes(), 10**9), size) for p in paths]
    grids = backbone.features([normalise(one, "rgb") for one in pixels], 1, 1)
    return [grid.keys for grid in grids]


def rendered(folder: Path, n_images: int) -> Path:
    command = [sys.executable, str(ROOT / "data" / "make_scenes.py"), str(folder / "scenes")]
    subprocess.run([*command, "--n", str(n_images)], check=True, capture_output=True)
    return folder / "scenes" / "images"


def synthetic_keys(side: int) -> Array:
    """Five centres in 64 dimensions, one for each band of rows, under noise."""
    rng = np.random.default_rng(side)
    centres = rng.normal(size=(5, 64))
    keys = centres[np.arange(side) * 5 // side][:, None] + 1.5 * rng.normal(size=(side, side, 64))
    return keys.astype(np.float32)


# --- one graph, all back ends -------------------------------------------------------------------


def measured(keys: list[Array], limit: float, folder: str) -> Iterator[Row]:
    """Means over several keys of one size; memory of the first."""
    path = Path(folder) / "keys.npy"
    np.save(path, keys[0])
    for backend in BACKENDS:
        figures = [timed(backend, image_keys, limit) for image_keys in keys]
        build_ms, run_ms, q, communities, repetitions = np.mean(figures, axis=0).tolist()
        memory_mb = math.nan  # where one run takes so long it is not run again for its memory
        if repetitions > 1:
            memory_mb = float(subprocess_output("--memory-of", backend, "--keys", str(path)))
        print(f"{keys[0].shape[0]} x {keys[0].shape[1]} {backend} done", file=sys.stderr)
        n_nodes = keys[0].shape[0] * keys[0].shape[1]
        yield Row(backend, n_nodes, build_ms, run_ms, q, communities, memory_mb, repetitions)


def timed(backend: str, keys: Array, limit: float) -> tuple[float, float, float, int, int]:
    """(build ms, partition ms, Q, communities, repetitions) of one graph."""
    build, run = steps(backend, keys)
    built, build_ms, _ = least(build, limit)
    communities, run_ms, repetitions = least(lambda: run(built), limit)
    labels = np.unique(communities, return_inverse=True)[1]
    q = modularity(affinity_graph(keys, "image"), labels)
    return build_ms, run_ms, q, int(labels.max()) + 1, repetitions


def steps(backend: str, keys: Array) -> tuple[Callable[[], Any], Callable[[Any], Array]]:
    """(keys -> graph as the back end wants it, that graph -> labels)."""
    if backend == "bits":
        return (
            lambda: affinity_graph(keys, "image"),
            lambda graph: partition(graph, "bits", 1, 0).labels,
        )
    library = LIBRARIES[backend]
    return (
        lambda: library.build(affinity_graph(keys, "image")),
        lambda built: library.run(built, None),
    )


def least(function: Callable[[], Any], limit: float) -> tuple[Any, float, int]:
    """(result, least ms, repetitions). The first call may compile; it counts only if it is slow."""
    started = time.perf_counter()
    result = function()
    seconds = [time.perf_counter() - started]
    repetitions = max(3, min(50, int(1 / seconds[0]))) if seconds[0] <= limit else 0
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return result, 1000 * min(seconds), repetitions + 1


def memory_of(backend: str, path: Path) -> float:
    """Peak MB above what was there before, of build and one run, after a small graph warmed up."""
    before = 0.0
    for keys in (synthetic_keys(6), np.load(path)):
        build, run = steps(backend, keys)
        if CLEAR_PEAK.exists():
            CLEAR_PEAK.write_text("5")
        before = peak_mb()
        run(build())
    return peak_mb() - before


def peak_mb() -> float:
    """nan where the system does not tell."""
    if not CLEAR_PEAK.exists():
        return math.nan
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def report(page: Page, rows: list[Row]) -> None:
    by_key = {(row.backend, row.n_nodes): row for row in rows}
    lines = []
    for row in rows:
        libraries = (by_key[name, row.n_nodes] for name in ("scikit-network", "python-louvain"))
        note = "" if row.repetitions > 1 else " (one run: over the limit)"
        figures = (f"{row.build:.2f}", f"{row.run:.3f}", f"{row.modularity:.5f}")
        figures += (f"{row.communities:.1f}", f"{row.memory_mb:.1f}")
        ratios = (f"{library.run / row.run:,.1f}" for library in libraries)
        lines.append((str(row.n_nodes), f"{row.backend}{note}", *figures, *ratios))
    page.table(
        "patches | back end | build ms | partition ms | Q | communities | peak extra MB | "
        "times scikit-network | times python-louvain",
        lines,
    )
    for backend in BACKENDS:
        own = [row for row in rows if row.backend == backend]
        sizes = [math.log(row.n_nodes) for row in own]
        build, run = (
            np.polyfit(sizes, [math.log(getattr(row, step)) for row in own], 1)[0]
            for step in ("build", "run")
        )
        page.say(f"{backend}: build ~ N^{build:.2f}, partition ~ N^{run:.2f}  ")


# --- several images -----------------------------------------------------------------------------


def best_of_eight(page: Page, keys: list[Array], args: argparse.Namespace) -> None:
    """Mean modularity over images at 784 patches."""
    page.say("## best of 8 node orders, 784 patches, mean Q over photographs")
    images = keys[:3] if args.quick else keys

    def best(image: Array, backend: str) -> float:
        return partition(affinity_graph(image, "image"), backend, RESTARTS, 0).modularity

    lines = []
    for backend in BACKENDS:
        started, q = time.perf_counter(), []
        for image in images:
            q.append(best(image, backend))
            if backend != "bits" and time.perf_counter() - started > 20 * args.limit:
                break
        ms = 1000 * (time.perf_counter() - started) / len(q)
        q_bits = [best(image, "bits") for image in images[: len(q)]]
        note = "" if len(q) == len(images) else f" (stopped after {20 * args.limit:.0f} s)"
        means = f"{np.mean(q):.7f}", f"{np.mean(q_bits):.7f}"
        lines.append((backend, f"{len(q)}{note}", *means, f"{ms:.1f}"))
    page.table("back end | images | mean Q | mean Q of bits on these | ms an image", lines)


def throughput(page: Page, keys: list[Array]) -> None:
    """Keys -> segments, as the pipeline does it."""
    page.say("## keys to segments, 784 patches, back end bits")
    lines = []
    for restarts in (1, 4, RESTARTS):

        def segment(image: Array, restarts: int = restarts) -> int:
            best = partition(affinity_graph(image, "image"), "bits", restarts, 0)
            return split(best.labels, image.shape[:2], best.modularity).n_segments

        rates = []
        for n_threads in (1, 2):
            images = keys * 16
            map_threads(segment, images[:8], n_threads)
            seconds = []
            for _ in range(5):
                started = time.perf_counter()
                map_threads(segment, images, n_threads)
                seconds.append(time.perf_counter() - started)
            rates.append(len(images) / min(seconds))
        ratio = f"{rates[1] / rates[0]:.2f}"
        lines.append((str(restarts), *(f"{rate:.0f}" for rate in rates), ratio))
    page.table("restarts | images/s, 1 thread | 2 threads | ratio", lines)


# --- first call ---------------------------------------------------------------------------------

FIRST_CALL = """
import time, numpy as np
from datus.method import affinity, louvain, segments
keys = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
started = time.perf_counter()
import numba
imported = time.perf_counter()
found = louvain.partition(affinity.affinity_graph(keys), "bits", 1, 0)
segments.split(found.labels, (8, 8), 0.0)
print(imported - started, time.perf_counter() - imported)
"""


def first_call(page: Page) -> None:
    page.say("## first call in a process: keys -> segments of 64 patches")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for state in ("nothing kept", "machine code kept", "machine code kept, again"):
            done = subprocess.run(
                [sys.executable, "-c", FIRST_CALL],
                env={**os.environ, "NUMBA_CACHE_DIR": folder},
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            )
            imported, called = map(float, done.stdout.split())
            lines.append((state, f"{imported:.2f}", f"{called:.2f}"))
    page.table("machine code | s to import numba | s of the first call", lines)


def subprocess_output(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []
    return next((li.split(":")[1].strip() for li in lines if li.startswith("model name")), "")


if __name__ == "__main__":
    main()

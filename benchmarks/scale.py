"""What a run of 10⁵, 10⁷ or 10⁹ images takes: the tables of docs/scale.md.

    python benchmarks/scale.py [--images 100000,10000000,1000000000] [--shard-images 32]
        [--gpu-images 500] [--width 384] [--gpus 64] [--cores 8] [--node-hour 2] [--tb-month 20]

In:  the figures of one image below, each with where it was measured, and a Scenario.
Out: Markdown: bytes, files, hours and cost of each stage; what one process holds and takes.

Prices are parameters, in units of money. GPU seconds are an assumption: no GPU was at hand.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from farm import HOUR, Farm, Group, Whole

KEY_SIZE = 192
"""Of the embedded backbone, with which bytes were measured."""

MEASURED_SHARD = 32


@dataclass(frozen=True)
class Stage:
    """Figures of a stage. Processor seconds of one core."""

    name: str
    bytes_image: float = 0.0
    bytes_shard: float = 0.0
    files_image: float = 0.0
    files_shard: float = 0.0
    files_run: float = 1.0
    core_ms: float = 0.0
    """Of a worker, for one image, beside the GPU."""
    driver_ms: float = 0.0
    """Of the one process that does the stages over all shards, for one image."""
    driver_ms_shard: float = 0.0
    driver_s: float = 0.0
    """Once."""
    driver_ms_large: float = 0.0
    """In place of driver_ms from LARGE_IMAGES on."""
    page_ms: float = 0.0
    """For each image of the shards that the browser page is of."""
    wide: bool = False
    """Bytes grow with the key size of the backbone."""
    gpu: bool = False


LARGE_IMAGES = 16 * 1_000_000 / 31
"""clusters then reads what shards kept: 16 times clusters.sample, 31 valid segments an image."""

PAGE_SHARDS, PAGE_IMAGES = 200, 40_000

# Bytes and files: a run on CamVid val (101 images of 480 x 360, 4 shards, embedded backbone, with
# truth, K = 11).
# Milliseconds: 4,000 images on two quiet cores, seconds x 2 x "cores busy" / images:
#     benchmarks/results/2026-11-21-two-cores-pipeline.md; features without the passes of the ViT.
# Of dataset stages the growth from 367 to 4,000 images in that table, or processor milliseconds of
# what they read in that run.
STAGES = (
    Stage("index", 595, files_run=3, driver_ms=0.14),
    Stage("features", 590_610, files_shard=2, core_ms=11.9, wide=True, gpu=True),
    # sums of 1.2 MB, and 25.6 kB of sampled keys of each image, of 32 or fewer
    Stage("keysums", 0, 2_024_901, files_shard=2, wide=True),
    Stage("center", files_run=3, driver_ms_shard=3.0),
    Stage("graphs", 74_065, files_shard=2, core_ms=8.9),  # with segments and embeddings
    Stage("segments", 9_476, files_shard=2),
    Stage("embeddings", 157_126, files_shard=2, wide=True),
    Stage("samples", 1_385, files_shard=2, core_ms=0.05, wide=True),
    # to sample the vectors of that run; k-means itself stops growing at clusters.sample
    # vectors, which 31 segments an image fill at 32,000 images: 15 s by its growth until there
    Stage("clusters", files_run=3, driver_ms=0.21, driver_ms_large=0.009, driver_s=15.0),
    Stage("masks", 31_414, files_image=1, files_shard=2, core_ms=13.3),  # with evaluate
    Stage("evaluate", 4_788, files_shard=2),
    Stage("tallies", 2_391, files_shard=2, core_ms=0.32),  # fewer bytes an image in larger shards
    # 16 images, two views each: 0.36 s a view on one thread of a busy core, the ViT above all
    Stage("views", files_run=3, driver_s=12.0),
    # tallies and the reports of the shards; 10,000 images of the page at 3.1 ms, and all arrays of
    # the shards that these are in
    Stage("report", files_run=6, driver_ms=0.069, driver_s=31.0, page_ms=0.37),
)

PER_RUN_BYTES = {"center": 603_024, "clusters": 53_019, "views": 3_602_900, "report": 1_094_670}


@dataclass(frozen=True)
class Scenario:
    n_images: int
    shard_images: int = MEASURED_SHARD
    width: int = 384
    """Key size of the backbone: 384 of a ViT-S."""
    gpu_images: float = 500.0
    """ASSUMED: images a second of one GPU. A ViT-S/8 at 224 pixels takes 46 GFLOP an image (sum of
    its matrix products); 500 a second are 23 TFLOP/s sustained."""
    gpus: int = 64
    cores: int = 8
    """Of a node, beside its GPU."""
    node_hour: float = 2.0
    """Price."""
    tb_month: float = 20.0
    """Price, 10¹² bytes for a month."""


@dataclass(frozen=True)
class Cost:
    """One stage of one scenario."""

    name: str
    n_bytes: float
    n_files: float
    node_hours: float
    """GPU and cores of a node one after the other, as the code works."""
    driver_hours: float
    """Of the one process that all others wait for."""
    price: float
    """Node hours, and all nodes while they wait for the driver."""


def cost_of(stage: Stage, at: Scenario) -> Cost:
    n_shards = math.ceil(at.n_images / at.shard_images)
    wide = at.width / KEY_SIZE if stage.wide else 1.0
    n_bytes = wide * (stage.bytes_image * at.n_images + stage.bytes_shard * n_shards)
    n_bytes += PER_RUN_BYTES.get(stage.name, 0)
    n_files = stage.files_image * at.n_images + stage.files_shard * n_shards + stage.files_run
    node = stage.core_ms / 1000 / at.cores + (1 / at.gpu_images if stage.gpu else 0.0)
    node_hours = at.n_images * node / HOUR
    driver = stage.driver_s + at.n_images * driver_ms(stage, at) / 1000
    driver += page_images(at) * stage.page_ms / 1000
    driver += n_shards * stage.driver_ms_shard / 1000 * _reading(stage, at)
    driver_hours = driver / HOUR
    price = at.node_hour * (node_hours + at.gpus * driver_hours)
    return Cost(stage.name, n_bytes, n_files, node_hours, driver_hours, price)


def page_images(at: Scenario) -> int:
    """Of the shards that the browser page is of."""
    return min(at.n_images, max(PAGE_SHARDS * at.shard_images, PAGE_IMAGES))


def driver_ms(stage: Stage, at: Scenario) -> float:
    """Of one image, in the process that does the stages over all shards."""
    large = stage.driver_ms_large and at.n_images > LARGE_IMAGES
    return (stage.driver_ms_large if large else stage.driver_ms) * _reading(stage, at)


def _reading(stage: Stage, at: Scenario) -> float:
    """Clusters reads embeddings and center sums of keys: more bytes of a wider backbone."""
    return at.width / KEY_SIZE if stage.name in ("clusters", "center") else 1.0


def total(costs: Sequence[Cost]) -> Cost:
    return Cost(
        "all",
        sum(one.n_bytes for one in costs),
        sum(one.n_files for one in costs),
        sum(one.node_hours for one in costs),
        sum(one.driver_hours for one in costs),
        sum(one.price for one in costs),
    )


def table(at: Scenario) -> str:
    """Markdown: one row a stage."""
    costs = [cost_of(stage, at) for stage in STAGES]
    lines = [
        f"{at.n_images:,} images, shards of {at.shard_images}, key size {at.width}, "
        f"{at.gpu_images:g} images/s a GPU (assumed), {at.gpus} nodes",
        "",
        "| stage | bytes | files | node hours | hours of one process | price |",
        "|---|---|---|---|---|---|",
    ]
    for one in (*costs, total(costs)):
        cells = (size(one.n_bytes), count(one.n_files), hours(one.node_hours))
        more = hours(one.driver_hours), count(one.price)
        lines.append(f"| {one.name} | {' | '.join((*cells, *more))} |")
    month = at.tb_month * total(costs).n_bytes / 1e12
    return "\n".join([*lines, "", f"Keeping all of it for a month: {count(month)}."])


# --- what one process holds and takes -----------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """Bytes held at once, for one image or for one shard."""

    what: str
    of_image: float = 0.0
    of_shard: float = 0.0
    wide: bool = False
    before: bool = False
    """As it was until this page was written."""


# tracemalloc on an index and reports of 30,000 invented images; sizes of arrays by their shapes
GROWTH = (
    Growth("index: records, last look, files to write, at the peak", 1_938),
    Growth("reports of masks, all at once", 675, before=True),
    Growth("sums of keys, all shards at once", 0, 1_204_800, wide=True, before=True),
    Growth("counts of evaluate, all images at once (K = 11, C = 11)", 1_200, before=True),
    Growth("names and hashes of all masks, for the report", 500, before=True),
    Growth("ids of what is done and scored, for the examples of the report", 200),
    Growth("jobs and plan", 11, 88),
)


def holds(sizes: Sequence[int], shard_images: int = MEASURED_SHARD, width: int = 384) -> str:
    """Markdown: what one process holds at each size."""
    lines = [f"| one process holds | {' | '.join(f'{n:,} images' for n in sizes)} |"]
    lines.append(f"|---|{'---|' * len(sizes)}")
    for one in GROWTH:
        wide = width / KEY_SIZE if one.wide else 1.0
        each = one.of_image + wide * one.of_shard / shard_images
        cells = " | ".join(size(each * n) for n in sizes)
        lines.append(f"| {one.what}{', before' if one.before else ''} | {cells} |")
    return "\n".join(lines)


# --- the same figures for the simulation --------------------------------------------------------


def simulated_plan(at: Scenario | None = None) -> tuple[Group | Whole, ...]:
    """The groups of a run with truth, one K, and what stands between them."""
    at = at or Scenario(10_000_000)
    by_name = {stage.name: stage for stage in STAGES}
    wide = at.width / KEY_SIZE
    features, embedded = (wide * by_name[n].bytes_image for n in ("features", "embeddings"))

    def whole(name: str, requests: float) -> Whole:
        stage = by_name[name]
        each = _reading(stage, at) / 1000
        of_shard, of_image = each * stage.driver_ms_shard, driver_ms(stage, at) / 1000
        page = page_images(at) * stage.page_ms / 1000
        return Whole(name, of_image, of_shard, stage.driver_s + page, requests)

    def group(name: str, stages: int, requests: float, n_bytes: float) -> Group:
        core = sum(by_name[one].core_ms for one in name.split(" + ")) / 1000
        gpu = 1 / at.gpu_images if name.startswith("features") else 0.0
        # evaluate, and nothing else, reads beside the image a true mask
        reads = {"features + keysums": 1.0, "masks + evaluate + tallies": 2.0}.get(name, 0.0)
        writes = 1.0 if name.startswith("masks") else 0.0
        return Group(
            name, gpu, core, PER_SHARD_S, SPREAD[name], stages, reads, writes, requests, n_bytes
        )

    read = embedded + by_name["segments"].bytes_image
    masks = read + sum(by_name[n].bytes_image for n in ("masks", "evaluate", "tallies"))
    graphs = read + features + sum(by_name[n].bytes_image for n in ("graphs", "samples"))
    return (
        Whole("index", by_name["index"].driver_ms / 1000, own_round=False),
        # requests: is it done (1), arrays and report (2) of each stage; 3 for each that is read
        group("features + keysums", 2, 6, features),
        whole("center", 2),
        group("graphs + segments + embeddings + samples", 4, 18, graphs),
        whole("clusters", 3),
        group("masks + evaluate + tallies", 3, 18, masks),
        # with the clusters, or with the report; of the shards it reads 16
        replace(whole("views", 0), own_round=False),
        whole("report", REPORT_REQUESTS),
    )


def simulated_farm() -> Farm:
    """64 nodes; requests of half a millisecond and 1 GB/s to storage are assumptions."""
    return Farm(
        latency=0.0005,
        bandwidth=1e9,
        driver_give=113e-6,  # measured: to pickle a job
        asks=4,  # is it done, at the door and before; its seconds; its failures and warnings
        round_start=60.0,  # assumed: a scheduler starts processes, they load libraries
        index_look=50e-6,  # measured: the parts of an index of known images, one look at each
    )


PER_SHARD_S = 0.02
"""ASSUMED. Of a worker for a shard of any size: memory given back, JSON, a megabyte of sums."""

SPREAD = {
    "features + keysums": 0.06,
    "graphs + segments + embeddings + samples": 0.12,
    "masks + evaluate + tallies": 0.08,
}
"""Deviation of the logarithm of a shard's processor seconds, shards of 8 photographs of other
sizes and shapes (clothing, every second image, 126; one shard and one thread at a time)."""

REPORT_REQUESTS = 10
"""Counted in reporting.py and browsing.py: the reports of six stages, and tallies twice, two
requests each. Before it was 32."""


# --- numbers as people read them ----------------------------------------------------------------


def size(n_bytes: float) -> str:
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{_digits(n_bytes / factor)} {unit}"
    return f"{_digits(n_bytes / 1e3)} kB"


def count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def hours(number: float) -> str:
    return "–" if number == 0 else f"{_digits(number)}"


def _digits(number: float) -> str:
    """Three digits, no exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number >= 0.001 else "0.001"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", default="100000,10000000,1000000000")
    usual = Scenario(0)
    for name in ("shard_images", "width", "gpus", "cores"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(usual, name))
    for name in ("gpu_images", "node_hour", "tb_month"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(usual, name))
    given = vars(parser.parse_args())
    sizes = [int(n) for n in given.pop("images").split(",")]
    for n in sizes:
        print(f"{table(Scenario(n, **given))}\n")
    print(holds(sizes, given["shard_images"], given["width"]))


if __name__ == "__main__":
    main()

"""Presets and settings over backbones of every strength: one table, mean and worst case.

    python benchmarks/backbone_bench.py --data DATASETS --out FILE.jsonl
    python benchmarks/backbone_bench.py ... --variant "threshold 0.7: graphs.threshold=0.7"
    python benchmarks/backbone_bench.py --out FILE.jsonl --table

DATASETS holds camvid11_train, facades, ccp_clothing and camvid11_val, each with images/ and masks/.
Rows are the embedded backbone, a ViT-S/8 with random weights, the embedded one with noisy and with
whitened keys, and simulated features of five strengths (module `simulated`). Each runs the stages
of the pipeline from the keys to the clusters, on at most 100 images of each set, with three seeds
and as many clusters as classes. Masks are blocks of patches: borders that follow the image help all
rows alike.

Cells are mIoU / pixel accuracy, `hungarian_strict`. A variant is judged by the ratio of each cell
to the best variant of that cell: its mean, and the worst one.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, by_key, class_table, markdown, mean, read_rows, run_jobs
from simulated import BENCH_VIEWS, Strength, noisy, picture, simulated, whitened

from datus.config import EMBEDDED_BACKBONE, Config, parse_override
from datus.engine.plan import Node
from datus.engine.stage import Context, Runtime
from datus.errors import DatusError
from datus.inputs.index import Index, Shard, make_index
from datus.inputs.labels import load_classes, truth_classes
from datus.inputs.read import read_image, read_truth
from datus.method.clusters import assign
from datus.method.masks import fill_from_neighbours, labels_to_pixels
from datus.method.metrics import add, count_pixels, score
from datus.pipeline import make_plan
from datus.review.cluster_arrays import cluster_model
from datus.stages.segments import segment_map
from datus.store.store import Store
from datus.types import WHOLE, Array, ImageRecord, SegmentEmbeddings, ShardData

SETS = {
    "camvid11_train": "camvid11",
    "facades": "labelmefacade8",
    "ccp_clothing": "clothing9",
    "camvid11_val": "camvid11",
}
"""Folder -> class table."""

ALL_SETS = SETS | {"suim_test8": "suim6", "camvid11_test": "camvid11"}

SIDE = 28
"""Patches along the side of a square image."""

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "backbone_bench"

Grids = list[tuple[Array, Array]]
"""(keys, tokens) of each image."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one set, with their truth."""

    config: Config
    index: Index
    truths: tuple[Array, ...]
    """uint8 (H, W): class numbers."""
    n_classes: int


def load(name: str, data: Path, n_images: int) -> ImageSet:
    """At most `n_images`, spread evenly over the set."""
    table = class_table(ALL_SETS[name])
    paths = {"data.images": str(data / name / "images"), "data.truth": str(data / name / "masks")}
    config = Config.load(None, {**paths, "data.classes": str(table)})
    with tempfile.TemporaryDirectory() as temporary:
        records = make_index(config, Store(temporary), _no_bar).records
    n = min(n_images, len(records))
    chosen = tuple(records[(2 * i + 1) * len(records) // (2 * n)] for i in range(n))
    classes, truths = load_classes(table), []
    for record in chosen:
        labels = read_truth(config, record)
        assert labels is not None
        truths.append(truth_classes(labels, classes, (record.height, record.width)))
    return ImageSet(config, Index(chosen, {}, 0), tuple(truths), classes.n_classes)


@contextmanager
def _no_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda n: None


# --- backbones ----------------------------------------------------------------------------------


def real(
    backbone: str, weights: str, images: ImageSet, cache: Path, view: str = "", every: int = 1
) -> Grids:
    """Of a model; float16, made once and kept below `cache`."""
    from datus.compute.threads import map_threads
    from datus.inputs.decode import fit_size, normalise, resize_image
    from datus.models.vit import load_backbone

    config, records = images.config, images.index.records[::every]
    name = f"{Path(config.data.images).parent.name}-{backbone}-{weights}-{len(records)}{view}"
    file = cache / f"{name}.npz"
    if not file.exists():
        model = load_backbone(backbone, weights, config.features)

        def grids(record: ImageRecord) -> tuple[Array, Array]:
            side = SIDE * model.patch_px
            size = fit_size(record.height, record.width, side, model.patch_px, "keep")
            image = resize_image(picture(read_image(config, record), view), size)
            grid = model.features([normalise(image, "rgb")], 1, 1)[0]
            return grid.keys.astype(np.float16), grid.tokens.astype(np.float16)

        arrays = {}
        for n, (keys, tokens) in enumerate(map_threads(grids, records, 2)):
            arrays |= {f"k{n}": keys, f"t{n}": tokens}
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"tmp-{name}.npz"
        np.savez(fresh, **arrays)  # type: ignore[arg-type]
        fresh.rename(file)
    with np.load(file) as arrays:
        return [(arrays[f"k{n}"], arrays[f"t{n}"]) for n in range(len(records))]


def changed(
    change: Callable[..., Iterator[Array]],
    images: ImageSet,
    cache: Path,
    view: str = "",
    every: int = 1,
) -> Grids:
    """Of the embedded backbone, with other keys."""
    grids = real(EMBEDDED_BACKBONE, "auto", images, cache, view, every)
    dataset = real(EMBEDDED_BACKBONE, "auto", images, cache) if view else grids
    keys, all_keys = ([k.astype(np.float32) for k, _ in pairs] for pairs in (grids, dataset))
    new_keys = change(keys, like=all_keys, seed=("", *BENCH_VIEWS).index(view))
    return [(new, tokens) for new, (_, tokens) in zip(new_keys, grids, strict=True)]


def made(
    strength: Strength, side: int, images: ImageSet, cache: Path, view: str = "", every: int = 1
) -> Grids:
    """Simulated."""
    return list(simulated(images.truths, images.n_classes, side, strength, view=view))[::every]


Make = Callable[..., Grids]
"""(images, cache, view, every) -> grids of every n-th image; view as in `simulated`."""

BACKBONES: dict[str, Make] = {
    "embedded": partial(real, EMBEDDED_BACKBONE, "auto"),
    "random ViT-S/8": partial(real, "vit_small_patch8_224.dino", "random"),
    "embedded, noise 0.4": partial(changed, partial(noisy, share=0.4)),
    "embedded, noise 0.7": partial(changed, partial(noisy, share=0.7)),
    "embedded, whitened": partial(changed, whitened),
    "simulated, noise 0.25": partial(made, Strength(0.25), SIDE),
    "simulated, noise 0.5": partial(made, Strength(0.5), SIDE),
    "simulated, noise 1": partial(made, Strength(1.0), SIDE),
    "simulated, noise 2, looks": partial(made, Strength(2.0, appearance=0.8), SIDE),
    "simulated, noise 1, place": partial(made, Strength(1.0, 0.8, position=1.0), SIDE),
}
EXTRA: dict[str, Make] = {
    "simulated, noise 1, 14 patches": partial(made, Strength(1.0), 14),
    "simulated, noise 0.5, 40 patches": partial(made, Strength(0.5), 40),
    "simulated, place alone": partial(made, Strength(1.0, 1.0, position=3.0), SIDE),
    "random embedded": partial(real, EMBEDDED_BACKBONE, "random"),
}
ALL_BACKBONES = BACKBONES | EXTRA


# --- one cell -----------------------------------------------------------------------------------


@dataclass
class Memory:
    """The dataset of stages that were made in memory, all images in one shard."""

    shard: Shard
    outputs: dict[str, ShardData] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def index(self) -> Index:
        return Index(self.shard.records, {}, 0)

    def data(self, stage: str, k: int, images: Any = None) -> Iterator[tuple[Shard, ShardData]]:
        yield self.shard, self.outputs[stage]

    def reports(self, stage: str, k: int) -> Iterator[ShardData]:
        yield self.outputs[stage]

    def make(self, config: Config, node: Node) -> ShardData:
        """The output of a stage, from those that it needs."""
        work = node.stage.build(Context(config, node.k, Runtime("cpu", 1, 1)))
        if node.scope == "dataset":
            return work(self, lambda n: None)
        needed = {name: self.outputs[name] for name in node.needs}
        return work(self.shard, needed, lambda n: None)


def memory_of(records: Sequence[ImageRecord], grids: Grids) -> Memory:
    """With what the features stage would store."""
    arrays = {}
    for record, (keys, tokens) in zip(records, grids, strict=True):
        size = np.array([8 * keys.shape[0], 8 * keys.shape[1]], np.int32)
        arrays[record.image_id] = {"keys": keys, "tokens": tokens, "size": size}
    return Memory(Shard("all", tuple(records)), {"features": ShardData(arrays=arrays)})


def config_of(images: ImageSet, k: int, settings: Mapping[str, Any]) -> Config:
    data = images.config.data
    paths = {f"data.{name}": getattr(data, name) for name in ("images", "truth", "classes")}
    return Config.load(None, {**paths, "clusters.k": [k], **settings})


def measure(
    images: ImageSet, features: ShardData, settings: Mapping[str, Any], memo: dict[str, ShardData]
) -> Row:
    """Figures of one variant and seed. memo: fingerprint -> output, of this backbone."""
    config = config_of(images, images.n_classes, settings)
    memory = Memory(Shard("all", images.index.records), {"features": features})
    for node in make_plan(config, images.index).nodes[1:]:
        if node.name == "masks":
            break
        if node.fingerprint not in memo:
            memo[node.fingerprint] = memory.make(config, node)
        memory.outputs[node.name] = memo[node.fingerprint]
    return scores(config, images, memory) | figures(memory)


def scores(config: Config, images: ImageSet, memory: Memory) -> Row:
    model, counts = cluster_model(memory.outputs["clusters"].arrays[WHOLE]), []
    for record, truth in zip(images.index.records, images.truths, strict=True):
        embedded = memory.outputs["embeddings"].arrays[record.image_id]
        clusters = assign(model, SegmentEmbeddings(embedded["vectors"], embedded["valid"]))
        segments = segment_map(memory.outputs["segments"].arrays[record.image_id])
        if config.masks.noise == "nearest":
            clusters = fill_from_neighbours(segments, clusters)
        mask = labels_to_pixels(clusters.cluster.astype(np.uint8)[segments.labels], *truth.shape)
        counts.append(count_pixels(mask, truth, model.n_clusters, images.n_classes))
    strict = score(add(counts), "hungarian_strict")
    return {"miou": strict.miou, "accuracy": strict.accuracy}


def figures(memory: Memory) -> Row:
    def mean_of(stage: str, name: str) -> float:
        return mean(numbers[name] for numbers in memory.outputs[stage].numbers.values())

    row: Row = {
        "density": mean_of("graphs", "density"),
        "segments": mean_of("segments", "n_segments"),
        "valid": mean_of("embeddings", "n_valid"),
        "valid_share": mean_of("embeddings", "valid_patch_share"),
    }
    if center := memory.outputs.get("center"):
        row["center"] = center.arrays[WHOLE]["choice"].tobytes().decode()
        row |= center.numbers[WHOLE]
    return row


# --- all cells ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One backbone on one set, all variants and seeds."""

    backbone: str
    dataset: str
    variants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    data: Path
    cache: Path
    n_images: int


def work_on(job: Job) -> list[Row]:
    images = load(job.dataset, job.data, job.n_images)
    grids = ALL_BACKBONES[job.backbone](images, job.cache)
    features = memory_of(images.index.records, grids).outputs["features"]
    rows: list[Row] = []
    memo: dict[str, ShardData] = {}
    for name, settings in job.variants.items():
        for seed in job.seeds:
            row: Row = {"backbone": job.backbone, "set": job.dataset, "variant": name, "seed": seed}
            started = time.perf_counter()
            try:
                row |= measure(images, features, {**settings, "seed": seed}, memo)
            except DatusError as error:
                row |= {"error": str(error), "miou": 0.0, "accuracy": 0.0}
            rows.append({**row, "seconds": time.perf_counter() - started})
    return rows


def tables(rows: Sequence[Row]) -> str:
    """Markdown: a table of cells for each variant, then mean and worst ratio of all variants."""
    cells = by_key(rows, "variant", "backbone", "set")
    variants = list(dict.fromkeys(variant for variant, _, _ in cells))
    backbones = [name for name in ALL_BACKBONES if any(name == b for _, b, _ in cells)]
    sets = [name for name in ALL_SETS if any(name == s for _, _, s in cells)]
    texts = []
    for variant in variants:
        lines = [
            (backbone, *cell_texts([cells.get((variant, backbone, name), []) for name in sets]))
            for backbone in backbones
        ]
        header = ("backbone", *sets, "linked", "valid")
        texts.append(f"\n**{variant}**\n\n{markdown(header, lines)}")
    best = {
        (b, s): max(miou(cells.get((v, b, s), ())) for v in variants)
        for b in backbones
        for s in sets
    }
    lines = []
    for variant in variants:
        own = {key[1:]: cell for key, cell in cells.items() if key[0] == variant}
        ratios = {key: miou(cell) / max(best[key], 1e-9) for key, cell in own.items()}
        worst = min(ratios, key=lambda key: ratios[key])
        failed = sum("error" in row for cell in own.values() for row in cell)
        numbers = (f"{mean(map(miou, own.values())):.2f}", f"{ratios[worst]:.3f}")
        where = f"{worst[0]}, {worst[1]}"
        lines.append((variant, *numbers, f"{mean(ratios.values()):.3f}", where, str(failed)))
    header = ("variant", "mean mIoU", "worst ratio", "mean ratio", "worst cell", "failed")
    return "\n".join([*texts, "", markdown(header, lines)])


def cell_texts(cells: Sequence[Sequence[Row]]) -> list[str]:
    """Cells of one backbone: scores on each set, and the shares of linked pairs and of patches in
    valid segments."""
    texts = []
    for cell in cells:
        spread = np.std([row["miou"] for row in cell], ddof=1) if len(cell) > 1 else 0.0
        accuracy = mean(row["accuracy"] for row in cell) if cell else 0.0
        texts.append(f"{miou(cell):.1f} ± {spread:.1f} / {accuracy:.1f}" if cell else "-")
    done = [row for cell in cells for row in cell if "density" in row]
    shares = [100 * mean([row[n] for row in done] or [0]) for n in ("density", "valid_share")]
    return [*texts, f"{shares[0]:.1f} %", f"{shares[1]:.0f} %"]


def miou(cell: Sequence[Row]) -> float:
    return mean(row["miou"] for row in cell) if cell else 0.0


def main() -> None:
    args = parse()
    if not args.table:
        parts = args.backbones.split(";")
        names = [b for b in ALL_BACKBONES if any(part in b for part in parts)]
        seeds = tuple(map(int, args.seeds.split(",")))
        variants = dict(map(variant, args.variant or ["best:"]))
        jobs = [
            Job(backbone, name, variants, seeds, args.data, args.cache, args.images)
            for name in args.sets.split(",")
            for backbone in (names if args.backbones else BACKBONES)
        ]
        run_jobs(work_on, jobs, args.out, args.processes)
    print(tables(read_rows(args.out)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets"))
    parser.add_argument("--out", type=Path, required=True, help="rows are added to this file")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument(
        "--variant", action="append", help="NAME: section.key=value section.key=value"
    )
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--backbones", default="", help="parts of names, with semicolons")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what the file holds")
    return parser.parse_args()


def variant(text: str) -> tuple[str, dict[str, Any]]:
    name, _, settings = text.partition(":")
    return name.strip(), dict(parse_override(setting) for setting in settings.split())


if __name__ == "__main__":
    main()

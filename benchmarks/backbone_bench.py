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
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from simulated import BENCH_VIEWS, Strength, noisy, picture, simulated, whitened

from datus.config import EMBEDDED_BACKBONE, Config, parse_override
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

CLASSES = Path(__file__).resolve().parents[1] / "data" / "classes"

SETS = {
    "camvid11_train": "camvid11",
    "facades": "labelmefacade8",
    "ccp_clothing": "clothing9",
    "camvid11_val": "camvid11",
}
"""Folder -> class table."""

MORE_SETS = {"suim_test8": "suim6", "camvid11_test": "camvid11"}

SIDE = 28
"""Patches along the side of a square image."""

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "backbone_bench"

RANDOM = "vit_small_patch8_224.dino"


@dataclass(frozen=True)
class Given:
    """The images of one set."""

    config: Config
    index: Index
    truths: tuple[Array, ...]
    """uint8 (H, W): class numbers."""
    n_classes: int


Grids = list[tuple[Array, Array]]
"""(keys, tokens) of each image."""


def real(
    backbone: str, weights: str, given: Given, cache: Path, view: str = "", every: int = 1
) -> Grids:
    """float16, made once and kept below `cache`."""
    from datus.compute.threads import map_threads
    from datus.inputs.decode import fit_size, normalise, resize_image
    from datus.models.vit import load_backbone

    records = given.index.records[::every]
    name = f"{Path(given.config.data.images).parent.name}-{backbone}-{weights}-{len(records)}{view}"
    file = cache / f"{name}.npz"
    if not file.exists():
        model = load_backbone(backbone, weights, given.config.features)

        def one(record: ImageRecord) -> tuple[Array, Array]:
            side = SIDE * model.patch_px
            size = fit_size(record.height, record.width, side, model.patch_px, "keep")
            image = resize_image(picture(read_image(given.config, record), view), size)
            grid = model.features([normalise(image)], 1, 1)[0]
            return grid.keys.astype(np.float16), grid.tokens.astype(np.float16)

        found = map_threads(one, records, 2)
        arrays = {f"k{n}": keys for n, (keys, _) in enumerate(found)}
        arrays |= {f"t{n}": tokens for n, (_, tokens) in enumerate(found)}
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"tmp-{name}.npz"
        np.savez(fresh, **arrays)  # type: ignore[arg-type]
        fresh.rename(file)
    with np.load(file) as arrays:
        return [(arrays[f"k{n}"], arrays[f"t{n}"]) for n in range(len(records))]


def changed(
    change: Callable[..., Iterator[Array]],
    given: Given,
    cache: Path,
    view: str = "",
    every: int = 1,
) -> Grids:
    """The embedded backbone's, with other keys."""
    found = real(EMBEDDED_BACKBONE, "auto", given, cache, view, every)
    like = found if not view else real(EMBEDDED_BACKBONE, "auto", given, cache)
    keys, ours = ([one.astype(np.float32) for one, _ in grids] for grids in (found, like))
    new = change(keys, like=ours, seed=("", *BENCH_VIEWS).index(view))
    return [(one, tokens) for one, (_, tokens) in zip(new, found, strict=True)]


def made(
    strength: Strength, side: int, given: Given, cache: Path, view: str = "", every: int = 1
) -> Grids:
    found = simulated(given.truths, given.n_classes, side, strength, view=view)
    return list(found)[::every]


Make = Callable[..., Grids]
"""(given, cache, view, every) -> grids of every n-th image; view as in `simulated`."""

BACKBONES: dict[str, Make] = {
    "embedded": partial(real, EMBEDDED_BACKBONE, "auto"),
    "random ViT-S/8": partial(real, RANDOM, "random"),
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


# --- one cell -----------------------------------------------------------------------------------


@dataclass
class Memory:
    """A `gather.Dataset` of stages that were made in memory, all images in one shard."""

    index: Index
    shard: Shard
    warnings: tuple[str, ...] = ()
    outputs: dict[str, ShardData] = field(default_factory=dict)

    def data(self, stage: str, k: int, images: Any = None) -> Iterator[tuple[Shard, ShardData]]:
        yield self.shard, self.outputs[stage]

    def reports(self, stage: str, k: int) -> Iterator[ShardData]:
        yield self.outputs[stage]


def load(name: str, data: Path, n_images: int) -> Given:
    """At most `n_images`, spread evenly over the set."""
    classes = CLASSES / f"{({**SETS, **MORE_SETS})[name]}.toml"
    folder = data / name
    given = {"data.images": str(folder / "images"), "data.truth": str(folder / "masks")}
    config = Config.load(None, {**given, "data.classes": str(classes)})
    with tempfile.TemporaryDirectory() as temporary:
        whole = make_index(config, Store(temporary), _no_bar)
    n = min(n_images, len(whole.records))
    picked = [whole.records[(2 * i + 1) * len(whole.records) // (2 * n)] for i in range(n)]
    index, table, truths = Index(tuple(picked), {}, 0), load_classes(classes), []
    for record in index.records:
        labels = read_truth(config, record)
        assert labels is not None
        truths.append(truth_classes(labels, table, (record.height, record.width)))
    return Given(config, index, tuple(truths), table.n_classes)


@contextmanager
def _no_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda n: None


def features_of(given: Given, grids: Grids) -> ShardData:
    """What the features stage would store."""
    arrays = {}
    for record, (keys, tokens) in zip(given.index.records, grids, strict=True):
        size = np.array([8 * keys.shape[0], 8 * keys.shape[1]], np.int32)
        arrays[record.image_id] = {"keys": keys, "tokens": tokens, "size": size}
    return ShardData(arrays=arrays)


def run(given: Given, features: ShardData, overrides: Mapping[str, Any], memo: dict) -> dict:
    """Figures of one variant and seed. `memo`: fingerprint -> output, of this backbone."""
    data = {f"data.{name}": getattr(given.config.data, name) for name in ("images", "truth")}
    data |= {"data.classes": given.config.data.classes, "clusters.k": [given.n_classes]}
    config = Config.load(None, {**data, **overrides})
    plan = make_plan(config, given.index)
    shard = Shard("all", given.index.records)
    dataset = Memory(given.index, shard, outputs={"features": features})
    for node in plan.nodes[1:]:
        if node.name == "masks":
            break
        if node.fingerprint not in memo:
            work = node.stage.build(Context(config, node.k, Runtime("cpu", 1, 1)))
            needed = {name: dataset.outputs[name] for name in node.needs}
            if not node.is_dataset:
                memo[node.fingerprint] = work(shard, needed, lambda n: None)
            else:
                memo[node.fingerprint] = work(dataset, lambda n: None)
        dataset.outputs[node.name] = memo[node.fingerprint]
    return {**scored(config, given, dataset), **figures(dataset)}


def scored(config: Config, given: Given, dataset: Memory) -> dict[str, float]:
    model, counts = cluster_model(dataset.outputs["clusters"].arrays[WHOLE]), []
    for record, truth in zip(given.index.records, given.truths, strict=True):
        embedded = dataset.outputs["embeddings"].arrays[record.image_id]
        found = assign(model, SegmentEmbeddings(embedded["vectors"], embedded["valid"]))
        segments = segment_map(dataset.outputs["segments"].arrays[record.image_id])
        if config.masks.noise == "nearest":
            found = fill_from_neighbours(segments, found)
        mask = labels_to_pixels(found.cluster.astype(np.uint8)[segments.labels], *truth.shape)
        counts.append(count_pixels(mask, truth, model.n_clusters, given.n_classes))
    found = score(add(counts), "hungarian_strict")
    return {"miou": found.miou, "accuracy": found.accuracy}


def figures(dataset: Memory) -> dict[str, Any]:
    def mean(stage: str, name: str) -> float:
        return float(np.mean([row[name] for row in dataset.outputs[stage].numbers.values()]))

    found: dict[str, Any] = {
        "density": mean("graphs", "density"),
        "segments": mean("segments", "n_segments"),
        "valid": mean("embeddings", "n_valid"),
        "valid_share": mean("embeddings", "valid_patch_share"),
    }
    if "center" in dataset.outputs:
        center = dataset.outputs["center"]
        found["center"] = center.arrays[WHOLE]["choice"].tobytes().decode()
        found |= center.numbers[WHOLE]
    return found


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


def work_on(job: Job) -> list[dict[str, Any]]:
    given = load(job.dataset, job.data, job.n_images)
    features = features_of(given, {**BACKBONES, **EXTRA}[job.backbone](given, job.cache))
    rows, memos = [], {}
    for name, overrides in job.variants.items():
        plain = {key: value for key, value in overrides.items() if not key.startswith("bench.")}
        kind = overrides.get("bench.tokens", "plain")
        if kind == "centred" and kind not in memos:
            centred = without_place(features)
        for seed in job.seeds:
            row = {"backbone": job.backbone, "set": job.dataset, "variant": name, "seed": seed}
            memo = memos.setdefault(kind, {})
            started = time.perf_counter()
            try:
                seen = centred if kind == "centred" else features
                row |= run(given, seen, {**plain, "seed": seed}, memo)
            except DatusError as error:
                row |= {"error": str(error), "miou": 0.0, "accuracy": 0.0}
            rows.append({**row, "seconds": time.perf_counter() - started})
    return rows


def without_place(features: ShardData) -> ShardData:
    """Tokens less their mean at each place over the dataset."""
    from datus.method.centering import add as add_sums
    from datus.method.centering import key_sums, position_mean, without

    tokens = {name: arrays["tokens"] for name, arrays in features.arrays.items()}
    mean = position_mean(add_sums(key_sums(one) for one in tokens.values()))
    arrays = {
        name: {**arrays, "tokens": without(tokens[name], mean)}
        for name, arrays in features.arrays.items()
    }
    return replace(features, arrays=arrays)


def main() -> None:
    args = parse()
    variants = dict(map(variant, args.variant or ["best:"]))
    if not args.table:
        sets, backbones = args.sets.split(",") if args.sets else list(SETS), list(BACKBONES)
        if args.backbones:
            backbones = [
                b for b in {**BACKBONES, **EXTRA} if any(w in b for w in args.backbones.split(";"))
            ]
        seeds = tuple(int(one) for one in args.seeds.split(","))
        jobs = [
            Job(b, s, variants, seeds, args.data, args.cache, args.images)
            for s in sets
            for b in backbones
        ]
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(work_on, job) for job in jobs]):
                with args.out.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in done.result())
    print(tables([json.loads(line) for line in args.out.read_text().splitlines()]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets"))
    parser.add_argument("--out", type=Path, required=True, help="rows are added to this file")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument(
        "--variant", action="append", help="NAME: section.key=value section.key=value"
    )
    parser.add_argument("--sets", default="")
    parser.add_argument("--backbones", default="", help="parts of names, with semicolons")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what the file holds")
    return parser.parse_args()


def variant(text: str) -> tuple[str, dict[str, Any]]:
    name, _, settings = text.partition(":")
    return name.strip(), dict(parse_override(one) for one in settings.split())


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a table of cells for each variant, then mean and worst ratio of all variants."""
    cells: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in {
        tuple(r[n] for n in ("variant", "backbone", "set", "seed")): r for r in rows
    }.values():
        cells[row["variant"], row["backbone"], row["set"]].append(row)
    variants = list(dict.fromkeys(v for v, _, _ in cells))
    backbones = [b for b in {**BACKBONES, **EXTRA} if any(b == one for _, one, _ in cells)]
    sets = [s for s in {**SETS, **MORE_SETS} if any(s == one for _, _, one in cells)]
    lines: list[str] = []
    for name in variants:
        lines += ["", f"**{name}**", "", f"| backbone | {' | '.join(sets)} | linked | valid |"]
        lines.append("|---" * (len(sets) + 3) + "|")
        for backbone in backbones:
            found = [cells[name, backbone, s] for s in sets]
            shown = [_cell(one) for one in found]
            parts = [one for cell in found for one in cell if "density" in one]
            shares = [
                100 * np.mean([p[n] for p in parts] or [0]) for n in ("density", "valid_share")
            ]
            lines.append(
                f"| {backbone} | {' | '.join(shown)} | {shares[0]:.1f} % | {shares[1]:.0f} % |"
            )
    lines += [
        "",
        "| variant | mean mIoU | worst ratio | mean ratio | worst cell | failed |",
        "|---" * 6 + "|",
    ]
    best = {(b, s): max(_mean(cells[v, b, s]) for v in variants) for b in backbones for s in sets}
    for name in variants:
        ratios = {
            (b, s): _mean(cells[name, b, s]) / max(best[b, s], 1e-9)
            for b in backbones
            for s in sets
            if cells[name, b, s]
        }
        where = min(ratios, key=lambda one: ratios[one])
        values = [_mean(cells[name, *one]) for one in ratios]
        failed = sum("error" in row for one in ratios for row in cells[name, *one])
        lines.append(
            f"| {name} | {np.mean(values):.2f} | {ratios[where]:.3f} | "
            f"{np.mean(list(ratios.values())):.3f} | {where[0]}, {where[1]} | {failed} |"
        )
    return "\n".join(lines)


def _mean(cell: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([row["miou"] for row in cell])) if cell else 0.0


def _cell(cell: Sequence[Mapping[str, Any]]) -> str:
    if not cell:
        return "-"
    spread = np.std([row["miou"] for row in cell], ddof=1) if len(cell) > 1 else 0.0
    accuracy = np.mean([row["accuracy"] for row in cell])
    return f"{_mean(cell):.1f} ± {spread:.1f} / {accuracy:.1f}"


if __name__ == "__main__":
    main()

"""De-noising and imperfect labels, measured: what a segmenter makes of masks that are wrong.

    python benchmarks/denoise.py --train DIR --val DIR --classes TOML --clusters K [--part masks]
    python benchmarks/denoise.py --train DIR --val DIR --classes TOML --part labels --limit 92

DIR holds images/ and masks/. Part `masks`: pseudo-masks of the training images, the initial ones
and those of each model, on both splits. The validation images are labelled with the training
split's centroids; the match of clusters to classes is fitted on the training split, and once more
on the validation split itself, because two clusters that share a class make the first one jump.
Part `labels`: models learn points, scribbles and wrong masks made from the truth of `--limit`
training images; scored against the truth of the validation images.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datus.classes import load_classes
from datus.clusters import assign
from datus.config import Config, parse_override
from datus.denoise import fill, head_logits, image_logits
from datus.denoising import prepared, reads_tokens, segmenter_spec
from datus.fit import fit_folders
from datus.index import make_index, read_index
from datus.logits import logits_to_pixels
from datus.masks import encode_mask, fill_from_neighbours, paint, truth_classes
from datus.metrics import RULES, add, count_pixels, fit_match, score
from datus.plan import find_node, make_plan
from datus.records import WHOLE, Confusion, SegmentEmbeddings
from datus.runner import QUIET, run
from datus.segmenter import build_segmenter, load_segmenter
from datus.shardwork import read_image, read_truth
from datus.store import Store
from datus.threads import map_threads, n_cores
from datus.work import cluster_model, segment_map

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from make_imperfect import imperfect

MODELS: dict[str, dict[str, Any]] = {
    "probe linear": {"denoise.head": "linear"},
    "probe conv": {"denoise.head": "conv", "denoise.epochs": 3},
    "probe layers": {"denoise.head": "layers", "denoise.epochs": 3},
    "probe tuned": {"denoise.head": "conv", "denoise.freeze": False, "denoise.epochs": 2},
    "deeplabv3": {"denoise.kind": "deeplabv3", "denoise.epochs": 2, "denoise.image_px": 160},
}
"""Settings beside the defaults. Epochs are few where an epoch takes minutes on a CPU."""

LABELS = (
    ("true masks", "", 0),
    ("points", "points", 2),
    ("scribbles", "scribbles", 3),
    ("flip 10 %", "flip", 10),
    ("flip 30 %", "flip", 30),
    ("flip 50 %", "flip", 50),
    ("shift 2 %", "shift", 2),
    ("shift 5 %", "shift", 5),
    ("shift 10 %", "shift", 10),
)
"""Name, kind of data/make_imperfect.py, level."""


@dataclass(frozen=True)
class Split:
    """One folder with images/ and masks/, run as far as it is needed."""

    config: Config

    @staticmethod
    def of(folder: Path, args: argparse.Namespace, work: Path, more: dict[str, Any]) -> "Split":
        given = {
            "data.images": str(folder / "images"),
            "data.truth": str(folder / "masks"),
            "data.classes": str(args.classes),
            "clusters.k": [args.clusters],
            "run_dir": str(work / folder.name),
        }
        return Split(Config.load(None, {**given, **dict(map(parse_override, args.set)), **more}))

    def data(self, stage: str) -> Iterator[tuple[Any, Any]]:
        """(shard, what the stage stored of it)."""
        store = Store(self.config.run_path)
        index = read_index(store)
        plan = make_plan(self.config, index)
        node = find_node(plan.nodes, stage, self.config.clusters.k[0])
        for place, shard in zip(plan.places(node), plan.shards, strict=False):
            yield shard, store.read_shard(place)

    def seconds(self, stage: str) -> float:
        store = Store(self.config.run_path)
        plan = make_plan(self.config, read_index(store))
        node = find_node(plan.nodes, stage, self.config.clusters.k[0])
        return sum(store.report(*place).seconds for place in plan.places(node))


def row(name: str, train: Confusion, val: Confusion, minutes: float) -> str:
    """Headline on train; every rule on val with the match of train; the headline with val's own."""
    ours = score(train, "hungarian_strict")
    cells = [f"{ours.miou:.1f} / {ours.accuracy:.1f}"]
    for rule in RULES:
        if rule == "merge_nearest":
            continue  # the same as hungarian_strict where K = C
        found = score(val, rule, match=fit_match(train, rule))
        cells.append(f"{found.miou:.1f} / {found.accuracy:.1f}")
    own = score(val, "hungarian_strict")
    cells += [f"{own.miou:.1f} / {own.accuracy:.1f}", f"{own.coverage:.0f}", f"{minutes:.1f}"]
    return f"| {name} | {' | '.join(cells)} |"


def head_row() -> str:
    rules = [f"val `{rule}`" for rule in RULES if rule != "merge_nearest"]
    names = ["train `hungarian_strict`", *rules, "val, own match", "coverage", "minutes"]
    return f"| mIoU / accuracy, % | {' | '.join(names)} |\n|---|{'---|' * len(names)}"


# --- pseudo-masks -------------------------------------------------------------------------------


def initial_val(train: Split, val: Split, n_clusters: int) -> Confusion:
    """Val segments with the centroids of train, painted and counted."""
    model = cluster_model(next(iter(train.data("clusters")))[1].arrays[WHOLE])
    counts = []
    for (shard, embedded), (_, segmented) in zip(
        val.data("embeddings"), val.data("segments"), strict=True
    ):
        for record in shard.records:
            segments = segment_map(segmented.arrays[record.image_id])
            arrays = embedded.arrays[record.image_id]
            found = assign(model, SegmentEmbeddings(arrays["vectors"], arrays["valid"]))
            found = fill_from_neighbours(segments, found)
            mask = paint(segments, found, record.height, record.width)
            counts.append(counted(val, record, mask, n_clusters))
    return add(counts)


def counted(split: Split, record: Any, mask: Any, n_labels: int) -> Confusion:
    classes = load_classes(Path(split.config.data.classes))
    labels = read_truth(split.config, record)
    truth = truth_classes(labels, classes, (record.height, record.width))
    return count_pixels(mask, truth, n_labels, classes.n_classes)


def drawn(segmenter: Any, split: Split, n_labels: int, every: int = 1) -> Confusion:
    """The masks that a model draws of a split, counted."""

    def one(record: Any) -> Confusion:
        logits = image_logits(segmenter, prepared(segmenter, read_image(split.config, record)))
        mask, _ = logits_to_pixels(logits, record.height, record.width)
        return counted(split, record, mask, n_labels)

    records = read_index(Store(split.config.run_path)).records
    return add(map_threads(one, records[::every], n_cores()))


def drawn_from_tokens(segmenter: Any, split: Split, n_labels: int) -> Confusion:
    """The same as `drawn` from what the features stage stored."""
    counts = []
    for shard, data in split.data("features"):
        for record in shard.records:
            tokens = data.arrays[record.image_id]["tokens"]
            logits = head_logits(segmenter, np.moveaxis(tokens, -1, 0))
            mask, _ = logits_to_pixels(logits, record.height, record.width)
            counts.append(counted(split, record, mask, n_labels))
    return add(counts)


def masks_part(args: argparse.Namespace, work: Path) -> None:
    """A seed is that of everything: segments, clusters, and what the model starts from."""
    val = Split.of(args.val, args, work, {})
    run(val.config, Store(val.config.run_path), until="embeddings")
    print(head_row(), flush=True)
    for seed in map(int, args.seeds.split(",")):
        plain = Split.of(args.train, args, work, {"seed": seed})
        run(plain.config, Store(plain.config.run_path), until="evaluate")
        first = initial_val(plain, val, args.clusters)
        print(row(f"initial, seed {seed}", of_train(plain, "counts"), first, 0.0), flush=True)
        for name in filter(None, args.models.split(",")):
            more = {**MODELS[name], "denoise.enabled": True, "seed": seed}
            found = Split.of(args.train, args, work, more)
            run(found.config, Store(found.config.run_path), until="evaluate")
            segmenter = build_segmenter(segmenter_spec(found.config, args.clusters), seed, "cpu")
            state = next(iter(found.data("denoise-fit")))[1].arrays[WHOLE]
            fill(segmenter, {key: one for key, one in state.items() if key != "curve"})
            draw = drawn_from_tokens if reads_tokens(found.config) else drawn
            seen = draw(segmenter, val, args.clusters)
            minutes = found.seconds("denoise-fit") / 60
            again = of_train(found, "denoised")
            print(row(f"{name}, seed {seed}", again, seen, minutes), flush=True)


def of_train(split: Split, name: str) -> Confusion:
    """The sum of what the evaluate stage counted."""
    return add(
        Confusion(arrays[name])
        for _, data in split.data("evaluate")
        for arrays in data.arrays.values()
    )


# --- imperfect labels ---------------------------------------------------------------------------


def labels_part(args: argparse.Namespace, work: Path) -> None:
    classes = load_classes(args.classes)
    splits = [Split.of(folder, args, work, {}) for folder in (args.train, args.val)]
    for split in splits:
        make_index(split.config, Store(split.config.run_path), QUIET.bar)
    train, val = splits
    records = read_index(Store(train.config.run_path)).records
    some = records[:: max(1, len(records) // args.limit)][: args.limit]
    images = work / "images"
    for record in some:
        target = images / record.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((Path(train.config.data.images) / record.path).read_bytes())
    table = np.arange(classes.n_classes, dtype=np.int16)
    models = args.models.split(",")
    print(f"| mIoU / accuracy, % | {' | '.join(models)} |\n|---|{'---|' * len(models)}", flush=True)
    for name, kind, level in LABELS:
        if args.labels and name not in args.labels.split(","):
            continue
        folder = work / "labels" / name.replace(" ", "-")
        for record in some:
            labels = read_truth(train.config, record)
            made = partial(imperfect, labels, kind, level, 0, record.image_id)
            target = folder / f"{record.image_id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encode_mask(made() if kind else labels))
        cells = [learnt(model, (images, folder), val, args, work) for model in models]
        found = [score(one, "hungarian_strict", match=table) for one, _ in cells]
        text = [
            f"{one.miou:.1f} / {one.accuracy:.1f} ({seconds:.0f} s)"
            for one, (_, seconds) in zip(found, cells, strict=True)
        ]
        print(f"| {name} | {' | '.join(text)} |", flush=True)


def learnt(
    model: str, folders: tuple[Path, Path], val: Split, args: argparse.Namespace, work: Path
) -> tuple[Confusion, float]:
    """(counts on every `args.every`-th val image, seconds of training)."""
    given = {
        "data.images": str(folders[0]),
        "data.truth": str(folders[1]),
        "data.classes": str(args.classes),
        "denoise.enabled": True,
        "denoise.drop_share": 1.0,
        "speed.device": "cpu",
        **MODELS[model],
        **dict(map(parse_override, args.set)),
    }
    started = time.perf_counter()
    done = fit_folders(Config.load(None, given), work / "model", QUIET)
    seconds = time.perf_counter() - started
    segmenter = load_segmenter(done.model, "cpu")
    return drawn(segmenter, val, segmenter.spec.n_classes, args.every), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--clusters", type=int, default=11)
    parser.add_argument("--part", choices=("masks", "labels"), default="masks")
    parser.add_argument("--models", default="probe linear,probe conv")
    parser.add_argument("--labels", default="", help="some of the rows of part labels")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=92, help="training images of part labels")
    parser.add_argument("--every", type=int, default=1, help="score each n-th validation image")
    parser.add_argument("--work", type=Path, help="keep what is made; default: a temporary folder")
    parser.add_argument("--set", action="append", default=[], help="any setting")
    args = parser.parse_args()
    part = masks_part if args.part == "masks" else labels_part
    if args.work:
        part(args, args.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            part(args, Path(folder))


if __name__ == "__main__":
    main()

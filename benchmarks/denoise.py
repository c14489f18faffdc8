"""De-noising and imperfect labels, measured: what a segmenter makes of masks that are wrong.

    python benchmarks/denoise.py --train DIR --val DIR --classes TOML --out FILE.jsonl
        [--part masks] --models "probe linear;probe conv" --seeds 0,1,2
        --part labels --models "conv frozen;conv tuned" --limit 92

DIR holds images/ and masks/. One JSON line a result is added to --out; `denoise_tables.py` makes
tables of them. Part `masks`: pseudo-masks of both splits, the initial ones and those of each model,
as the model draws them and with borders that follow the image. Validation images are labelled with
the training split's centroids. The match of clusters to classes is fitted on the training split,
and for val once more on itself, because two clusters that share a class make the first one jump.
Part `labels`: models learn points, scribbles and wrong masks made from the truth of `--limit`
training images; scored against the truth of every n-th validation image, no match needed.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datus.method.boundaries import boundary_f, class_boundary_f
from imperfect_labels import LABELS, imperfect_folder

from datus.compute.threads import map_threads, n_cores
from datus.config import Config, parse_override
from datus.engine.plan import find_node
from datus.engine.run import QUIET
from datus.inputs.index import make_index, read_index
from datus.inputs.labels import load_classes, truth_classes
from datus.inputs.read import read_image, read_truth
from datus.method.clusters import assign
from datus.method.masks import fill_from_neighbours, labels_to_pixels
from datus.method.metrics import RULES, add, count_pixels, fit_match, score
from datus.method.refine import refine
from datus.pipeline import make_plan, run
from datus.review.cluster_arrays import cluster_model
from datus.segmenter.fit import fit_folders
from datus.segmenter.model import (
    build_segmenter,
    head_logits,
    image_logits,
    load_segmenter,
    prepared,
    segmenter_spec,
)
from datus.segmenter.tiles import logits_to_pixels
from datus.segmenter.train import fill
from datus.stages.denoise import reads_tokens
from datus.stages.segments import segment_map
from datus.store.store import Store
from datus.types import IGNORE, WHOLE, Array, Confusion, ImageRecord, SegmentEmbeddings

LINEAR: dict[str, Any] = {"denoise.head": "linear"}
CONV: dict[str, Any] = {"denoise.head": "conv", "denoise.epochs": 3}
DEEPLAB: dict[str, Any] = {"denoise.kind": "deeplabv3", "denoise.image_px": 160}

MODELS: dict[str, dict[str, Any]] = {
    "probe linear": LINEAR,
    "probe conv": CONV,
    "probe layers": {**CONV, "denoise.head": "layers"},
    "probe linear, tuned": {**LINEAR, "denoise.freeze": False, "denoise.epochs": 2},
    "probe conv, tuned": {**CONV, "denoise.freeze": False, "denoise.epochs": 2},
    "deeplabv3": {**DEEPLAB, "denoise.epochs": 2},
    "conv frozen": {"denoise.head": "conv"},
    "conv tuned": {"denoise.head": "conv", "denoise.freeze": False},
    "deeplabv3 from scratch": {"denoise.kind": "deeplabv3"},
}
"""Settings beside the defaults; --set comes after them. Few epochs where one takes minutes."""


@dataclass(frozen=True)
class Photo:
    """image: uint8 (H, W, 3); truth: uint8 (H, W)."""

    record: ImageRecord
    image: Array
    truth: Array


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
        return Split(Config.load(None, {**given, **more, **dict(map(parse_override, args.set))}))

    @property
    def store(self) -> Store:
        return Store(self.config.run_path)

    def data(self, stage: str) -> Iterator[tuple[Any, Any]]:
        """(shard, what the stage stored of it)."""
        plan = make_plan(self.config, read_index(self.store))
        node = find_node(plan.nodes, stage, self.config.clusters.k[0])
        for place, shard in zip(plan.places(node), plan.shards, strict=False):
            yield shard, self.store.read_shard(place)

    def seconds(self, stage: str) -> float:
        plan = make_plan(self.config, read_index(self.store))
        node = find_node(plan.nodes, stage, self.config.clusters.k[0])
        return sum(self.store.report(*place).seconds for place in plan.places(node))

    def photos(self, every: int = 1) -> list[Photo]:
        """Each n-th image of the index, with its truth."""
        classes = load_classes(Path(self.config.data.classes))

        def one(record: ImageRecord) -> Photo:
            labels = read_truth(self.config, record)
            truth = truth_classes(labels, classes, (record.height, record.width))
            return Photo(record, read_image(self.config, record), truth)

        return map_threads(one, read_index(self.store).records[::every], n_cores())


# --- pseudo-masks: what is known of each image, uint8 (gh, gw) labels or float32 (C, gh, gw) ----

Found = dict[str, Array]


def initial_of_train(train: Split) -> Found:
    """The cluster of each patch, as the masks stage has it."""
    found = {}
    for (shard, masks), (_, cut) in zip(train.data("masks"), train.data("segments"), strict=True):
        for name in (record.image_id for record in shard.records):
            cluster = masks.arrays[name]["cluster"].astype(np.uint8)  # -1 becomes 255 = IGNORE
            found[name] = cluster[cut.arrays[name]["labels"]]
    return found


def initial_of_val(train: Split, val: Split) -> Found:
    """The same with the centroids of train."""
    model = cluster_model(next(train.data("clusters"))[1].arrays[WHOLE])
    found = {}
    for (shard, embedded), (_, cut) in zip(
        val.data("embeddings"), val.data("segments"), strict=True
    ):
        for name in (record.image_id for record in shard.records):
            segments, arrays = segment_map(cut.arrays[name]), embedded.arrays[name]
            assigned = assign(model, SegmentEmbeddings(arrays["vectors"], arrays["valid"]))
            cluster = fill_from_neighbours(segments, assigned).cluster.astype(np.uint8)
            found[name] = cluster[segments.labels]
    return found


def logits_of(segmenter: Any, split: Split, photos: list[Photo], from_tokens: bool) -> Found:
    """As the denoise stage makes them: from stored tokens, or from the images."""
    if not from_tokens:

        def one(photo: Photo) -> Array:
            return image_logits(segmenter, prepared(segmenter, photo.image))

        names = [photo.record.image_id for photo in photos]
        return dict(zip(names, map_threads(one, photos, n_cores()), strict=True))
    found = {}
    for shard, data in split.data("features"):
        for name in (record.image_id for record in shard.records):
            found[name] = head_logits(segmenter, np.moveaxis(data.arrays[name]["tokens"], -1, 0))
    return found


def drawn(photo: Photo, found: Array) -> dict[str, Array]:
    """Way to draw -> uint8 (H, W)."""
    height, width = photo.truth.shape
    if found.ndim == 2:
        return {
            "blocks": labels_to_pixels(found, height, width),
            "refined": refine(photo.image, found),
        }
    rows, columns = found.shape[1:]
    finer, _ = logits_to_pixels(found, 2 * rows, 2 * columns)
    return {
        "as the model draws": logits_to_pixels(found, height, width)[0],
        "refined": refine(photo.image, found.argmax(axis=0).astype(np.uint8)),
        "refined on half cells": refine(photo.image, finer),
    }


# --- figures ------------------------------------------------------------------------------------


def results(
    photos: tuple[list[Photo], list[Photo]], found: tuple[Found, Found], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A line for each way to draw: train; val under the match of train; val under its own."""
    masks = [
        map_threads(lambda p, of=of: drawn(p, of[p.record.image_id]), some, n_cores())  # type: ignore[misc]
        for some, of in zip(photos, found, strict=True)
    ]
    for way in (one for one in masks[0][0] if args.drawn in ("", one)):
        pairs = [
            [(one[way], photo.truth) for one, photo in zip(made, some, strict=True)]
            for made, some in zip(masks, photos, strict=True)
        ]
        train, val = (counted(some, args) for some in pairs)
        for split, counts, fitted, step in (
            ("train", train, train, 4),
            ("val", val, train, 1),
            ("val", val, val, 1),
        ):
            match = fit_match(fitted, "hungarian_strict")
            some = pairs[0 if split == "train" else 1]
            yield {
                "drawn": way,
                "split": split,
                "match": "own" if fitted is counts else "train",
                "n_images": len(some),
                "scores": scores(counts, fitted),
                **(borders(some[::step], match, args) if args.borders else {}),
            }


def counted(pairs: list[tuple[Array, Array]], args: argparse.Namespace) -> Confusion:
    n_classes = load_classes(args.classes).n_classes
    return add(count_pixels(mask, truth, args.clusters, n_classes) for mask, truth in pairs)


def scores(counts: Confusion, fitted: Confusion) -> dict[str, dict[str, float]]:
    """Every rule that needs no centroids."""
    rules = [r for r in RULES if r != "merge_nearest" or counts.n_clusters <= counts.n_classes]
    found = {rule: score(counts, rule, match=fit_match(fitted, rule)) for rule in rules}
    figures = ("miou", "accuracy", "f1", "coverage")
    return {rule: {name: getattr(one, name) for name in figures} for rule, one in found.items()}


def borders(
    pairs: list[tuple[Array, Array]], match: Array, args: argparse.Namespace
) -> dict[str, float]:
    """Mean boundary F-scores of the images, percent."""
    n_classes = load_classes(args.classes).n_classes
    classes = np.full(256, IGNORE, np.uint8)
    classes[: len(match)] = match.astype(np.uint8)  # -1 becomes IGNORE

    def one(pair: tuple[Array, Array]) -> tuple[float, float]:
        mask, truth = pair
        by_class = class_boundary_f(classes[mask], truth, n_classes)
        known = by_class[np.isfinite(by_class)]
        return float(known.mean()) if len(known) else float("nan"), boundary_f(mask, truth)

    found = np.array(map_threads(one, pairs, n_cores()))
    of_classes, of_any = np.nanmean(found, axis=0).tolist()
    return {"boundary_classes": of_classes, "boundary_any": of_any, "n_borders": len(pairs)}


# --- the two parts ------------------------------------------------------------------------------


def masks_part(args: argparse.Namespace, work: Path, write: Callable[..., None]) -> None:
    """A seed is that of everything: segments, clusters, and what the model starts from."""
    photos: tuple[list[Photo], list[Photo]] | None = None
    for seed in args.seeds:
        train, val = (
            Split.of(folder, args, work, {"seed": seed}) for folder in (args.train, args.val)
        )
        run(train.config, train.store, until="masks")
        run(val.config, val.store, until="embeddings")
        photos = photos or (train.photos(), val.photos())
        for model in args.models:
            if model == "initial":
                found, minutes = (initial_of_train(train), initial_of_val(train, val)), 0.0
            else:
                more = {**MODELS[model], "denoise.enabled": True, "seed": seed}
                fitted = Split.of(args.train, args, work, more)
                found, minutes = learnt_masks(fitted, val, photos)
            for result in results(photos, found, args):
                write(model=model, seed=seed, minutes=minutes, **result)


def learnt_masks(
    fitted: Split, val: Split, photos: tuple[list[Photo], list[Photo]]
) -> tuple[tuple[Found, Found], float]:
    """(logits of both splits, minutes of denoise-fit)."""
    config = fitted.config
    run(config, fitted.store, until="denoise-fit")
    segmenter = build_segmenter(segmenter_spec(config, config.clusters.k[0]), config.seed, "cpu")
    state = next(fitted.data("denoise-fit"))[1].arrays[WHOLE]
    fill(segmenter, {key: one for key, one in state.items() if key != "curve"})
    found = [
        logits_of(segmenter, split, some, reads_tokens(config))
        for split, some in zip((fitted, val), photos, strict=True)
    ]
    return (found[0], found[1]), fitted.seconds("denoise-fit") / 60


def labels_part(args: argparse.Namespace, work: Path, write: Callable[..., None]) -> None:
    train, val = (Split.of(folder, args, work, {}) for folder in (args.train, args.val))
    for split in (train, val):
        make_index(split.config, split.store, QUIET.bar)
    records = read_index(train.store).records
    some = records[:: max(1, len(records) // args.limit)][: args.limit]
    photos = val.photos(args.every)
    for seed in args.seeds:
        for row in (one for one in LABELS if not args.labels or one.name in args.labels):
            folder = work / f"labels-{seed}" / row.name.replace(" ", "-")
            quality = imperfect_folder(train.config, some, row, seed, folder)
            note = partial(write, labels=row.name, kind=row.kind, level=row.level, seed=seed)
            note(model="the labels themselves", n_train=len(some), **quality)
            for model in args.models:
                note(model=model, n_train=len(some), **learnt(model, folder, seed, photos, args))


def learnt(
    model: str, folder: Path, seed: int, photos: list[Photo], args: argparse.Namespace
) -> dict[str, float]:
    """Scores in percent; minutes of training, reading and features included."""
    given: dict[str, Any] = {
        "data.images": str(folder / "images"),
        "data.truth": str(folder / "masks"),
        "data.classes": str(args.classes),
        "denoise.enabled": True,
        "denoise.drop_share": 1.0,
        "seed": seed,
        **MODELS[model],
        **dict(map(parse_override, args.set)),
    }
    started = time.perf_counter()
    fitted = fit_folders(Config.load(None, given), folder / "model", QUIET, overwrite=True)
    minutes = (time.perf_counter() - started) / 60
    segmenter = load_segmenter(fitted.model, "cpu")
    n_classes = segmenter.spec.n_classes

    def one(photo: Photo) -> Confusion:
        logits = image_logits(segmenter, prepared(segmenter, photo.image))
        mask, _ = logits_to_pixels(logits, *photo.truth.shape)
        return count_pixels(mask, photo.truth, n_classes, n_classes)

    counts = add(map_threads(one, photos, n_cores()))
    found = score(counts, "hungarian_strict", match=np.arange(n_classes, dtype=np.int16))
    return {
        "miou": found.miou,
        "accuracy": found.accuracy,
        "n_val": len(photos),
        "minutes": minutes,
        "first_loss": float(fitted.curve[0]),
        "last_loss": float(fitted.curve[-1]),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; added to")
    parser.add_argument("--clusters", type=int, default=11)
    parser.add_argument("--part", choices=("masks", "labels"), default="masks")
    parser.add_argument("--models", default="initial;probe linear", help="; ".join(MODELS))
    parser.add_argument("--labels", default="", help="some rows of part labels, with ; between")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--borders", action="store_true", help="part masks: boundary F, slower")
    parser.add_argument("--drawn", default="", help="part masks: only this way to draw")
    parser.add_argument("--limit", type=int, default=92, help="training images of part labels")
    parser.add_argument("--every", type=int, default=3, help="part labels: each n-th val image")
    parser.add_argument("--work", type=Path, help="keep what is made; default: a temporary folder")
    parser.add_argument("--set", action="append", default=[], help="any setting")
    args = parser.parse_args()
    args.models = [one.strip() for one in args.models.split(";")]
    args.labels = [one.strip() for one in args.labels.split(";") if one.strip()]
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    return args


def main() -> None:
    args = arguments()

    def write(**line: Any) -> None:
        line = {"part": args.part, **line, "set": args.set}
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    part = masks_part if args.part == "masks" else labels_part
    with tempfile.TemporaryDirectory() as folder:
        part(args, args.work or Path(folder), write)


if __name__ == "__main__":
    main()

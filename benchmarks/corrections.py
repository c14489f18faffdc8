"""How many corrected images buy how much: true masks as a person's corrections of n random images.

    python benchmarks/corrections.py --images DIR --truth DIR --classes TOML --clusters K \\
        --name camvid-val --log FILE.jsonl [--counts 0,1,2,5,10,20,50] [--draws 3] [--parts runs]

Scored on the images that were not corrected. Two rules: hungarian_strict, and named = a corrected
class is that class, clusters without a name are errors; nothing is matched to the truth.

    --parts runs     the pipeline with `clusters.corrections`
            fit      `datus fit` on the same n images: a light head on the frozen backbone
            ways     other ways to use the labels, on stored segments, drawn in blocks of patches

One line of JSON a case; `--show` prints the tables of a log and runs nothing. With `--work DIR` the
passes of the ViT are made once.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from PIL import Image

from datus.cli.fit import DEFAULTS
from datus.config import ClustersConfig, Config
from datus.engine.plan import find_node
from datus.engine.run import QUIET
from datus.formats.files import MAX_PIXELS
from datus.inputs.find import find_images, image_id_of
from datus.inputs.labels import decode_labels, find_labels, load_classes, truth_classes
from datus.method.clusters import fit_space
from datus.method.constrained_kmeans import fit_free, label_segments, on_sphere
from datus.method.masks import fill_from_neighbours, labels_to_pixels
from datus.method.metrics import add, count_pixels, score
from datus.pipeline import run
from datus.review.cluster_arrays import corrected_names
from datus.segmenter.fit import fit_folders
from datus.segmenter.predict_folder import Folders, predict_folder
from datus.segmenter.tiles import Prediction
from datus.stages.corrected_clusters import CORRECTED_SHARE
from datus.stages.segments import segment_map
from datus.store.store import Store
from datus.types import WHOLE, Array, Assignments, Confusion

FIT_STEPS = 300
"""Of training, at least: the default of ten epochs is too few for a handful of images."""


@dataclass
class Case:
    """Images that are corrected, and the folder of their labels."""

    count: int
    draw: int
    ids: set[str]
    folder: Path


@dataclass
class Bench:
    args: argparse.Namespace
    work: Path

    def __post_init__(self) -> None:
        self.table = load_classes(self.args.classes)
        self.truths = find_labels(self.args.truth)
        found = {image_id_of(path) for path in find_images(self.args.images).paths}
        self.ids = sorted(found & self.truths.keys())
        self.cache: dict[str, Array] = {}

    def truth(self, image_id: str) -> Array:
        """uint8 (H, W) classes."""
        if image_id not in self.cache:
            data = (self.args.truth / self.truths[image_id]).read_bytes()
            labels = decode_labels(data, MAX_PIXELS)
            self.cache[image_id] = truth_classes(labels, self.table, labels.shape)
        return self.cache[image_id]

    def config(self, more: dict[str, Any]) -> Config:
        given = {
            "data.images": str(self.args.images),
            "data.truth": str(self.args.truth),
            "data.classes": str(self.args.classes),
            "run_dir": str(self.work / "run"),
            "clusters.k": [self.args.clusters],
        }
        return Config.load(None, {**given, **more})

    def cases(self) -> Iterator[Case]:
        for count in self.args.counts:
            for draw in range(self.args.draws if count else 1):
                chosen = np.random.default_rng([17, draw, count]).choice(
                    self.ids, count, replace=False
                )
                folder = self.work / f"drawn-{count}-{draw}"
                folder.mkdir(parents=True, exist_ok=True)
                names = "".join(f"{i}\t{name}\n" for i, name in enumerate(self.table.names))
                (folder / "classes.txt").write_text(names)
                for image_id in chosen.tolist():
                    path = folder / f"{image_id}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(self.truth(image_id)).save(path)
                yield Case(count, draw, set(chosen.tolist()), folder)


def scores(confusion: Confusion, names: tuple[str, ...], bench: Bench) -> dict[str, float]:
    """Of both rules; the match of `named` is told, not fitted."""
    strict = score(confusion, "hungarian_strict")
    found = {"strict_miou": strict.miou, "strict_accuracy": strict.accuracy}
    if names:
        match = np.full(confusion.n_clusters, -1, np.int16)
        match[: len(names)] = [bench.table.names.index(name) for name in names]
        named = score(confusion, "hungarian_strict", match=match)
        found |= {"named_miou": named.miou, "named_accuracy": named.accuracy}
    return {name: round(value, 3) for name, value in found.items()}


# --- the pipeline -------------------------------------------------------------------------------


def pipeline(bench: Bench, case: Case) -> dict[str, float]:
    config = bench.config({"clusters.corrections": str(case.folder)} if case.count else {})
    store = Store(config.run_path)
    plan = run(config, store, QUIET, until="evaluate").plan
    counts = []
    for place in plan.places(find_node(plan.nodes, "evaluate", bench.args.clusters)):
        shard = store.read_shard(place)
        arrays = shard.arrays if shard else {}
        counts += [Confusion(a["counts"]) for name, a in arrays.items() if name not in case.ids]
    clusters = find_node(plan.nodes, "clusters", bench.args.clusters)
    stored = store.read_shard((clusters.stage, clusters.fingerprint, "all"))
    names = corrected_names(stored.arrays[WHOLE]) if stored else ()
    return scores(add(counts), names, bench)


# --- a light head on the same images ------------------------------------------------------------


def light_head(bench: Bench, case: Case) -> dict[str, float]:
    """`datus fit` and `datus predict`; its classes are named, so both rules are given."""
    epochs = max(10, math.ceil(FIT_STEPS / max(1, case.count // 8)))
    table = case.folder / "classes.toml"
    blocks = [
        f'[[classes]]\nname = "{name}"\ncolour = [0, 0, {number}]\nids = [{number}]\n'
        for number, name in enumerate(bench.table.names)
    ]
    table.write_text('name = "all"\n' + "".join(blocks))
    where = {
        "data.images": str(bench.args.images),
        "data.truth": str(case.folder),
        "data.classes": str(table),
        "denoise.epochs": epochs,
    }
    model, out = case.folder.with_suffix(".model"), case.folder.with_suffix(".masks")
    fitted = fit_folders(Config.load(None, {**DEFAULTS, **where}), model, QUIET, overwrite=True)
    predict_folder(fitted.model, Folders(bench.args.images, out), Prediction(device="cpu"))
    n_classes, counts = bench.table.n_classes, []
    for image_id in sorted(set(bench.ids) - case.ids):
        mask = decode_labels((out / f"{image_id}.png").read_bytes(), MAX_PIXELS)
        counts.append(count_pixels(mask, bench.truth(image_id), n_classes, n_classes))
    return scores(add(counts), bench.table.names, bench)


# --- other ways to use the labels ---------------------------------------------------------------


@dataclass
class Segments:
    """Of one image: what the stages stored."""

    image_id: str
    arrays: dict[str, Array]
    places: Array
    """float32 (S, P), in the space of the clusters."""


Way = Callable[[Array, Array, Array, Bench], tuple[Array, Array]]
"""(rest, labelled, class of each, bench) -> (centroids, label of each)."""


def all_segments(bench: Bench) -> list[Segments]:
    config = bench.config({})
    store = Store(config.run_path)
    plan, found = run(config, store, QUIET, until="embeddings").plan, []
    nodes = [find_node(plan.nodes, stage, 0) for stage in ("embeddings", "segments")]
    for shard in plan.shards:
        parts = [store.read_shard((one.name, one.fingerprint, shard.key)) for one in nodes]
        embedded, segmented = (part.arrays if part else {} for part in parts)
        for record in shard.records:
            arrays = {**segmented[record.image_id], **embedded[record.image_id]}
            found.append(Segments(record.image_id, arrays, np.zeros(0)))
    every = np.concatenate([one.arrays["vectors"][one.arrays["valid"]] for one in found])
    mean, axes, _ = fit_space(every, ClustersConfig())
    for one in found:
        centred = one.arrays["vectors"].astype(np.float64) - mean
        one.places = (centred @ axes.T.astype(np.float64)).astype(np.float32)
    return found


def free(rest: Array, fixed: Array, n_classes: int, bench: Bench) -> Array:
    return fit_free(rest, fixed, bench.args.clusters - n_classes, ClustersConfig(), 0)[0]


def every_segment(rest: Array, labelled: Array, label: Array, bench: Bench) -> tuple[Array, Array]:
    """What DatUS does: each labelled segment is a centroid."""
    n_classes, fixed = int(label.max()) + 1, on_sphere(labelled)
    others = free(rest, fixed, n_classes, bench)
    return np.concatenate([fixed, others]), np.r_[label, n_classes + np.arange(len(others))]


def means(n_parts: int) -> Way:
    """Fixed means of each class, or of `n_parts` parts of it by k-means."""

    def way(rest: Array, labelled: Array, label: Array, bench: Bench) -> tuple[Array, Array]:
        n_classes, rows, owners = int(label.max()) + 1, [], []
        for one in range(n_classes):
            mine = labelled[label == one]
            parts = max(1, min(n_parts, len(mine) // 3))
            if len(mine):
                rows.append(lloyd(mine, on_sphere(mine)[:: max(1, len(mine) // parts)][:parts]))
                owners += [one] * len(rows[-1])
        fixed = np.concatenate(rows)
        others = free(rest, fixed, n_classes, bench)
        return np.concatenate([fixed, others]), np.r_[owners, n_classes + np.arange(len(others))]

    return way


def lloyd(places: Array, centroids: Array) -> Array:
    """float32 (k, P) on the sphere."""
    for _ in range(20):
        nearest = (places @ centroids.T).argmax(axis=1)
        for one in np.unique(nearest):
            centroids[one] = on_sphere(places[nearest == one].mean(axis=0)[None])[0]
    return centroids


def constrained(rest: Array, labelled: Array, label: Array, bench: Bench) -> tuple[Array, Array]:
    """Constrained k-means as in the paper: centroids start at the means of classes and move with
    all that joins them; labelled segments stay."""
    centroids, owners = means(1)(rest, labelled, label, bench)
    places = np.concatenate([labelled, rest])
    for _ in range(50):
        nearest = (places @ centroids.T).argmax(axis=1)
        nearest[: len(label)] = [int(np.flatnonzero(owners == one)[0]) for one in label]
        for one in np.unique(nearest):
            centroids[one] = on_sphere(places[nearest == one].mean(axis=0)[None])[0]
    return centroids, owners


WAYS: dict[str, Way] = {
    "constrained k-means, one centroid a class": constrained,
    "fixed mean of each class": means(1),
    "fixed means, up to 4 a class": means(4),
    "fixed means, up to 8 a class": means(8),
    "every labelled segment": every_segment,
}


def other_ways(bench: Bench, case: Case, segments: list[Segments]) -> dict[str, dict[str, float]]:
    share = CORRECTED_SHARE
    names, rest, labelled, label = bench.table.names, [], [], []
    for one in segments:
        valid, fixed = one.arrays["valid"], np.full(len(one.places), -1)
        if one.image_id in case.ids:
            truth = bench.truth(one.image_id)
            segment = labels_to_pixels(one.arrays["labels"], *truth.shape)
            fixed, _ = label_segments(segment, truth, len(fixed), len(names), share)
        rest.append(one.places[valid & (fixed < 0)])
        labelled.append(one.places[valid & (fixed >= 0)])
        label.append(fixed[valid & (fixed >= 0)])
    used, renumbered = np.unique(np.concatenate(label), return_inverse=True)
    seen = tuple(names[one] for one in used)
    found = {}
    for name, way in WAYS.items():
        centroids, owners = way(np.concatenate(rest), np.concatenate(labelled), renumbered, bench)
        others = (one for one in segments if one.image_id not in case.ids)
        counts = [_drawn(bench, one, centroids, owners) for one in others]
        found[name] = scores(add(counts), seen, bench)
    return found


def limit(bench: Bench, segments: list[Segments]) -> dict[str, float]:
    """Each segment gets the class that most of its pixels have: what segments can reach at most."""
    n_classes, counts = bench.table.n_classes, []
    for one in segments:
        truth, labels = bench.truth(one.image_id), one.arrays["labels"]
        segment = labels_to_pixels(labels, *truth.shape)
        _, pixels = label_segments(segment, truth, len(one.places), n_classes, 0.5)
        mask = pixels.argmax(axis=1).astype(np.uint8)[segment]
        counts.append(count_pixels(mask, truth, n_classes, n_classes))
    return scores(add(counts), bench.table.names, bench)


def _drawn(bench: Bench, one: Segments, centroids: Array, owners: Array) -> Confusion:
    valid, truth = one.arrays["valid"], bench.truth(one.image_id)
    cluster = np.full(len(valid), -1, np.int16)
    cluster[valid] = owners[(one.places[valid] @ centroids.T).argmax(axis=1)]
    none = np.zeros(len(valid), np.float32)
    cluster = fill_from_neighbours(segment_map(one.arrays), Assignments(cluster, none)).cluster
    mask = labels_to_pixels(cluster.astype(np.uint8)[one.arrays["labels"]], *truth.shape)
    return count_pixels(mask, truth, bench.args.clusters, bench.table.n_classes)


# --- log and tables -----------------------------------------------------------------------------


def rows(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Mean ± deviation over the draws, mIoU / accuracy."""
    for name in dict.fromkeys(line["set"] for line in lines):
        mine = [line for line in lines if line["set"] == name]
        counts = sorted({line["count"] for line in mine})
        yield f"\n| {name}, corrected images | {' | '.join(map(str, counts))} |"
        yield f"|---|{'---|' * len(counts)}"
        for way in dict.fromkeys(line["way"] for line in mine):
            for rule in ("strict", "named"):
                cells = [
                    cell([x for x in mine if (x["way"], x["count"]) == (way, n)], rule)
                    for n in counts
                ]
                if any(cells):
                    yield f"| {way}, {rule} | {' | '.join(one or '–' for one in cells)} |"


def cell(lines: list[dict[str, Any]], rule: str) -> str:
    found = [x["scores"] for x in lines if f"{rule}_miou" in x["scores"]]
    if not found:
        return ""
    miou, accuracy = ([one[f"{rule}_{name}"] for one in found] for name in ("miou", "accuracy"))
    spread = f" ± {pstdev(miou):.1f}" if len(miou) > 1 else ""
    return f"{fmean(miou):.1f}{spread} / {fmean(accuracy):.1f}"


def measure(args: argparse.Namespace, work: Path) -> None:
    bench = Bench(args, work)
    segments = all_segments(bench) if "ways" in args.parts else []

    def write(case: Case, way: str, found: dict[str, float]) -> None:
        line = {"set": args.name, "count": case.count, "draw": case.draw, "way": way}
        text = json.dumps({**line, "scores": found})
        with args.log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)

    if "ways" in args.parts:
        write(Case(0, 0, set(), work), "the main class of every segment", limit(bench, segments))
    for case in bench.cases():
        if "runs" in args.parts:
            write(case, "corrections", pipeline(bench, case))
        if "fit" in args.parts and case.count:
            write(case, "light head", light_head(bench, case))
        if "ways" in args.parts and case.count:
            for name, found in other_ways(bench, case, segments).items():
                write(case, name, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--clusters", type=int, default=11)
    parser.add_argument("--name", default="images")
    parser.add_argument("--counts", default="0,1,2,5,10,20,50")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--parts", default="runs", help="runs,fit,ways")
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    args.counts = [int(one) for one in args.counts.split(",")]
    if not args.show:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, args.work or Path(folder))
    lines = [json.loads(line) for line in args.log.read_text(encoding="utf-8").splitlines()]
    print("\n".join(rows(lines)))


if __name__ == "__main__":
    main()

"""How many corrected images buy how much: true masks as a person's corrections of n random images.

    python benchmarks/corrections.py --images DIR --truth DIR --classes TOML --clusters K \\
        --name camvid-val --log FILE.jsonl [--counts 0,1,2,5,10,20,50] [--draws 3] [--parts runs]

Scored on the images that were not corrected. Two rules: hungarian_strict, and named = a corrected
class is that class, clusters without a name are errors; nothing is matched to the truth.

    --parts runs     the pipeline with `clusters.corrections`
            fit      `datus fit` on the same n images: a light head on the frozen backbone

One line of JSON a case; `--show` prints the tables of a log and runs nothing. With `--work DIR` the
passes of the ViT are made once.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
from common import Row, add_rows, markdown, read_rows
from PIL import Image

from datus.cli.fit import DEFAULTS
from datus.config import Config
from datus.engine.plan import find_node
from datus.engine.run import QUIET
from datus.inputs.arrays import class_table
from datus.inputs.find import find_images, image_id_of
from datus.inputs.labels import decode_labels, find_labels, load_classes, truth_classes
from datus.method.metrics import add, count_pixels, score
from datus.pipeline import run
from datus.review.cluster_arrays import corrected_names
from datus.segmenter.fit import fit_folders
from datus.segmenter.predict_folder import Folders, predict_folder
from datus.segmenter.tiles import Prediction
from datus.store.store import Store
from datus.types import WHOLE, Array, Confusion

MAX_PIXELS = 10**8

FIT_STEPS = 300
"""Of training, at least: the default of ten epochs is too few for a handful of images."""


@dataclass(frozen=True)
class Case:
    """Images that are corrected, and the folder of their labels."""

    count: int
    draw: int
    ids: frozenset[str]
    folder: Path


class Bench:
    """The dataset of the command line."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.classes = load_classes(args.classes)
        self.truths = find_labels(args.truth)
        images = {image_id_of(path) for path in find_images(args.images).paths}
        self.ids = sorted(images & self.truths.keys())
        self.truth = lru_cache(None)(self._truth)

    def _truth(self, image_id: str) -> Array:
        """uint8 (H, W) classes."""
        data = (self.args.truth / self.truths[image_id]).read_bytes()
        labels = decode_labels(data, MAX_PIXELS)
        return truth_classes(labels, self.classes, labels.shape)

    def cases(self) -> Iterator[Case]:
        for count in self.args.counts:
            for draw in range(self.args.draws if count else 1):
                rng = np.random.default_rng([17, draw, count])
                ids = rng.choice(self.ids, count, replace=False).tolist()
                folder = self.work / f"drawn-{count}-{draw}"
                folder.mkdir(parents=True, exist_ok=True)
                names = "".join(f"{i}\t{name}\n" for i, name in enumerate(self.classes.names))
                (folder / "classes.txt").write_text(names)
                for image_id in ids:
                    path = folder / f"{image_id}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(self.truth(image_id)).save(path)
                yield Case(count, draw, frozenset(ids), folder)

    def scores(self, confusion: Confusion, names: tuple[str, ...]) -> dict[str, float]:
        """Of both rules. names: of the first clusters, which `named` takes as they are."""
        strict = score(confusion, "hungarian_strict")
        figures = {"strict_miou": strict.miou, "strict_accuracy": strict.accuracy}
        if names:
            match = np.full(confusion.n_clusters, -1, np.int16)
            match[: len(names)] = [self.classes.names.index(name) for name in names]
            named = score(confusion, "hungarian_strict", match=match)
            figures |= {"named_miou": named.miou, "named_accuracy": named.accuracy}
        return {name: round(value, 3) for name, value in figures.items()}


def pipeline(bench: Bench, case: Case) -> dict[str, float]:
    settings = {
        "data.images": str(bench.args.images),
        "data.truth": str(bench.args.truth),
        "data.classes": str(bench.args.classes),
        "run_dir": str(bench.work / "run"),
        "clusters.k": [bench.args.clusters],
        **({"clusters.corrections": str(case.folder)} if case.count else {}),
    }
    config = Config.load(None, settings)
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
    return bench.scores(add(counts), names)


def light_head(bench: Bench, case: Case) -> dict[str, float]:
    """`datus fit` and `datus predict`; its classes are named, so both rules are given."""
    table = case.folder / "classes.toml"
    table.write_bytes(class_table(bench.classes.names))
    settings = {
        "data.images": str(bench.args.images),
        "data.truth": str(case.folder),
        "data.classes": str(table),
        "denoise.epochs": max(10, math.ceil(FIT_STEPS / max(1, case.count // 8))),
    }
    model, out = case.folder.with_suffix(".model"), case.folder.with_suffix(".masks")
    fitted = fit_folders(Config.load(None, {**DEFAULTS, **settings}), model, QUIET, overwrite=True)
    predict_folder(fitted.model, Folders(bench.args.images, out), Prediction(device="cpu"))
    n_classes, counts = bench.classes.n_classes, []
    for image_id in sorted(set(bench.ids) - case.ids):
        mask = decode_labels((out / f"{image_id}.png").read_bytes(), MAX_PIXELS)
        counts.append(count_pixels(mask, bench.truth(image_id), n_classes, n_classes))
    return bench.scores(add(counts), bench.classes.names)


def measure(args: argparse.Namespace, work: Path) -> None:
    bench = Bench(args, work)

    def write(case: Case, way: str, scores: dict[str, float]) -> None:
        row = {"set": args.name, "count": case.count, "draw": case.draw, "way": way}
        add_rows(args.log, [{**row, "scores": scores}])
        print(json.dumps({**row, "scores": scores}), flush=True)

    for case in bench.cases():
        if "runs" in args.parts:
            write(case, "corrections", pipeline(bench, case))
        if "fit" in args.parts and case.count:
            write(case, "light head", light_head(bench, case))


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Mean ± deviation over the draws, mIoU / accuracy."""
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        counts, lines = sorted({row["count"] for row in own}), []
        for way in dict.fromkeys(row["way"] for row in own):
            for rule in ("strict", "named"):
                of_count = ([r for r in own if (r["way"], r["count"]) == (way, n)] for n in counts)
                cells = [cell(draws, rule) for draws in of_count]
                if any(cells):
                    lines.append((f"{way}, {rule}", *(text or "–" for text in cells)))
        yield "\n" + markdown((f"{name}, corrected images", *map(str, counts)), lines)


def cell(draws: Sequence[Row], rule: str) -> str:
    scores = [row["scores"] for row in draws if f"{rule}_miou" in row["scores"]]
    if not scores:
        return ""
    miou, accuracy = ([one[f"{rule}_{name}"] for one in scores] for name in ("miou", "accuracy"))
    spread = f" ± {pstdev(miou):.1f}" if len(miou) > 1 else ""
    return f"{fmean(miou):.1f}{spread} / {fmean(accuracy):.1f}"


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
    parser.add_argument("--parts", default="runs", help="runs,fit")
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    args.counts = [int(count) for count in args.counts.split(",")]
    if not args.show:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, args.work or Path(folder))
    print("\n".join(tables(read_rows(args.log))))


if __name__ == "__main__":
    main()

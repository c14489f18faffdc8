"""Do the figures without labels say what the true scores say? (docs/choosing_k.md)

    python benchmarks/trust.py scenes --work W                     five sets of rendered scenes
    python benchmarks/trust.py k --work W NAME ...                 recommended K against the best K
    python benchmarks/trust.py rank --work W --clusters K NAME     rank correlation over runs
    python benchmarks/trust.py hopeless --work W [NAME ...]        noise, copies, random weights

A set NAME is a folder W/sets/NAME with images/, masks/ and classes.toml; `add` makes one from every
n-th image of a dataset:

    python benchmarks/trust.py add --work W NAME IMAGES TRUTH CLASSES N

Tables go to standard output, all figures to W/MODE.jsonl. Runs stay in W/runs, so a second call
only measures again.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from datus.config import ClustersConfig, Config
from datus.engine.plan import find_node
from datus.engine.run import RunResult
from datus.method.verdict import STABILITY, KFigures, recommend
from datus.pipeline import run
from datus.store.store import Store
from datus.suggest.stability import FIGURES, measure, overview
from datus.suggest.suggest_k import Source, Suggestion, find_source, fit_with, read_points, suggest

KS = tuple(range(2, 31))

QUICK: dict[str, Any] = {"speed.threads": 1}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "random weights, seed 0": {"features.weights": "random"},
    "random weights, seed 1": {"features.weights": "random", "seed": 1},
    "random weights, seed 2": {"features.weights": "random", "seed": 2},
    "threshold 0.3": {"graphs.threshold": 0.3},
    "threshold 0.5": {"graphs.threshold": 0.5},
    "threshold 0.85": {"graphs.threshold": 0.85},
    "center none": {"graphs.center": "none"},
    "center image": {"graphs.center": "image"},
    "center dataset": {"graphs.center": "dataset"},
    "160 pixels": {"features.image_px": 160},
    "320 pixels": {"features.image_px": 320},
    "crops": {"embeddings.mode": "crop"},
    "no PCA": {"clusters.pca": 0},
    "preset paper": {"preset": "paper"},
}
"""What `rank` compares."""

SCENES: dict[str, set[int]] = {
    "scenes3": {0, 2, 6},
    "scenes4": {0, 3, 4, 5},
    "scenes5": {0, 1, 2, 6, 7},
    "scenes6": {0, 1, 3, 4, 6, 7},
    "scenes8": set(range(8)),
}
"""Scenes that show none but these classes on more than a hundredth of their pixels."""


# --- sets ---------------------------------------------------------------------------------------


def link(folder: Path, pairs: Iterable[tuple[Path, Path]], classes: Path) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        for name, path in zip(("images", "masks"), pair, strict=True):
            target = folder / name / path.name
            if not target.exists():
                os.symlink(path.resolve(), target)
    shutil.copy(classes, folder / "classes.toml")


def add(work: Path, name: str, images: Path, truth: Path, classes: Path, step: int) -> None:
    paths = sorted(path for path in images.iterdir() if path.is_file())[::step]
    pairs = ((path, truth / f"{path.stem}.png") for path in paths)
    link(work / "sets" / name, pairs, classes)


def scenes(work: Path) -> None:
    """From 400 scenes of data/make_scenes.py in W/scenes."""
    source = work / "scenes"
    shown = {}
    for path in sorted((source / "masks").glob("*.png")):
        labels = np.asarray(Image.open(path))
        shares = np.bincount(labels.ravel(), minlength=8) / labels.size
        shown[path] = set(np.flatnonzero(shares > 0.01).tolist())
    for name, allowed in SCENES.items():
        paths = [path for path, seen in shown.items() if seen <= allowed][:70]
        if len(allowed) == 8:
            paths = list(shown)[::6]
        pairs = ((source / "images" / path.name, path) for path in paths)
        link(work / "sets" / name, pairs, source / "classes.toml")
        print(f"{name}: {len(paths)} scenes")


def hopeless_sets(work: Path, photograph: Path, n: int) -> dict[str, Path]:
    """Images that hold nothing to find."""
    sets = work / "sets"
    picture = np.asarray(Image.open(photograph).convert("RGB"))[::2, ::2]
    for number in range(n):
        rng = np.random.default_rng([5, number])
        coarse = rng.random((6, 8, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, (240, 180), interpolation=cv2.INTER_CUBIC)
        grainy = picture.astype(int) + np.random.default_rng([6, number]).normal(
            0, 4, picture.shape
        )
        made = {
            "white noise": rng.integers(0, 256, (180, 240, 3)),
            "smooth noise": smooth * 255,
            "one colour each": np.tile(rng.integers(0, 256, 3), (180, 240, 1)),
            "the same image": picture,
            "the same image, grain": grainy,
        }
        for name, image in made.items():
            folder = sets / f"{name} x {n}" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(
                folder / f"{number:03d}.png"
            )
    return {f"{name} x {n}": sets / f"{name} x {n}" for name in made}


def run_set(work: Path, name: str, folder: str, more: Mapping[str, Any]) -> tuple[RunResult, Store]:
    place = work / "sets" / name
    truth = place / "masks"
    known = {"data.truth": str(truth), "data.classes": str(place / "classes.toml")}
    settings = {
        "data.images": str(place / "images"),
        **(known if truth.is_dir() else {}),
        "run_dir": str(work / "runs" / folder),
        **QUICK,
        **more,
    }
    config = Config.load(None, settings)
    store = Store(config.run_path)
    return run(config, store), store


def report_of(result: RunResult, store: Store) -> dict[str, Any]:
    data = store.read("report", result.plan.nodes[-1].fingerprint, "files", "report.json")
    return dict(json.loads(data))


def judged(store: Store, ks: Sequence[int], seed: int = 0) -> Suggestion:
    source = find_source(store)
    return suggest(read_points(store, source, seed), source, ks, seed)


# --- K ------------------------------------------------------------------------------------------


def rules(found: Sequence[KFigures]) -> dict[str, int]:
    """Rule -> its K: what others do."""
    ks = [one.k for one in found]

    def column(name: str) -> Any:
        return np.array([one.real[name].mean for one in found])

    def above(name: str) -> Any:
        return np.array([one.excess(name) for one in found])

    gap = np.array([one.gap for one in found])
    spread = [
        np.sqrt(7 / 6) * one.chance["unexplained"].sd / one.chance["unexplained"].mean
        for one in found
    ]
    fits = [gap[i] >= gap[i + 1] - spread[i + 1] for i in range(len(ks) - 1)]
    left = column("unexplained")
    bend = (np.array(ks) - ks[0]) / (ks[-1] - ks[0]) + (left - left[-1]) / (left[0] - left[-1])
    stable = [one.k for one in found if one.real[STABILITY].mean >= 0.8]
    return {
        "largest K, stability nearly farthest above chance (ours)": recommend(found).k,
        "stability farthest above chance": ks[int(above(STABILITY).argmax())],
        "... starts alone": ks[int(above("starts").argmax())],
        "... resampled segments alone": ks[int(above("segments").argmax())],
        "... resampled images alone": ks[int(above("images").argmax())],
        "largest K with stability 0.8": max(stable, default=ks[0]),
        "silhouette": ks[int(column("silhouette").argmax())],
        "silhouette above chance": ks[int(above("silhouette").argmax())],
        "gap statistic": ks[fits.index(True)] if any(fits) else ks[-1],
        "elbow": ks[int(bend.argmin())],
        **{f"always {k}": min(ks, key=lambda one: abs(one - k)) for k in (6, 8, 12)},
    }


def choose_k(work: Path, names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    rows = []
    more = {"clusters.k": list(KS), "masks.refine": "none"}
    for name in names:
        report = report_of(*(made := run_set(work, name, name, more)))
        scores = {
            one["k"]: {rule: row["miou"] for rule, row in one["scores"].items()}
            for one in report["sweep"]
        }
        found = judged(made[1], KS, seed)
        row = {"set": name, "n_images": report["n_images"], "n_segments": found.seen.n_segments}
        row |= {"scores": scores, "rules": rules(found.found), **found.as_dict()}
        rows.append(row)
        print_k(row)
    loss = {rule: [lost(row, k) for row, k in column] for rule, column in by_rule(rows).items()}
    print("\n| rule | K by set | mIoU lost, mean | worst |\n|---|---|---|---|")
    for rule in sorted(loss, key=lambda rule: np.mean(loss[rule])):
        ks = ", ".join(str(k) for _, k in by_rule(rows)[rule])
        print(f"| {rule} | {ks} | {np.mean(loss[rule]):.1f} | {max(loss[rule]):.1f} |")
    return rows


def by_rule(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[dict[str, Any], int]]]:
    return {rule: [(row, row["rules"][rule]) for row in rows] for rule in rows[0]["rules"]}


def lost(row: dict[str, Any], k: int, rule: str = "hungarian_strict") -> float:
    column = {one: scores[rule] for one, scores in row["scores"].items()}
    return float(max(column.values()) - column[k])


def print_k(row: dict[str, Any]) -> None:
    k, cells = row["recommended"]["k"], []
    for rule in ("hungarian_strict", "merge_nearest", "majority"):
        column = {one: scores[rule] for one, scores in row["scores"].items()}
        best = max(column, key=lambda one: column[one])
        cells.append(f"{best}: {column[best]:.1f} | {column[k]:.1f}")
    others = ", ".join(map(str, row["recommended"]["others"]))
    head = f"| {row['set']} | {row['n_images']} | {row['n_segments']} | {k} ({others})"
    print(f"{head} | {' | '.join(cells)} | {row['verdicts'][str(k)]['word']} |", flush=True)


# --- ranks --------------------------------------------------------------------------------------


def figures_of(made: tuple[RunResult, Store], k: int) -> dict[str, float]:
    """Everything that can be known of a run without labels."""
    result, store = made
    plan = result.plan
    marks = {name: find_node(plan.nodes, name, k) for name in ("embeddings", "segments")}
    settings = dict(find_node(plan.nodes, "clusters", k).recipe["settings"])
    known = {n: settings[n] for n in ("pca", "spherical", "restarts", "sample")}
    clusters = ClustersConfig(k=(k,), **known)
    source = Source(
        result.index, marks["embeddings"].fingerprint, marks["segments"].fingerprint, clusters
    )
    points = read_points(store, source, 0)
    found, seen = measure(points, k, fit_with(clusters), 0), overview(points)
    figures = {name: found.real[name].mean for name in FIGURES}
    figures |= {f"{name}, above chance": found.excess(name) for name in FIGURES}
    figures |= {"gap": found.gap, "valid segments": float(seen.n_segments)}
    figures |= {"place share": seen.place_share, "image share": seen.image_share}
    figures |= {"kurtosis of the rest": seen.kurtosis}
    reports = [store.report(*place) for place in plan.places(marks["segments"])]
    rows = [row for one in reports if one for row in one.numbers.values()]
    return {**figures, "modularity": float(np.mean([row["modularity"] for row in rows]))}


def rank(work: Path, names: Sequence[str], k: int, variants: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        for variant in variants or VARIANTS:
            made = run_set(work, name, f"var_{name}", {"clusters.k": [k], **VARIANTS[variant]})
            scores = report_of(*made)["scores"]
            row = {"set": name, "k": k, "variant": variant, "figures": figures_of(made, k)}
            row["scores"] = {
                "mIoU": scores["hungarian_strict"]["miou"],
                "accuracy": scores["hungarian_strict"]["accuracy"],
                "majority": scores["majority"]["miou"],
            }
            rows.append(row)
            shown = ("stability", "silhouette", "content", "image share")
            cells = [f"{row['figures'][one]:.3f}" for one in shown]
            score = f"{row['scores']['mIoU']:.1f} / {row['scores']['accuracy']:.1f}"
            print(f"| {name} | {variant} | {score} | {' | '.join(cells)} |", flush=True)
        print_ranks(name, [row for row in rows if row["set"] == name])
    return rows


def print_ranks(name: str, rows: Sequence[dict[str, Any]]) -> None:
    own = [row for row in rows if "random" not in row["variant"]]
    print(f"\n| {name}, n = {len(rows)} | mIoU | accuracy | majority | mIoU, n = {len(own)} |")
    print("|---|---|---|---|---|")
    for figure in rows[0]["figures"]:
        cells = [correlation(rows, figure, score) for score in rows[0]["scores"]]
        cells.append(correlation(own, figure, "mIoU"))
        print(f"| {figure} | {' | '.join(f'{one:+.2f}' for one in cells)} |")


def correlation(rows: Sequence[dict[str, Any]], figure: str, score: str) -> float:
    """Spearman's."""
    one, other = [r["figures"][figure] for r in rows], [r["scores"][score] for r in rows]
    return float(spearmanr(one, other)[0])


# --- hopeless -----------------------------------------------------------------------------------


def hopeless(work: Path, names: Sequence[str], photograph: Path) -> list[dict[str, Any]]:
    rows = []
    made = [name for n in (10, 50) for name in hopeless_sets(work, photograph, n)]
    asked = [(name, {}) for name in made]
    asked += [(name, {"features.weights": "random"}) for name in names]
    asked += [(name, {}) for name in names]
    columns = "set | images | segments | different | image share | kurtosis | K | verdict"
    print(f"| {columns} | stability | chance |\n|{'---|' * 10}")
    for name, more in asked:
        label = f"{name}, random weights" if more else name
        folder = f"hopeless_{label}".replace(" ", "_").replace(",", "")
        _, store = run_set(work, name, folder, {"clusters.k": [6], "masks.refine": "none", **more})
        found = judged(store, range(2, 16))
        rows.append({"set": label, **found.as_dict()})
        k = found.choice.k
        one = next(row for row in found.found if row.k == k)
        seen, chance = found.seen, one.chance[STABILITY]
        print(
            f"| {label} | {seen.n_images} | {seen.n_segments} | {seen.n_different} | "
            f"{seen.image_share:.3f} | {seen.kurtosis:.1f} | {k} | {found.verdicts[k].word} | "
            f"{one.real[STABILITY].mean:.3f} | {chance.mean:.3f} ± {chance.sd:.3f} |",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", choices=("add", "scenes", "k", "rank", "hopeless"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", default="", help="of rank: names with ;, else all")
    parser.add_argument("--photograph", type=Path, help="of hopeless: the image that is repeated")
    args = parser.parse_intermixed_args()
    rows: list[dict[str, Any]] = []
    if args.mode == "add":
        name, images, truth, classes, step = args.names
        add(args.work, name, Path(images), Path(truth), Path(classes), int(step))
    elif args.mode == "scenes":
        scenes(args.work)
    elif args.mode == "k":
        rows = choose_k(args.work, args.names, args.seed)
    elif args.mode == "rank":
        rows = rank(
            args.work, args.names, args.clusters, list(filter(None, args.variants.split(";")))
        )
    else:
        rows = hopeless(args.work, args.names, args.photograph)
    with (args.work / f"{args.mode}.jsonl").open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()

"""DatUS next to the baselines on one dataset, all rules, as a Markdown table.

    python benchmarks/scores.py --images DIR --truth DIR --classes TOML --clusters K [--seeds 0,1,2]

Rows: both presets of the pipeline (mean over seeds and spread of the headline), k-means on colour
and position of every pixel, k-means on patch tokens. Same images, same K, same evaluator.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from baselines import Job, colour_baseline, find_items, token_baseline
from common import mean, report_of

from datus.config import EMBEDDED_BACKBONE
from datus.inputs.labels import load_classes
from datus.method.metrics import RULES, score_all

Table = dict[str, dict[str, float]]
"""Rule -> figure -> percent."""

FIGURES = ("miou", "accuracy", "f1", "coverage")


def pipeline(args: argparse.Namespace, preset: str, seed: int, folder: Path) -> Table:
    settings = {
        "preset": preset,
        "seed": seed,
        "data.images": str(args.images),
        "data.truth": str(args.truth),
        "data.classes": str(args.classes),
        "clusters.k": [args.clusters],
        "features.backbone": args.backbone,
        "features.weights": args.weights,
        "run_dir": str(folder),
    }
    table: Table = report_of(settings)["scores"]
    return table


def baselines(args: argparse.Namespace, seed: int) -> dict[str, Table]:
    items = tuple(find_items(args.images, args.truth))
    job = Job(items, load_classes(args.classes), args.clusters, seed)
    counts = {
        "k-means on colour + position per pixel": colour_baseline(job, position=True),
        "k-means on patch tokens": token_baseline(job, args.backbone, args.weights, 224),
    }
    return {
        name: {rule: scores.as_dict() for rule, scores in score_all(*counted).items()}
        for name, counted in counts.items()
    }


def row(name: str, tables: list[Table]) -> str:
    """`mIoU / accuracy / F1 (coverage)` under each rule, means over seeds."""
    cells = []
    for rule in RULES:
        miou, accuracy, f1, coverage = (mean(table[rule][f] for table in tables) for f in FIGURES)
        spread = np.std([table[rule]["miou"] for table in tables])
        plus = f" ± {spread:.1f}" if len(tables) > 1 else ""
        cells.append(f"{miou:.1f}{plus} / {accuracy:.1f} / {f1:.1f} ({coverage:.0f})")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--presets", default="best,paper")
    parser.add_argument("--backbone", default=EMBEDDED_BACKBONE)
    parser.add_argument("--weights", default="auto")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rules = " | ".join(f"`{rule}`" for rule in RULES)
    print(
        f"| mIoU / accuracy / F1 (coverage), % | {rules} |\n|---|{'---|' * len(RULES)}", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        for preset in args.presets.split(","):
            tables = [pipeline(args, preset, seed, Path(folder) / "run") for seed in seeds]
            print(row(f"DatUS, preset `{preset}`", tables), flush=True)
    by_seed = [baselines(args, seed) for seed in seeds]
    for name in by_seed[0]:
        print(row(name, [tables[name] for tables in by_seed]), flush=True)


if __name__ == "__main__":
    main()

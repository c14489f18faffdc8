"""Figures without labels against true scores: what may a verdict rest on?

    python benchmarks/verdict_bench.py --data DATASETS --out FILE.jsonl

Every backbone of backbone_bench on every set: the run of `best`, its true score, and how the labels
of the run's own clusters agree between an image and another view of it. Views: the mirror image,
and the middle three quarters enlarged in other colours. Spearman's rank correlation of each figure
with the true score over the backbones of one set, and its mean over the sets.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from backbone_bench import (
    ALL_SETS,
    BACKBONES,
    DEFAULT_CACHE,
    EXTRA,
    SETS,
    Memory,
    config_of,
    load,
    memory_of,
    scores,
)
from common import Row, class_table, markdown, mean, read_rows, run_jobs
from scipy.stats import spearmanr
from simulated import BENCH_VIEWS, labels_seen

from datus.config import Config, parse_override
from datus.errors import DatusError
from datus.inputs.labels import load_classes
from datus.method.consistency import VIEWS, figures_of, judge, kappa
from datus.pipeline import make_plan
from datus.stages.masks import labelled
from datus.types import Array

N_VIEWED = 32

ROWS = {
    **BACKBONES,
    "place alone": EXTRA["simulated, place alone"],
    "random t8": EXTRA["random embedded"],
}

STAGES = ("keysums", "center", "graphs", "segments", "embeddings", "samples", "clusters")

FIGURES = (*BENCH_VIEWS, "least", "mean", "place")


@dataclass(frozen=True)
class Job:
    """One backbone on one set."""

    backbone: str
    dataset: str
    k: int
    settings: dict[str, Any]
    data: Path
    cache: Path
    n_images: int


def work_on(job: Job) -> list[Row]:
    images, make = load(job.dataset, job.data, job.n_images), ROWS[job.backbone]
    row: Row = {"backbone": job.backbone, "set": job.dataset, "k": job.k}
    config = config_of(images, job.k, job.settings)
    memory = memory_of(images.index.records, make(images, job.cache))
    nodes = {node.name: node for node in make_plan(config, images.index).nodes}
    try:
        for stage in STAGES:
            if stage in nodes:
                memory.outputs[stage] = memory.make(config, nodes[stage])
    except DatusError as error:
        return [{**row, "error": str(error)}]
    labels = labels_of(config, memory)
    row |= scores(config, images, memory) | figures_of(labels)
    every = max(1, len(images.index.records) // N_VIEWED)
    for view in BENCH_VIEWS:
        grids = make(images, job.cache, view=view, every=every)
        viewed = memory_of(images.index.records[::every], grids)
        viewed.outputs = memory.outputs | viewed.outputs
        for stage in ("graphs", "segments", "embeddings"):
            viewed.outputs[stage] = viewed.make(config, nodes[stage])
        expected = [labels_seen(one, view) for one in labels[::every]]
        row[view] = kappa(joined(expected), joined(labels_of(config, viewed)))
    row["least"] = min(row[view] for view in VIEWS)
    row["mean"] = mean(row[view] for view in VIEWS)
    row["word"] = judge(row, random_weights=False).word
    return [row]


def labels_of(config: Config, memory: Memory) -> list[Array]:
    """uint8 (gh, gw) of each image that was segmented."""
    segmented = memory.outputs["segments"].arrays
    labels = []
    for record in memory.shard.records:
        if record.image_id in segmented:
            cluster, _, _ = labelled(config, record, memory.outputs, None)
            labels.append(cluster.astype(np.uint8)[segmented[record.image_id]["labels"]])
    return labels


def joined(labels: list[Array]) -> Array:
    return np.concatenate([one.ravel() for one in labels])


def tables(rows: list[Row]) -> str:
    """Markdown: the runs of each set, and the rank correlations."""
    sets, texts = list(dict.fromkeys(row["set"] for row in rows)), []
    ranks: dict[str, list[float]] = {name: [] for name in FIGURES}
    for name in sets:
        runs = [row for row in rows if row["set"] == name]
        runs.sort(key=lambda row: (list(ROWS).index(row["backbone"]), row["k"]))
        lines = []
        for row in runs:
            score = f"{row.get('miou', 0):.1f}", f"{row.get('accuracy', 0):.1f}"
            cells = [f"{row[f]:.2f}" if f in row else "-" for f in FIGURES]
            word = row.get("word", row.get("error", ""))
            lines.append((row["backbone"], str(row["k"]), *score, *cells, word))
        texts.append(markdown((name, "K", "mIoU", "accuracy", *FIGURES, "verdict"), lines))
        usable = [row for row in runs if "mirror" in row]
        for figure in FIGURES:
            rank = spearmanr([row[figure] for row in usable], [row["miou"] for row in usable])
            ranks[figure].append(float(rank.statistic))
    lines = [
        (figure, *(f"{value:.2f}" for value in (*values, mean(values))))
        for figure, values in ranks.items()
    ]
    header = ("rank correlation with mIoU", *sets, "mean")
    return "\n\n".join(["", *texts, markdown(header, lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--factors", default="1", help="K as multiples of the number of classes")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        settings = dict(map(parse_override, args.set))
        jobs = []
        for name in args.sets.split(","):
            n_classes = load_classes(class_table(ALL_SETS[name])).n_classes
            ks = [round(n_classes * float(factor)) for factor in args.factors.split(",")]
            jobs += [
                Job(backbone, name, k, settings, args.data, args.cache, args.images)
                for backbone in ROWS
                for k in ks
            ]
        run_jobs(work_on, jobs, args.out, 2)
    print(tables(read_rows(args.out)))


if __name__ == "__main__":
    main()

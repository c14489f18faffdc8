"""Figures without labels against true scores: what may a verdict rest on?

    python benchmarks/verdict_bench.py --data DATASETS --out FILE.jsonl

Every backbone of backbone_bench on every set: the run of `best`, its true score, and how the labels
of the run's own clusters agree between an image and another view of it. Views: the mirror image,
and the middle three quarters enlarged in other colours. Spearman's rank correlation of each figure
with the true score over the backbones of one set, and its mean over the sets.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from backbone_bench import (
    BACKBONES,
    DEFAULT_CACHE,
    EXTRA,
    SETS,
    Given,
    Memory,
    features_of,
    load,
    scored,
)
from scipy.stats import spearmanr
from simulated import BENCH_VIEWS, labels_seen

from datus.config import Config
from datus.engine.stage import Context, Runtime
from datus.errors import DatusError
from datus.inputs.index import Index, Shard
from datus.method.consistency import VIEWS, figures_of, judge, kappa
from datus.pipeline import make_plan
from datus.stages.masks import labelled
from datus.types import Array, ShardData

N_VIEWED = 32

ROWS = {
    **BACKBONES,
    "place alone": EXTRA["simulated, place alone"],
    "random t8": EXTRA["random embedded"],
}


def labels_of(config: Config, given: Given, outputs: dict[str, ShardData]) -> list[Array]:
    """uint8 (gh, gw) of each image."""
    found = []
    for record in given.index.records:
        if record.image_id not in outputs["segments"].arrays:
            continue
        cluster, _, _ = labelled(config, record, outputs, None)
        found.append(
            cluster.astype(np.uint8)[outputs["segments"].arrays[record.image_id]["labels"]]
        )
    return found


def work_on(job: tuple[str, str, int, dict[str, Any], Path, Path, int]) -> dict[str, Any]:
    backbone, name, k, settings, data, cache, n_images = job
    given = load(name, data, n_images)
    make = ROWS[backbone]
    row: dict[str, Any] = {"backbone": backbone, "set": name, "k": k}
    own = {f"data.{one}": getattr(given.config.data, one) for one in ("images", "truth", "classes")}
    config = Config.load(None, {**own, "clusters.k": [k], **settings})
    plan = make_plan(config, given.index)
    outputs = {"features": features_of(given, make(given, cache))}
    dataset = Memory(given.index, Shard("all", given.index.records), outputs=outputs)

    def stage(node: Any, dataset: Memory) -> ShardData:
        work = node.stage.build(Context(config, node.k, Runtime("cpu", 1, 1)))
        if node.is_dataset:
            return work(dataset, lambda n: None)
        return work(dataset.shard, {n: dataset.outputs[n] for n in node.needs}, lambda n: None)

    nodes = [n for n in plan.nodes if n.stage in ("keysums", "center", "graphs", "segments")]
    nodes += [n for n in plan.nodes if n.stage in ("embeddings", "samples", "clusters")]
    try:
        for node in nodes:
            outputs[node.name] = stage(node, dataset)
    except DatusError as error:
        return {**row, "error": str(error)}
    row |= scored(config, given, dataset)
    whole = labels_of(config, given, outputs)
    row |= figures_of(whole)
    every = max(1, len(given.index.records) // N_VIEWED)
    some = Given(
        given.config,
        Index(given.index.records[::every], {}, 0),
        given.truths[::every],
        given.n_classes,
    )
    for view in BENCH_VIEWS:
        grids = make(given, cache, view=view, every=every)
        again = {**outputs, "features": features_of(some, grids)}
        looked = Memory(some.index, Shard("some", some.index.records), outputs=again)
        for node in nodes:
            if node.name in ("graphs", "segments", "embeddings"):
                again[node.name] = stage(node, looked)
        found = labels_of(config, some, again)
        expected = [labels_seen(one, view) for one in whole[::every]]
        row[view] = kappa(
            np.concatenate([one.ravel() for one in expected]),
            np.concatenate([one.ravel() for one in found]),
        )
    row["least"] = min(row[view] for view in VIEWS)
    row["mean"] = float(np.mean([row[view] for view in VIEWS]))
    row["word"] = judge(row, random_weights=False).word
    return row


FIGURES = (*BENCH_VIEWS, "least", "mean", "place")


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
        from datus.config import parse_override

        settings = dict(parse_override(one) for one in args.set)
        n_classes = {"camvid11_train": 11, "camvid11_val": 11, "facades": 8, "ccp_clothing": 9}
        n_classes |= {"suim_test8": 6}
        jobs = [
            (b, s, round(n_classes[s] * float(f)), settings, args.data, args.cache, args.images)
            for s in args.sets.split(",")
            for b in ROWS
            for f in args.factors.split(",")
        ]
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(work_on, job) for job in jobs]):
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done.result()) + "\n")
    print(table([json.loads(line) for line in args.out.read_text().splitlines()]))


def table(rows: list[dict[str, Any]]) -> str:
    sets, lines = list(dict.fromkeys(row["set"] for row in rows)), []
    ranks: dict[str, list[float]] = {name: [] for name in FIGURES}
    for name in sets:
        here = sorted(
            (r for r in rows if r["set"] == name),
            key=lambda r: (list(ROWS).index(r["backbone"]), r["k"]),
        )
        head = f"| {name} | K | mIoU | accuracy | {' | '.join(FIGURES)} | verdict |"
        lines += ["", head, "|---" * (head.count("|") - 1) + "|"]
        for row in here:
            cells = [f"{row[f]:.2f}" if f in row else "-" for f in FIGURES]
            score = f"{row.get('miou', 0):.1f} | {row.get('accuracy', 0):.1f}"
            cells += [row.get("word", row.get("error", ""))]
            lines.append(f"| {row['backbone']} | {row['k']} | {score} | {' | '.join(cells)} |")
        usable = [row for row in here if "mirror" in row]
        for figure in FIGURES:
            found = spearmanr([r[figure] for r in usable], [r["miou"] for r in usable])
            ranks[figure].append(float(found.statistic))
    lines += [
        "",
        f"| rank correlation with mIoU | {' | '.join(sets)} | mean |",
        "|---" * (len(sets) + 2) + "|",
    ]
    for figure, values in ranks.items():
        cells = [f"{value:.2f}" for value in (*values, float(np.mean(values)))]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""How sure the drift report is: of clusters from few segments, and of few new images.

    python benchmarks/drift.py --old RUN [--new RUN ...]

RUN is a finished run's folder; those of --new took the clusters of --old. Three tables:

    new      what the report says of each new run, as it stands in its report.json
    floors   clusters of 5, 10, 20 ... of the old images, held against the other half of them
    few      of 1, 5 and 20 new images, 40 random sets and all runs of neighbours: how many are
             warned of

Reads embeddings that are stored; nothing is written.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from datus.config import ClustersConfig
from datus.method.clusters import fit_clusters, offsets
from datus.method.drift import Drift, drift, reference
from datus.review.frozen import known_k, load
from datus.store.store import Store
from datus.types import Array

DRAWS, SETS = 3, 40


def vectors_of(run: str) -> list[Array]:
    """Vectors of the valid segments of each image that has some, of the newest finished report."""
    store, found = Store(run), load(run, known_k(run)[0])
    wanted = found.recipes["embeddings"]
    mark = next(m for m, recipe in store.recipes("embeddings") if recipe == wanted)
    rows = []
    for name in store.files("embeddings", mark):
        if name.endswith(".safetensors"):
            key = name.removeprefix("shard-").removesuffix(".safetensors")
            data = store.read_shard(("embeddings", mark, key))
            rows += sorted(data.arrays.items()) if data else []
    vectors = [(name, arrays["vectors"][arrays["valid"]]) for name, arrays in sorted(rows)]
    return [one for _, one in vectors if len(one)]


class Clusters:
    """Fitted to some images, to hold others against them."""

    def __init__(self, images: list[Array], k: int, seed: int) -> None:
        vectors = np.concatenate(images)
        self.model = fit_clusters(vectors, k, ClustersConfig(k=(k,)), seed, "cpu")
        cluster, measures = offsets(self.model, vectors)
        self.known = reference(measures, cluster, k, len(self.model.pca_axes))

    def drift(self, images: list[Array]) -> Drift:
        cluster, measures = offsets(self.model, np.concatenate(images))
        image = np.repeat(np.arange(len(images)), [len(one) for one in images])
        return drift(self.known, measures, cluster, image)


def reported(run: str) -> str:
    """One line of the first table."""
    path = Path(run) / "latest" / "report" / "report.json"
    found = json.loads(path.read_text(encoding="utf-8"))["drift"]
    cells = [run, str(found["n_new_images"]), str(found["n_new_segments"])]
    for one in found["measures"]:
        shares = ("percent_beyond_95", "percent_beyond_99", "percent_of_images_mostly_beyond")
        cells.append(f"{one['before']['50']:.3f} -> {one['now']['50']:.3f}")
        cells += [f"{one[name]:.1f}" for name in shares]
    return f"| {' | '.join([*cells, 'yes' if found['warning'] else 'no'])} |"


def floors(old: list[Array], ks: list[int]) -> None:
    print("\n| K | old images | segments | for each cluster | for each axis | distance | outside |")
    print("|---|---|---|---|---|---|---|")
    half = len(old) // 2
    for k in ks:
        for n in (5, 10, 20, half):
            sizes, shares = [], []
            for seed in range(DRAWS):
                mixed = np.random.default_rng(seed).permutation(len(old))
                mine = [old[i] for i in mixed[:n]]
                sizes.append(sum(map(len, mine)))
                if sizes[-1] < 2 * k:
                    continue
                fitted = Clusters(mine, k, seed)
                found = fitted.drift([old[i] for i in mixed[half:]])
                shares.append([one.far for one in found.measures])
            size = round(np.mean(sizes))
            columns = [
                ", ".join(f"{share:.0f}" for share in row) for row in zip(*shares, strict=True)
            ]
            each = f"{size / k:.0f} | {size / 32:.0f}"
            print(f"| {k} | {n} | {size} | {each} | {' | '.join(columns) or '– | –'} |", flush=True)


def few(fitted: Clusters, run: str) -> None:
    new = vectors_of(run)
    for n in (1, 5, 20):
        if n > len(new):
            continue
        rng = np.random.default_rng(0)
        drawn = [[new[i] for i in rng.permutation(len(new))[:n]] for _ in range(SETS)]
        runs = [new[i : i + n] for i in range(len(new) - n + 1)]
        warned = [sum(bool(fitted.drift(one).words) for one in sets) for sets in (drawn, runs)]
        print(f"| {run} | {n} | {warned[0]} of {SETS} | {warned[1]} of {len(runs)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", nargs="*", default=[])
    parser.add_argument("--clusters", type=int, nargs="*", default=[11, 27, 60])
    args = parser.parse_args()
    if args.new:
        print("| run | images | segments | distance, median | 95 | 99 | images ", end="")
        print("| outside, median | 95 | 99 | images | warned |")
        print(f"|{'---|' * 12}")
        for run in args.new:
            print(reported(run), flush=True)
    old = vectors_of(args.old)
    floors(old, args.clusters)
    if args.new:
        fitted = Clusters(old, args.clusters[0], 0)
        print("\n| run | images at a time | random sets warned of | neighbours warned of |")
        print("|---|---|---|---|")
        for run in args.new:
            few(fitted, run)


if __name__ == "__main__":
    main()

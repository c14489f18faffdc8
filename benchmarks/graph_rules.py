"""What each part of the graph is worth: same images, keys, clusters and evaluator, other graphs.

    python benchmarks/graph_rules.py --images DIR --truth DIR --classes TOML --clusters K

Every row runs the pipeline of `best` from the keys on, with one rule changed: which mean key goes,
which pairs are linked, how links weigh, at which resolution, what becomes of noise. Rules that the
pipeline does not have (a spatial term, weights, the resolution by stability) are made here, on
dense matrices: they are tried before they are built. Three seeds, mean and spread.

Spatial term: pairs are linked where cosine - LAMBDA distance > threshold, the distance in units of
the image's diagonal; or only within a radius. Weights: a pair counts once for each threshold that
its cosine passes, so links are whole numbers of one to three bit planes; scikit-network partitions
these graphs, and the best weighted modularity of eight orders is kept, as everywhere. Resolution by
stability: of RESOLUTIONS the one whose partitions agree most (mean adjusted Rand index of all pairs
of ORDERS node orders), for each image, or for all images together.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from baselines import Item, find_items, read_image, read_truth

from datus.compute.threads import map_threads, n_cores
from datus.config import EMBEDDED_BACKBONE, Config
from datus.inputs.decode import fit_size, normalise, resize_image
from datus.inputs.labels import load_classes
from datus.method.affinity import affinity_graph, density
from datus.method.centering import add as add_sums
from datus.method.centering import (
    best_center,
    dataset_mean,
    key_sums,
    position_mean,
    position_share,
    without,
)
from datus.method.clusters import assign, fit_clusters
from datus.method.embeddings import pool, valid_segments
from datus.method.louvain import Partition, in_order_of_first_node, partition, unpack
from datus.method.masks import fill_from_neighbours, labels_to_pixels
from datus.method.metrics import RULES, add, count_pixels, score_all
from datus.method.segments import split
from datus.models.image_size import input_size
from datus.types import IGNORE, AffinityGraph, Array, Confusion, SegmentEmbeddings, SegmentMap

RESTARTS = 8
RESOLUTIONS = (0.6, 0.8, 1.0, 1.25, 1.6)
ORDERS = 6


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    name: str
    center: str = "position"
    threshold: float = 0.7
    noise: str = "nearest"
    resolution: float = 1.0
    distance: float = 0.0
    """What a whole diagonal takes from the cosine."""
    radius: float = 2.0
    """Pairs further apart than this share of the diagonal are not linked."""
    planes: tuple[float, ...] = ()
    """Thresholds of the weights; () = no weights."""
    stability: str = ""
    """"image" or "dataset": the resolution is the most stable one."""


RULES_TRIED = (
    Rule("the paper's: positive products, noise stays 255", "none", 0.0, "ignore"),
    Rule("mean key of the image", "image", 0.0, "ignore"),
    Rule("mean key of the dataset", "dataset", 0.0, "ignore"),
    Rule("mean key of the place", "position", 0.0, "ignore"),
    Rule("place, cosine > 0.7", noise="ignore"),
    Rule("**place, cosine > 0.7, noise from neighbours (`best`)**"),
    Rule("... noise by its own pooled token", noise="pool"),
    Rule("... cosine > 0.5", threshold=0.5),
    Rule("... cosine > 0.6", threshold=0.6),
    Rule("... cosine > 0.8", threshold=0.8),
    Rule("... spatial term 0.1", distance=0.1),
    Rule("... spatial term 0.3", distance=0.3),
    Rule("... spatial term 0.3, cosine > 0.6", threshold=0.6, distance=0.3),
    Rule("... links within 0.25 of the diagonal", radius=0.25),
    Rule("... links within 0.5 of the diagonal", radius=0.5),
    Rule("... 2 bit planes: 0.7, 0.85", planes=(0.7, 0.85)),
    Rule("... 3 bit planes: 0.6, 0.7, 0.8", planes=(0.6, 0.7, 0.8)),
    Rule("... 3 bit planes: 0.5, 0.7, 0.9", planes=(0.5, 0.7, 0.9)),
    Rule("... resolution 0.8", resolution=0.8),
    Rule("... resolution 1.25", resolution=1.25),
    Rule("... resolution by stability, each image", stability="image"),
    Rule("... resolution by stability, all images", stability="dataset"),
)


@dataclass(frozen=True)
class Photograph:
    """What all rules share."""

    keys: Array
    tokens: Array
    truth: Array
    size: tuple[int, int]


@dataclass
class Found:
    """One rule, one seed."""

    confusion: Confusion
    centroids: Array
    figures: dict[str, float] = field(default_factory=dict)


def main() -> None:
    args = arguments()
    items = [one for one in find_items(args.images, args.truth) if one.truth_path][:: args.every]
    photographs = load(items, args)
    sums = add_sums([key_sums(one.keys) for one in photographs])
    means = {"position": position_mean(sums), "dataset": dataset_mean(sums)}
    print(
        f"{len(photographs)} images, K = {args.clusters}, seeds {args.seeds}; "
        f"the place explains {position_share(sums):.2f} of the keys' variance: "
        f"`auto` takes {best_center(sums)}\n"
    )
    head = [f"`{rule}`" for rule in RULES]
    print("| mIoU / accuracy (coverage), % | " + " | ".join(head), end="")
    print(" | linked | Q | segments | s |\n|---|" + "---|" * (len(RULES) + 4), flush=True)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for rule in RULES_TRIED:
        if args.only and args.only not in rule.name:
            continue
        started = time.perf_counter()
        found = [one_rule(rule, photographs, means, args, seed) for seed in seeds]
        print(row(rule, found, time.perf_counter() - started), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    parser.add_argument("--only", default="", help="only rules with this in their name")
    parser.add_argument("--backbone", default=EMBEDDED_BACKBONE)
    parser.add_argument("--weights", default="auto")
    return parser.parse_args()


def load(items: list[Item], args: argparse.Namespace) -> list[Photograph]:
    """Keys and tokens of all images, in memory: a benchmark's few hundred."""
    from datus.models.vit import load_backbone

    given = {"data.images": str(args.images), "features.backbone": args.backbone}
    settings = Config.load(None, given).features
    seen = input_size(settings)
    backbone = load_backbone(args.backbone, args.weights, settings, "cpu", seed=0)
    classes = load_classes(args.classes)

    def one(item: Item) -> Photograph:
        image = read_image(item)
        size = fit_size(*image.shape[:2], seen.image_px, backbone.patch_px, seen.resize)
        grid = backbone.features([normalise(resize_image(image, size))], 1, 1)[0]
        keys, tokens = grid.keys.astype(settings.store), grid.tokens.astype(settings.store)
        truth = read_truth(item, classes)
        return Photograph(keys, tokens, truth, image.shape[:2])

    return map_threads(one, items, n_cores())


# --- one rule -----------------------------------------------------------------------------------


def one_rule(
    rule: Rule,
    photographs: list[Photograph],
    means: dict[str, Array],
    args: argparse.Namespace,
    seed: int,
) -> Found:
    settings = Config.load(None, {"data.images": str(args.images)})
    weighed = functools.partial(links_of, rule, means)
    resolutions = resolutions_of(rule, photographs, weighed, seed)

    def segmented(place: int) -> tuple[SegmentMap, float]:
        one = photographs[place]
        links = weighed(one.keys)
        found = best_of(links, resolutions[place], [seed, place])
        linked = density(AffinityGraph(packed(links > 0)))
        return split(found.labels, one.keys.shape[:2], found.modularity), linked

    both = map_threads(segmented, range(len(photographs)), n_cores())
    segments = [one for one, _ in both]
    valid = [valid_segments(one, settings.embeddings.min_patches) for one in segments]
    vectors = [
        pool(photo.tokens.astype(np.float32), one, np.ones(one.n_segments, bool)).vectors
        for photo, one in zip(photographs, segments, strict=True)
    ]
    train = np.concatenate([v[ok] for v, ok in zip(vectors, valid, strict=True)])
    model = fit_clusters(train, args.clusters, settings.clusters, seed, "cpu", n_threads=n_cores())
    n_classes = load_classes(args.classes).n_classes

    def counted(place: int) -> Confusion:
        one, parts = photographs[place], segments[place]
        ok = np.any(vectors[place], axis=1) if rule.noise == "pool" else valid[place]
        found = assign(model, SegmentEmbeddings(vectors[place], ok))
        if rule.noise == "nearest":
            found = fill_from_neighbours(parts, found)
        labels = np.where(found.cluster < 0, IGNORE, found.cluster).astype(np.uint8)
        return count_pixels(
            labels_to_pixels(labels[parts.labels], *one.size), one.truth, args.clusters, n_classes
        )

    confusion = add(map_threads(counted, range(len(photographs)), n_cores()))
    figures = {
        "linked": float(np.mean([linked for _, linked in both])),
        "q": float(np.mean([one.modularity for one in segments])),
        "segments": float(np.mean([one.n_segments for one in segments])),
        "resolution": float(np.mean(resolutions)),
    }
    return Found(confusion, model.centroids, figures)


def links_of(rule: Rule, means: dict[str, Array], keys: Array) -> Array:
    """uint8 (N, N): how many planes link a pair."""
    if rule.center in means:
        keys = without(keys, means[rule.center])
    center = "image" if rule.center == "image" else "none"
    if not rule.planes and not rule.distance and rule.radius > 1:
        return unpack(affinity_graph(keys, center, rule.threshold or None)).view(np.uint8)
    rows = keys.reshape(-1, keys.shape[2]).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1), 1e-12)[:, None]
    apart = distances(*keys.shape[:2])
    cosine = rows @ rows.T - np.float32(rule.distance) * apart
    cosine = np.maximum(cosine, cosine.T)  # the product rounds one way above, another below
    planes = [
        (cosine > bound) & (apart <= rule.radius) for bound in rule.planes or (rule.threshold,)
    ]
    return np.sum(planes, axis=0, dtype=np.uint8)


def distances(n_rows: int, n_columns: int) -> Array:
    """float32 (N, N): between patches, 1 = the diagonal of the grid."""
    places = np.stack(np.mgrid[:n_rows, :n_columns], axis=-1).reshape(-1, 2).astype(np.float32)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    return (apart / np.hypot(n_rows, n_columns)).astype(np.float32)


def packed(linked: Array) -> Array:
    n_words = (len(linked) + 63) // 64
    padded = np.zeros((len(linked), 64 * n_words), bool)
    padded[:, : len(linked)] = linked
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def best_of(links: Array, resolution: float, seeds: list[int]) -> Partition:
    """Best of RESTARTS orders, weighted where a pair counts more than once."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    if links.max(initial=0) <= 1:
        return partition(AffinityGraph(packed(links > 0)), "bits", resolution, RESTARTS, seed)
    from scipy import sparse
    from sknetwork.clustering import Louvain

    matrix, found = sparse.csr_matrix(links, dtype=np.float64), []
    for order in [None, *np.random.default_rng(seed).integers(0, 2**31 - 1, RESTARTS - 1).tolist()]:
        louvain = Louvain(resolution, shuffle_nodes=order is not None, random_state=order)
        labels = in_order_of_first_node(louvain.fit_predict(matrix))
        quality = weighted_modularity(links, labels, resolution)
        found.append(Partition(labels, quality, labels[None]))
    return max(found, key=lambda one: one.modularity)


def weighted_modularity(links: Array, labels: Array, resolution: float) -> float:
    degrees = links.sum(axis=1, dtype=np.int64)
    total = int(degrees.sum())
    volumes = np.bincount(labels, degrees)
    inside = int(links[labels[:, None] == labels[None]].sum(dtype=np.int64))
    return inside / total - resolution * float(np.square(volumes / total).sum())


# --- resolution by stability --------------------------------------------------------------------


def resolutions_of(
    rule: Rule, photographs: list[Photograph], weighed: Callable[[Array], Array], seed: int
) -> list[float]:
    """One for each image."""
    if not rule.stability:
        return [rule.resolution] * len(photographs)

    def agreements(place: int) -> list[float]:
        links = weighed(photographs[place].keys)
        return [agreement(links, one, [seed, place]) for one in RESOLUTIONS]

    found = np.array(map_threads(agreements, range(len(photographs)), n_cores()))
    if rule.stability == "dataset":
        found = np.broadcast_to(found.mean(axis=0), found.shape)
    return [RESOLUTIONS[best] for best in found.argmax(axis=1)]


def agreement(links: Array, resolution: float, seeds: list[int]) -> float:
    """Mean adjusted Rand index of all pairs of partitions from ORDERS orders, one run each."""
    rng, found = np.random.default_rng(seeds), []
    for _ in range(ORDERS):
        order = rng.permutation(len(links))
        graph = AffinityGraph(packed(links[np.ix_(order, order)] > 0))
        labels = np.empty(len(links), np.int64)
        labels[order] = partition(graph, "bits", resolution, 1, 0).labels
        found.append(labels)
    pairs = itertools.combinations(found, 2)
    return float(np.mean([adjusted_rand(one, other) for one, other in pairs]))


def adjusted_rand(one: Array, other: Array) -> float:
    """Hubert & Arabie 1985. 1 where both partitions are the same."""
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)

    def pairs(counts: Array) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, first, second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = first * second / pairs(np.array([len(one)]))
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def row(rule: Rule, found: list[Found], seconds: float) -> str:
    cells = []
    tables = [score_all(one.confusion, one.centroids) for one in found]
    for name in RULES:
        miou, accuracy, coverage = (
            [getattr(table[name], figure) for table in tables]
            for figure in ("miou", "accuracy", "coverage")
        )
        cells.append(
            f"{np.mean(miou):.1f} ± {np.std(miou):.1f} / {np.mean(accuracy):.1f} "
            f"({np.mean(coverage):.0f})"
        )
    means = {name: np.mean([one.figures[name] for one in found]) for name in found[0].figures}
    note = f" (mean {means['resolution']:.2f})" if rule.stability else ""
    return (
        f"| {rule.name}{note} | {' | '.join(cells)} | {means['linked']:.3f} | {means['q']:.3f} | "
        f"{means['segments']:.1f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()

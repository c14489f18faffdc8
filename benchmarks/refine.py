"""What pixel-level borders are worth: the same patch labels, drawn in different ways.

    python benchmarks/refine.py --images DIR --truth DIR --classes TOML --clusters K

Every row draws the labels that the pipeline of `best` gave to patches at the images' own size:

    blocks              nearest neighbour, as in the paper (masks.refine = none)
    bilateral           datus.method.refine (masks.refine = bilateral)
    bilinear            the labels as 0/1 planes, interpolated, largest wins; sees no image
    tokens              softmax of the distances of patch tokens to centroids, interpolated
    guided              0/1 planes through a guided filter (He et al. 2013) with the image's colours
    superpixels         the same planes, summed over superpixels: SLIC, or Felzenszwalb
    random walker       from the inside of the blocks, half a patch from their borders

The last two need scikit-image. Figures: `hungarian_strict` mIoU and accuracy, the boundary F-score
of each class after the match and of any border (boundaries.py), milliseconds of one
thread an image (its own time, not the machine's), decoding not counted. Mean and spread over seeds.
"""

import argparse
import functools
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from baselines import find_items, read_image, read_truth
from datus.method.boundaries import borders, boundary_f, class_boundary_f

from datus.compute.threads import map_threads
from datus.config import EMBEDDED_BACKBONE, Config
from datus.engine.plan import find_node
from datus.inputs.labels import load_classes
from datus.method.masks import labels_to_pixels
from datus.method.metrics import add, count_pixels, score
from datus.method.refine import Bilateral, refine
from datus.pipeline import run
from datus.review.cluster_arrays import cluster_model
from datus.store.store import Store
from datus.types import IGNORE, WHOLE, Array, ClusterModel


@dataclass(frozen=True)
class Photograph:
    """What all rows share. labels: uint8 (gh, gw)."""

    image: Array
    truth: Array
    labels: Array
    tokens: Array
    model: ClusterModel

    @property
    def patch_px(self) -> float:
        return max(self.image.shape[0] / len(self.labels), self.image.shape[1] / self.width)

    @property
    def width(self) -> int:
        return int(self.labels.shape[1])


Draw = Callable[[Photograph], Array]


# --- ways to draw -------------------------------------------------------------------------------


def blocks(one: Photograph) -> Array:
    return labels_to_pixels(one.labels, *one.image.shape[:2])


def bilateral(one: Photograph, settings: Bilateral) -> Array:
    return refine(one.image, one.labels, settings)


def planes_of(one: Photograph, size: tuple[int, int]) -> tuple[Array, Array]:
    """Labels (n,), and float32 (n, H, W): 1 inside each, interpolated to `size`."""
    names = np.unique(one.labels)
    planes = [resized((one.labels == name).astype(np.float32), size) for name in names]
    return names, np.stack(planes)


def resized(plane: Array, size: tuple[int, int]) -> Array:
    return cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def bilinear(one: Photograph) -> Array:
    names, planes = planes_of(one, one.image.shape[:2])
    return names[planes.argmax(axis=0)]


def tokens(one: Photograph, share: float) -> Array:
    """`share` of the score is the segment's label, the rest the token's own likeness."""
    n_clusters = one.model.n_clusters
    rows = one.tokens.reshape(-1, one.tokens.shape[2]).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    places = rows - one.model.pca_mean if len(one.model.pca_mean) else rows
    places = places @ one.model.pca_axes.T if len(one.model.pca_mean) else places
    distances = ((places[:, None] - one.model.centroids) ** 2).sum(axis=2)
    likeness = np.exp((distances.min(axis=1, keepdims=True) - distances) / 0.05)
    likeness /= likeness.sum(axis=1, keepdims=True)
    likeness = likeness.reshape(*one.labels.shape, n_clusters)
    scores = (1 - share) * likeness + share * (one.labels[..., None] == np.arange(n_clusters))
    size = one.image.shape[:2]
    planes = [resized(scores[..., i].astype(np.float32), size) for i in range(n_clusters)]
    return np.argmax(planes, axis=0).astype(np.uint8)


def guided(one: Photograph, radius_patches: float, epsilon: float = 1e-3, step: int = 4) -> Array:
    """Fast guided filter (He & Sun 2015): coefficients on every `step`-th pixel."""
    image = one.image.astype(np.float32) / 255
    size = tuple(max(1, side // step) for side in image.shape[:2])
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    radius = max(1, round(radius_patches * one.patch_px / step))

    def mean(plane: Array) -> Array:
        return cv2.blur(plane, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    centre = mean(small)
    pairs = (small[..., :, None] * small[..., None, :]).reshape(*size, 9)
    spread = np.dstack([mean(np.ascontiguousarray(pairs[..., i])) for i in range(9)])
    spread = spread.reshape(*size, 3, 3) - centre[..., :, None] * centre[..., None, :]
    inverse = np.linalg.inv(spread + epsilon * np.eye(3, dtype=np.float32))
    names, planes = planes_of(one, size)
    scores = []
    for plane in planes:
        level = mean(plane)
        along = mean(small * plane[..., None]) - centre * level[..., None]
        slope = np.einsum("hwij,hwj->hwi", inverse, along)
        offset = mean(level - (slope * centre).sum(axis=2))
        slope, offset = (resized(part, image.shape[:2]) for part in (mean(slope), offset))
        scores.append((slope * image).sum(axis=2) + offset)
    return names[np.argmax(scores, axis=0)]


def superpixels(one: Photograph, method: str, size_px: int, scale: float) -> Array:
    from skimage.segmentation import felzenszwalb, slic

    if method == "slic":
        n_wanted = one.image.shape[0] * one.image.shape[1] // size_px
        parts = slic(one.image, n_segments=n_wanted, compactness=scale, start_label=0)
    else:
        parts = felzenszwalb(one.image, scale=scale, sigma=0.8, min_size=size_px)
    names, planes = planes_of(one, one.image.shape[:2])
    sums = np.stack([np.bincount(parts.ravel(), plane.ravel()) for plane in planes])
    return names[sums.argmax(axis=0)][parts]


def random_walker(one: Photograph) -> Array:
    from skimage.segmentation import random_walker as walk

    mask = blocks(one)
    edges = borders(mask) | borders(mask[::-1, ::-1])[::-1, ::-1]
    inside = cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, 5)
    names, numbers = np.unique(mask, return_inverse=True)
    seeds = np.where(inside < 0.5 * one.patch_px, 0, numbers.reshape(mask.shape) + 1)
    if len(np.unique(seeds[seeds > 0])) < 2:
        return mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seeds that a border cuts off
        found = walk(one.image, seeds, beta=130, mode="cg_j", channel_axis=-1, tol=1e-2)
    return np.where(found > 0, names[np.maximum(found, 1) - 1], mask).astype(np.uint8)


PART = functools.partial
ROWS: tuple[tuple[str, Draw], ...] = (
    ("blocks (`none`)", blocks),
    ("**bilateral (`bilateral`)**", PART(bilateral, settings=Bilateral())),
    ("... votes at every pixel", PART(bilateral, settings=Bilateral(step=1))),
    ("... votes at every third", PART(bilateral, settings=Bilateral(step=3))),
    ("... 5 x 5 patches, sigma 1", PART(bilateral, settings=Bilateral(2, 1.0))),
    ("... 13 x 13 patches, sigma 3", PART(bilateral, settings=Bilateral(6))),
    ("... sigma of colour 0.1", PART(bilateral, settings=Bilateral(sigma_colour=0.1))),
    ("... no blur", PART(bilateral, settings=Bilateral(blur_patches=0.0))),
    ("bilinear", bilinear),
    ("tokens", PART(tokens, share=0.0)),
    ("tokens, half of the score the segment's", PART(tokens, share=0.5)),
    ("guided filter, radius 1 patch", PART(guided, radius_patches=1.0)),
    ("guided filter, radius 3 patches", PART(guided, radius_patches=3.0)),
    ("superpixels, SLIC of 200 px", PART(superpixels, method="slic", size_px=200, scale=10)),
    ("superpixels, Felzenszwalb 50", PART(superpixels, method="fh", size_px=50, scale=50)),
    ("superpixels, Felzenszwalb 100", PART(superpixels, method="fh", size_px=100, scale=100)),
    ("random walker", random_walker),
)


# --- the table ----------------------------------------------------------------------------------


def main() -> None:
    args = arguments()
    cv2.setNumThreads(1)
    n_classes = load_classes(args.classes).n_classes
    seeds = [int(seed) for seed in args.seeds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        sets = [load(args, seed, args.run_dir or folder) for seed in seeds]
    print(f"{len(sets[0])} images, K = {args.clusters}, seeds {seeds}\n")
    print("| | mIoU | accuracy | boundary F, classes | boundary F, any | ms an image |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, draw in ROWS:
        if args.only in name:
            draw(sets[0][0])  # what is compiled at the first call is not the image's
            found = [measured(draw, photos, args.clusters, n_classes) for photos in sets]
            print(f"| {name} | {' | '.join(cells(np.array(found)))} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--every", type=int, default=1, help="score every n-th image")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--run-dir", default="", help="keep the run here; empty = temporary")
    parser.add_argument("--backbone", default=EMBEDDED_BACKBONE)
    return parser.parse_args()


def load(args: argparse.Namespace, seed: int, folder: str) -> list[Photograph]:
    """Run the pipeline up to its masks, and read back what they were drawn from."""
    overrides = {
        "seed": seed,
        "data.images": str(args.images),
        "data.truth": str(args.truth),
        "data.classes": str(args.classes),
        "clusters.k": [args.clusters],
        "features.backbone": args.backbone,
        "run_dir": folder,
    }
    config = Config.load(None, overrides)
    store = Store(config.run_path)
    plan = run(config, store, until="masks").plan

    def read(stage: str, key: str) -> dict[str, dict[str, Array]]:
        data = store.read_shard(
            (stage, find_node(plan.nodes, stage, args.clusters).fingerprint, key)
        )
        assert data is not None
        return data.arrays

    found: dict[str, dict[str, dict[str, Array]]] = {}
    for shard in plan.shards:
        for stage in ("features", "segments", "masks"):
            found.setdefault(stage, {}).update(read(stage, shard.key))
    model = cluster_model(read("clusters", "all")[WHOLE])
    classes = load_classes(args.classes)
    photographs = []
    for item in [one for one in find_items(args.images, args.truth) if one.truth_path][
        :: args.every
    ]:
        features, segments, masks = (
            found[s][item.image_id] for s in ("features", "segments", "masks")
        )
        labels = masks["cluster"].astype(np.uint8)[segments["labels"]]
        truth = read_truth(item, classes)
        photographs.append(Photograph(read_image(item), truth, labels, features["tokens"], model))
    return photographs


def measured(draw: Draw, photos: list[Photograph], k: int, n_classes: int) -> list[float]:
    """mIoU, accuracy, boundary F of classes and of any border, milliseconds."""
    seconds = []

    def drawn(one: Photograph) -> Array:
        started = time.thread_time()
        mask = draw(one)
        seconds.append(time.thread_time() - started)
        return mask

    masks = map_threads(drawn, photos, 1)
    pairs = list(zip(masks, photos, strict=True))
    scores = score(
        add(count_pixels(m, p.truth, k, n_classes) for m, p in pairs), "hungarian_strict"
    )
    classes = np.full(256, IGNORE, np.uint8)
    classes[:k] = scores.match.astype(np.uint8)  # -1 becomes IGNORE
    by_class = [class_boundary_f(classes[m], p.truth, n_classes) for m, p in pairs]
    of_classes = [np.nanmean(one) for one in by_class if np.isfinite(one).any()]
    of_any = np.nanmean([boundary_f(m, p.truth) for m, p in pairs])
    figures = scores.miou, scores.accuracy, np.mean(of_classes), of_any, 1000 * np.mean(seconds)
    return [float(one) for one in figures]


def cells(found: Array) -> list[str]:
    """found: (seeds, 5)."""
    mean, spread = found.mean(axis=0), found.std(axis=0)
    percents = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean[:4], spread[:4], strict=True)]
    return [*percents, f"{mean[4]:.0f}"]


if __name__ == "__main__":
    main()

"""What masks are worth that need no segments: k-means on pixels, and on patch tokens.

    python benchmarks/baselines.py --images DIR --truth DIR --classes TOML --clusters K

Every figure of DatUS should be read beside these, scored by the same evaluator
(datus.method.metrics) under all its rules, on masks of the image's own size:

    colour             R, G, B of every pixel, each 0..1
    colour + position  the same, and y / height, x / width, each 0..1: all five weigh the same
    patch tokens       final-norm patch tokens of --backbone, each of length 1, from one forward
                       pass of the size that the pipeline uses, painted as blocks of a patch

k-means is that of the pipeline (datus.method.clusters): spherical for tokens, plain for pixels. It
trains on all images of the folder, on about SAMPLE rows at most, as many from each image. Then
every pixel or token of an image with a true mask takes the nearest centroid. Images are read a few
at a time and tokens wait on disk, so memory holds the sample and one image a thread."""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np

from datus.compute.threads import map_threads, n_cores
from datus.config import ClustersConfig, FeaturesConfig
from datus.errors import DatusError, ImageError, UsageError
from datus.inputs.decode import decode_image, fit_size, image_size, normalise, resize_image
from datus.inputs.find import find_images, image_id_of
from datus.inputs.labels import decode_labels, load_classes, truth_classes
from datus.method.baselines import nearest, pixel_features
from datus.method.clusters import fit_clusters
from datus.method.masks import labels_to_pixels
from datus.method.metrics import Scores, add, count_pixels, score_all
from datus.models.image_size import input_size
from datus.types import Array, ClassTable, ClusterModel, Confusion

ImagePx = int | Literal["auto"]

SAMPLE = 1_000_000
"""Rows (pixels or tokens) that k-means trains on at most."""

MAX_PIXELS = 200_000_000
STRIP_PIXELS = 65_536
"""Pixels that are compared with all centroids at a time: 67 MB at K = 255."""

TRUTH_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Item:
    """One image and its true mask, if it has one."""

    image_id: str
    path: Path
    truth_path: Path | None


@dataclass(frozen=True, slots=True)
class Job:
    """What all baselines share."""

    items: tuple[Item, ...]
    classes: ClassTable
    k: int
    seed: int


Predict = Callable[[Item, tuple[int, int]], Array]
"""(item, (H, W)) -> uint8 (H, W) cluster ids."""


def main(argv: list[str] | None = None) -> int:
    """Run all baselines, print one table, write --out. Returns the exit code."""
    args = _parse(argv)
    try:
        items = tuple(find_items(args.images, args.truth))
        job = Job(items, load_classes(args.classes), args.clusters, args.seed)
        confusions = {
            "colour": colour_baseline(job, position=False),
            "colour + position": colour_baseline(job, position=True),
        }
        if args.backbone:
            confusions["patch tokens"] = token_baseline(
                job, args.backbone, args.weights, args.image_px
            )
    except DatusError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    scores = {
        name: score_all(counts, centroids) for name, (counts, centroids) in confusions.items()
    }
    print(format_table(scores))
    if args.out:
        args.out.write_text(
            json.dumps(_as_json(args, job, scores), indent=2) + "\n", encoding="utf-8"
        )
    return 0


def find_items(images: Path, truth: Path) -> Iterator[Item]:
    """All images, with the true mask of the same name. Raises UsageError if none has one."""
    masks = {
        path.relative_to(truth).with_suffix("").as_posix(): path
        for path in sorted(truth.rglob("*"))
        if path.suffix.lower() in TRUTH_SUFFIXES
    }
    paths = find_images(images).paths
    if not any(image_id_of(path) in masks for path in paths):
        raise UsageError(f"{truth}: no mask has the name of an image in {images}")
    for path in paths:
        yield Item(image_id_of(path), images / path, masks.get(image_id_of(path)))


def colour_baseline(job: Job, position: bool) -> tuple[Confusion, Array]:
    """Counts and centroids of k-means on pixels, every pixel at the image's own size."""

    def sample(item: Item) -> Array:
        image = read_image(item)
        rows = sample_rows(job, item, image.shape[0] * image.shape[1])
        return pixel_features(image, position, rows)

    samples = map_threads(sample, job.items, n_cores())
    model = _fit(job, np.concatenate(samples), spherical=False)

    def predict(item: Item, size: tuple[int, int]) -> Array:
        image = read_image(item)
        n_pixels = size[0] * size[1]
        strips = [
            np.arange(start, min(start + STRIP_PIXELS, n_pixels))
            for start in range(0, n_pixels, STRIP_PIXELS)
        ]
        labels = [
            nearest(pixel_features(image, position, rows), model.centroids) for rows in strips
        ]
        return np.concatenate(labels).reshape(size)

    return count(job, predict), model.centroids


def token_baseline(
    job: Job, backbone_name: str, weights: str, image_px: ImagePx
) -> tuple[Confusion, Array]:
    """Counts and centroids of k-means on patch tokens."""
    with tempfile.TemporaryDirectory(prefix="datus-tokens-") as folder:
        store = TokenStore(Path(folder))
        samples = []
        for item, tokens in token_grids(job, backbone_name, weights, image_px):
            rows = tokens.reshape(-1, tokens.shape[2])
            samples.append(rows[sample_rows(job, item, len(rows))])
            store.put(item, tokens)
        model = _fit(job, np.concatenate(samples), spherical=True)

        def predict(item: Item, size: tuple[int, int]) -> Array:
            tokens = store.get(item)
            labels = nearest(tokens.reshape(-1, tokens.shape[2]), model.centroids)
            return labels_to_pixels(labels.reshape(tokens.shape[:2]), *size)

        return count(job, predict), model.centroids


def token_grids(
    job: Job, backbone_name: str, weights: str, image_px: ImagePx
) -> Iterator[tuple[Item, Array]]:
    """Unit patch tokens float32 (gh, gw, E) of every image, a few images at a time."""
    from datus.models.vit import load_backbone

    settings = FeaturesConfig(backbone=backbone_name, weights=weights, image_px=image_px)
    backbone = load_backbone(backbone_name, weights, settings, "cpu", job.seed)
    seen = input_size(settings)

    def prepare(item: Item) -> Array:
        image = read_image(item)
        size = fit_size(*image.shape[:2], seen.image_px, backbone.patch_px, seen.resize)
        return normalise(resize_image(image, size))

    step = 2 * n_cores()
    for start in range(0, len(job.items), step):
        items = job.items[start : start + step]
        images = map_threads(prepare, items, n_cores())
        for item, grid in zip(items, backbone.features(images, n_cores(), 1), strict=True):
            lengths = np.linalg.norm(grid.tokens, axis=2, keepdims=True)
            yield item, (grid.tokens / np.maximum(lengths, 1e-12)).astype(np.float32)


class TokenStore:
    """Token grids on disk, so that one forward pass an image is enough."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}

    def put(self, item: Item, tokens: Array) -> None:
        if item.truth_path:
            self._names[item.image_id] = f"{len(self._names)}.npy"
            np.save(self._folder / self._names[item.image_id], tokens)

    def get(self, item: Item) -> Array:
        tokens: Array = np.load(self._folder / self._names[item.image_id])
        return tokens


def count(job: Job, predict: Predict) -> Confusion:
    """Pixels by cluster and class, over all images that have a true mask."""

    def one(item: Item) -> Confusion:
        truth = read_truth(item, job.classes)
        mask = predict(item, (truth.shape[0], truth.shape[1]))
        return count_pixels(mask, truth, job.k, job.classes.n_classes)

    return add(map_threads(one, [item for item in job.items if item.truth_path], n_cores()))


def sample_rows(job: Job, item: Item, n_rows: int) -> Array:
    """Rows of one image that k-means trains on, sorted; all of them if the whole fits SAMPLE."""
    quota = math.ceil(SAMPLE / len(job.items))
    if n_rows <= quota:
        return np.arange(n_rows)
    rng = np.random.default_rng([job.seed, crc32(item.image_id.encode())])
    return np.sort(rng.choice(n_rows, quota, replace=False))


def read_image(item: Item) -> Array:
    try:
        return decode_image(item.path.read_bytes(), MAX_PIXELS)
    except ImageError as error:
        raise ImageError(f"{item.path}: {error}") from None


def read_truth(item: Item, classes: ClassTable) -> Array:
    """uint8 (H, W) class numbers or IGNORE."""
    if item.truth_path is None:
        raise ImageError(f"{item.path}: no true mask")
    try:
        labels = decode_labels(item.truth_path.read_bytes(), MAX_PIXELS)
        size = image_size(item.path.read_bytes(), MAX_PIXELS)
        return truth_classes(labels, classes, size)
    except ImageError as error:
        raise ImageError(f"{item.truth_path}: {error}") from None


def format_table(scores: dict[str, dict[str, Scores]]) -> str:
    """One aligned line for each baseline and rule; figures in percent."""
    head = f"{'baseline':18}  {'rule':18} {'mIoU':>7} {'acc':>7} {'F1':>7} {'coverage':>9}"
    lines = [head, "-" * len(head)]
    for name, by_rule in scores.items():
        lines += [
            f"{name:18}  {rule:18} {one.miou:7.2f} {one.accuracy:7.2f} {one.f1:7.2f} "
            f"{one.coverage:9.2f}"
            for rule, one in by_rule.items()
        ]
    return "\n".join(lines)


def _fit(job: Job, rows: Array, spherical: bool) -> ClusterModel:
    settings = ClustersConfig(pca=0, spherical=spherical)
    return fit_clusters(rows, job.k, settings, job.seed, n_threads=n_cores())


def _image_px(text: str) -> ImagePx:
    return "auto" if text == "auto" else int(text)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="k-means on pixels and on patch tokens, scored as DatUS is."
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True, help="TOML in data/classes")
    parser.add_argument("--clusters", type=int, required=True, choices=range(1, 256), metavar="K")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-px", type=_image_px, default="auto", help="as features.image_px")
    parser.add_argument("--backbone", help="name of a ViT; without it only pixels are clustered")
    parser.add_argument("--weights", default="auto", help="as features.weights")
    parser.add_argument("--out", type=Path, help="JSON with everything that is printed, and more")
    return parser.parse_args(argv)


def _as_json(
    args: argparse.Namespace, job: Job, scores: dict[str, dict[str, Scores]]
) -> dict[str, object]:
    return {
        "settings": {
            "clusters": job.k,
            "seed": job.seed,
            "image_px": args.image_px,
            "backbone": args.backbone,
            "weights": args.weights,
            "classes": job.classes.name,
        },
        "n_images": len(job.items),
        "n_scored": sum(item.truth_path is not None for item in job.items),
        "baselines": {
            name: {rule: one.as_dict() for rule, one in by_rule.items()}
            for name, by_rule in scores.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())

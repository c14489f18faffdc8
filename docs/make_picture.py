"""The picture in the README: image, mask and truth of a few rendered scenes, from a finished run.

python docs/make_picture.py demo/run demo/scenes docs/scenes.png scene_00008 scene_00091 ...
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from datus.inputs.labels import decode_labels, load_classes
from datus.method.masks import overlay
from datus.types import IGNORE, Array

HEIGHT_PX, GAP_PX, LIMIT = 150, 6, 10**8


def painted(image: Array, labels: Array, colours: Array) -> Array:
    return overlay(image, labels, colours, 0.6)


def class_colours(run: Path, classes: Path) -> tuple[Array, Array]:
    """(colours of clusters by matched class, colours of classes), uint8 (256, 3)."""
    table = load_classes(classes)
    by_class = np.zeros((256, 3), np.uint8)
    by_class[: table.n_classes] = table.colours
    report = json.loads((run / "latest" / "report" / "report.json").read_text(encoding="utf-8"))
    by_cluster = np.full((256, 3), 128, np.uint8)
    for cluster, matched in enumerate(report["scores"]["hungarian_strict"]["match"]):
        if matched is not None and matched >= 0:
            by_cluster[cluster] = by_class[matched]
    by_cluster[IGNORE] = 0
    return by_cluster, by_class


def at_height(picture: Array) -> Array:
    height, width = picture.shape[:2]
    size = (round(width * HEIGHT_PX / height), HEIGHT_PX)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("ids", nargs="+")
    args = parser.parse_args()
    by_cluster, by_class = class_colours(args.run, args.scenes / "classes.toml")
    masks = next((args.run / "latest").glob("masks-k*"))
    columns = []
    for image_id in args.ids:
        image = np.asarray(Image.open(args.scenes / "images" / f"{image_id}.png").convert("RGB"))
        mask = decode_labels((masks / f"{image_id}.png").read_bytes(), LIMIT)
        truth = decode_labels((args.scenes / "masks" / f"{image_id}.png").read_bytes(), LIMIT)
        rows = (image, painted(image, mask, by_cluster), painted(image, truth, by_class))
        shown = [at_height(row) for row in rows]
        gap = np.full((GAP_PX, shown[0].shape[1], 3), 255, np.uint8)
        columns.append(np.concatenate([shown[0], gap, shown[1], gap, shown[2]]))
    gap = np.full((columns[0].shape[0], GAP_PX, 3), 255, np.uint8)
    parts = [part for column in columns for part in (column, gap)][:-1]
    Image.fromarray(np.concatenate(parts, axis=1)).save(args.out, optimize=True)


if __name__ == "__main__":
    main()

"""True masks to imperfect labels, to see how a method bears them: one kind at a time, seeded.

    python data/make_imperfect.py MASKS OUT --kind points --level 3 [--classes TOML] [--seed 0]

    kind        level means                                                    rest of the mask
    points      discs of radius 2 in each region of a class, at most           unknown (255)
    scribbles   percent of a region's pixels that strokes may cover            unknown (255)
    erode       pixels taken off the rim of every region                       unknown (255)
    dilate      pixels that small regions grow over their neighbours           kept
    shift       percent of the width that the whole mask moves, any direction  unknown where it left
    flip        percent of the regions that get the label of another class     kept
    blocks      side in pixels of squares that take their most frequent label  kept

Labels are PNGs of ids, as the masks are. With --classes, ids become class numbers first. Image i
depends on (seed, its name) alone: the same bytes, however many masks there are.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np

from datus.config import DataConfig
from datus.errors import DatusError
from datus.inputs.labels import decode_labels, find_labels, load_classes
from datus.method.masks import encode_mask
from datus.types import IGNORE, Array

Change = Callable[[Array, float, np.random.Generator], Array]

MIN_REGION = 20
"""Pixels. Smaller parts of a class get no point and no scribble: nobody would see them."""

DISC = 2
"""Radius of a point in pixels, as a click with a small brush."""


def regions(labels: Array) -> list[tuple[int, Array]]:
    """(label, bool (H, W)) of every connected region, 8-neighbourhood, by label and place."""
    found = []
    for label in np.unique(labels[labels != IGNORE]).tolist():
        _, parts = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8)
        found += [(label, parts == one) for one in range(1, int(parts.max()) + 1)]
    return found


def points(labels: Array, level: float, rng: np.random.Generator) -> Array:
    """Up to `level` discs in each region, none on its rim if there is room."""
    marks = np.full_like(labels, IGNORE)
    for label, inside in regions(labels):
        if inside.sum() < MIN_REGION:
            continue
        core = _eroded(inside, DISC)
        places = np.argwhere(core if core.any() else inside)
        chosen = places[rng.choice(len(places), min(int(level), len(places)), replace=False)]
        disc = np.zeros_like(labels)
        for row, column in chosen.tolist():
            cv2.circle(disc, (column, row), DISC, 1, -1)
        marks[(disc > 0) & inside] = label
    return marks


def scribbles(labels: Array, level: float, rng: np.random.Generator) -> Array:
    """Strokes two pixels wide between random places of a region, as far as they stay in it."""
    marks = np.full_like(labels, IGNORE)
    for label, inside in regions(labels):
        size = int(inside.sum())
        if size < MIN_REGION:
            continue
        places = np.argwhere(inside)
        stroke = np.zeros_like(labels)
        here = places[rng.integers(size)]
        for _ in range(8):
            there = places[rng.integers(size)]
            fresh = stroke.copy()
            cv2.line(fresh, here[::-1].tolist(), there[::-1].tolist(), 1, 2)
            if ((fresh > 0) & inside).sum() > max(level / 100 * size, MIN_REGION):
                continue
            stroke, here = fresh, there
        cv2.circle(stroke, here[::-1].tolist(), 1, 1, -1)
        marks[(stroke > 0) & inside] = label
    return marks


def erode(labels: Array, level: float, rng: np.random.Generator) -> Array:
    """The rim of every region is unknown."""
    marks = np.full_like(labels, IGNORE)
    for label in np.unique(labels[labels != IGNORE]).tolist():
        marks[_eroded(labels == label, int(level))] = label
    return marks


def dilate(labels: Array, level: float, rng: np.random.Generator) -> Array:
    """Every class grows, the rarest last and so on top."""
    counts = np.bincount(labels.ravel(), minlength=256)
    marks = labels.copy()
    kernel = _disc(int(level))
    present = [one for one in np.argsort(-counts, kind="stable").tolist() if counts[one]]
    for label in (one for one in present if one != IGNORE):
        marks[cv2.dilate((labels == label).astype(np.uint8), kernel) > 0] = label
    marks[labels == IGNORE] = IGNORE
    return marks


def shift(labels: Array, level: float, rng: np.random.Generator) -> Array:
    """The mask of a camera that moved; one direction for an image."""
    angle = rng.uniform(0, 2 * np.pi)
    reach = level / 100 * labels.shape[1]
    down, right = round(reach * np.sin(angle)), round(reach * np.cos(angle))
    marks = np.full_like(labels, IGNORE)
    height, width = labels.shape
    rows, columns = np.arange(height) - down, np.arange(width) - right
    fits = np.ix_((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    source = np.ix_(
        rows[(rows >= 0) & (rows < height)], columns[(columns >= 0) & (columns < width)]
    )
    marks[fits] = labels[source]
    return marks


def flip(labels: Array, level: float, rng: np.random.Generator) -> Array:
    """Regions called something else: another class of the same image."""
    marks = labels.copy()
    known = np.unique(labels[labels != IGNORE])
    for label, inside in regions(labels):
        wrong, pick = rng.random() < level / 100, rng.random()
        others = known[known != label]
        if wrong and len(others):
            marks[inside] = others[int(pick * len(others))]
    return marks


def blocks(labels: Array, level: float, rng: np.random.Generator) -> Array:
    """Squares of one label, as an annotator in a hurry paints."""
    side, marks = max(1, int(level)), labels.copy()
    for top in range(0, labels.shape[0], side):
        for left in range(0, labels.shape[1], side):
            square = labels[top : top + side, left : left + side]
            most = np.bincount(square.ravel(), minlength=256).argmax()
            marks[top : top + side, left : left + side] = most
    return marks


KINDS: dict[str, Change] = {
    "points": points,
    "scribbles": scribbles,
    "erode": erode,
    "dilate": dilate,
    "shift": shift,
    "flip": flip,
    "blocks": blocks,
}


def imperfect(labels: Array, kind: str, level: float, seed: int, name: str) -> Array:
    """uint8 (H, W) -> uint8 (H, W): what becomes of one mask."""
    rng = np.random.default_rng([seed, crc32(name.encode()), crc32(kind.encode())])
    return KINDS[kind](labels, level, rng)


def _eroded(inside: Array, radius: int) -> Array:
    """bool (H, W): farther than `radius` from what is outside; the image's edge is no rim."""
    if radius < 1:
        return inside
    kept: Array = cv2.erode(inside.astype(np.uint8), _disc(radius)) > 0
    return kept


def _disc(radius: int) -> Array:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("masks", type=Path, help="folder of true masks")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--level", type=float, required=True)
    parser.add_argument("--classes", type=Path, help="TOML: ids become class numbers first")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        found = find_labels(args.masks)
        table = load_classes(args.classes) if args.classes else None
        for name, path in found.items():
            data = (args.masks / path).read_bytes()
            labels = decode_labels(data, DataConfig().max_pixels)
            labels = table.lookup[labels] if table else labels
            target = args.out / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            made = imperfect(labels, args.kind, args.level, args.seed, name)
            target.write_bytes(encode_mask(made))
    except DatusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(found)} masks in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""COCO-Stuff: images and pixel maps side by side, with every id checked.

    python data/prepare/cocostuff.py COCO OUT --link
    python data/prepare/cocostuff.py COCO OUT --link --list val_names.txt

Expected in COCO: images/train2017/*.jpg, images/val2017/*.jpg and, with .png, the same two below
stuffthingmaps/, as the published archives unpack. Other folder names: --images, --masks.

The pixel maps say 0..181 for the classes 1..182 of the COCO-Stuff label list, and 255 for
unlabelled. Eleven of those ids belong to classes that were dropped and never occur. One of them, or
182..254, shows that a file counts from 1 as the label list does, which would shift every class
without a word. data/classes/cocostuff27.toml groups the ids.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    Array,
    find_files,
    mask_ids,
    match_pairs,
    options,
    parser,
    run,
    sub_folder,
    write_dataset,
)
from PIL import Image

from datus.errors import WorkError

UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush."""

MASK_FOLDERS = ("stuffthingmaps", "stuffthingmaps_trainval2017", "annotations", "masks")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    made = parser("COCO-Stuff: images and pixel maps side by side, every id checked.")
    made.add_argument("--images", metavar="NAME", help="folder of images in SOURCE (images)")
    made.add_argument("--masks", metavar="NAME", help=f"of pixel maps ({', '.join(MASK_FOLDERS)})")
    arguments = made.parse_args(argv)
    return run(lambda: prepare(arguments))


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write OUT from a COCO folder. Returns the report. Raises UsageError, WorkError."""
    opts = options(arguments)
    images = sub_folder(opts.source, arguments.images, ("images",), "--images")
    masks = sub_folder(opts.source, arguments.masks, MASK_FOLDERS, "--masks")
    pairs, missing = match_pairs(
        find_files(images, IMAGE_SUFFIXES), find_files(masks, MASK_SUFFIXES), opts
    )
    report = write_dataset(pairs, to_ids, opts)
    return {**report, "left out: no partner": missing}


def to_ids(mask: Image.Image, path: Path) -> tuple[Array, dict[str, int]]:
    """A decoded pixel map -> the same uint8 ids (H, W), checked. Raises WorkError."""
    ids = mask_ids(mask, path)
    wrong = [one for one in np.unique(ids).tolist() if one in UNUSED or 181 < one < 255]
    if wrong:
        raise WorkError(
            f"{path}: ids {', '.join(map(str, wrong[:10]))} are not used by pixel maps (0 to 181 "
            f"without {len(UNUSED)} dropped ones, and 255); does this file count from 1?"
        )
    return ids, {}


if __name__ == "__main__":
    sys.exit(main())

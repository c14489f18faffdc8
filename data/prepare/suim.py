"""SUIM: colour masks to class ids.

    python data/prepare/suim.py SUIM OUT            train_val/ and TEST/, or images/ and masks/
    python data/prepare/suim.py SUIM/TEST OUT

A mask says the class in three bits: id = 4 R + 2 G + 1 B, with each channel either 0 or 255
(data/classes/suim8.toml names the ids). Some published masks hold other values near 0 and 255. They
are cut at 128 and counted; more than one pixel in a hundred is an error: it is no such mask then.
Some published masks differ in size from their image: see --size-mismatch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    Array,
    Options,
    find_files,
    match_pairs,
    options,
    parser,
    run,
    write_dataset,
)
from PIL import Image

from datus.errors import UsageError, WorkError

MAX_INEXACT = 0.01
"""Share of pixels of a mask that may have a value other than 0 and 255."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = parser("SUIM: colour masks to class ids.").parse_args(argv)
    return run(lambda: prepare(options(arguments)))


def prepare(opts: Options) -> dict[str, Any]:
    """Write OUT from a SUIM folder. Returns the report. Raises UsageError, WorkError."""
    images, masks = find_suim(opts.source)
    pairs, missing = match_pairs(images, masks, opts)
    report = write_dataset(pairs, to_ids, opts)
    return {**report, "left out: no partner": missing}


def find_suim(source: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks by name, from every folder that holds both images/ and masks/.

    Only what lies directly in them: TEST/masks has sub-folders with one binary mask per class.
    """
    parents = sorted(
        folder.parent
        for folder in source.rglob("images")
        if folder.is_dir() and (folder.parent / "masks").is_dir()
    )
    if not parents:
        raise UsageError(f"{source}: expected images/ and masks/ in it, or train_val/ and TEST/")
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for parent in parents:
        split = parent.relative_to(source)
        for found, kind, suffixes in (
            (images, "images", IMAGE_SUFFIXES),
            (masks, "masks", MASK_SUFFIXES),
        ):
            for name, path in find_files(parent / kind, suffixes).items():
                if "/" not in name:
                    found[(split / name).as_posix()] = path
    return images, masks


def to_ids(mask: Image.Image, path: Path) -> tuple[Array, dict[str, int]]:
    """A decoded colour mask -> uint8 ids (H, W), and how many pixels were not exactly 0 or 255."""
    if mask.mode not in ("RGB", "RGBA", "P"):
        raise WorkError(f"{path}: expected a colour mask, got an image of mode {mask.mode}")
    ids, n_inexact = rgb_to_ids(np.asarray(mask.convert("RGB")))
    if n_inexact > MAX_INEXACT * ids.size:
        raise WorkError(
            f"{path}: {100 * n_inexact / ids.size:.1f} % of the pixels are neither 0 nor 255, "
            f"expected at most {100 * MAX_INEXACT:.0f} %; is it a SUIM mask?"
        )
    return ids, {
        "pixels not exactly 0 or 255": n_inexact,
        "masks with such pixels": int(n_inexact > 0),
    }


def rgb_to_ids(rgb: Array) -> tuple[Array, int]:
    """uint8 (H, W, 3) -> uint8 ids (H, W) in 0..7, and the number of inexact pixels."""
    high = rgb >= 128
    inexact = (rgb != np.where(high, np.uint8(255), np.uint8(0))).any(axis=2)
    ids = high @ np.array([4, 2, 1], np.uint8)
    return ids.astype(np.uint8), int(inexact.sum())


if __name__ == "__main__":
    sys.exit(main())

"""Any data set with a folder of images and a folder of masks: CamVid, VOC, Cityscapes, your own.

    python data/prepare/camvid_style.py SOURCE OUT --mask-ending _L --classes TOML --void 0,0,0

data/README.md has the whole command for CamVid, VOC and Cityscapes.

Masks with one channel or a palette hold ids; they are checked against the class table if there is
one, and ids that it ignores become 255. Colour masks need the table: a colour becomes the smallest
id of its class, a --void colour 255, any other colour is an error.
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
    Convert,
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

from datus.errors import UsageError, WorkError
from datus.inputs.labels import load_classes
from datus.types import IGNORE, ClassTable


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    made = parser("Images and masks in two folders, masks as ids or as colours, to class ids.")
    made.add_argument("--images", metavar="NAME", help="folder of images in SOURCE (images)")
    made.add_argument("--masks", metavar="NAME", help="folder of masks in SOURCE (masks)")
    made.add_argument(
        "--image-ending", default="", metavar="TEXT", help="end of image names to drop"
    )
    made.add_argument("--mask-ending", default="", metavar="TEXT", help="the same of masks, as _L")
    made.add_argument("--classes", type=Path, metavar="TOML", help="class table: ids and colours")
    made.add_argument(
        "--void",
        action="append",
        default=[],
        metavar="R,G,B",
        help="colour that means not known; may be given several times",
    )
    arguments = made.parse_args(argv)
    return run(lambda: prepare(arguments))


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write OUT from two folders. Returns the report. Raises UsageError, WorkError."""
    opts = options(arguments)
    table = load_classes(arguments.classes) if arguments.classes else None
    if arguments.void and table is None:
        raise UsageError("--void: needs the other colours too; give them with --classes TOML")
    convert = converter(table, [parse_colour(text) for text in arguments.void])
    images = find_files(
        sub_folder(opts.source, arguments.images, ("images",), "--images"),
        IMAGE_SUFFIXES,
        arguments.image_ending,
    )
    masks = find_files(
        sub_folder(opts.source, arguments.masks, ("masks",), "--masks"),
        MASK_SUFFIXES,
        arguments.mask_ending,
    )
    pairs, missing = match_pairs(images, masks, opts)
    report = write_dataset(pairs, convert, opts)
    return {**report, "left out: no partner": missing}


def parse_colour(text: str) -> tuple[int, int, int]:
    """'0,128,255' -> (0, 128, 255). Raises UsageError."""
    parts = text.split(",")
    values = [int(part) for part in parts if part.strip().isdecimal()]
    if len(parts) != 3 or len(values) != 3 or max(values) > 255:
        raise UsageError(f"--void {text}: expected R,G,B with 0 to 255 each, as 0,0,0")
    return values[0], values[1], values[2]


def converter(table: ClassTable | None, void: Sequence[tuple[int, int, int]]) -> Convert:
    """The function from a decoded mask to ids. Raises UsageError if the colours clash."""
    colours = _colour_ids(table, void) if table else {}

    def convert(mask: Image.Image, path: Path) -> tuple[Array, dict[str, int]]:
        if mask.mode not in ("RGB", "RGBA"):
            return _checked_ids(mask_ids(mask, path), table, path), {"masks of ids": 1}
        if table is None:
            raise WorkError(f"{path}: is a colour mask; give the colours with --classes TOML")
        return colours_to_ids(np.asarray(mask.convert("RGB")), colours, path), {"colour masks": 1}

    return convert


def colours_to_ids(rgb: Array, colours: dict[int, int], path: Path) -> Array:
    """uint8 (H, W, 3) -> uint8 ids (H, W). Raises WorkError.

    `colours` maps 65536 R + 256 G + B to the id.
    """
    packed = rgb.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    found, index = np.unique(packed, return_inverse=True)
    unknown = [one for one in found.tolist() if one not in colours]
    if unknown:
        names = " ".join(f"{one >> 16},{one >> 8 & 255},{one & 255}" for one in unknown[:5])
        more = " ..." if len(unknown) > 5 else ""
        raise WorkError(
            f"{path}: {len(unknown)} colours are not in the class table: {names}{more}; "
            "add them to it, or say --void R,G,B for those that mean not known"
        )
    ids = np.array([colours[one] for one in found.tolist()], np.uint8)
    return np.asarray(ids[index].reshape(packed.shape))


def _colour_ids(table: ClassTable, void: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    colours: dict[int, int] = {}
    for number, (red, green, blue) in enumerate(table.colours):
        key = red << 16 | green << 8 | blue
        ids = np.flatnonzero((table.lookup == number) & table.known)
        if key in colours:
            raise UsageError(f"{table.name}: class {table.names[number]!r}: colour is used twice")
        if ids.size == 0:
            raise UsageError(f"{table.name}: class {table.names[number]!r} has no ids")
        colours[key] = int(ids[0])
    for red, green, blue in void:
        if colours.setdefault(red << 16 | green << 8 | blue, IGNORE) != IGNORE:
            raise UsageError(
                f"--void {red},{green},{blue}: is the colour of a class in {table.name}"
            )
    return colours


def _checked_ids(ids: Array, table: ClassTable | None, path: Path) -> Array:
    """The ids, those that the table ignores as 255. Raises WorkError for ids it does not have."""
    if table is None:
        return ids
    wrong = [one for one in np.unique(ids).tolist() if not table.known[one]]
    if wrong:
        raise WorkError(
            f"{path}: ids {', '.join(map(str, wrong[:10]))} are not in {table.name}; "
            "add them to a class or to its ignore list"
        )
    return np.where(table.lookup[ids] == IGNORE, np.uint8(IGNORE), ids)


if __name__ == "__main__":
    sys.exit(main())

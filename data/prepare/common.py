"""What the prepare scripts share: find pairs, convert masks, write OUT/images and OUT/masks.

In:  folders of images and of masks, paired by their path below the folder without suffix ("name").
Out: OUT/images/<name>.<as it was>, byte for byte the source (or a link to it),
     OUT/masks/<name>.png, 8-bit, one channel, class ids, 255 = not known,
     OUT/prepared.json, what was done; "finished" is true once everything is there.

Every file is written under another name and renamed, so a kill leaves no half file. A folder with
an unfinished prepared.json is made anew; a finished one is only replaced with --overwrite.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# The scripts run from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datus.compute.threads import map_threads, n_cores
from datus.errors import DatusError, UsageError, WorkError

Array = npt.NDArray[Any]
Convert = Callable[[Image.Image, Path], tuple[Array, dict[str, int]]]
"""A decoded mask and its path -> uint8 ids (H, W), and counts for the report. Raises WorkError."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
MARKER = "prepared.json"


@dataclass(frozen=True, slots=True)
class Pair:
    """One image and its mask."""

    name: str
    """Path below the folder without suffix, `/`-separated: the same for both in OUT."""
    image: Path
    mask: Path


@dataclass(frozen=True, slots=True)
class Options:
    """The options that all scripts have."""

    source: Path
    out: Path
    overwrite: bool = False
    skip_missing: bool = False
    link: bool = False
    size_mismatch: str = "error"
    names: Path | None = None


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with SOURCE, OUT and the shared options."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("source", type=Path, metavar="SOURCE", help="the data set as published")
    made.add_argument("out", type=Path, metavar="OUT", help="gets images/ and masks/")
    made.add_argument("--overwrite", action="store_true", help="replace what an earlier run made")
    made.add_argument("--skip-missing", action="store_true", help="leave out files without partner")
    made.add_argument("--link", action="store_true", help="link to the images instead of copying")
    made.add_argument(
        "--size-mismatch",
        choices=("error", "skip", "resize"),
        default="error",
        help="mask and image differ in size: stop, leave the pair out, or resize the mask",
    )
    made.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        dest="names",
        help="use only the names in FILE, one a line, without folder or with, without suffix",
    )
    return made


def options(arguments: argparse.Namespace) -> Options:
    """The shared options, checked. Raises UsageError."""
    source: Path = arguments.source
    if not source.is_dir():
        raise UsageError(f"{source}: no such folder; SOURCE is the data set as published")
    return Options(
        source,
        arguments.out,
        arguments.overwrite,
        arguments.skip_missing,
        arguments.link,
        arguments.size_mismatch,
        arguments.names,
    )


def run(work: Callable[[], Mapping[str, Any]]) -> int:
    """Run `work`, print its report or its error. Returns the exit code: 0, 1, 2 or 130."""
    try:
        report = work()
    except DatusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command starts again", file=sys.stderr)
        return 130
    for name, value in report.items():
        print(f"{name}: {value}")
    return 0


def find_files(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """Name -> file, of all files below `folder`; hidden ones are left out.

    `ending` stands between name and suffix; files without it are not listed. Raises UsageError if
    two files have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if not path.stem.endswith(ending) or path.stem == ending:
            continue
        relative = path.relative_to(folder).with_suffix("").as_posix()
        name = relative[: len(relative) - len(ending)] if ending else relative
        if name in found:
            raise UsageError(f"{path}: same name as {found[name].name}; remove one of the two")
        found[name] = path
    return found


def match_pairs(
    images: Mapping[str, Path], masks: Mapping[str, Path], opts: Options
) -> tuple[list[Pair], int]:
    """Pairs in order of name, and how many files without a partner were left out.

    Raises WorkError with the first ten of them unless `skip_missing`, and if nothing is left.
    """
    names = set(images) | set(masks)
    missing = 0
    if opts.names is not None:
        wanted = _read_list(opts.names)
        chosen = {name for name in names if name in wanted or Path(name).name in wanted}
        unknown = wanted - chosen - {Path(name).name for name in chosen}
        names = chosen | unknown
    alone = sorted(name for name in names if name not in images or name not in masks)
    if alone and not opts.skip_missing:
        lines = [f"  {name}: {_what_is_missing(name, images, masks)}" for name in alone[:10]]
        more = "\n  ..." if len(alone) > 10 else ""
        raise WorkError(
            f"{len(alone)} of {len(names)} names lack a partner; complete the data set or use "
            "--skip-missing:\n" + "\n".join(lines) + more
        )
    missing = len(alone)
    pairs = [Pair(n, images[n], masks[n]) for n in sorted(names - set(alone))]
    if not pairs:
        raise WorkError(
            f"{opts.source}: no image has a mask of the same name: {len(images)} images "
            f"({_first(images)}), {len(masks)} masks ({_first(masks)})"
        )
    return pairs, missing


def write_dataset(pairs: list[Pair], convert: Convert, opts: Options) -> dict[str, Any]:
    """Write OUT and return the report, also in prepared.json. Raises UsageError, WorkError."""
    _open_output(opts)
    report: dict[str, Any] = {"finished": False, "source": opts.source.name}
    _write_json(opts.out / MARKER, report)
    counts: Counter[str] = Counter()
    written: set[Path] = set()
    for pair, got in zip(
        pairs, map_threads(lambda p: _write_pair(p, convert, opts), pairs, n_cores()), strict=True
    ):
        if got is None:
            counts["left out: image and mask differ in size"] += 1
            continue
        counts.update(got)
        counts["pairs"] += 1
        written |= {_image_target(pair, opts.out), _mask_target(pair, opts.out)}
    if not written:
        raise WorkError(
            f"{opts.source}: every mask differs in size from its image; nothing was written"
        )
    _remove_others(opts.out, written)
    report |= dict(sorted(counts.items())) | {"finished": True}
    _write_json(opts.out / MARKER, report)
    return {"out": opts.out, **dict(sorted(counts.items()))}


def read_mask(path: Path) -> Image.Image:
    """A decoded mask. Raises WorkError if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise WorkError(f"{path}: cannot be read as an image ({error}); get it again") from None


def mask_ids(mask: Image.Image, path: Path) -> Array:
    """uint8 (H, W) from a one-channel mask; palette images give their indices. Raises WorkError."""
    if mask.mode in ("L", "P"):
        return np.asarray(mask)
    ids = np.asarray(mask)
    if ids.ndim != 2 or ids.max(initial=0) > 255 or ids.min(initial=0) < 0:
        raise WorkError(
            f"{path}: expected one channel of ids 0 to 255, got an image of mode {mask.mode}"
        )
    return ids.astype(np.uint8)


def sub_folder(source: Path, given: str | None, usual: tuple[str, ...], option: str) -> Path:
    """SOURCE/`given`, or the first of `usual` that exists. Raises UsageError."""
    for name in (given,) if given else usual:
        if (source / name).is_dir():
            return source / name
    wanted = given or " or ".join(usual)
    raise UsageError(f"{source}: no folder {wanted} in it; say which with {option} NAME")


def _read_list(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--list {path}: cannot be read: {error}") from None
    names = {line.strip() for line in lines if line.strip()}
    if not names:
        raise UsageError(f"--list {path}: no names in it")
    return names


def _what_is_missing(name: str, images: Mapping[str, Path], masks: Mapping[str, Path]) -> str:
    if name in images:
        return "no mask"
    return "no image" if name in masks else "no image, no mask"


def _first(files: Mapping[str, Path]) -> str:
    return f"first: {min(files)}" if files else "none"


def _open_output(opts: Options) -> None:
    """Refuse an OUT that holds something which must not be lost."""
    out, source = opts.out.resolve(), opts.source.resolve()
    if out == source or source in out.parents or out in source.parents:
        raise UsageError(f"{opts.out}: OUT and SOURCE lie in one another; choose another OUT")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{opts.out}: is a file; OUT must be a new folder")
    marker = opts.out / MARKER
    if marker.is_file():
        try:
            finished = json.loads(marker.read_text(encoding="utf-8"))["finished"]
        except (ValueError, KeyError, TypeError):
            finished = False
        if finished and not opts.overwrite:
            raise UsageError(f"{opts.out}: already prepared; use --overwrite to replace it")
    elif opts.out.is_dir() and any(opts.out.iterdir()):
        raise UsageError(
            f"{opts.out}: not empty and not made by this script; choose a new folder for OUT"
        )
    opts.out.mkdir(parents=True, exist_ok=True)


def _image_target(pair: Pair, out: Path) -> Path:
    return out / "images" / f"{pair.name}{pair.image.suffix}"


def _mask_target(pair: Pair, out: Path) -> Path:
    return out / "masks" / f"{pair.name}.png"


def _write_pair(pair: Pair, convert: Convert, opts: Options) -> dict[str, int] | None:
    """Write one pair; its counts, or None if it was left out."""
    mask = read_mask(pair.mask)
    ids, counts = convert(mask, pair.mask)
    with _open_image(pair.image) as image:
        width, height = image.size
    if ids.shape != (height, width):
        if opts.size_mismatch == "skip":
            return None
        if opts.size_mismatch == "error":
            raise WorkError(
                f"{pair.mask}: {ids.shape[1]}x{ids.shape[0]} pixels, its image has "
                f"{width}x{height}; use --size-mismatch skip or resize"
            )
        nearest = Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST)
        ids = np.asarray(nearest)
        counts = {**counts, "masks resized": 1}
    _write_image(pair.image, _image_target(pair, opts.out), opts.link)
    _atomic(
        _mask_target(pair, opts.out), lambda path: Image.fromarray(ids).save(path, format="PNG")
    )
    return counts


def _open_image(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise WorkError(f"{path}: cannot be read as an image ({error}); get it again") from None


def _write_image(source: Path, target: Path, link: bool) -> None:
    if link:
        _atomic(target, lambda path: path.symlink_to(source.resolve()))
    else:
        _atomic(target, lambda path: shutil.copyfile(source, path))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    _atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _atomic(target: Path, write: Callable[[Path], object]) -> None:
    """`write` under a temporary name in the same folder, then rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_others(out: Path, written: set[Path]) -> None:
    """Remove what an earlier run left in OUT/images and OUT/masks and this one did not write."""
    for folder in (out / "images", out / "masks"):
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in written:
                path.unlink()

"""Whatever a Python user has -> the folders that a run reads.

    settings = lay_out(run, images, truth, classes)     folders as they are, the rest written
    cache_folder(images)                                where a run goes that nobody placed

In:  images as a folder, a list of files, or a list of pictures (arrays, PIL images); truth as a
     folder or a list of label arrays; classes as a TOML file or a list of names.
Out: the settings of [data], which are paths. Files of a list are linked and pictures written,
     without loss, below the run: RUN/images, RUN/truth, RUN/classes.toml. The same pictures give
     the same bytes again, so a second run finds everything done.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from datus.config import Config, DataConfig
from datus.errors import UsageError
from datus.inputs.find import image_id_of
from datus.method.masks import PALETTE, encode_mask
from datus.types import IGNORE, Array

Images = str | Path | Sequence[str | Path] | Sequence[Array] | Sequence[Image.Image] | Array
"""A folder, files, or pictures: uint8 (H, W) or (H, W, 3 or 4), uint16 (H, W), or PIL images."""

Truth = str | Path | Sequence[Array]
"""A folder of label files, or uint8 (H, W) for each image in order: class numbers, 255 = none."""

Classes = str | Path | Sequence[str]
"""A class table (TOML), or names: the first is the class that is called 0 in the truth."""

CACHE = "DATUS_CACHE"
"""Environment variable: where runs go that nobody placed; else datus/ in the user's cache."""

_OURS = ".datus-images"
"""Marks a folder that was made here: nothing is ever removed from another."""

_CHANNELS = (3, 4)


def local_folder(out: str | Path) -> Path:
    """Where a run may be laid out. Raises UsageError for an address such as s3://bucket/run."""
    if "://" in str(out):
        raise UsageError(f"out: expected a folder of this machine, got {out}: datus run takes it")
    return Path(out).expanduser()


def lay_out(
    run: Path, images: Images, truth: Truth | None = None, classes: Classes | None = None
) -> dict[str, str]:
    """data.images, data.truth and data.classes of a run; empty = not given.

    Folders are as they are; lists are put below `run`. Raises UsageError with the cure.
    """
    if (truth is None) != (classes is None):
        raise UsageError("truth and classes go together: classes say what the true ids mean")
    if isinstance(images, str | Path):
        folder, names = str(Path(images).expanduser()), None
    else:
        entries = _entries(images)
        names = [image_id_of(name) for name, _ in entries]
        folder = str(_fill(run / "images", entries))
    return {
        "data.images": folder,
        "data.truth": _truth(truth, names, run),
        "data.classes": _classes(classes, run),
    }


def cache_folder(images: Images, salt: str = "") -> Path:
    """CACHE/runs/NAME-HASH: the same for the same folder, the same files or the same pictures.

    salt: tells runs apart that must not share a folder.
    """
    root = os.environ.get(CACHE, "")
    if not root:
        root = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "datus")
    name, digest = "images", hashlib.sha256(salt.encode())
    if isinstance(images, str | Path):
        folder = Path(images).expanduser().resolve()
        name = Config(data=DataConfig(images=str(folder))).name or name
        digest.update(str(folder).encode("utf-8", "surrogateescape"))
    else:
        for one in listed(images):
            digest.update(_identity(one))
    return Path(root).expanduser() / "runs" / f"{name}-{digest.hexdigest()[:12]}"


def is_cached(run: Path) -> bool:
    """`run` is a folder as `cache_folder` names them."""
    root = cache_folder("x").parent
    return run.resolve().parent == root.resolve() and run.name[-13:-12] == "-"


# --- images -------------------------------------------------------------------------------------

Write = Callable[[Path], None]


def _entries(images: Any) -> list[tuple[str, Write]]:
    """(relative path, what writes it) of each image of a list."""
    entries = listed(images)
    n_paths = sum(isinstance(entry, str | Path) for entry in entries)
    if n_paths == len(entries):
        return _linked([Path(entry).expanduser() for entry in entries])
    if n_paths:
        raise UsageError("images: expected all paths or all pictures, got both: use one kind")
    return [(f"{i:06d}.png", partial(_write_png, one, i)) for i, one in enumerate(entries)]


def listed(images: Any) -> Any:
    """A folder as it is; anything else as a list, so that it can be read more than once."""
    if isinstance(images, str | Path):
        return images
    if isinstance(images, np.ndarray) and images.ndim < 4 and images.dtype != object:
        raise UsageError("images: expected a list of pictures, got one array: use [array]")
    if isinstance(images, Image.Image):
        raise UsageError("images: expected a list of pictures, got one: use [picture]")
    if not isinstance(images, Iterable) or isinstance(images, bytes):
        raise UsageError(
            "images: expected a folder, a list of files or a list of pictures, got "
            f"{type(images).__name__}"
        )
    entries = list(images)
    if not entries:
        raise UsageError("images: the list is empty: expected at least one image")
    return entries


def _linked(paths: list[Path]) -> list[tuple[str, Write]]:
    """Named by what tells them apart: their path below the folder that holds them all."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    for path in absolute:
        if not path.is_file():
            raise UsageError(
                f"images: {path}: no such file; a folder is given alone, not in a list"
            )
    if len(set(absolute)) < len(absolute):
        twice = next(path for path in absolute if absolute.count(path) > 1)
        raise UsageError(f"images: {twice} is in the list twice: leave one out")
    above = Path(os.path.commonpath([path.parent for path in absolute]))
    return [(path.relative_to(above).as_posix(), partial(_link, path)) for path in absolute]


def _link(source: Path, path: Path) -> None:
    with suppress(OSError):
        if path.is_symlink() and Path(os.readlink(path)) == source:
            return
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, path)


def _write_png(picture: Any, number: int, path: Path) -> None:
    buffer = io.BytesIO()
    _picture(picture, number).save(buffer, "PNG", compress_level=1)
    _write_if_new(path, buffer.getvalue())


def _picture(one: Any, number: int) -> Image.Image:
    """What a PNG can hold without loss, upright. Raises UsageError."""
    if isinstance(one, Image.Image):
        upright = ImageOps.exif_transpose(one)
        if upright.mode == "F":
            raise UsageError(f"images: picture {number} has floating-point pixels: use 8 or 16 bit")
        fits = upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA") or upright.mode[0] == "I"
        return upright if fits else upright.convert("RGB")
    array = np.asarray(one)
    shape, kind = array.shape, array.dtype.name
    colour = array.ndim == 3 and shape[2] in _CHANNELS and kind == "uint8"
    grey = array.ndim == 2 and kind in ("uint8", "uint16")
    if not (colour or grey) or not array.size:
        cure = ""
        if kind.startswith("float"):
            cure = "; of values from 0 to 1: (255 * array).round().astype('uint8')"
        elif array.ndim == 3 and shape[0] in _CHANNELS:
            cure = "; of channels first: array.transpose(1, 2, 0)"
        raise UsageError(
            f"images: picture {number}: expected uint8 (height, width, 3) RGB or (height, width), "
            f"got {kind} {shape}{cure}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _identity(one: Any) -> bytes:
    if isinstance(one, str | Path):
        return os.path.abspath(Path(one).expanduser()).encode("utf-8", "surrogateescape")
    array = np.asarray(one)
    head = f"{array.dtype} {array.shape} {getattr(one, 'mode', '')}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).digest()


# --- truth --------------------------------------------------------------------------------------


def _truth(truth: Truth | None, names: list[str] | None, run: Path) -> str:
    if truth is None:
        return ""
    if isinstance(truth, str | Path):
        return str(Path(truth).expanduser())
    labels = list(truth)
    if names is None:
        raise UsageError("truth: a list of labels needs a list of images: give a folder of masks")
    if len(labels) != len(names):
        raise UsageError(f"truth: expected {len(names)} label arrays, as images, got {len(labels)}")
    entries: list[tuple[str, Write]] = [
        (f"{name}.png", partial(_write_labels, array, number))
        for number, (name, array) in enumerate(zip(names, labels, strict=True))
    ]
    return str(_fill(run / "truth", entries))


def _write_labels(labels: Any, number: int, path: Path) -> None:
    _write_if_new(path, encode_mask(label_array(labels, f"truth: labels {number}")))


def label_array(one: Any, where: str) -> Array:
    """uint8 (H, W) of anything that holds such numbers. Raises UsageError."""
    array = np.asarray(one)
    has_ids = array.dtype.kind in "ui" and array.ndim == 2 and array.size > 0
    if not has_ids or int(array.min()) < 0 or int(array.max()) > IGNORE:
        raise UsageError(
            f"{where}: expected whole numbers 0 to {IGNORE}, (height, width), "
            f"got {array.dtype.name} {array.shape}"
        )
    return array.astype(np.uint8)


def _classes(classes: Classes | None, run: Path) -> str:
    if classes is None:
        return ""
    if isinstance(classes, str | Path):
        return str(Path(classes).expanduser())
    path = run / "classes.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_if_new(path, class_table(classes))
    return str(path)


def class_table(names: Sequence[str]) -> bytes:
    """A class table in TOML: class i is called names[i] and has the id i. Raises UsageError."""
    if not 0 < len(names) <= IGNORE or not all(isinstance(name, str) for name in names):
        raise UsageError(f"classes: expected 1 to {IGNORE} names, got {list(names)[:5]}")
    blocks = ['name = "given"']
    for number, name in enumerate(names):
        colour = PALETTE[number].tolist()
        text = json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
        blocks.append(f"[[classes]]\nname = {text}\ncolour = {colour}\nids = [{number}]")
    return ("\n".join(blocks) + "\n").encode()


# --- a folder of ours ---------------------------------------------------------------------------


def _fill(folder: Path, entries: list[tuple[str, Write]]) -> Path:
    """`folder` with these files and no others. Raises UsageError if it is somebody else's."""
    if folder.exists() and not (folder / _OURS).is_file():
        raise UsageError(f"{folder} is there already and was not made by this: choose another out=")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _OURS).touch()
    wanted = {folder / name for name, _ in entries}
    for path in folder.rglob("*"):
        if (path.is_symlink() or path.is_file()) and path not in wanted and path.name != _OURS:
            path.unlink()
    for name, write in entries:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    return folder


def _write_if_new(path: Path, data: bytes) -> None:
    """A file that is not touched keeps its time, and is not read again by the next run."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        return
    path.unlink(missing_ok=True)
    path.write_bytes(data)

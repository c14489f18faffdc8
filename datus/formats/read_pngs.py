"""Label PNGs: a folder of them, with class names or without; CVAT's "Segmentation mask 1.1"; VOC.

    read_labels(files, root)     ids as in the files, 255 = nothing said
    read_labelmap(files, root)   classes by colour; background and void = nothing said

Editors like to write a palette anew or to save colours: where the colours of the classes are known
and a picture has only these, they count. Else the numbers in the file do.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from datus.config import DataConfig
from datus.errors import ImageError, UsageError
from datus.formats.pngs import CLASS_MASKS, LABELMAP, NOT_CLASSES, PNG_MASKS
from datus.formats.read_files import Files
from datus.formats.read_records import Corrections, Size
from datus.inputs.decode import image_size, load_picture
from datus.method.masks import LABEL_SUFFIXES, decode_labels
from datus.types import IGNORE, Array

MAX_PIXELS = DataConfig().max_pixels

BLOCK_PIXELS = 1 << 22
"""That are told apart by colour at a time: it takes thirty bytes of each."""


def read_labels(files: Files, root: str) -> Corrections:
    """`root`: where the pictures lie, or a folder above `annotations/training`."""
    names, colours = _class_file(files, root)
    masks = f"{root}/{PNG_MASKS}".strip("/")
    found = files.below(masks, LABEL_SUFFIXES) or files.below(root, LABEL_SUFFIXES)
    pictures = {name: functools.partial(_ids, files, path) for name, path in found.items()}
    if names is None:
        highest = max((_highest(draw()) for draw in pictures.values()), default=-1)
        names = tuple(f"class {label}" for label in range(highest + 1))
        return Corrections("label pictures", names, dict(pictures), _sizes(files, found))
    images = {
        name: functools.partial(_checked, files, path, names, colours)
        for name, path in found.items()
    }
    sizes = _sizes(files, found)
    return Corrections("label pictures with class names", names, dict(images), sizes)


def read_labelmap(files: Files, root: str) -> Corrections:
    """`root`: the folder of labelmap.txt and SegmentationClass."""
    names: list[str] = []
    colours = {(0, 0, 0): IGNORE}
    for line in _text(files, f"{root}/{LABELMAP}".strip("/")).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, colour = _labelmap_line(files, line)
        if name in NOT_CLASSES:
            colours[colour] = IGNORE
        elif len(names) < IGNORE and colours.setdefault(colour, len(names)) == len(names):
            names.append(name)
        else:
            raise UsageError(
                f"corrections: {files.path}: {LABELMAP}: expected at most {IGNORE} classes, "
                f"each of its own colour, and black for none; got {line!r}"
            )
    found = files.below(f"{root}/{CLASS_MASKS}".strip("/"), (".png",))
    images = {
        name: functools.partial(_coloured, files, path, colours) for name, path in found.items()
    }
    sizes = _sizes(files, found)
    return Corrections("CVAT segmentation masks", tuple(names), dict(images), sizes)


# --- sizes --------------------------------------------------------------------------------------


def header_size(files: Files, path: str) -> tuple[int, int]:
    """(H, W) of a picture. Raises UsageError: not a picture, more than MAX_PIXELS."""
    try:
        return image_size(files.read(path), MAX_PIXELS)
    except ImageError as error:
        raise UsageError(f"corrections: {files.where(path)}: {error}") from None


def _sizes(files: Files, found: Mapping[str, str]) -> dict[str, Size]:
    return {name: functools.partial(header_size, files, path) for name, path in found.items()}


# --- numbers ------------------------------------------------------------------------------------


def _ids(files: Files, path: str) -> Array:
    try:
        return decode_labels(files.read(path), MAX_PIXELS)
    except ImageError as error:
        raise UsageError(f"corrections: {files.where(path)}: {error}") from None


def _highest(labels: Array) -> int:
    said = labels[labels != IGNORE]
    return int(said.max()) if said.size else -1


def _checked(
    files: Files, path: str, names: Sequence[str], colours: Mapping[tuple[int, int, int], int]
) -> Array:
    """By colour where that says all, else by number, which must be that of a class."""
    labels, unknown = _by_colour(_rgb(files, path), colours) if colours else (None, "")
    if labels is not None and not unknown:
        return labels
    ids = _ids(files, path)
    if _highest(ids) >= len(names):
        raise UsageError(
            f"corrections: {files.where(path)}: label {_highest(ids)}, but its class file names "
            f"{len(names)}: 0 to {len(names) - 1}, and {IGNORE} for nothing; add a name or repaint"
        )
    return ids


# --- colours ------------------------------------------------------------------------------------


def _coloured(files: Files, path: str, colours: Mapping[tuple[int, int, int], int]) -> Array:
    labels, unknown = _by_colour(_rgb(files, path), colours)
    if unknown:
        raise UsageError(
            f"corrections: {files.where(path)}: {unknown}, which {LABELMAP} does not name: "
            "add the class there, or repaint"
        )
    return labels


def _rgb(files: Files, path: str) -> Array:
    try:
        return np.asarray(load_picture(files.read(path), MAX_PIXELS).image.convert("RGB"))
    except ImageError as error:
        raise UsageError(f"corrections: {files.where(path)}: {error}") from None


def _by_colour(rgb: Array, colours: Mapping[tuple[int, int, int], int]) -> tuple[Array, str]:
    """(uint8 (H, W) labels, what is wrong: empty if every colour is known)."""
    table = {(r << 16) + (g << 8) + b: label for (r, g, b), label in colours.items()}
    flat, strange = rgb.reshape(-1, 3), dict[int, int]()
    drawn = np.empty(len(flat), np.uint8)
    for start in range(0, len(flat), BLOCK_PIXELS):
        part = flat[start : start + BLOCK_PIXELS].astype(np.int32)
        codes = part @ np.array([65536, 256, 1], np.int32)
        values, where = np.unique(codes, return_inverse=True)
        labels = np.array([table.get(int(value), -1) for value in values], np.int64)
        for place in np.flatnonzero(labels < 0).tolist():
            code = int(values[place])
            strange[code] = strange.get(code, 0) + int((where == place).sum())
        drawn[start : start + BLOCK_PIXELS] = labels[where.ravel()].astype(np.uint8)
    first = min(strange, default=0)
    unknown = f"{strange[first]} pixels of colour #{first:06x}" if strange else ""
    return drawn.reshape(rgb.shape[:2]), unknown


# --- class files --------------------------------------------------------------------------------


def _class_file(
    files: Files, root: str
) -> tuple[tuple[str, ...] | None, dict[tuple[int, int, int], int]]:
    """(names or None, colour -> label): classes.json, else classes.txt, beside the pictures."""
    name = f"{root}/classes.json".strip("/")
    if name in files.names:
        table = files.json(name)
        names: Any = table.get("classes") if isinstance(table, dict) else None
        if not _are_names(names):
            raise UsageError(
                f'corrections: {files.where(name)}: expected "classes": a list of different names'
            )
        known = {*range(len(names)), IGNORE}
        colours = _palette(table.get("palette"), table.get("ignore_index"))
        return tuple(names), {rgb: label for rgb, label in colours if label in known}
    name = f"{root}/classes.txt".strip("/")
    if name not in files.names:
        return None, {}
    rows = [line.partition("\t") for line in _text(files, name).splitlines() if line.strip()]
    names = [text or number for number, _, text in rows]
    numbered = all(number == str(label) for label, (number, tab, _) in enumerate(rows) if tab)
    if not _are_names(names) or not numbered:
        raise UsageError(
            f"corrections: {files.where(name)}: expected lines such as 3<tab>sky, counted from 0"
        )
    return tuple(names), {}


def _are_names(names: Any) -> bool:
    return (
        isinstance(names, list)
        and 0 < len(names) <= IGNORE
        and all(isinstance(one, str) and one for one in names)
        and len(set(names)) == len(names)
    )


def _palette(palette: Any, ignore: Any) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Colour -> label; nothing where two are alike, or black, which is the colour of IGNORE."""
    try:
        colours = [(int(red), int(green), int(blue)) for red, green, blue in palette]
    except (TypeError, ValueError, OverflowError):
        return
    if ignore != IGNORE or len({*colours, (0, 0, 0)}) <= len(colours):
        return
    yield (0, 0, 0), IGNORE
    yield from ((colour, label) for label, colour in enumerate(colours[:IGNORE]))


def _labelmap_line(files: Files, line: str) -> tuple[str, tuple[int, int, int]]:
    name, _, rest = line.partition(":")
    try:
        red, green, blue = map(int, rest.partition(":")[0].split(","))
    except ValueError:
        raise UsageError(
            f"corrections: {files.path}: {LABELMAP}: expected name:red,green,blue::, got {line!r}"
        ) from None
    return name, (red, green, blue)


def _text(files: Files, name: str) -> str:
    try:
        return files.read(name).decode()
    except UnicodeDecodeError:
        raise UsageError(f"corrections: {files.where(name)}: expected UTF-8 text") from None

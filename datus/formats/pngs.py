"""Formats whose masks are PNGs: png (ADE20K's folders), voc, and cvat's "Segmentation mask 1.1".

    png    0..C-1 are classes, 255 is no label
    voc    0 is background and never drawn, 1..C are classes, 255 is void = no label
    cvat   0 is background = no label, 1..C are classes; matched by colour

voc and cvat have a second PNG of objects: one number a connected part. 8 bits hold 254 of
them: in an image with more, small parts of a class are one object. Holes stay holes in both.

    read_labels(files, root)      PNGs of any tool, with a file of class names or without
    read_labelmap(files, root)    cvat and voc: classes by colour; background and void = no label

Editors like to write a palette anew or to save colours: where the colours of the classes are known
and a picture has only these, they count. Else the numbers in the file do.
"""

import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datus.errors import UsageError
from datus.formats.files import Files
from datus.formats.folder import put, write_json
from datus.formats.parts import find_parts
from datus.formats.records import Classes, Corrections, Drawing, Item, Options
from datus.inputs.labels import LABEL_SUFFIXES
from datus.method.label_png import encode_png
from datus.types import IGNORE, Array

Put = Callable[[str, bytes], None]
Colour = tuple[int, int, int]
Colours = Mapping[Colour, int]
"""Colour -> label."""

MAX_OBJECTS = 254
"""0 is no object and 255 is void."""

PNG_MASKS, CLASS_MASKS, LABELMAP = "annotations/training", "SegmentationClass", "labelmap.txt"
"""Where masks and class names are."""

CVAT_ARCHIVE = "annotations.zip"

NOT_CLASSES = ("background", "void")
"""Names in a labelmap that are no classes."""

BLOCK_PIXELS = 1 << 22
"""That are told apart by colour at a time: it takes thirty bytes of each."""


def write_png(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations/training/ID.png, confidence/training/, images/training/, classes.json and .txt.

    confidence: grey, 255 times the confidence of the segment, 0 where there is none.
    """
    for item in items:
        png = encode_png(item.labels, classes.colours)
        put(folder, f"{PNG_MASKS}/{item.image_id}.png", png)
        if item.confidence is not None:
            grey = np.rint(255 * np.nan_to_num(item.confidence)).astype(np.uint8)
            png = encode_png(np.where(item.labels == IGNORE, np.uint8(0), grey))
            put(folder, f"confidence/training/{item.image_id}.png", png)
        if item.image is not None:
            put(folder, f"images/training/{item.file_name}", item.image)
    palette = classes.colours[: len(classes.names)].tolist()
    meta = {"classes": [*classes.names], "palette": palette, "ignore_index": IGNORE}
    write_json(folder / "classes.json", meta)
    lines = [f"{label}\t{name}\n" for label, name in enumerate(classes.names)]
    put(folder, "classes.txt", "".join(lines).encode())


def write_voc(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """SegmentationClass/, SegmentationObject/, JPEGImages/, ImageSets/Segmentation/, labelmap.txt.

    Raises UsageError: more than 254 classes, a name that labelmap.txt cannot hold.
    """
    labelmap = [*_labelmap(classes), f"void:{','.join(map(str, VOID))}::"]
    _write_classes_and_objects(lambda n, data: put(folder, n, data), items, classes, IGNORE)
    put(folder, LABELMAP, _lines(labelmap))


def write_cvat(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """annotations.zip, to upload as "Segmentation mask 1.1", and labels.json for a new task."""
    labelmap = _labelmap(classes)
    with zipfile.ZipFile(folder / CVAT_ARCHIVE, "w") as archive:

        def add(name: str, data: bytes) -> None:
            # a fixed date: the same masks give the same bytes. PNGs are compressed already
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)

        _write_classes_and_objects(add, items, classes, 0)
        add(LABELMAP, _lines(labelmap))
    rows = [
        {"name": name, "color": classes.hex_colour(label), "type": "mask", "attributes": []}
        for label, name in enumerate(classes.names)
    ]
    write_json(folder / "labels.json", rows)


VOID = (224, 224, 192)
"""Colour 255 of Pascal VOC."""


def _write_classes_and_objects(
    add: Put, items: Iterable[Item], classes: Classes, void: int
) -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[1:IGNORE] = classes.colours[: IGNORE - 1]
    if void:
        palette[void] = VOID
    ids = []
    for item in items:
        name = item.image_id
        if name != name.strip() or "\n" in name or name[0] == "#":
            raise UsageError(f"image {name!r}: lists of this format cannot hold that name")
        labels = np.where(item.labels == IGNORE, void, item.labels + np.uint8(1))
        add(f"{CLASS_MASKS}/{item.image_id}.png", encode_png(labels, palette))
        objects = encode_png(_objects(item.labels), VOC_COLOURS)
        add(f"SegmentationObject/{item.image_id}.png", objects)
        if item.image is not None:
            add(f"JPEGImages/{item.file_name}", item.image)
        ids.append(item.image_id)
    add("ImageSets/Segmentation/default.txt", _lines(ids))


def _objects(labels: Array) -> Array:
    """uint8 (H, W): number of the part, 0 = none. Where there are too many parts, the largest have
    their own and what is left of each class is one object."""
    parts = find_parts(labels)
    if not parts:
        return np.zeros(labels.shape, np.uint8)
    values = np.arange(len(parts) + 1)
    if len(parts) > MAX_OBJECTS:
        present = np.unique([part.label for part in parts])
        n_largest = MAX_OBJECTS - len(present)
        largest = sorted(parts, key=lambda part: -part.area)[:n_largest]
        values[1:] = n_largest + 1 + np.searchsorted(present, [part.label for part in parts])
        values[[part.number for part in largest]] = np.arange(1, n_largest + 1)
    return np.asarray(values.astype(np.uint8)[parts[0].numbers])


def _labelmap(classes: Classes) -> list[str]:
    if len(classes.names) > MAX_OBJECTS:
        raise UsageError(
            f"this format holds {MAX_OBJECTS} classes beside background and void, "
            f"got {len(classes.names)}: export as png or coco"
        )
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    for label, name in enumerate(classes.names):
        if ":" in name or name.startswith("#") or name in NOT_CLASSES:
            raise UsageError(f"class {name!r}: this format keeps : # background void for itself")
        lines.append(f"{name}:{','.join(map(str, classes.colour(label)))}::")
    return lines


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def png_bytes(image: Image.Image) -> bytes:
    """For pictures of colours; labels are written by `label_png.encode_png`."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def _voc_colours() -> Array:
    """uint8 (256, 3): Pascal VOC's colours: the bits of the number, three at a time, high first."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= (numbers >> bit & 1) << (7 - bit // 3)
    return colours.astype(np.uint8)


VOC_COLOURS = _voc_colours()
"""Of objects: readers look the number up by its colour."""


# --- reading ------------------------------------------------------------------------------------


def read_labels(files: Files, root: str) -> Corrections:
    """`root`: where the pictures lie, or a folder above `annotations/training`.

    Raises UsageError: a class file or a picture that cannot be read, a label without a name.
    """
    names, colours = _class_file(files, root)
    masks = f"{root}/{PNG_MASKS}".strip("/")
    paths = files.below(masks, LABEL_SUFFIXES) or files.below(root, LABEL_SUFFIXES)
    if names is None:
        highest = max((_highest(files.ids(path)) for path in paths.values()), default=-1)
        names = [f"class {label}" for label in range(highest + 1)]
        return _corrections("label pictures", names, files, paths, files.ids)
    draw = partial(_by_colour_or_number, files, names=names, colours=colours)
    return _corrections("label pictures with class names", names, files, paths, draw)


def read_labelmap(files: Files, root: str) -> Corrections:
    """`root`: the folder of labelmap.txt and SegmentationClass. Raises UsageError as above."""
    names: list[str] = []
    colours = {(0, 0, 0): IGNORE}
    for line in files.text(f"{root}/{LABELMAP}".strip("/")).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = map(int, rest.partition(":")[0].split(","))
        except ValueError:
            raise UsageError(
                f"corrections: {files.path}: {LABELMAP}: expected name:red,green,blue::, "
                f"got {line!r}"
            ) from None
        colour = (red, green, blue)
        if name in NOT_CLASSES:
            colours[colour] = IGNORE
        elif len(names) < IGNORE and colours.setdefault(colour, len(names)) == len(names):
            names.append(name)
        else:
            raise UsageError(
                f"corrections: {files.path}: {LABELMAP}: expected at most {IGNORE} classes, "
                f"each of its own colour, and black for none; got {line!r}"
            )
    paths = files.below(f"{root}/{CLASS_MASKS}".strip("/"), (".png",))
    draw = partial(_by_known_colour, files, colours=colours)
    return _corrections("CVAT segmentation masks", names, files, paths, draw)


def _corrections(
    kind: str,
    names: Sequence[str],
    files: Files,
    paths: Mapping[str, str],
    draw: Callable[[str], Array],
) -> Corrections:
    images = {
        name: Drawing(partial(draw, path), partial(files.size, path))
        for name, path in paths.items()
    }
    return Corrections(kind, tuple(names), images)


def _highest(labels: Array) -> int:
    labelled = labels[labels != IGNORE]
    return int(labelled.max()) if labelled.size else -1


def _by_colour_or_number(files: Files, path: str, names: Sequence[str], colours: Colours) -> Array:
    """By colour where that says all, else by number, which must be that of a class."""
    labels, unknown = _by_colour(files.rgb(path), colours) if colours else (None, "")
    if labels is not None and not unknown:
        return labels
    ids = files.ids(path)
    if _highest(ids) >= len(names):
        raise UsageError(
            f"corrections: {files.where(path)}: label {_highest(ids)}, but its class file names "
            f"{len(names)}: 0 to {len(names) - 1}, and {IGNORE} for nothing; add a name or repaint"
        )
    return ids


def _by_known_colour(files: Files, path: str, colours: Colours) -> Array:
    labels, unknown = _by_colour(files.rgb(path), colours)
    if unknown:
        raise UsageError(
            f"corrections: {files.where(path)}: {unknown}, which {LABELMAP} does not name: "
            "add the class there, or repaint"
        )
    return labels


def _by_colour(rgb: Array, colours: Colours) -> tuple[Array, str]:
    """(uint8 (H, W) labels, what is wrong: empty if every colour is known)."""
    table = {(r << 16) + (g << 8) + b: label for (r, g, b), label in colours.items()}
    flat, strange = rgb.reshape(-1, 3), Counter[int]()
    drawn = np.empty(len(flat), np.uint8)
    for start in range(0, len(flat), BLOCK_PIXELS):
        part = flat[start : start + BLOCK_PIXELS].astype(np.int32)
        codes = part @ np.array([65536, 256, 1], np.int32)
        values, where, n_pixels = np.unique(codes, return_inverse=True, return_counts=True)
        labels = np.array([table.get(int(value), -1) for value in values], np.int64)
        for place in np.flatnonzero(labels < 0):
            strange[int(values[place])] += int(n_pixels[place])
        drawn[start : start + BLOCK_PIXELS] = labels[where.ravel()].astype(np.uint8)
    first = min(strange, default=0)
    unknown = f"{strange[first]} pixels of colour #{first:06x}" if strange else ""
    return drawn.reshape(rgb.shape[:2]), unknown


# --- class files --------------------------------------------------------------------------------


def _class_file(files: Files, root: str) -> tuple[list[str] | None, Colours]:
    """(names or None, colour -> label): classes.json, else classes.txt, beside the pictures."""
    name = f"{root}/classes.json".strip("/")
    if name in files.names:
        table = files.json(name)
        names: Any = table.get("classes") if isinstance(table, dict) else None
        if not _are_names(names):
            raise UsageError(
                f'corrections: {files.where(name)}: expected "classes": a list of different names'
            )
        return names, _palette(table, len(names))
    name = f"{root}/classes.txt".strip("/")
    if name not in files.names:
        return None, {}
    rows = [line.partition("\t") for line in files.text(name).splitlines() if line.strip()]
    names = [text or number for number, _, text in rows]
    numbered = all(number == str(label) for label, (number, tab, _) in enumerate(rows) if tab)
    if not _are_names(names) or not numbered:
        raise UsageError(
            f"corrections: {files.where(name)}: expected lines such as 3<tab>sky, counted from 0"
        )
    return names, {}


def _are_names(names: Any) -> bool:
    return (
        isinstance(names, list)
        and 0 < len(names) <= IGNORE
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names)
    )


def _palette(table: Mapping[str, Any], n_classes: int) -> Colours:
    """Of classes.json; empty where two colours are alike, or one is black, the colour of IGNORE."""
    try:
        colours = [(int(red), int(green), int(blue)) for red, green, blue in table["palette"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        return {}
    if table.get("ignore_index") != IGNORE or len({*colours, (0, 0, 0)}) <= len(colours):
        return {}
    return {(0, 0, 0): IGNORE} | {rgb: label for label, rgb in enumerate(colours[:n_classes])}

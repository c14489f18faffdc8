"""Segments and clusters -> pixel masks, and true masks -> classes (paper III-E).

    paint(segments, assignments, height, width)    uint8 (H, W): cluster of every pixel
    encode_mask(mask)                              8-bit palette PNG
    encode_small(labels, height, width)            grey PNG, for the page of a run
    fill_from_neighbours(segments, assignments)    a cluster for segments that have none
    find_labels(folder)                            label files by name
    decode_labels(data, max_pixels)                uint8 (H, W): ids in a label file
    truth_classes(labels, classes, size)           uint8 (H, W): true classes
    overlay(image, mask, palette, alpha)           uint8 (H, W, 3): for people

Labels are resized here and nowhere else, by `labels_to_pixels`: nearest neighbour in exact integer
arithmetic. IGNORE marks pixels without a label.
"""

from pathlib import Path

import numpy as np

from datus.errors import ImageError, UsageError
from datus.inputs.decode import Picture, load_picture, pillow_errors
from datus.method.label_png import png_of
from datus.types import IGNORE, Array, Assignments, ClassTable, SegmentMap

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def paint(segments: SegmentMap, assignments: Assignments, height: int, width: int) -> Array:
    """uint8 (height, width): cluster id of every pixel, IGNORE where a segment has none."""
    cluster = assignments.cluster
    if len(cluster) != segments.n_segments:
        raise ValueError(
            f"paint: expected {segments.n_segments} assignments, one a segment, got {len(cluster)}"
        )
    labels = np.where(cluster < 0, IGNORE, cluster).astype(np.uint8)
    return labels_to_pixels(labels[segments.labels], height, width)


def labels_to_pixels(labels: Array, height: int, width: int) -> Array:
    """(gh, gw) -> (height, width) of the same dtype: each pixel takes the label under its centre.

    Centre of row y: (y + 0.5) * gh / height, rounded down; as integers, so that no size is special.
    """
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    pixels: Array = labels[rows][:, columns]
    return pixels


def encode_mask(mask: Array) -> bytes:
    """uint8 (H, W) -> 8-bit PNG with `PALETTE`, ids kept as they are; same mask, same bytes."""
    return png_of(mask, PALETTE)


def encode_small(labels: Array, height: int, width: int) -> bytes:
    """uint8 (H, W) -> greyscale PNG of (height, width) whose levels are the labels."""
    return png_of(labels_to_pixels(labels, height, width))


def fill_from_neighbours(segments: SegmentMap, assignments: Assignments) -> Assignments:
    """A segment without a cluster takes the one of the labelled segment it touches most.

    Segments that touch no labelled one wait for those that do. Their margin stays 0.
    """
    cluster = assignments.cluster.copy()
    first, second = _contacts(segments.labels, segments.n_segments)
    while True:
        usable = (cluster[first] < 0) & (cluster[second] >= 0)
        if not usable.any():
            return Assignments(cluster, assignments.margin)
        open_ones, at = np.unique(first[usable], return_index=True)
        cluster[open_ones] = cluster[second[usable][at]]


def _contacts(labels: Array, n_segments: int) -> tuple[Array, Array]:
    """int64 (n,) twice: segments and a segment that each touches, the one with the most 8-connected
    pairs of patches first."""
    pairs = (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    )
    both = np.concatenate([np.stack([one.ravel(), other.ravel()]) for one, other in pairs], axis=1)
    both = both[:, both[0] != both[1]].astype(np.int64)
    both = np.concatenate([both, both[::-1]], axis=1)
    codes, counts = np.unique(both[0] * n_segments + both[1], return_counts=True)
    first, second = codes // n_segments, codes % n_segments
    order = np.lexsort((second, -counts, first))
    return first[order], second[order]


def find_labels(folder: Path) -> dict[str, str]:
    """Label files below a folder: path without suffix -> path, both relative and `/`-separated.

    Hidden files are passed over. Raises UsageError: no folder, no label file, two of one name.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        name = relative[: -len(path.suffix)]
        if path.suffix.lower() not in LABEL_SUFFIXES or path.name.startswith("."):
            continue
        if name in found:
            raise UsageError(f"{folder}: {found[name]} and {relative} share one name: remove one")
        found[name] = relative
    if not found:
        raise UsageError(f"{folder}: no label file in it ({' '.join(LABEL_SUFFIXES)})")
    return found


def decode_labels(data: bytes, max_pixels: int) -> Array:
    """uint8 (H, W): the ids in a PNG, BMP or TIFF of labels.

    Palette pictures: the index, not the colour. Grey and 1-bit ones: the stored number. 16-bit ones
    and grey RGB pass if they say nothing more than an 8-bit id.

    Raises ImageError: a colour picture, ids above 255, JPEG or the like, damaged, too large.
    """
    picture = load_picture(data, max_pixels)
    if picture.format not in ("PNG", "BMP", "TIFF"):
        raise ImageError(f"labels: expected PNG, BMP or TIFF, which keep ids, got {picture.format}")
    with pillow_errors(f"labels: cannot read {picture.format} of type {picture.image.mode}"):
        return _ids(picture)


def truth_classes(labels: Array, classes: ClassTable, size: tuple[int, int]) -> Array:
    """uint8 (H, W): class 0..C-1 or IGNORE of every pixel of a true mask.

    labels: uint8 (H, W), ids of the file; size: (H, W) of the image. Raises ImageError if the sizes
    differ or an id is not in the table.
    """
    (height, width), (image_height, image_width) = labels.shape, size
    if (height, width) != (image_height, image_width):
        raise ImageError(
            f"truth is {height}x{width}, the image {image_height}x{image_width} (height x width): "
            "expected the same size; use the truth made for this image"
        )
    from datus.compute.compiled import looked_up, value_counts

    counts = value_counts(labels)
    unknown = np.flatnonzero((counts > 0) & ~classes.known)
    if len(unknown):
        some = ", ".join(f"{label} ({counts[label]} px)" for label in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise ImageError(
            f"truth has ids that class table {classes.name!r} does not: {some}{more}; "
            "add them to the ids of a class or to ignore"
        )
    return looked_up(labels, classes.lookup)


def overlay(image: Array, mask: Array, palette: Array, alpha: float) -> Array:
    """uint8 (H, W, 3): label colours over the image, for people.

    image: uint8 (H, W, 3) RGB; mask: uint8 (H, W); palette: uint8 (256, 3) RGB; alpha: 0 (image)
    to 1 (colours). Unlabelled pixels are dimmed, borders between labels darker.
    """
    pixels = image.astype(np.float32)
    mixed = pixels * (1 - alpha) + palette[mask] * np.float32(alpha)
    mixed = np.where((mask == IGNORE)[..., None], pixels * 0.4, mixed)
    mixed[_borders(mask)] *= 0.5
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _borders(mask: Array) -> Array:
    """bool (H, W): the label to the right or below is another one. One pixel wide."""
    borders = np.zeros(mask.shape, bool)
    borders[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    borders[:-1] |= mask[:-1] != mask[1:]
    return borders


# Pillow spreads grey levels of 2 and 4 bits over 0..255
_GREY_STEPS = {"L;2": 85, "L;4": 17}


def _ids(picture: Picture) -> Array:
    mode, values = picture.image.mode, np.asarray(picture.image)
    if mode in ("1", "P"):
        return values.astype(np.uint8)
    if mode == "L":
        step = _GREY_STEPS.get(picture.rawmode[:3], 1)
        return (values // step).astype(np.uint8)
    if mode.startswith("I"):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 255:
            raise ImageError(f"labels: expected ids 0 to 255, got {low} to {high}; renumber them")
        return values.astype(np.uint8)
    if mode in ("RGB", "RGBA", "LA") and ";16" not in picture.rawmode:
        alpha = values[..., -1] if mode.endswith("A") else np.uint8(255)
        colours = values[..., :3] if mode.startswith("RGB") else values[..., :1]
        if np.all(alpha == 255) and np.all(colours == colours[..., :1]):
            return np.array(colours[..., 0])
    raise ImageError(
        "labels: this is a colour picture, not class ids: convert it first, see data/prepare"
    )


def _palette() -> Array:
    """uint8 (256, 3): each colour as far as it can be from all before it, in CIELAB.

    Greedy farthest points among saturated colours of middle lightness. Whole numbers, so that no
    rounding differs between machines. The first ones are far apart; IGNORE is black.
    """
    levels = np.arange(0, 256, 17)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _cielab(rgb)
    lightness, chroma_squared = lab[:, 0], (lab[:, 1:] ** 2).sum(1)
    keep = (lightness > 38 * 16) & (lightness < 90 * 16) & (chroma_squared > (25 * 16) ** 2)
    rgb, lab, chroma_squared = rgb[keep], lab[keep], chroma_squared[keep]
    lab_planes = np.ascontiguousarray(lab.T)  # sums over planes are several times faster
    palette = np.zeros((256, 3), np.uint8)
    chosen = int(chroma_squared.argmax())
    distance = np.full(len(lab), np.iinfo(np.int32).max)
    for label in range(IGNORE):
        palette[label] = rgb[chosen]
        distance = np.minimum(distance, ((lab_planes - lab_planes[:, chosen, None]) ** 2).sum(0))
        chosen = int(distance.argmax())
    return palette


def _cielab(rgb: Array) -> Array:
    """int32 (n, 3): sRGB 0..255 as CIE L*, a*, b* (D65) in sixteenths."""
    srgb = rgb / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = linear @ np.array(to_xyz).T / np.array([0.9505, 1.0, 1.0890])
    root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    x, y, z = root.T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    sixteenths: Array = np.rint(lab * 16).astype(np.int32)
    return sixteenths


PALETTE = _palette()
"""uint8 (256, 3) RGB: colour of each cluster; IGNORE is black."""

"""Segments and clusters -> masks of pixels (paper III-E), and masks as pictures.

    labels_to_pixels(labels, height, width)        (gh, gw) -> (height, width)
    fill_from_neighbours(segments, assignments)    a cluster for segments that have none
    encode_mask(mask)                              8-bit palette PNG
    encode_small(labels, height, width)            grey PNG, for the page of a run
    overlay(image, mask, palette, alpha)           uint8 (H, W, 3): for people

Labels are resized here and nowhere else, by `labels_to_pixels`: nearest neighbour in exact integer
arithmetic. IGNORE marks pixels without a label.
"""

import numpy as np

from datus.method.label_png import encode_png
from datus.types import IGNORE, Array, Assignments, SegmentMap


def labels_to_pixels(labels: Array, height: int, width: int) -> Array:
    """(gh, gw) -> (height, width) of the same dtype: each pixel takes the label under its centre.

    Centre of row y: (y + 0.5) * gh / height, rounded down; as integers, so that no size is special.
    """
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return np.asarray(labels[rows][:, columns])


def encode_mask(mask: Array) -> bytes:
    """uint8 (H, W) -> 8-bit PNG with `PALETTE`, ids kept as they are; same mask, same bytes."""
    return encode_png(mask, PALETTE)


def encode_small(labels: Array, height: int, width: int) -> bytes:
    """uint8 (H, W) -> greyscale PNG of (height, width) whose levels are the labels."""
    return encode_png(labels_to_pixels(labels, height, width))


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
        segments_to_fill, at = np.unique(first[usable], return_index=True)
        cluster[segments_to_fill] = cluster[second[usable][at]]


def _contacts(labels: Array, n_segments: int) -> tuple[Array, Array]:
    """int64 (n,) twice: segments and a segment that each touches, the one with the most 8-connected
    pairs of patches first."""
    pairs = (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    )
    touching = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in pairs], axis=1)
    touching = touching[:, touching[0] != touching[1]].astype(np.int64)
    touching = np.concatenate([touching, touching[::-1]], axis=1)
    codes, counts = np.unique(touching[0] * n_segments + touching[1], return_counts=True)
    first, second = codes // n_segments, codes % n_segments
    order = np.lexsort((second, -counts, first))
    return first[order], second[order]


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
    return np.asarray(np.rint(lab * 16), np.int32)


PALETTE = _palette()
"""uint8 (256, 3) RGB: colour of each cluster; IGNORE is black."""

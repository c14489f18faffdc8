"""Arrays to small pictures that live inside the page, as data URIs.

A mask becomes a PNG layer that is clear where nothing is known. The page lays it over the photo,
and the reader chooses how strong it is. Clusters without a class are striped. The colours of a
layer are exact; photos are JPEG.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datus.method.masks import PALETTE, labels_to_pixels
from datus.types import IGNORE, Array, ClassTable

JPEG_QUALITY = 82

_STRIPE_PX = 8
"""From one stripe to the next, in pixels of the small picture."""


@dataclass(frozen=True, slots=True)
class Colours:
    """The colour of every label and whether it is striped."""

    rgb: Array
    """uint8 (n, 3)."""
    striped: Array
    """bool (n,)."""

    def css(self, label: int) -> str:
        """'#rrggbb' of one label."""
        return "#" + "".join(f"{int(value):02x}" for value in self.rgb[label])


def cluster_colours(n_clusters: int, match: Array | None, classes: Colours | None) -> Colours:
    """A matched cluster has the colour of its class; an unmatched one its own colour and stripes.

    `match` is int16 (K,), class or -1. Without truth (`match` None) every cluster has its own plain
    colour.
    """
    rgb = PALETTE[:n_clusters].copy()
    striped = np.zeros(n_clusters, bool)
    if match is not None and classes is not None:
        striped = np.asarray(match) < 0
        rgb[~striped] = classes.rgb[match[~striped]]
    return Colours(rgb, striped)


def class_colours(table: ClassTable | None, n_classes: int) -> Colours:
    """Of the true classes; without a table, the palette."""
    rgb = np.array(table.colours, np.uint8) if table is not None else PALETTE[:n_classes].copy()
    return Colours(rgb, np.zeros(len(rgb), bool))


def photo(image: Array, long_side: int) -> str:
    """uint8 (H, W, 3) -> data URI of a JPEG that is at most `long_side` wide and high."""
    small = Image.fromarray(np.ascontiguousarray(image))
    size = small_size(image.shape[0], image.shape[1], long_side)
    if size != small.size:
        small = small.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _data_uri(small, "jpeg", quality=JPEG_QUALITY)


def layer(labels: Array, colours: Colours, long_side: int) -> str:
    """uint8 (H, W) -> data URI of a PNG, nearest neighbour, clear where a label has no colour."""
    width, height = small_size(labels.shape[0], labels.shape[1], long_side)
    small = labels_to_pixels(labels, height, width)
    table = np.zeros((IGNORE + 1, 4), np.uint8)
    table[: len(colours.rgb), :3] = colours.rgb
    table[: len(colours.rgb), 3] = 255
    striped = np.zeros(IGNORE + 1, bool)
    striped[: len(colours.striped)] = colours.striped
    table[IGNORE] = 0
    pixels = table[small]
    stripe = np.add.outer(np.arange(height), np.arange(width)) % _STRIPE_PX < 2
    pixels[stripe & striped[small], :3] = 255
    return _data_uri(Image.fromarray(pixels), "png", compress_level=4)


def small_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """(width, height) with the long side at most `long_side` and no side below one pixel."""
    scale = min(1.0, long_side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _data_uri(picture: Image.Image, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

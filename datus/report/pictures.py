"""Arrays to small pictures that live inside the page, as data URIs.

A mask becomes a PNG layer that is clear where nothing is known. The page lays it over the photo,
and the reader chooses how strong it is. Clusters without a class are striped. The colours of a
layer are exact; photos are JPEG.
"""

import base64
import io
from collections.abc import Iterable
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
        return css_colour(self.rgb[label])


def css_colour(rgb: Iterable[int]) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in rgb)


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


def shrunk(image: Array, side_px: int) -> Image.Image:
    """uint8 (H, W, 3) -> a picture whose longer side has at most `side_px`; 0 = as it is."""
    height, width = image.shape[:2]
    return resized(image, small_size(height, width, side_px or max(height, width)))


def resized(image: Array, size: tuple[int, int]) -> Image.Image:
    """`size` is (width, height)."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def photo(image: Array, side_px: int) -> str:
    """uint8 (H, W, 3) -> data URI of a JPEG that is at most `side_px` wide and high."""
    return _data_uri(shrunk(image, side_px), "jpeg", quality=JPEG_QUALITY)


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

"""What a writer is given: Item, Classes, Options; and what a reader gives: Corrections.

Shapes are those of the image; rows before columns; RGB.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from datus.errors import UsageError
from datus.types import Array


@dataclass(frozen=True, slots=True)
class Item:
    """One image and its mask."""

    image_id: str
    file_name: str
    """Path of the image, `/`-separated: the image id and a suffix."""
    labels: Array
    """uint8 (H, W): class 0..C-1 or IGNORE."""
    confidence: Array | None = None
    """float32 (H, W): confidence 0..1 of each pixel, NaN where it is not known."""
    image: bytes | None = None
    """The image file, upright: no tag that tells viewers to turn it. None = not exported."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Names and colours, in the order of the label values."""

    names: tuple[str, ...]
    """(C,), no two alike."""
    colours: Array
    """uint8 (256, 3) RGB: no two of the first C alike, none of them black; IGNORE is black."""

    def colour(self, label: int) -> list[int]:
        return [int(value) for value in self.colours[label]]

    def hex_colour(self, label: int) -> str:
        """Such as #7700ff."""
        return "#" + bytes(self.colour(label)).hex()


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose. Each writer reads what concerns it."""

    polygons: bool = False
    """coco: outlines instead of run lengths."""
    min_area: int = 1
    """coco, yolo: smaller parts are left out, in pixels."""
    image_url: str = "/data/local-files/?d=images/"
    """label-studio: what stands before the path of an image."""
    about: dict[str, Any] | None = None
    """Where the masks come from; formats that have room for it repeat it."""

    def __post_init__(self) -> None:
        if self.min_area < 1:
            raise UsageError(f"min_area: expected at least 1 pixel, got {self.min_area}")

    @staticmethod
    def of(given: "Options | Mapping[str, Any] | None") -> "Options":
        """From a table of the names above. Raises UsageError: another name."""
        if isinstance(given, Options):
            return given
        known = [option.name for option in fields(Options)]
        if given is not None and not (isinstance(given, Mapping) and set(given) <= set(known)):
            raise UsageError(f"options: expected a dict of {', '.join(known)}, got {given!r}")
        return Options(**(given or {}))


@dataclass(frozen=True, slots=True)
class Drawing:
    """The labels of one image, as a person left them."""

    draw: Callable[[], Array]
    """-> uint8 (H, W): class 0..n-1, or IGNORE where the person said nothing."""
    size: Callable[[], tuple[int, int]]
    """-> (H, W) of what will be drawn, from a header or a table: nothing is drawn for it."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Class names, and the labels of each image, drawn when they are asked for."""

    format: str
    """For people: what was recognised."""
    names: tuple[str, ...]
    """Of classes, in the order of their labels; some may have no pixel."""
    images: Mapping[str, Drawing]
    """Name of an image as the tool spells it, without suffix, `/`-separated -> its labels."""

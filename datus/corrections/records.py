"""What a reader gives. Shapes are those of the image; rows before columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datus.records import Array

Draw = Callable[[], Array]
"""-> uint8 (H, W): class 0..n-1, or IGNORE where the person said nothing."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Class names, and the labels of each image, drawn when they are asked for."""

    format: str
    """For people: what was recognised."""
    names: tuple[str, ...]
    """Of classes, in the order of their labels; some may have no pixel."""
    images: dict[str, Draw]
    """Name of an image as the tool spells it, without suffix, `/`-separated -> its labels."""

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        """(name, uint8 (H, W)) one after the other, in order of the names."""
        for name in sorted(self.images):
            yield name, self.images[name]()

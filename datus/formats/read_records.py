"""What a reader gives. Shapes are those of the image; rows before columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from datus.types import Array

Draw = Callable[[], Array]
"""-> uint8 (H, W): class 0..n-1, or IGNORE where the person said nothing."""

Size = Callable[[], tuple[int, int]]
"""-> (H, W) of what will be drawn, from a header or a table: nothing is drawn for it."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Class names, and the labels of each image, drawn when they are asked for."""

    format: str
    """For people: what was recognised."""
    names: tuple[str, ...]
    """Of classes, in the order of their labels; some may have no pixel."""
    images: dict[str, Draw]
    """Name of an image as the tool spells it, without suffix, `/`-separated -> its labels."""
    sizes: dict[str, Size] = field(default_factory=dict)
    """By the same names; of those that are not here the labels tell."""

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        """(name, uint8 (H, W)) one after the other, in order of the names."""
        for name in sorted(self.images):
            yield name, self.images[name]()

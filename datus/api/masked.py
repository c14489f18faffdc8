"""One image of a result: its pixels, mask, segments and confidence, and pictures of them.

    one = result["street/0007"]
    one.image, one.mask              uint8 (H, W, 3) and uint8 (H, W), the image's own size
    one.segments, one.confidence     int32 (H, W) and float32 (H, W)
    one.overlay()                    a PIL image

Every property reads the files of the run when it is asked for, and keeps nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from datus.errors import DatusError, UsageError
from datus.finished_run import picture
from datus.inputs.labels import decode_labels, load_classes, truth_classes
from datus.method.masks import PALETTE
from datus.report.display import Card, Entry, Look, overlay_picture, page, png_bytes
from datus.report.pictures import shrunk
from datus.types import IGNORE, Array, ImageRecord

if TYPE_CHECKING:
    from datus.api.result import Result

NOTEBOOK = Look(PALETTE, 0.6, side_px=480)


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """One image of a result."""

    result: "Result"
    record: ImageRecord

    @property
    def image_id(self) -> str:
        """Path below the image folder without suffix."""
        return self.record.image_id

    @property
    def image(self) -> Array:
        """uint8 (H, W, 3) RGB, upright. Raises UsageError if the file was moved or changed."""
        return picture(self.record, self.result.config.data.images)

    @property
    def mask(self) -> Array:
        """uint8 (H, W): cluster of each pixel, 255 = no label."""
        return self.result.finished.labels(self.record, self.result.k)

    @property
    def denoised(self) -> Array:
        """As `mask`, drawn by the trained model. Raises UsageError if de-noising was off."""
        return self.result.finished.labels(self.record, self.result.k, "denoise")

    @property
    def segments(self) -> Array:
        """int32 (H, W): segment of each pixel, 0..S-1, in blocks of patches."""
        return self.result.finished.segments(self.record, self.result.k)

    @property
    def confidence(self) -> Array:
        """float32 (H, W): how sure the label of each pixel's segment is, 0 to 1, NaN where it took
        its neighbours' (docs/confidence.md)."""
        return self.result.finished.sure(self.record, self.result.k)

    @property
    def margin(self) -> Array:
        """float32 (H, W): as `confidence`, from the distances to the centroids alone."""
        return self.result.finished.sure(self.record, self.result.k, "margin")

    @property
    def truth(self) -> Array | None:
        """uint8 (H, W): true class, 255 = not known; None where the image has no true mask."""
        data = self.result.config.data
        if not data.truth or self.record.truth_path is None:
            return None
        path = Path(data.truth) / self.record.truth_path
        try:
            labels = decode_labels(path.read_bytes(), data.max_pixels)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; mine again") from None
        size = self.record.height, self.record.width
        return truth_classes(labels, load_classes(Path(data.classes)), size)

    def overlay(self, opacity: float = 0.6, side_px: int = 0) -> Image.Image:
        """The image under the colours of its clusters; `side_px` > 0 makes it small."""
        return overlay_picture(self.image, self.mask, Look(PALETTE, opacity, side_px))

    def card(self, title: str = "", small: bool = False) -> Card:
        """Photo and mask. The photo is the small one of the run folder if `small`, which saves the
        decoding, and where the image file was moved."""
        image: Array | None = None
        if not small:
            with suppress(DatusError):
                image = self.image
        if image is None:
            image = self.result.finished.preview(self.record, self.result.k)
        return Card(title or self.image_id, image, self.mask)

    def __repr__(self) -> str:
        return f"<{self.image_id}: {self.record.height} x {self.record.width}>"

    def _repr_png_(self) -> bytes:
        card = self.card()
        return png_bytes(overlay_picture(card.image, card.mask, NOTEBOOK))

    def _repr_html_(self) -> str:
        card = self.card("mask")
        counts = np.bincount(card.mask.ravel(), minlength=IGNORE + 1)[:IGNORE]
        order = [n for n in np.argsort(-counts, kind="stable").tolist() if counts[n]]
        names = self.result.names
        legend = [Entry(names[n], colour_of(n), counts[n] / card.mask.size) for n in order]
        cards = [card]
        if card.image is not None:
            cards = [Card("image", card.image, np.full_like(card.mask, IGNORE)), card]
        size = f"{self.record.height} x {self.record.width} pixels"
        return page(self.image_id, [size], cards, legend, NOTEBOOK)


def colour_of(cluster: int) -> tuple[int, int, int]:
    """RGB of a cluster in overlays and in the palette of mask files."""
    red, green, blue = PALETTE[cluster].tolist()
    return red, green, blue


def sheet_row(
    image: MaskedImage, look: Look, truth_palette: Array | None
) -> tuple[str, Sequence[Image.Image]]:
    """Id and pictures: photo, overlay, and the truth if there is a palette for it."""
    card = image.card()
    pictures = [overlay_picture(card.image, card.mask, look)]
    if card.image is not None:
        pictures.insert(0, shrunk(card.image, look.side_px))
    if truth_palette is not None and (truth := image.truth) is not None:
        pictures.append(overlay_picture(None, truth, Look(truth_palette, 1.0, look.side_px)))
    return image.image_id, pictures


def truth_palette(match: Sequence[int], n_classes: int) -> Array:
    """uint8 (256, 3): a class has the colour of the cluster that it was matched to, else a grey.

    match: (K,) class of each cluster, or -1.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[:n_classes] = np.linspace(60, 200, n_classes).astype(np.uint8)[:, None]
    for cluster, label in enumerate(match):
        if label >= 0:
            palette[label] = PALETTE[cluster]
    return palette

"""Do labels follow what is in an image? Figures that need no true masks.

    picture_of(image, view)          the image as another view shows it
    labels_in(labels, view)          where its labels are then
    kappa(first, second)             two labellings of the same patches, agreement beyond chance
    place_kappa(labels)              how well the place in the image alone predicts the label
    judge(figures, weights)          what all this says of the masks, in words

Labels that mean something stay when an image is mirrored, enlarged or recoloured; labels of a weak
backbone are bound to the place, and a mirror image gets others. Cohen's kappa: 1 = the same, 0 =
as much as two labellings with these shares of labels agree by chance (Cohen 1960).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from datus.types import IGNORE, Array, Verdict

View = Literal["", "mirror", "crop"]
"""The image itself; its mirror image; its middle part enlarged, in other colours."""

VIEWS: tuple[View, ...] = ("mirror", "crop")

MARGIN = 0.125
"""Of each side of an image, what `crop` leaves out."""

TINT, LIFT = (0.75, 0.7, 0.5), 20
"""Factors of red, green and blue and what is added to each: darker, yellower, less contrast."""

CELLS = 6
"""Rows and columns of the cells that `place_kappa` looks at."""


BOUNDS: dict[View, tuple[float, float]] = {"mirror": (0.45, 0.6), "crop": (0.55, 0.7)}
"""View -> kappa below which labels are not to be trusted, and below which one should look closely.
Set on four labelled sets and twelve backbones: docs/choosing_k.md."""

TOLD_PLACE = 0.2
"""Kappa of place alone below which it explains nothing: it is 0 for a single image."""

FEW_IMAGES = 20
"""Of fewer, four are looked at again."""

UNIFORM = 0.8
"""Share of images that are one label each, above which clusters sort whole images."""


def picture_of(image: Array, view: View) -> Array:
    """uint8 (h, w, 3) of an image uint8 (H, W, 3). A crop is smaller and has the same aspect."""
    if view == "mirror":
        return np.ascontiguousarray(image[:, ::-1])
    if view == "crop":
        rows, columns = (slice(*kept(side)) for side in image.shape[:2])
        return tinted(image[rows, columns])
    return image


def tinted(image: Array) -> Array:
    """uint8 (H, W, 3) in other colours."""
    return np.asarray(image * np.array(TINT) + LIFT).astype(np.uint8)


def labels_in(labels: Array, view: View) -> Array:
    """(gh, gw), the labels of the whole image, as they lie in a view of the same grid."""
    if view == "mirror":
        return labels[:, ::-1]
    if view == "crop":
        rows, columns = (
            ((side * MARGIN) + (np.arange(side) + 0.5) * (1 - 2 * MARGIN)).astype(np.int64)
            for side in labels.shape
        )
        return np.asarray(labels[np.ix_(rows, columns)])
    return labels


def kept(side: int) -> tuple[int, int]:
    """First pixel of a crop and the one after the last; at least one is left."""
    left_out = int(side * MARGIN)
    return left_out, max(left_out + 1, side - left_out)


def kappa(first: Array, second: Array) -> float:
    """Cohen's kappa of labels uint8 of one shape; places where one is IGNORE do not count.

    1 if all labels are one and the same, in both; 0 if there is nothing to compare.
    """
    known = (first != IGNORE) & (second != IGNORE)
    counts = np.bincount(first[known].astype(np.int64) * 256 + second[known], minlength=65536)
    table = counts.reshape(256, 256) / max(1, counts.sum())
    by_chance = float(table.sum(axis=0) @ table.sum(axis=1))
    if not known.any():
        return 0.0
    if by_chance >= 1.0:
        return 1.0
    return (float(np.trace(table)) - by_chance) / (1.0 - by_chance)


def place_kappa(labels: Sequence[Array]) -> float:
    """Kappa of labels uint8 (gh, gw) of several images with the most frequent label of each cell of
    CELLS x CELLS in the other images: what is predicted by place alone.

    0 for a single image. Every second image is predicted from the others, and these from them; a
    cell where the others have no label does not count.
    """
    if len(labels) < 2:
        return 0.0
    cells = [_cells(grid.shape) for grid in labels]
    predicted = []
    for half in (0, 1):
        counts = np.zeros((CELLS * CELLS, 256), np.int64)
        for grid, cell in zip(labels[half::2], cells[half::2], strict=True):
            np.add.at(counts, (cell.ravel(), grid.ravel()), 1)
        counts = counts[:, :IGNORE]
        usual = np.where(counts.any(axis=1), counts.argmax(axis=1), IGNORE).astype(np.uint8)
        predicted += [usual[cell].ravel() for cell in cells[1 - half :: 2]]
    given = [grid.ravel() for half in (1, 0) for grid in labels[half::2]]
    return kappa(np.concatenate(given), np.concatenate(predicted))


def figures_of(labels: Sequence[Array]) -> dict[str, float]:
    """Of labels uint8 (gh, gw) of several images: `place`, how well the place predicts them, and
    `uniform`, the share of images that are one label but for a twentieth."""
    sizes = [np.bincount(grid.ravel(), minlength=256)[:IGNORE] for grid in labels]
    uniform = [size.max() >= 0.95 * max(1, size.sum()) for size in sizes]
    return {"place": place_kappa(labels), "uniform": float(np.mean(uniform or [0.0]))}


def judge(
    figures: Mapping[str, float],
    random_weights: bool,
    few_valid: str = "",
    n_images: int = FEW_IMAGES,
) -> Verdict:
    """What to make of the masks. `figures`: place, uniform, and the kappa of each of VIEWS.

    few_valid: what the run says where too few patches lie in valid segments. n_images: of the run.
    """
    against = [few_valid] if few_valid else []
    if random_weights:
        against.append("the weights of the backbone are random: nothing was learned")
    against += [text for name in VIEWS if (text := _changed(figures, name, 0))]
    if against:
        return Verdict("do not trust this", tuple(against))
    doubts = [text for name in VIEWS if (text := _changed(figures, name, 1))]
    if figures["uniform"] > UNIFORM:
        doubts.append(
            f"{100 * figures['uniform']:.0f} % of the images are one label each: clusters sort "
            "whole images rather than their parts"
        )
    if n_images < FEW_IMAGES:
        doubts.append(f"{n_images} images say little: {FEW_IMAGES} or more give steady figures")
    if doubts:
        return Verdict("look closely", tuple(doubts))
    views = ", ".join(f"{_NAMES[name]} kappa {figures[name]:.2f}" for name in VIEWS)
    return Verdict(
        "no objection",
        (
            f"labels stay when images are changed ({views}); that they are the classes you mean, "
            "only a look or true masks can tell",
        ),
    )


_NAMES = {"mirror": "mirrored", "crop": "enlarged and recoloured"}


def _changed(figures: Mapping[str, float], view: View, which: int) -> str:
    if figures[view] >= BOUNDS[view][which]:
        return ""
    least, good = BOUNDS[view]
    kappa = f"kappa {figures[view]:.2f}, no objection from {good} on, not trusted below {least}"
    if view == "crop":
        return (
            "an image and its middle, enlarged and in other colours, do not get the same labels "
            f"({kappa}): labels follow colour, size or place"
        )
    place = figures["place"]
    told = f", which alone predicts them with kappa {place:.2f}" if place >= TOLD_PLACE else ""
    return (
        f"an image and its mirror image do not get the same labels ({kappa}): labels follow the "
        f"place in the image{told} (fewer clusters or another backbone may help)"
    )


def _cells(shape: tuple[int, ...]) -> Array:
    """int64 (gh, gw): the cell of each patch."""
    rows, columns = (np.arange(side) * CELLS // side for side in shape)
    return np.asarray(rows[:, None] * CELLS + columns)

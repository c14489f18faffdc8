"""Features as a ViT of known strength would give them, made from true masks.

    simulated(truths, n_classes, side, strength)     keys and tokens of each image of a dataset
    noisy(keys, share, like, seed)                   keys of a real model that agree less
    whitened(keys, like, seed)                       ... that agree in other directions

No backbone of the field can be run without its weights, and what is tuned on one model fails on the
next. Simulated features have the parts that real ones have, each with a size of its own: what a
thing is, how this one looks, where it is, what all keys share, and noise. Noise is independent in
each patch and each dimension, so it lowers the cosine of two patches of one thing and changes
nothing else: keys of large models agree less than those of small ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from datus.method.consistency import VIEWS, kept, labels_in, picture_of, tinted
from datus.types import Array

DIMS = 192
KINDS = 4
"""Classes that resemble one another share one of so many directions."""


BENCH_VIEWS = (*VIEWS, "crop alone", "colour alone")
"""Those of a run, and the two parts of `crop`."""


def picture(image: Array, view: str) -> Array:
    """uint8 (h, w, 3) of an image uint8 (H, W, 3), one of BENCH_VIEWS."""
    if view == "crop alone":
        rows, columns = (slice(*kept(side)) for side in image.shape[:2])
        return image[rows, columns]
    if view == "colour alone":
        return tinted(image)
    return picture_of(image, view)  # type: ignore[arg-type]


def labels_seen(labels: Array, view: str) -> Array:
    """(gh, gw), the labels of the whole image, as they lie in one of BENCH_VIEWS."""
    if view == "colour alone":
        return labels
    return labels_in(labels, "crop" if view == "crop alone" else view)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Strength:
    """Lengths of the parts of a key; the part of its class has length 1."""

    noise: float
    """Of a patch alone, another one in keys and tokens."""
    appearance: float = 0.5
    """Of a class in one image: the same thing looks different elsewhere."""
    position: float = 0.3
    """Of the row and column."""
    shared: float = 1.0
    """Of all keys: raw keys have a mean far from 0."""


def simulated(
    truths: Sequence[Array],
    n_classes: int,
    grid_patches: int,
    strength: Strength,
    seed: int = 1,
    view: str = "",
) -> Iterator[tuple[Array, Array]]:
    """(keys, tokens), float32 (gh, gw, DIMS) each, of one image after the other.

    truths: uint8 (H, W) class numbers, 255 = unknown, which is one class more. grid_patches:
    patches along the side of a square image; others have grids of the same area in their own shape.
    A patch that covers several classes gets their mixture by area. An image depends on `seed` and
    its place in the list. view: another look at the same images: things stay, how they look only in
    part where colours change, places are those of the view, and noise is drawn anew.
    """
    rng = np.random.default_rng(seed)
    kinds, own = _unit(rng, KINDS), _unit(rng, n_classes + 1)
    classes = np.sqrt(0.5) * (own + kinds[np.arange(n_classes + 1) % KINDS])
    shared, waves = _unit(rng, 1), _unit(rng, 12) / np.sqrt(6)
    for number, truth in enumerate(truths):
        rng = np.random.default_rng([seed, number])
        looks, other = _unit(rng, n_classes + 1), _unit(rng, n_classes + 1)
        if view in ("crop", "colour alone"):
            looks = np.sqrt(0.5) * (looks + other)
        viewed = labels_seen(truth, view)
        rows, columns = grid_of(truth.shape, grid_patches)
        meant = shares_of(viewed, n_classes, (rows, columns)) @ (
            classes + strength.appearance * looks
        )
        place = _place(rows, columns) @ waves
        rng = np.random.default_rng([seed, number, ("", *BENCH_VIEWS).index(view)])
        both = []
        for _ in range(2):
            noise = rng.normal(size=meant.shape) / np.sqrt(DIMS)
            found = strength.shared * shared + meant + strength.position * place
            found = found + strength.noise * noise
            both.append(found.reshape(rows, columns, DIMS).astype(np.float32))
        yield both[0], both[1]


def noisy(keys: Sequence[Array], share: float, like: Sequence[Array], seed: int) -> Iterator[Array]:
    """Keys float (gh, gw, D) and noise of `share` times the length of each, where the length is
    that without the mean key of `like`, the keys of the dataset."""
    mean = np.mean([one.reshape(-1, one.shape[2]).mean(0, np.float64) for one in like], axis=0)
    for number, one in enumerate(keys):
        noise = np.random.default_rng([seed, number]).normal(size=one.shape)
        noise /= np.linalg.norm(noise, axis=2, keepdims=True)
        lengths = np.linalg.norm(one - mean, axis=2, keepdims=True)
        yield (one + share * lengths * noise).astype(np.float32)


def whitened(keys: Sequence[Array], like: Sequence[Array], seed: int) -> Iterator[Array]:
    """Keys float (gh, gw, D), turned and stretched to unit covariance over `like`."""
    rows = np.concatenate([one.reshape(-1, one.shape[2]) for one in like]).astype(np.float32)
    mean = rows.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    turn = vectors / np.sqrt(np.maximum(values, values.max() * 1e-6))
    for one in keys:
        yield ((one - mean) @ turn).astype(np.float32)


def grid_of(shape: tuple[int, ...], grid_patches: int) -> tuple[int, int]:
    """(rows, columns) of an image (H, W), as `images.fit_size` cuts it: patches of one pixel."""
    from datus.inputs.decode import fit_size

    return fit_size(shape[0], shape[1], grid_patches, 1, "keep")


def shares_of(truth: Array, n_classes: int, grid: tuple[int, int]) -> Array:
    """float64 (N, C + 1): the share of each class, and of unknown, in each patch."""
    (height, width), (rows, columns) = truth.shape, grid
    patch = np.arange(height)[:, None] * rows // height * columns
    patch = patch + np.arange(width)[None, :] * columns // width
    labels = np.minimum(truth.astype(np.int64), n_classes)
    pairs = patch * (n_classes + 1) + labels
    counts = np.bincount(pairs.ravel(), minlength=rows * columns * (n_classes + 1))
    shares = counts.reshape(rows * columns, n_classes + 1).astype(np.float64)
    return shares / shares.sum(axis=1, keepdims=True)


def _unit(rng: np.random.Generator, n: int) -> Array:
    rows = rng.normal(size=(n, DIMS))
    found: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _place(rows: int, columns: int) -> Array:
    """float64 (N, 12): three waves down and across, sine and cosine; rows have length sqrt(6)."""
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns)
    y, x = y.T.ravel(), x.T.ravel()
    waves = [wave(n * np.pi * v) for v in (y, x) for n in (1, 2, 3) for wave in (np.sin, np.cos)]
    return np.stack(waves, axis=1)

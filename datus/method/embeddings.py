"""One unit vector per valid segment (paper III-D, first stage).

    in    the patch tokens of the image, or the image itself, and its segments
    out   SegmentEmbeddings: float32 (S, E), unit rows where valid, zero rows elsewhere

Two ways:

    pool   mean patch token over the segment. One forward pass per image.
    crop   class token of the segment on its own: cut the tight box, blacken everything else,
           resize, embed (`make_crops`, then the ViT, then `embed_crops`). One forward pass per
           segment; this is what the paper does.

A vector of length zero has no direction and stays zero, so no row is ever NaN.
"""

import cv2
import numpy as np

from datus.compute.compiled import compiled
from datus.compute.float16 import as_float32
from datus.config import EmbeddingsConfig
from datus.errors import ConfigError, ImageError
from datus.types import Array, SegmentEmbeddings, SegmentMap


def valid_segments(segments: SegmentMap, min_patches: int) -> Array:
    """bool (S,): the segment has at least `min_patches` patches; the others are noise (IV-B)."""
    return np.greater_equal(segments.n_patches, min_patches)


def pool(tokens: Array, segments: SegmentMap, valid: Array) -> SegmentEmbeddings:
    """Mean patch token of each valid segment, scaled to length one.

    tokens: float32 or float16 (gh, gw, E) on the grid of `segments`. valid: bool (S,).
    Raises ImageError if a token of a valid segment is not finite, ValueError if shapes disagree.
    """
    if tokens.shape[:2] != segments.labels.shape:
        raise ValueError(
            f"tokens: expected a grid of {segments.labels.shape}, got {tokens.shape[:2]}"
        )
    _check_valid(valid, segments)
    tokens_NE = as_float32(tokens).reshape(-1, tokens.shape[2])
    sums_SE = _segment_sums(tokens_NE, segments.labels.ravel(), segments.n_segments)
    return _placed(sums_SE[valid] / segments.n_patches[valid, None], valid)


@compiled
def _segment_sums(tokens_NE: Array, labels_N: Array, n_segments: int) -> Array:
    """float64 (S, E), patch after patch: the order of a sum must not depend on a BLAS."""
    sums_SE = np.zeros((n_segments, tokens_NE.shape[1]))
    for patch in range(len(labels_N)):
        for i in range(tokens_NE.shape[1]):
            sums_SE[labels_N[patch], i] += tokens_NE[patch, i]
    return sums_SE


def embed_crops(class_tokens: Array, valid: Array) -> SegmentEmbeddings:
    """Class tokens of the crops, scaled to length one, each in the row of its segment.

    class_tokens: float (V, E), one row for each valid segment in order. valid: bool (S,).
    Raises ImageError if a value is not finite, ValueError if V is not the number of valid segments.
    """
    if len(class_tokens) != np.count_nonzero(valid):
        raise ValueError(
            f"class_tokens: expected {np.count_nonzero(valid)} rows, one for each valid segment, "
            f"got {len(class_tokens)}"
        )
    return _placed(class_tokens, valid)


def make_crops(
    image: Array,
    segments: SegmentMap,
    valid: Array,
    settings: EmbeddingsConfig,
    patch_px: tuple[int, int],
) -> list[Array]:
    """The picture of each valid segment alone, in order: uint8 (side, side, 3) RGB.

    image: uint8 (h, w, 3) RGB as the ViT saw it. valid: bool (S,). patch_px: side of a patch of
    `segments`, and of the model that will embed the crops; `side` is settings.crop_px rounded down
    to patches of the latter.

    settings.crop = "whole" scales the tight box to fit the square and centres it on black, so that
    all of the segment is seen. "paper" scales its short side to 256/224 of the square, bicubic, and
    keeps the centre: the rim of long segments is lost.
    """
    grid_patch_px, embedder_patch_px = patch_px
    expected = tuple(side * grid_patch_px for side in segments.labels.shape)
    if image.shape[:2] != expected:
        raise ValueError(f"image: expected {expected} pixels, got {image.shape[:2]}")
    _check_valid(valid, segments)
    side_px = crop_side(settings.crop_px, embedder_patch_px)
    fit = _whole if settings.crop == "whole" else _paper
    alone = (_alone(image, segments, s, grid_patch_px) for s in np.flatnonzero(valid).tolist())
    return [fit(picture, side_px) for picture in alone]


def crop_side(crop_px: int, patch_px: int) -> int:
    """Largest multiple of `patch_px` that is at most `crop_px`. ConfigError if there is none."""
    if crop_px < patch_px:
        raise ConfigError(
            f"embeddings.crop_px: expected at least one patch of the embedder ({patch_px}), "
            f"got {crop_px}"
        )
    return crop_px // patch_px * patch_px


def _alone(image: Array, segments: SegmentMap, segment: int, patch_px: int) -> Array:
    """uint8 (box, 3): the tight box of one segment, all other segments black."""
    top, left, bottom, right = segments.boxes[segment].tolist()
    inside = segments.labels[top:bottom, left:right] == segment
    inside_px = inside.repeat(patch_px, axis=0).repeat(patch_px, axis=1)
    box = image[top * patch_px : bottom * patch_px, left * patch_px : right * patch_px]
    return np.where(inside_px[..., None], box, np.uint8(0))


def _whole(picture: Array, side_px: int) -> Array:
    """Long side to `side_px`, centred on a black square."""
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (side_px - new_height) // 2, (side_px - new_width) // 2
    square = np.zeros((side_px, side_px, 3), np.uint8)
    scaled = _resize(picture, new_height, new_width)
    square[top : top + new_height, left : left + new_width] = scaled
    return square


def _paper(picture: Array, side_px: int) -> Array:
    """Short side to 256 if `side_px` is 224, centre square: the usual evaluation transform."""
    height, width = picture.shape[:2]
    short_px, short = round(256 / 224 * side_px), min(height, width)
    # the long side is cut, not rounded, as in the transform that the authors used
    scaled = _resize(picture, short_px * height // short, short_px * width // short)
    top, left = round((scaled.shape[0] - side_px) / 2), round((scaled.shape[1] - side_px) / 2)
    return np.ascontiguousarray(scaled[top : top + side_px, left : left + side_px])


def _resize(picture: Array, height: int, width: int) -> Array:
    """Bicubic. When it shrinks, pixels are averaged: OpenCV's bicubic would skip most of them."""
    shrinks = height < picture.shape[0] or width < picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)


def _placed(rows: Array, valid: Array) -> SegmentEmbeddings:
    """The rows (V, E), scaled to length one, in the places of the valid segments."""
    if not np.isfinite(rows).all():
        raise ImageError(
            "the backbone's tokens hold infinite values or NaN: "
            "try features.precision and features.store = float32"
        )
    vectors = np.zeros((len(valid), rows.shape[1]), np.float32)
    vectors[valid] = _unit_rows(rows)
    return SegmentEmbeddings(vectors=vectors, valid=valid)


def _unit_rows(rows: Array) -> Array:
    """float32, each row divided by its length; rows of length zero stay zero."""
    rows64 = rows.astype(np.float64)
    # by the largest value first: squares of very small or very large values would leave the range
    largest = np.abs(rows64).max(axis=1, keepdims=True, initial=0.0)
    rows64 = np.divide(rows64, largest, out=np.zeros_like(rows64), where=largest > 0)
    lengths = np.sqrt((rows64 * rows64).sum(axis=1, keepdims=True))
    unit = np.divide(rows64, lengths, out=np.zeros_like(rows64), where=lengths > 0)
    return np.asarray(unit, np.float32)


def _check_valid(valid: Array, segments: SegmentMap) -> None:
    if valid.shape != (segments.n_segments,):
        raise ValueError(f"valid: expected shape ({segments.n_segments},), got {valid.shape}")

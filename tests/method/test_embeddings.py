"""Pooling and crops on grids that one checks by eye, and what holds for any grid."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datus.config import EmbeddingsConfig
from datus.errors import ConfigError, ImageError
from datus.method.embeddings import crop_side, embed_crops, make_crops, pool, valid_segments
from datus.types import Array, SegmentMap

# 3 x 4 patches, three segments:
#
#     0 0 0 1
#     0 2 1 1
#     2 2 2 1
LABELS = np.array([[0, 0, 0, 1], [0, 2, 1, 1], [2, 2, 2, 1]], np.int32)
PATCH_PX = 2


def segment_map(labels: Array) -> SegmentMap:
    n_segments = int(labels.max()) + 1
    places = [np.argwhere(labels == s) for s in range(n_segments)]
    boxes = [[*place.min(0), *(place.max(0) + 1)] for place in places]
    return SegmentMap(
        labels=labels,
        community=np.arange(n_segments, dtype=np.int32),
        n_patches=np.array([len(place) for place in places], np.int32),
        boxes=np.array(boxes, np.int32).reshape(n_segments, 4),
        modularity=0.0,
    )


SEGMENTS = segment_map(LABELS)
ALL = np.ones(3, bool)


@st.composite
def segmented(draw: st.DrawFn) -> SegmentMap:
    """Any map of patches to segments; ids in raster order of first patch."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    ids = draw(st.lists(st.integers(0, 3), min_size=rows * columns, max_size=rows * columns))
    order = list(dict.fromkeys(ids))
    labels = np.array([order.index(one) for one in ids], np.int32).reshape(rows, columns)
    return segment_map(labels)


def tokens_for(segments: SegmentMap, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*segments.labels.shape, 5)).astype(np.float32)


def picture_for(segments: SegmentMap, patch_px: int = PATCH_PX, low: int = 1) -> Array:
    """No pixel is black."""
    height, width = segments.labels.shape
    rng = np.random.default_rng(3)
    return rng.integers(low, 256, (height * patch_px, width * patch_px, 3)).astype(np.uint8)


# --- valid_segments -----------------------------------------------------------------------------


def test_a_segment_is_valid_from_min_patches_on() -> None:
    assert valid_segments(SEGMENTS, 4).tolist() == [True, True, True]
    assert valid_segments(segment_map(LABELS // 2), 5).tolist() == [True, False]
    assert valid_segments(SEGMENTS, 5).dtype == bool


# --- pool ---------------------------------------------------------------------------------------


def test_pool_is_the_mean_token_scaled_to_length_one() -> None:
    tokens = np.zeros((3, 4, 2), np.float32)
    tokens[LABELS == 0] = [3, 4]
    tokens[LABELS == 1] = [0, 1]
    tokens[0, 3] = [0, 7]
    tokens[LABELS == 2] = [[1, 0], [-1, 2], [0, 0], [0, 0]]
    found = pool(tokens, SEGMENTS, ALL)
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0, 1], [0, 1]], atol=1e-7)
    assert found.vectors.dtype == np.float32


def test_pool_leaves_segments_that_are_not_valid_at_zero() -> None:
    found = pool(tokens_for(SEGMENTS), SEGMENTS, np.array([True, False, True]))
    assert found.vectors[1].tolist() == [0] * 5
    assert found.valid.tolist() == [True, False, True]
    assert np.linalg.norm(found.vectors[[0, 2]], axis=1) == pytest.approx([1, 1])


def test_pool_of_tokens_that_cancel_out_is_zero_and_not_nan() -> None:
    tokens = np.zeros((3, 4, 2), np.float32)
    tokens[0, 0], tokens[0, 1] = [1, 2], [-1, -2]
    assert pool(tokens, SEGMENTS, ALL).vectors.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("scale", [1e-38, 1e38])
def test_pool_keeps_the_direction_of_very_small_and_very_large_tokens(scale: float) -> None:
    tokens = np.full((3, 4, 4), scale, np.float32)
    np.testing.assert_allclose(pool(tokens, SEGMENTS, ALL).vectors, 0.5, rtol=1e-6)


def test_pool_takes_stored_float16() -> None:
    tokens = tokens_for(SEGMENTS).astype(np.float16)
    expected = pool(tokens.astype(np.float32), SEGMENTS, ALL)
    assert pool(tokens, SEGMENTS, ALL).vectors.tobytes() == expected.vectors.tobytes()


def test_pool_refuses_tokens_that_are_not_finite() -> None:
    tokens = tokens_for(SEGMENTS)
    tokens[0, 0, 0] = np.inf
    with pytest.raises(ImageError) as error:
        pool(tokens, SEGMENTS, ALL)
    assert str(error.value) == (
        "the backbone's tokens hold infinite values or NaN: "
        "try features.precision and features.store = float32"
    )
    assert np.isfinite(pool(tokens, SEGMENTS, np.array([False, True, True])).vectors).all()


def test_pool_refuses_another_grid_and_another_number_of_segments() -> None:
    with pytest.raises(ValueError, match=r"tokens: expected a grid of \(3, 4\), got \(4, 3\)"):
        pool(np.zeros((4, 3, 2), np.float32), SEGMENTS, ALL)
    with pytest.raises(ValueError, match=r"valid: expected shape \(3,\), got \(2,\)"):
        pool(np.zeros((3, 4, 2), np.float32), SEGMENTS, ALL[:2])


@given(segmented(), st.integers(0, 9), st.integers(1, 4))
def test_pool_equals_a_loop_over_segments(segments: SegmentMap, seed: int, least: int) -> None:
    tokens, valid = tokens_for(segments, seed), valid_segments(segments, least)
    found = pool(tokens, segments, valid)
    for s in range(segments.n_segments):
        mean = tokens[segments.labels == s].astype(np.float64).mean(axis=0)
        expected = mean / np.linalg.norm(mean) if valid[s] else 0 * mean
        np.testing.assert_allclose(found.vectors[s], expected, atol=1e-6)
        assert np.linalg.norm(found.vectors[s]) == pytest.approx(float(valid[s]), abs=1e-6)


@given(segmented(), st.floats(0.01, 100))
def test_pool_does_not_change_with_the_scale_of_the_tokens(
    segments: SegmentMap, scale: float
) -> None:
    tokens, valid = tokens_for(segments), valid_segments(segments, 1)
    scaled = (tokens * np.float32(scale)).astype(np.float32)
    one, other = pool(tokens, segments, valid), pool(scaled, segments, valid)
    np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-5)


@given(segmented())
def test_pool_does_not_change_when_the_grid_is_mirrored(segments: SegmentMap) -> None:
    tokens, valid = tokens_for(segments), valid_segments(segments, 1)
    mirrored = segment_map(np.ascontiguousarray(segments.labels[:, ::-1]))
    other = pool(np.ascontiguousarray(tokens[:, ::-1]), mirrored, valid)
    np.testing.assert_allclose(pool(tokens, segments, valid).vectors, other.vectors, atol=1e-6)


# --- embed_crops --------------------------------------------------------------------------------


def test_crop_vectors_go_to_the_rows_of_their_segments() -> None:
    valid = np.array([False, True, False, True])
    found = embed_crops(np.array([[3, 4], [0, 0]], np.float32), valid)
    np.testing.assert_allclose(found.vectors, [[0, 0], [0.6, 0.8], [0, 0], [0, 0]], atol=1e-7)
    assert found.valid is valid


def test_an_image_without_valid_segments_has_zero_rows_only() -> None:
    found = embed_crops(np.zeros((0, 7), np.float32), np.zeros(2, bool))
    assert found.vectors.shape == (2, 7)
    assert not found.vectors.any()
    assert make_crops(picture_for(SEGMENTS), SEGMENTS, ~ALL, EmbeddingsConfig(), (2, 8)) == []
    assert not pool(tokens_for(SEGMENTS), SEGMENTS, ~ALL).vectors.any()


def test_the_number_of_class_tokens_must_fit() -> None:
    with pytest.raises(ValueError, match="expected 2 rows, one for each valid segment, got 3"):
        embed_crops(np.zeros((3, 7), np.float32), np.array([True, False, True]))


# --- crops --------------------------------------------------------------------------------------


def crops(
    segments: SegmentMap,
    mode: Literal["whole", "paper"],
    crop_px: int,
    picture: Array | None = None,
    patch_px: int = PATCH_PX,
) -> list[Array]:
    config = EmbeddingsConfig(crop=mode, crop_px=crop_px)
    valid = np.ones(segments.n_segments, bool)
    image = picture_for(segments, patch_px) if picture is None else picture
    return make_crops(image, segments, valid, config, (patch_px, 1))


def test_whole_crop_of_the_hand_made_grid() -> None:
    # Segment 0 fills a box of 2 x 3 patches, 4 x 6 pixels: no scaling at 6, one black row around.
    picture = picture_for(SEGMENTS)
    found = crops(SEGMENTS, "whole", 6, picture)[0]
    expected = np.zeros((6, 6, 3), np.uint8)
    expected[1:5] = picture[:4, :6]
    expected[3:5, 2:] = 0
    np.testing.assert_array_equal(found, expected)


def test_crops_come_in_order_of_the_valid_segments() -> None:
    config, valid = EmbeddingsConfig(crop_px=6), np.array([True, False, True])
    found = make_crops(picture_for(SEGMENTS), SEGMENTS, valid, config, (PATCH_PX, 1))
    every = crops(SEGMENTS, "whole", 6)
    assert [one.tobytes() for one in found] == [every[0].tobytes(), every[2].tobytes()]


@settings(deadline=None)
@given(segmented())
def test_pixels_of_other_segments_are_black(segments: SegmentMap) -> None:
    # one pixel a patch, and a square as large as the box: nothing is scaled
    picture = picture_for(segments, 1)
    for s in range(segments.n_segments):
        top, left, bottom, right = segments.boxes[s].tolist()
        valid = np.arange(segments.n_segments) == s
        config = EmbeddingsConfig(crop_px=max(bottom - top, right - left))
        (crop,) = make_crops(picture, segments, valid, config, (1, 1))
        seen = sorted(map(tuple, crop[crop.any(axis=2)].tolist()))
        assert seen == sorted(map(tuple, picture[segments.labels == s].tolist()))


@settings(deadline=None)
@given(segmented(), st.integers(6, 40))
def test_whole_crops_show_every_patch_of_the_segment(segments: SegmentMap, side: int) -> None:
    white = np.full_like(picture_for(segments), 255)
    for s, crop in enumerate(crops(segments, "whole", side, white)):
        top, left, bottom, right = segments.boxes[s].tolist()
        height, width = bottom - top, right - left
        scale = side / max(height, width)
        new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
        assert crop.shape == (side, side, 3)
        for row, column in np.argwhere(segments.labels == s).tolist():
            y = (side - new_height) // 2 + int((row - top + 0.5) * new_height / height)
            x = (side - new_width) // 2 + int((column - left + 0.5) * new_width / width)
            assert crop[y, x].min() > 0


def test_whole_crop_shrinks_by_averaging() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    segments = segment_map(np.zeros((4, 4), np.int32))
    assert crops(segments, "whole", 4, stripes)[0].tolist() == [[[100] * 3] * 4] * 4


def test_paper_crop_loses_the_rim_of_a_long_segment() -> None:
    # 1 x 8 patches of 2 pixels, each patch its own grey. Short side 2 -> 16, long side 16 -> 128;
    # the middle 14 of 128 columns lie inside patches 3 and 4.
    segments = segment_map(np.zeros((1, 8), np.int32))
    greys = np.arange(10, 90, 10).repeat(2)
    picture = np.broadcast_to(greys[None, :, None], (2, 16, 3)).astype(np.uint8)
    (paper,) = crops(segments, "paper", 14, picture)
    assert paper.shape == (14, 14, 3)
    assert paper.min() >= 39
    assert paper.max() <= 51
    (whole,) = crops(segments, "whole", 16, picture)
    assert sorted(set(whole[whole > 0].tolist())) == sorted(set(greys.tolist()))


@settings(deadline=None)
@given(segmented(), st.integers(7, 40))
def test_paper_crops_are_full_squares(segments: SegmentMap, side: int) -> None:
    for crop in crops(segments, "paper", side):
        assert crop.shape == (side, side, 3)
        assert crop.dtype == np.uint8
        assert crop.flags.c_contiguous


def test_paper_crop_of_a_square_is_the_middle_of_256() -> None:
    # a picture that is already 256 high is not scaled at all
    segments = segment_map(np.zeros((32, 32), np.int32))
    picture = picture_for(segments, 8)
    (crop,) = crops(segments, "paper", 224, picture, patch_px=8)
    np.testing.assert_array_equal(crop, picture[16:240, 16:240])


def test_crop_side_is_rounded_down_to_patches_of_the_embedder() -> None:
    assert [crop_side(224, p) for p in (8, 14, 16)] == [224, 224, 224]
    assert crop_side(230, 16) == 224
    config = EmbeddingsConfig(crop_px=30)
    found = make_crops(picture_for(SEGMENTS), SEGMENTS, ALL, config, (PATCH_PX, 8))
    assert found[0].shape == (24, 24, 3)
    with pytest.raises(ConfigError) as error:
        crop_side(8, 14)
    assert str(error.value) == (
        "embeddings.crop_px: expected at least one patch of the embedder (14), got 8"
    )


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image: expected \(6, 8\) pixels, got \(6, 9\)"):
        make_crops(np.zeros((6, 9, 3), np.uint8), SEGMENTS, ALL, EmbeddingsConfig(), (2, 8))

"""Masks: labels to pixels, label files in and out, truth to classes, pictures for people."""

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datus.errors import ImageError
from datus.method.masks import (
    PALETTE,
    decode_labels,
    encode_mask,
    fill_from_neighbours,
    labels_to_pixels,
    overlay,
    paint,
    truth_classes,
)
from datus.types import IGNORE, Array, Assignments, ClassTable, SegmentMap

BIG = 10**7
COLOUR = "labels: this is a colour picture, not class ids: convert it first, see data/prepare"
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
IDS = np.array([[0, 1, 2, 3], [7, 7, 200, 255], [9, 8, 7, 6]], np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(height: int, width: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand: Pillow writes neither 2-bit grey nor 16-bit colours."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def reason(data: bytes, max_pixels: int = BIG) -> str:
    with pytest.raises(ImageError) as caught:
        decode_labels(data, max_pixels)
    return str(caught.value)


# --- labels to pixels ----------------------------------------------------------------


def test_a_grid_of_patches_becomes_blocks_of_pixels():
    labels = np.array([[1, 2], [3, 4]], np.int32)
    assert labels_to_pixels(labels, 4, 6).tolist() == [
        [1, 1, 1, 2, 2, 2],
        [1, 1, 1, 2, 2, 2],
        [3, 3, 3, 4, 4, 4],
        [3, 3, 3, 4, 4, 4],
    ]


def test_a_pixel_centre_on_a_border_belongs_to_the_label_behind_it():
    assert labels_to_pixels(np.array([[1, 2]], np.int32), 1, 3).tolist() == [[1, 2, 2]]
    assert labels_to_pixels(np.array([[1, 2, 3]], np.int32), 1, 2).tolist() == [[1, 3]]


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([np.uint8, np.int16, np.int32]),
)
def test_every_pixel_takes_the_label_under_its_centre(grid, size, dtype):
    labels = np.arange(grid[0] * grid[1], dtype=dtype).reshape(grid)
    pixels = labels_to_pixels(labels, *size)
    assert pixels.dtype == dtype
    assert pixels.shape == size
    for y, x in np.ndindex(*size):
        row = (Fraction(y) + Fraction(1, 2)) * grid[0] // size[0]
        column = (Fraction(x) + Fraction(1, 2)) * grid[1] // size[1]
        assert pixels[y, x] == labels[int(row), int(column)]


def test_labels_of_their_own_size_stay_as_they_are():
    assert np.array_equal(labels_to_pixels(IDS, 3, 4), IDS)


def segment_map() -> SegmentMap:
    return SegmentMap(
        labels=np.array([[0, 0, 1], [2, 2, 1]], np.int32),
        community=np.array([0, 1, 2], np.int32),
        n_patches=np.array([2, 2, 2], np.int32),
        boxes=np.array([[0, 0, 1, 2], [0, 2, 2, 3], [1, 0, 2, 2]], np.int32),
        modularity=0.3,
    )


def assignments(*clusters: int) -> Assignments:
    return Assignments(np.array(clusters, np.int16), np.zeros(len(clusters), np.float32))


def test_paint_gives_each_pixel_its_cluster_and_noise_no_label():
    mask = paint(segment_map(), assignments(254, -1, 0), 4, 3)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[254, 254, 255], [254, 254, 255], [0, 0, 255], [0, 0, 255]]


def test_paint_refuses_assignments_of_another_image():
    with pytest.raises(ValueError, match="paint: expected 3 assignments, one a segment, got 2"):
        paint(segment_map(), assignments(1, 2), 4, 3)


def test_noise_takes_the_cluster_it_touches_most():
    segments = split(np.array([[0, 0, 1, 1], [0, 2, 2, 1], [3, 3, 1, 4]], np.int32))
    found = Assignments(np.array([5, 7, -1, -1, -1], np.int16), np.zeros(5, np.float32))
    filled = fill_from_neighbours(segments, found)
    # segment 2 touches 0 in four pairs and 1 in six; 3 touches 0 twice and 1 once; 4 only 1
    assert filled.cluster.tolist() == [5, 7, 7, 5, 7]
    assert found.cluster.tolist() == [5, 7, -1, -1, -1]


def test_noise_far_from_any_cluster_is_reached_in_steps_and_without_any_it_stays():
    segments = split(np.array([[0, 1, 2, 3]], np.int32))
    margin = np.zeros(4, np.float32)
    one = Assignments(np.array([3, -1, -1, -1], np.int16), margin)
    assert fill_from_neighbours(segments, one).cluster.tolist() == [3, 3, 3, 3]
    none = Assignments(np.full(4, -1, np.int16), margin)
    assert fill_from_neighbours(segments, none).cluster.tolist() == [-1] * 4


def split(labels):
    """A SegmentMap of which only the labels matter."""
    n_segments = int(labels.max()) + 1
    ones = np.ones(n_segments, np.int32)
    return SegmentMap(labels, ones, ones, np.zeros((n_segments, 4), np.int32), 0.0)


# --- label files ----------------------------------------------------------------


def test_a_mask_comes_back_as_it_was_written():
    every = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for mask in (IDS, every, every[:, ::2], np.zeros((1, 1), np.uint8)):
        assert np.array_equal(decode_labels(encode_mask(mask), BIG), mask)


def test_a_mask_file_is_an_8_bit_palette_png_and_always_the_same_bytes():
    data = encode_mask(IDS)
    assert data == encode_mask(IDS.copy(order="F"))
    assert data[24:26] == b"\x08\x03"  # bit depth 8, colour type palette
    image = Image.open(io.BytesIO(data))
    assert image.getpalette() == PALETTE.ravel().tolist()
    assert np.array_equal(np.asarray(image.convert("RGB")), PALETTE[IDS])
    assert len(image.info) == 0  # no time stamp, no software


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_grey_and_palette_files_hold_ids(kind):
    assert np.array_equal(decode_labels(saved(IDS, kind), BIG), IDS)
    image = Image.fromarray(IDS)
    image.putpalette(PALETTE.tobytes())
    assert np.array_equal(decode_labels(saved(image, kind), BIG), IDS)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_files_hold_ids_0_and_1(kind):
    bits = Image.fromarray(np.array([[0, 255, 255], [255, 0, 0]], np.uint8)).convert("1")
    assert decode_labels(saved(bits, kind), BIG).tolist() == [[0, 1, 1], [1, 0, 0]]


def test_grey_of_2_and_4_bits_holds_the_stored_numbers():
    assert decode_labels(png(1, 4, 2, 0, b"\0\x1b"), BIG).tolist() == [[0, 1, 2, 3]]
    assert decode_labels(png(1, 4, 4, 0, b"\0\x01\xef"), BIG).tolist() == [[0, 1, 14, 15]]


def test_palettes_of_few_bits_hold_indices():
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 9, 9, 9])
    for bits in (2, 4, 8):
        data = saved(image, bits=bits, transparency=b"\0\xff\xff\xff")
        assert decode_labels(data, BIG).tolist() == [[0, 1, 2, 3]]


def test_16_bit_files_hold_ids_up_to_255():
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode_labels(saved(IDS.astype(np.uint16), kind), BIG), IDS)
        expected = "labels: expected ids 0 to 255, got 3 to 256; renumber them"
        assert reason(saved(np.array([[3, 256]], np.uint16), kind)) == expected
    assert np.array_equal(decode_labels(saved(IDS.astype(np.int32), "TIFF"), BIG), IDS)


def test_colours_with_three_equal_channels_are_ids():
    rgb = np.stack([IDS] * 3, axis=-1)
    opaque = np.full_like(IDS, 255)
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(decode_labels(saved(rgb, kind), BIG), IDS)
    for image in (np.dstack([rgb, opaque]), np.dstack([IDS, opaque])):
        assert np.array_equal(decode_labels(saved(image), BIG), IDS)


def test_colour_pictures_are_refused():
    rgb = np.stack([IDS, IDS, IDS], axis=-1)
    rgb[2, 3, 1] ^= 1
    assert reason(saved(rgb)) == COLOUR
    assert reason(saved(rgb, "BMP")) == COLOUR
    assert reason(saved(np.dstack([IDS, IDS]))) == COLOUR  # transparent: what would be the id?
    assert reason(png(1, 1, 16, 2, b"\0" + b"\0\x05" * 3)) == COLOUR  # Pillow drops the lower byte
    assert reason(saved(IDS.astype(np.float32), "TIFF")) == COLOUR
    assert reason(saved(Image.fromarray(IDS).convert("CMYK"), "TIFF")) == COLOUR


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP", "PPM"])
def test_kinds_of_files_that_may_change_ids_are_refused(kind):
    expected = f"labels: expected PNG, BMP or TIFF, which keep ids, got {kind}"
    assert reason(saved(IDS, kind)) == expected


def test_bad_label_files_are_refused_as_bad_images_are():
    assert reason(b"") == "empty file (0 bytes)"
    assert reason(b"garbage").startswith("not an image: expected JPEG, PNG, ")
    assert reason(saved(IDS), 11).startswith("too large: 3x4 (height x width) is 12 pixels, ")
    data = encode_mask(IDS)
    assert reason(data[:-20]).startswith("damaged PNG: ")
    at = data.index(b"IDAT") + 6
    assert reason(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]).startswith("damaged PNG: ")


def test_labels_are_turned_as_images_are():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(decode_labels(saved(IDS, exif=exif), BIG), np.rot90(IDS, -1))


SEEDS = [
    encode_mask(IDS),
    saved(IDS, "BMP"),
    saved(IDS, "TIFF"),
    saved(IDS.astype(np.uint16)),
    saved(np.stack([IDS] * 3, axis=-1), "BMP"),
    png(1, 4, 2, 0, b"\0\x1b"),
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.integers(0, 10**4), st.binary(max_size=3), st.integers(0, 10**4))
def test_any_bytes_give_labels_or_an_image_error(data, at, patch, cut):
    at, wrong = at % len(data), bytearray(data)
    wrong[at : at + len(patch)] = patch
    try:
        labels = decode_labels(bytes(wrong[: len(wrong) - cut % 9]), 10_000)
    except ImageError:
        return
    assert labels.dtype == np.uint8
    assert labels.ndim == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared datasets are not here")
def test_real_label_files_are_read_and_real_colour_masks_refused():
    for path in sorted((SHARED / "datasets").glob("camvid11_test/masks/*"))[::50]:
        expected = np.asarray(Image.open(path))
        assert np.array_equal(decode_labels(path.read_bytes(), BIG), expected)
    for path in sorted((SHARED / "datasets").glob("suim_test8_raw/masks/*"))[:2]:
        assert reason(path.read_bytes()) == COLOUR


# --- truth ----------------------------------------------------------------


def class_table() -> ClassTable:
    """Ids 1 and 2 are class 0, id 7 is class 1, ids 0 and 255 are not known."""
    lookup, known = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    lookup[[1, 2]], lookup[7] = 0, 1
    known[[0, 1, 2, 7, 255]] = True
    return ClassTable("toy", ("a", "b"), ((0, 0, 0), (9, 9, 9)), lookup, known)


def test_ids_become_classes():
    labels = np.array([[1, 2, 7], [0, 255, 1]], np.uint8)
    truth = truth_classes(labels, class_table(), (2, 3))
    assert truth.dtype == np.uint8
    assert truth.tolist() == [[0, 0, 1], [255, 255, 0]]


def test_a_truth_of_another_size_is_refused():
    with pytest.raises(ImageError) as caught:
        truth_classes(np.zeros((10, 20), np.uint8), class_table(), (20, 10))
    assert str(caught.value) == (
        "truth is 10x20, the image 20x10 (height x width): "
        "expected the same size; use the truth made for this image"
    )


def test_unknown_ids_are_listed_with_their_pixels():
    with pytest.raises(ImageError) as caught:
        truth_classes(np.array([[1, 9, 9, 200]], np.uint8), class_table(), (1, 4))
    assert str(caught.value) == (
        "truth has ids that class table 'toy' does not: 9 (2 px), 200 (1 px); "
        "add them to the ids of a class or to ignore"
    )


def test_at_most_eight_unknown_ids_are_listed():
    labels = np.arange(10, 21, dtype=np.uint8)[None]
    with pytest.raises(ImageError, match=r"17 \(1 px\) and 3 more; add them") as caught:
        truth_classes(labels, class_table(), (1, 11))
    assert str(caught.value).count("px") == 8


# --- colours ----------------------------------------------------------------


def test_every_cluster_has_its_own_colour_and_no_label_is_black():
    assert PALETTE.dtype == np.uint8
    assert PALETTE.shape == (256, 3)
    assert len(np.unique(PALETTE, axis=0)) == 256
    assert PALETTE[IGNORE].tolist() == [0, 0, 0]


def test_the_first_colours_are_far_apart_and_no_colour_is_nearly_black_white_or_grey():
    from skimage.color import rgb2lab

    lab = rgb2lab(PALETTE[None] / 255)[0]
    apart = np.linalg.norm(lab[:20, None] - lab[None, :20], axis=-1)
    assert apart[~np.eye(20, dtype=bool)].min() > 35
    nearest = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 999 * np.eye(256)
    assert nearest.min() > 6  # two colours can be told apart side by side from about 2.3 on
    assert lab[:255, 0].min() > 37
    assert lab[:255, 0].max() < 91
    assert np.hypot(lab[:255, 1], lab[:255, 2]).min() > 24


def test_the_palette_never_changes():
    expected = [[119, 0, 255], [0, 255, 0], [255, 34, 0], [0, 170, 204], [255, 221, 102]]
    assert PALETTE[:5].tolist() == expected
    assert zlib.crc32(PALETTE.tobytes()) == 3004600366


def test_an_overlay_mixes_colours_dims_unlabelled_pixels_and_darkens_borders():
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[2] = (200, 0, 100), (0, 100, 200)
    image = np.full((3, 4, 3), 100, np.uint8)
    mask = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 255, 255]], np.uint8)
    shown = overlay(image, mask, palette, 0.5)
    assert shown.dtype == np.uint8
    one, two, dim = [150, 50, 100], [50, 100, 150], [40, 40, 40]
    border_one, border_two = [75, 25, 50], [25, 50, 75]
    assert shown.tolist() == [
        [one, border_one, two, two],
        [one, border_one, border_two, border_two],
        [one, border_one, dim, dim],
    ]


def test_alpha_goes_from_the_image_to_the_colours():
    image, mask = np.full((2, 2, 3), 90, np.uint8), np.full((2, 2), 3, np.uint8)
    assert np.array_equal(overlay(image, mask, PALETTE, 0.0), image)
    assert np.array_equal(overlay(image, mask, PALETTE, 1.0), PALETTE[mask])
    assert np.all(image == 90)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 8), st.integers(0, 10_000))
def test_noise_takes_the_label_it_touches_most_as_loops_say(
    rows: int, columns: int, n_segments: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_segments, (rows, columns)).astype(np.int32)
    cluster = rng.integers(-1, 3, n_segments).astype(np.int16)
    n_patches = np.bincount(labels.ravel(), minlength=n_segments).astype(np.int32)
    boxes = np.zeros((n_segments, 4), np.int32)
    segments = SegmentMap(labels, np.zeros(n_segments, np.int32), n_patches, boxes, 0.0)
    found = fill_from_neighbours(segments, Assignments(cluster, np.zeros(n_segments, np.float32)))
    np.testing.assert_array_equal(found.cluster, slow_fill(labels, cluster))


def slow_fill(labels: Array, cluster: Array) -> Array:
    contacts = np.zeros((len(cluster), len(cluster)), int)
    for (row, column), one in np.ndenumerate(labels):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            at = row + down, column + right
            if 0 <= at[0] < labels.shape[0] and 0 <= at[1] < labels.shape[1] and labels[at] != one:
                contacts[one, labels[at]] += 1
                contacts[labels[at], one] += 1
    filled = cluster.copy()
    while True:
        before = filled.copy()
        for one in np.flatnonzero(before < 0):
            votes = np.where(before >= 0, contacts[one], 0)
            if votes.any():
                filled[one] = before[votes.argmax()]
        if np.array_equal(before, filled):
            return filled

"""Images: what each kind of file means, what is refused and why, the size that the ViT sees."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datus.errors import ImageError
from datus.inputs.decode import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    decode_image,
    fit_size,
    image_size,
    normalise,
    resize_image,
)

BIG = 10**7
SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def photo(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth colourful picture whose bottom right corner is not grey."""
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    image[-8:, -8:] = (250, 240, 40)
    return image


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> np.ndarray:
    return decode_image(saved(image, kind, **options), BIG)


def png(height: int, width: int, depth: int, colour: int, rows: bytes = b"") -> bytes:
    """A PNG written by hand, so that headers and 16-bit colours can be anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def reason(data: bytes, max_pixels: int = BIG) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, max_pixels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what each kind of file means ----------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_come_back_as_they_were(kind):
    data = saved(photo(), kind)
    assert image_size(data, BIG) == (40, 56)
    image = decode_image(data, BIG)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert np.array_equal(image, photo())


@pytest.mark.parametrize("options", [{"kind": "JPEG"}, {"kind": "WEBP"}, {"kind": "JPEG", "p": 1}])
def test_lossy_files_come_back_nearly_as_they_were(options):
    data = saved(photo(), options["kind"], quality=95, progressive=bool(options.get("p")))
    assert image_size(data, BIG) == (40, 56)
    assert np.abs(decode_image(data, BIG).astype(int) - photo()).mean() < 4


def test_one_pixel_is_an_image():
    for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG"):
        data = saved(np.full((1, 1, 3), 128, np.uint8), kind)
        assert image_size(data, BIG) == (1, 1)
        assert decode_image(data, BIG).shape == (1, 1, 3)


def test_grey_and_black_and_white_become_three_equal_channels():
    grey = photo()[..., 0]
    assert np.array_equal(decoded(grey), np.stack([grey] * 3, -1))
    bits = Image.fromarray(grey).convert("1")
    assert np.array_equal(decoded(bits), np.asarray(bits.convert("RGB")))


def test_palette_colours_are_looked_up():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert decoded(image, kind).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_transparent_pixels_lie_on_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert decoded(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    grey_alpha = Image.fromarray(rgba[..., [0, 3]], "LA")
    assert decoded(grey_alpha).tolist() == [[[10] * 3, [255] * 3, [204] * 3]]


def test_a_transparent_palette_entry_or_colour_key_lies_on_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    expected = [[[10, 20, 30], [255, 255, 255]]]
    assert decoded(image, transparency=1).tolist() == expected
    assert decoded(image, transparency=b"\xff\x00").tolist() == expected
    assert decoded(image, "GIF", transparency=1).tolist() == expected
    rgb = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    assert decoded(rgb, transparency=(40, 50, 60)).tolist() == expected


def test_cmyk_jpegs_have_the_colours_that_pillow_gives_them():
    data = saved(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode_image(data, BIG), expected)
    assert np.abs(expected.astype(int) - photo()).mean() < 6


LEVELS = [0, 255, 256, 257, 4095, 32768, 65279, 65280, 65535]
UPPER = [level >> 8 for level in LEVELS]


def test_16_bit_grey_keeps_its_upper_byte():
    values = np.array([LEVELS], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decoded(values, kind)[0, :, 1].tolist() == UPPER
    big_endian = Image.frombytes("I;16B", (9, 1), values.astype(">u2").tobytes())
    assert decoded(big_endian, "TIFF")[0, :, 1].tolist() == UPPER
    assert decoded(Image.fromarray(values.astype(np.int32)), "TIFF")[0, :, 1].tolist() == UPPER


def test_16_bit_colours_are_scaled_as_16_bit_grey_is():
    row = np.repeat(np.array(LEVELS, ">u2")[:, None], 3, axis=1).tobytes()
    assert decode_image(png(1, 9, 16, 2, b"\0" + row), BIG)[0, :, 2].tolist() == UPPER
    assert decode_image(b"P6 9 1 65535\n" + row, BIG).shape == (1, 9, 3)


def test_integers_beyond_16_bit_and_floats_are_refused():
    assert reason(saved(np.array([[-5, 70000]], np.int32), "TIFF")) == (
        "integer pixels from -5 to 70000: expected 0 to 65535; convert to 8 bit first"
    )
    assert reason(saved(np.array([[0.5, 1.5]], np.float32), "TIFF")) == (
        "floating-point pixels have no agreed range: convert to 8 or 16 bit first"
    )


def test_a_colour_space_that_pillow_cannot_convert_is_refused(monkeypatch):
    def refuse(self, mode):
        raise ValueError("conversion not supported")

    data = saved(photo(), "TIFF")
    monkeypatch.setattr(Image.Image, "convert", refuse)
    assert reason(data) == "cannot turn TIFF of type RGB into RGB: conversion not supported"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_or_page_is_the_image(kind):
    first, second = (np.full((6, 8, 3), level, np.uint8) for level in (255, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(first, kind, save_all=True, append_images=[Image.fromarray(second)], **options)
    assert image_size(data, BIG) == (6, 8)
    assert np.array_equal(decode_image(data, BIG), first)


def test_a_jpeg_that_carries_a_second_picture_is_the_first_one():
    first = Image.fromarray(photo())
    data = saved(first, "MPO", save_all=True, append_images=[Image.new("RGB", (56, 40))])
    assert np.array_equal(decode_image(data, BIG), decoded(first, "JPEG"))


# --- the size that the ViT sees ------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "image_px", "patch_px", "resize", "expected"),
    [
        (480, 640, 224, 8, "squash", (224, 224)),
        (480, 640, 230, 16, "squash", (224, 224)),
        (1, 1, 8, 14, "squash", (14, 14)),
        (100, 100, 224, 16, "keep", (224, 224)),
        (480, 640, 224, 8, "keep", (192, 256)),  # 194.0 x 258.7
        (640, 480, 224, 8, "keep", (256, 192)),
        (1, 5000, 224, 8, "keep", (56, 896)),  # as 1:16
        (5000, 1, 224, 8, "keep", (896, 56)),
        (1, 16, 8, 14, "keep", (14, 28)),  # 2 x 32
        (3, 4, 20, 8, "keep", (16, 24)),  # 17.3 x 23.1
    ],
)
def test_sizes_that_one_can_check_by_hand(height, width, image_px, patch_px, resize, expected):
    assert fit_size(height, width, image_px, patch_px, resize) == expected


@given(
    st.integers(1, 10**5),
    st.integers(1, 10**5),
    st.integers(8, 4096),
    st.integers(1, 32),
    st.sampled_from(["keep", "squash"]),
)
def test_sides_are_multiples_of_the_patch_near_the_area_asked_for(
    height, width, image_px, patch_px, resize
):
    rows, columns = fit_size(height, width, image_px, patch_px, resize)
    assert rows % patch_px == columns % patch_px == 0
    assert min(rows, columns) >= patch_px
    assert max(rows, columns) <= max(4 * image_px, patch_px) + patch_px
    if resize == "keep" and 1 / 16 <= height / width <= 16:
        exact = image_px * (height / width) ** 0.5, image_px * (width / height) ** 0.5
        for side, wanted in zip((rows, columns), exact, strict=True):
            assert side == patch_px or abs(side - wanted) <= patch_px / 2 + 1e-6


def test_an_image_that_fits_is_returned_as_it_is():
    image = photo()
    assert resize_image(image, (40, 56)) is image


def test_shrinking_averages_areas():
    image = photo(40, 56)
    means = image.reshape(10, 4, 8, 7, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(image, (10, 8)) - means).max() <= 0.5 + 1e-6


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.array_equal(np.unique(resize_image(stripes, (16, 16))), [100])


def test_growing_interpolates_and_mixed_sizes_do_each_side_its_own_way():
    constant = np.full((9, 9, 3), 77, np.uint8)
    for size in [(18, 18), (3, 18), (18, 3), (1, 1), (9, 20)]:
        assert np.array_equal(resize_image(constant, size), np.full((*size, 3), 77, np.uint8))
    ramp = np.repeat(np.linspace(0, 255, 8).astype(np.uint8)[None, :, None], 3, axis=2)
    wide = resize_image(np.repeat(ramp, 8, axis=0), (2, 32))
    assert wide.shape == (2, 32, 3)
    assert np.all(np.diff(wide[0, 4:-4, 0].astype(int)) >= 0)


def test_very_long_strips_can_be_resized():
    strip = np.full((1, 100_000, 3), 9, np.uint8)
    assert np.array_equal(resize_image(strip, (56, 896)), np.full((56, 896, 3), 9, np.uint8))


def test_opencvs_threads_do_not_change_a_byte():
    image = np.random.default_rng(0).integers(0, 256, (701, 903, 3), dtype=np.uint8)
    before = cv2.getNumThreads()
    results = []
    try:
        for n_threads in (1, 4):
            cv2.setNumThreads(n_threads)
            results.append([resize_image(image, s) for s in [(224, 280), (900, 1000), (99, 2000)]])
    finally:
        cv2.setNumThreads(before)
    for one, four in zip(*results, strict=True):
        assert np.array_equal(one, four)


def test_normalise_is_what_it_says_in_slow_arithmetic():
    image = photo(3, 4)
    normal = normalise(image)
    assert normal.dtype == np.float32
    assert normal.flags.c_contiguous
    for channel, y, x in itertools.product(range(3), range(3), range(4)):
        value = image[y, x, channel] / 255
        expected = (value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert normal[channel, y, x] == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared datasets are not here")
def test_real_photographs_decode_as_pillow_decodes_them():
    files = sorted((SHARED / "datasets").glob("*/images/*"))[::97]
    assert files
    for path in files:
        data = path.read_bytes()
        expected = np.asarray(Image.open(path).convert("RGB"))
        assert image_size(data, BIG) == expected.shape[:2]
        assert np.array_equal(decode_image(data, BIG), expected)

"""The one door for picture files: what passes upright and whole, what is refused and why."""

import io
import itertools
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from datus.errors import ImageError
from datus.inputs import decode
from datus.inputs.decode import decode_image, image_size, load_picture

BIG = 10**7
NO_PIXELS = "no pixels: height or width is 0, the header is cut short or names no known pixel type"


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


def png(height: int, width: int, depth: int, colour: int, rows: bytes = b"") -> bytes:
    """A PNG written by hand, so that headers and 16-bit colours can be anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def decoded(data: bytes, max_pixels: int) -> np.ndarray:
    return np.asarray(load_picture(data, max_pixels).image)


def reason(data: bytes, max_pixels: int = BIG) -> str:
    with pytest.raises(ImageError) as caught:
        decoded(data, max_pixels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TURNED = {  # written out with numpy, independent of Pillow's names
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize(
    ("kind", "orientation"), [*itertools.product(["PNG", "TIFF", "WEBP", "JPEG"], TURNED)]
)
def test_exif_orientation_is_applied_and_the_size_agrees(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    plain, data = saved(photo(), kind, **options), saved(photo(), kind, exif=exif, **options)
    image = decoded(data, BIG)
    assert image_size(data, BIG) == image.shape[:2]
    assert np.array_equal(image, TURNED[orientation](decoded(plain, BIG)))


def test_compressed_tiffs_are_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photo(), "TIFF", exif=exif, compression="tiff_lzw")
    assert image_size(data, BIG) == (56, 40)
    assert np.array_equal(decoded(data, BIG), TURNED[6](photo()))


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = saved(photo(), "PNG")
    body = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + zlib.crc32(body).to_bytes(4)
    late = data[:-12] + chunk + data[-12:]
    assert image_size(late, BIG) == (56, 40)
    assert np.array_equal(decoded(late, BIG), TURNED[8](photo()))


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"])
def test_a_broken_exif_block_does_not_spoil_the_pixels_and_does_not_warn(exif):
    data = saved(photo(), "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert image_size(data, BIG) == (40, 56)
        assert decoded(data, BIG).shape[:2] == (40, 56)
    assert heard == []


# --- what is refused -----------------------------------------------------------------


def test_files_that_are_not_images_say_what_they_are():
    kinds = "JPEG, PNG, BMP, TIFF, GIF, WebP, PBM, PGM or PPM"
    assert reason(b"") == "empty file (0 bytes)"
    assert reason(b"<html><body>404") == (
        f"not an image: expected {kinds}, got a file that starts with b'<html><b'"
    )
    assert reason(b"\0\0\0\x18ftypheic\0\0\0\0") == (
        f"not an image: expected {kinds}, "
        "got HEIC, AVIF or a video: convert it to JPEG or PNG first"
    )
    assert reason(b"\xff\xd8\xff") == NO_PIXELS
    assert reason(saved(photo(), "PNG")[:30]) == (
        "damaged header: broken PNG file (incomplete checksum in b'IHDR')"
    )


@pytest.mark.parametrize("call", [image_size, load_picture])
def test_a_forged_header_is_refused_before_anything_is_decoded(call, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(ImageError) as caught:
        call(png(100_000, 100_000, 8, 2), 200_000_000)
    assert str(caught.value) == (
        "too large: 100000x100000 (height x width) is 10000000000 pixels, "
        "more than max_pixels = 200000000; raise it or shrink the image"
    )
    webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\0" * 2
    with pytest.raises(ImageError):
        call(webp, 200_000_000)


def test_the_limit_counts_pixels_exactly():
    data = saved(photo(), "PNG")
    assert decoded(data, 40 * 56).shape == (40, 56, 3)
    assert reason(data, 40 * 56 - 1).startswith(
        "too large: 40x56 (height x width) is 2240 pixels, "
    )


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "GIF"])
def test_pillows_own_limit_gives_way_to_ours(kind, monkeypatch):
    data = saved(np.zeros((40, 56), np.uint8), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decoded(data, BIG).shape[:2] == (40, 56)
    assert Image.MAX_IMAGE_PIXELS == BIG
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decoded(data, BIG).shape[:2] == (40, 56)
    assert Image.MAX_IMAGE_PIXELS is None


def test_no_pixels_are_no_image():
    assert reason(png(0, 5, 8, 2)) == NO_PIXELS
    assert reason(png(5, 0, 8, 2)) == NO_PIXELS


CUT = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("BMP", {}),
    ("GIF", {}),
    ("WEBP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
]


@pytest.mark.parametrize(("kind", "options"), CUT)
def test_no_file_cut_short_is_silently_filled_up(kind, options):
    data = saved(photo(), kind, **options)
    whole = decoded(data, BIG)
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            image = decoded(data[:length], BIG)
        except ImageError:
            continue
        assert np.array_equal(image, whole)  # only bytes that hold no pixels were missing


def test_reasons_name_what_is_damaged():
    assert reason(saved(photo(), "PNG")[:-12]) == (
        "damaged PNG: the file is truncated, its end is missing"
    )
    assert reason(saved(photo(), "JPEG")[:-100]).startswith("damaged JPEG: image file is truncated")
    assert reason(saved(photo(), "BMP")[:-100]).startswith("damaged BMP: image file is truncated")


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_short_and_closed_is_not_a_grey_image(mode, share):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise).convert(mode), "JPEG")
    closed = data[: int(len(data) * share)] + b"\xff\xd9"
    Image.open(io.BytesIO(closed)).load()  # Pillow says nothing
    assert reason(closed) == (
        "damaged JPEG: the file is truncated, the rest of its pixels is missing"
    )


def test_a_download_filled_up_with_zeros_is_not_an_image():
    data = saved(photo(), "JPEG")
    half = len(data) * 3 // 4
    assert reason(data[:half] + bytes(len(data) - half)).startswith("damaged JPEG: ")


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}]
)
def test_a_jpeg_that_really_ends_in_mid_grey_is_an_image(options):
    grey = photo()
    grey[20:] = 128
    data = saved(grey, "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decoded(data, BIG), expected)
    trailing = data + b"trailer \xff\xd9"
    assert np.array_equal(decoded(trailing, BIG), expected)


def test_one_wrong_bit_in_the_pixels_of_a_png_is_found():
    data = saved(photo(), "PNG")
    first = data.index(b"IDAT") + 4
    for at in range(first, len(data) - 16, 97):
        wrong = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        assert reason(wrong).startswith("damaged PNG: ")


@pytest.mark.parametrize(
    "error", [OSError, SyntaxError, ValueError, struct.error, EOFError, OverflowError, zlib.error]
)
def test_whatever_pillow_raises_becomes_an_image_error(error, monkeypatch):
    def fail(self):
        raise error("two\nlines")

    data = saved(photo(), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert reason(data) == "damaged BMP: two lines"


def test_running_out_of_memory_is_not_the_images_fault(monkeypatch):
    def fail(self):
        raise MemoryError

    data = saved(photo(), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError):
        decoded(data, BIG)


def test_the_warning_filter_is_put_in_once():
    decode._hush_pillow()
    before = list(warnings.filters)
    decode._hush_pillow()
    assert warnings.filters == before


# --- any bytes at all --------------------------------------------------------------


def seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    small, grey = photo(12, 9), Image.fromarray(photo(12, 9)[..., 0])
    indexed, frames = Image.fromarray(small).quantize(16), [Image.fromarray(small[::-1])]
    return [
        saved(small, "JPEG", exif=exif),
        saved(small, "JPEG", progressive=True),
        saved(Image.fromarray(small).convert("CMYK"), "JPEG"),
        saved(small, "PNG", exif=exif),
        saved(small, "PNG", save_all=True, append_images=frames),
        saved(indexed, "PNG", transparency=b"\0\x80"),
        saved(np.arange(108, dtype=np.uint16).reshape(12, 9) * 600, "PNG"),
        saved(small, "BMP"),
        saved(indexed, "BMP"),
        saved(small, "GIF", save_all=True, append_images=frames, disposal=2),
        saved(small, "WEBP", exif=exif),
        saved(small, "TIFF", exif=exif),
        saved(np.arange(108, dtype=np.float32).reshape(12, 9), "TIFF"),
        saved(small, "PPM"),
        saved(grey, "PPM"),
        b"P3 2 1 9 1 2 3 4 5 6\n",
        b"P1 2 2 0 1 1 0\n",
    ]


SEEDS = seeds()


@st.composite
def hostile_files(draw: st.DrawFn) -> bytes:
    """A good file with a few bytes changed, taken out or put in, perhaps cut short."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([40, len(data)])))))
        width = draw(st.integers(0, 4))
        data[at : at + width] = draw(st.binary(max_size=4))
        if not data:
            break
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=400, deadline=None)
@given(hostile_files())
def test_any_bytes_give_an_array_or_an_image_error(data):
    limit = 20_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = decode_image(data, limit)
        except ImageError:
            try:
                height, width = image_size(data, limit)
            except ImageError:
                return
            assert 0 < height * width <= limit
            return
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image_size(data, limit) == image.shape[:2]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([data[:8] for data in SEEDS]))
def test_garbage_behind_a_good_signature_gives_an_array_or_an_image_error(data, signature):
    try:
        assert decode_image(signature + data, 20_000).shape[2] == 3
    except ImageError as error:
        assert str(error)  # noqa: PT017  # either outcome is right; the reason must not be empty


def test_threads_decode_as_one_thread_does():
    files = SEEDS * 6
    jobs = [data for data in files if data != SEEDS[12]]  # floats are refused
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode_image(data, BIG), jobs))
    for data, image in zip(jobs, together, strict=True):
        assert np.array_equal(image, decode_image(data, BIG))

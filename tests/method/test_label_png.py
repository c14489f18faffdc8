"""PNGs of labels: what others read in them, and what is no such file."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from datus.errors import ImageError
from datus.method.label_png import decode_png, encode_png
from datus.method.masks import PALETTE
from datus.types import Array

IDS = np.array([[0, 0, 1, 255], [7, 7, 7, 7], [254, 3, 2, 1]], np.uint8)
LABELS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40))

MOST = 10_000
"""Pixels."""


@given(LABELS, st.booleans())
def test_pillow_reads_the_same_labels(labels: Array, coloured: bool) -> None:
    image = Image.open(io.BytesIO(encode_png(labels, PALETTE if coloured else None)))
    assert image.mode == ("P" if coloured else "L")
    assert np.array_equal(np.asarray(image), labels)
    if coloured:
        assert image.getpalette() == PALETTE.ravel().tolist()


@given(LABELS, st.booleans())
def test_back_again(labels: Array, coloured: bool) -> None:
    data = encode_png(labels, PALETTE if coloured else None)
    assert np.array_equal(decode_png(data, MOST), labels)
    assert np.array_equal(decode_png(np.frombuffer(data, np.uint8).data, MOST), labels)


def test_order_in_memory_changes_no_byte() -> None:
    assert encode_png(IDS) == encode_png(np.asfortranarray(IDS)) == encode_png(IDS[::-1][::-1])


@given(st.integers(0, 400), st.integers(1, 255))
def test_any_changed_byte_is_seen(place: int, change: int) -> None:
    data = bytearray(encode_png(IDS))
    data[place % len(data)] ^= change
    with pytest.raises(ImageError, match=r"^not a PNG of labels as datus writes them: "):
        decode_png(bytes(data), MOST)


@given(st.integers(0, 400))
def test_any_missing_end_is_seen(length: int) -> None:
    data = encode_png(IDS)
    with pytest.raises(ImageError, match=r"^not a PNG of labels"):
        decode_png(data[: length % len(data)], MOST)


def saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no PNG"),
        (saved(Image.new("RGB", (4, 3))), r"a PNG of another kind \[8, 2, 0, 0, 0\]"),
        (saved(Image.fromarray(np.add.outer(range(40), range(40)).astype("u1"))), "filtered rows"),
    ],
)
def test_files_of_others(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=f"^not a PNG of labels as datus writes them: {said}$"):
        decode_png(data, MOST)


def test_more_pixels_than_the_header_says() -> None:
    data = encode_png(IDS)
    larger = encode_png(np.zeros((60, 60), np.uint8))
    start, end = (larger.index(name) - 4 for name in (b"IDAT", b"IEND"))
    mixed = data[: data.index(b"IDAT") - 4] + larger[start:end] + data[data.index(b"IEND") - 4 :]
    with pytest.raises(ImageError, match=r"16 bytes of pixels for 3x4$"):
        decode_png(mixed, MOST)


def test_a_header_that_asks_for_too_much_is_refused_before_anything_is_unpacked() -> None:
    bomb = encode_png(np.zeros((3000, 3000), np.uint8))
    assert len(bomb) < 50_000
    with pytest.raises(ImageError, match=r": 3000x3000 pixels, more than 10000$"):
        decode_png(bomb, MOST)

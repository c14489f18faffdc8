"""Class tables, label files and true masks: which ids make up which class."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datus.errors import ImageError, UsageError
from datus.inputs.labels import decode_labels, load_classes, truth_classes
from datus.method.masks import PALETTE, encode_mask
from datus.types import IGNORE, ClassTable

Write = Callable[[str], Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        (tmp_path / "some.toml").write_text(text, encoding="utf-8")
        return tmp_path / "some.toml"

    return write


CLASS = '[[classes]]\nname = "{}"\ncolour = [{}, 0, 255]\nids = {}\n'


def test_a_class_table(file: Write) -> None:
    text = 'name = "two"\nsource = "made up"\nignore = [9]\n'
    table = load_classes(file(text + CLASS.format("sea", 1, [4, 0]) + CLASS.format("fish", 2, [7])))
    assert (table.name, table.source) == ("two", "made up")
    assert table.names == ("sea", "fish")
    assert table.colours == ((1, 0, 255), (2, 0, 255))
    assert np.flatnonzero(table.known).tolist() == [0, 4, 7, 9, 255]
    expected = np.full(256, IGNORE)
    expected[[0, 4, 7]] = [0, 0, 1]
    np.testing.assert_array_equal(table.lookup, expected)


def test_a_class_table_without_a_name_has_that_of_its_file(file: Write) -> None:
    assert load_classes(file(CLASS.format("sea", 1, [4]))).name == "some"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one [[classes]] block per class, got none"),
        ("classes = []", "expected one [[classes]] block per class, got none"),
        ("classes = 3", "expected one [[classes]] block per class, got none"),
        ("classes = [3]", "class 0: expected name, colour and ids"),
        ('[[classes]]\nname = "a"\nids = [1]', "class 0: expected name, colour and ids"),
        (CLASS.format("a", 1, [1]) + "color = 3", "class 0: expected name, colour and ids"),
        (CLASS.format("a", 1, [256]), "class 'a': expected ids 0 to 255, got 256"),
        (CLASS.format("a", 1, [-1]), "class 'a': expected ids 0 to 255, got -1"),
        (
            CLASS.format("a", 1, ["1"]).replace("'", '"'),
            "class 'a': expected ids 0 to 255, got '1'",
        ),
        (CLASS.format("a", 1, "[true]"), "class 'a': expected ids 0 to 255, got True"),
        (CLASS.format("a", 1, 5), "class 'a': expected a list of ids, got 5"),
        (CLASS.format("a", 1, [1, 1]), "class 'a': id 1 is used twice"),
        (
            CLASS.format("a", 1, [1]) + CLASS.format("b", 1, [2, 1]),
            "class 'b': id 1 is used twice",
        ),
        ("ignore = [1]\n" + CLASS.format("a", 1, [1]), "class 'a': id 1 is used twice"),
        (CLASS.format("a", 1, [255]), "class 'a': id 255 is used twice"),
        ("ignore = 4\n" + CLASS.format("a", 1, [1]), "ignore: expected a list of ids, got 4"),
        ("ignore = [300]\n" + CLASS.format("a", 1, [1]), "ignore: expected ids 0 to 255, got 300"),
        (CLASS.format("a", 256, [1]), "class 'a': expected colour = [r, g, b], got [256, 0, 255]"),
        (
            CLASS.format("a", 1, [1]).replace("[1, 0, 255]", "[1, 0]"),
            "class 'a': expected colour = [r, g, b], got [1, 0]",
        ),
        (
            CLASS.format("a", 1, [1]).replace("[1, 0, 255]", '"red"'),
            "class 'a': expected colour = [r, g, b], got red",
        ),
    ],
)
def test_a_wrong_class_table(text: str, message: str, file: Write) -> None:
    path = file(text)
    with pytest.raises(UsageError) as caught:
        load_classes(path)
    assert str(caught.value) == f"{path}: {message}"


def test_no_class_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_classes(tmp_path / "none.toml")


# --- label files ----------------------------------------------------------------

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

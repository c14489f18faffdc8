"""Bytes of a picture file -> RGB arrays of the size that the ViT sees.

What cannot be read becomes an ImageError with the reason.

    image_size(data, max_pixels)     (height, width) from the header
    decode_image(data, max_pixels)   uint8 (H, W, 3) RGB
    load_picture(data, max_pixels)   first frame or page as Pillow has it, for labels
    fit_size, resize_image           the size the ViT sees (paper III-A)
    normalise                        float32 (3, h, w), ImageNet mean and standard deviation
    preview                          a small JPEG to look at

Images and label files are read through here and nowhere else, so that every hostile file meets one
door. Pillow decodes. Its readers are called directly and not through `Image.open`, which would hide
the reason of a failure, follow a JPEG into its second picture, and warn about large pictures.

What Pillow lets pass and this module does not: a PNG whose data do not match their checksum, a JPEG
without an end (half a download, filled up with zeros) and a JPEG that was cut off and closed with
an end marker, the rest of which decodes to plain grey. A *progressive* JPEG cut so is only less
sharp, and passes. Wrong bytes of the right number pass in all formats but PNG: no checksum.

What a file means is fixed and never fitted to its content: equal values look equal in all images.

- 16-bit samples: the upper byte, value >> 8. A 12-bit image in a 16-bit file comes out dark:
  stretch it first, over the same range for all images of the folder.
- 32-bit integers outside 0..65535 and floats have no agreed range and are errors.
- Transparent pixels are laid over white: so viewers show them, and cut-outs on white are common in
  what backbones were trained on. What a file hides under full transparency is never seen.
- Animations and multi-page files: the first frame or page. Colour profiles are not applied.
"""

import io
import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from datus.errors import ImageError
from datus.types import Array

FORMATS = "JPEG, PNG, BMP, TIFF, GIF, WebP, PBM, PGM or PPM"

MAX_ASPECT = 16.0
"""A longer strip is treated as one of 16:1, or its long side would grow without bound."""

PREVIEW_PX, PREVIEW_QUALITY = 256, 75
"""Long side and JPEG quality of what `preview` makes: about 8 KB of a photograph."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Picture:
    """A loaded picture."""

    image: Image.Image
    """First frame or page, pixels loaded, upright."""
    format: str
    """JPEG, PNG, BMP, TIFF, GIF, WEBP or PPM: what the bytes are, whatever the file is called."""
    rawmode: str
    """Pillow's name for the samples in the file, for example 'L;4': 4-bit grey."""


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) of what `decode_image` gives, from the header alone.

    Raises ImageError: empty file, not an image, no pixels, more than `max_pixels`.
    """
    with pillow_errors("damaged header"):
        image = _open(data, max_pixels)
        width, height = _stored_size(image)
        if _header_orientation(image, data) in _SWAPS_SIDES:
            width, height = height, width
        return height, width


def decode_image(data: bytes, max_pixels: int) -> Array:
    """uint8 (H, W, 3) RGB, EXIF orientation applied; conventions in the module's docstring.

    Raises ImageError for the reasons of `image_size`, and for missing or damaged pixels.
    """
    picture = load_picture(data, max_pixels)
    with pillow_errors(f"cannot turn {picture.format} of type {picture.image.mode} into RGB"):
        return _to_rgb(picture.image)


def load_picture(data: bytes, max_pixels: int) -> Picture:
    """The first frame or page, upright. Raises ImageError if any of its pixels cannot be had."""
    with pillow_errors("damaged header"):
        image = _open(data, max_pixels)
    with pillow_errors(f"damaged {image.format}"):
        scan = image.fp.tell() if image.fp else 0
        rawmode = _rawmode(image)
        image.load()
        if image.format == "PNG":
            _check_png(data)
        if image.format == "JPEG":
            _check_jpeg(data, scan, image)
        # Pillow has turned a TIFF already, and then says that its orientation is 1
        turn = _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        return Picture(upright, str(image.format), rawmode)


@contextmanager
def pillow_errors(what: str) -> Iterator[None]:
    """Whatever Pillow raises inside becomes ImageError('what: reason'); its warnings are dropped.

    Hostile bytes make it raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more.
    """
    _hush_pillow()
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ImageError(f"{what}: {reason or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Array:
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range: convert to 8 or 16 bit first")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(
                f"integer pixels from {low} to {high}: expected 0 to 65535; convert to 8 bit first"
            )
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, over)
    return np.array(image.convert("RGB"))  # a copy: torch warns about arrays it cannot write to


# --- files --------------------------------------------------------------------------------------

_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (rb"BM", BmpImagePlugin.BmpImageFile),
    (rb"II[*+]\0|MM\0[*+]", TiffImagePlugin.TiffImageFile),
    (rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    (rb"(?s:RIFF....WEBP)", WebPImagePlugin.WebPImageFile),
    (rb"P[1-6]\s", PpmImagePlugin.PpmImageFile),
)

_ORIENTATION = 0x0112
_SWAPS_SIDES = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """The reader for these bytes, header read, size checked, nothing decoded."""
    if not data:
        raise ImageError("empty file (0 bytes)")
    reader = next((reader for magic, reader in _READERS if re.match(magic, data)), None)
    if reader is None:
        got = f"a file that starts with {data[:8]!r}"
        if data[4:8] == b"ftyp":
            got = "HEIC, AVIF or a video: convert it to JPEG or PNG first"
        raise ImageError(f"not an image: expected {FORMATS}, got {got}")
    _raise_pillow_limit(max_pixels)
    try:
        image = reader(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise ImageError(f"too large: more than max_pixels = {max_pixels}; raise it") from None
    except SyntaxError as error:
        if str(error) != "not identified by this driver":
            raise
        raise ImageError(
            "no pixels: height or width is 0, the header is cut short or names no known pixel type"
        ) from error
    width, height = image.size
    if height * width > max_pixels:
        raise ImageError(
            f"too large: {height}x{width} (height x width) is {height * width} pixels, "
            f"more than max_pixels = {max_pixels}; raise it or shrink the image"
        )
    return image


def _stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """(width, height) as stored. Only some versions of Pillow swap the sides of a turned TIFF."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[256]), int(image.tag_v2[257])
    return image.size


def _header_orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    """EXIF orientation before the pixels are loaded: the same as after."""
    marks = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
    if image.format == "PNG" and not any(mark in data for mark in marks):
        return 1  # else Pillow decodes the whole PNG, to look behind its pixels
    return _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a damaged EXIF block says nothing about the pixels: upright
        return 1
    return value if isinstance(value, int) else 1


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How the samples are stored; known only before they are loaded."""
    args = image.tile[0][3] if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _check_png(data: bytes) -> None:
    """Raise unless all critical chunks match their checksum, up to the end.

    Pillow stops reading at the last row, before zlib has compared its own checksum.
    """
    view, start = memoryview(data), 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        kind, end = data[start + 4 : start + 8], start + 8 + length
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(view[start + 4 : end]).to_bytes(4) != data[end : end + 4]:
            raise ImageError(f"damaged PNG: chunk {kind.decode('latin-1')} has a wrong checksum")
        if kind == b"IEND":
            return
        start = end + 4
    raise ImageError("damaged PNG: the file is truncated, its end is missing")


def _check_jpeg(data: bytes, scan: int, image: Image.Image) -> None:
    """Raise if the data run out before the pixels do. `scan`: where the first scan starts.

    libjpeg then fills up with mid grey and warns where nobody hears it. So if the last pixel is mid
    grey, decode again with more data put in before the end marker: they change nothing in a whole
    picture, for all of its pixels are read by then, but they do where pixels were missing.
    """
    end = data.find(b"\xff\xd9", scan)
    if end < 0:
        raise ImageError("damaged JPEG: the file is truncated, its end is missing")
    width, height = image.size
    last = image.crop((width - 1, height - 1, width, height))
    if image.mode != "CMYK" and abs(int(last.convert("L").tobytes()[0]) - 128) > 2:
        return
    padded = data[:end] + bytes(range(1, 200)) * 3 + data[end:]
    again = JpegImagePlugin.JpegImageFile(io.BytesIO(padded))
    again.load()
    if again.tobytes() != image.tobytes():
        raise ImageError("damaged JPEG: the file is truncated, the rest of its pixels is missing")


_PILLOW_WARNING = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_lock = threading.Lock()


def _hush_pillow() -> None:
    """Put one filter first: no warnings from Pillow's own modules ('Corrupt EXIF data' ...).

    `warnings.catch_warnings` would be tidier but swaps a list that all threads share.
    """
    with _lock:
        if not warnings.filters or warnings.filters[0] != _PILLOW_WARNING:
            warnings.filterwarnings("ignore", module=r"PIL\.")


def _raise_pillow_limit(max_pixels: int) -> None:
    """Let `max_pixels` rule: Pillow's own limit is only ever raised, so no thread sees it fall."""
    with _lock:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels


# --- what the ViT and people see ---------------------------------------------------------------


def fit_size(
    height: int, width: int, image_px: int, patch_px: int, resize: Literal["keep", "squash"]
) -> tuple[int, int]:
    """(height, width) that the ViT sees of an image: multiples of `patch_px`, at least one each.

    squash: a square of side `image_px`, rounded down. keep: the area of that square in the image's
    own aspect ratio (at most 16:1), each side rounded to the nearest multiple.
    """
    if resize == "squash":
        side = max(1, image_px // patch_px) * patch_px
        return side, side
    aspect = min(max(height / width, 1 / MAX_ASPECT), MAX_ASPECT)
    sides = image_px * math.sqrt(aspect), image_px / math.sqrt(aspect)
    rows, columns = (max(1, math.floor(side / patch_px + 0.5)) for side in sides)
    return rows * patch_px, columns * patch_px


def resize_image(image: Array, size: tuple[int, int]) -> Array:
    """uint8 (H, W, 3) -> uint8 (h, w, 3), size = (h, w); the image itself if it has that size.

    Area averages along sides that shrink, then cubic interpolation along sides that grow.
    """
    height, width = size
    smaller = min(height, image.shape[0]), min(width, image.shape[1])
    shrunk = _cv2_resize(image, smaller, cv2.INTER_AREA)
    return _cv2_resize(shrunk, (height, width), cv2.INTER_CUBIC)


def normalise(image: Array) -> Array:
    """uint8 (h, w, 3) RGB -> float32 (3, h, w): / 255, less ImageNet's mean, by its deviation."""
    normal: Array = np.ascontiguousarray(np.moveaxis(image, -1, 0)).astype(np.float32)
    normal /= np.float32(255)
    normal -= _MEAN
    normal /= _STD
    return normal


def preview(image: Array, long_side: int = PREVIEW_PX) -> bytes:
    """uint8 (H, W, 3) -> a JPEG of at most `long_side` on its longer side, never enlarged."""
    height, width = image.shape[:2]
    size = preview_size(height, width, long_side)
    # averages over areas are for large steps; below two, four neighbours hold all pixels
    is_near = 2 * size[0] >= height and 2 * size[1] >= width
    small = _cv2_resize(image, size, cv2.INTER_LINEAR if is_near else cv2.INTER_AREA)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY]
    )
    if not done:
        raise ImageError(f"OpenCV cannot write a JPEG of {size[0]}x{size[1]}")
    return data.tobytes()


def preview_size(height: int, width: int, long_side: int = PREVIEW_PX) -> tuple[int, int]:
    """(height, width) of the preview of an image."""
    scale = min(1.0, long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


_MEAN = np.array(IMAGENET_MEAN, np.float32)[:, None, None]
_STD = np.array(IMAGENET_STD, np.float32)[:, None, None]


def _cv2_resize(image: Array, size: tuple[int, int], method: int) -> Array:
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    resized: Array = cv2.resize(image, (width, height), interpolation=method)
    return resized

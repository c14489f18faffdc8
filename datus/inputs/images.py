"""Image files -> RGB arrays of the size that the ViT sees.

    find_images(folder)            relative paths, sorted by image id
    image_size(data, max_pixels)   (height, width) from the header
    decode_image(data, max_pixels) uint8 (H, W, 3) RGB
    fit_size, resize_image         the size the ViT sees (paper III-A)
    normalise                      float32 (3, h, w), ImageNet mean and standard deviation
    preview                        a small JPEG to look at

What a file means is fixed and never fitted to its content: equal values look equal in all images.

- 16-bit samples: the upper byte, value >> 8. A 12-bit image in a 16-bit file comes out dark:
  stretch it first, over the same range for all images of the folder.
- 32-bit integers outside 0..65535 and floats have no agreed range and are errors.
- Transparent pixels are laid over white: so viewers show them, and cut-outs on white are common in
  what backbones were trained on. What a file hides under full transparency is never seen.
- Animations and multi-page files: the first frame or page. Colour profiles are not applied.
"""

import hashlib
import itertools
import math
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from datus.errors import ImageError, UsageError
from datus.inputs.decode import load_picture, picture_size, pillow_errors
from datus.types import EXPORT_MARK, RUN_MARK, Array

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .apng .bmp .tif .tiff .gif .webp .pbm .pgm .ppm .pnm"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Of file names, in lower case; case does not matter. What a file holds is seen from its bytes."""

MAX_ASPECT = 16.0
"""A longer strip is treated as one of 16:1, or its long side would grow without bound."""

PREVIEW_PX, PREVIEW_QUALITY = 256, 75
"""Long side and JPEG quality of what `preview` makes: about 8 KB of a photograph."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What is in a folder."""

    paths: tuple[str, ...]
    """Relative to the folder, `/`-separated, sorted by image id."""
    n_other: int
    """Files with other suffixes; hidden ones not counted."""


def find_images(folder: Path) -> FoundImages:
    """All image files at any depth below `folder`, by suffix.

    Names that start with a dot are skipped, and runs and exports that lie among the images: their
    masks are no images. Linked folders are read, each folder once, under its own name before that
    of a link. A link that leads nowhere counts as an image if it is called one, so that reading it
    fails where failures are recorded.

    Raises UsageError: no such folder, no image in it, a name that is not UTF-8, two images with the
    same id, or a folder called as the mask of an image.
    """
    if not folder.exists():
        raise UsageError(f"{folder}: no such folder; check the path")
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of images, got a file")
    files = list(_files_below(folder))
    paths = sorted((path for path in files if image_id_of(path) != path), key=image_id_of)
    n_other = len(files) - len(paths)
    if not paths:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"{folder}: no image in it ({n_other} other files); known are {known}")
    for path in paths:
        _check_utf8(path)
    _check_unique(folder, paths)
    _check_folders(folder, paths)
    return FoundImages(tuple(paths), n_other)


def image_id_of(path: str) -> str:
    """`path` without its last suffix, if that is an image suffix: 'x/a.b.jpg' -> 'x/a.b'."""
    stem, dot, suffix = path.rpartition(".")
    is_name = stem and not stem.endswith("/")
    return stem if is_name and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else path


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises ImageError, also for a pipe: to read one could take forever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("cannot be read: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def sha256_of(data: bytes) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) of what `decode_image` gives, from the header alone.

    Raises ImageError: empty file, not an image, no pixels, more than `max_pixels`.
    """
    return picture_size(data, max_pixels)


def decode_image(data: bytes, max_pixels: int) -> Array:
    """uint8 (H, W, 3) RGB, EXIF orientation applied; conventions in the module's docstring.

    Raises ImageError for the reasons of `image_size`, and for missing or damaged pixels.
    """
    picture = load_picture(data, max_pixels)
    with pillow_errors(f"cannot turn {picture.format} of type {picture.image.mode} into RGB"):
        return _to_rgb(picture.image)


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


def _cv2_resize(image: Array, size: tuple[int, int], method: int) -> Array:
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    resized: Array = cv2.resize(image, (width, height), interpolation=method)
    return resized


def _files_below(folder: Path) -> Iterator[str]:
    """Relative paths of files that are not hidden. Real folders come before linked ones."""
    root = folder.resolve()
    seen = {_identity(above) for above in root.parents}  # a link to above the root is a loop
    real, linked = deque([""]), deque[str]()
    while real or linked:
        below = real.popleft() if real else linked.popleft()
        here = os.path.join(folder, below)
        identity = _identity(here)
        if identity in seen:
            continue
        seen.add(identity)
        if below and any(os.path.isfile(os.path.join(here, mark)) for mark in OURS):
            continue
        for entry in _entries(here):
            path = f"{below}/{entry.name}" if below else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else real).append(path)
            else:
                yield path


OURS = (RUN_MARK, EXPORT_MARK)
"""What a folder has that DatUS wrote."""


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Entries that are not hidden, sorted by name. macOS leaves '._x.jpg' on foreign disks."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _check_utf8(path: str) -> None:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{path!r}: the name is not valid UTF-8; rename the file") from None


def _check_unique(folder: Path, paths: list[str]) -> None:
    """`paths` are sorted by id, so files that share one are neighbours."""
    pairs = [
        f"{first} and {second}"
        for first, second in itertools.pairwise(paths)
        if image_id_of(first) == image_id_of(second)
    ]
    if pairs:
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise UsageError(
            f"{folder}: files that differ only in their suffix: {', '.join(pairs[:5])}{more}; "
            "rename one of each pair"
        )


def _check_folders(folder: Path, paths: list[str]) -> None:
    """Masks lie in folders called as those of the images, so no mask may be called as one."""
    folders = {path[:end] for path in paths for end, sign in enumerate(path) if sign == "/"}
    for path in paths:
        mask = f"{image_id_of(path)}.png"
        if mask in folders:
            raise UsageError(f"{folder}: {path}: its mask {mask} is a folder here; rename one")

"""Valid files for the fuzzer, and how to put their checksums right once they were changed."""

import contextlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_PIXELS = 1_000_000
MEND_BYTES = 100_000
"""Of a zip: more is left as it is, to mend it takes the square of its members."""

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Reader:
    """What reads, and valid bytes for it."""

    read: Read
    seeds: tuple[bytes, ...]
    mend: Callable[[bytes], bytes] = bytes
    """Puts checksums right, so that changes get past them."""
    is_text: bool = False
    is_json: bool = False
    """Changed as a tree, too."""


Made = Callable[[Path], Reader]
"""A folder to write in -> a reader."""

# --- valid files --------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """Small pictures of every format and pixel type that is read."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    grey, palette, cmyk = rgb.convert("L"), rgb.convert("P"), rgb.convert("CMYK")
    deep = Image.fromarray(rng.integers(0, 65535, (9, 11), dtype=np.uint16))
    ids = Image.fromarray(rng.integers(0, 6, (20, 30), dtype=np.uint8))
    labels = ids.convert("P")
    labels.putpalette([i // 3 for i in range(768)])
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: tuple[tuple[str, Any, str, dict[str, Any]], ...] = (
        ("baseline", rgb, "JPEG", {"exif": exif}),
        ("progressive", rgb, "JPEG", {"progressive": True}),
        ("cmyk", cmyk, "JPEG", {}),
        ("grey-jpeg", grey, "JPEG", {}),
        ("png", rgb, "PNG", {"exif": exif}),
        ("png-alpha", rgb.convert("RGBA"), "PNG", {}),
        ("png-palette", palette, "PNG", {"transparency": 3}),
        ("png-deep", deep, "PNG", {}),
        ("png-labels", labels, "PNG", {"bits": 4}),
        ("png-ids", ids, "PNG", {}),
        ("png-bits", ids.convert("1"), "PNG", {}),
        ("bmp", rgb, "BMP", {}),
        ("bmp-ids", labels, "BMP", {}),
        ("tiff", rgb, "TIFF", {"tiffinfo": {0x0112: 8}}),
        ("tiff-lzw", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff-deflate", ids, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("tiff-fax", ids.convert("1"), "TIFF", {"compression": "group4"}),
        ("tiff-jpeg", rgb, "TIFF", {"compression": "jpeg"}),
        ("tiff-float", deep.convert("F"), "TIFF", {}),
        ("gif", palette, "GIF", {"save_all": True, "append_images": [palette.rotate(90)]}),
        ("webp", rgb, "WEBP", {}),
        ("webp-lossless", rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        ("ppm", rgb, "PPM", {}),
        ("pgm", deep, "PPM", {}),
        ("pbm", ids.convert("1"), "PPM", {}),
    )
    found = {}
    for name, image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    return found | {"plain-ppm": b"P3 3 2 255 " + b"1 2 3 " * 6, "bombs": bomb(60_000, 60_000)}


def bomb(height: int, width: int) -> bytes:
    """A PNG of a few kilobytes that unpacks to a megabyte, with a text that unpacks to ten."""
    zeros = zlib.compress(bytes(1 << 20), 9)
    text = b"a\0\0" + zlib.compress(bytes(10 << 20), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"zTXt", text), (b"IDAT", zeros), (b"IEND", b"")])


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mended_png(data: bytes) -> bytes:
    """Checksums of the chunks put right; anything else is left as it is."""
    if not data.startswith(b"\x89PNG"):
        return data
    fixed, start = bytearray(data), 8
    while start + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, start)
        end = start + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[start + 4 : end]))
        start = end + 4
    return bytes(fixed)


def mended_zip(data: bytes) -> bytes:
    """Checksums of the members put right, as far as their local headers can be found."""
    if len(data) > MEND_BYTES:
        return data
    fixed = bytearray(data)
    for match in re.finditer(rb"PK\x03\x04", data):
        start = match.start()
        if start + 30 > len(data):
            break
        size, _, name, extra = struct.unpack_from("<IIHH", data, start + 18)
        body = start + 30 + name + extra
        check = struct.pack("<I", zlib.crc32(data[body : body + size]))
        old = bytes(fixed[start + 14 : start + 18])
        fixed[start + 14 : start + 18] = check
        for entry in re.finditer(rb"PK\x01\x02", data):
            place = entry.start() + 16
            if data[place : place + 4] == old:
                fixed[place : place + 4] = check
    return bytes(fixed)


def zip_bomb(checkpoint: bytes) -> bytes:
    """The checkpoint with a member that unpacks to four gigabytes' worth of memory limits."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(checkpoint)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            data = old.read(info)
            large = bytes(256 << 20) if info.filename.endswith("/data/0") else b""
            new.writestr(info.filename, data + large)
    return buffer.getvalue()


CONFIG = """preset = "paper"
seed = 3
run_dir = "r"
[data]
images = "photos"
max_pixels = 1000
[features]
allow_missing = ["a.*", 'b']
image_px = 0x60
[graphs]
threshold = 0.5
center = "image"
keep = false
[clusters]
k = [6, 7]
[speed]
executor = "processes"
"""

GRID = """base = { data = { images = "i", truth = "t", classes = "c" } }
k = [6, 7]
seeds = [0, 1]
presets = ["best", "paper"]
table = "full"
[[backbones]]
name = "datus_t8"
label = "ours"
[[embedders]]
mode = "crop"
"""

CLASSES = """name = "tiny"
source = "here"
ignore = [255, 7]
[[classes]]
name = "sky"
colour = [0, 10, 255]
ids = [0, 2]
[[classes]]
name = "rest"
colour = [1, 2, 3]
ids = [1]
"""

OVERRIDES = (
    *("segments.restarts=8", "clusters.k=[3, 4]", 'features.allow_missing=["a"]', "seed=1"),
    *("graphs.threshold=0.25", "data.images=a folder", "speed.executor='serial'", "run_dir=x"),
    *("graphs.keep=true", "denoise.enabled=true", "preset=paper", "data={images='a'}"),
)


def without_seal(data: bytes) -> bytes:
    table = json.loads(data)
    table.pop("seal")
    return json.dumps(table).encode()


def mended_table(data: bytes) -> bytes:
    """The seal of a stored table put right, if it is a table still."""
    from datus.store.store import sealed

    with contextlib.suppress(ValueError, RecursionError):
        table = json.loads(data)
        if isinstance(table, dict) and "seal" in table:
            del table["seal"]
            return json.dumps(sealed(table)).encode()
    return data

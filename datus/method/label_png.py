"""Labels as PNG and back, without Pillow: a fifth of the time, and the GIL is free in between.

    encode_png(labels, palette)    bytes: 8-bit palette or grey PNG
    decode_png(data, most)         uint8 (H, W) of such a file, of at most so many pixels

For files that are made and read again by the thousand; `inputs.labels` reads those of other tools.
Format: PNG, third edition (W3C 2025), sections 5 and 11; rows are not filtered, and compressed as
runs.
"""

import struct
import zlib

import numpy as np

from datus.errors import ImageError
from datus.types import Array

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3


def encode_png(labels: Array, palette: Array | None = None) -> bytes:
    """PNG of uint8 (H, W), with uint8 (256, 3) colours or grey; same labels, same bytes."""
    height, width = labels.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # each begins with its filter: 0, none
    rows[:, 1:] = labels
    # runs of one label are what masks are made of: smaller and sooner than with any other strategy
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    kind = _GREY if palette is None else _PALETTE
    parts = [SIGNATURE, _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if palette is not None:
        parts.append(_chunk(b"PLTE", palette.tobytes()))
    parts += [_chunk(b"IDAT", packer.compress(rows.data) + packer.flush()), _chunk(b"IEND", b"")]
    return b"".join(parts)


def decode_png(data: bytes | memoryview, most: int) -> Array:
    """uint8 (H, W) of a file of `encode_png`.

    Raises ImageError if it is another file, damaged, or says that it has more than `most` pixels:
    a few bytes can unpack to gigabytes.
    """
    try:
        return _decode(memoryview(data), most)
    except (struct.error, zlib.error, ValueError, OverflowError) as error:
        raise ImageError(f"not a PNG of labels as datus writes them: {error}") from None


def _decode(data: memoryview, most: int) -> Array:
    if data[: len(SIGNATURE)] != SIGNATURE:
        raise ValueError("no PNG")
    packed, header, name, at = b"", b"", b"", len(SIGNATURE)
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if struct.unpack_from(">I", data, at + 8 + length)[0] != zlib.crc32(body, zlib.crc32(name)):
            raise ValueError(f"chunk {name!r} is damaged")
        if name == b"IHDR":
            header = bytes(body)
        elif name == b"IDAT":
            packed += body
        at += 12 + length
    if name != b"IEND":
        raise ValueError("its end is missing")
    width, height, *kind = struct.unpack(">IIBBBBB", header)
    if kind not in ([8, _GREY, 0, 0, 0], [8, _PALETTE, 0, 0, 0]):
        raise ValueError(f"a PNG of another kind {kind}")
    if height * width > most:
        raise ValueError(f"{height}x{width} pixels, more than {most}")
    n_bytes = height * (1 + width)
    unpacker = zlib.decompressobj()
    rows = np.frombuffer(unpacker.decompress(packed, n_bytes + 1), np.uint8)
    if len(rows) != n_bytes or not unpacker.eof:
        raise ValueError(f"{len(rows)} bytes of pixels for {height}x{width}")
    rows = rows.reshape(height, 1 + width)
    if rows[:, 0].any():
        raise ValueError("filtered rows")
    return rows[:, 1:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))

"""The arrays of a shard as one safetensors file, and back.

    pack(images, arrays)        bytes; the same arrays give the same bytes
    unpack(images, packed)      the arrays, by image and name: views of `packed`, nothing is copied
    read_writable(path)         a file for `unpack`
    sync_folder(path)           the names of its files are on the disk

A tensor is called 000012/keys: the number of the image in `images`, and the name of its array.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from datus.records import Array

_DTYPES = {
    **dict(zip(("F64", "F32", "F16"), ("<f8", "<f4", "<f2"), strict=True)),
    **dict(zip(("I64", "I32", "I16", "I8"), ("<i8", "<i4", "<i2", "i1"), strict=True)),
    **dict(zip(("U64", "U32", "U16", "U8"), ("<u8", "<u4", "<u2", "u1"), strict=True)),
    "BOOL": "?",
}
"""Names of safetensors -> of numpy."""

NO_ARRAYS = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""What `unpack` raises for bytes that are none of `pack`'s."""


def pack(images: Sequence[str], arrays: Mapping[str, Mapping[str, Array]]) -> bytes:
    """`arrays` of each image by name; those of `images`, in that order."""
    tensors = {
        f"{row:06d}/{name}": np.asarray(array, order="C")
        for row, image_id in enumerate(images)
        for name, array in arrays[image_id].items()
    }
    return bytes(save_tensors(tensors))


def unpack(images: Sequence[str], packed: bytearray) -> dict[str, dict[str, Array]]:
    """Raises one of NO_ARRAYS if `packed` is no such file.

    The safetensors library copies what it reads twice; a shard of features is 20 MB and is read in
    the time of a few images.
    """
    arrays: dict[str, dict[str, Array]] = {image_id: {} for image_id in images}
    start = 8 + int.from_bytes(packed[:8], "little")
    header = json.loads(packed[8:start])
    header.pop("__metadata__", None)
    n_bytes = 0
    for name, entry in header.items():
        row, _, short = name.partition("/")
        array = _array(packed, start, entry)
        arrays[images[int(row)]][short] = array
        n_bytes += array.nbytes
    if start + n_bytes != len(packed):
        raise ValueError(f"{len(packed)} bytes, expected {start + n_bytes}")
    return arrays


def _array(packed: bytearray, start: int, entry: Any) -> Array:
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    first, end = entry["data_offsets"]
    count = math.prod(shape)
    if min(shape, default=0) < 0 or first < 0 or end - first != count * dtype.itemsize:
        raise ValueError(f"{end - first} bytes for {shape} of {dtype}")
    found: Array = np.frombuffer(packed, dtype, count, start + first)
    return found.reshape(shape)


def read_writable(path: str) -> bytearray:
    """The bytes of a file; the arrays in them can be written to, as torch wants of its own."""
    with open(path, "rb", buffering=0) as stream:
        data = bytearray(os.fstat(stream.fileno()).st_size)
        n_read = 0
        while n_read < len(data) and (more := stream.readinto(memoryview(data)[n_read:])):
            n_read += more
    return data[:n_read] if n_read < len(data) else data


def sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

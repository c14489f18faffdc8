"""The arrays of a shard as one safetensors file, and back.

    pack(images, arrays)        bytes in pieces; the same arrays give the same bytes
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

from datus.types import Array

_DTYPES = dict(
    zip(
        ("U64", "I64", "F64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8", "BOOL"),
        ("<u8", "<i8", "<f8", "<f4", "<u4", "<i4", "<f2", "<u2", "<i2", "i1", "u1", "?"),
        strict=True,
    )
)
"""Names of safetensors -> of numpy, in the order in which they stand in a file."""

_NAMES = {np.dtype(dtype).str[1:]: name for name, dtype in _DTYPES.items()}
_PLACES = {name: place for place, name in enumerate(_DTYPES)}

NO_ARRAYS = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""What `unpack` raises for bytes that are none of `pack`'s."""


def pack(images: Sequence[str], arrays: Mapping[str, Mapping[str, Array]]) -> list[memoryview]:
    """`arrays` of each image by name; those of `images`, in that order.

    All pieces together are the bytes that `safetensors.numpy.save` makes; it copies the arrays
    twice, here they are where they were.
    """
    tensors = {
        f"{row:06d}/{name}": _little(array)
        for row, image_id in enumerate(images)
        for name, array in arrays[image_id].items()
    }
    dtypes = {name: _NAMES[array.dtype.str[1:]] for name, array in tensors.items()}
    names = sorted(tensors, key=lambda name: (_PLACES[dtypes[name]], name.encode()))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        first, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [first, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = memoryview(len(text).to_bytes(8, "little") + text)
    return [start, *(tensors[name].reshape(-1).view(np.uint8).data for name in names)]


def _little(array: Array) -> Array:
    """Lying row by row, the lowest byte of a number first."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def unpack(images: Sequence[str], packed: memoryview) -> dict[str, dict[str, Array]]:
    """Raises one of NO_ARRAYS if `packed` is no such file.

    The safetensors library copies what it reads twice; a shard of features is 20 MB and is read in
    the time of a few images.
    """
    arrays: dict[str, dict[str, Array]] = {image_id: {} for image_id in images}
    start = 8 + int.from_bytes(packed[:8], "little")
    header = json.loads(bytes(packed[8:start]))
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


def _array(packed: memoryview, start: int, entry: Any) -> Array:
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    first, end = entry["data_offsets"]
    count = math.prod(shape)
    if min(shape, default=0) < 0 or first < 0 or end - first != count * dtype.itemsize:
        raise ValueError(f"{end - first} bytes for {shape} of {dtype}")
    found: Array = np.frombuffer(packed, dtype, count, start + first)
    return found.reshape(shape)


def read_writable(path: str) -> memoryview:
    """The bytes of a file; the arrays in them can be written to, as torch wants of its own.

    numpy asks the system for large pages: a shard comes in a fifth of the time.
    """
    with open(path, "rb", buffering=0) as stream:
        data = np.empty(os.fstat(stream.fileno()).st_size, np.uint8).data
        n_read = 0
        while n_read < len(data) and (more := stream.readinto(data[n_read:])):
            n_read += more
    return data[:n_read]


def sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

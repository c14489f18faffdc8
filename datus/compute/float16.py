"""float16 to float32 and back, which numpy does one number at a time.

    as_float32(values)      an array of the same shape; itself if it is of that type
    as_float16(values)

torch has vector instructions for both, twenty times as fast. float16 to float32 is exact and the
way back rounds to the nearest even number, so both give the same bytes. torch is not loaded for it:
worker processes without a model look float16 up in a table of all 65,536. So does a thread while
another one loads torch.
"""

from functools import cache

import numpy as np

from datus.compute.compiled import compiled
from datus.compute.threads import loaded_torch
from datus.types import Array


def as_float32(values: Array) -> Array:
    """float32 of the same shape."""
    if values.dtype != np.float16:
        return values.astype(np.float32, copy=False)
    torch = loaded_torch()
    if torch is None or not values.flags.writeable:
        bits = np.ascontiguousarray(values).view(np.uint16).reshape(-1)
        return _looked_up(bits, _table()).reshape(values.shape)
    found: Array = torch.from_numpy(values).float().numpy()
    return found


def as_float16(values: Array) -> Array:
    """float16 of the same shape; what is too large becomes infinite."""
    torch = loaded_torch()
    if torch is None or values.dtype != np.float32 or not values.flags.writeable:
        with np.errstate(over="ignore"):
            return values.astype(np.float16, copy=False)
    found: Array = torch.from_numpy(values).half().numpy()
    return found


TOO_LARGE = 65520
"""What rounds to no finite float16."""


def too_large(values: Array) -> float | None:
    """The largest absolute value, if it would become infinite as float16."""
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    return largest if largest >= TOO_LARGE else None


@cache
def _table() -> Array:
    """float32 (65536,) of all float16."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


@compiled
def _looked_up(bits: Array, table: Array) -> Array:
    """float32 (n,) of uint16 (n,)."""
    found = np.empty(len(bits), np.float32)
    for place in range(len(bits)):
        found[place] = table[bits[place]]
    return found

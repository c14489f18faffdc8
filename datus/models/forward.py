"""Images through a model: one at a time on the threads of a CPU, in batches of one size on a GPU.

    in    float32 (3, h, w) images, sizes may differ, and a function of several of one size
    out   the function's results, one for each image, in the order of the images

Neither threads nor batch change a byte on a CPU. Importing this module does not load torch.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from datus.compute.onednn import products
from datus.compute.threads import map_threads
from datus.errors import UsageError
from datus.types import Array

Item = TypeVar("Item")
Out = TypeVar("Out")


def map_images(
    function: Callable[[list[Item]], list[Out]],
    images: Sequence[Item],
    device: str,
    n_threads: int,
    batch: int,
    size: Callable[[Any], tuple[int, ...]] = np.shape,
) -> list[Out]:
    """`function` over all images, one at a time or in batches of one size, in their order."""
    if device == "cpu":
        return map_threads(lambda image: function([image])[0], images, n_threads)
    results: dict[int, Out] = {}
    with exact_float32():
        for members in batches([size(image) for image in images], batch):
            done = function([images[i] for i in members])
            results.update(zip(members, done, strict=True))
    return [results[i] for i in range(len(images))]


@contextlib.contextmanager
def forward_pass(images: list[Array], device: str, precision: str) -> Iterator[Any]:
    """Yields the images as one tensor (B, 3, h, w) on the device; no gradients, autocast if asked.

    precision: float32, bfloat16 or float16.
    """
    import torch

    lower = None if precision == "float32" else getattr(torch, precision)
    kind = torch.device(device).type
    pixels = torch.from_numpy(np.stack(images)).to(device)
    lowered = torch.autocast(kind, lower, enabled=lower is not None)
    quick = products() if kind == "cpu" and lower is None else contextlib.nullcontext()
    with torch.inference_mode(), lowered, quick:
        yield pixels


def check_image(image: Array) -> None:
    """ValueError unless it is float32 (3, h, w)."""
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.float32:
        raise ValueError(f"image: expected float32 (3, h, w), got {image.dtype} {image.shape}")


def not_finite(name: str, precision: str) -> str:
    """The error text for infinite values or NaN."""
    return (
        f"{name}: infinite values or NaN came out with features.precision = "
        f"{precision}; try float32, or other weights if it is"
    )


def find_device(device: str) -> str:
    """A device that is there: `device`, or for auto a GPU if there is one. UsageError otherwise."""
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if n_gpus else "cpu"
    known = ["cpu", "cuda", *(f"cuda:{i}" for i in range(n_gpus))]
    if device not in known or (device == "cuda" and not n_gpus):
        raise UsageError(
            f"speed.device: expected auto, cpu, cuda or cuda:N, got {device!r}; "
            f"CUDA devices found: {n_gpus}"
        )
    return device


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights drawn inside depend on `seed` alone; the program's random numbers go on as before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """float32 on a GPU means float32: tf32 keeps 10 bits, and the signs of small products flip.

    The switches are the program's, not a thread's: the first thread to enter sets them, the last
    one to leave puts them back.
    """
    switches, name, exact = _tf32_switches()
    with _GUARD:
        _BEFORE.append([getattr(switch, name) for switch in switches])
        for switch in switches:
            setattr(switch, name, exact)
    try:
        yield
    finally:
        with _GUARD:
            if len(_BEFORE) == 1:
                for switch, value in zip(switches, _BEFORE[0], strict=True):
                    setattr(switch, name, value)
            _BEFORE.pop()


_GUARD = threading.Lock()
_BEFORE: list[list[Any]] = []
"""What the switches were before each of those that are inside."""


def _tf32_switches() -> tuple[list[Any], str, Any]:
    """(objects, the name of their switch, its value for exact sums)."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    # torch 2.9 renamed the switches; mixing old and new ones is an error there
    if not hasattr(matmul, "fp32_precision"):
        return [matmul, cudnn], "allow_tf32", False
    # convolutions and recurrent layers together: where they differ, allow_tf32 cannot be read
    parts = [getattr(cudnn, part, cudnn) for part in ("conv", "rnn")]
    return [matmul, *parts], "fp32_precision", "ieee"


def batches(shapes: Sequence[tuple[int, ...]], batch: int) -> Iterator[list[int]]:
    """Indices of up to `batch` images of one shape, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    for members in groups.values():
        for start in range(0, len(members), batch):
            yield members[start : start + batch]

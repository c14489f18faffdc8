"""float32 products of a ViT on AMD processors: by oneDNN, in half the time.

    with products():        F.linear and F.scaled_dot_product_attention inside, in this thread

torch multiplies by MKL, which runs its AVX2 code on processors that are not Intel's, whatever they
can do. oneDNN, which comes with torch too, uses AVX-512 where it is there: 210 GFLOP/s on a core
instead of 97, and a pass of a ViT takes 0.6 of the time (docs/decisions.md 63). Elsewhere, and in
what it does not know (masks, training), torch does what it always did. Sums are float32 in a fixed
order either way; the last bits differ.
"""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

ROWS = 384
"""Queries at a time: their products with all keys stay in a cache, and memory does not grow with
the square of the patches."""

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux says what processor this is."""

HEADS_DIMS = 4
"""(B, H, N, D)."""


def products() -> AbstractContextManager[Any]:
    """Inside, this thread multiplies by oneDNN where MKL would hold back. No gradients."""
    return _mode()() if wanted() else nullcontext()


@cache
def wanted() -> bool:
    """Whether MKL leaves half of this processor unused, and torch has what is needed instead."""
    import torch

    backends: Any = torch.backends
    has_avx512 = backends.cpu.get_cpu_capability() == "AVX512"
    return _is_amd() and has_avx512 and bool(backends.mkl.is_available()) and available()


def available() -> bool:
    """Whether this torch has oneDNN, and its product as an operator."""
    import torch

    backends: Any = torch.backends
    return backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_amd() -> bool:
    if platform.machine() != "x86_64":
        return False
    try:
        return "AuthenticAMD" in CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def linear(inputs: Any, weight: Any, bias: Any = None) -> Any:
    """`torch.nn.functional.linear`: (..., D) by (E, D) and (E,) -> (..., E), float32."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def attention(queries: Any, keys: Any, values: Any, scale: float) -> Any:
    """`torch.nn.functional.scaled_dot_product_attention` without a mask.

    queries: float32 (B, H, N, D); keys (B, H, M, D); values (B, H, M, E). Returns (B, H, N, E).
    """
    import torch

    n_images, n_heads, n_queries, _ = queries.shape
    mixed = torch.empty(n_images, n_queries, n_heads, values.shape[3])
    for image in range(n_images):
        for head in range(n_heads):
            scaled_keys_MD = (keys[image, head] * scale).contiguous()
            values_EM = values[image, head].t().contiguous()
            for start in range(0, n_queries, ROWS):
                rows_RD = queries[image, head, start : start + ROWS].contiguous()
                shares_RM = torch.softmax(linear(rows_RD, scaled_keys_MD), -1)
                mixed[image, start : start + ROWS, head] = linear(shares_RM, values_EM)
    return mixed.transpose(1, 2)


@cache
def _mode() -> Callable[[], AbstractContextManager[Any]]:
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    def is_plain(*tensors: Any) -> bool:
        return not torch.is_grad_enabled() and all(
            one.dtype == torch.float32 and one.device.type == "cpu" and one.numel()
            for one in tensors
        )

    def is_off(option: Any) -> bool:
        return option is None or (isinstance(option, bool | int | float) and not option)

    # the names of the arguments are torch's: some models of timm call by name
    def by_onednn(input: Any, weight: Any, bias: Any = None) -> Any:
        if not is_plain(input, weight):
            return functional.linear(input, weight, bias)
        return linear(input, weight, bias)

    def attended(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
        others = [one for name, one in more.items() if name != "scale"]
        alike = query.dim() == HEADS_DIMS and query.shape[:2] == key.shape[:2] == value.shape[:2]
        if not alike or not all(map(is_off, (*rest, *others))) or not is_plain(query, key, value):
            return functional.scaled_dot_product_attention(query, key, value, *rest, **more)
        scale = more.get("scale")
        usual = query.shape[-1] ** -0.5
        return attention(query, key, value, usual if scale is None else scale)

    replaced = {functional.linear: by_onednn, functional.scaled_dot_product_attention: attended}

    class Products(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return replaced.get(function, function)(*args, **(kwargs or {}))

    return Products

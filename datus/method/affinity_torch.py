"""Affinity graphs of a batch of images on a GPU (paper III-B, eq. 1); only bits come back from it.

In:  keys, float tensor (B, N, D) on any device. Out: the graphs of module `affinity`.

Sums run in another order than in numpy, so products within rounding of the threshold may fall on
the other side: a few edges in a million.
"""

from typing import Literal

import torch

from datus.method.affinity import as_words, check_threshold
from datus.models.forward import exact_float32
from datus.types import AffinityGraph

BATCH_PAIRS = 2**27
"""Pairs of patches that are held at a time: 512 MB of products."""


def affinity_graphs_torch(
    keys_BND: torch.Tensor,
    center: Literal["none", "image"] = "none",
    threshold: float | None = None,
) -> list[AffinityGraph]:
    """`affinity.affinity_graph` of each image of a batch, on the device where the keys are.

    keys_BND: float (B, N, D). Raises ConfigError as `affinity_graph` does.
    """
    check_threshold(threshold)
    n_images, n_nodes, _ = keys_BND.shape
    graphs: list[AffinityGraph] = []
    at_once = max(1, BATCH_PAIRS // n_nodes**2)
    with torch.inference_mode(), exact_float32():
        for start in range(0, n_images, at_once):
            keys = keys_BND[start : start + at_once].float()
            if center == "image":
                keys = keys - keys.double().mean(1, keepdim=True).float()
            if threshold is not None:
                lengths = keys.double().norm(dim=2, keepdim=True).float()
                keys = keys / lengths.where(lengths > 0, 1.0)
            packed = _packed_above(keys, threshold or 0.0).cpu().numpy()
            graphs.extend(AffinityGraph(as_words(rows)) for rows in packed)
    return graphs


def _packed_above(keys_BND: torch.Tensor, bound: float) -> torch.Tensor:
    """uint8 (B, N, 8 words): bits of a row, the lowest first, made on the device."""
    n_images, n_nodes, _ = keys_BND.shape
    linked = (torch.bmm(keys_BND, keys_BND.mT) > bound).triu()
    if bound < 0:
        has_key = keys_BND.any(2)
        linked &= has_key[:, :, None] & has_key[:, None, :]
    linked = linked | linked.mT
    linked = torch.nn.functional.pad(linked, (0, -n_nodes % 64))
    weights = 2 ** torch.arange(8, device=linked.device, dtype=torch.uint8)
    by_byte = linked.view(n_images, n_nodes, -1, 8) * weights
    return by_byte.sum(3, dtype=torch.uint8)

"""The graphs of a batch on a device, against those of numpy."""

import numpy as np
import pytest
import torch
from key_cases import integer_keys, normal_keys

from datus.errors import ConfigError
from datus.method import affinity_torch
from datus.method.affinity import affinity_graph
from datus.method.affinity_torch import affinity_graphs_torch
from datus.method.louvain import unpack
from datus.types import Array

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


def as_batch(*keys: Array) -> torch.Tensor:
    return torch.from_numpy(np.stack([one.reshape(-1, one.shape[2]) for one in keys]))


@pytest.mark.parametrize("threshold", [None, -0.5, 0.0, 0.5])
def test_a_zero_key_is_linked_to_nothing(threshold: float | None) -> None:
    keys = np.ones((2, 3, 4), np.float32)
    keys[1, 2] = 0
    (graph,) = affinity_graphs_torch(as_batch(keys), "none", threshold)
    np.testing.assert_array_equal(graph.bits, affinity_graph(keys, "none", threshold).bits)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("center", ["none", "image"])
def test_torch_equals_numpy_where_products_are_exact(
    device: str, center: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [integer_keys(seed, (8, 16), 5) for seed in range(5)]
    if center == "image":  # a mean of 128 small integers is exact in float32
        keys = [one + np.float32(4) for one in keys]
    monkeypatch.setattr(affinity_torch, "BATCH_PAIRS", 2 * 128**2)  # two images at a time
    found = affinity_graphs_torch(as_batch(*keys).to(device), center)
    assert len(found) == 5
    for one, graph in zip(keys, found, strict=True):
        np.testing.assert_array_equal(graph.bits, affinity_graph(one, center).bits)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [None, -0.2, 0.3])
def test_torch_differs_from_numpy_by_rounding_only(device: str, threshold: float | None) -> None:
    keys = normal_keys(3, (25, 27), 64)
    (found,) = affinity_graphs_torch(as_batch(keys).to(device), "image", threshold)
    expected = affinity_graph(keys, "image", threshold)
    adjacency = unpack(found)
    np.testing.assert_array_equal(adjacency, adjacency.T)
    assert (adjacency != unpack(expected)).sum() <= 2 * 5  # of 455,625 pairs


def test_torch_refuses_the_same_thresholds_and_leaves_its_switches_alone() -> None:
    matmul = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    before = getattr(matmul, name)
    with pytest.raises(ConfigError, match="expected a cosine"):
        affinity_graphs_torch(torch.ones(1, 2, 3), "none", 1.5)
    affinity_graphs_torch(torch.ones(1, 2, 3))
    assert getattr(matmul, name) == before

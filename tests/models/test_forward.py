"""Images through a model: order, batches, devices, exact float32."""

from typing import Any

import numpy as np
import pytest
import torch

from datus.errors import UsageError
from datus.models.forward import (
    batches,
    check_image,
    exact_float32,
    find_device,
    forward_pass,
    map_images,
    seeded,
)
from datus.types import Array

IMAGES = [np.full((3, 8, 8 + 8 * (i % 2)), i, np.float32) for i in range(5)]


def first_pixels(several: list[Array]) -> list[float]:
    assert len({image.shape for image in several}) == 1
    return [float(image[0, 0, 0]) for image in several]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_results_come_in_the_order_of_the_images(device: str, batch: int) -> None:
    sizes = []

    def work(several: list[Array]) -> list[float]:
        sizes.append(len(several))
        return first_pixels(several)

    assert map_images(work, IMAGES, device, 2, batch) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert max(sizes) == (1 if device == "cpu" else min(batch, 3))
    assert map_images(work, [], device, 2, batch) == []


def test_batches_hold_images_of_one_size_in_order() -> None:
    shapes = [(3, 8, 8), (3, 8, 16), (3, 8, 8), (3, 8, 8), (3, 8, 16)]
    assert list(batches(shapes, 2)) == [[0, 2], [3], [1, 4]]


def test_tf32_is_off_inside_and_as_before_outside() -> None:
    def flags() -> tuple[object, ...]:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        if not hasattr(matmul, "fp32_precision"):  # before torch 2.9
            return matmul.allow_tf32, cudnn.allow_tf32
        return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision

    before = flags()
    with exact_float32():
        assert set(flags()) <= {False, "ieee"}
    assert flags() == before


def test_tf32_is_as_before_when_the_last_of_several_threads_is_done() -> None:
    """One that enters later and leaves last must not take what it found for the way it was."""
    matmul = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    before = getattr(matmul, name)
    first, second = exact_float32(), exact_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert getattr(matmul, name) in (False, "ieee")
    second.__exit__(None, None, None)
    assert getattr(matmul, name) == before


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", "cpu:0"])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(UsageError) as error:
        find_device(device)
    n_gpus = torch.cuda.device_count()
    assert str(error.value) == (
        f"speed.device: expected auto, cpu, cuda or cuda:N, got {device!r}; "
        f"CUDA devices found: {n_gpus}"
    )


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for n_gpus, expected in ((0, "cpu"), (2, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda n=n_gpus: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=n_gpus: n)
        assert find_device("auto") == expected
    assert find_device("cuda:1") == "cuda:1"


def test_a_pass_makes_one_tensor_without_gradients() -> None:
    with forward_pass(IMAGES[:1] * 2, "cpu", "float32") as pixels:
        assert pixels.shape == (2, 3, 8, 8)
        assert torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
    with forward_pass(IMAGES[:1], "cpu", "bfloat16"):
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "image", [np.zeros((3, 8), np.float32), np.zeros((3, 8, 8)), IMAGES[0][:2]]
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(ValueError, match=r"image: expected float32 \(3, h, w\), got "):
        check_image(image)


def test_a_seed_leaves_the_programs_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(5):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(5):
        assert torch.equal(torch.rand(2), first)

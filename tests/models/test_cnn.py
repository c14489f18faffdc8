"""CNNs that embed crops: the pooled feature, by hand; files of MoCo and DINO; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import plain_vit
import pytest
import timm
import torch
from plain_vit import Tensors
from tiny_runs import Dataset, go, made

from datus.config import FeaturesConfig
from datus.errors import BackboneError
from datus.models import forward
from datus.models.vit import Backbone, CnnEmbedder, load_embedder
from datus.types import Array

SETTINGS = FeaturesConfig()


def resnet_tensors(name: str, seed: int) -> Tensors:
    """Random tensors by torchvision's names, sized so that activations neither die nor burst."""
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(name, num_classes=0)
    state: Tensors = {}
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 4:
            state[key] = noise / value[0].numel() ** 0.5
        elif key.endswith("running_var"):
            state[key] = 1 + 0.2 * noise.abs()
        else:
            state[key] = 0.1 * noise + float(key.endswith(".weight"))
    return state


def put(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def crops(*sizes: tuple[int, int]) -> list[Array]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(3, *size)).astype(np.float32) for size in sizes]


def moco(name: str) -> tuple[Tensors, Any]:
    """(tensors of the query encoder, the whole file): main_moco.py saves all of it."""
    query, other = resnet_tensors(name, 1), resnet_tensors(name, 2)
    counts = {f"{n}.num_batches_tracked": torch.tensor(3) for n in batch_norms(query)}
    projector = {f"fc.{i}.weight": torch.zeros(4, 4) for i in (0, 2)}
    state = put("module.encoder_q.", query | counts | projector)
    state |= put("module.encoder_k.", other | counts | projector)
    state |= {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1).long()}
    return query, {"epoch": 800, "arch": name, "state_dict": state, "optimizer": {"state": {}}}


def batch_norms(tensors: Tensors) -> list[str]:
    return [n.removesuffix(".running_mean") for n in tensors if n.endswith(".running_mean")]


def dino(name: str) -> tuple[Tensors, Any]:
    """(tensors of the teacher, the whole file)."""
    teacher, student = resnet_tensors(name, 3), resnet_tensors(name, 4)
    for tensors in (teacher, student):
        tensors |= {f"{n}.num_batches_tracked": torch.tensor(3) for n in batch_norms(tensors)}
    head = {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_g": torch.zeros(4, 1)}
    wrapped = {
        "student": put("module.backbone.", student) | put("module.", head),
        "teacher": put("module.backbone.", teacher) | put("module.", head),
    }
    return teacher, wrapped


@pytest.mark.parametrize(
    ("row", "name", "file"),
    [
        ("resnet18.mocov2", "resnet18", moco),
        pytest.param("resnet50.mocov2", "resnet50", moco, marks=pytest.mark.slow),
        pytest.param("resnet50.dino", "resnet50", dino, marks=pytest.mark.slow),
    ],
)
def test_files_of_the_authors_give_the_pooled_feature(
    row: str, name: str, file: Any, tmp_path: Path
) -> None:
    tensors, content = file(name)
    torch.save(content, tmp_path / "file.pth.tar")
    embedder = load_embedder(row, str(tmp_path / "file.pth.tar"), SETTINGS)
    assert isinstance(embedder, CnnEmbedder)
    images = crops((64, 64), (33, 70))
    rows = embedder.class_tokens(images, 1, 1)
    assert rows.shape == (2, embedder.embed_dim)
    assert rows.dtype == np.float32
    for row_E, image in zip(rows, images, strict=True):
        wanted = plain_vit.resnet(tensors, torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(row_E, wanted, rtol=1e-3, atol=1e-3 * wanted.std())
        assert wanted.std() > 0.01
    assert not np.allclose(rows[0], rows[1], rtol=0.01)


def test_any_timm_cnn_embeds_and_needs_no_patches() -> None:
    embedder = load_embedder("convnext_atto", "random", SETTINGS, seed=1)
    assert isinstance(embedder, CnnEmbedder)
    assert (embedder.patch_px, embedder.embed_dim, embedder.device) == (1, 320, "cpu")
    images = crops((65, 97), (64, 64), (65, 97))
    rows = embedder.class_tokens(images, 1, 1)
    with torch.inference_mode():
        wanted = embedder._model(torch.from_numpy(images[1])[None])[0].numpy()
    np.testing.assert_allclose(rows[1], wanted, rtol=1e-5, atol=1e-6)
    for n_threads, batch in ((1, 3), (2, 1), (3, 2)):
        assert embedder.class_tokens(images, n_threads, batch).tobytes() == rows.tobytes()
    assert embedder.class_tokens([], 1, 1).shape == (0, 320)


def test_a_vit_embeds_as_a_backbone() -> None:
    assert isinstance(load_embedder("datus_t8", "auto", SETTINGS), Backbone)


def test_batches_of_one_size_give_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load_embedder("resnet18", "random", SETTINGS)
    images = crops((40, 40), (40, 56), (40, 40))
    alone = embedder.class_tokens(images, 1, 1)
    results: list[Array] = [np.empty(0)] * 3
    for members in forward.batches([image.shape for image in images], 2):
        for i, found in zip(members, embedder._pooled([images[i] for i in members]), strict=True):
            results[i] = found
    np.testing.assert_allclose(np.stack(results), alone, rtol=1e-4, atol=1e-5)


def test_what_does_not_pool_is_refused() -> None:
    model = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(BackboneError) as error:
        CnnEmbedder(model, "odd", "float32", "cpu")
    assert str(error.value) == (
        "odd: a Conv2d gives features of shape (4, 222, 222) for a crop; "
        "expected one pooled vector: take another CNN, or a ViT"
    )


def test_a_size_that_the_cnn_cannot_take_says_so() -> None:
    embedder = load_embedder("mixer_s32_224", "random", SETTINGS)
    with pytest.raises(BackboneError, match=r"cannot take images of 32 x 32 \(.*crop_px"):
        embedder.class_tokens(crops((32, 32)), 1, 1)


def test_images_and_values_are_checked() -> None:
    embedder = load_embedder("resnet18", "random", SETTINGS)
    with pytest.raises(ValueError, match=r"expected float32 \(3, h, w\)"):
        embedder.class_tokens([np.zeros((3, 8, 8))], 1, 1)
    broken = crops((32, 32))
    broken[0][0, 0, 0] = np.nan
    with pytest.raises(BackboneError, match="infinite values or NaN"):
        embedder.class_tokens(broken, 1, 1)


def test_a_run_embeds_its_crops_with_a_cnn(tiny: Dataset, tmp_path: Path) -> None:
    cnn = {
        "embeddings.mode": "crop",
        "embeddings.backbone": "resnet18",
        "embeddings.weights": "random",
        "embeddings.crop_px": 45,
    }
    result, _ = go(tiny.config(tmp_path / "run", cnn))
    assert made(result)["masks (K = 3)"]
    again, _ = go(tiny.config(tmp_path / "run", cnn))
    assert made(again) == {}


def test_a_cnn_finds_no_segments(tiny: Dataset, tmp_path: Path) -> None:
    cnn = {"features.backbone": "resnet18", "features.weights": "random"}
    with pytest.raises(BackboneError, match="a ResNet has no keys to find segments with"):
        go(tiny.config(tmp_path / "run", cnn))

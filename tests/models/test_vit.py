"""Names and weights, and keys against a forward pass written out by hand."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.beit import Beit
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer

from datus.config import FeaturesConfig
from datus.errors import BackboneError, UsageError
from datus.models import vit as backbones
from datus.models import weights as sources
from datus.models.registry import ROWS, Row
from datus.models.vit import Backbone, load_backbone
from datus.models.weights import model_path, weights_id
from datus.types import Array, FeatureGrid

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
TINY["num_classes"] = 0
SETTINGS = FeaturesConfig()
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def randomised(model: Any, seed: int = 0) -> Any:
    """All weights and key biases away from zero, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    state = dict(model.named_parameters()) | {
        name: value for name, value in model.named_buffers() if name.endswith("k_bias")
    }
    with torch.no_grad():
        for name, value in state.items():
            mean = 1.0 if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")) else 0.0
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1 + mean)
    return model


def vit(name: str, **options: Any) -> Backbone:
    """A timm model by name, cut down to two blocks."""
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True, depth=2, **options)
    return Backbone(randomised(model), name, "float32", "cpu")


def tiny(**options: Any) -> Backbone:
    model = VisionTransformer(**{**TINY, "dynamic_img_size": True, **options})
    return Backbone(randomised(model), "tiny", "float32", "cpu")


def images_for(backbone: Backbone, *grids: tuple[int, int], seed: int = 1) -> list[Array]:
    rng = np.random.default_rng(seed)
    side = backbone.patch_px
    return [rng.normal(size=(3, h * side, w * side)).astype(np.float32) for h, w in grids]


def bytes_of(grids: list[FeatureGrid]) -> list[tuple[bytes, ...]]:
    return [(g.keys.tobytes(), g.tokens.tobytes(), g.cls.tobytes()) for g in grids]


# --- keys, by hand ------------------------------------------------------------------------------


@torch.inference_mode()
def by_hand(model: Any, image: Array) -> tuple[Array, Array, Array]:
    """(keys (N, D), tokens (N, E), prefix tokens) of one image, block by block."""
    x = model.patch_embed(torch.tensor(image)[None])
    x = model._pos_embed(x)
    x, extra = (x[0], {"rope": x[1]}) if isinstance(x, tuple) else (x, {})
    x = model.norm_pre(x)
    for block in model.blocks[:-1]:
        x = block(x, **extra)
    last = model.blocks[-1]
    keys = keys_by_hand(last.attn, last.norm1(x)[0])
    tokens = model.fc_norm(model.norm(last(x, **extra)))[0].numpy()
    n = model.num_prefix_tokens
    return keys[n:].numpy(), tokens[n:], tokens[:n]


def keys_by_hand(attention: Any, x: torch.Tensor) -> torch.Tensor:
    """Project, take heads apart, take the keys, put the heads side by side."""
    if attention.qkv is None:
        return attention.k_proj(x)
    qkv = x @ attention.qkv.weight.T
    if attention.qkv.bias is not None:
        qkv = qkv + attention.qkv.bias
    elif getattr(attention, "q_bias", None) is not None:
        qkv = qkv + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    heads = qkv.reshape(len(x), 3, attention.num_heads, -1)[:, 1]
    return torch.cat([heads[:, i] for i in range(attention.num_heads)], dim=1)


MODELS = {
    # name: (options, prefix tokens)
    "vit_tiny_patch16_224": ({}, 1),
    "deit_tiny_distilled_patch16_224": ({}, 2),  # class and distillation token
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56}, 5),  # registers, positions of patches only
    "eva02_tiny_patch14_224": ({}, 1),  # fused, biases added by hand, rotary, norm after pooling
    "eva02_base_patch14_224": ({"embed_dim": 48, "num_heads": 2}, 1),  # separate q, k and v
    "vit_small_patch16_dinov3": ({}, 5),  # fused without biases, rotary, registers
    "vit_small_patch16_dinov3_qkvb": ({}, 5),
    "vit_pe_core_tiny_patch16_384": ({}, 1),  # rotary attention with an ordinary qkv
    "deit3_small_patch16_224": ({}, 1),  # positions of patches only, layer scale
    "vit_base_patch32_clip_224": ({"embed_dim": 48, "num_heads": 2}, 1),  # a norm before the blocks
    "vit_small_patch8_224": ({}, 1),
    "vit_small_patch32_224": ({}, 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_keys_tokens_and_class_token_equal_a_pass_by_hand(name: str) -> None:
    options, n_prefix = MODELS[name]
    backbone = vit(name, **options)
    (image,) = images_for(backbone, (4, 5))
    (grid,) = backbone.features([image], 1, 1)
    keys, tokens, prefix = by_hand(backbone._model, image)
    assert grid.keys.shape == (4, 5, backbone.key_dim)
    assert grid.tokens.shape == (4, 5, backbone.embed_dim)
    assert len(prefix) == n_prefix
    np.testing.assert_allclose(grid.keys.reshape(20, -1), keys, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grid.tokens.reshape(20, -1), tokens, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grid.cls, prefix[0], rtol=1e-4, atol=1e-5)
    assert np.abs(grid.keys).max() > 0.1


ODD_GRIDS = ((4, 4), (1, 7), (7, 1), (5, 3))
HOOKED = {
    **{name: options for name, (options, _) in MODELS.items()},
    "vit_base_patch16_siglip_224": {"embed_dim": 48, "num_heads": 2},  # no class token
    "vit_medium_patch16_gap_256": {"embed_dim": 48, "num_heads": 2},
    "vit_medium_patch16_rope_reg1_gap_256": {"embed_dim": 48, "num_heads": 2},
    "vit_small_patch16_224": {"embed_dim": 48, "num_heads": 2, "qk_norm": True},
}


def hooked_keys(backbone: Backbone, image: Array) -> tuple[Array, Array]:
    """(keys of `features`, keys that left the last block's own projection), both (N, D)."""
    model, seen = backbone._model, []
    attention = model.blocks[-1].attn
    fused = attention.k_proj if attention.qkv is None else attention.qkv
    original = torch.nn.functional.linear

    def watched(x: Any, weight: Any, bias: Any = None) -> Any:
        out = original(x, weight, bias)
        if weight is fused.weight:
            seen.append(out)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", watched)
        (grid,) = backbone.features([image], 1, 1)
    left = seen[0]  # the model's own call; that of `features` comes after it, if at all
    width = backbone.key_dim
    keys = left if attention.qkv is None else left[..., width : 2 * width]
    return grid.keys.reshape(-1, width), keys[0, model.num_prefix_tokens :].numpy()


@pytest.mark.parametrize("name", HOOKED)
def test_keys_are_what_the_last_projection_gives_at_any_size(name: str) -> None:
    backbone = vit(name, **HOOKED[name])
    for image in images_for(backbone, *ODD_GRIDS):
        found, expected = hooked_keys(backbone, image)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if not row.is_cnn and row.family.layout != "timm"],
    ids=lambda r: r.name,
)
def test_keys_of_every_model_of_the_table(row: Row) -> None:
    small = {"embed_dim": 48, "depth": 2, "num_heads": row.options.get("num_heads", 3)}
    model = randomised(backbones._table_model(replace(row, options={**row.options, **small})))
    backbone = Backbone(model, row.name, "float32", "cpu")
    assert backbone.patch_px == row.patch_px
    for image in images_for(backbone, (3, 5)):
        found, expected = hooked_keys(backbone, image)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_keys_are_taken_before_the_key_norm() -> None:
    backbone = tiny(qk_norm=True)
    (image,) = images_for(backbone, (3, 4))
    keys, _, _ = by_hand(backbone._model, image)
    found = backbone.features([image], 1, 1)[0].keys
    np.testing.assert_allclose(found.reshape(12, -1), keys, rtol=1e-4, atol=1e-5)


def test_rows_and_columns_of_the_grid_are_those_of_the_image() -> None:
    backbone = tiny(depth=1, pos_embed="none")
    (image,) = images_for(backbone, (3, 4))
    (grid,) = backbone.features([image], 1, 1)
    model = backbone._model
    for row in range(3):
        for column in range(4):
            patch = image[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            with torch.inference_mode():
                token = model.patch_embed(torch.tensor(patch)[None]).reshape(1, -1)
                key = keys_by_hand(model.blocks[0].attn, model.blocks[0].norm1(token))[0]
            np.testing.assert_allclose(grid.keys[row, column], key, rtol=1e-4, atol=1e-5)


def test_without_a_class_token_it_is_the_mean_patch_token() -> None:
    backbone = tiny(class_token=False, global_pool="avg")
    images = images_for(backbone, (3, 4), (2, 2))
    for grid, cls in zip(
        backbone.features(images, 1, 1), backbone.class_tokens(images, 1, 1), strict=True
    ):
        np.testing.assert_allclose(grid.cls, grid.tokens.mean((0, 1)), atol=1e-5)
        np.testing.assert_allclose(cls, grid.cls, atol=1e-5)


def test_position_embeddings_follow_the_size_of_the_image() -> None:
    backbone = tiny()
    first, second = backbone.features(images_for(backbone, (4, 4), (2, 7)), 1, 1)
    assert first.keys.shape == (4, 4, 12)
    assert second.keys.shape == (2, 7, 12)


def test_beit_knows_one_size_only_and_its_keys_are_right() -> None:
    model = Beit(**TINY, qkv_bias=True, init_values=0.1, use_rel_pos_bias=True)
    backbone = Backbone(randomised(model), "beit", "float32", "cpu")
    image, other = images_for(backbone, (4, 4), (4, 5))
    (grid,) = backbone.features([image], 1, 1)
    with torch.inference_mode():
        x = model.patch_embed(torch.tensor(image)[None])
        x = torch.cat([model.cls_token, x], 1) + model.pos_embed
        x = model.blocks[0](x)
        keys = keys_by_hand(model.blocks[1].attn, model.blocks[1].norm1(x)[0])[1:]
    np.testing.assert_allclose(grid.keys.reshape(16, -1), keys, rtol=1e-4, atol=1e-5)
    with pytest.raises(BackboneError) as error:
        backbone.features([other], 1, 1)
    assert str(error.value) == (
        "beit: only takes images of 32 x 32, got 32 x 40; "
        'set resize = "squash" and image_px = 32 in [features]'
    )


# --- same bytes ---------------------------------------------------------------------------------


def test_threads_and_batch_do_not_change_a_byte() -> None:
    backbone = vit("vit_tiny_patch16_224")
    images = images_for(backbone, (4, 5), (5, 4), (4, 5), (3, 3), (4, 5))
    expected = bytes_of([backbone.features([image], 1, 1)[0] for image in images])
    for n_threads, batch in ((1, 1), (1, 3), (2, 1), (2, 3), (5, 2)):
        assert bytes_of(backbone.features(images, n_threads, batch)) == expected
    squares = [images[0], images[2], images[4]]
    rows = backbone.class_tokens(squares, 1, 1)
    assert backbone.class_tokens(squares, 2, 3).tobytes() == rows.tobytes()
    assert rows.tobytes() == b"".join(cls for _, _, cls in (expected[0], expected[2], expected[4]))


def test_no_images_give_no_features() -> None:
    backbone = tiny()
    assert backbone.features([], 2, 4) == []
    assert backbone.class_tokens([], 2, 4).shape == (0, 12)


def test_features_are_plain_float32_arrays() -> None:
    backbone = tiny()
    image = images_for(backbone, (3, 4))[0]
    image.setflags(write=False)
    (grid,) = backbone.features([image], 1, 1)
    for array in (grid.keys, grid.tokens, grid.cls):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_comes_out_as_float32_and_close(precision: str) -> None:
    model = randomised(VisionTransformer(**TINY, dynamic_img_size=True))
    exact = Backbone(model, "tiny", "float32", "cpu")
    images = images_for(exact, (3, 4))
    full = exact.features(images, 1, 1)[0]
    lower = Backbone(model, "tiny", precision, "cpu").features(images, 1, 1)[0]
    assert lower.keys.dtype == lower.tokens.dtype == lower.cls.dtype == np.float32
    np.testing.assert_allclose(lower.keys, full.keys, atol=0.05)
    assert lower.keys.tobytes() != full.keys.tobytes()


def test_values_that_are_not_finite_are_an_error() -> None:
    backbone = tiny()
    image = images_for(backbone, (3, 4))[0]
    image[0, 0, 0] = np.nan
    with pytest.raises(BackboneError) as error:
        backbone.features([image], 1, 1)
    assert str(error.value) == (
        "tiny: infinite values or NaN came out with features.precision = float32; "
        "try float32, or other weights if it is"
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((3, 32, 33), np.float32),
            "expected sides that are multiples of 8, got 32 x 33",
        ),
        (np.zeros((3, 0, 8), np.float32), "expected sides that are multiples of 8, got 0 x 8"),
        (np.zeros((32, 32, 3), np.float32), r"float32 \(3, h, w\), got float32 \(32, 32, 3\)"),
        (np.zeros((3, 32, 32), np.uint8), r"float32 \(3, h, w\), got uint8 \(3, 32, 32\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(image: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().features([image], 1, 1)


@needs_cuda
def test_cuda_agrees_with_the_cpu_at_any_batch_size() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, depth=3)
    cpu = Backbone(randomised(model), "tiny", "float32", "cpu")
    images = images_for(cpu, (4, 5), (5, 4), (4, 5), (3, 3), (4, 5))
    expected, rows = cpu.features(images, 1, 1), cpu.class_tokens(images, 1, 1)
    cuda = Backbone(model, "tiny", "float32", "cuda")
    for batch in (1, 2, 16):
        for found, grid in zip(cuda.features(images, 2, batch), expected, strict=True):
            # float32 sums in another order; tf32 would miss by a hundred times more
            np.testing.assert_allclose(found.keys, grid.keys, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found.tokens, grid.tokens, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(cuda.class_tokens(images, 2, batch), rows, atol=1e-4)


# --- names and weights --------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships one model, datus_vit_test."""
    folder = tmp_path / "models"
    folder.mkdir()
    model = randomised(VisionTransformer(**TINY))
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, folder / "datus_vit_test.safetensors")
    (folder / "datus_vit_test.json").write_text(json.dumps({"architecture": TINY}))
    monkeypatch.setattr(sources, "MODELS", folder)
    return folder


def test_a_shipped_model_is_found_by_name(shipped: Path) -> None:
    assert model_path("datus_vit_test") == shipped / "datus_vit_test.safetensors"
    assert model_path("datus_vit_other") is None
    assert model_path("../weights/datus_vit_test") is None


def test_a_shipped_model_loads_its_float16_weights(shipped: Path) -> None:
    backbone = load_backbone("datus_vit_test", "auto", SETTINGS)
    (image,) = images_for(backbone, (3, 5))
    model = VisionTransformer(**TINY, dynamic_img_size=True).eval()
    state = randomised(model).state_dict()
    model.load_state_dict({name: value.half().float() for name, value in state.items()})
    keys, tokens, prefix = by_hand(model, image)
    (grid,) = backbone.features([image], 1, 1)
    np.testing.assert_allclose(grid.keys.reshape(15, -1), keys, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grid.tokens.reshape(15, -1), tokens, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grid.cls, prefix[0], rtol=1e-4, atol=1e-5)
    assert (backbone.name, backbone.device) == ("datus_vit_test", "cpu")
    assert (backbone.patch_px, backbone.key_dim, backbone.embed_dim) == (8, 12, 12)


def test_a_shipped_architecture_takes_a_file_of_weights(shipped: Path, tmp_path: Path) -> None:
    other = randomised(VisionTransformer(**TINY), seed=5)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    backbone = load_backbone("datus_vit_test", str(tmp_path / "other.pth"), SETTINGS)
    assert torch.equal(backbone._model.cls_token, other.cls_token)


def test_a_damaged_training_record_says_so(shipped: Path) -> None:
    record = shipped / "datus_vit_test.json"
    for text, reason in (
        ("{", "Expecting property name"),
        ("{}", "'architecture'"),
        ('{"architecture": {"patchsize": 8}}', "unexpected keyword argument 'patchsize'"),
    ):
        record.write_text(text)
        with pytest.raises(BackboneError) as error:
            load_backbone("datus_vit_test", "auto", SETTINGS)
        assert str(error.value).startswith(f"{record}: not a usable training record (")
        assert reason in str(error.value)
        assert str(error.value).endswith("; install the package again")


def test_weights_ids(shipped: Path, tmp_path: Path) -> None:
    file = shipped / "datus_vit_test.safetensors"
    sha256 = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights_id("datus_vit_test", "auto") == sha256
    assert weights_id("datus_vit_test", "random") == "random:datus_vit_test"
    assert weights_id("vit_tiny_patch16_224", str(file)) == sha256
    assert weights_id("vit_small_patch8_224.dino", "auto") == "hub:vit_small_patch8_224.dino"
    assert weights_id("vit_small_patch8_224.dino", "hub") == "hub:vit_small_patch8_224.dino"
    assert weights_id("vit_tiny_patch16_224", "random") == "random:vit_tiny_patch16_224"


def test_wrong_weights_say_what_is_expected(shipped: Path, tmp_path: Path) -> None:
    for weights, what in (("auot", "not there"), (str(tmp_path), "a folder")):
        for function in (weights_id, lambda name, path: load_backbone(name, path, SETTINGS)):
            with pytest.raises(UsageError) as error:
                function("vit_tiny_patch16_224", weights)
            assert str(error.value) == (
                "features.weights: expected auto, hub, random or a file, "
                f"got {weights!r}, which is {what}"
            )
    with pytest.raises(UsageError) as error:
        weights_id("datus_vit_test", "hub")
    assert str(error.value) == (
        "features.weights: datus_vit_test is shipped, not on the hub; use auto"
    )


def test_a_model_that_is_not_shipped_names_the_nearest(shipped: Path) -> None:
    with pytest.raises(BackboneError) as error:
        weights_id("datus_vit_tset", "auto")
    assert str(error.value) == (
        "datus_vit_tset: this package does not ship that model; "
        "it has datus_vit_test, or take any timm ViT by name"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_tiny_patch61_224", "vit_tiny_patch16_224"),
        ("vit_small_patch8_224.dinoo", "vit_small_patch8_224.dino"),
    ],
)
def test_an_unknown_timm_name_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(name, "random", SETTINGS)
    assert str(error.value).startswith(f"{name}: timm has no such model; did you mean ")
    assert near in str(error.value)


def test_a_name_like_nothing_is_only_refused() -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone("qqq", "random", SETTINGS)
    assert str(error.value) == "qqq: timm has no such model"


def test_a_timm_model_without_weights_on_the_hub_says_so() -> None:
    name = next(
        one for one in timm.list_models("vit_*") if not timm.models.is_model_pretrained(one)
    )
    with pytest.raises(BackboneError) as error:
        load_backbone(name, "hub", SETTINGS)
    assert str(error.value) == (
        f"{name}: timm has no weights for it; set features.weights to a file, or to random"
    )


def test_without_the_hub_the_cure_is_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "hub_answers", lambda: True)
    with pytest.raises(BackboneError) as error:
        load_backbone("vit_tiny_patch16_224.augreg_in21k", "hub", SETTINGS)
    text = str(error.value)
    assert text.startswith(
        "vit_tiny_patch16_224.augreg_in21k: its weights could not be fetched from the hub ("
    )
    assert text.endswith(
        "); put model.safetensors of https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k "
        "as vit_tiny_patch16_224.augreg_in21k.safetensors into a folder and set DATUS_WEIGHTS to "
        "the folder, or set features.weights to the file"
    )


NO_KEYS = (
    " has no keys to find segments with; expected timm's VisionTransformer (ViT, DeiT, DINO, "
    "DINOv2, MAE, CLIP), Eva (EVA-02, DINOv3) or Beit, one attention in each block\n"
    'A CNN can embed crops: set mode = "crop" and backbone = '
)


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "a ResNet"), ("resnet50.mocov2", "a CNN")])
def test_what_is_no_vit_has_no_keys(name: str, kind: str) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(name, "random", SETTINGS)
    assert str(error.value) == f'{name}: {kind}{NO_KEYS}"{name}" in [embeddings]'


def test_blocks_without_one_attention_are_not_supported() -> None:
    model = VisionTransformer(**TINY, block_fn=ParallelThingsBlock)
    with pytest.raises(BackboneError, match=r"^odd: a VisionTransformer has no keys"):
        backbones._check_supported(model, "odd")


def test_patches_that_are_not_square_are_not_supported() -> None:
    model = VisionTransformer(**{**TINY, "patch_size": (8, 4)})
    with pytest.raises(BackboneError, match=r"^odd: patches of \(8, 4\) pixels are not square"):
        backbones._check_supported(model, "odd")


def test_random_weights_depend_on_the_seed_alone(shipped: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = load_backbone("datus_vit_test", "random", SETTINGS, "cpu", 4)
    assert torch.equal(torch.rand(3), expected), "the program's random numbers were touched"
    second = load_backbone("datus_vit_test", "random", SETTINGS, "cpu", 4)
    third = load_backbone("datus_vit_test", "random", SETTINGS, "cpu", 5)
    images = images_for(first, (2, 3))
    one, same, other = (bytes_of(b.features(images, 1, 1)) for b in (first, second, third))
    assert one == same != other


def test_a_timm_vit_loads_by_name_and_takes_any_size() -> None:
    backbone = load_backbone("vit_tiny_patch16_224", "random", SETTINGS)
    (grid,) = backbone.features(images_for(backbone, (3, 5)), 1, 1)
    assert grid.keys.shape == (3, 5, 192)
    assert (backbone.patch_px, backbone.key_dim, backbone.embed_dim) == (16, 192, 192)


def test_auto_device_is_what_there_is(shipped: Path) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_backbone("datus_vit_test", "auto", SETTINGS, "auto").device == expected


def test_fingerprints_load_neither_torch_nor_timm(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"anything")
    code = (
        "import sys; from datus.models.weights import weights_id; "
        f"weights_id('vit_tiny_patch16_224', {str(tmp_path / 'weights.pth')!r}); "
        "print(sorted({'torch', 'timm', 'safetensors', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

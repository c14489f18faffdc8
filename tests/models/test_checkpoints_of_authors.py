"""Checkpoints in the layouts of their authors come to what the authors' forward pass says.

Every file is written here, small, with the names, wrappers, heads and second copies of the training
code. `plain_vit` computes from the same tensors without timm.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plain_vit
import pytest
import torch
from plain_vit import Kind, Tensors
from safetensors.torch import save_file

from datus.config import FeaturesConfig
from datus.errors import BackboneError
from datus.models import registry
from datus.models.checkpoints import convert, flat_blocks
from datus.models.registry import Family, Row
from datus.models.vit import Backbone, load_backbone

WIDTH, DEPTH, SIDE, PATCH = 24, 3, 32, 8
SETTINGS = FeaturesConfig()
SMALL = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 3, "patch_size": PATCH}


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Random tensors; norms and layer scales near one, so that each of them shows."""
    generator = torch.Generator().manual_seed(seed)
    near_one = ("norm.weight", "norm1.weight", "norm2.weight", ".gamma")
    return {
        name: torch.randn(shape, generator=generator) * 0.2 + float(name.endswith(near_one))
        for name, shape in shapes.items()
    }


def layers(**shapes: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Weight and bias of linear layers; a double underscore stands for a dot."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        dotted = name.replace("__", ".")
        found |= {f"{dotted}.weight": shape, f"{dotted}.bias": shape[:1]}
    return found


FC = layers(mlp__fc1=(4 * WIDTH, WIDTH), mlp__fc2=(WIDTH, 4 * WIDTH))
W12 = layers(mlp__w12=(128, WIDTH), mlp__w3=(WIDTH, 64))
W123 = layers(mlp__w1=(96, WIDTH), mlp__w2=(96, WIDTH), mlp__w3=(WIDTH, 96))


def vit(
    seed: int = 0,
    mlp: dict[str, tuple[int, ...]] = FC,
    scale: bool = False,
    cls: bool = True,
    positions: bool = True,
    **more: tuple[int, ...],
) -> Tensors:
    """A ViT by the names that the authors of all of these share."""
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,), **more}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH)}
    shapes |= {"patch_embed.proj.bias": (WIDTH,)}
    if cls:
        shapes["cls_token"] = (1, 1, WIDTH)
    if positions:
        shapes["pos_embed"] = (1, (SIDE // PATCH) ** 2 + cls, WIDTH)
    block = layers(attn__qkv=(3 * WIDTH, WIDTH), attn__proj=(WIDTH, WIDTH)) | mlp
    block |= {f"norm{i}.{part}": (WIDTH,) for i in (1, 2) for part in ("weight", "bias")}
    if scale:
        block |= {"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)}
    for i in range(DEPTH):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return drawn(shapes, seed)


def put(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def without(tensors: Tensors, ending: str) -> Tensors:
    return {name: value for name, value in tensors.items() if not name.endswith(ending)}


def chunked(tensors: Tensors) -> Tensors:
    """Two blocks a chunk, as DINOv2 trains them."""
    names = {
        f"blocks.{i}.{rest}": f"blocks.{i // 2}.{i}.{rest}"
        for i in range(DEPTH)
        for rest in {n.split(".", 2)[2] for n in tensors if n.startswith("blocks.")}
    }
    return {names.get(name, name): value for name, value in tensors.items()}


def head(*names: str) -> Tensors:
    return drawn({f"{name}.weight": (5, WIDTH) for name in names}, seed=9)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a small model of a family into the table, named as given."""

    def add(family: Family, architecture: str, **options: Any) -> str:
        small = {**SMALL, **options}
        row = Row("small.model", replace(family, on_hub=False), 1, "S", PATCH, 4)
        row = replace(row, architecture=architecture, options=small)
        monkeypatch.setitem(registry._BY_NAME, row.name, row)
        return row.name

    return add


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def check(
    name: str, path: Path, tensors: Tensors, kind: Kind, grid: tuple[int, int] = (4, 4)
) -> Backbone:
    """The file gives the keys, tokens and class token of the plain forward pass."""
    backbone = load_backbone(name, str(path), SETTINGS)
    rng = np.random.default_rng(7)
    image = rng.normal(size=(3, grid[0] * PATCH, grid[1] * PATCH)).astype(np.float32)
    (found,) = backbone.features([image], 1, 1)
    wanted = plain_vit.vit(tensors, torch.from_numpy(image), kind)
    tolerance = {"rtol": 1e-4, "atol": 2e-5}
    np.testing.assert_allclose(found.keys.reshape(-1, WIDTH), wanted.keys, **tolerance)
    np.testing.assert_allclose(found.tokens.reshape(-1, WIDTH), wanted.tokens, **tolerance)
    np.testing.assert_allclose(found.cls, wanted.cls, **tolerance)
    assert found.keys.std() > 0.1
    return backbone


# --- class token and positions: DINO, iBOT, Mugs, MAE, MoCo v3, MSN -----------------------------

MODEL, OTHER = vit(seed=1), vit(seed=2)
ARGS = argparse.Namespace(arch="vit_small", patch_size=PATCH)
DINO_HEAD = head("head.mlp.0", "head.mlp.2", "head.last_layer")
MUGS_HEADS = head("instance_head.projector.0", "local_group_head.projector.0", "group_head.last")
RELATION = put("relation_blocks.0.", {n[9:]: v for n, v in OTHER.items() if "blocks.0." in n})
DECODER = head("decoder_embed", "decoder_blocks.0.attn.qkv", "decoder_norm", "decoder_pred")
DECODER |= {"decoder_pos_embed": torch.zeros(1, 17, 8), "mask_token": torch.zeros(1, 1, 8)}
MSN_HEAD = head("fc.fc1", "fc.bn1", "fc.fc3", "pred.fc1")

FILES: dict[str, tuple[Family, Any]] = {
    "dino, backbone alone": (registry.DINO, MODEL),
    "dino, student and teacher": (
        registry.DINO,
        {
            "student": put("module.backbone.", OTHER) | put("module.", DINO_HEAD),
            "teacher": put("backbone.", MODEL) | DINO_HEAD,
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": 100,
            "args": ARGS,
            "dino_loss": {"center": torch.zeros(1, 5)},
        },
    ),
    "ibot, teacher alone": (registry.IBOT, {"state_dict": MODEL}),
    "ibot, full": (
        registry.IBOT,
        {
            "student": put("module.backbone.", OTHER | {"masked_embed": torch.zeros(1, WIDTH)})
            | put("module.", DINO_HEAD),
            "teacher": put("module.backbone.", MODEL | {"masked_embed": torch.zeros(1, WIDTH)})
            | put("module.", DINO_HEAD),
            "ibot_loss": {"center2": torch.zeros(1, 1, 5)},
        },
    ),
    "mugs, backbone alone": (registry.MUGS, {"state_dict": MODEL | RELATION}),
    "mugs, full": (
        registry.MUGS,
        {
            "student": put("module.backbone.", OTHER | RELATION) | put("module.", MUGS_HEADS),
            "teacher": put("backbone.", MODEL | RELATION) | MUGS_HEADS,
            "student_mem": {"block.queue_q": torch.zeros(4, 4)},
        },
    ),
    "mae, encoder": (registry.MAE, {"model": MODEL}),
    "mae, with decoder": (registry.MAE, {"model": MODEL | DECODER, "args": ARGS}),
    "mocov3": (
        registry.MOCO_V3,
        {
            "epoch": 300,
            "arch": "vit_small",
            "state_dict": put("module.base_encoder.", MODEL | head("head.0", "head.3"))
            | put("module.momentum_encoder.", OTHER | head("head.0", "head.3"))
            | put("module.predictor.", head("0", "3")),
        },
    ),
    "mocov3, momentum encoder alone": (
        registry.MOCO_V3,
        {"state_dict": put("module.momentum_encoder.", MODEL | head("head.0"))},
    ),
    "msn": (
        registry.MSN,
        {
            "encoder": put("module.", OTHER | MSN_HEAD),
            "target_encoder": put("module.", MODEL | MSN_HEAD),
            "prototypes": torch.zeros(4, 5),
            "opt": {"state": {}},
            "epoch": 800,
        },
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_the_common_vit(case: str, table: Any, tmp_path: Path) -> None:
    family, content = FILES[case]
    name = table(family, "vit_small_patch16_224", img_size=SIDE)
    check(name, written(tmp_path / "file.pth", content), MODEL, Kind())


def test_the_same_as_safetensors(table: Any, tmp_path: Path) -> None:
    name = table(registry.DINO, "vit_small_patch16_224", img_size=SIDE)
    save_file(put("backbone.", MODEL) | DINO_HEAD, tmp_path / "file.safetensors")
    check(name, tmp_path / "file.safetensors", MODEL, Kind())


def test_moco_v3_has_twelve_heads_where_others_have_six(table: Any, tmp_path: Path) -> None:
    row = registry.find("vit_small_patch16_224.mocov3")
    assert row is not None
    assert row.options == {"num_heads": 12}
    name = table(registry.MOCO_V3, "vit_small_patch16_224", img_size=SIDE, num_heads=6)
    check(name, written(tmp_path / "file.pth", MODEL), MODEL, Kind(heads=6))


# --- DINOv2 -------------------------------------------------------------------------------------

MASK = {"mask_token": torch.zeros(1, WIDTH)}
REGISTERS = {"register_tokens": (1, 4, WIDTH)}
DINOV2_HEADS = head("dino_head.mlp.0", "ibot_head.mlp.0", "dino_head.last_layer")


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2(released: bool, registers: bool, table: Any, tmp_path: Path) -> None:
    architecture = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    tensors = vit(seed=3, scale=True, **(REGISTERS if registers else {}))
    content: Any = tensors | MASK
    if not released:
        content = {"teacher": put("backbone.", chunked(tensors | MASK)) | DINOV2_HEADS}
        assert "backbone.blocks.1.2.ls1.gamma" in content["teacher"]
    name = table(registry.DINOV2, architecture, img_size=SIDE)
    check(name, written(tmp_path / "file.pth", content), tensors, Kind())


@pytest.mark.parametrize("mask", [MASK, {}])
def test_dinov2_giant_has_gated_mlps(mask: Tensors, table: Any, tmp_path: Path) -> None:
    tensors = vit(seed=4, scale=True, mlp=W12)
    name = table(registry.DINOV2, "vit_giant_patch14_dinov2", img_size=SIDE)
    check(name, written(tmp_path / "file.pth", tensors | mask), tensors, Kind())


# --- DINOv3 -------------------------------------------------------------------------------------

DINOV3 = Kind(eps=1e-5, rotary=True)
EXTRA = {"rope_embed.periods": torch.ones(2), "local_cls_norm.weight": torch.ones(WIDTH), **MASK}


def dinov3(mlp: dict[str, tuple[int, ...]] = FC, biases: bool = True) -> Tensors:
    """qkv.bias with the mask that makes the part of the keys zero."""
    more = {"storage_tokens": (1, 4, WIDTH)}
    tensors = vit(seed=5, scale=True, mlp=mlp, positions=False, **more)
    mask = torch.ones(3 * WIDTH)
    mask[WIDTH : 2 * WIDTH] = 0
    for i in range(DEPTH):
        tensors[f"blocks.{i}.attn.qkv.bias_mask"] = mask
        if not biases:
            tensors[f"blocks.{i}.attn.qkv.bias"] *= 0
    return tensors


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
@pytest.mark.parametrize(
    ("architecture", "mlp", "biases"),
    [
        ("vit_small_patch16_dinov3", FC, False),
        ("vit_small_patch16_dinov3_qkvb", FC, True),
        ("vit_small_plus_patch16_dinov3", W123, False),
    ],
)
def test_dinov3(
    architecture: str, mlp: Any, biases: bool, grid: tuple[int, int], table: Any, tmp_path: Path
) -> None:
    tensors = dinov3(mlp, biases)
    name = table(registry.DINOV3, architecture, img_size=SIDE)
    path = written(tmp_path / "file.pth", tensors | EXTRA)
    check(name, path, tensors, DINOV3, grid)


def test_dinov3_biases_are_not_left_out_in_silence(table: Any, tmp_path: Path) -> None:
    name = table(registry.DINOV3, "vit_small_patch16_dinov3", img_size=SIDE)
    path = written(tmp_path / "file.pth", dinov3() | EXTRA)
    with pytest.raises(BackboneError) as error:
        load_backbone(name, str(path), SETTINGS)
    assert str(error.value) == (
        f"{path}: does not fit {name}: blocks.0.attn.qkv.bias is not zero and the model has no "
        "such biases; choose its _qkvb variant in timm"
    )
    path = written(tmp_path / "file.pth", without(dinov3(), "bias_mask") | EXTRA)
    with pytest.raises(BackboneError, match=r"qkv.bias has biases of keys, which DINOv3 has not"):
        load_backbone(name, str(path), SETTINGS)


# --- Unicom -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
def test_unicom(prefix: str, table: Any, tmp_path: Path) -> None:
    half = without(vit(seed=6, cls=False), "qkv.bias")
    tensors = {name: value.half().float() for name, value in half.items()}
    content = {name: value.half() for name, value in half.items()}
    content |= head("feature.0", "feature.1", "feature.2", "feature.3")
    name = table(registry.UNICOM, "vit_base_patch16_224", img_size=SIDE, **registry.UNICOM_OPTIONS)
    path = written(tmp_path / "file.pt", put(prefix, content))
    kind = Kind(eps=1e-5, act=torch.nn.functional.relu6)
    backbone = check(name, path, tensors, kind)
    assert isinstance(backbone._model.blocks[0].mlp.act, torch.nn.ReLU6)
    assert backbone._model.norm.eps == backbone._model.blocks[0].norm1.eps == 1e-5


# --- the rules ----------------------------------------------------------------------------------


def test_only_declared_heads_are_dropped(table: Any, tmp_path: Path) -> None:
    name = table(registry.DINO, "vit_small_patch16_224", img_size=SIDE)
    path = written(tmp_path / "file.pth", MODEL | head("head.0", "surprise"))
    with pytest.raises(BackboneError, match=r"1 unexpected \(surprise.weight\)"):
        load_backbone(name, str(path), SETTINGS)


def test_a_tensor_of_the_model_is_no_head() -> None:
    tensors = head("head.0", "fc.1", "module.head.2")
    assert list(convert(tensors, registry.DINO.heads, {"fc.1.weight"})) == ["fc.1.weight"]
    assert list(convert(tensors, (), ())) == list(tensors)


def test_flat_blocks_stay_as_they_are() -> None:
    assert list(flat_blocks(MODEL)) == list(MODEL)
    assert list(flat_blocks(chunked(MODEL))) == list(MODEL)


def test_a_file_of_another_model_names_the_models_that_it_fits(tmp_path: Path) -> None:
    row = registry.find("vit_small_patch8_224.dino")
    assert row is not None
    shapes = dict(row.shapes) | {f"blocks.{i}.norm1.weight": (384,) for i in range(12)}
    path = written(tmp_path / "f.pth", {n: torch.zeros(s) for n, s in shapes.items()})
    with pytest.raises(BackboneError) as error:
        load_backbone("vit_small_patch16_224.dino", str(path), SETTINGS)
    assert str(error.value) == (
        f"{path}: does not fit vit_small_patch16_224.dino: it was trained on patches of 8 pixels, "
        "the model has 16; choose the backbone that it was made for. "
        "By its shapes it may be vit_small_patch8_224.dino"
    )

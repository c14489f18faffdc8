"""The table against timm's architectures, what a file's shapes say, names as people type them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from datus.config import Config
from datus.errors import BackboneError, ConfigError, UsageError
from datus.models import registry, vit
from datus.models.registry import ROWS, SIZES, Row, _names, find, fitting, resolve, suggestions
from datus.models.weights import find_weights, model_path

TABLE_I = (
    *("vit_small_patch8_224.dino", "vit_small_patch16_224.dino", "vit_base_patch8_224.dino"),
    *("vit_base_patch16_224.dino", "vit_small_patch16_224.ibot", "vit_base_patch16_224.ibot"),
    *("vit_large_patch16_224.ibot", "vit_small_patch16_224.mugs", "vit_base_patch16_224.mugs"),
    *("vit_large_patch16_224.mugs", "vit_small_patch14_dinov2.lvd142m"),
    *("vit_base_patch14_dinov2.lvd142m", "vit_large_patch14_dinov2.lvd142m"),
    *("vit_giant_patch14_dinov2.lvd142m", "vit_base_patch16_224.unicom"),
    *("vit_base_patch32_224.unicom", "vit_large_patch14_224.unicom"),
    "vit_large_patch14_336.unicom",
)

LARGE = 10**8
"""Parameters: even without memory for weights, a model of 24 blocks takes a while to build."""


def empty_model(row: Row) -> Any:
    """The model without memory for its weights."""
    with torch.device("meta"):
        if own := model_path(row.name):
            return vit._own_model(own)
        return vit._table_model(row)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow) if row.parameters > LARGE else row for row in ROWS],
    ids=lambda row: row.name,
)
def test_shapes_and_parameters_are_those_of_the_model(row: Row) -> None:
    model = empty_model(row)
    assert sum(value.numel() for value in model.parameters()) == row.parameters
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected = dict(row.shapes)
    if "_reg4_" in row.name:  # timm adds the class token's position to the class token
        length = expected["pos_embed"][1] - 1
        expected["pos_embed"] = (1, length, SIZES[row.size][0])
    assert {name: found.get(name) for name in expected} == expected
    if row.family is registry.FILTERS:
        assert (model.size, model.patch_px) == (row.key_size, row.patch_px)
    elif not row.is_cnn:
        width, depth, heads = SIZES[row.size]
        assert (model.num_features, len(model.blocks)) == (width, depth)
        assert model.embed_dim == row.key_size
        assert model.blocks[-1].attn.num_heads == heads
        assert model.patch_embed.feat_ratio(as_scalar=False) == (row.patch_px, row.patch_px)
        assert (getattr(model, "cls_token", None) is None) == (row.family is registry.UNICOM)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_said_of_timm_is_so(row: Row) -> None:
    if row.family in (registry.DATUS, registry.FILTERS):
        assert model_path(row.name)
        return
    assert timm.is_model(row.model)
    tagged = row.name in timm.list_models(pretrained=True)
    assert tagged == row.family.on_hub, "a name with timm's tag is timm's model"
    if not row.family.on_hub:
        return
    config = timm.get_pretrained_cfg(row.name)
    assert config.hf_hub_id == f"timm/{row.name}"
    assert row.url == (config.url or "")
    licence = {"DINOv3 License": "dinov3-license"}.get(row.family.licence, row.family.licence)
    assert config.license == licence.lower()


def test_names_are_unique_and_the_papers_table_is_there() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert set(TABLE_I) <= set(names)
    files = [row.file for row in ROWS if row.file]
    assert len(set(files)) == len(files), "a file name must not mean two models"


@pytest.mark.parametrize("page", ["README.md", "docs/backbones.md"])
def test_pages_say_how_many_models_there_are(page: str) -> None:
    text = (Path(__file__).resolve().parents[2] / page).read_text(encoding="utf-8")
    assert f" {len(ROWS)} models" in text


def test_digests_are_hexadecimal() -> None:
    for row in ROWS:
        kind, _, digits = row.digest.partition(":")
        assert kind in ("", "sha256", "md5")
        assert all(digit in "0123456789abcdef" for digit in digits)


def test_only_dinov3_is_gated() -> None:
    assert {row.family.scheme for row in ROWS if row.family.gated} == {"DINOv3"}


def test_a_name_is_found_or_not() -> None:
    row = find("vit_large_patch7_224.msn")
    assert row is not None
    assert (row.patch_px, row.grid, row.model) == (7, 32, "vit_large_patch16_224")
    assert find("vit_tiny_patch16_224") is None


MARKS = {
    "reg4_dinov2.lvd142m": ("blocks.0.ls1.gamma", "register_tokens"),
    "dinov2.lvd142m": ("blocks.0.ls1.gamma",),
    "dinov3.lvd1689m": ("blocks.0.ls1.gamma", "storage_tokens"),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_fits_its_own_file(row: Row) -> None:
    marks = next((marks for end, marks in MARKS.items() if row.name.endswith(end)), ())
    plus = ("blocks.0.mlp.w1.weight",) if "_plus_" in row.name else ()
    shapes = dict(row.shapes) | dict.fromkeys((*marks, *plus), (1,))
    fits = fitting(shapes)
    assert row.name in fits
    if row.family in (registry.DINOV2, registry.DINOV3, registry.UNICOM):
        assert fits == [row.name]


def test_shapes_tell_depth_patch_and_class_token_apart() -> None:
    row = find("vit_base_patch16_224.dino")
    assert row is not None
    fits = fitting(row.shapes)
    assert fits[0] == row.name
    assert "vit_base_patch16_224.ibot" in fits
    assert "vit_base_patch16_224.unicom" not in fits
    assert "vit_base_patch8_224.dino" not in fits
    assert fitting({**row.shapes, "blocks.23.norm1.weight": (768,)}) == []
    assert fitting({}) == []


def test_the_table_loads_no_torch() -> None:
    code = (
        "import sys, datus.models.registry, datus.models.weights; "
        "print({'torch', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "set()"


# --- names as people type them ------------------------------------------------------------------

S8 = "vit_small_patch8_224.dino"
DINOV2_S = "vit_small_patch14_dinov2.lvd142m"
DINOV2_B_REG = "vit_base_patch14_reg4_dinov2.lvd142m"
DINOV3_B = "vit_base_patch16_dinov3.lvd1689m"
NAMES = [row.name for row in ROWS]

KNOWN = {
    "dino_vits8": S8,
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vitb8": "vit_base_patch8_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dino_resnet50": "resnet50.dino",
    "dino_deitsmall8_pretrain": S8,
    "facebook/dino-vits8": S8,
    "DINO ViT-S/8": S8,
    "timm/vit_small_patch8_224.dino": S8,
    "hf-hub:timm/vit_small_patch8_224.dino": S8,
    "https://huggingface.co/timm/vit_small_patch8_224.dino": S8,
    "vit_small_patch8_224_dino": S8,
    "ViT_Small_Patch8_224.DINO": S8,
    "dinov2_vits14": DINOV2_S,
    "dinov2_vits14_pretrain": DINOV2_S,
    "facebook/dinov2-small": DINOV2_S,
    "vit_small_patch14_dinov2": DINOV2_S,
    "dinov2_vitb14_reg": DINOV2_B_REG,
    "dinov2_vitb14_reg4_pretrain": DINOV2_B_REG,
    "facebook/dinov2-with-registers-base": DINOV2_B_REG,
    "dinov3_vits16": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3.lvd1689m",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": DINOV3_B,
    "dinov3_vitb16_pretrain_lvd1689m-73cec8be": DINOV3_B,
    "mae_vit_base": "vit_base_patch16_224.mae",
    "facebook/vit-mae-huge": "vit_huge_patch14_224.mae",
    "facebook/vit-msn-base": "vit_base_patch16_224.msn",
    "facebook/vit-msn-base-4": "vit_base_patch4_224.msn",
    "ibot_vitb16": "vit_base_patch16_224.ibot",
    "moco_v3_vits16": "vit_small_patch16_224.mocov3",
    "unicom_vitl14_336": "vit_large_patch14_336.unicom",
}


@pytest.mark.parametrize(("typed", "name"), KNOWN.items(), ids=list(KNOWN))
def test_a_name_with_one_meaning_is_resolved(typed: str, name: str) -> None:
    assert resolve(typed) == name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("timm/vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("mine/own_dino.safetensors", "mine/own_dino.safetensors"),
        ("datus_vit_t9", "datus_vit_t9"),
        ("same", "same"),
        ("", ""),
    ],
)
def test_what_may_be_another_model_or_a_file_is_left_alone(typed: str, name: str) -> None:
    assert resolve(typed) == name


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_table_is_its_own(name: str) -> None:
    assert resolve(name) == resolve(name.upper()) == resolve(name.replace(".", "_")) == name


PLACES = st.lists(st.sampled_from(["timm/", "facebook/", "hf-hub:", "https://huggingface.co/"]))
NAMED = st.sampled_from([*KNOWN, *NAMES, *_names()[0], *_names()[1], "vit_tiny_patch16_224"])


@given(PLACES.map("".join), st.one_of(st.text(), NAMED))
def test_resolving_twice_is_resolving_once(place: str, typed: str) -> None:
    try:
        name = resolve(place + typed)
    except UsageError:
        return
    assert resolve(name) == name


def test_no_name_means_two_models() -> None:
    exact, _ = _names()
    assert [key for key, rows in exact.items() if len(rows) > 1] == []


def test_names_of_timm_mean_what_they_mean_there() -> None:
    for name in [*timm.list_models(), *timm.list_models(pretrained=True)]:
        found = resolve(name)
        if found != name:  # the tag that timm would have taken
            assert found == f"{name}.{timm.get_pretrained_cfg(name).tag}"


def raised(name: str) -> str:
    with pytest.raises(UsageError) as error:
        resolve(name)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "picked"),
    [("dino", S8), ("DINOv2", DINOV2_B_REG), ("dinov2-reg", DINOV2_B_REG), ("dino_small", S8)],
)
def test_a_name_of_several_lists_them_and_recommends_one(name: str, picked: str) -> None:
    header, *lines = raised(name).splitlines()
    assert header == f"{name}: {len(lines)} models have this name; give one of them in full:"
    assert all(find(line.split()[0]) and "M parameters" in line for line in lines)
    assert [line.split()[0] for line in lines if line.endswith("  recommended")] == [picked]


@pytest.mark.parametrize("name", ["dinov3", "ibot", "mae", "msn"])
def test_where_none_of_them_is_recommended_another_is(name: str) -> None:
    assert raised(name).splitlines()[-1] == f"None of these is recommended over {S8}"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dino_vits9", S8),
        ("dinov2_vits15", DINOV2_S),
        ("facebook/dinov3-vitl16-pretrain-sat493m", "vit_large_patch16_dinov3.lvd1689m"),
    ],
)
def test_a_name_that_no_model_has_gets_near_ones(name: str, near: str) -> None:
    assert f"{name}: there is no such model; did you mean {near}" in raised(name)
    assert near in suggestions(name)


def test_a_file_is_no_name() -> None:
    text = raised("weights/dino_deitsmall8_pretrain.pth")
    assert text.endswith("To use a file, give the model's name here and the file as weights")


def test_settings_hold_the_name_of_the_table() -> None:
    typed = {"features.backbone": "dino_vits8", "embeddings.backbone": "facebook/dino-vitb16"}
    named = {"features.backbone": S8, "embeddings.backbone": "vit_base_patch16_224.dino"}
    assert Config.load(None, typed) == Config.load(None, named)
    with pytest.raises(
        ConfigError, match=r"^embeddings\.backbone: dinov2: 8 models have this name"
    ):
        Config.load(None, {"embeddings.backbone": "dinov2"})


def test_the_command_takes_such_a_name_and_loads_no_timm(tmp_path: Path) -> None:
    expected = {"dino_vits8": (0, S8), "dinov2": (2, DINOV2_B_REG), "dino_vits9": (2, S8)}
    for name, (code, text) in expected.items():
        command = [sys.executable, "-X", "importtime", "-m", "datus", "backbones", name]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == code
        assert text in done.stdout + done.stderr
        loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.split("\n")}
        assert not loaded & {"torch", "timm"}


def test_the_model_that_was_shipped_before_is_not_taken_for_the_present_one() -> None:
    with pytest.raises(BackboneError, match="does not ship that model; it has datus_t8"):
        find_weights(resolve("datus_vit_t8"), "auto")

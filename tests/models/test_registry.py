"""The table against timm's architectures, and what a file's shapes say."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from datus.models import registry as zoo
from datus.models import vit as backbones
from datus.models.registry import ROWS, SIZES, Row, find, fitting
from datus.models.weights import model_path

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


def empty_model(row: Row) -> Any:
    """The model without memory for its weights."""
    with torch.device("meta"):
        if own := model_path(row.name):
            return backbones._own_model(own)
        return backbones._table_model(row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_shapes_and_parameters_are_those_of_the_model(row: Row) -> None:
    model = empty_model(row)
    assert sum(value.numel() for value in model.parameters()) == row.parameters
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected = dict(row.shapes)
    if "_reg4_" in row.name:  # timm adds the class token's position to the class token
        length = expected["pos_embed"][1] - 1
        expected["pos_embed"] = (1, length, SIZES[row.size][0])
    assert {name: found.get(name) for name in expected} == expected
    if row.family is zoo.FILTERS:
        assert (model.size, model.patch_px) == (row.key_size, row.patch_px)
    elif not row.is_cnn:
        width, depth, heads = SIZES[row.size]
        assert (model.num_features, len(model.blocks)) == (width, depth)
        assert model.embed_dim == row.key_size
        assert model.blocks[-1].attn.num_heads == heads
        assert model.patch_embed.feat_ratio(as_scalar=False) == (row.patch_px, row.patch_px)
        assert (getattr(model, "cls_token", None) is None) == (row.family is zoo.UNICOM)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_said_of_timm_is_so(row: Row) -> None:
    if row.family in (zoo.DATUS, zoo.FILTERS):
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
    if row.family in (zoo.DINOV2, zoo.DINOV3, zoo.UNICOM):
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

"""The size at which a ViT sees an image, at image_px = auto and as a number."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_tree import tree
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from tiny_runs import IDS, go, make_dataset

from datus.config import Config, FeaturesConfig
from datus.errors import BackboneError
from datus.inputs.decode import fit_size
from datus.models import weights as sources
from datus.models.image_size import input_size, patch_px_of
from datus.models.registry import FILTERS, ROWS
from datus.models.vit import load_backbone
from datus.segmenter.model import segmenter_spec

VITS = [row for row in ROWS if not row.is_cnn and row.family is not FILTERS]


def auto(backbone: str) -> tuple[int, str]:
    return tuple(input_size(FeaturesConfig(backbone=backbone)))


def own_model(weights: Path, record: object) -> str:
    """A file of weights, of which nobody looks at the bytes, with its record."""
    weights.touch()
    weights.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
    return str(weights)


# --- auto ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sides"), [("datus_filters", 128), ("datus_filters_p4", 64), ("datus_filters_p8", 28)]
)
def test_filters_see_finer_grids(name: str, sides: int) -> None:
    assert auto(name) == (sides * patch_px_of(name), "keep")


@pytest.mark.parametrize("row", VITS, ids=lambda row: row.name)
def test_a_model_of_the_table_sees_28_patches_a_side(row) -> None:
    assert auto(row.name) == (28 * row.patch_px, "keep")
    assert patch_px_of(row.name) == row.patch_px


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("datus_t8", 224),
        ("vit_tiny_patch16_224", 448),
        ("vit_base_patch16_clip_224.openai", 448),
        ("eva02_tiny_patch14_336", 392),
        ("deit_tiny_distilled_patch16_224.fb_in1k", 448),
        ("vit_base_patch32_clip_224", 896),
        ("test_vit", 448),  # a name that does not tell
        ("vit_small_r26_s32_224", 896),
    ],
)
def test_other_models_too(backbone: str, expected: int) -> None:
    assert auto(backbone) == (expected, "keep")


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("beit_base_patch16_224", 224),
        ("beit_base_patch16_384.in22k_ft_in22k_in1k", 384),
        ("beitv2_large_patch16_224.in1k_ft_in22k", 224),
    ],
)
def test_a_model_of_one_size_gets_that_size_squashed(backbone: str, expected: int) -> None:
    assert auto(backbone) == (expected, "squash")


@pytest.mark.slow
def test_names_say_what_timm_makes() -> None:
    """Of the smaller ViTs; the larger ones of a family differ in depth and width."""
    names = [name for name in timm.list_models() if "_patch" in name]
    checked = 0
    for name in (one for one in names if "tiny" in one or "beit" in one or "_small_" in one):
        with torch.device("meta"):
            try:
                model = timm.create_model(name, num_classes=0, dynamic_img_size=True)
            except TypeError:
                model = timm.create_model(name, num_classes=0)
        if not isinstance(model, VisionTransformer | Eva | Beit):
            continue
        checked += 1
        assert patch_px_of(name) == model.patch_embed.feat_ratio(as_scalar=True), name
        only = () if getattr(model, "dynamic_img_size", False) else model.patch_embed.img_size
        assert auto(name)[1] == ("squash" if only else "keep"), name
        assert not only or auto(name)[0] == only[0], name
    assert checked > 40


def test_a_number_is_taken_as_it_is() -> None:
    settings = FeaturesConfig(backbone="nobody knows", image_px=320, resize="squash")
    assert tuple(input_size(settings)) == (320, "squash")
    assert tuple(input_size(replace(settings, resize="keep"))) == (320, "keep")


@given(st.floats(0.25, 4.0), st.sampled_from(VITS), st.integers(300, 4000))
def test_images_of_all_shapes_have_about_784_patches(aspect: float, row, side: int) -> None:
    image_px, resize = input_size(FeaturesConfig(backbone=row.name))
    height, width = fit_size(side, round(side * aspect), image_px, row.patch_px, resize)
    assert 0.8 < (height // row.patch_px) * (width // row.patch_px) / 784 < 1.25


# --- models of one's own ------------------------------------------------------------------------


def test_a_model_of_ones_own_may_state_its_grid(tmp_path: Path) -> None:
    record = {"class": "Eva", "architecture": {"patch_size": 10, "img_size": 160}}
    name = own_model(tmp_path / "mine.safetensors", record)
    assert auto(name) == (280, "keep")
    own_model(tmp_path / "mine.safetensors", record | {"patches_per_side": 40})
    assert auto(name) == (400, "keep")
    assert patch_px_of(name) == 10


def test_a_shipped_model_may_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MODELS", tmp_path)
    record = {"architecture": {"patch_size": 8}, "patches_per_side": 20}
    own_model(tmp_path / "datus_t8.safetensors", record)
    assert auto("datus_t8") == (160, "keep")
    described = dict(sources.describe("datus_t8"))
    assert described["image_px = auto"] == "160 (20 x 20 patches)"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "list indices must be integers"),
        ({}, "'architecture'"),
        ({"architecture": {"patch_size": 0}}, "patch_size: expected 1 to 512, got 0"),
        (
            {"architecture": {"patch_size": 8}, "patches_per_side": "28"},
            "patches_per_side: expected 1 to 512, got '28'",
        ),
    ],
)
def test_a_wrong_record_says_what_is_expected(record, reason: str, tmp_path: Path) -> None:
    name = own_model(tmp_path / "mine.safetensors", record)
    with pytest.raises(BackboneError) as error:
        auto(name)
    start = f"{tmp_path / 'mine.json'}: not a usable training record ("
    assert str(error.value).startswith(start)
    assert reason in str(error.value)
    assert str(error.value).endswith("keep the two together")


# --- names that are no ViT ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "text"),
    [
        ("resnet50.dino", "resnet50.dino: a CNN has no keys to find segments with"),
        ("resnet18", "resnet18: a ResNet has no keys to find segments with"),
        ("vit_tinny", "vit_tinny: timm has no such model; did you mean "),
    ],
)
def test_a_name_that_is_no_vit_is_refused(backbone: str, text: str) -> None:
    with pytest.raises(BackboneError) as error:
        auto(backbone)
    assert str(error.value).startswith(text)


def test_the_table_records_and_names_load_no_torch(tmp_path: Path) -> None:
    mine = own_model(tmp_path / "mine.safetensors", {"architecture": {"patch_size": 8}})
    names = [*(row.name for row in VITS), "vit_tiny_patch16_224", "beit_base_patch16_224", mine]
    code = (
        "import sys\n"
        "from datus.config import FeaturesConfig\n"
        "from datus.models.image_size import input_size\n"
        "for name in sys.argv[1:]:\n"
        "    print(input_size(FeaturesConfig(backbone=name)).image_px)\n"
        "assert not {'torch', 'timm', 'faiss'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*(str(28 * r.patch_px) for r in VITS), "448", "224", "224"]


# --- passes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "grid"),
    [
        ("vit_small_patch14_dinov2.lvd142m", (24, 32)),
        ("vit_tiny_patch16_224", (24, 32)),
        pytest.param("beit_base_patch16_224", (14, 14), marks=pytest.mark.slow),
    ],
)
def test_a_model_takes_what_auto_gives(backbone: str, grid: tuple[int, int]) -> None:
    settings = FeaturesConfig(backbone=backbone, weights="random")
    model = load_backbone(backbone, "random", settings, "cpu", seed=0)
    image_px, resize = input_size(settings)
    size = fit_size(90, 120, image_px, model.patch_px, resize)
    (found,) = model.features([np.zeros((3, *size), np.float32)], 1, 1)
    assert found.keys.shape[:2] == grid


def test_the_model_that_denoises_sees_images_as_the_features_did() -> None:
    given = {"features.backbone": "beit_base_patch16_224", "features.weights": "random"}
    spec = segmenter_spec(Config.load(None, given), 3)
    assert (spec.image_px, spec.resize) == (224, "squash")
    spec = segmenter_spec(Config.load(None, {**given, "denoise.image_px": 320}), 3)
    assert (spec.image_px, spec.resize) == (320, "keep")


def test_a_run_at_auto_has_the_bytes_of_the_run_at_its_number(tmp_path: Path) -> None:
    photos = make_dataset(tmp_path / "photos", IDS[:4])
    more = {"denoise.enabled": True, "denoise.epochs": 1}
    for name, image_px in (("auto", "auto"), ("number", 224)):
        go(photos.config(tmp_path / name, {**more, "features.image_px": image_px}))
    assert tree(tmp_path / "auto") == tree(tmp_path / "number")
    report = json.loads((tmp_path / "auto/latest/report/report.json").read_bytes())
    assert report["settings"]["features"]["image_px"] == 224
    assert report["settings"]["denoise"]["image_px"] == 224

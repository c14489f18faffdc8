"""What a segmenter is made of, what is frozen; a saved model comes back or says why not."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_models import SMALL, write_own

from datus.config import FeaturesConfig
from datus.errors import BackboneError, UsageError
from datus.models.vit import load_backbone
from datus.segmenter.files import cluster_classes
from datus.segmenter.model import (
    Segmenter,
    SegmenterSpec,
    build_segmenter,
    load_segmenter,
    save_segmenter,
)

TINY: dict[str, Any] = {"backbone": "vit_tiny_patch16_224", "weights": "random", "n_classes": 3}
DEEPLAB = SegmenterSpec(kind="deeplabv3", n_classes=3)
CLASSES = cluster_classes(3)


def images(segmenter: Segmenter, rows: int = 3, columns: int = 4, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    side = segmenter.stride
    return torch.randn(batch, 3, rows * side, columns * side, generator=generator)


@pytest.fixture(scope="module")
def deeplab() -> Segmenter:
    return build_segmenter(DEEPLAB, 0)


# --- logits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "conv", "layers"])
def test_a_probe_gives_logits_on_the_grid(head: str) -> None:
    segmenter = build_segmenter(SegmenterSpec(head=head, n_classes=5), 0)
    x = images(segmenter)
    logits = segmenter(x)
    assert logits.shape == (2, 5, 3, 4)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, segmenter.head(segmenter.features(x)))
    assert torch.equal(logits, segmenter.grid_logits(x))


def test_deeplabv3_gives_logits_of_the_images_own_size(deeplab: Segmenter) -> None:
    x = images(deeplab, 4, 5)
    with torch.no_grad():
        assert deeplab(x).shape == (2, 3, 32, 40)
        assert deeplab.grid_logits(x).shape == (2, 3, 4, 5)
    with pytest.raises(ValueError, match="a deeplabv3 has none that could be kept"):
        deeplab.features(x)


def test_features_of_light_heads_are_the_tokens_of_the_features_stage() -> None:
    segmenter = build_segmenter(SegmenterSpec(head="linear"), 0)
    x = images(segmenter, batch=1)
    backbone = load_backbone("datus_t8", "auto", FeaturesConfig())
    (grid,) = backbone.features([x[0].numpy()], 1, 1)
    found = segmenter.features(x)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, grid.tokens, atol=1e-5)


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "vit_small_patch14_reg4_dinov2"])
def test_features_leave_out_all_prefix_tokens(name: str) -> None:
    for head in ("linear", "layers"):
        spec = SegmenterSpec(backbone=name, weights="random", head=head)
        segmenter = build_segmenter(spec, 0)
        assert segmenter(images(segmenter)).shape == (2, 2, 3, 4)


def test_layers_reads_four_blocks_evenly_spaced() -> None:
    segmenter = build_segmenter(SegmenterSpec(head="layers"), 0)
    assert segmenter.body.blocks == (1, 3, 5, 7)
    x = images(segmenter)
    features = segmenter.features(x)
    assert features.shape == (2, 4 * 192, 3, 4)
    vit, seen = segmenter.body.vit, []
    for block in (1, 3, 5, 7):
        vit.blocks[block].register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.no_grad():
        vit.forward_features(x)
    expected = torch.cat([one[:, 1:] for one in seen], 2).transpose(1, 2).reshape(2, 768, 3, 4)
    torch.testing.assert_close(features, expected)


def test_sides_must_be_multiples_of_the_stride(deeplab: Segmenter) -> None:
    with pytest.raises(ValueError, match="multiples of 8, got 30 x 32"):
        deeplab(torch.zeros(1, 3, 30, 32))


def test_same_seed_same_weights() -> None:
    one, same, other = (build_segmenter(SegmenterSpec(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.steps.0.weight"], other["head.steps.0.weight"])


# --- what is trained ----------------------------------------------------------------------------


def test_a_frozen_backbone_has_no_gradients_and_stays_in_evaluation_mode() -> None:
    segmenter = build_segmenter(SegmenterSpec(**TINY), 0).train()
    assert segmenter.head.training
    assert not segmenter.body.training
    assert not segmenter.features(images(segmenter)).requires_grad
    segmenter(images(segmenter)).sum().backward()
    with_gradient = {name for name, one in segmenter.named_parameters() if one.grad is not None}
    assert with_gradient == {
        f"head.steps.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")
    }


def test_a_tuned_backbone_has_gradients() -> None:
    segmenter = build_segmenter(SegmenterSpec(**TINY, freeze=False), 0).train()
    assert segmenter.body.training
    segmenter(images(segmenter)).square().sum().backward()
    assert segmenter.body.vit.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_a_segmenter_can_be_copied() -> None:
    """For averages of weights; what remembers keys in a Backbone cannot be copied."""
    segmenter = build_segmenter(SegmenterSpec(**TINY), 0)
    x = images(segmenter)
    assert torch.equal(copy.deepcopy(segmenter)(x), segmenter(x))


# --- files --------------------------------------------------------------------------------------

SAVED = {
    "shipped": SegmenterSpec(head="linear", n_classes=3),
    "timm, tuned": SegmenterSpec(**TINY, head="layers", freeze=False),
    "deeplabv3": DEEPLAB,
}


@pytest.mark.parametrize(
    "name",
    [one if one != "deeplabv3" else pytest.param(one, marks=pytest.mark.slow) for one in SAVED],
)
def test_a_saved_model_comes_back(name: str, tmp_path: Path) -> None:
    segmenter = build_segmenter(SAVED[name], 3)
    n_bytes = save_segmenter(segmenter, tmp_path / "m.v1", CLASSES, {"epochs": 3})
    assert n_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    first = (tmp_path / "m.v1.safetensors").read_bytes()
    for path in ("m.v1", "m.v1.safetensors", "m.v1.json"):
        again = load_segmenter(tmp_path / path)
    x = images(segmenter)
    with torch.no_grad():
        assert torch.equal(again(x), segmenter(x))
    assert again.spec == segmenter.spec
    assert again.is_frozen == segmenter.is_frozen
    assert not again.training
    assert again.record["classes"]["names"] == ["cluster 0", "cluster 1", "cluster 2"]
    assert again.record["provenance"] == {"epochs": 3}
    save_segmenter(again, tmp_path / "m.v1", CLASSES, {"epochs": 3})
    assert (tmp_path / "m.v1.safetensors").read_bytes() == first


def test_a_model_of_ones_own_needs_no_other_file(tmp_path: Path) -> None:
    """A backbone of one's own has no name in timm, and is gone when the model is read."""
    own = tmp_path / "own" / "mine.safetensors"
    write_own(own, SMALL)
    segmenter = build_segmenter(SegmenterSpec(backbone=str(own), n_classes=3), 0)
    save_segmenter(segmenter, tmp_path / "model", CLASSES, {})
    shutil.rmtree(own.parent)
    x = images(segmenter)
    assert torch.equal(load_segmenter(tmp_path / "model")(x), segmenter(x))


def test_what_float16_holds_is_stored_as_float16(tmp_path: Path) -> None:
    """The shipped weights are float16: a self-contained model is hardly larger than they are."""
    segmenter = build_segmenter(SegmenterSpec(head="linear", n_classes=3), 0)
    assert save_segmenter(segmenter, tmp_path / "m", CLASSES, {}) < 7_700_000


def test_the_backbone_can_be_left_out_and_is_looked_for_again(tmp_path: Path) -> None:
    segmenter = build_segmenter(SegmenterSpec(head="linear", n_classes=3), 0)
    path = tmp_path / "m"
    assert save_segmenter(segmenter, path, CLASSES, {}, with_backbone=False) < 10_000
    x = images(segmenter)
    assert torch.equal(load_segmenter(path)(x), segmenter(x))
    change(path, lambda record: record["backbone"].update(id="sha256:0123"))
    with pytest.raises(BackboneError, match=r"weights sha256:0123, which are not inside.*Put the"):
        load_segmenter(path)


def test_a_backbone_that_cannot_be_found_again_is_not_left_out(tmp_path: Path) -> None:
    for spec in (SegmenterSpec(**TINY), SegmenterSpec(n_classes=3, freeze=False)):
        with pytest.raises(UsageError, match="only a frozen backbone with known weights"):
            save_segmenter(build_segmenter(spec, 0), tmp_path / "m", CLASSES, {}, False)
    assert not list(tmp_path.iterdir())


def change(path: Path, edit: Any) -> None:
    beside = Path(f"{path}.json")
    record = json.loads(beside.read_text(encoding="utf-8"))
    edit(record)
    beside.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    segmenter = build_segmenter(SegmenterSpec(**TINY, head="linear"), 0)
    save_segmenter(segmenter, tmp_path / "m", CLASSES, {})
    return tmp_path / "m"


def test_a_later_format_is_refused_with_the_cure(saved: Path) -> None:
    change(saved, lambda record: record.update(format=2, datus="9.0"))
    with pytest.raises(BackboneError, match=r"format 2, made with datus 9\.0.*upgrade it"):
        load_segmenter(saved)


EDITS = {
    "a setting of another version": lambda r: r["spec"].update(shiny=1),
    "no spec": lambda r: r.pop("spec"),
    "no backbone": lambda r: r.pop("backbone"),
    "another kind": lambda r: r["spec"].update(kind="unet"),
    "no format": lambda r: r.pop("format"),
    "format 0": lambda r: r.update(format=0),
    "another model": lambda r: r["spec"].update(backbone="vit_small_patch16_224"),
    "other classes": lambda r: r["spec"].update(n_classes=4),
    "no sha256": lambda r: r.update(weights={}),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_record_that_does_not_fit_is_refused(name: str, saved: Path) -> None:
    change(saved, EDITS[name])
    with pytest.raises((BackboneError, UsageError)) as error:
        load_segmenter(saved)
    assert len(str(error.value).splitlines()) <= 2


def test_a_side_that_is_missing_from_an_architecture_is_refused(tmp_path: Path) -> None:
    segmenter = build_segmenter(SegmenterSpec(head="linear", n_classes=3), 0)
    save_segmenter(segmenter, tmp_path / "m", CLASSES, {})
    change(tmp_path / "m", lambda r: r["backbone"]["architecture"].update(img_size=[128]))
    with pytest.raises(BackboneError, match=r"m\.json: "):
        load_segmenter(tmp_path / "m")


def test_damaged_files_are_refused(saved: Path) -> None:
    weights = Path(f"{saved}.safetensors")
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BackboneError, match="its sha256 is not the one in its JSON"):
        load_segmenter(saved)
    Path(f"{saved}.json").write_text("{", encoding="utf-8")
    with pytest.raises(BackboneError, match="copy both files"):
        load_segmenter(saved)
    weights.unlink()
    with pytest.raises(UsageError, match=r"no such file; a model is m\.safetensors and m\.json"):
        load_segmenter(saved)


def test_settings_of_later_versions_have_defaults(saved: Path) -> None:
    """Format 1 as written before a setting was added."""
    change(saved, lambda record: record["spec"].pop("resize"))
    assert load_segmenter(saved).spec.resize == "keep"


def test_classes_must_have_names_and_colours(saved: Path) -> None:
    segmenter = load_segmenter(saved)
    with pytest.raises(UsageError, match="expected 3 names and colours, got 2 and 2"):
        save_segmenter(segmenter, saved, cluster_classes(2), {})
    wrong = {**CLASSES, "colours": [[0, 0, 0], [1, 2, 300], [0, 0, 0]]}
    with pytest.raises(UsageError, match=r"expected colours as \[r, g, b\]"):
        save_segmenter(segmenter, saved, wrong, {})


def test_names_of_tensors_are_part_of_the_format(saved: Path, deeplab: Segmenter) -> None:
    """Whoever renames a part makes older models unreadable: raise FORMAT and convert them."""
    heads = {
        head: sorted(
            name
            for name in build_segmenter(SegmenterSpec(**TINY, head=head), 0).state_dict()
            if name.startswith("head.")
        )
        for head in ("linear", "conv", "layers")
    }
    steps = {"linear": (0,), "conv": (0, 2), "layers": (0, 2, 4)}
    for head, numbers in steps.items():
        assert heads[head] == [f"head.steps.{i}.{p}" for i in numbers for p in ("bias", "weight")]
    assert "body.vit.blocks.0.attn.qkv.weight" in load_segmenter(saved).state_dict()
    names = deeplab.state_dict().keys()
    assert {"body.resnet.conv1.weight", "head.0.convs.0.0.weight", "head.4.weight"} <= names


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "unet"},
        {"head": "deep"},
        {"n_classes": 1},
        {"n_classes": 256},
        {"resize": "crop"},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SegmenterSpec(**wrong)


@pytest.mark.slow
def test_a_backbone_of_one_size_says_so() -> None:
    beit = {"backbone": "beit_base_patch16_224", "weights": "random"}
    with pytest.raises(
        BackboneError, match='only takes images of 224 x 224; use resize = "squash"'
    ):
        build_segmenter(SegmenterSpec(**beit), 0)

"""Weight files made here, in all the shapes that training codes leave behind."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from datus.errors import BackboneError
from datus.models.checkpoints import load_checkpoint, read_checkpoint, strip_prefixes

Tensors = dict[str, torch.Tensor]

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
TINY["num_classes"] = 0


def vit(seed: int = 0, **options: Any) -> VisionTransformer:
    """A tiny ViT; every tensor differs with the seed."""
    return reseeded(VisionTransformer(**{**TINY, "dynamic_img_size": True, **options}), seed)


def reseeded(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    return model


TRAINED = vit(seed=1)


def trained(prefix: str = "") -> Tensors:
    return {prefix + name: value.clone() for name, value in TRAINED.state_dict().items()}


def same(model: torch.nn.Module, state: Tensors | None = None) -> bool:
    expected = trained() if state is None else state
    return all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def load(path: Path, model: Any = None, missing: Any = (), unexpected: Any = ()) -> Any:
    model = model or vit()
    load_checkpoint(model, path, "tiny", missing, unexpected)
    return model


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(BackboneError) as error:
        function(*arguments, **options)
    return str(error.value)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
def test_pickled_files_of_all_suffixes_load(tmp_path: Path, suffix: str) -> None:
    assert same(load(saved(tmp_path / f"model{suffix}", trained())))


def test_a_safetensors_file_loads(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "model.safetensors")
    assert same(load(tmp_path / "model.safetensors"))


def test_half_precision_tensors_become_float32(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in trained().items()}
    save_file(half, tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors")
    assert model.cls_token.dtype == torch.float32
    assert same(model, {name: value.float() for name, value in half.items()})


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert error_of(load, path) == (
        f"{path}: expected a file that ends in .safetensors, .pth, .pt, .bin, .pth.tar"
    )


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    text = error_of(load, tmp_path / name)
    assert text.startswith(f"{tmp_path / name}: ")
    assert "No such file" in text


def test_damaged_safetensors_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(trained(), path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-5], b"\xff" * 64, b"PK\x03\x04 garbage"):
        path.write_bytes(content)
        text = error_of(load, path)
        assert text.startswith(f"{path}: damaged or not a safetensors file (")
        assert text.endswith("); copy or download it again")


def test_damaged_pickles_say_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", trained())
    whole = path.read_bytes()
    older = tmp_path / "older.pth"
    torch.save(trained(), older, _use_new_zipfile_serialization=False)
    damaged = (
        *(b"", whole[: len(whole) // 2], b"PK\x03\x04 garbage", b"\x80", b"<html>not found</html>"),
        *(older.read_bytes()[:50], older.read_bytes()[:-5]),
    )
    for content in damaged:
        path.write_bytes(content)
        assert error_of(load, path) == (
            f"{path}: damaged or not a PyTorch checkpoint; copy or download it again"
        )


class Thing:
    """Stands for code that a pickle could run."""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_needs_more_than_tensors_is_not_opened(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save({**trained(), "x": Thing()}, path, _use_new_zipfile_serialization=zipped)
    assert error_of(load, path) == (
        f"{path}: needs {Thing.__module__}.Thing, which could run code, and was not opened; "
        "convert it to safetensors on a machine you trust"
    )


def test_a_pickle_that_calls_a_function_does_not_run_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = saved(tmp_path / "model.pth", {**trained(), "x": Evil()})
    assert "was not opened" in error_of(load, path)
    path.write_bytes(pickle.dumps({"x": Evil()}))
    assert str(path) in error_of(load, path)
    assert not (tmp_path / "ran").exists()


def test_a_command_line_beside_the_weights_is_let_through(tmp_path: Path) -> None:
    args = argparse.Namespace(lr=0.1, data="images")
    assert same(load(saved(tmp_path / "m.pth", {"model": trained(), "args": args, "epoch": 3})))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dict of tensors, got list; save model.state_dict()"),
        (torch.zeros(2), "expected a dict of tensors, got Tensor; save model.state_dict()"),
        ({}, "holds no tensors under a known name; its keys are none"),
        (
            {"weights": {"a": torch.zeros(1)}, "epoch": 1},
            "holds no tensors under a known name; its keys are weights, epoch",
        ),
    ],
)
def test_files_without_a_model_say_what_they_hold(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = saved(tmp_path / "model.pth", content)
    assert error_of(load, path) == f"{path}: {message}"


# --- wrappers and prefixes ----------------------------------------------------------------------

OTHER = {name: torch.zeros_like(value) for name, value in trained().items()}


def named(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"model": trained()},
        {"state_dict": trained("module."), "optimizer": {"state": {}}},
        {"state_dict": {"model": trained("_orig_mod.")}},
        {"student": named(OTHER, "module.backbone."), "teacher": trained("module.backbone.")},
        {"student": named(OTHER, "backbone."), "teacher": trained("backbone."), "epoch": 9},
        {"model": OTHER, "model_ema": trained()},
        {"encoder": named(OTHER, "module."), "target_encoder": trained("module.")},
        {"teacher": {"state_dict": trained("module.backbone.module.backbone.")}},
        trained("encoder_q."),
        trained("module.base_encoder."),
        trained("model.encoder.backbone."),
    ],
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, content: Any) -> None:
    assert same(load(saved(tmp_path / "model.pth", content)))


def test_of_teacher_and_student_in_one_dict_the_teacher_is_taken(tmp_path: Path) -> None:
    both = named(OTHER, "student.backbone.") | trained("teacher.backbone.")
    path = saved(tmp_path / "model.pth", both)
    assert same(load(path, unexpected=["student.*"]))
    assert 'features.allow_unexpected = ["student.*"]' in error_of(load, path)


def test_prefixes_stay_where_the_model_knows_nothing_behind_them() -> None:
    tensors = {"module.visual.x": torch.zeros(1), "encoder.y": torch.zeros(1)}
    assert list(strip_prefixes(tensors, ["blocks.0.x"])) == list(tensors)


def test_names_outside_the_chosen_prefix_are_kept_apart() -> None:
    tensors = {name: torch.zeros(1) for name in ("module.a", "module.b", "a", "module.head.c")}
    assert sorted(strip_prefixes(tensors, ["a", "b"])) == ["/a", "a", "b", "head.c"]


def test_a_model_that_has_the_prefix_itself_keeps_it() -> None:
    tensors = {"encoder.a": torch.zeros(1), "encoder.b": torch.zeros(1)}
    assert list(strip_prefixes(tensors, ["encoder.a", "encoder.b"])) == ["encoder.a", "encoder.b"]


# --- what does not fit --------------------------------------------------------------------------

CHECK = "Check that features.backbone is the model that the file was made for"


def test_missing_tensors_are_listed(tmp_path: Path) -> None:
    state = trained()
    del state["norm.weight"], state["blocks.1.attn.qkv.bias"]
    path = saved(tmp_path / "model.pth", state)
    assert error_of(load, path) == (
        f"{path}: does not fit tiny: 2 missing (blocks.1.attn.qkv.bias, norm.weight)\n"
        f'{CHECK}, or declare features.allow_missing = ["blocks.*", "norm.*"]'
    )
    with pytest.raises(BackboneError, match=r"1 missing \(blocks.1.attn.qkv.bias\)"):
        load(path, missing=["norm.*"])
    model = load(path, vit(seed=7), missing=["norm.weight", "blocks.*.qkv.bias"])
    assert torch.equal(model.norm.weight, vit(seed=7).norm.weight)
    assert torch.equal(model.norm.bias, TRAINED.norm.bias)


def test_unexpected_tensors_are_listed_ten_at_most(tmp_path: Path) -> None:
    extra = {f"decoder_blocks.{i}.weight": torch.zeros(1) for i in range(9)}
    extra |= {name: torch.zeros(1) for name in ("decoder_embed.bias", "head.mlp.0.bias", "fc.bias")}
    path = saved(tmp_path / "model.pth", trained() | extra)
    listed = ", ".join(f"decoder_blocks.{i}.weight" for i in range(9))
    assert error_of(load, path) == (
        f"{path}: does not fit tiny: 12 unexpected ({listed}, decoder_embed.bias and 2 more)\n"
        f"{CHECK}. If the rest is heads or decoders: "
        'features.allow_unexpected = ["decoder_*", "head.*", "fc.*"]'
    )
    assert same(load(path, unexpected=["decoder_*", "head.*", "fc.*"]))
    assert "1 unexpected (fc.bias)" in error_of(load, path, unexpected=["decoder_*", "head.*"])


def test_other_shapes_are_listed_with_both(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", trained() | {"norm.bias": torch.zeros(7)})
    for allowed in ([], ["*"]):
        assert error_of(load, path, missing=allowed, unexpected=allowed) == (
            f"{path}: does not fit tiny: "
            f"1 of another shape (norm.bias (7,) should be (12,))\n{CHECK}"
        )


def test_a_deeper_model_is_another_backbone_and_not_a_pattern(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", vit(depth=3).state_dict())
    text = error_of(load, path)
    assert text.startswith(f"{path}: does not fit tiny: 12 unexpected (blocks.2.norm1.weight, ")
    assert text.endswith(f"\n{CHECK}")


def test_a_file_of_something_else_does_not_pass_by_patterns(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", {"conv1.weight": torch.zeros(3)})
    assert error_of(load, path, missing=["*"], unexpected=["*"]) == (
        f"{path}: does not fit tiny: no tensor has a name of the model\n{CHECK}"
    )


def test_another_patch_size_is_refused_and_not_resampled(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", vit(patch_size=16).state_dict())
    assert error_of(load, path) == (
        f"{path}: does not fit tiny: it was trained on patches of 16 pixels, the model has 8; "
        "choose the backbone that it was made for"
    )


def test_positions_that_form_no_grid_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", trained() | {"pos_embed": torch.zeros(1, 13, 12)})
    text = error_of(load, path)
    assert text.startswith(f"{path}: does not fit tiny: timm cannot convert it (")
    assert text.endswith("); is features.backbone the model that it was made for?")


# --- conversion ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "n_prefix"), [({}, 1), ({"no_embed_class": True}, 0)])
def test_positions_of_another_grid_are_interpolated(
    tmp_path: Path, options: dict[str, Any], n_prefix: int
) -> None:
    other = vit(seed=2, img_size=56, **options)
    model = load(saved(tmp_path / "m.pth", other.state_dict()), vit(**options))
    positions = other.pos_embed.detach()
    expected = resample_abs_pos_embed(positions, [4, 4], [7, 7], num_prefix_tokens=n_prefix)
    assert model.pos_embed.shape == (1, 16 + n_prefix, 12)
    assert torch.allclose(model.pos_embed, expected)
    assert torch.equal(model.pos_embed[:, :n_prefix], positions[:, :n_prefix])
    assert torch.equal(model.norm.weight, other.norm.weight)


def test_dinov2_names_are_converted(tmp_path: Path) -> None:
    options: dict[str, Any] = {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}
    options["mlp_layer"] = SwiGLUPacked
    target = vit(seed=3, **options)
    state = dict(target.state_dict())
    released = {"mask_token": torch.zeros(1, 12), "register_tokens": state.pop("reg_token")}
    first = torch.full((1, 1, 12), 0.5)
    released["pos_embed"] = torch.cat([first, state.pop("pos_embed")], dim=1)
    released["cls_token"] = state.pop("cls_token") - first
    for name, value in state.items():
        spelled = name.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3.")
        released[spelled] = value
    assert "blocks.0.ls1.gamma" in released
    assert "blocks.1.mlp.w12.weight" in released
    model = load(
        saved(tmp_path / "m.pth", {"teacher": named(released, "backbone.")}), vit(**options)
    )
    for name, value in target.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, atol=1e-6), name


def test_deit3_layer_scale_is_renamed(tmp_path: Path) -> None:
    target = vit(seed=4, init_values=1.0)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for name, value in target.state_dict().items()
    }
    model = load(saved(tmp_path / "m.pth", {"model": state}), vit(init_values=1.0))
    assert same(model, target.state_dict())


def test_dinov3_names_are_converted_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**TINY, "num_reg_tokens": 4, "qkv_bias": False, "init_values": 1.0}
    options |= {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "dynamic_img_size": True}
    target = reseeded(Eva(**options), 5)
    state = {
        name.replace("reg_token", "storage_tokens")
        .replace("gamma_1", "ls1.gamma")
        .replace("gamma_2", "ls2.gamma"): value
        for name, value in target.state_dict().items()
    }
    state |= {"mask_token": torch.zeros(1, 12), "rope_embed.periods": torch.zeros(4)}
    state |= {f"blocks.{i}.attn.qkv.bias": torch.zeros(36) for i in range(2)}
    model = load(saved(tmp_path / "m.pth", state), Eva(**options))
    assert same(model, target.state_dict())
    assert capsys.readouterr().out == ""


def test_reading_keeps_the_names_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", {"teacher": trained("module.")})
    assert list(read_checkpoint(path)) == list(trained("module."))

"""Appearance of patches: against scikit-image and loops, under mirrors, and as parts of models."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab
from torch._subclasses.fake_tensor import FakeTensorMode

from datus.config import FeaturesConfig
from datus.errors import BackboneError, UsageError
from datus.inputs.decode import normalise
from datus.models.appearance import (
    LIMIT,
    N_CHANNELS,
    PLACES,
    SURROUNDINGS,
    FilterBank,
    HybridTransformer,
    colour_channels,
    gradient_channels,
    lab,
)
from datus.models.vit import Backbone, load_backbone
from datus.models.weights import MODELS, own_record
from datus.segmenter.model import SegmenterSpec, build_segmenter
from datus.types import Array

TINY = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 0,
    "dynamic_img_size": True,
}
FILTERS = ("datus_filters", "datus_filters_p4", "datus_filters_p8")


def picture(height: int, width: int, seed: int = 0) -> Array:
    """uint8 (height, width, 3), smooth enough to have colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(4, 0).repeat(4, 1)[:height, :width])


def pixels(image: Array) -> torch.Tensor:
    return torch.from_numpy(normalise(image))[None]


def tiny_hybrid() -> HybridTransformer:
    torch.manual_seed(0)
    model = HybridTransformer(**TINY)
    model.place_keys.copy_(torch.randn(PLACES, PLACES, 16))
    model.channel_mean.copy_(torch.rand(N_CHANNELS))
    model.channel_std.copy_(torch.rand(N_CHANNELS) + 0.5)
    for scale in (model.key_scale, model.token_scale):
        scale.copy_(torch.rand(N_CHANNELS) + 0.5)
    return model.eval()


# --- channels -----------------------------------------------------------------------------------


def test_lab_is_that_of_scikit_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    found = lab(pixels(image))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found * 100, rgb2lab(image), atol=0.02)


def test_colour_channels_equal_loops() -> None:
    image = torch.rand(1, 3, 32, 48, dtype=torch.float64)
    found = colour_channels(image, 8)[0].numpy()
    values, reach = image[0].numpy(), SURROUNDINGS // 2
    for row in range(4):
        for column in range(6):
            patch = values[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            rows = slice(8 * max(0, row - reach), 8 * (row + reach + 1))
            columns = slice(8 * max(0, column - reach), 8 * (column + reach + 1))
            around = values[:, rows, columns]
            expected = [
                *(patch.mean((1, 2)), around.mean((1, 2))),
                *(patch.std((1, 2)), around.std((1, 2))),
            ]
            np.testing.assert_allclose(found[:, row, column], np.concatenate(expected), atol=1e-9)


def test_gradients_tell_stripes_across_from_stripes_down() -> None:
    stripes = torch.zeros(1, 3, 16, 16)
    stripes[..., 2::4] = stripes[..., 3::4] = 1.0
    across, down, both = gradient_channels(stripes, 8)[0, :3].mean((1, 2)).tolist()
    assert across > 0.5
    assert down == both == pytest.approx(1e-3)
    turned = gradient_channels(stripes.mT, 8)[0, :3].mean((1, 2)).tolist()
    assert turned == pytest.approx([down, across, both])


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_a_mirror_image_has_the_same_channels_mirrored(
    patch_px: int, rows: int, columns: int, seed: int
) -> None:
    image = picture(rows * patch_px, columns * patch_px, seed)
    for channels in (colour_channels, gradient_channels) if patch_px > 2 else (colour_channels,):
        found = channels(lab(pixels(image)), patch_px)
        mirrored = channels(lab(pixels(np.ascontiguousarray(image[:, ::-1]))), patch_px)
        assert found.shape[2:] == (rows, columns)
        torch.testing.assert_close(mirrored.flip(3), found, atol=1e-3, rtol=1e-3)


# --- a ViT with appearance ----------------------------------------------------------------------


def test_tokens_are_those_of_the_vit_and_then_the_channels() -> None:
    from timm.models.vision_transformer import VisionTransformer

    model, image = tiny_hybrid(), picture(32, 48)
    plain = VisionTransformer(**TINY).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    tokens = model.forward_features(pixels(image))
    assert tokens.shape == (1, 1 + 24, model.embed_dim) == (1, 25, 16 + N_CHANNELS)
    torch.testing.assert_close(tokens[..., :16], plain.forward_features(pixels(image)))
    colours = lab(pixels(image))
    both = torch.cat([colour_channels(colours, 8), gradient_channels(colours, 8)], 1)
    units = (both.flatten(2).mT - model.channel_mean) / model.channel_std
    expected = units.clamp(-LIMIT, LIMIT) * model.token_scale
    torch.testing.assert_close(tokens[:, 1:, 16:], expected)
    torch.testing.assert_close(tokens[:, 0, 16:], expected.mean(1))


def test_keys_lose_the_mean_of_their_place() -> None:
    backbone = Backbone(tiny_hybrid(), "tiny", "float32", "cpu")
    places = backbone._model.place_keys.clone()
    image = normalise(picture(8 * PLACES, 8 * PLACES))
    (found,) = backbone.features([image], 1, 1)
    backbone._model.place_keys.zero_()
    (plain,) = backbone.features([image], 1, 1)
    np.testing.assert_allclose(plain.keys[..., :16] - found.keys[..., :16], places, atol=1e-5)
    np.testing.assert_array_equal(plain.keys[..., 16:], found.keys[..., 16:])
    assert found.keys.shape[2] == backbone.key_dim == 16 + N_CHANNELS


def test_half_precision_leaves_the_channels_as_they_are() -> None:
    model, image = tiny_hybrid(), normalise(picture(32, 48))
    (exact,) = Backbone(model, "tiny", "float32", "cpu").features([image], 1, 1)
    (rough,) = Backbone(tiny_hybrid(), "tiny", "bfloat16", "cpu").features([image], 1, 1)
    np.testing.assert_array_equal(rough.keys[..., 16:], exact.keys[..., 16:])
    assert not np.array_equal(rough.keys[..., :16], exact.keys[..., :16])


def test_all_is_made_on_the_device_of_the_image() -> None:
    """Tensors of a GPU that is not there: mixing them with those of the CPU is an error."""
    model, filters = HybridTransformer(**TINY), FilterBank(8, 0.5)
    with FakeTensorMode(), torch.device("cuda"):
        for module in (*model.modules(), filters):
            for name, one in module._parameters.items():
                if one is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(one.shape))
            for name, one in module._buffers.items():
                if one is not None:
                    module._buffers[name] = torch.empty(one.shape)
        image, keys = torch.zeros(2, 3, 32, 48), torch.zeros(2, 25, 16)
        whole = model.finished(keys, model.vit_features(image), image)
        found = (*whole, model.forward_features(image), filters(image))
    assert {one.device.type for one in found} == {"cuda"}
    assert found[0].shape == (2, 25, 16 + N_CHANNELS)


# --- the shipped models -------------------------------------------------------------------------


def test_the_shipped_model_sees_a_mirror_image_mirrored() -> None:
    model = load_backbone("datus_t8", "auto", FeaturesConfig())._model
    positions = model.pos_embed[0, 1:].reshape(16, 16, -1)
    torch.testing.assert_close(positions, positions.flip(1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_code_near_colours_nearly_alike(name: str) -> None:
    model = load_backbone(name, "auto", FeaturesConfig())
    side = 4 * model.patch_px

    def code(level: float) -> Array:
        image = np.full((side, side, 3), round(255 * level), np.uint8)
        (grid,) = model.features([normalise(image)], 1, 1)
        assert grid.keys.shape == (4, 4, model.key_dim)
        np.testing.assert_array_equal(grid.keys, grid.tokens)
        np.testing.assert_allclose(grid.cls, grid.tokens.mean((0, 1)), atol=1e-6)
        return np.asarray(grid.keys[1, 1])

    levels = [code(level) for level in (0.3, 0.35, 0.5, 0.9)]
    lengths = [float(one @ one) for one in levels]
    assert lengths == pytest.approx([lengths[0]] * 4), "a colour must not lose its brightness"
    near = [float(levels[0] @ one) / lengths[0] for one in levels]
    assert near == sorted(near, reverse=True)
    assert near[1] > 0.97
    assert near[3] < near[2] < 0.97


@pytest.mark.parametrize("name", FILTERS)
def test_no_two_saturated_colours_have_one_code(name: str) -> None:
    model = load_backbone(name, "auto", FeaturesConfig())
    codes = []
    for colour in itertools.product((0, 255), repeat=3):
        image = np.full((model.patch_px, model.patch_px, 3), colour, np.uint8)
        codes.append(model.features([normalise(image)], 1, 1)[0].keys[0, 0])
    found = np.stack(codes) @ np.stack(codes).T
    found /= found[0, 0]
    assert found[~np.eye(8, dtype=bool)].max() < 0.7


@pytest.mark.parametrize("name", FILTERS)
def test_filters_have_no_random_weights(name: str) -> None:
    with pytest.raises(UsageError, match="learned nothing that could be random: use auto"):
        load_backbone(name, "random", FeaturesConfig())


@pytest.mark.parametrize("name", FILTERS)
def test_the_file_of_filters_holds_the_constants_of_the_code(name: str) -> None:
    found = load_backbone(name, "auto", FeaturesConfig())._model
    fresh = FilterBank(**own_record(MODELS / f"{name}.safetensors")["architecture"])
    assert torch.equal(found.phases, fresh.phases)
    assert torch.equal(found.amplitudes, fresh.amplitudes)


def test_filters_take_any_size_that_patches_fill() -> None:
    model: Any = load_backbone("datus_filters_p4", "auto", FeaturesConfig())
    for rows, columns in ((1, 1), (1, 9), (7, 2)):
        image = normalise(picture(4 * rows, 4 * columns))
        (grid,) = model.features([image], 1, 1)
        assert grid.keys.shape[:2] == (rows, columns)
    with pytest.raises(ValueError, match="multiples of 4"):
        model.features([np.zeros((3, 10, 8), np.float32)], 1, 1)


def test_filters_are_no_ground_for_a_segmenter() -> None:
    with pytest.raises(BackboneError, match="filters have no features that a segmenter could"):
        build_segmenter(SegmenterSpec(backbone="datus_filters_p8", n_classes=3), 0)


def test_the_package_stays_small() -> None:
    assert sum(path.stat().st_size for path in Path(MODELS).iterdir()) < 15_000_000

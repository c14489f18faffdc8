"""pipelines/pretrain: what comes out, that it goes on where it was, and the scales of channels."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "pipelines" / "pretrain"))

import tasks
import train

from datus.config import FeaturesConfig
from datus.errors import UsageError
from datus.inputs.decode import normalise
from datus.models.appearance import N_CHANNELS, PLACES, HybridTransformer
from datus.models.vit import Backbone, load_backbone
from datus.models.weights import weights_id
from datus.types import Array

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TINY.items():
        monkeypatch.setitem(tasks.ARCHITECTURE, name, value)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for place in range(6):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    (folder / "bad.png").write_bytes(b"not an image")
    return folder


def trained(photos: Path, out: str, *more: str) -> Path:
    """Six steps: four of the first phase, two of the second, a checkpoint after every two."""
    folder = photos.parent / out
    given = "--batch 4 --batch-pairs 4 --crop-px 32 --every 2 --threads 1 --views 16 --pairs 8"
    fixed = ["--images", str(photos), "--out", str(folder), "--name", "mine", *given.split(" ")]
    train.main([*fixed, *more])
    return folder / "mine.safetensors"


def test_the_result_is_a_backbone(photos: Path) -> None:
    weights = trained(photos, "out")
    backbone = load_backbone(str(weights), "auto", FeaturesConfig())
    (grid,) = backbone.features([np.zeros((3, 48, 64), np.float32)], 1, 1)
    assert grid.keys.shape == (6, 8, 32 + N_CHANNELS)
    record = json.loads(weights.with_suffix(".json").read_text())
    assert (record["n_views"], record["n_pairs"], record["labels"]) == (16, 8, "none")
    assert (record["n_images"], record["n_unreadable"]) == (7, 1)
    lines = (weights.parent / "training.jsonl").read_text().splitlines()
    found = [(line["step"], len(line["losses"])) for line in map(json.loads, lines)]
    assert found == [(2, 1), (4, 1), (6, 2)]
    with pytest.raises(UsageError, match=r"other.safetensors: no such file; pipelines/pretrain/tr"):
        load_backbone(str(weights.with_name("other.safetensors")), "auto", FeaturesConfig())


@pytest.mark.parametrize("stop", [2, 4])
def test_a_training_that_was_stopped_ends_with_the_same_bytes(
    photos: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    expected = trained(photos, "at once").read_bytes()
    step = train.Training.train

    def stopped(training: train.Training, number: int, views: tasks.Views) -> None:
        if number == stop + 1:
            raise KeyboardInterrupt
        step(training, number, views)

    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            trained(photos, "parts")
    weights = trained(photos, "parts")
    assert weights.read_bytes() == expected
    before = weights.stat().st_mtime_ns
    trained(photos, "parts")
    assert weights.stat().st_mtime_ns == before, "what is finished is left alone"


def test_a_model_goes_on_from_another(photos: Path) -> None:
    first = trained(photos, "first")
    given = ("--start", str(first), "--views", "8", "--pairs", "0")
    weights = trained(photos, "second", *given)
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["start"] == f"mine {weights_id(str(first), 'auto')}"
    assert trained(photos, "again", *given).read_bytes() == weights.read_bytes()
    assert weights.read_bytes() != first.read_bytes()
    with pytest.raises(SystemExit, match="another --out"):
        trained(photos, "second", *given, "--lr", "5e-4")


def test_no_steps_only_measure_the_photographs(photos: Path) -> None:
    first = trained(photos, "first")
    weights = trained(photos, "out", "--start", str(first), "--views", "0", "--pairs", "0")
    before, after = load_file(first), load_file(weights)
    assert before.keys() == after.keys()
    for name, one in after.items():  # the scales were measured on these photographs before
        torch.testing.assert_close(one.float(), before[name].float(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ("vit_small_patch8_224.dino", "expected datus_t8, or a file that this script wrote"),
        ("datus_filters_p8", "it has another embed_dim, depth"),
        ("datus_t8", "it has another embed_dim, depth"),  # TINY is smaller
    ],
)
def test_what_cannot_be_gone_on_from(photos: Path, start: str, text: str) -> None:
    with pytest.raises(SystemExit, match=text):
        trained(photos, "out", "--start", start)


# --- scales of the channels ---------------------------------------------------------------------


def picture(seed: int) -> Array:
    """uint8 (8 * PLACES, 8 * PLACES, 3), smooth enough to have colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (2 * PLACES, 2 * PLACES, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(4, 0).repeat(4, 1))


def encoder() -> HybridTransformer:
    torch.manual_seed(0)
    return HybridTransformer(**{**tasks.ARCHITECTURE, "img_size": 32, "embed_dim": 16}).eval()


def test_calibrated_channels_have_the_spread_that_is_asked_for() -> None:
    images = [picture(seed) for seed in range(train.LEAST_SAMPLE)]
    model = encoder()
    train.calibrate(model, images)
    backbone = Backbone(model, "tiny", "float32", "cpu")
    grids = [backbone.features([normalise(one)], 1, 1)[0] for one in images]
    keys = np.stack([grid.keys for grid in grids]).astype(np.float64)
    spread = np.sqrt((keys[..., :16] ** 2).sum(-1).mean())
    np.testing.assert_allclose(keys[..., :16].mean(0), 0, atol=1e-4)
    colour = keys[..., 16:22]
    found = np.sqrt((colour**2).sum(-1).mean())  # a little is cut off
    assert found == pytest.approx(0.6 * spread, rel=0.05)


@pytest.mark.parametrize("n_images", [1, 3])
@pytest.mark.parametrize("grey", [False, True])
def test_few_or_grey_images_leave_a_usable_model(n_images: int, grey: bool) -> None:
    images = [picture(seed) for seed in range(n_images)]
    if grey:
        images = [np.ascontiguousarray(one[..., :1].repeat(3, 2)) for one in images]
    model = encoder()
    train.calibrate(model, images)
    assert (model.channel_std >= 0.0099).all(), "rounding errors of grey must not become colours"
    assert (model.key_scale > 0).all()
    assert (model.token_scale > 0).all()
    torch.testing.assert_close(
        model.place_keys, model.place_keys[:1, :1].expand_as(model.place_keys)
    )

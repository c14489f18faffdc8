"""Tiles and their blend, folders that go on where they stopped, memory, ONNX."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from typer.testing import CliRunner

from datus.cli.app import app
from datus.errors import BackboneError, TooManyFailures, UsageError
from datus.inputs.decode import normalise, resize_image
from datus.inputs.find import find_images
from datus.segmenter.files import cluster_classes
from datus.segmenter.model import Segmenter, SegmenterSpec, build_segmenter, save_segmenter
from datus.segmenter.predict_folder import Folders, predict_folder
from datus.segmenter.tiles import (
    NATIVE,
    Blend,
    Prediction,
    logits_to_pixels,
    predict_images,
    seen_size,
    tile_starts,
)
from datus.types import Array

SHIPPED = SegmenterSpec(n_classes=3, head="linear", image_px=64)
TINY = SegmenterSpec(backbone="vit_tiny_patch16_224", weights="random", n_classes=3, image_px=64)
CLASSES = {**cluster_classes(3), "colours": [[255, 0, 0], [0, 255, 0], [0, 0, 255]]}
ONE_THREAD = Prediction(threads=1)


def picture(height: int, width: int, seed: int = 0) -> Array:
    """uint8 (height, width, 3): smooth patches of colour with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    fine = resize_image(coarse, (height, width)).astype(np.int32)
    return np.clip(fine + rng.integers(-9, 10, fine.shape), 0, 255).astype(np.uint8)


# --- logits to pixels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 5), (37, 50)), ((28, 20), (28, 20)), ((9, 7), (5, 3)), ((1, 1), (3, 2))]
)
def test_pixels_are_the_argmax_of_bilinear_logits(grid: Any, size: Any) -> None:
    logits = np.random.default_rng(1).normal(size=(6, *grid)).astype(np.float32)
    resized = functional.interpolate(torch.from_numpy(logits)[None], size=size, mode="bilinear")[0]
    labels, sure = logits_to_pixels(logits, *size, confidence=True)
    top = resized.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-4).numpy()
    assert (labels == resized.argmax(0).numpy())[clear].all()
    assert clear.mean() > 0.9
    assert sure is not None
    expected = 255 * resized.softmax(0).max(0).values.numpy()
    np.testing.assert_allclose(sure, expected, atol=0.51)
    assert logits_to_pixels(logits, *size)[1] is None


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(2).normal(size=(3, 8, 9)).astype(np.float32)
    whole = logits_to_pixels(logits, 61, 80, True)
    monkeypatch.setattr("datus.segmenter.tiles.STRIP_PIXELS", 240)
    for one, other in zip(whole, logits_to_pixels(logits, 61, 80, True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_first_of_equal_classes_wins() -> None:
    labels, sure = logits_to_pixels(np.zeros((4, 2, 2), np.float32), 3, 3, True)
    assert (labels == 0).all()
    assert sure is not None
    assert (sure == 64).all()


# --- tiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (10, 10, 2, [0]),
        (3, 10, 2, [0]),
        (11, 10, 2, [0, 1]),
        (18, 10, 2, [0, 8]),
        (19, 10, 2, [0, 4, 9]),
        (30, 10, 0, [0, 10, 20]),
    ],
)
def test_starts_of_tiles_by_hand(length: int, tile: int, overlap: int, expected: Any) -> None:
    assert tile_starts(length, tile, overlap) == expected


def test_tiles_cover_everything_and_share_what_was_asked() -> None:
    for length in range(1, 90):
        for tile, overlap in ((10, 0), (10, 5), (7, 3), (1, 0)):
            starts = tile_starts(length, tile, overlap)
            assert starts[0] == 0
            assert max(length, tile) == starts[-1] + tile
            assert all(0 < b - a <= tile - overlap for a, b in pairwise(starts))


def test_a_blend_of_pieces_of_one_map_is_that_map() -> None:
    whole = np.random.default_rng(3).normal(size=(2, 13, 17)).astype(np.float32)
    blend = Blend(2, 13, 17)
    for top in tile_starts(13, 6, 2):
        for left in tile_starts(17, 8, 3):
            blend.add(whole[:, top : top + 6, left : left + 8], top, left)
    np.testing.assert_allclose(blend.logits(), whole, rtol=1e-5, atol=1e-6)


def test_a_tile_counts_less_at_its_edge() -> None:
    blend = Blend(1, 1, 6)
    blend.add(np.zeros((1, 1, 4), np.float32), 0, 0)
    blend.add(np.ones((1, 1, 4), np.float32), 0, 2)
    np.testing.assert_allclose(blend.logits()[0, 0], [0, 0, 1 / 3, 2 / 3, 1, 1], rtol=1e-6)


# --- images -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return build_segmenter(SHIPPED, 0)


def test_an_image_is_seen_as_in_training_or_as_asked(segmenter: Segmenter) -> None:
    assert seen_size(segmenter, 200, 100, Prediction()) == (88, 48)
    assert seen_size(segmenter, 200, 100, Prediction(image_px=128)) == (184, 88)
    assert seen_size(segmenter, 203, 99, Prediction(image_px=NATIVE)) == (200, 96)
    assert seen_size(segmenter, 2, 99, Prediction(image_px=NATIVE)) == (8, 96)


def test_one_view_equals_the_model_by_hand(segmenter: Segmenter) -> None:
    image = picture(50, 81)
    ((labels, sure),) = predict_images(segmenter, [image], Prediction(confidence=True))
    size = seen_size(segmenter, 50, 81, Prediction())
    pixels = torch.from_numpy(normalise(resize_image(image, size)))[None]
    with torch.no_grad():
        logits = functional.interpolate(segmenter(pixels), size=(50, 81), mode="bilinear")[0]
    assert (labels == logits.argmax(0).numpy()).mean() > 0.999
    assert sure is not None
    np.testing.assert_allclose(sure, 255 * logits.softmax(0).max(0).values.numpy(), atol=0.6)


def test_threads_batch_and_company_change_no_byte(segmenter: Segmenter) -> None:
    images = [picture(90, 120, 1), picture(33, 40, 2), picture(90, 120, 3)]
    small = {"image_px": NATIVE, "tile_px": 64, "overlap_px": 16, "confidence": True}
    expected = [
        predict_images(segmenter, [one], Prediction(**small, threads=1))[0] for one in images
    ]
    for threads, batch in ((1, 3), (2, 1), (3, 8)):
        found = predict_images(segmenter, images, Prediction(**small, threads=threads, batch=batch))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def trained(spec: SegmenterSpec) -> Segmenter:
    """A probe that tells bright, reddish and other patches apart, fitted on made pictures."""
    segmenter = build_segmenter(spec, 0)
    side = 160 // segmenter.stride * segmenter.stride
    images = [picture(side, side, seed) for seed in range(10, 18)]
    pixels = torch.from_numpy(np.stack([normalise(one) for one in images]))
    features = segmenter.features(pixels)
    cells = side // segmenter.stride
    seen = np.stack([resize_image(one, (cells, cells)) for one in images]).astype(np.float32)
    target = torch.from_numpy(colour_class(seen))
    optimiser = torch.optim.Adam(segmenter.head.parameters(), 1e-2)
    for _ in range(60):
        loss = functional.cross_entropy(segmenter.head(features), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return segmenter.eval()


def colour_class(pixels: Array) -> Array:
    """int64: 0 bright, 1 more red than blue, 2 the rest."""
    bright = pixels.mean(-1) > 140
    red = pixels[..., 0] > pixels[..., 2]
    return np.where(bright, 0, np.where(red, 1, 2)).astype(np.int64)


@pytest.mark.slow
def test_tiles_agree_with_one_view() -> None:
    """Tiles see less around them, and a ViT sees all of a view: they cannot be the same. The
    share of pixels that differ is stated in docs/predict.md for a trained model."""
    segmenter = trained(SHIPPED)
    image = picture(512, 512, 42)
    whole = Prediction(image_px=NATIVE, tile_px=512)
    tiled = Prediction(image_px=NATIVE, tile_px=320, overlap_px=128)
    (one, _), (other, _) = (predict_images(segmenter, [image], s)[0] for s in (whole, tiled))
    share = float((one != other).mean())
    right = float((other == colour_class(image.astype(np.float32))).mean())
    print(f"tiled against untiled at 512 px: {share:.2%} differ; right: {right:.1%}")
    assert len(np.unique(one)) == 3
    assert share < 0.08


def test_many_tiles_have_a_progress_of_their_own(segmenter: Segmenter) -> None:
    said: list[tuple[str, int, str]] = []
    steps: list[int] = []

    @contextmanager
    def bar(*given: Any) -> Iterator[Any]:
        said.append(given)
        yield steps.append

    small = Prediction(image_px=NATIVE, tile_px=16, overlap_px=0, threads=1)
    predict_images(segmenter, [picture(96, 96)], small, bar)
    assert said == [("tiles", 36, "tile")]
    assert sum(steps) == 36
    predict_images(segmenter, [picture(32, 32)], small, bar)
    assert len(said) == 1


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_a_tile_has_the_positions_of_its_place_in_the_view(name: str) -> None:
    """Without blocks a token is its patch and its position: tiles must be cut out of the whole."""
    spec = SegmenterSpec(backbone=name, weights="random", head="linear", n_classes=3)
    probe = build_segmenter(spec, 0)
    probe.body.vit.blocks = torch.nn.Sequential()
    side = probe.stride
    pixels = torch.randn(1, 3, 20 * side, 24 * side, generator=torch.Generator().manual_seed(0))
    whole = probe.features(pixels)
    part = pixels[..., 8 * side : 17 * side, 10 * side : 20 * side]
    with probe.placed([(8, 10)], (9, 10), (20, 24)):
        found = probe.features(part)
    torch.testing.assert_close(found, whole[..., 8:17, 10:20], atol=1e-4, rtol=1e-4)
    assert (probe.features(part) - found).abs().max() > 1e-3


def test_not_a_number_is_an_error(segmenter: Segmenter) -> None:
    broken = build_segmenter(SHIPPED, 0)
    with torch.no_grad():
        broken.head.steps[0].bias.fill_(float("nan"))
    with pytest.raises(BackboneError, match="infinite values or NaN"):
        predict_images(broken, [picture(40, 40)], ONE_THREAD)


@pytest.mark.parametrize(
    "wrong",
    [{"image_px": -2}, {"tile_px": 0}, {"overlap_px": 300}, {"threads": -1}, {"batch": 0}],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Prediction(**wrong)


# --- folders ------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, segmenter: Segmenter) -> Path:
    save_segmenter(segmenter, tmp_path / "model", CLASSES, {})
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.jpg", "c.png")):
        Image.fromarray(picture(30 + number, 41, number)).save(folder / name)
    return folder


def go(model: Path, photos: Path, **more: Any) -> Any:
    folders = Folders(photos, photos.parent / "out", **more)
    return predict_folder(model, folders, ONE_THREAD)


def bytes_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_masks_have_the_images_size_and_the_colours_of_the_classes(
    model: Path, photos: Path, segmenter: Segmenter
) -> None:
    found = go(model, photos, confidence=photos.parent / "sure")
    assert (found.made, found.kept, found.failures) == (3, 0, {})
    out = photos.parent / "out"
    assert sorted(bytes_in(out)) == ["a.png", "c.png", "predict.jsonl", "sub/b.png"]
    assert sorted(bytes_in(photos.parent / "sure")) == ["a.png", "c.png", "sub/b.png"]
    for path in find_images(photos).paths:
        image = np.array(Image.open(photos / path))
        mask = Image.open((out / path).with_suffix(".png"))
        assert mask.mode == "P"
        assert mask.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
        assert mask.getpalette()[-3:] == [0, 0, 0]
        settings = Prediction(confidence=True)
        ((labels, sure),) = predict_images(segmenter, [image], settings)
        np.testing.assert_array_equal(np.array(mask), labels)
        second = Image.open((photos.parent / "sure" / path).with_suffix(".png"))
        np.testing.assert_array_equal(np.array(second), sure)


def test_finished_masks_are_kept_and_what_is_missing_is_made(model: Path, photos: Path) -> None:
    go(model, photos)
    out = photos.parent / "out"
    first = bytes_in(out)
    assert go(model, photos).kept == 3
    (out / "a.png").unlink()
    (out / "c.png").write_bytes(b"half")
    Image.fromarray(picture(20, 20)).save(photos / "sub" / "d.png")
    found = go(model, photos)
    assert (found.made, found.kept) == (3, 1)
    again = bytes_in(out)
    assert {name: again[name] for name in first if name != "predict.jsonl"} == {
        name: data for name, data in first.items() if name != "predict.jsonl"
    }


def test_a_changed_image_is_made_again_and_a_touched_one_is_not(model: Path, photos: Path) -> None:
    go(model, photos)
    (photos / "a.png").touch()
    Image.fromarray(picture(50, 50)).save(photos / "c.png")
    found = go(model, photos)
    assert (found.made, found.kept) == (1, 2)


def test_another_model_or_setting_makes_all_again(model: Path, photos: Path) -> None:
    go(model, photos)
    save_segmenter(build_segmenter(SHIPPED, 1), model, CLASSES, {})
    assert go(model, photos).made == 3
    folders = Folders(photos, photos.parent / "out")
    assert predict_folder(model, folders, Prediction(image_px=96, threads=1)).made == 3
    assert predict_folder(model, folders, Prediction(image_px=96, threads=2, batch=1)).kept == 3


def test_confidence_asked_for_later_is_made(model: Path, photos: Path) -> None:
    go(model, photos)
    assert go(model, photos, confidence=photos.parent / "sure").made == 3
    assert go(model, photos, confidence=photos.parent / "sure").kept == 3


def test_a_kill_costs_one_group_at_most(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datus.segmenter.predict_folder.GROUP_IMAGES", 1)
    seen: list[int] = []

    def killed(segmenter: Segmenter, images: list[Array], settings: Prediction, bar: Any) -> Any:
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return predict_images(segmenter, images, settings)

    with monkeypatch.context() as patch:
        patch.setattr("datus.segmenter.predict_folder.predict_images", killed)
        with pytest.raises(KeyboardInterrupt):
            go(model, photos)
    list_file = photos.parent / "out" / "predict.jsonl"
    list_file.write_bytes(list_file.read_bytes() + b'{"image": "c", "sha')
    found = go(model, photos)
    assert (found.made, found.kept) == (1, 2)
    assert all(json.loads(line) for line in list_file.read_text(encoding="utf-8").splitlines())


def test_bad_images_are_recorded_and_the_others_go_on(model: Path, photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    whole = (photos / "c.png").read_bytes()
    (photos / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TooManyFailures, match=r"2 images could not be used, 1 allowed: bad: "):
        go(model, photos, max_failed=1)
    found = go(model, photos, max_failed=2)
    assert set(found.failures) == {"bad", "c"}
    assert found.kept == 2
    text = (photos.parent / "out" / "predict.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["image"] for line in lines if "failed" in line} == {"bad", "c"}
    (photos / "c.png").write_bytes(whole)
    assert go(model, photos, max_failed=1).made == 1


def test_files_of_others_are_not_written_over(model: Path, photos: Path) -> None:
    out = photos.parent / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "b.png").write_bytes(b"a true mask, drawn by hand")
    with pytest.raises(UsageError, match=r"b\.png: would be written over.*choose another --out"):
        go(model, photos)
    assert list(bytes_in(out)) == ["sub/b.png"]


def test_masks_do_not_go_where_images_or_confidence_are(model: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="lies in the folder of the images"):
        predict_folder(model, Folders(photos, photos / "masks"), ONE_THREAD)
    with pytest.raises(UsageError, match="which holds masks"):
        go(model, photos, confidence=photos.parent / "out" / "sure")


def test_one_image(model: Path, photos: Path) -> None:
    found = predict_folder(model, Folders(photos / "a.png", photos.parent / "out"), ONE_THREAD)
    assert found.made == 1
    assert (photos.parent / "out" / "a.png").is_file()


# --- commands -----------------------------------------------------------------------------------


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_command_says_what_it_did(model: Path, photos: Path) -> None:
    out = photos.parent / "out"
    done = call("predict", model, photos, "--out", out, "--image-px", "native", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"{out}: 3 masks made, 0 were there" in done.output
    (photos / "bad.png").write_bytes(b"")
    again = ("predict", model, photos, "--out", out, "--image-px", "native")
    assert call(*again).exit_code == 1
    done = call(*again, "--max-failed", 1)
    assert done.exit_code == 0
    assert "left out: bad: " in done.output


def test_wrong_arguments_end_with_two(model: Path, photos: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert call("predict", model, photos, *out, "--image-px", "big").exit_code == 2
    assert call("predict", tmp_path / "none", photos, *out).exit_code == 2
    assert call("predict", model, tmp_path / "none", *out).exit_code == 2
    assert call("export-onnx", model, *out, "--size", "12").exit_code == 2


# --- memory -------------------------------------------------------------------------------------

MEASURED = """
import re, sys, time
from pathlib import Path
from datus.segmenter.predict_folder import Folders, predict_folder
from datus.segmenter.tiles import NATIVE, Prediction
model, photos, out, sure = map(Path, sys.argv[1:5])
settings = Prediction(image_px=int(sys.argv[5]), threads=2, device="cpu")
start = time.perf_counter()
predict_folder(model, Folders(photos, out, sure), settings)
# not ru_maxrss: a process that was started by vfork begins with its parent's
peak = re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(int(peak) / 2**20, time.perf_counter() - start)
"""


def measured(model: Path, photos: Path, image_px: int) -> tuple[float, float]:
    """(GiB at the peak, seconds) of a process that predicts a folder."""
    folders = (photos, photos.parent / f"out{image_px}", photos.parent / f"sure{image_px}")
    command = [sys.executable, "-c", MEASURED, *map(str, (model, *folders, image_px))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, seconds = (float(text) for text in done.stdout.split())
    return peak, seconds


@pytest.mark.slow
@pytest.mark.parametrize("image_px", [0, NATIVE])
def test_24_million_pixels_take_less_than_two_gigabytes(image_px: int, tmp_path: Path) -> None:
    """About 1.1: torch takes 0.4 of it, the image 0.1; patches of 16 to be done in minutes."""
    spec = replace(TINY, n_classes=11, image_px=224)
    save_segmenter(build_segmenter(spec, 0), tmp_path / "model", cluster_classes(11), {})
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture(4000, 6000)).save(tmp_path / "photos" / "large.jpg")
    peak, seconds = measured(tmp_path / "model", tmp_path / "photos", image_px)
    print(f"image_px {image_px}: {peak:.2f} GiB, {seconds:.0f} s")
    assert peak < 2.0
    with Image.open(tmp_path / f"out{image_px}" / "large.png") as mask:
        assert mask.size == (6000, 4000)

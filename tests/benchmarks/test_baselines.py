"""The baselines on drawn pictures whose groups are known."""

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datus.types import IGNORE, Array, FeatureGrid

ROOT = Path(__file__).resolve().parents[2]
RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (20, 40, 210)


def load() -> Any:
    spec = importlib.util.spec_from_file_location("baselines", ROOT / "benchmarks" / "baselines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["baselines"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


baselines = load()

CLASSES = """
name = "bands"
[[classes]]
name = "red"
colour = [255, 0, 0]
ids = [0]
[[classes]]
name = "green"
colour = [0, 255, 0]
ids = [1]
[[classes]]
name = "blue"
colour = [0, 0, 255]
ids = [2]
"""


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Pictures of three coloured bands in different order: three with truth, one without."""
    rng = np.random.default_rng(0)
    (tmp_path / "classes.toml").write_text(CLASSES)
    for number, (height, width) in enumerate([(24, 40), (30, 30), (16, 64), (20, 20)]):
        order = rng.permutation(3)
        truth = order[np.arange(height) * 3 // height].astype(np.uint8)[:, None].repeat(width, 1)
        noise = rng.integers(-15, 16, (height, width, 3))
        image = (np.array([RED, GREEN, BLUE])[truth] + noise).clip(0, 255).astype(np.uint8)
        truth[0, :3] = IGNORE
        for folder, array in (("images", image), ("truth", truth)):
            path = tmp_path / folder / "sub" / f"{number}.x.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if folder == "images" or number < 3:
                Image.fromarray(array).save(path)
    return tmp_path


def run(scenes: Path, *more: str) -> int:
    folders = {"images": "images", "truth": "truth", "classes": "classes.toml"}
    paths = [part for name, path in folders.items() for part in (f"--{name}", str(scenes / path))]
    code: int = baselines.main([*paths, "--clusters", "3", *more])
    return code


def test_colours_that_are_the_classes_score_100_under_every_rule(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scenes, "--out", str(scenes / "out.json")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["baseline", "rule", "mIoU", "acc", "F1", "coverage"]
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + 2 * 5
    for line in lines[2:7]:
        assert line.startswith("colour  ")
        assert line.split()[-4:] == ["100.00"] * 4
    found = json.loads((scenes / "out.json").read_text())
    assert (found["n_images"], found["n_scored"]) == (4, 3)
    strict = found["baselines"]["colour"]["hungarian_strict"]
    assert (strict["miou"], strict["n_pixels"]) == (100.0, 24 * 40 + 30 * 30 + 16 * 64 - 9)


def test_the_same_seed_gives_the_same_results(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "SAMPLE", 400)  # so that the sample is drawn, not all there is
    for name in ("first.json", "second.json"):
        assert run(scenes, "--out", str(scenes / name)) == 0
    assert (scenes / "first.json").read_bytes() == (scenes / "second.json").read_bytes()


def test_pixel_features_by_hand() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[1, 3] = (255, 0, 51)
    got = baselines.pixel_features(image, True, np.array([0, 7]))
    np.testing.assert_allclose(got, np.array([[0] * 5, [1, 0, 0.2, 0.5, 0.75]]), rtol=1e-6)
    np.testing.assert_allclose(baselines.pixel_features(image, False, np.array([7])), [[1, 0, 0.2]])
    assert got.dtype == np.float32


def test_nearest_equals_plain_distances() -> None:
    rng = np.random.default_rng(0)
    points, centroids = rng.normal(size=(50, 5)), rng.normal(size=(7, 5))
    want = ((points[:, None] - centroids) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(baselines.nearest(points, centroids), want)


def test_strips_change_no_pixel(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = tuple(baselines.find_items(scenes / "images", scenes / "truth"))
    job = baselines.Job(items, baselines.load_classes(scenes / "classes.toml"), 5, 0)
    whole = baselines.colour_baseline(job, True)[0].counts
    monkeypatch.setattr(baselines, "STRIP_PIXELS", 77)
    np.testing.assert_array_equal(baselines.colour_baseline(job, True)[0].counts, whole)


def test_a_sample_is_spread_over_the_images(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = tuple(baselines.find_items(scenes / "images", scenes / "truth"))
    job = baselines.Job(items, baselines.load_classes(scenes / "classes.toml"), 3, 0)
    monkeypatch.setattr(baselines, "SAMPLE", 40)
    first, second = (baselines.sample_rows(job, item, 900) for item in items[:2])
    assert len(first) == len(second) == 10
    assert len(set(first.tolist())) == 10
    assert first.tolist() != second.tolist()
    np.testing.assert_array_equal(baselines.sample_rows(job, items[0], 8), np.arange(8))


class MeanColour:
    """A backbone whose tokens are the mean colour of each patch."""

    patch_px = 4

    def features(self, images: Sequence[Array], n_threads: int, batch: int) -> list[FeatureGrid]:
        grids = []
        for image in images:
            _, height, width = image.shape
            patches = image.reshape(3, height // 4, 4, width // 4, 4).mean(axis=(2, 4))
            tokens = np.ascontiguousarray(patches.transpose(1, 2, 0))
            grids.append(FeatureGrid(keys=tokens, tokens=tokens, cls=np.zeros(3, np.float32)))
        return grids


def test_patch_tokens_are_clustered_and_painted_at_the_image_size(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def load_backbone(*args: object) -> MeanColour:
        asked.extend(args)
        return MeanColour()

    fake: ModuleType | SimpleNamespace = SimpleNamespace(load_backbone=load_backbone)
    monkeypatch.setitem(sys.modules, "datus.models.vit", fake)
    more = ["--backbone", "mean", "--weights", "none", "--image-px", "96", "--seed", "3"]
    assert run(scenes, *more, "--out", str(scenes / "out.json")) == 0
    assert (asked[0], asked[1], asked[-1]) == ("mean", "none", 3)
    strict = json.loads((scenes / "out.json").read_text())["baselines"]["patch tokens"]
    assert strict["hungarian_strict"]["n_pixels"] == 24 * 40 + 30 * 30 + 16 * 64 - 9
    assert strict["hungarian_strict"]["accuracy"] > 90  # blocks of a patch cut the borders of bands


def test_what_is_wrong_is_one_line_and_the_exit_code(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = scenes / "empty"
    empty.mkdir()
    assert run(scenes, "--truth", str(empty)) == 2
    assert capsys.readouterr().err == (
        f"{empty}: no mask has the name of an image in {scenes / 'images'}\n"
    )
    broken = scenes / "truth" / "sub" / "0.x.png"
    Image.fromarray(np.full((5, 5), 0, np.uint8)).save(broken)
    assert run(scenes) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{broken}: truth is 5x5, the image 24x40")
    assert error.count("\n") == 1

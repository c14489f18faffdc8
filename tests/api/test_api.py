"""datus.mine and its neighbours: the command line's work and bytes, as functions."""

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SPEED, Dataset, make_dataset
from typer.testing import CliRunner

import datus
from datus.cli.app import app
from datus.errors import ConfigError, ImageError, TooManyFailures, UsageError, WorkError

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = {name: value for name, value in SPEED.items() if name != "clusters.k"}


def mine(images: Any, run: Path, **more: Any) -> datus.Result:
    more["settings"] = {**SETTINGS, **more.get("settings", {})}
    return datus.mine(images, more.pop("clusters", 3), **{"out": run, "progress": False, **more})


def outputs(run: Path) -> dict[str, str]:
    """Hash of every mask, array and report; without what holds times."""
    wanted = (".png", ".safetensors", "report.json", "report.html", "report.md", "index.jsonl")
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name.endswith(wanted) and "latest" not in path.parts
    }


def test_the_same_bytes_as_the_command_line(tiny: Dataset, tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "run", tmp_path / "b" / "run"
    done = CliRunner().invoke(app, ["run", *tiny.arguments(one)])
    assert done.exit_code == 0, done.output
    result = mine(tiny.images, other, truth=tiny.truth, classes=tiny.classes)
    assert outputs(one) == outputs(other)
    assert len(outputs(one)) > 20
    assert result.folder == str(other)
    assert Path(result.report).is_file()


def test_silence_and_progress(
    tiny: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine(tiny.images, tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    datus.mine(tiny.images, 4, out=tmp_path / "run", settings=SETTINGS)
    out, err = capfd.readouterr()
    assert out == ""
    assert "clusters (K = 4)" in err


def test_a_second_call_computes_nothing(tiny: Dataset, tmp_path: Path) -> None:
    mine(tiny.images, tmp_path / "run", clusters=[3, 2])
    reports = sorted((tmp_path / "run").rglob("shard-*.json"))
    before = {path: path.stat().st_mtime_ns for path in reports}
    result = mine(tiny.images, tmp_path / "run", clusters=[3, 2])
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert result.ks == (3, 2)
    mine(tiny.images, tmp_path / "run", clusters=2)
    stages = {path.parts[-3] for path in (tmp_path / "run").rglob("shard-*.json")} - {"report"}
    made = [p for p in (tmp_path / "run").rglob("shard-*.json") if p not in before]
    assert {path.parts[-3] for path in made} == {"report"}, stages


def test_arrays_of_mixed_sizes_in_the_same_sizes_out(tiny: Dataset, tmp_path: Path) -> None:
    paths = sorted(tiny.images.rglob("*.png"))
    arrays = [np.asarray(Image.open(path)) for path in paths]
    arrays[0] = arrays[0][:, :, 0]  # one of them grey
    assert len({array.shape for array in arrays}) > 5
    truth = [np.asarray(Image.open(p)) for p in sorted(tiny.truth.rglob("*.png"))]
    result = mine(arrays, tmp_path / "run", truth=truth, classes=["a", "b", "c"])
    assert [one.mask.shape for one in result] == [array.shape[:2] for array in arrays]
    assert [one.image_id for one in result] == [f"{n:06d}" for n in range(len(arrays))]
    assert np.array_equal(result[1].image, arrays[1])
    assert np.array_equal(result[2].truth, truth[2])
    assert "hungarian_strict" in result.scores
    again = mine([Image.fromarray(array) for array in arrays], tmp_path / "run")
    assert np.array_equal(again[3].mask, result[3].mask)


def test_a_list_of_files_gives_the_masks_of_the_folder(tiny: Dataset, tmp_path: Path) -> None:
    paths = sorted(tiny.images.rglob("*.png"))
    listed = mine(paths, tmp_path / "listed" / "run")
    folder = mine(tiny.images, tmp_path / "folder" / "run")
    assert [one.image_id for one in listed] == [one.image_id for one in folder]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(listed, folder, strict=True))


def test_images_that_can_be_read_once(tiny: Dataset, tmp_path: Path) -> None:
    paths = sorted(tiny.images.rglob("*.png"))
    result = mine((np.asarray(Image.open(path)) for path in paths), tmp_path / "run")
    assert len(result) == len(paths)


def test_a_run_that_nobody_placed_is_in_the_cache(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATUS_CACHE", str(tmp_path))
    result = datus.mine(tiny.images, 3, settings=SETTINGS, progress=False)
    assert Path(result.folder).parent == tmp_path / "runs"
    result.remove()
    assert not Path(result.folder).exists()


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        (
            {"settings": {"graphs.treshold": 0.5}},
            ConfigError,
            "graphs.treshold: unknown setting; did you mean graphs.threshold?",
        ),
        (
            {"settings": {"clusters.k": [4]}},
            UsageError,
            "settings: clusters.k has an argument of its own: use clusters=",
        ),
        (
            {"out": "s3://bucket/run"},
            UsageError,
            "out: expected a folder of this machine, got s3://bucket/run: datus run takes it",
        ),
        ({"clusters": 256}, ConfigError, "clusters.k: expected 1 to 255, got 256"),
        ({"clusters": "12"}, ConfigError, "clusters.k: expected int, got '12'"),
        ({"clusters": 2.5}, UsageError, "clusters: expected a number or several, got 2.5"),
        ({"clusters": np.int64(256)}, ConfigError, "clusters.k: expected 1 to 255, got 256"),
        (
            {"truth": "masks"},
            UsageError,
            "truth and classes go together: classes say what the true ids mean",
        ),
        (
            {"settings": {"speed.shards": "1/2"}},
            UsageError,
            "speed.shards: a share of a run has no result: leave it empty",
        ),
    ],
)
def test_wrong_arguments(
    tiny: Dataset, tmp_path: Path, more: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as found:
        mine(tiny.images, tmp_path / "run", **more)
    assert str(found.value) == text


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        mine(tmp_path / "nowhere", tmp_path / "run")
    assert str(error.value) == f"{tmp_path / 'nowhere'}: no such folder; check the path"


def test_bad_images_end_the_call_or_are_listed(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", ("a", "b", "c", "d"))
    (dataset.images / "torn.png").write_bytes(b"no image")
    with pytest.raises(TooManyFailures, match="index: 1 image cannot be used, 0 are allowed"):
        mine(dataset.images, tmp_path / "run")
    result = mine(dataset.images, tmp_path / "run", settings={"speed.max_failed": 1})
    assert list(result.failures) == ["torn"]
    assert len(result) == 4
    with pytest.raises(LookupError, match=r"^torn: left out: "):
        result["torn"]


# --- load ---------------------------------------------------------------------------------------


def test_load_is_what_mine_gave(tiny: Dataset, tmp_path: Path) -> None:
    result = mine(tiny.images, tmp_path / "run", truth=tiny.truth, classes=tiny.classes)
    found = datus.load(tmp_path / "run")
    assert repr(found) == repr(result)
    assert np.array_equal(found["b/c1"].image, result["b/c1"].image)
    assert np.array_equal(found["b/c1"].truth, result["b/c1"].truth)
    shown = ("features", "graphs", "segments", "embeddings", "masks", "data", "seed", "preset")
    for name in shown[:5]:
        assert getattr(found.config, name) == getattr(result.config, name)
    assert found.config.data.images == str(tiny.images)


def test_load_of_a_run_of_the_command_line(finished: Path, tiny: Dataset) -> None:
    found = datus.load(finished)
    assert found[0].mask.ndim == 2
    with pytest.raises(UsageError) as error:
        _ = found[0].image
    expected = "this run does not know its images: datus.load(RUN, images=FOLDER)"
    assert str(error.value) == expected
    found = datus.load(f"file://{finished}", images=tiny.images)
    assert found[0].image.shape[:2] == found[0].mask.shape
    assert len(found.scores) >= 4  # the counts are in the report, the truth is not needed


def test_load_of_what_is_no_run(tmp_path: Path, run_copy: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder; datus run or"):
        datus.load(tmp_path / "nothing")
    shutil.rmtree(run_copy / "report")
    with pytest.raises(WorkError, match="its last run is not finished"):
        datus.load(run_copy)


def test_load_refuses_a_run_whose_images_changed_since(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", ("a", "b", "c", "d"))
    mine(dataset.images, tmp_path / "run")
    (dataset.images / "a.png").unlink()
    config = datus.Config.load(
        None,
        {**SPEED, "data.images": str(dataset.images), "run_dir": str(tmp_path / "run")},
    )
    datus.run(config, datus.Store(config.run_path), until="segments")
    with pytest.raises(WorkError, match="its last run is not finished"):
        datus.load(tmp_path / "run")


# --- evaluate, export, compare ------------------------------------------------------------------


def test_evaluate_arrays_and_folders_alike(tiny: Dataset) -> None:
    paths = sorted(tiny.truth.rglob("*.png"))
    arrays = [np.asarray(Image.open(path)) for path in paths]
    masks = [np.where(array == 255, 0, array) for array in arrays]
    by_names = datus.evaluate(masks, arrays, ["x", "y", "z"])
    by_table = datus.evaluate(masks, arrays, tiny.classes)
    by_folder = datus.evaluate(tiny.truth, tiny.truth, tiny.classes)
    for scores in (by_names, by_table, by_folder):
        assert scores["hungarian_strict"].miou == 100.0
        assert scores["majority"].accuracy == 100.0


def test_evaluate_refusals(tiny: Dataset) -> None:
    one, other = np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)
    with pytest.raises(UsageError) as error:
        datus.evaluate([one], [], ["a"])
    assert str(error.value) == "expected as many masks as true masks, got 1, 0"
    with pytest.raises(ImageError, match=r"^mask 1: "):
        datus.evaluate([one, one], [one, other], ["a"])
    with pytest.raises(ImageError, match=r"^mask 0: "):
        datus.evaluate([one], [one + 1], ["a"])
    with pytest.raises(UsageError, match="expected two folders or two lists of arrays"):
        datus.evaluate(tiny.truth, [one], ["a"])
    with pytest.raises(UsageError, match="folders of truth need a class table"):
        datus.evaluate(tiny.truth, tiny.truth, ["a"])


def test_export(finished: Path, tiny: Dataset, tmp_path: Path) -> None:
    done = datus.export(finished, "coco", tmp_path / "coco")
    assert done.n_images == 10
    assert not (tmp_path / "coco" / "images").exists()
    datus.export(finished, "png", tmp_path / "png", images=tiny.images)
    assert (tmp_path / "png/images/training/a0.png").is_file()
    with pytest.raises(UsageError, match="expected one of png, coco"):
        datus.export(finished, "tiff", tmp_path / "x")


def test_compare_runs(tiny: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = {"data.images": tiny.images, "data.truth": tiny.truth, "data.classes": tiny.classes}
    settings = {**SETTINGS, **{name: str(path) for name, path in where.items()}}
    del settings["features.backbone"]
    settings["run_dir"] = str(tmp_path / "run")
    found = datus.compare_runs(
        lists={"backbones": "datus_t8", "k": "2,3"},
        settings=settings,
        out=tmp_path / "tables",
        progress=False,
    )
    assert [cell.k for cell in found.results] == [2, 3]
    assert (tmp_path / "tables" / "table.md").is_file()
    assert capfd.readouterr() == ("", "")


# --- the package --------------------------------------------------------------------------------


def test_importing_is_light_and_complete(tmp_path: Path) -> None:
    code = (
        "import sys, datus; assert 'numpy' not in sys.modules; "
        "[getattr(datus, name) for name in datus.__all__]; "
        "assert not {'torch', 'timm', 'faiss'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(datus.__all__) <= 15
    with pytest.raises(AttributeError, match="module 'datus' has no attribute 'mines'"):
        _ = datus.mines


def test_every_public_name_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    for name in datus.__all__:
        assert name.startswith("__") or re.search(rf"`(datus\.)?{name}\b", page), name
        assert name.startswith("__") or getattr(datus, name).__doc__


def test_the_readmes_example_runs(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    monkeypatch.setenv("DATUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny.images, "photos")
    exec(compile(code, "README.md", "exec"), {})
    assert Path("look.png").is_file()
    assert Path("photos_coco/annotations/instances_default.json").is_file()


def test_types_of_users_are_checked() -> None:
    """By mypy --strict in `make check`, in one go with the package: alone it takes longer."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] is True
    assert "tests/use_types.py" in settings["files"]
    assert (ROOT / "tests" / "use_types.py").exists()
    assert (ROOT / "datus" / "py.typed").exists()

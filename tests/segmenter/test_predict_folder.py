"""What predict may write over, go on from and remove, and who may do so at a time."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from datus.cli.app import app
from datus.errors import BackboneError, TooManyFailures, UsageError, WorkError
from datus.segmenter.files import cluster_classes
from datus.segmenter.model import SegmenterSpec, build_segmenter, save_segmenter
from datus.segmenter.predict_folder import (
    LOCK,
    TEMPORARY,
    Folders,
    Predicted,
    PredictionLog,
    locked,
    predict_folder,
)
from datus.segmenter.tiles import Prediction
from datus.store.whole_file import write_output

SPEC = SegmenterSpec(n_classes=3, head="linear", image_px=32)
BY_HAND = b"a mask, drawn by hand"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("model") / "m"
    save_segmenter(build_segmenter(SPEC, 0), model, cluster_classes(3), {})
    return model


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    for suffix in (".safetensors", ".json"):
        shutil.copy(f"{made}{suffix}", tmp_path / f"m{suffix}")
    return tmp_path / "m"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "masks/a.jpg"):
        paint(tmp_path / "photos" / name, len(name))
    return tmp_path / "photos"


def paint(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def go(model: Path, images: Path, out: Path, sure: Path | None = None, **more: Any) -> Predicted:
    return predict_folder(model, Folders(images, out, sure, **more), Prediction(threads=1))


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


# --- images are never written over --------------------------------------------------------------


def test_a_mask_does_not_go_over_its_only_photograph(model: Path, tmp_path: Path) -> None:
    photo = paint(tmp_path / "s" / "b.png")
    before = photo.read_bytes()
    (tmp_path / "link").symlink_to(photo.parent)
    for out in (photo.parent, tmp_path / "link"):
        done = call(model, photo, "--out", out)
        assert done.exit_code == 2
        assert f"{out}: lies in the folder of the images; choose another" in done.output
    done = call(model, photo, "--out", tmp_path / "out", "--confidence", photo.parent)
    assert done.exit_code == 2
    assert photo.read_bytes() == before
    assert files_in(tmp_path / "s") == ["b.png"]


def test_of_one_image_masks_may_lie_below(model: Path, tmp_path: Path) -> None:
    photo = paint(tmp_path / "s" / "b.png")
    assert go(model, photo, photo.parent / "masks").made == 1
    assert files_in(photo.parent) == ["b.png", "masks/b.png", "masks/predict.jsonl"]


def test_an_image_is_not_written_over_even_if_the_list_knows_it(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go(model, photos, out)
    before = (out / "a.png").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").symlink_to(out / "a.png")  # the mask itself as an image
    with pytest.raises(UsageError, match=r"out/a\.png: is one of the images; choose another --out"):
        go(model, other, out)
    assert (out / "a.png").read_bytes() == before


# --- files of others ----------------------------------------------------------------------------


def test_a_mask_that_the_list_does_not_know_is_kept(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go(model, photos, out)
    paint(photos / "new.jpg")
    (photos / "a.jpg").write_bytes((photos / "new.jpg").read_bytes())
    (out / "new.png").write_bytes(BY_HAND)
    before = (out / "a.png").read_bytes()
    with pytest.raises(UsageError, match=r"new\.png: would be written over.*another --out"):
        go(model, photos, out)
    save_segmenter(build_segmenter(SPEC, 1), model, cluster_classes(3), {})
    with pytest.raises(UsageError, match=r"new\.png: would be written over"):
        go(model, photos, out)
    assert (out / "new.png").read_bytes() == BY_HAND
    assert (out / "a.png").read_bytes() == before
    (out / "new.png").unlink()
    assert go(model, photos, out).made == 3


def test_the_same_of_another_folder_for_confidence(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out, sure, other = (tmp_path / name for name in ("out", "sure", "other"))
    go(model, photos, out, sure)
    other.mkdir()
    (other / "a.png").write_bytes(BY_HAND)
    with pytest.raises(UsageError, match=r"a\.png: would be .* choose another --confidence"):
        go(model, photos, out, other)
    assert (other / "a.png").read_bytes() == BY_HAND
    (other / "a.png").unlink()
    assert go(model, photos, out, other).made == 2
    assert go(model, photos, out, sure).kept == 2


def test_what_a_failed_image_is_called_says_nothing_of_a_file(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (photos / "bad.jpg").write_bytes(b"")
    go(model, photos, out, max_failed=1)
    (out / "bad.png").write_bytes(BY_HAND)
    with pytest.raises(UsageError, match=r"bad\.png: would be written over"):
        go(model, photos, out, max_failed=1)
    assert (out / "bad.png").read_bytes() == BY_HAND


def test_masks_are_ours_after_a_kill_at_any_line(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sure = tmp_path / "out", tmp_path / "sure"
    append, calls = PredictionLog._append, 0

    def killed(self: PredictionLog, lines: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the PNGs are there, their lines are not
            raise KeyboardInterrupt
        append(self, lines)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionLog, "_append", killed)
        with pytest.raises(KeyboardInterrupt):
            go(model, photos, out, sure)
    assert (out / "a.png").exists()
    save_segmenter(build_segmenter(SPEC, 1), model, cluster_classes(3), {})
    with monkeypatch.context() as patch:  # another model, killed before its first mask
        patch.setattr("datus.segmenter.predict_folder.predict_images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(model, photos, out)
    assert go(model, photos, out).made == 2
    assert go(model, photos, out, sure).made == 2
    assert go(model, photos, out, sure).kept == 2


def interrupted(*arguments: Any) -> Any:
    raise KeyboardInterrupt


# --- folders that do not go together ------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "sure", "text"),
    [
        ("sure/masks", "sure", r"sure/masks: lies in .*sure, which holds how sure masks are"),
        ("out", "out/sure", r"out/sure: lies in .*out, which holds masks"),
        ("out", "out", r"out: lies in .*out, which holds masks"),
        ("out", "link", r"link: lies in .*out, which holds masks"),
    ],
)
def test_neither_of_two_folders_lies_in_the_other(
    model: Path, photos: Path, tmp_path: Path, out: str, sure: str, text: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(UsageError, match=text):
        go(model, photos, tmp_path / out, tmp_path / sure)
    assert not (tmp_path / "sure").exists()
    assert not (tmp_path / "out").exists()


# --- images that became unusable ----------------------------------------------------------------


def test_the_mask_of_what_an_image_once_was_goes(model: Path, photos: Path, tmp_path: Path) -> None:
    out, sure = tmp_path / "out", tmp_path / "sure"
    go(model, photos, out, sure)
    whole = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TooManyFailures, match="1 images could not be used, 0 allowed: a: "):
        go(model, photos, out, sure)
    assert files_in(out) == ["masks/a.png", "predict.jsonl"]
    assert files_in(sure) == ["masks/a.png"]
    last = json.loads((out / "predict.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["image"], last["ours"]) == ("a", [])
    (photos / "a.jpg").write_bytes(whole)
    found = go(model, photos, out, sure)
    assert (found.made, found.kept) == (1, 1)


def test_a_folder_that_was_not_given_is_left_alone(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out, sure = tmp_path / "out", tmp_path / "sure"
    go(model, photos, out, sure)
    (photos / "a.jpg").write_bytes(b"")
    go(model, photos, out, max_failed=1)
    assert "a.png" not in files_in(out)
    assert "a.png" in files_in(sure)
    go(model, photos, out, sure, max_failed=1)
    assert "a.png" not in files_in(sure)


@contextmanager
def pipe_that_ends(path: Path) -> Iterator[None]:
    """Who reads from it gets an end, so that a test of a mistake does not hang."""
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.open("wb").close(), daemon=True)
    writer.start()
    try:
        yield
    finally:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer.join(10)
        os.close(reader)


def test_a_pipe_is_recorded_and_not_read(model: Path, photos: Path, tmp_path: Path) -> None:
    with pipe_that_ends(photos / "x.jpg"):
        found = go(model, photos, tmp_path / "out", max_failed=1)
    assert found.failures == {"x": "cannot be read: not a regular file"}
    assert found.made == 2


# --- names and folders that the system refuses --------------------------------------------------


def test_the_longest_name_that_an_image_can_have(model: Path, tmp_path: Path) -> None:
    stem = "n" * 251
    paint(tmp_path / "photos" / f"{stem}.jpg")
    assert go(model, tmp_path / "photos", tmp_path / "out").made == 1
    assert (tmp_path / "out" / f"{stem}.png").is_file()
    with pytest.raises(WorkError, match="File name too long; choose another place"):
        write_output(tmp_path / ("n" * 256), b"")


@pytest.mark.parametrize("below", ["", "masks", "masks/deeper"])
@pytest.mark.parametrize("option", ["--out", "--confidence"])
def test_a_file_in_the_place_of_a_folder(
    model: Path, photos: Path, tmp_path: Path, below: str, option: str
) -> None:
    (tmp_path / "file.py").write_text("")
    given = {"--out": tmp_path / "out", "--confidence": tmp_path / "sure"}
    given[option] = tmp_path / "file.py" / below
    done = call(model, photos, *(text for pair in given.items() for text in pair))
    assert done.exit_code == 1
    expected = f"cannot write {given[option]}: not a directory; choose another {option}"
    assert done.stderr == f"error: {expected}\n"


def refusing(suffix: str) -> Callable[[Path], bytes]:
    """Path.read_bytes of a user who may not read files of that kind; tests may run as root."""
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.suffix == suffix:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    return read


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_model_that_may_not_be_read_is_not_called_damaged(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(Path, "read_bytes", refusing(suffix))
    with pytest.raises(BackboneError) as caught:
        go(model, photos, tmp_path / "out")
    assert str(caught.value) == (
        f"{model}{suffix}: cannot be read: Permission denied; make it readable for this user"
    )


def test_a_list_that_cannot_be_read(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "predict.jsonl").mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        go(model, photos, tmp_path / "out")
    assert str(caught.value).endswith(
        "predict.jsonl: cannot be read: Is a directory; mend that or choose another --out"
    )


def test_fewer_than_no_failures_are_refused_at_the_door(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    done = call(model, photos, "--out", tmp_path / "out", "--max-failed", -1)
    assert done.exit_code == 2
    assert "--max-failed" in done.output
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="max_failed: expected 0 or more, got -1"):
        Folders(photos, tmp_path / "out", max_failed=-1)


# --- one at a time ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mask", "confidence"])
def test_a_second_command_says_that_the_folder_is_in_use(
    model: Path, photos: Path, tmp_path: Path, kind: str
) -> None:
    folders = {"mask": tmp_path / "out", "confidence": tmp_path / "sure"}
    option = {"mask": "--out", "confidence": "--confidence"}[kind]
    arguments = (model, photos, "--out", folders["mask"], "--confidence", folders["confidence"])
    with locked({kind: folders[kind]}):
        done = call(*arguments)
        assert done.exit_code == 1
        assert done.stderr == (
            f"error: {folders[kind]} is in use by another datus predict: wait for it, stop it, or "
            f"choose another {option}\n"
        )
    assert call(*arguments).exit_code == 0
    assert LOCK not in files_in(tmp_path / "out")


HOLDER = """
import os, signal, sys
from pathlib import Path
from datus.segmenter.predict_folder import TEMPORARY, locked
out = Path(sys.argv[1])
with locked({"mask": out}):
    (out / "masks").mkdir()
    for folder in (out, out / "masks"):
        (folder / f"{TEMPORARY}0123").write_bytes(b"half of a PNG")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_command_blocks_nothing_and_leaves_nothing_for_long(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "elsewhere").mkdir(parents=True)
    foreign = [f"elsewhere/{TEMPORARY}of-a-command-that-runs", ".tmp-of-another-tool"]
    for name in foreign:
        (out / name).write_bytes(b"")
    command = [sys.executable, "-c", HOLDER, str(out)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -9
    assert sum(TEMPORARY in name for name in files_in(out)) == 3
    assert go(model, photos, out).made == 2
    assert files_in(out) == sorted(["a.png", "masks/a.png", "predict.jsonl", *foreign])


def test_two_that_write_one_file_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one writes, another writes the same, whole."""
    real = os.fsync

    def meanwhile(number: int) -> None:
        real(number)
        monkeypatch.setattr(os, "fsync", real)
        write_output(tmp_path / "x", b"second")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_output(tmp_path / "x", b"first")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert files_in(tmp_path) == ["x"]

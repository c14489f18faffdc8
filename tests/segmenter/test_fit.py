"""`datus fit`: names of models, what is replaced, disks and files that refuse, what is left."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import Dataset, make_dataset, save
from typer.testing import CliRunner

from datus.cli.app import app
from datus.config import Config
from datus.engine.run import QUIET
from datus.errors import StoreError, TooManyFailures, UsageError, WorkError
from datus.segmenter.examples import CacheWriter
from datus.segmenter.files import CHECKPOINT
from datus.segmenter.fit import Fitted, fit_folders, new_model
from datus.store.whole_file import write

AGAIN = "free some space and run the same command again"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "photos", ids=("a", "b/c", "d"))


def learnt(dataset: Dataset, out: Path, overwrite: bool = False, **more: Any) -> Fitted:
    given = {"denoise.enabled": True, "denoise.drop_share": 1.0, "denoise.epochs": 2}
    given |= {name.replace("__", "."): value for name, value in more.items()}
    return fit_folders(dataset.config("none", given), out, QUIET, overwrite)


def command(dataset: Dataset, out: str | Path, *more: str) -> tuple[int, str]:
    given = ["fit", "--images", dataset.images, "--labels", dataset.truth, "--out", out]
    given += ["--classes", dataset.classes, "--epochs", "1", "--device", "cpu"]
    done = CliRunner().invoke(app, [*map(str, given), "--set", "features.image_px=64", *more])
    return done.exit_code, " ".join(done.output.split())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- the name -----------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [".", "..", "here", "here/", "new/", ".safetensors", "here/.json"])
def test_what_is_no_name_of_a_model_is_refused(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    place = tmp_path / "place"
    (place / "here").mkdir(parents=True)
    monkeypatch.chdir(place)
    code, text = command(dataset, out)
    assert code == 2
    assert text == f"error: --out {out}: expected the name of a new model, such as models/reef"
    assert names(place) == {"here"}
    assert names(place / "here") == set()


def test_names_may_have_a_suffix_and_dots(tmp_path: Path) -> None:
    for out in ("m", "m.safetensors", "m.json"):
        assert new_model(tmp_path / out) == tmp_path / "m.safetensors"
    assert new_model(tmp_path / "new" / "m.v1") == tmp_path / "new" / "m.v1.safetensors"
    assert names(tmp_path) == set()


# --- what is there already ----------------------------------------------------------------------


def test_the_same_training_again_is_no_other_model(dataset: Dataset, tmp_path: Path) -> None:
    before = learnt(dataset, tmp_path / "m").model.read_bytes()
    assert learnt(dataset, tmp_path / "m").model.read_bytes() == before
    (tmp_path / "m.safetensors").unlink()
    assert learnt(dataset, tmp_path / "m").model.read_bytes() == before


def other_seed(dataset: Dataset) -> dict[str, Any]:
    return {"seed": 5}


def other_labels(dataset: Dataset) -> dict[str, Any]:
    save(dataset.truth / "extra.png", np.zeros((9, 9), np.uint8))
    save(dataset.images / "extra.png", np.zeros((9, 9, 3), np.uint8))
    return {}


@pytest.mark.parametrize("change", [other_seed, other_labels], ids=lambda one: one.__name__)
def test_another_model_of_that_name_stays(
    dataset: Dataset, tmp_path: Path, change: Callable[[Dataset], dict[str, Any]]
) -> None:
    before = learnt(dataset, tmp_path / "m").model.read_bytes()
    more = change(dataset)
    with pytest.raises(UsageError) as caught:
        learnt(dataset, tmp_path / "m", **more)
    assert str(caught.value) == (
        f"{tmp_path / 'm.safetensors'} is there already: choose another --out, or add --overwrite"
    )
    assert (tmp_path / "m.safetensors").read_bytes() == before
    assert names(tmp_path) == {"photos", "m.safetensors", "m.json"}
    assert learnt(dataset, tmp_path / "m", overwrite=True, **more).model.read_bytes() != before


@pytest.mark.parametrize("name", ["m.safetensors", "m.json"])
def test_any_other_file_stays(dataset: Dataset, tmp_path: Path, name: str) -> None:
    for content in (b"mine", b"[]", b'{"provenance": {"recipe": NaN}}'):
        (tmp_path / name).write_bytes(content)
        code, text = command(dataset, tmp_path / "m")
        assert code == 2
        assert text == (
            f"error: {tmp_path / name} is there already: choose another --out, or add --overwrite"
        )
        assert (tmp_path / name).read_bytes() == content
    code, text = command(dataset, tmp_path / "m", "--overwrite")
    assert code == 0, text


def test_a_model_of_which_one_file_was_written_goes_on(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learnt(dataset, tmp_path / "whole").model.read_bytes()

    def first(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise WorkError("killed")
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("datus.segmenter.model.write_output", first)
        with pytest.raises(WorkError, match="killed"):
            learnt(dataset, tmp_path / "m")
    assert "m.json" not in names(tmp_path)
    assert learnt(dataset, tmp_path / "m").model.read_bytes() == whole


# --- disks and files that refuse ----------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_seen_first(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "datus.segmenter.fit.find_pairs", lambda *_: pytest.fail("looked at images")
    )
    file = tmp_path / "file"
    file.write_bytes(b"keep me")
    code, text = command(dataset, file / "m")
    assert (code, text) == (
        1,
        f"error: cannot write {file}/m.safetensors: Not a directory; a file is in the way, choose "
        "another --out",
    )
    (tmp_path / "folder.json").mkdir()
    code, text = command(dataset, tmp_path / "folder")
    assert (code, text) == (
        1,
        f"error: cannot write {tmp_path}/folder.json: Is a directory; a folder is in the way, "
        "choose another --out",
    )

    def refused(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    code, text = command(dataset, tmp_path / "new" / "m")
    assert (code, text) == (
        1,
        f"error: cannot write {tmp_path}/new/m.safetensors: Read-only file system; make its "
        "folder writable or choose another --out",
    )
    assert names(tmp_path) == {"photos", "file", "folder.json"}


def test_a_full_disk_while_features_are_stored(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learnt(dataset, tmp_path / "whole").model.read_bytes()
    place = tmp_path / "models"
    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "add", full)
        with pytest.raises(StoreError) as caught:
            learnt(dataset, place / "m")
    text = str(caught.value)
    assert text.startswith(f"cannot write {place}/.m-")
    assert text.endswith(f": No space left on device; {AGAIN}")
    assert names(place) == set()  # half a set is of no use, and takes space
    assert learnt(dataset, place / "m").model.read_bytes() == whole


@pytest.mark.parametrize("freeze", [True, False])
def test_a_full_disk_at_a_checkpoint(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: bool
) -> None:
    more = {"denoise__freeze": freeze}
    whole = learnt(dataset, tmp_path / "whole", **more).model.read_bytes()
    place, written = tmp_path / "models", []

    def once(path: Path, pieces: list[bytes]) -> None:
        if written:
            full()
        written.append(path)
        write(path, pieces)

    with monkeypatch.context() as patch:
        patch.setattr("datus.segmenter.train.whole_file", SimpleNamespace(write=once))
        with pytest.raises(StoreError, match=AGAIN):
            learnt(dataset, place / "m", **more)
    (folder,) = place.iterdir()
    assert CHECKPOINT in names(folder)
    assert learnt(dataset, place / "m", **more).model.read_bytes() == whole
    assert names(place) == {"m.safetensors", "m.json"}


def test_a_file_that_does_not_fit_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "file", [b"data"])
    assert names(tmp_path) == set()


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("what", ["images", "truth"])
def test_a_file_that_cannot_be_read_is_recorded(
    dataset: Dataset, tmp_path: Path, what: str, freeze: bool
) -> None:
    file = dataset.root / what / "a.png"
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    more = {"denoise__freeze": freeze}
    with pytest.raises(TooManyFailures) as caught:
        learnt(dataset, tmp_path / "m", **more)
    assert "1 images or labels cannot be used, 0 are allowed" in str(caught.value)
    assert "a: cannot be read: No such file or directory" in str(caught.value)
    assert names(tmp_path) == {"photos"}
    done = learnt(dataset, tmp_path / "m", speed__max_failed=1, **more)
    assert (done.n_trained, set(done.failures)) == (2, {"a"})


# --- what is left -------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", [True, False])
def test_masks_without_any_label(dataset: Dataset, tmp_path: Path, freeze: bool) -> None:
    for path in dataset.truth.rglob("*.png"):
        save(path, np.full((50, 50), 255, np.uint8))
    for path in dataset.images.rglob("*.png"):
        save(path, np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(WorkError) as caught:
        learnt(dataset, tmp_path / "m", denoise__freeze=freeze)
    assert str(caught.value) == (
        "nothing to learn from: no pixel of 3 masks has a label, all are 255 or ignored; label "
        "some, or put their ids into a class of the class table"
    )
    assert names(tmp_path) == {"photos"}


def test_masks_none_of_which_can_be_used(dataset: Dataset, tmp_path: Path) -> None:
    for path in dataset.truth.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(WorkError, match="nothing to learn from: no image has labels that can be"):
        learnt(dataset, tmp_path / "m", speed__max_failed=3)
    assert names(tmp_path) == {"photos"}


def test_labels_of_a_tool_are_drawn_beside_the_model_and_go(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, seen = tmp_path / "models", []
    save(place / ".m-labels" / "labels" / "a.png", np.zeros((3, 3), np.uint8))  # a kill left it
    drawn = tmp_path / "drawn"
    save(drawn / "d.png", np.ones((50, 50), np.uint8))
    (drawn / "names.toml").write_text('[names]\n0 = "back"\n1 = "box"\n')

    def stopped(config: Config, *_: object) -> None:
        truth = Path(config.data.truth)
        seen.append((truth, names(truth)))
        raise WorkError("stopped")

    monkeypatch.setattr("datus.segmenter.fit.fit_folders", stopped)
    given = ["fit", "--images", dataset.images, "--labels", drawn, "--out", place / "m"]
    done = CliRunner().invoke(app, list(map(str, given)))
    assert (done.exit_code, done.output) == (1, "error: stopped\n")
    assert seen == [(place / ".m-labels" / "labels", {"d.png"})]
    assert names(place) == set()
    monkeypatch.setattr("datus.formats.label_folders.put", full)
    done = CliRunner().invoke(app, list(map(str, given)))
    assert (done.exit_code, done.output) == (
        1,
        f"error: cannot write {place}/.m-labels: No space left on device; {AGAIN}\n",
    )


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [("--epochs", "0"), ("--epochs", "-1"), ("--max-failed", "-1"), ("--seed", "-1")]
)
def test_numbers_that_make_no_sense(
    dataset: Dataset, tmp_path: Path, given: tuple[str, str]
) -> None:
    code, text = command(dataset, tmp_path / "m", *given)
    assert code == 2
    assert f"Invalid value for '{given[0]}'" in text
    assert names(tmp_path) == {"photos"}

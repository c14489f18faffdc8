"""Training: what comes out, that it goes on where it was, and its errors."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from datus import pretrain as module
from datus.cli.app import app
from datus.config import FeaturesConfig
from datus.errors import StoreError, UsageError, WorkError
from datus.models.appearance import N_CHANNELS
from datus.models.vit import load_backbone
from datus.models.weights import weights_id
from datus.pretrain import Pretraining, pretrain, read_log, share_of_rate
from datus.segmenter.examples import write_whole
from datus.selfsupervised import ARCHITECTURE, Settings

TINY = {**ARCHITECTURE, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    from datus import selfsupervised

    monkeypatch.setattr(selfsupervised.Learner.__init__, "__defaults__", (TINY,))
    monkeypatch.setattr(module, "ARCHITECTURE", TINY)
    torch.set_num_threads(1)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for place in range(6):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    return sorted(folder.iterdir())


def settings(out: Path, **changes: Any) -> Pretraining:
    given: dict[str, Any] = {
        "images": out.parent / "photos",
        "out": out,
        "name": "mine",
        "views": 16,
        "pairs": 8,
        "batch": 4,
        "batch_pairs": 4,
        "crop_px": 32,
        "every": 2,
        "tasks": Settings(n_prototypes=8),
    }
    return Pretraining(**{**given, **changes})


def test_the_result_is_a_backbone(tmp_path: Path, photos: list[Path]) -> None:
    said: list[dict[str, Any]] = []
    weights = pretrain(settings(tmp_path / "out"), photos, said.append)
    assert weights == tmp_path / "out" / "mine.safetensors"
    assert [one["step"] for one in said] == [2, 4, 6]
    assert [len(one["losses"]) for one in said] == [1, 1, 2]
    assert said == list(read_log(tmp_path / "out"))
    backbone = load_backbone(str(weights), "auto", FeaturesConfig())
    (grid,) = backbone.features([np.zeros((3, 48, 64), np.float32)], 1, 1)
    assert grid.keys.shape == (6, 8, 32 + N_CHANNELS)
    assert weights_id(str(weights), "auto").startswith("sha256:")
    record = json.loads((tmp_path / "out" / "mine.json").read_text())
    assert (record["n_views"], record["n_pairs"], record["labels"]) == (16, 8, "none")


@pytest.mark.parametrize("stop", [2, 4])
def test_a_training_that_was_stopped_ends_with_the_same_bytes(
    tmp_path: Path, photos: list[Path], stop: int
) -> None:
    whole = pretrain(settings(tmp_path / "whole"), photos, lambda _: None)

    class Stop(Exception):
        pass

    def stopped(line: dict[str, Any]) -> None:
        if line["step"] == stop:
            raise Stop

    with pytest.raises(Stop):
        pretrain(settings(tmp_path / "parts"), photos, stopped)
    parts = pretrain(settings(tmp_path / "parts"), photos, lambda _: None)
    assert parts.read_bytes() == whole.read_bytes()
    assert [one["step"] for one in read_log(tmp_path / "parts")] == [2, 4, 6]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, "tests/pretrain")
import torch
torch.set_num_threads(1)
from datus import pretrain, selfsupervised
from test_training import TINY, settings
selfsupervised.Learner.__init__.__defaults__ = (TINY,)
pretrain.ARCHITECTURE = TINY
out = Path(sys.argv[1])
step = pretrain.Training.train
def train(self, number, views):
    if number == 5:
        os.kill(os.getpid(), 9)
    step(self, number, views)
pretrain.Training.train = train
pretrain.pretrain(settings(out), sorted((out.parent / "photos").iterdir()), lambda _: None)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle(tmp_path: Path, photos: list[Path]) -> None:
    whole = pretrain(settings(tmp_path / "whole"), photos, lambda _: None)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "parts")]
    killed = subprocess.run(command, cwd=root, env=environment, check=False)
    assert killed.returncode == -9
    parts = pretrain(settings(tmp_path / "parts"), photos, lambda _: None)
    assert parts.read_bytes() == whole.read_bytes()


def test_a_finished_training_does_nothing(tmp_path: Path, photos: list[Path]) -> None:
    weights = pretrain(settings(tmp_path / "out"), photos, lambda _: None)
    before = weights.stat().st_mtime_ns
    pretrain(settings(tmp_path / "out"), photos, lambda _: pytest.fail("trained"))
    assert weights.stat().st_mtime_ns == before


def test_a_model_goes_on_from_another(tmp_path: Path, photos: list[Path]) -> None:
    first = pretrain(settings(tmp_path / "first", pairs=0), photos, lambda _: None)
    given = {"start": str(first), "views": 8, "pairs": 0}
    weights = pretrain(settings(tmp_path / "second", **given), photos, lambda _: None)
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["start"] == f"mine {weights_id(str(first), 'auto')}"
    again = pretrain(settings(tmp_path / "again", **given), photos, lambda _: None)
    assert again.read_bytes() == weights.read_bytes() != first.read_bytes()


def test_no_steps_only_measure_the_photographs(tmp_path: Path, photos: list[Path]) -> None:
    from safetensors.torch import load_file

    first = pretrain(settings(tmp_path / "first"), photos, lambda _: None)
    given = {"start": str(first), "views": 0, "pairs": 0}
    weights = pretrain(settings(tmp_path / "out", **given), photos, lambda _: None)
    before, after = load_file(first), load_file(weights)
    assert before.keys() == after.keys()
    for name, one in after.items():  # the scales were measured on these photographs before
        torch.testing.assert_close(one.float(), before[name].float(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ("vit_small_patch8_224.dino", "expected datus_t8, or a file that datus pretrain wrote"),
        ("datus_filters_p8", "filters have nothing to train"),
        ("datus_t8", "it has another embed_dim, depth, num_heads"),  # TINY is smaller
    ],
)
def test_what_cannot_be_gone_on_from(
    tmp_path: Path, photos: list[Path], start: str, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        pretrain(settings(tmp_path / "out", start=start), photos, lambda _: None)


def test_nothing_to_train(tmp_path: Path, photos: list[Path]) -> None:
    given = ["pretrain", "--images", photos[0].parent, "--views", "0", "--pairs", "0"]
    done = CliRunner().invoke(app, [*map(str, given), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "nothing to train: give --views, --pairs or --start" in done.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags : avx2 avx512f avx512_bf16", True),
        ("Features : asimd bf16", True),
        ("flags : avx2 avx512f", False),
        (None, False),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(
    text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    assert module.has_bfloat16.__wrapped__() == expected


def test_one_phase_only(tmp_path: Path, photos: list[Path]) -> None:
    pretrain(settings(tmp_path / "out", pairs=0), photos, lambda _: None)
    assert json.loads((tmp_path / "out" / "mine.json").read_text())["n_pairs"] == 0


def test_other_settings_do_not_go_on(tmp_path: Path, photos: list[Path]) -> None:
    out = tmp_path / "out"
    pretrain(settings(out), photos, lambda _: None)
    with pytest.raises(UsageError) as error:
        pretrain(settings(out, lr=5e-4, seed=3), photos, lambda _: None)
    assert str(error.value) == (
        f"{out} holds a training with another lr, seed: go on with the same settings, or choose "
        "another --out"
    )


def test_a_damaged_checkpoint_is_named(tmp_path: Path, photos: list[Path]) -> None:
    out = tmp_path / "out"
    pretrain(settings(out), photos, lambda _: None)
    (out / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"checkpoint\.pt: damaged \(.*\); remove it to begin"):
        pretrain(settings(out), photos, lambda _: None)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"photos: no images to train on$"):
        pretrain(settings(tmp_path / "out"), [], lambda _: None)


def test_a_place_that_cannot_be_written(tmp_path: Path, photos: list[Path]) -> None:
    (tmp_path / "file").write_bytes(b"keep me")
    out = tmp_path / "file" / "out"
    with pytest.raises(StoreError) as error:
        pretrain(settings(out), photos, lambda _: pytest.fail("trained"))
    assert str(error.value) == (
        f"cannot write {out}/checkpoint.pt: Not a directory; a file is in the way, choose another "
        "--out"
    )


@pytest.mark.parametrize("name", ["mine.safetensors", "checkpoint.pt"])
def test_a_full_disk_at_a_checkpoint(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = pretrain(settings(tmp_path / "whole"), photos, lambda _: None)
    out, written = tmp_path / "parts", []

    def full(path: Path, data: bytes) -> None:
        written.append(path.name)
        if written.count(name) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", full)
        with pytest.raises(StoreError) as error:
            pretrain(settings(out), photos, lambda _: None)
    assert str(error.value) == (
        f"cannot write {out}: No space left on device; free some space and run the same command "
        "again"
    )
    assert pretrain(settings(out), photos, lambda _: None).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("option", ["--views", "--pairs", "--seed", "--threads"])
def test_numbers_that_make_no_sense(tmp_path: Path, photos: list[Path], option: str) -> None:
    given = ["pretrain", "--images", photos[0].parent, "--out", tmp_path / "out", option, "-1"]
    done = CliRunner().invoke(app, list(map(str, given)))
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_ends_it(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(*_: Any) -> torch.Tensor:
        return torch.tensor(float("nan"), requires_grad=True)

    monkeypatch.setattr(module.Learner, "hidden_loss", bad)
    with pytest.raises(WorkError) as error:
        pretrain(settings(tmp_path / "out"), photos, lambda _: None)
    assert str(error.value) == (
        "step 0: the loss is nan; take a smaller --lr than 0.001, and another --out"
    )


def test_the_rate_rises_and_falls() -> None:
    rates = [share_of_rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 200)
    assert max(rates) > 0.9
    assert rates[-1] < 0.021

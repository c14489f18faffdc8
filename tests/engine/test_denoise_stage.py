"""The de-noising stages in a run: what they write, what they leave alone, what a kill costs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_tree import tree
from tiny_runs import Dataset, go, made

from datus.config import Config
from datus.dry_run import dry_run
from datus.engine.plan import find_node
from datus.engine.run import QUIET
from datus.errors import WorkError
from datus.inputs.labels import decode_labels
from datus.pipeline import make_plan
from datus.store.store import Store

ON: dict[str, Any] = {"denoise.enabled": True, "denoise.epochs": 3, "denoise.drop_share": 1.0}


def files_of(config: Config, stage: str) -> dict[str, bytes]:
    """The stage's own files, by name."""
    result, _ = go(config)
    mark = find_node(result.plan.nodes, stage, 3).fingerprint
    folder = Path(config.run_path) / stage / mark / "files"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def report(config: Config) -> dict[str, Any]:
    result, _ = go(config)
    folder = Path(config.run_path) / "report" / result.plan.nodes[-1].fingerprint / "files"
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def results(files: dict[str, str]) -> dict[str, str]:
    """Without stage.json, which says what ran."""
    return {name: digest for name, digest in files.items() if name != "stage.json"}


def test_it_is_off_unless_asked_for(tiny: Dataset, run_copy: Path) -> None:
    stages = {node.name for node in go(tiny.config(run_copy))[0].plan.nodes}
    assert "denoise" not in stages
    assert "denoise-fit" not in stages


def test_turning_it_on_makes_its_stages_and_the_scores_and_nothing_else(
    tiny: Dataset, run_copy: Path
) -> None:
    result, _ = go(tiny.config(run_copy, ON))
    assert list(made(result)) == [
        *("denoise-fit (K = 3)", "denoise (K = 3)", "evaluate (K = 3)"),
        *("tallies (K = 3)", "report"),
    ]
    assert made(go(tiny.config(run_copy, ON))[0]) == {}
    assert made(go(tiny.config(run_copy))[0]) == {}


def test_masks_are_whole_and_of_the_images_own_size(tiny: Dataset, run_copy: Path) -> None:
    config = tiny.config(run_copy, {**ON, "masks.noise": "ignore"})
    before, after = files_of(config, "masks"), files_of(config, "denoise")
    assert before.keys() == after.keys()
    assert any((decode_labels(data, 10**6) == 255).any() for data in before.values())
    for name, data in after.items():
        mask = decode_labels(data, 10**6)
        assert mask.shape == decode_labels(before[name], 10**6).shape
        assert mask.max() < 3


def test_the_report_shows_scores_before_and_after(tiny: Dataset, run_copy: Path) -> None:
    plain, found = report(tiny.config(run_copy)), report(tiny.config(run_copy, ON))
    again = found["sweep"][0].pop("denoised")
    assert found["sweep"] == plain["sweep"]
    assert found["scores"] == plain["scores"]
    assert set(again["scores"]) == set(plain["scores"])
    assert again["coverage"] == 100.0
    assert len(again["loss"]) == 3
    assert again["loss"][-1] < again["loss"][0]
    assert (again["n_trained"], again["n_dropped"]) == (10, 0)
    folder = run_copy / "latest" / "report"
    assert "## De-noised masks" in (folder / "report.md").read_text(encoding="utf-8")
    assert "De-noised masks" in (folder / "report.html").read_text(encoding="utf-8")


def test_without_truth_masks_are_made_and_nothing_is_scored(tiny: Dataset, run_copy: Path) -> None:
    none = {"data.truth": "", "data.classes": ""}
    found = report(tiny.config(run_copy, {**ON, **none}))
    assert found["sweep"][0]["denoised"]["scores"] == {}


def test_plain_masks_are_left_out_and_that_is_said(tiny: Dataset, run_copy: Path) -> None:
    written = files_of(tiny.config(run_copy), "masks")
    masks = [decode_labels(data, 10**6) for data in written.values()]
    shares = sorted(np.bincount(mask.ravel()).max() / mask.size for mask in masks)
    config = tiny.config(run_copy, {**ON, "denoise.drop_share": float(shares[2])})
    _, listener = go(config)
    again = report(config)["sweep"][0]["denoised"]
    n_kept = sum(share <= shares[2] for share in shares)
    assert (again["n_trained"], again["n_dropped"]) == (n_kept, 10 - n_kept)
    assert any(f"left out {10 - n_kept} of 10 images" in text for text in listener.said)


def test_nothing_to_learn_from_says_so(tiny: Dataset, run_copy: Path) -> None:
    with pytest.raises(WorkError, match=r"of 10 masks all have .* raise denoise\.drop_share"):
        go(tiny.config(run_copy, {**ON, "denoise.drop_share": 0.1}))


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"denoise.head": "layers"}, marks=pytest.mark.slow),
        {"denoise.freeze": False, "denoise.augment": True, "denoise.epochs": 1},
    ],
    ids=["tokens", "layers", "tuned"],
)
def test_threads_and_what_is_kept_change_no_byte(
    tiny: Dataset, run_copy: Path, more: dict[str, Any]
) -> None:
    config = tiny.config(run_copy, {**ON, **more})
    mark = find_node(go(config)[0].plan.nodes, "denoise-fit", 3).fingerprint
    before = tree(run_copy / "denoise-fit" / mark)
    assert set(before) == {
        *("stage.json", "shard-all.json", "shard-all.safetensors"),
        *("files/model.json", "files/model.safetensors"),
    }
    Store(run_copy).remove("denoise-fit", mark)
    go(dataclasses.replace(config, speed=dataclasses.replace(config.speed, threads=3, batch=2)))
    after = tree(run_copy / "denoise-fit" / mark)
    assert results(after) == results(before)


def test_features_that_are_not_kept_give_the_same_model(tiny: Dataset, run_copy: Path) -> None:
    kept = files_of(tiny.config(run_copy, ON), "denoise-fit")
    Store(run_copy).remove("denoise-fit")
    Store(run_copy).remove("features")
    assert files_of(tiny.config(run_copy, {**ON, "features.keep": False}), "denoise-fit") == kept


KILLED = """
import os, signal, sys
from datus.segmenter import train
from tiny_runs import Dataset, go
from pathlib import Path

save = train._Learner.save

def save_and_die(learner):
    save(learner)
    if len(learner.curve) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

train._Learner.save = save_and_die
go(Dataset(Path({root!r})).config({run!r}, {more!r}))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    tiny: Dataset, run_copy: Path
) -> None:
    config = tiny.config(run_copy, ON)
    text = KILLED.format(root=str(tiny.root), run=str(run_copy), more=ON)
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1] / "helpers"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    mark = find_node(
        make_plan(config, go(config, "masks")[0].index).nodes, "denoise-fit", 3
    ).fingerprint
    assert (run_copy / "denoise-fit" / mark / "work" / "checkpoint.pt").exists()
    go(config)
    resumed = tree(run_copy / "denoise-fit" / mark)
    assert not (run_copy / "denoise-fit" / mark / "work").exists()
    Store(run_copy).remove("denoise-fit", mark)
    go(config)
    assert {
        n: h for n, h in tree(run_copy / "denoise-fit" / mark).items() if n != "stage.json"
    } == {n: h for n, h in resumed.items() if n != "stage.json"}


@pytest.mark.slow
def test_deeplab_learns_in_a_run(tiny: Dataset, run_copy: Path) -> None:
    more = {"denoise.kind": "deeplabv3", "denoise.epochs": 1, "denoise.image_px": 32}
    config = tiny.config(run_copy, {**ON, **more})
    masks = files_of(config, "denoise")
    assert len(masks) == 10
    assert all(decode_labels(data, 10**6).max() < 3 for data in masks.values())


def test_a_dry_run_tells_what_it_takes(tiny: Dataset, run_copy: Path) -> None:
    config = tiny.config(run_copy, ON)
    found = dry_run(config, Store(config.run_path), QUIET)
    rows = {row.name: row for row in found.rows}
    assert rows["denoise-fit (K = 3)"].seconds is not None
    assert rows["denoise (K = 3)"].images == 10
    assert not found.problems
    assert not (run_copy / "denoise-fit").exists()


def test_the_model_predicts_what_the_stage_drew(tiny: Dataset, run_copy: Path) -> None:
    from datus.inputs.decode import decode_image
    from datus.segmenter.model import image_logits, load_segmenter, prepared
    from datus.segmenter.tiles import logits_to_pixels

    config = tiny.config(run_copy, {**ON, "masks.refine": "none"})
    go(config)
    masks = files_of(config, "denoise")
    model = load_segmenter(run_copy / "latest" / "model-k3" / "model")
    for image_id in ("a0", "b/c1"):
        image = decode_image((tiny.images / f"{image_id}.png").read_bytes(), 10**6)
        logits = image_logits(model, prepared(model, image))
        mask, _ = logits_to_pixels(logits, *image.shape[:2])
        drawn = decode_labels(masks[f"{image_id}.png"], 10**6)
        assert np.mean(mask != drawn) < 0.001  # the last bit of a token may differ

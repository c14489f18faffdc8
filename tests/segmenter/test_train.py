"""Learning imperfect labels: cells, left-out images, the loss, resuming, and the fit command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_runs import Dataset, make_dataset, save
from torch.nn import functional
from typer.testing import CliRunner

from datus.cli.app import app
from datus.config import Config, DenoiseConfig
from datus.engine.run import QUIET
from datus.errors import ImageError, TooManyFailures, UsageError, WorkError
from datus.segmenter.examples import (
    CacheWriter,
    Cut,
    Example,
    FeatureSet,
    ImageSet,
    Source,
    View,
    cell_shares,
    choose_cut,
    cut,
    largest_share,
)
from datus.segmenter.fit import fit_folders
from datus.segmenter.model import (
    Segmenter,
    SegmenterSpec,
    build_segmenter,
    head_logits,
    load_segmenter,
)
from datus.segmenter.train import CHECKPOINT, Place, _Learner, _loss, train, trained_state

U8 = np.uint8
SIDES = st.tuples(st.integers(1, 30), st.integers(1, 30))

# --- labels -------------------------------------------------------------------------------------


def test_cells_count_the_pixels_under_their_centres() -> None:
    labels = np.array([[0, 0, 1, 1], [0, 1, 1, 255], [2, 2, 255, 255], [2, 2, 255, 255]], U8)
    shares = cell_shares(labels, (2, 2), 3)
    assert shares.tolist() == [
        [[192, 0], [0, 0]],  # three of four pixels, rounded up
        [[64, 192], [0, 0]],
        [[0, 0], [255, 0]],
    ]


@given(
    labels=hnp.arrays(U8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30)).map(
        lambda a: a % 4
    ),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
)
def test_cells_agree_with_a_plain_count(labels: Any, rows: int, columns: int) -> None:
    labels = np.where(labels == 3, 255, labels).astype(U8)
    shares = cell_shares(labels, (rows, columns), 3)
    height, width = labels.shape
    counts, sizes = np.zeros((3, rows, columns)), np.zeros((rows, columns))
    for y in range(height):
        for x in range(width):
            cell = int((y + 0.5) * rows / height), int((x + 0.5) * columns / width)
            sizes[cell] += 1
            if labels[y, x] != 255:
                counts[labels[y, x], *cell] += 1
    assert np.array_equal(shares, np.ceil(255 * counts / np.maximum(sizes, 1) - 1e-9).astype(U8))


def test_a_single_point_in_a_large_cell_is_not_lost() -> None:
    labels = np.full((900, 900), 255, U8)
    labels[450, 450] = 1
    assert cell_shares(labels, (1, 1), 2).tolist() == [[[0]], [[1]]]


def test_other_labels_are_an_error() -> None:
    with pytest.raises(ImageError, match="expected ids below 2, or 255 for unknown, got 7"):
        cell_shares(np.full((4, 4), 7, U8), (1, 1), 2)


def test_the_largest_share_is_of_the_labelled_pixels() -> None:
    assert largest_share(np.array([3, 1])) == 0.75
    assert largest_share(np.array([0, 0])) == 1.0


def test_image_and_labels_are_cut_at_the_same_place() -> None:
    labels = np.arange(64, dtype=U8).reshape(8, 8)
    image = np.repeat(labels[..., None], 3, axis=2)
    for mirrored in (False, True):
        pixels, marks = cut(image, labels, Cut((8, 8), (2, 3, 4, 4), mirrored))
        assert np.array_equal(pixels[..., 0], marks)
        assert marks[0, -1 if mirrored else 0] == labels[2, 3]


def test_what_lies_outside_the_image_is_unknown() -> None:
    pixels, marks = cut(
        np.full((4, 4, 3), 9, U8), np.zeros((4, 4), U8), Cut((4, 4), (0, 0, 6, 8), False)
    )
    assert (marks[4:] == 255).all()
    assert (marks[:, 4:] == 255).all()
    assert (marks[:4, :4] == 0).all()
    assert (pixels[4:] == 0).all()


def test_cuts_stay_in_the_image_and_differ() -> None:
    rng = np.random.default_rng(0)
    cuts = [choose_cut((60, 90), (32, 32), True, rng) for _ in range(50)]
    assert len({one.box for one in cuts}) > 30
    assert {one.mirrored for one in cuts} == {True, False}
    for one in cuts:
        top, left, height, width = one.box
        assert top + height <= max(one.size[0], 32)
        assert left + width <= max(one.size[1], 32)
        assert 40 <= one.size[0] <= 90


# --- what is learnt from ------------------------------------------------------------------------


def filled(folder: Path, n_images: int = 6) -> FeatureSet:
    """Features whose first channels say the class of each cell, grids of two sizes."""
    writer = CacheWriter(folder, 3, 0.95)
    rng = np.random.default_rng(0)
    for number in range(n_images):
        grid = (6, 8) if number % 2 else (8, 6)
        labels = rng.integers(0, 3, grid).astype(U8)
        assert writer.wants(f"i{number}", labels)
        features = rng.normal(0, 1, (210, *grid)).astype(np.float32)
        for label in range(3):
            features[label][labels == label] += 9
        writer.add(features, np.kron(labels, np.ones((4, 4), U8)))
    return writer.finish()


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    found = filled(tmp_path)
    assert len(found) == 6
    one, other = found.take([0, 3], np.random.default_rng(0))
    assert one.inputs.shape == (210, 8, 6)
    assert other.inputs.shape == (210, 6, 8)
    assert np.array_equal(one.shares.argmax(0), one.inputs[:3].argmax(0))
    assert np.array_equal(other.shares.argmax(0), other.inputs[:3].argmax(0))


def test_a_cache_that_was_not_finished_counts_as_none(tmp_path: Path) -> None:
    assert FeatureSet.stored(tmp_path / "nowhere") is None
    writer = CacheWriter(tmp_path, 2, 0.95)
    labels = np.array([[0, 1]], U8)
    assert writer.wants("a", labels)
    writer.add(np.zeros((4, 1, 2), np.float32), labels)
    assert FeatureSet.stored(tmp_path) is None
    writer.finish()
    assert FeatureSet.stored(tmp_path) is not None


def test_plain_and_empty_masks_are_left_out(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, 2, 0.7)
    assert not writer.wants("empty", np.full((4, 4), 255, U8))
    assert not writer.wants("plain", np.zeros((4, 4), U8))
    assert writer.selection.dropped == ["empty", "plain"]
    with pytest.raises(WorkError, match="nothing to learn from: of 2 masks all have no label"):
        writer.finish()


def test_images_are_read_again_and_cut(tmp_path: Path) -> None:
    image, labels = np.full((40, 60, 3), 7, U8), np.zeros((40, 60), U8)
    labels[:, 30:] = 1
    source = Source("a", lambda: image, lambda: labels)
    whole = ImageSet([source], 2, 0.95, View(48, "keep", 8))
    (one,) = whole.take([0], np.random.default_rng(0))
    assert one.inputs.shape == (3, 40, 56)
    assert one.shares.shape == (2, 5, 7)
    crops = ImageSet([source], 2, 0.95, View(32, "keep", 8, crop=True, augment=True))
    rng = np.random.default_rng(0)
    shapes = {crops.take([0], rng)[0].inputs.shape for _ in range(5)}
    assert shapes == {(3, 32, 32)}


# --- training -----------------------------------------------------------------------------------

SPEC = SegmenterSpec(head="linear", weights="random", n_classes=3, image_px=48)


def taught(folder: Path, examples: Any, settings: DenoiseConfig, threads: int = 1) -> Segmenter:
    segmenter = build_segmenter(SPEC, 0)
    train(segmenter, examples, settings, Place(folder, 0, threads))
    return segmenter


def same(one: Segmenter, other: Segmenter) -> bool:
    first, second = trained_state(one), trained_state(other)
    return all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_clear_features_are_learnt_and_the_backbone_stays(tmp_path: Path) -> None:
    examples = filled(tmp_path)
    fresh = build_segmenter(SPEC, 0)
    before = {name: one.clone() for name, one in fresh.state_dict().items()}
    curve = train(fresh, examples, DenoiseConfig(epochs=40, rate=0.01), Place(tmp_path, 0))
    assert curve.shape == (40,)
    assert curve[-1] < 0.1 < curve[0]
    (one,) = examples.take([1], np.random.default_rng(0))
    assert np.array_equal(head_logits(fresh, one.inputs).argmax(0), one.shares.argmax(0))
    after = fresh.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("body."))
    assert not all(torch.equal(before[n], after[n]) for n in before if n.startswith("head."))


def test_threads_change_nothing_and_interruptions_neither(tmp_path: Path) -> None:
    settings = DenoiseConfig(epochs=3)
    filled(tmp_path / "a")
    whole = taught(tmp_path / "a", FeatureSet(tmp_path / "a"), settings)
    filled(tmp_path / "b")
    assert same(whole, taught(tmp_path / "b", FeatureSet(tmp_path / "b"), settings, threads=3))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    filled(tmp_path / "c")
    for _ in range(settings.epochs):
        segmenter, examples = build_segmenter(SPEC, 0), FeatureSet(tmp_path / "c")
        with pytest.raises(KeyboardInterrupt):
            train(segmenter, examples, settings, Place(tmp_path / "c", 0, note=stop))
    assert same(whole, taught(tmp_path / "c", FeatureSet(tmp_path / "c"), settings))


@pytest.mark.parametrize("n_images", range(1, 12))
def test_every_image_is_in_one_batch_and_none_is_alone(n_images: int) -> None:
    learner = object.__new__(_Learner)
    learner.settings = DenoiseConfig(batch=3)
    found = learner._batches(list(range(n_images)))
    assert sorted(place for batch in found for place in batch) == list(range(n_images))
    assert n_images == 1 or min(map(len, found)) > 1


def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path) -> None:
    examples = filled(tmp_path)
    settings = DenoiseConfig(epochs=2)
    whole = taught(tmp_path, examples, settings)
    for damage in (b"", b"no checkpoint", (tmp_path / CHECKPOINT).read_bytes()[:-200]):
        (tmp_path / CHECKPOINT).write_bytes(damage)
        assert same(whole, taught(tmp_path, examples, settings))


def test_the_loss_is_cross_entropy_of_pixels() -> None:
    logits = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 5, 4), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = 255
    shares = np.stack([cell_shares(one.numpy().astype(U8), (5, 4), 3) for one in labels])
    wanted = functional.cross_entropy(logits, labels, ignore_index=255, reduction="sum")
    assert torch.isclose(_loss(logits, torch.from_numpy(shares)), wanted, rtol=1e-5)


def test_steps_without_labels_change_nothing(tmp_path: Path) -> None:
    class Unlabelled(FeatureSet):
        def take(self, places: Any, rng: Any) -> list[Example]:
            return [Example(one.inputs, one.shares * 0) for one in super().take(places, rng)]

    filled(tmp_path)
    segmenter = taught(tmp_path, Unlabelled(tmp_path), DenoiseConfig(epochs=1))
    assert same(segmenter, build_segmenter(SPEC, 0))


# --- datus fit ----------------------------------------------------------------------------------

QUICK = {"denoise.enabled": True, "denoise.drop_share": 1.0, "denoise.epochs": 2}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "photos", ids=("a", "b/c", "d"))


def fit_config(dataset: Dataset, **more: Any) -> Config:
    given = {name.replace("__", "."): value for name, value in more.items()}
    return dataset.config("none", {**QUICK, **given})


@pytest.mark.parametrize("more", [{}, {"denoise__freeze": False}], ids=str)
def test_fit_writes_a_model_that_loads(dataset: Dataset, tmp_path: Path, more: Any) -> None:
    done = fit_folders(fit_config(dataset, **more), tmp_path / "models" / "m", QUIET)
    assert (done.n_trained, done.n_dropped, done.n_unlabelled, done.failures) == (3, 0, 0, {})
    model = load_segmenter(done.model)
    assert model.spec.n_classes == 3
    assert model.record["classes"]["names"] == ["c0", "c1", "c2"]
    assert model.record["provenance"]["made_by"] == "datus fit"
    names = {path.name for path in (tmp_path / "models").iterdir()}
    assert names == {"m.json", "m.safetensors"}
    before = done.model.read_bytes()
    fit_folders(fit_config(dataset, **more), tmp_path / "models" / "m", QUIET)
    assert done.model.read_bytes() == before


def test_images_without_labels_are_passed_over(dataset: Dataset, tmp_path: Path) -> None:
    (dataset.truth / "a.png").unlink()
    save(dataset.truth / "d.png", np.full((9, 9), 255, U8))
    save(dataset.images / "d.png", np.zeros((9, 9, 3), U8))
    done = fit_folders(fit_config(dataset), tmp_path / "m", QUIET)
    assert (done.n_trained, done.n_dropped, done.n_unlabelled) == (1, 1, 1)


def test_a_pipe_among_images_or_labels_is_recorded_and_not_read(
    dataset: Dataset, tmp_path: Path
) -> None:
    for path in (dataset.images / "a.png", dataset.truth / "d.png"):
        path.unlink()
        os.mkfifo(path)
    command = [sys.executable, "-m", "datus", "fit", "--images", str(dataset.images)]
    command += ["--labels", str(dataset.truth), "--classes", str(dataset.classes)]
    command += ["--out", str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "a: cannot be read: not a regular file" in done.stderr
    assert "d: cannot be read: not a regular file" in done.stderr


@pytest.mark.parametrize("freeze", [True, False])
def test_what_cannot_be_used_is_told(dataset: Dataset, tmp_path: Path, freeze: bool) -> None:
    save(dataset.truth / "a.png", np.zeros((3, 3), U8))
    save(dataset.truth / "extra.png", np.zeros((3, 3), U8))
    with pytest.raises(TooManyFailures) as caught:
        fit_folders(fit_config(dataset, denoise__freeze=freeze), tmp_path / "m", QUIET)
    text = str(caught.value)
    assert "2 images or labels cannot be used, 0 are allowed" in text
    assert "a: truth is 3x3" in text
    assert "extra: no image in" in text
    config = fit_config(dataset, denoise__freeze=freeze, speed__max_failed=2)
    assert set(fit_folders(config, tmp_path / "m", QUIET).failures) == {"a", "extra"}


def test_folders_that_do_not_fit(dataset: Dataset, tmp_path: Path) -> None:
    save(tmp_path / "other" / "x.png", np.zeros((3, 3), U8))
    with pytest.raises(UsageError, match="share no file name"):
        fit_folders(fit_config(dataset, data__truth=str(tmp_path / "other")), tmp_path / "m", QUIET)


def test_the_command(dataset: Dataset, tmp_path: Path) -> None:
    given = ["fit", "--images", str(dataset.images), "--labels", str(dataset.truth)]
    given += ["--classes", str(dataset.classes), "--epochs", "2", "--device", "cpu"]
    given += ["--set", "features.image_px=64"]
    done = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "m")])
    assert done.exit_code == 0, done.output
    assert "3 images learnt, 0 left out" in done.output
    assert f"use it: datus predict {tmp_path / 'm'}.safetensors IMAGES" in done.output
    record = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert record["provenance"]["recipe"]["settings"]["epochs"] == 2
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert "give all of --images DIR, --labels DIR, --classes TOML, --out MODEL" in done.output


def test_looking_at_the_command_loads_no_torch() -> None:
    import subprocess

    text = "import sys, datus.cli.fit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0

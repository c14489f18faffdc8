"""More images with the clusters of an earlier run: what is made, what stays, what is refused."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_tree import tree
from tiny_runs import (
    SHIPPED,
    SPEED,
    TINY_VIT,
    Dataset,
    Listener,
    flip_byte,
    go,
    made,
    make_dataset,
    save,
    write_pair,
)
from typer.testing import CliRunner

from datus.cli.app import app
from datus.config import Config
from datus.dry_run import dry_run
from datus.engine.plan import find_node
from datus.engine.run import QUIET, RunResult
from datus.errors import DatusError, UsageError, WorkError
from datus.inputs.index import Index, read_index
from datus.pipeline import make_plan
from datus.review import frozen
from datus.status import prune_rows, status_rows
from datus.store.store import DATASET_KEY, Store
from datus.types import WHOLE

pytestmark = pytest.mark.usefixtures("one_backbone")

IDS = tuple(f"{folder}/{number}" for folder in "abc" for number in range(4))
UNSCORED: dict[str, Any] = {"data.truth": "", "data.classes": ""}
POSITION = {"graphs.center": "position", "clusters.k": [3], "clusters.pca": 4}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, one_backbone: None) -> Dataset:
    """Twelve images in three shards and, beside them, a finished run. Only to read."""
    dataset = make_dataset(tmp_path_factory.mktemp("data") / "photos", IDS)
    go(dataset.config(dataset.root / "run", POSITION))
    return dataset


@pytest.fixture
def growing(photos: Dataset, tmp_path: Path) -> Dataset:
    """A copy to change."""
    return Dataset(Path(shutil.copytree(photos.root, tmp_path / "photos", symlinks=True)))


def with_frozen(dataset: Dataset, run_dir: Path, origin: Path, **more: Any) -> Config:
    return dataset.config(run_dir, {**POSITION, "clusters.frozen": str(origin), **more})


def add(dataset: Dataset, *ids: str) -> None:
    for number, image_id in enumerate(ids):
        write_pair(dataset, image_id, 100 + number)


def masks_of(run_dir: Path) -> dict[str, str]:
    """Image id -> hash of its mask."""
    folder = run_dir / "latest" / "masks-k3"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def stages_of(run_dir: Path) -> dict[str, str]:
    """All files but the index, which knows when it looked."""
    return {name: h for name, h in tree(run_dir).items() if not name.startswith("index/")}


def stored(result: RunResult, store: Store, stage: str) -> dict[str, Any]:
    mark = find_node(result.plan.nodes, stage, 3).fingerprint
    data = store.read_shard((stage, mark, DATASET_KEY))
    assert data is not None
    return data.arrays[WHOLE]


def same_arrays(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


def report_of(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "latest" / "report" / "report.json").read_text("utf-8")))


# --- what is made again -------------------------------------------------------------------------

ONE_SHARD = (
    *("features", "graphs", "segments", "embeddings"),
    *("masks (K = 3)", "evaluate (K = 3)", "tallies (K = 3)"),
)


def remove(dataset: Dataset, image_id: str) -> None:
    (dataset.images / f"{image_id}.png").unlink()
    (dataset.truth / f"{image_id}.png").unlink()


def test_masks_of_images_that_went_do_not_stay_in_the_folder(growing: Dataset) -> None:
    run_dir = growing.root / "run"
    before = masks_of(run_dir)
    for image_id in ("a/0", "b/2"):
        remove(growing, image_id)
    go(with_frozen(growing, run_dir, run_dir))
    after = masks_of(run_dir)
    assert before.keys() - after.keys() == {"a/0.png", "b/2.png"}
    assert after.items() <= before.items()


def test_prune_takes_masks_of_images_that_went(growing: Dataset) -> None:
    """As after shares of a run: they remove nothing, since others write beside them."""
    run_dir = growing.root / "run"
    config = with_frozen(growing, run_dir, run_dir)
    remove(growing, "a/0")
    go(config, until="evaluate")
    assert "a/0.png" in masks_of(run_dir)
    rows, _ = prune_rows(config, remove=True)
    assert [row[1].split("/", 1)[1] for row in rows if row[1].endswith(".png")] == ["files/a/0.png"]
    assert "a/0.png" not in masks_of(run_dir)
    assert len(masks_of(run_dir)) == len(IDS) - 1


def test_a_folder_of_other_images_is_said(growing: Dataset, tmp_path: Path) -> None:
    """runs/photos of two folders called photos: the second takes the place of the first."""
    run_dir, other = growing.root / "run", Dataset(tmp_path / "other" / "photos")
    shutil.copytree(growing.root, other.root)
    shutil.rmtree(other.images)
    shutil.rmtree(other.truth)
    for number, image_id in enumerate(IDS):
        write_pair(other, image_id, 500 + number)
    _, heard = go(other.config(run_dir, POSITION))
    assert heard.said[0] == (
        f"warning: none of the 12 images of the last run in {run_dir} is among these: "
        "if they are of another folder, give this one a --run-dir of its own"
    )
    _, heard = go(other.config(run_dir, POSITION))
    assert not any("of the last run" in text for text in heard.said)


def test_a_run_folder_is_not_the_folder_of_images(growing: Dataset) -> None:
    with pytest.raises(UsageError) as caught:
        go(growing.config(growing.images))
    assert str(caught.value) == (
        f"run_dir: {growing.images} is the folder of images: choose another --run-dir"
    )


def test_a_run_folder_among_the_images_adds_no_images(growing: Dataset) -> None:
    config = growing.config(growing.images / "runs" / "photos", POSITION)
    go(config)
    result, _ = go(config)
    assert made(result) == {}
    assert len(result.index.records) == len(IDS)


def test_in_its_own_folder_a_run_makes_new_shards_only(growing: Dataset) -> None:
    run_dir = growing.root / "run"
    before = masks_of(run_dir)
    add(growing, "d/0", "d/1")
    result, _ = go(with_frozen(growing, run_dir, run_dir))
    found = made(result)
    n_shards = len(result.plan.shards)
    assert n_shards > 2
    # the shard before ended with the dataset; it may have taken the new images in
    new = found["features"]
    assert 1 <= new <= 2
    assert {name: found.pop(name) for name in ONE_SHARD} == dict.fromkeys(ONE_SHARD, new)
    assert found == {"views": 1, "report": 1}
    after = masks_of(run_dir)
    assert len(after) == len(before) + 2
    assert after.items() >= before.items()
    assert made(go(with_frozen(growing, run_dir, run_dir))[0]) == {}


def test_in_its_own_folder_nothing_is_made_if_nothing_is_new(growing: Dataset) -> None:
    run_dir = growing.root / "run"
    before = stages_of(run_dir)
    assert made(go(with_frozen(growing, run_dir, run_dir))[0]) == {"report": 1}
    after = stages_of(run_dir)
    assert before.items() <= after.items()
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"report"}


def test_in_another_folder_later_images_make_new_shards_only(
    growing: Dataset, tmp_path: Path
) -> None:
    run_dir, old = tmp_path / "run", growing.root / "run"
    config = with_frozen(growing, run_dir, old, **UNSCORED)
    result, _ = go(config)
    assert "keysums" not in {node.name for node in result.plan.nodes}
    for stage in ("center", "clusters"):
        source, _ = go(growing.config(old, POSITION))
        taken = stored(result, Store(str(run_dir)), stage)
        assert same_arrays(taken, stored(source, Store(str(old)), stage)), stage
    assert masks_of(run_dir) == masks_of(old)
    add(growing, "d/0", "d/1")
    found = made(go(config)[0])
    new = found["features"]
    assert 1 <= new <= 2
    unscored = (stage for stage in ONE_SHARD if not stage.startswith("evaluate"))
    assert found == {**dict.fromkeys(unscored, new), "views": 1, "report": 1}


def test_removed_images_make_new_shards_only(growing: Dataset) -> None:
    run_dir = growing.root / "run"
    (growing.images / "b" / "1.png").unlink()
    found = made(go(with_frozen(growing, run_dir, run_dir))[0])
    assert 1 <= found["masks (K = 3)"] <= 2
    assert found["features"] == found["masks (K = 3)"]
    assert "clusters (K = 3)" not in found


def test_without_it_all_masks_are_made_again(growing: Dataset) -> None:
    add(growing, "d/0")
    result, _ = go(growing.config(growing.root / "run", POSITION))
    found, n_shards = made(result), len(result.plan.shards)
    assert found["features"] <= 2
    assert found["graphs"] == found["masks (K = 3)"] == n_shards
    assert found["center"] == found["clusters (K = 3)"] == 1


def test_features_that_are_not_kept_are_made_once(growing: Dataset, tmp_path: Path) -> None:
    more = {"features.keep": False, "graphs.keep": False, **UNSCORED}
    config = with_frozen(growing, tmp_path / "run", growing.root / "run", **more)
    _, listener = go(config)
    assert masks_of(tmp_path / "run") == masks_of(growing.root / "run")
    (name,) = [bar for bar in listener.bars if "features" in bar]
    assert "masks" in name  # one pass from the image to its mask


def test_new_images_stand_in_the_old_frame(photos: Dataset, tmp_path: Path) -> None:
    """Other images have another mean key; it is not what is taken out of theirs."""
    other = Dataset(tmp_path / "other")
    for number in range(9):
        rng = np.random.default_rng(number)
        save(other.images / f"{number}.png", rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    shutil.copy(photos.classes, other.classes)
    more = {**UNSCORED, "masks.refine": "none"}
    mine, _ = go(other.config(tmp_path / "mine", {**POSITION, **more}), until="graphs")
    taken, _ = go(with_frozen(other, tmp_path / "run", photos.root / "run", **more), until="graphs")
    own = stored(mine, Store(str(tmp_path / "mine")), "center")
    old = stored(taken, Store(str(tmp_path / "run")), "center")
    assert not np.allclose(own["mean"], old["mean"])
    shard = taken.plan.shards[0].key
    bits = [
        Store(str(run)).read_shard(
            ("graphs", find_node(result.plan.nodes, "graphs", 0).fingerprint, shard)
        )
        for run, result in ((tmp_path / "mine", mine), (tmp_path / "run", taken))
    ]
    assert all(bits)
    assert any(
        not np.array_equal(bits[0].arrays[image]["bits"], bits[1].arrays[image]["bits"])
        for image in bits[0].arrays
    )


# --- what a recipe holds ------------------------------------------------------------------------


def index_of(dataset: Dataset) -> Index:
    found = read_index(Store(str(dataset.root / "run")))
    assert found is not None
    return found


def test_a_recipe_holds_the_hash_of_the_clusters_and_not_their_place(
    photos: Dataset, tmp_path: Path
) -> None:
    run, index = photos.root / "run", index_of(photos)
    copy = shutil.copytree(run, tmp_path / "elsewhere")  # links become files
    file = tmp_path / "words.safetensors"
    frozen.save(frozen.load(str(run), 3), file)
    plans = [
        make_plan(with_frozen(photos, tmp_path / "run", origin), index)
        for origin in (run, copy, file)
    ]
    assert len({tuple(node.fingerprint for node in plan.nodes) for plan in plans}) == 1
    settings = find_node(plans[0].nodes, "clusters", 3).recipe["settings"]
    assert settings.keys() == {"k", "frozen"}
    assert settings["frozen"].startswith("sha256:")
    assert str(tmp_path) not in json.dumps([dict(node.recipe) for node in plans[2].nodes])


def test_settings_of_k_means_no_longer_count(photos: Dataset, tmp_path: Path) -> None:
    run, index = photos.root / "run", index_of(photos)
    marks = [
        [n.fingerprint for n in make_plan(with_frozen(photos, tmp_path, run, **more), index).nodes]
        for more in (
            {},
            {"clusters.spherical": False, "clusters.restarts": 9},
        )
    ]
    assert marks[0] == marks[1]


def test_clusters_can_be_taken_from_a_run_that_took_them(photos: Dataset, tmp_path: Path) -> None:
    first, second = photos.root / "run", tmp_path / "second"
    go(with_frozen(photos, second, first, **UNSCORED))
    ids = [frozen.arrays_id(frozen.load(str(run), 3).clusters) for run in (first, second)]
    assert ids[0] == ids[1]


# --- a file -------------------------------------------------------------------------------------


def test_a_file_is_as_good_as_the_run(growing: Dataset, tmp_path: Path) -> None:
    run, file = growing.root / "run", tmp_path / "words.safetensors"
    frozen.save(frozen.load(str(run), 3), file)
    before = masks_of(run)
    again = file.with_name("again.safetensors")
    frozen.save(frozen.load(str(file), 3), again)
    assert again.read_bytes() == file.read_bytes()
    shutil.rmtree(run)
    go(with_frozen(growing, tmp_path / "run", file))
    assert masks_of(tmp_path / "run") == before


def test_files_that_are_none(photos: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "words.safetensors"
    for content in (b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", bytes(100)):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="expected a run folder or a file of datus freeze"):
            frozen.load(str(file), 3)
    whole = frozen.load(str(photos.root / "run"), 3)
    recipes = {name: one for name, one in whole.recipes.items() if name != "graphs"}
    frozen.save(dataclasses.replace(whole, recipes=recipes), file, overwrite=True)
    with pytest.raises(UsageError, match="expected a run folder or a file of datus freeze"):
        frozen.load(str(file), 3)
    frozen.save(whole, file, overwrite=True)
    flip_byte(file)
    with pytest.raises(WorkError, match=r"words\.safetensors is damaged: make it again"):
        frozen.load(str(file), 3)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"features.image_px": 80}, "features.image_px: expected 64, as in {run}, whose clusters "),
        ({"features.resize": "squash"}, "features.resize: expected 'keep', as in {run}"),
        (
            {"features.backbone": "vit_tiny_patch16_224", "features.weights": "random"},
            f"features.backbone: expected '{TINY_VIT}', as in {{run}}",
        ),
        ({"features.weights": "random"}, "features.weights: expected 'sha256:"),
        ({"graphs.center": "dataset"}, "graphs.center: expected 'position', as in {run}"),
        ({"graphs.center": "image"}, "graphs.center: expected 'position', as in {run}"),
        ({"segments.restarts": 3}, "segments.restarts: expected 1, as in {run}"),
        ({"embeddings.mode": "crop"}, "embeddings.backbone: expected None, as in {run}"),
        ({"embeddings.min_patches": 9}, "embeddings.min_patches: expected 2, as in {run}"),
        ({"clusters.k": [4]}, "clusters.k: expected 3, the clusters of {run}, got 4: "),
        ({"clusters.k": [3, 4]}, "clusters.k: expected 3, the clusters of {run}, got 4: "),
    ],
)
def test_other_settings_than_the_old_runs_are_refused(
    more: dict[str, Any], says: str, photos: Dataset, tmp_path: Path
) -> None:
    run = photos.root / "run"
    with pytest.raises(UsageError) as error:
        go(with_frozen(photos, tmp_path / "run", run, **more))
    assert str(error.value).startswith(says.format(run=run))
    assert not (tmp_path / "run" / "features").exists()
    with pytest.raises(UsageError) as error:  # nor in its own folder
        make_plan(with_frozen(photos, run, run, **more), index_of(photos))
    assert str(error.value).startswith(says.format(run=run))


def test_another_seed_is_not_refused(photos: Dataset, tmp_path: Path) -> None:
    config = with_frozen(photos, tmp_path / "run", photos.root / "run", seed=1)
    assert make_plan(config, index_of(photos)).nodes


def test_places_without_a_finished_run(growing: Dataset, tmp_path: Path) -> None:
    run = growing.root / "run"
    (tmp_path / "empty").mkdir()
    for origin, kind, says in (
        (tmp_path / "nowhere", UsageError, "no such run folder or file"),
        (tmp_path / "empty", WorkError, "no run is finished there"),
    ):
        with pytest.raises(kind, match=says):
            go(with_frozen(growing, tmp_path / "run", origin))
    Store(str(run)).remove("report")
    with pytest.raises(WorkError, match="no run is finished there, and only a finished run's"):
        go(with_frozen(growing, tmp_path / "run", run))


def test_damaged_clusters_are_said(growing: Dataset, tmp_path: Path) -> None:
    run = growing.root / "run"
    (file,) = run.glob("clusters/*/shard-all.safetensors")
    flip_byte(file)
    with pytest.raises(DatusError, match=r"clusters: shard all does not match .*: run it again"):
        go(with_frozen(growing, tmp_path / "run", run))


def test_prune_leaves_what_a_growing_run_stands_on(growing: Dataset) -> None:
    run = growing.root / "run"
    add(growing, "d/0")
    go(with_frozen(growing, run, run), until="masks")
    _, n_bytes = prune_rows(with_frozen(growing, run, run), remove=True)
    assert n_bytes > 0
    result, _ = go(with_frozen(growing, run, run))
    assert set(made(result)) == {"evaluate (K = 3)", "tallies (K = 3)", "views", "report"}


def test_prune_leaves_what_another_seed_stands_on(growing: Dataset) -> None:
    """Its segments are others, and the recipes of the old ones say what the clusters came from."""
    run = growing.root / "run"
    config = with_frozen(growing, run, run, seed=1)
    before = frozen.load(str(run), 3)
    rows, _ = prune_rows(config, remove=True)
    pruned = {(stage, name.partition("/")[2][:5]) for stage, name, _ in rows}
    assert ("segments", "shard") in pruned, "of the old ones only recipes stay"
    assert not pruned & {("clusters", ""), ("center", ""), ("clusters", "shard")}
    assert frozen.load(str(run), 3).recipes == before.recipes
    assert prune_rows(config, remove=True)[1] == 0
    result, _ = go(config)
    assert "segments" in made(result)
    assert same_arrays(frozen.load(str(run), 3).clusters, before.clusters)


# --- the command line ---------------------------------------------------------------------------


def call(*words: object) -> tuple[int, str]:
    answer = CliRunner().invoke(app, [str(word) for word in words])
    return answer.exit_code, answer.output


def given(dataset: Dataset, run_dir: Path) -> list[str]:
    words = ["--images", str(dataset.images), "--run-dir", str(run_dir)]
    for name, value in {**SPEED, **POSITION}.items():
        words += ["--set", f"{name}={value}"] if name != "clusters.k" else []
    return words


def test_k_is_that_of_the_old_run(photos: Dataset, tmp_path: Path) -> None:
    run = photos.root / "run"
    status, text = call("status", "--frozen-clusters", run, *given(photos, run))
    assert status == 0, text
    assert "masks (K = 3)" in text
    status, text = call(
        *("run", "--frozen-clusters", run, "--clusters", 4), *given(photos, tmp_path / "run")
    )
    assert status == 2
    assert f"clusters.k: expected 3, the clusters of {run}, got 4: use --clusters 3" in text


def test_of_several_k_one_must_be_chosen(growing: Dataset, tmp_path: Path) -> None:
    run = growing.root / "run"
    go(growing.config(run, {**POSITION, "clusters.k": [3, 4]}))
    words = given(growing, tmp_path / "run")
    status, text = call("status", "--frozen-clusters", run, *words)
    assert status == 2
    assert f"{run} has clusters for K = 3 and 4: choose with --clusters" in text
    status, text = call("freeze", run, "--out", tmp_path / "words")
    assert status == 2
    assert "choose with --clusters" in text
    for k in (3, 4):
        status, text = call("freeze", run, "--out", tmp_path / f"{k}", "--clusters", k)
        assert status == 0, text
        assert text.startswith(f"{k} clusters, ")
        assert frozen.known_k(str(tmp_path / f"{k}")) == (k,)
    both = with_frozen(growing, tmp_path / "run", run, **{"clusters.k": [4, 3]})
    assert len([n for n in make_plan(both, index_of(growing)).nodes if n.name == "clusters"]) == 2


def test_freeze_replaces_only_what_it_is_told_to(photos: Dataset, tmp_path: Path) -> None:
    run, file = photos.root / "run", tmp_path / "words.safetensors"
    file.write_bytes(b"mine")
    status, text = call("freeze", run, "--out", file)
    assert (status, text) == (
        2,
        f"error: {file} is there already: choose another --out, or add --overwrite\n",
    )
    assert file.read_bytes() == b"mine"
    status, text = call("freeze", run, "--out", file, "--overwrite")
    assert status == 0, text
    status, text = call("freeze", run, "--out", file)  # the same bytes
    assert status == 0, text


def test_freeze_to_a_place_that_cannot_be_written(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = photos.root / "run", tmp_path / "file"
    file.write_bytes(b"mine")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("datus.store.store._write_local", full)
        assert call("freeze", run, "--out", tmp_path / "x") == (
            1,
            f"error: cannot write {tmp_path}/x: No space left on device; free some space and run "
            "the same command again\n",
        )
    monkeypatch.setattr("datus.review.frozen.known_k", lambda *_: pytest.fail("looked at the run"))
    assert call("freeze", run, "--out", file / "x") == (
        1,
        f"error: cannot write {file}/x: Not a directory; a file is in the way, choose another "
        "--out\n",
    )
    for folder in (tmp_path, "."):
        assert call("freeze", run, "--out", folder) == (
            2,
            f"error: --out {folder}: expected the name of a file, such as words.safetensors\n",
        )


# --- why, dry run, drift ------------------------------------------------------------------------


def test_status_says_why(growing: Dataset) -> None:
    run = growing.root / "run"
    file = growing.root / "words"
    frozen.save(frozen.load(str(run), 3), file)
    rows = {row[0]: row[-1] for row in status_rows(with_frozen(growing, run, file), True)}
    says = "other clusters are taken from an earlier run, or none are any more"
    assert rows["center"] == f"center: {says}"
    assert rows["clusters (K = 3)"] == f"clusters: {says}"
    assert rows["graphs"] == f"center: {says}"
    assert rows["features"] == ""


def test_a_dry_run_looks_at_everything(photos: Dataset, tmp_path: Path) -> None:
    found = dry_run(
        with_frozen(photos, tmp_path / "run", photos.root / "run"),
        Store(str(tmp_path / "run")),
        QUIET,
    )
    assert not found.problems
    rows = {row.name: row for row in found.rows}
    assert "keysums" not in rows
    assert rows["clusters (K = 3)"].seconds is not None
    assert not (tmp_path / "run").exists()


def warnings_of(listener: Listener) -> list[str]:
    return [text for text in listener.said if "unlike" in text]


def test_only_new_images_count_as_drift(growing: Dataset) -> None:
    run = growing.root / "shipped"
    go(growing.config(run, {**POSITION, **SHIPPED}))
    add(growing, *(f"d/{number}" for number in range(6)))
    shutil.copy(growing.images / "a" / "0.png", growing.images / "a" / "copy.png")
    _, listener = go(with_frozen(growing, run, run, **UNSCORED, **SHIPPED))
    found = report_of(run)["drift"]
    assert found["n_new_images"] == 6  # and the copy of an old one is not new
    assert sum(one["segments_now"] for one in found["clusters"]) == found["n_new_segments"] > 20
    assert found["warning"] == ""
    assert warnings_of(listener) == []
    page = (run / "latest" / "report" / "report.html").read_text("utf-8")
    assert '<section id="drift">' in page
    text = (run / "latest" / "report" / "report.md").read_text("utf-8")
    assert "6 images with" in text


def test_images_of_another_kind_are_warned_of(growing: Dataset) -> None:
    run = growing.root / "run"
    for number in range(8):
        rng = np.random.default_rng(number)
        noise = rng.integers(0, 255, (70, 70, 3)).astype(np.uint8)
        save(growing.images / f"noise{number}.png", noise)
    _, listener = go(with_frozen(growing, run, run, **UNSCORED))
    (said,) = warnings_of(listener)
    found = report_of(run)
    assert said == f"warning: {found['drift']['warning']}"
    assert found["warnings"][-1] == found["drift"]["warning"]
    assert max(one["percent_beyond_95"] for one in found["drift"]["measures"]) > 15


def test_no_drift_without_taken_clusters(photos: Dataset) -> None:
    found = report_of(photos.root / "run")
    assert "drift" not in found
    assert "frozen" not in found["settings"]["clusters"]

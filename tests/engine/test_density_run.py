"""Runs whose graphs link a share of the pairs of the dataset: one threshold, found over all images,
the same however they are divided, and kept with frozen clusters."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_tree import tree
from tiny_runs import IDS, SPEED, Dataset, go, make_dataset, save, write_pair

from datus.config import Config
from datus.engine.plan import find_node
from datus.engine.run import RunResult
from datus.errors import ClusterError, UsageError
from datus.inputs.index import Index
from datus.pipeline import make_plan
from datus.review import frozen
from datus.store.store import DATASET_KEY, Store
from datus.types import WHOLE, Array

pytestmark = pytest.mark.usefixtures("one_backbone")

BY_DENSITY: dict[str, Any] = {"graphs.threshold": "auto", "graphs.center": "auto"}
USUAL = Config().graphs.density
UNSCORED: dict[str, Any] = {"data.truth": "", "data.classes": ""}


def center_of(result: RunResult, run_dir: Path) -> dict[str, Array]:
    mark = find_node(result.plan.nodes, "center", 3).fingerprint
    data = Store(str(run_dir)).read_shard(("center", mark, DATASET_KEY))
    assert data is not None
    return dict(data.arrays[WHOLE])


def linked_share(result: RunResult, run_dir: Path) -> float:
    """Of all pairs of patches within the images, those that the stored graphs link."""
    mark = find_node(result.plan.nodes, "graphs", 3).fingerprint
    linked = pairs = 0.0
    for shard in result.plan.shards:
        data = Store(str(run_dir)).read_shard(("graphs", mark, shard.key))
        assert data is not None
        for image_id, arrays in data.arrays.items():
            n_pairs = float(np.prod(arrays["grid"])) * (np.prod(arrays["grid"]) - 1)
            linked += data.numbers[image_id]["density"] * n_pairs
            pairs += n_pairs
    return linked / pairs


@pytest.fixture(scope="module")
def dense(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory, one_backbone: None) -> Path:
    """A finished run by density on `tiny`. Only to read."""
    run_dir = tmp_path_factory.mktemp("dense") / "run"
    go(tiny.config(run_dir, BY_DENSITY))
    return run_dir


# --- the share that is linked -------------------------------------------------------------------


def test_a_usual_run_links_the_asked_share(tiny: Dataset, dense: Path) -> None:
    result, _ = go(tiny.config(dense, BY_DENSITY))
    assert linked_share(result, dense) == pytest.approx(USUAL, abs=0.005)
    found = center_of(result, dense)
    assert set(found) == {"mean", "choice", "threshold"}
    threshold = float(found["threshold"][0])
    shown = json.loads((dense / "latest" / "report" / "report.json").read_bytes())["settings"]
    assert shown["graphs"]["threshold"] == f"auto ({threshold:.4f})"
    assert shown["graphs"]["center"] == f"auto ({found['choice'].tobytes().decode()})"
    assert shown["graphs"]["density"] == USUAL


@pytest.mark.parametrize("share", [0.05, 0.4])
@pytest.mark.parametrize("center", ["none", "image", "dataset", "position"])
def test_whatever_is_subtracted_the_asked_share_is_linked(
    center: str, share: float, tiny: Dataset, tmp_path: Path
) -> None:
    more = {"graphs.center": center, "graphs.threshold": "auto", "graphs.density": share}
    result, _ = go(tiny.config(tmp_path / "run", more), until="graphs")
    assert center_of(result, tmp_path / "run")["choice"].tobytes().decode() == center
    assert linked_share(result, tmp_path / "run") == pytest.approx(share, abs=0.01)


def test_grids_of_fewer_patches_than_are_sampled(tiny: Dataset, tmp_path: Path) -> None:
    more = {**BY_DENSITY, "features.image_px": 32}
    result, _ = go(tiny.config(tmp_path / "run", more), until="graphs")
    assert linked_share(result, tmp_path / "run") == pytest.approx(USUAL, abs=0.005)


def test_one_image_is_enough(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", IDS[:1])
    config = dataset.config(tmp_path / "run", {**BY_DENSITY, "graphs.density": 0.2})
    result, _ = go(config, until="graphs")
    assert linked_share(result, tmp_path / "run") == pytest.approx(0.2, abs=0.02)


# --- however the work is divided ----------------------------------------------------------------


@pytest.mark.parametrize("n_images", [2, 100])
def test_shards_of_any_size_give_the_same_threshold(
    n_images: int, tiny: Dataset, dense: Path, tmp_path: Path
) -> None:
    before, _ = go(tiny.config(dense, BY_DENSITY))
    more = {**BY_DENSITY, "data.shard_images": n_images}
    result, _ = go(tiny.config(tmp_path / "run", more), until="graphs")
    assert len(result.plan.shards) != len(before.plan.shards)
    old, new = center_of(before, dense), center_of(result, tmp_path / "run")
    assert old["threshold"].tobytes() == new["threshold"].tobytes()
    assert old["choice"].tobytes() == new["choice"].tobytes()
    np.testing.assert_allclose(old["mean"], new["mean"], atol=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"speed.executor": "processes", "speed.workers": 2}, marks=pytest.mark.slow),
        {"speed.threads": 1, "speed.batch": 3},
        {"speed.threads": 2},
    ],
)
def test_processes_and_threads_change_no_byte(
    more: dict[str, Any], tiny: Dataset, dense: Path, tmp_path: Path
) -> None:
    go(tiny.config(tmp_path / "run", {**BY_DENSITY, **more}))
    assert tree(tmp_path / "run") == tree(dense)


def test_features_and_graphs_that_are_not_kept_change_no_threshold(
    tiny: Dataset, dense: Path, tmp_path: Path
) -> None:
    more = {**BY_DENSITY, "features.keep": False, "graphs.keep": False}
    result, _ = go(tiny.config(tmp_path / "run", more))
    before, _ = go(tiny.config(dense, BY_DENSITY))
    old, new = center_of(before, dense), center_of(result, tmp_path / "run")
    assert {name: array.tobytes() for name, array in old.items()} == {
        name: array.tobytes() for name, array in new.items()
    }
    for name in ("masks-k3", "report"):
        old_tree, new_tree = (tree(run / "latest" / name) for run in (dense, tmp_path / "run"))
        assert old_tree == new_tree


# --- frozen clusters ----------------------------------------------------------------------------


@pytest.fixture
def others(tiny: Dataset, tmp_path: Path) -> Dataset:
    """Images of other colours, with less in common: another threshold of their own."""
    other = Dataset(tmp_path / "others")
    for number in range(9):
        rng = np.random.default_rng(number)
        save(other.images / f"{number}.png", rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    return other


def with_frozen(dataset: Dataset, run_dir: Path, origin: Path, **more: Any) -> Config:
    settings = {**BY_DENSITY, **UNSCORED, "clusters.frozen": str(origin), **more}
    return dataset.config(run_dir, settings)


def test_frozen_clusters_keep_the_threshold(
    tiny: Dataset, others: Dataset, dense: Path, tmp_path: Path
) -> None:
    old = center_of(go(tiny.config(dense, BY_DENSITY))[0], dense)
    own, _ = go(others.config(tmp_path / "own", {**BY_DENSITY, **UNSCORED}), until="graphs")
    assert center_of(own, tmp_path / "own")["threshold"] != old["threshold"]
    result, _ = go(with_frozen(others, tmp_path / "run", dense))
    taken = center_of(result, tmp_path / "run")
    assert taken.keys() == old.keys()
    for name, array in old.items():
        np.testing.assert_array_equal(taken[name], array)
    report = json.loads((tmp_path / "run" / "latest" / "report" / "report.json").read_bytes())
    assert report["settings"]["graphs"]["threshold"] == f"auto ({old['threshold'][0]:.4f})"
    assert report["verdict"]["word"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"graphs.threshold": 0.7}, "graphs.threshold: expected 'auto', as in {run}"),
        ({"graphs.density": 0.5}, "graphs.density: expected {usual}, as in {run}"),
        ({"graphs.center": "none"}, "graphs.center: expected 'auto', as in {run}"),
    ],
)
def test_another_rule_of_the_graphs_than_the_old_runs_is_refused(
    more: dict[str, Any], says: str, others: Dataset, dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        go(with_frozen(others, tmp_path / "run", dense, **more))
    assert str(caught.value).startswith(says.format(run=dense, usual=USUAL))


def test_a_density_is_not_taken_of_a_run_with_a_threshold(
    tiny: Dataset, others: Dataset, finished: Path, tmp_path: Path
) -> None:
    more = {"graphs.center": "image"}
    with pytest.raises(UsageError, match=r"^graphs\.threshold: expected 0\.7, as in "):
        go(with_frozen(others, tmp_path / "run", finished, **more))


def saved(dense: Path, file: Path, change: Mapping[str, Any]) -> Path:
    """A file of the frozen clusters with another center; None takes an array away."""
    whole = frozen.load(str(dense), 3)
    assert whole.center is not None
    center = {**whole.center, **change}
    kept = {name: array for name, array in center.items() if array is not None}
    frozen.save(dataclasses.replace(whole, center=kept), file, overwrite=True)
    return file


@pytest.mark.parametrize(
    "threshold",
    [
        None,
        *(np.array([value]) for value in (-1.0, 1.0, 7.0, np.nan, np.inf, -np.inf)),
        np.zeros(0),
        np.array([0.5, 0.5]),
        np.array(0.5),
    ],
    ids=str,
)
def test_a_file_without_a_threshold_that_graphs_can_take_is_refused(
    threshold: Array | None, dense: Path, tmp_path: Path
) -> None:
    file = saved(dense, tmp_path / "words.safetensors", {"threshold": threshold})
    with pytest.raises(UsageError, match="expected a run folder or a file of datus freeze"):
        frozen.load(str(file), 3)


def test_a_file_without_all_that_was_found_over_the_dataset_is_refused(
    dense: Path, tmp_path: Path
) -> None:
    file = tmp_path / "words.safetensors"
    frozen.save(dataclasses.replace(frozen.load(str(dense), 3), center={}), file)
    with pytest.raises(UsageError, match="expected a run folder or a file of datus freeze"):
        frozen.load(str(file), 3)


@pytest.mark.parametrize("threshold", [-0.999, 0.0, 0.999])
def test_a_file_with_a_threshold_is_taken(threshold: float, dense: Path, tmp_path: Path) -> None:
    change = {"threshold": np.array([threshold])}
    found = frozen.load(str(saved(dense, tmp_path / "words.safetensors", change)), 3)
    assert found.center is not None
    assert found.center["threshold"].tolist() == [threshold]


def test_a_run_without_a_mean_has_a_threshold_to_keep(
    tiny: Dataset, others: Dataset, tmp_path: Path
) -> None:
    more = {"graphs.center": "none"}
    first, _ = go(tiny.config(tmp_path / "first", {**BY_DENSITY, **more}))
    file = tmp_path / "words.safetensors"
    frozen.save(frozen.load(str(tmp_path / "first"), 3), file)
    result, _ = go(with_frozen(others, tmp_path / "run", file, **more))
    old, new = center_of(first, tmp_path / "first"), center_of(result, tmp_path / "run")
    assert old["threshold"].tobytes() == new["threshold"].tobytes()
    assert new["choice"].tobytes() == b"none"


# --- recipes ------------------------------------------------------------------------------------


def recipe(dataset: Dataset, more: Mapping[str, Any]) -> dict[str, Any]:
    plan = make_plan(dataset.config("run", more), Index((), {}, 0))
    return {node.name: node.recipe["settings"] for node in plan.nodes}


def test_a_given_threshold_has_the_recipe_that_it_always_had(tiny: Dataset) -> None:
    given = recipe(tiny, {"graphs.threshold": 0.7, "graphs.center": "image"})
    assert given["graphs"] == {"center": "image", "threshold": 0.7}
    assert not {"keysums", "center"} & given.keys()
    more = {"graphs.threshold": 0.7, "graphs.center": "position"}
    assert "density" not in recipe(tiny, more)["center"]


def test_the_preset_of_the_paper_has_the_recipe_that_it_always_had(tmp_path: Path) -> None:
    config = Config.load(None, {"preset": "paper", "data.images": str(tmp_path)})
    plan = make_plan(config, Index((), {}, 0))
    found = {node.name: node.recipe for node in plan.nodes}
    assert found["graphs"]["settings"] == {"center": "none", "threshold": 0.0}
    assert not {"keysums", "center"} & found.keys()


# --- images that say nothing --------------------------------------------------------------------


@pytest.mark.parametrize("colours", ["one", "five"])
@pytest.mark.parametrize("center", ["auto", "none", "image", "dataset", "position"])
def test_images_of_one_colour_end_with_masks_or_a_clear_message(
    center: str, colours: str, tmp_path: Path
) -> None:
    dataset = Dataset(tmp_path / "photos")
    for number in range(5):
        shade = 40 * number if colours == "five" else 90
        save(dataset.images / f"{number}.png", np.full((64, 64, 3), shade, np.uint8))
    more = {**UNSCORED, "graphs.center": center, "graphs.threshold": "auto", "clusters.k": [2]}
    config, said = dataset.config(tmp_path / "run", more), ""
    result, _ = go(config, until="graphs")
    assert -1 < float(center_of(result, tmp_path / "run")["threshold"][0]) < 1
    try:
        go(config)
    except ClusterError as error:
        said = str(error)
    masks = list((tmp_path / "run" / "latest" / "masks-k2").glob("*.png"))
    assert len(masks) == 5 or "clusters asked of" in said or "different" in said, said


def test_images_of_one_colour_among_others_have_masks(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path / "photos")
    for number in range(6):
        write_pair(dataset, f"a{number}", number)
    for number in range(3):
        save(dataset.images / f"flat{number}.png", np.full((50, 70, 3), 255, np.uint8))
    go(dataset.config(tmp_path / "run", {**UNSCORED, **BY_DENSITY}))
    assert len(list((tmp_path / "run" / "latest" / "masks-k3").glob("*.png"))) == 9


def test_the_tiny_runs_of_other_tests_have_no_stage_before_the_graphs() -> None:
    assert not Config.load(None, SPEED).graphs.over_dataset

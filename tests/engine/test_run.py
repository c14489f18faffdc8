"""Whole runs on tiny images: nothing is made twice, and nothing but settings changes a byte."""

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from run_tree import tree
from tiny_runs import (
    IDS,
    Dataset,
    Listener,
    flip_byte,
    go,
    made,
    make_dataset,
    snapshot,
    write_pair,
)

import datus.method.affinity
from datus.config import Config
from datus.engine import run as runner
from datus.engine import shares
from datus.engine import workers as executors
from datus.engine.resources import placed, resolve_device, runtime_of
from datus.engine.run import RunResult
from datus.engine.workers import ExecutorSettings, serial
from datus.errors import ClusterError, UsageError, WorkError
from datus.method.metrics import RULES
from datus.models.vit import Backbone
from datus.pipeline import STAGES, run
from datus.stages.embeddings import few_valid
from datus.store.leftovers import note
from datus.store.store import Store

LATER = ("clusters", "masks", "evaluate", "tallies", "report")


def report_of(result: RunResult, run_dir: Path | str) -> Any:
    mark = result.plan.nodes[-1].fingerprint
    return json.loads(Store(run_dir).read("report", mark, "files", "report.json"))


def shards_of(run_dir: Path, stage: str) -> list[Path]:
    return sorted(run_dir.glob(f"{stage}/*/shard-*.safetensors"))


def without(found: Mapping[str, str], *stages: str) -> dict[str, str]:
    return {name: digest for name, digest in found.items() if name.split("/")[0] not in stages}


def forget(run_dir: Path, *stages: str) -> None:
    for stage in stages:
        shutil.rmtree(run_dir / stage)


# --- what comes out -----------------------------------------------------------------------------


def test_there_is_a_mask_for_every_image_and_a_report(finished: Path, tiny: Dataset) -> None:
    masks = finished / "latest" / "masks-k3"
    found = {p.relative_to(masks).with_suffix("").as_posix() for p in masks.rglob("*.png")}
    assert found == set(IDS)
    assert (finished / "latest" / "report" / "report.html").stat().st_size > 1000


def test_the_report_has_all_rules_with_their_scores(finished: Path) -> None:
    report = json.loads((finished / "latest" / "report" / "report.json").read_bytes())
    assert set(report["scores"]) == set(RULES)
    assert len(RULES) == 5
    for row in report["scores"].values():
        for name in ("miou", "accuracy", "f1"):
            assert 0 <= row[name] <= 100
    assert report["clusters"] == 3
    assert report["n_images"] == len(IDS)


def test_without_truth_nothing_is_scored(tiny: Dataset, run_copy: Path) -> None:
    result, _ = go(tiny.config(run_copy, {"data.truth": "", "data.classes": ""}))
    assert made(result) == {"tallies (K = 3)": len(result.plan.shards), "report": 1}
    report = report_of(result, run_copy)
    assert report["scores"] == {}
    assert report["headline"] is None
    assert (
        report["scores_note"] == "No true masks were given, so there is nothing to score against."
    )


def test_progress_adds_up_and_a_run_folder_can_be_elsewhere(tiny: Dataset, finished: Path) -> None:
    address = f"memory://{uuid4().hex}/run"
    result, listener = go(tiny.config(address))
    assert {name: count for name, (_, count) in listener.bars.items()} == {
        name: total for name, (total, _) in listener.bars.items()
    }
    names = [name for bar in listener.bars for name in bar.split(" + ")]
    assert sorted(names) == sorted(row.name for row in result.stages)
    store = Store(address)
    for stage in ("features", "segments", "masks"):
        for path in shards_of(finished, stage):
            assert store.read(stage, path.parent.name, path.name) == path.read_bytes()
    assert go(tiny.config(address))[0].stages[-1].made == 0


# --- nothing is made twice ----------------------------------------------------------------------


def test_a_second_run_makes_and_writes_nothing(tiny: Dataset, run_copy: Path) -> None:
    before = snapshot(run_copy)
    result, listener = go(tiny.config(run_copy))
    assert made(result) == {}
    assert snapshot(run_copy) == before
    assert set(listener.bars) == {"index"}
    assert listener.said == []


def test_another_number_of_clusters_makes_only_clusters_and_later(
    tiny: Dataset, run_copy: Path
) -> None:
    before = snapshot(run_copy)
    result, _ = go(tiny.config(run_copy, {"clusters.k": 2}))
    n_shards = len(result.plan.shards)
    assert made(result) == {
        "clusters (K = 2)": 1,
        "masks (K = 2)": n_shards,
        "evaluate (K = 2)": n_shards,
        "tallies (K = 2)": n_shards,
        "report": 1,
    }
    after = snapshot(run_copy)
    assert {name: after[name] for name in before} == before


def test_a_sweep_makes_only_what_each_number_of_clusters_needs(
    tiny: Dataset, run_copy: Path
) -> None:
    result, _ = go(tiny.config(run_copy, {"clusters.k": [2, 3, 4]}))
    assert set(made(result)) == {
        *(f"{stage} (K = {k})" for k in (2, 4) for stage in LATER[:-1]),
        "report",
    }
    report = report_of(result, run_copy)
    assert [row["k"] for row in report["sweep"]] == [2, 3, 4]
    assert report["clusters"] == 2
    for row in report["sweep"]:
        assert set(row["scores"]) == set(RULES)
        assert (run_copy / "latest" / f"masks-k{row['k']}" / "a0.png").exists()


def test_one_changed_image_makes_its_own_shard_and_what_sees_all_images(
    tmp_path: Path, tiny: Dataset, finished: Path
) -> None:
    dataset = Dataset(Path(shutil.copytree(tiny.root, tmp_path / "photos")))
    run_dir = tmp_path / "run"
    assert set(made(go(dataset.config(run_dir))[0])) > {"features", "report"}
    assert tree(run_dir).keys() == tree(finished).keys(), "the same content elsewhere"
    write_pair(dataset, "b/c1", seed=99)
    result, _ = go(dataset.config(run_dir))
    n_shards = len(result.plan.shards)
    assert n_shards > 2
    assert made(result) == {
        **dict.fromkeys(("features", "graphs", "segments", "embeddings", "samples"), 1),
        "clusters (K = 3)": 1,
        "masks (K = 3)": n_shards,
        "evaluate (K = 3)": n_shards,
        "tallies (K = 3)": n_shards,
        "views": 1,
        "report": 1,
    }


# --- nothing but settings changes a byte --------------------------------------------------------

NOT_KEPT = {"features.keep": False, "graphs.keep": False}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four images, for runs with more work."""
    return make_dataset(tmp_path_factory.mktemp("few") / "photos", ids=IDS[:4])


@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (2, 7)])
def test_threads_and_batch_change_no_byte(
    threads: int, batch: int, tiny: Dataset, finished: Path, tmp_path: Path
) -> None:
    speed = {"speed.threads": threads, "speed.batch": batch}
    go(tiny.config(tmp_path / "run", speed))
    assert tree(tmp_path / "run") == tree(finished)


WORKERS = {"speed.executor": "processes", "speed.workers": 2, "speed.batch": 5}


def run_with_workers(tiny: Dataset, finished: Path, run_dir: Path) -> None:
    _, listener = go(tiny.config(run_dir, {**WORKERS, **NOT_KEPT}), until="embeddings")
    assert listener.bars["features + graphs + segments + embeddings"] == [4 * len(IDS)] * 2
    found, whole = kept_of(run_dir), kept_of(finished)
    assert found == {name: whole[name] for name in found}
    in_workers = [name for name in whole if name.startswith(("segments/", "embeddings/"))]
    assert set(in_workers) <= set(found)


@pytest.mark.slow
def test_workers_change_no_byte(tiny: Dataset, finished: Path, tmp_path: Path) -> None:
    run_with_workers(tiny, finished, tmp_path / "run")


def test_work_that_travels_changes_no_byte(
    tiny: Dataset, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What workers get and give, without the time that it takes to start some."""

    def travelling(function: Any, jobs: Any, settings: ExecutorSettings) -> Any:
        for outcome in serial.run(*pickle.loads(pickle.dumps((function, jobs))), settings):
            yield pickle.loads(pickle.dumps(outcome))

    monkeypatch.setattr(executors, "by_name", {"processes": travelling}.__getitem__)
    run_with_workers(tiny, finished, tmp_path / "run")


def test_auto_places_stages_without_a_model_in_workers_and_changes_no_byte(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"graphs.center": "dataset"}
    go(tiny.config(tmp_path / "serial", more))
    where: dict[str, tuple[str, bool]] = {}

    def noting(name: str) -> Any:
        def here(function: Any, jobs: Any, settings: ExecutorSettings) -> Any:
            for node in jobs[0].group:
                where[node.name] = name, settings.keep
            yield from serial.run(function, jobs, settings)

        return here

    monkeypatch.setattr(executors, "by_name", noting)
    go(tiny.config(tmp_path / "run", {**more, "speed.workers": 2}))
    assert tree(tmp_path / "run") == tree(tmp_path / "serial")
    here = {stage for stage, (name, _) in where.items() if name == "serial"}
    assert here == {"features", "keysums"}
    assert where["graphs"] == where["masks"] == ("processes", True)


@pytest.mark.slow
def test_auto_with_real_workers_changes_no_byte(tiny: Dataset, tmp_path: Path) -> None:
    for name, workers in (("serial", 1), ("run", 2)):
        settings = {"graphs.center": "dataset", "speed.workers": workers}
        go(tiny.config(tmp_path / name, settings))
    assert tree(tmp_path / "run") == tree(tmp_path / "serial")


def kept_of(run_dir: Path) -> dict[str, str]:
    return without(tree(run_dir), "features", "graphs")


def test_what_is_not_kept_changes_no_byte_of_what_is(
    tiny: Dataset, finished: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    result, listener = go(tiny.config(run_dir, NOT_KEPT))
    assert [row.name for row in result.stages[1:6]] == [
        "features",
        "graphs",
        "segments",
        "embeddings",
        "samples",
    ]
    bar = "features + graphs + segments + embeddings + samples"
    assert listener.bars[bar] == [5 * len(IDS), 5 * len(IDS)]
    assert shards_of(run_dir, "features") == shards_of(run_dir, "graphs") == []
    assert kept_of(run_dir) == kept_of(finished)
    before = snapshot(run_dir)
    assert made(go(tiny.config(run_dir, NOT_KEPT))[0]) == {}
    assert snapshot(run_dir) == before


def test_what_is_not_kept_is_made_again_where_it_is_needed(few: Dataset, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    go(few.config(run_dir, NOT_KEPT))
    before = tree(run_dir)
    shards_of(run_dir, "embeddings")[0].unlink()
    result, _ = go(few.config(run_dir, NOT_KEPT))
    assert made(result)["embeddings"] == 1
    assert tree(run_dir) == before


@pytest.mark.parametrize(
    "more",
    [
        {"embeddings.mode": "crop", "embeddings.crop_px": 16},
        {"graphs.center": "position", "masks.noise": "pool"},
    ],
    ids=["crops", "position means"],
)
def test_other_ways_come_out_the_same_whatever_is_kept_and_however_fast(
    more: dict[str, Any], few: Dataset, tmp_path: Path
) -> None:
    go(few.config(tmp_path / "kept", {**more, "speed.threads": 1, "speed.batch": 1}))
    fast = {"speed.threads": 2, "speed.batch": 7}
    result, _ = go(few.config(tmp_path / "lean", {**more, **NOT_KEPT, **fast}))
    assert kept_of(tmp_path / "lean") == kept_of(tmp_path / "kept")
    assert "report" in made(result)


def test_the_seed_changes_segments_or_clusters_but_no_features(
    tiny: Dataset, run_copy: Path
) -> None:
    result, _ = go(tiny.config(run_copy, {"seed": 5}))
    assert not {"features", "graphs"} & set(made(result))
    assert "segments" in made(result)


# --- damage -------------------------------------------------------------------------------------


def test_a_damaged_shard_is_made_again_and_said(
    tiny: Dataset, run_copy: Path, finished: Path
) -> None:
    path = shards_of(run_copy, "segments")[0]
    flip_byte(path)
    forget(run_copy, "masks")
    _, listener = go(tiny.config(run_copy))
    key = path.stem.removeprefix("shard-")
    said = f"segments: shard {key} does not match its checksum: made again"
    assert listener.said == [said]
    assert tree(run_copy) == tree(finished)


def test_damage_is_found_by_stages_that_see_all_shards_too(
    tiny: Dataset, run_copy: Path, finished: Path
) -> None:
    paths = shards_of(run_copy, "embeddings")
    for path in (paths[0], paths[-1]):
        flip_byte(path)
    forget(run_copy, *LATER)
    _, listener = go(tiny.config(run_copy))
    assert len(listener.said) == 2
    assert all(text.endswith("does not match its checksum: made again") for text in listener.said)
    assert tree(run_copy) == tree(finished)


def test_damage_is_mended_back_to_the_images(tiny: Dataset, run_copy: Path, finished: Path) -> None:
    for stage in ("features", "graphs", "segments"):
        flip_byte(shards_of(run_copy, stage)[1])
    forget(run_copy, "embeddings", "masks")
    _, listener = go(tiny.config(run_copy))
    assert sorted(text.split(":")[0] for text in listener.said) == [
        "features",
        "graphs",
        "segments",
    ]
    assert tree(run_copy) == tree(finished)


def test_damaged_clusters_are_an_error_that_the_next_run_mends(
    tiny: Dataset, run_copy: Path, finished: Path
) -> None:
    flip_byte(shards_of(run_copy, "clusters")[0])
    forget(run_copy, "masks")
    with pytest.raises(WorkError) as caught:
        go(tiny.config(run_copy))
    assert "clusters (K = 3) was damaged and is gone: run the same command again" in str(
        caught.value
    )
    go(tiny.config(run_copy))
    assert tree(run_copy) == tree(finished)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("stage", ["features", "segments", "clusters", "evaluate"])
def test_a_deleted_shard_is_made_again_and_no_other(
    stage: str, suffix: str, tiny: Dataset, run_copy: Path, finished: Path
) -> None:
    shards_of(run_copy, stage)[0].with_suffix(f".{suffix}").unlink()
    result, _ = go(tiny.config(run_copy))
    assert [name.split(" ")[0] for name in made(result)] == [stage]
    assert set(made(result).values()) == {1}
    assert tree(run_copy) == tree(finished)


def test_a_deleted_mask_is_painted_again(tiny: Dataset, run_copy: Path, finished: Path) -> None:
    (run_copy / "latest" / "masks-k3" / "b" / "c1.png").unlink()
    result, _ = go(tiny.config(run_copy))
    assert made(result) == {"masks (K = 3)": 1}
    assert tree(run_copy) == tree(finished)


def test_what_killed_writers_left_is_swept(tiny: Dataset, run_copy: Path, finished: Path) -> None:
    (folder,) = (run_copy / "masks").iterdir()
    note(str(run_copy), ("masks", folder.name, "shard-abc.json"))  # as who was killed had left it
    for place in (folder / "files" / "b", folder, run_copy, run_copy / "index"):
        (place / ".tmp-abc").write_bytes(b"torn")
    go(tiny.config(run_copy))
    assert tree(run_copy) == tree(finished)


def test_a_run_that_ends_well_leaves_no_note_of_its_writers(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = set[str]()
    end_notes = shares.end_notes

    def ending(root: str) -> None:
        noted.update(path.name.split("--")[0] for path in Path(root, "writing").iterdir())
        end_notes(root)

    monkeypatch.setattr(shares, "end_notes", ending)
    result, _ = go(tiny.config(tmp_path))
    assert noted == {node.name for node in result.plan.nodes}
    assert not (tmp_path / "writing").exists()


# --- trouble ------------------------------------------------------------------------------------


def test_a_surprise_in_one_shard_leaves_the_others_and_the_next_run_makes_only_that_one(
    tiny: Dataset, run_copy: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(run_copy, "graphs", "segments")
    calls = []
    whole = datus.method.affinity.affinity_graph

    def surprise(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("cosmic ray")
        return whole(*arguments)

    monkeypatch.setattr(datus.method.affinity, "affinity_graph", surprise)
    config = tiny.config(run_copy, {"speed.threads": 1})
    listener = Listener()
    with pytest.raises(WorkError) as caught:
        run(config, Store(run_copy), listener)
    n_shards = len(shards_of(finished, "graphs"))
    key = listener.said[0].split(" ")[1].rstrip(":")
    assert listener.said == [f"shard {key}: RuntimeError: cosmic ray"]
    assert str(caught.value) == (
        f"graphs: 1 of {n_shards} shards failed, the others are kept; "
        f"the first: shard {key}: RuntimeError: cosmic ray"
    )
    result, _ = go(config)
    assert made(result) == {"graphs": 1, "segments": 1}
    assert tree(run_copy) == tree(finished)


def test_a_failed_image_is_counted_in_its_own_stage_where_stages_run_in_one_go(
    tmp_path: Path,
) -> None:
    dataset = make_dataset(tmp_path / "photos", ids=IDS[:5])
    path = dataset.images / "a1.png"
    path.write_bytes(path.read_bytes()[:-200])
    more = {**NOT_KEPT, "speed.max_failed": 1, "clusters.k": 2}
    result, _ = go(dataset.config(tmp_path / "run", more))
    assert {row.name: row.failed for row in result.stages if row.failed} == {"features": 1}
    (failure,) = report_of(result, tmp_path / "run")["failures"]
    assert (failure["stage"], failure["image_id"]) == ("features", "a1")
    assert not (tmp_path / "run" / "latest" / "masks-k2" / "a1.png").exists()
    assert (tmp_path / "run" / "latest" / "masks-k2" / "a2.png").exists()


def test_images_without_valid_segments_are_warned_of(tiny: Dataset, run_copy: Path) -> None:
    listener = Listener()
    config = tiny.config(run_copy, {"embeddings.min_patches": 10**6})
    with pytest.raises(ClusterError) as caught:
        run(config, Store(run_copy), listener)
    n, (few,) = len(IDS), few_valid(0.0)
    assert listener.said == [
        f"warning: {few}",
        f"warning: {n} of {n} images have no valid segment: their masks are all 255",
    ]
    assert str(caught.value) == f"3 clusters asked of 0 valid segments: {few}"


def test_few_images_are_not_taken_for_small_segments(tiny: Dataset, run_copy: Path) -> None:
    with pytest.raises(ClusterError, match=r"use --clusters \d+ or fewer, or more images$"):
        go(tiny.config(run_copy, {"clusters.k": [250]}))


def test_an_image_that_changes_during_the_run_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "photos", ids=IDS[:3])
    config = dataset.config(tmp_path / "run", {"clusters.k": 2})

    class Meddler(Listener):
        def bar(self, name: str, total: int) -> Any:
            if name.startswith("features"):
                write_pair(dataset, "a1", seed=77)
            return super().bar(name, total)

    with pytest.raises(WorkError, match=r"a1\.png changed during the run: run the same command"):
        run(config, Store(config.run_path), Meddler())
    go(config)


# --- parts of a run -----------------------------------------------------------------------------


def test_one_stage_needs_what_is_before_it(tiny: Dataset, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(WorkError) as caught:
        go(tiny.config(run_dir), until="graphs", only=True)
    n = len(go(tiny.config(run_dir), until="features")[0].plan.shards)
    assert str(caught.value) == (
        f"graphs needs features, which lacks {n} of its {n} shards: "
        "run that first, or add --with-needs"
    )
    result, _ = go(tiny.config(run_dir), until="graphs", only=True)
    assert made(result) == {"graphs": n}
    assert not (run_dir / "report" / "latest").exists()


def test_one_stage_with_its_needs_stops_there(tiny: Dataset, tmp_path: Path) -> None:
    result, _ = go(tiny.config(tmp_path / "run"), until="segments")
    assert [row.name for row in result.stages] == ["index", "features", "graphs", "segments"]
    assert all(row.made == row.shards for row in result.stages)


def test_one_stage_of_a_sweep_is_made_for_every_number_of_clusters(
    tiny: Dataset, run_copy: Path
) -> None:
    sweep = tiny.config(run_copy, {"clusters.k": [2, 4]})
    result, _ = go(sweep, until="clusters", only=True)
    assert made(result) == {"clusters (K = 2)": 1, "clusters (K = 4)": 1}
    result, _ = go(sweep, until="masks")
    assert set(made(result)) == {"masks (K = 2)", "masks (K = 4)"}


def test_the_report_alone_needs_every_stage(tiny: Dataset, run_copy: Path) -> None:
    forget(run_copy, "report")
    result, _ = go(tiny.config(run_copy), until="report", only=True)
    assert made(result) == {"report": 1}
    forget(run_copy, "report", "clusters")
    with pytest.raises(WorkError) as caught:
        go(tiny.config(run_copy), until="report", only=True)
    assert str(caught.value) == (
        "report needs clusters (K = 3), which lacks 1 of its 1 shards: "
        "run that first, or add --with-needs"
    )


# --- where and how fast -------------------------------------------------------------------------


def test_threads_and_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(**speed: Any) -> int:
        more = {f"speed.{name}": value for name, value in speed.items()}
        return runtime_of(Config.load(None, {"speed.device": "cpu", **more})).threads

    monkeypatch.setattr("datus.engine.resources.n_cores", lambda: 8)
    assert threads() == 8
    assert threads(threads=3) == 3
    assert threads(workers=4) == 8, "one process has no workers"
    assert threads(executor="processes", workers=4) == 2
    assert threads(executor="processes") == 1
    assert threads(executor="processes", workers=20) == 1
    assert threads(executor="processes", workers=4, threads=5) == 5


@pytest.mark.parametrize(
    ("speed", "n_images", "on_device", "expected"),
    [
        ({}, 1000, False, ("processes", 8, 1)),
        ({}, 999, False, ("serial", 0, 0)),
        ({}, 1000, True, ("serial", 0, 0)),
        ({"workers": 3}, 1, False, ("processes", 3, 1)),
        ({"workers": 1}, 5000, False, ("serial", 1, 0)),
        ({"threads": 4}, 1000, False, ("processes", 4, 1)),
        ({"threads": 3}, 1000, False, ("serial", 0, 3)),
        ({"threads": 1}, 5000, False, ("serial", 0, 1)),
        ({"executor": "serial"}, 5000, False, ("serial", 0, 0)),
        ({"executor": "processes"}, 1, True, ("processes", 0, 0)),
        ({"executor": "ray"}, 5000, True, ("ray", 0, 0)),
    ],
)
def test_auto_is_decided_for_each_group_of_stages(
    speed: dict[str, Any],
    n_images: int,
    on_device: bool,
    expected: tuple[str, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datus.engine.resources.n_cores", lambda: 8)
    more = {f"speed.{name}": value for name, value in speed.items()}
    config = Config.load(None, {"speed.device": "cuda:1", **more})
    found = placed(config, n_images, lambda: on_device).speed
    assert (found.executor, found.workers, found.threads) == expected
    assert found.device == "cuda:1"


def test_only_what_runs_a_model_or_a_gpu_stays_in_the_first_process() -> None:
    def stay(more: dict[str, Any]) -> set[str]:
        config = Config.load(None, {"speed.device": "cpu", **more})
        return {stage.name for stage in STAGES if stage.on_device(config)}

    always = {"features", "denoise", "views"}
    assert stay({}) == always
    assert stay({"embeddings.mode": "crop"}) == {*always, "embeddings"}
    assert stay({"speed.device": "cuda"}) == {*always, "graphs"}


def test_a_device_is_taken_as_it_is_given() -> None:
    assert resolve_device(Config.load(None, {"speed.device": "cuda:1"})) == "cuda:1"
    assert resolve_device(Config.load(None)) in ("cpu", "cuda")


def test_a_device_that_is_not_there_is_an_error_with_the_cure(
    tiny: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"^speed\.device: expected auto, cpu, cuda or cuda:N"):
        go(tiny.config(tmp_path / "run", {"speed.device": "gpu"}))


def test_a_run_leaves_no_random_state_behind(few: Dataset, tmp_path: Path) -> None:
    import torch

    np.random.seed(3)  # noqa: NPY002 - the state that must stay is the old global one
    torch.manual_seed(3)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    go(few.config(tmp_path / "run"))
    after = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after


# --- what grows with the number of images --------------------------------------------------------


def test_masks_that_were_made_now_are_not_looked_at_again(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an object store a look is a request: a run of millions would spend days on them."""
    asked: Counter[str] = Counter()
    size = Store.size

    def counting(store: Store, *parts: str) -> int:
        asked["/".join(parts[2:])] += 1
        return size(store, *parts)

    monkeypatch.setattr(Store, "size", counting)
    go(tiny.config(tmp_path / "run"))
    looks = {image_id: asked[f"files/{image_id}.png"] for image_id in IDS}
    assert set(looks.values()) == {0}
    asked.clear()
    go(tiny.config(tmp_path / "run"))  # at the door, and before the stage
    assert {asked[f"files/{image_id}.png"] for image_id in IDS} == {2}


def test_the_report_of_a_missing_mask_asks_for_the_same_command(
    run_copy: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(run_copy, "report")
    reports = runner.reports

    def gone(*args: Any, **options: Any) -> Any:
        if not options.get("files", True):
            for path in run_copy.glob("masks/*/files/**/*.png"):
                path.unlink()
        return reports(*args, **options)

    monkeypatch.setattr(runner, "reports", gone)
    with pytest.raises(WorkError, match="run the same command again"):
        go(tiny.config(run_copy))
    monkeypatch.undo()
    result, _ = go(tiny.config(run_copy))
    assert "masks (K = 3)" in made(result)


def test_features_too_large_for_float16_are_an_error_with_the_cure(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Backbone.features

    def larger(self: Backbone, *given: Any) -> Any:
        grids = features(self, *given)
        for grid in grids:
            grid.keys[0, 0, 0] = -1e5
        return grids

    monkeypatch.setattr(Backbone, "features", larger)
    with pytest.raises(WorkError) as caught:
        go(tiny.config(tmp_path / "run"))
    assert str(caught.value).endswith(
        "a key or token is 1e+05, float16 ends at 65504: add --set features.store=float32"
    )
    result, _ = go(tiny.config(tmp_path / "run", {"features.store": "float32"}))
    assert made(result)["masks (K = 3)"]


def test_the_report_follows_the_order_of_a_sweep(tiny: Dataset, tmp_path: Path) -> None:
    """The page shows the first K."""

    def shown(*k: int) -> tuple[list[int], dict[str, int]]:
        config = tiny.config(tmp_path / "run", {"clusters.k": list(k)})
        result, _ = go(config)
        report = Path(result.links["report"]).parent / "report.json"
        return [row["k"] for row in json.loads(report.read_text())["sweep"]], made(result)

    assert shown(2, 3)[0] == [2, 3]
    assert shown(3, 2) == ([3, 2], {"report": 1})

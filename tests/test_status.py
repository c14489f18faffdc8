"""What is done and why not, without touching anything; prune takes only what nobody needs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from run_tree import tree
from tiny_runs import IDS, SPEED, Dataset, go, made, make_dataset, snapshot

from datus.errors import StoreError, UsageError, WorkError
from datus.pipeline import make_plan
from datus.status import failure_lines, graph_lines, prune_rows, status_rows
from datus.store.store import Store
from datus.types import WHOLE

SHARD_STAGES = (
    *("features", "graphs", "segments", "embeddings", "samples"),
    *("masks (K = 3)", "evaluate (K = 3)", "tallies (K = 3)"),
)
DATASET_STAGES = ("clusters (K = 3)", "views", "report")


def table(dataset: Dataset, run_dir: Path, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Stage -> (state, shards, why)."""
    header, *rows = status_rows(dataset.config(run_dir, more), explain=True)
    assert header == ("stage", "fingerprint", "state", "shards", "why")
    return {row[0]: row[2:] for row in rows}


def shards_of(run_dir: Path, stage: str) -> list[Path]:
    return sorted(run_dir.glob(f"{stage}/*/shard-*.safetensors"))


@pytest.fixture(scope="module")
def n_shards(finished: Path) -> int:
    return len(shards_of(finished, "features"))


# --- status -------------------------------------------------------------------------------------


def test_all_is_done_after_a_run(tiny: Dataset, finished: Path, n_shards: int) -> None:
    expected = dict.fromkeys(SHARD_STAGES, ("done", f"{n_shards}/{n_shards}", ""))
    expected |= dict.fromkeys(DATASET_STAGES, ("done", "1/1", ""))
    assert table(tiny, finished) == expected
    for label, mark, *_ in status_rows(tiny.config(finished), explain=False)[1:]:
        assert (finished / label.split(" ")[0] / mark / "stage.json").exists()


def test_the_reasons_are_shown_where_asked_for(tiny: Dataset, finished: Path) -> None:
    header, *rows = status_rows(tiny.config(finished), explain=False)
    assert header == ("stage", "fingerprint", "state", "shards")
    assert {len(row) for row in rows} == {4}


def test_a_setting_that_changed_is_named(tiny: Dataset, finished: Path, n_shards: int) -> None:
    found = table(tiny, finished, {"segments.restarts": 2})
    cause = "segments.restarts: 1 -> 2"
    assert found["features"] == found["graphs"] == ("done", f"{n_shards}/{n_shards}", "")
    assert found["segments"] == ("missing", f"0/{n_shards}", cause)
    assert found["embeddings"] == ("missing", f"0/{n_shards}", cause)
    assert found["report"][:2] == ("missing", "0/1")


def test_other_numbers_of_clusters(tiny: Dataset, finished: Path) -> None:
    found = table(tiny, finished, {"clusters.k": 5})
    assert found["embeddings"][0] == "done"
    assert found["clusters (K = 5)"] == ("missing", "0/1", "clusters.k: 3 -> 5")
    found = table(tiny, finished, {"clusters.k": [3, 5]})
    assert found["evaluate (K = 3)"][0] == "done"
    assert found["clusters (K = 5)"][2] == "it never ran with these settings"
    assert found["report"][2] == "clusters (K = 5) is new"


def test_a_part_is_missing(tiny: Dataset, run_copy: Path, n_shards: int) -> None:
    shards_of(run_copy, "graphs")[0].unlink()
    assert table(tiny, run_copy)["graphs"] == (
        "partly",
        f"{n_shards - 1}/{n_shards}",
        "some shards are new or were removed",
    )


def test_what_is_not_kept_is_done_and_says_so(tmp_path: Path) -> None:
    dataset, more = make_dataset(tmp_path / "photos", ids=IDS[:2]), {"features.keep": False}
    go(dataset.config(tmp_path / "run", {**more, "data.shard_images": 1}), until="graphs")
    found = table(dataset, tmp_path / "run", {**more, "data.shard_images": 1})
    assert found["features"] == ("done, not kept", "2/2", "")
    assert found["graphs"] == ("done", "2/2", "")
    assert found["clusters (K = 3)"] == ("missing", "0/1", "it never ran with these settings")
    assert found["report"] == ("missing", "0/1", "it never ran")


def test_status_works_while_the_folder_is_in_use_and_writes_nothing(
    tiny: Dataset, run_copy: Path
) -> None:
    expected = status_rows(tiny.config(run_copy), explain=True)
    before = snapshot(run_copy), sorted(run_copy.rglob("*"))
    with Store(run_copy).lock():
        assert status_rows(tiny.config(run_copy), explain=True) == expected
        assert status_rows(tiny.config(run_copy, {"seed": 7}), explain=True) != expected
        assert failure_lines(tiny.config(run_copy)) == []
    assert (snapshot(run_copy), sorted(run_copy.rglob("*"))) == before


def test_status_and_prune_where_nothing_ran(tiny: Dataset, tmp_path: Path) -> None:
    config = tiny.config(tmp_path / "run")
    for look in (lambda: status_rows(config, True), lambda: prune_rows(config, remove=True)):
        with pytest.raises(WorkError) as caught:
            look()
        assert str(caught.value) == f"{tmp_path}/run: nothing has run here yet: datus run does"
    assert not (tmp_path / "run").exists()


def test_status_of_a_class_table_that_is_gone(tiny: Dataset, finished: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: no such file"):
        status_rows(tiny.config(finished, {"data.classes": "none.toml"}), explain=False)


def test_who_was_left_out_and_why(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", ids=IDS[:5])
    (dataset.images / "a0.png").write_bytes(b"")
    path = dataset.images / "a1.png"
    path.write_bytes(path.read_bytes()[:-200])
    config = dataset.config(tmp_path / "run", {"speed.max_failed": 2})
    go(config, until="segments")
    first, second = failure_lines(config)
    assert first.startswith("left out at features: a1: ")
    assert second.startswith("left out at index: a0: ")


def test_which_patches_are_linked_where_that_was_found_over_the_dataset(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", ids=IDS[:4])
    config = dataset.config(tmp_path / "run", {"graphs.threshold": "auto", "graphs.density": 0.15})
    go(config, until="features")
    assert graph_lines(config) == [], "not found yet"
    go(config, until="graphs")
    (line,) = graph_lines(config)
    store = Store(tmp_path / "run")
    ((mark, _),) = store.recipes("center")
    found = store.report("center", mark, "all")
    assert found is not None
    assert line == (
        f"graphs: patches are linked above cosine {found.numbers[WHOLE]['threshold']:.4f}, "
        "which links 15 % of the pairs of the dataset"
    )
    assert graph_lines(dataset.config(tmp_path / "run")) == [], "a threshold that was given"


# --- prune --------------------------------------------------------------------------------------


def test_there_is_nothing_to_prune_after_a_run(tiny: Dataset, run_copy: Path) -> None:
    assert prune_rows(tiny.config(run_copy), remove=True) == ([], 0)


def test_prune_lists_first_and_then_removes_only_what_is_stale(
    tiny: Dataset, run_copy: Path, finished: Path
) -> None:
    current = tiny.config(run_copy)
    other = {"clusters.k": [2, 3], "embeddings.min_patches": 3}
    go(tiny.config(run_copy, other))
    before = tree(run_copy)
    rows, total = prune_rows(current, remove=False)
    assert tree(run_copy) == before, "a list removes nothing"
    needed = {(node.name, node.fingerprint) for node in go(current)[0].plan.nodes}
    assert {stage for stage, _, _ in rows} == {
        "embeddings",
        "samples",
        "clusters",
        "masks",
        "evaluate",
        "tallies",
        "views",
        "report",
    }
    for stage, mark, size in rows:
        assert (stage, mark) not in needed
        files = [p for p in (run_copy / stage / mark).rglob("*") if p.is_file()]
        assert int(size) == sum(path.stat().st_size for path in files) > 0
    assert total == sum(int(size) for _, _, size in rows)
    assert prune_rows(current, remove=True) == (rows, total)
    assert tree(run_copy) == tree(finished)
    assert made(go(current)[0]) == {}
    assert prune_rows(current, remove=True) == ([], 0)


def test_prune_keeps_what_any_part_of_a_sweep_needs(tiny: Dataset, run_copy: Path) -> None:
    sweep = tiny.config(run_copy, {"clusters.k": [2, 3]})
    go(sweep)
    (row,), _ = prune_rows(sweep, remove=True)
    assert row[0] == "report", "of K = 3 alone"
    assert made(go(sweep)[0]) == {}


def test_prune_removes_shards_of_images_that_changed(tmp_path: Path, tiny: Dataset) -> None:
    dataset = Dataset(Path(shutil.copytree(tiny.root, tmp_path / "photos")))
    config = dataset.config(tmp_path / "run")
    go(config, until="graphs")
    for folder, name in ((dataset.images, "d3.png"), (dataset.truth, "d3.png")):
        (folder / name).unlink()
    result, _ = go(config, until="graphs")
    rows, _ = prune_rows(config, remove=True)
    shards = [(stage, Path(place).suffix) for stage, place, _ in rows if "/" in place]
    assert shards == [(s, x) for s in ("features", "graphs") for x in (".json", ".safetensors")]
    folders = {stage for stage, place, _ in rows if "/" not in place}
    begun = {"clusters", "masks", "evaluate", "tallies", "views", "report"}
    assert folders == begun, "for other images"
    before = snapshot(tmp_path / "run")
    assert made(go(config, until="graphs")[0]) == {}
    assert snapshot(tmp_path / "run") == before
    keys = {shard.key for shard in result.plan.shards}
    assert {p.stem.removeprefix("shard-") for p in shards_of(tmp_path / "run", "graphs")} == keys


def test_prune_does_not_touch_a_folder_in_use(tiny: Dataset, run_copy: Path) -> None:
    before = tree(run_copy)
    with Store(run_copy).lock(), pytest.raises(StoreError, match="is in use by process"):
        prune_rows(tiny.config(run_copy, {"seed": 9}), remove=True)
    assert tree(run_copy) == before


def test_the_plan_of_status_is_that_of_the_run(tiny: Dataset, finished: Path) -> None:
    from datus.inputs.index import read_index

    index = read_index(Store(finished))
    assert index is not None
    assert [r.image_id for r in index.records] == sorted(IDS)
    plan = make_plan(tiny.config(finished), index)
    rows = status_rows(tiny.config(finished), explain=False)[1:]
    assert [row[1] for row in rows] == [node.fingerprint for node in plan.nodes]
    assert SPEED["data.shard_images"] == 4

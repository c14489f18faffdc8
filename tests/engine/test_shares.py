"""Shares of the shards: processes side by side in one run folder end with a whole run's bytes."""

import json
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fake_slurm import submit
from hypothesis import given
from hypothesis import strategies as st
from run_tree import tree
from tiny_runs import Dataset, Listener, go, made, make_dataset
from typer.testing import CliRunner

from datus.cli.app import app
from datus.config import Config, Share, parse_share
from datus.engine.run import RunResult
from datus.engine.shares import agreed_index, check_arrived, locked
from datus.errors import ConfigError, StoreError, TooManyFailures, WorkError
from datus.inputs.safe_decode import NOTES
from datus.pipeline import run
from datus.store.store import Store
from datus.types import ShardData

pytestmark = pytest.mark.usefixtures("one_backbone")

MEAN = {"graphs.center": "position"}
"""A mean over the dataset: one more stage that needs all shards."""


def share(dataset: Dataset, run_dir: Path | str, text: str, **more: Any) -> RunResult:
    named = {name.replace("__", "."): value for name, value in more.items()}
    return go(dataset.config(run_dir, {**MEAN, "speed.shards": text, **named}))[0]


def shares(dataset: Dataset, run_dir: Path | str, of: int, **more: Any) -> list[RunResult]:
    return [share(dataset, run_dir, f"{number}/{of}", **more) for number in range(1, of + 1)]


def stages_made(result: RunResult) -> set[str]:
    return {name.split(" ")[0] for name in made(result)}


@pytest.fixture(scope="module")
def whole(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in one process. Only to read."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    go(tiny.config(run_dir, MEAN))
    return run_dir


# --- the split ----------------------------------------------------------------------------------

KEYS = st.lists(st.text("0123456789abcdef", min_size=1, max_size=4), unique=True)


@given(KEYS, st.integers(1, 9), st.randoms())
def test_every_key_is_in_one_share_whatever_their_order_and_shares_are_even(
    keys: list[str], of: int, random: Any
) -> None:
    parts = [Share(number, of).keys(keys) for number in range(1, of + 1)]
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    mixed = random.sample(keys, len(keys))
    assert [Share(number, of).keys(mixed) for number in range(1, of + 1)] == parts


def test_keys_are_dealt_like_cards() -> None:
    assert Share(2, 3).keys("gfedcba") == {"b", "e"}
    assert parse_share("none") == Share(0, 1)
    assert Share(0, 1).keys("abc") == frozenset()
    assert str(Share(0, 1)) == "none"
    assert parse_share("") is None
    assert parse_share("2/3") == Share(2, 3)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", " 1/3", "1/3/4", "all"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(None, {"speed.shards": text})
    assert str(caught.value) == (
        f"speed.shards: expected NUMBER/OF such as 3/64, counted from 1, or none; got {text!r}"
    )


# --- one after the other ------------------------------------------------------------------------


def test_shares_and_what_is_between_them_end_with_the_bytes_of_a_whole_run(
    tiny: Dataset, whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    first = shares(tiny, run_dir, 3)
    assert [stages_made(one) for one in first] == [{"features", "keysums"}] * 3
    assert first[1].next_step == (
        "share 2/3 is done up to here. Next: center, of all shards together. When the other shares "
        "are done: the same command with --shards none, then the shares again; or without "
        "--shards, which does all that is left"
    )
    between = share(tiny, run_dir, "none")
    assert stages_made(between) == {"center"}
    assert between.next_step.startswith("next: graphs. Run the shares (--shards 1/N ... N/N), then")
    assert stages_made(shares(tiny, run_dir, 3)[0]) == {
        "graphs",
        "segments",
        "embeddings",
        "samples",
    }
    assert stages_made(share(tiny, run_dir, "none")) == {"clusters", "views"}
    last = shares(tiny, run_dir, 3)
    assert stages_made(last[2]) == {"masks", "evaluate", "tallies"}
    assert last[0].next_step == (
        "share 1/3 is done. When the others are: the same command without --shards makes the report"
    )
    assert not (run_dir / "latest").exists()
    result, _ = go(tiny.config(run_dir, MEAN))
    assert made(result) == {"report": 1}
    assert result.next_step == ""
    assert tree(run_dir) == tree(whole)
    assert share(tiny, run_dir, "2/3").next_step == ""
    assert tree(run_dir) == tree(whole), "nothing is left to do for anybody"


def test_a_whole_run_does_what_shares_have_left(tiny: Dataset, whole: Path, tmp_path: Path) -> None:
    n_shards = len(list(whole.glob("features/*/shard-*.json")))
    done = made(share(tiny, tmp_path / "run", "1/2"))
    result, _ = go(tiny.config(tmp_path / "run", MEAN))
    assert made(result)["features"] == n_shards - done["features"] > 0
    assert tree(tmp_path / "run") == tree(whole)


def test_a_sweep_takes_no_more_rounds_than_one_number_of_clusters(
    tiny: Dataset, run_copy: Path
) -> None:
    more = {"graphs__center": "image", "clusters__k": [2, 3, 4]}
    assert share(tiny, run_copy, "1/1", **more).next_step.startswith(
        "share 1/1 is done up to here. Next: clusters (K = 2) and clusters (K = 4), of all shards"
    )
    assert set(made(share(tiny, run_copy, "none", **more))) == {
        "clusters (K = 2)",
        "clusters (K = 4)",
    }
    done = made(share(tiny, run_copy, "1/1", **more))
    again = {f"{name} (K = {k})" for name in ("masks", "evaluate", "tallies") for k in (2, 4)}
    assert set(done) == again
    assert set(made(share(tiny, run_copy, "none", **more))) == {"report"}


def test_a_share_of_one_stage(tiny: Dataset, tmp_path: Path) -> None:
    config = tiny.config(tmp_path / "run", {**MEAN, "speed.shards": "1/2"})
    result, _ = go(config, until="features")
    assert stages_made(result) == {"features"}
    assert result.next_step == ""
    assert stages_made(go(config, until="keysums", only=True)[0]) == {"keysums"}
    assert go(config, until="center", only=True)[0].next_step.startswith("share 1/2 is done up to")
    with pytest.raises(WorkError, match="graphs needs center, which lacks 1 of its 1 shards"):
        go(config, until="graphs", only=True)


def test_more_shares_than_shards_are_no_harm(tiny: Dataset, tmp_path: Path) -> None:
    results = shares(tiny, tmp_path / "run", 9, graphs__center="image")
    done = [made(one).get("features", 0) for one in results]
    assert sum(done) == len(list((tmp_path / "run").glob("features/*/shard-*.json")))
    assert 0 in done
    assert all(one.next_step for one in results)


def test_between_shares_nothing_is_made_while_one_is_missing(tiny: Dataset, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    n_done = made(share(tiny, run_dir, "1/2"))["features"]
    with pytest.raises(WorkError) as caught:
        share(tiny, run_dir, "none")
    n_shards = len(go(tiny.config(run_dir), until="features")[0].plan.shards)
    assert str(caught.value) == (
        f"features has {n_done} of its {n_shards} shards, --shards none needs all: run the shares "
        "that are missing or failed, or leave --shards out"
    )


@pytest.mark.slow
def test_what_is_not_kept_is_made_by_the_share_that_needs_it(
    tiny: Dataset, whole: Path, tmp_path: Path
) -> None:
    more = {"features__keep": False, "graphs__keep": False}
    for _ in range(2):
        shares(tiny, tmp_path / "run", 2, **more)
        share(tiny, tmp_path / "run", "none", **more)
    shares(tiny, tmp_path / "run", 2, **more)
    kept = {n: d for n, d in tree(whole).items() if not n.startswith(("features", "graphs"))}
    found = tree(tmp_path / "run")
    later = {name for name in kept if not name.startswith("report/")}
    assert {name: found[name] for name in later} == {name: kept[name] for name in later}


def test_a_share_fails_for_its_own_images_only(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos")
    path = dataset.images / "a1.png"
    path.write_bytes(path.read_bytes()[:-200])
    ended = []
    for number in (1, 2):
        try:
            ended.append(share(dataset, tmp_path / "run", f"{number}/2").next_step[:5])
        except TooManyFailures as error:
            ended.append(str(error)[:34])
    assert sorted(ended) == ["features: 1 image cannot be used, ", "share"]


@pytest.mark.slow
def test_shares_on_an_object_store(tiny: Dataset, whole: Path) -> None:
    address = f"memory://{uuid4().hex}/run"
    for text in ("1/2", "2/2", "none", "1/2", "2/2", "none", "1/2", "2/2"):
        share(tiny, address, text)
    result, _ = go(tiny.config(address, MEAN))
    assert made(result) == {"report": 1}
    store = Store(address)
    for path in whole.glob("masks/*/shard-*.safetensors"):
        assert store.read("masks", path.parent.name, path.name) == path.read_bytes()


# --- beside one another -------------------------------------------------------------------------


def test_shares_are_beside_one_another_and_a_whole_run_is_alone(tmp_path: Path) -> None:
    def enter(text: str) -> None:
        with locked(Store(tmp_path), parse_share(text)):
            pass

    with locked(Store(tmp_path), Share(1, 2)):
        enter("2/2")
        for text in ("", "none"):
            with pytest.raises(StoreError) as caught:
                enter(text)
            assert str(caught.value).startswith(
                f"{tmp_path} is in use by shares of a run (--shards): wait for it, stop it, or"
            )
    for text in ("", "none"):
        with (
            locked(Store(tmp_path), parse_share(text)),
            pytest.raises(StoreError, match=f"is in use by process {os.getpid()} on "),
        ):
            enter("1/2")
    enter("")


def test_the_lock_of_a_share_killed_at_the_index_goes_with_the_next_whole_run(
    tmp_path: Path,
) -> None:
    left = tmp_path / "index" / ".lock"
    left.parent.mkdir()
    left.touch()
    with locked(Store(tmp_path), Share(1, 2)):
        assert left.exists()
    with locked(Store(tmp_path), None):
        assert not left.exists()


def test_a_share_leaves_what_others_are_writing(tmp_path: Path) -> None:
    Store(tmp_path).write(b"", "features", "mark", "shard-abc.json")
    torn = tmp_path / "features" / "mark" / ".tmp-of-another"
    torn.touch()
    with locked(Store(tmp_path), Share(1, 2)):
        assert torn.exists()
    with locked(Store(tmp_path), None):
        assert not torn.exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match="make the run folder writable or choose another"),
        locked(Store(tmp_path / "file" / "run"), Share(1, 2)),
    ):
        pass


def test_one_share_reads_the_images_for_all(tmp_path: Path) -> None:
    store, reads = Store(tmp_path), []

    def make() -> Any:
        if not store.exists("index", "index.json"):
            reads.append(threading.get_ident())
            time.sleep(0.2)
            store.write(b"{}", "index", "index.json")
        return "the index"

    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(agreed_index(make, store, Share(1, 4))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["the index"] * 4
    assert len(reads) == 1
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["index.json"]


def test_a_share_that_was_killed_takes_care_of_its_own_shards_only(
    tiny: Dataset, whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    keys = {path.stem.removeprefix("shard-") for path in whole.glob("features/*/shard-*.json")}
    (run_dir / NOTES).mkdir(parents=True)
    for key in keys:
        (run_dir / NOTES / key).touch()
    mine = Share(1, 2).keys(keys)
    listener = Listener()
    config = tiny.config(run_dir, {**MEAN, "speed.shards": "1/2"})
    assert run(config, Store(run_dir), listener).suspects == mine
    assert {path.name for path in (run_dir / NOTES).iterdir()} == keys - mine


def test_what_another_machine_wrote_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, place = Store(tmp_path), ("features", "0f", "abc")
    monkeypatch.setattr("datus.engine.shares.ARRIVAL_SECONDS", -1)
    with pytest.raises(WorkError) as caught:
        check_arrived(store, [place])
    assert str(caught.value) == (
        f"features: a worker made shard abc, and it is not in {tmp_path}: expected a run folder "
        "that all nodes share; choose one with --run-dir"
    )
    late = threading.Timer(
        0.3, lambda: Store(tmp_path).write_shard(place, ShardData({}), 0.0, keep=True)
    )
    late.start()
    monkeypatch.setattr("datus.engine.shares.ARRIVAL_SECONDS", 20)
    check_arrived(store, [place])
    late.join()


# --- the command line ---------------------------------------------------------------------------


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_a_share_ends_well_and_says_what_is_next(tiny: Dataset, run_copy: Path) -> None:
    shutil.rmtree(run_copy / "clusters")
    code, output = call("run", *tiny.arguments(run_copy), "--shards", "1/2")
    assert code == 0, output
    assert "share 1/2 is done up to here. Next: clusters (K = 3), of all shards together." in output
    assert "report.html" not in output
    assert call("run", *tiny.arguments(run_copy), "--shards", "3/2")[0] == 2
    code, output = call("run", *tiny.arguments(run_copy), "--shards", "1/2", "--dry-run")
    assert (code, "looks at the whole run: leave --shards out" in output) == (2, True)


# --- scripts ------------------------------------------------------------------------------------


def test_slurm_gets_a_chain_of_arrays_and_jobs_between_them(tmp_path: Path) -> None:
    done = submit(tmp_path, "run.toml", "2", "2", FAIL="nothing", SHARE_OPTIONS="--gpus=1 --mem=9G")
    assert done.returncode == 0, done.stderr
    script = "pipelines/batch/slurm.sh run.toml"
    assert (tmp_path / "queued").read_text().splitlines() == [
        f"--parsable --array=1-2 --gpus=1 --mem=9G {script} 2",
        f"--parsable --dependency=afterok:1 --kill-on-invalid-dep=yes {script} none",
        "--parsable --dependency=afterok:2 --kill-on-invalid-dep=yes --array=1-2 --gpus=1 --mem=9G "
        f"{script} 2",
        f"--parsable --dependency=afterok:3 --kill-on-invalid-dep=yes {script} all",
    ]
    array = ["run run.toml --shards 1/2", "run run.toml --shards 2/2"]
    calls = (tmp_path / "done").read_text().splitlines()
    assert (sorted(calls[:2]), sorted(calls[3:5])) == (array, array)
    assert (calls[2], calls[5:]) == ("run run.toml --shards none", ["run run.toml"])


def test_nothing_follows_a_share_that_failed(tmp_path: Path) -> None:
    done = submit(tmp_path, "run.toml", "2", FAIL="2/2")
    assert done.returncode != 0
    assert sorted((tmp_path / "done").read_text().splitlines()) == [
        "run run.toml --shards 1/2",
        "run run.toml --shards 2/2",
    ]


@pytest.mark.slow
def test_a_run_on_slurm_ends_with_the_bytes_of_a_whole_run(
    tiny: Dataset, whole: Path, tmp_path: Path
) -> None:
    settings = {**tiny.settings(tmp_path / "run"), **MEAN}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    (tmp_path / "run.toml").write_text("".join(lines), encoding="utf-8")
    done = submit(tmp_path / "slurm", str(tmp_path / "run.toml"), "3")
    assert done.returncode == 0, done.stderr
    assert "report.html" in (tmp_path / "slurm" / "log-6-1").read_text()
    assert tree(tmp_path / "run") == tree(whole)


def run_here(config: Config) -> None:
    """In a child."""
    run(config, Store(config.run_path))


@pytest.mark.slow
def test_shares_at_the_same_time_end_with_the_bytes_of_a_whole_run(
    tiny: Dataset, whole: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "faiss", "datus.pipeline"])
    # the last one twice: a share that was requeued while it still ran
    for texts in 2 * (("1/3", "2/3", "3/3", "3/3"), ("none",)) + (("1/3", "2/3", "3/3"), ("",)):
        configs = [tiny.config(tmp_path / "run", {**MEAN, "speed.shards": one}) for one in texts]
        children = [context.Process(target=run_here, args=(config,)) for config in configs]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * len(texts)
    assert tree(tmp_path / "run") == tree(whole)

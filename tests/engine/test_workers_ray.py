"""The executor for Ray: what only a cluster has. Its contract is held in test_executors.py."""

import importlib.util
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import executor_jobs as work
import pytest
from ray_nodes import lose_a_node, nodes, ray_job
from run_tree import tree
from tiny_runs import Dataset, go, make_dataset

from datus.config import Config, SpeedConfig
from datus.engine.resources import in_workers, runtime_of
from datus.engine.run import _executor_settings
from datus.engine.workers import ExecutorSettings, connected, no_progress
from datus.engine.workers import ray as executor
from datus.errors import MissingPackage, WorkError
from datus.store.store import Store

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="Ray is not installed: pip install 'datus[ray]'"
)

ROOT = Path(__file__).resolve().parents[2]


class NoCluster:
    """Ray as it is where nothing was connected yet."""

    @staticmethod
    def is_initialized() -> bool:
        return False


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(executor, "_package", NoCluster)


# --- the door -----------------------------------------------------------------------------------


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage) as caught, connected(SpeedConfig(executor="ray")):
        pass
    assert str(caught.value) == "executor ray needs Ray: pip install 'datus[ray]'"
    with connected(SpeedConfig()):
        pass


@pytest.mark.usefixtures("unconnected")
def test_no_answer_is_said_at_once_and_before_anything_is_written(
    tiny: Dataset, tmp_path: Path
) -> None:
    more = {"speed.executor": "ray", "speed.ray_address": "127.0.0.1:9"}
    with pytest.raises(WorkError) as caught:
        go(tiny.config(tmp_path / "run", more))
    assert str(caught.value) == (
        "no Ray cluster answers at 127.0.0.1:9 ([Errno 111] Connection refused): start one with "
        "ray start --head, name it with --set speed.ray_address=HOST:PORT, or use --executor "
        "processes"
    )
    assert not list((tmp_path / "run").glob("*/*"))


@pytest.mark.usefixtures("unconnected")
def test_an_address_in_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with (
        pytest.raises(WorkError, match=r"answers at 127\.0\.0\.1:9 "),
        executor.connected(SpeedConfig()),
    ):
        pass


@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "ray://head:10001",
            "expected auto, local or HOST:PORT, got ray://head:10001; start datus",
        ),
        ("head:port", "no Ray cluster answers at head:port"),
    ],
)
def test_addresses_of_another_kind_are_refused(address: str, said: str) -> None:
    with pytest.raises(WorkError) as caught, executor.connected(SpeedConfig(ray_address=address)):
        pass
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "seats"),
    [
        ({"CPU": 8.0}, 1.0, 0.0, 8),
        ({"CPU": 8.0}, 3.0, 0.0, 2),
        ({"CPU": 0.3}, 0.1, 0.0, 3),
        ({"CPU": 8.0, "GPU": 2.0}, 1.0, 0.5, 4),
        ({"CPU": 8.0, "GPU": 2.0}, 4.0, 0.5, 2),
        ({"CPU": 8.0}, 1.0, 1.0, 0),
    ],
)
def test_workers_that_fit_on_a_node(
    node: dict[str, float], cpus: float, gpus: float, seats: int
) -> None:
    assert executor._seats(node, SpeedConfig(ray_cpus=cpus, ray_gpus=gpus)) == seats


def test_a_cluster_that_had_nodes_is_given_time_to_get_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "_package", lambda: SimpleNamespace(nodes=list))
    monkeypatch.setattr(executor, "_beside_the_driver", MagicMock())
    settings = ExecutorSettings(1, lambda n: None)
    pool = executor._Pool(work.square, [(0, "")], settings)
    with pytest.raises(WorkError, match=r"expected 1 CPUs and 0 GPUs, got no node: lower"):
        pool._look()
    pool._begun, pool._looked = True, -executor.ROOM_SECONDS
    pool._look()
    monkeypatch.setattr(executor, "PATIENCE_SECONDS", -1.0)
    pool._looked = -executor.ROOM_SECONDS
    with pytest.raises(WorkError, match="got no node"):
        pool._look()


def test_settings_reach_the_cluster_and_threads_of_workers_are_their_cpus(tmp_path: Path) -> None:
    ray = {"speed.executor": "ray", "speed.device": "cpu", "speed.ray_address": "h:1"}
    config = Config.load(None, {**ray, "speed.ray_cpus": 3, "speed.ray_gpus": 0.5})
    settings = _executor_settings(config, Store(tmp_path), no_progress, keep=False)
    assert settings.speed.ray_address == "h:1"
    assert (settings.speed.ray_cpus, settings.speed.ray_gpus) == (3.0, 0.5)
    assert runtime_of(in_workers(config)).threads == 3
    assert runtime_of(in_workers(Config.load(None, {**ray, "speed.threads": 7}))).threads == 7
    assert in_workers(Config.load(None)) == Config.load(None)


# --- one cluster on this machine ----------------------------------------------------------------


def run_jobs(function: Any, folder: Path, speed: SpeedConfig, workers: int = 2) -> dict[int, Any]:
    jobs = [(number, str(folder)) for number in range(3)]
    settings = ExecutorSettings(workers, lambda n: None, speed=speed)
    return {one.job[0]: one.error or one.result for one in executor.run(function, jobs, settings)}


@pytest.mark.usefixtures("ray_cluster")
def test_results_and_errors_come_back_from_the_cluster(tmp_path: Path) -> None:
    found = run_jobs(work.fails_on_two, tmp_path, SpeedConfig(ray_cpus=0.5))
    assert (found[0], found[1]) == (0, 1)
    assert repr(found[2]) == "ValueError('two is bad')"
    with pytest.raises(WorkError) as caught:
        run_jobs(work.square, tmp_path, SpeedConfig(ray_cpus=64.0, ray_gpus=1.0))
    assert str(caught.value) == (
        "no node of the Ray cluster has room for a worker: expected 64 CPUs and 1 GPUs, got 2 CPUs "
        "and 0 GPUs: lower speed.ray_cpus or speed.ray_gpus, or give nodes time to come with "
        "speed.ray_wait"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_keep_their_process_their_folder_and_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATUS_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = list(run_jobs(work.tells_where_it_is, tmp_path, SpeedConfig(), workers=1).values())
    pid, *rest = found[0]
    assert rest == [os.getcwd(), "1", ""]
    assert found == [found[0]] * 3, "one process does one shard after the other"
    assert pid != os.getpid()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_wait_for_the_next_group_of_stages_but_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pid() -> int:
        (found,) = {
            one[0] for one in run_jobs(work.tells_where_it_is, tmp_path, SpeedConfig(), 1).values()
        }
        return int(found)

    with executor.connected(SpeedConfig()):
        first = pid()
        assert pid() == first
        os.kill(first, signal.SIGKILL)  # while it waits
        second = pid()
        assert second != first
        monkeypatch.setattr(executor, "IDLE_SECONDS", 0.1)
        assert pid() == second
        time.sleep(2)
        third = pid()
        assert third != second
    assert pid() != third, "after a run all go home"


class OneNode:
    """Of Ray: a cluster that one node is left of; all that is started waits for ever."""

    def kill(self, actor: Any) -> None:
        pass

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "here", "Alive": True, "Resources": {"CPU": 1.0}}]

    def remote(self, cls: Any) -> Any:
        return MagicMock()


def test_the_loss_of_a_node_is_noted_and_the_job_is_not_to_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Writers on the node may have left something."""
    monkeypatch.setattr(executor, "_package", OneNode)
    monkeypatch.setattr(executor, "_beside_the_driver", lambda *_: MagicMock())
    noted: list[str] = []

    def again(job: str) -> str:
        noted.append(job)
        return "with care"

    settings = ExecutorSettings(1, lambda _: None, again, SpeedConfig())
    pool = executor._Pool(print, ["job"], settings)
    worker = MagicMock()
    pool._give(executor.Worker(worker, "gone"))
    assert pool._lost(pool._running.popitem()[1]) is None
    assert noted == ["job"]
    pool._give(executor.Worker(worker, "here"))
    assert noted == ["job"]
    packed = worker.work.remote.call_args[0][0]
    assert pickle.loads(packed) == (print, "job")
    assert pool._lost(pool._running.popitem()[1]) is None
    pool._give(executor.Worker(worker, "here"))
    assert noted == ["job", "job"], "a worker that died alone: noted as it is tried again"
    assert pickle.loads(worker.work.remote.call_args[0][0]) == (print, "with care")


class Kills:
    """Of Ray: who was sent home."""

    def __init__(self) -> None:
        self.killed: list[str] = []

    def kill(self, actor: str) -> None:
        self.killed.append(actor)
        if actor == "gone":
            raise ValueError("gone already")


def test_workers_are_given_back_and_all_go_home_at_the_end() -> None:
    waiting, ray = executor.IdleWorkers(), Kills()
    with waiting.open(ray):
        with waiting.open(ray):
            for actor in ("a", "gone", "b"):
                waiting.put(ray, SpeedConfig(), executor.Worker(actor))
            waiting.put(ray, SpeedConfig(ray_cpus=4), executor.Worker("large"))
        assert ray.killed == [], "the outermost sends home"
        assert [hand.actor for hand in waiting.take(SpeedConfig(), 1)] == ["a"]
        assert waiting.take(SpeedConfig(ray_gpus=1), 5) == []
        waiting.put(ray, SpeedConfig(), executor.Worker("a"))
    assert sorted(ray.killed) == ["a", "b", "gone", "large"]
    assert waiting.take(SpeedConfig(), 5) == []


def test_workers_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "IDLE_SECONDS", 0.01)
    waiting, ray = executor.IdleWorkers(), Kills()
    with waiting.open(ray):
        waiting.put(ray, SpeedConfig(), executor.Worker("a"))
        end = time.monotonic() + 10
        while not ray.killed and time.monotonic() < end:
            time.sleep(0.01)
        assert ray.killed == ["a"]
        assert waiting.take(SpeedConfig(), 1) == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_another_version_on_a_node_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_version", lambda: "datus 9.9")
    with pytest.raises(WorkError, match=r"a node of the cluster has datus .*, here is datus 9\.9"):
        run_jobs(work.square, tmp_path, SpeedConfig())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_folder_that_workers_do_not_share_is_said(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datus.engine.shares.ARRIVAL_SECONDS", 1.0)
    with pytest.raises(WorkError, match="expected a run folder that all nodes share"):
        go(tiny.config("memory://mine/alone", {"speed.executor": "ray"}), until="features")


# --- two nodes ----------------------------------------------------------------------------------

IDS = tuple(f"{number:02d}" for number in range(16))
MORE = {"features.image_px": 128, "data.shard_images": 2, "clusters.k": [3]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("photos"), IDS)


@pytest.fixture(scope="module")
def expected(photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a run in this process."""
    run_dir = tmp_path_factory.mktemp("serial") / "run"
    go(photos.config(run_dir, MORE))
    return tree(run_dir)


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    with nodes() as found:
        yield found


DONE = "run/features/*/shard-*.json"


def settings_of(photos: Dataset, run_dir: Path) -> dict[str, Any]:
    return {**photos.settings(run_dir), **MORE}


@pytest.mark.slow
def test_two_nodes_end_with_the_bytes_of_one_process(
    photos: Dataset, expected: dict[str, str], two_nodes: Any, tmp_path: Path
) -> None:
    with ray_job(settings_of(photos, tmp_path / "run"), tmp_path, two_nodes.address) as job:
        output, _ = job.communicate(timeout=500)
    assert job.returncode == 0, output
    assert "report.html" in output
    assert tree(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_node_that_is_lost_in_the_middle_changes_no_byte(
    photos: Dataset, expected: dict[str, str], two_nodes: Any, tmp_path: Path
) -> None:
    with ray_job(settings_of(photos, tmp_path / "run"), tmp_path, two_nodes.address) as job:
        lose_a_node(two_nodes, lambda: len(list(tmp_path.glob(DONE))), job)
        output, _ = job.communicate(timeout=500)
    assert job.returncode == 0, output
    assert tree(tmp_path / "run") == expected

"""One contract for all executors; and what only those with worker processes must survive."""

import os
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import executor_jobs as work
import pytest
from executor_jobs import Job

from datus.config import SpeedConfig
from datus.engine.workers import ExecutorSettings, Outcome, by_name, processes
from datus.errors import WorkError

NAMES = typing.get_args(typing.get_type_hints(SpeedConfig)["executor"])
"""Whatever the settings offer is held to the contract."""

WITH_WORKERS = [name for name in NAMES if name not in ("serial", "auto")]

RAY = (
    pytest.mark.slow,  # seconds for a cluster, and a process for each worker of each test
    pytest.mark.skipif(
        not find_spec("ray"), reason="Ray is not installed: pip install 'datus[ray]'"
    ),
)


def parameters(names: Sequence[str]) -> list[Any]:
    return [pytest.param(name, marks=RAY if name == "ray" else ()) for name in names]


every_executor = pytest.mark.parametrize("name", parameters(NAMES))
with_workers = pytest.mark.parametrize("name", parameters(WITH_WORKERS))


@pytest.fixture(autouse=True)
def cluster(request: pytest.FixtureRequest) -> None:
    """Ray needs one; the others need nothing."""
    if hasattr(request.node, "callspec") and request.node.callspec.params.get("name") == "ray":
        request.getfixturevalue("ray_cluster")


@dataclass
class Ran:
    """What came out of an executor."""

    outcomes: list[Outcome] = field(default_factory=list)
    advanced: list[int] = field(default_factory=list)

    @property
    def results(self) -> dict[int, Any]:
        return {one.job[0]: one.result for one in self.outcomes if one.error is None}

    @property
    def errors(self) -> dict[int, BaseException]:
        return {one.job[0]: one.error for one in self.outcomes if one.error is not None}


def run_all(
    name: str, function: Callable[..., Any], folder: Path, n_jobs: int = 5, workers: int = 2
) -> Ran:
    ran = Ran()
    jobs: list[Job] = [(number, str(folder)) for number in range(n_jobs)]
    settings = ExecutorSettings(workers, ran.advanced.append)
    ran.outcomes = list(by_name(name)(function, jobs, settings))
    assert sorted(one.job for one in ran.outcomes) == jobs, "one outcome for each job"
    return ran


def squares(*numbers: int) -> dict[int, int]:
    return {number: number**2 for number in numbers}


# --- the contract -------------------------------------------------------------------------------


@every_executor
def test_each_job_has_its_own_result_in_any_order_and_progress_adds_up(
    name: str, tmp_path: Path
) -> None:
    ran = run_all(name, work.late_first, tmp_path)
    assert ran.results == squares(0, 1, 2, 3, 4)
    assert sum(ran.advanced) == 0 + 1 + 2 + 3 + 4


@every_executor
def test_a_job_that_fails_is_reported_and_the_rest_finish(name: str, tmp_path: Path) -> None:
    ran = run_all(name, work.fails_on_two, tmp_path)
    assert ran.results == squares(0, 1, 3, 4)
    (error,) = ran.errors.values()
    assert isinstance(error, ValueError)
    assert str(error) == "two is bad"


@every_executor
def test_an_error_that_cannot_travel_is_reported_and_the_rest_finish(
    name: str, tmp_path: Path
) -> None:
    ran = run_all(name, work.raises_what_cannot_travel, tmp_path, workers=1)
    assert ran.results == squares(0, 3, 4)
    assert set(ran.errors) == {1, 2}
    assert "404: no such thing" in str(ran.errors[1])
    assert "it has a hook" in str(ran.errors[2])


@every_executor
def test_no_jobs_make_no_outcomes(name: str, tmp_path: Path) -> None:
    assert run_all(name, work.square, tmp_path, n_jobs=0).outcomes == []


@every_executor
def test_more_workers_than_jobs_are_no_harm(name: str, tmp_path: Path) -> None:
    assert run_all(name, work.square, tmp_path, n_jobs=1, workers=64).results == squares(0)


@every_executor
def test_an_interrupt_in_progress_reaches_the_caller(name: str, tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    settings = ExecutorSettings(1, interrupt)
    jobs = [(2, str(tmp_path)), (3, str(tmp_path))]
    with pytest.raises(KeyboardInterrupt):
        list(by_name(name)(work.square, jobs, settings))


# --- worker processes ---------------------------------------------------------------------------


@with_workers
def test_a_killed_worker_is_survived_and_its_job_tried_again(name: str, tmp_path: Path) -> None:
    ran = run_all(name, work.is_killed_once, tmp_path)
    assert (tmp_path / "killed").exists()
    assert ran.results == squares(0, 1, 2, 3, 4)


@with_workers
def test_a_worker_killed_while_it_counts_holds_nobody_up(name: str, tmp_path: Path) -> None:
    ran = run_all(name, work.is_killed_while_counting, tmp_path)
    assert (tmp_path / "killed").exists()
    assert ran.results == squares(0, 1, 2, 3, 4)


@with_workers
def test_a_job_that_kills_its_worker_each_time_fails_alone_after_three_tries(
    name: str, tmp_path: Path
) -> None:
    ran = run_all(name, work.kills_its_worker, tmp_path, n_jobs=4)
    assert ran.results == squares(1, 2, 3)
    (error,) = ran.errors.values()
    assert isinstance(error, WorkError)
    assert str(error) == (
        "a worker died 3 times on this shard (killed, or out of memory): "
        "use fewer --workers, or look at its images"
    )
    assert (tmp_path / "tries-0").read_text() == "xxx"


@with_workers
def test_a_result_that_cannot_travel_is_reported_and_the_rest_finish(
    name: str, tmp_path: Path
) -> None:
    ran = run_all(name, work.returns_what_cannot_travel, tmp_path, n_jobs=3)
    assert ran.results == squares(0, 2)
    assert set(ran.errors) == {1}


@with_workers
def test_leaving_early_ends_the_workers(name: str, tmp_path: Path) -> None:
    jobs: list[Job] = [(number, str(tmp_path)) for number in range(4)]
    outcomes = by_name(name)(work.waits, jobs, ExecutorSettings(2, lambda n: None))
    assert next(outcomes).result == 0
    outcomes.close()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert workers
    assert not [worker for worker in workers if is_alive(worker)]


def pids_of(settings: ExecutorSettings, folder: Path, n_jobs: int = 4) -> set[int]:
    jobs: list[Job] = [(number, str(folder)) for number in range(n_jobs)]
    return {one.result for one in processes.run(work.says_its_pid, jobs, settings)}


def kept_pids() -> set[int]:
    return {one.pid or 0 for pool in processes._kept for one in processes._processes(pool.executor)}


def test_workers_are_kept_for_the_next_jobs_and_stopped_at_the_end(tmp_path: Path) -> None:
    settings = ExecutorSettings(2, lambda n: None, keep=True)
    with processes.kept():
        assert pids_of(settings, tmp_path) <= kept_pids()
        two = kept_pids()
        assert pids_of(settings, tmp_path, n_jobs=1) <= two
        assert kept_pids() == two
        pids_of(replace(settings, workers=3), tmp_path)  # two are not enough
        three = kept_pids()
        assert not three & two
        assert not [worker for worker in two if is_alive(worker)]
    assert (len(two), len(three)) == (2, 3)
    assert not [worker for worker in three if is_alive(worker)]


@pytest.mark.parametrize("keep", [True, False])
def test_workers_that_nobody_keeps_are_stopped(keep: bool, tmp_path: Path) -> None:
    settings = ExecutorSettings(1, lambda n: None, keep=keep)
    with processes.kept() if not keep else nullcontext():
        found = pids_of(settings, tmp_path, n_jobs=1)
        assert not [worker for worker in found if is_alive(worker)]


def test_kept_workers_that_were_killed_are_replaced(tmp_path: Path) -> None:
    settings = ExecutorSettings(2, lambda n: None, keep=True)
    with processes.kept():
        first = pids_of(settings, tmp_path)
        for worker in kept_pids():
            os.kill(worker, signal.SIGKILL)
        assert not [worker for worker in first if is_alive(worker)]
        assert not pids_of(settings, tmp_path) & first


def test_a_worker_is_prepared(tmp_path: Path) -> None:
    settings = ExecutorSettings(1, lambda n: None, prepare=work.leaves_a_mark)
    (outcome,) = processes.run(work.finds_the_mark, [(0, str(tmp_path))], settings)
    assert outcome.result is True


def test_a_script_that_does_not_ask_whether_it_is_main_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('begun')\n"
        "import executor_jobs as work\n"
        "from datus.engine.workers import ExecutorSettings, processes\n"
        "settings = ExecutorSettings(2, lambda n: None)\n"
        "found = processes.run(work.square, [(1, ''), (2, ''), (3, '')], settings)\n"
        "print(sorted(one.result for one in found))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("begun\n[1, 4, 9]\n", "")


def is_alive(pid: int) -> bool:
    for _ in range(20):  # the signal may be on its way
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def test_ctrl_c_waits_until_a_worker_is_started() -> None:
    def start() -> None:
        with processes._interrupts_later():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            assert signal.SIGINT in signal.sigpending()

    with pytest.raises(KeyboardInterrupt):
        start()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

"""What several tests of the machine share: a tiny dataset, a finished run on it, a Ray cluster."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tiny_runs import Dataset, go, make_dataset

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes on two cores, and torch in both
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("datus", deadline=None)  # a busy machine is no failure
settings.load_profile("datus")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`-n 2`: each process takes half of the files and, when it is done, tests of the other's end.
    Dealt out like cards, tests of one file run in both, and each makes what the file shares."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten images with truth. Only to read; tests that change images make their own."""
    return make_dataset(tmp_path_factory.mktemp("tiny") / "photos")


@pytest.fixture(scope="session")
def finished(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run with K = 3 on `tiny`. Only to read."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    go(tiny.config(run_dir))
    return run_dir


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run to change."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Two CPUs on this machine, whatever it has. Executors use it as they find it."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", str(Path(__file__).parent / "helpers")
        )  # of the workers: executor_jobs
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=80_000_000,
        )
        yield
        ray.shutdown()

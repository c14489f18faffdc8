"""A Ray cluster of two nodes on this machine, and pipelines/batch/ray_job.sh on it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def nodes() -> Iterator[Any]:
    """A head and another node, with one CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        small = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=small)
        found.add_node(num_cpus=1, object_store_memory=80_000_000)
        yield found
        found.shutdown()


@contextmanager
def ray_job(
    settings: Mapping[str, Any], folder: Path, address: str
) -> Iterator["subprocess.Popen[str]"]:
    """pipelines/batch/ray_job.sh, as a person would start it."""
    toml = folder / "run.toml"
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    toml.write_text("".join(lines), encoding="utf-8")
    environment = {**os.environ, "RAY_ADDRESS": address, "RAY_CPUS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with subprocess.Popen(
        ["pipelines/batch/ray_job.sh", str(toml)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as job:
        try:
            yield job
        finally:
            job.kill()


def lose_a_node(
    two_nodes: Any, shards_done: Callable[[], int], job: "subprocess.Popen[str]", most: int = 8
) -> None:
    """When two shards are done and the second node is in the middle of another: it is gone."""
    (second,) = two_nodes.worker_nodes
    victims, done = _busy_workers(second, shards_done, job)
    assert victims, "the second node works"
    assert done < most, "in the middle"
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)  # it ends with its node, not by itself
    two_nodes.remove_node(second, allow_graceful=False)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def at_work(node: Any) -> list[int]:
    """Processes of a node that are in the middle of a shard."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    names = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, name in names.items() if name.startswith(b"ray::_Worker.work")]


def _busy_workers(
    node: Any, shards_done: Callable[[], int], job: "subprocess.Popen[str]"
) -> tuple[list[int], int]:
    """Workers in the middle of a shard, when two shards are done; shards done."""
    victims: list[int] = []
    done, end = 0, time.monotonic() + 300
    while job.poll() is None and not victims and time.monotonic() < end:
        time.sleep(0.01)
        done = shards_done()
        victims = at_work(node) if done >= 2 else []
    return victims, done

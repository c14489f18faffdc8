"""For chaos.py: a Ray cluster of two nodes on this machine; workers, nodes and drivers are killed.

    python tests/slow/chaos/chaos_ray.py --nodes  holds the nodes, see `Nodes`

The process that forks commands must not hold threads of Ray. So the nodes are held by another one,
which prints a line of JSON for each line that it reads: "add" another node, or "end".
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos_bench import ANY, LIMIT_SECONDS, ROOT, Bench, Ended, settings

IDS = tuple(f"{number:02d}" for number in range(16))
MORE = ("features.image_px=128", "data.shard_images=2", "speed.executor=ray")


def clusters(bench: Bench) -> None:
    try:
        import ray  # noqa: F401 - only to see whether it is there
    except ImportError:
        print("no Ray here: its rows are left out", file=sys.stderr)
        return
    here = bench.beside("ray", settings(*MORE[:2]), IDS).go()
    with nodes() as held:
        here.options += settings(f"speed.ray_address={held.address}", "speed.ray_cpus=1")
        for row, kill, n_kills in (
            ("Ray: a worker killed", held.kill_worker, 3),
            ("Ray: a node killed", held.kill_node, 1),
            ("Ray: the driver killed", None, 2),
            ("Ray: the driver gets SIGINT", None, 1),
        ):
            run_dir = here.folder / "run-of-ray"
            outcome = _disturbed(here, run_dir, row, kill, n_kills)
            bench.note(row, ANY, outcome)
            held.add()


def _disturbed(
    bench: Bench, run_dir: Path, row: str, kill: Callable[[], bool] | None, n_kills: int
) -> str:
    """One run whose cluster suffers, or several whose driver does; then the same command."""
    shutil.rmtree(run_dir, ignore_errors=True)
    command = ["run", *bench.arguments(run_dir, "--executor", "ray")]
    number = signal.SIGINT if "SIGINT" in row else signal.SIGKILL
    ended = Ended(0, "")
    for _ in range(1 if kill else n_kills):
        with _driver(bench, command) as (process, log):
            for _ in range(n_kills if kill else 1):
                _middle(run_dir, process)
                done = kill() if kill else _send(process, number)
                bench.counts["kills"] += done
            ended = Ended(process.wait(LIMIT_SECONDS), log.read_text(errors="replace"))
        if ended.code not in (0, -number, 130) and not ended.is_clear:
            return bench.problem(f"{ended.code} {ended.stderr[-1500:]}")
        if "Traceback" in ended.stderr:
            return bench.problem(ended.stderr[-1500:])
    last = ended
    for _ in range(3):  # the same command on the cluster
        with _driver(bench, command) as (process, log):
            last = Ended(process.wait(LIMIT_SECONDS), log.read_text(errors="replace"))
        if last.code == 0:
            break
    if last.code:
        return bench.problem(f"the same command: {last.code} {last.stderr[-1500:]}")
    different = bench.differing(run_dir)
    if different:
        return bench.problem(f"other bytes: {', '.join(different[:5])}")
    return "e=" if kill and ended.code else "="


@contextmanager
def _driver(bench: Bench, command: list[str]) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    bench.counts["commands"] += 1
    log = bench.folder / "log"
    paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "datus", *command],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process, log
        finally:
            process.kill()


def _send(process: "subprocess.Popen[bytes]", number: int) -> bool:
    if process.poll() is None:
        process.send_signal(number)
        return True
    return False


def _middle(run_dir: Path, process: "subprocess.Popen[bytes]") -> None:
    """Until two more shards have features than before, or it ends."""
    before = len(list(run_dir.glob("features/*/shard-*.json")))
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if len(list(run_dir.glob("features/*/shard-*.json"))) >= before + 1:
            return
        time.sleep(0.01)


# --- the nodes ----------------------------------------------------------------------------------


class Nodes:
    """A head and another node, one CPU each, held by another process."""

    def __init__(self, holder: "subprocess.Popen[bytes]") -> None:
        self._holder = holder
        self.address, self._raylets = "", list[int]()
        self._read()

    def add(self) -> None:
        """Another node in the place of one that was killed."""
        self._say("add")

    def kill_worker(self) -> bool:
        """One that works on a shard, on any node."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for raylet in self._raylets:
                for pid in _at_work(raylet):
                    os.kill(pid, signal.SIGKILL)
                    return True
            time.sleep(0.01)
        return False

    def kill_node(self) -> bool:
        """The one without the head: its raylet, and with it its workers."""
        raylet = self._raylets[-1]
        workers = _children(raylet)
        for pid in (raylet, *workers):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return True

    def end(self) -> None:
        self._say("end")

    def _say(self, word: str) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.write(f"{word}\n".encode())
        self._holder.stdin.flush()
        self._read()

    def _read(self) -> None:
        assert self._holder.stdout is not None
        for line in self._holder.stdout:
            if line.startswith(b"{"):
                table = json.loads(line)
                self.address = table.get("address", "")
                self._raylets = table.get("raylets", [])
                return


@contextmanager
def nodes() -> Iterator[Nodes]:
    command = [sys.executable, __file__, "--nodes"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as holder:
        held = Nodes(holder)
        try:
            yield held
        finally:
            held.end()


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _at_work(raylet: int) -> list[int]:
    """Processes of a node that are in the middle of a shard."""
    found = []
    for pid in _children(raylet):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::_Worker.work"):
            found.append(pid)
    return found


def hold() -> None:
    """Until "end" is read, or the reader is gone."""
    from ray.cluster_utils import Cluster

    def say(cluster: Any) -> None:
        raylets = [node.all_processes["raylet"][0].process.pid for node in _living(cluster)]
        print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    cluster.add_node(**small)
    say(cluster)
    for line in sys.stdin:
        if line.strip() == "add" and len(_living(cluster)) < 2:
            cluster.add_node(**small)
        if line.strip() == "end":
            break
        say(cluster)
    cluster.shutdown()
    print("{}", flush=True)


def _living(cluster: Any) -> list[Any]:
    every = (cluster.head_node, *cluster.worker_nodes)
    return [n for n in every if n.all_processes["raylet"][0].process.poll() is None]


if __name__ == "__main__":
    hold()

"""Run folders on S3, over HTTP, by the command line: the bytes of a run on a local disk.

The server is moto, an S3 on this machine; `s3_server` counts what it is asked and makes it fail.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from fake_slurm import submit
from ray_nodes import lose_a_node, nodes, ray_job
from run_tree import tree, tree_at
from tiny_runs import Dataset, go, make_dataset

import datus

LACKING = [name for name in ("moto", "s3fs", "flask") if not importlib.util.find_spec(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason="needs pip install s3fs 'moto[server]'"),
]

IDS = tuple(f"{number:02d}" for number in range(16))
MORE = {"features.image_px": 128, "data.shard_images": 2, "graphs.center": "dataset"}


class Server:
    def __init__(self, address: str) -> None:
        self.address = address

    def calls(self) -> list[tuple[str, str]]:
        """Since the last time: (method, path and query)."""
        with urlopen(f"{self.address}/__calls") as answer:
            return [(method, path) for method, path in json.load(answer)]

    def mood(self, **mood: Any) -> None:
        urlopen(Request(f"{self.address}/__mood", json.dumps(mood).encode())).close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """An S3 with an empty bucket, and an environment that leads to it."""
    import s3fs

    script = Path(__file__).parents[1] / "helpers" / "s3_server.py"
    with (
        subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        patch.setenv("AWS_ENDPOINT_URL", address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("bucket")
        yield Server(address)
        process.kill()


@pytest.fixture
def s3(server: Server) -> Iterator[Server]:
    server.calls()
    yield server
    server.mood()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("photos"), IDS)


@pytest.fixture(scope="module")
def local(photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in this process, on a local disk."""
    run_dir = tmp_path_factory.mktemp("serial") / "run"
    go(photos.config(run_dir, MORE))
    return run_dir


@pytest.fixture(scope="module")
def remote(photos: Dataset, server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The config file of a finished run on S3. Only to read."""
    toml = config_file(photos, tmp_path_factory.mktemp("remote"), "s3://bucket/serial")
    assert call("run", toml).returncode == 0
    return toml


def config_file(photos: Dataset, folder: Path, address: str) -> str:
    settings = {**photos.settings(address), **MORE}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    (folder / "run.toml").write_text("".join(lines), encoding="utf-8")
    return str(folder / "run.toml")


def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "datus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


# --- the same bytes -----------------------------------------------------------------------------


def test_a_run_ends_with_the_bytes_of_one_on_a_disk(remote: str, local: Path, s3: Server) -> None:
    assert tree_at("s3://bucket/serial") == tree(local)
    s3.calls()
    again = call("run", remote)
    calls = s3.calls()
    assert again.returncode == 0, again.stderr
    assert "report: s3://bucket/serial/report/" in again.stdout
    assert not [path for method, path in calls if method not in ("GET", "HEAD")]
    n_reports = len(list(local.glob("*/*/shard-*.json")))
    assert len(calls) < 2 * n_reports + 60, "each report twice, a few listings and single files"


def test_processes(photos: Dataset, local: Path, s3: Server, tmp_path: Path) -> None:
    toml = config_file(photos, tmp_path, "s3://bucket/processes")
    done = call("run", toml, "--executor", "processes", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert tree_at("s3://bucket/processes") == tree(local)


def test_shares_on_slurm(photos: Dataset, local: Path, s3: Server, tmp_path: Path) -> None:
    toml = config_file(photos, tmp_path, "s3://bucket/shares")
    first = call("run-stage", "features", toml, "--with-needs", "--shards", "1/3")
    assert first.returncode == 0, first.stderr
    done = submit(tmp_path / "slurm", toml, "3")
    assert done.returncode == 0, done.stderr
    assert tree_at("s3://bucket/shares") == tree(local)


@pytest.mark.parametrize("lost", [False, True], ids=["undisturbed", "a node is lost"])
def test_ray(photos: Dataset, local: Path, s3: Server, tmp_path: Path, lost: bool) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'datus[ray]'")
    address = f"s3://bucket/ray-{lost}"
    settings = {**photos.settings(address), **MORE}
    written: set[str] = set()

    def shards_done() -> int:
        written.update(path for method, path in s3.calls() if method == "PUT")
        return sum("/features/" in path and path.endswith(".json") for path in written) - 1

    with nodes() as two, ray_job(settings, tmp_path, two.address) as job:
        if lost:
            lose_a_node(two, shards_done, job)
        output, _ = job.communicate(timeout=500)
    assert job.returncode == 0, output
    assert tree_at(address) == tree(local)


# --- what is done with a finished run -----------------------------------------------------------


def test_status_and_verify(remote: str, s3: Server) -> None:
    status = call("status", remote)
    assert (status.returncode, status.stdout.count(" done ")) == (0, 12), status.stdout
    verified = call("verify", remote)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.endswith("files read, 0 damaged\n")


def test_export(remote: str, local: Path, s3: Server, tmp_path: Path) -> None:
    for run, out in (("s3://bucket/serial", "far"), (str(local), "near")):
        done = call("export", run, "--to", "png", "--out", str(tmp_path / out))
        assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "far") == tree(tmp_path / "near")


def test_frozen_clusters(
    remote: str, photos: Dataset, local: Path, s3: Server, tmp_path: Path
) -> None:
    more = make_dataset(tmp_path / "more", ("new-0", "new-1", "new-2"))
    for frozen, out in (("s3://bucket/serial", "s3://bucket/grown"), (str(local), "near")):
        run_dir = out if "://" in out else str(tmp_path / out)
        done = call("run", config_file(more, tmp_path, run_dir), "--frozen-clusters", frozen)
        assert done.returncode == 0, done.stderr
    assert tree_at("s3://bucket/grown") == tree(tmp_path / "near")


def test_load_finds_the_last_run(
    remote: str, photos: Dataset, local: Path, s3: Server, tmp_path: Path
) -> None:
    places = ("s3://bucket/serial", local)
    far, near = (datus.load(run, images=photos.images) for run in places)
    assert far.table() == near.table()
    assert (far[3].mask == near[3].mask).all()
    far.save(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(local)
    assert datus.load(tmp_path / "copy").table() == near.table()
    toml = config_file(photos, tmp_path, "s3://bucket/serial")
    assert call("run", toml, "--clusters", "4").returncode == 0
    assert datus.load("s3://bucket/serial").ks == (4,)
    assert call("run", toml).returncode == 0  # makes nothing, and is the last run all the same
    assert datus.load("s3://bucket/serial").ks == (3,)


# --- a server with moods ------------------------------------------------------------------------


def test_one_call_in_ten_is_lost_and_all_are_slow(
    photos: Dataset, local: Path, s3: Server, tmp_path: Path
) -> None:
    s3.mood(lose=0.1, wait=0.02)
    done = call("run", config_file(photos, tmp_path, "s3://bucket/lossy"))
    assert done.returncode == 0, done.stderr
    s3.mood()
    assert tree_at("s3://bucket/lossy") == tree(local)


def test_a_server_that_goes_down_is_one_error_and_the_same_command_goes_on(
    photos: Dataset, local: Path, s3: Server, tmp_path: Path
) -> None:
    toml = config_file(photos, tmp_path, "s3://bucket/down")
    s3.mood(down=True, after=150)
    done = call("run", toml)
    assert (done.returncode, done.stderr.count("error:")) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: cannot ")
    assert "s3://bucket/down/" in last
    assert last.endswith(
        "(6 tries); run the same command again when the store answers, finished shards are kept"
    )
    s3.mood()
    assert call("run", toml).returncode == 0
    assert tree_at("s3://bucket/down") == tree(local)


ALLOWED = (
    "; check the credentials of this machine and what they allow (read, write, list and delete "
    "below the run folder), then run the same command again"
)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "s3://no-bucket/run",
            "cannot write s3://no-bucket/run/index/index.jsonl: The specified bucket does not "
            "exist; make the bucket first, or choose another --run-dir",
        ),
        (
            "s3://bucket/denied",
            "cannot read s3://bucket/denied/index/seen.json: "
            "Access Key Id does not exist" + ALLOWED,
        ),
        (
            "s3://bucket/nobody",
            "cannot read s3://bucket/nobody/index/seen.json: Unable to locate credentials"
            + ALLOWED,
        ),
    ],
)
@pytest.mark.parametrize("command", ["run", "status"])
def test_lasting_errors_are_one_line(
    photos: Dataset,
    s3: Server,
    tmp_path: Path,
    address: str,
    said: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "nobody" in address:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3.mood(deny="denied" in address)
    done = call(command, config_file(photos, tmp_path, address))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    if command == "run":
        assert last == f"error: {said}"
    else:
        assert last.startswith("error: ")

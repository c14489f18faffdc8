"""A disk that is full, read-only or broken, and a run folder in use, through the command line.

Real disks where the system lets us mount them, and errors put into the calls that write, always.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bad_files import (
    FAST,
    datus,
    encoded,
    masks_of,
    mount,
    put,
    remount,
    rights_count,
    run,
    scene,
    status,
    unmount,
)
from run_tree import tree

pytestmark = pytest.mark.usefixtures("one_backbone")

FULL = "No space left on device; free some space and run the same command again, finished shards"
READ_ONLY = "Read-only file system; make the run folder writable or choose another with --run-dir"
DENIED = "Permission denied; make the run folder writable or choose another with --run-dir"


def make_images(folder: Path, n_images: int) -> Path:
    return put(folder, {f"{i}.png": encoded(scene(seed=i)) for i in range(n_images)})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "photos", 5)


@pytest.fixture(scope="module")
def expected(
    images: Path, tmp_path_factory: pytest.TempPathFactory, one_backbone: None
) -> dict[str, str]:
    """What a run on a good disk writes."""
    run_dir = tmp_path_factory.mktemp("good") / "run"
    assert run(images, run_dir).exit_code == 0
    return tree(run_dir)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    reason = mount(tmp_path / "disk", "1m")
    if reason:
        pytest.skip(f"no disk can be mounted here: {reason}")
    yield tmp_path / "disk"
    unmount(tmp_path / "disk")


# --- real disks ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_with_more_space_it_goes_on(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 images need more than 1 MB for their features alone. As under a quota, nobody knows
    beforehand what is free: a disk that tells is refused at the door (test_preflight)."""
    monkeypatch.setattr("datus.engine.budget.free_bytes", lambda store: None)
    many, run_dir = make_images(tmp_path / "images", 24), small_disk / "run"
    stopped = run(many, run_dir)
    assert stopped.exit_code == 1
    where = rf"{run_dir}/[a-z]+/[0-9a-f]{{16}}/shard-[0-9a-f]{{12}}\.(json|safetensors)"
    assert re.fullmatch(f"cannot write {where}: {FULL} are kept", stopped.error), stopped.error
    n_done = len(list(run_dir.glob("features/*/shard-*.json")))
    assert 0 < n_done < 24
    assert re.search(rf"\nfeatures +[0-9a-f]+ +partly +{n_done}/24\n", status(many, run_dir).stdout)

    again = run(many, run_dir)
    assert again.exit_code == 1
    assert again.error.endswith(f": {FULL} are kept")
    assert len(list(run_dir.glob("features/*/shard-*.json"))) == n_done

    remount(small_disk, "size=64m")
    finished = run(many, run_dir)
    assert finished.exit_code == 0
    assert finished.made["features"] == 24 - n_done
    assert len(masks_of(run_dir)) == 24
    assert run(many, tmp_path / "elsewhere").exit_code == 0
    assert tree(run_dir) == tree(tmp_path / "elsewhere")


def test_a_disk_that_is_full_from_the_start(small_disk: Path, images: Path) -> None:
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2_000_000))
    answer = run(images, small_disk / "run")
    assert answer.exit_code == 1
    assert answer.error.startswith(f"cannot write {small_disk}/run")
    assert answer.error.endswith(f": {FULL} are kept")
    ballast.unlink()
    assert run(images, small_disk / "run").exit_code == 0


def test_a_read_only_disk(small_disk: Path, images: Path) -> None:
    run_dir = small_disk / "run"
    assert run(images, run_dir).exit_code == 0
    before = status(images, run_dir).stdout
    remount(small_disk, "ro")
    for place, what in ((run_dir, run_dir), (small_disk / "new", small_disk / "new")):
        answer = run(images, place)
        assert (answer.exit_code, answer.error) == (1, f"cannot write {what}: {READ_ONLY}")
    assert status(images, run_dir).stdout == before
    remount(small_disk, "rw")
    assert run(images, run_dir).made == {}


def test_a_run_folder_that_may_not_be_written(images: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run(images, run_dir, "--clusters", 2).exit_code == 0
    for path in (run_dir, *run_dir.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    with rights_count():
        answer = run(images, run_dir)
        shown = status(images, run_dir)
    assert (answer.exit_code, answer.error) == (1, f"cannot write {run_dir}: {DENIED}")
    assert shown.exit_code == 0
    for path in (run_dir, *run_dir.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    mended = run(images, run_dir)
    assert mended.exit_code == 0
    assert "embeddings" not in mended.made


def test_a_file_in_place_of_the_run_folder(images: Path, tmp_path: Path) -> None:
    put(tmp_path, {"file": b"keep me"})
    for run_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        answer = datus("run", "--images", images, *FAST, "--run-dir", run_dir)
        assert answer.exit_code == 1
        assert answer.error.startswith(f"cannot write {run_dir}: ")
        assert answer.error.endswith("; a file is in the way, choose another --run-dir")
    assert (tmp_path / "file").read_bytes() == b"keep me"


# --- errors where a real disk would raise them --------------------------------------------------


def failing_fsync(fail: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    whole = os.fsync

    def fsync(number: int) -> None:
        fail()
        whole(number)

    patch.setattr(os, "fsync", fsync)


def failing_write(fail: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Half of the bytes are written before the error."""
    whole = Path.open

    class Half:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> "Half":
            return self

        def __exit__(self, *error: object) -> None:
            self.stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, data: bytes) -> int:
            self.stream.write(data[: len(data) // 2])
            fail()
            return int(self.stream.write(data[len(data) // 2 :]))

    def open_file(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        stream = whole(path, mode, *rest, **more)
        return Half(stream) if mode == "wb" else stream

    patch.setattr(Path, "open", open_file)


def failing_rename(fail: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    whole = Path.replace

    def replace(path: Path, target: Path) -> Path:
        fail()
        return whole(path, target)

    patch.setattr(Path, "replace", replace)


@contextmanager
def disk_that_fails(
    way: Callable[[Callable[[], None], pytest.MonkeyPatch], None], number: int, after: int
) -> Iterator[None]:
    """Every call of a kind raises error `number`, but for the first `after`."""
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        way(fail, patch)
        yield


@pytest.mark.parametrize("way", [failing_fsync, failing_write, failing_rename])
def test_a_disk_that_fills_up_again_and_again_loses_nothing(
    way: Callable[..., None], images: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run_dir, n_files, n_stops = tmp_path / "run", 0, 0
    for after in (0, 1, 2, 5, 9, 14, 20, 30, 40):
        with disk_that_fails(way, errno.ENOSPC, after):
            answer = run(images, run_dir)
        found = tree(run_dir)
        assert len(found) >= n_files
        assert found.items() <= expected.items()
        n_files = len(found)
        if answer.exit_code == 0:
            break
        n_stops += 1
        assert answer.exit_code == 1
        assert re.fullmatch(rf"cannot write {run_dir}/.*: {FULL} are kept", answer.error)
    assert n_stops >= 4
    assert run(images, run_dir).exit_code == 0
    assert tree(run_dir) == expected


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (
            errno.EDQUOT,
            f"{os.strerror(errno.EDQUOT)}; free some space and run the same command "
            "again, finished shards are kept",
        ),
        (errno.EROFS, READ_ONLY),
        (errno.EACCES, DENIED),
        (errno.EIO, "Input/output error; run the same command again, finished shards are kept"),
    ],
    ids=["quota", "read-only", "denied", "broken"],
)
def test_a_disk_that_turns_bad_during_the_run(
    number: int,
    says: str,
    images: Path,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And owner.json cannot be removed either: the error of the shard is what the user sees."""
    run_dir, whole = tmp_path / "run", Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "owner.json":
            raise OSError(number, os.strerror(number))
        whole(path, missing_ok)

    with monkeypatch.context() as patch, disk_that_fails(failing_fsync, number, 30):
        patch.setattr(Path, "unlink", unlink)
        answer = datus("run", "--images", images, *FAST, "--run-dir", run_dir)
    assert answer.exit_code == 1
    assert re.fullmatch(rf"cannot write {run_dir}/[a-z]+/.*: {re.escape(says)}", answer.error)
    assert run(images, run_dir).exit_code == 0
    assert tree(run_dir) == expected


# --- in use -------------------------------------------------------------------------------------

OWNER = """
import sys, time
from datus.store.store import Store
with Store(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_run_folder_in_use_names_its_owner_and_is_free_when_that_is_killed(
    images: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", OWNER, str(run_dir)]
    given = ["--images", images, *FAST, "--run-dir", run_dir]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "locked\n"
            answer = datus("run", *given)
            says = (
                f"{run_dir} is in use by process {owner.pid} on {os.uname().nodename}: "
                "wait for it, stop it, or choose another --run-dir"
            )
            assert (answer.exit_code, answer.error) == (1, says)
            assert not (run_dir / "index").exists()
            assert datus("run", *given[:-1], tmp_path / "another").exit_code == 0
        finally:
            os.kill(owner.pid, signal.SIGKILL)
    assert (run_dir / "owner.json").exists()
    assert run(images, run_dir).exit_code == 0


def test_status_may_look_while_another_works_but_prune_may_not(
    images: Path, tmp_path: Path
) -> None:
    from datus.store.store import Store

    run_dir = tmp_path / "run"
    assert run(images, run_dir).exit_code == 0
    given = ["--images", images, *FAST, "--run-dir", run_dir]
    with Store(run_dir).lock():
        assert datus("status", *given).exit_code == 0
        for answer in (datus("prune", *given), datus("run-stage", "report", *given)):
            assert answer.exit_code == 1
            assert answer.error.startswith(f"{run_dir} is in use by process {os.getpid()} on ")
    assert datus("prune", *given).stdout == "nothing to remove\n"

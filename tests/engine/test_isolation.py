"""Files that crash or hang a decoder: found in a child, recorded, and the others go on.

The decoders are sabotaged in real processes (`saboteur/sitecustomize.py`): SIGSEGV, and an endless
loop in C.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from executor_jobs import died_and_careful
from run_tree import tree
from tiny_runs import Dataset, go, made, make_dataset

from datus.engine.workers import ExecutorSettings, by_name
from datus.errors import ImageError, WorkError
from datus.inputs import safe_decode
from datus.inputs.safe_decode import Decoder, crashed, journal, look_through, reading
from datus.store.store import Store
from datus.types import ImageRecord

SABOTEUR = Path(__file__).resolve().parent.parent / "helpers" / "saboteur"
CRASH, HANG = b"CRASHES THE DECODER", b"HANGS THE DECODER"
CRASHED = "its decoder crashed (SIGSEGV): mend or remove the file"


@pytest.fixture
def sabotaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SABOTEUR))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", ("a", "b", "c"))


def mark(path: Path, word: bytes) -> None:
    """The same picture, of which no decoder lets go."""
    path.write_bytes(path.read_bytes() + word)


def record(image_id: str, truth: bool = True) -> ImageRecord:
    path = f"{image_id}.png"
    return ImageRecord(
        image_id, path, 9, 9, f"image {path}", "", *((path, f"truth {path}") if truth else ())
    )


@pytest.mark.usefixtures("sabotaged")
def test_a_child_tells_crashes_and_hangs_from_good_and_damaged_files(dataset: Dataset) -> None:
    mark(dataset.images / "a.png", CRASH)
    mark(dataset.images / "b.png", HANG)
    (dataset.images / "c.png").write_bytes(b"no picture")
    with Decoder(10**6, 2.0) as decoder:
        paths = [str(dataset.images / f"{name}.png") for name in ("a", "b", "c", "not there")]
        assert [decoder.reason("image", path) for path in paths] == [
            *(CRASHED, safe_decode.SLOW, "", "")
        ]
        assert decoder.reason("size", paths[0]) == "", "a header is not decoded"
        assert decoder.reason("truth", str(dataset.truth / "a.png")) == ""


ORPHANING = """
import os, signal, sys
from datus.inputs import safe_decode
select = safe_decode.select.select
class Told:
    def select(self, *given):  # the second is for the answer: the file is under way
        answer = select(*given) if given[3] > 9 else os.kill(os.getpid(), signal.SIGKILL)
        print(decoder._child.pid, flush=True)
        return answer
safe_decode.select = Told()
with safe_decode.Decoder(10**6, 0.5) as decoder:
    decoder.reason("image", sys.argv[1])
"""


@pytest.mark.usefixtures("sabotaged")
def test_a_child_does_not_outlive_a_killed_parent(dataset: Dataset) -> None:
    mark(dataset.images / "a.png", HANG)
    command = [sys.executable, "-c", ORPHANING, str(dataset.images / "a.png")]
    parent = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    assert parent.returncode == -signal.SIGKILL
    child, end = int(parent.stdout), time.monotonic() + 30
    try:
        while is_running(child) and time.monotonic() < end:
            time.sleep(0.1)
        assert not is_running(child)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Not so if it ended and nobody asked for how."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() not in ("", "Z", "Z+")


@pytest.mark.usefixtures("sabotaged")
def test_a_parent_that_was_held_up_blames_the_time_limit(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(dataset.images / "a.png", HANG)
    monkeypatch.setattr(safe_decode, "ORPHAN_SECONDS", -1.8)  # the child ends first
    with Decoder(10**6, 2.0) as decoder:
        assert decoder.reason("image", str(dataset.images / "a.png")) == safe_decode.SLOW
        assert decoder.reason("image", str(dataset.images / "b.png")) == ""


def test_a_child_that_does_not_start_blames_no_file(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_decode, "SERVE", "{}; raise SystemExit(3)")
    with Decoder(10**6, 3.0) as decoder:
        for _ in range(2):
            with pytest.raises(WorkError, match="no process to decode files in starts"):
                decoder.reason("image", str(dataset.images / "a.png"))


@pytest.mark.usefixtures("sabotaged")
def test_refused_files_raise_where_they_are_read(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_decode, "_refused", {})
    mark(dataset.images / "a.png", CRASH)
    mark(dataset.truth / "b.png", CRASH)
    config = dataset.config(tmp_path / "run")
    look_through(config, [record("a"), record("b"), record("c", truth=False)])
    assert safe_decode._refused == {"image a.png": CRASHED, "truth b.png": CRASHED}
    with (
        pytest.raises(ImageError, match=r"its decoder crashed \(SIGSEGV\)"),
        reading(config, "image a.png"),
    ):
        raise AssertionError("it must not be read")
    with reading(config, "image b.png"):
        pass


HANGING_WORKER = """
import sys, time
from datus.config import Config
from datus.inputs.safe_decode import guarded, reading
from datus.store.store import Store
config = Config.load(None, {"speed.decode_seconds": 0.3, "speed.executor": "processes"})
with guarded(config, Store(sys.argv[1]), "abc", (), careful=False):
    with reading(config, "one"):
        pass
    time.sleep(0.5)
    print("the limit is of the decoding, not of what follows", flush=True)
    with reading(config, "two"):
        time.sleep(60)
"""


def test_a_decoder_that_hangs_ends_its_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGING_WORKER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "the limit is of the decoding, not of what follows\n", done.stderr
    assert done.returncode == -signal.SIGALRM


def test_a_job_that_killed_its_worker_is_tried_again_with_care(tmp_path: Path) -> None:
    jobs = [(0, str(tmp_path), False), (1, str(tmp_path), False)]
    settings = ExecutorSettings(1, lambda n: None, lambda job: (*job[:2], True))
    found = {
        one.job[0]: one.result for one in by_name("processes")(died_and_careful, jobs, settings)
    }
    assert found == {0: "with care", 1: "at once"}


def test_notes_of_what_was_under_way_outlive_a_kill_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    script = (
        "import os, sys\nfrom datus.inputs.safe_decode import journal\n"
        "from datus.store.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "with journal(store, 'index'):\n    pass\n"
        "with journal(store, 'abc'):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, store.root], check=False)
    with crashed(store) as suspects:
        assert suspects == {"abc"}
    with crashed(store) as suspects, suppress(KeyboardInterrupt), journal(store, "abc"):
        assert suspects == frozenset()
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_an_image_that_a_short_limit_left_out_is_tried_again_under_a_longer_one(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason(self: Decoder, kind: str, path: str) -> str:
        return safe_decode.SLOW if path.endswith("images/b.png") and self._seconds < 5 else ""

    monkeypatch.setattr(Decoder, "reason", reason)
    more: dict[str, Any] = {"speed.isolate": True, "speed.max_failed": 1}

    def images_of_masks(seconds: float) -> set[str]:
        config = dataset.config(tmp_path / "run", {**more, "speed.decode_seconds": seconds})
        result, _ = go(config)
        return {path.stem for path in Path(result.links["masks of K = 3"]).glob("*.png")}

    assert "b" not in images_of_masks(2.0)
    assert "b" not in images_of_masks(1.0), "a lower limit finds nothing new"
    assert "b" in images_of_masks(60.0)
    config = dataset.config(tmp_path / "run", {**more, "speed.decode_seconds": 60.0})
    assert made(go(config)[0]) == {}


# --- whole runs ---------------------------------------------------------------------------------


def run(dataset: Dataset, run_dir: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "datus", "run", *dataset.arguments(run_dir), *more],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SABOTEUR)},
    )


def failures(run_dir: Path) -> dict[str, str]:
    found = {}
    for path in run_dir.glob("*/*/shard-*.json"):
        found |= json.loads(path.read_text())["failures"]
    return found


WAYS = {
    "workers": ("--executor", "processes", "--workers", "2"),
    "isolated": ("--set", "speed.isolate=true"),
    "serial": (),
}


CASES = [(way, word) for way in WAYS for word in (CRASH, HANG) if (way, word) != ("serial", HANG)]
"""A serial run that hangs ends when somebody kills it; then all is as after a crash."""


@pytest.mark.slow
@pytest.mark.parametrize(("way", "word"), CASES)
def test_one_bad_image_is_left_out_and_the_bytes_are_those_of_any_other_way(
    way: str, word: bytes, dataset: Dataset, tmp_path: Path
) -> None:
    """The serial run dies of it once; the same command then leaves it out."""
    mark(dataset.images / "b.png", word)
    options = ("--max-failed", "1", "--set", "speed.decode_seconds=20")
    first = run(dataset, tmp_path / "run", *options, *WAYS[way])
    if way == "serial":
        assert first.returncode == -signal.SIGSEGV, first.stderr
        first = run(dataset, tmp_path / "run", *options)
        assert "the last run was killed at " in first.stderr
    assert first.returncode == 0, first.stderr
    reason = CRASHED if word == CRASH else safe_decode.SLOW
    assert failures(tmp_path / "run") == {"b": reason}

    shutil.rmtree(tmp_path / "run" / "masks")
    again = run(dataset, tmp_path / "run", *options, *WAYS[way])
    assert again.returncode == 0, "what is recorded is not decoded again"
    other = run(dataset, tmp_path / "other", *options, "--set", "speed.isolate=true")
    assert other.returncode == 0
    assert tree(tmp_path / "run") == tree(tmp_path / "other")

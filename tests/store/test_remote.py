"""Calls to an object store are tried again, and as few as will do; local disks are asked once."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tiny_runs import Dataset, go

from datus.errors import CorruptShard, MissingPackage, StoreError, WorkError
from datus.review.frozen import known_k
from datus.store import remote
from datus.store.remote import FINAL, TRIES, Patient
from datus.store.reports import AT_ONCE, reports, undone
from datus.store.store import Store
from datus.types import ShardData


class Moody(Exception):
    """Clients of object stores raise errors of their own, which are no OSError."""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", found.append)
    return found


def failing(times: int, error: Exception, then: Any = "answer") -> Callable[..., Any]:
    left = [times]

    def call(*given: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return then

    return call


def fs_with(**calls: Callable[..., Any]) -> Patient:
    return Patient(type("FileSystem", (), {n: staticmethod(c) for n, c in calls.items()})())


@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError(), Moody("slow down")])
def test_a_call_that_fails_is_made_again_after_longer_and_longer_waits(
    error: Exception, waits: list[float]
) -> None:
    assert fs_with(cat_file=failing(TRIES - 1, error)).cat_file("a") == "answer"
    assert len(waits) == TRIES - 1
    for wait, longest in zip(waits, (0.1, 0.4, 1.6, 6.4, 10.0), strict=True):
        assert longest / 2 <= wait <= longest


def test_patience_ends_with_one_clear_error(waits: list[float]) -> None:
    with pytest.raises(StoreError) as caught:
        fs_with(pipe_file=failing(TRIES, Moody("down\nfor now"))).pipe_file("b/c", b"")
    assert str(caught.value) == (
        "cannot write b/c: down for now (6 tries); run the same command again when the store "
        "answers, finished shards are kept"
    )


ALLOWED = (
    "; check the credentials of this machine and what they allow (read, write, list and delete "
    "below the run folder), then run the same command again"
)


class NoCredentialsError(Exception):
    """As of botocore."""


class ParamValidationError(Exception):
    """A bucket's name with a sign that S3 does not allow."""


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("cat_file", PermissionError("Forbidden"), f"cannot read b/c: Forbidden{ALLOWED}"),
        ("ls", NoCredentialsError("no key"), f"cannot look at b/c: no key{ALLOWED}"),
        ("info", ParamValidationError("B!"), "cannot look at b/c: B!; choose another --run-dir"),
        (
            "pipe_file",
            FileNotFoundError("no such bucket"),
            "cannot write b/c: no such bucket; make the bucket first, or choose another --run-dir",
        ),
    ],
)
def test_a_lasting_error_names_the_cure_at_once(
    call: str, error: Exception, said: str, waits: list[float]
) -> None:
    with pytest.raises(StoreError) as caught:
        getattr(fs_with(**{call: failing(1, error)}), call)("b/c")
    assert str(caught.value) == said
    assert waits == []


def test_what_cannot_be_asked_is_not_taken_for_absent(waits: list[float]) -> None:
    down, file = OSError("slow down"), {"type": "file"}
    for name in ("exists", "isfile"):
        assert getattr(fs_with(info=failing(2, down, file)), name)("a") is True
        assert getattr(fs_with(info=failing(1, FileNotFoundError("a"))), name)("a") is False
        with pytest.raises(StoreError, match=r"^cannot look at a: slow down \(6 tries\); "):
            getattr(fs_with(info=failing(TRIES, down)), name)("a")
    assert fs_with(info=failing(1, down, file)).isdir("a") is False
    folder = fs_with(info=failing(0, down, {"type": "directory"}))
    assert (folder.exists("a"), folder.isfile("a"), folder.isdir("a")) == (True, False, True)


def test_a_run_that_cannot_be_asked_for_is_not_taken_for_absent(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = MemoryFileSystem.info
    calls = iter([OSError("slow down")])

    def failing_once(*given: Any, **options: Any) -> Any:
        for error in calls:
            raise error
        return info(*given, **options)

    root = f"memory://{uuid4().hex}/run"
    Store(root).write(b"x", "index", "a")
    monkeypatch.setattr(MemoryFileSystem, "info", failing_once)
    with pytest.raises(WorkError, match="no run is finished there"):
        known_k(root)
    assert len(waits) == 1


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackage) as caught:
        Store("s3://bucket/run")
    assert str(caught.value) == "s3://bucket/run needs s3fs: pip install s3fs"
    with pytest.raises(StoreError) as unknown:
        Store("floppy://a/run")
    assert str(unknown.value) == (
        "floppy://a/run: Protocol not known: floppy; expected a folder, or an address that fsspec "
        "knows such as s3://BUCKET/FOLDER"
    )


@pytest.mark.parametrize("kind", FINAL)
def test_what_is_said_for_good_is_not_asked_again(kind: Any, waits: list[float]) -> None:
    with pytest.raises(kind):
        fs_with(cat_file=failing(1, kind("no"))).cat_file("a")
    assert waits == []


def test_a_removal_whose_answer_was_lost_is_done(waits: list[float]) -> None:
    errors = iter([OSError("lost"), FileNotFoundError("gone")])

    def rm(*given: Any, **options: Any) -> None:
        raise next(errors)

    assert fs_with(rm=rm).rm("a") is None
    with pytest.raises(FileNotFoundError):
        fs_with(rm=failing(1, FileNotFoundError("never there"))).rm("a")


def test_a_store_keeps_all_it_is_given_though_each_call_fails_at_first(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pipe_file", "cat_file", "info", "ls", "exists", "isdir", "size"):
        whole = getattr(MemoryFileSystem, name)
        calls = [0]

        def moody(
            self: Any, *given: Any, whole: Any = whole, calls: Any = calls, **more: Any
        ) -> Any:
            calls[0] += 1
            if calls[0] % 2:
                raise Moody("try again")
            return whole(self, *given, **more)

        monkeypatch.setattr(MemoryFileSystem, name, moody)
    store = Store(f"memory://{uuid4().hex}")
    store.write(b"12", "a", "b")
    assert store.read("a", "b") == b"12"
    assert store.files("a") == ["b"]
    assert (store.size("a", "b"), store.size("a", "c")) == (2, -1)
    assert waits


# --- how many calls -----------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> "Counter[str]":
    """What an object store is asked, by kind."""
    found: Counter[str] = Counter()
    whole = Patient.__getattr__

    def counting(self: Patient, name: str) -> Any:
        got = whole(self, name)
        if not callable(got) or name == "unstrip_protocol":
            return got
        return lambda *given, **options: [found.update([name]), got(*given, **options)][1]

    monkeypatch.setattr(Patient, "__getattr__", counting)
    return found


def test_a_run_asks_little_and_the_second_run_less(tiny: Dataset, calls: "Counter[str]") -> None:
    config = tiny.config(f"memory://{uuid4().hex}/run", {"graphs.center": "dataset"})
    done, _ = go(config)
    n_shards, n_images = len(done.plan.shards), len(done.index.records)
    n_stages = sum(not node.is_dataset for node in done.plan.nodes)
    written = calls.pop("pipe_file")
    assert written <= 2 * n_shards * n_stages + n_images + 40
    assert calls.pop("ls") == n_stages + 2, "masks of images that went; files that were too slow"
    assert calls["cat_file"] <= 9 * n_shards * n_stages + 60
    assert set(calls) <= {"cat_file", "size", "info"}
    assert calls["size"] <= 2
    calls.clear()
    assert go(config)[0].stages[-1].made == 0
    assert set(calls) <= {"cat_file", "ls", "size"}
    assert calls["cat_file"] <= 2 * n_shards * n_stages + 30
    assert calls["ls"] <= n_stages + 4, "two folders of masks"


def test_many_reports_are_those_that_one_look_after_the_other_finds(
    tiny: Dataset, finished: Path
) -> None:
    """Also where a report, arrays or a mask are gone or have another size."""
    store, near = Store(f"memory://{uuid4().hex}/run"), Store(finished)
    places = []
    for path in sorted(finished.glob("[fm]*/*/shard-*.json")):
        places.append((*path.relative_to(finished).parts[:2], path.stem.removeprefix("shard-")))
        for file in sorted(path.parent.rglob("*")):
            if file.is_file():
                parts = file.relative_to(finished).parts
                store.write(near.read(*parts), *parts)
    assert list(reports(store, places)) == list(reports(near, places))
    assert undone(store, places) == set()
    features = [place for place in places if place[0] == "features"]
    masks = [place for place in places if place[0] == "masks"]
    store.write(b"x", *features[0][:2], f"shard-{features[0][2]}.safetensors")
    store.remove(*features[1][:2], f"shard-{features[1][2]}.json")
    found = store.report(*masks[0], files=False)
    assert found is not None
    store.remove(*masks[0][:2], "files", *next(iter(found.files)).split("/"))
    expected = [store.report(*place) for place in places]
    assert list(reports(store, places)) == expected
    assert undone(store, features) == {features[0][2], features[1][2]}
    assert undone(store, masks) == {masks[0][2]}
    lasting = list(reports(store, places, files=False))
    assert lasting == [store.report(*place, files=False) for place in places]


def test_a_store_that_is_down_is_asked_for_no_more_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def down(self: Store, stage: str, mark: str, key: str, files: bool = True) -> None:
        asked.append(key)
        time.sleep(0.05)
        raise StoreError("cannot read it")

    monkeypatch.setattr(Store, "report", down)
    places = [("graphs", "0f", str(number)) for number in range(60)]
    with pytest.raises(StoreError):
        list(reports(Store(f"memory://{uuid4().hex}"), places, files=False))
    assert len(asked) <= 2 * AT_ONCE


def test_arrays_that_are_gone_are_a_corrupt_shard() -> None:
    store, place = Store(f"memory://{uuid4().hex}"), ("graphs", "0f", "abc")
    store.write_shard(place, ShardData({"a": {"x": np.zeros(3)}}), 0.0, keep=True)
    store.remove("graphs", "0f", "shard-abc.safetensors")
    with pytest.raises(CorruptShard, match="graphs: the arrays of shard abc are gone"):
        store.read_shard(place)


def test_recipes_of_an_object_store_come_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the store's own times: names of folders are hashes, which have no order."""
    store, start = Store(f"memory://{uuid4().hex}"), datetime(2026, 1, 1, tzinfo=UTC)
    times = {mark: start + timedelta(days=day) for day, mark in enumerate(("bb", "cc", "aa"))}
    for mark in times:
        store.write_recipe("report", mark, {"mark": mark})
    monkeypatch.setattr(MemoryFileSystem, "modified", lambda self, path: times[path.split("/")[-2]])
    assert [mark for mark, _ in store.recipes("report")] == ["aa", "cc", "bb"]


def test_what_another_process_writes_is_seen_after_a_listing() -> None:
    """Clients of object stores may keep listings."""
    assert Store(f"memory://{uuid4().hex}").fs.dircache.use_listings_cache is False


def test_a_local_disk_is_asked_once(tmp_path: Path) -> None:
    assert not isinstance(Store(tmp_path).fs, Patient)

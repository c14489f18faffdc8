"""Calls to an object store are tried again; local disks and lasting errors are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from datus import remote
from datus.errors import StoreError
from datus.remote import FINAL, TRIES, Patient
from datus.store import Store


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


def test_a_local_disk_is_asked_once(tmp_path: Path) -> None:
    assert not isinstance(Store(tmp_path).fs, Patient)

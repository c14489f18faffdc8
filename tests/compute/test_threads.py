"""Items in parallel, in order, one thread inside each."""

import gc
import os
import signal
import threading
import time
from concurrent import futures

import pytest
import torch
from threadpoolctl import threadpool_info

from datus.compute.memory import tuned_allocator
from datus.compute.threads import map_threads, n_cores, one_thread


def library_threads() -> set[int]:
    return {int(library["num_threads"]) for library in threadpool_info()}


@pytest.mark.parametrize("n_threads", [0, 1, 2, 7, 100])
def test_results_are_in_the_order_of_the_items(n_threads: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item**2

    assert map_threads(slow_first, range(10), n_threads) == [item**2 for item in range(10)]


def test_nothing_gives_nothing() -> None:
    assert map_threads(str, [], 3) == []


def test_items_are_worked_on_side_by_side() -> None:
    meet = threading.Barrier(3, timeout=20)
    assert sorted(map_threads(lambda _: meet.wait(), range(3), 3)) == [0, 1, 2]


def test_no_more_items_at_a_time_than_threads() -> None:
    running, most, guard = 0, 0, threading.Lock()

    def count(_: int) -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with guard:
            running -= 1

    map_threads(count, range(12), 3)
    assert most <= 3


def test_threads_are_used_again() -> None:
    meet = threading.Barrier(2, timeout=20)
    map_threads(lambda _: meet.wait(), range(2), 2)
    n_threads = threading.active_count()
    map_threads(lambda _: meet.wait(), range(2), 2)
    assert threading.active_count() == n_threads


def test_a_map_inside_an_item_stays_on_its_thread() -> None:
    def inner(_: int) -> bool:
        names = map_threads(lambda _: threading.current_thread().name, range(4), 3)
        return set(names) == {threading.current_thread().name}

    assert all(map_threads(inner, range(6), 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    assert map_threads(abs, range(4), 2) == [0, 1, 2, 3]
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if map_threads(abs, range(4), 2) == [0, 1, 2, 3] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_after_ctrl_c_no_further_item_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def slow(item: int) -> None:
        begun.append(item)
        time.sleep(0.05)

    waits = iter([KeyboardInterrupt()])

    def interrupted(threads: object) -> None:
        for error in waits:
            raise error
        futures.wait(threads)  # type: ignore[arg-type]

    monkeypatch.setattr("datus.compute.threads.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        map_threads(slow, range(50), 2)
    n_begun = len(begun)
    assert n_begun < 50
    time.sleep(0.2)
    assert len(begun) == n_begun


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_first_error_is_raised_and_what_has_not_begun_is_left(n_threads: int) -> None:
    begun: list[int] = []

    def fail(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        raise ValueError(item)

    with pytest.raises(ValueError, match=r"^0$"):
        map_threads(fail, range(100), n_threads)
    assert len(begun) < 50


@pytest.mark.parametrize("n_threads", [1, 2])
def test_libraries_have_one_thread_inside_and_their_own_number_after(n_threads: int) -> None:
    before, mine = torch.get_num_threads(), library_threads()
    torch.set_num_threads(3)
    try:
        inside = map_threads(lambda _: torch.get_num_threads(), range(4), n_threads)
        assert inside == [1, 1, 1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    inside_libraries = map_threads(lambda _: library_threads(), range(2), n_threads)
    assert inside_libraries == [{1}, {1}]
    assert library_threads() == mine


def test_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads(), library_threads()
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda item: 1 // item, [0, 1], 2)
    assert (torch.get_num_threads(), library_threads()) == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8})
    assert n_cores() == 3


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert n_cores() == 1


@pytest.mark.parametrize("n_threads", [1, 3])
def test_one_thread_holds_for_the_calling_thread_and_for_maps_inside(n_threads: int) -> None:
    before = torch.get_num_threads(), library_threads()
    with one_thread():
        assert library_threads() | {torch.get_num_threads()} == {1}
        for _ in range(3):
            limits = lambda _: library_threads() | {torch.get_num_threads()}  # noqa: E731
            assert map_threads(limits, [0, 1], n_threads) == [{1}, {1}]
            assert library_threads() | {torch.get_num_threads()} == {1}
    assert (torch.get_num_threads(), library_threads()) == before


def test_maps_side_by_side_share_their_threads() -> None:
    running, most, guard = 0, 0, threading.Lock()

    def count(_: int) -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with guard:
            running -= 1

    maps = [threading.Thread(target=map_threads, args=(count, range(20), 2)) for _ in range(3)]
    for one in maps:
        one.start()
    for one in maps:
        one.join()
    assert most <= 2


def test_two_maps_side_by_side_keep_the_limits_until_both_are_done() -> None:
    """The one that began first ends first: libraries must stay limited for the other."""
    before, mine = torch.get_num_threads(), library_threads()
    ended = threading.Event()
    seen: list[set[int]] = []

    def first(_: int) -> None:
        time.sleep(0.2)

    def second(_: int) -> None:
        ended.wait(20)
        seen.append(library_threads() | {torch.get_num_threads()})

    one = threading.Thread(target=map_threads, args=(first, [0], 2))
    other = threading.Thread(target=map_threads, args=(second, [0, 1], 2))
    one.start()
    other.start()
    one.join()
    ended.set()
    other.join()
    assert seen == [{1}, {1}], threadpool_info()
    assert (torch.get_num_threads(), library_threads()) == (before, mine)


def test_python_looks_for_loops_of_objects_less_often_during_a_run_and_as_before_after_it():
    before = gc.get_threshold()
    with tuned_allocator():
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before

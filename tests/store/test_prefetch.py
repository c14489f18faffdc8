"""Reading ahead: the order and the errors of `map`, a limit to what is held, no thread left."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datus.store.prefetch import read_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [one for one in threading.enumerate() if one.name.startswith("datus-read")]


class Reader:
    """Counts what is read and not yet taken."""

    def __init__(self, seconds: Callable[[int], float] = lambda item: 0.0) -> None:
        self.seconds, self.started = seconds, list[int]()
        self.running, self.most_running, self.guard = 0, 0, threading.Lock()

    def __call__(self, item: int) -> int:
        with self.guard:
            self.started.append(item)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        time.sleep(self.seconds(item))
        with self.guard:
            self.running -= 1
        return 10 * item


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=12),
    st.integers(0, 5),
    st.integers(0, 12),
)
def test_the_same_as_map_whatever_takes_longest(items: list[int], at_once: int, room: int) -> None:
    read = Reader(lambda item: item % 3 / 1000)
    found = read_ahead(read, items, at_once, lambda found: found // 10, room)
    assert list(found) == [10 * item for item in items]


def test_several_at_a_time_and_no_more() -> None:
    read = Reader(lambda item: 0.02)
    assert list(read_ahead(read, range(12), 4)) == [10 * item for item in range(12)]
    assert read.most_running == 4


def test_one_at_a_time_starts_no_thread_and_reads_nothing_ahead() -> None:
    read = Reader()
    found = read_ahead(read, range(5), 1)
    assert (next(found), read.started) == (0, [0])
    assert not [one for one in threading.enumerate() if one.name.startswith("datus-read")]


def test_no_more_are_read_than_wait_to_be_taken() -> None:
    read = Reader()
    found = read_ahead(read, range(100), 4)
    next(found)
    time.sleep(0.02)
    assert len(read.started) == 1 + 4
    found.close()


def test_what_is_held_has_room() -> None:
    """Of 10 bytes each, 35 bytes hold three; the first is read alone, for nothing is known yet."""
    read = Reader()
    found = read_ahead(read, range(100), 50, lambda found: 10, 35)
    next(found)
    time.sleep(0.02)
    assert len(read.started) == 1 + 3
    found.close()


def test_one_is_read_even_where_there_is_no_room() -> None:
    read = Reader()
    found = read_ahead(read, range(4), 8, lambda found: 10, 5)
    next(found)
    time.sleep(0.02)
    assert len(read.started) == 2
    assert list(found) == [10, 20, 30]


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_error_is_raised_in_its_turn_and_nothing_more_is_started(at_once: int) -> None:
    started = []

    def read(item: int) -> int:
        started.append(item)
        time.sleep(0.01 * (item == 0))  # the errors come first
        if item in (1, 2):
            raise ValueError(f"item {item}")
        return item

    found = read_ahead(read, range(50), at_once)
    assert next(found) == 0
    with pytest.raises(ValueError, match="item 1"):
        next(found)
    assert max(started) < 10
    assert list(found) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_who_stops_early_leaves_no_thread(error: type[BaseException]) -> None:
    read = Reader(lambda item: 0.01)

    def consume() -> None:
        for number in read_ahead(read, range(1000), 4):
            if number == 20:
                raise error

    with pytest.raises(error):
        consume()
    n_started = len(read.started)
    assert n_started < 20
    time.sleep(0.03)
    assert len(read.started) == n_started


def test_items_may_come_from_an_iterator() -> None:
    assert list(read_ahead(str, iter("abc"), 2)) == ["a", "b", "c"]

"""Which shards are finished: many reports at once.

    reports(store, places)               a ShardReport or None for each place, in order
    undone(store, places)                keys of those that are not finished
    dropped(store, stage, mark, places)  what is stored and belongs to none of the places
    contents(store, files)               what is in whole files

On a local disk, or one that is mounted, several are looked at ahead. On an object store each look
is a request of some 20 ms: folders are listed, a thousand files a request, and only what is there
is read, several at a time.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from datus.store import prefetch
from datus.store.prefetch import read_ahead
from datus.store.store import ShardReport, Store

Place = tuple[str, str, str]
"""(stage, fingerprint, key of the shard)."""

AT_ONCE = 10
"""As many connections as clients of object stores keep."""

AHEAD = 64
"""Reports that are held in memory."""

FOLDERS = 8
"""Listings that are held in memory. Shards follow the order of ids, so folders come in a row."""


def reports(
    store: Store, places: Iterable[Place], files: bool = True
) -> Iterator[ShardReport | None]:
    """What `store.report` says of each place. files: only if all files have the right size."""
    if store.is_local:
        yield from read_ahead(lambda place: store.report(*place, files), places, prefetch.AT_ONCE)
        return
    listings, waiting = _Listings(store), iter(places)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        while some := list(islice(waiting, AHEAD)):
            # with `files` nobody knows yet what is there; without, it was just made
            there = [not files or listings.has(*place) for place in some]
            futures = [
                pool.submit(store.report, *place, False) if is_there else None
                for place, is_there in zip(some, there, strict=True)
            ]
            for place, future in zip(some, futures, strict=True):
                report = future.result() if future else None
                yield report if not files or listings.whole(place, report) else None
    finally:  # a store that is down would let each that waits try for minutes
        pool.shutdown(cancel_futures=True)


def contents(store: Store, files: Iterable[Sequence[str]]) -> Iterator[bytes | None]:
    """What is in each file, in order; None if it is gone."""

    def read(parts: Sequence[str]) -> bytes | None:
        with suppress(FileNotFoundError):
            return store.read(*parts)
        return None

    yield from map(read, files) if store.is_local else read_ahead(read, files, AT_ONCE)


def undone(store: Store, places: Iterable[Place]) -> set[str]:
    """Keys of the places that are not finished."""
    wanted = list(places)
    found = reports(store, wanted)
    return {place[2] for place, report in zip(wanted, found, strict=True) if report is None}


SHARD = re.compile(r"shard-([0-9a-z]+)\.(json|safetensors)")


def dropped(
    store: Store, stage: str, fingerprint: str, places: Sequence[Place]
) -> list[tuple[str, ...]]:
    """Of shards that are not wanted any more, since their images went or changed: names below the
    stage's folder, reports first, and the files that no wanted shard has."""
    keys = {place[2] for place in places if place[:2] == (stage, fingerprint)}
    found: list[tuple[str, ...]] = []
    files: set[str] = set()
    for name in store.files(stage, fingerprint):
        match = SHARD.fullmatch(name)
        if match and match[1] not in keys:
            found.append((name,))
            report = store.report(stage, fingerprint, match[1], files=False)
            files |= set(report.files) if report else set()
    for report in (
        reports(store, ((stage, fingerprint, key) for key in keys), files=False) if files else ()
    ):
        files -= report.files.keys() if report else set()
    owned = [("files", *name.split("/")) for name in sorted(files)]
    return sorted(found) + [
        name for name in owned if ".." not in name and store.size(stage, fingerprint, *name) >= 0
    ]


class _Listings:
    """Sizes of files, from the last few folders that were looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sizes: OrderedDict[tuple[str, ...], dict[str, int]] = OrderedDict()

    def has(self, stage: str, fingerprint: str, key: str) -> bool:
        return self._size(stage, fingerprint, f"shard-{key}.json") >= 0

    def whole(self, place: Place, report: ShardReport | None) -> bool:
        """All files of a shard are there, with the right sizes."""
        if report is None:
            return False
        stage, fingerprint, key = place
        arrays = self._size(stage, fingerprint, f"shard-{key}.safetensors") if report.stored else 0
        return arrays == report.n_bytes * report.stored and all(
            self._size(stage, fingerprint, "files", *name.split("/")) == size
            for name, (size, _) in report.files.items()
        )

    def _size(self, *parts: str) -> int:
        folder = parts[:-1]
        if folder not in self._sizes:
            self._sizes[folder] = self._store.sizes(*folder)
        self._sizes.move_to_end(folder)
        while len(self._sizes) > FOLDERS:
            self._sizes.popitem(last=False)
        return self._sizes[folder].get(parts[-1], -1)

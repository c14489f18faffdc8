"""Many processes on one run folder: who may be in it, and what waits for whom.

    with locked(store, share) as suspects beside other shares, or alone
    index = agreed_index(...)           read once, not by every share
    part_of(plan, share)                the plan with this share's shards only
    waiting.ready(group)                  without what is not ours, or needs what is not there yet
    waiting.next_step(made)               what people should run next
    check_arrived(store, places)        what a worker on another machine wrote can be read here

Shares need no lock among themselves: a file is written whole, and whoever writes it writes the same
bytes. The lock is there to keep out what removes files: a whole run sweeps up after killed writers,
`prune` prunes. A killed share is run again; a note in RUN/under-way says what it was at.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from datus.config import Share
from datus.engine.plan import Node, Plan
from datus.errors import StoreError, WorkError
from datus.inputs.index import Index
from datus.inputs.safe_decode import NOTES, crashed
from datus.store.leftovers import end_notes
from datus.store.reports import Place, undone
from datus.store.store import Store, in_use

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""Of file systems that cannot lock. Shares are safe without; whole runs say so themselves."""

INDEX_LOCK = ("index", ".lock")

ARRIVAL_SECONDS = 90.0
"""NFS may remember for 60 seconds that a file was not there."""


# --- the run folder -----------------------------------------------------------------------------


@contextmanager
def locked(store: Store, share: Share | None) -> Iterator[frozenset[str]]:
    """Alone in the run folder, or, with a share of the shards, beside other shares.

    Alone: what killed writers left is swept up; gives what was under way when they were killed.
    """
    if share is None or share.is_none:
        with store.lock(), crashed(store) as suspects:
            store.sweep_temporary()
            if store.is_local:  # of a share that was killed while it made the index
                Path(store.path(*INDEX_LOCK)).unlink(missing_ok=True)
            yield suspects
            if store.is_local:
                end_notes(store.root)
    elif store.is_local:
        with _flock(store, fcntl.LOCK_SH | fcntl.LOCK_NB, ".lock"):
            yield frozenset()
    else:
        yield frozenset()


@contextmanager
def _flock(store: Store, how: int, *parts: str) -> Iterator[None]:
    """The system's lock on a file of the run folder; freed however its owner ends."""
    path = Path(store.path(*parts))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(
            f"cannot write {path.parent}: {error.strerror}; make the run folder writable or "
            "choose another with --run-dir"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise StoreError(in_use(store.root)) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def agreed_index(make: Callable[[], Index], store: Store, share: Share | None) -> Index:
    """The index. Of shares that find none, one reads the images and the others wait for it."""
    first = share is not None and store.is_local and not store.exists("index", "index.json")
    if not first:
        return make()
    with _flock(store, fcntl.LOCK_EX, *INDEX_LOCK):
        if not store.exists("index", "index.json"):
            index = make()
            # who waits for the lock looks again, and who comes now finds an index
            Path(store.path(*INDEX_LOCK)).unlink(missing_ok=True)
            return index
    return make()  # only looks whether files changed


def left_notes(store: Store, plan: Plan, share: Share | None) -> frozenset[str]:
    """Shards of this share that were under way when it was killed."""
    if share is None or share.is_none or not store.is_local:
        return frozenset()
    return frozenset(shard.key for shard in plan.shards).intersection(store.files(NOTES))


def check_arrived(store: Store, places: Iterable[Place]) -> None:
    """Raises WorkError if what another machine finished does not show up here."""
    end = time.monotonic() + ARRIVAL_SECONDS
    # a worker writes them in this order, and object stores show at once what is there
    for place in list(places) if store.is_local else list(places)[-1:]:
        # its files were written before the report: who sees that sees them
        while store.report(*place, files=False) is None:
            if time.monotonic() > end:
                raise WorkError(
                    f"{place[0]}: a worker made shard {place[2]}, and it is not in {store.url}: "
                    "expected a run folder that all nodes share; choose one with --run-dir"
                )
            _look_again(store, *place[:2])
            time.sleep(0.5)


def _look_again(store: Store, *folder: str) -> None:
    """Listing a folder makes NFS ask its server; clients of object stores have a switch for it."""
    with suppress(OSError):
        if store.is_local:
            os.listdir(store.path(*folder))
        else:
            store.fs.invalidate_cache()


# --- waiting --------------------------------------------------------------------------------------


def part_of(plan: Plan, share: Share | None) -> Plan:
    """The plan as this process does it. `none` sees all shards, and makes none."""
    if share is None or share.is_none:
        return plan
    mine = share.keys(shard.key for shard in plan.shards)
    return replace(plan, shards=tuple(shard for shard in plan.shards if shard.key in mine))


@dataclass(slots=True)
class Waiting:
    """What waits for other processes. Asked once for each group, in the order of work."""

    store: Store
    plan: Plan
    """As `part_of` gives it."""
    share: Share | None
    _waiting: set[str] = field(default_factory=set)
    """Fingerprints."""
    _next: list[tuple[Node, int]] = field(default_factory=list)
    """Whose turn it is, elsewhere, and how many of its shards are there."""

    def ready(self, group: Sequence[Node]) -> tuple[Node, ...]:
        """Those of the group that are this process's and need nothing that is not there yet."""
        if self.share is None:
            return tuple(group)
        foreign = self.share.is_none != group[0].is_dataset
        for node in group:
            places = list(self.plan.places(node))
            n_done = len(places) - len(undone(self.store, places)) if foreign else 0
            if any(n.fingerprint in self._waiting for n in self.plan.nodes if node.reads(n)):
                self._waiting.add(node.fingerprint)
            elif foreign and n_done < len(places):
                self._waiting.add(node.fingerprint)
                self._next.append((node, n_done))
        return tuple(node for node in group if node.fingerprint not in self._waiting)

    def next_step(self, made: bool) -> str:
        """What to run next; empty if nothing waits. `made`: this process made something.

        Raises WorkError if there was nothing to do for `--shards none` because a share is missing.
        """
        if self.share is None or not self._next:
            return ""
        labels = " and ".join(dict.fromkeys(node.label for node, _ in self._next))
        if not self.share.is_none:
            return _after_a_share(self.share, labels)
        node, n_done = max(self._next, key=lambda one: one[1])
        if n_done and not made:
            n_all = len(list(self.plan.places(node)))
            raise WorkError(
                f"{node.label} has {n_done} of its {n_all} shards, --shards none needs all: run "
                "the shares that are missing or failed, or leave --shards out"
            )
        return (
            f"next: {labels}. Run the shares (--shards 1/N ... N/N), then --shards none again; "
            "the same command without --shards does all that is left"
        )


def _after_a_share(share: Share, labels: str) -> str:
    if labels == "report":
        return (
            f"share {share} is done. When the others are: the same command without --shards makes "
            "the report"
        )
    return (
        f"share {share} is done up to here. Next: {labels}, of all shards together. When the other "
        "shares are done: the same command with --shards none, then the shares again; or without "
        "--shards, which does all that is left"
    )

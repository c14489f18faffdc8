"""Is every stored byte still the one that was written? Reads all of a run folder; loads no torch.

    verify(config, mend, bar)    what is damaged; mend: removed, so that the next run makes it again

A run looks at the sizes of what is done, and at the checksums of what it reads. A bit that flips in
a mask that nothing reads any more is only found here.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from datus.config import Config
from datus.errors import CorruptShard, WorkError
from datus.inputs.find import sha256_of
from datus.inputs.index import read_index
from datus.pipeline import make_plan
from datus.store.reports import Place, contents, reports
from datus.store.store import ShardReport, Store

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(slots=True)
class Verified:
    """What was looked at, and what is not as it was written."""

    n_files: int = 0
    n_missing: int = 0
    """Shards that are not finished: the next run makes them."""
    damaged: list[str] = field(default_factory=list)
    """Of each file that changed, was cut short or is gone: where it is, or was."""


def verify(config: Config, mend: bool, bar: Bar) -> Verified:
    """Compare all that the current settings have made with its checksums.

    Raises WorkError if nothing has run, StoreError if the index is damaged or, to mend, if the run
    folder is in use.
    """
    store, found = Store(config.run_path), Verified()
    index = read_index(store)
    if index is None:
        raise WorkError(f"{config.run_path}: nothing has run here yet: datus run does")
    places = make_plan(config, index).all_places()
    with store.lock() if mend else nullcontext(), bar("verify", len(places)) as advance:
        for place, report in zip(places, reports(store, places, files=False), strict=True):
            damaged = _look(store, place, report, found)
            found.damaged += damaged
            if damaged and mend:
                store.forget_shard(place)
            advance(1)
    return found


def _look(store: Store, place: Place, report: ShardReport | None, found: Verified) -> list[str]:
    stage, fingerprint, key = place
    if report is None:
        is_damaged = store.exists(stage, fingerprint, f"shard-{key}.json")
        found.n_missing += not is_damaged
        found.n_files += is_damaged
        return [f"{stage}/{fingerprint}/shard-{key}.json"] if is_damaged else []
    damaged = []
    try:
        found.n_files += 1 + report.stored + len(report.files)
        store.read_shard(place, files=False)
    except CorruptShard:
        damaged.append(f"{stage}/{fingerprint}/shard-{key}.safetensors")
    files = contents(store, [(stage, fingerprint, "files", name) for name in report.files])
    for (name, (_, sha256)), data in zip(report.files.items(), files, strict=True):
        if data is None or sha256_of(data) != sha256:
            damaged.append(f"{stage}/{fingerprint}/files/{name}")
    return damaged

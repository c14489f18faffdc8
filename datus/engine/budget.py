"""What a run still has to make, the least that it will write, and whether there is room for it.

    todo(store, plan, groups)                      fingerprint -> the shards that will be made
    min_bytes(config, plan, missing)             bytes that are sure, from shapes alone
    check_disk_space(config, store, plan, groups, say)  before long work: weights, room on the disk
    free_bytes(store), free_memory()               what the machine has left

Nothing is loaded and no image is read. The grid of patches follows from an image's size, so the
size of keys, tokens and graphs is known beforehand. What depends on the pictures (segments, PNGs,
reports) is not counted: the figure is a floor, and only a disk below it is refused.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from datus.config import Config
from datus.engine.plan import Node, Plan, find_node
from datus.errors import BackboneError, WorkError, size_text
from datus.inputs.index import Shard
from datus.models.registry import find
from datus.models.weights import (
    check_timm_name,
    hub_answers,
    hub_file,
    is_offline,
    not_here,
    with_tag,
)
from datus.store.reports import Place, reports
from datus.store.store import DATASET_KEY, Store

LONG_RUN_IMAGES = 3000
"""At a fifth of a second an image, which a small ViT takes on one core, this is ten minutes."""

Groups = Sequence[tuple[Node, ...]]

# --- what is missing ----------------------------------------------------------------------------


def todo(store: Store, plan: Plan, groups: Groups) -> dict[str, list[Shard]]:
    """Fingerprint -> the shards that running `groups` makes, those made twice twice.

    Goes through a run as `engine.run` does, and makes nothing. A stage over the whole dataset makes
    one shard, which holds all images. A stage whose output was not kept is made again for each
    group that needs it.
    """
    made: dict[str, list[Shard]] = {node.fingerprint: [] for node in plan.nodes}
    places = [place for node in plan.nodes for place in plan.places(node)]
    found = zip(places, reports(store, places), strict=True)
    # place of what is done, or will be by then -> its output is in the store
    known = {place: report.stored for place, report in found if report is not None}

    def make(node: Node, place: Place, shard: Shard) -> None:
        made[node.fingerprint].append(shard)
        known[place] = known.get(place, False) or node.keep

    def data(node: Node, shard: Shard, memory: set[str]) -> None:
        place = node.place(shard)
        if node.fingerprint in memory or known.get(place, False):
            return
        memory.add(node.fingerprint)
        for need in node.needs:
            data(find_node(plan.nodes, need, node.k), shard, memory)
        make(node, place, shard)

    every = Shard(DATASET_KEY, tuple(record for shard in plan.shards for record in shard.records))
    for group in groups:
        if group[0].is_dataset:
            if group[0].place() not in known:
                make(group[0], group[0].place(), every)
            continue
        for shard in plan.shards:
            memory: set[str] = set()
            for node in group:
                if node.place(shard) not in known:
                    data(node, shard, memory)
    return made


# --- bytes that are known beforehand --------------------------------------------------------------


def min_bytes(config: Config, plan: Plan, missing: dict[str, list[Shard]]) -> int | None:
    """The least that making `missing` adds to the disk; None if the model's size is not known."""
    total = 0
    for node in plan.nodes:
        if not node.keep or node.stage.min_bytes is None:
            continue
        for shard in missing[node.fingerprint]:
            for record in shard.records:
                n_bytes = node.stage.min_bytes(config, record)
                if n_bytes is None:
                    return None
                total += n_bytes
    return total


# --- room ---------------------------------------------------------------------------------------


def free_bytes(store: Store) -> int | None:
    """Of the file system that the run folder is on, or will be; None where nobody can say."""
    if not store.is_local:
        return None
    try:
        return shutil.disk_usage(nearest_folder(store)).free
    except OSError:
        return None


def nearest_folder(store: Store) -> Path:
    """The local run folder, or the folder above it that is already there."""
    path = Path(store.root).absolute()
    return next((one for one in (path, *path.parents) if one.exists()), path)


def no_room(config: Config, store: Store, needed: int, free: int) -> str:
    """What to say of a disk that is too small."""
    cures = ["free some space", "choose another --run-dir"]
    if config.features.keep:
        cures.append("add --set features.keep=false")
    return (
        f"{store.root}: the run will write {size_text(needed)} or more, "
        f"{size_text(free)} are free: {', '.join(cures[:-1])} or {cures[-1]}"
    )


def check_disk_space(
    config: Config, store: Store, plan: Plan, groups: Groups, say: Callable[[str], None]
) -> None:
    """What surely stops a run, found before the long work. Cheap: no model, no image is read.

    Raises BackboneError (weights of the hub that are not here and cannot be fetched) and WorkError
    (a disk that is too small). `say` is told what a long run will write.
    """
    free = free_bytes(store)
    known = [(node, str(node.recipe["settings"].get("weights", ""))) for node in plan.nodes]
    from_hub = [(node, name[4:]) for node, name in known if name.startswith("hub:")]
    if free is None and not from_hub:
        return  # every report of a remote run folder is a request
    missing = todo(store, plan, groups)
    for node, name in from_hub:
        if missing[node.fingerprint]:
            _check_hub(name)
    needed = min_bytes(config, plan, missing)
    if free is None or needed is None:
        return
    if needed > free:
        raise WorkError(no_room(config, store, needed, free))
    n_images = max(sum(len(shard.records) for shard in shards) for shards in missing.values())
    if n_images >= LONG_RUN_IMAGES:
        say(
            f"{n_images} images to do: {size_text(needed)} or more will be written, "
            f"{size_text(free)} are free; --dry-run says more"
        )


def _check_hub(name: str) -> None:
    """The first stage would find out at once, but the model of the crops hours later."""
    if hub_file(name) is not None or not (is_offline() or not hub_answers()):
        return
    if find(name) is None:
        check_timm_name(name, pretrained=True)  # no network helps a misspelt name
    if hub_file(with_tag(name)) is None:
        raise BackboneError(not_here(name))


def free_memory() -> int | None:
    """Bytes that processes may still take: of the machine, or of a cgroup with a limit.

    None where the system does not tell (Linux does).
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        table = dict(line.split(":", 1) for line in lines)
        found = 1024 * int(table["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return min([found, *_cgroup_rooms()])


_CGROUP_FILES = (
    ("memory.max", "memory.current"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
)


def _cgroup_rooms() -> list[int]:
    """Bytes left in each cgroup with a memory limit that this process is in, versions 1 and 2."""
    rooms = []
    for folder in _cgroups():
        for limit_name, usage_name in _CGROUP_FILES:
            try:
                limit = int((folder / limit_name).read_text(encoding="ascii"))
                used = int((folder / usage_name).read_text(encoding="ascii"))
                text = (folder / "memory.stat").read_text(encoding="ascii")
                stat = dict(line.split() for line in text.splitlines())
            except (OSError, ValueError):  # no such file, or the word "max"
                continue
            cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
            rooms.append(max(0, limit - used + cached))
    return rooms


CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def _cgroups() -> list[Path]:
    """Folders of the memory cgroups of this process, up to the root."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = CGROUP_ROOT / "memory" if controllers else CGROUP_ROOT
        inner = top / path.strip("/")
        found += [one for one in (inner, *inner.parents) if one.is_relative_to(top)]
    return found

"""The stages of one run with their recipes: what is done, what is missing, and why.

    plan = make_plan(config, index, stages)
    plan.groups()              stages in the order of work; those that share memory stand together
    why(store, plan, node)     the first setting that differs from the newest earlier recipe
    check_unchanged, unchanged the files that settings come from are as they were for the plan

A recipe is {stage, version, settings, upstream fingerprints}; its hash names the stage's folder.
The shards of the index stand beside it, by content, so that one changed image redoes one shard.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from datus.config import Config
from datus.engine.stage import Stage
from datus.errors import WorkError
from datus.inputs.index import Index, Shard
from datus.store.reports import Place
from datus.store.store import DATASET_KEY, Store, canonical_json, fingerprint

Recipe = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One stage of the run, for one K if the stage depends on it."""

    stage: Stage
    k: int
    """0 for stages that all K share."""
    fingerprint: str
    """The name of its folder."""
    recipe: Recipe
    needs: tuple[str, ...]
    keep: bool
    """Its output is written. Else it is made in memory for the stages that need it."""
    sees_truth: bool = False
    """Its shards are named by their true masks too: one that changes redoes one shard."""
    is_taken: bool = False
    """It lies in the run folder already, under the recipe of an earlier run."""

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def is_dataset(self) -> bool:
        return self.stage.scope == "dataset"

    @property
    def label(self) -> str:
        return f"{self.name} (K = {self.k})" if self.k else self.name

    def serves(self, k: int) -> bool:
        """It is a part of the run with K clusters; K = 0 is the part that all share."""
        return self.k in (0, k)

    def reads(self, other: "Node") -> bool:
        return other.name in self.needs and (not self.k or other.serves(self.k))

    def key(self, shard: Shard) -> str:
        """Of what it makes of a shard."""
        if self.is_dataset:
            return DATASET_KEY
        return shard.truth_key or shard.key if self.sees_truth else shard.key

    def place(self, shard: Shard | None = None) -> Place:
        """(stage, fingerprint, key) of what it makes of a shard, or of the dataset."""
        return self.name, self.fingerprint, self.key(shard) if shard else DATASET_KEY

    def places(self, shards: Iterable[Shard]) -> Iterator[Place]:
        """Of everything that it makes."""
        if self.is_dataset:
            yield self.place()
        else:
            yield from map(self.place, shards)


def find_node(nodes: Sequence[Node], name: str, k: int) -> Node:
    """The node of a stage that serves K."""
    return next(node for node in nodes if node.name == name and node.serves(k))


@dataclass(frozen=True, slots=True)
class Plan:
    nodes: tuple[Node, ...]
    """In the order of work."""
    shards: tuple[Shard, ...]
    stages: tuple[str, ...]
    """Names of its stages, in the order of the pipeline."""

    def places(self, node: Node) -> Iterator[Place]:
        """(stage, fingerprint, shard key) of everything that a node makes."""
        return node.places(self.shards)

    def all_places(self) -> list[Place]:
        return [place for node in self.nodes for place in self.places(node)]

    def key_of(self, node: Node, image_id: str) -> str:
        """The key of the shard in which a node makes an image; no report has to be read for it."""
        if node.is_dataset:
            return DATASET_KEY
        return next(
            node.key(shard)
            for shard in self.shards
            if any(record.image_id == image_id for record in shard.records)
        )

    def groups(self) -> list[tuple[Node, ...]]:
        """Nodes that run in one go: a stage that is not kept, up to the last one that needs it."""
        groups: list[tuple[Node, ...]] = []
        start = 0
        while start < len(self.nodes):
            end = start
            for position, node in enumerate(self.nodes):
                if start <= position <= end and not node.keep:
                    end = max(end, self._last_user(node))
            groups.append(self.nodes[start : end + 1])
            start = end + 1
        return groups

    def _last_user(self, node: Node) -> int:
        """Position of the last shard stage that reads `node`, before any dataset stage."""
        last = self.nodes.index(node)
        for position in range(last + 1, len(self.nodes)):
            if self.nodes[position].is_dataset:
                break
            if node.name in self.nodes[position].needs:
                last = position
        return last


def wanted_groups(plan: Plan, until: str, only: bool) -> list[tuple[Node, ...]]:
    """The groups to run, for every K of a sweep: all up to the stage `until`, or `until` alone.

    Stages that do one shard after the other run together: a shard goes through all of them while
    it is in memory, and what several of them need is read once.
    """
    end = plan.stages.index(until) + 1 if until in plan.stages else len(plan.stages)
    wanted = {until} if only else set(plan.stages[:end])
    groups = [group for group in plan.groups() if wanted & {node.name for node in group}]
    if only:
        return groups
    joined: list[tuple[Node, ...]] = []
    for group in groups:
        if joined and not (group[0].is_dataset or joined[-1][0].is_dataset):
            joined[-1] += group
        else:
            joined.append(group)
    return joined


def make_plan(
    config: Config,
    index: Index,
    stages: Sequence[Stage],
    taken: Mapping[tuple[str, int], Recipe] | None = None,
) -> Plan:
    """Every stage of a run. The branches of a sweep share all that is before them.

    stages: those that this config has, in the order of the pipeline.
    taken: (stage, k) -> the recipe of what an earlier run left in this run folder, in place of a
    new one.
    """
    nodes: list[Node] = []

    def add(stage: Stage, k: int) -> None:
        nodes.append(_node(config, index, stage, k, nodes, (taken or {}).get((stage.name, k))))

    for stage in stages:
        if not (stage.per_k or stage.is_last):
            add(stage, 0)
    for k in config.clusters.k:
        for stage in stages:
            if stage.per_k:
                add(stage, k)
    made = tuple(nodes)
    nodes.sort(key=lambda node: not _needs_no_shard(node, made))
    for stage in stages:
        if stage.is_last:
            add(stage, 0)
    return Plan(tuple(nodes), index.shards, tuple(stage.name for stage in stages))


def _needs_no_shard(node: Node, nodes: Sequence[Node]) -> bool:
    """A stage over the dataset that reads none of its shards goes first, so that nothing stands
    between stages on shards: clusters that are taken from an earlier run, and their edits."""
    return node.is_dataset and all(
        _needs_no_shard(other, nodes) for other in nodes if node.reads(other)
    )


def _node(
    config: Config, index: Index, stage: Stage, k: int, made: list[Node], taken: Recipe | None
) -> Node:
    needs = stage.needs(config)
    upstream = {
        f"{node.name}:{node.k}" if stage.is_last and node.k else node.name: node.fingerprint
        for node in made
        if node.name in needs and (stage.is_last or node.serves(k))
    }
    recipe: Recipe = {
        "stage": stage.name,
        "version": stage.version,
        "settings": stage.settings(config, k, index),
        "upstream": upstream,
    }
    recipe = taken or recipe  # after `settings`, which check what is taken
    keep = bool(getattr(getattr(config, stage.name, None), "keep", True))
    sees_truth = stage.sees_truth and bool(config.data.truth)
    return Node(
        stage, k, fingerprint(recipe), recipe, needs, keep, sees_truth, is_taken=bool(taken)
    )


OF_INDEX = {
    "dataset": "the images changed",
    "truth": "the true masks changed",
    "failures": "other images failed",
}
"""Settings that come of the index -> what it means that one is another."""


def check_unchanged(config: Config, nodes: Iterable[Node], index: Index | None = None) -> None:
    """Raises WorkError if a file that settings come from changed since the plan was made: a class
    table, edits.json, corrections, weights, an earlier run. Errors of reading it pass through.

    Asked after such a file was read and before anything made of it is stored under a fingerprint
    that speaks of the old content. index: None in workers, then OF_INDEX is not compared.
    """
    for node in nodes:
        if node.is_taken:  # it lies under its fingerprint
            continue
        known = index or Index((), {}, 0)
        now = node.stage.settings(config, node.k, known)
        for name, value in node.recipe["settings"].items():
            if name in OF_INDEX and index is None:
                continue
            if canonical_json(now.get(name)) != canonical_json(value):
                raise WorkError(
                    f"{node.label}: the file that its {name} come from changed during the run: "
                    "run the same command again"
                )


@contextmanager
def unchanged(config: Config, plan: Plan, node: Node, index: Index) -> Iterator[None]:
    """Around the work of a stage over the dataset: its files, and those of stages before it that it
    reads too, are the same before and after. Errors as in `check_unchanged`."""
    nodes = [node, *(n for n in plan.nodes if node.reads(n) and n.stage.reads_files)]
    check_unchanged(config, nodes, index)
    yield
    check_unchanged(config, nodes, index)


def why(store: Store, plan: Plan, node: Node) -> str:
    """Why a node is not done: shards that are not there, or its first difference from before."""
    if any(name.startswith("shard-") for name in store.files(node.name, node.fingerprint)):
        return "some shards are new or were removed"
    return _changed(store, plan, node)


def _changed(store: Store, plan: Plan, node: Node) -> str:
    """The first difference of a node from the newest earlier recipe of its stage."""
    # the branches of one sweep are no earlier runs
    current = {other.fingerprint for other in plan.nodes}
    earlier = [
        recipe for fingerprint, recipe in store.recipes(node.name) if fingerprint not in current
    ]
    same_k = [r for r in earlier if r["settings"].get("k") == node.recipe["settings"].get("k")]
    if not earlier:
        return "it never ran with these settings" if node.k else "it never ran"
    before = (same_k or earlier)[0]
    if before["version"] != node.recipe["version"]:
        return f"the stage itself changed: version {before['version']} -> {node.recipe['version']}"
    old, new = before["settings"], node.recipe["settings"]
    if old.get("frozen") != new.get("frozen"):
        return f"{node.name}: other clusters are taken from an earlier run, or none are any more"
    for name in sorted({*old, *new}, key=lambda name: (name != "corrections", name)):
        gone = name == "truth" and not old.keys() & new.keys() & {"truth"}  # its stages say so
        if old.get(name) != new.get(name) and not gone:
            return _difference(node.name, name, old.get(name), new.get(name))
    for name in sorted({*before["upstream"], *node.recipe["upstream"]}):
        if before["upstream"].get(name) != node.recipe["upstream"].get(name):
            return _changed_upstream(store, plan, node, name, before["upstream"])
    return "it never ran"


def _changed_upstream(
    store: Store, plan: Plan, node: Node, name: str, before: Mapping[str, str]
) -> str:
    stage, _, k = name.partition(":")
    label = f"{stage} (K = {k})" if k else stage
    if name not in before:
        return f"{label} is new"
    if name not in node.recipe["upstream"]:
        return f"{label} is no longer part of the run"
    upstream = find_node(plan.nodes, stage, int(k) if k else node.k)
    cause = _changed(store, plan, upstream)
    return cause if ": " in cause else f"{upstream.label}: {cause}"  # the root says where it is


def _difference(stage: str, name: str, old: Any, new: Any) -> str:
    if name in OF_INDEX:
        return OF_INDEX[name]
    if name == "corrections":
        return f"{stage}.corrections: {'others are given' if new else 'none are given any more'}"
    return f"{stage}.{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

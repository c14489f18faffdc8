"""The stages of one run with their recipes: what is done, what is missing, and why.

    plan = make_plan(config, index)
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
from datus.errors import WorkError
from datus.inputs.index import Index, Shard
from datus.pipeline import STAGE_NAMES, STAGES, Stage, active_stages
from datus.review.frozen import is_own, kept_recipe
from datus.store.store import Store, canonical_json, fingerprint

DATASET_KEY = "all"
"""The shard key of stages that work on the whole dataset."""


@dataclass(frozen=True, slots=True)
class Node:
    """One stage of the run, for one K if the stage depends on it."""

    stage: str
    k: int
    """0 for the stages before clusters and for the report."""
    mark: str
    """The fingerprint: the name of its folder."""
    recipe: Mapping[str, Any]
    needs: tuple[str, ...]
    keep: bool
    sees_truth: bool = False
    """Its shards are named by their true masks too: one that changes redoes one shard."""

    def key(self, shard: Shard) -> str:
        """Of what it makes of a shard."""
        if self.scope == "dataset":
            return DATASET_KEY
        return shard.truth_key or shard.key if self.sees_truth else shard.key

    @property
    def row(self) -> Stage:
        return next(stage for stage in STAGES if stage.name == self.stage)

    @property
    def scope(self) -> str:
        return self.row.scope

    @property
    def label(self) -> str:
        return f"{self.stage} (K = {self.k})" if self.k else self.stage


FROZEN = ("center", "clusters")
"""Stages that take what an earlier run made, if `clusters.frozen` says so."""


LAST = ("views", "report")
"""Stages over the dataset that no stage by shard waits for: after those of all K."""


def find_node(nodes: Sequence[Node], stage: str, k: int) -> Node:
    """The node of a stage that serves K."""
    return next(node for node in nodes if node.stage == stage and node.k in (0, k))


@dataclass(frozen=True, slots=True)
class Plan:
    nodes: tuple[Node, ...]
    """In the order of work."""
    shards: tuple[Shard, ...]

    def places(self, node: Node) -> Iterator[tuple[str, str, str]]:
        """(stage, fingerprint, shard key) of everything a node makes."""
        if node.scope == "dataset":
            yield node.stage, node.mark, DATASET_KEY
        else:
            for shard in self.shards:
                yield node.stage, node.mark, node.key(shard)

    def key_of(self, node: Node, image_id: str) -> str:
        """The key of the shard in which a node makes an image; no report has to be read for it."""
        if node.scope == "dataset":
            return DATASET_KEY
        found = (s for s in self.shards if any(r.image_id == image_id for r in s.records))
        return node.key(next(found))

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
            if self.nodes[position].scope == "dataset":
                break
            if node.stage in self.nodes[position].needs:
                last = position
        return last


def wanted_groups(plan: Plan, until: str, only: bool) -> list[tuple[Node, ...]]:
    """The groups to run, for every K of a sweep.

    Stages that do one shard after the other run together: a shard goes through all of them while
    it is in memory, and what several of them need is read once.
    """
    names = STAGE_NAMES[: STAGE_NAMES.index(until) + 1] if until else STAGE_NAMES
    wanted = {until} if only else set(names)
    groups = [group for group in plan.groups() if wanted & {node.stage for node in group}]
    if only:
        return groups
    joined: list[tuple[Node, ...]] = []
    for group in groups:
        if joined and group[0].scope == joined[-1][0].scope == "shard":
            joined[-1] += group
        else:
            joined.append(group)
    return joined


def make_plan(config: Config, index: Index) -> Plan:
    """Every stage that this config runs. The branches of a sweep share all that is before them."""
    nodes: list[Node] = []
    shared = [stage for stage in active_stages(config) if not stage.per_k]
    for stage in shared:
        if stage.name not in LAST:
            nodes.append(_node(config, index, stage, 0, nodes))
    for k in config.clusters.k:
        for stage in active_stages(config):
            if stage.per_k:
                nodes.append(_node(config, index, stage, k, nodes))
    if config.clusters.frozen:  # taken, not made: first, so that nothing stands between shards
        nodes.sort(key=lambda node: node.scope != "dataset" or not _needs_no_shard(node))
    for stage in shared:
        if stage.name in LAST:
            nodes.append(_node(config, index, stage, 0, nodes))
    return Plan(tuple(nodes), index.shards)


def _needs_no_shard(node: Node) -> bool:
    """With taken clusters: these themselves, and edits that do not look at the embeddings."""
    return node.stage in FROZEN or (node.stage == "edits" and "embeddings" not in node.needs)


def _node(config: Config, index: Index, stage: Stage, k: int, made: list[Node]) -> Node:
    needs = stage.needs(config)
    upstream = {
        f"{node.stage}:{node.k}" if stage.name == "report" and node.k else node.stage: node.mark
        for node in made
        if node.stage in needs and (stage.name == "report" or node.k in (0, k))
    }
    recipe: Mapping[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "settings": stage.settings(config, k, index),
        "upstream": upstream,
    }
    recipe = kept_recipe(config, stage.name, k) or recipe  # after `settings`, which check it
    keep = bool(getattr(getattr(config, stage.name, None), "keep", True))
    mark, sees_truth = fingerprint(recipe), stage.sees_truth and bool(config.data.truth)
    return Node(stage.name, k, mark, recipe, needs, keep, sees_truth)


FROM_FILES = ("clusters", "edits", "evaluate")
"""Stages whose settings are read from files that the report reads again."""

OF_INDEX = ("dataset", "truth", "failures")
"""Settings that come of the index."""


def check_unchanged(config: Config, nodes: Iterable[Node], index: Index | None = None) -> None:
    """Raises WorkError if a file that settings come from changed since the plan was made: a class
    table, edits.json, corrections, weights, an earlier run. Errors of reading it pass through.

    Asked after such a file was read and before anything made of it is stored under a fingerprint
    that speaks of the old content. index: None in workers, then OF_INDEX is not compared.
    """
    for node in nodes:
        if node.stage in FROZEN and is_own(config):  # it lies under its fingerprint
            continue
        known = index or Index((), {}, 0)
        now = node.row.settings(config, node.k, known)
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
    before = (one for one in plan.nodes if one.stage in node.needs and one.stage in FROM_FILES)
    nodes = [node, *(one for one in before if not node.k or one.k in (0, node.k))]
    check_unchanged(config, nodes, index)
    yield
    check_unchanged(config, nodes, index)


def why(store: Store, plan: Plan, node: Node) -> str:
    """Why a node is not done: shards that are not there, or its first difference from before."""
    if any(name.startswith("shard-") for name in store.files(node.stage, node.mark)):
        return "some shards are new or were removed"
    return _changed(store, plan, node)


def _changed(store: Store, plan: Plan, node: Node) -> str:
    """The first difference of a node from the newest earlier recipe of its stage."""
    current = {one.mark for one in plan.nodes}  # the branches of one sweep are no earlier runs
    earlier = [recipe for mark, recipe in store.recipes(node.stage) if mark not in current]
    same_k = [r for r in earlier if r["settings"].get("k") == node.recipe["settings"].get("k")]
    if not earlier:
        return "it never ran with these settings" if node.k else "it never ran"
    before = (same_k or earlier)[0]
    if before["version"] != node.recipe["version"]:
        return f"the stage itself changed: version {before['version']} -> {node.recipe['version']}"
    old, new = before["settings"], node.recipe["settings"]
    if old.get("frozen") != new.get("frozen"):
        return f"{node.stage}: other clusters are taken from an earlier run, or none are any more"
    for name in sorted({*old, *new}, key=lambda name: (name != "corrections", name)):
        gone = name == "truth" and not old.keys() & new.keys() & {"truth"}  # its stages say so
        if old.get(name) != new.get(name) and not gone:
            return _difference(node.stage, name, old.get(name), new.get(name))
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
    if name in ("dataset", "truth", "failures"):
        return {"dataset": "the images changed", "truth": "the true masks changed"}.get(
            name, "other images failed"
        )
    if name == "corrections":
        return f"{stage}.corrections: {'others are given' if new else 'none are given any more'}"
    return f"{stage}.{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

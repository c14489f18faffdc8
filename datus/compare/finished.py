"""What a finished run says of one K: the figures of a comparison, read from its stages.

    read_figures(config, store, plan, k)     segments, scores, seconds: the fields of a CellResult
    finished([Path("a.toml"), ...])          runs that are done already, side by side

Reads only. Nothing is taken from report.json, which rounds.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datus.compare.cells import CellResult, Comparison
from datus.compare.grid import model_name
from datus.compare.tables import chosen_rules
from datus.config import Config
from datus.engine.plan import Node, Plan, find_node
from datus.errors import UsageError, WorkError
from datus.inputs.index import read_index
from datus.inputs.labels import load_classes
from datus.pipeline import make_plan
from datus.review.cluster_arrays import cluster_model
from datus.store.reports import reports, undone
from datus.store.store import Store
from datus.types import WHOLE, Array, Confusion, evenly

N_PICTURES = 4
"""Images whose masks are shown side by side."""


def finished(
    paths: Sequence[Path], table: str = "full", overrides: Mapping[str, Any] | None = None
) -> Comparison:
    """What finished runs say. Reads only. Raises UsageError if one has no truth."""
    rules = chosen_rules((), table)
    stems = [path.stem for path in paths]
    results = []
    configs = [Config.load(path, overrides) for path in paths]
    for path, config in zip(paths, configs, strict=True):
        if not (config.data.images and config.data.truth and config.data.classes):
            raise UsageError(
                f"{path}: a comparison needs data.images, data.truth and data.classes, got "
                f"{config.data.images!r}, {config.data.truth!r} and {config.data.classes!r}"
            )
    for path, config in zip(paths, configs, strict=True):
        name = path.stem if stems.count(path.stem) == 1 else path.with_suffix("").as_posix()
        results += [_finished_one(name, path, config, k) for k in config.clusters.k]
    return Comparison("runs", table, rules, tuple(results), configs[0].run_path)


def _finished_one(name: str, path: Path, config: Config, k: int) -> CellResult:
    identity: dict[str, Any] = {
        "run": name,
        "backbone": config.features.backbone,
        "k": k,
        "preset": config.preset,
        "embedder": model_name(config.embeddings),
        "seed": config.seed,
    }
    store = Store(config.run_path)
    try:
        index = read_index(store)
        if index is None:
            raise WorkError(f"nothing has run in {config.run_path}: datus run {path}")
        plan = make_plan(config, index)
        for node in _chain(plan, k):
            lacks = len(undone(store, plan.places(node)))
            if lacks:
                raise WorkError(f"{node.label} lacks {lacks} shards: datus run {path}")
        figures = read_figures(config, store, plan, k)
    except (WorkError, UsageError) as error:
        return CellResult(**identity, reason=str(error))
    return CellResult(**identity, **figures)


def _chain(plan: Plan, k: int) -> list[Node]:
    """The stages behind the scores of K."""
    return [node for node in plan.nodes if not node.stage.is_last and node.serves(k)]


def read_figures(config: Config, store: Store, plan: Plan, k: int) -> dict[str, Any]:
    """The measured fields of a CellResult, from what the stages of a finished run stored."""
    from datus.method.metrics import add, score_all

    def numbers(stage: str, name: str) -> dict[str, float]:
        node = find_node(plan.nodes, stage, k)
        images = filter(None, reports(store, plan.places(node)))
        rows = (row for report in images for row in report.numbers.items())
        return {image_id: figures[name] for image_id, figures in rows if name in figures}

    def arrays(stage: str) -> Iterable[tuple[str, dict[str, Array]]]:
        for place in plan.places(find_node(plan.nodes, stage, k)):
            data = store.read_shard(place)
            if data is None:
                raise WorkError(f"{stage}: shard {place[2]} is gone: run the same command again")
            yield from data.arrays.items()

    n_segments, n_valid = numbers("segments", "n_segments"), numbers("embeddings", "n_valid")
    patches, share = numbers("features", "n_patches"), numbers("embeddings", "valid_patch_share")
    counts = [Confusion(images["counts"]) for _, images in arrays("evaluate")]
    if not counts:
        raise WorkError("no image has a usable true mask, nothing can be scored")
    centroids = cluster_model(dict(arrays("clusters"))[WHOLE]).centroids
    covered = sum(share[image_id] * patches[image_id] for image_id in share)
    return {
        "n_images": len(counts),
        "n_segments": round(sum(n_segments[image_id] for image_id in n_valid)),
        "n_valid": round(sum(n_valid.values())),
        "valid_patches": 100.0 * covered / sum(patches[image_id] for image_id in share),
        "scores": score_all(add(counts), centroids),
        "class_names": load_classes(Path(config.data.classes)).names,
        "seconds": _seconds(store, plan, k),
        "pictures": _pictures(store, plan, k, sorted(share)),
    }


def _pictures(
    store: Store, plan: Plan, k: int, image_ids: Sequence[str]
) -> dict[str, tuple[bytes, bytes]]:
    """Of images spread evenly; of those that have masks."""
    wanted = set(evenly(image_ids, N_PICTURES))
    pictures = {}
    places = plan.places(find_node(plan.nodes, "masks", k))
    for shard, place in zip(plan.shards, places, strict=True):
        here = wanted & {record.image_id for record in shard.records}
        data = store.read_shard(place) if here else None
        arrays = data.arrays if data else {}
        for image_id in sorted(here & arrays.keys()):
            masks = arrays[image_id]
            pictures[image_id] = masks["preview"].tobytes(), masks["small"].tobytes()
    return pictures


def _seconds(store: Store, plan: Plan, k: int) -> dict[str, float]:
    """Of the shards' own reports: the same whoever made them, and when."""
    seconds = {}
    for node in _chain(plan, k):
        done = filter(None, reports(store, plan.places(node)))
        seconds[node.name] = round(sum(report.seconds for report in done), 3)
    return seconds

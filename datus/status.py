"""What is done in a run folder, what is not and why, what nobody needs. Loads no torch."""

from datus.config import Config
from datus.engine.plan import Plan, why
from datus.errors import WorkError
from datus.inputs.index import read_index
from datus.pipeline import STAGE_NAMES, make_plan
from datus.review.frozen import kept_fingerprints
from datus.store.reports import dropped, reports
from datus.store.store import DATASET_KEY, Store
from datus.types import WHOLE

Row = tuple[str, ...]

SHOWN = 20
"""Images that a list of failures names."""


def status_rows(config: Config, explain: bool) -> list[Row]:
    """A table: header, then one row a stage."""
    store = Store(config.run_path)
    plan = _plan(config, store)
    rows: list[Row] = [("stage", "fingerprint", "state", "shards", *(["why"] if explain else []))]
    for node in plan.nodes:
        places = list(plan.places(node))
        found = [report.stored for report in reports(store, places) if report is not None]
        done, held = len(found), sum(found)
        state = "missing" if not done else "done" if done == len(places) else "partly"
        if done and not held:
            state += ", not kept"
        row: Row = (node.label, node.fingerprint, state, f"{done}/{len(places)}")
        if explain:
            row += (why(store, plan, node) if done < len(places) else "",)
        rows.append(row)
    return rows


def graph_lines(config: Config) -> list[str]:
    """Which patches are linked, where that was found over the dataset; nothing before it is."""
    store = Store(config.run_path)
    node = next((node for node in _plan(config, store).nodes if node.name == "center"), None)
    report = store.report(*node.place()) if node else None
    found = report.numbers.get(WHOLE, {}) if report else {}
    if "threshold" not in found:
        return []
    return [
        f"graphs: patches are linked above cosine {found['threshold']:.4f}, which links "
        f"{100 * found['density']:.3g} % of the pairs of the dataset"
    ]


def failure_lines(config: Config) -> list[str]:
    """Who is left out at which stage, and why; nothing where all images could be used."""
    store = Store(config.run_path)
    plan, index = _plan(config, store), read_index(store)
    unusable = index.failures if index else {}
    rows = {("index", image_id, reason) for image_id, reason in unusable.items()}
    for node in plan.nodes:
        for report in filter(None, reports(store, plan.places(node))):
            rows |= {(node.name, image_id, why) for image_id, why in report.failures.items()}
    lines = [f"left out at {stage}: {image_id}: {reason}" for stage, image_id, reason in rows]
    more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    return sorted(lines)[:SHOWN] + more


def prune_rows(config: Config, remove: bool) -> tuple[list[Row], int]:
    """(stage, folder or shard, bytes as text) of what the plan does not need, and the sum."""
    store = Store(config.run_path)
    _plan(config, store)  # before the lock makes the folder
    with store.lock():
        plan = _plan(config, store)
        kept = kept_fingerprints(config)
        fingerprints = {(node.name, node.fingerprint) for node in plan.nodes} | kept
        keys = {*plan.all_places(), *((*fingerprint, DATASET_KEY) for fingerprint in kept)}
        rows, total = list[Row](), 0
        if remove:
            store.sweep_temporary(everywhere=True)
        for stage in STAGE_NAMES:
            for fingerprint in store.folders(stage):
                is_wanted = (stage, fingerprint) in fingerprints
                stale = dropped(store, stage, fingerprint, sorted(keys)) if is_wanted else [()]
                for name in stale:
                    size = store.disk_bytes(stage, fingerprint, *name)
                    rows.append((stage, "/".join((fingerprint, *name)), str(size)))
                    total += size
                    if remove:
                        store.remove(stage, fingerprint, *name)
        return rows, total


def _plan(config: Config, store: Store) -> Plan:
    index = read_index(store)
    if index is None:
        raise WorkError(f"{config.run_path}: nothing has run here yet: datus run does")
    return make_plan(config, index)

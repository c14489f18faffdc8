"""What a run would do, take and need, before it starts: `--dry-run`.

    found = look(config, store, console, until, only)
    found.rows         seconds and bytes of every stage; nothing for what is done
    found.facts        weights, licence, what was checked, disk, memory
    found.warnings     what should be looked at, with the cure
    found.problems     why the run could not succeed

The index is made, a sample of images and true masks is decoded, and the stages run on some of them
(module `sampling`). Nothing is written to the run folder. A sample is no proof: what it cannot see
(one bad file among thousands, a disk that others fill) the run itself still meets.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from datus.compute.threads import map_threads
from datus.config import Config
from datus.engine.budget import nearest_folder, patch_grid, todo
from datus.engine.plan import Plan, make_plan, wanted_groups
from datus.engine.resources import parallel
from datus.engine.run import Console, require_upstream
from datus.engine.stage import read_image, read_truth
from datus.errors import ImageError, StoreError
from datus.forecast import Findings, Forecast, Row, spread
from datus.inputs.index import Index, check_inputs, make_index
from datus.inputs.labels import load_classes
from datus.models.image_size import input_size, patch_px_of
from datus.models.registry import find
from datus.models.weights import hub_file, licence, notice, presence
from datus.store.store import Store
from datus.types import ImageRecord

CHECKED_IMAGES = 32
"""Decoded, with their true masks."""

TYPICAL = 1001
"""Images whose shapes are compared to find the typical one."""

Check = Callable[[ImageRecord], str]
"""Why a file cannot be used, or an empty text."""


def look(
    config: Config, store: Store, console: Console, until: str = "report", only: bool = False
) -> Findings:
    """All of it. Writes nothing to the run folder.

    Raises the DatusError that the run would raise before its first shard, and what loading the
    model raises. Everything else that stops a run is a problem in the answer.
    """
    found = Findings()
    check_inputs(config)
    _check_folder(store, found)
    dry = _DryStore(store.url)
    started = time.perf_counter()
    index = make_index(config, dry, console.bar)
    indexed = Row("index", len(index.records), time.perf_counter() - started, dry.dropped)
    found.rows.append(indexed)
    _check_share(config, "index", index.failures, found)
    if not index.records:
        found.problems[:] = ["index: no image is left, mend or replace them"]
        return found
    plan = make_plan(config, index)
    groups = wanted_groups(plan, until, only)
    if only:
        for group in groups:
            require_upstream(store, plan, group)
    missing = todo(store, plan, groups)
    _tell_weights(config, plan, found)
    _tell_size(config, index, found)
    if any(missing.values()):
        records = _readable(config, index, found)
        if records:
            Forecast(config, store, plan, groups, missing).fill(records, found)
    else:
        found.rows += [Row(n.label, 0, 0.0, 0) for group in groups for n in group]
        found.facts.append("everything is done: the run would make nothing")
    return found


class _DryStore(Store):
    """Reads the run folder and counts what would be written to it."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.dropped = 0

    def write(self, data: bytes, *parts: str) -> None:
        self.dropped += len(data)


# --- checks -------------------------------------------------------------------------------------


def _check_folder(store: Store, found: Findings) -> None:
    """The run folder can be written, as far as its rights tell. Raises StoreError."""
    if not store.is_local:
        return
    nearest = nearest_folder(store)
    if not nearest.is_dir():
        raise StoreError(f"{nearest} is a file, expected a folder: choose another --run-dir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(
            f"{nearest} may not be written: make it writable or choose another --run-dir"
        )
    if store.exists("owner.json"):
        found.warnings.append(
            f"{store.root} is in use, or its last run was killed: while it is in use no other "
            "run can start"
        )


def _readable(config: Config, index: Index, found: Findings) -> list[ImageRecord]:
    """Images of a sample that can be decoded; what cannot, and true masks, are told."""
    sample = spread(index.records, CHECKED_IMAGES)
    n_threads = parallel(config)[1]
    images = dict(zip(sample, map_threads(_decode(config), sample, n_threads), strict=True))
    bad = {record.image_id: why for record, why in images.items() if why}
    found.facts.append(
        f"images: {len(sample) - len(bad)} of {len(sample)} looked at can be decoded"
    )
    _check_share(config, "features", bad, found)
    if config.data.truth:
        n_truth = sum(record.truth_path is not None for record in index.records)
        with_truth = [record for record in sample if record.truth_path is not None]
        masks = dict(
            zip(with_truth, map_threads(_truth(config), with_truth, n_threads), strict=True)
        )
        wrong = {record.image_id: why for record, why in masks.items() if why}
        n_good = len(with_truth) - len(wrong)
        found.facts.append(
            f"true masks: {n_truth} for {len(index.records)} images; {n_good} of "
            f"{len(with_truth)} looked at fit the class table"
        )
        _check_share(config, "evaluate", wrong, found)
    return [record for record in sample if record.image_id not in bad]


def _decode(config: Config) -> Check:
    def check(record: ImageRecord) -> str:
        try:
            read_image(config, record)
        except ImageError as error:
            return str(error)
        return ""

    return check


def _truth(config: Config) -> Check:
    from datus.inputs.labels import truth_classes

    classes = load_classes(Path(config.data.classes))

    def check(record: ImageRecord) -> str:
        try:
            labels = read_truth(config, record)
            if labels is not None:
                truth_classes(labels, classes, (record.height, record.width))
        except ImageError as error:
            return str(error)
        return ""

    return check


def _check_share(config: Config, stage: str, bad: dict[str, str], found: Findings) -> None:
    """More failures than allowed stop the run; fewer are told."""
    if not bad:
        return
    image_id, why = min(bad.items())
    them = "1 image" if len(bad) == 1 else f"{len(bad)} images"
    text = f"{stage}: {them} cannot be used, for example {image_id}: {why}"
    if len(bad) > config.speed.max_failed:
        cure = f"mend or remove them, or add --max-failed {len(bad)} or more"
        found.problems.append(f"{text}; {config.speed.max_failed} are allowed: {cure}")
    else:
        found.warnings.append(text)


def _tell_size(config: Config, index: Index, found: Findings) -> None:
    """How the ViT sees an image: the side, and the grid of the image of median aspect ratio."""
    seen, patch_px = input_size(config.features), patch_px_of(config.features.backbone)
    some = sorted(spread(index.records, TYPICAL), key=lambda one: one.height / one.width)
    typical = some[len(some) // 2]
    rows, columns = patch_grid(seen, typical, patch_px)
    found.facts.append(
        f"images: {seen.image_px} pixels a side for patches of {patch_px}: {rows} x {columns} "
        f"patches for an image of {typical.height} x {typical.width}"
    )


# --- weights ------------------------------------------------------------------------------------


def _tell_weights(config: Config, plan: Plan, found: Findings) -> None:
    """Each model once: which weights, on what terms."""
    told = set()
    for node in plan.nodes:
        known = node.recipe["settings"].get("weights")
        if known is None:
            continue
        crops = node.stage == "embeddings" and config.embeddings.backbone != "same"
        section = config.embeddings if crops else config.features
        if (section.backbone, known) in told:
            continue
        told.add((section.backbone, known))
        found.facts.append(f"weights: {section.backbone}, {_known_text(section.backbone, known)}")
        found.facts.append(f"licence: {licence(section.backbone, known)}")
        terms = notice(section.backbone, section.weights)
        if terms:
            found.warnings.append(terms)
        _check_digest(section.backbone, section.weights, known, found)


def _known_text(backbone: str, known: str) -> str:
    if known.startswith("hub"):
        here = find(backbone) or hub_file(backbone)
        return presence(backbone) if here else "from the hub, not here yet"
    return "random, for tests only" if known.startswith("random") else known


def _check_digest(backbone: str, weights: str, known: str, found: Findings) -> None:
    """The authors' own file by its name is the file that they released."""
    row = find(backbone)
    stated = row.digest if row else ""
    if row and Path(weights).name == row.file and stated.startswith("sha256:"):
        if known.startswith(stated):
            found.facts.append(f"weights: {weights} is the file that its authors released")
        else:
            found.problems.append(
                f"{weights}: expected {stated}, as its authors state, got {known[:23]}: "
                "damaged or another file; fetch it again, or rename it if that is meant"
            )

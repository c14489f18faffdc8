"""What lies in a finished run, read one image at a time.

    run = open_run(Store("runs/photos"))         the last run that was finished there
    run = Finished(store, index, mark)           or the one whose report has this fingerprint
    run.masks(12), run.labels(record, 12)        uint8 (H, W) of one image, and so on
    settings_of_run(run)                         settings with which it could be run again

In:  a run folder. Out: arrays. Fingerprints come from the report's recipe, so what is read stays
the same when other settings are run in the folder later. One shard is kept in memory.
"""

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datus.config import Config
from datus.errors import CorruptShard, UsageError, WorkError
from datus.formats.export import Masks, pixel_confidence, read_behind, read_labels, read_report
from datus.formats.names import default_names
from datus.inputs.decode import decode_image
from datus.inputs.find import sha256_of
from datus.inputs.index import Index, read_index
from datus.method.masks import labels_to_pixels
from datus.stages.report import pixels_of
from datus.stages.totals import Candidate, candidates, surest
from datus.store import latest
from datus.store.reports import reports
from datus.store.store import DATASET_KEY, ShardReport, Store
from datus.types import WHOLE, Array, ImageRecord

PLACES = "inputs.json"
"""In a run folder: where its images and weights are. Recipes hold hashes, never paths."""


@dataclass(slots=True)
class _Kept:
    """The shard that was read last."""

    place: tuple[str, str] = ("", "")
    report: ShardReport | None = None
    behind: tuple[dict[str, Any], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Finished:
    """One finished run."""

    store: Store
    index: Index
    fingerprint: str
    """Fingerprint of its report."""
    _kept: _Kept = field(default_factory=_Kept, repr=False)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Of the report."""
        try:
            return dict(self.store.recipes("report"))[self.fingerprint]
        except KeyError:
            raise _gone(self.store) from None

    @cached_property
    def report(self) -> dict[str, Any]:
        """report.json."""
        try:
            return read_report(self.store, self.fingerprint)
        except (FileNotFoundError, ValueError):
            raise _gone(self.store) from None

    @cached_property
    def ks(self) -> tuple[int, ...]:
        """Numbers of clusters, the main one first."""
        parts = (name.partition(":") for name in self.recipe["upstream"])
        known = [int(k) for stage, _, k in parts if stage == "masks"]
        order = [int(row["k"]) for row in self.report["sweep"]]
        return tuple(sorted(known, key=lambda k: order.index(k) if k in order else 0))

    def row(self, k: int) -> dict[str, Any]:
        """What report.json says of K. An edited run has one row, whose "k" counts labels."""
        rows = self.report["sweep"]
        return dict(rows[0] if len(rows) == 1 else next(row for row in rows if row["k"] == k))

    def names(self, k: int) -> list[str]:
        """(L,) name of each label: what a person called it, or its number. L is K, and more where
        clusters were split."""
        row = self.row(k)
        given = row.get("names") or [""] * int(row["k"])
        numbers = default_names(len(given), given)
        return [name or number for name, number in zip(given, numbers, strict=True)]

    def made(self, stage: str, k: int = 0) -> str:
        """The fingerprint of a stage of this run; empty if it had none."""
        upstream: Mapping[str, str] = self.recipe["upstream"]
        return upstream.get(f"{stage}:{k}" if k else stage, "")

    def masks(self, k: int, stage: str = "masks") -> Masks:
        """Which masks of the run; stage = denoise for de-noised ones. Raises UsageError."""
        fingerprint = self.made(stage, k)
        if not fingerprint:
            cure = "mine with settings={'denoise.enabled': True}"
            if stage == "masks":
                cure = f"it has K = {', '.join(map(str, self.ks))}"
            raise UsageError(f"{self.store.url} has no {stage} of K = {k}: {cure}")
        scored = self.made("masks", k), self.made("segments")
        return Masks(self.index, stage, fingerprint, k, scored)

    def have(self, k: int) -> list[ImageRecord]:
        """Images that got a mask, in order of id."""
        fingerprint = self.masks(k).fingerprint
        places = [("masks", fingerprint, shard.key) for shard in self.index.shards]
        found = filter(None, reports(self.store, places))
        made = {image_id for report in found for image_id in report.images}
        return [record for record in self.index.records if record.image_id in made]

    def labels(self, record: ImageRecord, k: int, stage: str = "masks") -> Array:
        """uint8 (H, W): cluster of every pixel, 255 = none."""
        masks = self.masks(k, stage)
        report = self._at(masks, record).report
        if report is None:
            raise WorkError(f"{stage}: shard {record.shard} is gone: mine again")
        return read_labels(self.store, masks, record, report)

    def segments(self, record: ImageRecord, k: int) -> Array:
        """int32 (H, W): segment of every pixel. Raises WorkError if segments were pruned."""
        return labels_to_pixels(self._behind(record, k)["labels"], record.height, record.width)

    def sure(self, record: ImageRecord, k: int, sign: str = "confidence") -> Array:
        """float32 (H, W): confidence 0..1, or margin, of each pixel's segment, NaN where it is not
        known."""
        behind = self._behind(record, k)
        chosen = {**behind, "confidence": behind[sign]}
        return pixel_confidence(self.labels(record, k), chosen, np.arange(256, dtype=np.uint8))

    def preview(self, record: ImageRecord, k: int) -> Array | None:
        """uint8 (h, w, 3): the image, small, as it was when the mask was made; None if gone."""
        try:
            data = self._behind(record, k)["preview"].tobytes()
        except WorkError:
            return None
        with Image.open(io.BytesIO(data)) as small:
            return np.array(small.convert("RGB"))

    def centroids(self, k: int) -> Array:
        """float32 (L, P) of each label. Raises WorkError if they are gone or damaged."""
        stage = "edits" if self.made("edits", k) else "clusters"
        try:
            found = self.store.read_shard((stage, self.made(stage, k), DATASET_KEY))
        except CorruptShard:
            found = None
        if found is None:
            raise _gone(self.store)
        return found.arrays[WHOLE]["centroids"]

    def best_segments(self, k: int, n_wanted: int) -> list[list[Candidate]]:
        """Of each label its most confident segments, one from an image."""

        def found() -> Iterator[tuple[int, Candidate]]:
            for record in self.have(k):
                behind = self._behind(record, k)
                yield from candidates(record, behind, behind)

        return surest(found(), len(self.names(k)), n_wanted)

    def _behind(self, record: ImageRecord, k: int) -> dict[str, Array]:
        """What the stages segments and masks stored of one image."""
        masks = self.masks(k)
        kept = self._at(masks, record)
        kept.behind = kept.behind or read_behind(self.store, masks, record.shard)
        scored, segments = kept.behind
        if record.image_id not in scored or record.image_id not in segments:
            raise WorkError(
                f"{self.store.url}: segments of {record.image_id} are gone, pruned or damaged: "
                "mine again"
            )
        return {**segments[record.image_id], **scored[record.image_id]}

    def _at(self, masks: Masks, record: ImageRecord) -> _Kept:
        if self._kept.place != (masks.fingerprint, record.shard):
            self._kept.place = (masks.fingerprint, record.shard)
            self._kept.behind = None
            self._kept.report = self.store.report(masks.stage, masks.fingerprint, record.shard)
        return self._kept


def open_run(store: Store) -> Finished:
    """The last finished run of a folder. Raises UsageError (none there), WorkError (unfinished)."""
    index = read_index(store)
    if index is None:
        raise UsageError(f"{store.url}: not a run folder; datus run or datus.mine makes one")
    last = latest.last_finished(store, "report")
    if last and last[1]["settings"]["dataset"] == index.content:
        return Finished(store, index, last[0])
    raise WorkError(f"{store.url}: its last run is not finished: run the same again, then load it")


def copied(store: Store, target: Path) -> Store:
    """A copy of the run folder on a local disk."""
    if store.is_local:
        leave = shutil.ignore_patterns(".lock", "owner.json", ".tmp-*")
        shutil.copytree(store.root, target, symlinks=True, ignore=leave)
        return Store(target)
    store.fs.get(store.root, str(target), recursive=True)
    copy = Store(target)
    for name in latest.names(copy):  # links on a disk, files with the target in them elsewhere
        (target / latest.FOLDER / name).unlink()
        latest.point(copy, name, *latest.target(store, name))
    return copy


def picture(
    record: ImageRecord, folder: str, cure: str = "datus.load(RUN, images=FOLDER)"
) -> Array:
    """uint8 (H, W, 3) of an image as the run saw it. Raises UsageError; cure: if it was moved."""
    path = Path(folder) / record.path
    if not folder:
        raise UsageError("this run does not know its images: datus.load(RUN, images=FOLDER)")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; if the images were moved: {cure}") from None
    if sha256_of(data) != record.sha256:
        raise UsageError(f"{path}: not the image that the run saw; mine again")
    return decode_image(data, record.height * record.width)


def crop(image: Array, one: Candidate) -> Array:
    """uint8 (h, w, 3): the box of a segment."""
    top, left, bottom, right = one.box
    height, width = image.shape[:2]
    return image[pixels_of(top, bottom, height), pixels_of(left, right, width)]


def _gone(store: Store) -> WorkError:
    return WorkError(f"{store.url}: parts of this run are gone or damaged: mine again")


# --- settings -----------------------------------------------------------------------------------


def settings_of_run(run: Finished) -> dict[str, Any]:
    """Dotted settings from the recipes, and paths from PLACES where that is there."""
    found: dict[str, Any] = {"preset": run.recipe["settings"]["preset"], "clusters.k": [*run.ks]}
    hashed = {}
    for stage in ("features", "graphs", "segments", "embeddings", "masks"):
        fingerprint = run.made(stage, run.ks[0] if stage == "masks" else 0)
        recipe = dict(run.store.recipes(stage)).get(fingerprint)
        if recipe is None:
            raise _gone(run.store)
        hashed[stage] = dict(recipe["settings"])
        # without what this section does not have, and weights, of which the recipe has the hash
        names = {one.name for one in fields(getattr(Config(), stage))} - {"weights"}
        found |= {f"{stage}.{name}": hashed[stage][name] for name in hashed[stage] if name in names}
    found["seed"] = hashed["segments"].get("seed", 0)
    if str(hashed["features"].get("weights", "")).startswith("random"):
        found["features.weights"] = "random"
    return {**found, **read_places(run.store)}


def with_settings(config: Config, more: Mapping[str, Any]) -> Config:
    """The same settings but for `more`, by dotted name. Raises ConfigError."""
    found: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            found |= {f"{one.name}.{key.name}": getattr(value, key.name) for key in fields(value)}
        else:
            found[one.name] = value
    # one rule of the graphs, the one of `more` before the one of `config`
    default = "auto" if "graphs.density" in more else config.graphs.threshold
    found["graphs.threshold"] = more.get("graphs.threshold", default)
    if found["graphs.threshold"] != "auto":
        del found["graphs.density"]
    return Config.load(None, {**found, **more})


def write_places(config: Config, store: Store) -> None:
    """PLACES: absolute, but for what lies in the run folder, which can be moved as a whole."""
    table, root = {}, Path(store.root).absolute()
    for name in _PATHS:
        section, _, key = name.partition(".")
        given = getattr(getattr(config, section), key)
        path = Path(given).expanduser()
        if given and (key != "weights" or path.is_file()):
            path = path.absolute()
            inside = path.is_relative_to(root)
            table[name] = path.relative_to(root).as_posix() if inside else str(path)
    store.write(json.dumps(table, indent=1, sort_keys=True).encode() + b"\n", PLACES)


_PATHS = (
    *("data.images", "data.truth", "data.classes"),
    *("features.weights", "embeddings.weights", "clusters.edits"),
)


def read_places(store: Store) -> dict[str, str]:
    """What `write_places` wrote; nothing where it did not, or cannot be read."""
    try:
        table = json.loads(store.read(PLACES))
        return {name: str(Path(store.root) / table[name]) for name in _PATHS if name in table}
    except (FileNotFoundError, ValueError, AttributeError, TypeError, RecursionError):
        return {}

"""A finished run -> the items that writers of exports take, one image at a time.

    masks = find_masks(store, k=12, denoised=False)      which masks of the run
    names = cluster_names(store, masks, "matched")
    done = export_run(store, masks, request)             writes the folder

Reads only: index, mask PNGs, and the segments behind them where they are still there.
"""

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from datus.engine.workers import Advance
from datus.errors import CorruptShard, UsageError, WorkError
from datus.formats.folder import check_free, new_folder
from datus.formats.formats import Format
from datus.formats.names import default_names, make_classes, matched_names, read_names
from datus.formats.pngs import png_bytes
from datus.formats.records import Item, Options
from datus.inputs.decode import decode_image
from datus.inputs.find import sha256_of
from datus.inputs.index import Index, read_index
from datus.inputs.labels import decode_labels
from datus.method.masks import labels_to_pixels
from datus.store import latest
from datus.store.reports import reports, undone
from datus.store.store import ShardReport, Store
from datus.types import IGNORE, MAX_CLUSTERS, Array, ImageRecord, ShardData
from datus.version import __version__

RULES = {"matched": "hungarian_strict", "majority": "majority"}
"""--names WORD -> the rule whose match gives the names."""


@dataclass(frozen=True, slots=True)
class Masks:
    """Which masks of a run are exported."""

    index: Index
    stage: str
    """masks or denoise."""
    fingerprint: str
    k: int
    scored: tuple[str, str]
    """(fingerprint of masks, of segments) that confidences come from."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for."""

    name: str
    """Of the format."""
    format: Format
    options: Options
    out: Path
    names: str = ""
    """Empty, matched, majority, or the path of a names.toml."""
    images: Path | None = None
    overwrite: bool = False
    min_confidence: float = 0.0
    """Pixels of segments that are less sure get no label."""


@dataclass(slots=True)
class Exported:
    """What was written."""

    n_images: int = 0
    n_classes: int = 0
    n_turned: int = 0
    """Images that were stored sideways and are exported upright, as PNG."""
    n_unscored: int = 0
    """Images whose confidences are gone."""


def export_run(
    store: Store, masks: Masks, request: Request, advance: Advance = lambda n: None
) -> Exported:
    """Write the folder. Raises UsageError and WorkError; nothing is left of a failed export."""
    if request.images is None and request.format.needs_images:
        raise UsageError(
            f"{request.name} holds the images too: add --images FOLDER, as for the run"
        )
    check_free(request.out, request.overwrite)  # before anything is read
    classes, lookup = make_classes(cluster_names(store, masks, request.names))
    done = Exported(n_classes=len(classes.names))
    about = {
        "datus": __version__,
        "format": request.name,
        "stage": masks.stage,
        "fingerprint": masks.fingerprint,
        "k": masks.k,
        "classes": list(classes.names),
    }

    def items() -> Iterator[Item]:
        for record, labels, confidence in _masks(store, masks, lookup, request.min_confidence):
            item = _item(record, labels, confidence, request.images)
            done.n_images += 1
            done.n_unscored += confidence is None
            done.n_turned += item.file_name != record.path
            yield item
            advance(1)

    options = replace(request.options, about=about)
    with new_folder(request.out, request.overwrite, about) as folder:
        request.format.write(folder, items(), classes, options)
    return done


# --- which masks --------------------------------------------------------------------------------


def find_masks(store: Store, k: int = 0, denoised: bool = False) -> Masks:
    """The masks of the last run for K. Raises UsageError (no run, which K) and WorkError (not
    finished). k = 0: the only K there is."""
    index = read_index(store)
    if index is None:
        raise UsageError(f"{store.url}: not a run folder; datus run makes one")
    stage = "denoise" if denoised else "masks"
    known = _marks(store, stage)
    if not known:
        cure = "; run it with --set denoise.enabled=true" if denoised else ""
        raise WorkError(f"{store.url}: no masks of stage {stage} in it{cure}")
    ks = ", ".join(map(str, sorted(known)))
    if not k and len(known) > 1:
        raise UsageError(f"{store.url} has masks of K = {ks}: add --k to choose")
    if k and k not in known:
        raise UsageError(f"--k {k}: {store.url} has masks of K = {ks}")
    k = k or next(iter(known))
    fingerprint = known[k]
    missing = len(undone(store, ((stage, fingerprint, shard.key) for shard in index.shards)))
    if missing or not index.shards:
        raise WorkError(
            f"{stage} of K = {k} lacks {missing} of {len(index.shards)} shards: "
            "run the same datus run again, then export"
        )
    base = _masks_behind(store, stage, fingerprint)
    segments = _upstream(store, "masks", base, "segments")
    return Masks(index, stage, fingerprint, k, (base, segments))


def _marks(store: Store, stage: str) -> dict[int, str]:
    """K -> fingerprint: of RUN/latest, or where that is empty, of the newest recipes."""
    prefix = {"masks": "masks-k", "denoise": "denoised-k"}[stage]
    found: dict[int, str] = {}
    for name in latest.names(store):
        number = name.removeprefix(prefix)
        fingerprint = latest.pointed(store, name) if name.startswith(prefix) else ""
        if fingerprint and number.isdecimal() and store.exists(stage, fingerprint, "stage.json"):
            found[int(number)] = fingerprint
    if not found:
        for fingerprint, _ in reversed(store.recipes(stage)):
            base = _masks_behind(store, stage, fingerprint)
            clusters = _recipe(store, "clusters", _upstream(store, "masks", base, "clusters"))
            found[int(clusters["settings"]["k"])] = fingerprint
    return found


def _masks_behind(store: Store, stage: str, fingerprint: str) -> str:
    return fingerprint if stage == "masks" else _upstream(store, stage, fingerprint, "masks")


def _recipe(store: Store, stage: str, fingerprint: str) -> dict[str, Any]:
    try:
        return dict(json.loads(store.read(stage, fingerprint, "stage.json"))["recipe"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise WorkError(
            f"{store.address(stage, fingerprint)}: its stage.json is gone or damaged: run datus "
            "run again"
        ) from None


def _upstream(store: Store, stage: str, fingerprint: str, need: str) -> str:
    return str(_recipe(store, stage, fingerprint)["upstream"][need])


# --- names --------------------------------------------------------------------------------------


def cluster_names(store: Store, masks: Masks, names: str = "") -> list[str | None]:
    """(L,) name of each label: what a person called it, or its number; with `names` what a file
    says, or the class that it matched. None for one that was merged into another, or dropped."""
    report = _report(store, masks)
    edited = "edits" in _recipe(store, "masks", masks.scored[0])["upstream"]
    if report is None and (names in RULES or edited):
        raise WorkError(f"{store.url}: no report of K = {masks.k}: run the same datus run again")
    rows = [row for row in (report or {}).get("sweep", ()) if edited or row["k"] == masks.k]
    row: dict[str, Any] = rows[0] if rows else {}
    called: list[str] = row.get("names") or [""] * int(row.get("k", masks.k))
    base = default_names(len(called), called)
    known = [given or number for given, number in zip(called, base, strict=True)]
    if names in RULES:
        known = matched_names(report or {}, row, known, RULES[names], masks.stage == "denoise")
    elif names:
        path = Path(names)
        if not path.is_file():
            raise UsageError(f"--names {names}: expected {', '.join(RULES)} or a TOML file")
        known = read_names(path, known)
    gone = row.get("gone", [])
    return [None if number in gone else name for number, name in enumerate(known)]


def _report(store: Store, masks: Masks) -> dict[str, Any] | None:
    """report.json of a run that had these masks, the newest; None where there is none."""
    for fingerprint, recipe in store.recipes("report"):
        upstream = recipe["upstream"]
        if upstream.get(f"{masks.stage}:{masks.k}") == masks.fingerprint:
            try:
                return read_report(store, fingerprint)
            except (FileNotFoundError, ValueError):
                continue
    return None


def read_report(store: Store, fingerprint: str) -> dict[str, Any]:
    """report.json, with what names are taken from as it must be. Raises ValueError, or
    FileNotFoundError."""
    data = store.read("report", fingerprint, "files", "report.json")
    try:
        report = dict(json.loads(data))
        names = report["classes"]["names"] if report.get("classes") else []
        sound = bool(report["sweep"]) and _are_texts(names)
        for row in report["sweep"]:
            sound &= type(row["k"]) is int and 0 < row["k"] <= MAX_CLUSTERS
            sound &= _are_texts(row.get("names") or [])
            sound &= all(type(number) is int for number in row.get("gone") or [])
            for scored in (row, row.get("denoised") or {}):
                for rule in (scored.get("scores") or {}).values():
                    sound &= len(rule["match"]) <= len(row.get("names") or range(row["k"]))
                    sound &= all(type(c) is int and c < len(names) for c in rule["match"])
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("report.json") from error
    if not sound:
        raise ValueError("report.json")
    return report


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


# --- one image after the other ------------------------------------------------------------------


def _masks(
    store: Store, masks: Masks, lookup: Array, least: float
) -> Iterator[tuple[ImageRecord, Array, Array | None]]:
    """(record, uint8 (H, W) classes, float32 (H, W) confidences or None). One shard in memory."""
    places = [(masks.stage, masks.fingerprint, shard.key) for shard in masks.index.shards]
    for shard, report in zip(masks.index.shards, reports(store, places), strict=True):
        if report is None:
            raise WorkError(f"{masks.stage}: shard {shard.key} is gone: run datus run again")
        scored, segments = read_behind(store, masks, shard.key)
        for record in shard.records:
            if record.image_id not in report.images:
                continue
            labels = lookup[read_labels(store, masks, record, report)]
            confidence = None
            if record.image_id in scored and record.image_id in segments:
                behind = {**segments[record.image_id], **scored[record.image_id]}
                confidence = pixel_confidence(labels, behind, lookup)
                unsure = (behind["confidence"] < least)[behind["labels"]]
                unlabelled = labels_to_pixels(unsure, *labels.shape)
                labels = np.where(unlabelled, np.uint8(IGNORE), labels)
            elif least:
                raise WorkError(
                    f"--min-confidence: the segments of {record.image_id} are gone: run the same "
                    "datus run again, then export"
                )
            yield record, labels, confidence


def read_behind(store: Store, masks: Masks, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays of masks, of segments) by image; nothing where they were pruned or are damaged."""
    arrays = []
    for stage, fingerprint in zip(("masks", "segments"), masks.scored, strict=True):
        data: ShardData | None = None
        with suppress(CorruptShard):  # scores are an extra; masks have checksums of their own
            data = store.read_shard((stage, fingerprint, key))
        arrays.append(data.arrays if data else {})
    return arrays[0], arrays[1]


def read_labels(store: Store, masks: Masks, record: ImageRecord, report: ShardReport) -> Array:
    """uint8 (H, W): clusters. Raises WorkError if the PNG is not the one that was written."""
    name = f"{record.image_id}.png"
    try:
        data = store.read(masks.stage, masks.fingerprint, "files", name)
    except FileNotFoundError:
        data = b""
    if sha256_of(data) != report.files[name][1]:
        where = store.address(masks.stage, masks.fingerprint, "files", name)
        raise WorkError(
            f"{where}: gone or changed since it was written; remove its shard's JSON and run datus "
            "run again"
        )
    return decode_labels(data, record.height * record.width)


def pixel_confidence(labels: Array, behind: dict[str, Array], lookup: Array) -> Array:
    """float32 (H, W): confidence of the segment under each pixel, NaN where that says nothing: the
    segment has another class than the pixel, or got its cluster from its neighbours.

    labels: uint8 (H, W) classes; behind: labels (gh, gw), cluster and confidence (S,); lookup:
    uint8 (256,) class of each cluster.
    """
    cluster, confidence = behind["cluster"], behind["confidence"].astype(np.float32)
    segment = labels_to_pixels(behind["labels"], *labels.shape)
    known = np.where((cluster >= 0) & (confidence > 0), confidence, np.float32(np.nan))
    agrees = lookup[cluster.astype(np.uint8)][segment] == labels  # -1 becomes 255
    return np.where(agrees, known[segment], np.float32(np.nan))


def _item(
    record: ImageRecord, labels: Array, confidence: Array | None, images: Path | None
) -> Item:
    parts = PurePosixPath(record.path)
    if parts.is_absolute() or ".." in parts.parts:
        raise WorkError(f"{record.path}: leads out of the image folder: the index was changed")
    if images is None:
        return Item(record.image_id, record.path, labels, confidence)
    path = images / record.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give --images as for the run") from None
    if sha256_of(data) != record.sha256:
        raise UsageError(f"{path}: not the image that the run saw; run datus run again")
    if upright := _upright(data):
        return Item(record.image_id, f"{record.image_id}.png", labels, confidence, upright)
    return Item(record.image_id, record.path, labels, confidence, data)


def _upright(data: bytes) -> bytes | None:
    """PNG of an image whose EXIF tag says that it lies on its side; None for all others.

    Masks are those of the upright image. Half of the tools ignore the tag and would lay the mask
    across.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.getexif().get(0x0112, 1) in (0, 1):
            return None
        n_pixels = image.width * image.height
    return png_bytes(Image.fromarray(decode_image(data, n_pixels)))

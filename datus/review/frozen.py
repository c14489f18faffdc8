"""Clusters of an earlier run, kept as they are: the setting `clusters.frozen` (docs/growing.md).

    known_k("runs/photos")                    which numbers of clusters are there to take
    found = load("runs/photos", 12)           a finished run's folder, or a file of `datus freeze`
    save(load("runs/photos", 12), path)       such a file
    check_same(found, settings)               new images are looked at as the old ones were
    kept_recipes(config)                       of a run that goes on in its own folder

What is taken is what the clusters stage stored, and what the center stage stored: without the old
mean key the keys of new images would stand in another frame. A recipe holds the hash of these
arrays, not where they came from. In its own folder a run keeps the stages themselves, so that
nothing of its old images is made again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from datus.config import Config
from datus.engine.stage import Arrays
from datus.errors import CorruptShard, UsageError, WorkError
from datus.inputs.index import Shard
from datus.method.drift import Drift, Gathered, Reference, reference
from datus.review.cluster_arrays import check_arrays, cluster_model
from datus.store.disk import check_writable
from datus.store.latest import is_recipe, last_finished
from datus.store.store import DATASET_KEY, Store, canonical_json
from datus.types import WHOLE, Array, ClusterModel, ImageRecord, ShardData

FORMAT = 2
"""Of the file of `datus freeze`."""

SEEN = ("features", "graphs", "segments", "embeddings")
"""Stages whose settings must be those of the old run, or its centroids mean something else."""

FREE = {("segments", "seed")}
"""... but for these: another order of the same search."""

SPACE = ("features", "embeddings")
"""Stages whose version must be the old one too: they make the space that the centroids are in."""

CENTERS = ("none", "image", "position", "dataset")
"""What a center stage may have chosen."""

Recipe = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is taken from an earlier run for one K."""

    origin: str
    """As the user wrote it."""
    recipes: Mapping[str, Recipe]
    """Stage -> recipe, of SEEN, clusters and, if there is one, center."""
    clusters: Arrays
    """What the clusters stage stored."""
    center: Arrays
    """What the center stage stored; empty where no mean key over the dataset is taken out."""

    @property
    def model(self) -> ClusterModel:
        return cluster_model(self.clusters)


def known_k(origin: str) -> tuple[int, ...]:
    """Numbers of clusters of a finished run, in order. Raises UsageError, WorkError."""
    store = _source(origin)
    if store.fs.isfile(store.root):
        return (_read_file(store, origin).model.n_clusters,)
    return tuple(sorted(_ks(_finished(store, origin)[1])))


def load(origin: str, k: int) -> Frozen:
    """Raises UsageError (not there, another K) and WorkError (not finished, damaged)."""
    store = _source(origin)
    if store.fs.isfile(store.root):
        found = _read_file(store, origin)
        _check_k(origin, k, (found.model.n_clusters,))
        return found
    _, report = _finished(store, origin)
    _check_k(origin, k, _ks(report))
    return read_made(store, origin, k, report["upstream"])


def arrays_id(arrays: Arrays) -> str:
    """'sha256:...' of names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(canonical_json([name, array.dtype.str, list(array.shape)]))
        digest.update(array.tobytes())
    return f"sha256:{digest.hexdigest()}"


def check_same(found: Frozen, recipes: Mapping[str, Recipe]) -> None:
    """Raises UsageError that names the first setting in which `recipes` differ from the old run's.

    `recipes`: of each stage of SEEN, at least its version and settings.
    """
    for stage in SEEN:
        before, now = found.recipes[stage], recipes[stage]
        old, new = before["settings"], now["settings"]
        first = ("backbone", "threshold")  # the others may only follow from these
        for name in sorted({*old, *new}, key=lambda name: (name not in first, name)):
            if old.get(name) != new.get(name) and (stage, name) not in FREE:
                raise UsageError(
                    f"{stage}.{name}: expected {old.get(name)!r}, as in {found.origin}, whose "
                    f"clusters are taken; got {new.get(name)!r}: use the same, or make new clusters"
                )
        if stage in SPACE and before["version"] != now["version"]:
            raise UsageError(
                f"{found.origin}: its {stage} were made by version {before['version']} of that "
                f"stage, this DatUS has {now['version']}: run it again, or use the older DatUS"
            )


def is_own(config: Config) -> bool:
    """The clusters are those of the run folder itself, which goes on with more images."""
    if not config.clusters.frozen:
        return False
    one, other = Store(config.clusters.frozen), Store(config.run_path)
    if not (one.is_local and other.is_local):
        return bool(one.url == other.url)
    return Path(one.root).resolve() == Path(other.root).resolve()


def kept_recipes(config: Config) -> dict[tuple[str, int], Recipe]:
    """(stage, k) -> the recipe that a run keeps which goes on in its own folder; else nothing."""
    if not is_own(config):
        return {}
    runs = {k: load(config.clusters.frozen, k) for k in config.clusters.k}
    kept = {("clusters", k): run.recipes["clusters"] for k, run in runs.items()}
    center = runs[config.clusters.k[0]].recipes.get("center")
    return kept | ({("center", 0): center} if center else {})


def kept_fingerprints(config: Config) -> set[tuple[str, str]]:
    """(stage, fingerprint) that the run folder must not lose while its own clusters are taken.

    All that `load` reads. Of stages by shard it is the recipe alone.
    """
    if not is_own(config):
        return set()
    store = _source(config.clusters.frozen)
    fingerprint, report = _finished(store, config.clusters.frozen)
    named = {(name.partition(":")[0], one) for name, one in report["upstream"].items()}
    kept = {(stage, one) for stage, one in named if stage in (*SEEN, "clusters")}
    graphs = dict(store.recipes("graphs")).get(report["upstream"].get("graphs", ""))
    center = graphs["upstream"].get("center") if graphs and is_recipe(graphs) else None
    return {("report", fingerprint), *kept, *([("center", center)] if center else [])}


# --- how far out the segments lie: kept beside the centroids ------------------------------------


def reference_arrays(
    measures: Array, cluster: Array, k: int, records: Sequence[ImageRecord]
) -> dict[str, Array]:
    """What the clusters stage stores for later (`method.drift`), and which images were there."""
    found = reference(measures, cluster, k)
    images = np.array(sorted(image_number(record) for record in records), np.uint64)
    return {"quantiles": found.quantiles, "members": found.members, "images": images}


def drift_of(arrays: Arrays, shards: Iterable[tuple[Shard, ShardData]]) -> Drift:
    """Images that the clusters were made without against `arrays` of the clusters stage.

    `shards`: what the embeddings stage stored.
    """
    from datus.method.clusters import offsets

    model = cluster_model(arrays)
    known = Reference(arrays["quantiles"], arrays["members"], len(arrays["pca_axes"]))
    gathered = Gathered(known)
    for shard, data in shards:
        parts = []
        for record in shard.records:
            if record.image_id in data.arrays and is_new(arrays, record):
                found = data.arrays[record.image_id]
                parts.append(offsets(model, found["vectors"][found["valid"]]))
        if parts:
            clusters, measures = zip(*parts, strict=True)
            image = np.repeat(np.arange(len(parts)), [len(one) for one in clusters])
            gathered.add(np.concatenate(measures, axis=1), np.concatenate(clusters), image)
    return gathered.drift()


def is_new(arrays: Arrays, record: ImageRecord) -> bool:
    """The clusters were made without this image."""
    images, number = arrays["images"], image_number(record)
    place = int(np.searchsorted(images, np.uint64(number)))
    return place == len(images) or int(images[place]) != number


def image_number(record: ImageRecord) -> int:
    """The first 64 bits of the hash of its bytes: the same image under a new name is not new."""
    return int(record.sha256[:16], 16)


# --- a run folder -------------------------------------------------------------------------------


def _source(origin: str) -> Store:
    store = Store(origin, "")
    if not store.fs.exists(store.root):
        raise UsageError(
            f"clusters.frozen: {origin}: no such run folder or file; expected a finished run, "
            "or a file of datus freeze"
        )
    return store


def read_made(store: Store, origin: str, k: int, made: Mapping[str, str]) -> Frozen:
    """What a report with the fingerprints `made` ("clusters:12" -> ...) stands on. WorkError."""
    recipes = {stage: _recipe(store, origin, stage, made.get(stage, "")) for stage in SEEN}
    recipes["clusters"] = _recipe(store, origin, "clusters", made.get(f"clusters:{k}", ""))
    center = recipes["graphs"]["upstream"].get("center")
    if center:
        recipes["center"] = _recipe(store, origin, "center", center)
    clusters = _arrays(store, origin, "clusters", made[f"clusters:{k}"])
    if "jury" not in clusters:
        raise WorkError(
            f"{origin}: its clusters were made by an earlier version of DatUS: run it again with "
            "the same settings, only clusters and later are made"
        )
    means = _arrays(store, origin, "center", center) if center else {}
    found = Frozen(origin, recipes, clusters, means)
    try:
        _check_parts(found)
    except _BROKEN as error:
        raise WorkError(
            f"{origin}: its clusters are damaged ({type(error).__name__}): run it again"
        ) from None
    return found


def _finished(store: Store, origin: str) -> tuple[str, Recipe]:
    """Fingerprint and recipe of the last report that is done. Raises WorkError."""
    last = last_finished(store, "report")
    if last is None:
        raise WorkError(
            f"clusters.frozen: {origin}: no run is finished there, and only a finished run's "
            "clusters can be taken: datus run ends it"
        )
    return last


def _ks(report: Recipe) -> list[int]:
    names = (name.partition(":") for name in report["upstream"])
    return [int(k) for stage, _, k in names if stage == "clusters"]


def _check_k(origin: str, k: int, known: Sequence[int]) -> None:
    if k not in known:
        listed = " and ".join(map(str, sorted(known)))
        raise UsageError(
            f"clusters.k: expected {listed}, the clusters of {origin}, got {k}: "
            f"use --clusters {max(known)}"
        )


def _recipe(store: Store, origin: str, stage: str, fingerprint: str) -> Recipe:
    found = dict(store.recipes(stage)).get(fingerprint)
    if found is None or not is_recipe(found):
        raise WorkError(f"{origin}: {stage}/{fingerprint} is gone: run it again")
    return found


def _arrays(store: Store, origin: str, stage: str, fingerprint: str) -> Arrays:
    try:
        found = store.read_shard((stage, fingerprint, DATASET_KEY))
    except CorruptShard as error:
        raise WorkError(f"{origin}: {error}: run it again") from None
    if found is None:
        raise WorkError(f"{origin}: {stage}/{fingerprint} is gone: run it again")
    return found.arrays.get(WHOLE, {})


# --- a file -------------------------------------------------------------------------------------


def check_new(path: Path) -> None:
    """UsageError unless `path` is the name of a file; StoreError unless it can be written."""
    if not path.name or os.path.isdir(path):
        raise UsageError(f"--out {path}: expected the name of a file, such as words.safetensors")
    check_writable(path, "--out")


def save(found: Frozen, path: Path, overwrite: bool = False) -> int:
    """One safetensors file; its size in bytes. The same clusters give the same bytes.

    Raises UsageError if the file is there with other bytes, unless `overwrite`.
    """
    tensors = {f"clusters/{name}": array for name, array in found.clusters.items()}
    tensors |= {f"center/{name}": array for name, array in found.center.items()}
    about = {"format": FORMAT, "recipes": found.recipes, "sha256": arrays_id(tensors)}
    packed = save_tensors({**tensors, "about": np.frombuffer(canonical_json(about), np.uint8)})
    if not overwrite and os.path.lexists(path) and not _holds(path, packed):
        raise UsageError(f"{path} is there already: choose another --out, or add --overwrite")
    Store(path.parent, "--out").write(packed, path.name)
    return len(packed)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _read_file(store: Store, origin: str) -> Frozen:
    not_ours = f"clusters.frozen: {origin}: expected a run folder or a file of datus freeze"
    try:
        tensors = load_tensors(bytes(store.fs.cat_file(store.root)))
        about = json.loads(tensors.pop("about").tobytes())
        if about["format"] > FORMAT:
            raise UsageError(
                f"{origin}: format {about['format']}, this DatUS reads {FORMAT}: upgrade it"
            )
        if about["format"] < FORMAT:
            raise UsageError(
                f"{origin}: made by an earlier version of DatUS: run datus freeze again, on a run "
                "of this version"
            )
        if about["sha256"] != arrays_id(tensors):
            raise WorkError(f"{origin} is damaged: make it again with datus freeze")
        parts: dict[str, dict[str, Array]] = {"clusters": {}, "center": {}}
        for name, array in tensors.items():
            stage, _, short = name.partition("/")
            parts[stage][short] = array
        found = Frozen(origin, about["recipes"], parts["clusters"], parts["center"])
        _check_parts(found)
    except (*_BROKEN, SafetensorError) as error:
        raise UsageError(f"{not_ours} ({type(error).__name__})") from error
    return found


_BROKEN = (
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError),
    ArithmeticError,
)
"""What files of another kind raise on the way."""


def _check_parts(found: Frozen) -> None:
    """Raises one of _BROKEN if a part is missing or of another shape."""
    for stage in (*SEEN, "clusters", *(("center",) if found.center else ())):
        if not is_recipe(found.recipes[stage]):
            raise ValueError(stage)
    check_arrays(found.clusters)
    by_density = found.recipes["graphs"]["settings"].get("threshold") == "auto"
    if by_density and "threshold" not in found.center:
        raise ValueError("threshold")
    if found.center:
        mean, choice = found.center["mean"], found.center["choice"].tobytes().decode()
        if mean.ndim != 3 or not np.isfinite(mean).all() or choice not in CENTERS:
            raise ValueError("center")
        threshold = found.center.get("threshold", np.zeros(1))
        if threshold.shape != (1,) or not -1 < float(threshold[0]) < 1:
            raise ValueError("threshold")

"""What a run folder has embedded -> how many clusters, and whether to believe them.

    source = find_source(store)                    the last run: which embeddings, which k-means
    points = read_points(store, source, seed)      its valid segments, of whole images
    found = suggest(points, source, ks, seed)      one K after the other

Reads only. Any run that got as far as its embeddings will do. Memory is bounded: of large runs so
many images are drawn that they have about SAMPLE valid segments.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any
from zlib import crc32

import numpy as np

from datus.compute.threads import map_threads
from datus.config import ClustersConfig
from datus.engine.workers import Advance
from datus.errors import ClusterError, CorruptShard, UsageError, WorkError
from datus.inputs.index import Index, read_index
from datus.method.verdict import Choice, KFigures, Overview, recommend, verdict
from datus.report.numbers import rounded
from datus.store.latest import last_finished
from datus.store.reports import reports, undone
from datus.store.store import Store
from datus.suggest.stability import (
    DEFAULTS,
    Fit,
    Points,
    StabilitySettings,
    layout_of,
    make_points,
    measure,
    overview,
    usable_k,
)
from datus.types import VERDICTS, Array, ShardData, Verdict, worst

SAMPLE = 4000
"""Valid segments, about: whole images are drawn."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is judged."""

    index: Index
    embeddings: str
    """Fingerprint of the stage."""
    segments: str
    clusters: ClustersConfig
    """The k-means of that run; its K are those that the run has."""
    reported: Mapping[int, Verdict] = field(default_factory=dict)
    """K -> what the report of that run says, where it is finished."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The answer."""

    seen: Overview
    found: tuple[KFigures, ...]
    choice: Choice
    verdicts: Mapping[int, Verdict]
    """By K: of the recommended one, and of those that the run has."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "overview": rounded(asdict(self.seen)),
            "recommended": {**asdict(self.choice), "others": list(self.choice.others)},
            "verdicts": {str(k): asdict(found) for k, found in self.verdicts.items()},
            "by_k": rounded([_k_table(found) for found in self.found]),
        }


def _k_table(found: KFigures) -> dict[str, Any]:
    table: dict[str, Any] = {"k": found.k, "gap": found.gap}
    for name, real in found.real.items():
        chance = found.chance[name]
        table[name] = {**asdict(real), "chance": chance.mean, "chance_sd": chance.sd}
    return table


def find_source(store: Store) -> Source:
    """Of the last finished run, else the newest embeddings. Raises UsageError (no run folder) and
    WorkError (no embeddings, or not of all images)."""
    index = read_index(store)
    if index is None:
        raise UsageError(f"{store.url}: not a run folder; datus run makes one")
    last = last_finished(store, "report")
    report, upstream = (last[0], last[1]["upstream"]) if last else ("", {})
    recipes = dict(store.recipes("embeddings"))
    if recipes and not upstream:
        upstream = {"embeddings": next(iter(recipes))}  # the newest
    fingerprint = upstream.get("embeddings", "")
    if fingerprint not in recipes:
        raise WorkError(f"{store.url}: no embeddings in it: datus run makes them")
    missing = len(undone(store, (("embeddings", fingerprint, shard.key) for shard in index.shards)))
    if missing or not index.shards:
        raise WorkError(
            f"embeddings lack {missing} of {len(index.shards)} shards: run the same datus run "
            "again, or datus run-stage embeddings --with-needs with its options"
        )
    clusters = _clusters(store, fingerprint, upstream)
    reported = _reported(store, report) if report else {}
    edited = any(name.startswith("edits:") for name in upstream)
    if edited and len(clusters.k) == len(reported) == 1:  # of an edited run "k" counts labels
        reported = dict(zip(clusters.k, reported.values(), strict=True))
    segments = recipes[fingerprint]["upstream"]["segments"]
    return Source(index, fingerprint, segments, clusters, reported)


def read_points(
    store: Store, source: Source, seed: int, limit: int = SAMPLE, advance: Advance = lambda n: None
) -> Points:
    """Valid segments of all images, or of so many drawn ones that they have about `limit`.

    Raises WorkError if something that is needed is gone or damaged, ClusterError if there is none.
    """
    from datus.method.clusters import reduced

    wanted = _drawn(store, source, seed, limit)
    vectors, layout = list[Array](), list[Array]()
    image: list[int] = []
    number = 0
    for shard in source.index.shards:
        if wanted & {record.image_id for record in shard.records}:
            embedded = _read(store, "embeddings", source.embeddings, shard.key).arrays
            segmented = _read(store, "segments", source.segments, shard.key).arrays
            for image_id in sorted(wanted & embedded.keys()):
                valid = embedded[image_id]["valid"]
                vectors.append(embedded[image_id]["vectors"][valid])
                arrays = segmented[image_id]
                grid, boxes = arrays["labels"].shape, arrays["boxes"][valid]
                layout.append(layout_of(grid, boxes, arrays["n_patches"][valid]))
                image += [number] * len(boxes)
                number += 1
        advance(len(shard.records))
    if not image:
        raise ClusterError(
            "no image gave a valid segment, so there is nothing to judge: lower "
            "embeddings.min_patches"
        )
    places = reduced(np.concatenate(vectors), source.clusters.pca)
    return make_points(places, np.array(image), np.concatenate(layout), source.clusters.spherical)


def suggest(
    points: Points,
    source: Source,
    ks: Sequence[int],
    seed: int,
    *,
    n_threads: int = 1,
    settings: StabilitySettings = DEFAULTS,
    advance: Advance = lambda n: None,
) -> Suggestion:
    """Judge every K that there are enough segments for, and that k-means can make of them. Threads
    change no byte. Raises ClusterError if there is none among `ks`."""
    seen, fit = overview(points), fit_with(source.clusters)

    def judge(k: int) -> KFigures | None:
        try:
            return measure(points, k, fit, seed, settings)
        except ClusterError:  # near copies: a cluster stays empty
            return None
        finally:
            advance(1)

    wanted = usable_k(seen, [*ks, *source.clusters.k])
    tried = map_threads(judge, wanted, n_threads)
    figures = {row.k: row for row in tried if row}
    choice = recommend([row for row in figures.values() if row.k in ks])
    judged = {
        k: worst([verdict(seen, figures[k]), *filter(None, [source.reported.get(k)])])
        for k in sorted({choice.k, *source.clusters.k} & figures.keys())
    }
    return Suggestion(seen, tuple(figures.values()), choice, judged)


def fit_with(clusters: ClustersConfig) -> Fit:
    """The k-means of a run, in the space that it works in."""
    from datus.method.clusters import fit_clusters

    def fit(places: Array, k: int, starts: int, seed: int) -> Array:
        settings = replace(clusters, pca=0, restarts=starts)
        return fit_clusters(places, k, settings, seed, "cpu").centroids

    return fit


# --- a run folder -------------------------------------------------------------------------------


def _reported(store: Store, fingerprint: str) -> dict[int, Verdict]:
    """By K; nothing where the report is of an earlier version, or damaged."""
    try:
        rows = json.loads(store.read("report", fingerprint, "files", "report.json"))["sweep"]
        told = {row["k"]: row.get("verdict") for row in rows}
        return {
            k: Verdict(verdict["word"], tuple(map(str, verdict["reasons"])))
            for k, verdict in told.items()
            if verdict and verdict["word"] in VERDICTS
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _clusters(store: Store, fingerprint: str, upstream: Mapping[str, str]) -> ClustersConfig:
    """Settings of the k-means that follows these embeddings; the defaults where none was planned,
    or clusters are taken from another run."""
    named = {value for name, value in upstream.items() if name.startswith("clusters")}
    settings: list[dict[str, Any]] = []
    for clusters, recipe in store.recipes("clusters"):
        follows = recipe["upstream"].get("embeddings") == fingerprint
        if clusters in named or (follows and not named):
            settings.append(recipe["settings"])
    if not settings:
        return ClustersConfig()
    names = {field.name for field in fields(ClustersConfig)} - {"k", "frozen"}
    known = {name: value for name, value in settings[0].items() if name in names}
    return replace(ClustersConfig(), k=tuple(sorted({row["k"] for row in settings})), **known)


def _drawn(store: Store, source: Source, seed: int, limit: int) -> set[str]:
    """Images in the order of a draw that depends on the seed and their ids, until enough."""
    sizes: dict[str, int] = {}
    places = [("embeddings", source.embeddings, shard.key) for shard in source.index.shards]
    for report in reports(store, places):
        rows = report.numbers if report else {}
        sizes |= {image_id: int(row["n_valid"]) for image_id, row in rows.items()}

    def draw(image_id: str) -> tuple[float, str]:
        return np.random.default_rng([seed, crc32(image_id.encode())]).random(), image_id

    wanted: set[str] = set()
    for image_id in sorted(sizes, key=draw):
        if limit <= 0:
            break
        limit -= sizes[image_id]
        wanted.add(image_id)
    return wanted


def _read(store: Store, stage: str, fingerprint: str, key: str) -> ShardData:
    try:
        shard = store.read_shard((stage, fingerprint, key))
    except CorruptShard as error:
        raise WorkError(f"{error}: run the same datus run again") from None
    if shard is None:
        raise WorkError(f"{stage}: shard {key} is gone: run the same datus run again")
    return shard

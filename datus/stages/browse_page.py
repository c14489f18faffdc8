"""browse.html: a page of every image of a run, part of the stage `report`.

    write_browser(context, dataset, advance)

In: the stored stages of the main K. Out: browse.html and browse/*, each handed over as soon as it
is made (`Dataset.keep`), so that a few images are in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datus.compute.threads import map_threads
from datus.config import Config
from datus.engine.dataset import Dataset
from datus.engine.stage import Context
from datus.engine.workers import Advance
from datus.inputs.index import Shard
from datus.inputs.labels import load_classes
from datus.report import browse, browse_tally
from datus.report.browse import FOLDER, BrowseImage
from datus.review import replay
from datus.review.edits import as_json
from datus.stages.clusters import cluster_arrays_of, model_of
from datus.stages.edits import label_centroids
from datus.stages.totals import totals_of
from datus.types import Array, ClassTable, ClusterModel, ImageRecord, evenly

MAX_DIMS = 32
"""Of the places that the page searches: one number a byte, a dozen segments an image."""

PAGE_SHARDS = 200
"""A shard is read whole for one image of the page, so these come from no more, or from as many as
hold four times the images of the page."""

Looked = tuple[BrowseImage, Array, dict[str, Any]]
"""An image, float64 (S,) the distances of its segments to a centroid, what its pack holds."""

Project = Callable[[Array, Array], Array]
"""float32 (n, E), and their places in the space of the clusters -> float32 (n, P), P at most
MAX_DIMS."""


def write_browser(context: Context, dataset: Dataset, advance: Advance) -> None:
    """browse.html and all beside it, through `dataset.keep`."""
    config, k = context.config, context.config.clusters.k[0]
    records = dataset.index.records
    usable = _usable(config, dataset, k)
    chosen = choose([r for r in records if r.image_id in usable], config.report.browse)
    source = _Source(config, dataset, k, chosen)
    tally, rows = browse_tally.Tally(len(source.centroids), config.seed), list[browse.Row]()
    packs = _Files(dataset, "pack", browse.PACK_IMAGES, browse.pack)
    vectors = _Files(dataset, "vectors", browse.VECTOR_IMAGES, browse.vectors)
    n_seen = 0
    for shard, images in source.images(context.runtime.threads):
        for image, distances, entry in images:
            tally.add(len(rows), image, distances)
            rows.append(browse.row_of(image))
            packs.add(entry)
            vectors.add(_light(image))
        advance(len(shard.records))
        n_seen += len(shard.records)
    advance(len(records) - n_seen)  # shards of which no image is on the page
    packs.close()
    vectors.close()
    about = source.about() | {"n_packs": packs.n_files, "n_vectors": vectors.n_files}
    facts = browse_tally.facts_of(tally, source.centroids, source.pixels, about)
    dataset.keep(f"{FOLDER}/index.js", browse.index(facts, rows))
    dataset.keep("browse.html", browse.page(config.name))


def choose(records: Sequence[ImageRecord], limit: int) -> set[str]:
    """Ids of `limit` images, evenly spread; of large sets over some of the shards."""
    shards = list(dict.fromkeys(record.shard for record in records))
    n_shards = max(PAGE_SHARDS, 4 * limit * len(shards) // max(1, len(records)))
    if len(records) > limit and len(shards) > n_shards:
        few = set(evenly(shards, n_shards))
        records = [record for record in records if record.shard in few]
    return {record.image_id for record in evenly(records, limit)}


def _light(image: BrowseImage) -> BrowseImage:
    """Without its pictures: hundreds wait for their file of vectors."""
    return replace(image, preview=b"", mask=b"", truth=None, segments=np.zeros((0, 0), np.uint8))


@dataclass(slots=True)
class _Files:
    """Files of so many images each, numbered as they are written."""

    dataset: Dataset
    kind: str
    size: int
    make: Callable[[int, list[Any]], bytes]
    n_files: int = 0
    waiting: list[Any] = field(default_factory=list)

    def add(self, image: Any) -> None:
        self.waiting.append(image)
        if len(self.waiting) == self.size:
            self.close()

    def close(self) -> None:
        if self.waiting:
            name = f"{FOLDER}/{self.kind}-{self.n_files:05d}.js"
            self.dataset.keep(name, self.make(self.n_files, self.waiting))
            self.n_files, self.waiting = self.n_files + 1, []


def _usable(config: Config, dataset: Dataset, k: int) -> set[str]:
    return {image for report in dataset.reports("masks", k) for image in report.images}


class _Source:
    """What the page needs of a run, read shard by shard."""

    def __init__(self, config: Config, dataset: Dataset, k: int, chosen: set[str]) -> None:
        self.config, self.dataset, self.k, self.chosen = config, dataset, k, chosen
        self.arrays = cluster_arrays_of(dataset, k)
        self.model: ClusterModel = model_of(dataset, k)
        self.classes: ClassTable | None = None
        self.match: Array | None = None
        self.centroids = label_centroids(config, dataset, k)
        totals = totals_of(dataset, k, len(self.centroids))
        self.pixels = totals.pixels
        if config.data.truth:
            from datus.method.metrics import RULES, fit_match

            self.classes = load_classes(Path(config.data.classes))
            self.rule = RULES[0]
            self.match = fit_match(totals.confusion(), self.rule)
        self.project = _projection(self.model, dataset, k, chosen)

    def about(self) -> dict[str, Any]:
        """Of the run, ready for JSON."""
        from datus.version import __version__

        matched = self.classes is not None and self.match is not None
        return {
            "title": self.config.name,
            "version": __version__,
            "n_images": len(self.dataset.index.records),
            "classes": list(self.classes.names) if self.classes else None,
            "match": self.match.tolist() if self.match is not None else None,
            "rule": self.rule if matched else None,
            "base": replay.read_base(self.arrays),
            "before": as_json(replay.replayed(self.config, self.arrays).edits),
        }

    def images(self, threads: int) -> Iterator[tuple[Shard, list[Looked]]]:
        """Of each shard with an image of the page, in order."""
        for shard, found in self._shards():
            records = [r for r in shard.records if r.image_id in self.chosen]
            yield shard, map_threads(partial(self._image, found), records, threads)

    def _shards(self) -> Iterator[tuple[Shard, dict[str, dict[str, dict[str, Array]]]]]:
        names = ["masks", "segments", "embeddings"] + (["evaluate"] if self.classes else [])
        streams = [self.dataset.data(name, self.k, self.chosen) for name in names]
        for parts in zip(*streams, strict=True):
            yield parts[0][0], {n: p[1].arrays for n, p in zip(names, parts, strict=True)}

    def _image(self, shard: dict[str, dict[str, dict[str, Array]]], record: ImageRecord) -> Looked:
        from datus.inputs.decode import preview_size

        found = {stage: arrays.get(record.image_id, {}) for stage, arrays in shard.items()}
        masks, segments, embedded = found["masks"], found["segments"], found["embeddings"]
        valid: Array = np.any(embedded["vectors"], axis=1) & (masks["cluster"] >= 0)
        vectors = embedded["vectors"]
        here = _places(self.model, vectors)
        counted = found.get("evaluate", {})
        image = BrowseImage(
            image_id=record.image_id,
            size=(record.height, record.width),
            preview=masks["preview"].tobytes(),
            shape=preview_size(record.height, record.width),
            mask=masks["small"].tobytes(),
            segments=segments["labels"],
            n_patches=segments["n_patches"],
            cluster=masks["cluster"],
            figures={name: (masks | segments)[name] for name in browse.FIGURES},
            places=self.project(vectors, here),
            valid=valid & embedded["valid"],
            pixels=masks["pixels"],
            truth=counted["small"].tobytes() if counted else None,
            score=self._score(counted["counts"]) if counted else None,
        )
        return image, self._distances(here), browse.packed(image)

    def _distances(self, places: Array) -> Array:
        """float64 (S,): to the nearest label's centroid, in the space of the clusters."""
        offsets = places[:, None] - self.centroids
        nearest: Array = np.sqrt((offsets**2).sum(axis=2)).min(axis=1)
        return nearest

    def _score(self, counts: Array) -> float | None:
        """The share of the pixels that is right; None where none has a true class."""
        if self.match is None or not (known := int(counts.sum())):
            return None
        matched = np.flatnonzero(self.match >= 0)
        return int(counts[matched, self.match[matched]].sum()) / known


def _places(model: ClusterModel, vectors: Array) -> Array:
    """float64 (n, P): vectors in the space of the centroids."""
    from datus.method.clusters import places_of

    places: Array = places_of(model, vectors).astype(np.float64)
    return places


def _projection(model: ClusterModel, dataset: Dataset, k: int, chosen: set[str]) -> Project:
    """Into the space of the clusters; of a larger one into its MAX_DIMS widest directions."""
    if len(model.pca_mean) or model.centroids.shape[1] <= MAX_DIMS:
        # axes of a PCA stand in order of variance
        return lambda _, places: places[:, :MAX_DIMS].astype(np.float32)
    axes = _widest(dataset, k, chosen, model.centroids.shape[1])
    return lambda vectors, _: np.einsum(
        "ne,pe->np", vectors.astype(np.float64), axes, optimize=False
    ).astype(np.float32)


def _widest(dataset: Dataset, k: int, chosen: set[str], size: int) -> Array:
    """float64 (MAX_DIMS, E): directions in which the vectors have most of their length."""
    moments = np.zeros((size, size))
    for _, data in dataset.data("embeddings", k, chosen):
        rows = [a["vectors"][a["valid"]] for i, a in data.arrays.items() if i in chosen]
        if rows:
            block = np.concatenate(rows).astype(np.float64)
            moments += map_threads(lambda one: one.T @ one, [block], 1)[0]
    axes: Array = np.linalg.eigh(moments).eigenvectors[:, ::-1].T[:MAX_DIMS]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes *= np.sign(largest)
    return axes

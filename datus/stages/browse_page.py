"""browse.html: a page of every image of a run, part of the stage `report`.

    write_browser(context, dataset, inputs, advance)

In: the stored stages of the main K, and what the report knows of it. Out: browse.html and browse/*,
each handed over as soon as it is made (`Dataset.keep`), so that a few images are in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from datus.compute.threads import map_threads
from datus.config import Config
from datus.engine.dataset import Dataset
from datus.engine.stage import Context
from datus.engine.workers import Advance
from datus.inputs.index import Shard
from datus.report import browse, browse_tally
from datus.report.browse import FOLDER, BrowseImage
from datus.report.records import ReportInputs
from datus.report.summary import HEADLINE
from datus.review import replay
from datus.review.cluster_arrays import cluster_model
from datus.review.edits import as_json
from datus.stages.clusters import cluster_arrays_of
from datus.stages.edits import label_centroids
from datus.types import Array, ImageRecord, evenly

MAX_DIMS = 32
"""Of the places that the page searches: one number a byte, a dozen segments an image."""

PAGE_SHARDS = 200
"""A shard is read whole for one image of the page, so these come from no more, or from as many as
hold four times the images of the page."""

Looked = tuple[BrowseImage, Array, dict[str, Any]]
"""An image, float64 (S,) the distances of its segments to a centroid, what its pack holds."""


def write_browser(
    context: Context, dataset: Dataset, inputs: ReportInputs, advance: Advance
) -> None:
    """browse.html and all beside it, through `dataset.keep`."""
    config, k = context.config, context.config.clusters.k[0]
    records = dataset.index.records
    usable = {image for report in dataset.reports("masks", k) for image in report.images}
    chosen = choose([r for r in records if r.image_id in usable], config.report.browse)
    source = _Source(config, dataset, inputs, chosen)
    tally, rows = browse_tally.Tally(len(source.centroids), config.seed), list[browse.Row]()
    packs = _Files(dataset, "pack", browse.PACK_IMAGES, browse.pack)
    vectors = _Files(dataset, "vectors", browse.VECTOR_IMAGES, browse.vectors)
    n_seen = 0
    for shard, images in source.images(context.runtime.threads):
        for image, distances, entry in images:
            tally.add(len(rows), image, distances)
            rows.append(browse.row_of(image))
            packs.add(entry)
            # hundreds wait for their file of vectors, so without their pictures
            no_segments = np.zeros((0, 0), np.uint8)
            light = replace(image, preview=b"", mask=b"", truth=None, segments=no_segments)
            vectors.add(light)
        advance(len(shard.records))
        n_seen += len(shard.records)
    advance(len(records) - n_seen)  # shards of which no image is on the page
    packs.close()
    vectors.close()
    about = source.about() | {"n_packs": packs.n_files, "n_vectors": vectors.n_files}
    facts = browse_tally.facts_of(tally, source.centroids, inputs.main.cluster_pixels, about)
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


class _Source:
    """What the page needs of a run, read shard by shard."""

    def __init__(
        self, config: Config, dataset: Dataset, inputs: ReportInputs, chosen: set[str]
    ) -> None:
        self.config, self.dataset, self.chosen = config, dataset, chosen
        self.k, self.classes = config.clusters.k[0], inputs.classes
        scores = inputs.main.scores.get(HEADLINE)
        self.match = scores.match if scores else None
        self.arrays = cluster_arrays_of(dataset, self.k)
        self.model = cluster_model(self.arrays)
        self.centroids = label_centroids(config, dataset, self.k)
        self.axes: Array | None = None
        """float64 (MAX_DIMS, E): what a larger space than MAX_DIMS is shown in."""
        size = self.model.centroids.shape[1]
        if not len(self.model.pca_mean) and size > MAX_DIMS:
            self.axes = _widest(dataset, self.k, chosen, size)

    def about(self) -> dict[str, Any]:
        """Of the run, ready for JSON."""
        from datus.version import __version__

        return {
            "title": self.config.name,
            "version": __version__,
            "n_images": len(self.dataset.index.records),
            "classes": list(self.classes.names) if self.classes else None,
            "match": self.match.tolist() if self.match is not None else None,
            "rule": HEADLINE if self.classes else None,
            "base": replay.read_base(self.arrays),
            "before": as_json(replay.replayed(self.config, self.arrays).edits),
        }

    def images(self, threads: int) -> Iterator[tuple[Shard, list[Looked]]]:
        """Of each shard with an image of the page, in order."""
        names = ["masks", "segments", "embeddings"] + (["evaluate"] if self.classes else [])
        streams = [self.dataset.data(name, self.k, self.chosen) for name in names]
        for parts in zip(*streams, strict=True):
            shard = parts[0][0]
            found = {name: data.arrays for name, (_, data) in zip(names, parts, strict=True)}
            records = [r for r in shard.records if r.image_id in self.chosen]
            yield shard, map_threads(partial(self._image, found), records, threads)

    def _image(self, shard: dict[str, dict[str, dict[str, Array]]], record: ImageRecord) -> Looked:
        from datus.inputs.decode import preview_size
        from datus.method.clusters import places_of

        found = {stage: arrays.get(record.image_id, {}) for stage, arrays in shard.items()}
        masks, segments, embedded = found["masks"], found["segments"], found["embeddings"]
        vectors = embedded["vectors"]
        valid: Array = np.any(vectors, axis=1) & (masks["cluster"] >= 0)
        here = places_of(self.model, vectors).astype(np.float64)
        offsets = here[:, None] - self.centroids
        distances: Array = np.sqrt((offsets**2).sum(axis=2)).min(axis=1)
        if self.axes is None:  # axes of a PCA stand in order of variance
            places = here[:, :MAX_DIMS]
        else:
            wide = vectors.astype(np.float64)
            places = np.einsum("ne,pe->np", wide, self.axes, optimize=False)
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
            places=places.astype(np.float32),
            valid=valid & embedded["valid"],
            pixels=masks["pixels"],
            truth=counted["small"].tobytes() if counted else None,
            score=self._score(counted["counts"]) if counted else None,
        )
        return image, distances, browse.packed(image)

    def _score(self, counts: Array) -> float | None:
        """The share of the pixels that is right; None where none has a true class."""
        if self.match is None or not (known := int(counts.sum())):
            return None
        matched = np.flatnonzero(self.match >= 0)
        return int(counts[matched, self.match[matched]].sum()) / known


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

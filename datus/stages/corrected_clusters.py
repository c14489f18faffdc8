"""The clusters stage where a person corrected some masks: `clusters.corrections`.

    make_clusters(context, corrections, dataset, advance)     -> ShardData

WHOLE holds what clusters hold without corrections, and names, labelled and labelled_cluster
(`review.cluster_arrays`); each corrected image what `review.corrections` keeps of it. Memory: one
vector a segment, at most `clusters.sample` of those without a label; masks are read one after the
other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from datus.engine.dataset import Dataset
from datus.engine.stage import Context
from datus.engine.workers import Advance
from datus.errors import ClusterError
from datus.formats.matching import Matched
from datus.inputs.index import Shard
from datus.method.constrained_kmeans import class_centroids, fit_free, label_segments, on_sphere
from datus.method.masks import labels_to_pixels
from datus.review import frozen
from datus.review.cluster_arrays import cluster_arrays
from datus.review.corrections import kept_arrays
from datus.stages.frozen import cluster_figures
from datus.stages.sample import count_valid, sample_vectors
from datus.types import WHOLE, Array, ClusterModel, ShardData

CORRECTED_SHARE = 0.5
"""A segment has the label that covers more than this share of its pixels. With half at least, no
two labels can; 0.6 and 0.75 drop segments of small classes and scored the same or less."""


@dataclass(slots=True)
class _Seen:
    """What is learnt of corrected images while the others pass by."""

    kept: dict[str, dict[str, Array]] = field(default_factory=dict)
    vectors: list[Array] = field(default_factory=list)
    """Of valid segments with a label."""
    classes: list[Array] = field(default_factory=list)
    sums: list[Array] = field(default_factory=list)
    """float64 (C, E) of each image: vectors of its valid segments, weighted by drawn pixels."""


def make_clusters(
    context: Context, corrections: Matched, dataset: Dataset, advance: Advance
) -> ShardData:
    """Raises ClusterError: more classes than clusters, nothing covered, nothing left to cluster."""
    from datus.method.clusters import offsets

    config, n_classes = context.config, len(corrections.names)
    if n_classes > context.k:
        raise ClusterError(
            f"the corrections have {n_classes} classes, clusters.k is {context.k}: "
            f"use --clusters {n_classes} or more"
        )
    seen = _Seen()
    n_all = count_valid(dataset, context.k)
    data = _without_labelled(context.k, corrections, dataset, seen)
    limit = config.clusters.sample
    rest, records = sample_vectors(data, n_all, limit, config.seed, advance)
    if not seen.vectors:
        raise ClusterError(
            f"in {len(corrections.images)} corrected images no segment is covered by one class to "
            f"more than {100 * CORRECTED_SHARE:.0f} %: draw whole regions"
        )
    model = _fitted(context, corrections.names, rest, seen)
    vectors = np.concatenate([*([rest] if len(rest) else []), *seen.vectors])
    cluster, measures = offsets(model, vectors)
    reference = frozen.reference_arrays(measures, cluster, context.k, records)
    arrays = {**cluster_arrays(model), **reference}
    arrays["corrections"] = np.frombuffer(corrections.digest.encode(), np.uint8)
    figures = {
        **cluster_figures(model),
        "n_corrected": float(len(seen.kept)),
        "n_labelled": float(len(model.labelled)),
        "n_unused": float(len(corrections.unused)),
        "n_images": float(len(dataset.index.records)),
    }
    return ShardData(arrays={WHOLE: arrays, **seen.kept}, numbers={WHOLE: figures})


def _fitted(context: Context, names: tuple[str, ...], rest: Array, seen: _Seen) -> ClusterModel:
    from datus.method.clusters import fit_space, project

    settings, n_classes = context.config.clusters, len(names)
    labelled, label = np.concatenate(seen.vectors), np.concatenate(seen.classes)
    rest = rest if len(rest) else labelled[:0]
    mean, axes, places = fit_space(np.concatenate([rest, labelled]), settings)
    places, fixed = places[: len(rest)], places[len(rest) :]
    if settings.spherical:
        fixed = on_sphere(fixed)
    free, inertia, start = fit_free(
        places,
        fixed,
        context.k - n_classes,
        settings,
        context.config.seed,
        n_threads=context.runtime.threads,
    )
    classes = class_centroids(fixed, np.eye(n_classes)[label], settings.spherical)
    sums = np.sum(seen.sums, axis=0)
    for one in set(range(n_classes)) - set(label.tolist()):  # nowhere most of a segment
        if sums[one].any():
            place = project(on_sphere(sums[one][None]), mean, axes)
            classes[one] = class_centroids(place, np.ones((1, 1)), settings.spherical)[0]
    centroids = np.concatenate([classes, free])
    return ClusterModel(
        centroids=centroids,
        restart_centroids=centroids[None],
        pca_mean=mean,
        pca_axes=axes,
        inertia=inertia,
        n_trained=len(rest) + len(labelled),
        seed=start,
        library="datus, seeded k-means",
        names=names,
        labelled=fixed,
        labelled_cluster=label.astype(np.int16),
    )


def _without_labelled(
    k: int, corrections: Matched, dataset: Dataset, seen: _Seen
) -> Iterator[tuple[Shard, ShardData]]:
    """What embeddings stored, labelled segments taken out of `valid` and put into `seen`."""
    streams = (dataset.data(stage, k) for stage in ("embeddings", "segments"))
    for (shard, embedded), (_, segmented) in zip(*streams, strict=True):
        arrays: dict[str, dict[str, Array]] = {}
        for record in shard.records:
            found = embedded.arrays.get(record.image_id)
            if found and record.image_id in corrections.images:
                labels, vectors = corrections.labels(record.image_id), found["vectors"]
                valid, by_patch = found["valid"], segmented.arrays[record.image_id]["labels"]
                segment = labels_to_pixels(by_patch, record.height, record.width)
                fixed, counts = label_segments(
                    segment, labels, len(valid), len(corrections.names), CORRECTED_SHARE
                )
                seen.kept[record.image_id] = kept_arrays(record, labels, fixed)
                labelled = valid & (fixed >= 0)
                if labelled.any():
                    seen.vectors.append(vectors[labelled])
                    seen.classes.append(fixed[labelled])
                weights = counts[valid].astype(np.float64)
                seen.sums.append(np.einsum("sc,se->ce", weights, vectors[valid], optimize=False))
                found = {"vectors": vectors, "valid": valid & ~labelled}
            if found:
                arrays[record.image_id] = dict(found)
        yield shard, ShardData(arrays=arrays)

"""What the page of a run says of each cluster, gathered image by image.

    tally = Tally(k, seed); tally.add(row, image, distances); facts_of(tally, ...)

In: `browse.BrowseImage` in order. Out: plain values for `browse.index`. Memory does not grow with
the images: a few segments of each cluster are kept, and K x K contacts.
"""

import heapq
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np

from datus.report.browse import BrowseImage
from datus.types import Array

SHOWN = 24
"""Segments of each kind on the page of a cluster."""
NEIGHBOURS = 5

Candidate = tuple[float, int, int]
"""(minus what it is ranked by, minus the row, minus the segment): the heap's least goes first."""


class Tally:
    """Of K labels, over the images of the page: clusters, and parts of clusters that were split."""

    def __init__(self, k: int, seed: int) -> None:
        self.k, self.seed = k, seed
        self.n_segments = np.zeros(k, np.int64)
        """int64 (K,): segments of the cluster, those that took it from a neighbour too."""
        self.confidence = np.zeros((2, k))
        """float64 (2, K): sum over segments weighted by patches, and the patches."""
        self.contacts = np.zeros((k, k), np.int64)
        """int64 (K, K): pairs of neighbouring patches of two clusters."""
        kinds = ("central", "random", "uncertain")
        self.best: dict[str, list[list[Candidate]]] = {
            kind: [[] for _ in range(k)] for kind in kinds
        }

    def add(self, row: int, image: BrowseImage, distances: Array) -> None:
        """`row`: of the image in the index; distances: float (S,) to the own centroid."""
        labelled = image.cluster >= 0
        cluster = image.cluster[labelled].astype(np.int64)
        weight = image.n_patches[labelled].astype(np.float64)
        self.n_segments += np.bincount(cluster, minlength=self.k)
        sums = weight * image.figures["confidence"][labelled]
        self.confidence[0] += np.bincount(cluster, sums, self.k)
        self.confidence[1] += np.bincount(cluster, weight, self.k)
        self.contacts += touching(image.cluster[image.segments], self.k)
        for segment in np.flatnonzero(labelled & image.valid).tolist():
            mark = crc32(f"{self.seed}/{segment}/{image.image_id}".encode("utf-8", "replace"))
            ranks = {
                "central": float(distances[segment]),
                "random": float(mark),
                "uncertain": float(image.figures["confidence"][segment]),
            }
            for kind, rank in ranks.items():
                heap = self.best[kind][int(image.cluster[segment])]
                keep = heapq.heappush if len(heap) < SHOWN else heapq.heappushpop
                keep(heap, (-rank, -row, -segment))

    def shown(self, kind: str, cluster: int) -> list[list[int]]:
        """[row, segment] of the segments to show, best first."""
        return [[-row, -segment] for _, row, segment in sorted(self.best[kind][cluster])[::-1]]


def touching(clusters: Array, k: int) -> Array:
    """int64 (K, K), symmetric: pairs of patches side by side that two clusters share.

    clusters: int (gh, gw), -1 = none.
    """
    pairs = np.zeros((k, k), np.int64)
    for before, after in ((clusters[:, :-1], clusters[:, 1:]), (clusters[:-1], clusters[1:])):
        both = (before >= 0) & (after >= 0) & (before != after)
        flat = before[both].astype(np.int64) * k + after[both]
        pairs += np.bincount(flat, minlength=k * k).reshape(k, k)
    return pairs + pairs.T


def facts_of(
    tally: Tally, centroids: Array, pixels: Array, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What the index says besides its rows.

    centroids: float32 (K, P); pixels: int64 (K + 1,) over the whole run; about: title, classes and
    so on, ready for JSON.
    """
    total = max(int(pixels.sum()), 1)
    clusters = [
        {
            "share": round(int(pixels[label]) / total, 5),
            "segments": int(tally.n_segments[label]),
            "confidence": round(sums / max(weight, 1.0), 3),
            "near": _near(centroids, label),
            "touching": _most_touching(tally.contacts[label]),
            **{kind: tally.shown(kind, label) for kind in tally.best},
        }
        for label, (sums, weight) in enumerate(tally.confidence.T)
    ]
    return {**about, "clusters": clusters}


def _near(centroids: Array, cluster: int) -> list[list[float]]:
    """[cluster, distance] of the nearest other centroids."""
    distances = np.linalg.norm(centroids.astype(np.float64) - centroids[cluster], axis=1)
    order = np.argsort(distances, kind="stable").tolist()
    others = [label for label in order if label != cluster]
    return [[label, round(float(distances[label]), 3)] for label in others[:NEIGHBOURS]]


def _most_touching(contacts: Array) -> list[list[float]]:
    """[cluster, share of all contacts] of those that are touched most."""
    total = max(int(contacts.sum()), 1)
    order = np.argsort(-contacts, kind="stable")[:NEIGHBOURS].tolist()
    return [[label, round(int(contacts[label]) / total, 3)] for label in order if contacts[label]]

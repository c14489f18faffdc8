"""How sure a segment's label is, without any truth.

Three signs, each 0..1 and each known by the time masks are drawn:

    margin     1 - distance to the nearest centroid / to the second nearest     (`method.clusters`)
    votes      share of the k-means restarts that give the same cluster          (`method.clusters`)
    together   share of the segment's pairs of patches that other Louvain partitions keep together

`confidence` joins them, `binned` and `kept_counts` show what it is worth: the score of the pixels
that stay as the least certain ones go. What each sign is worth alone: docs/confidence.md.
"""

import numpy as np

from datus.types import Array

N_BINS = 50
"""Equal steps of confidence that pixels are counted in."""


def confidence(margin: Array, votes: Array, together: Array) -> Array:
    """float32 (S,): the geometric mean of the three signs, float32 (S,) each.

    One that is low makes it low; 0 for a segment that has no cluster or took its neighbour's.
    """
    product = margin.astype(np.float64) * votes * together
    return np.cbrt(product).astype(np.float32)


def together(labels: Array, tried: Array) -> Array:
    """float32 (S,): how often two patches of a segment share a community, over all partitions.

    labels: int32 (N,) segment 0..S-1 of each patch; tried: int32 (T, N) communities of each
    partition, the one that the segments were cut from among them: with T = 1 all are 1.
    """
    n_segments = int(labels.max(initial=-1)) + 1
    sizes = np.bincount(labels, minlength=n_segments).astype(np.float64)
    total = np.zeros(n_segments)
    for communities in tried:
        n_communities = int(communities.max(initial=0)) + 1
        pairs = np.bincount(
            labels.astype(np.int64) * n_communities + communities,
            minlength=n_segments * n_communities,
        ).reshape(n_segments, n_communities)
        total += (pairs.astype(np.float64) ** 2).sum(axis=1)
    return np.asarray(total / (np.maximum(sizes, 1) ** 2 * len(tried)), np.float32)


def bin_of(confidence: Array) -> Array:
    """uint8, of the shape of `confidence`: which of N_BINS equal steps; 1 is in the last."""
    return np.minimum((confidence * N_BINS).astype(np.uint8), np.uint8(N_BINS - 1))


def binned(bins: Array, mask: Array, truth: Array, shape: tuple[int, int]) -> Array:
    """int32 (n, 4): rows (bin, cluster, class, pixels) of one image; only those with pixels.

    bins: uint8 (H, W) of `bin_of`; mask: uint8 (H, W) cluster or IGNORE; truth: uint8 (H, W)
    class or IGNORE; shape: (K, C). Pixels without a label or a true class are left out.
    """
    from datus.compute.compiled import triple_counts

    pixels = triple_counts(bins, mask, truth, (N_BINS, *shape))
    cells = np.nonzero(pixels)
    return np.stack((*cells, pixels[cells]), axis=1).astype(np.int32)


def kept_counts(rows: Array, unlabelled: Array) -> Array:
    """int64 (N_BINS, K + 1, C): the confusion counts if only pixels of bin b or above keep a label.

    rows: int64 (N_BINS, K, C) pixels by bin, cluster and class; unlabelled: int64 (C,) pixels that
    have no label to begin with. The last row of each counts the pixels without a label.
    """
    kept = rows[::-1].cumsum(axis=0)[::-1]
    dropped = kept[:1].sum(axis=1) - kept.sum(axis=1) + unlabelled
    return np.concatenate([kept, dropped[:, None]], axis=1)

"""Communities -> connected segments in canonical order (paper III-C).

In:  communities int32 (N,) of one image and its patch grid (gh, gw).
Out: SegmentMap: every community split into its 8-connected parts, numbered in raster order of first
     patch, with sizes and tight boxes in patches.
"""

import numpy as np
from skimage.measure import label

from datus.records import Array, SegmentMap


def split(communities: Array, grid: tuple[int, int], modularity: float) -> SegmentMap:
    """Every patch belongs to exactly one segment; touching corners connect (8-neighbourhood)."""
    community_grid = communities.reshape(grid)
    # background=-1: by default skimage drops community 0
    parts = label(community_grid, background=-1, connectivity=2)
    _, first, flat = np.unique(parts, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    labels = rank[flat.reshape(grid)]
    n_segments = len(first)
    return SegmentMap(
        labels=labels,
        community=communities[np.sort(first)].astype(np.int32),
        n_patches=np.bincount(labels.ravel(), minlength=n_segments).astype(np.int32),
        boxes=_boxes(labels, n_segments),
        modularity=modularity,
    )


def _boxes(labels: Array, n_segments: int) -> Array:
    """int32 (S, 4): tight (top, left, bottom, right) of each segment, half-open."""
    rows, columns = np.indices(labels.shape)
    boxes = np.empty((n_segments, 4), np.int32)
    for side, places in ((0, rows), (1, columns)):
        low = np.full(n_segments, np.iinfo(np.int32).max, np.int32)
        high = np.full(n_segments, -1, np.int32)
        np.minimum.at(low, labels.ravel(), places.ravel().astype(np.int32))
        np.maximum.at(high, labels.ravel(), places.ravel().astype(np.int32))
        boxes[:, side], boxes[:, side + 2] = low, high + 1
    return boxes

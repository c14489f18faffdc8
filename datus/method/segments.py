"""Communities -> connected segments in canonical order (paper III-C).

In:  communities int32 (N,) of one image and its patch grid (gh, gw).
Out: SegmentMap: every community split into its 8-connected parts, numbered in raster order of first
     patch, with sizes and tight boxes in patches.
"""

import numpy as np

from datus.types import Array, SegmentMap


def split(communities: Array, grid: tuple[int, int], modularity: float) -> SegmentMap:
    """Every patch belongs to exactly one segment; touching corners connect (8-neighbourhood)."""
    from datus.compute.compiled import connected_parts

    community_grid = np.ascontiguousarray(communities.reshape(grid), np.int32)
    labels, n_patches, boxes = connected_parts(community_grid)
    # a segment begins where the label is greater than all before
    first = np.flatnonzero(np.diff(np.maximum.accumulate(labels.ravel()), prepend=-1))
    return SegmentMap(
        labels=labels,
        community=community_grid.ravel()[first],
        n_patches=n_patches,
        boxes=boxes,
        modularity=modularity,
    )

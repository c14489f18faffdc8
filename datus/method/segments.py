"""Communities -> connected segments in canonical order (paper III-C).

In:  communities int32 (N,) of one image and its patch grid (gh, gw).
Out: SegmentMap: every community split into its 8-connected parts, numbered in raster order of first
     patch, with sizes and tight boxes in patches.
"""

import numpy as np

from datus.types import Array, SegmentMap


def split(communities: Array, grid: tuple[int, int], modularity: float) -> SegmentMap:
    """Every patch belongs to exactly one segment; touching corners connect (8-neighbourhood).

    communities: int32 (N,), 0 or more, row by row; modularity: of the partition, passed on.
    """
    from scipy.ndimage import find_objects
    from skimage.measure import label

    community_grid = communities.reshape(grid)
    # without `background` patches of community 0 would be in no segment
    numbers = label(community_grid, background=-1, connectivity=2)
    labels = (numbers - 1).astype(np.int32)
    # a segment begins where the label is greater than all before
    first = np.flatnonzero(np.diff(np.maximum.accumulate(labels.ravel()), prepend=-1))
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in find_objects(numbers)]
    return SegmentMap(
        labels=labels,
        community=communities[first].astype(np.int32),
        n_patches=np.bincount(labels.ravel()).astype(np.int32),
        boxes=np.array(boxes, np.int32),
        modularity=modularity,
    )

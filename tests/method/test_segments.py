"""Communities to connected segments, against a flood fill."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datus.method.segments import split
from datus.types import Array


def flood_fill(grid: Array) -> Array:
    labels = np.full(grid.shape, -1, np.int32)
    n_labels = 0
    for start in np.ndindex(grid.shape):
        if labels[start] >= 0:
            continue
        waiting = [start]
        while waiting:
            row, column = waiting.pop()
            if labels[row, column] >= 0:
                continue
            labels[row, column] = n_labels
            for r in range(max(0, row - 1), min(grid.shape[0], row + 2)):
                for c in range(max(0, column - 1), min(grid.shape[1], column + 2)):
                    if grid[r, c] == grid[start] and labels[r, c] < 0:
                        waiting.append((r, c))
        n_labels += 1
    return labels


def test_hand_made_grid() -> None:
    communities = np.array(
        [
            [0, 0, 1, 1],
            [0, 1, 2, 0],  # 1 touches the 1s above by a corner; the 0s on the right stand apart
            [2, 2, 2, 0],
        ]
    )
    found = split(communities.ravel(), (3, 4), 0.25)
    np.testing.assert_array_equal(found.labels, [[0, 0, 1, 1], [0, 1, 2, 3], [2, 2, 2, 3]])
    np.testing.assert_array_equal(found.community, [0, 1, 2, 0])
    np.testing.assert_array_equal(found.n_patches, [3, 3, 4, 2])
    np.testing.assert_array_equal(found.boxes[0], (0, 0, 2, 2))
    np.testing.assert_array_equal(found.boxes[1], (0, 1, 2, 4))
    np.testing.assert_array_equal(found.boxes[2], (1, 0, 3, 3))
    assert found.modularity == 0.25


def test_community_zero_is_not_lost() -> None:
    found = split(np.zeros(12, np.int32), (3, 4), 0.0)
    assert found.n_segments == 1
    assert found.n_patches[0] == 12


def test_a_long_snake_is_one_segment() -> None:
    grid = np.ones((41, 41), np.int32)
    grid[1::4, :-1] = grid[3::4, 1:] = 0  # walls with a gap at alternating ends
    found = split(grid.ravel(), grid.shape, 0.0)
    assert found.n_patches[0] == grid.sum()
    assert found.n_segments == 1 + 20
    np.testing.assert_array_equal(found.boxes[0], (0, 0, 41, 41))
    np.testing.assert_array_equal(found.labels >= 1, grid == 0)


@given(
    hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.integers(0, 3),
    )
)
def test_equals_flood_fill(grid: Array) -> None:
    found = split(grid.ravel(), grid.shape, 0.0)
    np.testing.assert_array_equal(found.labels, flood_fill(grid))
    assert found.n_patches.sum() == grid.size
    for segment, (top, left, bottom, right) in enumerate(found.boxes.tolist()):
        inside = found.labels == segment
        rows, columns = np.nonzero(inside)
        assert (top, left) == (rows.min(), columns.min())
        assert (bottom, right) == (rows.max() + 1, columns.max() + 1)
        assert set(grid[inside].tolist()) == {int(found.community[segment])}

"""Mean keys of places, against loops over images and patches."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus import centering
from datus.centering import (
    GRID,
    KeySums,
    add,
    dataset_mean,
    key_sums,
    position_mean,
    position_share,
    resample,
    without,
)
from datus.records import Array


def triangle(place: int, n_out: int, n_in: int, at: int) -> float:
    centre = min(max((place + 0.5) * n_in / n_out - 0.5, 0), n_in - 1)
    return max(0.0, 1 - abs(centre - at) / max(1.0, n_in / n_out))


def slow_resample(grid: Array, shape: tuple[int, int]) -> Array:
    """Each output is the mean of inputs under a triangle around its centre."""
    out = np.zeros((*shape, grid.shape[2]))
    rows, columns = grid.shape[:2]
    for y, x in np.ndindex(shape):
        total = 0.0
        for i, j in np.ndindex(rows, columns):
            weight = triangle(y, shape[0], rows, i) * triangle(x, shape[1], columns, j)
            out[y, x] += weight * grid[i, j]
            total += weight
        out[y, x] /= total
    return out


@given(
    seed=st.integers(0, 10**6),
    sides=st.tuples(*[st.integers(1, 6)] * 4),
)
def test_resample_equals_the_loop(seed: int, sides: tuple[int, int, int, int]) -> None:
    grid = np.random.default_rng(seed).normal(size=(*sides[:2], 3))
    np.testing.assert_allclose(resample(grid, sides[2:]), slow_resample(grid, sides[2:]))


def test_same_shape_is_untouched_and_constants_stay() -> None:
    grid = np.random.default_rng(0).normal(size=(5, 7, 2))
    np.testing.assert_array_equal(resample(grid, (5, 7)), grid)
    np.testing.assert_allclose(resample(np.ones((3, 4, 2)), (9, 5)), 1.0)


def frames(n_images: int, place: float, noise: float) -> list[Array]:
    rng = np.random.default_rng(1)
    by_place = place * rng.normal(size=(GRID, GRID, 4))
    return [by_place + noise * rng.normal(size=by_place.shape) for _ in range(n_images)]


def test_means_equal_numpy_means() -> None:
    images = frames(5, 1.0, 1.0)
    sums = add([key_sums(image) for image in images])
    np.testing.assert_allclose(position_mean(sums), np.mean(images, axis=0), atol=1e-6)
    np.testing.assert_allclose(dataset_mean(sums)[0, 0], np.mean(images, axis=(0, 1, 2)), atol=1e-6)


def test_keys_without_the_position_mean_have_mean_zero_at_each_place() -> None:
    images = frames(6, 3.0, 1.0)
    mean = position_mean(add([key_sums(image) for image in images]))
    left = [without(image, mean) for image in images]
    assert left[0].dtype == np.float32
    np.testing.assert_allclose(np.mean(left, axis=0), 0.0, atol=1e-5)


@pytest.mark.parametrize(("place", "noise", "expected"), [(0, 1, 0.0), (1, 0, 1.0), (1, 1, 0.5)])
def test_position_share(place: float, noise: float, expected: float) -> None:
    share = position_share(add([key_sums(image) for image in frames(12, place, noise)]))
    assert share == pytest.approx(expected, abs=0.02)


def test_position_share_of_one_image_or_of_nothing_is_zero() -> None:
    image = frames(1, 1.0, 1.0)[0]
    assert position_share(key_sums(image)) == 0.0
    flat = KeySums(np.zeros((GRID, GRID, 4)), 0.0, 5)
    assert position_share(flat) == 0.0


def test_sums_of_two_sets_add_up() -> None:
    images = [image[:9, :13] for image in frames(4, 1.0, 1.0)]
    parts = [key_sums(image) for image in images]
    whole, halves = add(parts), add([add(parts[:2]), add(parts[2:])])
    np.testing.assert_allclose(whole.keys, halves.keys)
    assert whole.n_images == halves.n_images == 4
    assert whole.squares == pytest.approx(halves.squares)


@pytest.mark.parametrize(
    ("n_images", "place", "expected"), [(12, 3, "position"), (12, 0.3, "image"), (7, 3, "image")]
)
def test_auto_takes_position_where_it_explains_most_and_images_are_many(
    n_images: int, place: float, expected: str
) -> None:
    sums = add([key_sums(image) for image in frames(n_images, place, 1.0)])
    assert centering.best_center(sums) == expected


def test_parts_are_added_one_at_a_time() -> None:
    """A shard's sums are a megabyte; all of them would fill the memory of a long run."""
    alive: list[weakref.ref[KeySums]] = []
    most = 0

    class Watched(KeySums):
        __slots__ = ("__weakref__",)

    def parts() -> Iterator[KeySums]:
        nonlocal most
        for number in range(6):
            part = Watched(np.full((2, 2, 1), 0.1 * number), 0.1 * number, 1)
            alive.append(weakref.ref(part))
            most = max(most, sum(one() is not None for one in alive))
            yield part
            del part

    found = add(parts())
    assert most <= 2
    whole = add([KeySums(np.full((2, 2, 1), 0.1 * n), 0.1 * n, 1) for n in range(6)])
    assert found.keys.tobytes() == whole.keys.tobytes()
    assert (found.squares, found.n_images) == (whole.squares, 6)


def test_nothing_to_add_is_said() -> None:
    with pytest.raises(ValueError, match=r"^nothing to add: expected at least one KeySums$"):
        add(iter(()))

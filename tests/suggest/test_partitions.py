"""Figures of partitions against slow references and values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.suggest.stability import (
    agreement,
    between,
    beyond_place,
    centroid_silhouette,
    cloud,
    directions,
    mean_kurtosis,
    nearest,
    rows_of_images,
    silhouette,
)
from datus.types import Array

labels = st.lists(st.integers(0, 4), min_size=2, max_size=30)


def slow_silhouette(view: Array, mine: Array) -> float:
    """Rousseeuw's definition, point by point."""
    shares = []
    for i, group in enumerate(mine):
        to = {
            g: [math.dist(view[i], view[j]) for j in range(len(mine)) if mine[j] == g and j != i]
            for g in set(mine.tolist())
        }
        if not to[group]:
            shares.append(0.0)
            continue
        a = np.mean(to[group])
        b = min(np.mean(to[g]) for g in to if g != group)
        shares.append((b - a) / max(a, b))
    return float(np.mean(shares))


@given(labels, st.permutations(range(5)))
def test_names_of_clusters_do_not_matter(one: list[int], names: list[int]) -> None:
    assert agreement(np.array(one), np.array(names)[one]) == 1.0


def test_agreement_matches_one_to_one() -> None:
    one = np.array([0, 0, 0, 1, 1, 2])
    other = np.array([5, 5, 3, 3, 3, 3])  # 0 -> 5 and 1 -> 3; 2 has none left
    assert agreement(one, other) == pytest.approx(4 / 6)


@pytest.mark.parametrize("seed", range(5))
def test_silhouettes_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    view, mine = rng.normal(size=(25, 3)), rng.integers(4, size=25)
    mine[mine == 3] = np.where(np.arange((mine == 3).sum()) == 0, 3, 0)  # one stands alone
    assert silhouette(view, mine) == pytest.approx(slow_silhouette(view, mine))


def test_silhouettes_of_four_places_on_a_line() -> None:
    view = np.array([[0.0], [1.0], [10.0], [11.0]])
    mine = np.array([0, 0, 1, 1])
    outer, inner = (10.5 - 1) / 10.5, (9.5 - 1) / 9.5
    assert silhouette(view, mine) == pytest.approx((outer + inner) / 2)
    near, left = centroid_silhouette(view, mine)  # means at 0.5 and 10.5
    assert near == pytest.approx(((10.5 - 0.5) / 10.5 + (9.5 - 0.5) / 9.5) / 2)
    assert left == pytest.approx(4 * 0.25 / (2 * 5.5**2 + 2 * 4.5**2))


def test_a_single_cluster_has_no_silhouette() -> None:
    view = np.array([[0.0], [1.0], [2.0]])
    assert silhouette(view, np.zeros(3, int)) == 0.0
    assert centroid_silhouette(view, np.zeros(3, int)) == (0.0, 1.0)
    assert centroid_silhouette(np.ones((3, 2)), np.zeros(3, int)) == (0.0, 0.0)


def test_equal_vectors_in_two_clusters_have_no_silhouette() -> None:
    assert silhouette(np.ones((4, 2)), np.array([0, 0, 1, 1])) == 0.0
    assert centroid_silhouette(np.ones((4, 2)), np.array([0, 0, 1, 1])) == (0.0, 0.0)


def test_between_is_all_or_nothing() -> None:
    values = np.array([[1.0], [1.0], [3.0], [3.0]])
    assert between(values, np.array([7, 7, 9, 9])) == 1.0
    assert between(np.ones((4, 2)), np.array([0, 0, 1, 1])) == 0.0
    assert between(values, np.arange(4)) == 0.0  # a group each says nothing
    assert between(values, np.zeros(4, int)) == 0.0
    # whole 4, between 0: less the 1 x 4 / 2 that two groups explain by lot
    assert between(values, np.array([0, 1, 0, 1])) == pytest.approx(-0.5)


def test_groups_by_lot_explain_nothing() -> None:
    rng = np.random.default_rng(3)
    found = [between(rng.normal(size=(300, 4)), rng.integers(20, size=300)) for _ in range(40)]
    assert np.mean(found) == pytest.approx(0.0, abs=0.005)


def test_what_the_place_says_is_taken_out() -> None:
    rng = np.random.default_rng(4)
    layout, noise, image = rng.random((400, 5)), rng.normal(size=(400, 2)), np.arange(400) % 40
    from_place = np.stack([layout[:, 0] ** 2 - layout[:, 1] * layout[:, 2], 3 * layout[:, 4]], 1)
    rest, share = beyond_place(from_place, layout, image)
    assert share > 0.97
    assert between(rest, image) == pytest.approx(0.0, abs=0.06)
    steps = np.sign(layout[:, :2] - 0.5)  # no quadratic
    assert beyond_place(steps, layout, image)[1] > 0.6
    rest, share = beyond_place(noise, layout, image)
    assert share == pytest.approx(0.0, abs=0.06)


def test_what_images_differ_in_stays() -> None:
    rng = np.random.default_rng(5)
    image = np.arange(300) % 30
    own = rng.normal(size=(30, 4))[image]
    layout = rng.random((300, 5))
    rest, _ = beyond_place(own + layout[:, :4], layout, image)
    assert between(rest, image) > 0.8
    rest, _ = beyond_place(rng.normal(size=(300, 4)) + 3 * layout[:, :4], layout, image)
    assert between(rest, image) < 0.03


def test_copies_of_an_image_leave_nothing() -> None:
    rng = np.random.default_rng(6)
    places, layout = np.tile(rng.normal(size=(8, 4)), (20, 1)), np.tile(rng.random((8, 5)), (20, 1))
    rest, share = beyond_place(places, layout, np.repeat(np.arange(20), 8))
    assert share == pytest.approx(1.0)
    np.testing.assert_allclose(rest, 0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_segments_of_one_image_stay_as_they_are(n: int) -> None:
    values = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.7]])[:n]
    rest, share = beyond_place(values, np.random.default_rng(0).random((n, 5)), np.zeros(n, int))
    np.testing.assert_allclose(rest, values - values.mean(axis=0))
    assert share == pytest.approx(0.0)


def test_kurtosis_of_known_clouds() -> None:
    rng = np.random.default_rng(7)
    assert mean_kurtosis(rng.normal(size=(20_000, 3))) == pytest.approx(0.0, abs=0.1)
    assert mean_kurtosis(rng.laplace(size=(200_000, 1))) == pytest.approx(3.0, abs=0.3)
    assert mean_kurtosis(np.repeat([[1.0], [-1.0]], 50, axis=0)) == pytest.approx(-2.0)
    assert mean_kurtosis(np.ones((5, 2))) == 0.0


def test_clouds_have_the_mean_and_covariance() -> None:
    rng = np.random.default_rng(5)
    places = rng.normal(size=(4000, 3)) @ np.array([[2, 0, 1], [0, 1, 0], [0, 0, 0.1]]) + 7
    made = cloud(places.astype(np.float32), rng)
    assert (made.dtype, made.shape) == (np.float32, places.shape)
    np.testing.assert_allclose(np.cov(made.T), np.cov(places.T), atol=0.3)
    np.testing.assert_allclose(made.mean(axis=0), places.mean(axis=0), atol=0.1)


def test_a_single_column_has_a_cloud_too() -> None:
    made = cloud(np.tile(np.float32([[1.0], [3.0]]), (2000, 1)), np.random.default_rng(0))
    assert [made.mean(), made.std()] == pytest.approx([2.0, 1.0], abs=0.05)


def test_whole_images_are_drawn() -> None:
    image = np.array([0, 1, 1, 2, 2, 2, 0])
    rng = np.random.default_rng(6)
    for _ in range(20):
        counts = np.bincount(rows_of_images(image, rng), minlength=7)
        assert counts[0] == counts[6]
        assert counts[1] == counts[2]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3


def test_directions_have_length_one() -> None:
    places = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(directions(places, True), [[0.6, 0.8], [0, 0]], atol=1e-7)
    np.testing.assert_array_equal(directions(places, False), places)


@given(st.integers(0, 10_000))
def test_nearest_is_the_nearest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(4, 3)).astype(np.float32)
    places = rng.normal(size=(9, 3)).astype(np.float32)
    slow = [int(np.argmin([math.dist(x, c) for c in centroids])) for x in places]
    assert nearest(centroids, places).tolist() == slow

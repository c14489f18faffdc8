"""Figures of K on clouds whose groups are known, with a small k-means of our own."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.errors import ClusterError
from datus.method.verdict import STABILITY, KFigures, Measured, Overview
from datus.suggest.stability import (
    COMES_BACK,
    FIGURES,
    Points,
    StabilitySettings,
    agreement,
    between,
    beyond_place,
    centroid_silhouette,
    cloud,
    directions,
    layout_of,
    make_points,
    mean_kurtosis,
    measure,
    nearest,
    overview,
    rows_of_images,
    silhouette,
    usable_k,
)
from datus.types import Array

QUICK = StabilitySettings(starts=2, repeats=3, clouds=4, cloud_repeats=1, pairs=200)


def lloyd(places: Array, k: int, starts: int, seed: int) -> Array:
    """Plain k-means, the best of some starts. Raises ClusterError where a cluster stays empty."""
    rng, best, found = np.random.default_rng(seed), np.inf, None
    for _ in range(starts):
        centroids = places[rng.permutation(len(places))[:k]].astype(np.float64)
        for _ in range(15):
            mine = nearest(centroids, places)
            if np.bincount(mine, minlength=k).min() == 0:
                break
            centroids = np.stack([places[mine == one].mean(axis=0) for one in range(k)])
        else:
            left = float(((places - centroids[mine]) ** 2).sum())
            if left < best:
                best, found = left, centroids
    if found is None:
        raise ClusterError("a cluster is empty")
    return found.astype(np.float32)


def blobs(k: int, n: int = 240, spread: float = 0.05, seed: int = 0) -> Points:
    """`k` groups in the corners of a simplex, spread over 20 images."""
    rng = np.random.default_rng(seed)
    places = np.eye(k, 6)[np.arange(n) % k] + rng.normal(scale=spread, size=(n, 6))
    return make_points(places.astype(np.float32), np.arange(n) // 12, rng.random((n, 5)), False)


def cloud_of(n: int = 240, seed: int = 0) -> Points:
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(n, 6)) * [3, 2, 1, 1, 1, 0.5]
    return make_points(places.astype(np.float32), np.arange(n) // 12, rng.random((n, 5)), False)


def test_true_groups_come_back_and_are_far_above_chance() -> None:
    found = measure(blobs(4), 4, lloyd, 0, QUICK)
    assert set(found.real) == set(found.chance) == set(FIGURES)
    assert found.real["segments"].mean == found.real["images"].mean == 1.0
    assert found.real["silhouette"].mean > 0.8
    assert found.real["unexplained"].mean < 0.05
    assert found.real["agreement"].mean > 0.7
    assert found.excess("silhouette") > 0.4
    assert found.sure("silhouette")
    assert found.gap > 1


def test_stability_is_the_mean_of_its_three_parts() -> None:
    found = measure(blobs(4, spread=0.6), 3, lloyd, 0, QUICK)
    parts = [found.real[name].mean for name in COMES_BACK]
    assert found.real[STABILITY].mean == pytest.approx(np.mean(parts))
    assert found.real[STABILITY].sd > 0


def test_another_k_than_the_true_one_stands_out_less() -> None:
    at = {k: measure(blobs(4), k, lloyd, 0, QUICK).excess(STABILITY) for k in (3, 4, 6)}
    assert at[4] > max(at[3], at[6])


def test_a_cloud_is_no_better_than_chance() -> None:
    """Each figure is above what one of 40 clouds reaches, so a few of 2 x 15 may be."""
    surely = 0
    for seed in range(15):
        found = measure(cloud_of(seed=seed), 4, lloyd, seed, QUICK)
        surely += found.sure(STABILITY) + found.sure("silhouette")
    assert surely <= 4


def test_the_same_seed_gives_the_same_figures() -> None:
    points = blobs(4, spread=0.6)
    one, other = (measure(points, 4, lloyd, 7, QUICK) for _ in range(2))
    assert one == other
    assert one != measure(points, 4, lloyd, 8, QUICK)


def test_a_resample_that_lacks_clusters_did_not_come_back() -> None:
    points = blobs(3, n=12)

    def fit(places: Array, k: int, starts: int, seed: int) -> Array:
        if len(np.unique(places, axis=0)) < len(points.places):
            raise ClusterError("too few")
        return lloyd(places, k, starts, seed)

    found = measure(points, 3, fit, 0, QUICK)
    assert found.real["segments"].mean == 0.0


def test_k_means_that_fails_is_said() -> None:
    def fit(places: Array, k: int, starts: int, seed: int) -> Array:
        raise ClusterError("no")

    with pytest.raises(ClusterError, match="no"):
        measure(blobs(3), 3, fit, 0, QUICK)


def test_spherical_points_are_seen_as_directions() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(30, 4)).astype(np.float32)
    points = make_points(places, np.arange(30), rng.random((30, 5)), True)
    np.testing.assert_allclose(np.linalg.norm(points.view, axis=1), 1)
    assert points.places is places


def test_layout_is_in_shares_of_the_image() -> None:
    boxes = np.array([[0, 0, 4, 5], [0, 5, 2, 10]])
    found = layout_of((4, 10), boxes, np.array([20, 10]))
    np.testing.assert_allclose(found, [[0.5, 0.25, 1, 0.5, 0.5**0.5], [0.25, 0.75, 0.5, 0.5, 0.5]])
    assert layout_of((4, 10), boxes[:0], np.zeros(0, int)).shape == (0, 5)


def test_overview_counts() -> None:
    rng = np.random.default_rng(1)
    places = np.repeat(rng.normal(size=(50, 4)), 2, axis=0).astype(np.float32)
    points = make_points(places, np.arange(100) // 5 + 7, rng.random((100, 5)), False)
    seen = overview(points)
    assert (seen.n_images, seen.n_segments, seen.n_different) == (20, 100, 50)
    assert seen.place_share == pytest.approx(0.0, abs=0.25)


def test_minus_zero_is_no_other_segment() -> None:
    places = np.array([[1, -1e-6], [1, 1e-6], [0, 1]], np.float32)
    assert overview(make_points(places, np.arange(3), np.zeros((3, 5)), False)).n_different == 2


def test_usable_k_has_three_different_segments_a_cluster() -> None:
    seen = Overview(9, 100, 30, 0.5, 0.2, 1.5)
    assert usable_k(seen, [12, 10, 2, 1, 10, 11]) == [2, 10]
    assert usable_k(dataclasses.replace(seen, n_different=5), [2, 3]) == []


def test_sure_is_far_above_the_clouds() -> None:
    chance = {"silhouette": Measured(0.2, 0.01)}
    assert KFigures(4, {"silhouette": Measured(0.229)}, chance).sure("silhouette")
    assert not KFigures(4, {"silhouette": Measured(0.227)}, chance).sure("silhouette")


# --- figures of a partition ----------------------------------------------------------------------

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

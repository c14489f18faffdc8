"""Figures of K on clouds whose groups are known, with a small k-means of our own."""

import dataclasses

import numpy as np
import pytest

from datus.errors import ClusterError
from datus.method.verdict import STABILITY, KFigures, Measured, Overview
from datus.suggest.stability import (
    COMES_BACK,
    FIGURES,
    Points,
    TrustSettings,
    layout_of,
    make_points,
    measure,
    nearest,
    overview,
    usable_k,
)
from datus.types import Array

QUICK = TrustSettings(starts=2, repeats=3, clouds=4, cloud_repeats=1, pairs=200)


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


def test_no_segment_is_an_error() -> None:
    with pytest.raises(ClusterError) as caught:
        make_points(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros((0, 5)), True)
    assert str(caught.value) == (
        "no image gave a valid segment, so there is nothing to judge: lower embeddings.min_patches"
    )


def test_usable_k_has_three_different_segments_a_cluster() -> None:
    seen = Overview(9, 100, 30, 0.5, 0.2, 1.5)
    assert usable_k(seen, [12, 10, 2, 1, 10, 11]) == [2, 10]
    assert usable_k(dataclasses.replace(seen, n_different=5), [2, 3]) == []


def test_sure_is_far_above_the_clouds() -> None:
    chance = {"silhouette": Measured(0.2, 0.01)}
    assert KFigures(4, {"silhouette": Measured(0.229)}, chance).sure("silhouette")
    assert not KFigures(4, {"silhouette": Measured(0.227)}, chance).sure("silhouette")

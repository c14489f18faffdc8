"""Which segments a person labelled, and the clusters beside them, against slow references."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.config import ClustersConfig
from datus.errors import ClusterError
from datus.method.clusters import assign
from datus.method.constrained_kmeans import class_centroids, fit_free, label_segments, on_sphere
from datus.types import ClusterModel, SegmentEmbeddings

PLAIN = ClustersConfig(k=(3,), spherical=False, pca=0, restarts=4)
ROUND = replace(PLAIN, spherical=True)


# --- segments -----------------------------------------------------------------------------------


def test_a_segment_needs_more_than_half_of_its_pixels() -> None:
    segment = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 3]])
    labels = np.array([[7, 7, 4, 4], [7, 255, 255, 255], [4, 7, 7, 255]], np.uint8)
    fixed, counts = label_segments(segment, labels, 4, 9, 0.5)
    np.testing.assert_array_equal(fixed, [7, -1, 7, -1])  # the second: just half
    assert fixed.dtype == np.int16
    assert (counts[0, 7], counts[1, 4], counts[2, 4], counts[2, 7]) == (3, 2, 1, 2)
    assert counts.sum() == 8
    fixed, _ = label_segments(segment, labels, 4, 9, 0.7)
    np.testing.assert_array_equal(fixed, [7, -1, -1, -1])


@given(st.integers(0, 10**6), st.floats(0.5, 0.99))
def test_labels_of_segments_are_those_of_a_slow_count(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    segment = rng.integers(0, 4, (5, 6))
    labels = rng.choice(np.array([0, 0, 0, 1, 255], np.uint8), (5, 6))
    fixed, counts = label_segments(segment, labels, 5, 2, share)  # the last segment has no pixel
    for one in range(5):
        here = labels[segment == one]
        covered = [label for label in (0, 1) if (here == label).sum() > share * here.size]
        assert fixed[one] == (covered[0] if covered else -1)
        assert counts[one].tolist() == [(here == 0).sum(), (here == 1).sum()]


def test_centroids_of_classes_are_weighted_means() -> None:
    places = np.array([[1, 0], [3, 0], [0, 4]], np.float32)
    weights = np.array([[1.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    found = class_centroids(places, weights, spherical=False)
    np.testing.assert_allclose(found, [[2, 0], [0, 4], [4 / 3, 4 / 3]], rtol=1e-6)
    found = class_centroids(places, weights, spherical=True)
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [0.5**0.5, 0.5**0.5]], rtol=1e-6)


# --- clusters -----------------------------------------------------------------------------------


def blobs(seed: int = 0) -> Any:
    """float32 (60, 3): three directions."""
    rng = np.random.default_rng(seed)
    places = np.repeat(np.eye(3), 20, axis=0) + rng.normal(0, 0.05, (60, 3))
    return on_sphere(places)


@pytest.mark.parametrize("settings", [PLAIN, ROUND], ids=["plain", "spherical"])
def test_free_clusters_find_what_nobody_labelled(settings: ClustersConfig) -> None:
    places = blobs()
    free, inertia, _ = fit_free(places, places[:2], 2, settings, 0)
    assert free.dtype == np.float32
    assert sorted(free.argmax(axis=1).tolist()) == [1, 2]  # direction 0 has labels
    for one in free.argmax(axis=1).tolist():
        mean = places[20 * one : 20 * one + 20].mean(axis=0)
        expected = on_sphere(mean[None])[0] if settings.spherical else mean
        np.testing.assert_allclose(free[free.argmax(axis=1) == one][0], expected, atol=1e-6)
    every = np.concatenate([places[:2], free])
    slow = ((places[:, None] - every[None]) ** 2).sum(axis=2).min(axis=1).sum()
    assert inertia == pytest.approx(slow, rel=1e-4)


def test_same_seed_same_bytes_on_any_threads() -> None:
    places = blobs()
    runs = [fit_free(places, places[:1], 2, ROUND, 3, n_threads=n) for n in (1, 3)]
    assert runs[0][0].tobytes() == runs[1][0].tobytes()
    assert runs[0][1:] == runs[1][1:]


def test_no_free_cluster_is_no_work() -> None:
    places = blobs()
    free, inertia, _ = fit_free(places, places, 0, ROUND, 0)
    assert free.shape == (0, 3)
    assert inertia == pytest.approx(0, abs=1e-4)
    free, inertia, _ = fit_free(places[:0], places, 0, ROUND, 0)
    assert (free.shape, inertia) == ((0, 3), 0.0)


def test_nothing_left_to_cluster_is_said() -> None:
    places = blobs()
    for rest in (places[:0], places[:1], np.repeat(places[:1], 5, axis=0)):
        with pytest.raises(ClusterError) as error:
            fit_free(rest, places[1:2], 3, ROUND, 0)
        assert str(error.value) == (
            f"the corrections leave {len(rest)} segments without a label, too few or too alike for "
            "3 clusters beside the corrected classes: use fewer --clusters"
        )


# --- assignment ---------------------------------------------------------------------------------


def model(labelled: Any, classes: list[int], free: Any, names: tuple[str, ...]) -> ClusterModel:
    centroids = np.concatenate([np.zeros((len(names), 3)), free]).astype(np.float32)
    none = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    label = np.array(classes, np.int16)
    return ClusterModel(centroids, *none, 0.0, 9, 0, "", centroids[None], names, labelled, label)


@given(st.integers(0, 10**6))
def test_the_nearest_labelled_segment_decides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labelled = on_sphere(rng.normal(size=(70, 3)))  # more than one chunk
    classes = rng.integers(0, 2, 70).tolist()  # nothing of class 2
    free = on_sphere(rng.normal(size=(2, 3)))
    vectors = on_sphere(rng.normal(size=(6, 3)))
    made = model(labelled, classes, free, ("a", "b", "c"))
    valid = np.array([True] * 5 + [False])
    found = assign(made, SegmentEmbeddings(vectors, valid))
    assert found.cluster[5] == -1
    for vector, cluster, margin in zip(vectors[:5], found.cluster, found.margin, strict=False):
        distances = [np.inf] * 3
        for one, label in zip(labelled, classes, strict=True):
            distances[label] = min(distances[label], float(np.linalg.norm(vector - one)))
        distances += [float(np.linalg.norm(vector - one)) for one in free]
        assert cluster == int(np.argmin(distances))
        first, second = sorted(distances)[:2]
        assert margin == pytest.approx(1 - first / second, abs=1e-4)
    again = assign(made, SegmentEmbeddings(labelled, np.ones(70, bool)))
    assert again.cluster.tolist() == classes  # labelled segments stay where they are
    assert (again.margin == 1).all()

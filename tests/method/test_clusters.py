"""k-means and assignment, against planted groups, numpy's SVD and plain loops."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datus.config import ClustersConfig
from datus.errors import ClusterError
from datus.method import clusters
from datus.method.clusters import assign, fit_clusters, votes
from datus.method.faiss_library import faiss_library, load_faiss
from datus.types import Array, ClusterModel, SegmentEmbeddings

PLAIN = ClustersConfig(pca=0, spherical=False, restarts=3)
SPHERE = replace(PLAIN, spherical=True)


def unit(vectors: Array) -> Array:
    rows: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows.astype(np.float32)


def planted(n_groups: int, n_each: int, size: int, seed: int = 0) -> tuple[Array, Array]:
    """Unit vectors (n_groups * n_each, size) around random directions, shuffled; their groups."""
    rng = np.random.default_rng(seed)
    middles = unit(rng.normal(size=(n_groups, size)))
    group = rng.permutation(np.repeat(np.arange(n_groups), n_each))
    return unit(middles[group] + 0.05 * rng.normal(size=(len(group), size))), group


def embeddings_of(vectors: Array, valid: Array | None = None) -> SegmentEmbeddings:
    return SegmentEmbeddings(
        vectors=vectors, valid=np.ones(len(vectors), bool) if valid is None else valid
    )


def model_of(centroids: list[list[float]]) -> ClusterModel:
    return ClusterModel(
        centroids=np.array(centroids, np.float32),
        pca_mean=np.zeros(0, np.float32),
        pca_axes=np.zeros((0, 0), np.float32),
        inertia=0.0,
        n_trained=1,
        seed=0,
        library="none",
        restart_centroids=np.array([centroids], np.float32),
    )


def same_groups(first: Array, second: Array) -> bool:
    """The two labellings agree up to the numbering."""
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))


def bytes_of(model: ClusterModel) -> bytes:
    return b"".join(a.tobytes() for a in (model.centroids, model.pca_mean, model.pca_axes))


# --- training ---


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("pca", [0, -1, 6])
def test_planted_groups_are_recovered(spherical: bool, pca: int) -> None:
    vectors, group = planted(5, 40, 24)
    chosen = replace(PLAIN, spherical=spherical, pca=pca, restarts=10)
    model = fit_clusters(vectors, 5, chosen, seed=0)
    assert same_groups(assign(model, embeddings_of(vectors)).cluster, group)
    assert model.n_trained == 200
    assert model.library == faiss_library()


@pytest.mark.parametrize("pca", [0, -1, 6])
def test_spherical_centroids_have_length_one(pca: int) -> None:
    vectors, _ = planted(5, 40, 24)
    model = fit_clusters(vectors, 5, replace(SPHERE, pca=pca), seed=0)
    np.testing.assert_allclose(np.linalg.norm(model.centroids, axis=1), 1, rtol=1e-6)


def test_every_vector_is_used_not_a_sample() -> None:
    vectors, _ = planted(3, 1000, 4)  # FAISS alone would take 256 vectors for one cluster
    model = fit_clusters(vectors, 1, PLAIN, seed=0)
    np.testing.assert_allclose(model.centroids[0], vectors.mean(axis=0), atol=1e-5)
    assert model.n_trained == 3000


def test_inertia_is_the_sum_of_squared_distances() -> None:
    vectors, _ = planted(4, 30, 8)
    for chosen in (PLAIN, SPHERE, replace(PLAIN, pca=3)):
        model = fit_clusters(vectors, 4, chosen, seed=1)
        places = vectors.astype(np.float64)
        if chosen.pca:
            places = (places - model.pca_mean) @ model.pca_axes.T
        offsets = places[:, None] - model.centroids[None]
        nearest = (offsets**2).sum(axis=2).min(axis=1)
        assert model.inertia == pytest.approx(nearest.sum(), rel=1e-5)


def test_the_best_of_the_starts_wins_and_its_seed_is_kept() -> None:
    vectors = unit(np.random.default_rng(3).normal(size=(300, 6)))
    few = replace(PLAIN, restarts=1)
    inertias = [
        fit_clusters(vectors, 8, replace(few, restarts=r), seed=5).inertia for r in (1, 3, 9)
    ]
    assert inertias == sorted(inertias, reverse=True)  # later starts are added to the earlier ones
    best = fit_clusters(vectors, 8, replace(few, restarts=9), seed=5)
    starts = [clusters._train(vectors, 8, few, None, s) for s in clusters._seeds(5, 9)]
    assert (best.inertia, best.seed) == min((run.inertia, run.seed) for run in starts if run)


def test_a_seed_gives_the_same_bytes_and_another_seed_other_starts() -> None:
    vectors = unit(np.random.default_rng(4).normal(size=(400, 8)))
    once, twice = (fit_clusters(vectors, 9, SPHERE, seed=7) for _ in range(2))
    assert bytes_of(once) == bytes_of(twice)
    assert (once.seed, once.inertia) == (twice.seed, twice.inertia)
    assert fit_clusters(vectors, 9, SPHERE, seed=8).seed != once.seed
    assert clusters._seeds(7, 50)[:3] == clusters._seeds(7, 3)
    assert len(set(clusters._seeds(7, 50))) == 50


@pytest.mark.parametrize("chosen", [SPHERE, PLAIN, replace(SPHERE, pca=-1)])
def test_threads_change_no_byte(chosen: ClustersConfig) -> None:
    faiss = load_faiss()
    vectors = unit(np.random.default_rng(2).normal(size=(5000, 48)))
    before, seen = faiss.omp_get_max_threads(), set()
    try:
        for n_openmp, n_threads in ((1, 1), (2, 1), (4, 1), (4, 3)):
            faiss.omp_set_num_threads(n_openmp)
            model = fit_clusters(vectors, 12, chosen, seed=0, n_threads=n_threads)
            seen.add(bytes_of(model))
            assert faiss.omp_get_max_threads() == n_openmp  # left as it was
    finally:
        faiss.omp_set_num_threads(before)
    assert len(seen) == 1


def test_training_leaves_its_input_alone_and_takes_any_memory_order() -> None:
    vectors, _ = planted(4, 20, 8)
    strided = np.asfortranarray(vectors)
    model = fit_clusters(strided, 4, SPHERE, seed=0)
    np.testing.assert_array_equal(strided, vectors)
    assert bytes_of(model) == bytes_of(fit_clusters(vectors, 4, SPHERE, seed=0))


@pytest.mark.parametrize("chosen", [SPHERE, PLAIN, replace(SPHERE, pca=-1), replace(PLAIN, pca=-1)])
def test_as_many_clusters_as_vectors_gives_each_its_own(
    chosen: ClustersConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(7, 12)))
    model = fit_clusters(vectors, 7, chosen, seed=0)
    assert sorted(assign(model, embeddings_of(vectors)).cluster.tolist()) == list(range(7))
    assert capfd.readouterr() == ("", "")  # few vectors make FAISS talk, unless told not to


# --- PCA ---


def test_pca_equals_the_svd_up_to_the_sign_that_is_fixed() -> None:
    rng = np.random.default_rng(1)
    vectors = unit(rng.normal(size=(60, 10)) * np.arange(1, 11))
    model = fit_clusters(vectors, 3, replace(PLAIN, pca=4), seed=0)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    want = np.linalg.svd(centred, full_matrices=False).Vh[:4]
    np.testing.assert_allclose(np.abs((model.pca_axes * want).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(model.pca_mean, vectors.mean(axis=0), atol=1e-6)
    for axis in model.pca_axes:
        assert axis[np.abs(axis).argmax()] > 0


def test_a_full_rotation_keeps_distances_and_so_the_clusters() -> None:
    vectors, group = planted(4, 50, 12)
    model = fit_clusters(vectors, 4, replace(PLAIN, pca=-1, restarts=10), seed=0)
    assert model.pca_axes.shape == (12, 12)
    np.testing.assert_allclose(model.pca_axes @ model.pca_axes.T, np.eye(12), atol=1e-5)
    assert same_groups(assign(model, embeddings_of(vectors)).cluster, group)


def test_a_full_rotation_of_few_vectors_has_as_many_axes_as_vectors() -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(6, 40)))
    model = fit_clusters(vectors, 3, replace(SPHERE, pca=-1), seed=0)
    assert model.pca_axes.shape == (6, 40)
    assert model.centroids.shape == (3, 6)


def test_chunks_do_not_change_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = planted(3, 50, 9)
    mean, axes = clusters._fit_pca(vectors, 5)
    whole = clusters.project(vectors, mean, axes)
    monkeypatch.setattr(clusters, "_CHUNK_ROWS", 7)
    np.testing.assert_array_equal(clusters.project(vectors, mean, axes), whole)
    np.testing.assert_allclose(clusters._fit_pca(vectors, 5)[1], axes, atol=1e-5)


# --- assignment ---


def test_assignment_by_hand() -> None:
    # centroids at 0, 3 and 9 on a line
    model = model_of([[0, 0], [3, 0], [9, 0]])
    vectors = np.array([[0, 0], [1, 0], [7, 0], [0, 0], [6, 0]], np.float32)
    got = assign(model, embeddings_of(vectors, np.array([True, True, True, False, True])))
    np.testing.assert_array_equal(got.cluster, [0, 0, 2, -1, 1])  # 6 is as near to 1 as to 2
    np.testing.assert_allclose(got.margin, [1, 1 - 1 / 2, 1 - 2 / 4, 0, 0])
    assert got.cluster.dtype == np.int16
    assert got.margin.dtype == np.float32


def test_equal_centroids_give_the_lowest_id_and_no_margin() -> None:
    got = assign(model_of([[5, 5], [1, 1], [1, 1]]), embeddings_of(np.ones((2, 2), np.float32)))
    np.testing.assert_array_equal(got.cluster, [1, 1])
    np.testing.assert_array_equal(got.margin, [0, 0])


def test_a_single_cluster_is_certain() -> None:
    got = assign(model_of([[5, 5]]), embeddings_of(np.ones((2, 2), np.float32)))
    np.testing.assert_array_equal(got.cluster, [0, 0])
    np.testing.assert_array_equal(got.margin, [1, 1])


def test_an_image_without_valid_segments_is_assigned_nothing() -> None:
    for n_segments in (0, 3):
        empty = embeddings_of(np.zeros((n_segments, 2), np.float32), np.zeros(n_segments, bool))
        got = assign(model_of([[5, 5], [1, 1]]), empty)
        np.testing.assert_array_equal(got.cluster, [-1] * n_segments)
        np.testing.assert_array_equal(got.margin, [0] * n_segments)


coordinates = st.floats(-4, 4, width=16)


@settings(max_examples=50)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=coordinates),
    arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=coordinates),
)
def test_assignment_equals_plain_loops(vectors: Array, centroids: Array) -> None:
    got = assign(model_of(centroids.tolist()), embeddings_of(vectors))
    for row, vector in enumerate(vectors.astype(float)):
        squares = [sum((vector - c.astype(float)) ** 2) for c in centroids]
        order = sorted(squares)
        assert got.cluster[row] == squares.index(order[0])
        if len(order) > 1:
            want = 1 - (order[0] / order[1]) ** 0.5 if order[1] else 0.0
            assert got.margin[row] == pytest.approx(want, abs=1e-6)


def test_a_segment_is_assigned_alike_in_any_company() -> None:
    vectors, _ = planted(6, 30, 24)
    model = fit_clusters(vectors, 6, replace(SPHERE, pca=-1), seed=0)
    together = assign(model, embeddings_of(vectors))
    for row in range(0, len(vectors), 17):
        alone = assign(model, embeddings_of(vectors[row : row + 1]))
        assert alone.cluster[0] == together.cluster[row]
        assert alone.margin[0] == together.margin[row]


# --- what is refused ---


def error_of(vectors: Array, k: int, chosen: ClustersConfig = SPHERE) -> str:
    with pytest.raises(ClusterError) as caught:
        fit_clusters(vectors, k, chosen, seed=0)
    return str(caught.value)


def test_more_clusters_than_segments_is_refused_with_the_cure() -> None:
    vectors, _ = planted(3, 3, 8)
    assert error_of(vectors, 12) == (
        "12 clusters asked of 9 valid segments: use --clusters 9 or fewer, or more images"
    )


def test_no_segment_at_all_is_refused_with_the_cure() -> None:
    assert error_of(np.zeros((0, 8), np.float32), 12) == (
        "no image gave a valid segment, so there is nothing to cluster: "
        "lower embeddings.min_patches, or use other images"
    )


def test_vectors_that_are_not_finite_are_refused() -> None:
    vectors, _ = planted(3, 3, 8)
    vectors[2, 0], vectors[5, 1] = np.nan, np.inf
    assert error_of(vectors, 3) == (
        "2 of 9 vectors hold NaN or infinity: use features.precision = float32, or other weights"
    )


@pytest.mark.parametrize("spherical", [True, False])
def test_identical_vectors_make_no_clusters(spherical: bool) -> None:
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(2, 8))), 20, axis=0)
    chosen = replace(SPHERE, spherical=spherical)
    assert error_of(vectors, 4, chosen) == (
        "k-means left a cluster empty in each of 3 restarts: "
        "the 40 vectors make fewer than 4 groups (many are identical); "
        "use fewer --clusters, or more different images"
    )
    assert fit_clusters(vectors, 2, replace(chosen, restarts=10), seed=0).inertia < 1e-6


def test_pca_has_at_most_as_many_dimensions_as_there_are() -> None:
    few, _ = planted(3, 3, 20)
    assert fit_clusters(few, 3, replace(SPHERE, pca=32), seed=0).pca_axes.shape == (9, 20)
    small, _ = planted(3, 9, 8)
    assert fit_clusters(small, 3, replace(SPHERE, pca=32), seed=0).pca_axes.shape == (8, 8)


def test_vectors_of_another_backbone_are_refused() -> None:
    with pytest.raises(ClusterError) as caught:
        assign(model_of([[1, 2, 3]]), embeddings_of(np.zeros((2, 5), np.float32)))
    assert str(caught.value) == (
        "the clusters were trained on vectors of size 3, got 5: embed with the backbone of that run"
    )


def test_wrong_types_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"vectors: expected float32 \(n, E\), got float64 \(4, 2\)"
    ):
        fit_clusters(np.zeros((4, 2)), 2, SPHERE, seed=0)


USE_BOTH = """
{imports}
import numpy as np
from datus.config import ClustersConfig
from datus.method.clusters import fit_clusters
vectors = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
fit_clusters(vectors, 5, ClustersConfig(restarts=2), seed=0, n_threads=2)
product = torch.ones(300, 300) @ torch.ones(300, 300)
print(float(product[0, 0]))
"""


@pytest.mark.parametrize(
    "imports", ["import torch, faiss", pytest.param("import faiss, torch", marks=pytest.mark.slow)]
)
def test_torch_and_faiss_live_together_in_either_order(imports: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USE_BOTH.format(imports=imports)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "300.0"), done.stderr


# --- agreement of the restarts ---


def test_restart_centroids_hold_every_restart_in_the_order_of_the_best_ones_clusters() -> None:
    vectors = unit(np.random.default_rng(4).normal(size=(200, 6)))
    chosen = replace(PLAIN, restarts=5)
    model = fit_clusters(vectors, 4, chosen, seed=0)
    assert model.restart_centroids.shape == (5, 4, 6)
    assert model.restart_centroids[0].tobytes() == model.centroids.tobytes()

    def nearest(centroids: Array) -> Array:
        return ((vectors[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)

    best = nearest(model.centroids)
    for centroids in model.restart_centroids[1:]:
        orders = [list(order) for order in itertools.permutations(range(4))]
        agreed = {tuple(order): int((nearest(centroids[order]) == best).sum()) for order in orders}
        assert agreed[0, 1, 2, 3] == max(agreed.values())


X, Y = [1.0, 0.0], [0.0, 1.0]


def test_votes_count_the_restarts_that_agree() -> None:
    model = replace(
        model_of([[1, 0], [0, 1]]),
        restart_centroids=np.array(
            [[[1, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 0], [0.9, 0.1]]], "f4"
        ),
    )
    vectors = np.array([[1, 0], [0, 1], [0.8, 0.6], [0, 1]], np.float32)
    cluster = np.array([0, 1, 0, -1], np.int16)
    # the third restart has the two exchanged; the fourth takes (0.8, 0.6) to be of cluster 1
    assert votes(model, vectors, cluster).tolist() == [0.75, 0.75, 0.5, 0.0]
    assert votes(model_of([[1, 0], [0, 1]]), vectors, cluster).tolist() == [1, 1, 1, 0]


def test_votes_of_the_best_restart_are_what_assign_says() -> None:
    vectors, _ = planted(6, 30, 8, seed=3)
    noisy = unit(vectors + 0.4 * np.random.default_rng(0).normal(size=vectors.shape))
    model = fit_clusters(noisy, 6, ClustersConfig(k=(6,), pca=4, restarts=1), seed=1)
    found = assign(model, embeddings_of(noisy))
    assert votes(model, noisy, found.cluster).tolist() == [1.0] * len(noisy)


def test_votes_of_a_segment_do_not_depend_on_the_others() -> None:
    vectors, _ = planted(4, 20, 8, seed=5)
    noisy = unit(vectors + 0.3 * np.random.default_rng(1).normal(size=vectors.shape))
    model = fit_clusters(noisy, 4, ClustersConfig(k=(4,), pca=0, restarts=6), seed=1)
    cluster = assign(model, embeddings_of(noisy)).cluster
    alone = [votes(model, noisy[i : i + 1], cluster[i : i + 1])[0] for i in range(len(noisy))]
    assert votes(model, noisy, cluster).tolist() == alone

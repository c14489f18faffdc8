"""Vectors to (PCA to) k-means to centroids, and segments to the nearest centroid (paper III-D).

    fit_clusters   float32 (n, E), all valid segments of the dataset -> ClusterModel, K centroids
    mean_of_groups float32 (n, D) -> the mean of K centroids, float32 (D,)
    fit_space      the PCA alone, for clusters that are made elsewhere; project: into its space
    assign         the segments of one image -> a cluster id and a margin each; needs no FAISS
    votes          the same -> the share of the restarts that agree with that cluster
    offsets        float32 (n, E) -> the nearest centroid, and how far out each vector lies
    reduced        float32 (n, E) -> float32 (n, P): the space that k-means works in

FAISS runs k-means from several random starts; the start with the least inertia wins. It sees every
vector (its own default drops all but 256 a cluster). Starts run side by side, each on one thread,
so the bytes do not depend on the number of threads. On a GPU the distances in training come from
the GPU, so the last digits may differ from a CPU's.

With `spherical` the centroids have length 1, and the nearest centroid is the one with the largest
cosine. After a PCA the vectors are centred and no longer of length 1, but centroids still are: the
nearest centroid is again the one with the largest cosine, while vectors close to the mean of the
dataset pull less on the centroids. A full rotation (`pca = -1`) keeps all distances, and so changes
nothing without `spherical` but the last digits.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import linear_sum_assignment

from datus.compute.threads import map_threads
from datus.config import ClustersConfig
from datus.errors import ClusterError
from datus.method.faiss_library import faiss_library, gpu_number, load_faiss
from datus.types import Array, Assignments, ClusterModel, SegmentEmbeddings

ITERATIONS = 50
"""Of a k-means run: twice what FAISS does by itself."""

_CHUNK_ROWS = 8192
"""Rows in float64 at a time: 25 MB at E = 384. Fixed, since it decides the order of sums."""


def fit_clusters(
    vectors: Array,
    k: int,
    settings: ClustersConfig,
    seed: int,
    device: str = "auto",
    *,
    n_threads: int = 1,
) -> ClusterModel:
    """Train k-means on `vectors` float32 (n, E), unit rows; `k` is one of `settings.k`.

    `device` "cpu" keeps to the CPU; "auto", "cuda" and "cuda:1" use a GPU if the FAISS build can.
    `n_threads` starts run side by side; it changes no byte. Same input, seed and FAISS build give
    the same bytes. Raises ClusterError (too few vectors, too few different ones, not finite) and
    MissingPackage.
    """
    _check_vectors(vectors, k)
    gpu = gpu_number(load_faiss(), device)
    mean, axes, places = fit_space(vectors, settings)
    train = partial(_train, places, k, settings, gpu)
    runs = map_threads(train, _seeds(seed, settings.restarts), n_threads if gpu is None else 1)
    complete = [run for run in runs if run is not None]
    if not complete:
        raise ClusterError(
            f"k-means left a cluster empty in each of {settings.restarts} restarts: "
            f"the {len(vectors)} vectors make fewer than {k} groups (many are identical); "
            "use fewer --clusters, or more different images"
        )
    best = min(complete, key=lambda run: run.inertia)
    return ClusterModel(
        centroids=best.centroids,
        restart_centroids=_restart_centroids(best, [run for run in complete if run is not best]),
        pca_mean=mean,
        pca_axes=axes,
        inertia=best.inertia,
        n_trained=len(vectors),
        seed=best.seed,
        library=faiss_library() if gpu is None else f"{faiss_library()}, GPU {gpu}",
    )


def mean_of_groups(vectors: Array, n_groups: int) -> Array:
    """float32 (D,): the mean of the centroids of k-means on float32 (n, D).

    Each group counts once. The mean of all vectors is close to the largest group, and what is left
    of that group without it is noise. One start, seed 0; of few vectors, a group for each eighth.
    """
    faiss = load_faiss()
    k = max(1, min(n_groups, len(vectors) // 8))

    def centroids(rows: Array) -> Array:
        kmeans = faiss.Kmeans(
            *(rows.shape[1], k),
            niter=20,
            seed=0,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),
        )
        kmeans.train(rows)
        return np.asarray(kmeans.centroids)

    (groups,) = map_threads(centroids, [np.ascontiguousarray(vectors)], 1)
    return np.asarray(groups.mean(axis=0, dtype=np.float64), np.float32)


def fit_space(vectors: Array, settings: ClustersConfig) -> tuple[Array, Array, Array]:
    """(PCA mean, PCA axes, float32 (n, P) places): where k-means looks at float32 (n, E) rows."""
    ((mean, axes),) = map_threads(partial(_fit_pca, vectors), [settings.pca], 1)
    return mean, axes, np.ascontiguousarray(project(vectors, mean, axes))


def project(vectors: Array, mean: Array, axes: Array) -> Array:
    """float32 (n, E) to (n, P). No BLAS, so a row's bytes depend on no other row and no thread."""
    if not len(mean):
        return vectors
    places = np.empty((len(vectors), len(axes)), np.float32)
    axes64 = axes.astype(np.float64)
    for rows in _chunks(len(vectors)):
        centred = vectors[rows].astype(np.float64) - mean
        places[rows] = np.einsum("ne,pe->np", centred, axes64, optimize=False)
    return places


def assign(
    model: ClusterModel, embeddings: SegmentEmbeddings, group: Array | None = None
) -> Assignments:
    """The nearest centroid of every valid segment of one image; the lowest id on a tie.

    With corrections (`model.names`) a corrected class is as near as the nearest of its labelled
    segments; one without any is never the nearest.

    The margin is 1 - d1 / d2, from the distances to the nearest and the second nearest centroid; 0
    if both are 0, and 1 with a single cluster. Computed in float64, each segment by itself: what
    else is in the image changes no byte. With `group` int16 (K,), clusters of one group are one
    thing, and the margin is to the nearest centroid of another one.
    Raises ClusterError if the vectors have another size than those that the model was trained on.
    """
    cluster = np.full(len(embeddings.valid), -1, np.int16)
    margin = np.zeros(len(embeddings.valid), np.float32)
    trained_size = len(model.pca_mean) or model.centroids.shape[1]
    if embeddings.vectors.shape[1] != trained_size:
        raise ClusterError(
            f"the clusters were trained on vectors of size {trained_size}, got "
            f"{embeddings.vectors.shape[1]}: embed with the backbone of that run"
        )
    places = project(embeddings.vectors[embeddings.valid], model.pca_mean, model.pca_axes)
    places = places.astype(np.float64)
    distances_KS = np.sqrt([((places - centroid) ** 2).sum(axis=1) for centroid in model.centroids])
    if model.names:
        distances_KS[: len(model.names)] = _to_labelled(model, places)
    cluster[embeddings.valid] = distances_KS.argmin(axis=0)
    if group is not None:
        groups = [distances_KS[group == number] for number in np.unique(group)]
        distances_KS = np.stack([distances.min(axis=0) for distances in groups])
    margin[embeddings.valid] = _margin(distances_KS)
    return Assignments(cluster=cluster, margin=margin)


def votes(model: ClusterModel, vectors: Array, cluster: Array, group: Array | None = None) -> Array:
    """float32 (S,): the share of the restarts whose nearest centroid is that of `cluster` too.

    vectors: float32 (S, E); cluster: int16 (S,), as `assign` gives it; 0 where it is -1. The best
    restart counts among them, so a single one gives 1. Each segment by itself, and `group`, as in
    `assign`.
    With corrections all are 1: labelled segments decide, and they are the same in every restart.
    """
    same = np.arange(model.n_clusters) if group is None else group
    valid = cluster >= 0
    if model.names:
        return valid.astype(np.float32)
    places = project(vectors[valid], model.pca_mean, model.pca_axes).astype(np.float64)
    agree = np.zeros(len(places), np.int64)
    for centroids in model.restart_centroids:
        nearest = _nearest(places, centroids.astype(np.float64))
        agree += same[nearest] == same[cluster[valid]]
    share = np.zeros(len(cluster), np.float32)
    share[valid] = agree / max(len(model.restart_centroids), 1)
    return share


def places_of(model: ClusterModel, vectors: Array) -> Array:
    """float32 (n, P): where vectors float32 (n, E) lie in the space of the centroids."""
    return project(vectors, model.pca_mean, model.pca_axes)


def embedded_centroids(model: ClusterModel) -> Array:
    """float32 (K, E): the centroids in the space of the embeddings, whatever the PCA was."""
    if not len(model.pca_mean):
        return model.centroids
    axes = model.pca_axes.astype(np.float64)
    turned = np.einsum("kp,pe->ke", model.centroids.astype(np.float64), axes, optimize=False)
    return np.asarray(model.pca_mean + turned, np.float32)


def _nearest(places: Array, centroids: Array) -> Array:
    """int64 (S,): the nearest centroid, the lowest of equal ones. No BLAS, see `project`."""
    products_SK = np.einsum("sp,kp->sk", places, centroids, optimize=False)
    lengths_K = np.einsum("kp,kp->k", centroids, centroids, optimize=False)
    return np.asarray(np.argmin(lengths_K - 2 * products_SK, axis=1))


def offsets(model: ClusterModel, vectors: Array) -> tuple[Array, Array]:
    """Of float32 (n, E): the nearest centroid, int16 (n,), and two lengths, float32 (2, n).

    The distance to that centroid in the space of the clusters, as `assign` sees it, and the length
    of the part of the vector outside that space: what the PCA drops, 0 without one.
    """
    places = project(vectors, model.pca_mean, model.pca_axes)
    cluster = np.zeros(len(vectors), np.int16)
    lengths = np.zeros((2, len(vectors)), np.float32)
    for rows in _chunks(len(vectors)):
        places64 = places[rows].astype(np.float64)
        squares_KS = np.array([((places64 - c) ** 2).sum(axis=1) for c in model.centroids])
        cluster[rows] = squares_KS.argmin(axis=0)
        lengths[0, rows] = np.sqrt(squares_KS.min(axis=0))
        if len(model.pca_mean):
            total = ((vectors[rows].astype(np.float64) - model.pca_mean) ** 2).sum(axis=1)
            lengths[1, rows] = np.sqrt(np.maximum(total - (places64**2).sum(axis=1), 0.0))
    return cluster, lengths


def reduced(vectors: Array, pca: int) -> Array:
    """float32 (n, E) in the space that k-means works in, (n, P): `fit_clusters` with `pca = 0` does
    there what it does on `vectors` with `pca`. Raises ClusterError as it does."""
    _check_vectors(vectors, 1)
    return fit_space(vectors, ClustersConfig(pca=pca))[2]


def _to_labelled(model: ClusterModel, places: Array) -> Array:
    """float64 (C, S): how far each place is from the nearest labelled segment of each class."""
    squares_CS = np.full((len(model.names), len(places)), np.inf)
    for start in range(0, len(model.labelled), 64):
        rows = slice(start, start + 64)
        squares = ((places - model.labelled[rows, None].astype(np.float64)) ** 2).sum(axis=2)
        np.minimum.at(squares_CS, model.labelled_cluster[rows], squares)
    return np.asarray(np.sqrt(squares_CS))


def _seeds(seed: int, restarts: int) -> list[int]:
    """One seed a start, below 2**31 as FAISS wants; more restarts keep the earlier ones."""
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(restarts) >> 1]


@dataclass(frozen=True, slots=True)
class _Run:
    """One restart of k-means."""

    inertia: float
    seed: int
    centroids: Array
    """float32 (K, P)."""
    cluster: Array
    """uint8 (n,): of each training vector."""


def _restart_centroids(best: _Run, others: list[_Run]) -> Array:
    """float32 (R, K, P): the best run's centroids, then the others', matched to the best one's."""
    k = len(best.centroids)
    matched = [best.centroids]
    for run in others:
        pairs = best.cluster.astype(np.int64) * k + run.cluster
        shared = np.bincount(pairs, minlength=k * k).reshape(k, k)
        matched.append(run.centroids[linear_sum_assignment(shared, maximize=True)[1]])
    return np.stack(matched)


def _train(
    places: Array, k: int, settings: ClustersConfig, gpu: int | None, seed: int
) -> _Run | None:
    """One k-means run on (n, P); None if a cluster is empty."""
    import faiss  # not load_faiss(): it handles warnings, which is not safe in threads

    n_vectors, size = places.shape
    kmeans = faiss.Kmeans(
        size,
        k,
        niter=ITERATIONS,
        spherical=settings.spherical,
        seed=seed,
        min_points_per_centroid=1,  # else it warns on standard output
        max_points_per_centroid=n_vectors,  # else it trains on a sample
    )
    if gpu is not None:
        kmeans.index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), gpu, kmeans.index)
    kmeans.train(places)
    centroids: Array = np.asarray(kmeans.centroids)
    if settings.spherical:  # with K = n FAISS copies the vectors, which a PCA has made shorter
        lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
        centroids = centroids / np.maximum(lengths, np.finfo(np.float32).tiny)
    index = faiss.IndexFlatL2(size)
    index.add(centroids)
    nearest = index.search(places, 1)[1][:, 0]
    if np.bincount(nearest, minlength=k).min() == 0:
        return None  # FAISS splits empty clusters, but not after the last step, nor equal vectors
    inertia = _inertia(places, centroids, nearest)
    return _Run(inertia, seed, centroids, nearest.astype(np.uint8))  # K <= MAX_CLUSTERS = 255


def _inertia(places: Array, centroids: Array, nearest: Array) -> float:
    """Sum of squared distances, in float64: FAISS adds them in float32."""
    total = 0.0
    for rows in _chunks(len(places)):
        residuals = places[rows].astype(np.float64) - centroids[nearest[rows]]
        total += float((residuals**2).sum())
    return total


def _fit_pca(vectors: Array, dims: int) -> tuple[Array, Array]:
    """Mean float32 (E,) and axes float32 (P, E), largest variance first; both empty for 0 dims.

    At most min(n, E) axes, and for -1 just that many: beyond the n-th no vector has an extent. The
    largest entry of an axis, by size, is made positive: eigenvectors come with either sign.
    """
    if dims == 0:
        return np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    n_vectors, size = vectors.shape
    n_axes = min(n_vectors, size) if dims == -1 else min(dims, n_vectors, size)
    mean = vectors.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((size, size))
    for rows in _chunks(n_vectors):
        centred = vectors[rows] - mean
        scatter += centred.T @ centred
    axes = np.linalg.eigh(scatter).eigenvectors[:, ::-1].T[:n_axes]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return mean.astype(np.float32), (axes * np.sign(largest)).astype(np.float32)


def _chunks(n_rows: int) -> list[slice]:
    return [slice(start, start + _CHUNK_ROWS) for start in range(0, n_rows, _CHUNK_ROWS)]


def _margin(distances_KS: Array) -> Array:
    """float64 (S,): 1 - nearest / second nearest."""
    if len(distances_KS) == 1:
        return np.ones(distances_KS.shape[1])
    first, second = np.partition(distances_KS, 1, axis=0)[:2]
    share: Array = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    return 1 - share


def _check_vectors(vectors: Array, k: int) -> None:
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise TypeError(f"vectors: expected float32 (n, E), got {vectors.dtype} {vectors.shape}")
    n_vectors = len(vectors)
    if n_vectors == 0:
        raise ClusterError(
            "no image gave a valid segment, so there is nothing to cluster: "
            "lower embeddings.min_patches, or use other images"
        )
    if k > n_vectors:
        raise ClusterError(
            f"{k} clusters asked of {n_vectors} valid segments: "
            f"use --clusters {n_vectors} or fewer, or more images"
        )
    n_broken = int((~np.isfinite(vectors).all(axis=1)).sum())
    if n_broken:
        raise ClusterError(
            f"{n_broken} of {n_vectors} vectors hold NaN or infinity: "
            "use features.precision = float32, or other weights"
        )

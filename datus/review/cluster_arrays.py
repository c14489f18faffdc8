"""Clusters as the arrays that the clusters stage stores, and back.

    cluster_arrays(model)     ClusterModel -> name -> array
    cluster_model(arrays)     back
    check_arrays(arrays)      those of a file that anybody may have written

centroids, jury (those of every restart), pca_mean, pca_axes, figures, library; with corrections
also names, labelled and labelled_cluster.
"""

import json

import numpy as np

from datus.engine.stage import Arrays
from datus.method.drift import LEVELS
from datus.types import MAX_CLUSTERS, Array, ClusterModel


def cluster_arrays(model: ClusterModel) -> dict[str, Array]:
    arrays = {
        "centroids": model.centroids,
        "jury": model.restart_centroids,
        "pca_mean": model.pca_mean,
        "pca_axes": model.pca_axes,
        "figures": np.array([model.inertia, model.n_trained, model.seed], np.float64),
        "library": np.frombuffer(model.library.encode(), np.uint8),
    }
    if model.names:
        text = json.dumps(model.names)  # ASCII: lone surrogates, too
        arrays["names"] = np.frombuffer(text.encode(), np.uint8)
        arrays["labelled"] = model.labelled
        arrays["labelled_cluster"] = model.labelled_cluster
    return arrays


def cluster_model(arrays: Arrays) -> ClusterModel:
    """A ClusterModel from what the clusters stage stored."""
    inertia, n_trained, seed = arrays["figures"].tolist()
    return ClusterModel(
        centroids=arrays["centroids"],
        restart_centroids=arrays["jury"],
        pca_mean=arrays["pca_mean"],
        pca_axes=arrays["pca_axes"],
        inertia=float(inertia),
        n_trained=int(n_trained),
        seed=int(seed),
        library=arrays["library"].tobytes().decode(),
        names=corrected_names(arrays),
        labelled=arrays.get("labelled", np.zeros((0, 0), np.float32)),
        labelled_cluster=arrays.get("labelled_cluster", np.zeros(0, np.int16)),
    )


def corrected_names(arrays: Arrays) -> tuple[str, ...]:
    """Of the first clusters; empty where nothing was corrected."""
    return tuple(json.loads(arrays["names"].tobytes())) if "names" in arrays else ()


def check_arrays(arrays: Arrays) -> None:
    """Raises ValueError, LookupError, TypeError or ArithmeticError unless these are clusters with
    what is kept beside them for later runs (`review.frozen`)."""
    model = cluster_model(arrays)
    k, size = model.centroids.shape
    quantiles, members, images = (arrays[name] for name in ("quantiles", "members", "images"))
    numbers = ("centroids", "jury", "pca_mean", "pca_axes", "quantiles")
    classes = model.labelled_cluster
    sound = (
        1 <= k <= MAX_CLUSTERS,
        len(model.pca_axes) == (size if len(model.pca_mean) else 0),
        all(np.isfinite(arrays[name]).all() for name in numbers),
        bool(np.isfinite(model.labelled).all()),
        all(isinstance(name, str) and name for name in model.names) and len(model.names) <= k,
        not model.names or model.labelled.shape[1] == size,
        not len(classes) or (classes.min() >= 0 and classes.max() < len(model.names)),
        quantiles.shape == (2, k + 1, len(LEVELS)) and quantiles.dtype == np.float32,
        members.shape == (k,) and members.dtype == np.int64 and bool((members >= 0).all()),
        images.ndim == 1 and images.dtype == np.uint64,
    )
    if not all(sound):
        raise ValueError("clusters of another shape or type, or numbers that are none")

"""Clusters as the arrays that the clusters stage stores, and back.

    cluster_arrays(model)     ClusterModel -> name -> array
    cluster_model(arrays)     back

centroids, jury, pca_mean, pca_axes, figures, library; with corrections also names, labelled and
labelled_cluster.
"""

import json

import numpy as np

from datus.records import Array, ClusterModel
from datus.shardwork import Arrays


def cluster_arrays(model: ClusterModel) -> dict[str, Array]:
    arrays = {
        "centroids": model.centroids,
        "jury": model.jury,
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
        jury=arrays["jury"],
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

"""Settings of the clusters stage, the reason beside each default. A section of `config`."""

from dataclasses import dataclass

from datus.errors import ConfigError
from datus.types import MAX_CLUSTERS


@dataclass(frozen=True, slots=True)
class ClustersConfig:
    """k-means over the valid segments of the dataset (paper III-D)."""

    k: tuple[int, ...] = (12,)
    """Clusters. Several values make a sweep: nothing before this stage runs twice."""
    pca: int = 32
    """Dimensions after a PCA, at most; 0 = no PCA, -1 = full rotation, as the authors did."""
    spherical: bool = False
    """True keeps centroids on the unit sphere, where the vectors are. Plain k-means is as good in
    the mean over backbones and better in the worst case (docs/decisions.md 72)."""
    restarts: int = 10
    """The run with the least inertia wins."""
    sample: int = 1_000_000
    """Vectors to learn from, at most: memory stays bounded. Of more segments, an even sample."""
    frozen: str = ""
    """A finished run or a file of `datus freeze`: its clusters and mean key are taken and none are
    made, so labels keep their meaning as a dataset grows (docs/growing.md)."""
    edits: str = ""
    """edits.json, saved in the browser page: merges, splits, names and drops, done again on the
    clusters of this run (docs/review.md)."""
    corrections: str = ""
    """Masks that a person corrected, as an annotation tool exports them: their classes are the
    first clusters, and what was drawn stays (docs/corrections.md)."""


CLUSTERS_RANGES: tuple[tuple[str, float, float], ...] = (
    ("clusters.k", 1, MAX_CLUSTERS),
    ("clusters.pca", -1, 65_536),
    ("clusters.restarts", 1, 10_000),
    ("clusters.sample", 256, 10**9),
)


def check_clusters(settings: ClustersConfig) -> None:
    """Raises ConfigError with the cure."""
    if not settings.k or len(set(settings.k)) < len(settings.k):
        raise ConfigError(f"clusters.k: expected different numbers, got {settings.k}")
    if settings.frozen and settings.corrections:
        raise ConfigError(
            "clusters.corrections: makes new clusters, but clusters.frozen takes those of "
            f"{settings.frozen}: leave one of them out"
        )

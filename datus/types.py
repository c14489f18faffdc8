"""The data types that pass between modules. Shape and dtype are checked on creation.

Frames, everywhere: rows before columns; colour is RGB; boxes are (top, left, bottom, right),
half-open; IGNORE marks a pixel without a label. Letters as in docs/method.md: N = gh * gw patches,
D key size, S segments of one image, E embedding size, K clusters, C true classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

IGNORE = 255
"""The label of a pixel that has none, in masks and in truth."""

WHOLE = ""
"""Where stages keep arrays by image id: the key of what belongs to no single image."""

RUN_MARK = "index/index.jsonl"
"""The file that makes a folder a run folder."""

EXPORT_MARK = "datus_export.about"
"""The file that makes a folder an export: what it is and where it comes from, as JSON. Importers
read whatever is called .json, so this is not."""

MAX_CLUSTERS = 255
"""Masks are 8-bit and IGNORE takes one value, so K <= 255."""


Item = TypeVar("Item")


def evenly(items: Sequence[Item], n: int) -> list[Item]:
    """At most `n` of the items, evenly spread over all of them, in order."""
    n = min(n, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]


def _check(owner: object, name: str, shape: tuple[int | None, ...], *dtypes: str) -> None:
    """Raise TypeError or ValueError unless `owner.name` is an array of this shape and dtype."""
    array = getattr(owner, name)
    where = f"{type(owner).__name__}.{name}"
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{where}: expected an array, got {type(array).__name__}")
    if array.dtype.name not in dtypes:
        raise TypeError(f"{where}: expected dtype {' or '.join(dtypes)}, got {array.dtype.name}")
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        text = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{where}: expected shape ({text}), got {array.shape}")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image. Paths are relative to the image and truth folders, `/`-separated."""

    image_id: str
    """Path below the image folder without suffix; unique."""
    path: str
    height: int
    width: int
    sha256: str
    """Of the file's bytes."""
    shard: str
    truth_path: str | None = None
    truth_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FeatureGrid:
    """What one forward pass of the ViT says about one image (paper III-A)."""

    keys: Array
    """float32 (gh, gw, D): raw keys of the last attention block, all heads side by side."""
    tokens: Array
    """float32 (gh, gw, E): patch tokens after the final norm."""
    cls: Array
    """float32 (E,): class token after the final norm, or the mean token of a ViT that has none."""

    def __post_init__(self) -> None:
        _check(self, "keys", (None, None, None), "float32", "float16")
        _check(self, "tokens", (*self.keys.shape[:2], None), "float32", "float16")
        _check(self, "cls", (self.tokens.shape[2],), "float32", "float16")


@dataclass(frozen=True, slots=True)
class AffinityGraph:
    """Which patches agree (paper III-B, eq. 1), one bit per pair, self loops included."""

    bits: Array
    """uint64 (N, words): bit j % 64 of word j // 64 of row i is set if i and j share an edge."""

    def __post_init__(self) -> None:
        n_nodes = len(self.bits) if isinstance(self.bits, np.ndarray) and self.bits.ndim else 0
        _check(self, "bits", (None, (n_nodes + 63) // 64), "uint64")

    @property
    def n_nodes(self) -> int:
        return len(self.bits)


@dataclass(frozen=True, slots=True)
class SegmentMap:
    """The connected segments of one image (paper III-C), in raster order of first patch."""

    labels: Array
    """int32 (gh, gw): segment of each patch, 0..S-1."""
    community: Array
    """int32 (S,): Louvain community that the segment is a part of."""
    n_patches: Array
    """int32 (S,)."""
    boxes: Array
    """int32 (S, 4): tight box in patches, (top, left, bottom, right), half-open."""
    modularity: float
    """Of the partition into communities, before the split."""

    def __post_init__(self) -> None:
        n_segments = len(self.n_patches)
        _check(self, "labels", (None, None), "int32")
        _check(self, "community", (n_segments,), "int32")
        _check(self, "n_patches", (n_segments,), "int32")
        _check(self, "boxes", (n_segments, 4), "int32")

    @property
    def n_segments(self) -> int:
        return len(self.n_patches)


@dataclass(frozen=True, slots=True)
class SegmentEmbeddings:
    """One unit vector per valid segment (paper III-D, first stage)."""

    vectors: Array
    """float32 (S, E): unit rows; a zero row for a segment that was not embedded."""
    valid: Array
    """bool (S,): the segment has at least `min_patches` patches."""

    def __post_init__(self) -> None:
        _check(self, "valid", (None,), "bool")
        _check(self, "vectors", (len(self.valid), None), "float32")


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """k-means over the valid segments of the dataset (paper III-D, second stage)."""

    centroids: Array
    """float32 (K, P) in the space after the PCA, if there is one; P = E without."""
    pca_mean: Array
    """float32 (E,), or (0,) without PCA."""
    pca_axes: Array
    """float32 (P, E), or (0, 0) without PCA."""
    inertia: float
    """Sum of squared distances of the training vectors to their centroid, of the best restart."""
    n_trained: int
    """Vectors that k-means saw: all of them."""
    seed: int
    """Of the best restart."""
    library: str
    """What ran, for example 'faiss-cpu 1.12.0'."""
    restart_centroids: Array
    """float32 (R, K, P): the centroids of every restart, those of the best first, each cluster in
    the place of the best one's cluster that shares most vectors with it."""
    names: tuple[str, ...] = ()
    """Of the classes that a person corrected: the first clusters. Empty without corrections."""
    labelled: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """float32 (L, P): corrected segments, in the space of the centroids."""
    labelled_cluster: Array = field(default_factory=lambda: np.zeros(0, np.int16))
    """int16 (L,): the class of each, 0..len(names)-1."""

    def __post_init__(self) -> None:
        _check(self, "centroids", (None, None), "float32")
        _check(self, "restart_centroids", (None, *self.centroids.shape), "float32")
        _check(self, "pca_mean", (None,), "float32")
        _check(self, "pca_axes", (None, len(self.pca_mean)), "float32")
        _check(self, "labelled_cluster", (None,), "int16")
        _check(self, "labelled", (len(self.labelled_cluster), None), "float32")

    @property
    def n_clusters(self) -> int:
        return len(self.centroids)


@dataclass(frozen=True, slots=True)
class Assignments:
    """The cluster of every segment of one image."""

    cluster: Array
    """int16 (S,): 0..K-1, or -1 where the segment is not valid."""
    margin: Array
    """float32 (S,): confidence 0..1, 1 - nearest / second nearest distance; 0 where not valid."""

    def __post_init__(self) -> None:
        _check(self, "cluster", (None,), "int16")
        _check(self, "margin", (len(self.cluster),), "float32")


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pixels counted by (cluster, true class); pixels without a true class are not counted."""

    counts: Array
    """int64 (K + 1, C): the last row counts pixels that the mask leaves unlabelled."""

    def __post_init__(self) -> None:
        _check(self, "counts", (None, None), "int64")
        if len(self.counts) < 1:
            raise ValueError("Confusion.counts: expected at least the unlabelled row, got none")

    @property
    def n_clusters(self) -> int:
        return len(self.counts) - 1

    @property
    def n_classes(self) -> int:
        return int(self.counts.shape[1])


@dataclass(frozen=True, slots=True)
class ClassTable:
    """The true classes of a dataset and how truth files spell them."""

    name: str
    names: tuple[str, ...]
    """(C,) names in class order."""
    colours: tuple[tuple[int, int, int], ...]
    """(C,) RGB, for pictures."""
    lookup: Array
    """uint8 (256,): id in a truth file -> class 0..C-1 or IGNORE."""
    known: Array
    """bool (256,): the id may appear in a truth file; anything else is an error."""
    source: str = ""

    def __post_init__(self) -> None:
        _check(self, "lookup", (256,), "uint8")
        _check(self, "known", (256,), "bool")

    @property
    def n_classes(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class ShardData:
    """What one stage made of one shard: arrays and numbers by image, and who failed and why."""

    arrays: dict[str, dict[str, Array]]
    """image_id -> name -> array. An image that failed is not in here."""
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    """image_id -> name -> figure for the reports (density, modularity, n_segments ...)."""
    failures: dict[str, str] = field(default_factory=dict)
    """image_id -> reason."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Relative path -> content, for outputs that are files of their own (mask PNGs)."""
    written: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Relative path -> (bytes, sha256) of such files that are on disk already."""


VERDICTS = ("do not trust this", "look closely", "no objection")
"""The words of a Verdict, the worst first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of masks that there is no truth for. There is no "trust this": see
    docs/choosing_k.md."""

    word: Literal["no objection", "look closely", "do not trust this"]
    reasons: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"{self.word}: {'; '.join(self.reasons)}"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst word of several, with all reasons for it."""
    word = min((one.word for one in verdicts), key=VERDICTS.index)
    reasons = [reason for one in verdicts if one.word == word for reason in one.reasons]
    return Verdict(word, tuple(reasons))

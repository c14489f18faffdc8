"""What a report is made from. Plain values and arrays; nothing here reads a disk.

`ReportInputs` is all of it. Frames as in `datus.types`: rows before columns, RGB, IGNORE = 255 is
a pixel without a label. Scores and shares are percent. Nothing given here may depend on the clock
or on the machine: the report repeats it, and the same run has to give the same bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from datus.method.drift import Drift
from datus.method.metrics import Scores
from datus.types import MAX_CLUSTERS, Array, ClassTable, Confusion, Verdict


@dataclass(frozen=True, slots=True)
class Distribution:
    """One figure over the images of a run, in the seven numbers of a box plot."""

    n: int
    mean: float
    minimum: float
    q25: float
    median: float
    q75: float
    maximum: float

    @staticmethod
    def of(values: Iterable[float]) -> "Distribution":
        """Of the finite values, others are left out. n = 0 and all NaN where none is left."""
        array = np.asarray(list(values), np.float64)
        array = array[np.isfinite(array)]
        if not array.size:
            return Distribution(0, *[float("nan")] * 6)
        low, q25, median, q75, high = np.quantile(array, (0, 0.25, 0.5, 0.75, 1)).tolist()
        return Distribution(array.size, float(array.mean()), low, q25, median, q75, high)


@dataclass(frozen=True, slots=True)
class Denoised:
    """What came of the de-noising stages for one number of clusters."""

    cluster_pixels: Array
    """int64 (k + 1,): as in KResult, of the masks that the trained model drew."""
    n_trained: int
    """Images that it learnt from."""
    n_dropped: int
    """Images left out: nearly all one cluster."""
    curve: tuple[float, ...] = ()
    """Mean loss of each epoch, rounds one after another."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Name of the rule -> scores, the match fitted on these masks. Empty without truth."""

    @property
    def coverage(self) -> float:
        """Percent of all pixels that have a label; 0 where there are no pixels."""
        return _coverage(self.cluster_pixels)


@dataclass(frozen=True, slots=True)
class Kept:
    """Scores of the pixels whose segment is at least so sure; figures are percent."""

    min_confidence: float
    coverage: float
    """Of the pixels with a known class."""
    accuracy: float
    """Of the pixels that are left, under the match of all of them."""
    miou: float


@dataclass(frozen=True, slots=True)
class KResult:
    """What came out for one number of clusters."""

    k: int
    cluster_pixels: Array
    """int64 (k + 1,): pixels of each cluster over all masks; the last counts unlabelled pixels."""
    inertia: float
    """Sum of squared distances of the training vectors to their centroid."""
    n_trained: int
    """Segments that k-means saw."""
    library: str
    """What ran k-means, with its version."""
    confusion: Confusion | None = None
    """None where there is no truth."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Name of the rule -> scores. Empty where there is no truth."""
    denoised: Denoised | None = None
    """None where de-noising is off."""
    kept: tuple[Kept, ...] = ()
    """From all pixels to the surest; empty where there is no truth."""
    names: tuple[str, ...] = ()
    """(k,) what a person called each cluster, empty where nobody did; or nothing at all."""
    gone: tuple[int, ...] = ()
    """Clusters that a person merged into others or dropped: no pixel has them."""
    verdict: Verdict | None = None
    """What speaks against the masks, seen without truth."""
    consistency: Mapping[str, float] = field(default_factory=dict)
    """The figures behind it, see `method.consistency`."""

    def __post_init__(self) -> None:
        _require(1 <= self.k <= MAX_CLUSTERS, f"KResult.k: expected 1 to 255, got {self.k}")
        if self.names:
            _require_count("KResult.names", self.k, "names", len(self.names))
        _require_array("KResult.cluster_pixels", self.cluster_pixels, "int64", (self.k + 1,))
        if self.confusion is not None:
            _require_count("KResult.confusion", self.k + 1, "rows", len(self.confusion.counts))
        for rule, scores in self.scores.items():
            wanted, got = f"expected a match of {self.k} clusters", len(scores.match)
            _require(got == self.k, f"KResult.scores[{rule!r}]: {wanted}, got {got}")

    @property
    def coverage(self) -> float:
        """Percent of all pixels that have a label; 0 where there are no pixels."""
        return _coverage(self.cluster_pixels)

    @property
    def n_clusters(self) -> int:
        """Those that are not gone."""
        return self.k - len(self.gone)

    def name(self, number: int) -> str:
        """Of a cluster; empty where it has none."""
        return self.names[number] if self.names else ""


@dataclass(frozen=True, slots=True)
class Example:
    """One image to look at, at its own size; the report makes it small."""

    image_id: str
    image: Array
    """uint8 (H, W, 3)."""
    mask: Array
    """uint8 (H, W): cluster or IGNORE."""
    truth: Array | None = None
    """uint8 (H, W): class or IGNORE; None where there is no truth."""
    denoised: Array | None = None
    """uint8 (H, W): as `mask`, drawn by the trained model; None where de-noising is off."""

    def __post_init__(self) -> None:
        _require_picture("Example.image", self.image)
        _require_array("Example.mask", self.mask, "uint8", self.image.shape[:2])
        for name, labels in (("truth", self.truth), ("denoised", self.denoised)):
            if labels is not None:
                _require_array(f"Example.{name}", labels, "uint8", self.image.shape[:2])


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One segment of a cluster."""

    image_id: str
    picture: Array
    """uint8 (h, w, 3)."""
    margin: float
    """Confidence 0..1: 1 - nearest / second nearest distance to a centroid."""

    def __post_init__(self) -> None:
        _require_picture("GalleryItem.picture", self.picture)


@dataclass(frozen=True, slots=True)
class Compared:
    """The run, or a baseline, on the images that all of them are compared on."""

    name: str
    place: float | None
    """Kappa of the labels with those that the place in the image alone predicts; None where it
    cannot be known: one image, or one label in all."""
    miou: float | None = None
    """Percent, `hungarian_strict`; None without truth, as the next."""
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Baselines:
    """The masks beside those of k-means on colour, and on colour and position."""

    n_images: int
    rows: tuple[Compared, ...]
    """The run first."""
    pictures: tuple[tuple[str, Array, tuple[Array, ...]], ...]
    """(image_id, uint8 (h, w, 3), uint8 (h, w) mask of each row) of some of the images, small."""


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """One finished run."""

    title: str
    preset: str
    n_images: int
    sweep: tuple[KResult, ...]
    """One per number of clusters. The first is the main one, which all pictures show."""
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Section -> key -> value, ready for JSON. Absolute paths are cut to their last part."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What ran: versions, and where the weights come from."""
    failures: tuple[tuple[str, str, str], ...] = ()
    """(stage, image_id, reason)."""
    warnings: tuple[str, ...] = ()
    numbers: Mapping[str, Mapping[str, Distribution]] = field(default_factory=dict)
    """Stage -> figure -> distribution over the images."""
    classes: ClassTable | None = None
    """None where there is no truth."""
    examples: tuple[Example, ...] = ()
    gallery: tuple[tuple[GalleryItem, ...], ...] = ()
    """Of each cluster of the main K, most confident first; or nothing at all."""
    drift: Drift | None = None
    """New images against the run that the clusters were taken from; None where none were taken."""
    browse: bool = False
    """browse.html stands beside the page."""
    baselines: Baselines | None = None
    """None where they were left out, or nothing could be compared."""
    better_backbone: str = ""
    """Which model gives better masks, in a sentence; empty where none is to be named."""

    def __post_init__(self) -> None:
        _require(bool(self.sweep), "ReportInputs.sweep: expected at least one K, got none")
        ks = [result.k for result in self.sweep]
        _require(len(set(ks)) == len(ks), f"ReportInputs.sweep: expected different K, got {ks}")
        if self.gallery:
            _require_count("ReportInputs.gallery", self.main.k, "clusters", len(self.gallery))
        if self.main.confusion is not None and self.classes is not None:
            n_classes = self.main.confusion.n_classes
            _require_count("ReportInputs.classes", n_classes, "classes", self.classes.n_classes)

    @property
    def main(self) -> KResult:
        return self.sweep[0]


def _coverage(pixels: Array) -> float:
    total = int(pixels.sum())
    return 100.0 * int(pixels[:-1].sum()) / total if total else 0.0


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_count(where: str, expected: int, what: str, got: int) -> None:
    _require(got == expected, f"{where}: expected {expected} {what}, got {got}")


def _require_array(where: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    _require(array.dtype.name == dtype, f"{where}: expected dtype {dtype}, got {array.dtype.name}")
    _require(array.shape == shape, f"{where}: expected shape {shape}, got {array.shape}")


def _require_picture(where: str, array: Array) -> None:
    _require(array.dtype.name == "uint8", f"{where}: expected dtype uint8, got {array.dtype.name}")
    fits = array.ndim == 3 and array.shape[2] == 3 and array.size > 0
    _require(fits, f"{where}: expected shape (height, width, 3), got {array.shape}")

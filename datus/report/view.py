"""ReportInputs to what the page shows, in order, nothing left to compute for the template.

    view = View(inputs)             names, match and colours, found once
    view.classes, view.clusters     rows and cards
    view.panels(), ...              pictures, made small

All text stays plain here: the template escapes it. `None` among figures means "not defined".
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from datus.report import figures
from datus.report.numbers import DASH
from datus.report.pictures import Colours, class_colours, cluster_colours, layer, photo, small_size
from datus.report.records import Baselines, Distribution, KResult, ReportInputs
from datus.report.summary import HEADLINE, ordered
from datus.types import IGNORE, Array

EXAMPLE_PX = 320
GALLERY_PX = 112

MEANINGS: dict[str, str] = {
    "graphs.density": "Share of patch pairs with an edge. 0.4 to 0.6 is usual without a threshold, "
    "less with one; above 0.9 segments are close to noise.",
    "segments.modularity": "How well the graph falls into communities. Near 0 they are noise.",
    "segments.n_communities": "Louvain communities, before they are split into connected parts.",
    "segments.n_segments": "Connected parts of the communities.",
    "segments.n_valid": "Segments large enough to be clustered; the others stay unlabelled.",
    "embeddings.n_valid": "Segments large enough to be clustered; the others stay unlabelled.",
    "embeddings.valid_share": "Share of the segments that are large enough.",
    "embeddings.valid_patch_share": "Share of the patches that lie in such a segment.",
    "masks.labelled": "Share of the pixels that got a label.",
    "masks.confidence": "How sure the labels are, 0 to 1, over the patches of an image: clear of "
    "the next cluster, the same in all k-means restarts, together in all Louvain partitions.",
}
"""What a figure of the run says about it, by stage and name."""


@dataclass(frozen=True, slots=True)
class Class:
    """One true class and how it went under the headline rule; figures are percent."""

    name: str
    css: str
    share: float
    """Percent of the known pixels."""
    iou: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    cluster: int | None
    """Matched to it; None where no cluster is."""

    @property
    def is_complete(self) -> bool:
        figures = self.iou, self.precision, self.recall, self.f1, self.cluster
        return not any(value is None for value in figures)


@dataclass(frozen=True, slots=True)
class Picture:
    uri: str
    alt: str
    width: int
    height: int
    note: str


@dataclass(frozen=True, slots=True)
class Cluster:
    number: int
    css: str
    striped: bool
    name: str
    """What a person called it; or empty."""
    class_name: str | None
    """None where no class is matched to it, or there is no truth."""
    share: float
    """Percent of all pixels."""
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One image: the photo, and the layers to lay over it."""

    image_id: str
    photo: Picture
    mask: str
    truth: str | None
    labelled: float
    """Percent of its pixels."""
    correct: float | None
    """Percent of its pixels with a known class, under the headline rule."""
    denoised: str | None = None
    """The layer of the de-noised mask, in the colours of its own match."""
    denoised_correct: float | None = None
    """As `correct`, under the match of the de-noised masks."""


@dataclass(frozen=True, slots=True)
class Cell:
    percent: float
    matched: bool
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the confusion matrix."""

    cluster: Cluster | None
    """None for the unlabelled pixels."""
    share: float
    """Percent of the known pixels."""
    cells: tuple[Cell, ...]


class View:
    """The main K of a run under the headline rule.

    scores    of that rule, None where there is no truth
    classes   (C,) in class order; nothing where there is no truth
    clusters  in order of number, without those that are gone, with their pictures
    """

    def __init__(self, inputs: ReportInputs) -> None:
        main = inputs.main
        self.inputs, self.scores = inputs, main.scores.get(HEADLINE)
        self._match = None if self.scores is None else self.scores.match
        self._names: tuple[str, ...] = ()
        """(C,) in class order, or "class 0" and so on where there is no table."""
        if inputs.classes is not None:
            self._names = inputs.classes.names
        elif main.confusion is not None:
            self._names = tuple(f"class {number}" for number in range(main.confusion.n_classes))
        self._class_palette = class_colours(inputs.classes, len(self._names) or IGNORE)
        self._palette = cluster_colours(main.k, self._match, self._class_palette)

    @functools.cached_property
    def classes(self) -> tuple[Class, ...]:
        scores, confusion = self.scores, self.inputs.main.confusion
        if scores is None or confusion is None:
            return ()
        counts = confusion.counts.sum(axis=0)
        return tuple(
            Class(
                name=name,
                css=self._class_palette.css(number),
                share=_share(counts, number),
                iou=_finite(scores.iou[number]),
                precision=_finite(scores.precision[number]),
                recall=_finite(scores.recall[number]),
                f1=_finite(scores.f1_per_class[number]),
                cluster=next(iter(np.flatnonzero(scores.match == number).tolist()), None),
            )
            for number, name in enumerate(self._names)
        )

    @functools.cached_property
    def clusters(self) -> tuple[Cluster, ...]:
        main, gallery, clusters = self.inputs.main, self.inputs.gallery, []
        for number in sorted(set(range(main.k)) - set(main.gone)):
            pictures = []
            for item in gallery[number] if gallery else ():
                margin = f"{item.margin:.2f}"
                alt = f"segment of cluster {number} from {item.image_id}, margin {margin}"
                pictures.append(_photo(item.picture, GALLERY_PX, alt, margin))
            matched = self._class_of(number)
            clusters.append(
                Cluster(
                    number=number,
                    css=self._palette.css(number),
                    striped=bool(self._palette.striped[number]),
                    name=main.name(number),
                    class_name=self._names[matched] if matched >= 0 else None,
                    share=_share(main.cluster_pixels, number),
                    pictures=tuple(pictures),
                )
            )
        return tuple(clusters)

    def _class_of(self, cluster: int) -> int:
        """-1 = none."""
        return -1 if self._match is None else int(self._match[cluster])

    def largest_first(self) -> list[Cluster]:
        return sorted(self.clusters, key=lambda cluster: (-cluster.share, cluster.number))

    def panels(self) -> list[Panel]:
        """One per example, pictures made small."""
        denoised = self.inputs.main.denoised
        scores = denoised.scores.get(HEADLINE) if denoised else None
        match = None if scores is None else scores.match
        palette = cluster_colours(self.inputs.main.k, match, self._class_palette)
        return [
            Panel(
                image_id=example.image_id,
                photo=_photo(example.image, EXAMPLE_PX, f"photo {example.image_id}", ""),
                mask=layer(example.mask, self._palette, EXAMPLE_PX),
                truth=_layer(example.truth, self._class_palette),
                labelled=100.0 * float((example.mask != IGNORE).mean()),
                correct=_correct(example.mask, example.truth, self._match),
                denoised=_layer(example.denoised, palette),
                denoised_correct=_correct(example.denoised, example.truth, match),
            )
            for example in self.inputs.examples
        ]

    def baseline_strips(self) -> list[tuple[Picture, list[tuple[str, str]]]]:
        """(photo, [(what made the mask, layer)]) of each picture; all in the colours of the run."""
        baselines = self.inputs.baselines
        if baselines is None:
            return []
        strips = []
        for image_id, image, masks in baselines.pictures:
            pairs = zip(baselines.rows, masks, strict=True)
            layers = [(row.name, layer(mask, self._palette, EXAMPLE_PX)) for row, mask in pairs]
            strips.append((_photo(image, EXAMPLE_PX, f"photo {image_id}", image_id), layers))
        return strips

    def confusion_rows(self) -> list[Row]:
        """Matched clusters in order of their class, others by their main class, unlabelled last."""
        confusion = self.inputs.main.confusion
        if confusion is None or self.scores is None:
            return []
        counts = confusion.counts
        main_class, total = counts.argmax(axis=1), max(int(counts.sum()), 1)

        def place(cluster: Cluster) -> tuple[bool, int, int]:
            matched = self._class_of(cluster.number)
            group = matched if matched >= 0 else int(main_class[cluster.number])
            return matched < 0, group, cluster.number

        rows = []
        for cluster in (*sorted(self.clusters, key=place), None):
            pixels = counts[cluster.number if cluster else -1]
            matched = self._class_of(cluster.number) if cluster else -1
            n_pixels = int(pixels.sum())
            cells = tuple(
                Cell(100.0 * n / max(n_pixels, 1), number == matched, f"{name}: {n:,} pixels")
                for number, (n, name) in enumerate(zip(pixels.tolist(), self._names, strict=True))
            )
            rows.append(Row(cluster, 100.0 * n_pixels / total, cells))
        return rows


# --- tables and charts --------------------------------------------------------------------------


def baseline_note(baselines: Baselines) -> str:
    """What the table and the pictures of the baselines show."""
    images = f"{baselines.n_images} image{'s' if baselines.n_images != 1 else ''}"
    return (
        f"The run and k-means on the colours of pixels, without and with their position, for small "
        f"pictures of {images} and the same number of clusters. If k-means does as well, "
        "colour and position explain the masks, and the backbone adds little. Place: how well "
        "the place in the image alone predicts the label, 0 = not at all, 1 = entirely."
    )


def baseline_table(baselines: Baselines) -> tuple[list[str], list[list[str]]]:
    """Header and one row each for the run and the baselines."""
    scored = baselines.rows[0].miou is not None
    head = ["masks of", *([f"mIoU, {HEADLINE}", "accuracy"] if scored else []), "place"]
    rows = []
    for row in baselines.rows:
        scores = [f"{value:.1f}" for value in (row.miou, row.accuracy) if value is not None]
        rows.append([row.name, *scores, DASH if row.place is None else f"{row.place:.2f}"])
    return head, rows


def sweep_rules(inputs: ReportInputs) -> list[str]:
    """Every rule that has scores for some K, in the order of all tables."""
    scored = {rule: scores for result in inputs.sweep for rule, scores in result.scores.items()}
    return [rule for rule, _ in ordered(scored)]


def charts(inputs: ReportInputs) -> list[figures.Chart]:
    """Curves over K; none where there is only one K."""
    sweep, rules = inputs.sweep, sweep_rules(inputs)
    if len(sweep) < 2:
        return []
    drawn = []
    for title, key in (("mIoU, percent", "miou"), ("accuracy, percent", "accuracy")):
        curves = {
            rule: {row.k: getattr(row.scores[rule], key) for row in sweep if rule in row.scores}
            for rule in rules
        }
        drawn += [figures.chart(title, curves)] if rules else []
    spread = {result.k: result.inertia / max(result.n_trained, 1) for result in sweep}
    return [*drawn, figures.chart("mean squared distance to the centroid", {"distance": spread})]


def confidence_charts(result: KResult) -> list[figures.Chart]:
    """Scores against coverage as the least sure pixels go; none without truth."""
    kept = [point for point in result.kept if point.coverage >= LEAST_SHARE]
    return [
        figures.against_coverage(
            f"{name} of the pixels that keep a label, percent, against their share",
            [(point.coverage, getattr(point, key)) for point in kept],
        )
        for name, key in (("accuracy", "accuracy"), ("mIoU", "miou"))
        if kept
    ]


LEAST_SHARE = 1.0
"""Percent: a score of fewer pixels is chance, and bends the curve."""
CONFIDENCE_STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def confidence_rows(result: KResult) -> list[tuple[str, str, str, str]]:
    """(least confidence, coverage, accuracy, mIoU) as text, at CONFIDENCE_STEPS."""
    known = {round(point.min_confidence, 6): point for point in result.kept}
    return [
        (f"{step:.1f}", f"{point.coverage:.1f}", f"{point.accuracy:.1f}", f"{point.miou:.1f}")
        for step, point in ((step, known.get(step)) for step in CONFIDENCE_STEPS)
        if point
    ]


FIGURES = (("mIoU", "miou"), ("accuracy", "accuracy"), ("mean F1", "f1"), ("coverage", "coverage"))


def denoised_rows(inputs: ReportInputs) -> list[tuple[str, list[float]]]:
    """(rule, each of FIGURES before and after de-noising), in percent."""
    denoised = inputs.main.denoised
    if denoised is None:
        return []
    after = dict(ordered(denoised.scores))
    return [
        (rule, [getattr(scores, key) for _, key in FIGURES for scores in (before, after[rule])])
        for rule, before in ordered(inputs.main.scores)
        if rule in after
    ]


def boxes(inputs: ReportInputs) -> list[tuple[str, str, Distribution, figures.Box | None]]:
    """(name, meaning, distribution, box plot or None where it has no values), stage by stage."""
    rows = []
    for stage, named in inputs.numbers.items():
        for figure, distribution in named.items():
            name = f"{stage}.{figure}"
            box = figures.box(distribution) if distribution.n else None
            rows.append((name, MEANINGS.get(name, ""), distribution, box))
    return rows


def _photo(image: Array, long_side: int, alt: str, note: str) -> Picture:
    width, height = small_size(image.shape[0], image.shape[1], long_side)
    return Picture(photo(image, long_side), alt, width, height, note)


def _layer(labels: Array | None, palette: Colours) -> str | None:
    return None if labels is None else layer(labels, palette, EXAMPLE_PX)


def _correct(mask: Array | None, truth: Array | None, match: Array | None) -> float | None:
    """Percent of the known pixels with the right class; None where nothing is known."""
    if mask is None or truth is None or match is None:
        return None
    known = truth != IGNORE
    if not known.any():
        return None
    class_of = np.full(IGNORE + 1, -1, np.int16)
    class_of[: len(match)] = match
    return 100.0 * float((class_of[mask] == truth)[known].mean())


def _share(counts: Array, number: int) -> float:
    total = int(counts.sum())
    return 100.0 * int(counts[number]) / total if total else 0.0


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

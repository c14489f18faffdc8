"""ReportInputs to what the page shows, in order, nothing left to compute for the template.

All text stays plain here: the template escapes it. `None` among figures means "not defined".
"""

import math
from dataclasses import dataclass

import numpy as np

from datus.method.metrics import Scores
from datus.report import figures
from datus.report.pictures import Colours, class_colours, cluster_colours, layer, photo, small_size
from datus.report.records import Baselines, Distribution, GalleryItem, KResult, ReportInputs
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


def headline(result: KResult) -> Scores | None:
    """The scores behind the number at the top; None where there is no truth."""
    return dict(ordered(result.scores)).get(HEADLINE)


def class_names(inputs: ReportInputs) -> tuple[str, ...]:
    """(C,) names in class order, or "class 0" and so on where there is no table."""
    if inputs.classes is not None:
        return inputs.classes.names
    confusion = inputs.main.confusion
    scores = headline(inputs.main)
    n_classes = confusion.n_classes if confusion else len(scores.iou) if scores else 0
    return tuple(f"class {number}" for number in range(n_classes))


def colours_of(inputs: ReportInputs) -> tuple[Colours, Colours]:
    """(clusters, classes): so that mask and truth can be compared by eye."""
    classes = class_colours(inputs.classes, len(class_names(inputs)) or IGNORE)
    scores = headline(inputs.main)
    match = None if scores is None else scores.match
    return cluster_colours(inputs.main.k, match, classes), classes


def class_rows(inputs: ReportInputs) -> tuple[Class, ...]:
    """(C,) in class order; nothing where there is no truth."""
    scores = headline(inputs.main)
    if scores is None:
        return ()
    classes = colours_of(inputs)[1]
    counts = inputs.main.confusion.counts.sum(axis=0) if inputs.main.confusion else None
    rows = []
    for number, name in enumerate(class_names(inputs)):
        clusters = np.flatnonzero(scores.match == number)
        rows.append(
            Class(
                name=name,
                css=classes.css(number),
                share=_share(counts, number),
                iou=_finite(scores.iou[number]),
                precision=_finite(scores.precision[number]),
                recall=_finite(scores.recall[number]),
                f1=_finite(scores.f1_per_class[number]),
                cluster=int(clusters[0]) if clusters.size else None,
            )
        )
    return tuple(rows)


def clusters(inputs: ReportInputs) -> tuple[Cluster, ...]:
    """In order of number, without those that are gone, with their pictures."""
    colours = colours_of(inputs)[0]
    scores = headline(inputs.main)
    names = class_names(inputs)
    result = []
    for number in (one for one in range(inputs.main.k) if one not in inputs.main.gone):
        matched = -1 if scores is None else int(scores.match[number])
        items = inputs.gallery[number] if inputs.gallery else ()
        result.append(
            Cluster(
                number=number,
                css=colours.css(number),
                striped=bool(colours.striped[number]),
                name=inputs.main.name(number),
                class_name=names[matched] if matched >= 0 else None,
                share=_share(inputs.main.cluster_pixels, number),
                pictures=tuple(_gallery_picture(item, number) for item in items),
            )
        )
    return tuple(result)


def largest_first(items: tuple[Cluster, ...]) -> list[Cluster]:
    return sorted(items, key=lambda one: (-one.share, one.number))


def panels(inputs: ReportInputs) -> list[Panel]:
    """One per example, pictures made small."""
    cluster_palette, class_palette = colours_of(inputs)
    scores = headline(inputs.main)
    match = None if scores is None else scores.match
    again = _denoised_match(inputs.main)
    again_palette = cluster_colours(inputs.main.k, again, class_palette)
    result = []
    for example in inputs.examples:
        truth, denoised = example.truth, example.denoised
        result.append(
            Panel(
                image_id=example.image_id,
                photo=_photo(example.image, EXAMPLE_PX, f"photo {example.image_id}", ""),
                mask=layer(example.mask, cluster_palette, EXAMPLE_PX),
                truth=None if truth is None else layer(truth, class_palette, EXAMPLE_PX),
                labelled=100.0 * float((example.mask != IGNORE).mean()),
                correct=_correct(example.mask, truth, match),
                denoised=None if denoised is None else layer(denoised, again_palette, EXAMPLE_PX),
                denoised_correct=None if denoised is None else _correct(denoised, truth, again),
            )
        )
    return result


def baseline_note(found: Baselines) -> str:
    """What the table and the pictures of the baselines show."""
    images = f"{found.n_images} image{'s' if found.n_images != 1 else ''}"
    return (
        f"The run and k-means on the colours of pixels, without and with their position, for small "
        f"pictures of {images} and the same number of clusters. If k-means does as well, "
        "colour and position explain the masks, and the backbone adds little. Place: how well "
        "the place in the image alone predicts the label, 0 = not at all, 1 = entirely."
    )


def baseline_table(found: Baselines) -> tuple[list[str], list[list[str]]]:
    """Header and one row each for the run and the baselines."""
    scored = found.rows[0].miou is not None
    head = ["masks of", *([f"mIoU, {HEADLINE}", "accuracy"] if scored else []), "place"]
    rows = []
    for row in found.rows:
        scores = [f"{value:.1f}" for value in (row.miou, row.accuracy) if value is not None]
        rows.append([row.name, *scores, "–" if row.place is None else f"{row.place:.2f}"])
    return head, rows


def baseline_strips(inputs: ReportInputs) -> list[tuple[Picture, list[tuple[str, str]]]]:
    """(photo, [(what made the mask, layer)]) of each picture; all in the colours of the run."""
    if inputs.baselines is None:
        return []
    palette = colours_of(inputs)[0]
    names = [row.name for row in inputs.baselines.rows]
    strips = []
    for image_id, image, masks in inputs.baselines.pictures:
        layers = [layer(mask, palette, EXAMPLE_PX) for mask in masks]
        picture = _photo(image, EXAMPLE_PX, f"photo {image_id}", image_id)
        strips.append((picture, list(zip(names, layers, strict=True))))
    return strips


def _denoised_match(result: KResult) -> Array | None:
    """int16 (K,) of the de-noised masks under the headline rule; None where there is none."""
    scores = dict(ordered(result.denoised.scores)).get(HEADLINE) if result.denoised else None
    return None if scores is None else scores.match


def confusion_rows(inputs: ReportInputs, items: tuple[Cluster, ...]) -> list[Row]:
    """Matched clusters in order of their class, the others by their main class, unlabelled last."""
    confusion, scores = inputs.main.confusion, headline(inputs.main)
    if confusion is None or scores is None:
        return []
    counts = confusion.counts
    main_class = counts.argmax(axis=1)

    def place(cluster: Cluster) -> tuple[bool, int, int]:
        matched = int(scores.match[cluster.number])
        group = matched if matched >= 0 else int(main_class[cluster.number])
        return matched < 0, group, cluster.number

    order: list[Cluster | None] = [*sorted(items, key=place), None]
    total = max(int(counts.sum()), 1)
    rows = []
    for cluster in order:
        pixels = counts[-1 if cluster is None else cluster.number]
        matched = -1 if cluster is None else int(scores.match[cluster.number])
        cells = _cells(pixels, matched, class_names(inputs))
        rows.append(Row(cluster, 100.0 * int(pixels.sum()) / total, cells))
    return rows


def sweep_rules(inputs: ReportInputs) -> list[str]:
    """Every rule that has scores for some K, in the order of all tables."""
    found = {rule: scores for result in inputs.sweep for rule, scores in result.scores.items()}
    return [rule for rule, _ in ordered(found)]


def charts(inputs: ReportInputs) -> list[figures.Chart]:
    """Curves over K; none where there is only one K."""
    sweep = sorted(inputs.sweep, key=lambda result: result.k)
    if len(sweep) < 2:
        return []
    rules = sweep_rules(inputs)
    result = [
        figures.chart(
            title,
            {
                rule: {one.k: getattr(one.scores[rule], key) for one in sweep if rule in one.scores}
                for rule in rules
            },
        )
        for title, key in (("mIoU, percent", "miou"), ("accuracy, percent", "accuracy"))
        if rules
    ]
    spread = {one.k: one.inertia / max(one.n_trained, 1) for one in sweep}
    result.append(figures.chart("mean squared distance to the centroid", {"distance": spread}))
    return result


def confidence_charts(result: KResult) -> list[figures.Chart]:
    """Scores against coverage as the least sure pixels go; none without truth."""
    if not any(one.coverage >= LEAST_SHARE for one in result.kept):
        return []
    return [
        figures.against_coverage(
            f"{name} of the pixels that keep a label, percent, against their share",
            [
                (one.coverage, getattr(one, key))
                for one in result.kept
                if one.coverage >= LEAST_SHARE
            ],
        )
        for name, key in (("accuracy", "accuracy"), ("mIoU", "miou"))
    ]


LEAST_SHARE = 1.0
"""Percent: a score of fewer pixels is chance, and bends the curve."""
CONFIDENCE_STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def confidence_rows(result: KResult) -> list[tuple[str, str, str, str]]:
    """(least confidence, coverage, accuracy, mIoU) as text, at CONFIDENCE_STEPS."""
    known = {round(one.min_confidence, 6): one for one in result.kept}
    return [
        (f"{step:.1f}", f"{one.coverage:.1f}", f"{one.accuracy:.1f}", f"{one.miou:.1f}")
        for step, one in ((step, known.get(step)) for step in CONFIDENCE_STEPS)
        if one
    ]


FIGURES = (
    ("mIoU", "miou"),
    ("accuracy", "accuracy"),
    ("mean F1", "f1"),
    ("coverage", "coverage"),
)


def denoised_rows(inputs: ReportInputs) -> list[tuple[str, list[float]]]:
    """(rule, each of FIGURES before and after de-noising), in percent."""
    again = inputs.main.denoised
    if again is None:
        return []
    after = dict(ordered(again.scores))
    return [
        (rule, [getattr(one, key) for _, key in FIGURES for one in (before, after[rule])])
        for rule, before in ordered(inputs.main.scores)
        if rule in after
    ]


def boxes(inputs: ReportInputs) -> list[tuple[str, str, Distribution, figures.Box | None]]:
    """(name, meaning, distribution, box plot or None where it has no values), stage by stage."""
    return [
        (
            f"{stage}.{name}",
            MEANINGS.get(f"{stage}.{name}", ""),
            one,
            figures.box(one) if one.n else None,
        )
        for stage, named in inputs.numbers.items()
        for name, one in named.items()
    ]


def _gallery_picture(item: GalleryItem, cluster: int) -> Picture:
    alt = f"segment of cluster {cluster} from {item.image_id}, margin {item.margin:.2f}"
    return _photo(item.picture, GALLERY_PX, alt, f"{item.margin:.2f}")


def _photo(image: Array, long_side: int, alt: str, note: str) -> Picture:
    width, height = small_size(image.shape[0], image.shape[1], long_side)
    return Picture(photo(image, long_side), alt, width, height, note)


def _cells(pixels: Array, matched: int, names: tuple[str, ...]) -> tuple[Cell, ...]:
    total = max(int(pixels.sum()), 1)
    return tuple(
        Cell(100.0 * int(count) / total, number == matched, f"{name}: {int(count):,} pixels")
        for number, (count, name) in enumerate(zip(pixels, names, strict=True))
    )


def _correct(mask: Array, truth: Array | None, match: Array | None) -> float | None:
    """Percent of the known pixels with the right class; None where nothing is known."""
    if truth is None or match is None:
        return None
    known = truth != IGNORE
    if not known.any():
        return None
    class_of = np.full(IGNORE + 1, -1, np.int16)
    class_of[: len(match)] = match
    return 100.0 * float((class_of[mask] == truth)[known].mean())


def _share(counts: Array | None, number: int) -> float:
    total = 0 if counts is None else int(counts.sum())
    return 100.0 * int(counts[number]) / total if counts is not None and total else 0.0


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

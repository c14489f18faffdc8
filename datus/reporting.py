"""The report stage: what the other stages stored to the inputs of the report.

Everything is read shard by shard: what stays in memory is a few pictures and figures.
"""

import heapq
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from datus import corrected, frozen, review
from datus.classes import load_classes
from datus.config import Config, settings_of
from datus.drift import Drift
from datus.executors import Advance
from datus.gather import (
    Dataset,
    DatasetWork,
    cluster_arrays_of,
    confusion_of,
    label_centroids,
    model_of,
)
from datus.records import WHOLE, Array, Confusion, ImageRecord, ShardData
from datus.report.records import (
    Denoised,
    Distribution,
    Example,
    GalleryItem,
    Kept,
    KResult,
    ReportInputs,
)
from datus.report.summary import HEADLINE
from datus.shardwork import Context, read_image, read_truth

# --- report: files report.json, report.md, report.html ------------------------------------------


def build_report_stage(context: Context) -> DatasetWork:
    from datus.report import build_report

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        inputs = _inputs(context.config, dataset, advance)
        numbers = {WHOLE: inputs.drift.figures} if inputs.drift else {}
        return ShardData(arrays={}, numbers=numbers, files=dict(build_report(inputs)))

    return work


def _inputs(config: Config, dataset: Dataset, advance: Advance) -> ReportInputs:
    classes = load_classes(Path(config.data.classes)) if config.data.truth else None
    sweep = tuple(_result(config, dataset, k) for k in config.clusters.k)
    drift = _drift(config, dataset)
    said: tuple[str, ...] = (drift.words,) if drift and drift.words else ()
    if config.clusters.edits:
        k = config.clusters.k[0]
        left_out = dataset.file("edits", k, "conflicts.txt").decode().splitlines()
        renames = review.named(config, cluster_arrays_of(dataset, k)).conflicts
        said += tuple(f"edits: {one}" for one in dict.fromkeys([*left_out, *renames]))
    return ReportInputs(
        title=config.name,
        preset=config.preset,
        n_images=len(dataset.index.records),
        sweep=sweep,
        settings={name: _shown(config, dataset, name) for name in _sections(config)}
        | {"run": {"seed": config.seed}},
        provenance=_provenance(config, sweep[0].library),
        failures=_failures(config, dataset),
        warnings=(*dataset.warnings, *said),
        numbers=_numbers(config, dataset),
        classes=classes,
        examples=tuple(_examples(config, dataset)),
        gallery=_gallery(config, dataset, advance),
        drift=drift,
        browse=config.report.browse > 0,
    )


def _sections(config: Config) -> tuple[str, ...]:
    sections = ("features", "graphs", "segments", "embeddings", "clusters", "masks")
    return (*sections, "denoise") if config.denoise.enabled else sections


def _shown(config: Config, dataset: Dataset, section: str) -> dict[str, object]:
    """Settings for the report. Of clusters that are taken, their hash says more than a path; of
    edits, what they are: where the file lies may not change the report's bytes."""
    settings = settings_of(getattr(config, section))
    if section != "clusters":
        return settings
    settings = corrected.hashed(config, dataset.index.records)
    found = review.load(config)
    settings["edits"] = [str(one) for one in found.edits] if found else []
    if not settings.pop("frozen"):
        return settings
    ids = (frozen.arrays_id(cluster_arrays_of(dataset, k)) for k in config.clusters.k)
    return {"k": settings["k"], "frozen": ", ".join(ids), "edits": settings["edits"]}


def _drift(config: Config, dataset: Dataset) -> Drift | None:
    """New images against the taken clusters, for the main K; None where none are taken."""
    if not config.clusters.frozen:
        return None
    k = config.clusters.k[0]
    return frozen.drift_of(cluster_arrays_of(dataset, k), dataset.data("embeddings", k))


def _result(config: Config, dataset: Dataset, k: int) -> KResult:
    from datus.metrics import score_all

    model, centroids = model_of(dataset, k), label_centroids(config, dataset, k)
    pixels = _label_pixels(dataset, "masks", k, len(centroids))
    confusion = confusion_of(dataset, k) if config.data.truth else None
    again = _denoised(config, dataset, k)
    said = review.named(config, cluster_arrays_of(dataset, k))
    return KResult(
        k=len(centroids),
        cluster_pixels=pixels,
        inertia=model.inertia,
        n_trained=model.n_trained,
        library=model.library,
        confusion=confusion,
        scores=score_all(confusion, centroids) if confusion else {},
        denoised=again,
        kept=_kept(dataset, k, confusion) if confusion else (),
        names=said.names,
        gone=said.gone,
    )


def _label_pixels(dataset: Dataset, stage: str, k: int, n_labels: int) -> Array:
    """int64 (L + 1,): pixels of each label over all masks, those without one last."""
    pixels = np.zeros(n_labels + 1, np.int64)
    for _, data in dataset.data(stage, k):
        for arrays in data.arrays.values():
            pixels += arrays["pixels"]
    return pixels


def _kept(dataset: Dataset, k: int, confusion: Confusion) -> tuple[Kept, ...]:
    """Scores of what is left as the least sure pixels lose their label; all under one match."""
    from datus.confidence import N_BINS, kept_counts
    from datus.metrics import fit_match, score

    rows = np.zeros((N_BINS, confusion.n_clusters, confusion.n_classes), np.int64)
    for _, data in dataset.data("evaluate", k):
        for arrays in data.arrays.values():
            bins, cluster, true_class, pixels = arrays["by_confidence"].T
            np.add.at(rows, (bins, cluster, true_class), pixels)
    match, found = fit_match(confusion, HEADLINE), []
    for number, counts in enumerate(kept_counts(rows, confusion.counts[-1])):
        if counts[:-1].any():
            one = score(Confusion(counts), "hungarian_covered", match=match)
            found.append(Kept(number / N_BINS, one.coverage, one.accuracy, one.miou))
    return tuple(found)


def _denoised(config: Config, dataset: Dataset, k: int) -> Denoised | None:
    """How learning went and what the masks it drew score; None where it is not asked for."""
    from datus.metrics import score_all

    if not config.denoise.enabled:
        return None
    centroids = label_centroids(config, dataset, k)
    pixels = _label_pixels(dataset, "denoise", k, len(centroids))
    _, fitted = next(iter(dataset.data("denoise-fit", k)))
    confusion = confusion_of(dataset, k, "denoised") if config.data.truth else None
    return Denoised(
        cluster_pixels=pixels,
        n_trained=int(fitted.numbers[WHOLE]["n_trained"]),
        n_dropped=int(fitted.numbers[WHOLE]["n_dropped"]),
        curve=tuple(fitted.arrays[WHOLE]["curve"].ravel().tolist()),
        scores=score_all(confusion, centroids) if confusion else {},
    )


def _provenance(config: Config, library: str) -> dict[str, str]:
    from datus import __version__
    from datus.backbones import weights_id

    found = {
        "datus": __version__,
        "backbone": config.features.backbone,
        "weights": weights_id(config.features.backbone, config.features.weights),
        "k-means": library,
    }
    for package in ("torch", "timm", "numpy", "scikit-network", "opencv-python-headless", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _failures(config: Config, dataset: Dataset) -> tuple[tuple[str, str, str], ...]:
    rows = [("index", image_id, reason) for image_id, reason in dataset.index.failures.items()]
    stages = ["features", "embeddings", "masks"] + (["evaluate"] if config.data.truth else [])
    stages += ["denoise"] if config.denoise.enabled else []
    for stage in stages:
        for report in dataset.reports(stage, config.clusters.k[0]):
            rows += [(stage, image_id, reason) for image_id, reason in report.failures.items()]
    return tuple(sorted(rows))


FIGURES = {
    "graphs": ("density",),
    "segments": ("modularity", "n_communities", "n_segments"),
    "embeddings": ("n_valid", "valid_share", "valid_patch_share"),
    "masks": ("labelled", "confidence"),
}


def _numbers(config: Config, dataset: Dataset) -> dict[str, dict[str, Distribution]]:
    found: dict[str, dict[str, Distribution]] = {}
    for stage, names in FIGURES.items():
        values = {name: array("d") for name in names}  # 8 bytes an image; a dict takes 400
        for report in dataset.reports(stage, config.clusters.k[0]):
            for row in report.numbers.values():
                for name in values.keys() & row.keys():
                    values[name].append(row[name])
        found[stage] = {name: Distribution.of(values[name]) for name in names}
    return found


def _examples(config: Config, dataset: Dataset) -> Iterator[Example]:
    """Images spread evenly over the dataset; those with truth, where there is truth."""
    from datus.masks import decode_labels, truth_classes

    k = config.clusters.k[0]
    stages = ("masks", "denoise") if config.denoise.enabled else ("masks",)
    done = {image for report in dataset.reports(stages[-1], k) for image in report.images}
    usable = [r for r in dataset.index.records if r.image_id in done]
    if config.data.truth:
        scored = {image for report in dataset.reports("evaluate", k) for image in report.images}
        usable = [r for r in usable if r.image_id in scored]
    classes = load_classes(Path(config.data.classes)) if config.data.truth else None
    for record in _spread(usable, config.report.examples):
        name, limit = f"{record.image_id}.png", config.data.max_pixels
        masks = [decode_labels(dataset.file(stage, k, name), limit) for stage in stages]
        labels = read_truth(config, record) if classes else None
        truth = None
        if classes and labels is not None:
            truth = truth_classes(labels, classes, (record.height, record.width))
        yield Example(record.image_id, read_image(config, record), masks[0], truth, *masks[1:])


def _spread(records: list[ImageRecord], n_wanted: int) -> list[ImageRecord]:
    n_taken = min(n_wanted, len(records))
    return [records[(2 * i + 1) * len(records) // (2 * n_taken)] for i in range(n_taken)]


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A segment for the gallery; the order is by confidence, then by name."""

    margin: float
    image_id: str
    box: tuple[float, float, float, float]
    """In shares of the image's height and width."""
    segment: int


def _gallery(
    config: Config, dataset: Dataset, advance: Advance
) -> tuple[tuple[GalleryItem, ...], ...]:
    """The most confident segments of each cluster, one from an image."""
    k, size = config.clusters.k[0], config.report.gallery
    n_labels = len(label_centroids(config, dataset, k))
    best: list[list[Candidate]] = [[] for _ in range(n_labels)]
    segments = dataset.data("segments", k)
    for (shard, masks), (_, segmented) in zip(dataset.data("masks", k), segments, strict=True):
        for record in shard.records:
            if record.image_id in masks.arrays:
                arrays = masks.arrays[record.image_id], segmented.arrays[record.image_id]
                for cluster, candidate in candidates(record, *arrays):
                    if len(best[cluster]) < size or best[cluster][-1] < candidate:
                        best[cluster] = heapq.nlargest(size, [*best[cluster], candidate])
        advance(len(shard.records))
    wanted = {one.image_id for row in best for one in row}
    records = {r.image_id: r for r in dataset.index.records if r.image_id in wanted}
    return tuple(tuple(_item(config, records[one.image_id], one) for one in row) for row in best)


def candidates(
    record: ImageRecord, masks: dict[str, Array], segments: dict[str, Array]
) -> Iterator[tuple[int, Candidate]]:
    """(cluster, the image's most confident segment of it)."""
    rows, columns = segments["labels"].shape
    cluster, margin = masks["cluster"], masks["margin"]
    for one in np.unique(cluster[cluster >= 0]).tolist():
        members = np.flatnonzero(cluster == one)
        segment = int(members[np.argmax(margin[members])])
        top, left, bottom, right = segments["boxes"][segment].tolist()
        box = (top / rows, left / columns, bottom / rows, right / columns)
        yield one, Candidate(float(margin[segment]), record.image_id, box, segment)


def _item(config: Config, record: ImageRecord, one: Candidate) -> GalleryItem:
    top, left, bottom, right = one.box
    picture = read_image(config, record)[
        pixels_of(top, bottom, record.height), pixels_of(left, right, record.width)
    ]
    return GalleryItem(record.image_id, picture, one.margin)


def pixels_of(low: float, high: float, side: int) -> slice:
    """At least one pixel, also where patches are smaller than pixels."""
    first = min(int(low * side), side - 1)
    return slice(first, max(first + 1, round(high * side)))

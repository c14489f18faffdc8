"""The stage `report`: report.html, report.md and report.json, and the page of all images.

What the other stages stored becomes `report.records.ReportInputs`. Everything is read shard by
shard: what stays in memory is a few pictures and figures. `stages.browse_page` makes browse.html.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import Config, settings_of
from datus.engine.dataset import Dataset, DatasetWork
from datus.engine.stage import Context, Stage
from datus.engine.workers import Advance, no_progress
from datus.inputs.index import Index
from datus.inputs.labels import decode_labels, load_classes
from datus.inputs.read import read_image
from datus.method.consistency import judge
from datus.method.drift import Drift, warning
from datus.models.image_size import denoise_size, input_size
from datus.models.weights import better_backbone
from datus.report.records import (
    Baselines,
    Compared,
    Denoised,
    Distribution,
    Example,
    GalleryItem,
    Kept,
    KResult,
    ReportInputs,
)
from datus.report.summary import HEADLINE
from datus.review import corrections, frozen, replay
from datus.review.cluster_arrays import cluster_model
from datus.stages import denoise, embeddings, evaluate, features, graphs, masks, segments
from datus.stages.browse_page import write_browser
from datus.stages.centering import choice_of
from datus.stages.clusters import cluster_arrays_of
from datus.stages.edits import label_centroids
from datus.stages.embeddings import embedder, few_valid
from datus.stages.evaluate import true_classes
from datus.stages.masks import few_labelled
from datus.stages.totals import GALLERY, Candidate, Totals, totals_of
from datus.stages.views import figures_of
from datus.store.store import ShardReport
from datus.types import WHOLE, Array, ClassTable, Confusion, ImageRecord, ShardData, Verdict, evenly


def needs(config: Config) -> tuple[str, ...]:
    return (
        *("features", "graphs", "segments", "embeddings", "clusters", "masks", "views"),
        *(("edits",) if config.clusters.edits else ()),
        *(("denoise-fit", "denoise") if config.denoise.enabled else ()),
        *(("evaluate",) if config.data.truth else ()),
        "tallies",
    )


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    hashed = {**settings_of(config.report), "dataset": index.content, "preset": config.preset}
    hashed["title"] = config.name
    if list(config.clusters.k) != sorted(config.clusters.k):
        hashed["k"] = list(config.clusters.k)  # in this order: the page shows the first
    hashed["failures"] = index.failures
    hashed["names"] = replay.name_settings(config)
    if config.clusters.frozen:
        hashed["drift"] = True
    if config.data.truth:
        hashed["truth"] = index.truth_content
    if config.data.classes:
        hashed["colours"] = [list(c) for c in load_classes(Path(config.data.classes)).colours]
    return hashed


def build(context: Context) -> DatasetWork:
    from datus.report import build_report

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        browses = context.config.report.browse > 0
        inputs = _inputs(context.config, dataset, no_progress if browses else advance)
        numbers = {WHOLE: inputs.drift.figures} if inputs.drift else {}
        data = ShardData(arrays={}, numbers=numbers, files=dict(build_report(inputs)))
        if browses:
            write_browser(context, dataset, inputs, advance)
        return data

    return work


def _inputs(config: Config, dataset: Dataset, advance: Advance) -> ReportInputs:
    classes = load_classes(Path(config.data.classes)) if config.data.truth else None
    told, main = _read_reports(config, dataset), config.clusters.k[0]
    tallies = {}
    for k in config.clusters.k:  # the first with the gallery; the bar counts its images
        n_labels = len(label_centroids(config, dataset, k))
        n_best, counted = (GALLERY, advance) if k == main else (0, no_progress)
        tallies[k] = totals_of(dataset, k, n_labels, n_best, counted)
    shares = told.values["embeddings"]["valid_patch_share"]
    share = sum(shares) / max(1, len(shares))
    sweep = tuple(_result(config, dataset, k, tallies[k], share) for k in config.clusters.k)
    drift = None
    if config.clusters.frozen:
        clusters = cluster_arrays_of(dataset, main)
        drift = frozen.drift_of(clusters, dataset.data("embeddings", main))
    unusable = [("index", image_id, why) for image_id, why in dataset.index.failures.items()]
    sections = ["features", "graphs", "segments", "embeddings", "clusters", "masks"]
    sections += ["denoise"] if config.denoise.enabled else []
    return ReportInputs(
        title=config.name,
        preset=config.preset,
        n_images=len(dataset.index.records),
        sweep=sweep,
        settings={name: _shown(config, dataset, name) for name in sections}
        | {"run": {"seed": config.seed}},
        provenance=_provenance(config, sweep[0].library),
        failures=tuple(sorted(unusable + told.failures)),
        warnings=_warnings(config, dataset, drift),
        numbers={
            stage: {name: Distribution.of(told.values[stage][name]) for name in names}
            for stage, names in FIGURES.items()
        },
        classes=classes,
        examples=tuple(_examples(config, dataset, told, classes)),
        gallery=_gallery(config, dataset, tallies[main].best),
        drift=drift,
        browse=config.report.browse > 0,
        baselines=_baselines(config, dataset, told, sweep[0], classes),
        better_backbone=better_backbone(config),
    )


def _warnings(config: Config, dataset: Dataset, drift: Drift | None) -> tuple[str, ...]:
    """Those of all stages, what drift there is, and edits that could not be replayed."""
    said, main = list(dataset.warnings), config.clusters.k[0]
    if drift and drift.words:
        said.append(drift.words)
    if config.clusters.edits:
        left_out = dataset.file("edits", main, "conflicts.txt").decode().splitlines()
        renames = replay.named(config, cluster_arrays_of(dataset, main)).conflicts
        said += [f"edits: {one}" for one in dict.fromkeys([*left_out, *renames])]
    return tuple(said)


def _shown(config: Config, dataset: Dataset, section: str) -> dict[str, object]:
    """Settings for the report, the image size as a number, and with what was found over the
    dataset: 'auto (position)', 'auto (0.6592)'. Of clusters that are taken, their hash says more
    than a path; of edits, what they are: where the file lies may not change the report's bytes."""
    settings = settings_of(getattr(config, section))
    if section == "features":
        settings |= input_size(config.features)._asdict()
    if section == "denoise":
        settings["image_px"] = denoise_size(config).image_px
    if section == "graphs" and not config.graphs.by_density:
        del settings["density"]
    if section == "graphs" and config.graphs.over_dataset:
        found = dataset.whole("center").arrays[WHOLE]
        if config.graphs.center == "auto":
            settings["center"] = f"auto ({choice_of(found)})"
        if config.graphs.by_density:
            settings["threshold"] = f"auto ({found['threshold'][0]:.4f})"
    if section == "clusters":
        settings = corrections.hashed(config, dataset.index.records)
        loaded = replay.load(config)
        settings["edits"] = [str(one) for one in loaded.edits] if loaded else []
        if settings.pop("frozen"):
            ids = (frozen.arrays_id(cluster_arrays_of(dataset, k)) for k in config.clusters.k)
            return {"k": settings["k"], "frozen": ", ".join(ids), "edits": settings["edits"]}
    return settings


def _result(
    config: Config, dataset: Dataset, k: int, totals: Totals, valid_share: float
) -> KResult:
    from datus.method.metrics import score_all

    arrays, centroids = cluster_arrays_of(dataset, k), label_centroids(config, dataset, k)
    model, said = cluster_model(arrays), replay.named(config, arrays)
    confusion = totals.confusion() if config.data.truth else None
    scores = score_all(confusion, centroids) if confusion else {}
    figures, n_images = figures_of(config, dataset, k), len(dataset.index.records)
    labelled = totals.pixels[:-1].sum() / max(1, totals.pixels.sum())
    # keys, or the vectors that are clustered, come of random weights
    embedder_weights = embedder(config)[1] if config.embeddings.mode == "crop" else ""
    untrained = "random" in (config.features.weights, embedder_weights)
    words = " ".join(few_valid(valid_share) or few_labelled(labelled))
    return KResult(
        k=len(centroids),
        cluster_pixels=totals.pixels,
        inertia=model.inertia,
        n_trained=model.n_trained,
        library=model.library,
        confusion=confusion,
        scores=scores,
        denoised=_denoised(dataset, k, totals, centroids) if config.denoise.enabled else None,
        kept=_kept(totals, confusion, scores[HEADLINE].match) if confusion else (),
        names=said.names,
        gone=said.gone,
        verdict=judge(figures, untrained, words, n_images) if labelled > 0 else UNLABELLED,
        consistency=figures,
    )


UNLABELLED = Verdict("do not trust this", ("no pixel of any mask has a label",))


def _kept(totals: Totals, confusion: Confusion, match: Array) -> tuple[Kept, ...]:
    """Scores of what is left as the least sure pixels lose their label; all under one match."""
    from datus.method.confidence import N_BINS, kept_counts
    from datus.method.metrics import score

    found = []
    for number, counts in enumerate(kept_counts(totals.by_confidence, confusion.counts[-1])):
        if counts[:-1].any():
            one = score(Confusion(counts), "hungarian_covered", match=match)
            found.append(Kept(number / N_BINS, one.coverage, one.accuracy, one.miou))
    return tuple(found)


def _denoised(dataset: Dataset, k: int, totals: Totals, centroids: Array) -> Denoised:
    """How learning went and what the masks it drew score."""
    from datus.method.metrics import score_all

    fitted = dataset.whole("denoise-fit", k)
    confusion = totals.confusion("denoised") if dataset.config.data.truth else None
    figures = fitted.numbers[WHOLE]
    return Denoised(
        cluster_pixels=totals.denoised_pixels,
        n_trained=int(figures["n_trained"]),
        n_dropped=int(figures["n_dropped"]),
        curve=tuple(fitted.arrays[WHOLE]["curve"].ravel().tolist()),
        scores=score_all(confusion, centroids) if confusion else {},
    )


def _provenance(config: Config, library: str) -> dict[str, str]:
    from datus.models.weights import weights_id
    from datus.version import __version__

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


READ = (
    *(features.STAGE, graphs.STAGE, segments.STAGE, embeddings.STAGE),
    *(masks.STAGE, evaluate.STAGE, denoise.STAGE),
)
"""Stages whose reports say something of each image."""

FIGURES = {stage.name: stage.figures for stage in READ if stage.figures}
FAILING = tuple(stage.name for stage in READ if stage.drops_images)


@dataclass(slots=True)
class _Told:
    """What the reports of the main K say, each read once."""

    failures: list[tuple[str, str, str]] = field(default_factory=list)
    values: dict[str, dict[str, "array[float]"]] = field(default_factory=dict)
    """Stage -> figure -> 8 bytes an image; a dict would take 400."""
    records: list[ImageRecord] = field(default_factory=list)
    """Images that got a mask, also a de-noised one, and are scored where there is truth."""


def _read_reports(config: Config, dataset: Dataset) -> _Told:
    told, last = _Told(), ["denoise" if config.denoise.enabled else "masks"]
    last += ["evaluate"] if config.data.truth else []
    left_out = {"evaluate", "denoise"} - set(last)
    done: dict[str, set[str]] = {stage: set() for stage in last}
    for stage in sorted({*FIGURES, *FAILING} - left_out):
        values = {name: array("d") for name in FIGURES.get(stage, ())}
        for report in dataset.reports(stage, config.clusters.k[0]):
            if stage in FAILING:
                told.failures += [(stage, who, why) for who, why in report.failures.items()]
            for row in report.numbers.values() if values else ():
                for name in values.keys() & row.keys():
                    values[name].append(row[name])
            if stage in done:
                done[stage].update(report.images)
        told.values[stage] = values
    images = set.intersection(*done.values())
    told.records = [record for record in dataset.index.records if record.image_id in images]
    return told


BASELINE_IMAGES, BASELINE_PICTURES = 24, 4
"""Images that the baselines are compared on, and those of them that are shown. Both are the small
pictures that the masks stage keeps, so the cost does not depend on the dataset."""

CELL_STEP = 4
"""Every so many pixels count for what the place predicts."""


def _baselines(
    config: Config, dataset: Dataset, told: _Told, main: KResult, classes: ClassTable | None
) -> Baselines | None:
    """The run and k-means on colours, on the small pictures of some images."""
    from datus.inputs.decode import decode_image
    from datus.method.baselines import colour_masks, renumbered
    from datus.method.consistency import place_kappa
    from datus.method.masks import labels_to_pixels
    from datus.method.metrics import add, count_pixels, score

    if not config.report.baselines:
        return None
    usable = [r for r in told.records if not classes or r.truth_path is not None]
    taken = {record.image_id: record for record in evenly(usable, BASELINE_IMAGES)}
    limit, names, images, masks, truths = config.data.max_pixels, [], [], [], []
    for _, data in dataset.data("masks", config.clusters.k[0], taken.keys()):
        for image_id in sorted(taken.keys() & data.arrays.keys()):
            arrays = data.arrays[image_id]
            names.append(image_id)
            images.append(decode_image(arrays["preview"].tobytes(), limit))
            masks.append(decode_labels(arrays["small"].tobytes(), limit))
            truth = true_classes(config, taken[image_id], classes) if classes else None
            if truth is not None:
                truths.append(labels_to_pixels(truth, *masks[-1].shape))
    if not names:
        return None
    made = {"this run, before de-noising" if config.denoise.enabled else "this run": masks}
    for name, position in (("colour", False), ("colour + position", True)):
        found = colour_masks(images, max(1, main.n_clusters), position, config.seed)
        made[name] = renumbered(found, masks, main.k)
    rows = []
    for name, several in made.items():
        thinned = [mask[::CELL_STEP, ::CELL_STEP] for mask in several]
        n_labels = len(np.unique(np.concatenate([mask.ravel() for mask in thinned])))
        place = place_kappa(thinned) if len(several) > 1 and n_labels > 1 else None
        if classes and len(truths) == len(masks):
            pairs = zip(several, truths, strict=True)
            counts = add(count_pixels(*pair, main.k, classes.n_classes) for pair in pairs)
            scores = score(counts, HEADLINE)
            rows.append(Compared(name, place, scores.miou, scores.accuracy))
        else:
            rows.append(Compared(name, place))
    shown = evenly(list(range(len(names))), BASELINE_PICTURES)
    return Baselines(
        len(names),
        tuple(rows),
        tuple((names[i], images[i], tuple(made[name][i] for name in made)) for i in shown),
    )


EXAMPLES = 12
"""Images that the report shows with mask and truth; browse.html has all of them."""


def _examples(
    config: Config, dataset: Dataset, told: _Told, classes: ClassTable | None
) -> Iterator[Example]:
    """Images spread evenly over the dataset; those with truth, where there is truth."""
    k, limit = config.clusters.k[0], config.data.max_pixels
    stages = ("masks", "denoise") if config.denoise.enabled else ("masks",)
    for record in evenly(told.records, EXAMPLES):
        files = (dataset.file(stage, k, f"{record.image_id}.png") for stage in stages)
        masks = [decode_labels(file, limit) for file in files]
        truth = true_classes(config, record, classes) if classes else None
        yield Example(record.image_id, read_image(config, record), masks[0], truth, *masks[1:])


def _gallery(
    config: Config, dataset: Dataset, best: list[list[Candidate]]
) -> tuple[tuple[GalleryItem, ...], ...]:
    """The most confident segments of each cluster, one from an image."""
    wanted = {one.image_id for row in best for one in row}
    records = {r.image_id: r for r in dataset.index.records if r.image_id in wanted}

    def item(one: Candidate) -> GalleryItem:
        (top, left, bottom, right), record = one.box, records[one.image_id]
        rows, columns = pixels_of(top, bottom, record.height), pixels_of(left, right, record.width)
        return GalleryItem(one.image_id, read_image(config, record)[rows, columns], one.margin)

    return tuple(tuple(item(one) for one in row) for row in best)


def pixels_of(low: float, high: float, side: int) -> slice:
    """At least one pixel, also where patches are smaller than pixels."""
    first = min(int(low * side), side - 1)
    return slice(first, max(first + 1, round(high * side)))


def warn(reports: Iterable[ShardReport]) -> list[str]:
    """New images that lie far from the clusters that were taken."""
    rows = (row for report in reports for row in report.numbers.values())
    return [text for text in map(warning, rows) if text]


def links(config: Config, k: int) -> dict[str, tuple[str, str]]:
    browser = {"browser": ("report", "browse.html")} if config.report.browse else {}
    return {"report": ("report", "report.html"), **browser}


def cost(config: Config, n_images: int) -> float:
    """It grows with its pictures, of which there are so many at most."""
    shown = config.report
    n_pictures = min(GALLERY, n_images) * config.clusters.k[0] + min(shown.browse, n_images)
    n_pictures += min(BASELINE_PICTURES, n_images) if shown.baselines else 0
    return 1.0 + min(EXAMPLES, n_images) + n_pictures


STAGE = Stage(
    name="report",
    version=6,
    scope="dataset",
    needs=needs,
    settings=settings,
    build=build,
    is_last=True,
    warn=warn,
    links=links,
    cost=cost,
    size=cost,
)

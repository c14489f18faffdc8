"""The stages `denoise-fit` and `denoise`: a model learns the masks and draws them (paper III-F).

denoise-fit stores of the dataset the tensors that were learnt, by name, and curve float64 (rounds,
epochs); files: model.json and model.safetensors, for `datus predict`.

denoise stores of an image png uint8 (n,) and pixels int64 (K + 1,); files: IMAGE_ID.png. How a
segmenter learns is in `segmenter.train`.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datus.config import Config, settings_of
from datus.engine.dataset import Dataset, DatasetWork
from datus.engine.stage import (
    Context,
    Inputs,
    ShardWork,
    Stage,
    always,
    no_settings,
    numbers_of,
    per_image,
)
from datus.engine.workers import Advance
from datus.inputs.index import Index, Shard
from datus.inputs.labels import decode_labels
from datus.inputs.read import read_image
from datus.models.image_size import denoise_size
from datus.models.weights import check_learnable
from datus.review import replay
from datus.review.corrections import drawn_in
from datus.stages.features import weights_of
from datus.store.store import ShardReport
from datus.types import WHOLE, Array, ImageRecord, ShardData

if TYPE_CHECKING:
    from datus.segmenter.examples import FeatureSet, ImageSet
    from datus.segmenter.model import Segmenter

MODEL = "model"
"""Name of the model among the stage's files."""


def reads_tokens(config: Config) -> bool:
    """A frozen probe on last tokens learns from what the features stage stored: no second pass."""
    own = config.denoise
    return own.kind == "probe" and own.freeze and own.head != "layers"


def is_active(config: Config) -> bool:
    return config.denoise.enabled


# --- denoise-fit ----------------------------------------------------------------------------------


def fit_needs(config: Config) -> tuple[str, ...]:
    tokens = ("features",) if reads_tokens(config) else ()
    return (*tokens, "masks")


def fit_settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    hashed = {**settings_of(config.denoise), "seed": config.seed, "dataset": index.content}
    del hashed["enabled"]
    if config.denoise.kind == "probe":
        check_learnable(config.features.backbone)
        hashed["backbone"] = config.features.backbone
        hashed["weights"] = weights_of(config, config.features.backbone, config.features.weights)
    return hashed | denoise_size(config)._asdict()


def build_fit(context: Context) -> DatasetWork:
    from datus.segmenter.files import cluster_classes, model_files
    from datus.segmenter.model import build_segmenter, save_segmenter, segmenter_spec
    from datus.segmenter.train import Place, train, trained_state

    config, runtime = context.config, context.runtime

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        spec = segmenter_spec(config, replay.n_labels(config, context.k))
        segmenter = build_segmenter(spec, config.seed, runtime.device)
        n_images = len(dataset.index.records)

        def note(done: int, total: int) -> None:
            advance(n_images * done // total - n_images * (done - 1) // total)

        with dataset.workplace("denoise-fit", context.k) as folder:
            examples = _examples(context, dataset, segmenter, folder)
            place = Place(folder, config.seed, runtime.threads, note)
            curve = train(segmenter, examples, config.denoise, place)
            provenance = {"made_by": "denoise-fit", "settings": settings_of(config.denoise)}
            classes = cluster_classes(segmenter.spec.n_classes)
            save_segmenter(segmenter, folder / MODEL, classes, provenance)
            files = {path.name: path.read_bytes() for path in model_files(folder / MODEL)}
        figures = {
            "n_trained": float(len(examples)),
            "n_dropped": float(len(examples.dropped)),
            "first_loss": float(curve[0]),
            "last_loss": float(curve[-1]),
        }
        arrays = {**trained_state(segmenter), "curve": curve}
        return ShardData(arrays={WHOLE: arrays}, numbers={WHOLE: figures}, files=files)

    return work


def _examples(
    context: Context, dataset: Dataset, segmenter: "Segmenter", folder: Path
) -> "FeatureSet | ImageSet":
    """Pseudo-masks and what is learnt from them; features once to the disk, or images by name."""
    from datus.segmenter.examples import FeatureSet, ImageSet, Source, training_view

    if segmenter.is_frozen:
        return FeatureSet.stored(folder) or _cached(context, dataset, segmenter, folder)
    config, k = context.config, context.k
    sources = (
        Source(
            record.image_id,
            partial(read_image, config, record),
            partial(_mask, config, dataset, k, record),
        )
        for shard, masks in dataset.data("masks", k)
        for record in shard.records
        if record.image_id in masks.arrays
    )
    view = training_view(config, segmenter)
    return ImageSet(sources, replay.n_labels(config, k), config.denoise.drop_share, view)


def _mask(config: Config, dataset: Dataset, k: int, record: ImageRecord) -> Array:
    """uint8 (H, W): the pseudo-mask as it was written, whatever refined it."""
    data = dataset.file("masks", k, f"{record.image_id}.png")
    return decode_labels(data, config.data.max_pixels)


def _cached(
    context: Context, dataset: Dataset, segmenter: "Segmenter", folder: Path
) -> "FeatureSet":
    """One pass over the dataset: features and label shares of every image to the work folder."""
    from datus.segmenter.examples import CacheWriter
    from datus.segmenter.model import features_of, prepared

    config, k = context.config, context.k
    writer = CacheWriter(folder, replay.n_labels(config, k), config.denoise.drop_share)
    needs = fit_needs(config)
    for parts in zip(*(dataset.data(need, k) for need in needs), strict=True):
        shard = parts[0][0]
        found = {need: data.arrays for need, (_, data) in zip(needs, parts, strict=True)}
        for record in shard.records:
            if any(record.image_id not in arrays for arrays in found.values()):
                continue
            labels = _mask(config, dataset, k, record)
            if writer.wants(record.image_id, labels):
                if "features" in found:
                    features = np.moveaxis(found["features"][record.image_id]["tokens"], -1, 0)
                else:
                    image = prepared(segmenter, read_image(config, record))
                    features = features_of(segmenter, image)
                writer.add(features, labels)
    return writer.finish()


# --- denoise --------------------------------------------------------------------------------------


def needs(config: Config) -> tuple[str, ...]:
    drawn: tuple[str, ...] = ("clusters",) if config.clusters.corrections else ()
    drawn += ("edits",) if drawn and config.clusters.edits else ()
    return (*fit_needs(config), *drawn, "denoise-fit")


def build(context: Context) -> ShardWork:
    from datus.method.masks import encode_mask
    from datus.segmenter.model import (
        build_segmenter,
        head_logits,
        image_logits,
        prepared,
        segmenter_spec,
    )
    from datus.segmenter.train import fill

    config = context.config
    n_labels = replay.n_labels(config, context.k)
    spec = segmenter_spec(config, n_labels)
    segmenter = build_segmenter(spec, config.seed, context.runtime.device)

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        if "features" in inputs:
            tokens = inputs["features"].arrays[record.image_id]["tokens"]
            logits = head_logits(segmenter, np.moveaxis(tokens, -1, 0))
        else:
            logits = image_logits(segmenter, prepared(segmenter, read_image(config, record)))
        mask = _drawn(config, record, logits)
        if "clusters" in inputs and (drawn := drawn_in(inputs["clusters"], record)):
            edits = inputs["edits"].arrays[WHOLE] if "edits" in inputs else None
            mask = drawn.paint(mask, edits)  # what a person drew stays
        png = encode_mask(mask)
        pixels = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
        arrays = {
            "png": np.frombuffer(png, np.uint8),
            "pixels": np.r_[pixels[:n_labels], pixels[-1:]],
        }
        return ShardData(
            arrays={record.image_id: arrays},
            numbers={record.image_id: {"labelled": 1.0 - float(pixels[-1]) / mask.size}},
            files={f"{record.image_id}.png": png},
        )

    by_image = per_image(context, one)

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        state = inputs["denoise-fit"].arrays[WHOLE]
        fill(segmenter, {name: one for name, one in state.items() if name != "curve"})
        return by_image(shard, inputs, advance)

    return work


def _drawn(config: Config, record: ImageRecord, logits: Array) -> Array:
    """uint8 (H, W): the likeliest label of each pixel; of a probe, with borders as `masks` has.

    Borders follow the image from half cells: from whole ones they lose what the logits know of the
    place. DeepLabV3 was measured to lose by it (docs/denoise.md).
    """
    from datus.method.refine import refine
    from datus.segmenter.tiles import logits_to_pixels

    if config.masks.refine == "none" or config.denoise.kind == "deeplabv3":
        return logits_to_pixels(logits, record.height, record.width)[0]
    rows, columns = logits.shape[1:]
    finer, _ = logits_to_pixels(logits, 2 * rows, 2 * columns)
    return refine(read_image(config, record), finer)


def warn(reports: Iterable[ShardReport]) -> list[str]:
    """Masks that were too plain to learn from, where they are most of them."""
    report = list(reports)
    dropped, trained = numbers_of(report, "n_dropped"), numbers_of(report, "n_trained")
    if sum(dropped) <= sum(trained):
        return []
    return [
        f"de-noising left out {sum(dropped):.0f} of {sum(dropped) + sum(trained):.0f} images, "
        "whose masks are nearly all one cluster: the model knows the others only; try more "
        "clusters, or --set denoise.drop_share=1"
    ]


def fit_links(config: Config, k: int) -> dict[str, tuple[str, str]]:
    return {f"model of K = {k}": (f"model-k{k}", "")}


def links(config: Config, k: int) -> dict[str, tuple[str, str]]:
    return {f"de-noised masks of K = {k}": (f"denoised-k{k}", "")}


FIT = Stage(
    name="denoise-fit",
    version=2,
    scope="dataset",
    needs=fit_needs,
    settings=fit_settings,
    build=build_fit,
    is_active=is_active,
    per_k=True,
    warn=warn,
    links=fit_links,
)


STAGE = Stage(
    name="denoise",
    version=3,
    scope="shard",
    needs=needs,
    settings=no_settings,
    build=build,
    is_active=is_active,
    per_k=True,
    on_device=always,
    drops_images=True,
    links=links,
)

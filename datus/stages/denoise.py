"""What the de-noising stages do: learn the masks of the whole dataset, draw them again by shard.

`denoise-fit` keeps the trained model twice: as arrays, for `denoise`, and as the files model.json
and model.safetensors, for `datus predict`. The bodies have the shape of those in `work` and
`gather`; how a segmenter learns is in `denoise`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datus.config import Config, settings_of
from datus.engine.stage import Context, Inputs, ShardWork, per_image, read_image
from datus.engine.workers import Advance
from datus.inputs.index import Shard
from datus.review.corrections import drawn_in
from datus.review.review import labels_of
from datus.stages.gather import Dataset, DatasetWork
from datus.types import WHOLE, Array, ImageRecord, ShardData

if TYPE_CHECKING:
    from datus.segmenter.examples import FeatureSet, ImageSet, Source
    from datus.segmenter.model import Segmenter

MODEL = "model"
"""Name of the model among the stage's files."""


def reads_tokens(config: Config) -> bool:
    """A frozen probe on last tokens learns from what the features stage stored: no second pass."""
    own = config.denoise
    return own.kind == "probe" and own.freeze and own.head != "layers"


# --- denoise-fit: what was learnt, by name; curve float64 (epochs,); files: the model ------------


def build_denoise_fit(context: Context) -> DatasetWork:
    from datus.segmenter.model import build_segmenter, segmenter_spec
    from datus.segmenter.train import Place, train, trained_state

    config, runtime = context.config, context.runtime

    def work(dataset: Dataset, advance: Advance) -> ShardData:
        spec = segmenter_spec(config, labels_of(config, context.k))
        segmenter = build_segmenter(spec, config.seed, runtime.device)
        n_images = len(dataset.index.records)

        def note(done: int, total: int) -> None:
            advance(n_images * done // total - n_images * (done - 1) // total)

        with dataset.workplace("denoise-fit", context.k) as folder:
            examples = _examples(context, dataset, segmenter, folder)
            place = Place(folder, config.seed, runtime.threads, note)
            curve = train(segmenter, examples, config.denoise, place)
            files = _model_files(segmenter, config, folder)
        figures = {
            "n_trained": float(len(examples)),
            "n_dropped": float(len(examples.dropped)),
            "first_loss": float(curve[0]),
            "last_loss": float(curve[-1]),
        }
        arrays = {**trained_state(segmenter), "curve": curve}
        return ShardData(arrays={WHOLE: arrays}, numbers={WHOLE: figures}, files=files)

    return work


def _model_files(segmenter: "Segmenter", config: Config, folder: Path) -> dict[str, bytes]:
    from datus.segmenter.files import cluster_classes, model_files
    from datus.segmenter.model import save_segmenter

    provenance = {"made_by": "denoise-fit", "settings": settings_of(config.denoise)}
    n_clusters = segmenter.spec.n_classes
    save_segmenter(segmenter, folder / MODEL, cluster_classes(n_clusters), provenance)
    return {path.name: path.read_bytes() for path in model_files(folder / MODEL)}


def _examples(
    context: Context, dataset: Dataset, segmenter: "Segmenter", folder: Path
) -> "FeatureSet | ImageSet":
    """Pseudo-masks and what is learnt from them; features once to the disk, or images by name."""
    from datus.segmenter.examples import FeatureSet, ImageSet, training_view

    if segmenter.is_frozen:
        return FeatureSet.stored(folder) or _cached(context, dataset, segmenter, folder)
    sources = _sources(context.config, dataset, context.k)
    view = training_view(context.config, segmenter)
    n_labels = labels_of(context.config, context.k)
    return ImageSet(sources, n_labels, context.config.denoise.drop_share, view)


def _sources(config: Config, dataset: Dataset, k: int) -> Iterator["Source"]:
    from datus.segmenter.examples import Source

    for shard, masks in dataset.data("masks", k):
        for record in shard.records:
            if record.image_id in masks.arrays:
                yield Source(
                    record.image_id,
                    lambda record=record: read_image(config, record),  # type: ignore[misc]
                    lambda record=record: _mask(config, dataset, k, record),  # type: ignore[misc]
                )


def _mask(config: Config, dataset: Dataset, k: int, record: ImageRecord) -> Array:
    """uint8 (H, W): the pseudo-mask as it was written, whatever refined it."""
    from datus.method.masks import decode_labels

    data = dataset.file("masks", k, f"{record.image_id}.png")
    return decode_labels(data, config.data.max_pixels)


def _cached(
    context: Context, dataset: Dataset, segmenter: "Segmenter", folder: Path
) -> "FeatureSet":
    """One pass over the dataset: features and label shares of every image to the work folder."""
    from datus.segmenter.examples import CacheWriter
    from datus.segmenter.model import features_of, prepared

    config, k = context.config, context.k
    writer = CacheWriter(folder, labels_of(config, k), config.denoise.drop_share)
    needs = ["masks", *(["features"] if reads_tokens(config) else [])]
    streams = [dataset.data(need, k) for need in needs]
    for parts in zip(*streams, strict=True):
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


# --- denoise: png uint8 (n,), pixels int64 (K + 1,); files: mask PNGs ---------------------------


def build_denoise(context: Context) -> ShardWork:
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
    n_labels = labels_of(config, context.k)
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

"""The stage `evaluate`: pixels of masks counted by cluster, true class and confidence (paper IV-C).

Stored of an image with a usable true mask: counts int64 (L + 1, C); denoised, the same of de-noised
masks; by_confidence int32 (n, 4), see `method.confidence.binned`; small uint8 (n,), PNG of the true
classes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from datus.config import Config
from datus.engine.stage import Context, Inputs, ShardWork, Stage, one_image, per_image
from datus.inputs.index import Index
from datus.inputs.labels import load_classes, truth_classes
from datus.inputs.read import read_truth
from datus.types import Array, ClassTable, ImageRecord, ShardData


def is_active(config: Config) -> bool:
    return bool(config.data.truth)


def needs(config: Config) -> tuple[str, ...]:
    return ("segments", "masks", *(("denoise",) if config.denoise.enabled else ()))


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    classes = load_classes(Path(config.data.classes))
    return {
        "classes": [classes.name, list(classes.names), classes.lookup.tolist()],
        "known": np.flatnonzero(classes.known).tolist(),
    }


def true_classes(config: Config, record: ImageRecord, classes: ClassTable) -> Array | None:
    """uint8 (H, W): class or IGNORE of every pixel; None if the image has no true mask.

    Raises ImageError if the true mask cannot be used.
    """
    labels = read_truth(config, record)
    if labels is None:
        return None
    return truth_classes(labels, classes, (record.height, record.width))


def build(context: Context) -> ShardWork:
    from datus.inputs.decode import preview_size
    from datus.method.confidence import bin_of, binned
    from datus.method.label_png import decode_png
    from datus.method.masks import encode_small, labels_to_pixels
    from datus.method.metrics import count_pixels

    config = context.config
    classes = load_classes(Path(config.data.classes))

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        truth = true_classes(config, record, classes)
        if truth is None:
            return ShardData(arrays={})
        n_labels = len(inputs["masks"].arrays[record.image_id]["pixels"]) - 1
        found = {}
        for stage, name in (("masks", "counts"), ("denoise", "denoised")):
            if stage in inputs:
                png = inputs[stage].arrays[record.image_id]["png"].data
                mask = decode_png(png, config.data.max_pixels)
                found[name] = count_pixels(mask, truth, n_labels, classes.n_classes).counts
            if stage == "masks":
                bins = bin_of(inputs[stage].arrays[record.image_id]["confidence"])
                by_patch = bins[inputs["segments"].arrays[record.image_id]["labels"]]
                by_pixel = labels_to_pixels(by_patch, *mask.shape)
                shape = n_labels, classes.n_classes
                found["by_confidence"] = binned(by_pixel, mask, truth, shape)
        small = encode_small(truth, *preview_size(*truth.shape))
        found["small"] = np.frombuffer(small, np.uint8)
        return one_image(record, found, {"n_known": float(found["counts"].sum())})

    return per_image(context, one)


STAGE = Stage(
    name="evaluate",
    version=4,
    scope="shard",
    needs=needs,
    settings=settings,
    build=build,
    is_active=is_active,
    per_k=True,
    sees_truth=True,
    reads_files=True,
    drops_images=True,
)

"""The evaluate stage: pixels of masks counted by cluster, true class and confidence."""

from pathlib import Path

import numpy as np

from datus.engine.stage import Context, Inputs, ShardWork, one_image, per_image, read_truth
from datus.inputs.classes import load_classes
from datus.types import ImageRecord, ShardData

# --- evaluate: counts int64 (L + 1, C); denoised, the same of de-noised masks; by_confidence int32
#     (n, 4), see `confidence.binned`; small uint8 (n,): PNG of the true classes ------------------


def build_evaluate(context: Context) -> ShardWork:
    from datus.inputs.decode import preview_size
    from datus.method.confidence import bin_of, binned
    from datus.method.label_png import labels_of
    from datus.method.masks import encode_small, labels_to_pixels, truth_classes
    from datus.method.metrics import count_pixels

    config = context.config
    classes = load_classes(Path(config.data.classes))

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        labels = read_truth(config, record)
        if labels is None:
            return ShardData(arrays={})
        truth = truth_classes(labels, classes, (record.height, record.width))
        n_labels = len(inputs["masks"].arrays[record.image_id]["pixels"]) - 1
        found = {}
        for stage, name in (("masks", "counts"), ("denoise", "denoised")):
            if stage in inputs:
                png = inputs[stage].arrays[record.image_id]["png"].data
                mask = labels_of(png, config.data.max_pixels)
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

"""The stage `masks`: segments and clusters to one label image each (paper III-E).

Stored of an image: cluster int16 (S,); margin, votes and confidence float32 (S,); pixels int64
(L + 1,), those of each label and without one; png, preview and small uint8 (n,), encoded pictures.
Files: IMAGE_ID.png, the mask at the image's own size.
"""

from typing import Any

import numpy as np

from datus.config import Config, settings_of
from datus.engine.stage import Arrays, Context, Inputs, ShardWork, Stage, per_image
from datus.inputs.index import Index
from datus.inputs.read import read_image
from datus.review.cluster_arrays import cluster_model
from datus.review.corrections import Drawn, drawn_in
from datus.stages.embeddings import LOW_VALID_SHARE
from datus.stages.segments import segment_map
from datus.types import WHOLE, Array, ImageRecord, SegmentEmbeddings, ShardData


def needs(config: Config) -> tuple[str, ...]:
    return ("segments", "embeddings", "clusters", *(("edits",) if config.clusters.edits else ()))


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    return settings_of(config.masks)


def build(context: Context) -> ShardWork:
    from datus.compute.compiled import value_counts
    from datus.inputs.decode import preview, preview_size
    from datus.method.masks import encode_mask, encode_small, labels_to_pixels
    from datus.method.refine import refine

    config = context.config

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        drawn = drawn_in(inputs["clusters"], record)
        cluster, signs, n_labels = labelled(config, record, inputs, drawn)
        segments = inputs["segments"].arrays[record.image_id]["labels"]
        image = read_image(config, record)
        by_patch = cluster.astype(np.uint8)[segments]  # int16 -1 becomes 255 = IGNORE
        if config.masks.refine == "none":
            mask = labels_to_pixels(by_patch, *image.shape[:2])
        else:
            mask = refine(image, by_patch)
        if drawn:
            mask = drawn.paint(mask, _edits(inputs))
        pixels = value_counts(mask)
        counts, png = np.r_[pixels[:n_labels], pixels[-1:]], encode_mask(mask)
        arrays = {"cluster": cluster, **signs, "pixels": counts}
        arrays["png"] = np.frombuffer(png, np.uint8)
        arrays["preview"] = np.frombuffer(preview(image), np.uint8)
        arrays["small"] = np.frombuffer(encode_small(mask, *preview_size(*mask.shape)), np.uint8)
        figures = {
            "labelled": 1.0 - float(counts[-1]) / mask.size,
            "confidence": float(signs["confidence"][segments].mean()),
        }
        files = {f"{record.image_id}.png": png}
        return ShardData({record.image_id: arrays}, {record.image_id: figures}, files=files)

    return per_image(context, one)


def _edits(inputs: Inputs) -> Arrays | None:
    return inputs["edits"].arrays[WHOLE] if "edits" in inputs else None


def labelled(
    config: Config, record: ImageRecord, inputs: Inputs, drawn: Drawn | None
) -> tuple[Array, dict[str, Array], int]:
    """(label int16 (S,), the signs of confidence float32 (S,), L) of one image's segments."""
    from datus.method.clusters import assign, places_of, votes
    from datus.method.confidence import confidence
    from datus.method.masks import fill_from_neighbours
    from datus.review.edits import relabelled

    model, edits = cluster_model(inputs["clusters"].arrays[WHOLE]), _edits(inputs)
    segmented = inputs["segments"].arrays[record.image_id]
    embedded = inputs["embeddings"].arrays[record.image_id]
    vectors, valid = embedded["vectors"], embedded["valid"]
    if config.masks.noise == "pool":
        valid = np.any(vectors, axis=1)
    group = None if edits is None else edits["group"]
    found = assign(model, SegmentEmbeddings(vectors, valid), group)
    found = drawn.keep(found) if drawn else found
    agreed = votes(model, vectors, found.cluster, group)
    sure = confidence(found.margin, agreed, segmented["together"])
    sure = drawn.sure(sure) if drawn else sure
    signs = {"margin": found.margin, "votes": agreed, "confidence": sure}
    if config.masks.noise == "nearest":
        found = fill_from_neighbours(segment_map(segmented), found)
    cluster = np.where(sure >= config.masks.min_confidence, found.cluster, np.int16(-1))
    if edits is None:
        return cluster, signs, model.n_clusters
    # after the neighbours, or what is dropped would come back by them
    cluster = relabelled(edits, cluster, places_of(model, vectors))
    return cluster, signs, len(edits["centroids"])


def few_labelled(share: float) -> list[str]:
    """Labels of a few sure pixels stay, whatever the others would do."""
    if share >= LOW_VALID_SHARE:
        return []
    return [
        f"{100 * share:.1f} % of all pixels have a label, expected {100 * LOW_VALID_SHARE:.0f} % "
        "or more: see masks.min_confidence and masks.noise"
    ]


def links(config: Config, k: int) -> dict[str, tuple[str, str]]:
    return {f"masks of K = {k}": (f"masks-k{k}", "")}


STAGE = Stage(
    name="masks",
    version=5,
    scope="shard",
    needs=needs,
    settings=settings,
    build=build,
    per_k=True,
    figures=("labelled", "confidence"),
    drops_images=True,
    links=links,
)

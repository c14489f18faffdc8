"""The stage `embeddings`: one unit vector for each segment (paper III-D, first stage).

Stored of an image: vectors float32 (S, E), valid bool (S,).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from datus.config import Config, settings_of
from datus.engine.stage import (
    Arrays,
    Context,
    Inputs,
    ShardWork,
    Stage,
    chunks,
    each_image,
    merged,
    one_image,
    per_image,
)
from datus.engine.workers import Advance
from datus.inputs.index import Index, Shard
from datus.stages.features import vit_image, weights_of
from datus.stages.segments import segment_map
from datus.store.store import ShardReport
from datus.types import Array, ImageRecord, SegmentEmbeddings, SegmentMap, ShardData

LOW_VALID_SHARE = 0.2
"""Share of the patches in valid segments below which clusters rest on too little: with a density
of 9 % it was 0.5 to 1 on keys of every strength that was tried (docs/decisions.md 70)."""


def needs(config: Config) -> tuple[str, ...]:
    return ("features", "segments") if config.embeddings.mode == "pool" else ("segments",)


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    hashed = settings_of(config.embeddings)
    if config.embeddings.mode == "pool":
        return {key: hashed[key] for key in ("mode", "min_patches")}
    hashed["weights"] = weights_of(config, *embedder(config))
    hashed["backbone"] = embedder(config)[0]
    for name in ("precision", "allow_missing", "allow_unexpected"):
        hashed[name] = settings_of(config.features)[name]
    return hashed


def build(context: Context) -> ShardWork:
    from datus.method.embeddings import pool, valid_segments

    if context.config.embeddings.mode == "crop":
        return _build_crop_embeddings(context)
    min_patches = context.config.embeddings.min_patches

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        segments = segment_map(inputs["segments"].arrays[record.image_id])
        tokens = inputs["features"].arrays[record.image_id]["tokens"]
        # noise segments get a vector too, for masks.noise = "pool"; only valid ones are clustered
        every = pool(tokens, segments, np.ones(segments.n_segments, bool))
        valid = valid_segments(segments, min_patches)
        return _embedded(record, segments, SegmentEmbeddings(every.vectors, valid))

    return per_image(context, one)


def _build_crop_embeddings(context: Context) -> ShardWork:
    """Crops are cut, embedded and dropped, those of a few images at a time."""
    from datus.inputs.decode import normalise
    from datus.method.embeddings import embed_crops, make_crops, valid_segments
    from datus.models.vit import load_embedder

    config, runtime, settings = context.config, context.runtime, context.config.embeddings
    name, weights = embedder(config)
    backbone = load_embedder(name, weights, config.features, runtime.device, config.seed)

    def cut(record: ImageRecord, found: Arrays) -> tuple[list[Array], Array]:
        """(crops of the valid segments, bool (S,) which ones are valid)."""
        segments, (height, width) = segment_map(found), found["size"].tolist()
        image = vit_image(config, record, (height, width), context.view)
        valid = valid_segments(segments, settings.min_patches)
        patch_px = height // segments.labels.shape[0]
        crops = make_crops(image, segments, valid, settings, (patch_px, backbone.patch_px))
        return [normalise(crop) for crop in crops], valid

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        found = inputs["segments"].arrays[record.image_id]
        crops, valid = cut(record, found)
        embedded = embed_crops(backbone.class_tokens(crops, 1, 1), valid)
        return _embedded(record, segment_map(found), embedded)

    def together(records: Sequence[ImageRecord], inputs: Inputs) -> Iterator[ShardData]:
        """Crops of several images in full batches."""
        segmented, cuts = inputs["segments"].arrays, dict[str, tuple[list[Array], Array]]()

        def note(record: ImageRecord) -> ShardData:
            cuts[record.image_id] = cut(record, segmented[record.image_id])
            return ShardData(arrays={})

        yield each_image(records, inputs, runtime.threads, note)
        usable = [record for record in records if record.image_id in cuts]
        crops = [crop for record in usable for crop in cuts[record.image_id][0]]
        tokens = backbone.class_tokens(crops, runtime.threads, runtime.batch)
        start = 0
        for record in usable:
            own, valid = cuts[record.image_id]
            embedded = embed_crops(tokens[start : start + len(own)], valid)
            yield _embedded(record, segment_map(segmented[record.image_id]), embedded)
            start += len(own)

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        parts: list[ShardData] = []
        for records in chunks(shard.records, runtime.images_at_a_time):
            parts += together(records, inputs)
            advance(len(records))
        return merged(parts)

    return per_image(context, one) if runtime.device == "cpu" else work


def embedder(config: Config) -> tuple[str, str]:
    """(backbone, weights) of the model that embeds crops."""
    if config.embeddings.backbone == "same":
        return config.features.backbone, config.features.weights
    return config.embeddings.backbone, config.embeddings.weights


def _embedded(record: ImageRecord, segments: SegmentMap, found: SegmentEmbeddings) -> ShardData:
    figures = {
        "n_valid": float(found.valid.sum()),
        "valid_share": float(found.valid.mean()),
        "valid_patch_share": float(segments.n_patches[found.valid].sum() / segments.labels.size),
    }
    return one_image(record, {"vectors": found.vectors, "valid": found.valid}, figures)


def warn(reports: Iterable[ShardReport]) -> list[str]:
    """Images without a valid segment, and segments that are too small for the rest."""
    shares, n_empty, n_images = 0.0, 0, 0
    for row in (row for report in reports for row in report.numbers.values()):
        shares += row["valid_patch_share"]
        n_empty += row["n_valid"] == 0
        n_images += 1
    warnings = few_valid(shares / n_images) if n_images else []
    if n_empty:
        warnings.append(
            f"{n_empty} of {n_images} images have no valid segment: their masks are all 255"
        )
    return warnings


def few_valid(share: float) -> list[str]:
    """What to do where too small a share of the patches lies in valid segments."""
    if share >= LOW_VALID_SHARE:
        return []
    return [
        f"valid segments cover {100 * share:.1f} % of the patches, expected "
        f"{100 * LOW_VALID_SHARE:.0f} % or more: the segments are smaller than "
        "embeddings.min_patches. Link more patches (a higher graphs.density, and no "
        "graphs.threshold), give the ViT larger images (a larger features.image_px), accept "
        "smaller segments (a lower embeddings.min_patches), or use another backbone"
    ]


def embeds_crops(config: Config) -> bool:
    return config.embeddings.mode == "crop"


STAGE = Stage(
    name="embeddings",
    version=1,
    scope="shard",
    needs=needs,
    settings=settings,
    build=build,
    on_device=embeds_crops,
    warn=warn,
    figures=("n_valid", "valid_share", "valid_patch_share"),
    drops_images=True,
)

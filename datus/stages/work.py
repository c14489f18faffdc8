"""What the stages do to one shard: a few lines each, the science is in the method modules.

`build_X(context)` loads what stage X needs once per process and returns `work(shard, inputs,
advance)`, which makes the ShardData of one shard from that of the stages before. What each stage
stores by image stands above it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from zlib import crc32

import numpy as np

from datus.compute.threads import map_threads
from datus.config import Config
from datus.engine.stage import (
    Arrays,
    Context,
    Inputs,
    ShardWork,
    chunks,
    each_image,
    merged,
    one_image,
    per_image,
    read_image,
    vit_image,
)
from datus.engine.workers import Advance
from datus.errors import BackboneError
from datus.inputs.index import Shard
from datus.method.centering import KeySample, KeySums
from datus.models.image_size import input_size
from datus.review.cluster_arrays import cluster_model
from datus.review.corrections import Drawn, drawn_in
from datus.types import (
    WHOLE,
    AffinityGraph,
    Array,
    FeatureGrid,
    ImageRecord,
    SegmentEmbeddings,
    SegmentMap,
    ShardData,
)

# --- features: keys (gh, gw, D), tokens (gh, gw, E), cls (E,), size int32 (2,) ------------------

RESOLUTION = 1.0
"""Of the modularity (paper, eq. 2). Others gained nothing (docs/decisions.md 19)."""


def build_features(context: Context) -> ShardWork:
    from datus.compute.float16 import as_float16, as_float32, too_large
    from datus.inputs.images import fit_size, normalise
    from datus.models.vit import load_backbone

    config, runtime = context.config, context.runtime
    settings, seen = config.features, input_size(config.features)
    halved = settings.store == "float16"
    backbone = load_backbone(
        settings.backbone, settings.weights, settings, runtime.device, config.seed
    )

    def decode(record: ImageRecord) -> Array:
        size = fit_size(record.height, record.width, seen.image_px, backbone.patch_px, seen.resize)
        return normalise(vit_image(config, record, size, context.view))

    def rounded(values: Array) -> Array:
        if not halved or (largest := too_large(values)) is None:
            return as_float16(values) if halved else as_float32(values)
        raise BackboneError(
            f"{settings.backbone}: a key or token is {largest:.3g}, float16 ends at 65504: add "
            "--set features.store=float32"
        )

    def stored(record: ImageRecord, grid: FeatureGrid) -> ShardData:
        rows, columns = grid.keys.shape[:2]
        arrays = {
            "keys": rounded(grid.keys),
            "tokens": rounded(grid.tokens),
            "cls": rounded(grid.cls),
            "size": np.array([rows * backbone.patch_px, columns * backbone.patch_px], np.int32),
        }
        return one_image(record, arrays, {"n_patches": float(rows * columns)})

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        return stored(record, backbone.features([decode(record)], 1, 1)[0])

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        parts = []
        for records in chunks(shard.records, runtime.images_at_a_time):
            decoded = each_image(
                records, inputs, runtime.threads, lambda r: one_image(r, {"image": decode(r)})
            )
            images = [arrays["image"] for arrays in decoded.arrays.values()]
            grids = backbone.features(images, runtime.threads, runtime.batch)
            usable = [record for record in records if record.image_id in decoded.arrays]
            parts.append(ShardData(arrays={}, failures=decoded.failures))
            parts += [stored(record, grid) for record, grid in zip(usable, grids, strict=True)]
            advance(len(records))
        return merged(parts)

    return per_image(context, one) if runtime.device == "cpu" else work


# --- keysums: of the shard, keys float64 (G, G, D), squares, n_images (1,); a KeySample -----------


def build_keysums(context: Context) -> ShardWork:
    from datus.method.centering import add, join, key_sample, key_sums

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        arrays = inputs["features"].arrays
        usable = [r.image_id for r in shard.records if r.image_id in arrays]

        def one(image_id: str) -> tuple[KeySums, KeySample]:
            keys = arrays[image_id]["keys"]
            return key_sums(keys), key_sample(keys, image_id)

        parts = map_threads(one, usable, context.runtime.threads)
        advance(len(shard.records))
        if not parts:
            return ShardData(arrays={})
        sums = add(sums for sums, _ in parts)
        sample = join(sample for _, sample in parts)
        figures = np.array([sums.squares]), np.array([sums.n_images], np.int64)
        whole = {"keys": sums.keys, "squares": figures[0], "n_images": figures[1]}
        whole |= {f"sample_{name}": getattr(sample, name) for name in KeySample.__slots__}
        return ShardData(arrays={WHOLE: whole})

    return work


def key_sums_of(arrays: Arrays) -> KeySums:
    """KeySums from what the keysums stage stored."""
    return KeySums(arrays["keys"], float(arrays["squares"][0]), int(arrays["n_images"][0]))


def key_sample_of(arrays: Arrays) -> KeySample:
    """KeySample from what the keysums stage stored."""
    return KeySample(*(arrays[f"sample_{name}"] for name in KeySample.__slots__))


# --- graphs: bits uint64 (N, words), grid int32 (2,), size int32 (2,) ---------------------------


def build_graphs(context: Context) -> ShardWork:
    from datus.method.affinity import affinity_graph, density
    from datus.method.centering import resample, without

    settings = context.config.graphs

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        def mean_on(grid: tuple[int, int]) -> Array:
            return resample(inputs["center"].arrays[WHOLE]["mean"], grid)

        each = partial(one, cache(mean_on))  # most images of a dataset have one grid
        return per_image(context, each)(shard, inputs, advance)

    def one(
        mean_on: Callable[[tuple[int, int]], Array], record: ImageRecord, inputs: Inputs
    ) -> ShardData:
        features = inputs["features"].arrays[record.image_id]
        keys = features["keys"]
        center: str = settings.center
        if "center" in inputs:
            found = inputs["center"].arrays[WHOLE]
            center = found["choice"].tobytes().decode()
            if center in ("dataset", "position"):
                keys = without(keys, mean_on(keys.shape[:2]))
        if settings.threshold == "auto":
            threshold: float | None = float(found["threshold"][0])
        else:
            threshold = settings.threshold or None  # 0, the paper's: positive products
        graph = affinity_graph(keys, "image" if center == "image" else "none", threshold)
        arrays = {
            "bits": graph.bits,
            "grid": np.array(keys.shape[:2], np.int32),
            "size": features["size"],
        }
        return one_image(record, arrays, {"density": density(graph)})

    return work


# --- segments: labels int32 (gh, gw); community, n_patches, together (S,), boxes (S, 4), size (2,)


def build_segments(context: Context) -> ShardWork:
    from datus.method.confidence import together
    from datus.method.louvain import partition
    from datus.method.segments import split

    settings = context.config.segments

    def one(record: ImageRecord, graph: Arrays) -> ShardData:
        seeds = np.random.SeedSequence([context.config.seed, crc32(record.image_id.encode())])
        found = partition(
            AffinityGraph(graph["bits"]),
            settings.backend,
            RESOLUTION,
            settings.restarts,
            int(seeds.generate_state(1)[0]),
        )
        rows, columns = graph["grid"].tolist()
        segments = split(found.labels, (rows, columns), found.modularity)
        arrays = {
            "labels": segments.labels,
            "community": segments.community,
            "n_patches": segments.n_patches,
            "boxes": segments.boxes,
            "together": together(segments.labels.ravel(), found.tried),
            "modularity": np.array([segments.modularity]),
            "size": graph["size"],
        }
        figures = {
            "modularity": found.modularity,
            "n_communities": float(found.labels.max() + 1),
            "n_segments": float(segments.n_segments),
        }
        return one_image(record, arrays, figures)

    return per_image(context, lambda r, inputs: one(r, inputs["graphs"].arrays[r.image_id]))


def segment_map(arrays: Arrays) -> SegmentMap:
    """A SegmentMap from what the segments stage stored."""
    return SegmentMap(
        labels=arrays["labels"],
        community=arrays["community"],
        n_patches=arrays["n_patches"],
        boxes=arrays["boxes"],
        modularity=float(arrays["modularity"][0]),
    )


# --- embeddings: vectors float32 (S, E), valid bool (S,) ----------------------------------------


def build_embeddings(context: Context) -> ShardWork:
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
    from datus.inputs.images import normalise
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

    def embedded(record: ImageRecord, found: Arrays, tokens: Array, valid: Array) -> ShardData:
        return _embedded(record, segment_map(found), embed_crops(tokens, valid))

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        found = inputs["segments"].arrays[record.image_id]
        crops, valid = cut(record, found)
        return embedded(record, found, backbone.class_tokens(crops, 1, 1), valid)

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
            mine, valid = cuts[record.image_id]
            rows = tokens[start : start + len(mine)]
            yield embedded(record, segmented[record.image_id], rows, valid)
            start += len(mine)

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


# --- masks: cluster int16 (S,); margin, votes, confidence float32 (S,); pixels int64 (L + 1,);
#     png, preview, small uint8 (n,); files: the PNGs ----------------------------------------------


def build_masks(context: Context) -> ShardWork:
    from datus.compute.compiled import value_counts
    from datus.inputs.images import preview, preview_size
    from datus.method.masks import encode_mask, encode_small

    config = context.config

    def one(record: ImageRecord, inputs: Inputs) -> ShardData:
        drawn = drawn_in(inputs["clusters"], record)
        cluster, signs, n_labels = labelled(config, record, inputs, drawn)
        segments = inputs["segments"].arrays[record.image_id]["labels"]
        image = read_image(config, record)
        mask = pixel_mask(config, image, segments, cluster)
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
        found = one_image(record, arrays, figures)
        return replace(found, files={f"{record.image_id}.png": png})

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


def pixel_mask(config: Config, image: Array, segments: Array, cluster: Array) -> Array:
    """uint8 (H, W): blocks of patches, or borders that follow the image (masks.refine).

    image: uint8 (H, W, 3); segments: int32 (gh, gw); cluster: int16 (S,), -1 = none.
    """
    by_patch = cluster.astype(np.uint8)[segments]  # int16 -1 becomes 255 = IGNORE
    if config.masks.refine == "none":
        from datus.method.masks import labels_to_pixels

        return labels_to_pixels(by_patch, *image.shape[:2])
    from datus.method.refine import refine

    return refine(image, by_patch)

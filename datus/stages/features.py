"""The stage `features`: one pass of a frozen ViT over every image (paper III-A).

Stored of an image: keys (gh, gw, D), tokens (gh, gw, E) and cls (E,), float16 or float32 as
`features.store` says; size int32 (2,), height and width in pixels as the ViT saw them.
"""

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import Config, settings_of
from datus.engine.stage import (
    Context,
    Inputs,
    ShardWork,
    Stage,
    always,
    chunks,
    each_image,
    merged,
    one_image,
    per_image,
)
from datus.engine.workers import Advance
from datus.errors import BackboneError
from datus.inputs.decode import fit_size
from datus.inputs.index import Index, Shard
from datus.inputs.read import read_image
from datus.method.consistency import View, picture_of
from datus.models.image_size import InputSize, input_size
from datus.models.registry import N_APPEARANCE, find
from datus.types import Array, FeatureGrid, ImageRecord, ShardData


def needs(config: Config) -> tuple[str, ...]:
    return ()


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    from datus.models.vit import check_keys

    check_keys(config.features.backbone)
    hashed = settings_of(config.features)
    hashed["weights"] = weights_of(config, config.features.backbone, config.features.weights)
    return hashed | input_size(config.features)._asdict()


def weights_of(config: Config, backbone: str, weights: str) -> str:
    """The hash of a model's weights, or the seed of random ones."""
    from datus.models.weights import weights_id

    known = weights_id(backbone, weights)
    return f"{known}:seed {config.seed}" if known.startswith("random") else known


def build(context: Context) -> ShardWork:
    from datus.compute.float16 import as_float16, as_float32, too_large
    from datus.inputs.decode import normalise
    from datus.models.vit import load_backbone

    config, runtime = context.config, context.runtime
    features, seen = config.features, input_size(config.features)
    halved = features.store == "float16"
    backbone = load_backbone(
        features.backbone, features.weights, features, runtime.device, config.seed
    )

    def decode(record: ImageRecord) -> Array:
        size = fit_size(record.height, record.width, seen.image_px, backbone.patch_px, seen.resize)
        return normalise(vit_image(config, record, size, context.view))

    def rounded(values: Array) -> Array:
        if not halved or (largest := too_large(values)) is None:
            return as_float16(values) if halved else as_float32(values)
        raise BackboneError(
            f"{features.backbone}: a key or token is {largest:.3g}, float16 ends at 65504: add "
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


def vit_image(config: Config, record: ImageRecord, size: tuple[int, int], view: View = "") -> Array:
    """uint8 (h, w, 3): the image, or a view of it, as the ViT sees it."""
    from datus.inputs.decode import resize_image

    return resize_image(picture_of(read_image(config, record), view), size)


# --- the size of what is stored, known before anything runs ---------------------------------------

WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}
"""Of keys and of tokens. These names mean the same sizes in every family below."""

_NAME = re.compile(rf"(?:^|_)(?:vit|deit3?|beit(?:v2)?|eva02)_({'|'.join(WIDTHS)})_patch(\d+)")


@functools.lru_cache
def model_shape(backbone: str) -> tuple[int, int] | None:
    """(patch side in pixels, size of a key) as far as table, record or name tell; else None."""
    row = find(backbone)
    if row is not None:
        return None if row.is_cnn else (row.patch_px, row.key_size)
    if backbone.endswith(".safetensors"):
        try:
            text = Path(backbone).expanduser().with_suffix(".json").read_text(encoding="utf-8")
            record = json.loads(text)
            found, is_hybrid = record["architecture"], record.get("class") == "HybridTransformer"
            extra = N_APPEARANCE if is_hybrid else 0
            return int(found["patch_size"]), int(found["embed_dim"]) + extra
        except (OSError, ValueError, KeyError, TypeError):
            return None
    match = _NAME.search(backbone)
    return (int(match[2]), WIDTHS[match[1]]) if match else None


def patch_grid(seen: InputSize, record: ImageRecord, patch_px: int) -> tuple[int, int]:
    """(gh, gw): rows and columns of patches of one image."""
    height, width = fit_size(record.height, record.width, seen.image_px, patch_px, seen.resize)
    return height // patch_px, width // patch_px


def min_bytes(config: Config, record: ImageRecord) -> int | None:
    """Keys and tokens (N, D) and the class token (D,); None if the model's size is not known."""
    if (shape := model_shape(config.features.backbone)) is None:
        return None
    patch_px, width = shape
    n = math.prod(patch_grid(input_size(config.features), record, patch_px))
    return (2 * n + 1) * width * (2 if config.features.store == "float16" else 4)


STAGE = Stage(
    name="features",
    version=2,
    scope="shard",
    needs=needs,
    settings=settings,
    build=build,
    on_device=always,
    drops_images=True,
    min_bytes=min_bytes,
)

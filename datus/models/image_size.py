"""How large the ViT sees an image: what `features.image_px` means for a backbone.

    input_size(config.features)          InputSize(392, "keep") for a ViT-S/14 at image_px = "auto"
    patch_px_of("vit_base_patch14_dinov2.lvd142m")      14

"auto" is 28 patches a side, or what the record of a model of ours states as "patches_per_side". A
model that takes images of one size only (BEiT) gets that size, and the image is squashed to it.
The table, the record of a model of ours, or a name such as vit_tiny_patch16_224 tells the side of a
patch; only for other names timm is loaded.
"""

import re
from typing import Literal, NamedTuple

from datus.config import Config, FeaturesConfig
from datus.models.registry import find
from datus.models.vit import check_keys, timm_sides
from datus.models.weights import model_path, own_record, patches_per_side


class InputSize(NamedTuple):
    """Two arguments of `images.fit_size`."""

    image_px: int
    """The side in pixels; with resize = keep, that of a square of the same area."""
    resize: Literal["keep", "squash"]


def input_size(settings: FeaturesConfig) -> InputSize:
    """The size at which the backbone of `settings` sees an image; "auto" becomes a number.

    Raises BackboneError if the size must be found out and there is no such ViT.
    """
    if isinstance(settings.image_px, int):
        return InputSize(settings.image_px, settings.resize)
    patch_px, only_px = _sides(settings.backbone)
    if only_px:
        return InputSize(only_px, "squash")
    return InputSize(patches_per_side(settings.backbone) * patch_px, settings.resize)


def denoise_size(config: Config) -> InputSize:
    """The size at which the model of [denoise] sees an image: that of [features] or its own."""
    own = config.denoise.image_px
    return InputSize(own, config.features.resize) if own else input_size(config.features)


def patch_px_of(backbone: str) -> int:
    """Side of a patch in pixels. Raises BackboneError if there is no such ViT."""
    return _sides(backbone)[0]


_PATCH = re.compile(r"_patch(\d+)(?:_|$)")

_ONE_SIZE = re.compile(r"beit(?:v2)?_[a-z]+_patch(\d+)_(\d+)$")
"""timm's Beit cannot resize what it knows of the distances between patches."""


def _sides(backbone: str) -> tuple[int, int]:
    """(side of a patch, the only side of images that the model takes or 0), both in pixels."""
    check_keys(backbone)
    if own := model_path(backbone):
        return own_record(own)["architecture"]["patch_size"], 0
    if row := find(backbone):
        return row.patch_px, 0
    architecture = backbone.partition(".")[0]
    if one_size := _ONE_SIZE.match(architecture):
        return int(one_size[1]), int(one_size[2])
    if named := _PATCH.search(architecture):
        return int(named[1]), 0
    return timm_sides(backbone)

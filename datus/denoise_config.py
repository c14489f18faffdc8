"""Settings of the de-noising stages, the reason beside each default. A section of `config`."""

from dataclasses import dataclass
from typing import Literal

from datus.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DenoiseConfig:
    """A model learns the masks and draws them again, without holes (paper III-F). Off by default.

    The defaults were measured on CamVid: docs/denoise.md.
    """

    enabled: bool = False
    kind: Literal["probe", "deeplabv3"] = "probe"
    """probe = the ViT of [features] with a light head; deeplabv3 from scratch is what the paper
    trains."""
    head: Literal["linear", "conv", "layers"] = "linear"
    """Of the probe. conv sees the neighbours of a patch, layers the tokens of several blocks."""
    freeze: bool = True
    """Only the head learns. Tuning the ViT too learns the errors of the labels better."""
    image_px: int = 0
    """The side that the model sees, as in [features]; 0 = the same. Not for a frozen probe."""
    epochs: int = 10
    """The loss hardly falls after these; more epochs learn the errors of the masks."""
    batch: int = 8
    """Images in a step, and in memory at a time. Changes the result, unlike speed.batch."""
    rate: float = 0.001
    """Highest learning rate of AdamW; a short warm-up, then a cosine down to 0."""
    backbone_rate: float = 0.1
    """... of the ViT where it is tuned, as a part of `rate`: it has learnt something already."""
    weight_decay: float = 0.01
    drop_share: float = 0.95
    """Masks with more than this share of one label are left out (paper: "most of the pixels")."""
    balance: Literal["none", "sqrt", "full"] = "none"
    """Weight of a class: the same; 1 / root of its share of the pixels; 1 / its share."""
    flip: bool = False
    """Mirrored images too. A frozen probe then looks at every image twice, once for all epochs."""
    scale: float = 1.0
    """Crops of images made up to this much larger or smaller; not for a frozen probe, whose
    features are made once. 1 = whole images (deeplabv3: always crops of one size)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the training steps. Changes bytes; bfloat16 is for GPUs."""
    confidence: Literal["none", "margin"] = "none"
    """margin = a segment counts by how clearly it belongs to its cluster; frozen probe only."""
    symmetric: float = 0.0
    """Share of the reverse cross entropy in the loss, which forgives wrong labels
    (Wang et al. 2019)."""
    ema: float = 0.0
    """Decay a step of the averaged weights that are kept; 0 = the last weights, which the cosine
    has brought to rest: the same scores."""
    rounds: int = 1
    """More than one: learn again from scratch on what the last round drew; frozen probe only."""


DENOISE_RANGES: tuple[tuple[str, float, float], ...] = (
    ("denoise.image_px", 0, 4096),
    ("denoise.epochs", 1, 10_000),
    ("denoise.batch", 1, 4096),
    ("denoise.rate", 1e-8, 10.0),
    ("denoise.backbone_rate", 0.0, 10.0),
    ("denoise.weight_decay", 0.0, 10.0),
    ("denoise.drop_share", 0.01, 1.0),
    ("denoise.scale", 1.0, 4.0),
    ("denoise.symmetric", 0.0, 1.0),
    ("denoise.ema", 0.0, 0.99999),
    ("denoise.rounds", 1, 100),
)


def check_denoise(settings: DenoiseConfig, k: tuple[int, ...]) -> None:
    """What only works on features that are made once, and what only where they are not.

    Raises ConfigError with the cure.
    """
    if not settings.enabled:
        return
    if min(k, default=2) < 2:
        raise ConfigError(
            f"denoise: a model needs two clusters or more, got clusters.k = {list(k)}"
        )
    frozen = settings.kind == "probe" and settings.freeze
    wanted = {
        "confidence": settings.confidence != "none",
        "rounds": settings.rounds > 1,
    }
    for name in (name for name, given in wanted.items() if given and not frozen):
        raise ConfigError(
            f"denoise.{name}: needs a frozen probe, got kind {settings.kind} and freeze "
            f'{str(settings.freeze).lower()}; leave it out, or set kind = "probe" and freeze = true'
        )
    wanted = {"scale": settings.scale > 1, "image_px": settings.image_px > 0}
    for name in (name for name, given in wanted.items() if given and frozen):
        raise ConfigError(
            f"denoise.{name}: a frozen probe learns on the tokens of [features]; "
            "leave it out, or set freeze = false"
        )

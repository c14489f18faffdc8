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
    drop_share: float = 0.95
    """Masks with more than this share of one label are left out (paper: "most of the pixels")."""
    augment: bool = False
    """Images mirrored, and cut at sizes up to 1.5 times larger or smaller. Not for a frozen probe,
    whose features are made once."""


DENOISE_RANGES: tuple[tuple[str, float, float], ...] = (
    ("denoise.image_px", 0, 4096),
    ("denoise.epochs", 1, 10_000),
    ("denoise.batch", 1, 4096),
    ("denoise.rate", 1e-8, 10.0),
    ("denoise.drop_share", 0.01, 1.0),
)


def check_denoise(settings: DenoiseConfig, k: tuple[int, ...]) -> None:
    """Raises ConfigError with the cure for settings that a frozen probe cannot follow."""
    if not settings.enabled:
        return
    if min(k, default=2) < 2:
        raise ConfigError(
            f"denoise: a model needs two clusters or more, got clusters.k = {list(k)}"
        )
    if settings.kind == "deeplabv3" or not settings.freeze:
        return
    for name, given in (("augment", settings.augment), ("image_px", settings.image_px > 0)):
        if given:
            raise ConfigError(
                f"denoise.{name}: a frozen probe learns on the tokens of [features]; "
                "leave it out, or set freeze = false"
            )

"""Models that see colour and texture: a ViT with appearance channels, and filters alone.

    in    float32 (B, 3, h, w) images, normalised as every backbone gets them
    out   keys and tokens of patches

A small ViT that was trained for half an hour knows where things are in a picture better than what
they are. Colour, its spread and its gradients, each measured on the patch and on a larger scale,
tell it what a photograph shows at a glance; large models need none of it
(docs/embedded_backbone.md).

The classes here are those of the models that the package ships; `vit` makes them.
"""

import math
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from datus.models.registry import N_APPEARANCE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What normalised the images (`inputs.decode.normalise`)."""

SURROUNDINGS = 5
"""Patches along a side of the surroundings of a patch."""

N_CHANNELS = N_APPEARANCE
"""Twelve of colour and its spread, six of gradients."""

LIMIT = 4.0
"""Deviations from its mean at which a channel is cut off."""

PLACES = 28
"""Places along a side of the frame on which `HybridTransformer` keeps the mean key of each."""


def lab(pixels: Tensor) -> Tensor:
    """(B, 3, h, w): CIELAB (D65) of normalised sRGB, divided by 100: L* is 0 to 1."""
    mean, std = (pixels.new_tensor(three).view(1, 3, 1, 1) for three in (MEAN, STD))
    rgb = (pixels * std + mean).clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # IEC 61966-2-1, rows divided by the white point
    to_xyz = pixels.new_tensor(
        [
            [0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047],
            [0.212671, 0.715160, 0.072169],
            [0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883],
        ]
    )
    xyz = functional.conv2d(linear, to_xyz[:, :, None, None])
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


def colour_channels(colours: Tensor, patch_px: int) -> Tensor:
    """(B, 12, gh, gw): mean L*, a*, b* of the patch and of its surroundings, then the standard
    deviations over both. `colours` as `lab` gives them."""
    mean = functional.avg_pool2d(colours, patch_px)
    square = functional.avg_pool2d(colours**2, patch_px)
    parts = [(mean, square), (_around(mean), _around(square))]
    spreads = [(square - mean**2).clamp(min=0).sqrt() for mean, square in parts]
    return torch.cat([parts[0][0], parts[1][0], *spreads], dim=1)


def gradient_channels(colours: Tensor, patch_px: int) -> Tensor:
    """(B, 6, gh, gw): root of the mean gradient of L* across, down and along both, at one and at
    two pixels. Without signs, so that a mirror image has the same. Patches are of 4 pixels or more.
    """
    parts = []
    for step in (1, 2):
        lightness = functional.avg_pool2d(colours[:, :1], step)
        across = functional.pad((lightness[..., 2:] - lightness[..., :-2]).abs() / 2, (1, 1))
        down = functional.pad(
            (lightness[..., 2:, :] - lightness[..., :-2, :]).abs() / 2, (0, 0, 1, 1)
        )
        for gradient in (across, down, torch.minimum(across, down)):
            mean = functional.avg_pool2d(gradient, patch_px // step)
            parts.append((mean + 1e-6).sqrt())
    return torch.cat(parts, dim=1)


def _around(values: Tensor) -> Tensor:
    """Mean over the surroundings of each patch, as far as they lie within the image."""
    return functional.avg_pool2d(
        values, SURROUNDINGS, 1, SURROUNDINGS // 2, count_include_pad=False
    )


FREQUENCIES, BANDWIDTH = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5), 0.2
"""Of the code of `FilterBank`, and the standard deviation of the Gaussian that its products follow.
All frequencies are multiples of the first, so a code repeats at a difference of 4."""

GAINS = (1.0, 1.5, 1.5)
"""Of L*, a*, b* (divided by 100). No two colours of sRGB differ by more than 3.1 then."""

BUFFERS = ("channel_mean", "channel_std", "key_scale", "token_scale", "place_keys")
"""What a HybridTransformer has beside the weights of timm's ViT."""


class HybridTransformer(VisionTransformer):  # type: ignore[misc]  # timm has no types
    """timm's ViT with N_CHANNELS of appearance behind its keys and tokens.

    embed_dim, the size of a token, counts them; num_features, the width of the blocks, does not.
    The weights hold what brings the channels to the scale of the ViT, and the mean key of each
    place over the images that it was trained on, which is subtracted: what is left of a key does
    not depend on where the patch lies, but for what the image shows there.
    """

    def __init__(self, **options: Any) -> None:
        """`options`: those of timm's VisionTransformer."""
        super().__init__(**options)
        self.register_buffer("channel_mean", torch.zeros(N_CHANNELS))
        self.register_buffer("channel_std", torch.ones(N_CHANNELS))
        self.register_buffer("key_scale", torch.ones(N_CHANNELS))
        self.register_buffer("token_scale", torch.ones(N_CHANNELS))
        self.register_buffer("place_keys", torch.zeros(PLACES, PLACES, self.num_features))
        self.embed_dim = self.num_features + N_CHANNELS

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, prefix + P, embed_dim) normed tokens of images; prefix tokens get the mean of all
        patches."""
        tokens = super().forward_features(x, *args, **kwargs)
        return self._with_channels(tokens, self._channels(x) * self.token_scale)

    def vit_features(self, x: Tensor) -> Tensor:
        """(B, prefix + P, num_features): normed tokens without appearance."""
        tokens: Tensor = super().forward_features(x)
        return tokens

    def finished(self, keys: Tensor, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and tokens with appearance, of raw keys (B, prefix + P, D), of tokens as
        `vit_features` gives them, and of their images. Keys lose the mean key of their place."""
        rows, columns = (side // self.patch_embed.patch_size[0] for side in pixels.shape[2:])
        places = functional.interpolate(
            self.place_keys.permute(2, 0, 1)[None], (rows, columns), mode="bilinear", antialias=True
        )
        n_prefix, channels = self.num_prefix_tokens, self._channels(pixels)
        patches = keys[:, n_prefix:].float() - places.flatten(2).mT
        keys = torch.cat([keys[:, :n_prefix].float(), patches], dim=1)
        return (
            self._with_channels(keys, channels * self.key_scale),
            self._with_channels(tokens, channels * self.token_scale),
        )

    def _with_channels(self, vectors: Tensor, channels: Tensor) -> Tensor:
        """(B, prefix + P, D + N_CHANNELS); prefix tokens get the mean of all patches."""
        channels = channels.to(vectors)
        mean = channels.mean(dim=1, keepdim=True).expand(-1, self.num_prefix_tokens, -1)
        return torch.cat([vectors, torch.cat([mean, channels], dim=1)], dim=2)

    def _channels(self, pixels: Tensor) -> Tensor:
        """float32 (B, P, N_CHANNELS): each in units of its deviation over photographs, at most
        LIMIT of them."""
        patch_px = self.patch_embed.patch_size[0]
        with torch.autocast(pixels.device.type, enabled=False):
            colours = lab(pixels.float())
            parts = colour_channels(colours, patch_px), gradient_channels(colours, patch_px)
            found: Tensor = torch.cat(parts, dim=1).flatten(2).mT - self.channel_mean
            units: Tensor = (found / self.channel_std).clamp(-LIMIT, LIMIT)
            return units


class FilterBank(nn.Module):
    """Colour of a patch and of its surroundings, coded so that near values are similar.

    Vectors of segments have length 1, so a bare colour would lose its length, which is how bright
    it is. Each channel v becomes a cos(2 pi f v) and a sin(2 pi f v) at a few frequencies f instead
    (Rahimi & Recht 2007, with fixed frequencies): the product of two codes falls with the
    difference of the values about as a Gaussian does, and all codes have one length. Nothing is
    learned; the file of weights holds these constants.
    """

    phases: Tensor
    amplitudes: Tensor

    def __init__(self, patch_size: int, surroundings: float, dynamic_img_size: bool = True) -> None:
        """patch_size: pixels along a side; images may have any size. surroundings: length of their
        code, where that of the patch has 1."""
        super().__init__()
        self.patch_px = patch_size
        frequencies = torch.tensor(FREQUENCIES)
        weights = torch.exp(-((2 * math.pi * frequencies * BANDWIDTH) ** 2) / 2)
        gains = torch.tensor(GAINS).repeat(2)
        shares = torch.tensor([1.0, surroundings]).repeat_interleave(len(GAINS))
        self.register_buffer("phases", 2 * math.pi * gains[:, None] * frequencies)
        self.register_buffer("amplitudes", shares[:, None] * (weights / weights.sum()).sqrt())

    @property
    def size(self) -> int:
        """Of the code of a patch."""
        return 2 * self.phases.numel()

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 (B, P, size) of normalised images (B, 3, h, w)."""
        with torch.autocast(pixels.device.type, enabled=False):
            mean = functional.avg_pool2d(lab(pixels.float()), self.patch_px)
            channels = torch.cat([mean, _around(mean)], dim=1).flatten(2).mT
            angles = channels[..., None] * self.phases
            coded = torch.cat([angles.cos() * self.amplitudes, angles.sin() * self.amplitudes], -1)
        return coded.flatten(2)

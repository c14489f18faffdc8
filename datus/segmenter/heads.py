"""The parts of a segmenter: what turns images into features, and features into logits.

    Tokens        images -> tokens of a ViT
    ResNetBody    images -> the last map of a ResNet
    Head          tokens -> logits

Everything is float32 and (batch, channels, rows, columns). Loads torch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS = ("linear", "conv", "layers")

Grid = tuple[int, int]
"""Rows and columns of cells."""

Place = tuple[int, int]
"""Of a tile in its view: its first row and column of cells."""

HIDDEN = 256
"""Channels between the convolutions of a head, as in DeepLabV3's."""


class Tokens(nn.Module):
    """(B, 3, h, w) images -> (B, F, gh, gw) tokens of a ViT: of the last block after the final norm
    (F = E), or of several blocks as they are (F = n * E)."""

    def __init__(self, vit: Any, blocks: tuple[int, ...]) -> None:
        """blocks: which ones; empty = the last, normed."""
        super().__init__()
        self.vit = vit
        self.blocks = blocks
        self.patch_px: int = vit.patch_embed.feat_ratio(as_scalar=True)
        # a block's output may lack what a model of ours puts behind its tokens
        self.size = int(vit.num_features) * len(blocks) if blocks else int(vit.embed_dim)
        vit.patch_embed.register_forward_hook(_add_moved)
        dynamic = getattr(vit, "dynamic_img_size", False)
        self.only_size = None if dynamic else tuple(vit.patch_embed.img_size)

    def forward(self, images: Tensor) -> Tensor:
        grid = images.shape[2] // self.patch_px, images.shape[3] // self.patch_px
        if self.blocks:
            parts = self.vit.forward_intermediates(
                *(images, list(self.blocks)), output_fmt="NLC", intermediates_only=True
            )
            tokens = torch.cat(parts, dim=2)
        else:
            tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
            if isinstance(self.vit.norm, nn.Identity):
                # ViTs trained on mean tokens keep their final norm behind the pooling
                tokens = self.vit.fc_norm(tokens)
        batch, _, size = tokens.shape
        return tokens.transpose(1, 2).reshape(batch, size, *grid)

    @contextlib.contextmanager
    def inside(self, places: Sequence[Place], tile: Grid, view: Grid) -> Iterator[None]:
        """Within, the images are tiles at `places` of larger views and get the positions that they
        have there. Otherwise a ViT with learned positions takes each tile for a whole picture,
        with its sky at the top. Nothing changes for rotary positions, or if the tile is all."""
        token = _MOVED.set(self._moved(places, tile, view))
        try:
            yield
        finally:
            _MOVED.reset(token)

    def _moved(self, places: Sequence[Place], tile: Grid, view: Grid) -> Tensor | None:
        """(B, th, tw, E) positions in the view, less those that the ViT gives the tile."""
        positions = getattr(self.vit, "pos_embed", None)
        if tile == view or positions is None or self.only_size:
            return None
        old = tuple(self.vit.patch_embed.grid_size)
        spare = positions.shape[1] - old[0] * old[1]
        grid = positions[0, spare:].reshape(*old, -1)

        def at(size: Grid, place: Place) -> Tensor:
            rows = _resizing(old[0], size[0], grid)[place[0] :][: tile[0]]
            columns = _resizing(old[1], size[1], grid)[place[1] :][: tile[1]]
            return torch.einsum("yi,ije,xj->yxe", rows, grid, columns)

        alone = at(tile, (0, 0))
        return torch.stack([at(view, place) - alone for place in places])


def _resizing(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old) matrix that resizes positions along one side as timm does: bicubic, antialiased.
    The whole grid of a large view would take gigabytes; these take nothing."""
    unit = torch.eye(old, device=like.device)[None, None]
    found = functional.interpolate(unit, size=(new, old), mode="bicubic", antialias=True)
    return found[0, 0]


_MOVED: ContextVar[Tensor | None] = ContextVar("moved", default=None)
"""What to add to the tokens of patches; every thread has its own."""


def _add_moved(patch_embed: Any, images: Any, tokens: Tensor) -> Tensor | None:
    """Hook: positions are added to tokens later, so a difference can be added now."""
    moved = _MOVED.get()
    return None if moved is None else tokens + moved


class Head(nn.Module):
    """(B, F, gh, gw) features -> (B, C, gh, gw) logits."""

    def __init__(self, kind: str, n_features: int, n_parts: int, n_classes: int) -> None:
        """n_parts: blocks whose tokens lie side by side in the features."""
        super().__init__()
        self.n_parts = n_parts
        steps: dict[str, tuple[nn.Module, ...]] = {
            "linear": (nn.Conv2d(n_features, n_classes, 1),),
            "conv": (
                nn.Conv2d(n_features, HIDDEN, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(HIDDEN, n_classes, 1),
            ),
            "layers": (
                *(nn.Conv2d(n_features, HIDDEN, 1), nn.GELU()),
                *(nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1), nn.GELU()),
                nn.Conv2d(HIDDEN, n_classes, 1),
            ),
        }
        self.steps = nn.Sequential(*steps[kind])

    def forward(self, features: Tensor) -> Tensor:
        # tokens of all backbones and blocks on one scale, so that one learning rate serves them
        batch, _, *grid = features.shape
        parts = features.float().reshape(batch, self.n_parts, -1, *grid)
        spread = parts.var(dim=2, keepdim=True, correction=0)
        parts = (parts - parts.mean(dim=2, keepdim=True)) * torch.rsqrt(spread + 1e-6)
        logits: Tensor = self.steps(parts.flatten(1, 2))
        return logits


class ResNetBody(nn.Module):
    """(B, 3, h, w) images -> (B, 2048, h / 8, w / 8)."""

    def __init__(self, resnet: nn.Module) -> None:
        """`resnet`: torchvision's body, which gives a dict with one entry, out."""
        super().__init__()
        self.resnet = resnet

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.resnet(images)["out"]
        return found

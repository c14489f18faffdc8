"""What a backbone can learn from images without labels: two tasks, from pixels to a loss.

    hidden patches   Three of four patches are dropped before the encoder, and a light decoder
                     predicts their gradients and colours (He et al. 2022, Wei et al. 2022).
    same places      Of two crops of one image, the tokens of the first must tell to which prototype
                     an averaged copy of the encoder puts the same place of the second (Caron et al.
                     2020 and 2021, for patches instead of images). A place of the image lies at
                     different places of the two grids, so position is of no use.

The encoder is a `HybridTransformer` whose position embedding is the same left and right: an image
and its mirror image get the same tokens in mirrored places, but for what their pixels say. Up and
down differ, since photographs have their sky above.
"""

import math
from typing import Any, NamedTuple

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from datus.models.appearance import MEAN, STD, HybridTransformer

PATCH_PX = 8
N_BINS = 9  # orientations of the histogram of gradients (Dalal & Triggs 2005)
N_TARGETS = 2 * (N_BINS + 6)  # histogram, mean and deviation of colours, of the patch and around it
ARCHITECTURE: dict[str, Any] = {  # of timm's VisionTransformer: 3.6 million parameters
    "img_size": 128,
    "patch_size": PATCH_PX,
    "embed_dim": 192,
    "depth": 8,
    "num_heads": 3,
    "num_classes": 0,
    "dynamic_img_size": True,
}
VISIBLE_ALONE, VISIBLE_BOTH = 0.25, 0.5  # shares of the patches that the encoder sees
N_PROTOTYPES = 256
STUDENT_TEMPERATURE, SINKHORN_TEMPERATURE = 0.1, 0.05


class Views(NamedTuple):
    """Two crops of each image of a batch, and where they lie."""

    first: Tensor  # float32 (B, 3, px, px), RGB 0..1
    second: Tensor
    boxes: Tensor  # float32 (B, 2, 4): top, left, bottom, right; left > right if mirrored


class Learner(nn.Module):
    """The encoder and what training needs around it."""

    def __init__(self) -> None:
        super().__init__()
        width = ARCHITECTURE["embed_dim"]
        self.encoder = HybridTransformer(**ARCHITECTURE)
        make_symmetric(self.encoder)
        self.decoder = Decoder(width)
        self.projection = nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, 128))
        self.prototypes = nn.Parameter(functional.normalize(torch.randn(N_PROTOTYPES, 128)))

    def hidden_loss(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of the first task alone, on float32 (B, 3, px, px) images, RGB 0..1."""
        places, side = visible(image, VISIBLE_ALONE, generator)
        tokens = encode(self.encoder, image, places)
        return self._hidden_loss(tokens, places, image, side)

    def both_losses(
        self, views: Views, teacher: "Learner", generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The first task on the first crop, and the second from the first crop to the second."""
        places, side = visible(views.first, VISIBLE_BOTH, generator)
        tokens = encode(self.encoder, views.first, places)
        hidden = self._hidden_loss(tokens, places, views.first, side)
        with torch.no_grad():
            grid = encode(teacher.encoder, views.second, None)
            grid = teacher.projection(grid).float().mT.unflatten(2, (side, side))
            where = places_in_second(views.boxes, places, side)
            inside = (where.abs() <= 1 - 1 / side).all(-1)
            expected = functional.grid_sample(grid, where[:, None], align_corners=False)
            expected = functional.normalize(expected[:, :, 0].mT[inside], dim=1)
            prototypes = functional.normalize(teacher.prototypes, dim=1)
            shares = sinkhorn(expected @ prototypes.T / SINKHORN_TEMPERATURE)
        scores = functional.normalize(self.projection(tokens).float()[inside], dim=1)
        scores = scores @ functional.normalize(self.prototypes, dim=1).T
        log = functional.log_softmax(scores / STUDENT_TEMPERATURE, dim=1)
        return hidden, -(shares * log).sum(1).mean()

    def _hidden_loss(self, tokens: Tensor, places: Tensor, image: Tensor, side: int) -> Tensor:
        """Mean squared error over the patches that were not seen."""
        predicted = self.decoder(tokens, places, side).float()
        hidden = torch.ones(predicted.shape[:2], device=image.device).scatter(1, places, 0.0)
        error = ((predicted - targets(image)) ** 2).mean(-1)
        mean: Tensor = (error * hidden).sum() / hidden.sum()
        return mean


class Decoder(nn.Module):
    """Visible tokens (B, n, D) and their places -> targets (B, side * side, N_TARGETS)."""

    def __init__(self, width: int, inner: int = 128) -> None:
        super().__init__()
        self.embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.blocks = nn.Sequential(*[Block(inner, 4) for _ in range(2)])
        self.norm = nn.LayerNorm(inner)
        self.head = nn.Linear(inner, N_TARGETS)

    def forward(self, tokens: Tensor, places: Tensor, side: int) -> Tensor:
        embedded = self.embed(tokens)
        grid = self.mask_token.to(embedded.dtype).expand(len(tokens), side * side, -1)
        index = places[..., None].expand(-1, -1, grid.shape[-1])
        grid = grid.scatter(1, index, embedded)
        grid = grid + sinusoids(side, grid.shape[-1]).to(grid)
        decoded: Tensor = self.head(self.norm(self.blocks(grid)))
        return decoded


def make_symmetric(encoder: Any) -> None:
    """Make the position embedding the same left and right, in place: (p + mirrored p) / 2."""
    with torch.no_grad():
        encoder.pos_embed.copy_(symmetric(encoder.pos_embed))


def symmetric(positions: Tensor) -> Tensor:
    """(1, 1 + G * G, D) positions of a class token and of a grid, (p + mirrored p) / 2."""
    side = math.isqrt(positions.shape[1] - 1)
    grid = positions[:, 1:].reshape(1, side, side, -1)
    return torch.cat([positions[:, :1], ((grid + grid.flip(2)) / 2).flatten(1, 2)], dim=1)


def visible(image: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, int]:
    """int64 (B, n), the patches that are seen, and the number of patches along a side."""
    side = image.shape[2] // PATCH_PX
    order = torch.rand(len(image), side * side, generator=generator).argsort(1)
    return order[:, : int(share * side * side)].to(image.device), side


def encode(encoder: Any, image: Tensor, places: Tensor | None) -> Tensor:
    """(B, n, D): normed tokens of the patches at `places` (B, n), or of all, without appearance."""
    mean, std = (image.new_tensor(three).view(1, 3, 1, 1) for three in (MEAN, STD))
    tokens = encoder.patch_embed((image - mean) / std)
    grid = (tokens.shape[1], tokens.shape[2])
    positions = resample_abs_pos_embed(symmetric(encoder.pos_embed), grid, num_prefix_tokens=1)
    tokens = tokens.flatten(1, 2) + positions[:, 1:].to(tokens.dtype)
    if places is not None:
        tokens = tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
    class_token = (encoder.cls_token + positions[:, :1]).expand(len(image), -1, -1)
    tokens = torch.cat([class_token.to(tokens.dtype), tokens], dim=1)
    for block in encoder.blocks:
        tokens = block(tokens)
    normed: Tensor = encoder.norm(tokens)[:, 1:]
    return normed


def places_in_second(boxes: Tensor, places: Tensor, side: int) -> Tensor:
    """(B, n, 2) x and y, -1..1 in the second crop, of the centres of patches of the first."""
    first, second = boxes[:, None, 0], boxes[:, None, 1]
    at = torch.stack([places // side, places % side], -1).add(0.5) / side  # y, x: 0..1 in the first
    at = first[..., :2] + at * (first[..., 2:] - first[..., :2])
    at = (at - second[..., :2]) / (second[..., 2:] - second[..., :2])
    return at.flip(-1) * 2 - 1


def sinkhorn(scores: Tensor, rounds: int = 3) -> Tensor:
    """(n, K) rows that sum to 1 while all K columns get the same: no prototype takes all."""
    shares = (scores - scores.max()).exp()
    for _ in range(rounds):
        shares = shares / shares.sum(0, keepdim=True).clamp_min(1e-12)
        shares = shares / shares.sum(1, keepdim=True).clamp_min(1e-12)
    return shares


def sinusoids(side: int, width: int) -> Tensor:
    """float32 (side * side, width): sines of row and column, as in Vaswani et al. 2017."""
    rates = 100 ** -torch.arange(0, 1, 4 / width)
    angles = torch.arange(side)[:, None] * rates
    codes = torch.cat([angles.sin(), angles.cos()], 1)
    rows = codes[:, None].expand(-1, side, -1)
    columns = codes[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).reshape(side * side, width)


def targets(image: Tensor) -> Tensor:
    """(B, 3, px, px) RGB 0..1 -> (B, patches, N_TARGETS): gradients and colour, at two scales."""
    grey = image.mean(1, keepdim=True)
    dx = functional.pad(grey[..., 2:] - grey[..., :-2], (1, 1))
    dy = functional.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    angle = torch.atan2(dy, dx) % math.pi
    bins = (angle / math.pi * N_BINS).floor().clamp(0, N_BINS - 1).long()
    votes = torch.zeros(len(image), N_BINS, *image.shape[2:], device=image.device)
    votes.scatter_(1, bins, torch.sqrt(dx**2 + dy**2))
    histogram = functional.avg_pool2d(votes, PATCH_PX)
    mean = functional.avg_pool2d(image, PATCH_PX)
    square = functional.avg_pool2d(image**2, PATCH_PX)
    parts = []
    for reach in (1, 3):  # the patch alone, then its surroundings
        gradient, colour, squares = (
            functional.avg_pool2d(values, reach, 1, reach // 2, count_include_pad=False)
            for values in (histogram, mean, square)
        )
        deviation = (squares - colour**2).clamp(min=0).sqrt()
        parts.append(gradient / (gradient.norm(dim=1, keepdim=True) + 0.02))
        parts.append((colour - 0.45) / 0.25)
        parts.append(deviation / 0.1)
    return torch.cat(parts, 1).flatten(2).mT

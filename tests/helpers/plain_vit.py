"""ViTs and ResNets by plain torch functions, reading tensors by the names of their authors.

Independent of timm and of `datus`: what a checkpoint must come to, whatever reads it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Kind:
    """How one family computes."""

    heads: int = 3
    eps: float = 1e-6
    act: Callable[[torch.Tensor], torch.Tensor] = F.gelu
    rotary: bool = False


@dataclass(frozen=True)
class Seen:
    """Of one image: keys (N, D), tokens (N, E), cls (E,)."""

    keys: torch.Tensor
    tokens: torch.Tensor
    cls: torch.Tensor


@torch.inference_mode()
def vit(w: Mapping[str, torch.Tensor], image: torch.Tensor, kind: Kind) -> Seen:
    """One image float32 (3, h, w) through the ViT with the tensors `w`, bare names."""
    patches = F.conv2d(
        image[None],
        w["patch_embed.proj.weight"],
        w["patch_embed.proj.bias"],
        stride=w["patch_embed.proj.weight"].shape[-1],
    )[0]
    grid = patches.shape[1:]
    x = patches.flatten(1).T
    if "cls_token" in w:
        x = torch.cat([w["cls_token"][0], x])
    if "pos_embed" in w:
        x = x + w["pos_embed"][0]
    for name in ("register_tokens", "storage_tokens"):
        if name in w:
            x = torch.cat([x[:1], w[name][0], x[1:]])
    n_prefix = len(x) - grid.numel()
    rope = rotary(grid[0], grid[1], x.shape[1] // kind.heads) if kind.rotary else None
    keys = x
    for i in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))):
        part = {n.partition(f"blocks.{i}.")[2]: v for n, v in w.items() if f"blocks.{i}." in n}
        x, keys = block(part, x, kind, rope, n_prefix)
    x = F.layer_norm(x, x.shape[1:], w["norm.weight"], w["norm.bias"], kind.eps)
    cls = x[0] if n_prefix else x.mean(0)
    return Seen(keys[n_prefix:], x[n_prefix:], cls)


def block(
    w: Tensors, x: torch.Tensor, kind: Kind, rope: tuple[torch.Tensor, torch.Tensor] | None, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x after the block, raw keys). n: prefix tokens, which are not rotated."""
    normed = F.layer_norm(x, x.shape[1:], w["norm1.weight"], w["norm1.bias"], kind.eps)
    bias = w.get("attn.qkv.bias")
    if bias is not None and "attn.qkv.bias_mask" in w:
        bias = bias * w["attn.qkv.bias_mask"]
    q, keys, v = F.linear(normed, w["attn.qkv.weight"], bias).chunk(3, dim=1)
    queries, rotated = q, keys
    apart = [t.reshape(len(x), kind.heads, -1).transpose(0, 1) for t in (queries, rotated, v)]
    if rope is not None:
        apart[:2] = [rotate(t, rope, n) for t in apart[:2]]
    weights = (apart[0] @ apart[1].transpose(1, 2) / math.sqrt(apart[0].shape[-1])).softmax(-1)
    mixed = (weights @ apart[2]).transpose(0, 1).reshape(len(x), -1)
    mixed = F.linear(mixed, w["attn.proj.weight"], w["attn.proj.bias"])
    x = x + mixed * w.get("ls1.gamma", torch.ones(()))
    normed = F.layer_norm(x, x.shape[1:], w["norm2.weight"], w["norm2.bias"], kind.eps)
    return x + mlp(w, normed, kind) * w.get("ls2.gamma", torch.ones(())), keys


def mlp(w: Tensors, x: torch.Tensor, kind: Kind) -> torch.Tensor:
    if "mlp.w12.weight" in w:  # DINOv2 giant
        gate, value = F.linear(x, w["mlp.w12.weight"], w["mlp.w12.bias"]).chunk(2, dim=1)
        return F.linear(F.silu(gate) * value, w["mlp.w3.weight"], w["mlp.w3.bias"])
    if "mlp.w1.weight" in w:  # DINOv3 plus
        gate = F.linear(x, w["mlp.w1.weight"], w["mlp.w1.bias"])
        value = F.linear(x, w["mlp.w2.weight"], w["mlp.w2.bias"])
        return F.linear(F.silu(gate) * value, w["mlp.w3.weight"], w["mlp.w3.bias"])
    hidden = kind.act(F.linear(x, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
    return F.linear(hidden, w["mlp.fc2.weight"], w["mlp.fc2.bias"])


def rotary(rows: int, columns: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """DINOv3: cosine and sine (N, width) of each patch; places run from -1 to 1 on both axes."""
    periods = 100.0 ** (2 * torch.arange(width // 4) / (width // 2))
    y = (torch.arange(rows) + 0.5) / rows * 2 - 1
    x = (torch.arange(columns) + 0.5) / columns * 2 - 1
    places = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], n_prefix: int) -> torch.Tensor:
    """x (heads, tokens, width); the two halves of the width are the two parts of a number."""
    patches = x[:, n_prefix:]
    first, second = patches.chunk(2, dim=-1)
    turned = patches * rope[0] + torch.cat([-second, first], -1) * rope[1]
    return torch.cat([x[:, :n_prefix], turned], dim=1)


@torch.inference_mode()
def resnet(w: Mapping[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Pooled feature (E,) of one image float32 (3, h, w), tensors by torchvision's names."""
    x = F.relu(norm(w, "bn1", F.conv2d(image[None], w["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage in range(1, 5):
        count = 1 + max(int(n.split(".")[1]) for n in w if n.startswith(f"layer{stage}."))
        for i in range(count):
            x = residual(w, f"layer{stage}.{i}.", x, 2 if stage > 1 and not i else 1)
    return x.mean((2, 3))[0]


def residual(
    w: Mapping[str, torch.Tensor], prefix: str, x: torch.Tensor, stride: int
) -> torch.Tensor:
    """A basic or a bottleneck block; the 3 x 3 convolution has the stride."""
    n_convs = 3 if f"{prefix}conv3.weight" in w else 2
    y, left = x, stride
    for i in range(1, n_convs + 1):
        kernel = w[f"{prefix}conv{i}.weight"]
        wide = kernel.shape[-1] == 3
        y = F.conv2d(y, kernel, stride=left if wide else 1, padding=int(wide))
        left = 1 if wide else left
        y = norm(w, f"{prefix}bn{i}", y)
        y = F.relu(y) if i < n_convs else y
    if f"{prefix}downsample.0.weight" in w:
        x = F.conv2d(x, w[f"{prefix}downsample.0.weight"], stride=stride)
        x = norm(w, f"{prefix}downsample.1", x)
    return F.relu(x + y)


def norm(w: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(
        x,
        w[f"{name}.running_mean"],
        w[f"{name}.running_var"],
        w[f"{name}.weight"],
        w[f"{name}.bias"],
    )

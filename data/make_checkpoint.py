"""Checkpoints of random weights in the layouts of their authors, to try the loader without any.

    python data/make_checkpoint.py vit_small_patch16_224.dino dino.pth
    python data/make_checkpoint.py vit_small_patch14_dinov2.lvd142m dinov2.pth --seed 3
    datus run --images photos/ --clusters 4 --backbone vit_small_patch16_224.dino --weights dino.pth

The file has the names, the shapes and the heads of a training checkpoint, and nothing was trained:
masks that come of it say nothing. Layouts: dino and dinov2, for every model of the table that has
them. Written are student and teacher, so that it shows which of the two was read.
"""

import argparse
from pathlib import Path

import torch

from datus.models.registry import SIZES, Row, find

Tensors = dict[str, torch.Tensor]

CHUNKS = 4
"""DINOv2 trains with its blocks in four chunks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the table that `datus backbones` shows")
    parser.add_argument("out", type=Path, help="the file to write, .pth")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    row = find(args.name)
    if row is None or row.is_cnn or row.family.layout not in ("dino", "dinov2"):
        parser.error(f"{args.name}: expected a ViT of DINO or DINOv2, see `datus backbones`")
    torch.save(checkpoint(row, args.seed), args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, layout {row.family.layout}")


def checkpoint(row: Row, seed: int) -> dict[str, object]:
    """What the training code of the row's family saves; student and teacher differ."""
    generator = torch.Generator().manual_seed(seed)
    width, depth, _ = SIZES[row.size]
    if row.family.layout == "dino":
        teacher, student = (
            backbone(row, generator) | {f"/{k}": v for k, v in dino_head(width, generator).items()}
            for _ in range(2)
        )
        return {
            "student": placed(student, "module.backbone.", "module."),
            "teacher": placed(teacher, "backbone.", ""),
            "args": argparse.Namespace(arch="vit_small", patch_size=row.patch_px),
            "epoch": 100,
            "dino_loss": {"center": torch.zeros(1, 64)},
        }
    chunk = -(-depth // CHUNKS)
    head = {f"/dino_{k}": v for k, v in dino_head(width, generator).items()}
    flat = backbone(row, generator) | {"mask_token": torch.zeros(1, width)}
    return {"teacher": placed(chunked(flat, chunk) | head, "backbone.", "")}


def backbone(row: Row, generator: torch.Generator) -> Tensors:
    """The tensors of the ViT by the authors' names: small random values, norms near one."""
    width, depth, _ = SIZES[row.size]
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": row.shapes["pos_embed"],
        "patch_embed.proj.weight": row.shapes["patch_embed.proj.weight"],
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if "_reg4_" in row.name:
        shapes["register_tokens"] = (1, 4, width)
    for i in range(depth):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block(row, width).items()}
    return {name: drawn(name, shape, generator) for name, shape in shapes.items()}


def block(row: Row, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one block."""
    shapes: dict[str, tuple[int, ...]] = {}
    layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    if row.size == "g":  # SwiGLU
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        layers |= {"mlp.w12": (2 * hidden, width), "mlp.w3": (width, hidden)}
    else:
        layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in ("norm1", "norm2"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    if row.family.layout == "dinov2":
        shapes |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
    return shapes


def drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    middle = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")) else 0.0
    return middle + 0.05 * torch.randn(shape, generator=generator)


def dino_head(width: int, generator: torch.Generator) -> Tensors:
    shapes = {
        "head.mlp.0.weight": (64, width),
        "head.mlp.0.bias": (64,),
        "head.last_layer.weight_g": (64, 1),
        "head.last_layer.weight_v": (64, 64),
    }
    return {name: drawn(name, shape, generator) for name, shape in shapes.items()}


def chunked(tensors: Tensors, chunk: int) -> Tensors:
    """blocks.7.x -> blocks.2.7.x for three blocks a chunk."""

    def renamed(name: str) -> str:
        if not name.startswith("blocks."):
            return name
        number, _, rest = name.removeprefix("blocks.").partition(".")
        return f"blocks.{int(number) // chunk}.{number}.{rest}"

    return {renamed(name): value for name, value in tensors.items()}


def placed(tensors: Tensors, inside: str, beside: str) -> Tensors:
    """Prefix `inside` for the backbone, `beside` for what starts with a slash: the head."""
    return {
        f"{beside}{name[1:]}" if name.startswith("/") else f"{inside}{name}": value
        for name, value in tensors.items()
    }


if __name__ == "__main__":
    main()

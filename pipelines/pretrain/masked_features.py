"""Train the embedded backbone without labels: predict what hidden patches look like.

In:  tar files (or a folder) of unlabelled photographs.
Out: NAME.safetensors (float16, timm tensor names) and NAME.json (the training record).

Three of four patches are dropped before the encoder (He et al. 2022, "Masked Autoencoders"). A
light decoder predicts, for every dropped patch, its histogram of oriented gradients (Wei et al.
2022, "Masked Feature Prediction") and its colour, for the patch and for its 3x3 surroundings. These
targets give more per CPU minute than pixels: they ignore lighting and fine phase.

    python pipelines/pretrain/masked_features.py --corpus FOLDER --minutes 90 --out PATH/NAME
"""

import argparse
import copy
import io
import json
import math
import platform
import queue
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

IMAGE_PX, PATCH_PX = 128, 8
GRID = IMAGE_PX // PATCH_PX
N_PATCHES = GRID * GRID
N_VISIBLE = N_PATCHES // 4
ARCHITECTURE = {
    "img_size": IMAGE_PX,
    "patch_size": PATCH_PX,
    "embed_dim": 192,
    "depth": 8,
    "num_heads": 3,
    "num_classes": 0,
}
N_BINS = 9  # orientations of the gradient histogram, as in Dalal and Triggs 2005
N_TARGETS = 2 * (N_BINS + 6)  # (histogram, colour mean, colour deviation) at two scales
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class Decoder(nn.Module):
    """Visible tokens (B, N/4, D) and their places -> predicted targets (B, N, N_TARGETS)."""

    def __init__(self, width: int, inner: int = 128) -> None:
        super().__init__()
        self.embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.position = nn.Parameter(torch.randn(1, N_PATCHES, inner) * 0.02)
        self.blocks = nn.Sequential(*[Block(inner, 4) for _ in range(2)])
        self.norm = nn.LayerNorm(inner)
        self.head = nn.Linear(inner, N_TARGETS)

    def forward(self, visible: Tensor, places: Tensor) -> Tensor:
        embedded = self.embed(visible)
        tokens = self.mask_token.to(embedded.dtype).expand(len(visible), N_PATCHES, -1)
        index = places[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = tokens.scatter(1, index, embedded) + self.position
        return self.head(self.norm(self.blocks(tokens)))


def load_corpus(folder: Path, exclude: tuple[str, ...]) -> list[np.ndarray]:
    """Every decodable JPEG of the tar files (or folders) below `folder` as RGB uint8 (H, W, 3)."""
    images = []
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                if not member.name.endswith(".jpg") or member.name.startswith(exclude):
                    continue
                stream = archive.extractfile(member)
                if stream is not None:
                    images.append(np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB")))
    for path in sorted(folder.rglob("*.jpg")):
        images.append(np.asarray(Image.open(path).convert("RGB")))
    return images


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part (30-100 % of the area), resized to IMAGE_PX, maybe mirrored."""
    height, width = image.shape[:2]
    area = rng.uniform(0.3, 1.0) * height * width
    ratio = math.exp(rng.uniform(-0.29, 0.29))
    crop_h = max(1, min(height, int(math.sqrt(area / ratio))))
    crop_w = max(1, min(width, int(math.sqrt(area * ratio))))
    top = int(rng.integers(0, height - crop_h + 1))
    left = int(rng.integers(0, width - crop_w + 1))
    crop = image[top : top + crop_h, left : left + crop_w]
    crop = cv2.resize(crop, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_AREA)
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def batches(images: list[np.ndarray], size: int, seed: int) -> Iterator[Tensor]:
    """Endless float batches (B, 3, IMAGE_PX, IMAGE_PX) in 0..1, made in a thread ahead of use."""
    rng = np.random.default_rng(seed)
    ready: queue.Queue[Tensor] = queue.Queue(maxsize=4)

    def fill() -> None:
        while True:
            rows = rng.integers(0, len(images), size)
            batch = np.stack([random_crop(images[row], rng) for row in rows])
            ready.put(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get().float() / 255


def targets(image: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> (B, N, N_TARGETS): gradients and colour of patches, at two scales."""
    grey = image.mean(1, keepdim=True)
    dx = functional.pad(grey[..., 2:] - grey[..., :-2], (1, 1))
    dy = functional.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    magnitude = torch.sqrt(dx**2 + dy**2)
    angle = torch.atan2(dy, dx) % math.pi
    bins = (angle / math.pi * N_BINS).floor().clamp(0, N_BINS - 1).long()
    shape = (image.shape[0], N_BINS, *image.shape[2:])
    votes = torch.zeros(shape, device=image.device).scatter_(1, bins, magnitude)
    histogram = functional.avg_pool2d(votes, PATCH_PX)
    mean = functional.avg_pool2d(image, PATCH_PX)
    square = functional.avg_pool2d(image**2, PATCH_PX)
    parts = []
    for reach in (1, 3):  # the patch alone, then its 3x3 surroundings
        pool = {
            "kernel_size": reach,
            "stride": 1,
            "padding": reach // 2,
            "count_include_pad": False,
        }
        gradient, colour = (
            functional.avg_pool2d(histogram, **pool),
            functional.avg_pool2d(mean, **pool),
        )
        deviation = (functional.avg_pool2d(square, **pool) - colour**2).clamp(min=0).sqrt()
        parts.append(gradient / (gradient.norm(dim=1, keepdim=True) + 0.02))
        parts.append((colour - 0.45) / 0.25)
        parts.append(deviation / 0.1)
    return torch.cat(parts, 1).flatten(2).transpose(1, 2)


def encode_visible(encoder: VisionTransformer, image: Tensor, places: Tensor) -> Tensor:
    """Only the visible patches go through the encoder: (B, N/4, D)."""
    tokens = encoder.patch_embed((image - MEAN.to(image.device)) / STD.to(image.device))
    tokens = tokens + encoder.pos_embed[:, 1:]
    tokens = tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
    cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(image), -1, -1)
    tokens = torch.cat([cls.to(tokens.dtype), tokens], 1)
    for block in encoder.blocks:
        tokens = block(tokens)
    return encoder.norm(tokens)[:, 1:]


def masked_loss(encoder: VisionTransformer, decoder: Decoder, image: Tensor) -> Tensor:
    """Mean squared error over the hidden patches only."""
    places = torch.rand(len(image), N_PATCHES, device=image.device).argsort(1)[:, :N_VISIBLE]
    with torch.autocast(image.device.type, torch.bfloat16):
        predicted = decoder(encode_visible(encoder, image, places), places)
    hidden = torch.ones(predicted.shape[:2], device=image.device).scatter(1, places, 0.0)
    error = ((predicted.float() - targets(image)) ** 2).mean(-1)
    return (error * hidden).sum() / hidden.sum()


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    images = load_corpus(args.corpus, tuple(args.exclude))
    print(f"{len(images)} photographs", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = VisionTransformer(**ARCHITECTURE).to(device)
    decoder = Decoder(ARCHITECTURE["embed_dim"]).to(device)
    average = copy.deepcopy(encoder).requires_grad_(False)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.05, betas=(0.9, 0.95))
    started, seen, smooth = time.monotonic(), 0, 0.0
    for step, image in enumerate(batches(images, args.batch, args.seed)):
        minutes = (time.monotonic() - started) / 60
        if minutes >= min(args.minutes, args.stop):
            break
        decay = 0.5 * (1 + math.cos(math.pi * minutes / args.minutes))
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * decay)
        loss = masked_loss(encoder, decoder, image.to(device))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        momentum = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()), list(encoder.parameters()), 1 - momentum
            )
        seen += len(image)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            rate = seen / (time.monotonic() - started)
            print(f"{step} {minutes:.1f} min loss {smooth:.4f} {rate:.0f} views/s", flush=True)
        if step % 500 == 499:
            save(args, average, len(images), seen, minutes, smooth)
    save(args, average, len(images), seen, minutes, smooth)


def save(
    args: argparse.Namespace,
    model: nn.Module,
    n_images: int,
    n_views: int,
    minutes: float,
    loss: float,
) -> None:
    """Write OUT.safetensors (float16) and OUT.json, the record that travels with the weights."""
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in model.state_dict().items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out.with_suffix(".safetensors"))
    record = {
        "name": args.out.name,
        "architecture": ARCHITECTURE,
        "recipe": "pipelines/pretrain/masked_features.py",
        "labels": "none",
        "target": "oriented gradients and colour of hidden patches, at one and three patches",
        "n_parameters": sum(t.numel() for t in tensors.values()),
        "n_photographs": n_images,
        "n_views": n_views,
        "minutes": round(minutes, 1),
        "schedule_minutes": args.minutes,
        "loss": round(loss, 4),
        "batch": args.batch,
        "lr": args.lr,
        "seed": args.seed,
        "torch": torch.__version__,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "terms": "trained on research-only photographs of mixed origin; weights Apache-2.0; "
        "check the terms of your own use",
    }
    args.out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of tar files or JPEGs")
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--stop", type=float, default=math.inf, help="end here, schedule unchanged")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--exclude", nargs="*", default=["bsds500/"], help="member prefixes left out"
    )
    train(parser.parse_args())


if __name__ == "__main__":
    main()

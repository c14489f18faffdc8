"""Train a backbone like `datus_t8` on unlabelled images.

    python pipelines/pretrain/train.py --images photos/ --out mine/                    from nothing
    python pipelines/pretrain/train.py --images photos/ --out mine/ --start datus_t8
    datus run --images photos/ --clusters 12 --backbone mine/own_t8.safetensors

In:  a folder of images.
Out: OUT/NAME.safetensors (float16) and OUT/NAME.json, which `datus run --backbone` takes;
     OUT/training.jsonl, the losses; OUT/checkpoint.pt, from which the same command goes on.

The first phase hides patches; the second also matches the tokens of two crops (tasks.py). An
average of the weights over the steps is kept. With no steps at all (--views 0 --pairs 0 --start
MODEL) only the positions are made symmetric and the scales of the channels are measured on the
images. Views and masks of a step depend on (seed, step) alone, so on a CPU, with as many threads, a
training that was killed ends with the bytes of one that was not. docs/embedded_backbone.md gives
the reasons for the numbers, and what they cost.
"""

import argparse
import copy
import io
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from tasks import ARCHITECTURE, PATCH_PX, Learner, Views, make_symmetric

from datus.inputs.decode import normalise
from datus.inputs.find import find_images
from datus.models.appearance import BUFFERS, N_CHANNELS, PLACES, HybridTransformer
from datus.models.checkpoints import load_checkpoint
from datus.models.vit import Backbone
from datus.models.weights import model_path, own_record, weights_id
from datus.types import Array

MOMENTUM = 0.999, 0.996  # of the average, in both phases; in the second it is the teacher
PLACES_WEIGHT = 0.5  # of the second task's loss
WEIGHT_DECAY = 0.05
RATE_UP = 200  # steps in which the learning rate of a phase rises
BATCHES_AHEAD = 4
N_SAMPLE = 300  # images that the scales are measured on at the end; a tenth at a checkpoint
LEAST_SAMPLE, LEAST_STD = 30, 0.01  # see `calibrate`; photographs have deviations of 0.02 to 0.25
KEY_SHARES, TOKEN_SHARES = (0.6, 0.6, 0.6), (1.0, 0.7, 0.3)
"""Spread of colour, of its deviations and of gradients beside the keys and beside the tokens, as
multiples of the spread that these have themselves. Chosen on several labelled sets."""


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    images = Images(args)
    training = Training(args)
    since = time.monotonic()
    for step, views in images.batches(training.step):
        training.train(step, views)
        if training.step % args.every == 0 or training.step == args.last:
            print(training.save(time.monotonic() - since, images), flush=True)
            since = time.monotonic()
    if args.last == 0:
        print(training.save(0.0, images))
    print(f"weights: {args.out / args.name}.safetensors")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, and two more: `alone` and `last`, the steps at which the phases end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True)
    add("--out", type=Path, required=True, help="folder of the weights")
    add("--name", default="own_t8", help="of the model")
    add("--start", default="", help="begin with datus_t8, or with weights of yours")
    add("--views", type=int, default=128_000, help="crops of the first phase")
    add("--pairs", type=int, default=48_000, help="pairs of crops of the second; 0 = none")
    add("--batch", type=int, default=64)
    add("--batch-pairs", type=int, default=32)
    add("--crop-px", type=int, default=128)
    add("--lr", type=float, default=1e-3)
    add("--lr-pairs", type=float, default=3e-4)
    add("--seed", type=int, default=0)
    add("--device", default="cpu")
    add("--threads", type=int, default=0, help="0 = one per core")
    add("--every", type=int, default=100, help="steps between checkpoints")
    args = parser.parse_args(arguments)
    if not (args.views or args.pairs or args.start):
        parser.error("nothing to train: give --views, --pairs or --start")
    args.alone = -(-args.views // args.batch)
    args.last = args.alone - (-args.pairs // args.batch_pairs)
    return args


# --- images -------------------------------------------------------------------------------------


class Images:
    """Batches of crops, made ahead of use in threads. Unreadable images are passed over."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.paths = [args.images / path for path in find_images(args.images).paths]
        self.unreadable: set[int] = set()

    def batches(self, start: int) -> Iterator[tuple[int, Views]]:
        """(step, its views), from `start` to the end of the last phase."""
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(self.batch, step) for step in self._steps(start, BATCHES_AHEAD)]
            for step in self._steps(start, self.args.last):
                views = waiting.pop(0).result()
                for ahead in self._steps(step + BATCHES_AHEAD, 1):
                    waiting.append(pool.submit(self.batch, ahead))
                yield step, views

    def _steps(self, start: int, count: int) -> range:
        return range(start, min(start + count, self.args.last))

    def batch(self, step: int) -> Views:
        """The views of one step."""
        pairs, px = step >= self.args.alone, self.args.crop_px
        n_images = self.args.batch_pairs if pairs else self.args.batch
        rng = np.random.default_rng([self.args.seed, step])
        crops = np.zeros((2, n_images, px, px, 3), np.uint8)
        boxes = np.zeros((n_images, 2, 4), np.float32)
        for row in range(n_images):
            image = self._readable(rng)
            boxes[row, 0] = random_box(image.shape[:2], rng, 0.2 if pairs else 0.3, None)
            crops[0, row] = crop(image, boxes[row, 0], px)
            if pairs:
                boxes[row, 1] = random_box(image.shape[:2], rng, 0.2, boxes[row, 0])
                crops[0, row] = recoloured(crops[0, row], rng)
                crops[1, row] = recoloured(crop(image, boxes[row, 1], px), rng)
        views = torch.from_numpy(crops).permute(0, 1, 4, 2, 3).contiguous().float() / 255
        return Views(views[0], views[1], torch.from_numpy(boxes))

    def sample(self, n_images: int) -> Iterator[Array]:
        """uint8 (px, px, 3) of PLACES patches a side, squashed, of every so many images."""
        px = PLACES * PATCH_PX
        for path in self.paths[:: max(1, len(self.paths) // n_images)][:n_images]:
            image = read(path, px)
            if image is not None:
                yield crop(image, np.array([0, 0, *image.shape[:2]], np.float32), px)

    def _readable(self, rng: np.random.Generator) -> Array:
        """uint8 (h, w, 3) RGB of a random image; drawn again where one cannot be read."""
        while 2 * len(self.unreadable) <= len(self.paths):
            place = int(rng.integers(len(self.paths)))
            image = read(self.paths[place], 2 * self.args.crop_px)
            if image is not None:
                return image
            self.unreadable.add(place)
        raise SystemExit(f"{len(self.unreadable)} of {len(self.paths)} images cannot be read")


def read(path: Path, enough_px: int) -> Array | None:
    """uint8 (h, w, 3) RGB, or None. Large JPEGs are decoded at a fraction of their size, at least
    `enough_px` on a side."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            picture.draft("RGB", (enough_px, enough_px))
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises
        return None


def random_box(
    size: tuple[int, int], rng: np.random.Generator, least: float, near: Array | None
) -> Array:
    """float32 (top, left, bottom, right) of `least` to 1 of the area; left > right if mirrored.

    With `near`, another box, they share at least a quarter of the smaller one, if twenty tries
    find such a box.
    """
    height, width = size
    box = np.zeros(4, np.float32)
    for _ in range(20):
        area, ratio = rng.uniform(least, 1.0) * height * width, math.exp(rng.uniform(-0.29, 0.29))
        rows = max(8.0, min(float(height), math.sqrt(area / ratio)))
        columns = max(8.0, min(float(width), math.sqrt(area * ratio)))
        top, left = (
            rng.uniform(0, max(0.0, height - rows)),
            rng.uniform(0, max(0.0, width - columns)),
        )
        box = np.array([top, left, top + rows, left + columns], np.float32)
        if near is None or shared_part(box, near) >= 0.25:
            break
    return box[[0, 3, 2, 1]] if rng.random() < 0.5 else box


def shared_part(box: Array, other: Array) -> float:
    """Area that both boxes cover, over the smaller of their areas."""
    sides, areas = 1.0, [1.0, 1.0]
    for axis in (0, 1):
        low, high = (sorted((one[axis], one[axis + 2])) for one in (box, other))
        sides *= max(0.0, min(low[1], high[1]) - max(low[0], high[0]))
        areas = [areas[0] * (low[1] - low[0]), areas[1] * (high[1] - high[0])]
    return float(sides / min(areas))


def crop(image: Array, box: Array, px: int) -> Array:
    """uint8 (px, px, 3): the pixels of a box, mirrored if it is."""
    left, right = sorted((float(box[1]), float(box[3])))
    top, bottom = float(box[0]), float(box[2])
    rows = slice(int(top), max(int(top) + 1, math.ceil(bottom)))
    columns = slice(int(left), max(int(left) + 1, math.ceil(right)))
    part = cv2.resize(image[rows, columns], (px, px), interpolation=cv2.INTER_AREA)
    return np.asarray(part[:, ::-1] if box[1] > box[3] else part)


def recoloured(pixels: Array, rng: np.random.Generator) -> Array:
    """Brightness, contrast, saturation and tint moved a little; sometimes grey or blurred."""
    moved = pixels.astype(np.float32)
    moved *= rng.uniform(0.7, 1.3)
    mean = moved.mean()
    moved = (moved - mean) * rng.uniform(0.7, 1.3) + mean
    grey = moved @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.6, 1.4)
    moved = (moved - grey[..., None]) * saturation + grey[..., None]
    moved *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    if rng.random() < 0.2:
        moved = cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.3, 1.2))
    return np.asarray(np.clip(moved, 0, 255).astype(np.uint8))


# --- training -----------------------------------------------------------------------------------


class Training:
    """What a checkpoint holds: the learner, its average, the optimiser, how far it is."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args = args
        self.step, self.seconds = 0, 0.0
        self._losses: list[list[float]] = []
        self._learner = Learner()
        if args.start:
            begin_with(self._learner.encoder, args.start)
        self._learner.to(args.device)
        self._average = copy.deepcopy(self._learner).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._learner.parameters(), args.lr, (0.9, 0.95), weight_decay=WEIGHT_DECAY
        )
        if (args.out / "checkpoint.pt").exists():
            self._load()

    def train(self, step: int, views: Views) -> None:
        """One step of the optimiser, and of the average."""
        args, pairs = self.args, step >= self.args.alone
        first, last = (args.alone, args.last) if pairs else (0, args.alone)
        rate = args.lr_pairs if pairs else args.lr
        for group in self._optimiser.param_groups:
            group["lr"] = rate * share_of_rate(step - first, last - first)
        losses = self._losses_of(step, views, pairs)
        weights = (1.0, PLACES_WEIGHT)
        loss = torch.stack([w * one for w, one in zip(weights, losses, strict=False)]).sum()
        if not math.isfinite(loss.item()):
            raise SystemExit(f"step {step}: the loss is {loss.item()}; take a smaller --lr")
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._learner.parameters(), 1.0)
        self._optimiser.step()
        momentum = min(MOMENTUM[pairs], (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self._average.parameters()), list(self._learner.parameters()), 1 - momentum
            )
        self._losses.append([one.item() for one in losses])
        self.step = step + 1

    def _losses_of(self, step: int, views: Views, pairs: bool) -> list[torch.Tensor]:
        device = torch.device(self.args.device)
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
        views = Views(*(part.to(device) for part in views))
        lower = device.type != "cpu" or has_bfloat16()
        with torch.autocast(device.type, torch.bfloat16, enabled=lower):
            if pairs:
                return list(self._learner.both_losses(views, self._average, generator))
            return [self._learner.hidden_loss(views.first, generator)]

    def save(self, seconds: float, images: Images) -> str:
        """Write the checkpoint, the weights, the record and a line in the log; return the line."""
        self.seconds += seconds
        newest = [one for one in self._losses if len(one) == len(self._losses[-1])] or [[]]
        losses = np.mean(newest, axis=0).round(4).tolist()
        line = {"step": self.step, "of": self.args.last, "losses": losses}
        line["seconds"] = round(self.seconds)
        self._losses.clear()
        self.args.out.mkdir(parents=True, exist_ok=True)
        self._write_model(images)
        buffer = io.BytesIO()
        torch.save(
            {
                "recipe": self._recipe(),
                "learner": self._learner.state_dict(),
                "average": self._average.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            },
            buffer,
        )
        write_whole(self.args.out / "checkpoint.pt", buffer.getvalue())
        with (self.args.out / "training.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        return json.dumps(line)

    def _load(self) -> None:
        path = self.args.out / "checkpoint.pt"
        kept = torch.load(path, self.args.device, weights_only=True)
        recipe = self._recipe()
        other = [name for name in recipe if kept["recipe"].get(name) != recipe[name]]
        if other:
            raise SystemExit(
                f"{self.args.out} holds a training with another {', '.join(other)}: go on with the "
                "same settings, or choose another --out"
            )
        self._learner.load_state_dict(kept["learner"])
        self._average.load_state_dict(kept["average"])
        self._optimiser.load_state_dict(kept["optimiser"])
        self.step, self.seconds = kept["step"], kept["seconds"]

    def _recipe(self) -> dict[str, Any]:
        """What must be the same to go on."""
        names = ("name", "views", "pairs", "batch", "batch_pairs", "crop_px", "lr", "lr_pairs")
        recipe = {name: getattr(self.args, name) for name in (*names, "seed")}
        start = self.args.start
        return {
            **recipe,
            "start": f"{Path(start).stem} {weights_id(start, 'auto')}" if start else "",
        }

    def _write_model(self, images: Images) -> None:
        from safetensors.torch import save

        args = self.args
        encoder = copy.deepcopy(self._average.encoder).cpu()
        make_symmetric(encoder)
        calibrate(encoder, list(images.sample(N_SAMPLE // (1 if self.step == args.last else 10))))
        tensors = {name: one.half().contiguous() for name, one in encoder.state_dict().items()}
        record = {
            "class": "HybridTransformer",
            "architecture": ARCHITECTURE,
            "labels": "none",
            "n_parameters": sum(one.numel() for one in encoder.parameters()),
            "n_images": len(images.paths),
            "n_unreadable": len(images.unreadable),
            "n_views": min(self.step, args.alone) * args.batch,
            "n_pairs": max(0, self.step - args.alone) * args.batch_pairs,
            "minutes": round(self.seconds / 60, 1),
            **self._recipe(),
            "torch": torch.__version__,
            "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {args.device}",
        }
        write_whole(args.out / f"{args.name}.safetensors", save(tensors))
        text = json.dumps(record, indent=2) + "\n"
        write_whole(args.out / f"{args.name}.json", text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """The file has either its old content or all of the new, whenever this is interrupted."""
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_bytes(data)
    beside.replace(path)


def share_of_rate(step: int, n_steps: int) -> float:
    """Of the learning rate: up over RATE_UP steps, along half a cosine down to 2 %."""
    decay = 0.5 * (1 + math.cos(math.pi * step / max(1, n_steps)))
    return min(1.0, (step + 1) / RATE_UP) * (0.02 + 0.98 * decay)


def has_bfloat16() -> bool:
    """Whether Linux says that this processor multiplies in bfloat16; else float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def begin_with(encoder: HybridTransformer, name: str) -> None:
    """The weights of a model of ours, by name or path, into `encoder`."""
    path = model_path(name)
    if path is None:
        raise SystemExit(f"--start {name}: expected datus_t8, or a file that this script wrote")
    given = own_record(path)["architecture"]
    other = [
        key for key in ("patch_size", "embed_dim", "depth") if given.get(key) != ARCHITECTURE[key]
    ]
    if other:
        raise SystemExit(f"--start {name}: it has another {', '.join(other)} than {ARCHITECTURE}")
    load_checkpoint(encoder, path, name, allow_missing=BUFFERS)


# --- scales of the channels ---------------------------------------------------------------------


def calibrate(encoder: HybridTransformer, images: Sequence[Array]) -> None:
    """Measure the scales of the channels and the mean key of each place on images, and set them.

    images: uint8 (px, px, 3) RGB, of PLACES patches along a side. Fewer than LEAST_SAMPLE say too
    little about a place: all places then get the mean of all. Channels that hardly vary on these
    images (the colours of grey ones) count as if they varied by LEAST_STD.
    """
    width, zeros = encoder.num_features, np.zeros(N_CHANNELS)
    adjust(encoder, zeros, zeros + 1, (1.0, 1.0), np.zeros(encoder.place_keys.shape))
    encoder.key_scale.fill_(1.0)
    backbone = Backbone(copy.deepcopy(encoder), "the encoder", "float32", "cpu")
    keys, tokens = Moments(), Moments()
    for image in images:
        grid = backbone.features([normalise(image)], 1, 1)[0]
        keys.add(grid.keys)
        tokens.add(grid.tokens[..., :width])
    by_place = len(images) >= LEAST_SAMPLE
    mean = keys.mean[..., width:].mean((0, 1))
    variance = keys.mean_square[..., width:].mean((0, 1)) - mean**2
    std = np.maximum(np.sqrt(np.maximum(variance, 0.0)), LEAST_STD)
    spreads = keys.spread(width, by_place), tokens.spread(width, by_place)
    places = keys.mean[..., :width]
    if not by_place:
        places = np.broadcast_to(places.mean((0, 1)), places.shape)
    adjust(encoder, mean, std, spreads, places)


def adjust(
    encoder: HybridTransformer,
    mean: Array,
    std: Array,
    spreads: tuple[float, float],
    place_keys: Array,
) -> None:
    """Set the buffers of the encoder.

    mean, std: (N_CHANNELS,) of the channels. spreads: root mean square length of keys and of
    tokens, less their mean at each place. place_keys: (PLACES, PLACES, D), that mean of the keys.
    """
    buffers = (encoder.channel_mean, encoder.channel_std, encoder.place_keys)
    for buffer, values in zip(buffers, (mean, std, place_keys), strict=True):
        buffer.copy_(torch.tensor(values.copy(), dtype=torch.float32))
    scales = (encoder.key_scale, encoder.token_scale), spreads, (KEY_SHARES, TOKEN_SHARES)
    for scale, spread, shares in zip(*scales, strict=True):
        groups = torch.tensor(shares).repeat_interleave(N_CHANNELS // len(shares))
        scale.copy_(groups * spread / math.sqrt(N_CHANNELS / len(shares)))


class Moments:
    """Mean and mean square, at each place, of arrays (gh, gw, D) that come one after the other."""

    def __init__(self) -> None:
        self._n, self._sums = 0, np.zeros((2, 1, 1, 1))

    def add(self, values: Array) -> None:
        self._n += 1
        self._sums = self._sums + np.stack([values, values.astype(np.float64) ** 2])

    @property
    def mean(self) -> Array:
        return np.asarray(self._sums[0] / self._n)

    @property
    def mean_square(self) -> Array:
        return np.asarray(self._sums[1] / self._n)

    def spread(self, size: int, by_place: bool) -> float:
        """Root mean square length of the first `size` entries, less their mean at each place, or
        less the mean of all places."""
        mean = self.mean[..., :size]
        if not by_place:
            mean = mean.mean(axis=(0, 1), keepdims=True)
        squares = self.mean_square[..., :size].sum(axis=2).mean() - (mean**2).sum(axis=2).mean()
        return math.sqrt(max(0.0, float(squares)))


if __name__ == "__main__":
    main()

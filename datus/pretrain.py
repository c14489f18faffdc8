"""Train a small backbone on unlabelled images: `datus pretrain --images photos/ --out mine/`.

In:  a folder of images.
Out: OUT/NAME.safetensors (float16) and OUT/NAME.json, which `datus run --backbone` takes;
     OUT/training.jsonl, the losses; OUT/checkpoint.pt, from which the same command goes on.

The first phase hides patches, the second also matches the tokens of two crops; what they learn from
is in datus.selfsupervised. An average of the weights over the steps is what is kept. Views and
masks of a step depend on (seed, step) alone, so on a CPU, with as many threads, a training that was
killed ends with the bytes of one that was not.
"""

import copy
import io
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datus.compute.onednn import CPUINFO
from datus.errors import UsageError, WorkError
from datus.models.appearance import BUFFERS, N_CHANNELS, PLACES, HybridTransformer
from datus.models.checkpoints import load_checkpoint
from datus.models.weights import model_path, own_record, weights_id
from datus.segmenter.examples import write_whole
from datus.selfsupervised import ARCHITECTURE, PATCH_PX, Learner, Settings, Views, make_symmetric
from datus.store.disk import check_writable, explained
from datus.types import Array
from datus.views import Phase, Photographs

MOMENTUM = 0.999, 0.996
"""How slowly the average follows in both phases; in the second it is the teacher."""

N_SAMPLE = 300
"""Images that the scales of a model are measured on at the end; a tenth at a checkpoint."""

LEAST_SAMPLE, LEAST_STD = 30, 0.01
"""See `calibrate`. On photographs channels have standard deviations of 0.02 to 0.25."""

RATE_UP = 200
"""Steps in which the learning rate of a phase rises."""

UNHASHED = ("images", "out", "device", "every")
"""Settings that may change between two starts of one training."""


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Settings of one training. docs/embedded_backbone.md gives the reasons and what they cost."""

    images: Path
    out: Path
    name: str
    views: int = 128_000
    """Crops of the first phase."""
    pairs: int = 48_000
    """Pairs of crops of the second. 0 = no second phase."""
    batch: int = 64
    batch_pairs: int = 32
    crop_px: int = 128
    lr: float = 1e-3
    lr_pairs: float = 3e-4
    weight_decay: float = 0.05
    seed: int = 0
    start: str = ""
    """A model of ours to begin with, by name or path; empty = random weights."""
    device: str = "cpu"
    every: int = 100
    """Steps between checkpoints."""
    tasks: Settings = field(default_factory=Settings)

    @property
    def phases(self) -> tuple[Phase, Phase]:
        first = -(-self.views // self.batch)
        last = first + -(-self.pairs // self.batch_pairs)
        return Phase(0, first, self.batch, False), Phase(first, last, self.batch_pairs, True)


Say = Callable[[dict[str, Any]], None]


def pretrain(
    settings: Pretraining,
    paths: list[Path],
    say: Say,
    advance: Callable[[int], Any] = lambda steps: None,
) -> Path:
    """Train, or go on, to the end. Returns the path of the weights.

    `say` hears of each checkpoint: step, of, losses, seconds, seconds_left. `advance` hears of
    steps, those of an earlier start first. Raises UsageError (no images, another training in the
    folder), WorkError (unreadable images, loss not finite, a disk that refuses).
    """
    if not paths:
        raise UsageError(f"{settings.images}: no images to train on")
    check_writable(settings.out / "checkpoint.pt", "--out")
    photographs = Photographs(paths, settings.phases, settings.crop_px, settings.seed)
    training = Training(settings)
    last = settings.phases[-1].last
    advance(training.step)
    since = time.monotonic()
    for step, views in photographs.batches(training.step):
        training.train(step, views)
        advance(1)
        if training.step % settings.every == 0 or training.step == last:
            seconds, since = time.monotonic() - since, time.monotonic()
            say(training.save(seconds, photographs))
    if last == 0:  # only the scales of a model that was trained before
        say(training.save(0.0, photographs))
    return settings.out / f"{settings.name}.safetensors"


class Training:
    """What a checkpoint holds: the learner, its average, the optimiser, how far it is."""

    def __init__(self, settings: Pretraining) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.step = 0
        self._seconds = 0.0
        self._losses: list[list[float]] = []
        self._learner = Learner(settings.tasks)
        if settings.start:
            begin_with(self._learner.encoder, settings.start)
        self._learner.to(settings.device)
        self._average = copy.deepcopy(self._learner).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._learner.parameters(), settings.lr, (0.9, 0.95), weight_decay=settings.weight_decay
        )
        if self._checkpoint.exists():
            self._load()

    def train(self, step: int, views: Views) -> None:
        """One step of the optimiser, and of the average."""
        settings, pairs = self.settings, step >= self.settings.phases[1].first
        phase = settings.phases[pairs]
        rate = settings.lr_pairs if pairs else settings.lr
        for group in self._optimiser.param_groups:
            group["lr"] = rate * share_of_rate(step - phase.first, phase.last - phase.first)
        losses = self._losses_of(step, views, pairs)
        weights = (1.0, settings.tasks.places_weight)
        loss = torch.stack([w * one for w, one in zip(weights, losses, strict=False)]).sum()
        if not math.isfinite(loss.item()):
            raise WorkError(
                f"step {step}: the loss is {loss.item()}; take a smaller --lr than {settings.lr}, "
                "and another --out"
            )
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._learner.parameters(), 1.0)
        self._optimiser.step()
        self._follow(min(MOMENTUM[pairs], (step + 1) / (step + 10)))
        self._losses.append([one.item() for one in losses])
        self.step = step + 1

    def _losses_of(self, step: int, views: Views, pairs: bool) -> list[torch.Tensor]:
        device = torch.device(self.settings.device)
        drawn = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        views = Views(*(part.to(device) for part in views))
        lower = device.type != "cpu" or has_bfloat16()
        with torch.autocast(device.type, torch.bfloat16, enabled=lower):
            if pairs:
                return list(self._learner.both_losses(views, self._average, drawn))
            return [self._learner.hidden_loss(views.first, drawn)]

    def _follow(self, momentum: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self._average.parameters()), list(self._learner.parameters()), 1 - momentum
            )

    # --- files ----------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self.settings.out / "checkpoint.pt"

    def save(self, seconds: float, photographs: Photographs) -> dict[str, Any]:
        """Checkpoint, weights, record and a line in the log, which is returned."""
        of, n_steps = self.settings.phases[-1].last, max(1, len(self._losses))
        self._seconds += seconds
        newest = [one for one in self._losses if len(one) == len(self._losses[-1])] or [[]]
        line = {
            "step": self.step,
            "of": of,
            "losses": np.mean(newest, axis=0).round(4).tolist(),
            "seconds": round(self._seconds),
            "seconds_left": round((of - self.step) * seconds / n_steps),
        }
        kept = {
            "recipe": self._recipe(),
            "learner": self._learner.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
            "seconds": self._seconds,
        }
        self._losses.clear()
        with explained(str(self.settings.out), "write", "--out"):
            self.settings.out.mkdir(parents=True, exist_ok=True)
            self._write_model(photographs)
            buffer = io.BytesIO()  # torch makes another error of one of the disk
            torch.save(kept, buffer)
            write_whole(self._checkpoint, buffer.getvalue())
            with (self.settings.out / "training.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        return line

    def _load(self) -> None:
        try:
            kept = torch.load(self._checkpoint, self.settings.device, weights_only=True)
            recipe, wanted = kept["recipe"], self._recipe()
        except Exception as error:  # a damaged file raises almost any type
            raise UsageError(
                f"{self._checkpoint}: damaged ({type(error).__name__}); remove it to begin anew"
            ) from error
        other = [name for name in wanted if recipe.get(name) != wanted[name]]
        if other:
            raise UsageError(
                f"{self.settings.out} holds a training with another {', '.join(other)}: go on with "
                "the same settings, or choose another --out"
            )
        self._learner.load_state_dict(kept["learner"])
        self._average.load_state_dict(kept["average"])
        self._optimiser.load_state_dict(kept["optimiser"])
        self.step, self._seconds = kept["step"], kept["seconds"]

    def _recipe(self) -> dict[str, Any]:
        """What must be the same to go on."""
        given = asdict(self.settings)
        if self.settings.start:
            start = self.settings.start
            given["start"] = f"{Path(start).stem} {weights_id(start, 'auto')}"
        return {name: value for name, value in given.items() if name not in UNHASHED}

    def _write_model(self, photographs: Photographs) -> None:
        from safetensors.torch import save

        settings, (first, second) = self.settings, self.settings.phases
        encoder = copy.deepcopy(self._average.encoder).cpu()
        make_symmetric(encoder)
        n_sample = N_SAMPLE if self.step == second.last else N_SAMPLE // 10
        calibrate(encoder, photographs.sample(n_sample, PLACES * PATCH_PX))
        tensors = {name: one.half().contiguous() for name, one in encoder.state_dict().items()}
        record = {
            "class": "HybridTransformer",
            "architecture": ARCHITECTURE,
            "labels": "none",
            "n_parameters": sum(one.numel() for one in encoder.parameters()),
            "n_images": len(photographs.paths),
            "n_unreadable": photographs.n_bad,
            "n_views": min(self.step, first.last) * first.batch,
            "n_pairs": max(0, self.step - first.last) * second.batch,
            "minutes": round(self._seconds / 60, 1),
            **self._recipe(),
            "torch": torch.__version__,
            "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, "
            f"{settings.device}",
        }
        stem = settings.out / settings.name
        text = json.dumps(record, indent=2) + "\n"
        write_whole(Path(f"{stem}.safetensors"), save(tensors))
        write_whole(Path(f"{stem}.json"), text.encode())


@cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; elsewhere float32 is faster.

    Linux says so; other systems are taken to have none.
    """
    try:
        flags = CPUINFO.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def begin_with(encoder: HybridTransformer, name: str) -> None:
    """The weights of a model of ours, by name or path, into `encoder`.

    Raises BackboneError, or UsageError if it is of another size.
    """
    path = model_path(name)
    if path is not None and own_record(path).get("class") == "FilterBank":
        raise UsageError(f"--start {name}: filters have nothing to train; expected datus_t8")
    if path is None:
        raise UsageError(f"--start {name}: expected datus_t8, or a file that datus pretrain wrote")
    wanted = {key: ARCHITECTURE[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")}
    given = own_record(path)["architecture"]
    other = [key for key, value in wanted.items() if given.get(key) != value]
    if other:
        raise UsageError(f"--start {name}: expected {wanted}, it has another {', '.join(other)}")
    load_checkpoint(encoder, path, name, allow_missing=BUFFERS)


def calibrate(encoder: HybridTransformer, images: Sequence[Array]) -> None:
    """Measure on photographs what `HybridTransformer.adjust` wants, and set it.

    images: uint8 (px, px, 3) RGB, of PLACES patches along a side. Fewer than LEAST_SAMPLE say too
    little about a place: all places then get the mean of all. Channels that hardly vary on these
    images (the colours of grey ones) count as if they varied by LEAST_STD.
    """
    from datus.inputs.images import normalise
    from datus.models.vit import Backbone

    width = encoder.num_features
    neutral = torch.zeros(N_CHANNELS), torch.ones(N_CHANNELS)
    encoder.adjust(*neutral, (1.0, 1.0), torch.zeros_like(encoder.place_keys))
    encoder.key_scale.fill_(1.0)
    backbone = Backbone(copy.deepcopy(encoder), "the encoder", "float32", "cpu")
    keys, tokens = Moments(), Moments()
    for image in images:
        grid = backbone.features([normalise(image)], 1, 1)[0]
        keys.add(grid.keys)
        tokens.add(grid.tokens[..., :width])
    by_place = len(images) >= LEAST_SAMPLE
    found = keys.mean[..., width:], keys.mean_square[..., width:]
    mean = found[0].mean((0, 1))
    std = np.maximum(np.sqrt(np.maximum(found[1].mean((0, 1)) - mean**2, 0.0)), LEAST_STD)
    spreads = keys.spread(width, by_place), tokens.spread(width, by_place)
    places = keys.mean[..., :width]
    if not by_place:
        places = np.broadcast_to(places.mean((0, 1)), places.shape).copy()
    as_tensor = partial(torch.tensor, dtype=torch.float32)
    encoder.adjust(as_tensor(mean), as_tensor(std), spreads, as_tensor(places))


class Moments:
    """Mean and mean square, at each place, of arrays (gh, gw, D) that come one after the other."""

    def __init__(self) -> None:
        self._n, self._sums = 0, np.zeros((2, 1, 1, 1))

    def add(self, values: Array) -> None:
        self._n += 1
        self._sums = self._sums + np.stack([values, values.astype(np.float64) ** 2])

    @property
    def mean(self) -> Array:
        mean: Array = self._sums[0] / self._n
        return mean

    @property
    def mean_square(self) -> Array:
        mean: Array = self._sums[1] / self._n
        return mean

    def spread(self, size: int, by_place: bool) -> float:
        """Root mean square length of the first `size` entries, less their mean at each place, or
        less the mean of all places."""
        mean = self.mean[..., :size]
        if not by_place:
            mean = mean.mean(axis=(0, 1), keepdims=True)
        squares = self.mean_square[..., :size].sum(axis=2).mean() - (mean**2).sum(axis=2).mean()
        return math.sqrt(max(0.0, float(squares)))


def share_of_rate(step: int, steps: int) -> float:
    """Of the learning rate: up over RATE_UP steps, along half a cosine down to 2 %."""
    decay = 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
    return min(1.0, (step + 1) / RATE_UP) * (0.02 + 0.98 * decay)


def read_log(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of OUT/training.jsonl."""
    for line in (out / "training.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)

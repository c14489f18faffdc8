"""Teach a segmenter imperfect labels; it draws them again without holes (paper III-F).

    train(segmenter, examples, settings, Place(folder, seed, threads))   in place; the loss curve
    trained_state(segmenter), fill(segmenter, state)                     what was learnt, and back

The loss is cross entropy over cells of the logits' grid, cells without label left out. A cell with
several labels wants each by its share of the pixels, which is what upsampled logits would be asked
pixel by pixel. Each epoch ends with a checkpoint; a killed training goes on there and ends with the
same bytes on a CPU. Gradients are made image by image, on one thread each, and added in order, so
the number of threads changes nothing; DeepLabV3 normalises over its batch and takes it whole.

Reverse cross entropy: Wang et al., ICCV 2019. Frozen backbones under imperfect labels: Lee, Kang
and Shim, 2024. This module loads torch: import it where it is needed.
"""

import io
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datus.compute.threads import map_threads, one_thread
from datus.denoise_config import DenoiseConfig
from datus.models.forward import exact_float32, seeded
from datus.segmenter.examples import Example, Examples, write_whole
from datus.segmenter.model import Segmenter
from datus.segmenter.targets import FULL, class_weights
from datus.types import Array

WARM_UP = 0.05
"""Of all steps: AdamW's first steps are long while it knows little of the gradients."""

REVERSE_LOG_ZERO = 4.0
"""What the reverse cross entropy takes for -log 0 (Wang et al. 2019)."""

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how fast; only the seed matters to the result."""

    folder: Path
    """Keeps the checkpoint."""
    seed: int
    threads: int = 1
    note: Callable[[int, int], None] = lambda done, total: None
    """Told after each epoch: epochs done, of how many."""


def train(segmenter: Segmenter, examples: Examples, settings: DenoiseConfig, place: Place) -> Array:
    """The mean loss of each epoch, float64 (rounds, epochs). `segmenter` is trained in place.

    It comes new from `build_segmenter`; what it learnt before is forgotten in later rounds.
    """
    learner = _Learner(segmenter, examples, settings, place)
    learner.resume()
    total = settings.rounds * settings.epochs
    with one_thread(), exact_float32():
        while learner.n_epochs < total:
            round_, epoch = divmod(learner.n_epochs, settings.epochs)
            learner.begin(round_, fresh=epoch == 0)
            learner.epoch(round_, epoch)
            learner.save()
            place.note(learner.n_epochs, total)
    learner.finish()
    return np.array(learner.curve, np.float64).reshape(settings.rounds, settings.epochs)


def trained_state(segmenter: Segmenter) -> dict[str, Array]:
    """What training changes: the head, and the body unless it is frozen. Arrays of its own."""
    state = segmenter.state_dict()
    return {
        name: one.detach().cpu().numpy().copy()
        for name, one in state.items()
        if not (segmenter.is_frozen and name.startswith("body."))
    }


def fill(segmenter: Segmenter, state: Mapping[str, Array]) -> None:
    """Put `trained_state` into a segmenter of the same spec, which then is ready for use."""
    tensors = {name: torch.from_numpy(np.array(one)) for name, one in state.items()}
    segmenter.load_state_dict(tensors, strict=False)
    segmenter.eval()


def head_logits(segmenter: Segmenter, features: Array) -> Array:
    """float32 (C, gh, gw) logits of features float (F, gh, gw)."""
    device = next(segmenter.head.parameters()).device
    with torch.inference_mode(), exact_float32():
        inputs = torch.from_numpy(features.astype(np.float32))[None].to(device)
        logits: Array = segmenter.head(inputs)[0].float().cpu().numpy()
    return logits


def image_logits(segmenter: Segmenter, image: Array) -> Array:
    """float32 (C, gh, gw) logits of an image, float32 (3, h, w) normalised."""
    device = next(segmenter.head.parameters()).device
    with torch.inference_mode(), exact_float32():
        found = segmenter.grid_logits(torch.from_numpy(image)[None].to(device))
        logits: Array = found[0].float().cpu().numpy()
    return logits


# --- training -----------------------------------------------------------------------------------


class _Learner:
    """The model, its optimiser and where both stand."""

    def __init__(
        self, segmenter: Segmenter, examples: Examples, settings: DenoiseConfig, place: Place
    ) -> None:
        self.segmenter, self.examples, self.settings = segmenter, examples, settings
        self.place = place
        """`map` on threads, while `train` runs."""
        self.curve: list[float] = []
        self.n_epochs = 0
        self._device = next(segmenter.head.parameters()).device
        weights = class_weights(examples.pixels, settings.balance)
        self._weights = torch.from_numpy(weights / np.float32(FULL)).to(self._device)
        self._initial = {n: torch.from_numpy(a) for n, a in trained_state(segmenter).items()}
        self._parameters = [p for p in segmenter.parameters() if p.requires_grad]
        self._whole = segmenter.spec.kind != "probe" or self._device.type != "cpu"
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        settings, body = self.settings, self.segmenter.body
        learnt = [p for p in body.parameters() if p.requires_grad]
        part = settings.backbone_rate if self.segmenter.spec.kind == "probe" else 1.0
        groups = [{"params": list(self.segmenter.head.parameters()), "part": 1.0}]
        groups += [{"params": learnt, "part": part}] if learnt else []
        self._optimizer = torch.optim.AdamW(
            groups, lr=settings.rate, weight_decay=settings.weight_decay
        )
        self._shadow = [p.detach().clone() for p in self._parameters] if settings.ema else []

    # --- where it stands --------------------------------------------------------------------

    def resume(self) -> None:
        """Go on at the last checkpoint; a damaged one counts as none."""
        try:
            found = torch.load(
                self.place.folder / CHECKPOINT, map_location=self._device, weights_only=True
            )
            self.segmenter.load_state_dict(found["model"], strict=False)
            self._optimizer.load_state_dict(found["optimizer"])
            self._shadow, self.curve = found["shadow"], found["curve"]
            self.n_epochs = len(self.curve)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
            self.segmenter.load_state_dict(self._initial, strict=False)
            self._new_optimizer()

    def save(self) -> None:
        state = {n: torch.from_numpy(a) for n, a in trained_state(self.segmenter).items()}
        buffer = io.BytesIO()
        found = {"model": state, "optimizer": self._optimizer.state_dict()}
        torch.save({**found, "shadow": self._shadow, "curve": self.curve}, buffer)
        self.place.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.place.folder / CHECKPOINT, buffer.getvalue())

    def begin(self, round_: int, fresh: bool) -> None:
        """A later round starts from the first weights, on what the model before it draws."""
        if round_:
            if fresh:
                self.finish()
            self.examples.relabel(self._draw, round_)
            if fresh:
                self.segmenter.load_state_dict(self._initial, strict=False)
                self._new_optimizer()
        self.segmenter.train()

    def finish(self) -> None:
        """The averaged weights, if there are any, take their place."""
        with torch.no_grad():
            for one, mean in zip(self._parameters, self._shadow, strict=False):
                one.copy_(mean)
        self.segmenter.eval()

    def _draw(self, features: Array) -> Array:
        """uint8 (C, gh, gw): the label of each cell, by how sure the model is of it."""
        logits = torch.from_numpy(head_logits(self.segmenter, features))
        sure, label = logits.softmax(0).max(0)
        shares = torch.zeros(logits.shape).scatter_(0, label[None], sure[None])
        return torch.round(FULL * shares).to(torch.uint8).numpy()

    # --- one epoch --------------------------------------------------------------------------

    def epoch(self, round_: int, epoch: int) -> None:
        """All images once, in an order and with random cuts of this epoch's own."""
        settings = self.settings
        rng = np.random.default_rng([self.place.seed, round_, epoch])
        steps = self._batches(rng.permutation(len(self.examples)).tolist())
        loss_sum, weight_sum = 0.0, 0.0
        with seeded(int(rng.integers(2**31))):
            for number, places in enumerate(steps):
                done = (epoch * len(steps) + number) / (settings.epochs * len(steps))
                loss, weight = self._step(self.examples.take(places, rng), self._rate(done))
                loss_sum, weight_sum = loss_sum + loss, weight_sum + weight
                self._average(epoch * len(steps) + number)
        self.curve.append(loss_sum / max(weight_sum, 1e-12))
        self.n_epochs += 1

    def _batches(self, order: list[int]) -> list[list[int]]:
        size = self.settings.batch
        found = [order[start : start + size] for start in range(0, len(order), size)]
        if len(found) > 1 and len(found[-1]) == 1:  # nothing to normalise over in a batch of one
            last = found.pop()
            found[-1] += last
        return found

    def _rate(self, done: float) -> float:
        """Of the learning rate, at a share of all steps."""
        if done < WARM_UP:
            return (done + 1e-3) / (WARM_UP + 1e-3)
        return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))

    def _average(self, step: int) -> None:
        decay = min(self.settings.ema, (1 + step) / (10 + step))  # the first steps are forgotten
        with torch.no_grad():
            for mean, one in zip(self._shadow, self._parameters, strict=False):
                mean.lerp_(one, 1 - decay)

    def _step(self, batch: list[Example], rate: float) -> tuple[float, float]:
        """(sum of the losses, of the weights) of a batch."""
        shares = [torch.from_numpy(np.array(one.shares)) for one in batch]
        weight = sum(
            float((one.to(self._device).float().sum((1, 2)) * self._weights).sum())
            for one in shares
        )
        if weight == 0:  # crops without a single label
            return 0.0, 0.0
        loss = 0.0
        for parameter in self._parameters:
            parameter.grad = None
        for part, gradients in self._gradients(batch, shares, weight):
            loss += part
            for parameter, one in zip(self._parameters, gradients, strict=True):
                parameter.grad = one if parameter.grad is None else parameter.grad + one
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.rate * group["part"] * rate
        self._optimizer.step()
        return loss, weight

    def _gradients(
        self, batch: list[Example], shares: list[Tensor], weight: float
    ) -> Iterator[tuple[float, Sequence[Tensor]]]:
        """(loss, gradients) of each unit: an image, or all images of one size."""

        def one(members: Sequence[int]) -> tuple[float, Sequence[Tensor]]:
            pixels = np.stack([batch[i].inputs for i in members])
            inputs = torch.from_numpy(pixels).to(self._device)
            wanted = torch.stack([shares[i] for i in members]).to(self._device)
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"
            ):
                model = self.segmenter
                features = self.examples.are_features
                logits = model.head(inputs) if features else model.grid_logits(inputs)
            loss = self._loss(logits.float(), wanted)
            gradients = torch.autograd.grad(loss / weight, self._parameters, materialize_grads=True)
            return float(loss.detach()), gradients

        if self._whole:
            groups: dict[tuple[int, ...], list[int]] = {}
            for i, example in enumerate(batch):
                groups.setdefault(example.inputs.shape, []).append(i)
            units = list(groups.values())
        else:
            units = [[i] for i in range(len(batch))]
        n_threads = self.place.threads
        for start in range(0, len(units), n_threads):
            yield from map_threads(one, units[start : start + n_threads], n_threads)

    def _loss(self, logits: Tensor, shares: Tensor) -> Tensor:
        """Sum over cells. logits: (B, C, gh, gw); shares: uint8, the same shape."""
        wanted = shares.float() * self._weights[:, None, None]
        log = functional.log_softmax(logits, dim=1)
        forward = -(wanted * log).sum()
        if not self.settings.symmetric:
            return forward
        reverse = REVERSE_LOG_ZERO * (wanted * (1 - log.exp())).sum()
        return (1 - self.settings.symmetric) * forward + self.settings.symmetric * reverse

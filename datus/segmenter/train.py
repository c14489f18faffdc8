"""Teach a segmenter imperfect labels; it draws them again without holes (paper III-F).

    train(segmenter, examples, settings, Place(folder, seed, threads))   in place; the loss curve
    trained_state(segmenter), fill(segmenter, state)                     what was learnt, and back

The loss is cross entropy over cells of the logits' grid, cells without label left out. A cell with
several labels wants each by its share of the pixels, which is what upsampled logits would be asked
pixel by pixel. Each epoch ends with a checkpoint; a killed training goes on there and ends with the
same bytes on a CPU. Gradients are made image by image, on one thread each, and added in order, so
the number of threads changes nothing; DeepLabV3 normalises over its batch and takes it whole.

Frozen backbones under imperfect labels: Lee, Kang and Shim, 2024. This module loads torch: import
it where it is needed.
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
from datus.config import DenoiseConfig
from datus.models.forward import batches, exact_float32, seeded
from datus.segmenter.examples import FULL, Example, Examples
from datus.segmenter.files import CHECKPOINT
from datus.segmenter.model import Segmenter
from datus.store import whole_file
from datus.types import Array

WARM_UP = 0.05
"""Of all steps: AdamW's first steps are long while it knows little of the gradients."""

BACKBONE_RATE = 0.1
"""Of the learning rate, for a ViT that is tuned: it has learnt something already."""

WEIGHT_DECAY = 0.01
"""AdamW's usual one."""

PER_SHARE = float(np.float32(1) / np.float32(FULL))
"""Weight of a share of 1 / FULL of a cell: all classes count the same."""


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
    """The mean loss of each epoch, float64 (epochs,). `segmenter` is trained in place."""
    learner = _Learner(segmenter, examples, settings, place)
    learner.resume()
    segmenter.train()
    with one_thread(), exact_float32():
        while len(learner.curve) < settings.epochs:
            learner.epoch()
            learner.save()
            place.note(len(learner.curve), settings.epochs)
    segmenter.eval()
    return np.array(learner.curve, np.float64)


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


# --- training -----------------------------------------------------------------------------------


class _Learner:
    """The model, its optimiser and where both stand."""

    def __init__(
        self, segmenter: Segmenter, examples: Examples, settings: DenoiseConfig, place: Place
    ) -> None:
        self.segmenter, self.examples, self.settings = segmenter, examples, settings
        self.place = place
        self.curve: list[float] = []
        """The mean loss of each epoch that is done."""
        self._device = next(segmenter.head.parameters()).device
        self._initial = {n: torch.from_numpy(a) for n, a in trained_state(segmenter).items()}
        self._parameters = [p for p in segmenter.parameters() if p.requires_grad]
        self._by_size = segmenter.spec.kind != "probe" or self._device.type != "cpu"
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        learnt = [p for p in self.segmenter.body.parameters() if p.requires_grad]
        part = BACKBONE_RATE if self.segmenter.spec.kind == "probe" else 1.0
        groups = [{"params": list(self.segmenter.head.parameters()), "part": 1.0}]
        groups += [{"params": learnt, "part": part}] if learnt else []
        rate = self.settings.rate
        self._optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=WEIGHT_DECAY)

    # --- where it stands --------------------------------------------------------------------

    def resume(self) -> None:
        """Go on at the last checkpoint; a damaged one counts as none."""
        try:
            path = self.place.folder / CHECKPOINT
            checkpoint = torch.load(path, map_location=self._device, weights_only=True)
            self.segmenter.load_state_dict(checkpoint["model"], strict=False)
            self._optimizer.load_state_dict(checkpoint["optimizer"])
            self.curve = checkpoint["curve"]
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
            self.segmenter.load_state_dict(self._initial, strict=False)
            self._new_optimizer()

    def save(self) -> None:
        state = {n: torch.from_numpy(a) for n, a in trained_state(self.segmenter).items()}
        buffer = io.BytesIO()
        optimizer = self._optimizer.state_dict()
        torch.save({"model": state, "optimizer": optimizer, "curve": self.curve}, buffer)
        self.place.folder.mkdir(parents=True, exist_ok=True)
        whole_file.write(self.place.folder / CHECKPOINT, [buffer.getvalue()])

    # --- one epoch --------------------------------------------------------------------------

    def epoch(self) -> None:
        """All images once, in an order and with random cuts of this epoch's own."""
        epoch = len(self.curve)
        rng = np.random.default_rng([self.place.seed, 0, epoch])
        steps = self._batches(rng.permutation(len(self.examples)).tolist())
        loss_sum, weight_sum = 0.0, 0.0
        with seeded(int(rng.integers(2**31))):
            for number, images in enumerate(steps):
                done = (epoch * len(steps) + number) / (self.settings.epochs * len(steps))
                loss, weight = self._step(self.examples.take(images, rng), self._rate(done))
                loss_sum, weight_sum = loss_sum + loss, weight_sum + weight
        self.curve.append(loss_sum / max(weight_sum, 1e-12))

    def _batches(self, order: list[int]) -> list[list[int]]:
        size = self.settings.batch
        steps = [order[start : start + size] for start in range(0, len(order), size)]
        if len(steps) > 1 and len(steps[-1]) == 1:  # nothing to normalise over in a batch of one
            last = steps.pop()
            steps[-1] += last
        return steps

    def _rate(self, done: float) -> float:
        """Of the learning rate, at a share of all steps."""
        if done < WARM_UP:
            return (done + 1e-3) / (WARM_UP + 1e-3)
        return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))

    def _step(self, batch: list[Example], rate: float) -> tuple[float, float]:
        """(sum of the losses, of the weights) of a batch."""
        shares = [torch.from_numpy(np.array(one.shares)) for one in batch]
        weight = sum(
            float((one.to(self._device).float().sum((1, 2)) * PER_SHARE).sum()) for one in shares
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
            model = self.segmenter
            logits = model.head(inputs) if self.examples.are_features else model.grid_logits(inputs)
            loss = _loss(logits, wanted)
            gradients = torch.autograd.grad(loss / weight, self._parameters, materialize_grads=True)
            return float(loss.detach()), gradients

        units = [[number] for number in range(len(batch))]
        if self._by_size:
            units = list(batches([example.inputs.shape for example in batch], len(batch)))
        n_threads = self.place.threads
        for start in range(0, len(units), n_threads):
            yield from map_threads(one, units[start : start + n_threads], n_threads)


def _loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Sum over cells. logits: (B, C, gh, gw); shares: uint8, the same shape."""
    return -(shares.float() * PER_SHARE * functional.log_softmax(logits, dim=1)).sum()

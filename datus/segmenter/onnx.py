"""A saved segmenter as ONNX, compared with torch before it is kept: `datus export-onnx`.

    in    NAME.safetensors and NAME.json
    out   one .onnx file
              image    float32 (batch, 3, height, width) RGB, 0 to 255, sides multiples of stride
              logits   float32 (batch, C, height / stride, width / stride) of a probe, resize them
                       bilinearly before the argmax; (batch, C, height, width) of deeplabv3
          the model's JSON under "datus" in its metadata

    found = export_model(Path("scenes"), Path("scenes.onnx"))
    found.difference                  largest difference from torch, seen by onnxruntime on a CPU

Normalisation is inside. Batch, height and width are free; where a
backbone takes one size only, or a size is asked for, it is fixed. Needs the extra onnx.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datus.errors import MissingPackage, UsageError, WorkError
from datus.inputs.decode import IMAGENET_MEAN, IMAGENET_STD
from datus.segmenter.model import Segmenter, load_segmenter
from datus.store.whole_file import write_output
from datus.types import Array

TOLERANCE = 1e-4
"""Largest difference from torch, as a share of the largest logit (or of 1, if that is larger).
Both add float32 in their own order: a few 1e-6 is what is seen."""

OPSET = 20
"""The first in which antialiased resizing, rotary positions and GELU need no detours."""

MAX_CELLS = 512
"""Cells of the grid along a side that the exporter is told of; not a limit of the file."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    n_bytes: int
    shapes: dict[str, list[int | str]]
    """Of input and output; a name stands for a free side."""
    difference: float
    """Largest one from torch."""
    scale: float
    """Largest logit there."""


def export_model(path: Path, out: Path, size: tuple[int, int] | None = None) -> Exported:
    """Write the .onnx file. size: (height, width), if they shall be fixed, and the batch with them.

    Raises MissingPackage, UsageError (a size that is no multiple of the stride), what
    `load_segmenter` raises, and WorkError if onnxruntime does not get what torch gets.
    """
    onnxruntime = _packages()
    segmenter = load_segmenter(path, "cpu")
    only = getattr(segmenter.body, "only_size", None)
    size = size or only
    if size:
        try:
            segmenter.check_sides(*size)
        except ValueError as error:
            raise UsageError(f"--size {size[0]}x{size[1]}: {error}") from None
    model = ImageModel(segmenter).eval()
    data = _export(model, segmenter, size)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference, scale = _compare(model, session, _shapes(segmenter, size))
    if not difference <= TOLERANCE * max(1.0, scale):
        raise WorkError(
            f"{out}: not written: onnxruntime differs from torch by {difference:.1e}, allowed "
            f"{TOLERANCE * max(1.0, scale):.1e}; fix the size with --size, or update the extra onnx"
        )
    write_output(out, data)
    ends = (*session.get_inputs(), *session.get_outputs())
    return Exported(len(data), {end.name: list(end.shape) for end in ends}, difference, scale)


class ImageModel(nn.Module):
    """float32 (B, 3, h, w) RGB 0..255 -> what `Segmenter.forward` gives for it, normalised."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.body, self.head = segmenter.body, segmenter.head
        self.is_probe = segmenter.spec.kind == "probe"
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(IMAGENET_STD)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body((image / 255 - self.mean) / self.deviation))
        if self.is_probe:
            return logits
        size = image.shape[2:]
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _export(model: ImageModel, segmenter: Segmenter, size: tuple[int, int] | None) -> bytes:
    """The file's bytes; all free sides without a size."""
    stride, free = segmenter.stride, None
    shape = (1, 3, *size) if size else (2, 3, 6 * stride, 10 * stride)
    if not size:
        dim = torch.export.Dim
        rows, columns = (dim(name, min=2, max=MAX_CELLS) for name in ("rows", "columns"))
        free = {"image": {0: dim("batch"), 2: stride * rows, 3: stride * columns}}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (torch.zeros(shape),),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=free,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    if program is None:
        raise WorkError("torch exported nothing; update torch")
    program.model.metadata_props["datus"] = json.dumps(segmenter.record, sort_keys=True)
    proto = program.model_proto
    for node in proto.graph.node:  # where in our code it was made, with paths of this machine
        del node.metadata_props[:]
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _shapes(segmenter: Segmenter, size: tuple[int, int] | None) -> list[tuple[int, ...]]:
    """Of the images that the comparison is made on."""
    if size:
        return [(1, 3, *size)]
    stride = segmenter.stride
    usual = max(2, segmenter.spec.image_px // stride) * stride
    return [(1, 3, usual, usual), (2, 3, 9 * stride, 5 * stride), (1, 3, usual // 2, usual * 2)]


def _compare(model: ImageModel, session: Any, shapes: list[tuple[int, ...]]) -> tuple[float, float]:
    """(largest difference, largest logit of torch) over noise images of these shapes."""
    rng = np.random.default_rng(0)
    difference, scale = 0.0, 0.0
    for shape in shapes:
        image: Array = rng.integers(0, 256, shape).astype(np.float32)
        (logits,) = session.run(["logits"], {"image": image})
        with torch.no_grad():
            expected = model(torch.from_numpy(image)).numpy()
        if logits.shape != expected.shape:
            raise WorkError(
                f"onnxruntime gives logits of shape {logits.shape}, torch {expected.shape}"
            )
        difference = max(difference, float(np.abs(logits - expected).max()))
        scale = max(scale, float(np.abs(expected).max()))
    return difference, scale


def _packages() -> Any:
    try:
        import onnx  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
        import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]
        import onnxscript  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError as error:
        raise MissingPackage(
            f"export needs {error.name}, which is not installed: pip install 'datus[onnx]'"
        ) from None
    return onnxruntime


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of what it tries; what counts is the comparison afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

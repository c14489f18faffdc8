"""A model that labels pixels: a ViT with a small head, or DeepLabV3 (paper III-F).

    in    float32 (B, 3, h, w) images as `images.normalise` makes them, sides multiples of `stride`
    out   float32 (B, C, h / stride, w / stride) logits of C classes

    segmenter = build_segmenter(SegmenterSpec(n_classes=11), seed=0, device="cpu")
    save_segmenter(segmenter, Path("scenes"), classes, {"made_by": "datus fit"})
    segmenter = load_segmenter(Path("scenes"), "cpu")

A saved model is NAME.safetensors and NAME.json and needs nothing else: the backbone is inside, or,
where that was asked for, named by the sha256 of its weights and looked for again. Training is in
`denoise`, use on new images in `predict`. Loads torch: import it where it is needed.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from datus import __version__
from datus.config import EMBEDDED_BACKBONE, FeaturesConfig
from datus.errors import BackboneError, UsageError
from datus.inputs.images import IMAGENET_MEAN, IMAGENET_STD
from datus.models.forward import find_device, seeded
from datus.models.vit import empty_model, load_backbone
from datus.models.weights import check_learnable, model_path, weights_id
from datus.segmenter.files import (
    FORMAT,
    check_architecture,
    check_classes,
    cluster_classes,
    damaged,
    model_files,
    read_record,
    read_tensors,
    table_classes,
    tensor_bytes,
    write_whole,
)
from datus.segmenter.heads import HEADS, Grid, Head, Place, ResNetBody, Tokens
from datus.types import IGNORE

__all__ = [
    "Segmenter",
    "SegmenterSpec",
    "build_segmenter",
    "cluster_classes",
    "load_segmenter",
    "read_record",
    "save_segmenter",
    "table_classes",
]

KINDS = ("probe", "deeplabv3")

N_LAYERS = 4
"""Blocks that the head `layers` reads, evenly spaced, the last one among them."""

MAX_IMAGE_PX = 2**15

DEEPLAB_STRIDE = 8
"""torchvision dilates the last two stages of the ResNet, as the DeepLabV3 paper does."""


@dataclass(frozen=True, slots=True)
class SegmenterSpec:
    """What a segmenter is made of, and the image that it is made for."""

    kind: str = "probe"
    """probe = a ViT and a light head; deeplabv3 = with a ResNet-50 from scratch (paper III-F)."""
    head: str = "conv"
    """Of a probe: linear = one 1x1 convolution; conv = a 3x3 and a 1x1; layers = the tokens of
    four blocks, then a 1x1, a 3x3 and a 1x1."""
    backbone: str = EMBEDDED_BACKBONE
    """Of a probe."""
    weights: str = "auto"
    freeze: bool = True
    """The backbone is not trained, and its features can be cached."""
    n_classes: int = 2
    image_px: int = 224
    resize: Literal["keep", "squash"] = "keep"

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("head", self.head, HEADS)
        _one_of("resize", self.resize, ("keep", "squash"))
        if not 1 <= self.image_px <= MAX_IMAGE_PX:
            raise UsageError(
                f"segmenter.image_px: expected 1 to {MAX_IMAGE_PX}, got {self.image_px}"
            )
        if not 2 <= self.n_classes <= IGNORE:
            raise UsageError(f"segmenter: expected 2 to {IGNORE} classes, got {self.n_classes}")


def build_segmenter(spec: SegmenterSpec, seed: int, device: str = "cpu") -> "Segmenter":
    """A new segmenter; random parts depend on `seed` alone. device: auto, cpu, cuda or cuda:N.

    Raises UsageError, or BackboneError if the backbone cannot be loaded or takes other sizes.
    """
    place = find_device(device)
    if spec.kind == "deeplabv3":
        segmenter = _deeplab(spec, seed)
    else:
        check_learnable(spec.backbone)
        settings = FeaturesConfig(backbone=spec.backbone, weights=spec.weights)
        backbone = load_backbone(spec.backbone, spec.weights, settings, "cpu", seed)
        origin = {"id": weights_id(spec.backbone, spec.weights), **_own_record(spec.backbone)}
        segmenter = _probe(spec, _plain_model(backbone), origin, seed)
    return segmenter.to(place)


class Segmenter(nn.Module):
    """Pixels to logits.

    spec      as given to `build_segmenter`
    stride    sides of images must be multiples of it; logits are that much smaller
    head      module: features -> (B, C, gh, gw) logits
    record    the JSON of the saved model that it was read from; empty for a new one
    """

    def __init__(
        self, spec: SegmenterSpec, body: nn.Module, head: nn.Module, stride: int, origin: Any
    ) -> None:
        """`origin`: id of the backbone's weights, and its architecture if timm has no name for it.

        Use `build_segmenter` or `load_segmenter`."""
        super().__init__()
        self.spec = spec
        self.stride = stride
        self.body = body
        self.head = head
        self.origin: dict[str, Any] = origin
        self.record: dict[str, Any] = {}
        self.is_frozen = spec.kind == "probe" and spec.freeze
        body.requires_grad_(not self.is_frozen)
        self.eval()

    def train(self, mode: bool = True) -> "Segmenter":
        """As torch's, but a frozen backbone stays as it is in use."""
        super().train(mode)
        if self.is_frozen:
            self.body.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """(B, F, gh, gw) tokens that `head` reads, without gradient if the backbone is frozen.

        Heads linear and conv read what a FeatureGrid calls tokens. Raises ValueError for sides
        that are not multiples of `stride`, or for DeepLabV3, which has none to keep.
        """
        if self.spec.kind != "probe":
            raise ValueError(f"features: a {self.spec.kind} has none that could be kept; use it")
        self.check_sides(images.shape[2], images.shape[3])
        return self._features(images)

    def grid_logits(self, images: Tensor) -> Tensor:
        """(B, C, h / stride, w / stride) logits of (B, 3, h, w) images. ValueError: wrong sides."""
        self.check_sides(images.shape[2], images.shape[3])
        logits: Tensor = self.head(self._features(images))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits: of a probe (B, C, gh, gw), of DeepLabV3 at the images' own size, bilinear."""
        logits = self.grid_logits(images)
        if self.spec.kind == "probe":
            return logits
        return functional.interpolate(
            logits, size=images.shape[2:], mode="bilinear", align_corners=False
        )

    def placed(
        self, places: Sequence[Place], tile: Grid, view: Grid
    ) -> contextlib.AbstractContextManager[None]:
        """Within, images are tiles of larger views, see `Tokens.inside`."""
        if isinstance(self.body, Tokens):
            return self.body.inside(places, tile, view)
        return contextlib.nullcontext()

    def check_sides(self, height: int, width: int) -> None:
        """ValueError unless both are multiples of `stride`; BackboneError: one size only."""
        if height % self.stride or width % self.stride or not height or not width:
            raise ValueError(
                f"image: expected sides that are multiples of {self.stride}, got {height} x {width}"
            )
        only = getattr(self.body, "only_size", None)
        if only and (height, width) != only:
            raise BackboneError(
                f"{self.spec.backbone}: only takes images of {only[0]} x {only[1]}, got {height} x "
                f'{width}; use resize = "squash" and image_px = {only[0]}, and no tiles'
            )

    def _features(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            found: Tensor = self.body(images)
        return found


# --- parts --------------------------------------------------------------------------------------


def _probe(spec: SegmenterSpec, vit: Any, origin: dict[str, Any], seed: int) -> Segmenter:
    depth = len(vit.blocks)
    n_parts = min(N_LAYERS, depth) if spec.head == "layers" else 1
    last = [round(depth * (i + 1) / n_parts) - 1 for i in range(n_parts)]
    body = Tokens(vit, tuple(last) if spec.head == "layers" else ())
    only = body.only_size
    if only and (spec.resize != "squash" or (spec.image_px, spec.image_px) != only):
        raise BackboneError(
            f"{spec.backbone}: only takes images of {only[0]} x {only[1]}; "
            f'use resize = "squash" and image_px = {only[0]}'
        )
    with seeded(seed):
        head = Head(spec.head, body.size, n_parts, spec.n_classes)
    return Segmenter(spec, body, head, body.patch_px, origin)


def _deeplab(spec: SegmenterSpec, seed: int) -> Segmenter:
    from torchvision.models import segmentation  # type: ignore[import-untyped]

    with seeded(seed):
        model = segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=spec.n_classes, aux_loss=False
        )
    body = ResNetBody(model.backbone)
    return Segmenter(spec, body, model.classifier, DEEPLAB_STRIDE, {})


def _plain_model(backbone: Any) -> Any:
    """The timm model inside a Backbone, without the hook that remembers what the keys need: it
    would keep the tokens of a whole batch alive, and cannot be copied."""
    vit = backbone._model
    vit.blocks[-1].attn._forward_pre_hooks.clear()
    return vit


def _own_record(backbone: str) -> dict[str, Any]:
    """Class and arguments of a model of ours: a saved segmenter must not need its file again."""
    path = model_path(backbone)
    if path is None:
        return {}
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return {name: record[name] for name in ("class", "architecture") if name in record}


def _empty_vit(spec: SegmenterSpec, origin: Mapping[str, Any]) -> Any:
    """The backbone's architecture, to be filled from the saved model."""
    if "architecture" not in origin:
        return _plain_model(load_backbone(spec.backbone, "random", FeaturesConfig()))
    return empty_model(origin)


# --- files --------------------------------------------------------------------------------------


def save_segmenter(
    segmenter: Segmenter,
    path: Path,
    classes: Mapping[str, Any],
    provenance: Mapping[str, Any],
    with_backbone: bool = True,
) -> int:
    """Write NAME.safetensors and NAME.json, `path` being NAME with or without suffix; their bytes.

    classes: names (C of them) and colours ([r, g, b], C of them), see `table_classes`. provenance:
    any JSON. Same model, same bytes. Tensors that float16 holds exactly are stored as float16.
    with_backbone = False leaves a frozen backbone out: smaller, but its weights must be there again
    when the model is read. Raises UsageError, or WorkError if the disk refuses.
    """
    check_classes(classes, segmenter.spec.n_classes)
    origin, state = segmenter.origin, segmenter.state_dict()
    if not with_backbone:
        if not segmenter.is_frozen or str(origin.get("id", "random")).startswith("random"):
            raise UsageError("save: only a frozen backbone with known weights can be left out")
        state = {name: one for name, one in state.items() if not name.startswith("body.")}
    data = tensor_bytes(state)
    spec = segmenter.spec
    record = {
        "format": FORMAT,
        "datus": __version__,
        "spec": asdict(spec),
        "classes": dict(classes),
        "preprocessing": _preprocessing(segmenter),
        "backbone": {**origin, "stored": with_backbone},
        "weights": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "provenance": dict(provenance),
    }
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    weights, beside = model_files(path)
    write_whole(weights, data)
    write_whole(beside, text.encode())
    segmenter.record = record
    return len(data) + len(text.encode())


def load_segmenter(path: Path, device: str = "cpu") -> Segmenter:
    """The model that `save_segmenter` wrote, in evaluation mode. device as in `build_segmenter`.

    Raises UsageError if it is not there, BackboneError if it is damaged, of a format that this
    version does not read, or its backbone is missing or another one.
    """
    place = find_device(device)
    weights, beside = model_files(path)
    record = read_record(path)
    tensors = read_tensors(weights, record)
    try:
        spec, origin = _spec(record["spec"]), dict(record["backbone"])
        stored = origin.pop("stored")
        if stored and "architecture" in origin:
            check_architecture(origin["architecture"], tensors)
        segmenter = _empty(spec, origin, stored, weights)
        expected = segmenter.state_dict()
    except _BROKEN as error:
        raise BackboneError(f"{beside}: {damaged(error)}") from error
    if not stored:
        expected = {name: one for name, one in expected.items() if not name.startswith("body.")}
    wrong = sorted(tensors.keys() ^ expected.keys()) or sorted(
        name for name, one in tensors.items() if one.shape != expected[name].shape
    )
    if wrong:
        raise BackboneError(
            f"{weights}: does not fit its record: {', '.join(wrong[:5])}"
            f"{' and more' if len(wrong) > 5 else ''}; it was made with datus {record['datus']}, "
            "perhaps on another timm or torchvision: use those, or train it again"
        )
    segmenter.load_state_dict(tensors, strict=False)
    segmenter.record = record
    return segmenter.eval().to(place)


_BROKEN = (
    *(LookupError, TypeError, ValueError, AttributeError, AssertionError),
    *(ArithmeticError, RuntimeError),
)
"""What records of another shape raise on the way."""


def _empty(spec: SegmenterSpec, origin: dict[str, Any], stored: bool, weights: Path) -> Segmenter:
    """A segmenter whose tensors in the file are still to be filled in."""
    if spec.kind == "deeplabv3":
        return _deeplab(spec, 0)
    if stored:
        return _probe(spec, _empty_vit(spec, origin), origin, 0)
    found = weights_id(spec.backbone, spec.weights)
    if found != origin["id"]:
        raise BackboneError(
            f"{weights}: was trained on {spec.backbone} with weights {origin['id']}, which are not "
            f"inside; here it has {found}. Put the first ones in place"
        )
    return build_segmenter(spec, 0)


def _spec(given: Mapping[str, Any]) -> SegmenterSpec:
    """Settings that later versions add have defaults that mean what was done before."""
    known = {one.name for one in fields(SegmenterSpec)}
    if more := sorted(given.keys() - known):
        raise ValueError(f"unknown settings {', '.join(more)}")
    return SegmenterSpec(**given)


def _preprocessing(segmenter: Segmenter) -> dict[str, Any]:
    spec = segmenter.spec
    return {
        "image_px": spec.image_px,
        "resize": spec.resize,
        "channels": "rgb",
        "multiple_of": segmenter.stride,
        "mean": list(IMAGENET_MEAN),
        "deviation": list(IMAGENET_STD),
    }


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"segmenter.{name}: expected {' or '.join(known)}, got {value!r}")

"""A model that labels pixels: a ViT with a small head, or DeepLabV3 (paper III-F).

    in    float32 (B, 3, h, w) images of `inputs.decode.normalise`, sides multiples of `stride`
    out   float32 (B, C, h / stride, w / stride) logits of C classes

    segmenter = build_segmenter(SegmenterSpec(n_classes=11), seed=0, device="cpu")
    save_segmenter(segmenter, Path("scenes"), classes, {"made_by": "datus fit"})
    segmenter = load_segmenter(Path("scenes"), "cpu")

A saved model is NAME.safetensors and NAME.json and needs nothing else: the backbone is inside, or,
where that was asked for, named by the sha256 of its weights and looked for again. Training is in
`train`, use on images of any size in `tiles`. Loads torch: import it where it is needed.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datus.compute.threads import map_threads
from datus.config import EMBEDDED_BACKBONE, Config, FeaturesConfig
from datus.errors import BackboneError, UsageError
from datus.inputs.decode import IMAGENET_MEAN, IMAGENET_STD, fit_size, normalise, resize_image
from datus.models.forward import exact_float32, find_device, seeded
from datus.models.image_size import denoise_size
from datus.models.vit import empty_model, load_backbone
from datus.models.weights import check_learnable, model_path, weights_id
from datus.segmenter.files import (
    FORMAT,
    check_architecture,
    check_classes,
    damaged,
    model_files,
    read_record,
    read_tensors,
    tensor_bytes,
)
from datus.store.whole_file import write_output
from datus.types import IGNORE, Array
from datus.version import __version__

CHOICES = {
    "kind": ("probe", "deeplabv3"),
    "head": ("linear", "conv", "layers"),
    "resize": ("keep", "squash"),
}
"""Of the words in a SegmenterSpec."""

Grid = tuple[int, int]
"""Rows and columns of cells."""

Place = tuple[int, int]
"""Of a tile in its view: its first row and column of cells."""

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
        for name, known in CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise UsageError(f"segmenter.{name}: expected {' or '.join(known)}, got {given!r}")
        if not 1 <= self.image_px <= MAX_IMAGE_PX:
            raise UsageError(
                f"segmenter.image_px: expected 1 to {MAX_IMAGE_PX}, got {self.image_px}"
            )
        if not 2 <= self.n_classes <= IGNORE:
            raise UsageError(f"segmenter: expected 2 to {IGNORE} classes, got {self.n_classes}")


def segmenter_spec(config: Config, n_classes: int) -> SegmenterSpec:
    """What a run's [denoise] and [features] ask for."""
    return SegmenterSpec(
        kind=config.denoise.kind,
        head=config.denoise.head,
        backbone=config.features.backbone,
        weights=config.features.weights,
        freeze=config.denoise.freeze,
        n_classes=n_classes,
        **denoise_size(config)._asdict(),
    )


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
        return self._features(images)

    def grid_logits(self, images: Tensor) -> Tensor:
        """(B, C, h / stride, w / stride) logits of (B, 3, h, w) images. ValueError: wrong sides."""
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
        self.check_sides(images.shape[2], images.shape[3])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            found: Tensor = self.body(images)
        return found


# --- on arrays ----------------------------------------------------------------------------------


def prepared(segmenter: Segmenter, image: Array) -> Array:
    """uint8 (H, W, 3) -> float32 (3, h, w) as the segmenter sees it while it learns."""
    spec, (height, width) = segmenter.spec, image.shape[:2]
    size = fit_size(height, width, spec.image_px, segmenter.stride, spec.resize)
    return normalise(resize_image(image, size))


def features_of(segmenter: Segmenter, image: Array) -> Array:
    """float32 (F, gh, gw) features of a prepared image, on one thread."""
    return map_threads(lambda one: _evaluated(segmenter, segmenter.features, one), [image], 1)[0]


def image_logits(segmenter: Segmenter, image: Array) -> Array:
    """float32 (C, gh, gw) logits of a prepared image."""
    return _evaluated(segmenter, segmenter.grid_logits, image)


def head_logits(segmenter: Segmenter, features: Array) -> Array:
    """float32 (C, gh, gw) logits of features float (F, gh, gw)."""
    return _evaluated(segmenter, segmenter.head, features.astype(np.float32))


def _evaluated(segmenter: Segmenter, part: Callable[[Tensor], Tensor], array: Array) -> Array:
    device = next(segmenter.parameters()).device
    with torch.inference_mode(), exact_float32():
        result: Array = part(torch.from_numpy(array)[None].to(device))[0].float().cpu().numpy()
    return result


# --- building -----------------------------------------------------------------------------------


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
    record = {
        "format": FORMAT,
        "datus": __version__,
        "spec": asdict(segmenter.spec),
        "classes": dict(classes),
        "preprocessing": {
            "image_px": segmenter.spec.image_px,
            "resize": segmenter.spec.resize,
            "channels": "rgb",
            "multiple_of": segmenter.stride,
            "mean": list(IMAGENET_MEAN),
            "deviation": list(IMAGENET_STD),
        },
        "backbone": {**origin, "stored": with_backbone},
        "weights": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "provenance": dict(provenance),
    }
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    weights, beside = model_files(path)
    write_output(weights, data)
    write_output(beside, text.encode())
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
        spec, origin = SegmenterSpec(**record["spec"]), dict(record["backbone"])
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
    if stored and "architecture" in origin:
        return _probe(spec, empty_model(origin), origin, 0)
    if stored:
        vit = _plain_model(load_backbone(spec.backbone, "random", FeaturesConfig()))
        return _probe(spec, vit, origin, 0)
    found = weights_id(spec.backbone, spec.weights)
    if found != origin["id"]:
        raise BackboneError(
            f"{weights}: was trained on {spec.backbone} with weights {origin['id']}, which are not "
            f"inside; here it has {found}. Put the first ones in place"
        )
    return build_segmenter(spec, 0)


# --- bodies and heads ----------------------------------------------------------------------------

HIDDEN = 256
"""Channels between the convolutions of a head, as in DeepLabV3's."""


class Tokens(nn.Module):
    """(B, 3, h, w) images -> (B, F, gh, gw) tokens of a ViT: of the last block after the final norm
    (F = E), or of several blocks as they are (F = n * E)."""

    def __init__(self, vit: Any, blocks: tuple[int, ...]) -> None:
        """blocks: which ones; empty = the last, normed."""
        super().__init__()
        self.vit = vit
        self.blocks = blocks
        self.patch_px: int = vit.patch_embed.feat_ratio(as_scalar=True)
        # a block's output may lack what a model of ours puts behind its tokens
        self.size = int(vit.num_features) * len(blocks) if blocks else int(vit.embed_dim)
        vit.patch_embed.register_forward_hook(_add_moved)
        dynamic = getattr(vit, "dynamic_img_size", False)
        self.only_size = None if dynamic else tuple(vit.patch_embed.img_size)

    def forward(self, images: Tensor) -> Tensor:
        grid = images.shape[2] // self.patch_px, images.shape[3] // self.patch_px
        if self.blocks:
            parts = self.vit.forward_intermediates(
                *(images, list(self.blocks)), output_fmt="NLC", intermediates_only=True
            )
            tokens = torch.cat(parts, dim=2)
        else:
            tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
            if isinstance(self.vit.norm, nn.Identity):
                # ViTs trained on mean tokens keep their final norm behind the pooling
                tokens = self.vit.fc_norm(tokens)
        batch, _, size = tokens.shape
        return tokens.transpose(1, 2).reshape(batch, size, *grid)

    @contextlib.contextmanager
    def inside(self, places: Sequence[Place], tile: Grid, view: Grid) -> Iterator[None]:
        """Within, the images are tiles at `places` of larger views and get the positions that they
        have there. Otherwise a ViT with learned positions takes each tile for a whole picture,
        with its sky at the top. Nothing changes for rotary positions, or if the tile is all."""
        token = _MOVED.set(self._moved(places, tile, view))
        try:
            yield
        finally:
            _MOVED.reset(token)

    def _moved(self, places: Sequence[Place], tile: Grid, view: Grid) -> Tensor | None:
        """(B, th, tw, E) positions in the view, less those that the ViT gives the tile."""
        positions = getattr(self.vit, "pos_embed", None)
        if tile == view or positions is None or self.only_size:
            return None
        old = tuple(self.vit.patch_embed.grid_size)
        spare = positions.shape[1] - old[0] * old[1]
        grid = positions[0, spare:].reshape(*old, -1)

        def at(size: Grid, place: Place) -> Tensor:
            rows = _resizing(old[0], size[0], grid)[place[0] :][: tile[0]]
            columns = _resizing(old[1], size[1], grid)[place[1] :][: tile[1]]
            return torch.einsum("yi,ije,xj->yxe", rows, grid, columns)

        alone = at(tile, (0, 0))
        return torch.stack([at(view, place) - alone for place in places])


def _resizing(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old) matrix that resizes positions along one side as timm does: bicubic, antialiased.
    The whole grid of a large view would take gigabytes; these take nothing."""
    unit = torch.eye(old, device=like.device)[None, None]
    found = functional.interpolate(unit, size=(new, old), mode="bicubic", antialias=True)
    return found[0, 0]


_MOVED: ContextVar[Tensor | None] = ContextVar("moved", default=None)
"""What to add to the tokens of patches; every thread has its own."""


def _add_moved(patch_embed: Any, images: Any, tokens: Tensor) -> Tensor | None:
    """Hook: positions are added to tokens later, so a difference can be added now."""
    moved = _MOVED.get()
    return None if moved is None else tokens + moved


class Head(nn.Module):
    """(B, F, gh, gw) features -> (B, C, gh, gw) logits."""

    def __init__(self, kind: str, n_features: int, n_parts: int, n_classes: int) -> None:
        """n_parts: blocks whose tokens lie side by side in the features."""
        super().__init__()
        self.n_parts = n_parts
        steps: dict[str, tuple[nn.Module, ...]] = {
            "linear": (nn.Conv2d(n_features, n_classes, 1),),
            "conv": (
                nn.Conv2d(n_features, HIDDEN, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(HIDDEN, n_classes, 1),
            ),
            "layers": (
                *(nn.Conv2d(n_features, HIDDEN, 1), nn.GELU()),
                *(nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1), nn.GELU()),
                nn.Conv2d(HIDDEN, n_classes, 1),
            ),
        }
        self.steps = nn.Sequential(*steps[kind])

    def forward(self, features: Tensor) -> Tensor:
        # tokens of all backbones and blocks on one scale, so that one learning rate serves them
        batch, _, *grid = features.shape
        parts = features.float().reshape(batch, self.n_parts, -1, *grid)
        spread = parts.var(dim=2, keepdim=True, correction=0)
        parts = (parts - parts.mean(dim=2, keepdim=True)) * torch.rsqrt(spread + 1e-6)
        logits: Tensor = self.steps(parts.flatten(1, 2))
        return logits


class ResNetBody(nn.Module):
    """(B, 3, h, w) images -> (B, 2048, h / 8, w / 8)."""

    def __init__(self, resnet: nn.Module) -> None:
        """`resnet`: torchvision's body, which gives a dict with one entry, out."""
        super().__init__()
        self.resnet = resnet

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.resnet(images)["out"]
        return found

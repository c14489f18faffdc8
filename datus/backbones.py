"""Every model: names, weights, and the one forward pass that all stages live on (paper III-A).

    in    float32 (3, h, w) images, normalised, sides multiples of the patch
    out   FeatureGrid: keys of the last attention block, patch tokens, class token

    backbone = load_backbone("vit_small_patch8_224.dino", "hub", FeaturesConfig(), "cpu", seed=0)
    grids = backbone.features(images, n_threads=2, batch=16)

Models are the ViTs of timm by name, and those that the package ships: models/NAME.safetensors
with the record NAME.json, whose "architecture" holds the arguments of timm's VisionTransformer.
Importing this module, and `weights_id`, load neither torch nor timm.
"""

import contextlib
import difflib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from datus.checkpoints import load_checkpoint
from datus.config import FeaturesConfig
from datus.errors import BackboneError, UsageError
from datus.records import Array, FeatureGrid
from datus.threads import map_threads

if TYPE_CHECKING:
    import torch

Out = TypeVar("Out")

MODELS = Path(__file__).parent / "models"


def model_path(name: str) -> Path | None:
    """The weights of the shipped model `name`, or None if the package ships no such model."""
    path = MODELS / f"{name}.safetensors"
    return path if Path(name).name == name and path.is_file() else None


def weights_id(backbone: str, weights: str) -> str:
    """What stands for the weights in a fingerprint: sha256:..., hub:NAME or random:NAME.

    `weights` as in FeaturesConfig. Raises UsageError or BackboneError if there are no such weights,
    as far as that can be known without loading timm.
    """
    source = _source(backbone, weights)
    if isinstance(source, str):
        return f"{source}:{backbone}"
    try:
        with source.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise BackboneError(f"{source}: {error.strerror}") from error


def load_backbone(
    backbone: str, weights: str, settings: FeaturesConfig, device: str = "cpu", seed: int = 0
) -> "Backbone":
    """The model `backbone` with its weights, frozen, on `device` (auto, cpu, cuda or cuda:N).

    Of `settings`, only precision, allow_missing and allow_unexpected count; `backbone` and
    `weights` are apart from it because crops may be embedded by another model. `seed` matters to
    random weights, and to tensors that a checkpoint may lack. Raises UsageError or BackboneError.
    """
    source = _source(backbone, weights)
    place = _device(device)
    with _seeded(seed):
        if model_path(backbone):
            model = _shipped_model(backbone)
        else:
            model = _timm_model(backbone, source == "hub")
    _check_supported(model, backbone)
    if isinstance(source, Path):
        load_checkpoint(model, source, backbone, settings.allow_missing, settings.allow_unexpected)
    return Backbone(model, backbone, settings.precision, place)


class Backbone:
    """A frozen ViT. Threads may share it.

    name        as given to `load_backbone`
    patch_px    side of a patch in pixels
    key_dim     D, size of a key: all heads side by side
    embed_dim   E, size of a token
    device      cpu, cuda or cuda:N
    """

    def __init__(self, model: Any, name: str, precision: str, device: str) -> None:
        """`model`: one that `load_backbone` accepts."""
        model.eval().requires_grad_(False).to(device)
        attention = model.blocks[-1].attn
        attention.register_forward_pre_hook(self._remember)
        self._model = model
        self._precision = precision
        self._entered = threading.local()
        self._key_weight, self._key_bias = _key_projection(attention)
        self._n_prefix: int = model.num_prefix_tokens
        self.name = name
        self.patch_px: int = model.patch_embed.feat_ratio(as_scalar=True)
        self.key_dim = int(self._key_weight.shape[0])
        self.embed_dim: int = model.embed_dim
        self.device = device

    def features(self, images: Sequence[Array], n_threads: int, batch: int) -> list[FeatureGrid]:
        """What the ViT says about each image: float32 (3, h, w), normalised, sizes may differ.

        On a CPU images run one at a time on `n_threads` threads, so neither number changes a
        byte. A GPU takes up to `batch` images of one size at a time. Raises ValueError if a side
        is not a multiple of patch_px, BackboneError if the model cannot take the size.
        """

        def grids(several: list[Array]) -> list[FeatureGrid]:
            keys_BND, tokens_BPE = (part.cpu().numpy() for part in self._forward(several))
            cls_BE = self._class_token(tokens_BPE)
            grid = (several[0].shape[1] // self.patch_px, several[0].shape[2] // self.patch_px)
            return [
                FeatureGrid(
                    keys=np.ascontiguousarray(keys[self._n_prefix :]).reshape(*grid, -1),
                    tokens=np.ascontiguousarray(tokens[self._n_prefix :]).reshape(*grid, -1),
                    cls=np.ascontiguousarray(cls),
                )
                for keys, tokens, cls in zip(keys_BND, tokens_BPE, cls_BE, strict=True)
            ]

        return self._map(grids, images, n_threads, batch)

    def class_tokens(self, images: Sequence[Array], n_threads: int, batch: int) -> Array:
        """float32 (B, E): the class token of each image; images and errors as in `features`."""

        def tokens(several: list[Array]) -> list[Array]:
            return list(self._class_token(self._forward(several)[1]).cpu().numpy())

        rows = self._map(tokens, images, n_threads, batch)
        return np.array(rows, np.float32).reshape(len(rows), self.embed_dim)

    def _map(
        self,
        function: Callable[[list[Array]], list[Out]],
        images: Sequence[Array],
        n_threads: int,
        batch: int,
    ) -> list[Out]:
        """`function` over all images, one at a time or in batches of one size, in their order."""
        for image in images:
            self._check_image(image)
        if self.device == "cpu":
            return map_threads(lambda image: function([image])[0], images, n_threads)
        results: dict[int, Out] = {}
        with _exact_float32():
            for members in _batches([image.shape for image in images], batch):
                done = function([images[i] for i in members])
                results.update(zip(members, done, strict=True))
        return [results[i] for i in range(len(images))]

    def _forward(self, images: list[Array]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """float32 (B, P, D) raw keys and (B, P, E) normed tokens, prefix tokens still in front."""
        import torch

        dtype = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
        lower = dtype[self._precision]
        kind = torch.device(self.device).type
        pixels = torch.from_numpy(np.stack(images)).to(self.device)
        with torch.inference_mode(), torch.autocast(kind, lower, enabled=lower is not None):
            tokens = self._model.forward_features(pixels)
            # of the projection only the key rows are needed again; what timm makes of them later
            # (norm, rotation) differs from model to model
            entered = self._entered.__dict__.pop("tokens")
            keys = torch.nn.functional.linear(entered, self._key_weight, self._key_bias)
            if isinstance(self._model.norm, torch.nn.Identity):
                # ViTs trained on mean tokens keep their final norm behind the pooling
                tokens = self._model.fc_norm(tokens)
            keys, tokens = keys.float(), tokens.float()
        if not bool(torch.isfinite(keys).all() & torch.isfinite(tokens).all()):
            raise BackboneError(
                f"{self.name}: infinite values or NaN came out with features.precision = "
                f"{self._precision}; try float32, or other weights if it is"
            )
        return keys, tokens

    def _remember(self, attention: Any, inputs: tuple[Any, ...]) -> None:
        """Hook: what goes into the last attention, for the thread that called."""
        self._entered.tokens = inputs[0]

    def _class_token(self, tokens_BPE: Any) -> Any:
        """(B, E) of array or tensor: the class token, or the mean of patches if there is none."""
        if getattr(self._model, "cls_token", None) is not None:
            return tokens_BPE[:, 0]
        return tokens_BPE[:, self._n_prefix :].mean(1)

    def _check_image(self, image: Array) -> None:
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.float32:
            raise ValueError(f"image: expected float32 (3, h, w), got {image.dtype} {image.shape}")
        height, width = image.shape[1:]
        if height % self.patch_px or width % self.patch_px or not height or not width:
            raise ValueError(
                f"image: expected sides that are multiples of {self.patch_px}, "
                f"got {height} x {width}"
            )
        if not getattr(self._model, "dynamic_img_size", False):
            wants = tuple(self._model.patch_embed.img_size)
            if (height, width) != wants:
                raise BackboneError(
                    f"{self.name}: only takes images of {wants[0]} x {wants[1]}, got {height} x "
                    f'{width}; set resize = "squash" and image_px = {wants[0]} in [features]'
                )


# --- names and weights --------------------------------------------------------------------------


def _source(backbone: str, weights: str) -> Path | str:
    """The file to read, or "hub" or "random"."""
    shipped = model_path(backbone)
    if backbone.startswith("datus_") and shipped is None:
        names = sorted(path.stem for path in MODELS.glob("*.safetensors"))
        raise BackboneError(
            f"{backbone}: this package does not ship that model; "
            f"it has {_near(backbone, names) or 'none'}, or take any timm ViT by name"
        )
    if weights == "auto":
        return shipped or "hub"
    if weights == "hub" and shipped:
        raise UsageError(f"features.weights: {backbone} is shipped, not on the hub; use auto")
    if weights in ("hub", "random"):
        return weights
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UsageError(
            f"features.weights: expected auto, hub, random or a file, got {weights!r}, "
            f"which is {'a folder' if path.is_dir() else 'not there'}"
        )
    return path


def _shipped_model(name: str) -> Any:
    """The architecture of a shipped model, with random weights."""
    from timm.models.vision_transformer import VisionTransformer

    path = MODELS / f"{name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return VisionTransformer(**record["architecture"], dynamic_img_size=True)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise BackboneError(
            f"{path}: not a usable training record ({error}); install the package again"
        ) from error


def _timm_model(name: str, pretrained: bool) -> Any:
    """A timm model without head that takes any size, if it can."""
    import timm

    _check_timm_name(name, pretrained)
    options = {"num_classes": 0, "pretrained": pretrained}
    try:
        try:
            return timm.create_model(name, dynamic_img_size=True, **options)
        except TypeError:  # BEiT and others know one size only
            return timm.create_model(name, **options)
    except Exception as error:  # the hub's client raises many unrelated types
        if not pretrained:
            raise
        raise BackboneError(
            f"{name}: its weights could not be fetched from the hub "
            f"({type(error).__name__}); download the checkpoint where there is a network and set "
            "features.weights to the file"
        ) from error


def _check_timm_name(name: str, pretrained: bool) -> None:
    import timm

    tagged = timm.list_models(pretrained=True)
    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture) or (dot and name not in tagged):
        near = _near(name, [*timm.list_models(), *tagged])
        raise BackboneError(
            f"{name}: timm has no such model" + (f"; did you mean {near}?" if near else "")
        )
    if pretrained and not timm.models.is_model_pretrained(name):
        raise BackboneError(
            f"{name}: timm has no weights for it; set features.weights to a file, or to random"
        )


def _near(name: str, names: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.5))


def _check_supported(model: Any, name: str) -> None:
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    kind = type(model).__name__
    attention = None
    if isinstance(model, VisionTransformer | Eva | Beit):
        attention = getattr(model.blocks[-1], "attn", None)
        sides = model.patch_embed.feat_ratio(as_scalar=False)
        if sides[0] != sides[1]:
            raise BackboneError(f"{name}: patches of {sides} pixels are not square; not supported")
    if getattr(attention, "qkv", None) is None and getattr(attention, "k_proj", None) is None:
        raise BackboneError(
            f"{name}: a {kind} is not supported; expected timm's VisionTransformer (ViT, DeiT, "
            "DINO, DINOv2, MAE, CLIP), Eva (EVA-02, DINOv3) or Beit, one attention in each block"
        )


def _key_projection(attention: Any) -> tuple["torch.Tensor", "torch.Tensor | None"]:
    """Weight (D, E) and bias (D,) that make the keys, in all the ways that timm spells it."""
    if getattr(attention, "k_proj", None) is not None:
        return attention.k_proj.weight, attention.k_proj.bias
    qkv = attention.qkv
    rows = slice(qkv.out_features // 3, 2 * (qkv.out_features // 3))
    if qkv.bias is not None:
        return qkv.weight[rows], qkv.bias[rows]
    return qkv.weight[rows], getattr(attention, "k_bias", None)


# --- running ------------------------------------------------------------------------------------


def _device(device: str) -> str:
    """A device that is there. UsageError otherwise."""
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if n_gpus else "cpu"
    known = ["cpu", "cuda", *(f"cuda:{i}" for i in range(n_gpus))]
    if device not in known or (device == "cuda" and not n_gpus):
        raise UsageError(
            f"speed.device: expected auto, cpu, cuda or cuda:N, got {device!r}; "
            f"CUDA devices found: {n_gpus}"
        )
    return device


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Weights drawn inside depend on `seed` alone; the program's random numbers go on as before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """float32 on a GPU means float32: tf32 keeps 10 bits, and the signs of small products flip."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    # torch 2.9 renamed the switches; mixing old and new ones is an error there
    renamed = hasattr(matmul, "fp32_precision")
    name, exact = ("fp32_precision", "ieee") if renamed else ("allow_tf32", False)
    switches: list[Any] = [matmul, getattr(cudnn, "conv", cudnn) if renamed else cudnn]
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, exact)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


def _batches(shapes: Sequence[tuple[int, ...]], batch: int) -> Iterator[list[int]]:
    """Indices of up to `batch` images of one shape, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    for members in groups.values():
        for start in range(0, len(members), batch):
            yield members[start : start + batch]

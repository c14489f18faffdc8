"""Every model: the one forward pass that all stages live on (paper III-A), and crops (III-D).

    in    float32 (3, h, w) images, normalised, sides multiples of the patch
    out   FeatureGrid: keys of the last attention block, patch tokens, class token

    backbone = load_backbone("vit_small_patch8_224.dino", "hub", FeaturesConfig(), "cpu", seed=0)
    grids = backbone.features(images, n_threads=2, batch=16)

Models are those of the table in `registry`, any other ViT of timm by name, and those that the
package ships: weights/NAME.safetensors with the record NAME.json, whose "architecture" holds the
arguments of the model's class. Crops may be embedded by a CNN too (paper IV-D, Table VI).
Importing this module loads neither torch nor timm.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datus.config import FeaturesConfig
from datus.errors import BackboneError
from datus.models import weights as sources
from datus.models.checkpoints import load_checkpoint
from datus.models.forward import (
    check_image,
    find_device,
    forward_pass,
    map_images,
    not_finite,
    seeded,
)
from datus.models.registry import Row, find
from datus.models.weights import find_weights, model_path
from datus.types import Array, FeatureGrid

if TYPE_CHECKING:
    import torch

PROBE_PX = 224
"""Side of the black crop that shows what comes out of an unknown CNN."""


def load_backbone(
    backbone: str, weights: str, settings: FeaturesConfig, device: str = "cpu", seed: int = 0
) -> "Backbone":
    """The model `backbone` with its weights, frozen, on `device` (auto, cpu, cuda or cuda:N).

    Of `settings`, only precision, allow_missing and allow_unexpected count; `backbone` and
    `weights` are apart from it because crops may be embedded by another model. `seed` matters to
    random weights, and to tensors that a checkpoint may lack. Raises UsageError or BackboneError.
    """
    check_keys(backbone)
    model, place = _loaded(backbone, weights, settings, device, seed, for_keys=True)
    return Backbone(model, backbone, settings.precision, place)


def load_embedder(
    backbone: str, weights: str, settings: FeaturesConfig, device: str = "cpu", seed: int = 0
) -> "Backbone | CnnEmbedder":
    """What embeds crops: a ViT as `load_backbone` gives it, or any timm CNN that pools.

    Arguments and errors as in `load_backbone`.
    """
    model, place = _loaded(backbone, weights, settings, device, seed, for_keys=False)
    kind = Backbone if _is_filters(model) or _has_keys(model) else CnnEmbedder
    return kind(model, backbone, settings.precision, place)


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
        self._model = model
        self._precision = precision
        self.name = name
        self.device = device
        self._n_prefix: int
        self.patch_px: int
        if _is_filters(model):
            self._n_prefix, self.patch_px = 0, model.patch_px
            self.key_dim = self.embed_dim = int(model.size)
            return
        attention = model.blocks[-1].attn
        attention.register_forward_pre_hook(self._remember)
        self._entered = threading.local()
        self._key_weight, self._key_bias = _key_projection(attention)
        self._finished = getattr(model, "finished", None)  # a HybridTransformer's
        self._tokens = model.vit_features if self._finished else model.forward_features
        self._n_prefix = model.num_prefix_tokens
        self.patch_px = model.patch_embed.feat_ratio(as_scalar=True)
        self.embed_dim = int(model.embed_dim)
        self.key_dim = int(self._key_weight.shape[0]) + self.embed_dim - int(model.num_features)

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

        self._check_images(images)
        return map_images(grids, images, self.device, n_threads, batch)

    def class_tokens(self, images: Sequence[Array], n_threads: int, batch: int) -> Array:
        """float32 (B, E): the class token of each image; images and errors as in `features`."""

        def tokens(several: list[Array]) -> list[Array]:
            return list(self._class_token(self._forward(several)[1]).cpu().numpy())

        self._check_images(images)
        rows = map_images(tokens, images, self.device, n_threads, batch)
        return np.array(rows, np.float32).reshape(len(rows), self.embed_dim)

    def _forward(self, images: list[Array]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """float32 (B, P, D) raw keys and (B, P, E) normed tokens, prefix tokens still in front."""
        import torch

        with forward_pass(images, self.device, self._precision) as pixels:
            if _is_filters(self._model):
                codes = self._model(pixels)
                return codes, codes
            tokens = self._tokens(pixels)
            # of the projection only the key rows are needed again; what timm makes of them later
            # (norm, rotation) differs from model to model
            entered = self._entered.__dict__.pop("tokens")
            keys = torch.nn.functional.linear(entered, self._key_weight, self._key_bias)
            if isinstance(self._model.norm, torch.nn.Identity):
                # ViTs trained on mean tokens keep their final norm behind the pooling
                tokens = self._model.fc_norm(tokens)
            if self._finished:
                keys, tokens = self._finished(keys, tokens, pixels)
            keys, tokens = keys.float(), tokens.float()
        if not bool(torch.isfinite(keys).all() & torch.isfinite(tokens).all()):
            raise BackboneError(not_finite(self.name, self._precision))
        return keys, tokens

    def _remember(self, attention: Any, inputs: tuple[Any, ...]) -> None:
        """Hook: what goes into the last attention, for the thread that called."""
        self._entered.tokens = inputs[0]

    def _class_token(self, tokens_BPE: Any) -> Any:
        """(B, E) of array or tensor: the class token, or the mean of patches if there is none."""
        if getattr(self._model, "cls_token", None) is not None:
            return tokens_BPE[:, 0]
        return tokens_BPE[:, self._n_prefix :].mean(1)

    def _check_images(self, images: Sequence[Array]) -> None:
        only_px = 0 if _is_filters(self._model) else _only_px(self._model)
        for image in images:
            check_image(image)
            height, width = image.shape[1:]
            if height % self.patch_px or width % self.patch_px or not height or not width:
                raise ValueError(
                    f"image: expected sides that are multiples of {self.patch_px}, "
                    f"got {height} x {width}"
                )
            if only_px and (height, width) != (only_px, only_px):
                raise BackboneError(
                    f"{self.name}: only takes images of {only_px} x {only_px}, got {height} x "
                    f'{width}; set resize = "squash" and image_px = {only_px} in [features]'
                )


class CnnEmbedder:
    """A frozen CNN that embeds crops; it has no keys. Threads may share it.

    name        as given to `load_embedder`
    patch_px    1: sides need not be multiples of anything
    embed_dim   E, size of the pooled feature
    device      cpu, cuda or cuda:N
    """

    def __init__(self, model: Any, name: str, precision: str, device: str) -> None:
        """`model`: of timm, made with num_classes = 0. BackboneError if it does not pool."""
        model.eval().requires_grad_(False).to(device)
        self._model = model
        self._precision = precision
        self.name = name
        self.patch_px = 1
        self.device = device
        features = self._pooled([np.zeros((3, PROBE_PX, PROBE_PX), np.float32)])
        if features.ndim != 2:
            raise BackboneError(
                f"{name}: a {type(model).__name__} gives features of shape {features.shape[1:]} "
                "for a crop; expected one pooled vector: take another CNN, or a ViT"
            )
        self.embed_dim = int(features.shape[1])

    def class_tokens(self, images: Sequence[Array], n_threads: int, batch: int) -> Array:
        """float32 (B, E): the pooled feature of each image; float32 (3, h, w), normalised.

        Threads and batch as in `Backbone.features`. Raises ValueError if an image is of another
        kind, BackboneError if the CNN cannot take its size.
        """
        for image in images:
            check_image(image)
        rows = map_images(
            lambda several: list(self._pooled(several)), images, self.device, n_threads, batch
        )
        return np.array(rows, np.float32).reshape(len(rows), self.embed_dim)

    def _pooled(self, images: list[Array]) -> Array:
        height, width = images[0].shape[1:]
        try:
            with forward_pass(images, self.device, self._precision) as pixels:
                features: Array = self._model(pixels).float().cpu().numpy()
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"{self.name}: cannot take images of {height} x {width} ({reason}); "
                "set embeddings.crop_px to what it takes"
            ) from error
        if not np.isfinite(features).all():
            raise BackboneError(not_finite(self.name, self._precision))
        return features


# --- making a model -----------------------------------------------------------------------------


def _loaded(
    name: str, weights: str, settings: FeaturesConfig, device: str, seed: int, for_keys: bool
) -> tuple[Any, str]:
    """(the model with its weights, where it is to run). for_keys: a model without keys is an
    error."""
    place = find_device(device)
    source = find_weights(name, weights)
    with seeded(seed):
        model = _architecture(name, source)
    if for_keys or _has_keys(model):
        _check_supported(model, name)
    if isinstance(source, Path):  # those of the hub are in the model already
        load_checkpoint(model, source, name, settings.allow_missing, settings.allow_unexpected)
    return model, place


def _architecture(name: str, source: Path | str) -> Any:
    """The model with random weights, or with those of the hub; without head, for any size."""
    if own := model_path(name):
        return _own_model(own)
    row = find(name)
    if row and (row.options or not row.family.on_hub):
        return _table_model(row)
    return _timm_model(name, source == "hub")


def _own_model(weights: Path) -> Any:
    """The architecture of a model of ours, by the record beside its weights; random weights."""
    record = sources.own_record(weights)
    try:
        return empty_model(record)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise sources.unusable_record(weights, error) from error


def empty_model(record: Mapping[str, Any]) -> Any:
    """The model whose "class" and "architecture" a record states, with random weights."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    from datus.models.appearance import FilterBank, HybridTransformer

    kinds = (VisionTransformer, Eva, HybridTransformer, FilterBank)
    kind = {kind.__name__: kind for kind in kinds}[record.get("class", "VisionTransformer")]
    options = {**record["architecture"], "dynamic_img_size": True}
    return kind(**options)


def _table_model(row: Row) -> Any:
    """The architecture of a model that timm has, or has with other options, without weights."""
    import timm
    from timm.layers import LayerNorm

    options = dict(row.options)
    if "norm_eps" in options:
        options["norm_layer"] = partial(LayerNorm, eps=options.pop("norm_eps"))
    if not row.is_cnn:
        options["dynamic_img_size"] = True
    return timm.create_model(row.model, num_classes=0, **options)


def _timm_model(name: str, pretrained: bool) -> Any:
    """A timm model without head that takes any size, if it can."""
    import timm

    sources.check_timm_name(name, pretrained)
    offline = pretrained and (sources.is_offline() or not sources.hub_answers())
    if offline and sources.hub_file(sources.with_tag(name)) is None:
        raise BackboneError(sources.not_here(name))
    options = {"num_classes": 0, "pretrained": pretrained}
    try:
        with _from_cache(offline):
            try:
                return timm.create_model(name, dynamic_img_size=True, **options)
            except TypeError:  # BEiT, CNNs and others know no such option
                return timm.create_model(name, **options)
    except Exception as error:  # the hub's client raises many unrelated types
        if not pretrained:
            raise
        raise BackboneError(
            f"{name}: its weights could not be fetched from the hub "
            f"({type(error).__name__}); {sources.cure(name)}"
        ) from error


@contextlib.contextmanager
def _from_cache(offline: bool) -> Iterator[None]:
    """Inside, the hub's client only reads its cache: it retries for a minute otherwise."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@cache
def timm_sides(backbone: str) -> tuple[int, int]:
    """(side of a patch, the only side of images that the model takes or 0), both in pixels.

    Of a timm ViT that neither the table nor its name tells: it is made without memory for weights.
    Raises BackboneError if timm has no such model, or if it has no keys.
    """
    import torch

    with torch.device("meta"):
        model = _timm_model(backbone, pretrained=False)
    _check_supported(model, backbone)
    return int(model.patch_embed.feat_ratio(as_scalar=True)), _only_px(model)


def _only_px(model: Any) -> int:
    """The only side of images that a ViT takes; 0 = any."""
    return 0 if getattr(model, "dynamic_img_size", False) else int(model.patch_embed.img_size[0])


# --- what has keys ------------------------------------------------------------------------------


def check_keys(backbone: str) -> None:
    """BackboneError if the table knows that the model has no keys. Loads nothing."""
    row = find(backbone)
    if row and row.is_cnn:
        raise BackboneError(_no_keys(backbone, "a CNN"))


def _check_supported(model: Any, name: str) -> None:
    if _is_filters(model):
        return
    if not _has_keys(model):
        raise BackboneError(_no_keys(name, f"a {type(model).__name__}"))
    sides = model.patch_embed.feat_ratio(as_scalar=False)
    if sides[0] != sides[1]:
        raise BackboneError(f"{name}: patches of {sides} pixels are not square; not supported")


def _is_filters(model: Any) -> bool:
    """The model is a FilterBank: it has neither blocks nor attention."""
    return hasattr(model, "amplitudes")


def _has_keys(model: Any) -> bool:
    """The model is a ViT of a known kind with one attention in its last block."""
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer | Eva | Beit):
        return False
    attention = getattr(model.blocks[-1], "attn", None)
    return any(getattr(attention, part, None) is not None for part in ("qkv", "k_proj"))


def _no_keys(name: str, kind: str) -> str:
    return (
        f"{name}: {kind} has no keys to find segments with; expected timm's VisionTransformer "
        "(ViT, DeiT, DINO, DINOv2, MAE, CLIP), Eva (EVA-02, DINOv3) or Beit, one attention in each "
        'block\nA CNN can embed crops: set mode = "crop" and '
        f'backbone = "{name}" in [embeddings]'
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

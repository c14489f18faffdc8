"""Weight files of all the usual shapes, into a timm model, with nothing lost in silence.

    in    a timm model, a .safetensors, .pth, .pt, .bin or .pth.tar file, patterns of tensors that
          may be missing or left over
    out   the model with the file's weights, or a BackboneError that lists what does not fit

Files of self-supervised training hold the model under other names: inside dicts ("teacher",
"state_dict"), behind prefixes ("module.backbone."), as the authors spelled it. The dicts are
unpacked, the prefixes stripped and the spelling undone here; timm's own filter of the model
converts position grids. What is left must fit tensor by tensor. Pickles are read without running
code.

Renaming goes by the names in the file, whatever model it is of: no name means two things. Heads are
dropped by rule and only for a model of the table: see `registry.Family.heads`.
"""

import argparse
import contextlib
import fnmatch
import inspect
import io
import re
import sys
import zipfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datus.errors import BackboneError, size_text
from datus.models.registry import SUFFIXES, find, fitting

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]

# Dicts that hold the model inside a checkpoint, the wanted one first: DINO, iBOT and DINOv2 store
# teacher and student and evaluate the teacher; I-JEPA's target_encoder and EMA are the same idea.
WRAPPERS = (
    *("teacher", "target_encoder", "model_ema", "state_dict_ema", "ema", "state_dict", "model"),
    *("module", "student", "encoder", "backbone", "net"),
)

# Prefixes of tensor names; they are stripped again and again. The wanted copy of a model that is
# there twice comes first: the teacher before the student, MoCo's encoder before its momentum copy.
PREFIXES = (
    *("teacher.", "target_encoder.", "model_ema.", "ema.", "module.", "_orig_mod.", "model."),
    *("backbone.", "base_encoder.", "encoder_q.", "momentum_encoder.", "encoder."),
    *("student.", "net.", "trunk."),
)

SHOWN = 10
"""Names that an error lists; the count says how many more there are."""


def load_checkpoint(
    model: "torch.nn.Module",
    path: Path,
    name: str,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> None:
    """Fill `model` (timm, float32, on the CPU) with the weights at `path`, in place.

    `name` is what errors call the model. The patterns are those of `fnmatch`, on names after
    conversion. Raises BackboneError if the file cannot be read or a tensor does not fit.
    """
    expected = model.state_dict()
    tensors = {
        key: value.float() if value.is_floating_point() else value
        for key, value in flat_blocks(strip_prefixes(read_checkpoint(path), expected)).items()
    }
    row, start = find(name), f"{path}: does not fit {name}: "
    hint = _hint(tensors, name)
    tensors = convert(tensors, row.family.heads if row else (), expected)
    if problem := _other_patches(tensors, expected):
        raise BackboneError(f"{start}{problem}{hint}")
    if problem := _lost_biases(tensors, expected):
        raise BackboneError(f"{start}{problem}")
    try:
        tensors = _filtered_by_timm(tensors, model)
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{start}timm cannot convert it ({reason}); "
            "is features.backbone the model that it was made for?"
        ) from error
    if problem := _misfit(tensors, expected, allow_missing, allow_unexpected):
        raise BackboneError(f"{start}{problem}{hint}")
    model.load_state_dict({key: tensors[key] for key in expected if key in tensors}, strict=False)


# --- files --------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Tensors:
    """The tensors of the model inside the file, names as they stand there."""
    if not path.name.endswith(SUFFIXES):
        raise BackboneError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except OSError as error:
        raise BackboneError(f"{path}: {error.strerror or error}") from error
    return _unwrap(content, path)


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise BackboneError(
            f"{path}: damaged or not a safetensors file ({error}); copy or download it again"
        ) from error


def _read_pickle(path: Path) -> Any:
    """Whatever the file holds, tensors and plain values only."""
    import torch

    _check_archive(path)
    # MAE, DINO and MoCo keep their command line beside the weights; a Namespace only holds values
    allow = getattr(torch.serialization, "safe_globals", lambda _: contextlib.nullcontext())
    try:
        with allow([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged pickle raises almost any type
        refused = re.search(
            r"[Uu]nsupported (?:global|class|operand)[^\n]*?([\w.]+\.[\w.]+)", str(error)
        )
        problem = "damaged or not a PyTorch checkpoint; copy or download it again"
        if refused:
            problem = (
                f"needs {refused.group(1)}, which could run code, and was not opened; "
                "convert it to safetensors on a machine you trust"
            )
        raise BackboneError(f"{path}: {problem}") from error


def _check_archive(path: Path) -> None:
    """Refuse a zip that unpacks to more than it is: `torch.save` packs nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked, size = sum(one.file_size for one in archive.infolist()), path.stat().st_size
    except Exception:  # not a zip, or damaged: torch says which
        return
    if unpacked > size:
        raise BackboneError(
            f"{path}: unpacks to {size_text(unpacked)} from {size_text(size)}, which torch.save "
            "never does, and was not opened; save it again with torch.save"
        )


def _unwrap(content: Any, path: Path) -> Tensors:
    """The tensors inside nested dicts, by the names in WRAPPERS."""
    import torch

    if not isinstance(content, Mapping):
        raise BackboneError(
            f"{path}: expected a dict of tensors, got {type(content).__name__}; "
            "save model.state_dict()"
        )
    while inner := [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]:
        content = content[inner[0]]
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = _listed(map(str, content)) or "none"
        raise BackboneError(f"{path}: holds no tensors under a known name; its keys are {keys}")
    return tensors


# --- names of tensors ---------------------------------------------------------------------------


def strip_prefixes(tensors: Tensors, known: Iterable[str]) -> Tensors:
    """Rename so that as many names as possible are `known`; nothing is left out.

    One chain of PREFIXES ("module.backbone.") is chosen, the one that covers most known names, and
    is taken off the names that start with it. Other names stay as they are.
    """
    names = set(known)
    covered: dict[str, int] = {}
    for key in tensors:
        for chain in _chains(key):
            covered[chain] = covered.get(chain, 0) + (key[len(chain) :] in names)

    def rank(chain: str) -> tuple[int, list[int]]:
        # on a tie the chain that comes first in PREFIXES wins: the teacher before the student
        return -covered[chain], [PREFIXES.index(f"{part}.") for part in chain.split(".")[:-1]]

    best = min(covered, key=rank, default="")
    inside = {key[len(best) :]: value for key, value in tensors.items() if key.startswith(best)}
    outside = {key: value for key, value in tensors.items() if not key.startswith(best)}
    # a name that is both inside and outside keeps its inner meaning; the outer one stays unexpected
    return {f"/{key}" if key in inside else key: value for key, value in outside.items()} | inside


def _chains(key: str) -> list[str]:
    """All chains of prefixes that `key` starts with, the empty one first."""
    chains, start = [""], 0
    while prefix := next((p for p in PREFIXES if key.startswith(p, start)), ""):
        start += len(prefix)
        chains.append(key[:start])
    return chains


def flat_blocks(tensors: Tensors) -> Tensors:
    """blocks.CHUNK.BLOCK.x -> blocks.BLOCK.x: DINOv2 trains with its blocks in chunks.

    The second number counts through all chunks, so it is the block's own.
    """
    return {
        re.sub(r"^blocks\.\d+\.(\d+\..+)$", r"blocks.\1", name): value
        for name, value in tensors.items()
    }


def convert(tensors: Tensors, heads: tuple[str, ...], expected: Container[str]) -> Tensors:
    """Tensors named as timm's filters know them, heads left out.

    tensors: blocks already flat. heads: patterns of their names, whatever prefixes stand before
    them. expected: names in the model; a tensor of such a name is no head.
    """
    kept = {
        name: value
        for name, value in tensors.items()
        if name in expected
        or not any(_matches(name[len(chain) :], heads) for chain in _chains(name))
    }
    return _gated_mlps(_registers(_masked_biases(kept)))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _masked_biases(tensors: Tensors) -> Tensors:
    """DINOv3 multiplies qkv.bias by qkv.bias_mask, which is zero for keys."""
    return {
        name: value * tensors[f"{name}_mask"].to(value) if f"{name}_mask" in tensors else value
        for name, value in tensors.items()
        if not name.endswith(".bias_mask")
    }


def _registers(tensors: Tensors) -> Tensors:
    """DINOv2 with registers, in the way of timm: no position is added to the class token later."""
    if not {"register_tokens", "cls_token", "pos_embed"} <= set(tensors):
        return tensors
    positions = tensors["pos_embed"]
    converted = dict(tensors)
    converted["reg_token"] = converted.pop("register_tokens")
    converted["cls_token"] = tensors["cls_token"] + positions[:, :1]
    converted["pos_embed"] = positions[:, 1:]
    return converted


def _gated_mlps(tensors: Tensors) -> Tensors:
    """mlp.w12 and mlp.w3 of DINOv2's giant -> fc1 and fc2. Files with w1 and w2 are others."""
    packed = {name.rpartition(".w12.")[0] for name in tensors if ".w12." in name}

    def renamed(name: str) -> str:
        for old, new in ((".w12.", ".fc1."), (".w3.", ".fc2.")):
            if name.rpartition(old)[0] in packed:
                return name.replace(old, new)
        return name

    return {renamed(name): value for name, value in tensors.items()}


def _filtered_by_timm(tensors: Tensors, model: "torch.nn.Module") -> Tensors:
    """Names and position grids as timm's own filter for this kind of model makes them."""
    modules = (sys.modules[kind.__module__] for kind in type(model).__mro__)
    filters = (getattr(module, "checkpoint_filter_fn", None) for module in modules)
    checkpoint_filter = next(filter(None, filters), None)
    if checkpoint_filter is None:
        return tensors
    # DeiT III spells ls1.gamma as gamma_1
    scaled = "adapt_layer_scale" in inspect.signature(checkpoint_filter).parameters
    options = {"adapt_layer_scale": True} if scaled else {}
    with contextlib.redirect_stdout(io.StringIO()):  # timm's EVA filter prints
        return dict(checkpoint_filter(dict(tensors), model, **options))


# --- what does not fit --------------------------------------------------------------------------


def _other_patches(tensors: Tensors, expected: Tensors) -> str:
    """Of another patch size: timm's filter would resample the kernel, and say nothing."""
    key = "patch_embed.proj.weight"
    if key in tensors and key in expected and tensors[key].ndim == 4:
        has, wants = tuple(tensors[key].shape), tuple(expected[key].shape)
        if has[2:] != wants[2:]:
            return (
                f"it was trained on patches of {has[2]} pixels, the "
                f"model has {wants[2]}; choose the backbone that it was made for"
            )
    return ""


def _lost_biases(tensors: Tensors, expected: Tensors) -> str:
    """What timm's filter of DINOv3 leaves out in silence, unless it is zero."""
    if "storage_tokens" not in tensors:
        return ""
    for key in (key for key in tensors if key.endswith("attn.qkv.bias") and key not in expected):
        query, keys, value = tensors[key].chunk(3)
        if bool(keys.any()):
            return f"{key} has biases of keys, which DINOv3 has not"
        has_biases = key.replace("qkv.bias", "q_bias") in expected
        if not has_biases and bool(query.any() | value.any()):
            return (
                f"{key} is not zero and the model has no such biases; "
                "choose its _qkvb variant in timm"
            )
    return ""


def _hint(tensors: Tensors, name: str) -> str:
    """Models of the table that the file may have been made for, if the wanted one is not there."""
    names = fitting({key: tuple(value.shape) for key, value in tensors.items()})
    return f". By its shapes it may be {_listed(names)}" if names and name not in names else ""


def _misfit(
    tensors: Tensors,
    expected: Tensors,
    allow_missing: Iterable[str],
    allow_unexpected: Iterable[str],
) -> str:
    """Everything that does not fit and the cure; empty if all does."""
    may_miss, may_be_left = tuple(allow_missing), tuple(allow_unexpected)
    missing = [key for key in expected if key not in tensors and not _matches(key, may_miss)]
    unexpected = [key for key in tensors if key not in expected and not _matches(key, may_be_left)]
    both = [key for key in expected if key in tensors]
    shapes = [
        f"{key} {tuple(tensors[key].shape)} should be {tuple(expected[key].shape)}"
        for key in both
        if tensors[key].shape != expected[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    parts = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds if names]
    if not both:
        parts = parts or ["no tensor has a name of the model"]
    return f"{'; '.join(parts)}\n{_cure(missing, unexpected, expected)}" if parts else ""


def _cure(missing: list[str], unexpected: list[str], expected: Iterable[str]) -> str:
    """What to declare, unless the trunk itself differs."""
    trunk = {key.partition(".")[0] for key in expected}
    extra = [key for key in unexpected if key.partition(".")[0] not in trunk]
    cure = "Check that features.backbone is the model that the file was made for"
    if missing and len(missing) <= SHOWN:
        cure += f", or declare features.allow_missing = {_patterns(missing)}"
    if extra:
        cure += (
            f". If the rest is heads or decoders: features.allow_unexpected = {_patterns(extra)}"
        )
    return cure


def _patterns(names: Iterable[str]) -> str:
    """In TOML, one pattern for each first part of the names; decoder_embed.x -> "decoder_*"."""
    patterns = []
    for name in names:
        first, dot, _ = name.partition(".")
        if first.startswith("decoder_"):
            patterns.append('"decoder_*"')
        else:
            patterns.append(f'"{first}.*"' if dot else f'"{name}"')
    return f"[{', '.join(dict.fromkeys(patterns))}]"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more

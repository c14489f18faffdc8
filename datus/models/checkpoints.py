"""Weight files of all the usual shapes, into a timm model, with nothing lost in silence.

    in    a timm model, a .safetensors, .pth, .pt, .bin or .pth.tar file, patterns of tensors that
          may be missing or left over
    out   the model with the file's weights, or a BackboneError that lists what does not fit

Files of self-supervised training hold the model under other names: inside dicts ("teacher",
"state_dict"), behind prefixes ("module.backbone."), as the authors spelled it. The dicts are
unpacked and the prefixes stripped here, `converters` undoes the spelling, position grids are
converted by timm's own filter of the model. What is left must fit tensor by tensor. Pickles are
read without running code.
"""

import argparse
import contextlib
import fnmatch
import inspect
import io
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datus.errors import BackboneError, size_text
from datus.models.converters import PREFIXES, chains, convert, flat_blocks
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
    found = flat_blocks(strip_prefixes(read_checkpoint(path), expected))
    found = {
        key: value.float() if value.is_floating_point() else value for key, value in found.items()
    }
    hint = _hint(found, name)
    row = find(name)
    found = convert(found, row.family.heads if row else (), expected)
    _check_patches(found, expected, f"{path}: does not fit {name}", hint)
    _check_biases(found, expected, path, name)
    found = _converted(found, model, path, name)
    problem = _misfit(found, expected, allow_missing, allow_unexpected)
    if problem:
        raise BackboneError(f"{path}: does not fit {name}: {problem}{hint}")
    model.load_state_dict({key: found[key] for key in expected if key in found}, strict=False)


def read_checkpoint(path: Path) -> Tensors:
    """The tensors of the model inside the file, names as they stand there."""
    if not path.name.endswith(SUFFIXES):
        raise BackboneError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return _unwrap(content, path)


def strip_prefixes(tensors: Tensors, known: Iterable[str]) -> Tensors:
    """Rename so that as many names as possible are `known`; nothing is left out.

    One chain of PREFIXES ("module.backbone.") is chosen, the one that covers most known names, and
    is taken off the names that start with it. Other names stay as they are.
    """
    names = set(known)
    covered: dict[str, int] = {}
    for key in tensors:
        for chain in chains(key):
            covered[chain] = covered.get(chain, 0) + (key[len(chain) :] in names)
    # on a tie the chain that comes first in PREFIXES wins: the teacher before the student
    best = min(covered, key=lambda chain: (-covered[chain], _rank(chain)), default="")
    inside = {key[len(best) :]: value for key, value in tensors.items() if key.startswith(best)}
    outside = {key: value for key, value in tensors.items() if not key.startswith(best)}
    # a name that is both inside and outside keeps its inner meaning; the outer one stays unexpected
    return {f"/{key}" if key in inside else key: value for key, value in outside.items()} | inside


def _rank(chain: str) -> tuple[int, ...]:
    parts = [f"{part}." for part in chain.split(".")[:-1]]
    return tuple(PREFIXES.index(part) for part in parts)


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise BackboneError(
            f"{path}: damaged or not a safetensors file ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise BackboneError(f"{path}: {error.strerror or error}") from error


def _read_pickle(path: Path) -> Any:
    """Whatever the file holds, tensors and plain values only."""
    import torch

    _check_archive(path)
    # MAE, DINO and MoCo keep their command line beside the weights; a Namespace only holds values
    allow = getattr(torch.serialization, "safe_globals", lambda _: contextlib.nullcontext())
    try:
        with allow([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise BackboneError(f"{path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises almost any type
        refused = re.search(
            r"[Uu]nsupported (?:global|class|operand)[^\n]*?([\w.]+\.[\w.]+)", str(error)
        )
        if refused:
            raise BackboneError(
                f"{path}: needs {refused.group(1)}, which could run code, and was not opened; "
                "convert it to safetensors on a machine you trust"
            ) from error
        raise BackboneError(
            f"{path}: damaged or not a PyTorch checkpoint; copy or download it again"
        ) from error


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

    while isinstance(content, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping):
        raise BackboneError(
            f"{path}: expected a dict of tensors, got {type(content).__name__}; "
            "save model.state_dict()"
        )
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = _listed(map(str, content)) or "none"
        raise BackboneError(f"{path}: holds no tensors under a known name; its keys are {keys}")
    return tensors


def _converted(found: Tensors, model: "torch.nn.Module", path: Path, name: str) -> Tensors:
    """Names and position grids as timm's own filter for this kind of model makes them."""
    modules = (sys.modules[kind.__module__] for kind in type(model).__mro__)
    convert = next(
        (
            module.checkpoint_filter_fn
            for module in modules
            if hasattr(module, "checkpoint_filter_fn")
        ),
        None,
    )
    if convert is None:
        return found
    options = {}
    if "adapt_layer_scale" in inspect.signature(convert).parameters:
        options["adapt_layer_scale"] = True  # DeiT III spells ls1.gamma as gamma_1
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm's EVA filter prints
            return dict(convert(dict(found), model, **options))
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BackboneError(
            f"{path}: does not fit {name}: timm cannot convert it ({_first_line(error)}); "
            "is features.backbone the model that it was made for?"
        ) from error


def _check_patches(found: Tensors, expected: Tensors, message: str, hint: str) -> None:
    """Refuse another patch size: timm's filter would resample the kernel, and say nothing."""
    key = "patch_embed.proj.weight"
    if key in found and key in expected and found[key].ndim == 4:
        has, wants = tuple(found[key].shape), tuple(expected[key].shape)
        if has[2:] != wants[2:]:
            raise BackboneError(
                f"{message}: it was trained on patches of {has[2]} pixels, the "
                f"model has {wants[2]}; choose the backbone that it was made for{hint}"
            )


def _check_biases(found: Tensors, expected: Tensors, path: Path, name: str) -> None:
    """Refuse what timm's filter of DINOv3 leaves out in silence, unless it is zero."""
    if "storage_tokens" not in found:
        return
    for key in (key for key in found if key.endswith("attn.qkv.bias") and key not in expected):
        query, keys, value = found[key].chunk(3)
        has_biases = key.replace("qkv.bias", "q_bias") in expected
        if bool(keys.any()):
            raise BackboneError(
                f"{path}: does not fit {name}: {key} has biases of keys, which DINOv3 has not"
            )
        if not has_biases and bool(query.any() | value.any()):
            raise BackboneError(
                f"{path}: does not fit {name}: {key} is not zero and the model has no such biases; "
                "choose its _qkvb variant in timm"
            )


def _hint(found: Tensors, name: str) -> str:
    """Models of the table that the file may have been made for, if the wanted one is not there."""
    names = fitting({key: tuple(value.shape) for key, value in found.items()})
    if not names or name in names:
        return ""
    return f". By its shapes it may be {_listed(names)}"


def _misfit(
    found: Tensors,
    expected: Tensors,
    allow_missing: Iterable[str],
    allow_unexpected: Iterable[str],
) -> str:
    """Everything that does not fit and the cure; empty if all does."""
    missing = _without(allow_missing, (key for key in expected if key not in found))
    unexpected = _without(allow_unexpected, (key for key in found if key not in expected))
    both = [key for key in expected if key in found]
    shapes = [
        f"{key} {tuple(found[key].shape)} should be {tuple(expected[key].shape)}"
        for key in both
        if found[key].shape != expected[key].shape
    ]
    parts = [
        f"{len(names)} {what} ({_listed(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if not both:
        parts = parts or ["no tensor has a name of the model"]
    return f"{'; '.join(parts)}\n{_cure(missing, unexpected, expected)}" if parts else ""


def _without(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    allowed = tuple(patterns)
    return [n for n in names if not any(fnmatch.fnmatchcase(n, pattern) for pattern in allowed)]


def _cure(missing: list[str], unexpected: list[str], expected: Iterable[str]) -> str:
    """What to declare, unless the trunk itself differs."""
    trunk = {key.partition(".")[0] for key in expected}
    extra = _patterns(key for key in unexpected if key.partition(".")[0] not in trunk)
    cure = "Check that features.backbone is the model that the file was made for"
    if missing and len(missing) <= SHOWN:
        cure += f", or declare features.allow_missing = {_toml(_patterns(missing))}"
    if extra:
        cure += f". If the rest is heads or decoders: features.allow_unexpected = {_toml(extra)}"
    return cure


def _patterns(names: Iterable[str]) -> list[str]:
    """One pattern for each first part of the names; decoder_embed, decoder_norm -> decoder_*."""
    patterns = []
    for name in names:
        first, dot, _ = name.partition(".")
        if first.startswith("decoder_"):
            patterns.append("decoder_*")
        else:
            patterns.append(f"{first}.*" if dot else name)
    return list(dict.fromkeys(patterns))


def _toml(patterns: list[str]) -> str:
    return "[" + ", ".join(f'"{pattern}"' for pattern in patterns) + "]"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

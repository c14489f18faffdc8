"""How training codes spell one and the same model: what is renamed, and which heads are dropped.

    in    tensors of a checkpoint, prefixes stripped, and the layout that the table of backbones
          names for the model
    out   the same tensors as timm's own filter for the model takes them

Renaming goes by the names in the file, whatever the layout: no name means two things. Heads are
dropped by rule and only for a model whose layout is known: see LAYOUTS.
"""

import fnmatch
import re
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]

# Prefixes of tensor names; they are stripped again and again. The wanted copy of a model that is
# there twice comes first: the teacher before the student, MoCo's encoder before its momentum copy.
PREFIXES = (
    *("teacher.", "target_encoder.", "model_ema.", "ema.", "module.", "_orig_mod.", "model."),
    *("backbone.", "base_encoder.", "encoder_q.", "momentum_encoder.", "encoder."),
    *("student.", "net.", "trunk."),
)


def flat_blocks(tensors: Tensors) -> Tensors:
    """blocks.CHUNK.BLOCK.x -> blocks.BLOCK.x: DINOv2 trains with its blocks in chunks.

    The second number counts through all chunks, so it is the block's own.
    """
    found = {name: _CHUNKED.fullmatch(name) for name in tensors}
    return {
        f"blocks.{match.group(1)}" if (match := found[name]) else name: value
        for name, value in tensors.items()
    }


_CHUNKED = re.compile(r"blocks\.\d+\.(\d+\..+)")


def convert(tensors: Tensors, heads: tuple[str, ...], expected: Container[str]) -> Tensors:
    """Tensors named as timm's filters know them, heads left out.

    tensors: blocks already flat. heads: patterns of their names. expected: names in the model; a
    tensor of such a name is no head.
    """
    kept = {
        name: value
        for name, value in tensors.items()
        if name in expected or not _matches(name, heads)
    }
    return _gated_mlps(_registers(_masked_biases(kept)))


def chains(key: str) -> list[str]:
    """All chains of prefixes that `key` starts with, the empty one first."""
    found, start = [""], 0
    while prefix := next((p for p in PREFIXES if key.startswith(p, start)), ""):
        start += len(prefix)
        found.append(key[:start])
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """A pattern fits the name, whatever prefixes stand before it."""
    bare = [name[len(chain) :] for chain in chains(name)]
    return any(fnmatch.fnmatchcase(one, pattern) for pattern in patterns for one in bare)


def _masked_biases(tensors: Tensors) -> Tensors:
    """DINOv3 multiplies qkv.bias by qkv.bias_mask, which is zero for keys."""
    masks = {n.removesuffix("_mask"): v for n, v in tensors.items() if n.endswith(".bias_mask")}
    return {
        name: value * masks[name].to(value) if name in masks else value
        for name, value in tensors.items()
        if not name.endswith(".bias_mask")
    }


def _registers(tensors: Tensors) -> Tensors:
    """DINOv2 with registers, in the way of timm: no position is added to the class token later."""
    if not {"register_tokens", "cls_token", "pos_embed"} <= set(tensors):
        return tensors
    positions = tensors["pos_embed"]
    made = dict(tensors)
    made["reg_token"] = made.pop("register_tokens")
    made["cls_token"] = tensors["cls_token"] + positions[:, :1]
    made["pos_embed"] = positions[:, 1:]
    return made


def _gated_mlps(tensors: Tensors) -> Tensors:
    """mlp.w12 and mlp.w3 of DINOv2's giant -> fc1 and fc2. Files with w1 and w2 are others."""
    packed = {name.rpartition(".w12.")[0] for name in tensors if ".w12." in name}

    def renamed(name: str) -> str:
        for old, new in ((".w12.", ".fc1."), (".w3.", ".fc2.")):
            if name.rpartition(old)[0] in packed:
                return name.replace(old, new)
        return name

    return {renamed(name): value for name, value in tensors.items()}

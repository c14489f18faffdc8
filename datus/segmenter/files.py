"""The two files of a saved segmenter: NAME.safetensors and NAME.json.

    record = read_record(Path("scenes"))     what it is, without loading it
    model_files(Path("scenes.json"))         the two paths

The JSON holds the format, what the model is made of, its classes, the image that it expects, the
sha256 of its tensors and where it comes from. `segmenter` fills them. Loads no torch by itself.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datus.errors import BackboneError, UsageError
from datus.method.masks import PALETTE
from datus.types import ClassTable
from datus.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT = "checkpoint.pt"
"""Of a training under way, in the folder that it works in."""

FORMAT = 1
"""Of the saved files. A change that older files do not survive takes the next number."""


def read_record(path: Path) -> dict[str, Any]:
    """The JSON of a saved model. Raises UsageError (not there), BackboneError (cannot be used)."""
    weights, beside = model_files(path)
    try:
        for file in (weights, beside):
            if not file.is_file():
                made_of = f"{weights.name} and {beside.name}"
                raise UsageError(f"{file}: no such file; a model is {made_of}")
        record = json.loads(beside.read_bytes())
        number, version = int(record["format"]), str(record["datus"])
    except OSError as error:
        raise _unreadable(error, beside) from error
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise BackboneError(f"{beside}: {damaged(error)}") from error
    if number > FORMAT:
        raise BackboneError(
            f"{beside}: format {number}, made with datus {version}; datus {__version__} reads "
            f"up to format {FORMAT}: upgrade it"
        )
    if number < 1:
        raise BackboneError(f"{beside}: expected format 1 to {FORMAT}, got {number}")
    return dict(record)


def model_files(path: Path) -> tuple[Path, Path]:
    """(NAME.safetensors, NAME.json) for a path that is either, or NAME."""
    stem = str(path.expanduser())
    for suffix in (".safetensors", ".json"):
        stem = stem.removesuffix(suffix)
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")


def table_classes(table: ClassTable) -> dict[str, Any]:
    """`classes` of `save_segmenter` for a model trained on true classes."""
    colours = [list(colour) for colour in table.colours]
    return {"name": table.name, "names": list(table.names), "colours": colours}


def cluster_classes(n_clusters: int) -> dict[str, Any]:
    """`classes` of `save_segmenter` for a model trained on clusters, which have no names."""
    names = [f"cluster {number}" for number in range(n_clusters)]
    return {"name": "clusters", "names": names, "colours": PALETTE[:n_clusters].tolist()}


def check_classes(classes: Mapping[str, Any], n_classes: int) -> None:
    """UsageError unless there are as many names and colours."""
    names, colours = classes.get("names", ()), classes.get("colours", ())
    if len(names) != n_classes or len(colours) != n_classes:
        raise UsageError(
            f"classes: expected {n_classes} names and colours, got {len(names)} and {len(colours)}"
        )
    for colour in colours:
        if len(colour) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in colour):
            raise UsageError(f"classes: expected colours as [r, g, b], 0 to 255, got {colour}")


def tensor_bytes(state: Mapping[str, "Tensor"]) -> bytes:
    """safetensors; what float16 holds exactly is stored as float16. Same tensors, same bytes."""
    import torch
    from safetensors.torch import save

    tensors = {}
    for name in sorted(state):
        one = state[name].detach().cpu()
        if one.dtype == torch.float32 and torch.equal(one.half().float(), one):
            one = one.half()
        tensors[name] = one.contiguous()
    return bytes(save(tensors))


def read_tensors(weights: Path, record: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """As float32, after a look at their sha256. BackboneError if the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = weights.read_bytes()
        expected = record["weights"]["sha256"]
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError("its sha256 is not the one in its JSON")
        tensors = load(data)
    except OSError as error:
        raise _unreadable(error, weights) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BackboneError(f"{weights}: {damaged(error)}") from error
    return {name: one.float() if one.is_floating_point() else one for name, one in tensors.items()}


def check_architecture(given: Mapping[str, Any], tensors: Mapping[str, "Tensor"]) -> None:
    """Raises ValueError, TypeError, ArithmeticError or AttributeError if a ViT of these arguments
    could not be filled from `tensors`: numbers in a file may ask for any amount of memory.

    What its parts take at least is compared with MUCH times what there is.
    """
    width, depth = float(given.get("embed_dim", 768)), float(given.get("depth", 12))
    patch, image = (
        float(np.min(given.get(name, usual)))
        for name, usual in (("patch_size", 16), ("img_size", 224))
    )
    sides = float(np.max(given.get("patch_size", 16))), float(np.max(given.get("img_size", 224)))
    classes, ratio = float(given.get("num_classes", 1000)), float(given.get("mlp_ratio", 4))
    if min(width, depth, patch, image) < 1 or min(classes, ratio) < 0 or depth > len(tensors):
        raise ValueError(f"a model of {depth:g} blocks of {width:g}")
    blocks, places = depth * width * width * max(ratio, 3), (sides[1] / patch) ** 2 * width
    parts = blocks, places, 3 * sides[0] ** 2 * width, classes * width
    n_numbers = sum(one.numel() for one in tensors.values())
    if not max(parts) <= MUCH * n_numbers:
        raise ValueError(f"a model of {max(parts):.3g} numbers, its file has {n_numbers}")


MUCH = 16
"""Positions may be cut to fewer when a model is saved, and not all blocks have the same parts."""


def damaged(error: Exception) -> str:
    """What to say of a file that cannot be used."""
    reason = (str(error).splitlines() or [""])[0]
    return (
        f"damaged or changed ({type(error).__name__}: {reason}); copy both files of the model again"
    )


def _unreadable(error: OSError, path: Path) -> BackboneError:
    """It may be whole: whoever asks may not read it, or the disk does not give it."""
    reason = error.strerror or type(error).__name__
    return BackboneError(f"{path}: cannot be read: {reason}; make it readable for this user")

"""A text-image model (CLIP and its kin): crops and words into one space, by open_clip.

    in    uint8 (h, w, 3) crops of any size; sentences
    out   float32 (n, E) unit rows; a cosine says how well a sentence fits a crop

    model = load_text_image("ViT-B-32/laion2b_s34b_b79k", "cpu")
    model = load_text_image("models/ViT-B-32.mine.safetensors", "cpu")
    model.images(crops, n_threads=2), model.texts([prompts("sky"), ...], n_threads=2)

Weights are a checkpoint file, or open_clip's ARCHITECTURE/TAG: in the folder of DATUS_WEIGHTS as
ARCHITECTURE.TAG.safetensors, in the hub's cache, or fetched. A file's architecture is that of the
open_clip_config.json beside it, else what its name begins with. Files are read as all checkpoints
are, without running code. Words are cut by the tokeniser that open_clip brings; models that need
another one are refused. Needs the extra names; importing this module loads neither torch nor
open_clip.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datus.compute.threads import map_threads
from datus.errors import BackboneError, MissingPackage, UsageError
from datus.models import weights
from datus.models.checkpoints import read_checkpoint, strip_prefixes
from datus.models.forward import find_device, forward_pass, map_images, seeded
from datus.models.registry import SUFFIXES
from datus.types import Array

DEFAULT = "ViT-B-32/laion2b_s34b_b79k"

CONFIG = "open_clip_config.json"
"""Beside a checkpoint: its architecture, as repositories on the hub have it."""

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

UNUSED = ("logit_scale", "logit_bias")
"""Tensors that only training needs."""


def load_text_image(model: str, device: str = "cpu") -> "TextImage":
    """`model`: ARCHITECTURE/TAG of open_clip, or a checkpoint file; device as in `find_device`.

    Raises MissingPackage (no open_clip), UsageError (no such name or file), BackboneError (offline
    and not here, damaged, does not fit).
    """
    try:
        import open_clip  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise MissingPackage(
            f"suggest-names needs {error.name}, which is not installed: pip install 'datus[names]'"
        ) from None
    place = find_device(device)
    find = _find_file if model.endswith(SUFFIXES) else _find_name
    path, architecture, tag = find(model)
    built = _build(path, architecture, tag)
    _fill(built, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TextImage(built, model, digest, place)


class TextImage:
    """A frozen model.

    name    as given to `load_text_image`
    digest  sha256 of the weights' file
    """

    def __init__(self, model: Any, name: str, digest: str, device: str) -> None:
        import open_clip

        self._model = model.eval().requires_grad_(False).to(device)
        seen = open_clip.get_model_preprocess_cfg(model)
        size = seen["size"]
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        self._size = (int(width), int(height))
        self._mean = np.array(seen["mean"], np.float32)
        self._std = np.array(seen["std"], np.float32)
        length = open_clip.model.get_model_tokenize_cfg(model)["context_length"]
        self._tokens = open_clip.SimpleTokenizer(context_length=length)
        self.name, self.digest, self.device = name, digest, device

    def images(self, crops: Sequence[Array], n_threads: int, batch: int = 32) -> Array:
        """float32 (n, E): unit vectors of uint8 (h, w, 3) crops, each squeezed to the model's size.

        Squeezed, not cut: a strip of sky is seen to its ends.
        """

        def vectors(several: list[Array]) -> list[Array]:
            with forward_pass(several, self.device, "float32") as pixels:
                encoded = self._model.encode_image(pixels, normalize=True)
            return list(encoded.float().cpu().numpy())

        ready = [self._prepared(crop) for crop in crops]
        return self._checked(map_images(vectors, ready, self.device, n_threads, batch))

    def texts(self, sentences: Sequence[Sequence[str]], n_threads: int) -> Array:
        """float32 (n, E): of each group of sentences the mean of their unit vectors, as a unit
        vector. A group's vector does not depend on the others."""
        import torch

        def vector(group: Sequence[str]) -> Array:
            tokens = self._tokens(list(group)).to(self.device)
            with torch.inference_mode():
                encoded = self._model.encode_text(tokens, normalize=True)
            mean = encoded.float().cpu().numpy().mean(axis=0)
            return np.asarray(mean / np.maximum(np.linalg.norm(mean), 1e-12))

        threads = n_threads if self.device == "cpu" else 1
        return self._checked(map_threads(vector, sentences, threads))

    def _prepared(self, crop: Array) -> Array:
        small = Image.fromarray(crop).resize(self._size, Image.Resampling.BICUBIC)
        scaled = np.asarray(small, np.float32) / 255
        normal = (scaled - self._mean) / self._std
        return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)

    def _checked(self, rows: list[Array]) -> Array:
        vectors = np.array(rows, np.float32)
        if not np.isfinite(vectors).all():
            raise BackboneError(f"{self.name}: infinite values or NaN came out; other weights?")
        return vectors


# --- which file ---------------------------------------------------------------------------------
# (the file, its architecture: a name of open_clip or local-dir:FOLDER, and what open_clip knows of
# its tag: activation, normalisation)


def _find_file(model: str) -> tuple[Path, str, dict[str, Any]]:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    path = Path(model).expanduser()
    if not path.is_file():
        raise UsageError(f"--model {model}: {'a folder' if path.is_dir() else 'no such file'}")
    if (path.parent / CONFIG).is_file():
        return path, f"local-dir:{path.parent}", {}
    name, _, rest = path.name.partition(".")
    if name not in open_clip.list_models():
        raise UsageError(
            f"--model {model}: of which architecture? Put its {CONFIG} beside it, or name it "
            "ARCHITECTURE.ANYTHING, such as ViT-B-32.mine.safetensors"
        )
    return path, name, dict(get_pretrained_cfg(name, rest.partition(".")[0]))


def _find_name(model: str) -> tuple[Path, str, dict[str, Any]]:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    name, _, tag = model.partition("/")
    if not name or not tag:
        raise UsageError(
            f"--model {model}: expected ARCHITECTURE/TAG of open_clip, such as {DEFAULT}, or a "
            f"file that ends in {', '.join(SUFFIXES)}"
        )
    if name not in open_clip.list_models():
        near = weights.near(name, open_clip.list_models())
        raise UsageError(
            f"--model {model}: open_clip has no {name}"
            + (f"; did you mean {near}?" if near else "")
        )
    known = dict(get_pretrained_cfg(name, tag))
    if not known:
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        raise UsageError(f"--model {model}: open_clip's weights of {name} are: {tags}")
    _check_config(model, open_clip.get_model_config(name))
    path = weights.local_file(f"{name}.{tag}") or _in_cache(known) or _fetched(model, known)
    return path, name, known


def _in_cache(known: dict[str, Any]) -> Path | None:
    """The weights in the cache of the hub's client, or None."""
    repo, files = _on_hub(known)
    folder = weights.hub_cache() / f"models--{repo.replace('/', '--')}" / "snapshots"
    paths = (path for file in files for path in sorted(folder.glob(f"*/{file}")) if repo)
    return next((path for path in paths if path.is_file()), None)


def _fetched(model: str, known: dict[str, Any]) -> Path:
    if weights.is_offline() or not weights.hub_answers():
        why = "offline" if weights.is_offline() else "the hub is out of reach"
        raise BackboneError(
            f"{model}: {why}, and its weights are not on this machine; {_cure(model, known)}"
        )
    from open_clip.pretrained import download_pretrained

    try:
        return Path(download_pretrained(known))
    except Exception as error:  # the hub's client raises many unrelated types
        raise BackboneError(
            f"{model}: its weights could not be fetched from the hub ({type(error).__name__}); "
            f"{_cure(model, known)}"
        ) from error


def _cure(model: str, known: dict[str, Any]) -> str:
    """Which file to put where."""
    repo, files = _on_hub(known)
    name = model.replace("/", ".", 1)
    file = f"{files[0]} of https://huggingface.co/{repo}" if repo else str(known.get("url", ""))
    kept = f"{name}{Path(files[0]).suffix}"
    return (
        f"put {file} as {kept} into a folder and set {weights.FOLDER} to the folder, "
        "or set --model to the file"
    )


def _on_hub(known: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(repository, what its weights may be called); no repository: an address of its own."""
    repo, _, file = str(known.get("hf_hub", "")).rpartition("/")
    if not repo:
        return "", (str(known.get("url", "")).rpartition("/")[2],)
    return repo, (f"{Path(file).stem}.safetensors", file) if file else HUB_FILES


# --- the model ----------------------------------------------------------------------------------


def _build(path: Path, architecture: str, tag: dict[str, Any]) -> Any:
    """The model with random weights; nothing is fetched."""
    import open_clip

    try:
        _check_config(str(path), open_clip.factory.get_model_config(architecture))
        with seeded(0), _quiet():
            return open_clip.create_model(
                architecture,
                load_weights=False,
                force_quick_gelu=bool(tag.get("quick_gelu")),
                force_preprocess_cfg={name: tag.get(name) for name in ("mean", "std")},
                pretrained_text=False,
            )
    except BackboneError:
        raise
    except Exception as error:  # a config of others can break the constructors in any way
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path}: open_clip cannot build {architecture} ({why})") from error


def _check_config(name: str, config: Any) -> None:
    """Refuse what would be looked up elsewhere: texts or tokenisers of the hub, models by address.

    A config lies beside a checkpoint and is as little trusted.
    """
    parts = [config.get(part) for part in ("text_cfg", "vision_cfg")] if config else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise BackboneError(f"{name}: {CONFIG}: expected text_cfg and vision_cfg in model_cfg")
    text, vision = parts
    foreign = [key for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)]
    if foreign or text.get("tokenizer_kwargs"):
        raise BackboneError(
            f"{name}: needs a tokeniser that open_clip does not bring; take a model with its own, "
            f"such as {DEFAULT}"
        )
    if ":" in str(vision.get("timm_model_name", "")):
        raise BackboneError(f"{name}: {CONFIG}: expected a model of timm by name, not by address")


def _fill(model: Any, path: Path) -> None:
    """The file's tensors, in place. Raises BackboneError if one is missing or does not fit."""
    from open_clip.model import convert_to_custom_text_state_dict

    expected = {key: value for key, value in model.state_dict().items() if key not in UNUSED}
    tensors = strip_prefixes(read_checkpoint(path), expected)
    if "positional_embedding" in tensors and "positional_embedding" not in expected:
        tensors = convert_to_custom_text_state_dict(tensors)  # how the first models were saved
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected and key not in UNUSED]
    misshapen = [k for k in expected if k in tensors and tensors[k].shape != expected[k].shape]
    faults = (("lacks", missing), ("has", unexpected), ("has another shape of", misshapen))
    for what, names in faults:
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise BackboneError(
                f"{path}: does not fit the model: it {what} {', '.join(names[:3])}{more}; "
                "is the architecture the one that it was made for?"
            )
    model.load_state_dict({key: tensors[key].float() for key in expected}, strict=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """open_clip warns that no weights were loaded; they come right after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

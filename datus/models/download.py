"""Weights of timm's part of the hub, before a run needs them: `datus backbones NAME --fetch`.

    fetch("vit_small_patch8_224.dino")      what was done and where the file is, as rows of text

The file goes into the cache of the hub's client, huggingface_hub, where timm looks for it: later
runs need no network. HF_ENDPOINT names a mirror, HF_HOME another place for the cache. The client
downloads beside the cache and moves the whole file into it, so a download that ends early leaves
nothing that a run would take for weights.
"""

from collections.abc import Iterator
from pathlib import Path

from datus.errors import BackboneError, UsageError, size_text
from datus.models.registry import find
from datus.models.vit import hub_name
from datus.models.weights import (
    FOLDER,
    HUB_FILES,
    OFFLINE,
    cure,
    hub_address,
    hub_answers,
    hub_cache,
    hub_file,
    is_offline,
    licence,
    local_file,
    model_path,
)


def fetch(name: str) -> list[tuple[str, str]]:
    """Download the weights of a model unless they are here. What it is -> what there is to say.

    name: as in the table, or of any other model of timm, which has to be loaded then.
    Raises UsageError if there is nothing to fetch, BackboneError if it cannot be fetched.
    """
    if path := model_path(name):
        raise UsageError(f"{name}: needs no download, its weights are {path}")
    if path := local_file(name):
        return _facts(name, name, path, f"already in {FOLDER}, which is used before the hub")
    row = find(name)
    if row and not row.family.on_hub:
        raise BackboneError(f"{name}: timm has no weights for it; {cure(name)}")
    tagged = name if row else hub_name(name)
    if path := hub_file(tagged):
        return _facts(name, tagged, path, "already in the hub's cache")
    if is_offline():
        raise BackboneError(
            f"{name}: {OFFLINE} or HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or "
            f"{cure(tagged)}"
        )
    if not hub_answers():
        raise BackboneError(_no_answer(tagged))
    path = _download(tagged)
    _check_whole(tagged, path)
    return _facts(name, tagged, path, "fetched from the hub")


def _facts(name: str, tagged: str, path: Path, done: str) -> list[tuple[str, str]]:
    return [
        ("name", name),
        ("weights", done),
        ("file", str(path)),
        ("size", size_text(path.stat().st_size)),
        ("licence", licence(tagged, "hub")),
        ("use them", f"datus run --images IMAGES --clusters 12 --backbone {name}"),
    ]


def _download(name: str) -> Path:
    """The first of HUB_FILES that the hub has. Raises BackboneError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for file in HUB_FILES:
        try:
            path = hf_hub_download(
                f"timm/{name}", file, cache_dir=hub_cache(), endpoint=hub_address()
            )
            return Path(path)
        except Exception as error:  # the hub's client raises many unrelated types
            status = _status(error)
            if status == 404 and file != HUB_FILES[-1]:
                continue
            if status:
                raise BackboneError(_refused(name, status)) from error
            if isinstance(error, LocalEntryNotFoundError):
                raise BackboneError(_no_answer(name)) from error
            if isinstance(error, OSError) and error.strerror:
                raise BackboneError(
                    f"{hub_cache()}: {error.strerror}; make room there or make it writable, or "
                    "set HF_HOME to another folder"
                ) from error
            raise BackboneError(
                f"{name}: the download broke off ({type(error).__name__}) and nothing of it was "
                f"kept; run the same command again, or {cure(name)}"
            ) from error
    raise AssertionError("unreachable: the last file is returned or raises")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: Exception) -> int:
    """What the hub answered, in HTTP's numbers; 0 = no answer is known."""
    answers = (getattr(one, "response", None) for one in _causes(error))
    return next((int(one.status_code) for one in answers if one is not None), 0)


def _refused(name: str, status: int) -> str:
    page = f"{hub_address()}/timm/{name}"
    if status in (401, 403):
        return (
            f"{name}: the hub refuses {page} ({status}); accept its terms on that page, log in "
            f"with hf auth login or set HF_TOKEN, and try again, or {cure(name)}"
        )
    if status == 404:
        return (
            f"{name}: no weights at {page} (404); check HF_ENDPOINT if it is set, or {cure(name)}"
        )
    return f"{name}: the hub answered {status} for {page}; try again later, or {cure(name)}"


def _no_answer(name: str) -> str:
    return (
        f"{name}: {hub_address()} does not answer; check the network, HTTPS_PROXY and HF_ENDPOINT, "
        f"or {cure(name)}"
    )


def _check_whole(name: str, path: Path) -> None:
    """A file of tensors from its first byte to its last, else it is removed. BackboneError."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return  # torch's own format is read without running code, and refused, when it is loaded
    try:
        with safe_open(path, framework="numpy"):
            return
    except SafetensorError as error:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise BackboneError(
            f"{name}: what {hub_address()} sent is not a file of weights ({error}) and was "
            f"removed; check HF_ENDPOINT if it is set, or {cure(name)}"
        ) from error

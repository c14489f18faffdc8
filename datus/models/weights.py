"""Where a model's weights are: shipped, a file, the hub; and how they get there.

    find_weights("vit_small_patch8_224.dino", "auto")    a file, or "hub"
    weights_id(...)                                      what stands for them in a fingerprint
    fetch(name)                                          downloads them; nothing else here does
    listing(), describe(name)                            for people
    better_backbone(config)                              what to take in place of the shipped model

The environment variable DATUS_WEIGHTS names a folder that is looked into before the hub: NAME with
any suffix of a weight file, or the authors' own file name. DATUS_OFFLINE=1 keeps the network out
of it. Weights of the hub lie in the cache of its client, huggingface_hub, where timm looks for
them. Importing this module loads neither torch nor timm.
"""

import difflib
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datus.config import EMBEDDED_BACKBONE, Config
from datus.errors import BackboneError, UsageError, size_text
from datus.models.registry import (
    FILTERS,
    LARGER,
    PATCHES_PER_SIDE,
    RECOMMENDED,
    ROWS,
    SUFFIXES,
    Row,
    find,
    suggestions,
)

MODELS = Path(__file__).parent / "weights"

FOLDER, OFFLINE = "DATUS_WEIGHTS", "DATUS_OFFLINE"

HUB_FILES = ("model.safetensors", "pytorch_model.bin")

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def find_weights(backbone: str, weights: str) -> Path | str:
    """The file to read, or "hub" or "random". `weights` as in FeaturesConfig.

    Raises UsageError, or BackboneError if there are no such weights, as far as that can be known
    without loading timm.
    """
    shipped, row = model_path(backbone), find(backbone)
    if shipped and not shipped.is_file():
        raise UsageError(
            f"features.backbone: {shipped}: no such file; pipelines/pretrain/train.py writes such "
            "files"
        )
    if backbone.startswith("datus_") and shipped is None:
        names = sorted(path.stem for path in MODELS.glob("*.safetensors"))
        raise BackboneError(
            f"{backbone}: this package does not ship that model; "
            f"it has {near(backbone, names) or 'none'}, or take any timm ViT by name"
        )
    if weights == "auto" and shipped:
        return shipped
    if weights == "random" and row and row.family is FILTERS:
        raise UsageError(
            f"features.weights: {backbone} learned nothing that could be random: use auto"
        )
    if weights == "hub" and shipped:
        raise UsageError(f"features.weights: {backbone} is shipped, not on the hub; use auto")
    if weights in ("auto", "hub"):
        local = local_file(backbone)
        if local is None and row and not row.family.on_hub:
            raise BackboneError(f"{backbone}: timm has no weights for it; {cure(backbone)}")
        return local or "hub"
    if weights == "random":
        return weights
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UsageError(
            f"features.weights: expected auto, hub, random or a file, got {weights!r}, "
            f"which is {'a folder' if path.is_dir() else 'not there'}"
        )
    return path


def weights_id(backbone: str, weights: str) -> str:
    """What stands for the weights in a fingerprint: sha256:..., hub:NAME or random:NAME.

    Arguments and errors as in `find_weights`.
    """
    source = find_weights(backbone, weights)
    if isinstance(source, str):
        return f"{source}:{backbone}"
    return f"sha256:{_digest(source, 'sha256')}"


def _digest(path: Path, kind: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, kind).hexdigest()
    except OSError as error:
        raise BackboneError(f"{path}: {error.strerror}") from error


# --- models of ours -----------------------------------------------------------------------------


def model_path(name: str) -> Path | None:
    """The weights of the shipped model `name`, or None if the package ships no such model.

    A `name` that ends in .safetensors is the path of one that pipelines/pretrain/train.py made.
    """
    if name.endswith(".safetensors"):
        return Path(name).expanduser()
    path = MODELS / f"{name}.safetensors"
    return path if Path(name).name == name and path.is_file() else None


def own_record(weights: Path) -> dict[str, Any]:
    """The record beside the weights of a model of ours, with the defaults filled in.

    "architecture" are the arguments of its class in timm, "patches_per_side" is the side of the
    grid that it wants at image_px = "auto". Raises BackboneError: missing or damaged.
    """
    try:
        text = weights.with_suffix(".json").read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads(text)
        sides = {
            "patch_size": record["architecture"].setdefault("patch_size", 16),  # as in timm
            "patches_per_side": record.setdefault("patches_per_side", PATCHES_PER_SIDE),
        }
        for name, side in sides.items():
            if type(side) is not int or not 1 <= side <= 512:
                raise ValueError(f"{name}: expected 1 to 512, got {side!r}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise unusable_record(weights, error) from error
    return record


def unusable_record(weights: Path, error: Exception) -> BackboneError:
    """What to raise if the record beside `weights` describes no model."""
    cure = "the training writes it beside the weights; keep the two together"
    if weights.parent == MODELS:
        cure = "install the package again"
    path = weights.with_suffix(".json")
    return BackboneError(f"{path}: not a usable training record ({error}); {cure}")


def patches_per_side(name: str) -> int:
    """Of the grid that an image has at image_px = "auto": 28, unless the record of a model of ours
    states another number. Errors as in `own_record`."""
    own = model_path(name)
    return int(own_record(own)["patches_per_side"]) if own else PATCHES_PER_SIDE


# --- files of this machine ----------------------------------------------------------------------


def local_file(name: str) -> Path | None:
    """The weights of the model `name` in the folder that DATUS_WEIGHTS names, or None."""
    folder = os.environ.get(FOLDER, "")
    if not folder:
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UsageError(f"{FOLDER}: expected a folder, got {folder!r}, which is not there")
    return _first_file(root, file_names(name))


def file_names(name: str) -> list[str]:
    """What the file of the model `name` may be called, the first choice first."""
    row = find(name)
    own = [f"{name}{suffix}" for suffix in SUFFIXES]
    return [*own, row.file] if row and row.file else own


def hub_file(name: str) -> Path | None:
    """The weights of a timm model in the cache of the hub's client, or None.

    Looks where the client looks without a network: in the version that it asked for last.
    """
    folder = hub_cache() / f"models--timm--{name}"
    try:
        version = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return _first_file(folder / "snapshots" / version, HUB_FILES)


def _first_file(folder: Path, names: tuple[str, ...] | list[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def hub_cache() -> Path:
    """Where the hub's client keeps what it fetched, by the variables that it goes by.

    The client's own constant is fixed when it is imported, which takes a second.
    """
    env = os.environ
    if cache := env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


# --- the network --------------------------------------------------------------------------------


def is_offline() -> bool:
    """DATUS_OFFLINE or HF_HUB_OFFLINE is set."""
    given = (os.environ.get(name, "") for name in (OFFLINE, "HF_HUB_OFFLINE"))
    return any(value.lower() not in ("", "0", "false", "no", "off") for value in given)


def hub_address() -> str:
    """Of the hub, or of the mirror that HF_ENDPOINT names."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_answers() -> bool:
    """The hub takes connections, or a proxy is set. The hub's client would retry for a minute."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    try:
        address = urlsplit(hub_address())
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except (OSError, ValueError):  # ValueError: not an address
        return False
    return True


def fetch(name: str) -> list[tuple[str, str]]:
    """Download the weights of a model unless they are here. What it is -> what there is to say.

    name: as in the table, or of any other model of timm, which has to be loaded then. HF_ENDPOINT
    names a mirror, HF_HOME another place for the cache. The client downloads beside the cache and
    moves the whole file into it, so a download that ends early leaves nothing that a run would take
    for weights. Raises UsageError if there is nothing to fetch, BackboneError if it cannot be
    fetched.
    """
    if path := model_path(name):
        raise UsageError(f"{name}: needs no download, its weights are {path}")
    row = find(name)
    tagged, done = name, f"already in {FOLDER}, which is used before the hub"
    path = local_file(name)
    if path is None:
        if row and not row.family.on_hub:
            raise BackboneError(f"{name}: timm has no weights for it; {cure(name)}")
        tagged, done = name if row else hub_name(name), "already in the hub's cache"
        path = hub_file(tagged)
    if path is None:
        path, done = _download(name, tagged), "fetched from the hub"
    return [
        ("name", name),
        ("weights", done),
        ("file", str(path)),
        ("size", size_text(path.stat().st_size)),
        ("licence", licence(tagged, "hub")),
        ("use them", f"datus run --images IMAGES --clusters 12 --backbone {name}"),
    ]


def _download(name: str, tagged: str) -> Path:
    """The first of HUB_FILES that the hub has. Raises BackboneError."""
    if is_offline():
        raise BackboneError(
            f"{name}: {OFFLINE} or HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or "
            f"{cure(tagged)}"
        )
    if not hub_answers():
        raise BackboneError(f"{tagged}: {_no_answer()}, or {cure(tagged)}")
    from huggingface_hub import hf_hub_download

    for file in HUB_FILES:
        try:
            path = Path(
                hf_hub_download(
                    f"timm/{tagged}", file, cache_dir=hub_cache(), endpoint=hub_address()
                )
            )
        except Exception as error:  # the hub's client raises many unrelated types
            if _status(error) == 404 and file != HUB_FILES[-1]:
                continue
            why = _why_not(tagged, error)
            end = "" if isinstance(error, OSError) and error.strerror else f", or {cure(tagged)}"
            raise BackboneError(f"{why}{end}") from error
        _check_whole(tagged, path)
        return path
    raise AssertionError("unreachable: the last file is returned or raises")


def _status(error: BaseException | None) -> int:
    """What the hub answered, in HTTP's numbers; 0 = no answer is known."""
    while error is not None:
        answer = getattr(error, "response", None)
        if answer is not None:
            return int(answer.status_code)
        error = error.__cause__
    return 0


def _why_not(name: str, error: Exception) -> str:
    """Why a download failed, and what to do about it."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    page, status = f"{hub_address()}/timm/{name}", _status(error)
    if status in (401, 403):
        return (
            f"{name}: the hub refuses {page} ({status}); accept its terms on that page, log in "
            "with hf auth login or set HF_TOKEN, and try again"
        )
    if status == 404:
        return f"{name}: no weights at {page} (404); check HF_ENDPOINT if it is set"
    if status:
        return f"{name}: the hub answered {status} for {page}; try again later"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{name}: {_no_answer()}"
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{hub_cache()}: {error.strerror}; make room there or make it writable, or "
            "set HF_HOME to another folder"
        )
    return (
        f"{name}: the download broke off ({type(error).__name__}) and nothing of it was "
        "kept; run the same command again"
    )


def _no_answer() -> str:
    return f"{hub_address()} does not answer; check the network, HTTPS_PROXY and HF_ENDPOINT"


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


# --- what timm has ------------------------------------------------------------------------------


def hub_name(name: str) -> str:
    """Of a model of timm, also one outside the table: its repository in timm's part of the hub.

    Raises BackboneError if there is no such model or timm has no weights for it there.
    """
    import timm

    check_timm_name(name, pretrained=True)
    tagged = with_tag(name)
    if timm.get_pretrained_cfg(name).hf_hub_id != f"timm/{tagged}":
        raise BackboneError(
            f"{name}: timm takes its weights from elsewhere, not from timm/{tagged} on the hub; a "
            "run downloads them when it needs them"
        )
    return tagged


def with_tag(name: str) -> str:
    """The name of a timm model with the tag of its weights, where that was left to timm, too."""
    if find(name) or "." in name:
        return name
    import timm

    tag = getattr(timm.get_pretrained_cfg(name), "tag", "")
    return f"{name}.{tag}" if tag else name


def check_timm_name(name: str, pretrained: bool) -> None:
    """BackboneError, with the names that are near, if timm has no such model."""
    import timm

    tagged = timm.list_models(pretrained=True)
    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture) or (dot and name not in tagged):
        names = near(name, [*timm.list_models(), *tagged])
        raise BackboneError(
            f"{name}: timm has no such model" + (f"; did you mean {names}?" if names else "")
        )
    if pretrained and not timm.models.is_model_pretrained(name):
        raise BackboneError(
            f"{name}: timm has no weights for it; set features.weights to a file, or to random"
        )


# --- cures and terms ----------------------------------------------------------------------------


def cure(name: str) -> str:
    """Which file to put where."""
    row = find(name)
    folder = os.environ.get(FOLDER, "")
    place = f"into {folder}" if folder else f"into a folder and set {FOLDER} to the folder"
    if row is None:
        file = f"model.safetensors of https://huggingface.co/timm/{name} as {name}.safetensors"
    elif row.file:
        file = f"{row.file} ({row.url or row.family.source})"
    elif row.url:
        file = f"{row.url} as {name}.pth"
    else:
        file = f"a checkpoint of {row.family.source} as {name}.pth"
    asked = f" (gated: ask at {row.family.gated})" if row and row.family.gated else ""
    return f"put {file}{asked} {place}, or set features.weights to the file"


def near(name: str, names: list[str]) -> str:
    """Up to three names like `name`, with commas."""
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.5))


def not_here(name: str) -> str:
    """Why weights of the hub cannot be had: there is no network, and they are not here."""
    why = "offline" if is_offline() else "the hub is out of reach"
    return (
        f"{name}: {why}, and its weights are not on this machine; run datus backbones {name} "
        f"--fetch where there is a network, or {cure(name)}"
    )


def notice(backbone: str, weights: str) -> str:
    """What to know before the weights are fetched from the hub: terms that need consent."""
    row = find(backbone)
    if not (row and row.family.gated) or find_weights(backbone, weights) != "hub":
        return ""
    return (
        f"{backbone}: the weights have the {row.family.licence}. Its authors give their own files "
        f"to those who accept it ({row.family.gated}); timm's copy on the hub was not gated when "
        "this was written, but has the same licence"
    )


def licence(backbone: str, known: str) -> str:
    """Terms of the weights, as far as the table or timm tell. `known` as `weights_id` gives it."""
    row = find(backbone)
    if known.startswith("random"):
        return "none, nobody trained them"
    if row is not None:
        return f"{row.family.licence} ({row.family.source})"
    if known.startswith("hub"):
        import timm

        stated = getattr(timm.get_pretrained_cfg(backbone), "license", None)
        if stated:
            return f"{stated}, as timm states it"
    return "not known here: ask those who made the weights"


def check_learnable(backbone: str) -> None:
    """BackboneError if the model has no features that a segmenter could learn from."""
    row = find(backbone)
    if row and row.family is FILTERS:
        raise BackboneError(
            f"{backbone}: filters have no features that a segmenter could learn from; take a ViT, "
            "such as datus_t8, or kind deeplabv3"
        )


# --- for people ---------------------------------------------------------------------------------


def listing() -> list[tuple[str, ...]]:
    """The whole table: a header and one row for each model."""
    header = ("name", "scheme", "patch", "params", "pretraining data", "licence", "gated")
    rows: list[tuple[str, ...]] = [(*header, "weights here", "recommended")]
    marks = {RECOMMENDED: "yes", LARGER: "yes, larger"}
    for row in ROWS:
        family = row.family
        patch = str(row.patch_px) if row.patch_px else "CNN"
        facts = (patch, f"{row.parameters / 1e6:.1f}M", family.data, family.licence)
        gated = "authors' files" if row.family.gated else "no"
        here = (presence(row.name), marks.get(row.name, ""))
        rows.append((row.name, family.scheme, *facts, gated, *here))
    return rows


def advice() -> str:
    """What the table recommends, in words."""
    return (
        f"recommended: {RECOMMENDED}; with more memory and time, {LARGER}\n"
        f"without a network: {EMBEDDED_BACKBONE}; where classes are colours or grey levels "
        "(microscopes, CT, satellites), datus_filters_p4, or datus_filters for finer masks\n"
        "datus backbones NAME says all about one model, datus backbones NAME --fetch downloads its "
        "weights"
    )


def presence(name: str) -> str:
    """Where the weights of the model are: shipped, DATUS_WEIGHTS, hub cache, or what to do."""
    if model_path(name):
        return "shipped"
    if local_file(name):
        return FOLDER
    if hub_file(name):
        return "hub cache"
    row = find(name)
    if row and row.family.on_hub:
        return f"downloads on first use ({row.download_size})"
    return "no, a file is needed"


def better_backbone(config: Config, command: str = "") -> str:
    """Which model gives better masks than the shipped one, in one line; empty for other runs.

    command: the same run with that model; without it, what has to be added to the command that
    was given. That line is for the report: it depends on the run alone, not on the machine.
    """
    features, clusters = config.features, config.clusters
    other = features.backbone != EMBEDDED_BACKBONE or features.weights == "random"
    if other or clusters.frozen or clusters.edits:  # clusters and edits are those of one model
        return ""
    row = next(row for row in ROWS if row.name == RECOMMENDED)
    size = f"downloads {row.download_size} on first use"
    begin = f"{EMBEDDED_BACKBONE} is a small model: for better masks"
    if not command:
        return f"{begin} add --backbone {RECOMMENDED} to the same command (it {size})"
    here = local_file(RECOMMENDED) or hub_file(RECOMMENDED)
    return f"{begin} run  {command}  ({'its weights are here' if here else size})"


def describe(name: str) -> list[tuple[str, str]]:
    """All that is known of one model. UsageError if it is not in the table."""
    row = find(name)
    if row is None:
        names = suggestions(name)
        raise UsageError(
            f"{name}: not in the table"
            + (f"; did you mean {names}?" if names else "")
            + "\nAny other ViT of timm works too, by name"
        )
    return list(_facts(row))


def _facts(row: Row) -> Iterator[tuple[str, str]]:
    family, name = row.family, row.name
    yield "name", name
    yield "scheme", family.scheme
    yield "kind", row.kind
    if not row.is_cnn:
        side = patches_per_side(name)
        yield "image_px = auto", f"{side * row.patch_px} ({side} x {side} patches)"
    yield "parameters", f"{row.parameters:,}"
    yield "pretraining data", family.data
    yield "licence", family.licence
    yield "source", family.source
    yield "gated", f"the authors' files: ask at {family.gated}" if family.gated else "no"
    options = ", ".join(f"{key}={value}" for key, value in row.options.items())
    yield "timm", f"{row.model} {options}".rstrip()
    yield "on the hub", f"timm/{name}, {row.download_size}" if family.on_hub else "no"
    yield "authors' file", row.file or "-"
    yield "address", row.url or "-"
    yield "digest", row.digest or "not stated by its authors"
    yield "layout", f"{family.layout}: {family.looks}"
    yield from ((f"shape of {key}", str(shape)) for key, shape in row.shapes.items())
    yield "weights here", _here(row)
    if note := row.note or family.note:
        yield "note", note
    if not (model_path(name) or local_file(name)):
        yield "to use a file", cure(name)


def _here(row: Row) -> str:
    """Path of the weights, and whether they are the file that the authors released."""
    path = model_path(row.name) or local_file(row.name) or hub_file(row.name)
    if path is None:
        return presence(row.name)
    kind, _, digits = row.digest.partition(":")
    if path.name != row.file or not digits:
        return str(path)
    same = _digest(path, kind).startswith(digits)
    return f"{path}, {'as the authors stated' if same else 'NOT the file that the digest is of'}"

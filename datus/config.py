"""Every setting, one frozen class for each stage, the reason or the paper's section beside each.

    Config.load(Path("pipelines/suim.toml"))            from a file
    Config.load(None, {"data.images": "photos"})        from nothing but overrides
    build(SpeedConfig, {"workers": 4})                  any such class from a table

A preset fills in values first ("best" is the default, "paper" does what the authors did), then
comes the file, then the overrides. A wrong value is an error that says what was expected, an
unknown key one that names the nearest setting.

msgspec checks types and limits when settings are loaded. To import it and to load all settings
takes 17 ms; with pydantic that is 105 ms, and its strict mode takes neither a list for a tuple nor
a table for a dataclass.
"""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from datus.errors import ConfigError, UsageError
from datus.models.registry import resolve
from datus.types import MAX_CLUSTERS

Settings = TypeVar("Settings")

NAMELESS = ("images", "image", "imgs", "img")
"""Names of folders that say nothing of what is in them."""

EMBEDDED_BACKBONE = "datus_t8"

# --- sections -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What goes in."""

    images: str = ""
    """Folder of images; sub-folders are read too."""
    truth: str = ""
    """Folder of true masks, same names as the images; empty = nothing to score against."""
    classes: str = ""
    """TOML that says what the ids in the true masks mean; needed with `truth`."""
    shard_images: Annotated[int, Meta(ge=1, le=100_000)] = 32
    """Images a shard holds on average: what a kill loses, what a worker takes at a time."""
    max_pixels: Annotated[int, Meta(ge=1, le=10**12)] = 200_000_000
    """An image that claims more is refused before it is decoded (decompression bombs)."""


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """One forward pass of a frozen self-supervised ViT (paper III-A)."""

    backbone: str = EMBEDDED_BACKBONE
    """The embedded model, or any timm ViT by name, for example vit_small_patch8_224.dino; names of
    the authors, such as dino_vits8 or facebook/dinov2-small, stand for the same models."""
    weights: str = "auto"
    """auto = embedded if the package ships it, else a file in the folder DATUS_WEIGHTS, else hub;
    hub; random; or a path to a .safetensors or .pth file (docs/backbones.md)."""
    allow_missing: tuple[str, ...] = ()
    """Tensors (patterns) that the checkpoint may lack. Anything else missing is an error."""
    allow_unexpected: tuple[str, ...] = ()
    """Tensors (patterns) that the checkpoint may have beyond the model: heads, decoders."""
    image_px: Annotated[int, Meta(ge=8, le=4096)] | Literal["auto"] = "auto"
    """The side T in pixels that the ViT sees; with resize = keep, the side of a square of the same
    area. auto = 28 patches a side: 224 pixels for patches of 8, 392 for 14, 448 for 16. Patches are
    the pixels of this method: a segment needs embeddings.min_patches of them, whatever their size.
    A model that takes one size only gets that size, squashed (docs/method.md)."""
    resize: Literal["keep", "squash"] = "keep"
    """keep the aspect ratio, sides rounded to patches; squash to T x T is what the paper did."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the forward pass. Changes bytes, so it is a setting and not a matter of speed."""
    store: Literal["float32", "float16"] = "float16"
    """Of the stored keys and tokens. float16 halves the disk and the time to write; scores stay
    where they are (docs/decisions.md 28)."""
    keep: bool = True
    """False: never written; features, graphs and segments are then made in one go."""


@dataclass(frozen=True, slots=True)
class GraphsConfig:
    """Keys to packed affinity bits (paper III-B, eq. 1)."""

    center: Literal["auto", "none", "image", "dataset", "position"] = "auto"
    """Which mean key is subtracted first: of the image, of the dataset, or of each place of the
    grid over the dataset (keys carry position). The paper subtracts none. auto = the mean of each
    place where the place explains most of the keys' variance, and then the mean of 32 groups of
    keys, in which a thing counts once, however large it is."""
    density: Annotated[float, Meta(ge=0.001, le=0.9)] = 0.09
    """Share of all pairs of patches within images to link, over the dataset: the most similar ones.
    It sets one threshold for all images, which suits the backbone: keys of large models agree less
    than those of small ones (docs/decisions.md 70)."""
    threshold: Annotated[float, Meta(ge=0.0, le=0.999)] | Literal["auto"] = "auto"
    """auto = as `density` says. A number takes the place of the density: it links patches whose
    cosine is above it; 0 is the paper's graph."""
    keep: bool = True
    """False: never written; graphs and segments are then made in one go."""

    @property
    def by_density(self) -> bool:
        return self.threshold == "auto"

    @property
    def over_dataset(self) -> bool:
        """A mean or a threshold over all images is needed before the first graph."""
        return self.center in ("auto", "dataset", "position") or self.by_density


@dataclass(frozen=True, slots=True)
class SegmentsConfig:
    """Louvain communities, split into connected segments (paper III-C, eq. 2)."""

    backend: Literal["bits", "scikit-network", "python-louvain", "leiden"] = "bits"
    """bits is ours, on packed bits; scikit-network is what the authors ran; python-louvain is the
    slow reference; leiden needs the extra of that name."""
    restarts: Annotated[int, Meta(ge=1, le=1000)] = 2
    """Node orders, the best modularity wins; more do not better the masks (decisions 25)."""


@dataclass(frozen=True, slots=True)
class EmbeddingsConfig:
    """Segments to unit vectors (paper III-D)."""

    mode: Literal["pool", "crop"] = "pool"
    """pool = mean patch token of the first pass; crop = CLS of each masked crop (paper)."""
    crop: Literal["whole", "paper"] = "whole"
    """whole = the segment stays visible; paper = short side to 256, centre 224, rim cut off."""
    crop_px: Annotated[int, Meta(ge=8, le=4096)] = 224
    """Side of the square that the embedder sees in crop mode."""
    min_patches: Annotated[int, Meta(ge=1, le=10**6)] = 6
    """A segment is valid with more than five patches, at every patch size (paper IV-B): 0.8 % of
    the 784 patches of an image at image_px = auto. The number does not follow another image_px."""
    backbone: str = "same"
    """The embedder in crop mode: same = the one of [features]; a ViT, or a CNN (paper IV-D)."""
    weights: str = "auto"
    """Of that backbone, as in [features]."""


@dataclass(frozen=True, slots=True)
class ClustersConfig:
    """k-means over the valid segments of the dataset (paper III-D)."""

    k: tuple[Annotated[int, Meta(ge=1, le=MAX_CLUSTERS)], ...] = (12,)
    """Clusters. Several values make a sweep: nothing before this stage runs twice."""
    pca: Annotated[int, Meta(ge=-1, le=65_536)] = 32
    """Dimensions after a PCA, at most; 0 = no PCA, -1 = full rotation, as the authors did."""
    spherical: bool = False
    """True keeps centroids on the unit sphere, where the vectors are. Plain k-means is as good in
    the mean over backbones and better in the worst case (docs/decisions.md 72)."""
    restarts: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """The run with the least inertia wins."""
    sample: Annotated[int, Meta(ge=256, le=10**9)] = 1_000_000
    """Vectors to learn from, at most: memory stays bounded. Of more segments, an even sample."""
    frozen: str = ""
    """A finished run or a file of `datus freeze`: its clusters and mean key are taken and none are
    made, so labels keep their meaning as a dataset grows (docs/growing.md)."""
    edits: str = ""
    """edits.json, saved in the browser page: merges, splits, names and drops, done again on the
    clusters of this run (docs/review.md)."""
    corrections: str = ""
    """Masks that a person corrected, as an annotation tool exports them: their classes are the
    first clusters, and what was drawn stays (docs/corrections.md)."""


@dataclass(frozen=True, slots=True)
class MasksConfig:
    """Segments and clusters to pixel masks at the image's own size (paper III-E)."""

    noise: Literal["ignore", "nearest", "pool"] = "nearest"
    """Segments that are not valid: ignore = unlabelled (255), as in the paper; nearest = the label
    of the segment they touch most; pool = by their own pooled tokens (embeddings.mode = pool)."""
    refine: Literal["none", "bilateral"] = "bilateral"
    """none = blocks of patches, as in the paper; bilateral = each pixel goes to the patches around
    it that have its colour (docs/refine.md): better on all that was measured, 6 ms an image."""
    min_confidence: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Segments that are less sure (docs/confidence.md) stay unlabelled (255). The report shows
    which share of the pixels is left at each value, and, with truth, what they score."""


@dataclass(frozen=True, slots=True)
class DenoiseConfig:
    """A model learns the masks and draws them again, without holes (paper III-F). Off by default.

    The defaults were measured on CamVid: docs/denoise.md.
    """

    enabled: bool = False
    """Two more stages after the masks: learn them, and draw them again."""
    kind: Literal["probe", "deeplabv3"] = "probe"
    """probe = the ViT of [features] with a light head; deeplabv3 from scratch is what the paper
    trains."""
    head: Literal["linear", "conv", "layers"] = "linear"
    """Of the probe. conv sees the neighbours of a patch, layers the tokens of several blocks."""
    freeze: bool = True
    """Only the head learns. Tuning the ViT too learns the errors of the labels better."""
    image_px: Annotated[int, Meta(ge=0, le=4096)] = 0
    """The side that the model sees, as in [features]; 0 = the same. Not for a frozen probe."""
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """The loss hardly falls after these; more epochs learn the errors of the masks."""
    batch: Annotated[int, Meta(ge=1, le=4096)] = 8
    """Images in a step, and in memory at a time. Changes the result, unlike speed.batch."""
    rate: Annotated[float, Meta(ge=1e-8, le=10.0)] = 0.001
    """Highest learning rate of AdamW; a short warm-up, then a cosine down to 0."""
    drop_share: Annotated[float, Meta(ge=0.01, le=1.0)] = 0.95
    """Masks with more than this share of one label are left out (paper: "most of the pixels")."""
    augment: bool = False
    """Images mirrored, and cut at sizes up to 1.5 times larger or smaller. Not for a frozen probe,
    whose features are made once."""


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """report.html, and browse.html beside it (docs/report.md)."""

    baselines: bool = True
    """k-means on colour, and on colour and position, is shown beside the masks and, with truth,
    scored on the same pixels of 24 images."""
    browse: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    """Images in browse.html, 15 to 24 KB each; of more, an even sample: the page has to stay quick
    and the disk small. 0 = no browse.html."""


@dataclass(frozen=True, slots=True)
class SpeedConfig:
    """How fast, never what: nothing here changes a byte of the results on a CPU."""

    executor: Literal["auto", "serial", "processes", "ray"] = "auto"
    """In this process (serial), in several of this machine, or on a Ray cluster (docs/cluster.md).
    auto = in this process what has a model to run, and what has none in one process for each core,
    if there are four cores and a thousand images to do, or `workers` is set."""
    workers: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Processes; 0 = one per core; on a Ray cluster as many as there is room for."""
    threads: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Images worked on at a time in one process, with auto in all; 0 = the cores, divided by the
    workers."""
    batch: Annotated[int, Meta(ge=1, le=65_536)] = 16
    """Images or crops a GPU sees at once. A CPU takes one at a time: same bytes on any machine."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    max_failed: Annotated[int, Meta(ge=0, le=10**9)] = 0
    """More images that cannot be used than this end a stage with an error; the rest is kept."""
    isolate: bool = False
    """Decode each file in a process of its own first: one that hangs or crashes the decoder is then
    a recorded failure. Else only shards that killed their process are looked through so."""
    decode_seconds: Annotated[float, Meta(ge=0.1, le=86_400)] = 60.0
    """After which a decoder hangs. 200 megapixels of PNG, the most that is let in, take 10."""
    shards: str = ""
    """3/64 = this process does the third of 64 shares of the shards, beside others that do theirs
    in the same run folder; none = only the stages that need all shards; empty = everything."""
    read_ahead: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Shards that a stage over all of them reads at a time, of 16 MB each on average; 1 = one after
    the other. On an object store most of the time is waiting for one answer after the other."""
    ray_address: str = ""
    """HOST:PORT, local, or auto; empty = what RAY_ADDRESS says, else this machine's cluster."""
    ray_cpus: Annotated[float, Meta(ge=0.01, le=4096)] = 1.0
    """Of one Ray worker; also its threads, unless `threads` says otherwise."""
    ray_gpus: Annotated[float, Meta(ge=0, le=1024)] = 0.0
    """Of one Ray worker; 0.5 = two of them share a GPU. With 0 it sees none."""
    ray_wait: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """Seconds until a node must be there that has room for a worker: for clusters that grow."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a run."""

    preset: str = "best"
    """The values where nothing else is given: best, or paper for what the authors did."""
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    """Of everything that is random."""
    run_dir: str = ""
    """Where everything is written; empty = runs/NAME, NAME as in `Config.name`."""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    graphs: GraphsConfig = field(default_factory=GraphsConfig)
    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    clusters: ClustersConfig = field(default_factory=ClustersConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for settings that do not go together."""
        _check_clusters(self.clusters)
        _check_denoise(self.denoise, self.clusters.k)
        parse_share(self.speed.shards)
        if self.masks.noise == "pool" and self.embeddings.mode != "pool":
            raise ConfigError(
                "masks.noise: pool needs embeddings.mode = pool, got "
                f"{self.embeddings.mode}; use nearest or ignore"
            )

    @property
    def run_path(self) -> str:
        """A folder, or an address such as s3://bucket/run."""
        return self.run_dir or str(Path("runs") / self.name)

    @property
    def name(self) -> str:
        """Of the run: the image folder's, or its parent's where that says nothing."""
        folder = Path(self.data.images).resolve()
        return folder.parent.name if folder.name in NAMELESS and folder.parent.name else folder.name

    @staticmethod
    def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> "Config":
        """Preset, then the TOML at `path`, then dotted `overrides`. Raises UsageError."""
        table = read_toml(path) if path else {}
        _replace_rule(table.get("graphs"), overrides or {})
        for name, value in (overrides or {}).items():
            section, _, key = name.rpartition(".")
            inner = table.setdefault(section, {}) if section else table
            if not isinstance(inner, dict):
                raise ConfigError(f"{name}: there is no section [{section}]")
            inner[key] = value
        preset = table.get("preset", "best")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError(f"preset: expected {' or '.join(PRESETS)}, got {preset!r}")
        merged = dict(table)
        for section, settings in PRESETS[preset].items():
            given = merged.get(section, {})
            if isinstance(given, dict):  # anything else is refused below
                merged[section] = {**settings, **given}
        _one_rule(table.get("graphs"), merged)
        for section in ("features", "embeddings"):
            merged[section] = _with_model_name(section, merged.get(section, {}))
        return build(Config, merged)


LINKS = ("density", "threshold")
"""Settings of [graphs] of which one says which patches are linked."""


def _replace_rule(graphs: Any, overrides: Mapping[str, Any]) -> None:
    """An override of one of LINKS takes the place of what the file says of both."""
    if isinstance(graphs, dict) and any(f"graphs.{name}" in overrides for name in LINKS):
        for name in LINKS:
            graphs.pop(name, None)


def _one_rule(given: Any, merged: dict[str, Any]) -> None:
    """A density that was asked for holds: it takes the place of the threshold of a preset."""
    if not isinstance(given, dict) or "density" not in given:
        return
    threshold = given.get("threshold", "auto")
    if threshold != "auto":
        raise ConfigError(
            f"graphs.density: graphs.threshold = {threshold} is given too, which sets the links "
            "alone: leave one of them out"
        )
    merged["graphs"] = {**merged["graphs"], "threshold": "auto"}


def _with_model_name(section: str, settings: Any) -> Any:
    """The settings of a section, its backbone under the name that the table has for it."""
    if not isinstance(settings, dict) or not isinstance(settings.get("backbone"), str):
        return settings  # what is wrong here is said later
    try:
        return {**settings, "backbone": resolve(settings["backbone"])}
    except UsageError as error:
        raise ConfigError(f"{section}.backbone: {error}") from None


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # The defaults above are "best". What differs in "paper" is listed here and nowhere else.
    "best": {},
    "paper": {
        "features": {"image_px": 224, "resize": "squash", "store": "float32"},
        "graphs": {"center": "none", "threshold": 0.0},
        "segments": {"backend": "scikit-network", "restarts": 1},
        "embeddings": {"mode": "crop", "crop": "paper"},
        "clusters": {"pca": -1, "restarts": 1},
        "masks": {"noise": "ignore", "refine": "none"},
    },
}


# --- files --------------------------------------------------------------------------------------


def read_toml(path: Path) -> dict[str, Any]:
    """The file's table. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return parse_toml(file.read(MAX_TOML_BYTES + 1).decode("utf-8-sig"))  # Notepad's mark
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


MAX_TOML_BYTES, MAX_DOTS, MAX_WORD = 256_000, 200, 1000
"""Of a file, in a line, letters and digits in a row: tomllib needs memory that grows with the
square of the dots in a key, and Python cannot print numbers of more than 4300 digits."""


def parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError with the reason, whatever the text is."""
    if len(text) > MAX_TOML_BYTES:
        raise ValueError(f"more than {MAX_TOML_BYTES} bytes")
    if any(line.count(".") > MAX_DOTS for line in text.split("\n")):
        raise ValueError(f"more than {MAX_DOTS} dots in a line")
    if re.search(rf"\w{{{MAX_WORD}}}", text):
        raise ValueError(f"a word or number of {MAX_WORD} characters or more")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


# --- settings that belong together --------------------------------------------------------------


def _check_clusters(settings: ClustersConfig) -> None:
    if not settings.k or len(set(settings.k)) < len(settings.k):
        raise ConfigError(f"clusters.k: expected different numbers, got {settings.k}")
    if settings.frozen and settings.corrections:
        raise ConfigError(
            "clusters.corrections: makes new clusters, but clusters.frozen takes those of "
            f"{settings.frozen}: leave one of them out"
        )
    if settings.edits and len(settings.k) > 1:
        raise ConfigError(
            f"clusters.edits: expected one K, got {len(settings.k)}: edits are made on "
            "the clusters of one; choose it with --clusters"
        )


def _check_denoise(settings: DenoiseConfig, k: tuple[int, ...]) -> None:
    if not settings.enabled:
        return
    if min(k, default=2) < 2:
        raise ConfigError(
            f"denoise: a model needs two clusters or more, got clusters.k = {list(k)}"
        )
    if settings.kind == "deeplabv3" or not settings.freeze:
        return
    for name, given in (("augment", settings.augment), ("image_px", settings.image_px > 0)):
        if given:
            raise ConfigError(
                f"denoise.{name}: a frozen probe learns on the tokens of [features]; "
                "leave it out, or set freeze = false"
            )


# --- shares of the shards -----------------------------------------------------------------------

MAX_SHARES = 100_000


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of the stages that do one shard after the other: `--shards 3/64`.

    Which shards they are follows from the keys alone, dealt one after the other in their order. The
    keys are hashes, so large and small shards are mixed, and all processes that see the same index
    agree.
    """

    number: int
    """From 1; 0 = none of the shards, only what needs all of them."""
    of: int

    @property
    def is_none(self) -> bool:
        return self.number == 0

    def keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of `keys` that are this share's."""
        if self.is_none:
            return frozenset()
        return frozenset(sorted(set(keys))[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return "none" if self.is_none else f"{self.number}/{self.of}"


def parse_share(text: str) -> Share | None:
    """None for an empty text: all shards are this process's. Raises ConfigError."""
    if not text:
        return None
    if text == "none":
        return Share(0, 1)
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= MAX_SHARES:
        raise ConfigError(
            f"speed.shards: expected NUMBER/OF such as 3/64, counted from 1, or none; got {text!r}"
        )
    return Share(int(match[1]), int(match[2]))


# --- tables to classes --------------------------------------------------------------------------


def build(cls: type[Settings], table: Mapping[str, Any], where: str = "") -> Settings:
    """A settings class from a table, every key and value checked. Raises ConfigError.

    An int passes for a float and one item for a tuple. where: goes before the names in messages.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for key, value in table.items():
        name = f"{where}{key}"
        if key not in hints:
            raise ConfigError(unknown_key(name, key, list(hints), where))
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name}: expected a section [{name}], got {value!r}")
            values[key] = build(hints[key], value, f"{name}.")
        else:
            values[key] = _value(name, hints[key], value)
    return cls(**values)


def unknown_key(name: str, key: str, known: list[str], where: str) -> str:
    """The message for a key that is no setting, with the nearest one that is."""
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
    if near:
        return f"{name}: unknown setting; did you mean {where}{near[0]}?"
    return f"{name}: unknown setting; known: {', '.join(known)}"


def _value(name: str, hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(name, typing.get_args(hint)[0], item) for item in items)
    try:
        return msgspec.convert(value, hint)
    except (msgspec.ValidationError, UnicodeEncodeError):  # a word that is not UTF-8
        words = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        near = difflib.get_close_matches(str(value), words, n=1)
        text = f"{name}: expected {_expected(hint, value)}, got {value!r}"
        raise ConfigError(f"{text}; did you mean {near[0]!r}?" if near else text) from None


def _expected(hint: Any, value: Any) -> str:
    """What a setting takes, as a message says it to whoever gave `value`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(parts)
    if origin in (types.UnionType, typing.Union):  # a number, or a word
        return f"{_expected(parts[0], value)} or {_expected(parts[1], value)!r}"
    if origin is Annotated and type(value) in (int, parts[0]):
        return f"{parts[1].ge} to {parts[1].le}"
    return str((parts[0] if parts else hint).__name__)


def parse_override(text: str) -> tuple[str, Any]:
    """'segments.restarts=8' -> ('segments.restarts', 8). The value is TOML, else plain text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {text}: expected section.key=value")
    try:
        parsed = parse_toml(f"value = {value}")["value"]
    except ValueError:
        parsed = value.strip()
    return name.strip(), parsed


def settings_of(section: Any) -> dict[str, Any]:
    """A section as plain JSON values, without what does not change results (`keep`)."""
    values = {f.name: getattr(section, f.name) for f in fields(section) if f.name != "keep"}
    return {name: list(one) if isinstance(one, tuple) else one for name, one in values.items()}

"""A comparison as settings: one base, lists of what varies, one ordinary Config a cell.

    grid = load_grid(Path("pipelines/paper/table1_suim.toml"))
    grid.cells          every combination, in the order that shares most of the work

A grid is a TOML:

    base = "../suim.toml"       a run's settings: a file beside the grid, or a section [base]
    k = [6, 7]                  numbers of clusters
    seeds = [0, 1, 2]           also presets = ["best", "paper"]
    [[backbones]]               name, weights, label; see `Scheme`
    [[embedders]]               mode, backbone, weights, label; see `Embedder`

A list that is not there has one entry: what the base says. Lists win over the base. With
like = "other.toml" a grid takes what it does not say itself from another grid.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

from datus.config import Config, EmbeddingsConfig, build, read_toml, unknown_key
from datus.errors import ConfigError, UsageError
from datus.models.registry import SUFFIXES, resolve

Entry = TypeVar("Entry", "Scheme", "Embedder")

OWN = ("name", "table", "rules", "k", "seeds", "presets", "reports")
LISTS = ("backbones", "embedders")
KEYS = ("base", "like", *OWN, *LISTS)
"""Every key of a grid."""

TAKEN = {
    "preset": ("presets", "change it there"),
    "seed": ("seeds", "use --seeds"),
    "clusters.k": ("k", "use --clusters"),
    "features.backbone": ("backbones", "use --backbones"),
    "features.weights": ("backbones", "use --backbones"),
    "embeddings.mode": ("embedders", "use --embedders"),
    "embeddings.backbone": ("embedders", "use --embedders"),
    "embeddings.weights": ("embedders", "use --embedders"),
}
"""Setting -> (the list that would win over it, what to do)."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One backbone of the comparison: a self-supervised scheme with its model."""

    name: str = ""
    """As features.backbone: the embedded model, or any timm ViT."""
    weights: str = "auto"
    """As features.weights: auto, hub, random or a checkpoint file."""
    label: str = ""
    """In tables and figures, for example DINO-S/8; empty = the name, and the weights where the
    same name has several."""
    group: str = ""
    """What has one colour in figures, for example DINO; empty = a colour of its own."""
    params: str = ""
    """For a column of the table, for example 21M."""
    pretraining: str = ""
    """For a column of the table, for example ImageNet-1K."""
    settings: tuple[tuple[str, Any], ...] = ()
    """`set` of the TOML: settings of a run for this backbone alone."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """One way from segments to vectors."""

    mode: Literal["pool", "crop"] = "pool"
    backbone: str = "same"
    """In crop mode: same = the ViT that made the segments."""
    weights: str = "auto"
    label: str = ""
    """Empty = pool, crop, or crop and the backbone's name, and its weights where the same name has
    several."""
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class GridSettings:
    """What is the grid's own."""

    name: str = ""
    """Of the output folder; empty = the file's name."""
    table: Literal["I", "II", "III", "VI", "VII", "full"] = "full"
    """The paper's table whose layout is followed; full = every rule, everything that varies."""
    rules: tuple[str, ...] = ()
    """Scores to show; empty = what the table needs. The JSON has all."""
    k: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    presets: tuple[str, ...] = ()
    reports: bool = False
    """Also make report.html of every cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid."""

    config: Config
    scheme: Scheme
    embedder: str

    @property
    def k(self) -> int:
        return self.config.clusters.k[0]

    @property
    def label(self) -> str:
        """On one line, for progress and errors."""
        run = f"K = {self.k}, seed {self.config.seed}"
        return f"{self.scheme.label}, {self.embedder}, preset {self.config.preset}, {run}"


@dataclass(frozen=True, slots=True)
class Grid:
    """A checked comparison."""

    settings: GridSettings
    cells: tuple[Cell, ...]
    """By preset, backbone, seed, embedder and K: each shares what is before it."""

    @property
    def run_path(self) -> str:
        return self.cells[0].config.run_path


def is_grid(path: Path) -> bool:
    """A TOML with any key that only a grid has. Raises UsageError if it cannot be read."""
    return bool(set(read_toml(path)) & set(KEYS))


def load_grid(
    path: Path | None,
    overrides: Mapping[str, Any] | None = None,
    lists: Mapping[str, Any] | None = None,
) -> Grid:
    """Read and check all of it. `overrides`: settings for every cell; `lists`: keys of the grid.

    Without `path` these two are the grid. `lists` may also hold "labels", one for each backbone, in
    the same order. Raises UsageError or ConfigError before anything runs.
    """
    table = {**(_read(path) if path else {"base": {}}), **(lists or {})}
    settings = build(GridSettings, {k: v for k, v in table.items() if k in OWN})
    settings = replace(settings, name=settings.name or (path.stem if path else "grid"))
    if not settings.name.strip(".") or set(settings.name) & set('/\\:*?"<>|'):
        raise ConfigError(f"name: expected a folder's name, got {settings.name!r}")
    base = _base(table)
    for name, value in (overrides or {}).items():
        if name in TAKEN and TAKEN[name][0] in table:
            key, cure = TAKEN[name]
            raise UsageError(f"--set {name}: the grid's list {key} decides; {cure}")
        base[name] = value
    schemes = _entries(Scheme, "backbones", table)
    if not schemes:
        plain = Config.load(None, base).features
        schemes = [Scheme(plain.backbone, plain.weights, plain.backbone)]
    if "labels" in table:
        schemes = _with_labels(schemes, table["labels"])
    cells = tuple(_cells(settings, base, schemes, _entries(Embedder, "embedders", table)))
    _check_cells(cells)
    return Grid(settings, cells)


def _read(path: Path, deep: bool = True) -> dict[str, Any]:
    """The keys of a grid, with those of the grid that it is like, and its base in place."""
    table = read_toml(path)
    for key in table:
        if key not in KEYS:
            raise ConfigError(unknown_key(key, key, list(KEYS), ""))
    like = table.pop("like", None)
    if isinstance(table.get("base"), str):
        table["base"] = read_toml(path.parent / table["base"])
    if like is None:
        return table
    if not isinstance(like, str) or not deep:
        raise ConfigError(f"like: expected a grid that is not like another one, got {like!r}")
    return {**_read(path.parent / like, deep=False), **table}


def _base(table: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run as dotted names."""
    base = table.get("base")
    if not isinstance(base, dict):
        raise ConfigError(
            "base: expected a run's settings, a file name or a section [base], got "
            + ("nothing" if base is None else repr(base))
        )
    sections = {key: value for key, value in base.items() if isinstance(value, dict)}
    flat = {key: value for key, value in base.items() if key not in sections}
    return flat | {f"{key}.{n}": v for key, rows in sections.items() for n, v in rows.items()}


def _entries(cls: type[Entry], key: str, table: Mapping[str, Any]) -> list[Entry]:
    """The [[key]] blocks, each with a label. Empty if there is no such list."""
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{key}: expected blocks [[{key}]], got {rows!r}")
    entries = [_entry(cls, f"{key} {number}: ", row) for number, row in enumerate(rows, 1)]
    models = [(model_name(entry), entry.weights, entry.settings) for entry in entries]
    for name, weights, settings in models:
        if models.count((name, weights, settings)) > 1:  # they differ in nothing but the label
            raise ConfigError(
                f"{key}: expected different entries, got {name} with weights {weights} twice; "
                "leave one of them out"
            )
    return [replace(entry, label=entry.label or _label(entry, entries)) for entry in entries]


def _entry(cls: type[Entry], where: str, row: Mapping[str, Any]) -> Entry:
    plain = dict(row)
    settings = plain.pop("set", {})
    if not isinstance(settings, dict):
        raise ConfigError(f'{where}set: expected {{ "section.key" = value }}, got {settings!r}')
    if "settings" in plain:
        raise ConfigError(f"{where}settings: unknown setting; did you mean {where}set?")
    entry = build(cls, plain, where)
    name = "name" if isinstance(entry, Scheme) else "backbone"
    model = getattr(entry, name)
    if not model:
        raise ConfigError(f"{where}{name}: expected a model, got none")
    try:
        known: dict[str, Any] = {name: resolve(model)}
    except UsageError as error:
        raise ConfigError(f"{where}{name}: {error}") from None
    return replace(entry, **known, settings=tuple(sorted(settings.items())))


def model_name(entry: Scheme | Embedder | EmbeddingsConfig) -> str:
    """What the entry is called where only its weights are not said."""
    if isinstance(entry, Scheme):
        return entry.name
    other = entry.mode == "crop" and entry.backbone != "same"
    return f"{entry.mode} {entry.backbone}" if other else entry.mode


def _with_labels(schemes: list[Scheme], labels: Sequence[str]) -> list[Scheme]:
    """The labels of the command line in place of others."""
    if len(labels) != len(schemes):
        names = ", ".join(scheme.label for scheme in schemes)
        raise UsageError(
            f"--labels: expected {len(schemes)}, one for each backbone in this order: {names}; "
            f"got {len(labels)}: {', '.join(labels)}"
        )
    for label in labels:
        if not label or labels.count(label) > 1:
            raise UsageError(f"--labels: expected different texts, got {', '.join(labels)!r}")
    return [replace(scheme, label=label) for scheme, label in zip(schemes, labels, strict=True)]


def _label(entry: Entry, entries: Sequence[Entry]) -> str:
    """The model, and the weights where `entries` have it with several."""
    name = model_name(entry)
    several = list(dict.fromkeys(other.weights for other in entries if model_name(other) == name))
    if len(several) == 1 or entry.weights == "auto":
        return name
    return f"{name}:{_short(several)[several.index(entry.weights)]}"


_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})\Z")


def _short(weights: Sequence[str]) -> list[str]:
    """For each file as much of its path as tells it from the others; other words as they are."""
    paths = [PurePath(path) for path in weights]
    for n_parts in range(1, max(len(path.parts) for path in paths) + 1):
        ends = ["/".join(path.parts[-n_parts:]) for path in paths]
        for names in ([_SUFFIX.sub("", end) for end in ends], ends):
            if len(set(names)) == len(names):
                return names
    return list(weights)


def _cells(
    settings: GridSettings,
    base: Mapping[str, Any],
    schemes: list[Scheme],
    embedders: list[Embedder],
) -> Iterable[Cell]:
    """Every combination. Raises ConfigError that names the cell."""
    plain = Config.load(None, base)
    seeds, ks = settings.seeds or (plain.seed,), settings.k or plain.clusters.k
    _check_different("presets", settings.presets)
    _check_different("seeds", seeds)
    _check_different("k", ks)
    _check_different("backbones", [scheme.label for scheme in schemes])
    _check_different("embedders", [way.label for way in embedders])
    ways: list[Embedder | None] = [*embedders] or [None]
    presets = settings.presets or (plain.preset,)
    for preset, scheme, seed, way, k in itertools.product(presets, schemes, seeds, ways, ks):
        asked: dict[str, Any] = {**base, "preset": preset, "seed": seed, "clusters.k": [k]}
        asked |= {"features.backbone": scheme.name, "features.weights": scheme.weights}
        if way is not None:
            asked["embeddings.mode"] = way.mode
            if way.mode == "crop":
                asked |= {"embeddings.backbone": way.backbone, "embeddings.weights": way.weights}
        asked |= dict(scheme.settings) | (dict(way.settings) if way else {})
        try:
            config = Config.load(None, asked)
        except ConfigError as error:
            label = way.label if way else "the base's embedder"
            raise ConfigError(f"cell {scheme.label}, {label}, K = {k}: {error}") from None
        yield Cell(config, scheme, way.label if way else model_name(config.embeddings))


def _check_different(name: str, values: Sequence[Any]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        cure = "; give each a label" if name in LISTS else ""
        raise ConfigError(f"{name}: expected different entries, got {twice!r} twice{cure}")


def _check_cells(cells: tuple[Cell, ...]) -> None:
    """One run folder for all, and truth for every cell. Raises UsageError."""
    for cell in cells:
        data = cell.config.data
        if not data.images:
            raise UsageError("no images: give --images FOLDER, or data.images in the grid's base")
        missing = [name for name in ("truth", "classes") if not getattr(data, name)]
        if missing:
            names = " and ".join(f"data.{name}" for name in missing)
            raise UsageError(
                f"{names}: a comparison needs true masks and their classes: give --truth FOLDER "
                "and --classes FILE, or set them in the grid's base"
            )
        if cell.config.run_path != cells[0].config.run_path:
            raise UsageError(
                f"run_dir: the cells of a grid share one folder, got {cells[0].config.run_path} "
                f"and {cell.config.run_path}; set run_dir in the base alone"
            )


# --- lists from the command line ----------------------------------------------------------------


def parse_lists(lists: Mapping[str, str]) -> dict[str, Any]:
    """Keys of a grid, each a text of the command line; empty ones are left out."""
    parse: dict[str, Callable[[str], Any]] = {
        "backbones": parse_backbones,
        "labels": lambda text: [part.strip() for part in text.split(",")],
        "embedders": parse_embedders,
        "k": lambda text: parse_numbers("--clusters", text),
        "seeds": lambda text: parse_numbers("--seeds", text),
        "presets": lambda text: text.split(","),
        "table": str,
    }
    return {key: parse[key](text) for key, text in lists.items() if text}


def parse_numbers(option: str, text: str) -> list[int]:
    """'6,8,12' -> numbers. Raises UsageError that names the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text}: expected a number or numbers with commas") from None


def parse_backbones(text: str) -> list[dict[str, str]]:
    """'datus_t8,vit_tiny_patch16_224:random' -> blocks: name, or name:weights."""
    blocks = []
    for part in text.split(","):
        name, _, weights = part.strip().partition(":")
        if not name:
            raise UsageError(f"--backbones {text}: expected NAME or NAME:WEIGHTS, with commas")
        blocks.append({"name": name, "weights": weights or "auto"})
    return blocks


def parse_embedders(text: str) -> list[dict[str, str]]:
    """'pool,crop,crop:NAME:WEIGHTS' -> blocks."""
    blocks = []
    for part in text.split(","):
        mode, _, rest = part.strip().partition(":")
        name, _, weights = rest.partition(":")
        if mode not in ("pool", "crop") or (rest and mode == "pool"):
            raise UsageError(
                f"--embedders {text}: expected pool, crop or crop:NAME:WEIGHTS, with commas"
            )
        blocks.append({"mode": mode, "backbone": name or "same", "weights": weights or "auto"})
    return blocks

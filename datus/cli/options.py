"""What commands share: their options, and the Config that comes of them."""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from datus.config import Config, parse_override, read_toml
from datus.errors import UsageError

ConfigFile = Annotated[Path | None, typer.Argument(help="TOML file", metavar="CONFIG")]
Images = Annotated[str, typer.Option("--images", help="folder of images, sub-folders included")]
Truth = Annotated[str, typer.Option("--truth", help="folder of true masks, to score against")]
Classes = Annotated[str, typer.Option("--classes", help="TOML: what the ids in true masks mean")]
Clusters = Annotated[str, typer.Option("--clusters", help="number of clusters; 6,8,12 sweeps")]
FrozenClusters = Annotated[
    str,
    typer.Option(
        "--frozen-clusters", help="a finished run, or a file of datus freeze: take its clusters"
    ),
]
EditsFile = Annotated[
    str,
    typer.Option("--edits", help="edits.json of the browser page: merges, names ..."),
]
Corrections = Annotated[
    str, typer.Option("--corrections", help="masks that a person corrected: docs/corrections.md")
]
RunDir = Annotated[str, typer.Option("--run-dir", help="default: runs/<name of the image folder>")]
Preset = Annotated[str, typer.Option("--preset", help="best (default) or paper")]
Backbone = Annotated[str, typer.Option("--backbone", help="see datus backbones; or any timm ViT")]
Weights = Annotated[str, typer.Option("--weights", help="auto, hub, random, or a checkpoint file")]
Executor = Annotated[str, typer.Option("--executor", help="auto (default), serial, processes, ray")]
Workers = Annotated[int | None, typer.Option("--workers", help="processes; 0 = one per core")]
Shards = Annotated[
    str,
    typer.Option("--shards", help="3/64 = the third of 64 shares; none = what needs all shards"),
]
Device = Annotated[str, typer.Option("--device", help="auto (default), cpu, cuda, cuda:1")]
MaxFailed = Annotated[int | None, typer.Option("--max-failed", help="unusable images allowed (0)")]
FailuresAllowed = Annotated[
    int,
    typer.Option("--max-failed", min=0, help="unusable images allowed (0)", show_default=False),
]
"""The same where no config file could say it."""
NoBaselines = Annotated[
    bool, typer.Option("--no-baselines", help="leave k-means on colour out of the report")
]
Seed = Annotated[int | None, typer.Option("--seed", help="of everything random (0)")]


def _go_offline(value: bool) -> None:
    if value:
        os.environ["DATUS_OFFLINE"] = "1"  # worker processes inherit it


Offline = Annotated[
    bool, typer.Option("--offline", callback=_go_offline, help="never touch the network")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="any setting: segments.restarts=8")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would do and take; stop")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]

OPTIONS = {
    "images": "data.images",
    "truth": "data.truth",
    "classes": "data.classes",
    "frozen_clusters": "clusters.frozen",
    "edits": "clusters.edits",
    "corrections": "clusters.corrections",
    "run_dir": "run_dir",
    "preset": "preset",
    "backbone": "features.backbone",
    "weights": "features.weights",
    "executor": "speed.executor",
    "workers": "speed.workers",
    "shards": "speed.shards",
    "device": "speed.device",
    "max_failed": "speed.max_failed",
    "seed": "seed",
}
"""Command-line option -> setting. An empty text or None means: not given."""


def load_config(given: dict[str, Any]) -> Config:
    overrides = dict(parse_override(text) for text in given["settings"] or [])
    for option, name in OPTIONS.items():
        value = given.get(option, "")
        if value not in ("", None):
            overrides[name] = value
    if given.get("no_baselines"):
        overrides["report.baselines"] = False
    if given["clusters"]:
        overrides["clusters.k"] = _numbers(given["clusters"])
    loaded = _with_known_k(Config.load(given["config"], overrides), given["config"], overrides)
    if not loaded.data.images:
        raise UsageError("no images: give --images FOLDER, or data.images in a config file")
    if bool(loaded.data.truth) != bool(loaded.data.classes):
        raise UsageError("--truth and --classes go together: classes say what the true ids mean")
    return loaded


def _with_known_k(loaded: Config, path: Path | None, overrides: dict[str, Any]) -> Config:
    """Where clusters are taken from a run with one K, and none is asked for, that K."""
    in_file = read_toml(path).get("clusters", {}) if path else {}
    if not loaded.clusters.frozen or "clusters.k" in overrides or "k" in in_file:
        return loaded
    from datus.review.frozen import known_k

    known = known_k(loaded.clusters.frozen)
    if len(known) > 1:
        listed = " and ".join(map(str, known))
        raise UsageError(
            f"{loaded.clusters.frozen} has clusters for K = {listed}: choose with --clusters"
        )
    return Config.load(path, {**overrides, "clusters.k": list(known)})


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--clusters {text}: expected a number or numbers with commas") from None


def run_command(config: Config, file: Path | None, backbone: str) -> str:
    """The `datus run` that makes the same run with another backbone.

    file: the config file that `config` was read from, if there was one.
    """
    plain = dict(_settings(Config.load(file, {"preset": config.preset})))
    plain["preset"] = Config.load(file).preset
    given = {name: value for name, value in _settings(config) if value != plain[name]}
    for name in ("features.backbone", "features.weights", "speed.shards"):  # a share makes no masks
        given.pop(name, None)
    if not file:
        given.setdefault("clusters.k", config.clusters.k)
    options = {name: option for option, name in OPTIONS.items()} | {"clusters.k": "clusters"}
    words = ["datus", "run", *([str(file)] if file else [])]
    for name in sorted(given, key=[*options, *given].index):
        if name in options:
            value = given[name]
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{options[name].replace('_', '-')}", text]
        else:
            words += ["--set", f"{name}={json.dumps(given[name])}"]
    return shlex.join([*words, "--backbone", backbone])


def _settings(config: Config) -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name."""
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from (
                (f"{one.name}.{key.name}", getattr(value, key.name)) for key in fields(value)
            )
        else:
            yield one.name, value

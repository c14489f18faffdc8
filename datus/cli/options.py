"""What commands share: their options, declared once, and the Config that comes of them.

RunOptions, WorkOptions      options of the commands on a run, and of those that do its work
load_config(options)         the Config of such a command
run_command(config, ...)     the `datus run` that makes the same run with another backbone
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from datus.compare.grid import parse_numbers
from datus.config import Config, parse_override, read_toml
from datus.errors import UsageError


def _go_offline(value: bool) -> None:
    if value:
        os.environ["DATUS_OFFLINE"] = "1"  # worker processes inherit it


Images = Annotated[str, typer.Option(help="folder of images, sub-folders included")]
Truth = Annotated[str, typer.Option(help="folder of true masks, to score against")]
Classes = Annotated[str, typer.Option(help="TOML: what the ids in true masks mean")]
RunDir = Annotated[str, typer.Option(help="default: runs/<name of the image folder>")]
Backbone = Annotated[str, typer.Option(help="see datus backbones; or any timm ViT")]
Weights = Annotated[str, typer.Option(help="auto, hub, random, or a checkpoint file")]
Device = Annotated[str, typer.Option(help="auto (default), cpu, cuda, cuda:1")]
MaxFailed = Annotated[int | None, typer.Option(help="unusable images allowed (0)")]
FailuresAllowed = Annotated[
    int, typer.Option("--max-failed", min=0, help="unusable images allowed (0)", show_default=False)
]
"""The same where no config file could say it."""
Seed = Annotated[int | None, typer.Option(help="of everything random (0)")]
Offline = Annotated[
    bool, typer.Option("--offline", callback=_go_offline, help="never touch the network")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="any setting: segments.restarts=8")]


@dataclass(frozen=True)
class RunOptions:
    """Which run is meant: options of every command on a run."""

    config: Annotated[Path | None, typer.Argument(help="TOML file", metavar="CONFIG")] = None
    images: Images = ""
    truth: Truth = ""
    classes: Classes = ""
    clusters: Annotated[str, typer.Option(help="number of clusters; 6,8,12 sweeps")] = ""
    frozen_clusters: Annotated[
        str, typer.Option(help="a finished run, or a file of datus freeze: take its clusters")
    ] = ""
    edits: Annotated[
        str, typer.Option(help="edits.json of the browser page: merges, names ...")
    ] = ""
    corrections: Annotated[
        str, typer.Option(help="masks that a person corrected: docs/corrections.md")
    ] = ""
    run_dir: RunDir = ""
    preset: Annotated[str, typer.Option(help="best (default) or paper")] = ""
    backbone: Backbone = ""
    weights: Weights = ""
    seed: Seed = None
    settings: Set = None


@dataclass(frozen=True)
class WorkOptions(RunOptions):
    """How the work is done: options of the commands that do it."""

    executor: Annotated[str, typer.Option(help="auto (default), serial, processes, ray")] = ""
    workers: Annotated[int | None, typer.Option(help="processes; 0 = one per core")] = None
    shards: Annotated[
        str, typer.Option(help="3/64 = the third of 64 shares; none = what needs all shards")
    ] = ""
    device: Device = ""
    max_failed: MaxFailed = None
    offline: Offline = False
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="leave k-means on colour out of the report")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what it would do and take; stop")
    ] = False


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


def load_config(options: RunOptions) -> Config:
    """The Config that a file and the options over it say. Raises UsageError."""
    overrides = parse_settings(options.settings) | given_settings(vars(options))
    if getattr(options, "no_baselines", False):
        overrides["report.baselines"] = False
    if options.clusters:
        overrides["clusters.k"] = parse_numbers("--clusters", options.clusters)
    config = _with_known_k(Config.load(options.config, overrides), options.config, overrides)
    if not config.data.images:
        raise UsageError("no images: give --images FOLDER, or data.images in a config file")
    if bool(config.data.truth) != bool(config.data.classes):
        raise UsageError("--truth and --classes go together: classes say what the true ids mean")
    return config


def parse_settings(texts: Sequence[str] | None) -> dict[str, Any]:
    """What several --set say, the last one first."""
    return dict(parse_override(text) for text in texts or ())


def given_settings(
    options: Mapping[str, Any], settings: Mapping[str, str] = OPTIONS
) -> dict[str, Any]:
    """Setting -> value, of the options that were given.

    settings: option -> setting; other options are left out.
    """
    known = ((setting, options.get(option)) for option, setting in settings.items())
    return {setting: value for setting, value in known if value not in ("", None)}


def _with_known_k(config: Config, path: Path | None, overrides: dict[str, Any]) -> Config:
    """Where clusters are taken from a run with one K, and none is asked for, that K."""
    in_file = read_toml(path).get("clusters", {}) if path else {}
    if not config.clusters.frozen or "clusters.k" in overrides or "k" in in_file:
        return config
    return Config.load(path, {**overrides, "clusters.k": [only_k(config.clusters.frozen)]})


def only_k(run: str) -> int:
    """K of a run or of a file of datus freeze. Raises UsageError if it has several."""
    from datus.review.frozen import known_k

    known = known_k(run)
    if len(known) > 1:
        listed = " and ".join(map(str, known))
        raise UsageError(f"{run} has clusters for K = {listed}: choose with --clusters")
    return known[0]


def run_command(options: RunOptions, backbone: str) -> str:
    """The `datus run` that makes the same run with another backbone."""
    words = ["datus", "run", *([str(options.config)] if options.config else [])]
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name in OF_THIS_RUN:
            continue
        name = f"--{field.name.replace('_', '-')}"
        words += [name] if value is True else [name, str(value)]
    dropped = [OPTIONS[name] for name in OF_THIS_RUN if name in OPTIONS]
    for text in options.settings or ():
        if parse_override(text)[0] not in dropped:
            words += ["--set", text]
    return shlex.join([*words, "--backbone", backbone])


OF_THIS_RUN = ("config", "settings", "backbone", "weights", "shards", "offline", "dry_run")
"""Options that another run does not repeat, or not by their name."""

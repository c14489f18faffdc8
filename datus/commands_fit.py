"""`datus fit`: train a model on images and imperfect labels."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from datus.config import Config, parse_override
from datus.errors import UsageError, size_text
from datus.options import (
    OPTIONS,
    Backbone,
    Classes,
    Debug,
    Device,
    Images,
    MaxFailed,
    Offline,
    Seed,
    Set,
    Weights,
)
from datus.terminal import Bars, errors

Out = Annotated[str, typer.Option("--out", help="the model: OUT.safetensors and OUT.json")]
Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        help="folder of label PNGs, same names; 255 = unknown. Without --classes: what an "
        "annotation tool exports, docs/corrections.md",
    ),
]

DEFAULTS: dict[str, Any] = {
    "denoise.enabled": True,
    "denoise.head": "conv",
    "denoise.drop_share": 1.0,
}
"""Where they differ from a run's. Labels of people have edges that single patches do not show, so
the head sees neighbours. Points and scribbles often show one class only: no reason to leave out."""


def fit(
    images: Images = "",
    labels: Labels = "",
    classes: Classes = "",
    out: Out = "",
    kind: Annotated[str, typer.Option("--kind", help="probe (default) or deeplabv3")] = "",
    head: Annotated[
        str, typer.Option("--head", help="of a probe: conv (default), linear or layers")
    ] = "",
    tune: Annotated[bool, typer.Option("--tune", help="train the backbone too")] = False,
    epochs: Annotated[int, typer.Option("--epochs", help="over all images")] = -1,
    backbone: Backbone = "",
    weights: Weights = "",
    device: Device = "",
    max_failed: MaxFailed = -1,
    seed: Seed = -1,
    offline: Offline = False,
    settings: Set = None,
    debug: Debug = False,
) -> None:
    """Train a model on points, scribbles or dense labels with errors; for datus predict."""
    with errors(debug), tempfile.TemporaryDirectory() as folder:
        from datus.corrections.folders import as_folder
        from datus.fit import fit_folders

        if not (images and labels and out):
            raise UsageError("give all of --images DIR, --labels DIR, --classes TOML, --out MODEL")
        if not classes:  # names come with the labels
            labels, classes = map(str, as_folder(Path(images), Path(labels), Path(folder)))
        overrides = _overrides(locals())
        done = fit_folders(Config.load(None, overrides), Path(out), Bars())
        for name, why in sorted(done.failures.items()):
            print(f"left out: {name}: {why}")
        print(
            f"{done.n_trained} images learnt, {done.n_dropped} left out (no label, or nearly all "
            f"one class), {done.n_unlabelled} without labels"
        )
        print(
            f"mean loss {done.curve[-1, 0]:.3f} in the first epoch, {done.curve[-1, -1]:.3f} in "
            "the last"
        )
        print(f"model: {done.model}, {size_text(done.n_bytes)}")
        print(f"use it: datus predict {done.model} IMAGES --out DIR")


def _overrides(given: dict[str, Any]) -> dict[str, Any]:
    """Dotted setting -> value, of the options that were given; --set comes last."""
    names = ("images", "classes", "backbone", "weights", "device", "max_failed", "seed")
    named = {OPTIONS[name]: given[name] for name in names}
    named |= {"data.truth": given["labels"], "denoise.epochs": given["epochs"]}
    named |= {"denoise.kind": given["kind"], "denoise.head": given["head"]}
    found = {name: value for name, value in named.items() if value not in ("", -1)}
    tuned = {"denoise.freeze": False} if given["tune"] else {}
    more = dict(parse_override(text) for text in given["settings"] or [])
    return {**DEFAULTS, **found, **tuned, **more}

"""`datus fit`: train a model on images and imperfect labels."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from datus.cli.options import (
    OPTIONS,
    Backbone,
    Classes,
    Device,
    Images,
    Offline,
    Set,
    Weights,
    given_settings,
    parse_settings,
)
from datus.config import Config
from datus.engine.progress import ProgressBars, printable
from datus.errors import UsageError, size_text
from datus.store.disk import explained

DEFAULTS: dict[str, Any] = {
    "denoise.enabled": True,
    "denoise.head": "conv",
    "denoise.drop_share": 1.0,
}
"""Where they differ from a run's. Labels of people have edges that single patches do not show, so
the head sees neighbours. Points and scribbles often show one class only: no reason to leave out."""

SETTINGS = OPTIONS | {
    "labels": "data.truth",
    "epochs": "denoise.epochs",
    "kind": "denoise.kind",
    "head": "denoise.head",
}
"""Option -> setting."""


@dataclass(frozen=True)
class FitOptions:
    """The options of the command."""

    images: Images = ""
    labels: Annotated[
        str,
        typer.Option(
            help="folder of label PNGs, same names; 255 = unknown. Without --classes: what an "
            "annotation tool exports, docs/corrections.md"
        ),
    ] = ""
    classes: Classes = ""
    out: Annotated[str, typer.Option(help="the model: OUT.safetensors and OUT.json")] = ""
    kind: Annotated[str, typer.Option(help="probe (default) or deeplabv3")] = ""
    head: Annotated[str, typer.Option(help="of a probe: conv (default), linear or layers")] = ""
    tune: Annotated[bool, typer.Option("--tune", help="train the backbone too")] = False
    epochs: Annotated[int | None, typer.Option(help="over all images", min=1)] = None
    backbone: Backbone = ""
    weights: Weights = ""
    device: Device = ""
    max_failed: Annotated[int | None, typer.Option(help="unusable images allowed (0)", min=0)] = (
        None
    )
    seed: Annotated[int | None, typer.Option(help="of everything random (0)", min=0)] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace another model of that name")
    ] = False
    offline: Offline = False
    settings: Set = None


def fit(options: FitOptions) -> None:
    """Train a model on points, scribbles or dense labels with errors; for datus predict."""
    from datus.segmenter.fit import fit_folders, new_model

    if not (options.images and options.labels and options.out):
        raise UsageError("give all of --images DIR, --labels DIR, --classes TOML, --out MODEL")
    model = new_model(options.out)
    with _class_table(options.images, options.labels, options.classes, model) as tables:
        settings = DEFAULTS | given_settings(vars(options) | tables, SETTINGS)
        if options.tune:
            settings["denoise.freeze"] = False
        config = Config.load(None, settings | parse_settings(options.settings))
        result = fit_folders(config, model, ProgressBars(), options.overwrite)
    for name, reason in sorted(result.failures.items()):
        print(printable(f"left out: {name}: {reason}"))
    print(
        f"{result.n_trained} images learnt, {result.n_dropped} left out (no label, or nearly all "
        f"one class), {result.n_unlabelled} without labels"
    )
    first, last = result.curve[0], result.curve[-1]
    print(f"mean loss {first:.3f} in the first epoch, {last:.3f} in the last")
    print(f"model: {result.model}, {size_text(result.n_bytes)}")
    print(f"use it: datus predict {result.model} IMAGES --out DIR")


@contextmanager
def _class_table(images: str, labels: str, classes: str, model: Path) -> Iterator[dict[str, str]]:
    """`labels` and `classes`. Without a class table, what a tool exported is drawn, with its names,
    into a hidden folder beside the model, for as long as it is needed."""
    if classes:
        yield {"labels": labels, "classes": classes}
        return
    from datus.formats.label_folders import as_folder

    folder = model.with_name(f".{model.stem}-labels")
    shutil.rmtree(folder, ignore_errors=True)  # what a kill left
    try:
        with explained(str(folder), "write", "--out"):
            drawn, table = as_folder(Path(images), Path(labels), folder)
        yield {"labels": str(drawn), "classes": str(table)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)

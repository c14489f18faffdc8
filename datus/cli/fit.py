"""`datus fit`: train a model on images and imperfect labels."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datus.cli.options import (
    OPTIONS,
    Backbone,
    Classes,
    Debug,
    Device,
    Images,
    Offline,
    Set,
    Weights,
)
from datus.cli.terminal import Bars, errors
from datus.config import Config, parse_override
from datus.errors import UsageError, size_text
from datus.store.disk import explained

if TYPE_CHECKING:
    from datus.segmenter.fit import Fitted

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
    epochs: Annotated[int | None, typer.Option("--epochs", help="over all images", min=1)] = None,
    backbone: Backbone = "",
    weights: Weights = "",
    device: Device = "",
    max_failed: Annotated[
        int | None, typer.Option("--max-failed", help="unusable images allowed (0)", min=0)
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="of everything random (0)", min=0)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace another model of that name")
    ] = False,
    offline: Offline = False,
    settings: Set = None,
    debug: Debug = False,
) -> None:
    """Train a model on points, scribbles or dense labels with errors; for datus predict."""
    with errors(debug):
        from datus.segmenter.fit import fit_folders, new_model

        if not (images and labels and out):
            raise UsageError("give all of --images DIR, --labels DIR, --classes TOML, --out MODEL")
        model, given = new_model(out), locals()
        with _with_table(images, labels, classes, model) as found:
            config = Config.load(None, _overrides({**given, **found}))
            _tell(fit_folders(config, model, Bars(), overwrite))


def _tell(done: "Fitted") -> None:
    for name, why in sorted(done.failures.items()):
        print(f"left out: {name}: {why}")
    print(
        f"{done.n_trained} images learnt, {done.n_dropped} left out (no label, or nearly all "
        f"one class), {done.n_unlabelled} without labels"
    )
    print(f"mean loss {done.curve[0]:.3f} in the first epoch, {done.curve[-1]:.3f} in the last")
    print(f"model: {done.model}, {size_text(done.n_bytes)}")
    print(f"use it: datus predict {done.model} IMAGES --out DIR")


@contextmanager
def _with_table(images: str, labels: str, classes: str, model: Path) -> Iterator[dict[str, str]]:
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


def _overrides(given: dict[str, Any]) -> dict[str, Any]:
    """Dotted setting -> value, of the options that were given; --set comes last."""
    names = ("images", "classes", "backbone", "weights", "device", "max_failed", "seed")
    named = {OPTIONS[name]: given[name] for name in names}
    named |= {"data.truth": given["labels"], "denoise.epochs": given["epochs"]}
    named |= {"denoise.kind": given["kind"], "denoise.head": given["head"]}
    found = {name: value for name, value in named.items() if value not in ("", None)}
    tuned = {"denoise.freeze": False} if given["tune"] else {}
    more = dict(parse_override(text) for text in given["settings"] or [])
    return {**DEFAULTS, **found, **tuned, **more}

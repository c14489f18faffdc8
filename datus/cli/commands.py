"""Commands beside the pipeline: each reads its arguments, calls one function, prints the result."""

import json
from pathlib import Path
from typing import Annotated

import typer

from datus.cli.options import (
    OPTIONS,
    Classes,
    Debug,
    FailuresAllowed,
    Images,
    Offline,
    RunDir,
    Set,
    Truth,
)
from datus.cli.terminal import Bars, errors, scores_table, shown, table, write_text
from datus.config import parse_override
from datus.errors import UsageError, WorkError, size_text


def evaluate(
    masks: Annotated[Path, typer.Argument(help="folder of label PNGs, made by anything")],
    truth: Annotated[Path, typer.Argument(help="folder of true masks with the same names")],
    classes: Annotated[Path, typer.Option("--classes", help="TOML: what the true ids mean")],
    clusters: Annotated[int, typer.Option("--clusters", help="default: highest label + 1")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="also write the scores here")] = None,
    max_failed: FailuresAllowed = 0,
    debug: Debug = False,
) -> None:
    """Score any two folders of label PNGs under all matching rules."""
    with errors(debug):
        from datus.compare.folders import evaluate_folders

        found = evaluate_folders(masks, truth, classes, clusters, max_failed)
        if out is not None:
            write_text(out, json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{found['n_images']} images, K = {found['clusters']}, {found['classes']} classes")
        for image_id, reason in found["failures"].items():
            print(f"left out: {image_id}: {reason}")
        print(scores_table(found["scores"]))


def freeze(
    run: Annotated[str, typer.Argument(help="folder of a finished run")],
    out: Annotated[Path, typer.Option("--out", help="file to write, .safetensors")],
    clusters: Annotated[int, typer.Option("--clusters", help="which, if there are several")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the file if it is there")
    ] = False,
    debug: Debug = False,
) -> None:
    """The clusters of a finished run in one small file, for --frozen-clusters."""
    with errors(debug):
        from datus.review.frozen import check_new, known_k, load, save

        check_new(out)
        known = known_k(run)
        if not clusters and len(known) > 1:
            listed = " and ".join(map(str, known))
            raise UsageError(f"{run} has clusters for K = {listed}: choose with --clusters")
        n_bytes = save(load(run, clusters or known[0]), out, overwrite)
        print(f"{clusters or known[0]} clusters, {size_text(n_bytes)}: {out}")


def compare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="one grid, or the configs of finished runs", metavar="GRID | RUN ..."),
    ] = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    run_dir: RunDir = "",
    backbones: Annotated[str, typer.Option("--backbones", help="NAME or NAME:WEIGHTS, ...")] = "",
    labels: Annotated[
        str, typer.Option("--labels", help="names in tables, in the order of the backbones: A,B")
    ] = "",
    embedders: Annotated[str, typer.Option("--embedders", help="pool, crop, crop:NAME:...")] = "",
    clusters: Annotated[str, typer.Option("--clusters", help="numbers of clusters: 6,8,12")] = "",
    presets: Annotated[str, typer.Option("--presets", help="best,paper")] = "",
    seeds: Annotated[str, typer.Option("--seeds", help="0,1,2 gives means and spreads")] = "",
    table: Annotated[str, typer.Option("--table", help="I, II, III, VI, VII or full")] = "",
    out: Annotated[str, typer.Option("--out", help="default: RUN/compare/NAME")] = "",
    offline: Offline = False,
    settings: Set = None,
    debug: Debug = False,
) -> None:
    """Schemes, embedders and numbers of clusters side by side: the paper's tables and figures."""
    with errors(debug):
        from datus.compare.compare import compare_files
        from datus.compare.documents import summary, write

        given = {"images": images, "truth": truth, "classes": classes, "run_dir": run_dir}
        overrides = dict(parse_override(text) for text in settings or [])
        overrides |= {OPTIONS[name]: value for name, value in given.items() if value}
        lists = {"backbones": backbones, "labels": labels, "embedders": embedders, "k": clusters}
        lists |= {"presets": presets, "seeds": seeds, "table": table}
        found = compare_files(files or [], overrides, lists, Bars())
        print(summary(found, write(found, out)))
        if found.n_failed:
            raise WorkError(f"{found.n_failed} of {len(found.results)} cells failed, see the table")


def backbones(
    name: Annotated[str, typer.Argument(help="all that is known of one model")] = "",
    fetch: Annotated[
        bool, typer.Option("--fetch", help="download the weights of NAME, to run without a network")
    ] = False,
    debug: Debug = False,
) -> None:
    """The table of backbones: scheme, terms, and whether the weights are on this machine."""
    with errors(debug):
        from datus.models.registry import resolve
        from datus.models.weights import advice, describe, listing, notice

        if fetch and not name:
            raise UsageError("--fetch: expected the name of a model before it, got none")
        name = resolve(name)
        if not fetch:
            print(table(list(describe(name))) if name else f"{table(listing())}\n\n{advice()}")
            return
        from datus.models.weights import fetch as download

        if note := notice(name, "auto"):
            print(shown(note))
        print(table(list(download(name))))

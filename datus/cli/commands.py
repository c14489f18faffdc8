"""Commands beside the pipeline: each reads its arguments, calls one function, prints the result."""

import json
from pathlib import Path
from typing import Annotated

import typer

from datus.api.tables import scores_table, text_table
from datus.cli.options import (
    Classes,
    FailuresAllowed,
    Images,
    Offline,
    RunDir,
    Set,
    Truth,
    given_settings,
    only_k,
    parse_settings,
)
from datus.engine.progress import ProgressBars, printable
from datus.errors import UsageError, WorkError, size_text
from datus.store.whole_file import write_output


def evaluate(
    masks: Annotated[Path, typer.Argument(help="folder of label PNGs, made by anything")],
    truth: Annotated[Path, typer.Argument(help="folder of true masks with the same names")],
    classes: Annotated[Path, typer.Option(help="TOML: what the true ids mean")],
    clusters: Annotated[int, typer.Option(help="default: highest label + 1")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="also write the scores here")] = None,
    max_failed: FailuresAllowed = 0,
) -> None:
    """Score any two folders of label PNGs under all matching rules."""
    from datus.compare.folders import evaluate_folders

    result = evaluate_folders(masks, truth, classes, clusters, max_failed)
    if out is not None:
        text = json.dumps(result, indent=1, sort_keys=True) + "\n"
        write_output(out, text.encode(), cure="choose another --json")
    print(f"{result['n_images']} images, K = {result['clusters']}, {result['classes']} classes")
    for image_id, reason in result["failures"].items():
        print(printable(f"left out: {image_id}: {reason}"))
    print(scores_table(result["scores"]))


def freeze(
    run: Annotated[str, typer.Argument(help="folder of a finished run")],
    out: Annotated[Path, typer.Option(help="file to write, .safetensors")],
    clusters: Annotated[int, typer.Option(help="which, if there are several")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the file if it is there")
    ] = False,
) -> None:
    """The clusters of a finished run in one small file, for --frozen-clusters."""
    from datus.review.frozen import check_new, load, save

    check_new(out)
    k = clusters or only_k(run)
    n_bytes = save(load(run, k), out, overwrite)
    print(f"{k} clusters, {size_text(n_bytes)}: {out}")


def compare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="one grid, or the configs of finished runs", metavar="GRID | RUN ..."),
    ] = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    run_dir: RunDir = "",
    backbones: Annotated[str, typer.Option(help="NAME or NAME:WEIGHTS, ...")] = "",
    labels: Annotated[
        str, typer.Option(help="names in tables, in the order of the backbones: A,B")
    ] = "",
    embedders: Annotated[str, typer.Option(help="pool, crop, crop:NAME:...")] = "",
    clusters: Annotated[str, typer.Option(help="numbers of clusters: 6,8,12")] = "",
    presets: Annotated[str, typer.Option(help="best,paper")] = "",
    seeds: Annotated[str, typer.Option(help="0,1,2 gives means and spreads")] = "",
    table: Annotated[str, typer.Option(help="I, II, III, VI, VII or full")] = "",
    out: Annotated[str, typer.Option(help="default: RUN/compare/NAME")] = "",
    offline: Offline = False,
    settings: Set = None,
) -> None:
    """Schemes, embedders and numbers of clusters side by side: the paper's tables and figures."""
    from datus.compare.compare import compare_files
    from datus.compare.documents import summary, write

    data = {"images": images, "truth": truth, "classes": classes, "run_dir": run_dir}
    overrides = parse_settings(settings) | given_settings(data)
    lists = {"backbones": backbones, "labels": labels, "embedders": embedders, "k": clusters}
    lists |= {"presets": presets, "seeds": seeds, "table": table}
    comparison = compare_files(files or [], overrides, lists, ProgressBars())
    print(summary(comparison, write(comparison, out)))
    if n_failed := comparison.n_failed:
        raise WorkError(f"{n_failed} of {len(comparison.results)} cells failed, see the table")


def backbones(
    name: Annotated[str, typer.Argument(help="all that is known of one model")] = "",
    fetch: Annotated[
        bool, typer.Option("--fetch", help="download the weights of NAME, to run without a network")
    ] = False,
) -> None:
    """The table of backbones: scheme, terms, and whether the weights are on this machine."""
    from datus.models.registry import resolve
    from datus.models.weights import advice, describe, listing, notice

    if fetch and not name:
        raise UsageError("--fetch: expected the name of a model before it, got none")
    name = resolve(name)
    if not fetch:
        print(text_table(describe(name)) if name else f"{text_table(listing())}\n\n{advice()}")
        return
    from datus.models.weights import fetch as download

    if note := notice(name, "auto"):
        print(printable(note))
    print(text_table(download(name)))

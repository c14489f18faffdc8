"""Commands beside the pipeline: each reads its arguments, calls one function, prints the result."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from datus.cli.options import (
    OPTIONS,
    Classes,
    Debug,
    Device,
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
        from datus.models.aliases import resolve
        from datus.models.weights import advice, describe, listing, notice

        if fetch and not name:
            raise UsageError("--fetch: expected the name of a model before it, got none")
        name = resolve(name)
        if not fetch:
            print(table(list(describe(name))) if name else f"{table(listing())}\n\n{advice()}")
            return
        from datus.models.download import fetch as download

        if note := notice(name, "auto"):
            print(shown(note))
        print(table(list(download(name))))


def pretrain(
    images: Images = "",
    out: Annotated[Path, typer.Option("--out", help="folder of the weights")] = Path("pretrained"),
    name: Annotated[str, typer.Option("--name", help="of the model")] = "own_t8",
    start: Annotated[
        str, typer.Option("--start", help="begin with this model: datus_t8, or weights of yours")
    ] = "",
    views: Annotated[int, typer.Option("--views", help="crops to learn from", min=0)] = 128_000,
    pairs: Annotated[
        int, typer.Option("--pairs", help="pairs of crops after that; 0 = none", min=0)
    ] = 48_000,
    seed: Annotated[int, typer.Option("--seed", help="of everything random", min=0)] = 0,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option("--threads", help="0 = one per core", min=0)] = 0,
    debug: Debug = False,
) -> None:
    """Train a small backbone on your own images, without labels. Goes on where it stopped."""
    with errors(debug):
        if not images:
            raise UsageError("no images: give --images FOLDER")
        if not (views or pairs or start):
            raise UsageError("nothing to train: give --views, --pairs or --start")
        import torch

        from datus.compute.threads import n_cores
        from datus.inputs.images import find_images
        from datus.models.forward import find_device
        from datus.pretrain import Pretraining, pretrain

        folder = Path(images)
        settings = Pretraining(
            images=folder,
            out=out,
            name=name,
            views=views,
            pairs=pairs,
            seed=seed,
            start=start,
            device=find_device(device),
        )
        paths = [folder / path for path in find_images(folder).paths]
        console, n_steps = Bars(), settings.phases[-1].last

        def say(line: dict[str, Any]) -> None:
            losses = ", ".join(f"{one:.4f}" for one in line["losses"])
            loss = f"loss {losses}; " if losses else ""
            console.say(f"step {line['step']}: {loss}checkpoint written")

        before = torch.get_num_threads()
        torch.set_num_threads(threads or n_cores())
        try:
            with console.bar("pretrain", n_steps, "step") as advance:
                weights = pretrain(settings, paths, say, advance)
        finally:
            torch.set_num_threads(before)
    print(f"weights: {weights}")
    print(f"use them: datus run --images {images} --clusters 12 --backbone {weights}")

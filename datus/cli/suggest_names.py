"""The command `datus suggest-names`: words for clusters from a text-image model, to be checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datus.cli.options import Debug, Device, Offline
from datus.cli.terminal import Bars, Row, errors, shown, table
from datus.errors import UsageError

if TYPE_CHECKING:
    from datus.suggest.suggest_names import Suggested


def suggest_names(
    run: Annotated[str, typer.Argument(help="folder of a finished run", metavar="RUN")],
    words: Annotated[Path, typer.Option("--words", help="one a line, or a class table (.toml)")],
    images: Annotated[
        str, typer.Option("--images", help="the run's images; datus.mine remembers them")
    ] = "",
    model: Annotated[
        str, typer.Option("--model", help="ARCHITECTURE/TAG of open_clip, or a checkpoint file")
    ] = "ViT-B-32/laion2b_s34b_b79k",
    top: Annotated[int, typer.Option("--top", help="words for each cluster")] = 3,
    crops: Annotated[int, typer.Option("--crops", help="segments of each cluster, at most")] = 16,
    k: Annotated[int, typer.Option("--k", help="where the run has several")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="a folder; default: the run's")] = None,
    edits: Annotated[
        Path | None, typer.Option("--edits", help="write an edits.json with the names, too")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace earlier files")] = False,
    device: Device = "",
    offline: Offline = False,
    threads: Annotated[int, typer.Option("--threads", help="0 = one per core")] = 0,
    debug: Debug = False,
) -> None:
    """Suggest names for clusters. Guesses of a model, nothing is scored: look before use."""
    with errors(debug):
        for name, value in (("top", top), ("crops", crops)):
            if value < 1:
                raise UsageError(f"--{name} {value}: expected 1 or more")
        from datus.compute.threads import n_cores
        from datus.store.store import Store
        from datus.suggest.suggest_names import Request
        from datus.suggest.suggest_names import suggest_names as suggest

        wanted = Request(
            words=words,
            images=images,
            model=model,
            k=k,
            top=top,
            crops=crops,
            out=out,
            edits=edits,
            overwrite=overwrite,
            device=device or "auto",
            n_threads=threads or n_cores(),
        )
        done = suggest(Store(run), wanted, Bars().bar)
        print(table(rows_of(done.clusters, done.given)))
        print("\nsuggestions of a model, not checked on these images: look before you use them")
        for path in done.files:
            print(shown(f"written: {path}"))


def rows_of(found: Sequence["Suggested"], given: Sequence[str]) -> list[Row]:
    """A line for each cluster."""
    rows: list[Row] = [("cluster", "crops", "score", "margin", "share", "suggestion", "then")]
    for one, name in zip(found, given, strict=True):
        label = f"{one.cluster} ({name})" if name else str(one.cluster)
        if not one.guesses:
            rows.append((label, "0", "-", "-", "-", "-", ""))
            continue
        first, then = one.guesses[0], ", ".join(guess.word for guess in one.guesses[1:])
        figures = (f"{first.score:.3f}", f"{first.margin:.3f}", f"{one.share:.2f}")
        rows.append((label, str(one.n_crops), *figures, first.word, then))
    return rows

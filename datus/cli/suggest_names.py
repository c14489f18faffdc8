"""The command `datus suggest-names`: words for clusters from a text-image model, to be checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datus.api.tables import Row, text_table
from datus.cli.options import Device, Offline
from datus.engine.progress import ProgressBars, printable
from datus.errors import UsageError

if TYPE_CHECKING:
    from datus.suggest.suggest_names import Suggested


def suggest_names(
    run: Annotated[str, typer.Argument(help="folder of a finished run", metavar="RUN")],
    words: Annotated[Path, typer.Option(help="one a line, or a class table (.toml)")],
    images: Annotated[str, typer.Option(help="the run's images; datus.mine remembers them")] = "",
    model: Annotated[
        str, typer.Option(help="ARCHITECTURE/TAG of open_clip, or a checkpoint file")
    ] = "ViT-B-32/laion2b_s34b_b79k",
    top: Annotated[int, typer.Option(help="words for each cluster")] = 3,
    crops: Annotated[int, typer.Option(help="segments of each cluster, at most")] = 16,
    k: Annotated[int, typer.Option(help="where the run has several")] = 0,
    out: Annotated[Path | None, typer.Option(help="a folder; default: the run's")] = None,
    edits: Annotated[
        Path | None, typer.Option(help="write an edits.json with the names, too")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace earlier files")] = False,
    device: Device = "",
    offline: Offline = False,
    threads: Annotated[int, typer.Option(help="0 = one per core")] = 0,
) -> None:
    """Suggest names for clusters. Guesses of a model, nothing is scored: look before use."""
    for name, value in (("top", top), ("crops", crops)):
        if value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    from datus.compute.threads import n_cores
    from datus.store.store import Store
    from datus.suggest.suggest_names import Request
    from datus.suggest.suggest_names import suggest_names as suggest

    n_threads = threads or n_cores()
    request = Request(
        words, images, model, k, top, crops, out, edits, overwrite, device or "auto", n_threads
    )
    result = suggest(Store(run), request, ProgressBars().bar)
    print(text_table(rows_of(result.clusters, result.given)))
    print("\nsuggestions of a model, not checked on these images: look before you use them")
    for path in result.files:
        print(printable(f"written: {path}"))


def rows_of(clusters: Sequence["Suggested"], given: Sequence[str]) -> list[Row]:
    """A line for each cluster. given: the name that each has already, or an empty text."""
    rows: list[Row] = [("cluster", "crops", "score", "margin", "share", "suggestion", "then")]
    for cluster, name in zip(clusters, given, strict=True):
        label = f"{cluster.cluster} ({name})" if name else str(cluster.cluster)
        if not cluster.guesses:
            rows.append((label, "0", "-", "-", "-", "-", ""))
            continue
        first, *others = cluster.guesses
        figures = (f"{first.score:.3f}", f"{first.margin:.3f}", f"{cluster.share:.2f}")
        then = ", ".join(guess.word for guess in others)
        rows.append((label, str(cluster.n_crops), *figures, first.word, then))
    return rows

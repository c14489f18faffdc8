"""The command `datus suggest-k`: how many clusters, and whether to believe them, without labels."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datus.api.tables import Row, text_table
from datus.engine.progress import ProgressBars, printable
from datus.errors import UsageError
from datus.store.disk import check_writable
from datus.types import MAX_CLUSTERS

if TYPE_CHECKING:
    from datus.method.verdict import KFigures

COLUMNS = ("stability", "silhouette", "content")


def suggest_k(
    run: Annotated[
        str, typer.Argument(help="run folder that got as far as its embeddings", metavar="RUN")
    ],
    k: Annotated[str, typer.Option(help="2-30, or numbers with commas")] = "2-30",
    seed: Annotated[int, typer.Option(help="of what is drawn by lot")] = 0,
    sample: Annotated[int, typer.Option(help="segments that are looked at, about")] = 4000,
    threads: Annotated[int, typer.Option(help="0 = one per core", min=0)] = 0,
) -> None:
    """Suggest a number of clusters, and say what speaks against them. Needs no true masks."""
    ks = wanted_k(k)
    if sample < 256:
        raise UsageError(f"--sample {sample}: expected at least 256 segments")
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected 0 or more")
    from datus.compute.threads import n_cores
    from datus.store.store import Store
    from datus.suggest.plot import k_plot
    from datus.suggest.stability import overview, usable_k
    from datus.suggest.suggest_k import find_source, read_points, suggest

    store, console = Store(run, option=""), ProgressBars()
    source = find_source(store)
    if store.is_local:  # before minutes of work
        check_writable(Path(store.path(f"{FILES}.json")), "")
    with console.bar("read segments", len(source.index.records)) as advance:
        points = read_points(store, source, seed, sample, advance)
    tried = usable_k(overview(points), [*ks, *source.clusters.k])
    with console.bar("try K", len(tried), "K") as advance:
        result = suggest(points, source, ks, seed, n_threads=threads or n_cores(), advance=advance)
    print(text_table(rows_of(result.found)))
    choice = result.choice
    print(f"\nrecommended: --clusters {choice.k}: {choice.reason}")
    if choice.others:
        print(f"also worth a look: K = {', '.join(map(str, choice.others))}")
    for judged in judged_ks(choice.k, source.clusters.k, result.verdicts):
        print(f"K = {judged}: {result.verdicts[judged].words}")
    text = json.dumps(result.as_dict(), indent=1, allow_nan=False) + "\n"
    plots = k_plot(result.found, choice.k)
    for name, data in {f"{FILES}.json": text.encode(), **plots}.items():
        store.write(data, name)
    figures, plot = (store.address(f"{FILES}.{suffix}") for suffix in ("json", "png"))
    print(printable(f"figures: {figures}, plot: {plot}"))


FILES = "suggest_k"
"""Name of what is written, before the suffix."""


def wanted_k(text: str) -> list[int]:
    """'2-30' or '4,8,12' -> numbers of clusters, in order. Raises UsageError."""
    ks: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_number(first) or (dash and not _is_number(last)):
            raise UsageError(f"--k {text}: expected a range such as 2-30, or numbers with commas")
        low, high = int(first), int(last or first)
        if not 2 <= low <= high <= MAX_CLUSTERS:
            raise UsageError(f"--k {text}: expected numbers from 2 to {MAX_CLUSTERS}, rising")
        ks |= set(range(low, high + 1))
    return sorted(ks)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20  # Python reads up to 4300 digits


def judged_ks(chosen: int, of_run: Sequence[int], judged: Collection[int]) -> list[int]:
    """K whose verdicts are printed: the recommended one and two of the run. All others are in
    suggest_k.json."""
    return [chosen, *[k for k in of_run if k in judged and k != chosen][:2]]


def rows_of(ks: Sequence["KFigures"]) -> list[Row]:
    """A line for each K; after each figure what chance has."""
    head = (part for name in COLUMNS for part in (name, "chance"))
    rows: list[Row] = [("K", *head, "unexplained", "gap")]
    for k in ks:
        cells = [str(k.k)]
        for name in COLUMNS:
            chance = k.chance[name]
            mean = round(chance.mean, 3) + 0.0  # no minus before zero
            cells += [f"{k.real[name].mean:.3f}", f"{mean:.3f} ± {chance.sd:.3f}"]
        rows.append((*cells, f"{k.real['unexplained'].mean:.3f}", f"{k.gap:.3f}"))
    return rows

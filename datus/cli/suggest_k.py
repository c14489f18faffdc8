"""The command `datus suggest-k`: how many clusters, and whether to believe them, without labels."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datus.cli.options import Debug
from datus.cli.terminal import Bars, Row, errors, shown, table
from datus.errors import UsageError
from datus.store.disk import check_writable
from datus.types import MAX_CLUSTERS

if TYPE_CHECKING:
    from datus.method.verdict import KFigures
    from datus.store.store import Store
    from datus.suggest.suggest_k import Suggestion

COLUMNS = ("stability", "silhouette", "content")


def suggest_k(
    run: Annotated[
        str, typer.Argument(help="run folder that got as far as its embeddings", metavar="RUN")
    ],
    k: Annotated[str, typer.Option("--k", help="2-30, or numbers with commas")] = "2-30",
    seed: Annotated[int, typer.Option("--seed", help="of what is drawn by lot")] = 0,
    sample: Annotated[
        int, typer.Option("--sample", help="segments that are looked at, about")
    ] = 4000,
    threads: Annotated[int, typer.Option("--threads", help="0 = one per core", min=0)] = 0,
    debug: Debug = False,
) -> None:
    """Suggest a number of clusters, and say what speaks against them. Needs no true masks."""
    with errors(debug):
        ks = wanted_k(k)
        if sample < 256:
            raise UsageError(f"--sample {sample}: expected at least 256 segments")
        if seed < 0:
            raise UsageError(f"--seed {seed}: expected 0 or more")
        from datus.compute.threads import n_cores
        from datus.store.store import Store
        from datus.suggest.suggest_k import find_source, read_points, suggest, tried_k

        store, console = Store(run, option=""), Bars()
        source = find_source(store)
        if store.is_local:  # before minutes of work
            check_writable(Path(store.path(f"{FILES}.json")), "")
        with console.bar("read segments", len(source.index.records)) as advance:
            points = read_points(store, source, seed, sample, advance)
        tried = tried_k(points, source, ks)
        with console.bar("try K", len(tried), "K") as advance:
            found = suggest(
                points, source, ks, seed, n_threads=threads or n_cores(), advance=advance
            )
        print(table(rows_of(found.found)))
        print(f"\nrecommended: --clusters {found.choice.k}: {found.choice.reason}")
        if found.choice.others:
            print(f"also worth a look: K = {', '.join(map(str, found.choice.others))}")
        for one in told(found.choice.k, source.clusters.k, found.verdicts):
            print(f"K = {one}: {found.verdicts[one].words}")
        write_all(store, found)
        figures, plot = (store.address(f"{FILES}.{suffix}") for suffix in ("json", "png"))
        print(shown(f"figures: {figures}, plot: {plot}"))


FILES = "suggest_k"
"""Name of what is written, before the suffix."""


def write_all(store: "Store", found: "Suggestion") -> None:
    """Figures and plot. Raises StoreError."""
    from datus.suggest.plot import k_plot

    text = json.dumps(found.as_dict(), indent=1, allow_nan=False) + "\n"
    plots = k_plot(found.found, found.choice.k, FILES)
    for name, data in {f"{FILES}.json": text.encode(), **plots}.items():
        store.write(data, name)


def wanted_k(text: str) -> list[int]:
    """'2-30' or '4,8,12' -> numbers of clusters, in order. Raises UsageError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _number(first) or (dash and not _number(last)):
            raise UsageError(f"--k {text}: expected a range such as 2-30, or numbers with commas")
        low, high = int(first), int(last or first)
        if not 2 <= low <= high <= MAX_CLUSTERS:
            raise UsageError(f"--k {text}: expected numbers from 2 to {MAX_CLUSTERS}, rising")
        found |= set(range(low, high + 1))
    return sorted(found)


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20  # Python reads up to 4300 digits


def told(chosen: int, of_run: Sequence[int], judged: Collection[int]) -> list[int]:
    """K whose verdicts are printed: the recommended one, and the first of those of the run."""
    return [chosen, *[k for k in of_run if k in judged and k != chosen][:MAX_TOLD]]


MAX_TOLD = 2
"""All others are in suggest_k.json."""


def rows_of(found: Sequence["KFigures"]) -> list[Row]:
    """A line for each K; after each figure what chance has."""
    head = [part for name in COLUMNS for part in (name, "chance")]
    rows: list[Row] = [("K", *head, "unexplained", "gap")]
    for one in found:
        cells = [
            part for name in COLUMNS for part in (f"{one.real[name].mean:.3f}", _chance(one, name))
        ]
        left = f"{one.real['unexplained'].mean:.3f}"
        rows.append((str(one.k), *cells, left, f"{one.gap:.3f}"))
    return rows


def _chance(one: "KFigures", name: str) -> str:
    chance = one.chance[name]
    return f"{round(chance.mean, 3) + 0.0:.3f} ± {chance.sd:.3f}"  # + 0.0: no minus before zero

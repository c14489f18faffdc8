"""Run every cell of a grid in one run folder, or read runs that are finished.

    found = compare(load_grid(Path("pipelines/paper/table1_suim.toml")), console)
    write(found)                   tables and figures, by `documents`: what -> where

The store is content-addressed, so cells share every stage whose settings they share: features of a
backbone are computed once for all K and all embedders. A cell that fails is recorded with its
reason and the others go on; the same command goes on where it stopped.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from datus.compare.cells import CellResult, Comparison
from datus.compare.finished import finished, read_figures
from datus.compare.grid import Cell, Grid, is_grid, load_grid, parse_lists
from datus.compare.tables import chosen_rules
from datus.engine.plan import Plan, find_node
from datus.engine.run import QUIET, Console, RunResult
from datus.engine.workers import Advance
from datus.errors import CorruptShard, DatusError, StoreError, UsageError, WorkError
from datus.inputs.index import check_inputs
from datus.pipeline import STAGE_NAMES, run
from datus.store.reports import Place
from datus.store.store import Store


def compare_files(
    files: Sequence[Path],
    overrides: Mapping[str, Any],
    lists: Mapping[str, str],
    console: Console = QUIET,
) -> Comparison:
    """One grid, or none but `lists`, is run; configs of runs are read. Raises UsageError.

    `overrides`: settings by dotted name; `lists`: keys of the grid as the command line spells
    them, "" where it does not.
    """
    grids = [path for path in files if is_grid(path)]
    if len(files) > 1 and grids:
        raise UsageError(f"{grids[0]} is a grid: expected one grid alone, or configs of runs")
    parsed = parse_lists(lists)
    if files and not grids:
        unfit = sorted(set(parsed) - {"table"})
        if unfit:
            raise UsageError(
                f"{unfit[0]}: {files[0]} is a finished run, which has none to choose; expected a "
                "grid, a file with base = or [base]"
            )
        return finished(files, lists.get("table") or "full", overrides)
    return compare(load_grid(files[0] if files else None, overrides, parsed), console)


# --- a grid -------------------------------------------------------------------------------------


def compare(grid: Grid, console: Console = QUIET) -> Comparison:
    """Every cell, in order. Raises UsageError at the door, StoreError where the disk fails."""
    settings = grid.settings
    rules = chosen_rules(settings.rules, settings.table)
    for config in {cell.config.data: cell.config for cell in grid.cells}.values():
        check_inputs(config)
    for text in _weights_missing(grid.cells):
        console.say(f"warning: {text}")
    store, clock, once = Store(grid.run_path), _Clock(grid.cells), _Once(console)
    before = _n_shards(store)
    seen: set[Place] = set()
    results = []
    for number, cell in enumerate(grid.cells):
        console.say(f"cell {number + 1} of {len(grid.cells)}: {cell.label}{clock.eta(number)}")
        result, worked = _one(cell, store, once, seen, settings.reports)
        clock.note(number, worked)
        if result.reason:
            console.say(f"failed: {result.reason}")
        results.append(result)
    made, name = _n_shards(store) - before, settings.name
    return Comparison(name, settings.table, rules, tuple(results), grid.run_path, made)


def _n_shards(store: Store) -> int:
    """Finished shards of all stages."""
    return sum(
        name.startswith("shard-") and name.endswith(".json")
        for stage in STAGE_NAMES
        for fingerprint in store.folders(stage)
        for name in store.files(stage, fingerprint)
    )


def _weights_missing(cells: Iterable[Cell]) -> list[str]:
    """What can be known without loading a model: said before the first cell, not after hours."""
    from datus.models.weights import weights_id

    wanted = Counter[tuple[str, str]]()
    for cell in cells:
        for section in (cell.config.features, cell.config.embeddings):
            if section.backbone != "same":
                wanted[section.backbone, section.weights] += 1
    warnings = []
    for (name, weights), n_cells in wanted.items():
        try:
            if not Path(weights).is_file():  # the run hashes a file that is there
                weights_id(name, weights)
        except (UsageError, WorkError) as error:
            warnings.append(f"{n_cells} cells with {name} will fail: {error}")
    return warnings


def _one(
    cell: Cell, store: Store, console: Console, seen: set[Place], reports: bool
) -> tuple[CellResult, bool]:
    """(what came out of a cell, whether there was work to do). Only a broken store is raised."""
    until = "report" if reports else "evaluate"
    try:
        result = run(cell.config, store, console, until=until)
        if _forget_damaged(store, result.plan, console):
            result = run(cell.config, store, console, until=until)
        measured = _measured(cell, store, result, seen)
    except StoreError:
        raise
    except Exception as error:  # a surprise in one cell must not end the others
        reason = str(error) if isinstance(error, DatusError) else f"{type(error).__name__}: {error}"
        return CellResult(**_identity(cell), reason=reason), True
    return measured, any(row.made for row in result.stages if row.name != "index")


def _forget_damaged(store: Store, plan: Plan, console: Console) -> bool:
    """Whether any of the shards that are read here has to be made again."""
    damaged = False
    for node in plan.nodes:
        for place in plan.places(node) if node.name in ("clusters", "evaluate") else ():
            try:
                store.read_shard(place)
            except CorruptShard as error:
                console.say(f"{error}: made again")
                store.forget_shard(place)
                damaged = True
    return damaged


def _identity(cell: Cell) -> dict[str, Any]:
    scheme, config = cell.scheme, cell.config
    return {
        "backbone": scheme.label,
        "k": cell.k,
        "preset": config.preset,
        "embedder": cell.embedder,
        "seed": config.seed,
        "group": scheme.group,
        "params": scheme.params,
        "pretraining": scheme.pretraining,
    }


def _measured(cell: Cell, store: Store, result: RunResult, seen: set[Place]) -> CellResult:
    plan = result.plan
    figures = read_figures(cell.config, store, plan, cell.k)
    nodes = [node for node in plan.nodes if not node.stage.is_last]
    places = {place for node in nodes for place in plan.places(node)}
    figures |= {"n_shards": len(places), "n_shared": len(places & seen)}
    seen |= places
    if "report" in result.links:
        node = find_node(plan.nodes, "report", 0)
        figures["report"] = store.address("report", node.fingerprint, "files", "report.html")
    return CellResult(**_identity(cell), **figures)


class _Once:
    """A console that does not repeat a warning for each K of the same segments."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[str] = set()

    def bar(self, name: str, total: int) -> AbstractContextManager[Advance]:
        return self._console.bar(name, total)

    def say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._console.say(text)


class _Clock:
    """How long the rest will take, from cells that had as much to do."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        keys = [
            ((cell.config.preset, cell.scheme), cell.config.seed, cell.embedder, cell.k)
            for cell in cells
        ]
        # where each cell first differs from the one before: backbone, seed, embedder or K
        self._kinds = [0]
        for before, key in pairwise(keys):
            changed = (place for place in range(4) if before[place] != key[place])
            self._kinds.append(next(changed, 3))
        self._seconds: dict[int, list[float]] = {}
        self._last = time.monotonic()

    def note(self, number: int, worked: bool) -> None:
        """A cell has ended; one that found everything done tells nothing."""
        now = time.monotonic()
        if worked:
            self._seconds.setdefault(self._kinds[number], []).append(now - self._last)
        self._last = now

    def eta(self, number: int) -> str:
        """', some 4 min left'; empty as long as nothing is known."""
        every = [value for values in self._seconds.values() for value in values]
        if not every:
            return ""
        left = sum(fmean(self._seconds.get(kind, every)) for kind in self._kinds[number:])
        return f", some {time_text(left)} left"


def time_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""What several benchmarks share: class tables, runs, logs of JSON lines, Markdown tables."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from datus.config import Config
from datus.pipeline import run
from datus.store.store import Store

ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, Any]
"""One result: a line of a log."""


def class_table(name: str) -> Path:
    """A class table of this repository."""
    return ROOT / "data" / "classes" / f"{name}.toml"


def report_of(settings: Mapping[str, Any]) -> Row:
    """report.json of a run with these settings."""
    config = Config.load(None, settings)
    store = Store(config.run_path)
    report = run(config, store).plan.nodes[-1]
    table: Row = json.loads(store.read("report", report.fingerprint, "files", "report.json"))
    return table


def run_jobs(
    work: Callable[[Any], list[Row]], jobs: Sequence[Any], log: Path, n_processes: int
) -> None:
    """Do jobs in processes of one thread each, and add their rows to a log as they come."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(work, job) for job in jobs]):
            add_rows(log, done.result())


def add_rows(log: Path, rows: Iterable[Row]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(log: Path) -> list[Row]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def by_key(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some columns. Of rows that differ in no column of `names` and have the
    same seed the last one counts."""
    latest = {tuple(row[name] for name in (*names, "seed")): row for row in rows}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for key, row in latest.items():
        groups.setdefault(key[:-1], []).append(row)
    return groups


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [" | ".join(cells) for cells in (header, *rows)]
    head, *body = (f"| {line} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(header), *body])


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

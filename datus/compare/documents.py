"""A comparison to its files: tables, figures and compare.json. Same cells, same bytes."""

import json
import math
from collections.abc import Mapping
from typing import Any

import datus
from datus.compare import figures, plots, tables
from datus.compare.cells import SEGMENTS, CellResult, Comparison
from datus.report.summary import HEADLINE, RULES


def summary(found: Comparison, links: Mapping[str, str]) -> str:
    """What the command prints: the table, what was made, and where it all is."""
    text = _markdown(found)
    lines = [f"{found.made} shards made", *(f"{label}: {path}" for label, path in links.items())]
    return "\n".join([text, *lines])


def _markdown(found: Comparison) -> str:
    made = tables.layout(found.table, found.results, found.rules)
    return tables.to_markdown(made, tables.notes_of(found.results, made))


def documents(found: Comparison) -> dict[str, bytes]:
    """table.md, table.tex, compare.json, a CSV a table, and the figures that have enough points."""
    made = tables.layout(found.table, found.results, found.rules)
    files = {
        "table.md": _markdown(found).encode(),
        "table.tex": tables.to_latex(made).encode(),
        "compare.json": _json(found),
        **{f"{one.key}.csv": tables.to_csv(one).encode() for one in made},
    }
    with plots.look():
        drawn = {
            "figure7": figures.figure7(found.results, found.rules[0]),
            "figure9": figures.figure9(found.results, found.rules),
        }
        for name, figure in drawn.items():
            files |= {} if figure is None else plots.rendered(figure, name)
    return files


def _json(found: Comparison) -> bytes:
    """Everything: all rules, classes, seconds, shared shards. Nothing of this command's history."""
    table = {
        "datus": datus.__version__,
        "name": found.name,
        "table": found.table,
        "headline": HEADLINE,
        "rules": RULES,
        "classes": next((one.class_names for one in found.results if one.class_names), ()),
        "cells": [_cell_json(cell) for cell in found.results],
    }
    return (json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _cell_json(cell: CellResult) -> dict[str, Any]:
    asked = ("run", "preset", "backbone", "embedder", "k", "seed")
    row: dict[str, Any] = {name: getattr(cell, name) for name in asked}
    if cell.reason:
        return {**row, "failed": cell.reason}
    return {
        **row,
        "n_images": cell.n_images,
        "n_valid_segments": cell.n_valid,
        "n_segments": cell.n_segments,
        **{n: _rounded(cell.value(n)) for n in SEGMENTS if n != "n_segments"},
        "scores": {
            rule: {name: _rounded(value) for name, value in cell.scores[rule].as_dict().items()}
            for rule in RULES
            if rule in cell.scores
        },
        "seconds": dict(cell.seconds),
        "shards": {"all": cell.n_shards, "shared_with_earlier_cells": cell.n_shared},
        "report": cell.report,
    }


def _rounded(value: Any) -> Any:
    """Four decimals; NaN, the share of nothing, becomes null."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value

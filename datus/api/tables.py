"""Tables as plain text: aligned columns that are never cut or wrapped.

rich would wrap or cut them at 80 columns in a pipe, and takes 20 ms to load.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from datus.engine.progress import printable

Row = Sequence[str]


def text_table(rows: Sequence[Row]) -> str:
    """The first row is the header. Figures, judged by the last row, stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_figure = [False, *(cell[:1].isdigit() for cell in rows[-1][1:])]
    lines = []
    for row in rows:
        columns = zip(row, widths, is_figure, strict=True)
        cells = (cell.rjust(n) if right else cell.ljust(n) for cell, n, right in columns)
        lines.append("  ".join(cells).rstrip())
    return printable("\n".join(lines))


def scores_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each matching rule."""
    rows: list[Row] = [("rule", "mIoU", "accuracy", "F1", "coverage")]
    for rule, row in scores.items():
        figures = (row[name] for name in ("miou", "accuracy", "f1", "coverage"))
        rows.append((rule, *(f"{figure:.2f}" for figure in figures)))
    return text_table(rows)

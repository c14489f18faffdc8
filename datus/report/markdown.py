"""Markdown from figures and from text of others: tables for a terminal or a repository page.

File names can hold anything, so all text from outside is escaped: it can neither break a table nor
become markup.
"""

from collections.abc import Iterable, Sequence

_ESCAPES = str.maketrans({sign: f"\\{sign}" for sign in "\\`*[]|"} | {"<": "&lt;", "&": "&amp;"})


def plain(text: str) -> str:
    """One line that shows as it is written."""
    return " ".join(text.split()).translate(_ESCAPES)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column is left-aligned, the others are right-aligned figures."""
    written = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*written, strict=True)]
    lines = []
    for cells in written:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append(f"| {' | '.join([first, *others])} |")
    first_rule, *rules = ("-" * max(width - bool(n), 2) for n, width in enumerate(widths))
    lines.insert(1, f"| {' | '.join([first_rule, *(f'{rule}:' for rule in rules)])} |")
    return [*lines, ""]


def aligned(text: str) -> str:
    """A table of lines of cells with ` | ` between them, the first line its head."""
    rows = [line.split(" | ") for line in text.split("\n") if line]
    return "\n".join(table(rows[0], rows[1:]))

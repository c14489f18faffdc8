"""Cells of a comparison to the tables of the paper: Markdown, LaTeX and CSV.

    tables = layout("I", results, rules)      what the paper's Table I shows, as `Table`s
    to_markdown(tables, notes), to_latex(tables), to_csv(table)

Every score column names its rule. Several seeds become mean ± sample standard deviation. What is
not there, because the cell failed, is a dash.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from datus.compare.cells import (
    IDENTITY,
    METRICS,
    SEGMENTS,
    CellResult,
    Line,
    OverSeeds,
    Value,
    lines_of,
    varying,
)
from datus.errors import UsageError
from datus.report.markdown import plain, table
from datus.report.summary import HEADLINE, RULES

LAYOUTS: dict[str, tuple[str, ...]] = {
    "I": ("hungarian_strict", "hungarian_covered"),
    "II": (),
    "III": ("hungarian_strict", "hungarian_covered"),
    "VI": ("hungarian_strict", "hungarian_covered"),
    "VII": ("hungarian_strict", "hungarian_covered", "hungarian_legacy"),
    "full": tuple(RULES),
}
"""The rules that a table shows unless others are asked for: headline first, then the paper's."""


@dataclass(frozen=True, slots=True)
class Column:
    """`head` is (rule or group, name ...), as many levels as the table has; "" spans nothing."""

    head: tuple[str, ...]
    text: bool = False
    best: Literal["", "column", "row"] = ""
    """Where the highest value is set in bold: down the column, or among equal heads in the row."""


@dataclass(frozen=True, slots=True)
class Table:
    key: str
    """Name of its CSV file and its LaTeX label."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def bold(self, row: int, column: int) -> bool:
        """The best of its kind, where there is something to be better than."""
        value, asked = self.rows[row][column], self.columns[column]
        if not asked.best or not isinstance(value, OverSeeds):
            return False
        if asked.best == "column":
            values = [cells[column] for cells in self.rows]
        else:
            pairs = zip(self.columns, self.rows[row], strict=True)
            values = [cell for head, cell in pairs if head.head[:-1] == asked.head[:-1]]
        means = [round(v.mean, v.digits) for v in values if isinstance(v, OverSeeds)]
        return len(means) > 1 and round(value.mean, value.digits) == max(means)


def chosen_rules(rules: Sequence[str], table: str) -> tuple[str, ...]:
    """Raises UsageError on a rule or a table that there is not."""
    if table not in LAYOUTS:
        raise UsageError(f"table: expected {', '.join(LAYOUTS)}, got {table!r}")
    for rule in rules:
        if rule not in RULES:
            raise UsageError(f"rules: expected some of {', '.join(RULES)}, got {rule!r}")
    return tuple(rules) or LAYOUTS[table] or (HEADLINE,)


# --- layouts ------------------------------------------------------------------------------------


def layout(name: str, results: Sequence[CellResult], rules: Sequence[str] = ()) -> list[Table]:
    """The tables of one of LAYOUTS. `rules` empty: those of the layout. At least one cell."""
    rules = tuple(rules) or LAYOUTS[name]
    lines = lines_of(results)
    segments = _segments(lines)
    if name in ("I", "VII"):
        leads = _leads(lines, "k" if name == "VII" else "backbone")
        return [_scores(lines, leads, rules), segments]
    if name == "II":
        return [segments]
    leads = _leads(lines, "backbone")
    if name == "III":
        return [_scores(lines, leads, rules, more=True)]
    if name == "VI":
        return [_by_embedder(lines, rule) for rule in rules]
    return [_scores(lines, _leads(lines, "backbone", "k"), (rule,)) for rule in rules] + [segments]


def _leads(lines: Sequence[Line], *always: str, without: Sequence[str] = ()) -> list[str]:
    """Names of the columns that say which line it is."""
    cells = [line.first for line in lines]
    wanted = {*varying(cells), *always}.difference(without)
    names = [name for name in IDENTITY if name in wanted]
    if "backbone" in names:
        names += [name for name in DETAILS if any(getattr(cell, name) for cell in cells)]
    return names


DETAILS = ("params", "pretraining")
"""Of a scheme, beside its name."""


def _columns(leads: Sequence[str], depth: int) -> list[Column]:
    top = ("",) * (depth - 1)
    return [Column((*top, IDENTITY.get(name, name)), text=name != "k") for name in leads]


def _values(line: Line, leads: Sequence[str]) -> list[Value]:
    return [getattr(line.first, name) for name in leads]


def _scores(
    lines: Sequence[Line], leads: Sequence[str], rules: Sequence[str], more: bool = False
) -> Table:
    """A line a row, three figures a rule; `more`: the figures of segments beside them."""
    asked = [(metric, rule) for rule in rules for metric in METRICS]
    columns = [Column((rule, METRICS[metric]), best="column") for metric, rule in asked]
    if more:
        asked += [(name, "") for name in SEGMENTS]
        columns += [Column(("", text)) for text in SEGMENTS.values()]
    rows = [
        (*_values(line, leads), *(line.measured(*figure) for figure in asked)) for line in lines
    ]
    key = f"scores_{rules[0]}" if len(rules) == 1 else "scores"
    under = f" under {rules[0]}" if len(rules) == 1 else ""
    title = f"Scores{under}, percent{_over(lines)}"
    return Table(key, title, (*_columns(leads, 2), *columns), tuple(rows))


def _by_embedder(lines: Sequence[Line], rule: str) -> Table:
    """A scheme a row, one column for each figure and embedder, as in the paper's Table VI."""
    leads = _leads(lines, "backbone", without=["embedder"])
    ways = list(dict.fromkeys(line.first.embedder for line in lines))
    schemes: dict[tuple[Value, ...], dict[str, Line]] = {}
    for line in lines:
        schemes.setdefault(tuple(_values(line, leads)), {})[line.first.embedder] = line
    columns = [Column((rule, n, way), best="row") for n in METRICS.values() for way in ways]
    rows = [
        (
            *identity,
            *(by_way[w].measured(m, rule) if w in by_way else None for m in METRICS for w in ways),
        )
        for identity, by_way in schemes.items()
    ]
    title = f"Scores by embedder under {rule}, percent{_over(lines)}"
    return Table(f"embedders_{rule}", title, (*_columns(leads, 3), *columns), tuple(rows))


def _segments(lines: Sequence[Line]) -> Table:
    """Few valid segments first, as in the paper's Table II. K plays no part in segments."""
    leads = _leads(lines, "backbone", without=["k", "embedder"])
    first: dict[tuple[Value, ...], Line] = {}
    for line in lines:
        key = tuple(_values(line, leads))
        if key not in first or all(cell.reason for cell in first[key].cells):
            first[key] = line
    rows = [
        (*_values(line, leads), *(line.measured(name) for name in SEGMENTS))
        for line in sorted(first.values(), key=_share_of)
    ]
    columns = (*_columns(leads, 1), *(Column((text,)) for text in SEGMENTS.values()))
    return Table("segments", f"Segments{_over(lines)}", columns, tuple(rows))


def _share_of(line: Line) -> float:
    share = line.measured("valid_segments")
    return math.inf if share is None else share.mean


def _over(lines: Sequence[Line]) -> str:
    n_seeds = max(len(line.cells) for line in lines)
    return f", mean ± standard deviation over {n_seeds} seeds" if n_seeds > 1 else ""


# --- formats ------------------------------------------------------------------------------------


def text_of(value: Value) -> str:
    """A value as tables print it."""
    if value is None:
        return "–"
    if not isinstance(value, OverSeeds):
        return str(value)
    mean = f"{value.mean:,.{value.digits}f}"
    return mean if value.sd is None else f"{mean} ± {value.sd:,.{value.digits}f}"


def _written(made: Table, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    """The rows as text, the best of a column inside `bold`."""
    return [
        [
            bold.format(escape(text_of(value))) if made.bold(r, c) else escape(text_of(value))
            for c, value in enumerate(row)
        ]
        for r, row in enumerate(made.rows)
    ]


def to_markdown(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """All tables under their titles, notes after them."""
    out: list[str] = []
    for made in tables:
        rows = _written(made, plain, "**{}**")
        out += [f"## {plain(made.title)}", ""]
        out += table([plain(_joined(column.head)) for column in made.columns], rows)
    return "\n".join([*out, *(f"- {plain(note)}" for note in notes)]).rstrip() + "\n"


def _joined(head: tuple[str, ...]) -> str:
    """('hungarian_strict', 'mIoU', 'crop') -> 'mIoU, crop (hungarian_strict)'."""
    rule, *names = head if len(head) > 1 else ("", *head)
    text = ", ".join(name for name in names if name)
    return f"{text} ({rule})" if rule else text


def to_csv(made: Table) -> str:
    """Figures with all their digits; with several seeds, a column `sd` beside each."""
    several = any(isinstance(v, OverSeeds) and v.sd is not None for row in made.rows for v in row)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads, columns = [], []
    for column, *values in zip(made.columns, *made.rows, strict=True):
        heads.append(" ".join(part for part in column.head if part))
        columns.append([_number(v.mean if isinstance(v, OverSeeds) else v) for v in values])
        if several and any(isinstance(value, OverSeeds) for value in values):
            heads.append(f"{heads[-1]} sd")
            columns.append([_number(v.sd if isinstance(v, OverSeeds) else None) for v in values])
    writer.writerows([heads, *zip(*columns, strict=True)])
    return stream.getvalue()


def _number(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "–": "--",
        "×": r"$\times$",
    }
    | {sign: f"\\{sign}" for sign in "&%$#_{}"}
)


def latex_text(text: str) -> str:
    """One line of LaTeX that shows as it is written."""
    return " ".join(text.split()).translate(_LATEX)


def to_latex(tables: Sequence[Table]) -> str:
    r"""One table environment for each, for \usepackage{booktabs}."""
    parts = [r"% needs \usepackage{booktabs}"]
    for made in tables:
        spec = "".join("l" if column.text else "r" for column in made.columns)
        parts += ["", r"\begin{table}", r"\centering", rf"\caption{{{latex_text(made.title)}}}"]
        parts += [rf"\label{{tab:{made.key}}}", rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
        parts += [*_latex_head(made.columns), r"\midrule"]
        parts += [" & ".join(row) + r" \\" for row in _written(made, latex_text, r"\textbf{{{}}}")]
        parts += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _latex_head(columns: Sequence[Column]) -> list[str]:
    """One line a level; equal neighbours of all levels but the last share a cell and a rule."""
    out: list[str] = []
    for level in range(len(columns[0].head) - 1):
        cells, rules, end = list[str](), list[str](), 0
        heads = [column.head[: level + 1] for column in columns]
        named = [(head, "" if head[-1] else str(place)) for place, head in enumerate(heads)]
        for (head, _), group in groupby(named):  # columns without a name stand alone
            start, end = end + 1, end + len(list(group))
            text = latex_text(head[-1])
            cells.append(rf"\multicolumn{{{end - start + 1}}}{{c}}{{{text}}}" if text else "")
            rules += [rf"\cmidrule(lr){{{start}-{end}}}"] if text else []
        out += [" & ".join(cells) + r" \\", " ".join(rules)]
    return [*out, " & ".join(latex_text(column.head[-1]) for column in columns) + r" \\"]


def notes_of(results: Sequence[CellResult], tables: Sequence[Table]) -> list[str]:
    """What a reader has to know: the rules in a sentence each, and who failed and why."""
    heads = {part for made in tables for column in made.columns for part in column.head}
    notes = [f"{rule}: {text}" for rule, text in RULES.items() if rule in heads]
    notes.append(
        "Coverage is the share of the pixels with a known true class that got a label; a segment "
        "is valid if it has more than five patches, or embeddings.min_patches."
    )
    images = sorted({cell.n_images for cell in results if not cell.reason})
    if len(images) > 1:
        counts = ", ".join(map(str, images))
        notes.append(f"Not all cells were scored on the same number of images: {counts}.")
    for cell in results:
        if cell.reason:
            which = [str(getattr(cell, n)) for n in ("run", "preset") if getattr(cell, n)]
            which += [cell.backbone, cell.embedder, f"K = {cell.k}", f"seed {cell.seed}"]
            notes.append(f"failed: {', '.join(which)}: {cell.reason.splitlines()[0]}")
    return notes

"""The paper's Figures 7 and 9 from the cells of a comparison.

    figure7(results, rule)    scores against the share of valid segments, one point a scheme
    figure9(results, rules)   scores against K, one line a scheme

In: `CellResult`s; out: a figure of matplotlib, or None where there are too few points. Colour is
never the only difference: markers and labels say the same. Every figure names its rule. To be
called inside `plots.look`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datus.compare.cells import METRICS, CellResult, Line, OverSeeds, lines_of, varying
from datus.compare.plots import curve, label_points, legend_below, line_style, panels, set_k_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[str, dict[int, OverSeeds]]
"""Metric -> K -> value."""


def figure7(results: Sequence[CellResult], rule: str) -> "Figure | None":
    """One point a scheme, at the first K; None below two points."""
    good = [cell for cell in results if not cell.reason and rule in cell.scores]
    lines = lines_of([cell for cell in good if cell.k == good[0].k])
    if len(lines) < 2:
        return None
    names = [name for name in varying([line.first for line in lines]) if name != "k"]
    groups = list(dict.fromkeys(line.first.group or line.first.backbone for line in lines))
    title = f"Scores against valid segments, K = {good[0].k}, {rule}"
    figure, axes = panels(3, title, f"percent{_bars(good)}")
    points = []
    for panel, metric in zip(axes, ("accuracy", "miou", "f1"), strict=True):
        panel.set(title=METRICS[metric], xlabel="% valid segments")
        points.append(_points(lines, metric, rule, names))
        for _, group, x, y in points[-1]:
            style = {"label": group, **line_style(groups.index(group)), "linestyle": ""}
            curve(panel, [x], [y], style)
    if any(line.first.group for line in lines):
        legend_below(figure, axes[0])
    figure.draw_without_rendering()  # labels are placed in the final layout
    figure.set_layout_engine("none")
    for panel, row in zip(axes, points, strict=True):
        label_points(panel, [p[0] for p in row], [p[2] for p in row], [_ends(p[3]) for p in row])
    return figure


def figure9(results: Sequence[CellResult], rules: Sequence[str]) -> "Figure | None":
    """A line a scheme under the first rule, or a line a rule if there is one scheme only.

    None where nothing has two K.
    """
    good = [cell for cell in results if not cell.reason and rules[0] in cell.scores]
    ks = sorted({cell.k for cell in good})
    if len(ks) < 2:
        return None
    names = [name for name in varying(good) if name != "k"]
    if names:
        title, lines = f"Scores against K, {rules[0]}", dict[str, list[Line]]()
        for line in lines_of(good):
            lines.setdefault(_name(line, names), []).append(line)
        series = {name: _by_k(several, rules[0]) for name, several in lines.items()}
    else:
        title = f"Scores against K, {good[0].backbone}"
        title += f", {rules[0]}" if len(rules) == 1 else ", by rule"
        series = {rule: _by_k(lines_of(good), rule) for rule in rules}
    figure, axes = panels(3, title, f"percent{_bars(good)}")
    for panel, (metric, name) in zip(axes, METRICS.items(), strict=True):
        panel.set_title(name)
        set_k_axis(panel, ks)
        for number, (label, curves) in enumerate(series.items()):
            values = curves[metric]
            style = {"label": label, **line_style(number)}
            curve(panel, list(values), list(values.values()), style)
    legend_below(figure, axes[0])
    return figure


def _points(
    lines: Sequence[Line], metric: str, rule: str, names: Sequence[str]
) -> list[tuple[str, str, float, OverSeeds]]:
    """(label, group, % valid segments, score) of each line that has both figures."""
    points = []
    for line in lines:
        x, y = line.measured("valid_segments"), line.measured(metric, rule)
        if x is not None and y is not None:
            group = line.first.group or line.first.backbone
            points.append((_name(line, names), group, x.mean, y))
    return points


def _by_k(lines: Sequence[Line], rule: str) -> Curves:
    curves: Curves = {metric: {} for metric in METRICS}
    for line in sorted(lines, key=lambda line: line.first.k):
        for metric in METRICS:
            if (value := line.measured(metric, rule)) is not None:
                curves[metric][line.first.k] = value
    return curves


def _ends(value: OverSeeds) -> tuple[float, float]:
    spread = value.sd or 0.0
    return value.mean - spread, value.mean + spread


def _bars(cells: Sequence[CellResult]) -> str:
    several = len({cell.seed for cell in cells}) > 1
    return "; bars: standard deviation over seeds" if several else ""


def _name(line: Line, names: Sequence[str]) -> str:
    """What tells a line from the others."""
    parts = [str(getattr(line.first, name)) for name in names]
    return ", ".join(part for part in parts if part) or line.first.backbone

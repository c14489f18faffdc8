"""The paper's Figures 7 and 9 from the cells of a comparison.

    figure7(results, rule)    scores against the share of valid segments, one point a scheme
    figure9(results, rules)   scores against K, one line a scheme

In: `CellResult`s; out: a `Drawing`, or None where there are too few points. Colour is never the
only difference: markers and labels say the same. Every figure names its rule.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datus.compare.cells import METRICS, CellResult, Line, Measured, lines_of, varying
from datus.compare.drawing import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    PALE,
    Drawing,
    Marker,
    Place,
    Spot,
    Stroke,
    Words,
    text_width,
)
from datus.report.figures import short

PANEL = (330, 300)
"""Width and height of one plot in pixels."""

LEFT, GAP, TOP, BOTTOM = 48, 52, 76, 44
WIDTH = LEFT + 3 * PANEL[0] + 2 * GAP + 20

LABEL_PX = 11.0

Mark = Stroke | Spot | Words
Rectangle = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels."""

    ticks: tuple[float, ...]
    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Style:
    colour: str
    marker: Marker


@dataclass(frozen=True, slots=True)
class Point:
    label: str
    style: Style
    x: float
    y: Measured


# --- Figure 7: scores against % valid segments --------------------------------------------------


def figure7(results: Sequence[CellResult], rule: str) -> Drawing | None:
    """One point a scheme, at the first K; None below two points."""
    good = [cell for cell in results if not cell.reason and rule in cell.scores]
    if not good:
        return None
    k = good[0].k
    lines = lines_of([cell for cell in good if cell.k == k])
    if len(lines) < 2:
        return None
    styles = _group_styles(lines)
    names = [name for name in varying([line.first for line in lines]) if name != "k"]
    title = f"Scores against valid segments, K = {k}, {rule}"
    marks: list[Mark] = _title(title, f"percent{_bars(good)}")
    for panel, metric in enumerate(("accuracy", "miou", "f1")):
        points = []
        for line in lines:
            x, y = line.measured("valid_segments"), line.measured(metric, rule)
            if x is not None and y is not None:
                style = styles[line.first.group or line.first.backbone]
                points.append(Point(_name(line, names), style, x.mean, y))
        marks += _scatter(panel, METRICS[metric], points)
    grouped = any(line.first.group for line in lines)
    legend = {group: (style, 0.0) for group, style in styles.items()} if grouped else {}
    below, height = _legend(legend, lined=False)
    return Drawing(title, WIDTH, height, (*marks, *below))


def _group_styles(lines: Sequence[Line]) -> dict[str, Style]:
    groups = list(dict.fromkeys(line.first.group or line.first.backbone for line in lines))
    return {group: _style(number) for number, group in enumerate(groups)}


def _scatter(panel: int, title: str, points: Sequence[Point]) -> list[Mark]:
    frame = _frame(panel)
    xs = axis([p.x for p in points], frame[0], frame[2])
    ys = axis([v for p in points for v in _ends(p.y)], frame[3], frame[1])
    marks = _grid(frame, xs, ys, title, "% valid segments")
    places = [(xs.at(p.x), ys.at(p.y.mean)) for p in points]
    for point, (x, y) in zip(points, places, strict=True):
        marks += _error_bar(x, point.y, ys, point.style.colour)
        marks.append(Spot((x, y), point.style.marker, point.style.colour))
    return marks + place_labels([point.label for point in points], places, frame)


def place_labels(labels: Sequence[str], places: Sequence[Place], frame: Rectangle) -> list[Mark]:
    """A label near each place, where it hides the least; a thin line where it had to move away."""
    taken: list[Rectangle] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    marks: list[Mark] = []
    for label, place in zip(labels, places, strict=True):
        others = [other for other in places if other != place]
        boxes = _candidates(place, text_width(label, LABEL_PX))
        costs = [n + _cost(place, box, frame, taken, others) for n, box in enumerate(boxes)]
        best = boxes[costs.index(min(costs))]
        taken.append(best)
        near = _nearest(place, best)
        if math.dist(near, place) > 12:
            marks.append(Stroke((place, near), GREY, 0.6))
        marks.append(Words((best[0], best[3] - 3), label, LABEL_PX))
    return marks


def _candidates(place: Place, width: float) -> list[Rectangle]:
    """Where a label of that width could go, the best first."""
    return [
        _label_box(place[0] + reach * dx, place[1] + reach * dy, width, (dx, dy))
        for reach in (9, 17, 25, 34, 44, 56, 70)
        for dx, dy in _DIRECTIONS
    ]


def _cost(
    place: Place,
    box: Rectangle,
    frame: Rectangle,
    taken: Sequence[Rectangle],
    others: Sequence[Place],
) -> float:
    """What a label there would hide, in steps down the list of candidates."""
    outside = max(0.0, frame[0] - box[0], box[2] - frame[2])
    outside += max(0.0, frame[1] - box[1], box[3] - frame[3])
    hidden = sum(_overlap(box, other) for other in taken)
    near = _nearest(place, box)
    on_the_way = sum(_to_segment(other, place, near) < 6 for other in others)
    return 1000 * outside + 100 * hidden + 200 * on_the_way


def _nearest(place: Place, box: Rectangle) -> Place:
    """The point of a rectangle that is nearest to a place."""
    return min(max(place[0], box[0]), box[2]), min(max(place[1], box[1]), box[3])


def _to_segment(point: Place, start: Place, end: Place) -> float:
    """Distance of a point from a line segment; none from the start of it, where all lines begin."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = dx * dx + dy * dy
    along = ((point[0] - start[0]) * dx + (point[1] - start[1]) * dy) / length if length else 0.0
    if along <= 0:
        return math.inf
    along = min(along, 1.0)
    return math.dist(point, (start[0] + along * dx, start[1] + along * dy))


_DIRECTIONS: tuple[Place, ...] = (
    (1, 0),
    (-1, 0),
    (0, -1),
    (0, 1),
    (0.7, -0.7),
    (-0.7, -0.7),
    (0.7, 0.7),
    (-0.7, 0.7),
)


def _label_box(x: float, y: float, width: float, direction: Place) -> Rectangle:
    """The text's rectangle, beyond (x, y) as seen from the point."""
    left = x if direction[0] > 0 else x - width if direction[0] < 0 else x - width / 2
    height = LABEL_PX + 3
    top = y - height if direction[1] < 0 else y if direction[1] > 0 else y - height / 2
    return left, top, left + width, top + height


def _overlap(one: Rectangle, other: Rectangle) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


# --- Figure 9: scores against K -----------------------------------------------------------------


def figure9(results: Sequence[CellResult], rules: Sequence[str]) -> Drawing | None:
    """A line a scheme under the first rule, or a line a rule if there is one scheme only.

    None where nothing has two K.
    """
    good = [cell for cell in results if not cell.reason and rules[0] in cell.scores]
    names = [name for name in varying(good) if name != "k"] if good else []
    if len({cell.k for cell in good}) < 2:
        return None
    if names:
        title, series = f"Scores against K, {rules[0]}", _by_scheme(good, names, rules[0])
    else:
        title = f"Scores against K, {good[0].backbone}"
        title += f", {rules[0]}" if len(rules) == 1 else ", by rule"
        series = {rule: _by_k(lines_of(good), rule) for rule in rules}
    styles = {name: (_style(number), _dash(number)) for number, name in enumerate(series)}
    marks: list[Mark] = _title(title, f"percent{_bars(good)}")
    for panel, metric in enumerate(METRICS):
        curves = {name: by_metric[metric] for name, by_metric in series.items()}
        marks += _curves(panel, METRICS[metric], curves, styles)
    below, height = _legend(styles, lined=True)
    return Drawing(title, WIDTH, height, (*marks, *below))


Curves = dict[str, dict[int, Measured]]
"""Metric -> K -> value."""


def _by_scheme(good: Sequence[CellResult], names: Sequence[str], rule: str) -> dict[str, Curves]:
    lines: dict[str, list[Line]] = {}
    for line in lines_of(good):
        lines.setdefault(_name(line, names), []).append(line)
    return {name: _by_k(mine, rule) for name, mine in lines.items()}


def _by_k(lines: Sequence[Line], rule: str) -> Curves:
    found: Curves = {metric: {} for metric in METRICS}
    for line in sorted(lines, key=lambda one: one.first.k):
        for metric in METRICS:
            value = line.measured(metric, rule)
            if value is not None:
                found[metric][line.first.k] = value
    return found


def _curves(
    panel: int,
    title: str,
    curves: Mapping[str, Mapping[int, Measured]],
    styles: Mapping[str, tuple[Style, float]],
) -> list[Mark]:
    frame = _frame(panel)
    ks = sorted({k for values in curves.values() for k in values})
    xs = _k_axis(ks, frame)
    values = [v for one in curves.values() for value in one.values() for v in _ends(value)]
    ys = axis(values, frame[3], frame[1])
    marks = _grid(frame, xs, ys, title, "K, number of clusters")
    for name, points in curves.items():
        style, dash = styles[name]
        places = [(xs.at(k), ys.at(value.mean)) for k, value in points.items()]
        if len(places) > 1:
            marks.append(Stroke(tuple(places), style.colour, 1.8, dash))
        for (x, y), value in zip(places, points.values(), strict=True):
            marks += _error_bar(x, value, ys, style.colour)
            marks.append(Spot((x, y), style.marker, style.colour, 4.0))
    return marks


def _k_axis(ks: Sequence[int], frame: Rectangle) -> Axis:
    """Every K is a tick, as long as their labels do not touch."""
    pad = 0.06 * (ks[-1] - ks[0])
    low, high = ks[0] - pad, ks[-1] + pad
    step = (frame[2] - frame[0]) / (high - low)
    ticks = [float(ks[0])]
    for k in ks[1:]:
        if (k - ticks[-1]) * step >= 24 and ((ks[-1] - k) * step >= 24 or k == ks[-1]):
            ticks.append(float(k))
    return Axis(tuple(ticks), low, high, frame[0], frame[2])


# --- what both share ----------------------------------------------------------------------------


def axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Round ticks; the axis goes a little beyond the values on both sides."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = 0.08 * (high - low) or 1.0
    low, high = max(low - pad, min(low, 0.0)), high + pad
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(tuple(n * step for n in range(first, last + 1)), low, high, start, end)


def _ends(value: Measured) -> tuple[float, float]:
    spread = value.sd or 0.0
    return value.mean - spread, value.mean + spread


def _bars(cells: Sequence[CellResult]) -> str:
    several = len({cell.seed for cell in cells}) > 1
    return "; bars: standard deviation over seeds" if several else ""


def _error_bar(x: float, value: Measured, ys: Axis, colour: str) -> list[Mark]:
    if not value.sd:
        return []
    low, high = (ys.at(end) for end in _ends(value))
    caps = [Stroke(((x - 3, y), (x + 3, y)), colour, 1.2) for y in (low, high)]
    return [Stroke(((x, low), (x, high)), colour, 1.2), *caps]


def _frame(panel: int) -> Rectangle:
    left = LEFT + panel * (PANEL[0] + GAP)
    return left, TOP, left + PANEL[0], TOP + PANEL[1]


def _title(text: str, note: str) -> list[Mark]:
    return [Words((LEFT, 26), text, 16), Words((LEFT, 44), note, 12, colour=GREY)]


def _grid(frame: Rectangle, xs: Axis, ys: Axis, title: str, below: str) -> list[Mark]:
    left, top, right, bottom = frame
    marks: list[Mark] = [Words((left, top - 9), title, 13)]
    for value in ys.ticks:
        y = ys.at(value)
        marks.append(Stroke(((left, y), (right, y)), PALE))
        marks.append(Words((left - 7, y + 4), short(value), 11, "end", GREY))
    for value in xs.ticks:
        x = xs.at(value)
        marks.append(Stroke(((x, bottom), (x, bottom + 4)), INK))
        marks.append(Words((x, bottom + 17), short(value), 11, "middle", GREY))
    marks.append(Stroke(((left, bottom), (right, bottom)), INK))
    marks.append(Words(((left + right) / 2, bottom + 35), below, 12, "middle"))
    return marks


def _legend(entries: Mapping[str, tuple[Style, float]], lined: bool) -> tuple[list[Mark], int]:
    """(marks, height of the drawing): rows of names under the plots."""
    x, y = float(LEFT), float(TOP + PANEL[1] + BOTTOM + 18)
    marks: list[Mark] = []
    sample = 30 if lined else 12
    for name, (style, dash) in entries.items():
        width = sample + 8 + text_width(name, 12) + 24
        if x > LEFT and x + width > WIDTH - 20:
            x, y = float(LEFT), y + 21
        if lined:
            marks.append(Stroke(((x, y - 4), (x + sample, y - 4)), style.colour, 1.8, dash))
        marks.append(Spot((x + sample / 2, y - 4), style.marker, style.colour))
        marks.append(Words((x + sample + 8, y), name, 12))
        x += width
    return marks, round(y + 16) if entries else TOP + PANEL[1] + BOTTOM + 6


def _style(number: int) -> Style:
    return Style(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])


def _dash(number: int) -> float:
    """Solid, then dashed where colours come again."""
    return (0.0, 6.0, 3.0)[number // len(COLOURS) % 3]


def _name(line: Line, names: Sequence[str]) -> str:
    """What tells a line from the others."""
    parts = [str(getattr(line.first, name)) for name in names]
    return ", ".join(part for part in parts if part) or line.first.backbone

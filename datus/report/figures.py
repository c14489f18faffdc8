"""Numbers to drawings: where lines, ticks and boxes go. The templates draw them as inline SVG.

Nothing here makes text for the page beyond short number labels, so nothing here has to escape.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datus.report.numbers import short
from datus.report.records import Distribution

CHART_WIDTH, CHART_HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 30
_LABEL_PX = 24
"""Least distance between two labels on the K axis."""


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    """Pixels from the left (first axis) or from the top (value axis)."""
    label: str
    """Empty where it would run into its neighbour."""


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """For the `points` of an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves, over K or over a length, in a box of CHART_WIDTH x CHART_HEIGHT pixels."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float = _LEFT
    right: float = CHART_WIDTH - _RIGHT
    bottom: float = CHART_HEIGHT - _BOTTOM
    width: int = CHART_WIDTH
    height: int = CHART_HEIGHT


@dataclass(frozen=True, slots=True)
class Box:
    """A box plot along a scale from `low` to `high`; all places are percent of its width."""

    minimum: float
    q25: float
    median: float
    q75: float
    maximum: float
    mean: float
    low: str
    high: str


def chart(title: str, series: Mapping[str, Mapping[int, float]]) -> Chart:
    """`series` is name -> K -> value; values are >= 0, and one that is not finite is left out."""
    finite = {
        name: {k: values[k] for k in sorted(values) if math.isfinite(values[k])}
        for name, values in series.items()
    }
    ks = sorted({k for values in finite.values() for k in values})
    scale = scale_of(max((v for values in finite.values() for v in values.values()), default=0.0))
    frame = _Frame(ks[0] if ks else 0, ks[-1] if ks else 0, scale[-1], 8)
    lines = {
        name: [frame.at(k, value, f"K = {k}: {short(value)}") for k, value in values.items()]
        for name, values in finite.items()
        if values
    }
    return frame.chart(title, lines, _k_ticks([(frame.at(k, 0).x, k) for k in ks]), scale)


def against_coverage(title: str, points: Sequence[tuple[float, float]]) -> Chart:
    """`points` are (coverage, score), both percent."""
    scale = scale_of(max(score for _, score in points))
    frame = _Frame(0, 100, scale[-1])
    ticks = tuple(Tick(frame.at(value, 0).x, f"{value} %") for value in QUARTERS)
    return frame.chart(title, {"score": [frame.at(*point) for point in points]}, ticks, scale)


def cumulative(title: str, series: Mapping[str, Sequence[float]]) -> Chart:
    """`series` is name -> quantiles at even steps from 0 to 100 %, values >= 0: x is the value, y
    the percent of all that are no larger."""
    scale = scale_of(max(values[-1] for values in series.values()))
    frame = _Frame(0, scale[-1], 100)
    lines = {
        name: [frame.at(value, 100 * i / (len(values) - 1)) for i, value in enumerate(values)]
        for name, values in series.items()
    }
    ticks = tuple(Tick(frame.at(value, 0).x, short(value)) for value in scale)
    return frame.chart(title, lines, ticks, QUARTERS)


QUARTERS = (0, 25, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class _Frame:
    """From values to pixels."""

    x_low: float
    x_high: float
    y_high: float
    inset: int = 0
    """Pixels that stay free left and right of the values."""

    def at(self, x: float, y: float, label: str = "") -> Point:
        width, height = CHART_WIDTH - _LEFT - _RIGHT, CHART_HEIGHT - _TOP - _BOTTOM
        span = self.x_high - self.x_low
        along = (x - self.x_low) / span if span else 0.5
        left = _LEFT + self.inset + along * (width - 2 * self.inset)
        return Point(left, CHART_HEIGHT - _BOTTOM - y / self.y_high * height, label)

    def chart(
        self,
        title: str,
        lines: Mapping[str, Sequence[Point]],
        x_ticks: tuple[Tick, ...],
        y_values: Sequence[float],
    ) -> Chart:
        drawn = tuple(Line(name, tuple(points)) for name, points in lines.items())
        y_ticks = tuple(Tick(self.at(self.x_low, value).y, short(value)) for value in y_values)
        return Chart(title, drawn, x_ticks, y_ticks)


def box(distribution: Distribution) -> Box:
    """The scale starts at 0 or below and ends at 1 for shares, so boxes can be compared by eye."""
    low = -scale_of(-distribution.minimum)[-1] if distribution.minimum < 0 else 0.0
    high = scale_of(distribution.maximum)[-1] if distribution.maximum > 1 else 1.0

    names = ("minimum", "q25", "median", "q75", "maximum", "mean")
    values = {name: getattr(distribution, name) for name in names}
    places = {name: round(100 * (v - low) / (high - low), 2) for name, v in values.items()}
    return Box(**places, low=short(low), high=short(high))


def scale_of(top: float) -> Sequence[float]:
    """Four to six round numbers from 0 to at least `top`."""
    if not top > 1e-300:  # a quarter of the least float is 0, which has no logarithm
        return (0.0, 1.0)
    step = 10 ** math.floor(math.log10(top / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step * 5 >= top)
    n_steps = math.ceil(round(top / step, 9))
    return tuple(number * step for number in range(n_steps + 1))


def _k_ticks(places: Sequence[tuple[float, int]]) -> tuple[Tick, ...]:
    """A tick for every K; labels that would collide are dropped, the first and the last stay."""
    ticks: list[Tick] = []
    written = -math.inf
    for number, (at, k) in enumerate(places):
        last = number == len(places) - 1
        room = at - written >= _LABEL_PX and (last or places[-1][0] - at >= _LABEL_PX)
        ticks.append(Tick(at, str(k) if room or last else ""))
        written = at if ticks[-1].label else written
    return tuple(ticks)

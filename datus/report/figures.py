"""Numbers to drawings: where lines, ticks and boxes go. The templates draw them as inline SVG.

Nothing here makes text for the page beyond short number labels, so nothing here has to escape.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    series = {
        name: {k: values[k] for k in sorted(values) if math.isfinite(values[k])}
        for name, values in series.items()
    }
    ks = sorted({k for values in series.values() for k in values})
    top = max((value for values in series.values() for value in values.values()), default=0.0)
    scale = scale_of(top)
    y_max = scale[-1]

    def x_of(k: int) -> float:
        share = (k - ks[0]) / (ks[-1] - ks[0]) if len(ks) > 1 else 0.5
        return _LEFT + 8 + share * (CHART_WIDTH - _LEFT - _RIGHT - 16)

    def y_of(value: float) -> float:
        return CHART_HEIGHT - _BOTTOM - value / y_max * (CHART_HEIGHT - _TOP - _BOTTOM)

    lines = tuple(
        Line(
            name, tuple(Point(x_of(k), y_of(v), f"K = {k}: {short(v)}") for k, v in values.items())
        )
        for name, values in series.items()
        if values
    )
    y_ticks = tuple(Tick(y_of(value), short(value)) for value in scale)
    return Chart(title, lines, _k_ticks([(x_of(k), k) for k in ks]), y_ticks)


def against_coverage(title: str, points: Sequence[tuple[float, float]]) -> Chart:
    """`points` are (coverage, score), both percent."""
    room = CHART_WIDTH - _LEFT - _RIGHT, CHART_HEIGHT - _TOP - _BOTTOM
    scale = scale_of(max(score for _, score in points))

    def place(coverage: float, score: float) -> Point:
        y = CHART_HEIGHT - _BOTTOM - score / scale[-1] * room[1]
        return Point(_LEFT + coverage / 100 * room[0], y, "")

    line = Line("score", tuple(place(*point) for point in points))
    x_ticks = tuple(Tick(place(value, 0).x, f"{value} %") for value in (0, 25, 50, 75, 100))
    y_ticks = tuple(Tick(place(0, value).y, short(value)) for value in scale)
    return Chart(title, (line,), x_ticks, y_ticks)


def cumulative(title: str, series: Mapping[str, Sequence[float]]) -> Chart:
    """`series` is name -> quantiles at even steps from 0 to 100 %, values >= 0: x is the value, y
    the percent of all that are no larger."""
    x_scale = scale_of(max(values[-1] for values in series.values()))
    room = CHART_WIDTH - _LEFT - _RIGHT, CHART_HEIGHT - _TOP - _BOTTOM

    def place(value: float, percent: float) -> Point:
        x = _LEFT + value / x_scale[-1] * room[0]
        return Point(x, CHART_HEIGHT - _BOTTOM - percent / 100 * room[1], "")

    lines = tuple(
        Line(name, tuple(place(v, 100 * i / (len(values) - 1)) for i, v in enumerate(values)))
        for name, values in series.items()
    )
    x_ticks = tuple(Tick(place(value, 0).x, short(value)) for value in x_scale)
    y_ticks = tuple(Tick(place(0, value).y, short(value)) for value in (0, 25, 50, 75, 100))
    return Chart(title, lines, x_ticks, y_ticks)


def box(distribution: Distribution) -> Box:
    """The scale starts at 0 or below and ends at 1 for shares, so boxes can be compared by eye."""
    low = -scale_of(-distribution.minimum)[-1] if distribution.minimum < 0 else 0.0
    high = scale_of(distribution.maximum)[-1] if distribution.maximum > 1 else 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return Box(
        minimum=place(distribution.minimum),
        q25=place(distribution.q25),
        median=place(distribution.median),
        q75=place(distribution.q75),
        maximum=place(distribution.maximum),
        mean=place(distribution.mean),
        low=short(low),
        high=short(high),
    )


def scale_of(top: float) -> Sequence[float]:
    """Four to six round numbers from 0 to at least `top`."""
    if not top > 1e-300:  # a quarter of the least float is 0, which has no logarithm
        return (0.0, 1.0)
    step = 10 ** math.floor(math.log10(top / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step * 5 >= top)
    n_steps = math.ceil(round(top / step, 9))
    return tuple(number * step for number in range(n_steps + 1))


def short(value: float) -> str:
    """Three digits at most, no exponent for common sizes: 0.47, 12.3, 1234."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


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

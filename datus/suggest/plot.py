"""Figures of each K to a drawing: how far the segments and chance lie apart, panel by panel.

    k_plot(found, chosen)    a Drawing; `drawing.to_svg` and `to_png` make a file of it

Solid: the segments, dashed: clouds without groups, both with their standard deviation over repeats.
"""

from collections.abc import Sequence

from datus.compare.curves import Axis, Mark, axis
from datus.compare.drawing import COLOURS, GREY, INK, PALE, Drawing, Spot, Stroke, Words
from datus.report.figures import short
from datus.suggest.stability import KFigures, Measured

PANELS = (
    ("stability", "stability: does the partition come back?"),
    ("silhouette", "silhouette: do clusters lie apart?"),
    ("content", "content: what place does not explain"),
)
"""(figure, title)."""

SIDE = (280, 240)
"""Width and height of a panel in pixels."""

LEFT, GAP, TOP, BELOW = 46, 52, 70, 74
_LABEL_PX = 22


def k_plot(found: Sequence[KFigures], chosen: int) -> Drawing:
    """`found`: one or more, by K; the chosen K is marked by a line."""
    title = f"Figures without labels by number of clusters; recommended: K = {chosen}"
    marks: list[Mark] = [Words((LEFT, 26), title, 15)]
    for number, (name, heading) in enumerate(PANELS):
        marks += _panel(number, name, heading, found, chosen)
    width = LEFT + len(PANELS) * (SIDE[0] + GAP) - GAP + 20
    return Drawing(title, width, TOP + SIDE[1] + BELOW, (*marks, *_legend()))


def _panel(
    number: int, name: str, heading: str, found: Sequence[KFigures], chosen: int
) -> list[Mark]:
    left, bottom = LEFT + number * (SIDE[0] + GAP), TOP + SIDE[1]
    real = [one.real[name] for one in found]
    chance = [one.chance[name] for one in found]
    ends = [end for one in (*real, *chance) for end in (one.mean - one.sd, one.mean + one.sd)]
    xs = _k_axis([one.k for one in found], left)
    ys = axis(ends, bottom, TOP)
    marks: list[Mark] = [Words((left, TOP - 12), heading, 12)]
    for value in ys.ticks:
        marks.append(Stroke(((left, ys.at(value)), (left + SIDE[0], ys.at(value))), PALE))
        marks.append(Words((left - 6, ys.at(value) + 4), short(value), 11, "end", GREY))
    for value in xs.ticks:
        marks.append(Stroke(((xs.at(value), bottom), (xs.at(value), bottom + 4)), INK))
        marks.append(Words((xs.at(value), bottom + 16), short(value), 11, "middle", GREY))
    marks.append(Stroke(((left, bottom), (left + SIDE[0], bottom)), INK))
    marks.append(Words((left + SIDE[0] / 2, bottom + 34), "K, number of clusters", 11, "middle"))
    marks.append(Stroke(((xs.at(chosen), TOP), (xs.at(chosen), bottom)), COLOURS[1], 1.2, 2.0))
    places = [xs.at(one.k) for one in found]
    marks += _line(places, chance, ys, GREY, 5.0)
    return marks + _line(places, real, ys, COLOURS[0], 0.0)


def _line(
    places: Sequence[float], values: Sequence[Measured], ys: Axis, colour: str, dash: float
) -> list[Mark]:
    marks: list[Mark] = [
        Stroke(((x, ys.at(one.mean - one.sd)), (x, ys.at(one.mean + one.sd))), colour, 0.8)
        for x, one in zip(places, values, strict=True)
        if one.sd
    ]
    points = tuple((x, ys.at(one.mean)) for x, one in zip(places, values, strict=True))
    if len(points) > 1:
        marks.append(Stroke(points, colour, 1.8, dash))
    if not dash or len(points) == 1:
        marks += [Spot(point, "circle", colour, 3.0) for point in points]
    return marks


def _k_axis(ks: Sequence[int], left: float) -> Axis:
    """Ticks at those K whose labels do not touch."""
    pad = 0.06 * (ks[-1] - ks[0]) or 1.0
    low, high = ks[0] - pad, ks[-1] + pad
    ticks = [float(ks[0])]
    for k in ks[1:]:
        if (k - ticks[-1]) * SIDE[0] / (high - low) >= _LABEL_PX:
            ticks.append(float(k))
    return Axis(tuple(ticks), low, high, left, left + SIDE[0])


def _legend() -> list[Mark]:
    y = TOP + SIDE[1] + BELOW - 14
    marks: list[Mark] = []
    x = float(LEFT)
    for text, colour, dash, room in (
        ("the segments of this run", COLOURS[0], 0.0, 220),
        ("chance: clouds of the same covariance without groups", GREY, 5.0, 390),
        ("recommended", COLOURS[1], 2.0, 0),
    ):
        marks.append(Stroke(((x, y - 4), (x + 30, y - 4)), colour, 1.8, dash))
        marks.append(Words((x + 38, y), text, 12))
        x += room
    return marks

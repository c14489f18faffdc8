"""What all figures share: one look, labels beside points, and files with stable bytes.

    with look():
        figure, axes = panels(3, "Scores against K", "percent")
        curve(axes[0], [6, 7], [Measured(20.1, 0.4), Measured(21.3, 0.2)], style)
        legend_below(figure, axes[0])
        files = rendered(figure, "figure9")      figure9.svg and figure9.png

Drawn by matplotlib, without its global figures. The same drawing gives the same bytes: settings of
the user's own style do not count, and no file holds a date.
"""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from datus.compare.cells import OverSeeds
from datus.method.verdict import Measured
from datus.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox, BboxBase

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette without its yellow, which is too light for lines on white."""

MARKERS = ("o", "s", "^", "D", "v", "p")
"""Of another number than the colours, so that no pair comes again soon."""

INK, GREY, PALE = "#222222", "#6b6b6b", "#e4e4e4"

DPI = 200
"""Of the PNG."""

_STYLE = {
    "svg.hashsalt": "datus",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PALE,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.xmargin": 0.06,
    "axes.ymargin": 0.08,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "ytick.left": False,
    "lines.markersize": 6.5,
    "lines.markeredgecolor": "white",
    "errorbar.capsize": 2.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
}


@contextmanager
def look() -> Iterator[None]:
    """Inside it, matplotlib draws in our style alone, and a box for what its font lacks."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def panels(
    n_panels: int, title: str, note: str = "", size: tuple[float, float] = (11.6, 4.4)
) -> "tuple[Figure, list[Axes]]":
    """A figure of `size` inches with `n_panels` plots side by side; `note` stands in its title."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(size, layout=ConstrainedLayoutEngine(wspace=0.06))
    lines = f"{title}\n{note}" if note else title
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11)
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def line_style(number: int) -> dict[str, Any]:
    """Of the line of this number: solid, then dashed where colours come again."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3],
    }


def curve(
    axes: "Axes",
    xs: Sequence[float],
    values: Sequence[Measured | OverSeeds],
    style: Mapping[str, Any],
) -> None:
    """A line through the means with a bar of one standard deviation up and down, where there is
    one. `style`: of the line, with its label and colour."""
    means, spreads = [value.mean for value in values], [value.sd or math.nan for value in values]
    axes.errorbar(xs, means, spreads, fmt="none", ecolor=style["color"], elinewidth=1.0)
    [line] = axes.plot(xs, means, **style)
    if style["label"].startswith("_"):  # legends leave such names out
        line.set_label(f" {style['label']}")


def legend_below(figure: "Figure", axes: "Axes") -> None:
    """The names of what `axes` shows, each once, under all plots; as many in a line as fit."""
    handles, names = axes.get_legend_handles_labels()
    shown = dict(zip(names, handles, strict=True))
    room, widths = int(15 * figure.get_figwidth()), [len(name) + 8 for name in shown]
    n_columns = len(shown) if sum(widths) <= room else max(1, room // max(widths))
    figure.legend(shown.values(), shown, loc="outside lower left", ncols=n_columns)


def set_k_axis(axes: "Axes", ks: Sequence[int]) -> None:
    """A tick at every K, but for those whose labels would touch."""
    ticks = [ks[0]]
    for k in ks[1:]:
        if k - ticks[-1] >= (ks[-1] - ks[0]) / 14:
            ticks.append(k)
    axes.set_xticks(ticks)
    axes.set_xlabel("K, number of clusters")


def rendered(figure: "Figure", name: str) -> dict[str, bytes]:
    """`name`.svg, its text as text, and `name`.png; to be called inside `look`."""
    title = figure.get_suptitle().partition("\n")[0]
    about = {
        "svg": {"Title": title, "Date": None, "Creator": None},
        "png": {"Title": title, "Software": None},
    }
    files = {}
    for suffix, metadata in about.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=DPI, metadata=metadata)
        files[f"{name}.{suffix}"] = buffer.getvalue()
    return files


# --- labels beside points -----------------------------------------------------------------------

_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7))
_PLACES = [(reach, side) for reach in (7, 13, 20, 28, 37, 47, 60) for side in _SIDES]
"""Where a label may go, the best first: points between it and the middle of its mark, and where."""

LABEL_PT = 8.0

_LINED = 13
"""A label as far from its mark as this has a line to it."""


def label_points(
    axes: "Axes", labels: Sequence[str], xs: Sequence[float], ranges: Sequence[tuple[float, float]]
) -> None:
    """Write a label near each point, where it hides the least; the layout must be final.

    ranges: lower and upper end of the error bar around each point.
    """
    from matplotlib.transforms import Bbox

    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    ends = [[(x, low), (x, high)] for x, (low, high) in zip(xs, ranges, strict=True)]
    marks = [Bbox(axes.transData.transform(pair)).padded(5 * scale) for pair in ends]
    taken = list(marks)
    for label, mark, ((x, low), (_, high)) in zip(labels, marks, ends, strict=True):
        boxes = _places(axes, label, mark)
        others = [other for other in taken if other is not mark]
        costs = [n + _hidden(axes.bbox, mark, box, others) for n, box in enumerate(boxes)]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        shift = (_middle(boxes[best]) - _middle(mark)) / scale
        lined = _PLACES[best][0] >= _LINED
        start = (_nearest(mark, boxes[best]) - boxes[best].min) / boxes[best].size
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            label,
            (x, (low + high) / 2),
            (float(shift[0]), float(shift[1])),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=LABEL_PT,
            arrowprops={**line, "relpos": tuple(start)} if lined else None,
        )


def _places(axes: "Axes", label: str, mark: "Bbox") -> "list[Bbox]":
    """The pixels that the label takes in each of _PLACES."""
    from matplotlib.transforms import Bbox

    sample = axes.text(0, 0, label, fontsize=LABEL_PT)
    size = np.array(sample.get_window_extent().size)
    sample.remove()
    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    corners = (
        _middle(mark) + np.array(side) * (reach * scale + size / 2) - size / 2
        for reach, side in _PLACES
    )
    return [Bbox.from_bounds(*corner, *size) for corner in corners]


def _hidden(frame: "BboxBase", mark: "Bbox", box: "Bbox", others: "Sequence[Bbox]") -> float:
    """What a label of `mark` in `box` would hide, in steps down the list of places."""
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

    def shared(other: "BboxBase") -> float:
        both = Bbox.intersection(box, other)
        return float(both.width * both.height) if both else 0.0

    line = Path(np.stack([_middle(mark), _nearest(mark, box)]))
    crossed = sum(line.intersects_bbox(other) for other in others)
    outside = box.width * box.height - shared(frame)
    return 10 * outside + sum(map(shared, [mark, *others])) + 200 * crossed


def _middle(box: "Bbox") -> Array:
    return np.asarray(box.get_points().mean(axis=0))


def _nearest(mark: "Bbox", box: "Bbox") -> Array:
    """The point of `box` that is nearest to the middle of `mark`."""
    return np.clip(_middle(mark), box.min, box.max)

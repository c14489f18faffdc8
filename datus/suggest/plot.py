"""Figures of each K to a plot: how far the segments and chance lie apart, panel by panel.

    k_plot(found, chosen)    files: suggest_k.svg and suggest_k.png

Solid: the segments, dashed: clouds without groups, both with their standard deviation over repeats.
"""

import math
from collections.abc import Sequence

from datus.compare.plots import (
    COLOURS,
    GREY,
    curve,
    legend_below,
    look,
    panels,
    rendered,
    set_k_axis,
)
from datus.method.verdict import KFigures

PANELS = (
    ("stability", "stability: does the partition come back?"),
    ("silhouette", "silhouette: do clusters lie apart?"),
    ("content", "content: what place does not explain"),
)
"""(figure, title)."""


def k_plot(found: Sequence[KFigures], chosen: int, name: str = "suggest_k") -> dict[str, bytes]:
    """`found`: one or more, by K; the chosen K is marked by a line. Returns file name -> bytes."""
    ks = [panel.k for panel in found]
    title = f"Figures without labels by number of clusters; recommended: K = {chosen}"
    with look():
        figure, axes = panels(len(PANELS), title, size=(10.2, 3.9))
        for panel, (key, heading) in zip(axes, PANELS, strict=True):
            panel.set_title(heading)
            set_k_axis(panel, ks)
            for values, style in (
                ([k.chance[key] for k in found], CHANCE),
                ([k.real[key] for k in found], SEGMENTS),
            ):
                spreads = [value.sd or math.nan for value in values]
                curve(panel, ks, [value.mean for value in values], spreads, style)
            panel.axvline(chosen, color=COLOURS[1], linestyle=":", label="recommended", zorder=1)
        legend_below(figure, axes[0])
        return rendered(figure, name)


CHANCE = {
    "label": "chance: clouds of the same covariance without groups",
    "color": GREY,
    "linestyle": "--",
    "marker": "o",
    "markersize": 2.5,
    "markeredgecolor": GREY,
}
SEGMENTS = {"label": "the segments of this run", "color": COLOURS[0], "marker": "o"}

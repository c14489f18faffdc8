"""Figures of each K to a plot: how far the segments and chance lie apart, panel by panel.

    k_plot(found, chosen)    files: suggest_k.svg and suggest_k.png

Solid: the segments, dashed: clouds without groups, both with their standard deviation over repeats.
"""

from collections.abc import Sequence

from datus.compare import plots
from datus.compare.plots import COLOURS, GREY, curve, rendered
from datus.method.verdict import KFigures

PANELS = (
    ("stability", "stability: does the partition come back?"),
    ("silhouette", "silhouette: do clusters lie apart?"),
    ("content", "content: what place does not explain"),
)
"""(figure, title)."""


CHANCE = {
    "label": "chance: clouds of the same covariance without groups",
    "color": GREY,
    "linestyle": "--",
    "marker": "o",
    "markersize": 2.5,
    "markeredgecolor": GREY,
}
SEGMENTS = {"label": "the segments of this run", "color": COLOURS[0], "marker": "o"}


def k_plot(found: Sequence[KFigures], chosen: int) -> dict[str, bytes]:
    """`found`: one or more, by K; the chosen K is marked by a line. Returns file name -> bytes."""
    ks = [row.k for row in found]
    title = f"Figures without labels by number of clusters; recommended: K = {chosen}"
    with plots.look():
        figure, axes = plots.panels(len(PANELS), title, size=(10.2, 3.9))
        for panel, (name, heading) in zip(axes, PANELS, strict=True):
            panel.set_title(heading)
            plots.set_k_axis(panel, ks)
            curve(panel, ks, [row.chance[name] for row in found], CHANCE)
            curve(panel, ks, [row.real[name] for row in found], SEGMENTS)
            panel.axvline(chosen, color=COLOURS[1], linestyle=":", label="recommended", zorder=1)
        plots.legend_below(figure, axes[0])
        return rendered(figure, "suggest_k")

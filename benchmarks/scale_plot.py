"""Pictures of the simulation: makespan against shard size, and where the time of one run goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from farm import HOUR, Played
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datus.compare.plots import COLOURS, GREY, line_style, look, rendered

HOURS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def draw_plots(found: Mapping[str, list[Played]], sizes: Sequence[int], path: Path) -> None:
    """PATH.svg and PATH.png: a line for each kind; below, the stages of one run as bars."""
    with look():
        figure = Figure((7.6, 7.6), layout="constrained")
        figure.suptitle(
            "Makespan against images a shard, and the stages of the fastest run of each"
        )
        above, below = figure.subplots(2, 1, height_ratios=(3, 2))
        for number, (name, runs) in enumerate(found.items()):
            hours = [run.end / HOUR for run in runs]
            above.plot(sizes, hours, label=name, **line_style(number))
        above.set_xscale("log", base=2)
        above.set_yscale("log")
        above.set_xticks(sizes, [str(size) for size in sizes])
        above.set_yticks(HOURS, [str(hour) for hour in HOURS])
        above.minorticks_off()
        above.set(title="makespan, hours", xlabel="images a shard")
        above.legend()
        timeline(below, {name: min(runs, key=lambda run: run.end) for name, runs in found.items()})
        for name, data in rendered(figure, path.name).items():
            path.with_name(name).write_bytes(data)


def timeline(axes: Axes, runs: Mapping[str, Played]) -> None:
    """A bar for each run; thick = shards on all GPUs, thin = one process while they wait."""
    names = [step for step, _, _ in next(iter(runs.values())).spans]
    for row, (name, run) in enumerate(runs.items()):
        for step, start, end in run.spans:
            axes.barh(
                row,
                (end - start) / HOUR,
                0.6 if " + " in step else 0.15,
                start / HOUR,
                color=(*COLOURS, GREY)[names.index(step)],
                label=step if row == 0 else None,
            )
        axes.text(0, row - 0.38, f"{name}: {run.end / HOUR:.1f} h", fontsize=8)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_title(
        "hours, fastest shard size; thick: shards on all nodes, thin: one process, others wait"
    )
    axes.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, -0.12), fontsize=8)

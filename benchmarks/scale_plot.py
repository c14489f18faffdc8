"""Pictures of the simulation: makespan against shard size, and where the time of one run goes."""

from collections.abc import Mapping, Sequence
from math import log2, log10
from pathlib import Path

from farm import HOUR, Played

from datus.compare.drawing import COLOURS, MARKERS, Drawing, Spot, Stroke, Words, to_png, to_svg

Mark = Stroke | Spot | Words

LEFT, RIGHT, TOP, BOTTOM = 70, 700, 100, 350
HOURS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
GREY = "#e4e4e4"


def draw_plots(found: Mapping[str, list[Played]], sizes: Sequence[int], path: Path) -> None:
    """PATH.svg and PATH.png: a line for each kind; below, the stages of one run as bars."""
    ends = [one.end / HOUR for kind in found.values() for one in kind]
    ticks = [h for h in HOURS if min(ends) / 2 <= h <= max(ends) * 2]

    def at(size: float, hour: float) -> tuple[float, float]:
        across = (log2(size) - log2(sizes[0])) / (log2(sizes[-1]) - log2(sizes[0]))
        up = (log10(hour) - log10(ticks[0])) / (log10(ticks[-1]) - log10(ticks[0]))
        return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)

    marks: list[Mark] = [Words((LEFT, TOP - 14), "makespan, hours", 13)]
    for hour in ticks:
        marks.append(Stroke((at(sizes[0], hour), at(sizes[-1], hour)), GREY))
        marks.append(Words((LEFT - 10, at(1, hour)[1] + 4), str(hour), 11, "end"))
    for n in sizes:
        marks.append(Words((at(n, ticks[0])[0], BOTTOM + 20), str(n), 11, "middle"))
    marks.append(Words(((LEFT + RIGHT) / 2, BOTTOM + 42), "images a shard", 12, "middle"))
    for number, (name, kind) in enumerate(found.items()):
        colour, marker = COLOURS[number], MARKERS[number]
        places = tuple(at(n, one.end / HOUR) for n, one in zip(sizes, kind, strict=True))
        marks.append(Stroke(places, colour, 1.8))
        marks += [Spot(place, marker, colour) for place in places]
        column = LEFT + 320 * (number % 2), 18 + 20 * (number // 2)
        marks += [Spot((column[0], column[1] - 4), marker, colour)]
        marks.append(Words((column[0] + 12, column[1]), name, 13))
    best = {name: min(kind, key=lambda one: one.end) for name, kind in found.items()}
    marks += timeline(best, (LEFT, BOTTOM + 80))
    height = BOTTOM + 130 + 34 * len(found)
    title = "Makespan against images a shard, and the stages of the fastest run of each kind"
    drawing = Drawing(title, 730, height, tuple(marks))
    path.with_suffix(".svg").write_bytes(to_svg(drawing))
    path.with_suffix(".png").write_bytes(to_png(drawing, 1.5))


def timeline(runs: Mapping[str, Played], corner: tuple[float, float]) -> list[Mark]:
    """A bar for each run; thick = shards on all GPUs, thin = one process while they wait."""
    left, top = corner
    longest = max(one.end for one in runs.values())
    text = "hours, fastest shard size; thick: shards on all nodes, thin: one process, others wait"
    marks: list[Mark] = [Words((left, top), text, 12)]
    for row, (name, one) in enumerate(runs.items()):
        y = top + 30 + 34 * row
        marks.append(Words((left, y - 7), f"{name}: {one.end / HOUR:.1f} h", 11))
        for number, (step, start, end) in enumerate(one.spans):
            shards = " + " in step
            across = tuple(left + t / longest * (RIGHT - left) for t in (start, end))
            colour = COLOURS[number % len(COLOURS)]
            points = ((across[0], y + 4), (across[1], y + 4))
            marks.append(Stroke(points, colour, 10.0 if shards else 3.0))
    names = next(iter(runs.values())).spans
    x, y = left, top + 30 + 34 * len(runs)
    for number, (step, _, _) in enumerate(names):
        marks.append(Words((x, y), step, 10, "start", COLOURS[number % len(COLOURS)]))
        x += 10 + 5.1 * len(step)
    return marks

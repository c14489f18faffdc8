"""Draw docs/embedded_backbone.svg: the losses and scores of docs/embedded_backbone.md.

python docs/make_curves.py
"""

import json
from pathlib import Path

from datus.report.drawing import Drawing, Spot, Stroke, Words, to_svg

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "benchmarks" / "results" / "2026-11-21-pretrain-no-position.jsonl"

FIRST_PHASE, BATCH = 2000, 64
KEPT, OTHER = "#0072b2", "#d55e00"

LOSS_KEPT = {128: 0.0672, 313: 0.051, 457: 0.048}
"""Thousand views -> loss, of the recipe of datus_vit_t8; those of 65 and 95 minutes by its rate."""

SCORE_KEPT = {128: 18.2, 313: 16.9, 457: 17.5}
SCORE_OTHER = {109: 15.0, 147: 15.4}
"""Thousand views or pairs -> mIoU on 62 CamVid train images, hungarian_strict, preset best."""

Mark = Stroke | Spot | Words
Box = tuple[float, float, float, float]
Range = tuple[float, float]


def main() -> None:
    first = [json.loads(line) for line in LOG.read_text().splitlines()]
    other = {
        one["step"] * BATCH / 1000: one["losses"][0]
        for one in first
        if 200 <= one["step"] <= FIRST_PHASE
    }
    marks = [
        *panel("loss, hidden patches", (60, 50, 390, 270), (0.0, 0.15), 0.05, LOSS_KEPT, other),
        *panel("mIoU, CamVid train", (470, 50, 800, 270), (10.0, 20.0), 5, SCORE_KEPT, SCORE_OTHER),
        Words((60, 20), "datus_vit_t8's recipe", 13, "start", KEPT),
        Words((220, 20), "without position: datus pretrain", 13, "start", OTHER),
    ]
    drawing = Drawing("Loss and score against thousand views", 830, 330, tuple(marks))
    (ROOT / "docs" / "embedded_backbone.svg").write_bytes(to_svg(drawing))


def panel(
    title: str,
    box: Box,
    values: Range,
    tick: float,
    kept: dict[int, float],
    other: dict[float, float],
) -> list[Mark]:
    left, top, right, bottom = box
    views = (0.0, 480.0)

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (x - views[0]) / (views[1] - views[0]) * (right - left)
        return across, bottom - (y - values[0]) / (values[1] - values[0]) * (bottom - top)

    marks: list[Mark] = [Words((left, top - 10), title, 13, "start", "#333333")]
    marks.append(Stroke(((left, top), (left, bottom), (right, bottom)), "#999999"))
    marks.append(
        Words(((left + right) / 2, bottom + 36), "thousand views", 12, "middle", "#333333")
    )
    for x in range(0, 481, 120):
        marks.append(Words((at(x, values[0])[0], bottom + 18), str(x), 11, "middle", "#333333"))
    for step in range(round((values[1] - values[0]) / tick) + 1):
        y = values[0] + step * tick
        marks.append(Words((left - 8, at(0, y)[1] + 4), f"{y:g}", 11, "end", "#333333"))
    for points, colour, kind in ((other, OTHER, "square"), (kept, KEPT, "circle")):
        places = tuple(at(x, min(y, values[1])) for x, y in sorted(points.items()))
        marks.append(Stroke(places, colour, 1.5))
        if len(places) < 10:
            marks += [Spot(place, kind, colour) for place in places]
    return marks


if __name__ == "__main__":
    main()

"""Draw docs/embedded_backbone.svg, the scores over training steps of docs/embedded_backbone.md, and
docs/imperfect_labels.svg and .png, the scores against the error of the labels of docs/denoise.md,
and docs/corrections.svg and .png, the scores against the number of corrected images.

python docs/make_curves.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from datus.compare.drawing import COLOURS, Drawing, Marker, Spot, Stroke, Words, to_png, to_svg

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOG = RESULTS / "2026-12-01-two-cores-pretrain-pairs.jsonl"
CORRECTIONS_LOG = RESULTS / "2026-11-21-two-cores-corrections.jsonl"
LABELS_LOG = RESULTS / "2026-11-21-two-cores-denoise.jsonl"

LAST_STEP = 2700
"""Of the training whose figures are in LOG."""

Mark = Stroke | Spot | Words
Box = tuple[float, float, float, float]
Range = tuple[float, float]

LEARNERS: dict[str, tuple[str, Marker]] = {
    "conv frozen": (COLOURS[0], "circle"),
    "conv tuned": (COLOURS[1], "square"),
    "deeplabv3 from scratch": (COLOURS[2], "triangle"),
}

Ticks = Sequence[tuple[float, str, str]]
"""Place on the axis, what is written there, name of the row of labels."""

FLIPS: Ticks = tuple((n, str(n), f"flip {n} %" if n else "true masks") for n in (0, 10, 30, 50))
SHIFTS: Ticks = tuple((n, str(n), f"shift {n} %" if n else "true masks") for n in (0, 2, 5, 10))
SPARSE: Ticks = (
    (0, "all", "true masks"),
    (1, "scribbles", "scribbles, 3 %"),
    (2, "points", "points, 2 a region"),
)


def main() -> None:
    embedded_backbone()
    imperfect_labels()
    corrections()


def imperfect_labels() -> None:
    """Three panels: wrong classes, wrong places, few pixels."""
    lines = [json.loads(line) for line in LABELS_LOG.read_text(encoding="utf-8").splitlines()]
    marks: list[Mark] = []
    for number, (title, axis, ticks) in enumerate(
        (
            ("Wrong classes", "% of regions flipped", FLIPS),
            ("Wrong places", "shift, % of the width", SHIFTS),
            ("Few pixels", "what is labelled", SPARSE),
        )
    ):
        left = 60 + 285 * number
        marks += noise_panel(lines, title, axis, ticks, (left, 70, left + 215, 300))
    for number, (name, (colour, kind)) in enumerate(LEARNERS.items()):
        at = 60 + 150 * number, 26
        marks += [Spot((at[0], at[1] - 4), kind, colour), Words((at[0] + 12, at[1]), name, 13)]
    title = "mIoU on CamVid val against the error of the labels that were learnt"
    drawing = Drawing(title, 880, 360, tuple(marks))
    (ROOT / "docs" / "imperfect_labels.svg").write_bytes(to_svg(drawing))
    (ROOT / "docs" / "imperfect_labels.png").write_bytes(to_png(drawing, 1.5))


def noise_panel(
    lines: list[dict[str, Any]], title: str, axis: str, ticks: Ticks, box: Box
) -> list[Mark]:
    """mIoU of every learner, moved apart a little, on the labels of one seed; a bar of one standard
    deviation of three seeds up and down where there are so many."""
    left, top, right, bottom = box
    reach = ticks[-1][0]

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / reach * (right - left), bottom - y / TOP_MIOU * (bottom - top)

    marks: list[Mark] = [Words((left, top - 14), f"{title}: mIoU, %", 13)]
    for y in range(0, TOP_MIOU + 1, 10):
        marks.append(Stroke((at(0, y), at(reach, y)), "#e4e4e4"))
        marks.append(Words((left - 12, at(0, y)[1] + 4), str(y), 11, "end"))
    marks += [Words((at(x, 0)[0], bottom + 20), text, 11, "middle") for x, text, _ in ticks]
    marks.append(Words(((left + right) / 2, bottom + 42), axis, 12, "middle"))
    for number, (name, (colour, kind)) in enumerate(LEARNERS.items()):
        spots = []
        for x, _, labels in ticks:
            mine = [one for one in lines if (one.get("labels"), one["model"]) == (labels, name)]
            found = {one["seed"]: one["miou"] for one in mine}
            if SEED not in found:
                continue
            across, down = at(x, found[SEED])
            spots.append((across + 6 * (number - 1), down))
            spread = pstdev(found.values()) / TOP_MIOU * (bottom - top)
            ends = ((spots[-1][0], down - spread), (spots[-1][0], down + spread))
            marks += [Stroke(ends, colour, 1.2)] if len(found) > 2 else []
        marks.append(Stroke(tuple(spots), colour, 1.6))
        marks += [Spot(place, kind, colour) for place in spots]
    return marks


CORRECTED: dict[tuple[str, str], tuple[str, str, Marker]] = {
    ("CamVid val", "light head"): ("val, light head on the same images", COLOURS[2], "triangle"),
    ("CamVid val", "corrections"): ("val, corrections", COLOURS[0], "circle"),
    ("CamVid train", "corrections"): ("train, corrections", COLOURS[1], "square"),
}
"""(set, way) -> what is written, colour, mark."""

COUNTS = (0, 1, 2, 5, 10, 20, 50)
"""Corrected images, drawn at equal steps."""


def corrections() -> None:
    """Mean mIoU of the draws, a bar of one standard deviation up and down."""
    lines = [json.loads(line) for line in CORRECTIONS_LOG.read_text(encoding="utf-8").splitlines()]
    left, top, right, bottom, highest = 60.0, 78.0, 640.0, 340.0, 70

    def at(count: int, y: float) -> tuple[float, float]:
        step = (right - left) / (len(COUNTS) - 1)
        return left + COUNTS.index(count) * step, bottom - y / highest * (bottom - top)

    marks: list[Mark] = [Words((left, top - 14), "mIoU of the other images, %", 13)]
    for y in range(0, highest + 1, 10):
        marks.append(Stroke((at(0, y), at(COUNTS[-1], y)), "#e4e4e4"))
        marks.append(Words((left - 12, at(0, y)[1] + 4), str(y), 11, "end"))
    marks += [Words((at(x, 0)[0], bottom + 20), str(x), 11, "middle") for x in COUNTS]
    marks.append(Words(((left + right) / 2, bottom + 42), "corrected images", 12, "middle"))
    for number, ((name, way), (text, colour, kind)) in enumerate(CORRECTED.items()):
        mine = [one for one in lines if (one["set"], one["way"]) == (name, way)]
        place = (left + (0, 270, 430)[number], 26)
        marks += [Spot((place[0], place[1] - 4), kind, colour)]
        marks += [Words((place[0] + 12, place[1]), text, 13)]
        spots = []
        for count in COUNTS:
            found = [one["scores"] for one in mine if one["count"] == count]
            values = [one.get("named_miou", one["strict_miou"]) for one in found]
            if not values:
                continue
            spots.append(at(count, fmean(values)))
            spread = pstdev(values) / highest * (bottom - top)
            x, y = spots[-1]
            marks.append(Stroke(((x, y - spread), (x, y + spread)), colour, 1.2))
        marks.append(Stroke(tuple(spots), colour, 1.6))
        marks += [Spot(spot, kind, colour) for spot in spots]
    drawing = Drawing("mIoU against corrected images", 690, 400, tuple(marks))
    (ROOT / "docs" / "corrections.svg").write_bytes(to_svg(drawing))
    (ROOT / "docs" / "corrections.png").write_bytes(to_png(drawing, 1.5))


SEED = 0
"""All learners had it, and so the same wrong labels."""

TOP_MIOU = 40


TRAINED_SETS: dict[str, tuple[str, Marker]] = {
    "camvid11_train": (COLOURS[0], "circle"),
    "facades/even": (COLOURS[1], "square"),
    "facades/odd": (COLOURS[2], "square"),
    "ccp_clothing": (COLOURS[3], "triangle"),
    "camvid11_val": (COLOURS[4], "circle"),
}


def embedded_backbone() -> None:
    rows = [json.loads(line) for line in LOG.read_text().splitlines()]
    marks: list[Mark] = []
    panels = (
        ("score over the better colour baseline", "ratio", 60.0, (0.8, 1.8)),
        ("labels kept in mirror images (kappa)", "mirror", 400.0, (0.4, 1.0)),
        ("... enlarged and recoloured", "crop", 740.0, (0.3, 0.9)),
    )
    for title, figure, left, values in panels:
        points = {
            name: {row["step"]: row[figure] for row in rows if row["set"] == name}
            for name in TRAINED_SETS
        }
        marks += panel(title, (left, 70, left + 270, 290), values, points)
    for number, (name, (colour, kind)) in enumerate(TRAINED_SETS.items()):
        left = 66 + 170 * number
        marks += [Spot((left, 22), kind, colour), Words((left + 12, 26), name, 13)]
    drawing = Drawing("Scores and agreement over steps of training", 1040, 350, tuple(marks))
    (ROOT / "docs" / "embedded_backbone.svg").write_bytes(to_svg(drawing))


def panel(title: str, box: Box, values: Range, points: dict[str, dict[int, float]]) -> list[Mark]:
    left, top, right, bottom = box

    def at(step: float, y: float) -> tuple[float, float]:
        share = (y - values[0]) / (values[1] - values[0])
        return left + step / LAST_STEP * (right - left), bottom - share * (bottom - top)

    marks: list[Mark] = [Words((left, top - 10), title, 13, "start", "#333333")]
    marks.append(Stroke(((left, top), (left, bottom), (right, bottom)), "#999999"))
    marks.append(Words(((left + right) / 2, bottom + 38), "steps", 12, "middle", "#333333"))
    for step in range(0, LAST_STEP + 1, 500):
        marks.append(Words((at(step, values[0])[0], bottom + 18), str(step), 11, "middle"))
    for tenth in range(round(10 * values[0]), round(10 * values[1]) + 1, 2):
        marks.append(Words((left - 8, at(0, tenth / 10)[1] + 4), f"{tenth / 10:g}", 11, "end"))
    for name, line in points.items():
        colour, kind = TRAINED_SETS[name]
        places = tuple(at(step, y) for step, y in sorted(line.items()))
        marks.append(Stroke(places, colour, 1.5))
        marks += [Spot(place, kind, colour) for place in places]
    return marks


if __name__ == "__main__":
    main()

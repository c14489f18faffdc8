"""Draw docs/embedded_backbone.svg, the scores over training steps of docs/embedded_backbone.md, and
docs/imperfect_labels.svg and .png, the scores against the error of the labels of docs/denoise.md,
and docs/corrections.svg and .png, the scores against the number of corrected images.

python docs/make_curves.py
"""

import json
import math
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from matplotlib.axes import Axes

from datus.compare.plots import curve, legend_below, line_style, look, panels, rendered

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "benchmarks" / "results"
LOG = RESULTS / "2026-12-01-two-cores-pretrain-pairs.jsonl"
CORRECTIONS_LOG = RESULTS / "2026-11-21-two-cores-corrections.jsonl"
LABELS_LOG = RESULTS / "2026-11-21-two-cores-denoise.jsonl"

SEED = 0
"""All learners had it, and so the same wrong labels."""

LEARNERS = ("conv frozen", "conv tuned", "deeplabv3 from scratch")

NOISES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Wrong classes",
        "% of regions flipped",
        {"0": "true masks"} | {str(n): f"flip {n} %" for n in (10, 30, 50)},
    ),
    (
        "Wrong places",
        "shift, % of the width",
        {"0": "true masks"} | {str(n): f"shift {n} %" for n in (2, 5, 10)},
    ),
    (
        "Few pixels",
        "what is labelled",
        {"all": "true masks", "scribbles": "scribbles, 3 %", "points": "points, 2 a region"},
    ),
)
"""Title, name of the axis, what is written on it -> name of the row of labels."""

CORRECTED = {
    ("CamVid val", "corrections"): "val, corrections",
    ("CamVid train", "corrections"): "train, corrections",
    ("CamVid val", "light head"): "val, light head on the same images",
}
"""(set, way) -> what is written."""

COUNTS = (0, 1, 2, 5, 10, 20, 50)
"""Corrected images, drawn at equal steps."""

TRAINED_SETS = ("camvid11_train", "facades/even", "facades/odd", "ccp_clothing", "camvid11_val")


def main() -> None:
    with look():
        embedded_backbone()
        imperfect_labels()
        corrections()


def imperfect_labels() -> None:
    """Three panels: wrong classes, wrong places, few pixels."""
    rows = read(LABELS_LOG)
    title = "mIoU on CamVid val against the error of the labels that were learnt, percent"
    figure, axes = panels(len(NOISES), title, size=(9.5, 3.8))
    for one, (heading, axis, labels) in zip(axes, NOISES, strict=True):
        noise_panel(one, rows, labels)
        one.set(title=heading, xlabel=axis, ylim=(0, 40))
    legend_below(figure, axes[0])
    write(rendered(figure, "imperfect_labels"))


def noise_panel(axes: Axes, rows: list[dict[str, Any]], labels: dict[str, str]) -> None:
    """mIoU of every learner, moved apart a little, on the labels of one seed; a bar of one standard
    deviation of three seeds up and down where there are so many."""
    places = [float(text) if text.isdigit() else i for i, text in enumerate(labels)]
    axes.set_xticks(places, list(labels))
    for number, learner in enumerate(LEARNERS):
        xs, means, spreads = [], [], []
        for x, name in zip(places, labels.values(), strict=True):
            by_seed = {
                row["seed"]: row["miou"]
                for row in rows
                if (row.get("labels"), row["model"]) == (name, learner)
            }
            if SEED in by_seed:
                xs.append(x + 0.022 * (number - 1) * places[-1])
                means.append(by_seed[SEED])
                spreads.append(pstdev(by_seed.values()) if len(by_seed) > 2 else math.nan)
        curve(axes, xs, means, spreads, {"label": learner, **line_style(number)})


def corrections() -> None:
    """Mean mIoU of the draws, a bar of one standard deviation up and down."""
    rows = read(CORRECTIONS_LOG)
    title = "mIoU of the other images against corrected images, percent"
    figure, (axes,) = panels(1, title, size=(7.2, 4.2))
    for number, ((name, way), text) in enumerate(CORRECTED.items()):
        points = []
        for x, count in enumerate(COUNTS):
            wanted = (name, way, count)
            scores = [r["scores"] for r in rows if (r["set"], r["way"], r["count"]) == wanted]
            values = [one.get("named_miou", one["strict_miou"]) for one in scores]
            points += [(x, fmean(values), pstdev(values))] if values else []
        xs, means, spreads = (list(column) for column in zip(*points, strict=True))
        curve(axes, xs, means, spreads, {"label": text, **line_style(number)})
    axes.set_xticks(range(len(COUNTS)), [str(count) for count in COUNTS])
    axes.set(xlabel="corrected images", ylim=(0, 70))
    legend_below(figure, axes)
    write(rendered(figure, "corrections"))


def embedded_backbone() -> None:
    rows = read(LOG)
    figure, axes = panels(3, "Scores and agreement over steps of training", size=(11, 4))
    for one, (title, key, limits) in zip(
        axes,
        (
            ("score over the better colour baseline", "ratio", (0.8, 1.8)),
            ("labels kept in mirror images (kappa)", "mirror", (0.4, 1.0)),
            ("... enlarged and recoloured", "crop", (0.3, 0.9)),
        ),
        strict=True,
    ):
        for number, name in enumerate(TRAINED_SETS):
            points = sorted((row["step"], row[key]) for row in rows if row["set"] == name)
            one.plot(*zip(*points, strict=True), label=name, **line_style(number))
        one.set(title=title, xlabel="steps", ylim=limits)
    legend_below(figure, axes[0])
    write({k: v for k, v in rendered(figure, "embedded_backbone").items() if k.endswith("svg")})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (DOCS / name).write_bytes(data)


if __name__ == "__main__":
    main()

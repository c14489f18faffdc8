"""Figures 7 and 9: what is drawn, where, and that both formats hold it."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from cell_cases import cell
from PIL import Image

from datus.compare.cells import CellResult
from datus.compare.curves import axis, figure7, figure9, place_labels
from datus.compare.drawing import (
    COLOURS,
    MARKERS,
    Drawing,
    Spot,
    Stroke,
    Words,
    text_width,
    to_png,
    to_svg,
)

RULES = ("hungarian_strict", "hungarian_covered")


def words(drawing: Drawing) -> list[str]:
    return [mark.text for mark in drawing.marks if isinstance(mark, Words)]


def spots(drawing: Drawing) -> list[Spot]:
    return [mark for mark in drawing.marks if isinstance(mark, Spot)]


# --- Figure 7 -----------------------------------------------------------------------------------


def test_figure_7_has_a_labelled_point_a_scheme_in_three_panels() -> None:
    cells = [cell("a", 20.0, n_valid=200), cell("b", 30.0, n_valid=400), cell("a", 99.0, k=7)]
    drawing = figure7(cells, RULES[0])
    assert drawing is not None
    assert drawing.title == "Scores against valid segments, K = 6, hungarian_strict"
    assert [words(drawing).count(name) for name in ("a", "b", "accuracy", "mIoU", "mean F1")] == [
        *(3, 3, 1, 1, 1)
    ]
    assert len(spots(drawing)) == 6
    for left, right in zip(spots(drawing)[::2], spots(drawing)[1::2], strict=True):
        assert left.at[0] < right.at[0]  # more valid segments
        assert left.at[1] > right.at[1]  # lower score
        assert (left.colour, left.kind) != (right.colour, right.kind)


def test_figure_7_has_one_colour_a_group_and_a_legend() -> None:
    cells = [cell("a", 20.0, group="G"), cell("b", 21.0, group="G"), cell("c", 22.0, group="H")]
    drawing = figure7(cells, RULES[0])
    assert drawing is not None
    styles = [(spot.colour, spot.kind) for spot in spots(drawing)]
    assert styles[0] == styles[1] != styles[2]
    assert words(drawing)[-2:] == ["G", "H"]


def test_too_few_points_make_no_figure() -> None:
    assert figure7([cell("a", 1.0)], RULES[0]) is None
    assert figure7([cell("a", 1.0), CellResult("b", 6, reason="no")], RULES[0]) is None
    assert figure7([], RULES[0]) is None
    assert figure9([cell("a", 1.0), cell("b", 1.0)], RULES) is None
    assert figure9([CellResult("b", 6, reason="no")], RULES) is None


def test_labels_do_not_hide_one_another() -> None:
    """Eight points on one spot: every label finds its own place inside the frame."""
    places = [(200.0, 200.0)] * 8
    marks = place_labels([f"label {i}" for i in range(8)], places, (0, 0, 400, 400))
    texts = [mark for mark in marks if isinstance(mark, Words)]
    assert len(texts) == 8
    boxes = [(t.at[0], t.at[1] - 8, t.at[0] + text_width(t.text, 11), t.at[1]) for t in texts]
    for i, one in enumerate(boxes):
        assert one[0] >= 0
        assert one[2] <= 400
        for other in boxes[:i]:
            apart_x = one[2] <= other[0] or other[2] <= one[0]
            apart_y = one[3] <= other[1] or other[3] <= one[1]
            assert apart_x or apart_y
    assert any(isinstance(mark, Stroke) for mark in marks)  # thin lines to those far away


def test_a_line_to_a_label_does_not_run_through_another_point() -> None:
    """Two points side by side at the right edge: both labels go left, one of them around."""
    places = [(390.0, 200.0), (372.0, 200.0)]
    marks = place_labels(["one", "two"], places, (0, 0, 400, 400))
    for mark in marks:
        if isinstance(mark, Stroke):
            (x0, y0), (x1, y1) = mark.points
            for share in np.linspace(0.3, 1.0, 20):
                x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
                others = [place for place in places if place != (x0, y0)]
                assert all(np.hypot(x - a, y - b) > 5 for a, b in others)


# --- Figure 9 -----------------------------------------------------------------------------------


def test_figure_9_has_a_line_a_scheme() -> None:
    cells = [cell(name, 20.0 + k + i, k=k) for i, name in enumerate("ab") for k in (8, 6, 12)]
    drawing = figure9(cells, RULES)
    assert drawing is not None
    assert drawing.title == "Scores against K, hungarian_strict"
    curves = [m for m in drawing.marks if isinstance(m, Stroke) and len(m.points) == 3]
    assert len(curves) == 6  # two schemes, three panels
    for curve in curves:
        assert [x for x, _ in curve.points] == sorted(x for x, _ in curve.points)
        assert [y for _, y in curve.points] == sorted((y for _, y in curve.points), reverse=True)
    assert words(drawing)[-2:] == ["a", "b"]
    assert [words(drawing).count(k) for k in ("6", "8", "12")] == [3, 3, 3]


def test_figure_9_of_one_scheme_has_a_line_a_rule() -> None:
    drawing = figure9([cell("a", 20.0 + k, k=k) for k in (6, 7)], RULES)
    assert drawing is not None
    assert drawing.title == "Scores against K, a, by rule"
    assert words(drawing)[-2:] == list(RULES)


def test_seeds_have_error_bars() -> None:
    cells = [cell("a", 20.0 + k + seed, k=k, seed=seed) for k in (6, 7) for seed in (0, 1)]
    drawing = figure9(cells, RULES[:1])
    assert drawing is not None
    assert "percent; bars: standard deviation over seeds" in words(drawing)
    upright = [
        m for m in drawing.marks if isinstance(m, Stroke) and m.points[0][0] == m.points[-1][0]
    ]
    bars = [m for m in upright if m.colour == COLOURS[0]]
    assert len(bars) == 6


def test_more_lines_than_colours_differ_by_marker_and_dash() -> None:
    cells = [cell(f"s{i:02d}", 20.0 + i, k=k) for i in range(20) for k in (6, 7)]
    drawing = figure9(cells, RULES)
    assert drawing is not None
    lines = [m for m in drawing.marks if isinstance(m, Stroke) and m.width == 1.8]
    styles = {(m.colour, m.dash) for m in lines}
    assert len(styles) == 20
    assert len(MARKERS) == len(set(MARKERS))


# --- axes and formats ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([10.0, 20.0], (10.0, 12.0, 14.0, 16.0, 18.0, 20.0)),
        ([3.0, 3.0], (2.0, 2.5, 3.0, 3.5, 4.0)),
        ([0.0, 1.0], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_ticks_are_round(values: list[float], ticks: tuple[float, ...]) -> None:
    made = axis(values, 0, 100)
    assert made.ticks == pytest.approx(ticks)
    assert 0 <= made.at(min(values)) < made.at(max(values) + 1e-9) <= 100


def test_svg_and_png() -> None:
    drawing = Drawing(
        "a <title>",
        60,
        40,
        (
            Stroke(((0, 20), (60, 20)), "#0072b2", 2, 5),
            Spot((30, 20), "circle", "#d55e00", 6),
            Words((2, 12), "<&> ±"),
        ),
    )
    root = ElementTree.fromstring(to_svg(drawing))
    assert root.find("{*}title").text == "a <title>"  # type: ignore[union-attr]
    assert root.find("{*}text").text == "<&> ±"  # type: ignore[union-attr]
    image = Image.open(io.BytesIO(to_png(drawing)))
    assert image.size == (120, 80)
    assert image.getpixel((60, 40)) == (0xD5, 0x5E, 0x00)
    row = [image.getpixel((x, 40)) for x in range(40)]
    assert {(0, 0x72, 0xB2), (255, 255, 255)} <= set(row)  # dashes and gaps
    assert to_png(drawing) == to_png(drawing)


@pytest.mark.parametrize("kind", MARKERS)
def test_every_marker_is_drawn_in_both(kind: str) -> None:
    drawing = Drawing("m", 20, 20, (Spot((10, 10), kind, "#009e73", 5),))  # type: ignore[arg-type]
    image = Image.open(io.BytesIO(to_png(drawing)))
    assert image.getpixel((20, 20)) == (0, 0x9E, 0x73)
    assert b'fill="#009e73"' in to_svg(drawing)

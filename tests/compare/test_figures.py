"""Figures 7 and 9: what is drawn, where, and that both formats hold it."""

import io
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from cell_cases import cell
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from datus.compare.cells import CellResult
from datus.compare.figures import figure7, figure9
from datus.compare.plots import (
    label_points,
    legend_below,
    line_style,
    look,
    panels,
    rendered,
    set_k_axis,
)

RULES = ("hungarian_strict", "hungarian_covered")


@pytest.fixture(autouse=True)
def _our_look() -> Iterator[None]:
    with look():
        yield


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def curves(axes: Axes) -> list[Line2D]:
    """The lines and points that have a name; a bar of a standard deviation has none."""
    return [line for line in axes.lines if not str(line.get_label()).startswith("_")]


def style(line: Line2D) -> tuple[Any, ...]:
    return line.get_color(), line.get_marker(), line.get_linestyle()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


# --- Figure 7 -----------------------------------------------------------------------------------


def test_figure_7_has_a_labelled_point_a_scheme_in_three_panels() -> None:
    cells = [cell("a", 20.0, n_valid=200), cell("b", 30.0, n_valid=400), cell("a", 99.0, k=7)]
    figure = drawn(figure7(cells, RULES[0]))
    assert figure.get_suptitle().splitlines() == [
        "Scores against valid segments, K = 6, hungarian_strict",
        "percent",
    ]
    assert [axes.get_title("left") for axes in figure.axes] == ["accuracy", "mIoU", "mean F1"]
    for axes, above in zip(figure.axes, (30, 0, 10), strict=True):
        assert [text.get_text() for text in axes.texts] == ["a", "b"]
        a, b = curves(axes)
        assert [*a.get_xydata()[0], *b.get_xydata()[0]] == [20.0, 20 + above, 40.0, 30 + above]
        assert style(a) != style(b)
    assert legend(figure) == []


def test_figure_7_has_one_colour_a_group_and_a_legend() -> None:
    cells = [cell("a", 20.0, group="G"), cell("b", 21.0, group="G"), cell("c", 22.0, group="H")]
    figure = drawn(figure7(cells, RULES[0]))
    a, b, c = map(style, curves(figure.axes[0]))
    assert a == b != c
    assert legend(figure) == ["G", "H"]


def test_too_few_points_make_no_figure() -> None:
    assert figure7([cell("a", 1.0)], RULES[0]) is None
    assert figure7([cell("a", 1.0), CellResult("b", 6, reason="no")], RULES[0]) is None
    assert figure7([], RULES[0]) is None
    assert figure9([cell("a", 1.0), cell("b", 1.0)], RULES) is None
    assert figure9([CellResult("b", 6, reason="no")], RULES) is None


def labelled(xs: list[float], ys: list[float]) -> Axes:
    """A frame from 0 to 10 with a label at each point."""
    figure, (axes,) = panels(1, "t", size=(5, 5))
    axes.set(xlim=(0, 10), ylim=(0, 10))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    label_points(axes, [f"label {i}" for i in range(len(xs))], xs, [(y, y) for y in ys])
    figure.draw_without_rendering()
    return axes


def test_labels_do_not_hide_one_another() -> None:
    """Eight points on one spot: every label finds its own place inside the frame."""
    axes = labelled([5.0] * 8, [5.0] * 8)
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without its line
    assert len(boxes) == 8
    for number, one in enumerate(boxes):
        assert axes.bbox.x0 <= one.x0 < one.x1 <= axes.bbox.x1
        assert not any(one.overlaps(other) for other in boxes[:number])
    assert any(text.arrow_patch for text in axes.texts)  # type: ignore[attr-defined]


def test_a_line_to_a_label_does_not_run_through_another_point() -> None:
    """Two points side by side at the right edge: both labels go left, one of them around."""
    xs, ys = [9.7, 9.1], [5.0, 5.0]
    axes = labelled(xs, ys)
    points = axes.transData.transform(np.stack([xs, ys], axis=1))
    for start, other, text in zip(points, points[::-1], axes.texts, strict=True):
        box = Text.get_window_extent(text)
        end = np.clip(start, box.min, box.max)
        for share in np.linspace(0, 1, 50):
            assert np.hypot(*(start + share * (end - start) - other)) > 5


# --- Figure 9 -----------------------------------------------------------------------------------


def test_figure_9_has_a_line_a_scheme() -> None:
    cells = [cell(name, 20.0 + k + i, k=k) for i, name in enumerate("ab") for k in (8, 6, 12)]
    figure = drawn(figure9(cells, RULES))
    assert figure.get_suptitle() == "Scores against K, hungarian_strict\npercent"
    for axes, above in zip(figure.axes, (0, 30, 10), strict=True):
        for number, line in enumerate(curves(axes)):
            assert line.get_xydata().tolist() == [[k, 20 + k + number + above] for k in (6, 8, 12)]
        assert axes.get_xticks().tolist() == [6, 8, 12]
    assert legend(figure) == ["a", "b"]


def test_figure_9_of_one_scheme_has_a_line_a_rule() -> None:
    figure = drawn(figure9([cell("a", 20.0 + k, k=k) for k in (6, 7)], RULES))
    assert figure.get_suptitle() == "Scores against K, a, by rule\npercent"
    assert legend(figure) == list(RULES)


def test_seeds_have_error_bars() -> None:
    cells = [cell("a", 20.0 + k + seed, k=k, seed=seed) for k in (6, 7) for seed in (0, 1)]
    figure = drawn(figure9(cells, RULES[:1]))
    assert figure.get_suptitle().endswith("percent; bars: standard deviation over seeds")
    for axes in figure.axes:
        (bars,) = (one for one in axes.containers if isinstance(one, ErrorbarContainer))
        ends = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
        assert [high - low for low, high in ends] == pytest.approx([2**0.5, 2**0.5])


def test_more_lines_than_colours_differ_by_marker_and_dash() -> None:
    cells = [cell(f"s{i:02d}", 20.0 + i, k=k) for i in range(20) for k in (6, 7)]
    lines = curves(drawn(figure9(cells, RULES)).axes[0])
    assert len({style(line) for line in lines}) == 20


def test_labels_of_many_k_do_not_touch() -> None:
    _, (axes,) = panels(1, "t")
    set_k_axis(axes, range(2, 60))
    ticks = axes.get_xticks().tolist()
    assert ticks[0] == 2
    assert 10 <= len(ticks) <= 15


@pytest.mark.parametrize("name", ["$x$ $", "日本", "_a", "a & <b>"])
def test_any_name_is_drawn_as_it_is_written(name: str) -> None:
    cells = [cell(name, 20.0 + k, k=k) for k in (6, 7)] + [cell("b", 21.0, k=k) for k in (6, 7)]
    for figure in (drawn(figure7(cells, RULES[0])), drawn(figure9(cells, RULES))):
        files = rendered(figure, "f")
        root = ElementTree.fromstring(files["f.svg"])
        texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
        assert name in {str(text).strip() for text in texts}


# --- files --------------------------------------------------------------------------------------


def files() -> dict[str, bytes]:
    figure, (axes,) = panels(1, "a <title>", "note")
    axes.plot([1, 2], [3, 4], label="<&> ±", **line_style(0))
    legend_below(figure, axes)
    return rendered(figure, "f")


def test_svg_and_png() -> None:
    found = files()
    assert set(found) == {"f.svg", "f.png"}
    root = ElementTree.fromstring(found["f.svg"])
    assert root.find("{*}title").text == "a <title>"  # type: ignore[union-attr]
    texts = [
        "".join(one.itertext()).strip() for one in root.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"<&> ±", "a <title>", "note"} <= set(texts)
    image = Image.open(io.BytesIO(found["f.png"])).convert("RGB")
    assert image.size == (2320, 880)
    assert (0, 0x72, 0xB2) in {colour for _, colour in image.getcolors(1 << 20) or []}


def test_the_same_figure_has_the_same_bytes_whatever_style_a_user_has() -> None:
    first = files()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}), look():
        assert files() == first
    assert b"202" not in first["f.svg"].partition(b"<defs")[0]  # no date

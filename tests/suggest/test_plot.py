"""The plot of suggest-k: every figure is drawn, and nothing leaves the picture."""

import pytest

from datus.compare.drawing import Spot, Stroke, Words, to_png, to_svg
from datus.suggest.plot import PANELS, k_plot
from datus.suggest.stability import FIGURES, KFigures, Measured


def found(ks: list[int]) -> list[KFigures]:
    return [
        KFigures(
            k,
            {name: Measured(1 / k, 0.01) for name in FIGURES},
            {name: Measured(0.2, 0.05) for name in FIGURES},
        )
        for k in ks
    ]


@pytest.mark.parametrize("ks", [[4], [2, 3], list(range(2, 31)), [2, 250]])
def test_all_marks_lie_in_the_picture(ks: list[int]) -> None:
    drawing = k_plot(found(ks), ks[0])
    spots = [mark for mark in drawing.marks if isinstance(mark, Spot)]
    assert len([one for one in spots if one.colour != "#6b6b6b"]) == len(PANELS) * len(ks)
    places = [at for mark in drawing.marks if isinstance(mark, Stroke) for at in mark.points]
    places += [mark.at for mark in drawing.marks if not isinstance(mark, Stroke)]
    assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in places)


def test_the_chosen_k_is_named_and_marked() -> None:
    drawing = k_plot(found([2, 3, 5]), 3)
    texts = [mark.text for mark in drawing.marks if isinstance(mark, Words)]
    assert "Figures without labels by number of clusters; recommended: K = 3" in texts
    assert {title for _, title in PANELS} <= set(texts)
    assert b"recommended: K = 3" in to_svg(drawing)
    assert to_png(drawing) == to_png(k_plot(found([2, 3, 5]), 3))

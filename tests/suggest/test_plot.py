"""The plot of suggest-k: every figure is drawn, and the chosen K is marked."""

import pytest
from matplotlib.figure import Figure

from datus.method.verdict import KFigures, Measured
from datus.suggest import plot
from datus.suggest.plot import PANELS, k_plot
from datus.suggest.stability import FIGURES


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
def test_segments_chance_and_the_chosen_k_are_drawn(
    ks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Figure] = []
    monkeypatch.setattr(plot, "rendered", lambda figure, name: seen.append(figure) or {})
    k_plot(found(ks), ks[0])
    assert [axes.get_title("left") for axes in seen[0].axes] == [title for _, title in PANELS]
    for axes in seen[0].axes:
        lines = {str(line.get_label()).partition(":")[0]: line for line in axes.lines}
        assert lines["the segments of this run"].get_ydata().tolist() == [1 / k for k in ks]
        assert lines["chance"].get_ydata().tolist() == [0.2] * len(ks)
        assert set(lines["recommended"].get_xdata()) == {ks[0]}


def test_the_chosen_k_is_named_and_the_bytes_come_again() -> None:
    files = k_plot(found([2, 3, 5]), 3)
    assert set(files) == {"suggest_k.svg", "suggest_k.png"}
    assert (
        b"Figures without labels by number of clusters; recommended: K = 3"
        in files["suggest_k.svg"]
    )
    assert files == k_plot(found([2, 3, 5]), 3)

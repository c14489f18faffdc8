"""Tables of hand-made cells, to the letter."""

import math

import pytest
from cell_cases import cell

from datus.compare.cells import CellResult, OverSeeds, lines_of, varying
from datus.compare.tables import (
    chosen_rules,
    latex_text,
    layout,
    notes_of,
    to_csv,
    to_latex,
    to_markdown,
)
from datus.errors import UsageError

STRICT = ("hungarian_strict",)


# --- values -------------------------------------------------------------------------------------


def test_mean_and_sample_deviation() -> None:
    assert OverSeeds.of([2.0, 4.0, math.nan]) == OverSeeds(3.0, math.sqrt(2.0))
    assert OverSeeds.of([5.0]) == OverSeeds(5.0, None)
    assert OverSeeds.of([math.nan]) is None


def test_shares_of_a_cell() -> None:
    one = cell("a", 20.0)
    assert one.value("valid_segments") == 25.0
    assert one.value("coverage") == 90.0
    assert one.value("miou", "hungarian_covered") == 21.0
    assert math.isnan(one.value("miou", "majority"))
    assert math.isnan(cell("a", 20.0, n_segments=0).value("valid_segments"))
    assert math.isnan(CellResult("a", 6, reason="no").value("n_segments"))


def test_lines_join_seeds_and_nothing_else() -> None:
    cells = [cell("a", 1, seed=0), cell("a", 2, k=7), cell("a", 3, seed=1), cell("b", 4)]
    assert [[one.value("miou", STRICT[0]) for one in line.cells] for line in lines_of(cells)] == [
        [1, 3],
        [2],
        [4],
    ]
    assert varying(cells) == ["backbone", "k"]


def test_rules() -> None:
    assert chosen_rules((), "VII")[0] == "hungarian_strict"
    assert chosen_rules(("majority",), "VII") == ("majority",)
    assert chosen_rules((), "II") == ("hungarian_strict",)
    with pytest.raises(UsageError, match=r"^rules: expected some of .*, got 'x'$"):
        chosen_rules(("x",), "I")
    with pytest.raises(UsageError, match=r"^table: expected I, II, III, VI, VII, full, got 'V'$"):
        chosen_rules((), "V")


# --- Markdown -----------------------------------------------------------------------------------


def test_table_one_with_its_segments() -> None:
    cells = [
        cell("DINO-S/8", 23.19, params="21M"),
        cell("DINO-S/16", 17.23, params="21M", n_valid=466),
    ]
    expected = """\
## Scores under hungarian_strict, percent

| scheme    | params | mIoU (hungarian_strict) | accuracy (hungarian_strict) | mean F1 (hungarian_strict) |
| --------- | -----: | ----------------------: | --------------------------: | -------------------------: |
| DINO-S/8  |    21M |               **23.19** |                   **53.19** |                  **33.19** |
| DINO-S/16 |    21M |                   17.23 |                       47.23 |                      27.23 |

## Segments

| scheme    | params | segments | % valid segments | % valid patches | % coverage |
| --------- | -----: | -------: | ---------------: | --------------: | ---------: |
| DINO-S/8  |    21M |    1,000 |            25.00 |           80.00 |      90.00 |
| DINO-S/16 |    21M |    1,000 |            46.60 |           80.00 |      90.00 |
"""  # noqa: E501 - a table is as wide as it is
    assert to_markdown(layout("I", cells, STRICT)) == expected


def test_seeds_become_a_mean_and_a_spread_and_a_failure_a_dash() -> None:
    cells = [
        cell("a", 20.0, seed=0),
        cell("a", 22.0, seed=1),
        CellResult("b", 6, seed=0, reason="no weights\nmore"),
        CellResult("b", 6, seed=1, reason="no weights"),
    ]
    tables = layout("I", cells, STRICT)[:1]
    expected = """\
## Scores under hungarian_strict, percent, mean ± standard deviation over 2 seeds

| scheme | mIoU (hungarian_strict) | accuracy (hungarian_strict) | mean F1 (hungarian_strict) |
| ------ | ----------------------: | --------------------------: | -------------------------: |
| a      |            21.00 ± 1.41 |                51.00 ± 1.41 |               31.00 ± 1.41 |
| b      |                       – |                           – |                          – |
"""
    assert to_markdown(tables) == expected
    notes = notes_of(cells, tables)
    assert notes[0].startswith("hungarian_strict: One cluster for one class")
    assert notes[1].startswith("Coverage is the share")
    assert notes[2:] == [
        "failed: best, b, pool, K = 6, seed 0: no weights",
        "failed: best, b, pool, K = 6, seed 1: no weights",
    ]
    assert to_markdown([], notes[2:3]) == "- failed: best, b, pool, K = 6, seed 0: no weights\n"


def test_segments_are_few_valid_ones_first_and_without_k() -> None:
    cells = [
        cell("a", 1, n_valid=300),
        cell("a", 2, n_valid=300, k=7),
        CellResult("b", 6, reason="too few segments"),
        cell("b", 3, n_valid=200, k=7),
        CellResult("c", 6, reason="no weights"),
    ]
    [table] = layout("II", cells)
    assert [row[0] for row in table.rows] == ["b", "a", "c"]
    assert [column.head[0] for column in table.columns] == [
        "scheme",
        "segments",
        "% valid segments",
        "% valid patches",
        "% coverage",
    ]


def test_table_three_has_both_in_one() -> None:
    [table] = layout("III", [cell("a", 20.0)])
    assert len(table.columns) == 1 + 6 + 4
    assert not any(table.bold(0, column) for column in range(11))  # nothing to be better than


def test_table_six_has_embedders_side_by_side_and_bold_within_the_row() -> None:
    cells = [
        cell("a", 23.0, embedder="ViT"),
        cell("a", 19.0, embedder="CNN"),
        cell("b", 17.0, embedder="ViT"),
        cell("b", 20.0, embedder="CNN"),
    ]
    tables = layout("VI", cells)
    assert [table.key for table in tables] == [
        "embedders_hungarian_strict",
        "embedders_hungarian_covered",
    ]
    lines = to_markdown(tables[:1]).splitlines()
    assert lines[2].split(" | ")[:3] == [
        "| scheme",
        "mIoU, ViT (hungarian_strict)",
        "mIoU, CNN (hungarian_strict)",
    ]
    assert [one.strip() for one in lines[4].split("|")[1:4]] == ["a", "**23.00**", "19.00"]
    assert [one.strip() for one in lines[5].split("|")[1:4]] == ["b", "17.00", "**20.00**"]


def test_table_seven_is_led_by_k() -> None:
    cells = [cell("a", 20.0 + k, k=k) for k in (6, 7)]
    table = layout("VII", cells)[0]
    assert [row[0] for row in table.rows] == [6, 7]
    assert {column.head[0] for column in table.columns[1:]} == {
        "hungarian_strict",
        "hungarian_covered",
        "hungarian_legacy",
    }
    both = [cell("b", 1.0), *cells]
    assert [column.head[-1] for column in layout("VII", both)[0].columns[:2]] == ["scheme", "K"]


def test_full_is_every_rule_and_whatever_varies() -> None:
    cells = [cell("a", 20.0), cell("a", 21.0, preset="paper")]
    tables = layout("full", cells)
    assert [table.key for table in tables] == [
        "scores_hungarian_strict",
        "scores_hungarian_covered",
        "scores_hungarian_legacy",
        "scores_majority",
        "scores_merge_nearest",
        "segments",
    ]
    assert [column.head[-1] for column in tables[0].columns[:3]] == ["preset", "scheme", "K"]


def test_markdown_shows_labels_as_they_are() -> None:
    text = to_markdown(layout("II", [cell("a|b *c* <d>", 1.0)]))
    assert "| a\\|b \\*c\\* &lt;d> |" in text


# --- LaTeX --------------------------------------------------------------------------------------


def test_latex_to_the_letter() -> None:
    cells = [cell("DINO_S/8", 20.0, seed=seed) for seed in (0, 1)]
    cells.append(cell("50% & more", 10.0))
    cells.append(cell("50% & more", 11.0, seed=1))
    expected = r"""% needs \usepackage{booktabs}

\begin{table}
\centering
\caption{Scores, percent, mean $\pm$ standard deviation over 2 seeds}
\label{tab:scores}
\begin{tabular}{lrrrrrr}
\toprule
 & \multicolumn{3}{c}{hungarian\_strict} & \multicolumn{3}{c}{hungarian\_covered} \\
\cmidrule(lr){2-4} \cmidrule(lr){5-7}
scheme & mIoU & accuracy & mean F1 & mIoU & accuracy & mean F1 \\
\midrule
DINO\_S/8 & \textbf{20.00 $\pm$ 0.00} & \textbf{50.00 $\pm$ 0.00} & \textbf{30.00 $\pm$ 0.00} & \textbf{21.00 $\pm$ 0.00} & \textbf{51.00 $\pm$ 0.00} & \textbf{31.00 $\pm$ 0.00} \\
50\% \& more & 10.50 $\pm$ 0.71 & 40.50 $\pm$ 0.71 & 20.50 $\pm$ 0.71 & 11.50 $\pm$ 0.71 & 41.50 $\pm$ 0.71 & 21.50 $\pm$ 0.71 \\
\bottomrule
\end{tabular}
\end{table}
"""  # noqa: E501 - a row is as long as it is
    assert to_latex(layout("I", cells)[:1]) == expected


def test_latex_heads_of_three_levels() -> None:
    cells = [cell("a", 23.0, embedder="ViT"), cell("a", 19.0, embedder="CNN")]
    lines = to_latex(layout("VI", cells, STRICT)).splitlines()
    assert lines[8:13] == [
        r" & \multicolumn{6}{c}{hungarian\_strict} \\",
        r"\cmidrule(lr){2-7}",
        r" & \multicolumn{2}{c}{mIoU} & \multicolumn{2}{c}{accuracy} "
        r"& \multicolumn{2}{c}{mean F1} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5} \cmidrule(lr){6-7}",
        r"scheme & ViT & CNN & ViT & CNN & ViT & CNN \\",
    ]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b", r"a\_b"),
        ("50 % & $5 #1", r"50 \% \& \$5 \#1"),
        ("{x}\\y", r"\{x\}\textbackslash{}y"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("1 ± 2 – ×", r"1 $\pm$ 2 -- $\times$"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_escapes(text: str, latex: str) -> None:
    assert latex_text(text) == latex


# --- CSV ----------------------------------------------------------------------------------------


def test_csv_to_the_letter() -> None:
    cells = [
        cell('a, "b"', 20.0, seed=0),
        cell('a, "b"', 22.0, seed=1),
        CellResult("c", 6, reason="no"),
    ]
    assert to_csv(layout("I", cells, STRICT)[0]) == (
        "scheme,hungarian_strict mIoU,hungarian_strict mIoU sd,hungarian_strict accuracy,"
        "hungarian_strict accuracy sd,hungarian_strict mean F1,hungarian_strict mean F1 sd\n"
        '"a, ""b""",21,1.414213562,51,1.414213562,31,1.414213562\n'
        "c,,,,,,\n"
    )


def test_csv_of_one_seed_has_no_spread_and_whole_counts() -> None:
    [table] = layout("II", [cell("a", 20.0, n_segments=1_265_048, n_valid=3)])
    assert to_csv(table).splitlines() == [
        "scheme,segments,% valid segments,% valid patches,% coverage",
        "a,1265048,0.0002371451518,80,90",
    ]

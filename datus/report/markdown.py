"""report.md: the report in short, for a terminal or a repository page.

The name of the rule stands next to every score. File names can hold anything, so all text from
outside is escaped: it can neither break a table nor become markup.
"""

from collections.abc import Iterable, Sequence

import datus
from datus.report import drift as drift_tables
from datus.report import view
from datus.report.numbers import DASH, percent, short
from datus.report.records import KResult, ReportInputs
from datus.report.summary import HEADLINE, NO_TRUTH, RULES, ordered

MAX_FAILURES = 20
"""More are counted here and listed in report.json."""

_ESCAPES = str.maketrans({sign: f"\\{sign}" for sign in "\\`*[]|"} | {"<": "&lt;", "&": "&amp;"})


def to_markdown(inputs: ReportInputs) -> bytes:
    """The bytes of report.md, UTF-8."""
    parts = (
        [f"# {plain(inputs.title)}", ""],
        _headline(inputs),
        _warnings(inputs),
        [plain(inputs.better_backbone), ""] if inputs.better_backbone else [],
        _rules(inputs.main),
        _baselines(inputs),
        _classes(inputs),
        _sweep(inputs),
        _denoised(inputs),
        _drift(inputs),
        _numbers(inputs),
        _failures(inputs),
    )
    lines = [line for part in parts for line in part]
    return ("\n".join(lines).rstrip() + "\n").encode("utf-8", "backslashreplace")


def plain(text: str) -> str:
    """One line that shows as it is written."""
    return " ".join(text.split()).translate(_ESCAPES)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column is left-aligned, the others are right-aligned figures."""
    written = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*written, strict=True)]
    lines = []
    for cells in written:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append(f"| {' | '.join([first, *others])} |")
    first_rule, *rules = ("-" * max(width - bool(n), 2) for n, width in enumerate(widths))
    lines.insert(1, f"| {' | '.join([first_rule, *(f'{rule}:' for rule in rules)])} |")
    return [*lines, ""]


def _headline(inputs: ReportInputs) -> list[str]:
    main, scores = inputs.main, inputs.main.scores.get(HEADLINE)
    images = f"{inputs.n_images:,} image{'s' if inputs.n_images != 1 else ''}"
    facts = (
        f"{images}, {main.n_clusters} clusters, {main.coverage:.1f} % of all pixels labelled. "
        f"Preset `{inputs.preset}`, DatUS {datus.__version__}."
    )
    verdict = []
    if main.verdict is not None:
        reasons = plain("; ".join(main.verdict.reasons))
        verdict = [f"**Verdict: {main.verdict.word}**: {reasons}.", ""]
    if scores is None:
        return [*verdict, NO_TRUTH, "", facts, ""]
    return [
        *verdict,
        f"**{HEADLINE}: {scores.miou:.1f} % mIoU**, {scores.accuracy:.1f} % accuracy, "
        f"{scores.f1:.1f} % mean F1.",
        "",
        facts,
        "",
    ]


def _warnings(inputs: ReportInputs) -> list[str]:
    if not inputs.warnings:
        return []
    return ["## Warnings", "", *(f"- {plain(text)}" for text in inputs.warnings), ""]


def _rules(main: KResult) -> list[str]:
    if not main.scores:
        return []
    rows = [
        (rule, *(percent(getattr(scores, key)) for _, key in view.FIGURES))
        for rule, scores in ordered(main.scores)
    ]
    return [
        "## Scores, percent",
        "",
        *table(("rule", "mIoU", "accuracy", "mean F1", "coverage"), rows),
        *(f"- {rule}: {RULES[rule]}" for rule, _ in ordered(main.scores) if rule in RULES),
        "",
        "Coverage is the share of the pixels with a known true class that got a label.",
        "",
    ]


def _baselines(inputs: ReportInputs) -> list[str]:
    baselines = inputs.baselines
    if baselines is None:
        return []
    head, rows = view.baseline_table(baselines)
    note = view.baseline_note(baselines)
    return ["## Beside k-means on colour", "", *table(head, rows), note, ""]


def _classes(inputs: ReportInputs) -> list[str]:
    rows = [
        (
            plain(row.name),
            DASH if row.cluster is None else str(row.cluster),
            *(percent(value) for value in (row.iou, row.precision, row.recall, row.f1)),
            f"{row.share:.1f}",
        )
        for row in view.View(inputs).classes
    ]
    if not rows:
        return []
    head = ("class", "cluster", "IoU", "precision", "recall", "F1", "share of pixels")
    note = ["– = the class is not in the truth, or no cluster is matched to it.", ""]
    dashes = any(DASH in row for row in rows)
    return [f"## Classes under {HEADLINE}, percent", "", *table(head, rows), *(note * dashes)]


def _sweep(inputs: ReportInputs) -> list[str]:
    if len(inputs.sweep) < 2:
        return []
    sweep = sorted(inputs.sweep, key=lambda result: result.k)
    rules = view.sweep_rules(inputs)
    rows = [
        (
            str(result.k),
            *(percent(result.scores[r].miou if r in result.scores else None) for r in rules),
            percent(result.coverage),
            short(result.inertia / max(result.n_trained, 1)),
        )
        for result in sweep
    ]
    head = ["K", *(f"mIoU {rule}" for rule in rules), "% labelled", "mean squared distance"]
    if inputs.main.verdict is not None:
        head.append("verdict")
        words = [result.verdict.word if result.verdict else DASH for result in sweep]
        rows = [(*row, word) for row, word in zip(rows, words, strict=True)]
    return ["## Number of clusters", "", *table(head, rows)]


def _denoised(inputs: ReportInputs) -> list[str]:
    """The masks before and after, under every rule."""
    denoised = inputs.main.denoised
    if denoised is None:
        return []
    learnt = f"A model learnt {denoised.n_trained:,} of the masks and drew them all again"
    if denoised.n_dropped:
        learnt += f"; {denoised.n_dropped:,} were left out as nearly all one cluster"
    first, last = short(denoised.curve[0]), short(denoised.curve[-1])
    pixels = (
        f"{inputs.main.coverage:.1f} % of all pixels were labelled before, "
        f"{denoised.coverage:.1f} % are after. Mean loss {first} in the first "
        f"epoch, {last} in the last."
    )
    names = [f"{name} {when}" for name, _ in view.FIGURES for when in ("before", "after")]
    figures = [(rule, *map(percent, values)) for rule, values in view.denoised_rows(inputs)]
    scores = table(("rule", *names), figures) if figures else []
    return ["## De-noised masks", "", f"{learnt}. {pixels}", "", *scores]


def _drift(inputs: ReportInputs) -> list[str]:
    """New images against the run that the clusters were taken from."""
    drift = inputs.drift
    if drift is None:
        return []
    lines = ["## Drift", "", drift_tables.sentence(drift), ""]
    if not drift.n_segments:
        return lines
    per_cluster = table(drift_tables.CLUSTER_HEAD, drift_tables.cluster_rows(drift))
    return [*lines, *table(drift_tables.HEAD, drift_tables.rows(drift)), *per_cluster]


def _numbers(inputs: ReportInputs) -> list[str]:
    rows = [
        (
            plain(name),
            *(
                short(getattr(figure, key))
                for key in ("minimum", "q25", "median", "q75", "maximum")
            ),
            f"{figure.n:,}",
        )
        for name, _, figure, _ in view.boxes(inputs)
    ]
    if not rows:
        return []
    head = ("figure", "min", "25 %", "median", "75 %", "max", "images")
    return ["## Over the images", "", *table(head, rows)]


QUANTILES = ("minimum", "q25", "median", "q75", "maximum")


def _failures(inputs: ReportInputs) -> list[str]:
    failures = inputs.failures
    if not failures:
        return []
    more = len(failures) - MAX_FAILURES
    return [
        f"## Failures: {len(failures):,}",
        "",
        *(f"- {plain(s)}: {plain(i)}: {plain(why)}" for s, i, why in failures[:MAX_FAILURES]),
        *([f"- and {more:,} more, all in report.json"] if more > 0 else []),
        "",
    ]

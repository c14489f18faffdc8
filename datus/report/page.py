"""report.html, one file to look at, and report.md, the same in short; both from one set of figures.

The page has no script and asks for nothing; it is light and dark, and printable. It is drawn by
`page.html.j2` with autoescape on, so image ids, class names and settings are only ever text; a
content security policy forbids scripts and requests on top of that. `report.md.j2` escapes what
comes from outside with `markdown.plain`. The name of the rule stands next to every score.
"""

import functools
import json
from collections import Counter
from typing import Any

import jinja2

import datus
from datus.report import drift as drift_tables
from datus.report import view as tables
from datus.report.markdown import aligned, plain
from datus.report.numbers import percent, short
from datus.report.records import ReportInputs
from datus.report.summary import DEFINITIONS, HEADLINE, NO_TRUTH, RULES, ordered, portable

MAX_FAILURES = 50
"""More are counted on the page and listed in report.json."""
MAX_OPEN_CLUSTERS = 48
"""The rest is folded: a page of 255 galleries is no use at first sight."""
MAX_LEGEND = 32

VERDICT_CLASSES = {"no objection": "fine", "look closely": "doubt", "do not trust this": "bad"}
"""Word -> class of the style sheet."""


def rendered(inputs: ReportInputs) -> dict[str, bytes]:
    """ "report.md" and "report.html", UTF-8."""
    context = _context(inputs)
    markdown = _environment(autoescape=False).get_template("report.md.j2").render(context)
    page = _environment(autoescape=True).get_template("page.html.j2").render(context)
    texts = {"report.md": markdown.rstrip() + "\n", "report.html": page}
    return {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}


def _context(inputs: ReportInputs) -> dict[str, Any]:
    view, main = tables.View(inputs), inputs.main
    baselines, drift = inputs.baselines, inputs.drift
    return {
        "version": datus.__version__,
        "inputs": inputs,
        "main": main,
        "headline": HEADLINE,
        "verdict_class": main.verdict and VERDICT_CLASSES[main.verdict.word],
        "scores": view.scores,
        "rules": [(rule, RULES.get(rule, ""), one) for rule, one in ordered(main.scores)],
        "no_truth": NO_TRUTH,
        "definitions": DEFINITIONS,
        "denoised": main.denoised,
        "denoised_rows": tables.denoised_rows(inputs),
        "denoised_figures": tables.FIGURES,
        "panels": view.panels(),
        "baseline_strips": view.baseline_strips(),
        "baseline_table": baselines and tables.baseline_table(baselines),
        "baseline_note": baselines and tables.baseline_note(baselines),
        "classes": view.classes,
        "clusters": view.largest_first(),
        "confusion": view.confusion_rows(),
        "sweep_rules": tables.sweep_rules(inputs),
        "charts": tables.charts(inputs),
        "confidence_charts": tables.confidence_charts(main),
        "confidence_rows": tables.confidence_rows(main),
        "sweep": sorted(inputs.sweep, key=lambda result: result.k),
        "boxes": tables.boxes(inputs),
        "drift": drift,
        "drift_sentence": drift and drift_tables.sentence(drift),
        "drift_head": drift_tables.HEAD,
        "drift_rows": drift and drift_tables.rows(drift),
        "drift_cluster_head": drift_tables.CLUSTER_HEAD,
        "drift_clusters": drift and drift_tables.cluster_rows(drift),
        "drift_charts": drift and drift_tables.charts(drift),
        "failures": inputs.failures[:MAX_FAILURES],
        "n_failures": len(inputs.failures),
        "n_failed": len({image_id for _, image_id, _ in inputs.failures}),
        "failed_stages": Counter(stage for stage, _, _ in inputs.failures),
        "settings": portable(inputs.settings),
        "provenance": portable(inputs.provenance),
        "max_open": MAX_OPEN_CLUSTERS,
        "max_legend": MAX_LEGEND,
    }


@functools.cache
def _environment(autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("datus.report", ""),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    count = "{:,}".format
    environment.filters |= {"percent": percent, "count": count, "short": short}
    environment.filters |= {"plain": plain, "aligned": aligned}
    environment.filters["sentence"] = lambda text: f"{text[:1].upper()}{text[1:]}."
    environment.filters["tojson_plain"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment

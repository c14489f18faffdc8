"""The report: complete in JSON, short in Markdown, text from outside is only ever text."""

import dataclasses
import json
import re

import numpy as np
import pytest
from report_cases import N_CLASSES, Page, classes_of, inputs_of, summary

from datus.method.metrics import RULES
from datus.report import build_report
from datus.report.markdown import plain
from datus.report.page import MAX_FAILURES, MAX_LEGEND, MAX_OPEN_CLUSTERS
from datus.report.records import Distribution, GalleryItem, KResult, ReportInputs
from datus.report.summary import RULES as DESCRIBED
from datus.report.summary import portable
from datus.types import Verdict

HOSTILE = (
    "a/<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x|y`z*[l](u)\n# h",
    "</style><svg/onload=1>",
    "{{ 7 * 7 }} 日本 é \u202e",
)
# --- report.json --------------------------------------------------------------------------------


def test_json_holds_everything_a_program_asks_for() -> None:
    found = summary(inputs_of(5, (2, 7)))
    assert set(found) == {
        *("classes", "clusters", "coverage", "datus", "definitions", "failures", "headline"),
        *("n_images", "numbers", "preset", "provenance", "rules", "scores", "scores_note"),
        *("settings", "sweep", "title", "verdict", "warnings", "better_backbone", "baselines"),
    }
    assert found["clusters"] == 5
    assert found["n_images"] == 3
    assert found["headline"] == "hungarian_strict"
    assert found["failures"] == [
        {"stage": "features", "image_id": "dir/9", "reason": "cannot read JPEG"}
    ]
    assert found["numbers"] == {
        "graphs": {
            "density": {
                "n": 3,
                "mean": 0.533333,
                "min": 0.4,
                "q25": 0.45,
                "median": 0.5,
                "q75": 0.6,
                "max": 0.7,
            }
        }
    }


def test_json_scores_stand_under_the_exact_names_of_the_rules() -> None:
    inputs = inputs_of()
    found = summary(inputs)["scores"]
    assert isinstance(found, dict)
    assert set(found) == {
        *("hungarian_strict", "hungarian_covered", "hungarian_legacy"),
        *("majority", "merge_nearest"),
    }
    for rule, scores in inputs.main.scores.items():
        for key in ("miou", "accuracy", "f1", "coverage"):
            assert found[rule][key] == round(getattr(scores, key), 4)
        assert found[rule]["match"] == scores.match.tolist()


def test_every_rule_is_described() -> None:
    assert tuple(DESCRIBED) == RULES


def test_json_sweep_has_the_counts_of_each_k() -> None:
    inputs = inputs_of(4, (2,))
    sweep = summary(inputs)["sweep"]
    assert isinstance(sweep, list)
    assert [one["k"] for one in sweep] == [4, 2]
    for one, result in zip(sweep, inputs.sweep, strict=True):
        assert result.confusion is not None
        assert one["confusion"] == result.confusion.counts.tolist()
        assert one["cluster_pixels"] == result.cluster_pixels.tolist()
        assert one["inertia"] == float(f"{1234.5 / result.k:.6g}")
        assert one["n_trained"] == 500


def test_json_keys_are_sorted() -> None:
    raw = build_report(inputs_of())["report.json"].decode()
    again = json.dumps(json.loads(raw), sort_keys=True, indent=1, ensure_ascii=False)
    assert raw == again + "\n"


def test_coverage_counts_all_pixels() -> None:
    result = KResult(2, np.array([3, 4, 1], np.int64), 0.0, 7, "x")
    assert result.coverage == 87.5
    assert KResult(1, np.zeros(2, np.int64), 0.0, 0, "x").coverage == 0.0


def test_absent_class_is_null_and_a_dash_never_nan() -> None:
    inputs = inputs_of()
    files = build_report(inputs)
    scores = summary(inputs)["scores"]
    assert isinstance(scores, dict)
    assert scores["hungarian_strict"]["iou"][2] is None
    for text in (files["report.json"].decode(), files["report.md"].decode()):
        assert not re.search(r"\bnan\b", text.lower())
    assert not re.search(r"\bnan\b", Page(files["report.html"]).text.lower())
    (fish,) = (line for line in files["report.md"].decode().splitlines() if line[:6] == "| fish")
    assert [cell.strip() for cell in fish.split("|")[3:7]] == ["–"] * 4


def test_settings_lose_absolute_paths_only() -> None:
    given_settings = {
        "a": "/home/someone/photos",
        "b": "C:\\data\\photos",
        "c": "photos/2024",
        "d": ["/x/y.pth", 1, None, True, 1e-5],
        "e": "s3://bucket/run",
        "f": float("inf"),
    }
    assert portable(given_settings) == {
        "a": "photos",
        "b": "photos",
        "c": "photos/2024",
        "d": ["y.pth", 1, None, True, 1e-5],
        "e": "s3://bucket/run",
        "f": "inf",
    }
    for content in build_report(inputs_of()).values():
        assert b"someone" not in content


# --- all three ----------------------------------------------------------------------------------


def test_same_inputs_give_the_same_bytes() -> None:
    assert build_report(inputs_of(5, (2, 7))) == build_report(inputs_of(5, (2, 7)))


def test_without_truth_nothing_is_scored_and_the_report_says_so() -> None:
    inputs = inputs_of(4, (2,), truth=False)
    files, found = build_report(inputs), summary(inputs)
    said = "No true masks were given, so there is nothing to score against."
    assert found["scores"] == {}
    assert found["scores_note"] == said
    assert found["headline"] is None
    assert said in files["report.md"].decode()
    page = Page(files["report.html"])
    assert said in page.text
    assert "mIoU" not in page.text
    assert not page.ids() & {"scores", "classes", "confusion"}
    assert {"examples", "clusters", "k"} <= page.ids()


@pytest.mark.parametrize("k", [1, 255])
@pytest.mark.parametrize("truth", [True, False])
def test_one_cluster_and_the_most_clusters(k: int, truth: bool) -> None:
    inputs = inputs_of(k, truth=truth)
    page = Page(build_report(inputs)["report.html"])
    assert len([one for one in page.all("article") if one.get("class") == "cluster"]) == k
    more = max(k - MAX_OPEN_CLUSTERS, 0)
    assert (f"{more} smaller clusters" in page.text) == (more > 0)
    assert (f"and {k - MAX_LEGEND} smaller clusters" in page.text) == (k > MAX_LEGEND)


def test_a_bare_run_makes_a_report() -> None:
    bare = KResult(2, np.zeros(3, np.int64), 0.0, 0, "faiss-cpu 1.12.0")
    files = build_report(ReportInputs("empty", "best", 0, (bare,)))
    page = Page(files["report.html"])
    assert not page.all("img")
    assert page.ids() & {"examples", "clusters", "numbers", "failures"} == {"clusters"}
    assert files["report.md"].startswith(b"# empty\n")


def test_many_failures_are_cut_on_the_page_and_complete_in_json() -> None:
    failures = tuple(("features", f"broken-{n:04d}", "truncated") for n in range(1234))
    inputs = dataclasses.replace(inputs_of(), failures=failures)
    files = build_report(inputs)
    listed = summary(inputs)["failures"]
    assert isinstance(listed, list)
    assert len(listed) == 1234
    text = Page(files["report.html"]).text
    assert len(set(re.findall(r"broken-\d+", text))) == MAX_FAILURES
    assert "The first 50 of 1,234 are shown; report.json lists all." in text
    markdown = files["report.md"].decode()
    assert len(set(re.findall(r"broken-\d+", markdown))) == 20
    assert "- and 1,214 more, all in report.json" in markdown


def judged(truth: bool, *verdicts: Verdict) -> ReportInputs:
    """A sweep with a verdict on each K."""
    inputs = inputs_of(5, tuple(range(6, 5 + len(verdicts))), truth)
    figures = {"mirror": 0.123456789, "crop": 0.5, "place": 0.25, "uniform": 0.0}
    sweep = tuple(
        dataclasses.replace(one, verdict=verdict, consistency=figures)
        for one, verdict in zip(inputs.sweep, verdicts, strict=True)
    )
    return dataclasses.replace(inputs, sweep=sweep)


FINE = Verdict("no objection", ("labels stay",))
BAD = Verdict("do not trust this", ("labels <b>move</b>", "weights *are* random"))


def test_json_has_a_verdict_for_each_k_and_that_of_the_first_at_the_top() -> None:
    found = summary(judged(True, BAD, FINE))
    figures = {"mirror": 0.123457, "crop": 0.5, "place": 0.25, "uniform": 0.0}
    assert found["verdict"] == {"word": BAD.word, "reasons": [*BAD.reasons], "figures": figures}
    assert isinstance(found["sweep"], list)
    assert [row["verdict"]["word"] for row in found["sweep"]] == [BAD.word, FINE.word]
    assert found["sweep"][1]["verdict"]["reasons"] == ["labels stay"]
    assert isinstance(found["definitions"], dict)
    for name in figures:
        assert f"({name})" in found["definitions"]["verdict"]
    assert summary(inputs_of())["verdict"] is None, "where nobody looked"


def test_a_sweep_shows_the_verdict_of_each_k() -> None:
    files = build_report(judged(False, BAD, FINE))
    table = files["report.md"].decode().split("## Number of clusters")[1].split("##")[0]
    head, _, *rows = [row.split("|")[-2].strip() for row in table.splitlines() if "|" in row]
    assert [head, *rows] == ["verdict", BAD.word, FINE.word]
    text = " ".join(Page(files["report.html"]).text.split()).split("Number of clusters")[-1]
    assert text.index(BAD.word) < text.index(FINE.word)


@pytest.mark.parametrize("truth", [True, False])
def test_the_verdict_and_its_reasons_are_read_first(truth: bool) -> None:
    for verdict in (BAD, FINE, Verdict("look closely", ("one label each",))):
        files = build_report(judged(truth, verdict))
        markdown = files["report.md"].decode()
        assert markdown.splitlines()[2].startswith(f"**Verdict: {verdict.word}**: ")
        text = " ".join(Page(files["report.html"]).text.split())
        sentences = " ".join(f"{one[0].upper()}{one[1:]}." for one in verdict.reasons)
        assert f"Verdict: {verdict.word}. {sentences}" in text
        assert ("verdict without true masks" in text) is not truth
        assert ("Pixels with a label" in text) is not truth
    assert "Verdict" not in build_report(inputs_of())["report.md"].decode()
    assert "Verdict" not in Page(build_report(inputs_of())["report.html"]).text


def test_the_rule_stands_beside_the_headline() -> None:
    inputs = inputs_of()
    scores = inputs.main.scores["hungarian_strict"]
    files = build_report(inputs)
    assert f"**hungarian_strict: {scores.miou:.1f} % mIoU**" in files["report.md"].decode()
    text = " ".join(Page(files["report.html"]).text.split())
    assert f"mIoU, hungarian_strict {scores.miou:.1f}%" in text
    for sentence in DESCRIBED.values():
        assert sentence in text


def test_a_better_backbone_is_named_in_all_three_files() -> None:
    text = "for better masks add --backbone vit_small_patch8_224.dino to the same command"
    files = build_report(dataclasses.replace(inputs_of(), better_backbone=text))
    assert json.loads(files["report.json"])["better_backbone"] == text
    assert text in files["report.md"].decode().splitlines()
    assert text in " ".join(Page(files["report.html"]).text.split())
    assert "better masks" not in build_report(inputs_of())["report.html"].decode()


# --- hostile names ------------------------------------------------------------------------------


def hostile_inputs() -> ReportInputs:
    base = inputs_of(5)
    return dataclasses.replace(
        base,
        title=HOSTILE[0],
        warnings=HOSTILE,
        failures=tuple((name, name, name) for name in HOSTILE),
        settings={name: {name: name} for name in HOSTILE},
        provenance={name: name for name in HOSTILE},
        numbers={name: {name: Distribution.of([1.0])} for name in HOSTILE},
        classes=classes_of(HOSTILE[:N_CLASSES]),
        examples=tuple(dataclasses.replace(base.examples[0], image_id=name) for name in HOSTILE),
        gallery=tuple((GalleryItem(name, base.examples[0].image, 0.5),) for name in HOSTILE),
    )


def test_hostile_names_are_text_on_the_page() -> None:
    page, harmless = (
        Page(build_report(one)["report.html"]) for one in (hostile_inputs(), inputs_of(5, (2,)))
    )
    allowed = {name for name, _ in harmless.tags}
    assert {name for name, _ in page.tags} <= allowed
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    for name in HOSTILE:
        assert name in page.text
        assert any(name in (image["alt"] or "") for image in page.all("img"))


def test_hostile_names_cannot_break_a_markdown_table() -> None:
    lines = build_report(hostile_inputs())["report.md"].decode().splitlines()
    assert sum(line.startswith("#") for line in lines) == 6
    start = next(n for n, line in enumerate(lines) if line.startswith("| class"))
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines[start : start + 5]}
    assert columns == {8}
    assert plain("a|b\n<c> *d* `e` [f](g) & \\h") == (
        "a\\|b &lt;c> \\*d\\* \\`e\\` \\[f\\](g) &amp; \\\\h"
    )


def test_a_file_name_that_is_not_unicode_is_written_as_an_escape() -> None:
    inputs = dataclasses.replace(inputs_of(), failures=(("index", "a\udcff", "odd name"),))
    files = build_report(inputs)
    for content in files.values():
        assert "a\\udcff" in content.decode("utf-8")
    listed = summary(inputs)["failures"]
    assert isinstance(listed, list)
    assert listed[0]["image_id"] == "a\udcff"

"""The report: complete in JSON, safe and self-contained in HTML, the same bytes every time."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datus.masks import PALETTE
from datus.metrics import RULES, add, count_pixels, score_all
from datus.records import ClassTable, Confusion
from datus.report import (
    Distribution,
    Example,
    GalleryItem,
    KResult,
    ReportInputs,
    build_report,
    view,
)
from datus.report.figures import box, chart, scale_of, short
from datus.report.markdown import plain
from datus.report.page import MAX_FAILURES, MAX_LEGEND, MAX_OPEN_CLUSTERS
from datus.report.pictures import class_colours, cluster_colours, layer, photo, small_size
from datus.report.summary import RULES as DESCRIBED
from datus.report.summary import portable

HOSTILE = (
    "a/<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x|y`z*[l](u)\n# h",
    "</style><svg/onload=1>",
    "{{ 7 * 7 }} 日本 é \u202e",
)
N_CLASSES = 3


def classes_of(names: tuple[str, ...] = ("sea", "rock", "fish")) -> ClassTable:
    lookup = np.full(256, 255, np.uint8)
    lookup[: len(names)] = np.arange(len(names))
    colours = tuple((10 * n + 5, 200 - 10 * n, 90) for n in range(len(names)))
    return ClassTable("test", names, colours, lookup, lookup < 255)


def example_of(image_id: str, k: int, seed: int, size: tuple[int, int] = (40, 60)) -> Example:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, k + 1, size).astype(np.uint8)
    mask[mask == k] = 255
    truth = rng.integers(0, 2, size).astype(np.uint8)  # class 2 is never there
    truth[:3] = 255
    return Example(image_id, rng.integers(0, 256, (*size, 3)).astype(np.uint8), mask, truth)


def result_of(k: int, examples: tuple[Example, ...], centroids: bool = True) -> KResult:
    masks = [np.where(one.mask < k, one.mask, 255).astype(np.uint8) for one in examples]
    pixels = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)
    truths = [one.truth for one in examples if one.truth is not None]
    confusion = scores = None
    if truths:
        pairs = zip(masks, truths, strict=True)
        confusion = add(count_pixels(mask, truth, k, N_CLASSES) for mask, truth in pairs)
        points = np.random.default_rng(k).normal(size=(k, 4)).astype(np.float32)
        scores = score_all(confusion, points if centroids else None)
    counts = np.r_[pixels[:k], pixels[255:]].astype(np.int64)
    return KResult(k, counts, 1234.5 / k, 500, "faiss-cpu 1.12.0", confusion, scores or {})


def inputs_of(k: int = 5, sweep: tuple[int, ...] = (), truth: bool = True) -> ReportInputs:
    examples = tuple(example_of(f"dir/{n}", k, n) for n in range(3))
    if not truth:
        examples = tuple(dataclasses.replace(one, truth=None) for one in examples)
    rng = np.random.default_rng(9)
    pictures = [rng.integers(0, 256, (30, 200, 3)).astype(np.uint8) for _ in range(2)]
    return ReportInputs(
        title="suim & co",
        preset="best",
        n_images=3,
        sweep=tuple(result_of(one, examples) for one in (k, *sweep)),
        settings={"clusters": {"k": [k], "pca": 0}, "data": {"images": "/home/someone/photos"}},
        provenance={"torch": "2.4.0", "weights": "sha256:00ff"},
        failures=(("features", "dir/9", "cannot read JPEG"),),
        warnings=("1 of 3 graphs is degenerate",),
        numbers={"graphs": {"density": Distribution.of([0.4, 0.5, 0.7])}},
        classes=classes_of() if truth else None,
        examples=examples,
        gallery=tuple(
            tuple(GalleryItem("dir/0", picture, 0.25) for picture in pictures) for _ in range(k)
        ),
    )


class Page(HTMLParser):
    """What a reader of the page gets: its text, its pictures, its tags."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._in_style else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


def decoded(uri: str | None) -> Image.Image:
    assert uri is not None
    head, _, body = uri.partition(";base64,")
    assert head in ("data:image/jpeg", "data:image/png")
    image = Image.open(io.BytesIO(base64.b64decode(body, validate=True)))
    image.load()
    return image


def summary(inputs: ReportInputs) -> dict[str, object]:
    found = json.loads(
        build_report(inputs)["report.json"], parse_constant=lambda word: pytest.fail(word)
    )
    assert isinstance(found, dict)
    return found


# --- report.json --------------------------------------------------------------------------------


def test_json_holds_everything_a_program_asks_for() -> None:
    found = summary(inputs_of(5, (2, 7)))
    assert set(found) == {
        *("classes", "clusters", "coverage", "datus", "definitions", "failures", "headline"),
        *("n_images", "numbers", "preset", "provenance", "rules", "scores", "scores_note"),
        *("settings", "sweep", "title", "warnings"),
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
                **{"n": 3, "mean": 0.533333, "min": 0.4, "q25": 0.45},
                **{"median": 0.5, "q75": 0.6, "max": 0.7},
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
        assert "nan" not in text.lower()
    assert "nan" not in Page(files["report.html"]).text.lower()
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


def test_the_rule_stands_beside_the_headline() -> None:
    inputs = inputs_of()
    scores = inputs.main.scores["hungarian_strict"]
    files = build_report(inputs)
    assert f"**hungarian_strict: {scores.miou:.1f} % mIoU**" in files["report.md"].decode()
    text = " ".join(Page(files["report.html"]).text.split())
    assert f"mIoU, hungarian_strict {scores.miou:.1f}%" in text
    for sentence in DESCRIBED.values():
        assert sentence in text


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


# --- the page -----------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_from_outside_and_runs_nothing() -> None:
    raw = build_report(inputs_of(5, (2, 7)))["report.html"].decode()
    page = Page(raw.encode())
    assert not page.all("script")
    assert not page.all("link")
    assert "http://" not in raw
    assert "https://" not in raw
    assert not re.search(r"url\((?!data:image/jpeg;base64,)", raw)
    (policy,) = (one for one in page.all("meta") if "http-equiv" in one)
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:")
    for anchor in page.all("a"):
        assert (anchor["href"] or "").removeprefix("#") in page.ids()


@pytest.mark.parametrize("truth", [True, False])
def test_every_picture_is_inside_small_and_described(truth: bool) -> None:
    page = Page(build_report(inputs_of(5, truth=truth))["report.html"])
    images = page.all("img")
    assert len(images) == 3 * (3 if truth else 2) + 5 * 2
    for attributes in images:
        picture = decoded(attributes["src"])
        assert picture.size == (int(attributes["width"] or 0), int(attributes["height"] or 0))
        assert max(picture.size) <= 112
        assert attributes["alt"]
    assert all(one.get("aria-label") for one in page.all("svg"))


def test_large_images_are_made_small() -> None:
    example = example_of("large", 5, 1, (700, 1000))
    page = Page(build_report(dataclasses.replace(inputs_of(5), examples=(example,)))["report.html"])
    sizes = [decoded(one["src"]).size for one in page.all("img")]
    assert sizes[:3] == [(320, 224)] * 3
    assert max(max(size) for size in sizes[3:]) <= 112


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 400))
def test_small_size_fits_and_never_enlarges(height: int, width: int, side: int) -> None:
    small_width, small_height = small_size(height, width, side)
    assert 1 <= small_width <= min(width, side)
    assert 1 <= small_height <= min(height, side)


def test_curves_are_drawn_for_several_k_only() -> None:
    one, several = (Page(build_report(inputs_of(4, ks))["report.html"]) for ks in ((), (2, 9)))
    assert not one.all("polyline")
    assert len(several.all("polyline")) == 2 * len(RULES) + 1
    assert "k" not in one.ids()
    assert "k" in several.ids()


def test_a_rule_that_some_k_lack_keeps_its_place_and_colour() -> None:
    base = inputs_of(5, (2,))
    sweep = (result_of(5, base.examples, centroids=False), *base.sweep[1:])
    inputs = dataclasses.replace(base, sweep=sweep)
    assert "merge_nearest" not in inputs.main.scores
    assert view.sweep_rules(inputs) == list(RULES)
    lines = [line for line in view.charts(inputs)[0].lines if line.name == "merge_nearest"]
    assert [len(line.points) for line in lines] == [1]
    page = Page(build_report(inputs)["report.html"])
    assert sum("r4" in (one["class"] or "") for one in page.all("polyline")) == 2


# --- colours and figures ------------------------------------------------------------------------


def test_matched_clusters_take_the_colour_of_their_class_and_others_stripes() -> None:
    classes = class_colours(classes_of(), 3)
    colours = cluster_colours(4, np.array([2, -1, 0, -1], np.int16), classes)
    assert colours.striped.tolist() == [False, True, False, True]
    assert colours.rgb.tolist() == [
        *(classes.rgb[2].tolist(), PALETTE[1].tolist()),
        *(classes.rgb[0].tolist(), PALETTE[3].tolist()),
    ]
    plain_colours = cluster_colours(4, None, None)
    assert not plain_colours.striped.any()
    assert plain_colours.rgb.tolist() == PALETTE[:4].tolist()


def test_a_layer_has_exact_colours_and_is_clear_where_nothing_is_known() -> None:
    labels = np.array([[0, 0, 1, 255], [2, 2, 1, 255], [2, 2, 1, 9]], np.uint8)
    colours = cluster_colours(3, np.array([0, 1, 2], np.int16), class_colours(classes_of(), 3))
    pixels = np.asarray(decoded(layer(labels, colours, 320)))
    assert pixels.shape == (3, 4, 4)
    for row, column in np.ndindex(3, 4):
        label = labels[row, column]
        want = [*classes_of().colours[label], 255] if label < 3 else None
        got = pixels[row, column].tolist()
        assert got == want if want else got[3] == 0


def test_an_unmatched_cluster_is_striped_in_its_own_colour() -> None:
    colours = cluster_colours(1, np.array([-1], np.int16), class_colours(classes_of(), 3))
    pixels = np.asarray(decoded(layer(np.zeros((32, 32), np.uint8), colours, 320)))
    white = (pixels[..., :3] == 255).all(-1)
    own = (pixels[..., :3] == PALETTE[0]).all(-1)
    assert (white | own).all()
    assert white.mean() == 0.25


def test_a_photo_keeps_its_look() -> None:
    image = np.zeros((200, 100, 3), np.uint8)
    image[100:] = (250, 30, 30)
    small = np.asarray(decoded(photo(image, 50))).astype(int)
    assert small.shape == (50, 25, 3)
    assert abs(small[40, 12] - (250, 30, 30)).max() < 8
    assert small[10, 12].max() < 8


def test_correct_share_of_an_example_counts_pixel_by_pixel() -> None:
    inputs = inputs_of(5)
    match = inputs.main.scores["hungarian_strict"].match
    for panel, example in zip(view.panels(inputs), inputs.examples, strict=True):
        hits = known = 0
        for row, column in np.ndindex(*example.mask.shape):
            assert example.truth is not None
            if example.truth[row, column] != 255:
                known += 1
                cluster = example.mask[row, column]
                hits += cluster != 255 and match[cluster] == example.truth[row, column]
        assert panel.correct == pytest.approx(100 * hits / known)
        assert panel.labelled == pytest.approx(100 * np.mean(example.mask != 255))


def test_confusion_rows_follow_the_classes_and_end_with_unlabelled() -> None:
    counts = np.array([[0, 9, 1], [5, 0, 5], [8, 1, 1], [0, 2, 6], [1, 1, 2]], np.int64)
    confusion = Confusion(counts)
    pixels = np.r_[counts[:-1].sum(1), 4].astype(np.int64)
    scores = score_all(confusion, np.eye(4, dtype=np.float32))
    main = KResult(4, pixels, 1.0, 9, "x", confusion, scores)
    inputs = ReportInputs("t", "best", 1, (main,), classes=classes_of())
    rows = view.confusion_rows(inputs, view.clusters(inputs))
    order = [None if row.cluster is None else row.cluster.number for row in rows]
    assert order == [2, 0, 3, 1, None]
    for row in rows:
        assert sum(cell.percent for cell in row.cells) == pytest.approx(100)
    assert [[cell.matched for cell in row.cells].count(True) for row in rows] == [1, 1, 1, 0, 0]
    assert sum(row.share for row in rows) == pytest.approx(100)


def test_distribution_is_what_numpy_says_and_skips_what_is_not_finite() -> None:
    values = np.random.default_rng(1).normal(size=101)
    found = Distribution.of([*values.tolist(), float("nan"), float("inf")])
    assert found.n == 101
    assert found.mean == pytest.approx(values.mean())
    assert [found.minimum, found.q25, found.median, found.q75, found.maximum] == pytest.approx(
        np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    )
    assert Distribution.of([]).n == 0


def test_figures_without_values_are_said_to_have_none() -> None:
    inputs = dataclasses.replace(inputs_of(), numbers={"graphs": {"density": Distribution.of([])}})
    files = build_report(inputs)
    assert "no values" in Page(files["report.html"]).text
    numbers = summary(inputs)["numbers"]
    assert isinstance(numbers, dict)
    assert numbers["graphs"]["density"]["mean"] is None


@given(st.floats(1e-9, 1e12))
def test_a_scale_has_few_round_steps_and_reaches_the_top(top: float) -> None:
    scale = scale_of(top)
    assert scale[0] == 0
    assert scale[-1] >= top * (1 - 1e-9)
    assert 3 <= len(scale) <= 6
    assert scale[-2] < top


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_a_box_plot_stays_in_its_frame_and_in_order(values: list[float]) -> None:
    one = box(Distribution.of(values))
    places = [one.minimum, one.q25, one.median, one.q75, one.maximum]
    assert places == sorted(places)
    assert min(places) >= 0
    assert max(places) <= 100


def test_a_chart_puts_zero_at_the_bottom_and_skips_what_is_not_defined() -> None:
    one = chart("t", {"a": {6: 0.0, 3: 40.0}, "b": {6: float("nan")}, "c": {5: 20.0}})
    assert [line.name for line in one.lines] == ["a", "c"]
    (three, six), (five,) = (line.points for line in one.lines)
    assert three.x < five.x < six.x
    assert three.y < five.y < six.y == one.bottom
    assert [tick.label for tick in one.x_ticks] == ["3", "5", "6"]
    assert one.lines[0].path == f"{three.x:.1f},{three.y:.1f} {six.x:.1f},{six.y:.1f}"


def test_labels_that_would_collide_are_dropped() -> None:
    ticks = chart("t", {"a": {k: 1.0 for k in range(2, 60)}}).x_ticks
    written = [tick for tick in ticks if tick.label]
    assert len(ticks) == 58
    assert [written[0].label, written[-1].label] == ["2", "59"]
    gaps = [right.at - left.at for left, right in zip(written, written[1:], strict=False)]
    assert min(gaps) >= 24


def test_short_numbers() -> None:
    values = (0.0, 0.4712, 12.34, 99.96, 1234.5, float("nan"), -0.25)
    assert [short(value) for value in values] == ["0", "0.471", "12.3", "100", "1234", "–", "-0.25"]


# --- wrong inputs -------------------------------------------------------------------------------


def test_wrong_inputs_are_refused_with_what_was_expected() -> None:
    base = inputs_of(3)
    image = np.zeros((4, 6, 3), np.uint8)
    cases = {
        "KResult.k: expected 1 to 255, got 0": lambda: dataclasses.replace(base.main, k=0),
        "KResult.cluster_pixels: expected shape (3,), got (4,)": lambda: dataclasses.replace(
            base.main, k=2
        ),
        "KResult.confusion: expected 4 rows, got 2": lambda: dataclasses.replace(
            base.main, confusion=Confusion(np.zeros((2, 3), np.int64))
        ),
        "KResult.scores['majority']: expected a match of 3 clusters, got 2": lambda: (
            dataclasses.replace(
                base.main, scores={"majority": inputs_of(2).main.scores["majority"]}
            )
        ),
        "ReportInputs.sweep: expected at least one K, got none": lambda: dataclasses.replace(
            base, sweep=()
        ),
        "ReportInputs.sweep: expected different K, got [3, 3]": lambda: dataclasses.replace(
            base, sweep=(base.main, base.main)
        ),
        "ReportInputs.gallery: expected 3 clusters, got 1": lambda: dataclasses.replace(
            base, gallery=((),)
        ),
        "ReportInputs.classes: expected 3 classes, got 1": lambda: dataclasses.replace(
            base, classes=classes_of(("sea",))
        ),
        "Example.image: expected shape (height, width, 3), got (4, 6)": lambda: Example(
            "a", image[..., 0], image[..., 0]
        ),
        "Example.mask: expected shape (4, 6), got (6, 4)": lambda: Example(
            "a", image, image[..., 0].T
        ),
        "Example.truth: expected dtype uint8, got int64": lambda: Example(
            "a", image, image[..., 0], image[..., 0].astype(np.int64)
        ),
        "GalleryItem.picture: expected dtype uint8, got float64": lambda: GalleryItem(
            "a", image.astype(np.float64), 0.5
        ),
    }
    for message, make in cases.items():
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            make()
        assert str(caught.value) == message

"""The page of the report: self-contained, pictures small and described, figures in their place."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import Page, classes_of, decoded, example_of, inputs_of, result_of, summary

from datus.method.masks import PALETTE
from datus.method.metrics import RULES, score_all
from datus.report import build_report, view
from datus.report.figures import box, chart, scale_of
from datus.report.numbers import short
from datus.report.pictures import class_colours, cluster_colours, layer, photo, small_size
from datus.report.records import (
    Denoised,
    Distribution,
    Example,
    GalleryItem,
    KResult,
    ReportInputs,
)
from datus.types import Confusion

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


def with_renamed_clusters(base: ReportInputs) -> ReportInputs:
    """De-noised masks that differ from the others in the numbers of their clusters alone."""
    k = base.main.k
    table = np.r_[np.arange(1, k), 0, np.arange(k, 256)].astype(np.uint8)
    examples = tuple(
        dataclasses.replace(one, denoised=np.asarray(table[one.mask])) for one in base.examples
    )
    drawn = tuple(dataclasses.replace(one, mask=table[one.mask]) for one in base.examples)
    after = result_of(k, drawn)
    again = Denoised(after.cluster_pixels, 3, 0, (1.0, 0.5), after.scores)
    sweep = (dataclasses.replace(base.main, denoised=again),)
    return dataclasses.replace(base, examples=examples, sweep=sweep)


def test_de_noised_masks_are_shown_under_their_own_match() -> None:
    inputs = with_renamed_clusters(inputs_of(3))
    for panel in view.View(inputs).panels():
        assert panel.denoised == panel.mask
        assert panel.denoised_correct == panel.correct
    page = Page(build_report(inputs)["report.html"])
    assert len(page.all("img")) == 3 * 4 + 3 * 2
    assert "denoised" in page.ids()
    assert {"href": "#denoised"} in page.all("a")


def test_without_truth_de_noised_masks_have_colours_and_no_score() -> None:
    panels = view.View(with_renamed_clusters(inputs_of(3, truth=False))).panels()
    assert all(panel.denoised not in (None, panel.mask) for panel in panels)
    assert all(panel.denoised_correct is None for panel in panels)


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
    for panel, example in zip(view.View(inputs).panels(), inputs.examples, strict=True):
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
    rows = view.View(inputs).confusion_rows()
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
    ticks = chart("t", {"a": dict.fromkeys(range(2, 60), 1.0)}).x_ticks
    written = [tick for tick in ticks if tick.label]
    assert len(ticks) == 58
    assert [written[0].label, written[-1].label] == ["2", "59"]
    gaps = [right.at - left.at for left, right in itertools.pairwise(written)]
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
        "Example.denoised: expected shape (4, 6), got (6, 4)": lambda: Example(
            "a", image, image[..., 0], None, image[..., 0].T
        ),
        "GalleryItem.picture: expected dtype uint8, got float64": lambda: GalleryItem(
            "a", image.astype(np.float64), 0.5
        ),
    }
    for message, make in cases.items():
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            make()
        assert str(caught.value) == message

"""browse.html in a real browser, from a disk, as people use it: with clicks and keys.

Skipped where there is no Chromium or no playwright.
"""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browse_cases import K, Site, image_of, read

from datus.report.browse import PACK_IMAGES, vectors

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

try:
    from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
except ModuleNotFoundError:
    pytest.skip("playwright is not installed", allow_module_level=True)

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")

HOSTILE = "x</script><img src=x onerror=\"document.body.dataset.broken='yes'\">"
N = 90
FIRST = ".cell[aria-posinset='1'] canvas"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; the test may be root, and then Chromium has no sandbox."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety images in three packs; one has a name that would like to be code."""
    names = [f"street/{n:03d}" for n in range(N - 1)] + [HOSTILE]
    images = [image_of(name, seed) for seed, name in enumerate(names)]
    made = Site(images, title=HOSTILE, names=["sea", "</script><b>rock", "fish"])
    return made.write(tmp_path_factory.mktemp("site"))


@pytest.fixture
def page(browser: Browser, site: Path) -> Iterator[Page]:
    """The page, ready; whatever the console says against it fails the test."""
    yield from opened(browser, site)


def opened(browser: Browser, site: Path, **more: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 800}, **more)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_default_timeout(10_000)
    page.goto(site.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    context.close()
    # the hint is for our own looking at pixels
    assert [text for text in said if "willReadFrequently" not in text] == []


def names(page: Page) -> list[str]:
    """Of the visible cards, in their order."""
    return page.eval_on_selector_all(
        ".cell",
        "cells => cells.filter(c => c.style.visibility !== 'hidden')"
        ".sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)"
        ".map(c => c.querySelector('.name').textContent)",
    )


def pixel(page: Page, selector: str, x: float = 0.2, y: float = 0.2) -> list[int]:
    """RGB of a place of the first such canvas, in shares of its sides."""
    return page.eval_on_selector(
        selector,
        "(c, [x, y]) => [...c.getContext('2d').getImageData("
        "Math.floor(x * c.width), Math.floor(y * c.height), 1, 1).data].slice(0, 3)",
        [x, y],
    )


def drawn(page: Page) -> None:
    """Two frames later: what a key or a slider asked for is painted, on a slow machine too."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shows(page: Page, selector: str, colour: list[int]) -> None:
    """Waits until that pixel of the canvas has the colour."""
    for _ in range(100):
        if pixel(page, selector) == colour:
            return
        page.wait_for_timeout(50)
    assert pixel(page, selector) == colour


def view_button(page: Page, view: str) -> Locator:
    return page.locator(f"#views [data-value={view}]")


def painted(page: Page) -> None:
    page.wait_for_selector(f"{FIRST}:not(.waiting)[width='48']")


def cluster_names(page: Page) -> list[str]:
    return page.locator(".cluster-card .link").all_inner_texts()


def tick(page: Page, *clusters: int) -> None:
    for cluster in clusters:
        page.locator(f".cluster-card[data-cluster='{cluster}'] input").check()


# --- the grid ------------------------------------------------------------------------------------


def test_only_what_is_seen_exists(page: Page) -> None:
    expect(page.locator("#count")).to_have_text(f"{N} images")
    assert 0 < page.locator(".card").count() < N
    assert names(page)[0] == "street/000"
    page.evaluate("document.getElementById('scroller').scrollTop = 1e6")
    expect(page.locator(".name", has_text="onerror")).to_be_visible()
    assert page.locator(".card").count() < N


def test_views_paint_what_they_say(page: Page) -> None:
    painted(page)
    image = image_of("street/000", 0)
    photo = np.array(pixel(page, FIRST))
    seen = {}
    for key, view in enumerate(("photo", "mask", "overlay", "truth", "errors", "confidence"), 1):
        page.keyboard.press(str(key))
        expect(view_button(page, view)).to_have_attribute("aria-checked", "true")
        drawn(page)
        seen[view] = np.array(pixel(page, FIRST))
    assert image.cluster[0] == 0
    sea = np.array([0, 114, 178])
    assert seen["mask"].tolist() == sea.tolist()
    mixed = 0.6 * sea + 0.4 * seen["photo"]
    assert np.abs(seen["overlay"] - mixed).max() <= 2
    assert np.abs(seen["truth"] - mixed).max() <= 2
    assert np.abs(photo - seen["overlay"]).max() <= 2
    assert len({tuple(one) for one in seen.values()}) == 5  # truth is the overlay where it is right


def test_opacity_and_size(page: Page) -> None:
    painted(page)
    page.locator("#opacity").fill("100")
    shows(page, FIRST, [0, 114, 178])
    before = page.locator(".card").first.bounding_box()
    page.locator("#zoom").fill("400")
    drawn(page)
    after = page.locator(".card").first.bounding_box()
    assert before
    assert after
    assert after["width"] > 1.5 * before["width"]


def test_sorting_both_ways(page: Page) -> None:
    scores = [image_of("x", seed).score or 0 for seed in range(N)]
    order = np.argsort([round(1000 * score) for score in scores], kind="stable")
    page.locator("#sort").select_option("score")
    assert names(page)[0] == f"street/{order[0]:03d}"
    page.locator("#direction").click()
    assert names(page)[0] == f"street/{order[-1]:03d}"
    page.locator("#sort").select_option("name")
    assert names(page)[0] == HOSTILE
    page.locator("#reset").click()
    assert names(page)[0] == "street/000"


def test_filters(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("STREET/01")
    expect(page.locator("#count")).to_have_text(f"10 of {N} images")
    page.keyboard.press("Escape")
    page.locator("#reset").click()
    page.locator("#cluster").select_option("0")
    having = sum(0 in image_of("x", seed).cluster for seed in range(N))
    expect(page.locator("#count")).to_have_text(f"{having} of {N} images")
    page.locator("#share").fill("30")
    expect(page.locator("#count")).to_have_text(f"0 of {N} images")


def test_keys_go_from_card_to_card(page: Page) -> None:
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    place = page.evaluate("document.activeElement.closest('.cell').ariaPosInSet")
    columns = page.evaluate(
        "new Set([...document.querySelectorAll('.cell')].map("
        "c => c.getBoundingClientRect().x)).size"
    )
    assert int(place) == 2 + columns
    page.keyboard.press("End")
    expect(page.locator(".card:focus .name")).to_have_text(HOSTILE)
    page.keyboard.press("Enter")
    expect(page.locator("#large-name")).to_have_text(HOSTILE)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#large-name")).to_have_text(f"street/{N - 2:03d}")
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    expect(page.locator(".card:focus .name")).to_have_text(f"street/{N - 2:03d}")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()


# --- one image -----------------------------------------------------------------------------------


def open_first(page: Page) -> None:
    page.locator(".card").first.click()
    page.wait_for_selector("#segment-list button", state="attached")


def test_pointing_names_the_segment_and_clicking_finds_its_like(page: Page) -> None:
    open_first(page)
    box = page.locator("#large-canvas").bounding_box()
    assert box
    at = box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"]
    page.mouse.move(*at)
    expect(page.locator("#hover")).to_contain_text("1 </script><b>rock")
    expect(page.locator("#hover")).to_contain_text("segment 1 · 6 patches")
    page.mouse.click(*at)
    expect(page.locator("#retrieval .crop")).to_have_count(24)
    labels = page.locator("#retrieval .crop").evaluate_all("all => all.map(b => b.ariaLabel)")
    wanted = expected_nearest(0, 1)
    for label, (row, segment, distance) in zip(labels, wanted, strict=True):
        name = HOSTILE if row == N - 1 else f"street/{row:03d}"
        assert label.startswith(f"{name}, segment {segment}, ")
        shown = float(label.removeprefix(f"{name}, segment {segment}, ").split(" ")[0])
        assert shown == pytest.approx(distance, abs=0.002)
    page.locator("#retrieval .crop").first.click()
    row = wanted[0][0]
    expect(page.locator("#large-name")).to_have_text(f"street/{row:03d}")


def expected_nearest(row: int, segment: int) -> list[tuple[int, int, float]]:
    """By numpy, from the same rounded vectors."""
    images = [image_of("x", seed) for seed in range(N)]
    _, _, found = read(vectors(0, images))
    values = np.frombuffer(base64.b64decode(found["values"]), np.int8)
    places = values.reshape(-1, found["dims"]) * found["scale"]
    owners = [(r, int(s)) for r, i in enumerate(images) for s in np.flatnonzero(i.valid)]
    here = owners.index((row, segment))
    gaps = np.linalg.norm(places - places[here], axis=1)
    order = [int(one) for one in np.argsort(gaps, kind="stable") if one != here][:24]
    return [(*owners[one], float(gaps[one])) for one in order]


def test_a_segment_without_a_vector_says_so(page: Page) -> None:
    open_first(page)
    page.locator("#segments summary").click()
    page.locator("#segment-list [data-segment='3']").click()
    expect(page.locator("#retrieval")).to_contain_text("too small to have been clustered")
    expect(page.locator("#hover")).to_contain_text("no cluster")


def test_zoom_and_fit(page: Page) -> None:
    open_first(page)
    width = "document.getElementById('large-canvas').getBoundingClientRect().width"
    before = page.evaluate(width)
    page.keyboard.press("+")
    assert page.evaluate(width) == pytest.approx(1.4 * before, rel=0.01)
    page.locator("#zoom-fit").click()
    assert page.evaluate(width) == pytest.approx(before, rel=0.01)
    page.locator("#stage").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"{width} > {2 * before}")


# --- clusters and edits --------------------------------------------------------------------------


def test_a_cluster_has_a_page(page: Page) -> None:
    page.keyboard.press("c")
    page.locator(".cluster-card[data-cluster='2'] .link").click()
    body = page.locator("#cluster-page")
    expect(body.locator("h2")).to_have_text("2 fish")
    for title in ("Most central", "Random", "Least certain"):
        expect(body.get_by_role("list", name=title).locator("li")).to_have_count(24)
    expect(body).to_contain_text("Nearest clusters")
    body.get_by_role("list", name="Random").locator(".crop").first.click()
    expect(page.locator("#large")).to_be_visible()
    page.keyboard.press("Escape")
    body.get_by_text("Images with it").click()
    having = sum(2 in image_of("x", seed).cluster for seed in range(N))
    expect(page.locator("#count")).to_have_text(f"{having} of {N} images")


def test_merge_rename_drop_split_undo_and_save(page: Page, tmp_path: Path) -> None:
    page.keyboard.press("c")
    assert len(cluster_names(page)) == K
    tick(page, 0, 2)
    page.locator("#selection").get_by_text("Merge").click()
    page.locator("#ask select").select_option("2")
    page.locator("#ask-ok").click()
    expect(page.locator(".cluster-card")).to_have_count(K - 1)
    tick(page, 2)
    page.locator("#selection").get_by_text("Rename").click()
    page.locator("#ask input").fill(HOSTILE)
    page.keyboard.press("Enter")
    expect(page.locator(".cluster-card[data-cluster='2'] .link")).to_have_text(f"2 {HOSTILE}")
    page.locator("#selection").get_by_text("Split").click()
    page.locator("#ask input").fill("3")
    page.locator("#ask-ok").click()
    expect(page.locator(".cluster-card[data-cluster='2']")).to_contain_text("split into 3")
    page.locator("#selection").get_by_text("Clear").click()
    tick(page, 1)
    page.locator("#selection").get_by_text("Drop").click()
    expect(page.locator(".cluster-card")).to_have_count(K - 2)
    page.keyboard.press("z")
    expect(page.locator(".cluster-card")).to_have_count(K - 1)
    page.keyboard.press("r")
    with page.expect_download() as saved:
        page.locator("#save").click()
    assert saved.value.suggested_filename == "edits.json"
    saved.value.save_as(tmp_path / "edits.json")
    table = json.loads((tmp_path / "edits.json").read_text(encoding="utf-8"))
    assert table == {
        "format": "datus-edits",
        "version": 1,
        "clusters": {"k": K, "id": "sha256:00", "centroids": np.eye(K).tolist()},
        "edits": [
            {"op": "merge", "clusters": [2, 0]},
            {"op": "rename", "cluster": 2, "name": HOSTILE},
            {"op": "split", "cluster": 2, "parts": 3},
        ],
    }
    page.locator("#clear").click()
    expect(page.locator("#review-page")).to_contain_text("No edits yet")
    page.locator("#load").set_input_files(tmp_path / "edits.json")
    expect(page.locator("#edit-list li")).to_have_count(3)


def test_edits_of_before_the_run_stay_and_come_first(browser: Browser, tmp_path: Path) -> None:
    """Cluster 1 went into 0; 2 was split, its second part is label 4; 3 has a name."""
    before = [
        {"op": "merge", "clusters": [0, 1]},
        {"op": "split", "cluster": 2, "parts": 2},
        {"op": "rename", "cluster": 3, "name": "weed"},
    ]
    images = [image_of("a", 0, truth=False, k=5), image_of("b", 2, truth=False, k=5)]
    site = Site(images, truth=False, k=5, before=before).write(tmp_path)
    for page in opened(browser, site):
        page.keyboard.press("c")
        expect(page.locator(".cluster-card")).to_have_count(4)
        assert sorted(cluster_names(page)) == ["3 weed", "cluster 0", "cluster 2", "cluster 4"]
        tick(page, 4)
        page.locator("#selection").get_by_text("Rename").click()
        page.locator("#ask input").fill("kelp")
        page.keyboard.press("Enter")
        page.keyboard.press("r")
        # the key comes right after the Enter, and the edit is there
        assert page.locator("#edit-list li").count() == 4
        with page.expect_download() as saved:
            page.locator("#save").click()
        table = json.loads(saved.value.path().read_text(encoding="utf-8"))
        assert table["edits"] == [*before, {"op": "rename", "cluster": 4, "name": "kelp"}]


def test_a_merge_repaints_at_once_and_outlives_a_reload(page: Page) -> None:
    page.keyboard.press("2")
    painted(page)
    shows(page, FIRST, [0, 114, 178])
    page.keyboard.press("c")
    tick(page, 0, 1)
    page.locator("#selection").get_by_text("Merge").click()
    page.locator("#ask select").select_option("1")
    page.locator("#ask-ok").click()
    page.keyboard.press("i")
    shows(page, FIRST, [230, 159, 0])
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    expect(page.locator("#n-edits")).to_have_text("1")
    page.keyboard.press("z")
    expect(page.locator("#n-edits")).to_be_hidden()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"format": "other"}, 'expected format "datus-edits", got "other"'),
    ({"version": 2}, "expected version 1, got 2"),
    ({"clusters": {"id": "sha256:01"}}, "the clusters of another run"),
    ({"edits": [{"op": "drop", "cluster": 9}]}, "edit 1: there is no cluster 9"),
    ({"edits": [{"op": "toString"}]}, 'edit 1: there is no edit "toString"'),
    ({"edits": [{"op": "merge", "clusters": [1]}]}, "edit 1: merge needs several"),
    (
        {"edits": [{"op": "drop", "cluster": 1}, {"op": "rename", "cluster": 1, "name": "a"}]},
        "edit 2: cluster 1 was merged or dropped before",
    ),
]


def test_files_that_do_not_fit_are_refused(page: Page, tmp_path: Path) -> None:
    """On one page: to open it takes longer than all of them."""
    proper = {"format": "datus-edits", "version": 1, "clusters": {"id": "sha256:00"}, "edits": []}
    page.keyboard.press("r")
    for number, (change, said) in enumerate(REFUSED):
        file = tmp_path / f"edits-{number}.json"
        file.write_text(json.dumps(proper | change), encoding="utf-8")
        page.locator("#load").set_input_files(file)
        expect(page.locator("#load-said")).to_contain_text(said)
        expect(page.locator("#n-edits")).to_be_hidden()


# --- safety, narrow screens, missing data --------------------------------------------------------


def test_names_stay_text(page: Page) -> None:
    page.evaluate("document.getElementById('scroller').scrollTop = 1e6")
    page.locator(".card", has_text="onerror").click()
    page.wait_for_selector("#segment-list button", state="attached")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.locator(".cluster-card .link").first.click()
    assert page.evaluate("document.querySelectorAll('img, b.rock').length") == 0
    assert page.evaluate("document.body.dataset.broken === undefined")
    assert page.locator("#title").inner_text() == HOSTILE


def test_without_truth_there_is_nothing_to_compare(browser: Browser, tmp_path: Path) -> None:
    site = Site([image_of("a", 1, truth=False)], truth=False).write(tmp_path)
    for page in opened(browser, site):
        for view in ("truth", "errors"):
            expect(view_button(page, view)).to_be_disabled()
        page.keyboard.press("5")
        expect(view_button(page, "overlay")).to_have_attribute("aria-checked", "true")
        assert page.locator("#sort option").all_inner_texts() == ["name", "confidence", "coverage"]


def test_more_clusters_than_colours_have_patterns(browser: Browser, tmp_path: Path) -> None:
    site = Site([image_of("a", 12, truth=False, k=30)], truth=False, k=30).write(tmp_path)
    for page in opened(browser, site):
        page.keyboard.press("2")
        painted(page)
        colours = page.eval_on_selector(
            FIRST,
            "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, 24, 16)"
            ".data.buffer)).size",
        )
        assert colours == 2


def test_narrow_screens_do_not_scroll_sideways(browser: Browser, site: Path) -> None:
    for page in opened(browser, site):
        page.set_viewport_size({"width": 390, "height": 844})
        for key in "icr":
            page.keyboard.press(key)
            width = page.evaluate(
                "Math.max(...[...document.querySelectorAll('body, main > section:not([hidden]), "
                "main > section:not([hidden]) > *')].map(e => e.scrollWidth))"
            )
            assert width <= 390
        page.keyboard.press("i")
        page.locator("#more").click()
        expect(page.locator("#search")).to_be_visible()


def test_a_page_without_its_folder_says_so(browser: Browser, tmp_path: Path) -> None:
    site = Site([image_of("a", 1)]).write(tmp_path)
    shutil.rmtree(tmp_path / "browse")
    page = browser.new_page()
    page.goto(site.as_uri())
    expect(page.locator("#problem")).to_contain_text("browse/index.js is not there or damaged")
    page.close()


def test_far_images_load_their_own_pack(page: Page) -> None:
    page.evaluate(
        "window.asked = []; new MutationObserver(all => all.forEach(one => one.addedNodes.forEach("
        "node => asked.push(node.src)))).observe(document.head, {childList: true})"
    )
    page.keyboard.press("End")
    page.wait_for_selector(".card:focus canvas:not(.waiting)[width='48']")
    asked = [name.rsplit("/", 1)[1] for name in page.evaluate("asked")]
    assert asked == [f"pack-{(N - 1) // PACK_IMAGES:05d}.js"]

"""What is written for browse.html: every byte comes back, nothing can break out."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browse_cases import K, Site, centroids_of, image_of, pack, read
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import Dataset, go

from datus.report import browse, browse_tally
from datus.stages import browse_page
from datus.store.store import Store
from datus.types import Array, ImageRecord

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"`${1}&amp;"


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


def levels(text: str) -> Array:
    return np.asarray(Image.open(io.BytesIO(decoded(text))))


# --- packs ---------------------------------------------------------------------------------------


def test_a_pack_holds_what_was_put_in() -> None:
    images = [image_of("a/b", 1), image_of("c", 2, truth=False)]
    kind, number, (one, other) = read(pack(12, images))
    assert (kind, number) == ("pack", 12)
    assert (one["id"], one["size"], one["preview"], one["grid"]) == (
        *("a/b", [320, 480]),
        *([32, 48], [4, 6]),
    )
    assert decoded(one["photo"]) == images[0].preview
    assert (decoded(one["mask"]), decoded(one["truth"])) == (images[0].mask, images[0].truth)
    assert np.array_equal(levels(one["mask"]), np.kron([[1, 2], [3, 255]], np.ones((16, 24))))
    assert other["truth"] is None
    segments = np.frombuffer(decoded(one["segments"]), np.uint8).reshape(4, 6)
    assert np.array_equal(segments, images[0].segments)
    assert list(decoded(one["cluster"])) == [1, 2, 3, 255]
    assert one["patches"] == [6, 6, 6, 6]
    for name in browse.FIGURES:
        percent = np.rint(100 * images[0].figures[name]).astype(int)
        assert list(decoded(one[name])) == percent.tolist()


@pytest.mark.parametrize(("n_segments", "wide"), [(256, False), (257, True)])
def test_many_segments_take_two_bytes(n_segments: int, wide: bool) -> None:
    segments = np.arange(n_segments, dtype=np.int32).reshape(1, -1)
    ones = np.ones(n_segments)
    image = replace(
        image_of("a", 0),
        segments=segments,
        cluster=ones.astype(np.int16),
        n_patches=ones.astype(np.int32),
        figures={name: ones.astype(np.float32) for name in browse.FIGURES},
    )
    _, _, (found,) = read(pack(0, [image]))
    assert found["wide"] is wide
    kind = "<u2" if wide else np.uint8
    assert np.frombuffer(decoded(found["segments"]), kind).tolist() == list(range(n_segments))


@given(st.text())
def test_no_text_leaves_its_script(text: str) -> None:
    script = browse.call("pack", 0, {"id": text})
    assert b"<" not in script
    assert script.isascii()
    assert read(script)[2] == {"id": text}


def test_same_images_same_bytes() -> None:
    one, other = (Site([image_of("a", 1), image_of("b", 2)]).files() for _ in range(2))
    assert one == other
    assert set(one) == {
        *("browse.html", "browse/index.js"),
        *("browse/pack-00000.js", "browse/vectors-00000.js"),
    }


# --- vectors and index ---------------------------------------------------------------------------


def test_vectors_come_back_within_half_a_step() -> None:
    images = [image_of("a", 1), image_of("b", 2)]
    _, _, found = read(browse.vectors(0, images))
    values = np.frombuffer(decoded(found["values"]), np.int8).reshape(-1, found["dims"])
    wanted = np.concatenate([image.places[image.valid] for image in images])
    assert np.abs(values * found["scale"] - wanted).max() <= 0.5001 * found["scale"]
    assert found["counts"] == [3, 3]
    assert np.frombuffer(decoded(found["segment"]), "<u2").tolist() == [0, 1, 2, 0, 1, 2]
    assert np.frombuffer(decoded(found["cluster"]), "<i2").tolist() == [1, 2, 3, 2, 3, 0]


def test_vectors_of_images_without_segments_are_empty() -> None:
    none = replace(image_of("a", 1), valid=np.zeros(4, bool))
    _, _, found = read(browse.vectors(0, [none]))
    assert (found["counts"], found["values"]) == ([0], "")


def test_the_index_has_one_entry_per_image_and_column() -> None:
    images = [image_of("a", 1), image_of("b", 2, truth=False)]
    _, _, found = read(browse.index({"k": K}, [browse.row_of(image) for image in images]))
    columns = found["images"]
    assert columns["id"] == ["a", "b"]
    assert columns["coverage"] == [750, 750]
    assert columns["score"] == [round(1000 * (images[0].score or 0)), None]
    weights = images[0].figures["confidence"][:3]
    assert columns["confidence"][0] == round(1000 * float(weights.mean()))
    shares = np.frombuffer(decoded(columns["shares"]), np.uint8).reshape(2, K)
    assert shares.tolist() == [[0, 64, 64, 64], [64, 0, 64, 64]]


def test_a_cluster_of_one_pixel_has_a_share() -> None:
    image = replace(image_of("a", 1), pixels=np.array([1, 10**7, 0, 0, 0]))
    assert list(browse.row_of(image).shares) == [1, 255, 0, 0]


# --- tally ---------------------------------------------------------------------------------------


def slow_contacts(clusters: Array, k: int) -> Array:
    found = np.zeros((k, k), np.int64)
    for y, x in np.ndindex(clusters.shape):
        for ny, nx in ((y + 1, x), (y, x + 1)):
            if ny < clusters.shape[0] and nx < clusters.shape[1]:
                one, other = clusters[y, x], clusters[ny, nx]
                if one >= 0 and other >= 0 and one != other:
                    found[one, other] += 1
                    found[other, one] += 1
    return found


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_touching_counts_sides_of_patches(seed: int, rows: int, columns: int) -> None:
    clusters = np.random.default_rng(seed).integers(-1, K, (rows, columns))
    assert np.array_equal(browse_tally.touching(clusters, K), slow_contacts(clusters, K))


def test_segments_are_ranked_and_few() -> None:
    tally = browse_tally.Tally(K, seed=3)
    images = [image_of(f"i{n}", n) for n in range(80)]
    distances = np.random.default_rng(0).uniform(0, 1, (80, 4))
    for row, image in enumerate(images):
        tally.add(row, image, distances[row])
    members = [
        (row, int(segment))
        for row, image in enumerate(images)
        for segment in np.flatnonzero(image.cluster == 2)
    ]
    assert tally.n_segments[2] == len(members)
    central = sorted(members, key=lambda one: distances[one])[: browse_tally.SHOWN]
    sure = sorted(members, key=lambda one: images[one[0]].figures["confidence"][one[1]])
    assert tally.shown("central", 2) == [list(one) for one in central]
    assert tally.shown("uncertain", 2) == [list(one) for one in sure[: browse_tally.SHOWN]]
    drawn = tally.shown("random", 2)
    assert len(drawn) == browse_tally.SHOWN
    assert {tuple(one) for one in drawn} <= set(members)
    other = browse_tally.Tally(K, seed=4)
    for row, image in enumerate(images):
        other.add(row, image, distances[row])
    assert other.shown("random", 2) != drawn


def test_facts_of_a_cluster() -> None:
    tally = browse_tally.Tally(K, 0)
    image = image_of("a", 0)
    tally.add(0, image, np.zeros(4))
    facts = browse_tally.facts_of(tally, centroids_of(), image.pixels, {"k": K})
    first, last = facts["clusters"][0], facts["clusters"][3]
    assert first["share"] == 0.25
    assert first["segments"] == 1
    assert first["confidence"] == round(float(image.figures["confidence"][0]), 3)
    assert first["near"] == [[1, 1.414], [2, 1.414], [3, 1.414]]
    assert first["touching"] == [[2, 0.6], [1, 0.4]]
    assert (last["segments"], last["touching"], last["central"]) == (0, [], [])


# --- the page ------------------------------------------------------------------------------------


def test_the_page_runs_its_own_code_and_asks_for_nothing() -> None:
    text = browse.page(HOSTILE).decode()
    assert "<img" not in text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (code,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    for part, kind in ((code, "script"), (style, "style")):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert re.search(rf"{kind}-src [^;]*'sha256-{re.escape(digest)}'", policy)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for place in re.findall(r"https?://\S*", text):
        assert place.startswith("http://www.w3.org/2000/svg")  # a name, not an address
    assert not re.search(r'\sstyle="|\son\w+="', text.replace(code, "").replace(style, ""))


@pytest.mark.parametrize(
    "banned", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("]
)
def test_the_code_makes_no_markup_of_text(banned: str) -> None:
    code = re.sub(r"^\s*//.*$", "", browse._code(), flags=re.M)
    assert banned not in code


def test_pieces_of_the_page_are_short() -> None:
    folder = Path(browse.__file__).parent / "browser"
    assert {path.stem for path in folder.glob("*.js")} == set(browse.SCRIPTS)
    assert {path.stem for path in folder.glob("*.css")} == set(browse.STYLES)
    for path in folder.iterdir():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


# --- in a run ------------------------------------------------------------------------------------


def site_of(run_dir: Path) -> dict[str, Any]:
    return dict(read((run_dir / "latest/report/browse/index.js").read_bytes())[2])


def test_a_run_has_a_browser_beside_its_report(finished: Path, tiny: Dataset) -> None:
    folder = finished / "latest" / "report"
    found = site_of(finished)
    assert found["images"]["id"] == sorted(found["images"]["id"])
    assert len(found["images"]["id"]) == found["n_images"] == 10
    assert (len(found["clusters"]), found["n_packs"], found["n_vectors"]) == (3, 1, 1)
    assert 'href="browse.html"' in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "browse.html").read_bytes() == browse.page(tiny.config("x").name)
    _, _, images = read((folder / "browse" / "pack-00000.js").read_bytes())
    assert [one["id"] for one in images] == found["images"]["id"]
    store = Store(finished)
    (mark,) = store.folders("report")
    report = store.report("report", mark, "all")
    assert report is not None
    assert {"browse.html", "browse/index.js", "browse/pack-00000.js"} <= set(report.files)


def test_scores_of_images_join_to_that_of_the_report(finished: Path, tiny: Dataset) -> None:
    found = site_of(finished)
    report = read_json(finished)
    known = []
    for one in found["images"]["id"]:
        truth = np.asarray(Image.open(tiny.truth / f"{one}.png"))
        known.append(int((truth != 255).sum()))
    scores = np.array(found["images"]["score"]) / 1000
    accuracy = next(r for r in report["sweep"] if r["k"] == 3)["scores"]["hungarian_strict"]
    assert 100 * float(np.average(scores, weights=known)) == pytest.approx(
        accuracy["accuracy"], abs=0.1
    )


def read_json(run_dir: Path) -> dict[str, Any]:
    import json

    return dict(json.loads((run_dir / "latest/report/report.json").read_bytes()))


def test_fewer_images_or_none(tiny: Dataset, run_copy: Path) -> None:
    go(tiny.config(run_copy, {"report.browse": 4}))
    assert len(site_of(run_copy)["images"]["id"]) == 4
    assert site_of(run_copy)["n_images"] == 10
    go(tiny.config(run_copy, {"report.browse": 0}))
    folder = run_copy / "latest" / "report"
    assert not (folder / "browse.html").exists()
    assert "browse.html" not in (folder / "report.html").read_text(encoding="utf-8")


def test_without_truth_and_without_pca(tiny: Dataset, tmp_path: Path) -> None:
    more = {"data.truth": "", "data.classes": "", "clusters.pca": 0, "masks.noise": "pool"}
    go(tiny.config(tmp_path / "run", more))
    found = site_of(tmp_path / "run")
    assert found["classes"] is found["match"] is found["rule"] is None
    assert set(found["images"]["score"]) == {None}
    script = (tmp_path / "run/latest/report/browse/vectors-00000.js").read_bytes()
    assert read(script)[2]["dims"] == 32


def test_images_of_large_sets_come_from_few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse_page, "PAGE_SHARDS", 3)
    records = [
        ImageRecord(f"i{n:03d}", f"{n}.png", 8, 8, "0" * 64, f"s{n // 10}") for n in range(100)
    ]
    of = {record.image_id: record.shard for record in records}
    assert browse_page.choose(records, 100) == set(of)
    few = browse_page.choose(records, 6)
    assert (len(few), {of[name] for name in few}) == (6, {"s1", "s5", "s8"})
    assert few == browse_page.choose(records, 6)
    many = browse_page.choose(records, 20)  # of shards with four times as many
    assert (len(many), len({of[name] for name in many})) == (20, 8)
    every = [replace(record, shard=record.image_id) for record in records]
    assert len(browse_page.choose(every, 5)) == 5

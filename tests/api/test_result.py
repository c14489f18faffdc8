"""Results: what is read of a run, names, pictures, exports, new images under the same clusters."""

import html
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SPEED, Dataset, go, make_dataset, snapshot

import datus
from datus.api.result import EXAMPLES
from datus.config import Config
from datus.errors import ConfigError, UsageError, WorkError
from datus.finished_run import PLACES, with_settings
from datus.review.replay import read_base


@pytest.fixture
def result(finished: Path, tiny: Dataset) -> datus.Result:
    return datus.load(finished, images=tiny.images)


def test_images_by_number_id_and_slice(result: datus.Result) -> None:
    ids = [one.image_id for one in result]
    assert ids == sorted(ids)
    assert len(ids) == len(result) == 10
    assert result[-1].image_id == ids[-1] == result["d3"].image_id
    assert [one.image_id for one in result[1:3]] == ids[1:3]
    assert "b/c1" in result
    assert result[0] in result
    assert "b/c9" not in result
    assert repr(result["a0"]).startswith("<a0: ")


@pytest.mark.parametrize(
    ("which", "text"),
    [
        ("b/c9", "'b/c9': no such image in the result; did you mean 'b/c2'?"),
        ("zzzzzz", "'zzzzzz': no such image in the result; one of them is 'a0'"),
        (10, "image 10: the result has 10: 0 to 9"),
        (-11, "image -11: the result has 10: 0 to 9"),
    ],
)
def test_no_such_image(result: datus.Result, which: int | str, text: str) -> None:
    with pytest.raises(LookupError) as error:
        result[which]
    assert str(error.value) == text
    assert isinstance(error.value, UsageError)


def test_arrays_of_an_image(result: datus.Result, tiny: Dataset) -> None:
    for one in result:
        picture = np.asarray(Image.open(tiny.images / f"{one.image_id}.png"))
        assert np.array_equal(one.image, picture)
        assert one.mask.shape == one.segments.shape == one.margin.shape == picture.shape[:2]
        assert one.mask.dtype == np.uint8
        assert one.segments.dtype == np.int32
        assert one.confidence.shape == one.mask.shape
        for sign in (one.confidence, one.margin):
            known = sign[~np.isnan(sign)]
            assert np.all((known > 0) & (known <= 1))
        assert one.truth is None  # a run of the command line does not know where it is


def test_masks_are_those_of_the_files(result: datus.Result, finished: Path) -> None:
    for one in result:
        file = finished / "latest" / "masks-k3" / f"{one.image_id}.png"
        assert np.array_equal(one.mask, np.asarray(Image.open(file)))


def test_clusters_count_the_pixels_of_the_masks(result: datus.Result) -> None:
    whole = np.concatenate([one.mask.ravel() for one in result])
    for cluster in result.clusters:
        n_pixels = int((whole == cluster.number).sum())
        assert cluster.n_pixels == n_pixels
        assert cluster.share == pytest.approx(n_pixels / len(whole))
        assert cluster.name == f"cluster {cluster.number}"
        assert len(cluster.examples) <= EXAMPLES
        assert all(crop.dtype == np.uint8 and crop.ndim == 3 for crop in cluster.examples)
    assert any(cluster.examples for cluster in result.clusters)


def test_scores_are_those_of_the_report(result: datus.Result, finished: Path) -> None:
    report = json.loads((finished / "latest/report/report.json").read_text(encoding="utf-8"))
    assert set(result.scores) == set(report["scores"])
    for rule, scores in result.scores.items():
        assert scores.miou == pytest.approx(report["scores"][rule]["miou"], abs=1e-3)
    assert "mIoU" in repr(result)
    assert result.table().splitlines()[1].startswith("hungarian_strict")


def test_no_truth_no_scores(tiny: Dataset, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, {"data.truth": "", "data.classes": ""})
    go(config)
    found = datus.load(tmp_path)
    assert found.scores == {}
    assert found.verdict is not None
    assert repr(found) == f"<10 images, K = 3, verdict: {found.verdict.word}>"
    with pytest.raises(UsageError, match="--names: the run was not scored"):
        found.named("matched")


def test_the_verdict_is_that_of_the_report(result: datus.Result, finished: Path) -> None:
    report = json.loads((finished / "latest" / "report" / "report.json").read_bytes())
    found = result.verdict
    assert found is not None
    assert (found.word, [*found.reasons]) == (
        report["verdict"]["word"],
        report["verdict"]["reasons"],
    )
    assert html.escape(found.words) in result._repr_html_()


def test_a_report_of_a_version_without_verdicts_has_none(
    result: datus.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {name: value for name, value in result.finished.row(3).items() if name != "verdict"}
    monkeypatch.setattr(type(result.finished), "row", lambda self, k: row)
    assert result.verdict is None
    assert "verdict" not in repr(result) + result._repr_html_()


USUAL = Config().graphs.density


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"graphs.density": 0.3}, ("auto", 0.3)),
        ({"graphs.threshold": "auto"}, ("auto", USUAL)),
        ({"graphs.threshold": 0.4}, (0.4, USUAL)),
        ({}, (0.7, USUAL)),
    ],
)
def test_more_settings_bring_their_own_rule_of_the_graphs(
    more: dict[str, Any], expected: tuple[Any, float], tiny: Dataset
) -> None:
    found = with_settings(tiny.config("run"), more).graphs
    assert (found.threshold, found.density) == expected
    dense = tiny.config("run", {"graphs.threshold": "auto", "graphs.density": 0.2})
    assert with_settings(dense, {}) == dense
    assert with_settings(dense, {"graphs.threshold": "auto"}) == dense
    assert with_settings(dense, {"graphs.threshold": 0.4}).graphs.threshold == 0.4
    with pytest.raises(ConfigError, match="leave one of them out"):
        with_settings(dense, {"graphs.threshold": 0.4, "graphs.density": 0.1})


def test_names(result: datus.Result, tmp_path: Path) -> None:
    named = result.named({0: "sky", 2: 'a "b" 🙂'})
    assert named.names == ("sky", "cluster 1", 'a "b" 🙂')
    assert result.names[0] == "cluster 0"
    assert named.named({1: "sky"}).names == ("sky", "sky", 'a "b" 🙂')
    assert named.clusters[0].name == "sky"
    assert set(result.named("majority").names) <= {"c0", "c1", "c2"}
    named.named({1: "sky"}).export("png", tmp_path / "png", images=False)
    classes = json.loads((tmp_path / "png/classes.json").read_text(encoding="utf-8"))
    assert "sky" in json.dumps(classes)
    file = tmp_path / "names.toml"
    file.write_text('[names]\n1 = "road"\n', encoding="utf-8")
    assert result.named(file).names[1] == "road"


def test_wrong_names(result: datus.Result) -> None:
    with pytest.raises(UsageError) as error:
        result.named({3: "sky"})
    assert str(error.value) == "names: expected clusters 0 to 2, got 3"
    with pytest.raises(UsageError) as error:
        result.named({1: " "})
    assert str(error.value) == "names: cluster 1: expected a name, got ' '"


def test_several_k(tiny: Dataset, tmp_path: Path) -> None:
    go(tiny.config(tmp_path / "run", {"clusters.k": [3, 2]}))
    found = datus.load(tmp_path / "run")
    assert (found.k, found.ks, found.at(2).k) == (3, (3, 2), 2)
    assert int(found.at(2)[0].mask.max()) <= 1
    assert len(found.at(2).clusters) == 2
    with pytest.raises(UsageError, match=r"has no masks of K = 5: it has K = 3, 2"):
        found.at(5)


def test_an_edited_run(tiny: Dataset, tmp_path: Path) -> None:
    go(tiny.config(tmp_path / "run", {"clusters.k": [4]}))
    before = datus.load(tmp_path / "run", images=tiny.images)
    stored = before.finished.store.read_shard(
        ("clusters", before.finished.made("clusters", 4), "all")
    )
    assert stored
    edits = [
        {"op": "merge", "clusters": [1, 3]},
        {"op": "split", "cluster": 1, "parts": 2},
        {"op": "rename", "cluster": 1, "name": "water"},
        {"op": "drop", "cluster": 0},
    ]
    head = {"format": "datus-edits", "version": 1, "clusters": read_base(stored.arrays[""])}
    path = tmp_path / "edits.json"
    path.write_text(json.dumps({**head, "edits": edits}), encoding="utf-8")
    go(tiny.config(tmp_path / "run", {"clusters.k": [4], "clusters.edits": str(path)}))
    found = datus.load(tmp_path / "run", images=tiny.images)
    assert (found.k, found.ks) == (4, (4,))
    assert found.names == ("cluster 0", "water", "cluster 2", "cluster 3", "cluster 4")
    assert [one.number for one in found.clusters] == [1, 2, 4]
    assert before.names[1] == "cluster 1"
    assert len(found.scores["merge_nearest"].match) == 5
    assert np.all(np.isin(np.unique(found[0].mask), [1, 2, 4, 255]))
    found.named({2: "rock"}).export("png", tmp_path / "png", images=False)
    listed = (tmp_path / "png/classes.txt").read_text(encoding="utf-8")
    assert "rock" in listed
    assert "water" in listed
    assert found.plot(2).width > 100
    with pytest.raises(UsageError, match="this run was edited: add settings="):
        found.predict(tiny.images, out=tmp_path / "new", progress=False)
    more = {"clusters.edits": str(path)}
    new = found.predict(tiny.images, out=tmp_path / "new", settings=more, progress=False)
    assert all(np.array_equal(one.mask, old.mask) for one, old in zip(new, found, strict=True))
    assert new.names == found.names


@pytest.mark.slow
def test_a_result_stays_what_it_was_when_the_folder_goes_on(tiny: Dataset, tmp_path: Path) -> None:
    go(tiny.config(tmp_path / "run"))
    before = datus.load(tmp_path / "run", images=tiny.images)
    masks = [one.mask for one in before]
    go(tiny.config(tmp_path / "run", {"clusters.k": [2], "graphs.threshold": 0.5}))
    assert before.k == 3
    assert all(np.array_equal(one.mask, mask) for one, mask in zip(before, masks, strict=True))
    assert datus.load(tmp_path / "run").k == 2
    new = before.predict(tiny.images, out=tmp_path / "new", progress=False)
    assert all(np.array_equal(one.mask, mask) for one, mask in zip(new, masks, strict=True))


def test_damage_and_pruning_are_told(run_copy: Path, tiny: Dataset) -> None:
    found = datus.load(run_copy, images=tiny.images)
    shutil.rmtree(run_copy / "segments")
    with pytest.raises(WorkError, match="segments of a0 are gone, pruned or damaged: mine again"):
        _ = found["a0"].segments
    assert found["a0"].mask.size
    assert found.clusters[0].examples == ()
    (run_copy / "latest/masks-k3/a1.png").write_bytes(b"")
    with pytest.raises(WorkError):
        _ = datus.load(run_copy)["a1"].mask


def test_images_that_changed(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", ("a", "b", "c"))
    go(dataset.config(tmp_path / "run"))
    found = datus.load(tmp_path / "run", images=dataset.images)
    shutil.copy(dataset.images / "b.png", dataset.images / "a.png")
    with pytest.raises(UsageError, match="not the image that the run saw; mine again"):
        _ = found["a"].image
    (dataset.images / "a.png").unlink()
    with pytest.raises(UsageError, match="if the images were moved"):
        _ = found["a"].image
    assert "data:image/jpeg" in found["a"]._repr_html_()  # the small photo of the run folder
    for path in (tmp_path / "run/segments").rglob("shard-*"):
        path.unlink()
    assert datus.load(tmp_path / "run")["b"].card(small=True).image is None
    assert "data:image/png" in datus.load(tmp_path / "run")["b"]._repr_html_()  # the mask alone


# --- predict, save, remove ----------------------------------------------------------------------


def test_predict_gives_old_images_their_old_labels(result: datus.Result, tmp_path: Path) -> None:
    arrays = [one.image for one in result[2:6]]
    new = result.named({1: "one"}).predict(arrays, out=tmp_path / "new", progress=False)
    assert [one.mask.shape for one in new] == [array.shape[:2] for array in arrays]
    pairs = zip(new, result[2:6], strict=True)
    assert all(np.array_equal(one.mask, old.mask) for one, old in pairs)
    assert new.names[1] == "one"
    assert new.scores == {}
    again = new.predict(arrays[:1], out=tmp_path / "newer", progress=False)  # of taken clusters
    assert np.array_equal(again[0].mask, new[0].mask)


def test_predict_is_as_silent_as_mine(
    tiny: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {k: v for k, v in SPEED.items() if k != "clusters.k"}
    arguments = {"out": tmp_path / "run", "settings": settings, "progress": False}
    quiet = datus.mine(tiny.images, 3, **arguments)
    pictures = [quiet[0].image]
    for one in (quiet, quiet.at(3), quiet.named({1: "one"}), quiet.save(tmp_path / "kept")):
        new = one.predict(pictures, out=tmp_path / "new")
        new.predict(pictures, out=tmp_path / "newer")
        assert capfd.readouterr() == ("", "")
    quiet.predict(pictures, out=tmp_path / "loud", progress=True)
    assert "masks" in capfd.readouterr().err
    datus.load(quiet.folder).predict(pictures, out=tmp_path / "loud")
    assert capfd.readouterr().err


def test_predict_is_the_command_lines_frozen_clusters(
    finished: Path, result: datus.Result, tmp_path: Path
) -> None:
    more = make_dataset(tmp_path / "more", ("x0", "x1", "x2"))
    new = result.predict(more.images, out=tmp_path / "one" / "run", progress=False)
    frozen = {"clusters.frozen": str(finished), "data.truth": "", "data.classes": ""}
    go(more.config(tmp_path / "two" / "run", frozen))
    for one in new:
        file = tmp_path / "two/run/latest/masks-k3" / f"{one.image_id}.png"
        assert np.array_equal(one.mask, np.asarray(Image.open(file)))
    marks = {stage: new.finished.made(stage, 3) for stage in ("clusters", "masks")}
    assert all((tmp_path / "two/run" / stage / mark).is_dir() for stage, mark in marks.items())


def test_save_and_move(tiny: Dataset, tmp_path: Path) -> None:
    arrays = [np.asarray(Image.open(path)) for path in sorted(tiny.images.rglob("*.png"))]
    settings = {k: v for k, v in SPEED.items() if k != "clusters.k"}
    first = datus.mine(arrays, 3, out=tmp_path / "run", settings=settings, progress=False)
    kept = first.save(tmp_path / "kept")
    shutil.rmtree(tmp_path / "run")
    assert np.array_equal(kept[0].image, arrays[0])
    shutil.move(tmp_path / "kept", tmp_path / "moved")
    moved = datus.load(tmp_path / "moved")
    assert np.array_equal(moved[0].image, arrays[0])
    assert moved[0].mask.shape == arrays[0].shape[:2]
    with pytest.raises(UsageError, match="is there already: choose another folder"):
        moved.save(tmp_path / "moved")


def test_places_of_others_are_only_paths(run_copy: Path) -> None:
    (run_copy / PLACES).write_text('{"seed": 7, "data.images": "in"}', encoding="utf-8")
    found = datus.load(run_copy)
    assert found.config.seed == 0
    assert found.config.data.images == str(run_copy / "in")
    (run_copy / PLACES).write_text("[1", encoding="utf-8")
    assert datus.load(run_copy).config.data.images == ""


def test_remove_leaves_what_is_not_ours(run_copy: Path) -> None:
    with pytest.raises(UsageError, match="not in the cache, so it is yours"):
        datus.load(run_copy).remove()
    assert run_copy.is_dir()


def test_looking_writes_nothing(result: datus.Result, finished: Path) -> None:
    before = snapshot(finished)
    result._repr_html_()
    result.plot(2)
    _ = result.clusters
    assert snapshot(finished) == before


# --- pictures -----------------------------------------------------------------------------------


def test_plot(result: datus.Result) -> None:
    two = result.plot(2, columns=2, side_px=40)
    one = result.plot(["a0"], columns=2, side_px=40)
    assert two.width > one.width > 80
    assert np.array_equal(np.asarray(result.plot(["a0"], side_px=40)), np.asarray(one))
    assert np.array_equal(np.asarray(result.plot("a0", side_px=40)), np.asarray(one))
    for wrong in ({"which": 0}, {"which": -3}, {"columns": 0}, {"side_px": -5}):
        with pytest.raises(UsageError, match="plot: expected at least one image, one column and"):
            result.plot(**wrong)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"min_confidence": 5}, "min_confidence: expected 0 to 1, got 5"),
        ({"min_confidence": float("nan")}, "min_confidence: expected 0 to 1, got nan"),
        ({"options": {"min_area": 0}}, "min_area: expected at least 1 pixel, got 0"),
        (
            {"options": {"polygon": True}},
            "options: expected a dict of polygons, min_area, image_url, about, "
            "got {'polygon': True}",
        ),
    ],
)
def test_an_export_that_makes_no_sense_is_refused(
    result: datus.Result, tmp_path: Path, more: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError) as caught:
        result.export("coco", tmp_path / "out", **more)
    assert str(caught.value) == text
    assert not (tmp_path / "out").exists()


def test_options_of_an_export_may_be_a_dict(result: datus.Result, tmp_path: Path) -> None:
    result.export("coco", tmp_path / "out", options={"polygons": True})
    table = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())
    assert all(isinstance(row["segmentation"], list) for row in table["annotations"])


def test_overlay_and_png(result: datus.Result) -> None:
    one = result["a0"]
    assert np.array_equal(np.asarray(one.overlay(0.6)).shape, one.image.shape)
    assert max(one.overlay(side_px=20).size) == 20
    assert Image.open(io.BytesIO(one._repr_png_())).format == "PNG"


def test_html_is_light_and_escaped(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>'\"&amp;"
    dataset = make_dataset(tmp_path / "data", (hostile, "b", "c"))
    go(dataset.config(tmp_path / "run"))
    found = datus.load(tmp_path / "run", images=dataset.images).named({1: hostile})
    for text in (found._repr_html_(), found[0]._repr_html_()):
        assert "<img src=x" not in text
        assert "&lt;img src=x onerror" in text
        assert "<script" not in text
        assert len(text) < 200_000

"""From a finished run to a folder: which masks, names, scores, images, and the command itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from importers import png_pillow
from PIL import Image
from tiny_runs import IDS, Dataset
from typer.testing import CliRunner

from datus.cli.app import app
from datus.errors import UsageError, WorkError
from datus.formats.export import _item, cluster_names, find_masks, pixel_confidence
from datus.inputs.find import sha256_of
from datus.method.masks import labels_to_pixels
from datus.store.store import Store
from datus.types import IGNORE, ImageRecord


def export(run: Path, out: Path, *more: str, to: str = "png") -> str:
    """The command; its output. Fails if it does."""
    done = CliRunner().invoke(app, ["export", str(run), "--to", to, "--out", str(out), *more])
    assert done.exit_code == 0, done.output
    return done.output


def refused(run: Path, out: Path, *more: str, to: str = "png") -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export", str(run), "--to", to, "--out", str(out), *more])
    assert not out.exists()
    return done.exit_code, done.output.strip().splitlines()[-1]


def masks_of(run: Path) -> dict[str, Any]:
    root = run / "latest" / "masks-k3"
    return {one: np.array(Image.open(root / f"{one}.png")) for one in IDS}


def test_all_masks_come_out_as_they_are(finished: Path, tmp_path: Path) -> None:
    output = export(finished, tmp_path / "out")
    assert f"{tmp_path / 'out'}: 10 images, 3 classes, K = 3" in output
    found = png_pillow(tmp_path / "out", tmp_path)
    for image_id, mask in masks_of(finished).items():
        np.testing.assert_array_equal(found[image_id], mask)
    about = json.loads((tmp_path / "out" / "datus_export.about").read_text())
    assert (about["format"], about["stage"], about["k"]) == ("png", "masks", 3)
    assert about["fingerprint"] == (finished / "latest" / "masks-k3").resolve().parent.name


def test_scores_of_parts_are_margins(finished: Path, tmp_path: Path) -> None:
    export(finished, tmp_path / "out", to="coco")
    table = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())
    scores = [row["score"] for row in table["annotations"] if "score" in row]
    assert scores
    assert all(0 < score <= 1 for score in scores)
    assert [row["file_name"] for row in table["images"]] == [f"{one}.png" for one in IDS]
    assert table["info"]["k"] == 3


def test_pruned_segments_leave_masks_without_scores(run_copy: Path, tmp_path: Path) -> None:
    for path in (run_copy / "segments").rglob("shard-*"):
        path.unlink()
    assert "10 images without scores" in export(run_copy, tmp_path / "out", to="coco")
    table = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())
    assert not any("score" in row for row in table["annotations"])


def test_margins_are_known_where_pixel_and_segment_agree() -> None:
    behind = {
        "labels": np.array([[0, 1], [2, 3]], np.int32),
        "cluster": np.array([0, 1, 1, -1], np.int16),
        "confidence": np.array([0.5, 0.25, 0.0, 0.0], np.float32),  # 0: named by its neighbours
    }
    labels = np.array([[0, 0, 1, 1], [1, 1, 255, 255]], np.uint8)
    lookup = np.full(256, IGNORE, np.uint8)
    lookup[:2] = 0, 1
    nan = np.nan
    expected = [[0.5, 0.5, 0.25, 0.25], [nan, nan, nan, nan]]
    np.testing.assert_array_equal(pixel_confidence(labels, behind, lookup), expected)
    labels[0, 1] = 1  # a border that was refined
    assert np.isnan(pixel_confidence(labels, behind, lookup)[0, 1])


def test_less_sure_pixels_lose_their_label(finished: Path, tmp_path: Path) -> None:
    store = Store(finished)
    masks = find_masks(store)
    export(finished, tmp_path / "out", "--min-confidence", "0.5")
    found, n_lost = png_pillow_raw(tmp_path / "out"), 0
    for shard in masks.index.shards:
        behind = [store.read_shard((stage, mark, shard.key)) for stage, mark in
                  zip(("masks", "segments"), masks.scored, strict=True)]  # fmt: skip
        for record in shard.records:
            drawn, cut = (data.arrays[record.image_id] for data in behind if data)
            mask = masks_of(finished)[record.image_id]
            sure = labels_to_pixels(drawn["confidence"][cut["labels"]], *mask.shape) >= 0.5
            np.testing.assert_array_equal(found[record.image_id], np.where(sure, mask, 255))
            n_lost += int((~sure).sum())
    assert n_lost > 0


def test_confidence_comes_as_a_grey_picture(finished: Path, tmp_path: Path) -> None:
    export(finished, tmp_path / "out")
    grey = np.array(Image.open(tmp_path / "out" / "confidence" / "training" / f"{IDS[0]}.png"))
    assert grey.dtype == np.uint8
    assert grey.shape == masks_of(finished)[IDS[0]].shape
    assert grey.max() > 25


def test_a_threshold_needs_the_segments_and_a_share(run_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = (2, "error: --min-confidence 2.0: expected 0 to 1")
    assert refused(run_copy, out, "--min-confidence", "2") == expected
    for path in (run_copy / "segments").rglob("shard-*"):
        path.unlink()
    code, text = refused(run_copy, out, "--min-confidence", "0.5")
    assert code == 1
    assert text.startswith("error: --min-confidence: the segments of ")


# --- names --------------------------------------------------------------------------------------


def test_names_come_from_a_file_or_from_the_report(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.toml"
    path.write_text('[names]\n1 = "sea"\n2 = "sea"\n')
    assert "2 classes" in export(finished, tmp_path / "a", "--names", str(path))
    found, masks = png_pillow_raw(tmp_path / "a"), masks_of(finished)
    for image_id, mask in masks.items():
        expected = np.where(mask == 2, 1, mask)
        np.testing.assert_array_equal(found[image_id], expected)
    store = Store(finished)
    names = cluster_names(store, find_masks(store), "matched")
    assert sorted(names) == ["c0", "c1", "c2"]
    export(finished, tmp_path / "b", "--names", "matched")
    classes = json.loads((tmp_path / "b" / "classes.json").read_text())["classes"]
    assert classes == names


def png_pillow_raw(folder: Path) -> dict[str, Any]:
    root = folder / "annotations" / "training"
    return {one: np.array(Image.open(root / f"{one}.png")) for one in IDS}


def test_names_that_are_no_file_are_refused(finished: Path, tmp_path: Path) -> None:
    code, text = refused(finished, tmp_path / "out", "--names", "best")
    assert (code, text) == (2, "error: --names best: expected matched, majority or a TOML file")


# --- which masks --------------------------------------------------------------------------------


def test_what_is_not_there_says_so(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert refused(tmp_path, out) == (
        2,
        f"error: {tmp_path}: not a run folder; datus run makes one",
    )
    assert refused(finished, out, "--k", "4") == (
        2,
        f"error: --k 4: {finished} has masks of K = 3",
    )
    assert refused(finished, out, "--denoised") == (
        1,
        f"error: {finished}: no masks of stage denoise in it; "
        "run it with --set denoise.enabled=true",
    )
    assert refused(finished, out, "--polygons")[0] == 2
    assert refused(finished, out, "--min-area", "0", to="coco")[0] == 2
    assert refused(finished, out, to="yalo")[0] == 2
    assert refused(finished, out, to="fiftyone") == (
        2,
        "error: fiftyone holds the images too: add --images FOLDER, as for the run",
    )


def test_an_unfinished_run_is_refused(run_copy: Path, tmp_path: Path) -> None:
    marks = next((run_copy / "masks").iterdir())
    next(marks.glob("shard-*.json")).unlink()
    with pytest.raises(WorkError) as error:
        find_masks(Store(run_copy))
    assert str(error.value).startswith("masks of K = 3 lacks 1 of ")
    assert str(error.value).endswith("run the same datus run again, then export")


def test_a_changed_mask_is_refused_and_nothing_is_left(run_copy: Path, tmp_path: Path) -> None:
    path = (run_copy / "latest" / "masks-k3" / "a1.png").resolve()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    code, text = refused(run_copy, tmp_path / "out")
    assert code == 1
    assert "a1.png: gone or changed since it was written" in text
    assert list(tmp_path.iterdir()) == [run_copy]


def test_runs_without_links_are_found_by_their_recipes(run_copy: Path) -> None:
    linked = find_masks(Store(run_copy))
    shutil.rmtree(run_copy / "latest")
    assert find_masks(Store(run_copy), 3) == linked


def test_several_k_must_be_chosen_from(run_copy: Path) -> None:
    latest = run_copy / "latest"
    (latest / "masks-k7").symlink_to((latest / "masks-k3").readlink())
    with pytest.raises(UsageError) as error:
        find_masks(Store(run_copy))
    assert str(error.value) == f"{run_copy} has masks of K = 3, 7: add --k to choose"
    assert find_masks(Store(run_copy), 3).k == 3


# --- images -------------------------------------------------------------------------------------


def test_images_are_those_of_the_run(finished: Path, tiny: Dataset, tmp_path: Path) -> None:
    export(finished, tmp_path / "out", "--images", str(tiny.images), to="yolo")
    for image_id in IDS:
        copy = tmp_path / "out" / "images" / "train" / f"{image_id}.png"
        assert copy.read_bytes() == (tiny.images / f"{image_id}.png").read_bytes()
        assert (tmp_path / "out" / "labels" / "train" / f"{image_id}.txt").is_file()


def test_other_images_are_refused(finished: Path, tiny: Dataset, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny.images, tmp_path / "other"))
    shutil.copy(other / "a0.png", other / "a1.png")
    code, text = refused(finished, tmp_path / "out", "--images", str(other))
    assert code == 2
    assert text.endswith("a1.png: not the image that the run saw; run datus run again")


def test_an_image_on_its_side_is_written_upright(tmp_path: Path) -> None:
    """Tools that ignore the tag would lay the mask across."""
    pixels = np.zeros((4, 9, 3), np.uint8)
    pixels[:, 6:] = 200
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    image.save(path, exif=exif, quality=95)
    data = path.read_bytes()
    record = ImageRecord("a", "a.jpg", 9, 4, sha256_of(data), "")
    item = _item(record, np.zeros((9, 4), np.uint8), None, tmp_path)
    assert item.file_name == "a.png"
    (tmp_path / "a.png").write_bytes(item.image or b"")
    upright = np.array(Image.open(tmp_path / "a.png"))
    assert upright.shape == (9, 4, 3)
    assert upright[7:].mean() > 150
    assert upright[:5].mean() < 50
    Image.fromarray(pixels).save(path)
    plain = ImageRecord("a", "a.jpg", 4, 9, sha256_of(path.read_bytes()), "")
    item = _item(plain, np.zeros((4, 9), np.uint8), None, tmp_path)
    assert (item.file_name, item.image) == ("a.jpg", path.read_bytes())


def test_a_path_that_leads_out_is_refused(tmp_path: Path) -> None:
    record = ImageRecord("../a", "../a.jpg", 2, 2, "", "")
    with pytest.raises(WorkError, match="leads out of the image folder"):
        _item(record, np.zeros((2, 2), np.uint8), None, tmp_path)

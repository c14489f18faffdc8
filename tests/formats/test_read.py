"""Corrected masks come back: every format that is written is read again, pixel for pixel."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_cases import classes, items, traps
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from datus.errors import UsageError
from datus.formats.coco import coco_mask, coco_text
from datus.formats.formats import FORMATS
from datus.formats.labelstudio import brush_mask, pack
from datus.formats.parts import find_parts
from datus.formats.polygons import outline, polygon_mask
from datus.formats.read import open_corrections
from datus.formats.records import Options
from datus.types import IGNORE, Array

NAMES = tuple(f"cluster {label}" for label in range(5))


def written(name: str, folder: Path, polygons: bool = False) -> Path:
    folder.mkdir()
    FORMATS[name].write(folder, items(), classes(), Options(polygons=polygons))
    if name == "label-studio":
        submit(folder / "tasks.json")
    return folder


def submit(path: Path) -> None:
    """What a person does who takes every prediction as it is."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    path.write_text(json.dumps(tasks))


def drawn(path: Path) -> list[Array]:
    return [drawing.draw() for drawing in open_corrections(path).images.values()]


def same(path: Path, missing: tuple[str, ...] = ()) -> None:
    found = open_corrections(path)
    assert found.names == NAMES
    expected = {name: labels for name, labels in traps().items() if name not in missing}
    assert set(found.images) == set(expected)
    for name, drawing in found.images.items():
        labels = drawing.draw()
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected[name], err_msg=name)


def zipped(folder: Path, path: Path, above: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for one in sorted(folder.rglob("*")):
            archive.write(one, Path(above) / one.relative_to(folder))
    return path


# --- what we write ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "polygons"),
    [
        *(("png", False), ("coco", False), ("coco", True), ("coco-panoptic", False)),
        *(("cvat", False), ("voc", False)),
    ],
)
def test_all_pixels_come_back(name: str, polygons: bool, tmp_path: Path) -> None:
    same(written(name, tmp_path / "out", polygons))


def test_all_pixels_come_back_from_label_studio(tmp_path: Path) -> None:
    folder = written("label-studio", tmp_path / "out")
    same(folder, missing=("nothing",))  # without a region a task says no size
    tasks = json.loads((folder / "tasks.json").read_text())
    (folder / "label_config.xml").unlink()
    for task in tasks:  # as its server exports what it knows of an image that was uploaded
        name = task["data"].pop("image_id")
        task["data"]["image"] = f"/data/upload/3/0123abcd-{name.rpartition('/')[2]}.png"
    (folder / "tasks.json").write_text(json.dumps(tasks))
    found = open_corrections(folder / "tasks.json")
    assert set(found.images) == {"rings", "scattered", "with space", "whole"}
    assert found.names[:3] == ("cluster 0", "cluster 1", "cluster 2")  # in order of first use


@pytest.mark.parametrize("name", ["png", "coco", "cvat"])
def test_zips_are_read_like_folders(name: str, tmp_path: Path) -> None:
    folder = written(name, tmp_path / "out")
    if name == "cvat":
        same(folder / "annotations.zip")
        unpacked = tmp_path / "unpacked"
        shutil.unpack_archive(folder / "annotations.zip", unpacked)
        same(unpacked)
        same(zipped(unpacked, tmp_path / "deep.zip", "task"))
    else:
        same(zipped(folder, tmp_path / "all.zip"))


def test_a_zip_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open it reads all names: once for each picture would take their square."""
    path = zipped(written("voc", tmp_path / "out"), tmp_path / "all.zip")
    opened: list[Path] = []

    class Counted(zipfile.ZipFile):
        def __init__(self, file: Path) -> None:
            opened.append(file)
            super().__init__(file)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    assert len(drawn(path)) > 1
    assert opened == [path]


def test_one_json_file_is_enough(tmp_path: Path) -> None:
    folder = written("coco", tmp_path / "out")
    same(folder / "annotations" / "instances_default.json")


def test_uncompressed_run_lengths_are_read(tmp_path: Path) -> None:
    folder = written("coco", tmp_path / "out")
    path = folder / "annotations" / "instances_default.json"
    table = json.loads(path.read_text())
    parts = [part for item in items() for part in find_parts(item.labels)]
    for row, part in zip(table["annotations"], parts, strict=True):
        row["segmentation"]["counts"] = part.counts.tolist()
    path.write_text(json.dumps(table))
    same(path)


# --- what editors make of it --------------------------------------------------------------------


def test_plain_pictures_are_read_by_number(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [3, 3, 1]], np.uint8)
    (tmp_path / "b").mkdir()
    Image.fromarray(labels).save(tmp_path / "b" / "one.png")
    found = open_corrections(tmp_path)
    assert found.names == ("class 0", "class 1", "class 2", "class 3")
    np.testing.assert_array_equal(found.images["b/one"].draw(), labels)


def test_colours_count_where_an_editor_wrote_the_palette_anew(tmp_path: Path) -> None:
    folder = written("png", tmp_path / "out")
    for path in (folder / "annotations" / "training").rglob("*.png"):
        picture = Image.open(path).convert("RGB")
        if path.stem == "whole":
            picture.save(path)  # colours, no numbers
        else:
            picture.quantize(8, dither=Image.Dither.NONE).save(path)
    same(folder)


def test_numbers_count_where_the_palette_is_another_one(tmp_path: Path) -> None:
    folder = written("png", tmp_path / "out")
    for path in (folder / "annotations" / "training").rglob("*.png"):
        Image.fromarray(np.array(Image.open(path))).save(path)  # grey
    same(folder)
    (folder / "classes.json").unlink()
    same(folder)  # names from classes.txt


# --- pieces -------------------------------------------------------------------------------------

small_masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@given(small_masks)
def test_run_lengths_and_outlines_come_back(mask: Any) -> None:
    height, width = mask.shape
    np.testing.assert_array_equal(brush_mask(pack(mask).tolist(), height, width), mask)
    labels = np.where(mask, 0, IGNORE).astype(np.uint8)
    for part in find_parts(labels):
        whole = np.zeros(mask.shape, bool)
        top, left, bottom, right = part.box
        whole[top:bottom, left:right] = part.mask
        np.testing.assert_array_equal(coco_mask(coco_text(part.counts), height, width), whole)
        np.testing.assert_array_equal(coco_mask(part.counts.tolist(), height, width), whole)
        points = np.add(outline(part.mask), (left, top))
        np.testing.assert_array_equal(polygon_mask(points, height, width), whole)


def inside(x: float, y: float, points: list[tuple[float, float]]) -> bool:
    """A ray to the left, side by side."""
    crossed = 0
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if (y0 <= y) != (y1 <= y):
            crossed += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return crossed % 2 == 1


coordinate = st.integers(-12, 52).map(lambda fifths: fifths / 5)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=7))
def test_polygons_are_filled_by_the_centres_of_pixels(points: list[tuple[float, float]]) -> None:
    expected = [[inside(x + 0.5, y + 0.5, points) for x in range(8)] for y in range(6)]
    np.testing.assert_array_equal(polygon_mask(points, 6, 8), expected)


def test_brush_runs_of_different_values_are_read() -> None:
    """Label Studio may also write values one by one; our writer never does."""
    values = [9, 9, 9, 0, 9, 9, 9, 255]
    bits = f"{8:032b}{7:05b}{3:04b}{7:04b}{11:04b}{15:04b}"
    bits += "0" + "00" + f"{7:04b}" + "".join(f"{one:08b}" for one in values)
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    np.testing.assert_array_equal(brush_mask(packed, 1, 2), [[False, True]])


def test_the_tools_themselves_agree() -> None:
    tools = pytest.importorskip("pycocotools.mask", exc_type=ImportError)
    rng = np.random.default_rng(0)
    mask = rng.random((37, 53)) < 0.3
    packed = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(coco_mask(packed, 37, 53), mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coco_mask([3, 4], 2, 3), "run lengths do not add up to 2 x 3 pixels"),
        (lambda: coco_mask("~~", 2, 3), "run lengths have letters that COCO does not use"),
        (lambda: coco_mask("o" * 14 + "0", 2, 3), "a run length is too long"),
        (lambda: coco_mask("", 2, 3), "run lengths do not add up to 2 x 3 pixels"),
        (lambda: brush_mask([1, 2], 2, 3), "brush run lengths end too early"),
        (lambda: brush_mask([300], 2, 3), "brush run lengths: expected numbers 0 to 255"),
        (
            lambda: brush_mask(pack(np.ones((2, 2), bool)).tolist(), 2, 3),
            "brush run lengths hold 16 values, not 4 x 2 x 3",
        ),
        (lambda: polygon_mask([0, 0, 1, 1], 2, 3), "polygon: expected three points x, y or more"),
    ],
)
def test_broken_shapes_say_why(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


# --- what is refused ----------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        drawn(path)
    return str(error.value).replace(str(path), "PATH")


def test_what_is_no_format_is_refused(tmp_path: Path) -> None:
    expected = (
        "expected label PNGs, COCO instances or panoptic, CVAT's Segmentation mask 1.1, "
        "or Label Studio's JSON: docs/corrections.md"
    )
    assert refused(tmp_path / "gone") == "corrections: PATH: no such file or folder"
    assert refused(tmp_path) == f"corrections: PATH: nothing in it that is read: {expected}"
    path = tmp_path / "a.json"
    path.write_text("{")
    assert refused(path) == (
        "corrections: PATH: not valid JSON (JSONDecodeError): export it again from the tool"
    )
    path.write_text('[{"image": "a.png", "label": []}]')
    assert refused(path) == (
        "corrections: PATH: this is Label Studio's JSON-MIN, which leaves out the sizes: "
        "export as JSON"
    )
    path.write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    text = f"corrections: PATH: COCO instances without a single image: {expected}"
    assert refused(path) == text


def test_two_tables_are_refused(tmp_path: Path) -> None:
    folder = written("coco", tmp_path / "out") / "annotations"
    shutil.copy(folder / "instances_default.json", folder / "more.json")
    assert refused(folder) == (
        "corrections: PATH: more than one annotation file: instances_default.json, more.json; "
        "keep one"
    )


def test_predictions_are_no_corrections(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    FORMATS["label-studio"].write(tmp_path / "out", items(), classes(), Options())
    assert refused(tmp_path / "out" / "tasks.json") == (
        "corrections: PATH: no task has an annotation: submit tasks in Label Studio "
        "(predictions alone are not corrections), then export as JSON"
    )


@pytest.mark.parametrize("encoding", ["no-such", "utf-32", "shift_jis"])
def test_an_encoding_that_is_not_read_is_said(encoding: str, tmp_path: Path) -> None:
    path = written("label-studio", tmp_path / "out") / "label_config.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><View/>')
    assert refused(path.parent) == (
        "corrections: PATH/label_config.xml: not valid XML: save it again as UTF-8, or remove it"
    )


def test_cancelled_annotations_do_not_count(tmp_path: Path) -> None:
    folder = written("label-studio", tmp_path / "out")
    tasks = json.loads((folder / "tasks.json").read_text())
    tasks[0]["annotations"].append({"was_cancelled": True, "result": []})
    tasks[1]["annotations"][0]["was_cancelled"] = True
    (folder / "tasks.json").write_text(json.dumps(tasks))
    same(folder, missing=("nothing", "b/scattered"))


def test_boxes_are_refused(tmp_path: Path) -> None:
    folder = written("label-studio", tmp_path / "out")
    tasks = json.loads((folder / "tasks.json").read_text())
    tasks[0]["annotations"][0]["result"][0]["type"] = "rectanglelabels"
    (folder / "tasks.json").write_text(json.dumps(tasks))
    assert refused(folder / "tasks.json") == (
        "corrections: PATH: task : regions of type rectanglelabels have no mask: "
        "expected brushlabels or polygonlabels"
    )


def test_unknown_labels_and_colours_are_refused(tmp_path: Path) -> None:
    folder = written("png", tmp_path / "png")
    path = folder / "annotations" / "training" / "rings.png"
    labels = np.array(Image.open(path))
    labels[0, 0] = 9
    Image.fromarray(labels).save(path)
    assert refused(folder) == (
        "corrections: PATH/annotations/training/rings.png: label 9, but its class file names 5: "
        "0 to 4, and 255 for nothing; add a name or repaint"
    )
    cvat = tmp_path / "cvat"
    shutil.unpack_archive(written("cvat", tmp_path / "out") / "annotations.zip", cvat)
    path = cvat / "SegmentationClass" / "rings.png"
    pixels = np.array(Image.open(path).convert("RGB"))
    pixels[0, :3] = (1, 2, 3)
    Image.fromarray(pixels).save(path)
    assert refused(cvat) == (
        "corrections: PATH/SegmentationClass/rings.png: 3 pixels of colour #010203, which "
        "labelmap.txt does not name: add the class there, or repaint"
    )


def test_broken_coco_says_where(tmp_path: Path) -> None:
    path = written("coco", tmp_path / "out") / "annotations" / "instances_default.json"
    table = json.loads(path.read_text())
    table["annotations"][0]["segmentation"]["size"] = [1, 2]
    path.write_text(json.dumps(table))
    assert refused(path) == (
        "corrections: PATH: annotation 1: not as COCO wants it: size [1, 2], the image has "
        "[23, 31]; export it again"
    )
    del table["annotations"][0]["category_id"], table["images"][0]["height"]
    path.write_text(json.dumps(table))
    assert refused(path) == (
        "corrections: PATH: not as COCO wants it: no 'height'; export it again"
    )


def test_panoptic_pngs_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = written("coco-panoptic", tmp_path / "out")
    path = folder / "annotations" / "panoptic_default.json"
    assert refused(path) == (
        "corrections: PATH: panoptic_default/rings.png is missing: COCO panoptic is the JSON and "
        "a folder of PNGs beside it; give the folder that holds both"
    )


def test_a_name_in_a_table_leads_nowhere_else(tmp_path: Path) -> None:
    folder = written("coco-panoptic", tmp_path / "out")
    path = folder / "annotations" / "panoptic_default.json"
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(secret)
    table = json.loads(path.read_text())
    table["annotations"][0]["file_name"] = "../../../secret.png"
    path.write_text(json.dumps(table))
    assert "is missing" in refused(folder)

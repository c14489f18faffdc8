"""What each writer writes, trap by trap. What importers make of it: test_exports_importers.py."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from export_cases import K, classes, items, traps
from importers import panoptic_pillow, png_pillow
from PIL import Image

from datus.errors import UsageError
from datus.formats import pngs
from datus.formats.folder import new_folder, put
from datus.formats.formats import FORMATS, find_format
from datus.formats.names import default_names, make_classes, matched_names, read_names
from datus.formats.records import Item, Options
from datus.method.masks import PALETTE
from datus.types import EXPORT_MARK, IGNORE

WITHOUT_EXTRAS = [name for name in FORMATS if name != "hf"]


def write(name: str, folder: Path, options: Options = Options(), **more: Any) -> Path:  # noqa: B008
    folder.mkdir()
    FORMATS[name].write(folder, more.get("items", items()), more.get("classes", classes()), options)
    return folder


def read_json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def same(found: dict[str, Any]) -> None:
    assert set(found) == set(traps())
    for image_id, labels in traps().items():
        np.testing.assert_array_equal(found[image_id], labels, err_msg=image_id)


@pytest.mark.parametrize("name", WITHOUT_EXTRAS)
def test_the_same_masks_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert hashes(write(name, tmp_path / "a")) == hashes(write(name, tmp_path / "b"))


@pytest.mark.parametrize("name", WITHOUT_EXTRAS)
def test_items_are_taken_one_at_a_time(name: str, tmp_path: Path) -> None:
    alive: list[int] = []

    class Watched(Item):
        def __del__(self) -> None:
            alive.append(-1)

    def stream() -> Iterator[Item]:
        for number in range(6):
            labels = np.full((4, 4), number % K, np.uint8)
            alive.append(1)
            yield Watched(f"i{number}", f"i{number}.png", labels, None, b"image")
            assert sum(alive) <= 2

    write(name, tmp_path / "out", items=stream())


@pytest.mark.parametrize("name", [n for n in WITHOUT_EXTRAS if not FORMATS[n].needs_images])
def test_without_images_only_they_are_missing(name: str, tmp_path: Path) -> None:
    every = hashes(write(name, tmp_path / "a"))
    bare = [replace(item, image=None) for item in items()]
    left = hashes(write(name, tmp_path / "b", items=bare))
    if name != "cvat":  # images are in the zip
        assert left.items() <= every.items()
        assert len(every) - len(left) == len(bare)


# --- png ----------------------------------------------------------------------------------------


def test_png_keeps_ids_and_says_what_255_is(tmp_path: Path) -> None:
    folder = write("png", tmp_path / "out")
    same(png_pillow(folder, tmp_path))
    meta = read_json(folder, "classes.json")
    assert meta["ignore_index"] == IGNORE
    assert len(meta["classes"]) == len(meta["palette"]) == K
    assert meta["palette"][0] == PALETTE[0].tolist()
    lines = (folder / "classes.txt").read_text().splitlines()
    assert lines[3] == "3\tcluster 3", "a class without pixels has its name all the same"


# --- coco ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_ids_count_from_one_and_are_unique(polygons: bool, tmp_path: Path) -> None:
    folder = write("coco", tmp_path / "out", Options(polygons=polygons))
    table = read_json(folder, "annotations/instances_default.json")
    assert [row["id"] for row in table["categories"]] == [1, 2, 3, 4, 5]
    assert [row["id"] for row in table["images"]] == [1, 2, 3, 4, 5]
    rows = table["annotations"]
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["category_id"] for row in rows} == {1, 2, 3, 5}, "cluster 3 has no pixels"
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4}, "an image without labels stays"
    assert all(row["iscrowd"] == 0 for row in rows)
    assert all(isinstance(row["segmentation"], list) == polygons for row in rows)


def test_coco_areas_boxes_and_scores(tmp_path: Path) -> None:
    folder = write("coco", tmp_path / "out")
    rows = read_json(folder, "annotations/instances_default.json")["annotations"]
    ring = rows[0]
    assert ring["area"] == 18 * 25 - 12 * 19, "holes are not counted"
    assert ring["bbox"] == [3, 2, 25, 18]
    assert ring["score"] == 0.25
    pixel = rows[1]
    assert (pixel["area"], pixel["bbox"]) == (1, [11, 10, 1, 1])
    assert all("score" not in row for row in rows if row["image_id"] > 1), "none is known there"
    assert sum(row["area"] for row in rows) == sum(int((m != 255).sum()) for m in traps().values())


def test_coco_polygons_have_holes_and_tile_without_gaps(tmp_path: Path) -> None:
    folder = write("coco", tmp_path / "out", Options(polygons=True))
    rows = read_json(folder, "annotations/instances_default.json")["annotations"]
    for row in rows:
        (path,) = row["segmentation"]
        x, y = np.array(path[0::2]), np.array(path[1::2])
        area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2
        assert area == row["area"], "the area inside is that of the pixels, without the holes"


def test_coco_without_any_label_is_valid_json(tmp_path: Path) -> None:
    nothing = [items()[-1]]
    folder = write("coco", tmp_path / "out", items=nothing)
    table = read_json(folder, "annotations/instances_default.json")
    assert (table["annotations"], len(table["images"])) == ([], 1)


def test_panoptic_ids_are_unique_and_colours_are_ids(tmp_path: Path) -> None:
    folder = write("coco-panoptic", tmp_path / "out")
    same(panoptic_pillow(folder, tmp_path))
    rows = read_json(folder, "annotations/panoptic_default.json")["annotations"]
    ids = [one["id"] for row in rows for one in row["segments_info"]]
    assert ids == list(range(1, len(ids) + 1))


# --- yolo ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_whole", [np.trunc, np.round])
def test_yolo_fills_to_the_same_pixels(to_whole: Any, tmp_path: Path) -> None:
    """Holes open, parts apart, whether a reader rounds or cuts decimals off."""
    folder = write("yolo", tmp_path / "out")
    found = {}
    for image_id, labels in traps().items():
        height, width = labels.shape
        found[image_id] = np.full(labels.shape, IGNORE, np.uint8)
        for line in (folder / "labels" / "train" / f"{image_id}.txt").read_text().splitlines():
            label, *numbers = line.split()
            assert len(numbers) >= 6
            assert len(numbers) % 2 == 0
            shares = np.array(numbers, np.float32).reshape(-1, 2)
            assert shares.min() >= 0
            assert shares.max() <= 1
            points = to_whole(shares * np.array([width, height], np.float32)).astype(np.int32)
            drawn = np.zeros(labels.shape, np.uint8)
            cv2.fillPoly(drawn, [points], 1)
            assert (found[image_id][drawn > 0] == IGNORE).all()
            found[image_id][drawn > 0] = int(label)
    same(found)


def test_yolo_names_survive_yaml(tmp_path: Path) -> None:
    odd = make_classes(['a: "b"', "# c", "true", "naïve"])[0]
    folder = write("yolo", tmp_path / "out", classes=odd, items=[])
    lines = (folder / "data.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == ["train: images/train", "val: images/train", "nc: 4", "names:"]
    assert [json.loads(line.partition(": ")[2]) for line in lines[4:]] == list(odd.names)


# --- cvat and voc -------------------------------------------------------------------------------


def test_cvat_zip_has_the_documented_layout(tmp_path: Path) -> None:
    folder = write("cvat", tmp_path / "out")
    with zipfile.ZipFile(folder / "annotations.zip") as archive:
        names = archive.namelist()
        ids = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        labelmap = archive.read("labelmap.txt").decode().splitlines()
        pixels = archive.read("SegmentationClass/rings.png")
    assert ids == ["rings", "b/scattered", "b/with space", "b/whole", "nothing"]
    assert labelmap[:2] == ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    assert len(labelmap) == 2 + K
    assert {name.partition("/")[0] for name in names} == {
        *("ImageSets", "SegmentationClass", "SegmentationObject", "JPEGImages", "labelmap.txt"),
    }
    colours = np.array(Image.open(io.BytesIO(pixels)).convert("RGB"))
    assert (colours[traps()["rings"] == IGNORE] == 0).all(), "no label is background"
    assert [row["name"] for row in read_json(folder, "labels.json")] == default_names(K)
    first = ",".join(str(int(one, 16)) for one in _pairs(read_json(folder, "labels.json")[0]))
    assert labelmap[2] == f"cluster 0:{first}::"


def _pairs(row: Any) -> list[str]:
    text = row["color"].removeprefix("#")
    return [text[i : i + 2] for i in (0, 2, 4)]


def test_voc_keeps_255_and_counts_objects(tmp_path: Path) -> None:
    folder = write("voc", tmp_path / "out")
    rings = traps()["rings"]
    drawn = np.array(Image.open(folder / "SegmentationClass" / "rings.png"))
    np.testing.assert_array_equal(drawn, np.where(rings == IGNORE, IGNORE, rings + 1))
    objects = np.array(Image.open(folder / "SegmentationObject" / "rings.png"))
    assert ((objects == 0) == (rings == IGNORE)).all()
    assert objects.max() == 4, "the ring, the pixel, the island, and the ring in it"


def test_too_many_parts_share_objects_of_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.full((3, 9), IGNORE, np.uint8)
    labels[0, :3], labels[0, 5:7] = 0, 0
    labels[2, ::2] = [1, 0, 1, 1, 0]
    monkeypatch.setattr(pngs, "MAX_OBJECTS", 4)
    objects = pngs._objects(labels)  # the two largest have their own, the rest one a class
    assert objects[0].tolist() == [1, 1, 1, 0, 0, 2, 2, 0, 0]
    assert objects[2, ::2].tolist() == [4, 3, 4, 4, 3]
    assert (objects[1] == 0).all()


@pytest.mark.parametrize("name", ["a:b", "#a", "background", "void"])
def test_names_that_labelmaps_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        write("cvat", tmp_path / "out", classes=make_classes([name])[0])
    assert str(error.value) == (f"class {name!r}: this format keeps : # background void for itself")


@pytest.mark.parametrize("image_id", ["#1", " a", "a\nb"])
def test_image_ids_that_lists_cannot_hold_are_refused(image_id: str, tmp_path: Path) -> None:
    item = Item(image_id, f"{image_id}.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(UsageError, match="lists of this format cannot hold that name"):
        write("voc", tmp_path / "out", items=[item])


def test_too_many_classes_are_refused_where_255_would_be_one(tmp_path: Path) -> None:
    many = make_classes(default_names(255))[0]
    for number, name in enumerate(("voc", "cvat", "fiftyone")):
        with pytest.raises(UsageError, match="254 classes"):
            write(name, tmp_path / str(number), classes=many, items=[])


# --- label studio -------------------------------------------------------------------------------


def test_label_studio_tasks_and_config(tmp_path: Path) -> None:
    odd = make_classes(['a "b" <c> & d', *default_names(K)[1:]])[0]
    options = Options(image_url="https://example.org/i/")
    folder = write("label-studio", tmp_path / "out", options, classes=odd)
    tasks = read_json(folder, "tasks.json")
    assert [task["data"]["image_id"] for task in tasks] == list(traps())
    assert tasks[2]["data"]["image"] == "https://example.org/i/b/with%20space.png"
    (prediction,) = tasks[0]["predictions"]
    labels = [one["value"]["brushlabels"] for one in prediction["result"]]
    assert labels == [[name] for name in odd.names[:3]]
    assert prediction["score"] == 0.25
    assert {one["type"] for one in prediction["result"]} == {"brushlabels"}
    assert tasks[4]["predictions"][0]["result"] == []
    config = ElementTree.parse(folder / "label_config.xml")
    assert [label.get("value") for label in config.iter("Label")] == list(odd.names)


# --- fiftyone -----------------------------------------------------------------------------------


def test_fiftyone_shifts_classes_past_its_background(tmp_path: Path) -> None:
    folder = write("fiftyone", tmp_path / "out")
    targets = read_json(folder, "metadata.json")["info"]["mask_targets"]["segmentation"]
    assert targets["1"] == "cluster 0"
    assert targets[str(IGNORE)] == "ignore"
    for sample in read_json(folder, "samples.json")["samples"]:
        assert (folder / sample["filepath"]).is_file()
        with Image.open(folder / sample["segmentation"]["mask_path"]) as image:
            assert image.mode == "L", "a palette would be read as three channels"
            labels = traps()[sample["image_id"]]
            wanted = np.where(labels == IGNORE, IGNORE, labels + 1)
            np.testing.assert_array_equal(np.array(image), wanted)


# --- parquet ------------------------------------------------------------------------------------


def test_parquet_holds_files_and_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra exports")
    from datus.formats import parquet as ours

    monkeypatch.setattr(ours, "ROW_BYTES", 1)  # a row group each
    monkeypatch.setattr(ours, "FILE_BYTES", 3000)
    folder = write("hf", tmp_path / "out")
    files = sorted((folder / "data").iterdir())
    assert len(files) > 1
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    assert [row["image_id"] for row in rows] == list(traps())
    found = {r["image_id"]: np.array(Image.open(io.BytesIO(r["mask"]["bytes"]))) for r in rows}
    same(found)
    assert [row["classes"] for row in rows] == [[0, 1, 2], [0, 1, 4], [1, 2], [4], []]
    features = json.loads(parquet.read_schema(files[0]).metadata[b"huggingface"])["info"][
        "features"
    ]
    assert features["classes"]["feature"]["names"] == default_names(K)
    assert read_json(folder, "id2label.json")["3"] == "cluster 3"


# --- names --------------------------------------------------------------------------------------


def names_file(folder: Path, text: str) -> Path:
    path = folder / "names.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_clusters_of_one_name_become_one_class(tmp_path: Path) -> None:
    path = names_file(tmp_path, '[names]\n1 = "sky"\n3 = "sky"\n0 = "road"\n')
    names = read_names(path, default_names(4))
    assert names == ["road", "sky", "cluster 2", "sky"]
    found, lookup = make_classes(names)
    assert found.names == ("road", "sky", "cluster 2")
    assert lookup[:4].tolist() == [0, 1, 2, 1]
    assert (lookup[4:] == IGNORE).all()
    assert found.colour(1) == PALETTE[1].tolist()
    assert found.colours[IGNORE].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'expected a block [names] with lines such as 3 = "sky"'),
        ('[names]\n4 = "a"', "expected clusters 0 to 3, got 4"),
        ('[names]\nroad = "a"', "expected clusters 0 to 3, got road"),
        ("[names]\n1 = 2", "cluster 1: expected a name, got 2"),
        ('[names]\n1 = " "', "cluster 1: expected a name, got ' '"),
        ('[names]\n1 = "a\\nb"', "cluster 1: expected a name, got 'a\\nb'"),
        ('[names]\n1 = "cluster 2"', "cluster 1: 'cluster 2' is the name of another cluster"),
    ],
)
def test_wrong_names_say_what_is_expected(text: str, message: str, tmp_path: Path) -> None:
    path = names_file(tmp_path, text)
    with pytest.raises(UsageError) as error:
        read_names(path, default_names(4))
    assert str(error.value) == f"{path}: {message}"


def test_matched_names_are_those_of_the_rule() -> None:
    scores = {"majority": {"match": [1, 1, 0]}, "hungarian_strict": {"match": [1, -1, 0]}}
    row = {"k": 3, "scores": scores, "denoised": {"scores": {"majority": {"match": [0, 0, 0]}}}}
    report, known = {"classes": {"name": "x", "names": ["road", "sky"]}}, default_names(3)
    assert matched_names(report, row, known, "hungarian_strict") == ["sky", "cluster 1", "road"]
    assert matched_names(report, row, known, "majority") == ["sky", "sky", "road"]
    assert matched_names(report, row, known, "majority", denoised=True) == ["road"] * 3
    for broken in (({"classes": None}, row), (report, {})):
        with pytest.raises(UsageError, match="was not scored by majority for K = 3"):
            matched_names(*broken, known, "majority")


def test_a_cluster_that_is_gone_makes_no_class() -> None:
    classes, lookup = make_classes(["road", None, "sky"])
    assert classes.names == ("road", "sky")
    assert lookup[:4].tolist() == [0, 255, 1, 255]


def test_colours_of_classes_differ_and_none_is_black() -> None:
    colours = {tuple(colour) for colour in PALETTE[:IGNORE].tolist()}
    assert len(colours) == IGNORE
    assert (0, 0, 0) not in colours
    assert pngs.VOID not in colours


# --- the folder ---------------------------------------------------------------------------------


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def half_an_export() -> None:
        with new_folder(tmp_path / "out", False, {}) as folder:
            put(folder, "a/b.txt", b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_an_export()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for overwrite, message in (
        (False, f"{out} is there already: choose another --out, or add --overwrite"),
        (True, f"{out} is not an export of datus, it stays: choose another --out"),
    ):
        with pytest.raises(UsageError) as error, new_folder(out, overwrite, {}):
            pass
        assert str(error.value) == message
    assert (out / "mine.txt").read_text() == "mine"


def test_overwrite_replaces_an_export_whole(tmp_path: Path) -> None:
    for number in range(2):
        with new_folder(tmp_path / "out", bool(number), {"n": number}) as folder:
            put(folder, f"{number}.txt", b"")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.txt", EXPORT_MARK]
    assert read_json(tmp_path / "out", EXPORT_MARK) == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_file_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leads out of the export"):
        put(tmp_path / "out", "../x.png", b"")


def test_an_unknown_format_lists_what_there_is() -> None:
    with pytest.raises(UsageError) as error:
        find_format("pascal")
    assert str(error.value) == (
        "--to pascal: expected one of png, coco, coco-panoptic, yolo, cvat, label-studio, "
        "fiftyone, hf, voc"
    )

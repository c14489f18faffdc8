"""png, cvat and voc: what is written, trap by trap."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_cases import K, read_json, same, traps, write
from importers import png_pillow
from PIL import Image

from datus.errors import UsageError
from datus.formats import pngs
from datus.formats.names import default_names, make_classes
from datus.formats.records import Item
from datus.method.masks import PALETTE
from datus.types import IGNORE


def test_png_keeps_ids_and_says_what_255_is(tmp_path: Path) -> None:
    folder = write("png", tmp_path / "out")
    same(png_pillow(folder, tmp_path))
    meta = read_json(folder, "classes.json")
    assert meta["ignore_index"] == IGNORE
    assert len(meta["classes"]) == len(meta["palette"]) == K
    assert meta["palette"][0] == PALETTE[0].tolist()
    lines = (folder / "classes.txt").read_text().splitlines()
    assert lines[3] == "3\tcluster 3", "a class without pixels has its name all the same"


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

"""coco and coco-panoptic: what is written, trap by trap; run lengths."""

from pathlib import Path

import numpy as np
import pytest
from export_cases import items, part_in_image, read_json, same, traps, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from importers import panoptic_pillow

from datus.formats.coco import coco_text
from datus.formats.parts import find_parts
from datus.formats.records import Options
from datus.types import IGNORE, Array

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
LABELS = arrays(np.uint8, SIZES, elements=st.sampled_from([0, 1, 2, IGNORE]))


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


# --- run lengths --------------------------------------------------------------------------------


def from_text(text: str) -> list[int]:
    """COCO's compressed counts, letter by letter."""
    counts: list[int] = []
    value = place = 0
    for letter in text.encode():
        group = letter - 48
        value |= (group & 31) << place
        place += 5
        if not group & 32:
            if group & 16:
                value -= 1 << place
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = place = 0
    return counts


@settings(max_examples=40)
@given(LABELS)
def test_coco_runs_go_down_the_columns(labels: Array) -> None:
    for part in find_parts(labels):
        counts = part.counts
        assert counts.sum() == labels.size
        assert (counts[1:] > 0).all(), "the foot of a column and the head of the next are one run"
        values = np.repeat(np.arange(len(counts)) % 2, counts)
        columns = values.reshape(labels.shape[::-1]).T
        np.testing.assert_array_equal(columns, part_in_image(part, labels))
        assert from_text(coco_text(counts)) == counts.tolist()


def test_coco_text_of_long_runs_and_negative_differences() -> None:
    counts = np.array([0, 70000, 5, 3, 1_000_000, 2, 1, 40])
    assert from_text(coco_text(counts)) == counts.tolist()
    assert coco_text(np.array([6, 1, 40, 4, 5, 4, 5, 4, 21])) == "61X13mN000`0"  # of the COCO API

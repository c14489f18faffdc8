"""What holds for every writer. What importers make of it: test_importers.py."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_cases import K, hashes, items, write

from datus.errors import UsageError
from datus.formats.formats import FORMATS, find_format
from datus.formats.records import Item

WITHOUT_EXTRAS = [name for name in FORMATS if name != "hf"]


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


def test_an_unknown_format_lists_what_there_is() -> None:
    with pytest.raises(UsageError) as error:
        find_format("pascal")
    assert str(error.value) == (
        "--to pascal: expected one of png, coco, coco-panoptic, yolo, cvat, label-studio, "
        "fiftyone, hf, voc"
    )

"""Which images there are, by content; shards that stay where they are when others change."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import Listener, save

import datus.inputs.index
from datus.config import Config
from datus.errors import UsageError
from datus.inputs.find import sha256_of
from datus.inputs.index import Index, Shard, check_inputs, make_index, read_index
from datus.inputs.labels import LABEL_SUFFIXES
from datus.store.store import Store, canonical_json, sealed
from datus.types import ImageRecord


class Folder:
    """An image folder, perhaps with truth, and the run folder that indexes it."""

    def __init__(self, root: Path) -> None:
        self.images, self.truth, self.run_dir = root / "images", root / "truth", root / "run"
        self.images.mkdir()
        self.store = Store(self.run_dir)
        self.listener = Listener()

    def add(self, path: str, value: int = 0, size: tuple[int, int] = (6, 8)) -> None:
        save(self.images / path, np.full((*size, 3), value, np.uint8))

    def add_truth(self, path: str, value: int = 0) -> None:
        save(self.truth / path, np.full((6, 8), value, np.uint8))

    def config(self, **more: Any) -> Config:
        truth = str(self.truth) if self.truth.exists() else ""
        named = {f"data.{name}": value for name, value in more.items()}
        given = {"data.images": str(self.images), "data.truth": truth, "data.classes": "none.toml"}
        return Config.load(None, {**given, **named})

    def index(self, **more: Any) -> Index:
        return make_index(self.config(**more), self.store, self.listener.bar)

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Name -> (when it was written, what is in it)."""
        return {
            path.name: (path.stat().st_mtime_ns, path.read_bytes())
            for path in (self.run_dir / "index").iterdir()
        }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def three(folder: Folder) -> Folder:
    for number, path in enumerate(("b.png", "sub/a.JPG", "a.b.png")):
        folder.add(path, number, (6, 8 + number))
    return folder


# --- records ------------------------------------------------------------------------------------


def test_each_image_is_recorded_in_order_of_its_id(three: Folder) -> None:
    (three.images / "readme.txt").write_text("not an image")
    index = three.index()
    assert [r.image_id for r in index.records] == ["a.b", "b", "sub/a"]
    assert [r.path for r in index.records] == ["a.b.png", "b.png", "sub/a.JPG"]
    assert [(r.height, r.width) for r in index.records] == [(6, 10), (6, 8), (6, 9)]
    assert index.n_other == 1
    assert index.failures == {}
    for record in index.records:
        assert record.sha256 == sha256_of((three.images / record.path).read_bytes())
        assert record.truth_path is None
        assert record.truth_sha256 is None
    assert three.listener.bars == {"index": [3, 3]}


def test_the_index_of_the_last_run_can_be_read(three: Folder) -> None:
    assert read_index(three.store) is None
    index = three.index()
    assert read_index(three.store) == index


def test_an_image_that_cannot_be_used_is_recorded_and_the_others_go_on(three: Folder) -> None:
    (three.images / "empty.png").write_bytes(b"")
    index = three.index()
    assert [r.image_id for r in index.records] == ["a.b", "b", "sub/a"]
    assert set(index.failures) == {"empty"}
    assert read_index(three.store) == index


def test_an_image_beyond_the_limit_of_pixels_is_recorded(three: Folder) -> None:
    index = three.index(max_pixels=55)
    assert [r.image_id for r in index.records] == ["b", "sub/a"]
    assert "60" in index.failures["a.b"]


def test_a_lower_limit_of_pixels_counts_for_images_that_are_known(three: Folder) -> None:
    assert three.index().failures == {}
    assert set(three.index(max_pixels=55).failures) == {"a.b"}
    assert three.index().failures == {}


def test_a_turned_photograph_has_the_size_that_people_see(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(folder.images / "phone.jpg", exif=exif)
    (record,) = folder.index().records
    assert (record.height, record.width) == (9, 6)


# --- content ------------------------------------------------------------------------------------


def test_touching_a_file_changes_nothing_but_the_cache_of_times(three: Folder) -> None:
    before, files = three.index(), three.files()
    os.utime(three.images / "b.png", ns=(1, 1))
    assert three.index() == before
    after = three.files()
    assert {name for name in files if files[name] != after[name]} == {"seen.json"}


def test_a_second_look_writes_nothing(three: Folder) -> None:
    before, files = three.index(), three.files()
    assert three.index() == before
    assert three.files() == files


def test_a_file_that_looks_the_same_is_not_read_again(
    three: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    three.add_truth("b.png")
    before = three.index()
    os.utime(three.images / "sub" / "a.JPG", ns=(1, 1))
    read: list[bytes] = []
    monkeypatch.setattr(
        datus.inputs.index, "sha256_of", lambda data: read.append(data) or sha256_of(data)
    )
    assert three.index() == before
    assert read == [(three.images / "sub" / "a.JPG").read_bytes()]


def test_a_changed_file_of_the_same_size_and_time_is_seen(folder: Folder) -> None:
    folder.add("a.bmp", 1)
    before = folder.index()
    found = (folder.images / "a.bmp").stat()
    folder.add("a.bmp", 2)
    os.utime(folder.images / "a.bmp", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (folder.images / "a.bmp").stat().st_size == found.st_size
    assert folder.index().content != before.content


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3"])
def test_a_torn_cache_means_looking_again(text: str, three: Folder) -> None:
    before = three.index()
    (three.run_dir / "index" / "seen.json").write_text(text)
    assert three.index() == before


@pytest.mark.parametrize("row", [None, [], 7, [1, [2, 3], None, 4, 5], [1, [2, 3], "a", None, 5]])
def test_a_cache_with_other_rows_means_looking_again(row: object, three: Folder) -> None:
    before = three.index()
    rows = {record.path: row for record in before.records}
    seen = canonical_json(sealed({"rows": rows}))
    (three.run_dir / "index" / "seen.json").write_bytes(seen)
    assert three.index() == before


def test_content_says_which_images_there_are_and_nothing_else(
    three: Folder, tmp_path: Path
) -> None:
    before = three.index()
    (tmp_path / "other").mkdir()
    other = Folder(tmp_path / "other")
    for number, path in enumerate(("b.jpg", "sub/a.JPG", "a.b.png")):
        other.add(path, number, (6, 8 + number))
    (other.images / "b.jpg").write_bytes((three.images / "b.png").read_bytes())
    assert other.index().content == before.content, "neither suffix nor place nor time count"
    assert [s.key for s in other.index().shards] == [s.key for s in before.shards]
    other.add("b.jpg", 77)
    assert other.index().content != before.content
    (other.images / "b.jpg").unlink()
    assert other.index().content != before.content


# --- truth --------------------------------------------------------------------------------------


def test_truth_is_found_by_relative_path_without_suffix(three: Folder) -> None:
    for path in ("b.png", "sub/a.TIF", "sub/b.png", "a.png", ".b.png"):
        three.add_truth(path)
    by_id = {r.image_id: r for r in three.index().records}
    assert {i: r.truth_path for i, r in by_id.items()} == {
        "b": "b.png",
        "sub/a": "sub/a.TIF",
        "a.b": None,
    }
    assert by_id["b"].truth_sha256 == sha256_of((three.truth / "b.png").read_bytes())
    assert by_id["a.b"].truth_sha256 is None


def test_changed_truth_changes_no_shard_and_no_content_of_images(three: Folder) -> None:
    three.add_truth("b.png", 1)
    before = three.index()
    three.add_truth("b.png", 2)
    after = three.index()
    assert after.truth_content != before.truth_content
    assert after.content == before.content
    assert [s.key for s in after.shards] == [s.key for s in before.shards]


def test_truth_errors(three: Folder) -> None:
    with pytest.raises(UsageError) as caught:
        three.index(truth="nowhere")
    assert str(caught.value) == "nowhere: no such folder"
    three.truth.mkdir()
    with pytest.raises(UsageError) as caught:
        three.index()
    assert str(caught.value) == f"{three.truth}: no label file in it ({' '.join(LABEL_SUFFIXES)})"
    three.add_truth("x.png")
    three.add_truth("y.png")
    with pytest.raises(UsageError) as caught:
        three.index()
    assert str(caught.value) == (
        f"truth folder {three.truth}: none of its 2 masks has the name of an image; "
        "expected for example a.b.png"
    )
    three.add_truth("x.bmp")
    with pytest.raises(UsageError) as caught:
        three.index()
    assert str(caught.value) == f"{three.truth}: x.bmp and x.png share one name: remove one"


def test_inputs_are_checked_before_anything_is_written(three: Folder) -> None:
    check_inputs(three.config())
    with pytest.raises(UsageError) as caught:
        check_inputs(three.config(images="nowhere"))
    assert str(caught.value) == "nowhere: no such folder; check the path"
    three.add_truth("b.png")
    with pytest.raises(UsageError) as caught:
        check_inputs(three.config())
    assert str(caught.value) == "none.toml: no such file"
    assert not three.run_dir.exists()


# --- shards -------------------------------------------------------------------------------------


def records_of(ids: list[str], contents: dict[str, str] | None = None) -> list[ImageRecord]:
    contents = contents or {}
    return [ImageRecord(i, f"{i}.png", 1, 1, contents.get(i, "00"), "") for i in sorted(set(ids))]


def shards_of(records: list[ImageRecord], mean_size: int = 8) -> list[tuple[str, list[str]]]:
    """(key, ids) of each shard."""
    index = Index(datus.inputs.index._sharded(records, mean_size), {}, 0)
    return [(shard.key, [r.image_id for r in shard.records]) for shard in index.shards]


def names(n: int, seed: int = 0) -> list[str]:
    numbers = np.random.default_rng(seed).integers(0, 10**9, n).tolist()
    return sorted({f"photo{number:09d}" for number in numbers})


IDS = st.lists(st.text("abc/1", min_size=1, max_size=6), min_size=1, max_size=60, unique=True)


@given(IDS, st.integers(1, 12))
def test_shards_hold_every_image_once_in_order_and_are_not_too_large(
    ids: list[str], mean_size: int
) -> None:
    shards = shards_of(records_of(ids), mean_size)
    assert [image_id for _, members in shards for image_id in members] == sorted(ids)
    assert all(len(members) <= 2 * mean_size for _, members in shards)
    assert all(len(members) >= max(1, mean_size // 2) for _, members in shards[:-1])
    assert len({key for key, _ in shards}) == len(shards)
    assert all(len(key) == 12 and set(key) <= set("0123456789abcdef") for key, _ in shards)


@given(IDS, st.data())
def test_changing_one_image_changes_its_own_shard_and_no_other(ids: list[str], data: Any) -> None:
    changed = data.draw(st.sampled_from(sorted(ids)))
    before = shards_of(records_of(ids), 4)
    after = shards_of(records_of(ids, {changed: "11"}), 4)
    assert [members for _, members in after] == [members for _, members in before]
    differ = [old[1] for old, new in zip(before, after, strict=True) if old[0] != new[0]]
    assert len(differ) == 1
    assert changed in differ[0]


@given(IDS, st.text("abc/1", min_size=1, max_size=6))
def test_adding_or_removing_an_image_changes_nothing_before_it_nor_after_the_next_common_cut(
    ids: list[str], added: str
) -> None:
    less = shards_of(records_of([i for i in ids if i != added] or ["z"]), 4)
    more = shards_of(records_of([i for i in ids if i != added] + [added]), 4)
    for one, other in ((less, more), (more, less)):
        untouched = [shard for shard in one[:-1] if shard[1][-1] < added]
        assert other[: len(untouched)] == untouched
        ends = {members[-1] for _, members in other}
        common = [n for n, (_, m) in enumerate(one) if m[-1] in ends and m[-1] > added]
        if common:
            assert other[len(other) - len(one) + common[0] + 1 :] == one[common[0] + 1 :]


def test_adding_an_image_to_many_keeps_nearly_all_shards() -> None:
    ids = names(600)
    before = {key for key, _ in shards_of(records_of(ids))}
    assert 50 <= len(before) <= 150
    changed = []
    for added in names(60, seed=1):
        after = {key for key, _ in shards_of(records_of([*ids, added]))}
        changed.append(len(after - before))
        assert len(before - after) <= 10
    assert np.mean(changed) < 3


def test_the_mean_size_is_about_what_was_asked_for() -> None:
    for mean_size in (8, 32, 100):
        shards = shards_of(records_of(names(5000)), mean_size)
        mean = np.mean([len(members) for _, members in shards])
        assert 0.75 * mean_size < mean < 1.25 * mean_size


def test_where_an_index_is_cut_depends_on_names_alone(three: Folder) -> None:
    before = three.index(shard_images=2)
    for record in before.records:
        three.add(record.path, 99)
    after = three.index(shard_images=2)
    assert [[r.image_id for r in s.records] for s in before.shards] == [
        [r.image_id for r in s.records] for s in after.shards
    ]
    assert not {s.key for s in before.shards} & {s.key for s in after.shards}


@settings(max_examples=10)
@given(st.integers(1, 4))
def test_shards_of_an_index_keep_its_order(n_per_shard: int) -> None:
    records = datus.inputs.index._sharded(records_of(names(20)), n_per_shard)
    index = Index(records, {}, 0)
    assert [r for shard in index.shards for r in shard.records] == list(records)
    assert all(isinstance(shard, Shard) for shard in index.shards)
    assert dataclasses.replace(index, failures={"x": "y"}).content == index.content

"""Files whole or not at all, shards by content, finished only when everything is there."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from datus.errors import CorruptShard, StoreError
from datus.store.latest import names, point, pointed
from datus.store.store import SEAL, TEMPORARY, Store, canonical_json, fingerprint, sealed, unsealed
from datus.types import Array, ShardData

PLACE = ("graphs", "0123456789abcdef", "00ff00ff00ff")
REPORT = (*PLACE[:2], "shard-00ff00ff00ff.json")
ARRAYS = (*PLACE[:2], "shard-00ff00ff00ff.safetensors")


def example() -> ShardData:
    return ShardData(
        arrays={
            "b/two": {
                "bits": np.arange(6, dtype=np.uint64).reshape(3, 2),
                "size": np.zeros(0, "i4"),
            },
            "one": {"bits": np.ones((1, 1), np.uint64), "size": np.array([7], np.int32)},
        },
        numbers={"one": {"density": 0.25}},
        failures={"bad": "empty file"},
        files={"b/two.png": b"picture", "one.png": b""},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


@pytest.fixture
def written(store: Store) -> Store:
    store.write_shard(PLACE, example(), 1.23456, keep=True)
    return store


def local(store: Store, *parts: str) -> Path:
    return Path(store.path(*parts))


def everything(store: Store) -> dict[str, bytes]:
    root = Path(store.root)
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and p.parent.name != "writing"
    }


def temporaries(store: Store) -> list[Path]:
    return list(Path(store.root).rglob(f"{TEMPORARY}*"))


# --- files --------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written_and_writing_again_replaces_it(store: Store) -> None:
    store.write(b"old", "a", "b", "c.txt")
    assert store.read("a", "b", "c.txt") == b"old"
    store.write(b"newer", "a", "b", "c.txt")
    assert store.read("a", "b", "c.txt") == b"newer"
    assert store.size("a", "b", "c.txt") == 5
    assert everything(store) == {"a/b/c.txt": b"newer"}


def test_a_file_that_is_not_there(store: Store) -> None:
    assert not store.exists("x")
    assert store.size("x") == -1
    assert store.files("x") == store.folders("x") == []
    assert store.disk_bytes("x") == 0
    with pytest.raises(FileNotFoundError):
        store.read("x")
    store.remove("x")


def test_names_in_a_folder_are_sorted_and_folders_are_not_files(store: Store) -> None:
    for name in ("b", "a", "c/d"):
        store.write(b"12", "top", name)
    assert store.files("top") == ["a", "b"]
    assert store.folders("top") == ["c"]
    assert store.disk_bytes("top") == 6
    store.remove("top", "c")
    store.remove("top", "a")
    assert everything(store) == {"top/b": b"12"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(
    step: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    store.write(b"old", "file")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], fail)
    with pytest.raises(StoreError) as caught:
        store.write(b"new", "file")
    assert str(caught.value) == (
        f"cannot write {store.path('file')}: Input/output error; "
        "run the same command again, finished shards are kept"
    )
    assert everything(store) == {"file": b"old"}


def test_a_writer_that_is_interrupted_leaves_the_old_file_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    store.write(b"old", "file")
    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write(b"new", "file")
    assert everything(store) == {"file": b"old"}


def test_a_writer_killed_before_the_rename_leaves_the_old_file_and_the_rest_is_swept(
    store: Store,
) -> None:
    store.write(b"old", "deep", "er", "file")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom datus.store.store import Store\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "Store(sys.argv[1]).write(b'new', 'deep', 'er', 'file')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, store.root], check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.read("deep", "er", "file") == b"old"
    assert [path.read_bytes() for path in temporaries(store)] == [b"new"]
    store.sweep_temporary()
    assert everything(store) == {"deep/er/file": b"old"}


def test_sweeping_a_folder_that_is_not_there_does_nothing(store: Store) -> None:
    store.sweep_temporary()
    assert not Path(store.root).exists()


def test_a_file_in_the_way_is_an_error_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "run").write(b"x", "a", "b")
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'run' / 'a' / 'b'}: ")
    assert str(caught.value).endswith("; a file is in the way, choose another --run-dir")


# --- fingerprints -------------------------------------------------------------------------------


def test_canonical_json_is_sorted_without_spaces_and_plain_ascii() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"ü": "é"}}
    assert canonical_json(value) == b'{"a":{"\\u00fc":"\\u00e9"},"b":[1,2.5,null,true]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_refuses_what_is_not_json(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": [value]})


def test_fingerprint_is_the_same_in_every_version() -> None:
    # sha256 of {"a":1,"b":[1,2]}; if this changes, every run folder in the world is stale
    assert fingerprint({"b": [1, 2], "a": 1}) == "8baa73198470c7bb"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5), st.randoms())
def test_fingerprint_does_not_depend_on_the_order_of_keys(
    recipe: dict[str, Any], random: Any
) -> None:
    items = list(recipe.items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(recipe)
    assert fingerprint(json.loads(json.dumps(recipe))) == fingerprint(recipe)


@given(JSON, JSON)
def test_different_settings_have_different_fingerprints(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint({"a": one}) == fingerprint({"a": other})) == same


# --- shards -------------------------------------------------------------------------------------


def test_a_shard_is_read_as_it_was_written(written: Store) -> None:
    found = written.read_shard(PLACE)
    assert found is not None
    expected = example()
    assert list(found.arrays) == ["b/two", "one"]
    for image_id, arrays in expected.arrays.items():
        assert set(found.arrays[image_id]) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.arrays[image_id][name], array)
            assert found.arrays[image_id][name].dtype == array.dtype
    assert (found.numbers, found.failures) == (expected.numbers, expected.failures)


def test_the_report_says_what_is_in_a_shard(written: Store) -> None:
    report = written.report(*PLACE)
    assert report is not None
    assert report.images == ("b/two", "one")
    assert report.numbers == {"one": {"density": 0.25}}
    assert report.failures == {"bad": "empty file"}
    assert set(report.files) == {"b/two.png", "one.png"}
    assert report.stored
    assert report.seconds == 1.235
    assert report.n_bytes == len(written.read(*ARRAYS))


def test_what_lies_where(written: Store) -> None:
    folder = "graphs/0123456789abcdef"
    assert sorted(everything(written)) == [
        f"{folder}/files/b/two.png",
        f"{folder}/files/one.png",
        f"{folder}/shard-00ff00ff00ff.json",
        f"{folder}/shard-00ff00ff00ff.safetensors",
    ]


DTYPES = st.sampled_from(["f4", "f2", "f8", "u8", "i4", "i2", "i8", "u1", "?"])
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
SHARDS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=4),
    st.dictionaries(
        st.sampled_from(["keys", "a/b", "labels", "0", "ü"]),
        arrays_of.arrays(DTYPES, SHAPES),
        max_size=3,
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(SHARDS, st.randoms())
def test_any_arrays_come_back_and_their_order_changes_no_byte(
    arrays: dict[str, dict[str, Array]], random: Any
) -> None:
    def shuffled(table: dict[str, Any]) -> dict[str, Any]:
        items = list(table.items())
        random.shuffle(items)
        return dict(items)

    store = Store(f"memory://{uuid4().hex}")
    store.write_shard(("s", "m", "1"), ShardData(arrays), 0.0, keep=True)
    mixed = shuffled({image_id: shuffled(inner) for image_id, inner in arrays.items()})
    store.write_shard(("s", "m", "2"), ShardData(mixed), 0.0, keep=True)
    for suffix in ("json", "safetensors"):
        assert store.read("s", "m", f"shard-1.{suffix}") == store.read(
            "s", "m", f"shard-2.{suffix}"
        )
    found = store.read_shard(("s", "m", "1"))
    assert found is not None
    assert found.arrays.keys() == arrays.keys()
    for image_id, inner in arrays.items():
        assert found.arrays[image_id].keys() == inner.keys()
        for name, array in inner.items():
            np.testing.assert_array_equal(found.arrays[image_id][name], array)


def test_views_are_stored_by_value(store: Store) -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    store.write_shard(PLACE, ShardData({"a": {"x": table.T[::2]}}), 0.0, keep=True)
    found = store.read_shard(PLACE)
    assert found is not None
    np.testing.assert_array_equal(found.arrays["a"]["x"], [[0, 4, 8], [2, 6, 10]])


def test_a_shard_without_images_is_finished(store: Store) -> None:
    store.write_shard(PLACE, ShardData({}, failures={"a": "why"}), 0.0, keep=True)
    assert store.read_shard(PLACE) == ShardData({}, failures={"a": "why"})


def test_a_figure_that_is_not_json_is_refused_and_the_shard_stays_unfinished(store: Store) -> None:
    data = ShardData({"a": {"x": np.zeros(1)}}, numbers={"a": {"density": float("nan")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_shard(PLACE, data, 0.0, keep=True)
    assert store.report(*PLACE) is None


def test_changed_bytes_of_the_same_size_are_corrupt(written: Store) -> None:
    path = local(written, *ARRAYS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert written.report(*PLACE) is not None
    with pytest.raises(CorruptShard) as caught:
        written.read_shard(PLACE)
    assert str(caught.value) == "graphs: shard 00ff00ff00ff does not match its checksum"


@pytest.mark.parametrize("damage", ["shorter", "longer", "empty", "gone"])
def test_a_torn_data_file_is_not_finished(damage: str, written: Store) -> None:
    path = local(written, *ARRAYS)
    data = path.read_bytes()
    path.write_bytes({"shorter": data[:-1], "longer": data + b"0"}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    assert written.report(*PLACE) is None
    assert written.read_shard(PLACE) is None


def test_a_report_with_a_flipped_bit_is_not_finished(written: Store) -> None:
    path = local(written, *REPORT)
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = written.report(*PLACE)
        assert found is None or (found.seconds != 1.235 and b"seconds" in whole[place - 20 : place])


def test_a_report_of_an_earlier_version_has_no_seal_and_is_finished(written: Store) -> None:
    before = written.report(*PLACE)
    table = json.loads(written.read(*REPORT))
    del table[SEAL]
    written.write(json.dumps(table).encode(), *REPORT)
    assert written.report(*PLACE) == before
    written.write(json.dumps({**table, "more": 1}).encode(), *REPORT)
    assert written.report(*PLACE) is None


def test_a_report_that_claims_a_file_of_an_impossible_name_is_not_finished(written: Store) -> None:
    table = json.loads(written.read(*REPORT))
    del table[SEAL]
    for name in ("x" * 5000, "a\0b", "one.png/below"):
        table["files"] = {name: [3, "00"]}
        written.write(json.dumps(table).encode(), *REPORT)
        assert written.report(*PLACE) is None


@pytest.mark.parametrize("packed", [b"", b"\xff" * 40, b"\2\0\0\0\0\0\0\0{}more"])
def test_arrays_that_match_their_checksum_and_cannot_be_read_are_corrupt(
    packed: bytes, written: Store
) -> None:
    table = json.loads(written.read(*REPORT))
    table |= {"sha256": hashlib.sha256(packed).hexdigest(), "n_bytes": len(packed)}
    written.write(packed, *ARRAYS)
    written.write(json.dumps(sealed(table)).encode(), *REPORT)
    with pytest.raises(CorruptShard, match="cannot be read"):
        written.read_shard(PLACE)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a": NaN}', b"\xff"]
)
def test_what_is_no_sealed_table_is_none(data: bytes) -> None:
    assert unsealed(data, ("a",)) is None


def test_a_table_must_have_a_seal_where_that_is_asked() -> None:
    assert unsealed(b'{"a": 1}', ("a",)) == {"a": 1}
    assert unsealed(b'{"a": 1}', ("a",), must=True) is None
    assert unsealed(json.dumps(sealed({"a": 1})).encode(), ("a",), must=True) == {"a": 1}


def test_a_report_cut_anywhere_is_not_finished(written: Store) -> None:
    path = local(written, *REPORT)
    whole = path.read_bytes()
    for length in range(len(whole) - 2):  # without its last newline it still says all
        path.write_bytes(whole[:length])
        assert written.report(*PLACE) is None, length
        assert written.read_shard(PLACE) is None


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"', "{}", "\x00" * 200, "{" * 50])
def test_a_report_that_says_something_else_is_not_finished(text: str, written: Store) -> None:
    local(written, *REPORT).write_text(text, encoding="utf-8")
    assert written.report(*PLACE) is None


@pytest.mark.parametrize(
    "name", ["images", "numbers", "failures", "files", "stored", "sha256", "n_bytes", "seconds"]
)
def test_a_report_that_lacks_something_is_not_finished(name: str, written: Store) -> None:
    table = json.loads(written.read(*REPORT))
    del table[name]
    local(written, *REPORT).write_text(json.dumps(table), encoding="utf-8")
    assert written.report(*PLACE) is None


def test_a_report_that_is_no_text_is_not_finished(written: Store) -> None:
    local(written, *REPORT).write_bytes(b"\xff\xfe\x80")
    assert written.report(*PLACE) is None


def test_a_missing_file_of_the_output_is_not_finished(written: Store) -> None:
    local(written, *PLACE[:2], "files", "b", "two.png").unlink()
    assert written.report(*PLACE) is None


def test_a_report_that_is_only_added_up_asks_for_nothing_else(written: Store) -> None:
    local(written, *PLACE[:2], "files", "b", "two.png").unlink()
    found = written.report(*PLACE, files=False)
    assert found is not None
    assert set(found.files) == {"b/two.png", "one.png"}
    assert written.report(*PLACE) is None


def test_a_torn_file_of_the_output_is_not_finished(written: Store) -> None:
    local(written, *PLACE[:2], "files", "b", "two.png").write_bytes(b"pict")
    assert written.report(*PLACE) is None


def test_what_is_not_kept_is_finished_but_cannot_be_read(store: Store) -> None:
    store.write_shard(PLACE, example(), 0.5, keep=False)
    report = store.report(*PLACE)
    assert report is not None
    assert not report.stored
    assert report.images == ("b/two", "one")
    assert store.read_shard(PLACE) is None
    assert not store.exists(*ARRAYS)
    assert store.read(*PLACE[:2], "files", "b/two.png") == b"picture"


def test_a_shard_that_is_forgotten_is_gone_and_others_stay(written: Store) -> None:
    other = (*PLACE[:2], "111111111111")
    written.write_shard(other, example(), 0.0, keep=True)
    written.forget_shard(PLACE)
    assert written.report(*PLACE) is None
    assert not written.exists(*ARRAYS)
    assert written.report(*other) is not None
    written.forget_shard(PLACE)


def test_the_report_is_written_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    write = store._write

    def noted(_: Store, data: bytes, *parts: str) -> str:
        names.append(parts[-1])
        return write(data, *parts)

    monkeypatch.setattr(Store, "_write", noted)
    store.write_shard(PLACE, example(), 0.0, keep=True)
    assert names == ["b/two.png", "one.png", ARRAYS[-1], REPORT[-1]]


# --- recipes ------------------------------------------------------------------------------------


def test_recipes_come_newest_first(store: Store) -> None:
    for number, mark in enumerate(("bb", "aa", "cc")):
        store.write_recipe("graphs", mark, {"n": number})
        os.utime(store.path("graphs", mark, "stage.json"), ns=(0, 10**9 * (number + 1)))
    store.write(b"", "graphs", "empty", "shard-1.json")
    assert store.recipes("graphs") == [("cc", {"n": 2}), ("aa", {"n": 1}), ("bb", {"n": 0})]
    assert store.recipes("other") == []


def test_a_recipe_is_written_once_with_what_ran_it(store: Store) -> None:
    store.write_recipe("graphs", "aa", {"b": 1, "a": [2]})
    before = store.read("graphs", "aa", "stage.json")
    store.write_recipe("graphs", "aa", {"other": 1})
    assert store.read("graphs", "aa", "stage.json") == before
    table = json.loads(before)
    assert table["recipe"] == {"a": [2], "b": 1}
    assert set(table["unhashed"]) == {"datus", "python", "numpy", "host"}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"recipe": {}, "unhashed": {}, "seal": "0"}'])
def test_a_damaged_recipe_is_written_again_and_passed_over_till_then(
    damage: bytes, store: Store
) -> None:
    store.write_recipe("graphs", "aa", {"b": 1})
    before = store.read("graphs", "aa", "stage.json")
    store.write(damage, "graphs", "aa", "stage.json")
    assert store.recipes("graphs") == []
    store.write_recipe("graphs", "aa", {"b": 1})
    assert store.read("graphs", "aa", "stage.json") == before


# --- one process at a time ----------------------------------------------------------------------


def test_the_lock_keeps_others_out_and_names_who_holds_it(store: Store) -> None:
    host = os.uname().nodename
    with store.lock():
        with pytest.raises(StoreError) as caught, Store(store.root).lock():
            pass
        assert str(caught.value) == (
            f"{store.root} is in use by process {os.getpid()} on {host}: "
            "wait for it, stop it, or choose another --run-dir"
        )
        local(store, "owner.json").write_text("[]")
        with pytest.raises(StoreError, match="is in use by another process: wait"), store.lock():
            pass
    assert not store.exists("owner.json")
    with Store(store.root).lock():
        pass


def test_the_lock_is_freed_by_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lock():
        _ = 1 / 0
    with store.lock():
        pass


# --- links and other places ---------------------------------------------------------------------


def test_a_link_leads_to_its_newest_target_and_moves_with_the_folder(
    store: Store, tmp_path: Path
) -> None:
    for mark in ("aa", "bb"):
        store.write(mark.encode(), "report", mark, "files", "report.html")
        link = point(store, "report", "report", mark, "files")
        assert link == store.path("latest", "report")
        assert (Path(link) / "report.html").read_text() == mark
    Path(store.root).rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "latest" / "report" / "report.html").read_text() == "bb"


def test_a_folder_in_the_place_of_a_link_is_said(store: Store, tmp_path: Path) -> None:
    for mark in ("aa", "bb"):
        store.write(mark.encode(), "report", mark, "files", "report.html")
    point(store, "report", "report", "aa", "files")
    shutil.copytree(store.root, tmp_path / "copy", symlinks=False)
    copy = Store(tmp_path / "copy")
    with pytest.raises(StoreError) as caught:
        point(copy, "report", "report", "bb", "files")
    assert str(caught.value) == (
        f"{copy.path('latest', 'report')}: a folder where a link belongs, as a copy without links "
        f"makes it: remove {copy.path('latest')} and run the same command again; all that was made "
        "is kept"
    )
    shutil.rmtree(copy.path("latest"))
    link = point(copy, "report", "report", "bb", "files")
    assert (Path(link) / "report.html").read_text() == "bb"


def test_where_links_fail_the_plain_path_is_given(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    store.write(b"", "report", "aa", "files", "report.html")
    monkeypatch.setattr(Path, "symlink_to", fail)
    expected = store.path("report", "aa", "files")
    assert point(store, "report", "report", "aa", "files") == expected


def test_a_run_folder_can_be_elsewhere() -> None:
    store = Store(f"memory://{uuid4().hex}/run")
    assert not store.is_local
    with store.lock():
        store.sweep_temporary()
        store.write_shard(PLACE, example(), 0.0, keep=True)
        store.write_recipe("graphs", PLACE[1], {"a": 1})
    found = store.read_shard(PLACE)
    assert found is not None
    assert found.arrays["one"]["size"].tolist() == [7]
    assert store.recipes("graphs") == [(PLACE[1], {"a": 1})]
    assert store.files(*PLACE[:2]) == [REPORT[-1], ARRAYS[-1], "stage.json"]
    assert store.folders("graphs") == [PLACE[1]]
    assert store.disk_bytes("graphs") > 0
    assert point(store, "report", "graphs", PLACE[1]) == f"{store.url}/graphs/{PLACE[1]}"
    assert (names(store), pointed(store, "report")) == (["report"], PLACE[1])
    store.remove("graphs", PLACE[1], "files", "one.png")
    assert store.report(*PLACE) is None
    store.remove("graphs")
    assert store.folders("graphs") == []


def test_the_address_of_a_store_leads_back_to_it(tmp_path: Path) -> None:
    for where in (f"memory://{uuid4().hex}/run", tmp_path / "a run"):
        Store(where).write(b"here", "file")
        assert Store(Store(where).url).read("file") == b"here"

"""The whole folder or none of it."""

from pathlib import Path

import pytest
from export_cases import read_json

from datus.errors import UsageError
from datus.formats.folder import new_folder, put
from datus.types import EXPORT_MARK


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

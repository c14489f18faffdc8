"""What killed writers left is found by their notes, and without them only on demand."""

from pathlib import Path

import pytest

from datus.store.leftovers import end_notes, note, note_loss, sweep
from datus.store.store import Store


def torn(root: Path, *folder: str) -> Path:
    path = root.joinpath(*folder, ".tmp-abc")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_only_folders_with_a_note_are_looked_through(tmp_path: Path) -> None:
    note(str(tmp_path), ("denoise-fit", "mark", "files", "a.png"))
    swept = [torn(tmp_path, "denoise-fit", "mark", *more) for more in ((), ("files", "b"))]
    swept += [torn(tmp_path, *name) for name in ((), ("index",), ("latest",))]
    left = [torn(tmp_path, "denoise-fit", "other"), torn(tmp_path, "masks", "mark", "files")]
    sweep(str(tmp_path))
    assert [path.exists() for path in (*swept, *left)] == [False] * 5 + [True] * 2
    assert not (tmp_path / "writing").exists()
    sweep(str(tmp_path), everywhere=True)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize(("parts", "noted"), [(("a", "b", "c", "d"), ["a--b"]), (("a", "b"), [])])
def test_a_store_notes_the_folder_of_a_stage_before_it_writes(
    parts: tuple[str, ...], noted: list[str], tmp_path: Path
) -> None:
    Store(tmp_path).write(b"", *parts)
    assert [path.name for path in tmp_path.glob("writing/*")] == noted


def test_notes_end_with_the_run_unless_a_worker_was_lost(tmp_path: Path) -> None:
    root = str(tmp_path)
    note(root, ("masks", "mark", "x"))
    end_notes(root)
    assert not (tmp_path / "writing").exists()
    note(root, ("masks", "mark", "x"))
    note_loss(root)
    end_notes(root)
    left = torn(tmp_path, "masks", "mark")
    sweep(root)
    assert not left.exists()
    assert not (tmp_path / "writing").exists()


def test_a_folder_that_cannot_be_written_is_left_to_the_write_to_say(tmp_path: Path) -> None:
    (tmp_path / "writing").touch()
    note(str(tmp_path), ("a", "b", "c"))

"""Any two folders of label files, scored as the pipeline scores its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import Dataset, go, save

from datus.compare.folders import evaluate_folders
from datus.errors import TooManyFailures, UsageError
from datus.method.metrics import RULES

U = 255


class Folders:
    """masks/, truth/ and a table of two classes: id 1 is class 0, id 2 is class 1, id 9 unknown."""

    def __init__(self, root: Path) -> None:
        self.masks, self.truth, self.classes = root / "masks", root / "truth", root / "two.toml"
        self.classes.write_text(
            'name = "two"\nignore = [9]\n'
            '[[classes]]\nname = "a"\ncolour = [0, 0, 0]\nids = [1]\n'
            '[[classes]]\nname = "b"\ncolour = [1, 0, 0]\nids = [2]\n',
            encoding="utf-8",
        )

    def add(self, name: str, mask: Any = None, truth: Any = None, suffix: str = ".png") -> None:
        for folder, rows in ((self.masks, mask), (self.truth, truth)):
            if rows is not None:
                save(folder / f"{name}{suffix}", np.array(rows, np.uint8))

    def scores(self, n_clusters: int = 0, max_failed: int = 0) -> dict[str, Any]:
        return evaluate_folders(self.masks, self.truth, self.classes, n_clusters, max_failed)

    def error(self, kind: type[Exception] = TooManyFailures, **options: int) -> str:
        with pytest.raises(kind) as caught:
            self.scores(**options)
        return str(caught.value)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


# --- scores -------------------------------------------------------------------------------------


def test_scores_by_hand_over_two_images(folders: Folders) -> None:
    # known pixels: 4 of class 0 (3 in cluster 1, 1 unlabelled), 3 of class 1 (2 in cluster 0)
    folders.add("x", [[1, 1, U], [0, 1, 0]], [[1, 1, 1], [2, 2, 9]])
    folders.add("sub/y", [[1, 0]], [[1, 2]])
    found = folders.scores()
    assert (found["n_images"], found["clusters"], found["classes"]) == (2, 2, 2)
    assert found["failures"] == {}
    strict, covered = found["scores"]["hungarian_strict"], found["scores"]["hungarian_covered"]
    assert strict["match"] == [1, 0]
    assert strict["iou"] == pytest.approx([100 * 3 / 5, 100 * 2 / 3])
    assert strict["accuracy"] == pytest.approx(100 * 5 / 7)
    assert covered["accuracy"] == pytest.approx(100 * 5 / 6)
    assert strict["coverage"] == pytest.approx(100 * 6 / 7)
    assert list(found["scores"]) == list(RULES)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("k", [3, 5])
def test_masks_of_a_run_score_as_its_own_report_says(k: int, tiny: Dataset, run_copy: Path) -> None:
    go(tiny.config(run_copy, {"clusters.k": k}))
    report = json.loads((run_copy / "latest" / "report" / "report.json").read_bytes())
    masks = run_copy / "latest" / f"masks-k{k}"
    found = evaluate_folders(masks, tiny.truth, tiny.classes, k)
    assert set(RULES) - set(found["scores"]) == ({"merge_nearest"} if k > 3 else set())
    for rule, row in found["scores"].items():
        own = report["scores"][rule]
        for name in ("miou", "accuracy", "f1", "coverage"):
            assert round(row[name], 4) == own[name], (rule, name)
        assert row["match"] == own["match"]
        assert row["n_pixels"] == own["n_pixels"]


# --- files --------------------------------------------------------------------------------------


def test_suffixes_need_not_agree_and_other_files_are_passed_over(folders: Folders) -> None:
    folders.add("x", mask=[[0, 1]], suffix=".png")
    folders.add("x", truth=[[1, 2]], suffix=".tif")
    folders.add(".hidden", mask=[[0]])
    (folders.masks / "notes.txt").write_text("not a mask")
    assert folders.scores()["n_images"] == 1


def test_masks_and_truth_without_a_partner(folders: Folders) -> None:
    for name in ("x", "sub/y"):
        folders.add(name, [[0, 1]], [[1, 2]])
    folders.add("only/mask", mask=[[0]])
    folders.add("only/truth", truth=[[1]])
    assert folders.error() == (
        "2 masks cannot be used, 0 are allowed: mend them, or add --max-failed 2\n"
        f"  only/mask: no true mask in {folders.truth}\n"
        f"  only/truth: no mask in {folders.masks}"
    )
    found = folders.scores(max_failed=2)
    assert found["n_images"] == 2
    assert found["failures"] == {
        "only/mask": f"no true mask in {folders.truth}",
        "only/truth": f"no mask in {folders.masks}",
    }


def test_folders_that_share_no_name(folders: Folders) -> None:
    folders.add("x", mask=[[0]])
    folders.add("y", truth=[[1]])
    assert folders.error(UsageError) == (
        f"{folders.masks} and {folders.truth} share no file name: "
        "expected for example y.png in both"
    )


@pytest.mark.parametrize("which", ["masks", "truth"])
def test_a_folder_that_is_not_there_or_holds_nothing(which: str, folders: Folders) -> None:
    folders.add("x", [[0]], [[1]])
    folder = getattr(folders, which)
    (folder / "x.png").rename(folder / "x.txt")
    assert folders.error(UsageError).startswith(f"{folder}: no label file in it (.png")
    (folder / "x.txt").unlink()
    folder.rmdir()
    assert folders.error(UsageError) == f"{folder}: no such folder"


def test_two_masks_of_one_name(folders: Folders) -> None:
    folders.add("x", [[0]], [[1]])
    folders.add("x", mask=[[0]], suffix=".bmp")
    assert folders.error(UsageError) == (
        f"{folders.masks}: x.bmp and x.png share one name: remove one"
    )


def test_a_mask_of_another_size(folders: Folders) -> None:
    folders.add("x", [[0, 1]], [[1], [2]])
    assert folders.error() == (
        "1 mask cannot be used, 0 are allowed: mend it, or add --max-failed 1\n"
        "  x: the mask is 1x2, the true mask 2x1 (height x width): expected the same size"
    )


def test_ids_that_the_class_table_does_not_know(folders: Folders) -> None:
    folders.add("x", [[0, 1]], [[1, 7]])
    assert "x: truth has ids that class table 'two' does not: 7 (1 px)" in folders.error()


@pytest.mark.parametrize("which", ["masks", "truth"])
def test_colour_pictures_are_no_labels(which: str, folders: Folders) -> None:
    folders.add("x", [[0]], [[1]])
    folders.add("y", [[0]], [[1]])
    save(getattr(folders, which) / "y.png", np.array([[[1, 2, 3]]], np.uint8))
    assert "y: labels: this is a colour picture, not class ids" in folders.error()
    assert folders.scores(max_failed=1)["n_images"] == 1


def test_damaged_and_unreadable_masks(folders: Folders) -> None:
    folders.add("x", [[0]], [[1]])
    folders.add("y", [[0]], [[1]])
    (folders.masks / "y.png").write_bytes(b"")
    (folders.truth / "z.png").mkdir()
    (folders.masks / "z.png").mkdir()
    found = folders.scores(max_failed=2)
    assert found["n_images"] == 1
    assert "y" in found["failures"]


def test_all_masks_unusable_is_an_error_however_many_may_fail(folders: Folders) -> None:
    folders.add("x", [[0]], [[7]])
    first, second = folders.error(max_failed=99).splitlines()
    assert first == "no mask is left to score, mend or replace them:"
    assert second.startswith("  x: truth has ids")


def test_palette_masks_are_read_by_index(folders: Folders) -> None:
    folders.add("x", truth=[[1, 2]])
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0])
    folders.masks.mkdir()
    image.save(folders.masks / "x.png")
    assert folders.scores()["scores"]["hungarian_strict"]["miou"] == 100


def test_many_unusable_masks_are_not_all_named(folders: Folders) -> None:
    folders.add("x", [[0]], [[1]])
    for number in range(12):
        folders.add(f"y{number:02d}", mask=[[0]])
    lines = folders.error().splitlines()
    assert len(lines) == 12
    assert lines[0].startswith("12 masks cannot be used, 0 are allowed: mend them, or add ")
    assert lines[-1] == "  and 2 more"


# --- the number of clusters ---------------------------------------------------------------------


def test_the_number_of_clusters_is_the_highest_label_and_one(folders: Folders) -> None:
    folders.add("x", [[0, 4, U]], [[1, 2, 2]])
    folders.add("y", [[2, 2, 2]], [[1, 2, 2]])
    found = folders.scores()
    assert found["clusters"] == 5
    assert len(found["scores"]["majority"]["match"]) == 5


def test_the_number_of_clusters_can_be_given(folders: Folders) -> None:
    folders.add("x", [[0, 1, U]], [[1, 2, 2]])
    assert folders.scores(n_clusters=7)["clusters"] == 7
    small, large = (folders.scores(n)["scores"]["hungarian_strict"] for n in (2, 255))
    assert small["miou"] == large["miou"]
    assert small["coverage"] == large["coverage"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("n_clusters", "text"),
    [
        (1, "--clusters 1: the masks hold label 1"),
        (-1, "--clusters -1: expected 1 to 255, or 0 to derive it"),
        (256, "--clusters 256: expected 1 to 255, or 0 to derive it"),
    ],
)
def test_a_number_of_clusters_that_cannot_be(n_clusters: int, text: str, folders: Folders) -> None:
    folders.add("x", [[0, 1, U]], [[1, 2, 2]])
    assert folders.error(UsageError, n_clusters=n_clusters) == text


def test_masks_that_label_nothing_score_nothing(folders: Folders) -> None:
    folders.add("x", [[U, U]], [[1, 2]])
    found = folders.scores()
    assert found["clusters"] == 1
    assert found["scores"]["hungarian_strict"]["miou"] == 0
    assert found["scores"]["hungarian_strict"]["coverage"] == 0

"""Damaged images among good ones, clusters that cannot be made, folders that do not fit.

Through the command line. Each gives a clear error or a recorded failure and the right exit code;
what was finished is kept, and nothing is left half-written: `bad_files.datus` looks at the run
folder after every command.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from bad_files import (
    encoded,
    left_out,
    masks_of,
    put,
    report_of,
    rights_count,
    run,
    scene,
    states,
    status,
)

from datus.stages.embeddings import few_valid

pytestmark = pytest.mark.usefixtures("one_backbone")

UPRIGHT = scene()
PNG = encoded(UPRIGHT)

# --- one bad image among good ones --------------------------------------------------------------


@pytest.fixture
def four(tmp_path: Path) -> Path:
    return put(tmp_path / "images", {f"{i}.png": encoded(scene(seed=i)) for i in range(4)})


def test_a_damaged_image_stops_the_run_once_and_only_it_is_made_again(
    four: Path, tmp_path: Path
) -> None:
    whole, run_dir = (four / "1.png").read_bytes(), tmp_path / "run"
    (four / "1.png").write_bytes(whole[: len(whole) // 2])

    stopped = run(four, run_dir)
    assert stopped.exit_code == 1
    assert stopped.error.startswith(
        "features: 1 image cannot be used, 0 are allowed; the others are kept. "
        "Mend or remove it, or add --max-failed 1.\n  1: damaged PNG: "
    )
    shown = status(four, run_dir)
    assert states(shown)["features"] == "done"
    assert states(shown)["clusters (K = 3)"] == states(shown)["report"] == "missing"
    assert "left out at features: 1: damaged PNG: " in shown.stdout
    assert not (run_dir / "latest").exists()

    allowed = run(four, run_dir, "--max-failed", 1)
    assert allowed.exit_code == 0
    assert "features" not in allowed.made
    assert allowed.made["masks (K = 3)"] == 4
    assert sorted(masks_of(run_dir)) == ["0", "2", "3"]
    assert list(left_out(run_dir)) == ["1"]

    (four / "1.png").write_bytes(whole)
    mended = run(four, run_dir)
    assert mended.exit_code == 0
    assert mended.made["features"] == mended.made["segments"] == mended.made["embeddings"] == 1
    assert sorted(masks_of(run_dir)) == ["0", "1", "2", "3"]
    assert left_out(run_dir) == {}
    assert "left out" not in status(four, run_dir).stdout


@pytest.mark.parametrize(
    ("data", "stage", "reason"),
    [(b"", "index", r"empty file \(0 bytes\)"), (PNG[:-900], "features", "damaged PNG: .*")],
)
def test_no_usable_image_at_all(data: bytes, stage: str, reason: str, tmp_path: Path) -> None:
    images = put(tmp_path / "images", {"a.png": data, "b.png": data})
    answer = run(images, tmp_path / "run", "--max-failed", 9)
    assert answer.exit_code == 1
    expected = rf"{stage}: no image is left, mend or replace them:\n  a: {reason}\n  b: {reason}"
    assert re.fullmatch(expected, answer.error), answer.error


def test_an_image_that_may_not_be_read_is_a_recorded_failure(four: Path, tmp_path: Path) -> None:
    (four / "2.png").chmod(0)
    with rights_count():
        answer = run(four, tmp_path / "run", "--max-failed", 1)
    assert answer.exit_code == 0
    assert left_out(tmp_path / "run") == {"2": "index: cannot be read: Permission denied"}
    (four / "2.png").chmod(0o600)
    mended = run(four, tmp_path / "run")
    assert (mended.exit_code, mended.made["features"]) == (0, 1)


def test_an_image_that_changes_during_the_run_stops_it_and_the_next_run_sees_it(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datus import pipeline

    plan = pipeline.make_plan

    def change(*given: object) -> object:
        (four / "2.png").write_bytes(PNG)
        (four / "3.png").unlink()
        return plan(*given)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_plan", change)
        answer = run(four, tmp_path / "run", "--max-failed", 9)
    assert answer.exit_code == 1
    assert re.fullmatch(
        rf"features: 2 of 4 shards failed, the others are kept; the first: shard [0-9a-f]{{12}}: "
        rf"{four}/2.png changed during the run: run the same command again",
        answer.error,
    )
    assert f"{four}/3.png: No such file or directory; run the same command again" in answer.stderr
    again = run(four, tmp_path / "run")
    assert (again.exit_code, again.made["features"]) == (0, 1)


def test_a_new_file_of_the_same_size_and_time_is_seen(four: Path, tmp_path: Path) -> None:
    first, second = encoded(UPRIGHT, "BMP"), encoded(255 - UPRIGHT, "BMP")
    put(four, {"4.bmp": first})
    before = (four / "4.bmp").stat()
    assert run(four, tmp_path / "run").exit_code == 0
    (four / "4.bmp").write_bytes(second)
    os.utime(four / "4.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    again = run(four, tmp_path / "run")
    assert (again.exit_code, again.made["features"]) == (0, 1)


# --- clusters -----------------------------------------------------------------------------------


def test_more_clusters_than_segments_and_no_valid_segment(four: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    many = run(four, run_dir, "--clusters", 200)
    assert many.exit_code == 1
    found = re.fullmatch(
        r"200 clusters asked of (\d+) valid segments: "
        r"use --clusters (\d+) or fewer, or more images",
        many.error,
    )
    assert found
    assert found[1] == found[2]
    assert states(status(four, run_dir, "--clusters", 200))["clusters (K = 200)"] == "missing"

    most = run(four, run_dir, "--clusters", found[1])
    assert most.exit_code == 0
    assert "embeddings" not in most.made

    none = run(four, run_dir, "--set", "embeddings.min_patches=1000")
    assert none.exit_code == 1
    (few,) = few_valid(0.0)
    assert "smaller segments (a lower embeddings.min_patches)" in few
    assert re.fullmatch(rf"\d+ clusters asked of 0 valid segments: {re.escape(few)}", none.error)
    assert masks_of(run_dir, int(found[1])).keys() == {"0", "1", "2", "3"}


def test_an_image_without_a_valid_segment_has_an_empty_mask_and_is_warned_of(
    tmp_path: Path,
) -> None:
    """The threshold is found from the run, since other weights find other segments."""
    images = put(tmp_path / "images", {f"{i}.png": encoded(scene(seed=i)) for i in range(3)})
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    put(images, {"noise.png": encoded(noise), "one.png": encoded(UPRIGHT[:1, :1])})
    run_dir = tmp_path / "run"
    assert run(images, run_dir, "--clusters", 1, "--set", "embeddings.min_patches=1").exit_code == 0
    largest = largest_segments(run_dir)
    smallest = min(largest.values())
    empty = sorted(name for name, size in largest.items() if size == smallest)
    assert len(empty) < len(largest)

    setting = f"embeddings.min_patches={smallest + 1}"
    answer = run(images, run_dir, "--clusters", 1, "--set", setting)
    assert answer.exit_code == 0
    warning = f"{len(empty)} of 5 images have no valid segment: their masks are all 255"
    assert f"warning: {warning}" in answer.stderr
    assert warning in report_of(run_dir)["warnings"]
    masks = masks_of(run_dir, 1)
    assert [name for name in sorted(masks) if (masks[name] == 255).all()] == empty


def largest_segments(run_dir: Path) -> dict[str, int]:
    """image id -> patches of its largest segment."""
    from datus.store.store import Store

    store, found = Store(run_dir), {}
    for path in run_dir.glob("segments/*/shard-*.json"):
        key = path.stem.removeprefix("shard-")
        data = store.read_shard(("segments", path.parent.name, key))
        assert data is not None
        found |= {name: int(a["n_patches"].max()) for name, a in data.arrays.items()}
    return found


# --- folders and names that do not fit ----------------------------------------------------------

PNG_AND_JPG = "files that differ only in their suffix: a.jpg and a.png; rename one of each pair"
SUFFIXES = ".apng .bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.png": PNG, "a.jpg": PNG}, f"{{}}: {PNG_AND_JPG}"),
        ({}, f"{{}}: no image in it (0 other files); known are {SUFFIXES}"),
        ({"a.txt": b"x"}, f"{{}}: no image in it (1 other files); known are {SUFFIXES}"),
        (None, "{}: no such folder; check the path"),
        (
            {os.fsdecode(b"\xff.png"): PNG},
            "'\\udcff.png': the name is not valid UTF-8; rename the file",
        ),
        (
            {"a.jpg": PNG, "a.png/inside.png": PNG},
            "{}: a.jpg: its mask a.png is a folder here; rename one",
        ),
    ],
    ids=["two suffixes", "empty", "no image", "missing", "not UTF-8", "mask is a folder"],
)
def test_a_folder_that_cannot_be_used_is_wrong_usage_and_nothing_is_written(
    files: dict[str, bytes] | None, expected: str, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    if files is not None:
        images.mkdir()
        try:
            put(images, files)
        except OSError as error:
            pytest.skip(f"this disk refuses the name: {error}")
    answer = run(images, tmp_path / "run")
    assert (answer.exit_code, answer.error) == (2, expected.format(images))
    assert not (tmp_path / "run").exists()


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path, {"one.png": PNG})
    answer = run(tmp_path / "one.png", tmp_path / "run")
    expected = f"{tmp_path}/one.png: expected a folder of images, got a file"
    assert (answer.exit_code, answer.error) == (2, expected)


def test_a_pair_that_is_mended_costs_nothing_but_the_new_image(four: Path, tmp_path: Path) -> None:
    assert run(four, tmp_path / "run").exit_code == 0
    shutil.copy(four / "1.png", four / "1.jpg")
    refused = run(four, tmp_path / "run")
    assert refused.exit_code == 2
    assert masks_of(tmp_path / "run").keys() == {"0", "1", "2", "3"}
    (four / "1.jpg").rename(four / "1b.jpg")
    mended = run(four, tmp_path / "run")
    assert (mended.exit_code, mended.made["features"]) == (0, 1)

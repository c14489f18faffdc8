"""Bad images, names, true masks and settings, through the command line.

Each gives a clear error or a recorded failure and the right exit code; what was finished is kept,
and nothing is left half-written: `bad_files.datus` looks at the run folder after every command.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bad_files import (
    FAST,
    Answer,
    datus,
    encoded,
    left_out,
    masks_of,
    png_of_size,
    put,
    report_of,
    rights_count,
    same,
    scene,
    turned,
)
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_backbone")

UPRIGHT = scene()
GREY = UPRIGHT[..., 0]
PNG = encoded(UPRIGHT)
BIG_JPEG = encoded(scene(120, 160), "JPEG", quality=95)


def run(images: Path, run_dir: Path, *more: object) -> Answer:
    return datus("run", "--images", images, *FAST, *more, run_dir=run_dir)


def status(images: Path, run_dir: Path, *more: object) -> Answer:
    return datus("status", "--images", images, *FAST, *more, run_dir=run_dir)


def states(answer: Answer) -> dict[str, str]:
    """stage -> done, missing or partly."""
    rows = [re.split(r" {2,}", line) for line in answer.stdout.splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) == 4}


# --- all kinds of images in one folder ----------------------------------------------------------

TWINS = {
    "plain": {
        "plain.png": PNG,
        "a PNG by nature.jpg": PNG,
        "capitals.PnG": PNG,
        "rgba.png": encoded(np.dstack([UPRIGHT, np.full_like(GREY, 255)])),
        "animated.png": encoded(
            UPRIGHT, save_all=True, append_images=[Image.fromarray(255 - UPRIGHT)]
        ),
        "moving.webp": encoded(UPRIGHT, "WEBP", lossless=True, save_all=True),
        "turned/3.png": turned(np.rot90(UPRIGHT, 2), 3),
        "turned/6.png": turned(np.rot90(UPRIGHT, 1), 6),
        "turned/8.tif": turned(np.rot90(UPRIGHT, 3), 8, "TIFF"),
    },
    "grey/8": {
        "grey/8.png": encoded(GREY),
        "grey/16.png": encoded(GREY.astype(np.uint16) * 256 + 7),
        "grey/rgb.png": encoded(np.dstack([GREY] * 3)),
    },
}
"""Files that show the same picture, and so get the same mask."""

SIZES = {
    "cmyk.jpg": (encoded(Image.fromarray(UPRIGHT).convert("CMYK"), "JPEG"), (48, 64)),
    "one pixel.png": (encoded(UPRIGHT[:1, :1]), (1, 1)),
    "strip.png": (encoded(UPRIGHT[:1]), (1, 64)),
    "column.png": (encoded(scene(300, 3)), (300, 3)),
    "flat.png": (encoded(np.zeros((40, 40, 3), np.uint8)), (40, 40)),
    "a folder called x.jpg/inside.png": (PNG, (48, 64)),
}

NAMES = (
    "with space",
    " space first and last ",
    "caf\u00e9",
    "cafe\u0301",
    "😀",
    'it\'s "quoted"',
    "<b>bold</b>&amp;",
    "#1 50% [a]*?{b}~$HOME",
    "-dash",
    "two\nlines",
    "back\\slash",
    "as long as a name may be ".ljust(251, "x"),
)

BROKEN = {
    "bomb.png": (
        png_of_size(50_000, 50_000),
        "index: too large: 50000x50000 (height x width) is 2500000000 pixels, more than "
        "max_pixels = 200000000; raise it or shrink the image",
    ),
    "empty.png": (b"", "index: empty file (0 bytes)"),
    "header cut.png": (PNG[:20], "index: damaged header: *"),
    "no rows.png": (png_of_size(0, 5), "index: no pixels: height or width is 0*"),
    "text.jpg": (
        b"Dear reader,\n",
        "index: not an image: expected JPEG, PNG, BMP, TIFF, GIF, WebP, PBM, PGM or PPM, "
        "got a file that starts with b'Dear rea'",
    ),
    "pixels cut.png": (PNG[: len(PNG) // 2], "features: damaged PNG: *"),
    "pixels cut.jpg.jpeg": (BIG_JPEG[: len(BIG_JPEG) // 2], "features: damaged JPEG: *"),
    "pixels cut.bmp.bmp": (encoded(UPRIGHT, "BMP")[:3000], "features: damaged BMP: *"),
    "pixels wrong.png": (PNG[:-20] + b"\x55" + PNG[-19:], "features: damaged PNG: *"),
    "float.tif": (
        encoded(np.zeros((9, 9), np.float32), "TIFF"),
        "features: floating-point pixels have no agreed range: convert to 8 or 16 bit first",
    ),
}
"""What becomes of them. A star stands for Pillow's words, which change with its version."""

LINKS = {
    "in a circle": "index: cannot be read: Too many levels of symbolic links",
    "nowhere": "index: cannot be read: No such file or directory",
    "pipe": "index: cannot be read: not a regular file",
}


def expected_failures() -> dict[str, str]:
    return {name.rpartition(".")[0]: why for name, (_, why) in BROKEN.items()} | LINKS


@dataclass(frozen=True)
class Zoo:
    images: Path
    run_dir: Path
    refused: Answer
    """Without --max-failed."""
    after: Answer
    """The status then."""
    done: Answer
    """With --max-failed."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, one_backbone: None) -> Zoo:
    root = tmp_path_factory.mktemp("zoo 😀 [a] #1")
    images, run_dir = root / "all kinds", root / "run"
    for files in TWINS.values():
        put(images, files)
    put(images, {name: data for name, (data, _) in {**SIZES, **BROKEN}.items()})
    put(images, {f"names/{name}.png": encoded(scene(seed=i)) for i, name in enumerate(NAMES)})
    (images / "nowhere.png").symlink_to("not there")
    (images / "in a circle.png").symlink_to("in a circle.png")
    (images / "an empty folder.jpg").mkdir()
    os.mkfifo(images / "pipe.png")
    refused, after = run(images, run_dir), status(images, run_dir)
    return Zoo(images, run_dir, refused, after, run(images, run_dir, "--max-failed", 8))


def test_bad_files_end_the_run_before_any_work_and_are_named(zoo: Zoo) -> None:
    assert zoo.refused.exit_code == 1
    assert zoo.refused.stdout == ""
    lines = zoo.refused.error.split("\n")
    assert lines[0] == (
        "index: 8 images cannot be used, 0 are allowed; the others are kept. "
        "Mend or remove them, or add --max-failed 8."
    )
    at_index = {n: why for n, why in expected_failures().items() if why.startswith("index")}
    assert len(lines) == 9
    for line, (name, why) in zip(lines[1:], sorted(at_index.items()), strict=True):
        assert same(line, f"  {name}: {why.removeprefix('index: ')}")


def test_status_names_them_too(zoo: Zoo) -> None:
    assert zoo.after.exit_code == 0
    assert set(states(zoo.after).values()) == {"missing"}
    assert "left out at index: empty: empty file (0 bytes)\n" in zoo.after.stdout
    assert zoo.after.stdout.count("left out at") == 8


def test_failures_that_are_allowed_are_recorded_with_their_reasons(zoo: Zoo) -> None:
    assert zoo.done.exit_code == 0
    found = left_out(zoo.run_dir)
    assert found.keys() == expected_failures().keys()
    for name, why in expected_failures().items():
        assert same(found[name], why), found[name]
    lines = status(zoo.images, zoo.run_dir).stdout.splitlines()
    assert sum(line.startswith("left out at index: ") for line in lines) == 8
    assert sum(line.startswith("left out at features: ") for line in lines) == 5


def test_all_other_images_have_masks_of_their_size(zoo: Zoo) -> None:
    masks = masks_of(zoo.run_dir)
    sizes = {name.rpartition(".")[0]: size for name, (_, size) in SIZES.items()}
    for files in TWINS.values():
        sizes |= {name.rpartition(".")[0]: (48, 64) for name in files}
    sizes |= {f"names/{name}": (48, 64) for name in NAMES}
    assert {name: mask.shape for name, mask in masks.items()} == sizes
    assert all(set(np.unique(mask)) <= {0, 1, 2, 255} for mask in masks.values())


@pytest.mark.parametrize("twin", TWINS)
def test_the_same_picture_in_another_file_has_the_same_mask(zoo: Zoo, twin: str) -> None:
    masks = masks_of(zoo.run_dir)
    assert len(np.unique(masks[twin])) > 1
    for name in TWINS[twin]:
        assert np.array_equal(masks[name.rpartition(".")[0]], masks[twin]), name


def test_names_are_text_and_never_markup(zoo: Zoo) -> None:
    page = (zoo.run_dir / "latest" / "report" / "report.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page
    assert report_of(zoo.run_dir)["n_images"] > len(NAMES)


def test_the_same_command_again_makes_nothing_and_remembers_the_failures(zoo: Zoo) -> None:
    again = run(zoo.images, zoo.run_dir, "--max-failed", 8)
    assert (again.exit_code, again.made) == (0, {})
    assert left_out(zoo.run_dir).keys() == expected_failures().keys()


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
    assert states(shown)["graphs"] == states(shown)["report"] == "missing"
    assert "left out at features: 1: damaged PNG: " in shown.stdout
    assert not (run_dir / "latest").exists()

    allowed = run(four, run_dir, "--max-failed", 1)
    assert allowed.exit_code == 0
    assert "features" not in allowed.made
    assert allowed.made["graphs"] == allowed.made["masks (K = 3)"] == 4
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
    from datus import runner

    plan = runner.make_plan

    def change(*given: object) -> object:
        (four / "2.png").write_bytes(PNG)
        (four / "3.png").unlink()
        return plan(*given)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "make_plan", change)
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
    assert none.error == (
        "no image gave a valid segment, so there is nothing to cluster: "
        "lower embeddings.min_patches, or use other images"
    )
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
    from datus.store import Store

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
        put(images, files)
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

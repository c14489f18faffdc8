"""All kinds of images in one folder, good, odd and broken, through the command line.

The good ones get masks of their upright size; each broken one is recorded with its reason.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bad_files import (
    FAST,
    Answer,
    encoded,
    left_out,
    masks_of,
    png_of_size,
    put,
    report_of,
    run,
    same,
    scene,
    states,
    status,
    turned,
)
from PIL import Image
from tiny_runs import SHIPPED_OPTIONS

pytestmark = pytest.mark.usefixtures("one_backbone")

UPRIGHT = scene()
GREY = UPRIGHT[..., 2]
PNG = encoded(UPRIGHT)
BIG_JPEG = encoded(scene(120, 160), "JPEG", quality=95)

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
    "empty 😀.png": (b"", "index: empty file (0 bytes)"),
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
    refused = run(images, run_dir, *SHIPPED_OPTIONS)
    after = status(images, run_dir, *SHIPPED_OPTIONS)
    done = run(images, run_dir, *SHIPPED_OPTIONS, "--max-failed", 8)
    return Zoo(images, run_dir, refused, after, done)


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
    assert "left out at index: empty 😀: empty file (0 bytes)\n" in zoo.after.stdout
    assert zoo.after.stdout.count("left out at") == 8


def test_a_terminal_that_cannot_show_a_name_is_no_error(zoo: Zoo) -> None:
    given = ["status", "--images", str(zoo.images), "--run-dir", str(zoo.run_dir)]
    given += [*FAST, *SHIPPED_OPTIONS]
    done = subprocess.run(
        [sys.executable, "-m", "datus", *given],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "left out at index: empty \\U0001f600: empty file (0 bytes)\n" in done.stdout


def test_failures_that_are_allowed_are_recorded_with_their_reasons(zoo: Zoo) -> None:
    assert zoo.done.exit_code == 0
    found = left_out(zoo.run_dir)
    assert found.keys() == expected_failures().keys()
    for name, why in expected_failures().items():
        assert same(found[name], why), found[name]
    lines = status(zoo.images, zoo.run_dir, *SHIPPED_OPTIONS).stdout.splitlines()
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
    again = run(zoo.images, zoo.run_dir, *SHIPPED_OPTIONS, "--max-failed", 8)
    assert (again.exit_code, again.made) == (0, {})
    assert left_out(zoo.run_dir).keys() == expected_failures().keys()

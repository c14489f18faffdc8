"""Bad true masks, class tables and settings, through the command line."""

import json
import os
import shutil
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
    same,
    scene,
)
from PIL import Image
from tiny_runs import Dataset, make_dataset

pytestmark = pytest.mark.usefixtures("one_backbone")


def run(dataset: Dataset, run_dir: Path, *more: object) -> Answer:
    given = ["--truth", dataset.truth, "--classes", dataset.classes]
    return datus("run", "--images", dataset.images, *given, *FAST, *more, run_dir=run_dir)


@pytest.fixture
def three(tmp_path: Path) -> Dataset:
    """Three images with good true masks."""
    return make_dataset(tmp_path / "data", ("a", "b", "c"))


# --- true masks ---------------------------------------------------------------------------------

BIG = "50000x50000 (height x width) is 2500000000 pixels, more than max_pixels = 200000000"
REASONS = {
    "big ids": "true mask big ids.png: labels: expected ids 0 to 255, got 300 to 300; "
    "renumber them",
    "bomb": f"true mask bomb.png: too large: {BIG}; raise it or shrink the image",
    "colour": "true mask colour.png: labels: this is a colour picture, not class ids: "
    "convert it first, see data/prepare",
    "cut": "true mask cut.png: damaged PNG: *",
    "empty": "true mask empty.png: empty file (0 bytes)",
    "folder": "true mask folder.png: cannot be read: not a regular file",
    "id": "truth has ids that class table 'tiny' does not: 7 (3 px), 9 (1 px); "
    "add them to the ids of a class or to ignore",
    "link": "true mask link.png: cannot be read: No such file or directory",
    "pipe": "true mask pipe.png: cannot be read: not a regular file",
    "size": "truth is 5x6, the image {} (height x width): "
    "expected the same size; use the truth made for this image",
    "text": "true mask text.png: not an image: expected JPEG, PNG, BMP, TIFF, GIF, WebP, PBM, "
    "PGM or PPM, got a file that starts with b'Dear rea'",
}
"""What is wrong with a true mask -> what the user reads."""


def spoil(dataset: Dataset) -> dict[str, str]:
    """Make one true mask bad for each of REASONS. Returns the reasons."""
    sizes = {name: np.array(Image.open(dataset.truth / f"{name}.png")).shape for name in REASONS}
    unknown = np.zeros(sizes["id"], np.uint8)
    unknown[0, :3], unknown[1, 0] = 7, 9
    bad = {
        "big ids": encoded(np.full(sizes["big ids"], 300, np.uint16)),
        "bomb": png_of_size(50_000, 50_000),
        "colour": encoded(scene(*sizes["colour"])),
        "cut": (dataset.truth / "cut.png").read_bytes()[:-30],
        "empty": b"",
        "id": encoded(unknown),
        "size": encoded(np.zeros((5, 6), np.uint8)),
        "text": b"Dear reader,\n",
    }
    put(dataset.truth, {f"{name}.png": data for name, data in bad.items()})
    for name in ("folder", "link", "pipe"):
        (dataset.truth / f"{name}.png").unlink()
    (dataset.truth / "folder.png").mkdir()
    (dataset.truth / "link.png").symlink_to("nowhere")
    os.mkfifo(dataset.truth / "pipe.png")
    height, width = sizes["size"]
    return REASONS | {"size": REASONS["size"].format(f"{height}x{width}")}


SCORED = ("evaluate (K = 3)", "tallies (K = 3)")
"""Stages that see true masks: a shard whose own ones change is made again."""


def test_bad_true_masks_stop_the_scores_but_not_the_masks(tmp_path: Path) -> None:
    dataset, run_dir = make_dataset(tmp_path / "data", ("a", "b", *REASONS)), tmp_path / "run"
    whole = shutil.copytree(dataset.truth, tmp_path / "whole truth")
    reasons = spoil(dataset)

    stopped = run(dataset, run_dir)
    assert stopped.exit_code == 1
    assert stopped.error.startswith(
        "evaluate: 11 images cannot be used, 0 are allowed; the others are kept. "
        "Mend or remove them, or add --max-failed 11.\n  big ids: true mask big ids.png: "
    )
    assert stopped.error.endswith("\n  and 1 more")
    assert len(list(run_dir.glob("masks/*/files/*.png"))) == 13
    assert not list(run_dir.glob("report/*/shard-*"))

    allowed = run(dataset, run_dir, "--max-failed", 11)
    assert (allowed.exit_code, allowed.made) == (0, {"views": 1, "report": 1})
    found = left_out(run_dir)
    assert found.keys() == reasons.keys()
    for name, why in reasons.items():
        assert same(found[name], f"evaluate: {why}"), found[name]
    assert len(masks_of(run_dir)) == 13
    assert report_of(run_dir)["scores"]["hungarian_strict"]["miou"] > 0

    shutil.rmtree(dataset.truth)
    whole.rename(dataset.truth)
    mended = run(dataset, run_dir)
    assert (mended.exit_code, mended.made) == (0, {**dict.fromkeys(SCORED, 11), "report": 1})
    assert left_out(run_dir) == {}


def test_unknown_ids_are_cured_in_the_class_table(three: Dataset, tmp_path: Path) -> None:
    with Image.open(three.truth / "a.png") as mask:
        width, height = mask.size
    put(three.truth, {"a.png": encoded(np.full((height, width), 7, np.uint8))})
    assert run(three, tmp_path / "run").exit_code == 1
    three.classes.write_text(f"ignore = [7]\n{three.classes.read_text()}")
    mended = run(three, tmp_path / "run")
    assert mended.exit_code == 0
    assert mended.made == {**dict.fromkeys(SCORED, 3), "views": 1, "report": 1}


def test_no_true_mask_can_be_used(three: Dataset, tmp_path: Path) -> None:
    put(three.truth, {f"{name}.png": b"" for name in "abc"})
    answer = run(three, tmp_path / "run", "--max-failed", 9)
    assert answer.exit_code == 1
    assert answer.error.startswith(
        "evaluate: no image is left, mend or replace them:\n  a: true mask a.png: empty file"
    )
    (three.truth / "c.png").unlink()
    answer = run(three, tmp_path / "run", "--max-failed", 9)
    assert answer.exit_code == 1
    assert answer.error == (
        "no image has a usable true mask, nothing can be scored: see the failures"
    )
    unscored = datus("run", "--images", three.images, *FAST, run_dir=tmp_path / "run")
    assert (unscored.exit_code, unscored.made) == (0, {"tallies (K = 3)": 3, "report": 1})


def test_an_accent_may_be_spelled_in_another_way_in_the_name_of_a_true_mask(
    tmp_path: Path,
) -> None:
    """Disks of macOS and archives made there take accents apart."""
    dataset = make_dataset(tmp_path / "data", ("caf\u00e9", "cafe\u0301 2", "e\u0301", "\u00e9"))
    (dataset.truth / "caf\u00e9.png").rename(dataset.truth / "cafe\u0301.png")
    (dataset.truth / "cafe\u0301 2.png").rename(dataset.truth / "caf\u00e9 2.png")
    (dataset.truth / "e\u0301.png").unlink()  # the other one is another image's
    assert run(dataset, tmp_path / "run").exit_code == 0
    lines = (tmp_path / "run" / "index" / "index.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["image_id"]: row["truth_path"] for row in rows} == {
        "caf\u00e9": "cafe\u0301.png",
        "cafe\u0301 2": "caf\u00e9 2.png",
        "e\u0301": None,
        "\u00e9": "\u00e9.png",
    }


# --- wrong usage --------------------------------------------------------------------------------


def test_folders_of_truth_that_do_not_fit(three: Dataset, tmp_path: Path) -> None:
    run_dir, truth = tmp_path / "run", three.truth
    given = ["run", "--images", three.images, *FAST]

    answer = datus(*given, "--truth", truth, run_dir=run_dir)
    together = "--truth and --classes go together: classes say what the true ids mean"
    assert (answer.exit_code, answer.error) == (2, together)

    shutil.copy(truth / "a.png", truth / "a.tif")
    answer = run(three, run_dir)
    twice = f"{truth}: a.png and a.tif share one name: remove one"
    assert (answer.exit_code, answer.error) == (2, twice)

    (truth / "a.tif").unlink()
    for path in list(truth.iterdir()):
        path.rename(path.with_name(f"mask of {path.name}"))
    answer = run(three, run_dir)
    none = (
        f"truth folder {truth}: none of its 3 masks has the name of an image; "
        "expected for example a.png"
    )
    assert (answer.exit_code, answer.error) == (2, none)

    shutil.rmtree(truth)
    answer = run(three, run_dir)
    assert (answer.exit_code, answer.error) == (2, f"{truth}: no such folder")
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such file"),
        ("classes = 3 4", "not valid TOML: *"),
        ("", "expected one [[classes]] block per class, got none"),
        ('classes = ["a"]', "class 0: expected name, colour and ids"),
        ("[[classes]]\nname = 'a'\nids = [0]", "class 0: expected name, colour and ids"),
        (
            "[[classes]]\nname = 'a'\ncolour = [0, 0, 0]\nids = 3",
            "class 'a': expected a list of ids, got 3",
        ),
        (
            "[[classes]]\nname = 'a'\ncolour = [0, 0, 0]\nids = [300]",
            "class 'a': expected ids 0 to 255, got 300",
        ),
        (
            "ignore = [4]\n[[classes]]\nname = 'a'\ncolour = [0, 0, 0]\nids = [4]",
            "class 'a': id 4 is used twice",
        ),
        (
            "[[classes]]\nname = 'a'\ncolour = 'red'\nids = [4]",
            "class 'a': expected colour = [r, g, b], got red",
        ),
        ("ignore = 4\n[[classes]]", "ignore: expected a list of ids, got 4"),
    ],
)
def test_a_class_table_is_checked_before_anything_is_written(
    text: str | None, expected: str, three: Dataset, tmp_path: Path
) -> None:
    three.classes.unlink()
    if text is not None:
        three.classes.write_text(text)
    answer = run(three, tmp_path / "run")
    assert answer.exit_code == 2
    assert same(answer.error, f"{three.classes}: {expected}"), answer.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[segments]\nrestart = 3",
            "segments.restart: unknown setting; did you mean segments.restarts?",
        ),
        ("[segment]\nrestarts = 3", "segment: unknown setting; did you mean segments?"),
        ("[masks]\nxyz = 3", "masks.xyz: unknown setting; known: noise, refine, min_confidence"),
        ("sead = 3", "sead: unknown setting; did you mean seed?"),
        ("[segments]\nrestarts = 'many'", "segments.restarts: expected int, got 'many'"),
        ("[segments]\nrestarts = 2.5", "segments.restarts: expected int, got 2.5"),
        ("[segments]\nrestarts = true", "segments.restarts: expected int, got True"),
        ("[segments]\nrestarts = 0", "segments.restarts: expected 1 to 1000, got 0"),
        ("[graphs]\ndensity = nan", "graphs.density: expected 0.001 to 0.9, got nan"),
        ("[features]\nkeep = 'no'", "features.keep: expected bool, got 'no'"),
        (
            "[features]\nresize = 'keap'",
            "features.resize: expected keep or squash, got 'keap'; did you mean 'keep'?",
        ),
        ("[clusters]\nk = [3, 'x']", "clusters.k: expected int, got 'x'"),
        ("[clusters]\nk = []", "clusters.k: expected different numbers, got ()"),
        ("[clusters]\nk = 256", "clusters.k: expected 1 to 255, got 256"),
        ("features = 3", "features: expected a section [features], got 3"),
        ("preset = 'paper'\nfeatures = 3", "features: expected a section [features], got 3"),
        ("preset = 'bests'", "preset: expected best or paper, got 'bests'"),
        ("preset = ['best']", "preset: expected best or paper, got ['best']"),
        ("[features\n", "{}: not valid TOML: *"),
    ],
)
def test_a_wrong_setting_is_wrong_usage_and_nothing_is_written(
    text: str, expected: str, three: Dataset, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    answer = datus("run", config, "--images", three.images, run_dir=tmp_path / "run")
    assert answer.exit_code == 2
    assert same(answer.error, expected.format(config) if "{}" in expected else expected)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "no images: give --images FOLDER, or data.images in a config file"),
        (("nothing.toml",), "nothing.toml: no such file"),
        (("--images", "x", "--set", "seed"), "--set seed: expected section.key=value"),
        (
            ("--images", "x", "--clusters", "many"),
            "--clusters many: expected a number or numbers with commas",
        ),
        (("--images", "x", "--seed", "-5"), "seed: expected 0 to 2147483647, got -5"),
        (("--images", "x", "--set", "seed.x=3"), "seed: expected int, got {'x': 3}"),
    ],
)
def test_wrong_options(options: tuple[str, ...], expected: str) -> None:
    answer = datus("run", *options)
    assert (answer.exit_code, answer.error) == (2, expected)


# --- datus evaluate -----------------------------------------------------------------------------


def test_evaluate_names_bad_masks_and_scores_the_others(three: Dataset, tmp_path: Path) -> None:
    made = shutil.copytree(three.truth, tmp_path / "made")
    put(made, {"a.png": b"", "b.png": encoded(np.zeros((2, 2), np.uint8)), "d.png": b""})
    given = ["evaluate", made, three.truth, "--classes", three.classes]
    answer = datus(*given)
    assert answer.exit_code == 1
    assert answer.error.startswith(
        "3 masks cannot be used, 0 are allowed: mend them, or add "
        "--max-failed 3\n  a: empty file (0 bytes)\n"
    )
    assert f"\n  d: no true mask in {three.truth}" in answer.error

    answer = datus(*given, "--max-failed", 3)
    assert answer.exit_code == 0
    assert "left out: a: empty file (0 bytes)\n" in answer.stdout


def test_evaluate_says_where_it_cannot_write(three: Dataset, tmp_path: Path) -> None:
    given = ["evaluate", three.truth, three.truth, "--classes", three.classes, "--json"]
    assert datus(*given, tmp_path / "new folder" / "scores.json").exit_code == 0
    assert (tmp_path / "new folder" / "scores.json").exists()
    answer = datus(*given, three.truth)
    expected = f"cannot write {three.truth}: Is a directory; choose another --json"
    assert (answer.exit_code, answer.error) == (1, expected)
    assert [p.name for p in three.root.iterdir() if p.name.startswith(".")] == []

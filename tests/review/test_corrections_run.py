"""Corrections of a run: matched to its images, hashed by content, kept in its masks and names."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import IDS, Dataset, go, made, snapshot
from typer.testing import CliRunner

from datus.cli.app import app
from datus.config import Config
from datus.errors import ClusterError, ConfigError, UsageError
from datus.formats.export import cluster_names, find_masks
from datus.formats.label_folders import as_folder
from datus.formats.matching import matched
from datus.formats.records import Corrections, Drawing
from datus.inputs.index import read_index
from datus.inputs.labels import decode_labels, find_labels, load_classes
from datus.method.masks import encode_mask
from datus.pipeline import STAGES
from datus.review.corrections import Drawn, load
from datus.review.edits import Edit, Replay, packed
from datus.store.store import Store
from datus.types import IGNORE, ImageRecord

AFTER = {"clusters (K = 3)", "masks (K = 3)", "evaluate (K = 3)", "tallies (K = 3)", "report"}

# --- matching -----------------------------------------------------------------------------------


def record(image_id: str) -> ImageRecord:
    return ImageRecord(image_id, f"{image_id}.png", 2, 3, "00" * 32, "")


def given(images: Mapping[str, Any], names: tuple[str, ...] = ("a", "b", "c")) -> Corrections:
    whole = {name: np.array(labels, np.uint8) for name, labels in images.items()}
    drawings = {n: Drawing(lambda x=x: x, lambda x=x: x.shape) for n, x in whole.items()}
    return Corrections("", names, drawings)


FULL = [[0, 0, 2], [255, 2, 2]]
EMPTY = [[255, 255, 255], [255, 255, 255]]
RUN = [record(one) for one in ("a0", "b/a0", "b/c0", "b/d0", "c/d0")]


def test_names_are_found_with_folders_or_without() -> None:
    found = matched(Path("x"), given({"a0": FULL, "images/b/c0": FULL, "gone": FULL}), RUN)
    assert found.images == {"a0": "a0", "b/c0": "images/b/c0"}
    assert found.unused == ("gone",)
    assert matched(Path("x"), given({"c0": FULL}), RUN).images == {"b/c0": "c0"}
    found = matched(Path("x"), given({"x/b/a0": FULL, "x/a0": FULL}), RUN)
    assert found.images == {"a0": "x/a0", "b/a0": "x/b/a0"}


def test_classes_without_a_pixel_are_left_out() -> None:
    found = matched(Path("x"), given({"a0": FULL, "b/a0": EMPTY}), RUN)
    assert found.names == ("a", "c")
    assert set(found.images) == {"a0"}
    np.testing.assert_array_equal(found.labels("a0"), [[0, 0, 1], [255, 1, 1]])


def test_the_digest_is_that_of_what_is_said() -> None:
    one = matched(Path("x"), given({"a0": FULL}), RUN)
    same = matched(Path("y"), given({"in/a0": FULL}, ("a", "unused", "c")), [*RUN, record("z")])
    other = matched(Path("x"), given({"a0": FULL}, ("a", "b", "d")), RUN)
    assert one.digest == same.digest != other.digest
    assert one.digest.startswith("sha256:")


def pictured(folder: Path, label: int) -> str:
    """The digest of a folder of one picture that was just written."""
    (folder / "a0.png").write_bytes(encode_mask(np.full((2, 3), label, np.uint8)))
    os.utime(folder / "a0.png", (label, label))  # clocks of disks are coarse
    config = Config.load(None, {"data.images": "x", "clusters.corrections": str(folder)})
    found = load(config, RUN[:1])
    assert found is not None
    return found.digest


def test_a_change_is_seen_beside_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / ".#a0.png").symlink_to("user@host.1234:1")  # of Emacs, while the file is open
    assert pictured(tmp_path, 0) != pictured(tmp_path, 1)


def test_a_change_behind_a_link_is_seen(tmp_path: Path) -> None:
    for name in ("real", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "linked" / "a0.png").symlink_to(tmp_path / "real" / "a0.png")
    before = pictured(tmp_path / "linked", 0)
    assert (tmp_path / "linked" / "a0.png").is_symlink()
    pictured(tmp_path / "real", 1)
    config = Config.load(None, {"data.images": "x", "clusters.corrections": f"{tmp_path}/linked"})
    after = load(config, RUN[:1])
    assert after is not None
    assert after.digest != before


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            {"gone": FULL},
            "none of its 1 images is in the run: got for example gone, expected for example a0",
        ),
        ({"a0": [[0]]}, "a0 is 1x1, its image 2x3 (height x width): expected the same size; "),
        ({"a0": EMPTY}, "no pixel has a label in any of 1 images: nothing to learn from; "),
        ({"d0": FULL}, "d0 may be b/d0 or c/d0: name it with its folders"),
        ({"b/c0": FULL, "c0": FULL}, "b/c0 and c0 are both b/c0"),
    ],
)
def test_what_does_not_fit_is_refused(images: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        matched(Path("x"), given(images), RUN)
    assert str(error.value).startswith(f"corrections: x: {message}")


# --- a run --------------------------------------------------------------------------------------


@pytest.fixture
def drawn(tiny: Dataset, tmp_path: Path) -> Path:
    """The true masks of two images as a person's, a corner left open; two of three classes."""
    folder = tmp_path / "drawn"
    for image_id in ("a1", "b/c0"):
        labels = np.array(Image.open(tiny.truth / f"{image_id}.png"))
        labels[labels == 1] = IGNORE
        (folder / image_id).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(folder / f"{image_id}.png")
    (folder / "classes.txt").write_text("0\tback\n1\tlow\n2\tbox\n")
    return folder


def masks_of(run: Path, k: int = 3) -> dict[str, Any]:
    root = run / "latest" / f"masks-k{k}"
    return {one: np.array(Image.open(root / f"{one}.png")) for one in IDS}


def test_only_clusters_and_later_are_made_and_drawn_pixels_stay(
    tiny: Dataset, run_copy: Path, drawn: Path
) -> None:
    before = snapshot(run_copy)
    config = tiny.config(run_copy, {"clusters.corrections": str(drawn)})
    result, listener = go(config)
    assert set(made(result)) == AFTER
    after = snapshot(run_copy)
    kept = {name: one for name, one in after.items() if name in before and "index" not in name}
    assert all(before[name] == one for name, one in kept.items())
    assert not listener.said
    masks = masks_of(run_copy)
    for image_id in ("a1", "b/c0"):
        labels = np.array(Image.open(drawn / f"{image_id}.png"))
        for old, new in ((0, 0), (2, 1)):  # back is cluster 0, box is cluster 1: low has no pixel
            assert (masks[image_id][labels == old] == new).all()
    assert not made(go(config)[0])


def test_the_path_and_the_format_do_not_count_and_a_pixel_does(
    tiny: Dataset, run_copy: Path, drawn: Path, tmp_path: Path
) -> None:
    first = go(tiny.config(run_copy, {"clusters.corrections": str(drawn)}))[0].plan
    moved = Path(shutil.move(drawn, tmp_path / "elsewhere"))
    (moved / "classes.txt").rename(tmp_path / "classes.txt")
    palette = [[9, 9, 9], [8, 8, 8], [7, 7, 7]]
    (moved / "classes.json").write_text(
        json.dumps({"classes": ["back", "low", "box"], "palette": palette, "ignore_index": 255})
    )
    config = tiny.config(run_copy, {"clusters.corrections": str(moved)})
    again = go(config)[0]
    assert [node.fingerprint for node in again.plan.nodes] == [
        node.fingerprint for node in first.nodes
    ]
    assert not made(again)
    labels = np.array(Image.open(moved / "a1.png"))
    labels[-1, -1] = 0
    Image.fromarray(labels).save(moved / "a1.png")
    assert set(made(go(config)[0])) == AFTER


@pytest.mark.parametrize(
    "more",
    [
        {"clusters.spherical": False, "clusters.pca": 0},
        {"clusters.pca": -1, "masks.noise": "ignore", "masks.refine": "none"},
        {"clusters.k": [3, 5], "masks.min_confidence": 0.9},
    ],
)
def test_other_settings_keep_drawn_pixels(
    tiny: Dataset, run_copy: Path, drawn: Path, more: Mapping[str, Any]
) -> None:
    go(tiny.config(run_copy, {"clusters.corrections": str(drawn), **more}))
    for k in more.get("clusters.k", [3]):
        mask, labels = masks_of(run_copy, k)["a1"], np.array(Image.open(drawn / "a1.png"))
        assert (mask[labels == 0] == 0).all()
        assert (mask[labels == 2] == 1).all()


def test_without_corrections_the_recipe_is_that_of_before(tiny: Dataset, finished: Path) -> None:
    config, index = tiny.config(finished), read_index(Store(finished))
    assert index is not None
    clusters = next(stage for stage in STAGES if stage.name == "clusters")
    assert set(clusters.settings(config, 3, index)) == {
        *("k", "pca", "spherical", "restarts", "sample", "seed", "dataset")
    }
    assert (clusters.version, clusters.needs(config)) == (3, ("embeddings", "samples"))


def test_names_go_to_the_export_and_the_report(
    tiny: Dataset, run_copy: Path, drawn: Path, tmp_path: Path
) -> None:
    go(tiny.config(run_copy, {"clusters.corrections": str(drawn)}))
    store = Store(run_copy)
    assert cluster_names(store, find_masks(store)) == ["back", "box", "cluster 2"]
    names = tmp_path / "names.toml"
    names.write_text('[names]\n2 = "rest"\n')
    assert cluster_names(store, find_masks(store), str(names)) == ["back", "box", "rest"]
    root = run_copy / "latest" / "report"
    report = json.loads((root / "report.json").read_text())
    assert report["sweep"][0]["names"] == ["back", "box", ""]
    assert report["settings"]["clusters"]["corrections"].startswith("sha256:")
    assert 'Cluster 1: <bdi class="text">box</bdi>' in (root / "report.html").read_text()
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(run_copy), "--to", "png", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "classes.json").read_text())["classes"] == [
        *("back", "box", "cluster 2")
    ]


def test_an_export_goes_round(tiny: Dataset, run_copy: Path, tmp_path: Path) -> None:
    """What came out goes back in: every pixel stays, and the run says that nothing is left."""
    before = masks_of(run_copy)
    out = tmp_path / "out"
    arguments = ["export", str(run_copy), "--to", "cvat", "--out", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    _, listener = go(tiny.config(run_copy, {"clusters.corrections": str(out)}))
    for image_id, mask in masks_of(run_copy).items():
        np.testing.assert_array_equal(mask, before[image_id])
    assert any("every image of the run is corrected" in text for text in listener.said)
    store = Store(run_copy)
    assert cluster_names(store, find_masks(store)) == ["cluster 0", "cluster 1", "cluster 2"]


def test_denoised_masks_keep_what_was_drawn(tiny: Dataset, run_copy: Path, drawn: Path) -> None:
    more = {"clusters.corrections": str(drawn), "denoise.enabled": True, "denoise.epochs": 1}
    go(tiny.config(run_copy, more))
    mask = np.array(Image.open(run_copy / "latest" / "denoised-k3" / "a1.png"))
    labels = np.array(Image.open(drawn / "a1.png"))
    assert (mask[labels == 2] == 1).all()


def test_edits_of_corrected_classes_hold_for_drawn_pixels() -> None:
    edits = (Edit("merge", (0, 1)), Edit("split", (2,), parts=2, fresh=(5,)), Edit("drop", (3,)))
    splits = {1: np.zeros((2, 4), np.float32)}
    arrays = packed(Replay(edits, ()), np.zeros((5, 4), np.float32), splits)
    labels = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
    drawn = Drawn(labels, np.zeros(0, np.int16))
    mask = np.full((2, 3), 9, np.uint8)
    np.testing.assert_array_equal(drawn.paint(mask), [[0, 1, 2], [3, 4, 9]])
    np.testing.assert_array_equal(drawn.paint(mask, arrays), [[0, 0, 2], [255, 4, 9]])


def test_corrected_clusters_can_be_frozen(
    tiny: Dataset, run_copy: Path, drawn: Path, tmp_path: Path
) -> None:
    go(tiny.config(run_copy, {"clusters.corrections": str(drawn)}))
    other = tmp_path / "other"
    go(tiny.config(other, {"clusters.frozen": str(run_copy)}))
    store = Store(other)
    assert cluster_names(store, find_masks(store)) == ["back", "box", "cluster 2"]
    masks, old = masks_of(other), masks_of(run_copy)
    for image_id in set(IDS) - {"a1", "b/c0"}:  # the drawn pixels belong to the first run
        np.testing.assert_array_equal(masks[image_id], old[image_id])


# --- what is refused ----------------------------------------------------------------------------


def test_more_classes_than_clusters_are_refused(tiny: Dataset, run_copy: Path, drawn: Path) -> None:
    more = {"clusters.corrections": str(drawn), "clusters.k": [1]}
    with pytest.raises(ClusterError) as error:
        go(tiny.config(run_copy, more))
    assert str(error.value) == (
        "the corrections have 2 classes, clusters.k is 1: use --clusters 2 or more"
    )


def test_too_little_drawn_is_refused(tiny: Dataset, run_copy: Path, tmp_path: Path) -> None:
    labels = np.full_like(np.array(Image.open(tiny.truth / "a1.png")), IGNORE)
    labels[5, 5] = 0
    (tmp_path / "few").mkdir()
    Image.fromarray(labels).save(tmp_path / "few" / "a1.png")
    with pytest.raises(ClusterError) as error:
        go(tiny.config(run_copy, {"clusters.corrections": str(tmp_path / "few")}))
    assert str(error.value) == (
        "in 1 corrected images no segment is covered by one class to more than 50 %: "
        "draw whole regions"
    )


def test_frozen_clusters_and_corrections_exclude_each_other(tiny: Dataset, finished: Path) -> None:
    with pytest.raises(ConfigError) as error:
        tiny.config("x", {"clusters.frozen": "old", "clusters.corrections": "new"})
    assert str(error.value) == (
        "clusters.corrections: makes new clusters, but clusters.frozen takes those of old: "
        "leave one of them out"
    )


def test_the_command_says_what_is_wrong(tiny: Dataset, run_copy: Path, tmp_path: Path) -> None:
    arguments = ["run", *tiny.arguments(run_copy), "--corrections", str(tmp_path / "gone")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    expected = f"error: corrections: {tmp_path / 'gone'}: no such file or folder"
    assert done.output.strip().splitlines()[-1] == expected


# --- training on corrections --------------------------------------------------------------------


def test_corrections_become_labels_to_learn_from(
    tiny: Dataset, drawn: Path, tmp_path: Path
) -> None:
    labels, table = as_folder(tiny.images, drawn, tmp_path / "out")
    classes = load_classes(table)
    assert classes.names == ("back", "box")
    assert sorted(find_labels(labels)) == ["a1", "b/c0"]
    for image_id in ("a1", "b/c0"):
        expected = np.array(Image.open(drawn / f"{image_id}.png"))
        found = decode_labels((labels / f"{image_id}.png").read_bytes(), 10**6)
        np.testing.assert_array_equal(found, expected)


def test_fit_reads_what_a_tool_exports(tiny: Dataset, drawn: Path, tmp_path: Path) -> None:
    arguments = ["fit", "--images", str(tiny.images), "--labels", str(drawn), "--epochs", "1"]
    arguments += ["--set", "features.image_px=64", "--out", str(tmp_path / "m"), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "m.json").read_text())
    assert record["classes"]["names"] == ["back", "box"]
    assert "2 images learnt" in done.output

"""`datus run --edits`: masks, scores, names and exports of an edited run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import Dataset, go, made, snapshot
from typer.testing import CliRunner

from datus.cli.app import app
from datus.config import Config
from datus.errors import ConfigError, UsageError
from datus.inputs.index import read_index
from datus.review.replay import read_base
from datus.store.store import Store

MORE = {"clusters.k": [4], "masks.refine": "none"}


def save_edits(run_dir: Path, path: Path, *edits: dict[str, Any]) -> Path:
    store = Store(run_dir)
    mark = store.recipes("clusters")[0][0]
    data = store.read_shard(("clusters", mark, "all"))
    assert data
    table = {"format": "datus-edits", "version": 1, "clusters": read_base(data.arrays[""])}
    path.write_text(json.dumps({**table, "edits": list(edits)}))
    return path


def masks_of(run_dir: Path) -> dict[str, Any]:
    folder = run_dir / "latest" / "masks-k4"
    ids = [record.image_id for record in read_index(Store(run_dir)).records]  # type: ignore[union-attr]
    return {one: np.array(Image.open(folder / f"{one}.png")) for one in ids}


def report(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "latest" / "report" / "report.json").read_text()))


@pytest.fixture
def plain(tiny: Dataset, tmp_path: Path) -> Path:
    go(tiny.config(tmp_path / "plain", MORE))
    return tmp_path / "plain"


def test_merge_drop_and_names_change_labels_and_nothing_before(
    tiny: Dataset, plain: Path, tmp_path: Path
) -> None:
    before = masks_of(plain)
    path = save_edits(
        plain, tmp_path / "edits.json",
        {"op": "merge", "clusters": [1, 3]}, {"op": "drop", "cluster": 0},
        {"op": "rename", "cluster": 1, "name": "water <b>"},
    )  # fmt: skip
    result, _ = go(tiny.config(plain, {**MORE, "clusters.edits": str(path)}))
    stages = {"edits (K = 4)", "masks (K = 4)", "evaluate (K = 4)", "tallies (K = 4)", "report"}
    assert set(made(result)) == stages
    for image_id, mask in masks_of(plain).items():
        expected = before[image_id].copy()
        expected[before[image_id] == 3] = 1
        expected[before[image_id] == 0] = 255
        np.testing.assert_array_equal(mask, expected)
    found = report(plain)
    assert found["clusters"] == 2
    row = found["sweep"][0]
    assert row["names"] == ["", "water <b>", "", ""]
    assert row["gone"] == [0, 3]
    assert row["cluster_pixels"][0] == row["cluster_pixels"][3] == 0
    page = (plain / "latest" / "report" / "report.html").read_text()
    assert "water &lt;b&gt;" in page
    assert "Cluster 3" not in page


def test_a_new_name_alone_makes_no_mask_again(tiny: Dataset, plain: Path, tmp_path: Path) -> None:
    merge = {"op": "merge", "clusters": [1, 3]}
    path = save_edits(plain, tmp_path / "edits.json", merge)
    go(tiny.config(plain, {**MORE, "clusters.edits": str(path)}))
    save_edits(plain, path, merge, {"op": "rename", "cluster": 2, "name": "sky"})
    result, _ = go(tiny.config(plain, {**MORE, "clusters.edits": str(path)}))
    assert set(made(result)) == {"report"}
    assert report(plain)["sweep"][0]["names"] == ["", "", "sky", ""]


def test_names_flow_into_exports_and_dropped_clusters_do_not(
    tiny: Dataset, plain: Path, tmp_path: Path
) -> None:
    path = save_edits(
        plain, tmp_path / "edits.json",
        {"op": "drop", "cluster": 0}, {"op": "rename", "cluster": 2, "name": "sky"},
    )  # fmt: skip
    go(tiny.config(plain, {**MORE, "clusters.edits": str(path)}))
    arguments = ["export", str(plain), "--to", "png", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())["classes"]
    assert classes == ["cluster 1", "sky", "cluster 3"]


def test_a_split_takes_one_cluster_apart(tiny: Dataset, plain: Path, tmp_path: Path) -> None:
    before = masks_of(plain)
    largest = int(np.argmax(report(plain)["sweep"][0]["cluster_pixels"][:4]))
    path = save_edits(
        plain, tmp_path / "edits.json",
        {"op": "split", "cluster": largest, "parts": 2},
        {"op": "rename", "cluster": 4, "name": "other half"},
    )  # fmt: skip
    go(tiny.config(plain, {**MORE, "clusters.edits": str(path)}))
    seen = set()
    for image_id, mask in masks_of(plain).items():
        split = before[image_id] == largest
        np.testing.assert_array_equal(mask[~split], before[image_id][~split])
        assert set(np.unique(mask[split])) <= {largest, 4}
        seen |= set(np.unique(mask).tolist())
    assert {largest, 4} <= seen
    row = report(plain)["sweep"][0]
    assert row["k"] == 5
    assert len(row["cluster_pixels"]) == 6
    assert row["names"][4] == "other half"
    arguments = ["export", str(plain), "--to", "png", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())["classes"]
    assert classes[4] == "other half"


def test_edits_are_followed_to_other_clusters_and_the_replay_is_the_same_bytes(
    tiny: Dataset, plain: Path, tmp_path: Path
) -> None:
    path = save_edits(
        plain, tmp_path / "edits.json",
        {"op": "split", "cluster": 1, "parts": 2}, {"op": "drop", "cluster": 0},
    )  # fmt: skip
    again = {**MORE, "clusters.edits": str(path), "clusters.restarts": 7}
    go(tiny.config(tmp_path / "a", again))
    go(tiny.config(tmp_path / "b", again))
    one, other = (
        {name: both[1] for name, both in snapshot(tmp_path / run).items() if "/shard-" in name
         and name.endswith(".safetensors")}
        for run in ("a", "b")
    )  # fmt: skip
    assert one
    assert one == other
    row = report(tmp_path / "a")["sweep"][0]
    assert (
        len(row["gone"]) + sum("is left out" in text for text in report(tmp_path / "a")["warnings"])
        >= 1
    )


def test_where_the_file_lies_changes_no_byte_of_the_report(
    tiny: Dataset, plain: Path, tmp_path: Path
) -> None:
    pages = []
    for name in ("edits.json", "other/renamed.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        path = save_edits(plain, tmp_path / name, {"op": "drop", "cluster": 0})
        go(tiny.config(tmp_path / f"run{len(pages)}", {**MORE, "clusters.edits": str(path)}))
        pages.append(tmp_path / f"run{len(pages)}" / "latest" / "report" / "report.json")
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert json.loads(pages[0].read_text())["settings"]["clusters"]["edits"] == ["drop 0"]


def test_denoising_learns_the_edited_labels(tiny: Dataset, plain: Path, tmp_path: Path) -> None:
    path = save_edits(plain, tmp_path / "edits.json", {"op": "split", "cluster": 1, "parts": 2})
    fast = {"denoise.enabled": True, "denoise.epochs": 1, "clusters.edits": str(path)}
    go(tiny.config(plain, {**MORE, **fast}))
    found = report(plain)["sweep"][0]["denoised"]
    assert len(found["cluster_pixels"]) == 6


def test_a_file_that_is_not_there_or_for_several_k_is_refused(
    tiny: Dataset, tmp_path: Path
) -> None:
    missing = tmp_path / "none.json"
    with pytest.raises(UsageError) as error:
        go(tiny.config(tmp_path / "run", {**MORE, "clusters.edits": str(missing)}))
    assert str(error.value) == f"--edits {missing}: No such file or directory"
    with pytest.raises(ConfigError) as refused:
        Config.load(None, {"clusters.k": [3, 4], "clusters.edits": "e.json"})
    assert str(refused.value) == (
        "clusters.edits: expected one K, got 2: edits are made on the clusters of one; choose it "
        "with --clusters"
    )


def test_names_change_no_byte_before_the_report(tiny: Dataset, plain: Path, tmp_path: Path) -> None:
    steps = [{"op": "merge", "clusters": [1, 3]}, {"op": "split", "cluster": 0, "parts": 2}]
    called = [{"op": "rename", "cluster": 2, "name": "sky"}]
    kept = []
    for given in ([*steps], [steps[0], *called, steps[1]]):
        path = save_edits(plain, tmp_path / "edits.json", *given)
        shutil.rmtree(plain / "edits", ignore_errors=True)
        go(tiny.config(plain, {**MORE, "clusters.edits": str(path)}), until="edits")
        (arrays,) = plain.glob("edits/*/shard-all.safetensors")
        kept.append((arrays.parent.name, arrays.read_bytes()))
    assert kept[0] == kept[1]

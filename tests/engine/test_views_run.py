"""Some images looked at again: what the stage views stores, and the verdict that the report has."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_tree import tree
from tiny_runs import IDS, Dataset, go, made, make_dataset, save, snapshot

from datus.config import EMBEDDED_BACKBONE
from datus.engine.plan import find_node
from datus.engine.run import RunResult
from datus.method.consistency import VIEWS, kappa, labels_in, picture_of
from datus.review.replay import read_base
from datus.stages import features
from datus.stages.embeddings import few_valid
from datus.stages.masks import few_labelled
from datus.stages.views import n_viewed, viewed
from datus.store.store import DATASET_KEY, Store
from datus.types import WHOLE, Array, ImageRecord

pytestmark = pytest.mark.usefixtures("one_backbone")

FIGURES = {"mirror", "crop", "place", "uniform"}
WORDS = {"no objection", "look closely", "do not trust this"}
RANDOM = "the weights of the backbone are random: nothing was learned"
UNSCORED: dict[str, Any] = {"data.truth": "", "data.classes": ""}


def report_of(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "latest" / "report" / "report.json").read_bytes()))


def verdicts(run_dir: Path) -> dict[int, dict[str, Any]]:
    """K -> word, reasons and figures."""
    return {row["k"]: row["verdict"] for row in report_of(run_dir)["sweep"]}


def verdict_of(dataset: Dataset, run_dir: Path, **more: Any) -> dict[str, Any]:
    """Of a run with settings that differ; checked as far as every verdict is alike."""
    settings = {name.replace("__", "."): value for name, value in more.items()}
    go(dataset.config(run_dir, settings))
    found = dict(report_of(run_dir)["verdict"])
    assert found["word"] in WORDS
    assert found["reasons"]
    assert set(found["figures"]) == FIGURES
    assert all(-1 <= value <= 1 for value in found["figures"].values())
    return found


def views_of(result: RunResult, run_dir: Path) -> dict[str, dict[str, Array]]:
    data = Store(str(run_dir)).read_shard(("views", mark_of(result), DATASET_KEY))
    assert data is not None
    return {name: dict(arrays) for name, arrays in data.arrays.items()}


def mark_of(result: RunResult) -> str:
    return find_node(result.plan.nodes, "views", 0).fingerprint


def records_of(n: int) -> tuple[ImageRecord, ...]:
    return tuple(ImageRecord(f"{i:05}", f"{i}.png", 9, 9, "x", "s", "p", None) for i in range(n))


# --- which images -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_images", "expected"),
    [(0, 0), (1, 1), (3, 3), (4, 4), (40, 4), (49, 4), (100, 10), (160, 16), (10**6, 16)],
)
def test_how_many_images_are_looked_at_again(n_images: int, expected: int) -> None:
    assert n_viewed(n_images) == expected


@pytest.mark.parametrize("n_images", [0, 1, 2, 5, 10, 33, 100, 1000])
def test_images_are_spread_over_the_dataset_and_none_is_taken_twice(n_images: int) -> None:
    records = records_of(n_images)
    found = viewed(records)
    numbers = [int(record.image_id) for record in found]
    assert len(numbers) == len(set(numbers)) == n_viewed(n_images)
    assert numbers == sorted(numbers)
    if len(numbers) > 1:
        steps = np.diff(numbers)
        assert steps.max() - steps.min() <= 1
        assert numbers[0] <= steps.max()
        assert n_images - numbers[-1] <= steps.max() + 1


# --- what is stored -----------------------------------------------------------------------------


def test_each_view_of_each_image_has_its_segments_and_vectors(
    tiny: Dataset, finished: Path
) -> None:
    result, _ = go(tiny.config(finished))
    found = views_of(result, finished)
    records = viewed(result.index.records)
    assert found.keys() == {f"{view}/{one.image_id}" for view in VIEWS for one in records}
    for arrays in found.values():
        assert {"labels", "vectors", "valid"} <= arrays.keys()
        assert len(arrays["vectors"]) == len(arrays["valid"]) == arrays["labels"].max() + 1


def test_threads_and_batches_change_no_byte(tiny: Dataset, finished: Path, tmp_path: Path) -> None:
    for threads, batch in ((1, 1), (2, 3)):
        run_dir = tmp_path / f"{threads}"
        more = {"speed.threads": threads, "speed.batch": batch}
        result, _ = go(tiny.config(run_dir, more))
        place = Path("views") / mark_of(result)
        assert tree(run_dir / place) == tree(finished / place)
        assert verdicts(run_dir) == verdicts(finished)


def test_nothing_is_looked_at_again_for_another_k_and_figures_do_not_hang_on_the_order(
    tiny: Dataset, run_copy: Path
) -> None:
    before = verdicts(run_copy)
    result, _ = go(tiny.config(run_copy, {"clusters.k": [2, 3, 4]}))
    assert "views" not in made(result)
    first = verdicts(run_copy)
    assert first[3] == before[3]
    assert report_of(run_copy)["verdict"] == first[2]
    result, _ = go(tiny.config(run_copy, {"clusters.k": [4, 3, 2]}))
    assert made(result) == {"report": 1}
    assert verdicts(run_copy) == first
    assert report_of(run_copy)["verdict"] == first[4]


@pytest.mark.parametrize("shard_images", [1, 100])
def test_shards_change_no_figure(
    shard_images: int, tiny: Dataset, finished: Path, tmp_path: Path
) -> None:
    go(tiny.config(tmp_path / "run", {"data.shard_images": shard_images}))
    assert verdicts(tmp_path / "run")[3]["figures"] == verdicts(finished)[3]["figures"]


def test_views_that_are_gone_or_damaged_are_made_again(
    tiny: Dataset, run_copy: Path, finished: Path
) -> None:
    (path,) = run_copy.glob("views/*/shard-all.safetensors")
    path.unlink()
    result, _ = go(tiny.config(run_copy))
    assert made(result) == {"views": 1}
    assert tree(run_copy) == tree(finished)


# --- what they are ------------------------------------------------------------------------------


def patch_labels(result: RunResult, run_dir: Path) -> dict[str, Array]:
    """Image id -> uint8 (gh, gw), from what the stages stored."""
    store, found = Store(str(run_dir)), {}
    segments, masks = (
        find_node(result.plan.nodes, name, 3).fingerprint for name in ("segments", "masks")
    )
    for shard in result.plan.shards:
        whole = [
            store.read_shard(place)
            for place in (("segments", segments, shard.key), ("masks", masks, shard.key))
        ]
        assert whole[0] is not None
        assert whole[1] is not None
        for image_id, arrays in whole[1].arrays.items():
            of_patch = whole[0].arrays[image_id]["labels"]
            found[image_id] = arrays["cluster"].astype(np.uint8)[of_patch]
    return found


@pytest.mark.parametrize(
    ("view", "noise"),
    [
        ("mirror", "pool"),
        ("crop", "ignore"),
        *(
            pytest.param(view, noise, marks=pytest.mark.slow)
            for view, noise in itertools.product(VIEWS, ("nearest", "ignore", "pool"))
            if (view, noise) not in {("mirror", "pool"), ("crop", "ignore")}
        ),
    ],
)
def test_a_figure_is_what_a_run_on_the_changed_images_with_these_clusters_says(
    view: Any, noise: str, tmp_path: Path
) -> None:
    """The whole way round: images are changed on disk, and mined with the frozen clusters. Sides
    are such that a crop has the grid of its image."""
    dataset = Dataset(tmp_path / "photos")
    rng = np.random.default_rng(5)
    for image_id, (height, width) in zip(IDS, [(64, 64), (64, 96), (96, 64)] * 2, strict=False):
        colours = rng.integers(0, 200, (2, 2, 3)).repeat(height // 2, 0).repeat(width // 2, 1)
        image = colours + rng.integers(0, 50, (height, width, 3))
        save(dataset.images / f"{image_id}.png", image.astype(np.uint8))
    settings: dict[str, Any] = {
        **UNSCORED,
        "graphs.threshold": "auto",
        "graphs.center": "dataset",
        "graphs.density": 0.15,
        "masks.noise": noise,
    }
    go(dataset.config(tmp_path / "run", settings))
    found = report_of(tmp_path / "run")["verdict"]["figures"][view]
    settings["masks.noise"] = "nearest"  # a verdict is on labels of every segment
    result, _ = go(dataset.config(tmp_path / "run", settings))
    changed = Dataset(tmp_path / "changed")
    for image_id in IDS[:6]:
        image = np.array(Image.open(dataset.images / f"{image_id}.png"))
        save(changed.images / f"{image_id}.png", picture_of(image, view))
    taken = {**settings, "clusters.frozen": str(tmp_path / "run")}
    other, _ = go(changed.config(tmp_path / "other", taken))
    before = patch_labels(result, tmp_path / "run")
    after = patch_labels(other, tmp_path / "other")
    ids = [record.image_id for record in viewed(result.index.records)]
    expected = kappa(
        np.concatenate([labels_in(before[one], view).ravel() for one in ids]),
        np.concatenate([after[one].ravel() for one in ids]),
    )
    assert found == pytest.approx(expected, abs=1e-5)


# --- settings -----------------------------------------------------------------------------------


def test_random_weights_are_not_trusted(tiny: Dataset, tmp_path: Path) -> None:
    found = verdict_of(tiny, tmp_path / "run", features__weights="random")
    assert found["word"] == "do not trust this"
    assert RANDOM in found["reasons"]
    assert RANDOM in (tmp_path / "run" / "latest" / "report" / "report.md").read_text("utf-8")


def test_crops_are_made_of_views_too(tiny: Dataset, finished: Path, tmp_path: Path) -> None:
    more = {"embeddings__mode": "crop", "embeddings__crop_px": 32}
    found = verdict_of(tiny, tmp_path / "run", **more)
    assert RANDOM not in found["reasons"]
    assert found["figures"] != report_of(finished)["verdict"]["figures"]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"features__keep": False}, marks=pytest.mark.slow),
        pytest.param({"graphs__keep": False}, marks=pytest.mark.slow),
        {"features__keep": False, "graphs__keep": False, "graphs__center": "position"},
    ],
)
def test_what_is_not_kept_changes_no_verdict(
    more: dict[str, Any], tiny: Dataset, tmp_path: Path
) -> None:
    found = verdict_of(tiny, tmp_path / "run", **more)
    kept = {name: value for name, value in more.items() if not name.endswith("keep")}
    assert found == verdict_of(tiny, tmp_path / "kept", **kept)


def test_segments_without_a_label_do_not_count(tiny: Dataset, tmp_path: Path) -> None:
    more = {"masks__noise": "ignore", "embeddings__min_patches": 6}
    verdict_of(tiny, tmp_path / "run", **more)


def test_the_paper_has_a_verdict_too(tiny: Dataset, tmp_path: Path) -> None:
    more = {"preset": "paper", "graphs__center": "none", "graphs__threshold": 0.0}
    verdict_of(tiny, tmp_path / "run", embeddings__crop_px=32, **more)


def test_other_settings_of_masks_and_no_truth(
    tiny: Dataset, finished: Path, tmp_path: Path
) -> None:
    plain = report_of(finished)["verdict"]
    assert verdict_of(tiny, tmp_path / "blind", data__truth="", data__classes="") == plain
    assert verdict_of(tiny, tmp_path / "crude", masks__refine="none") == plain
    assert verdict_of(tiny, tmp_path / "sure", masks__min_confidence=0.3)["figures"]


def test_edits_count(tiny: Dataset, run_copy: Path, tmp_path: Path) -> None:
    """All merged into one: labels cannot change, and every image is one label."""
    store = Store(str(run_copy))
    data = store.read_shard(("clusters", store.recipes("clusters")[0][0], DATASET_KEY))
    assert data is not None
    table = {"format": "datus-edits", "version": 1, "clusters": read_base(data.arrays[WHOLE])}
    table["edits"] = [{"op": "merge", "clusters": [0, 1, 2]}]
    (tmp_path / "edits.json").write_text(json.dumps(table), encoding="utf-8")
    more = {"clusters__edits": str(tmp_path / "edits.json")}
    found = verdict_of(tiny, run_copy, **more)
    assert found["word"] == "look closely"
    assert found["reasons"] == [
        "100 % of the images are one label each: clusters sort whole images rather than their "
        "parts",
        "10 images say little: 20 or more give steady figures",
    ]
    assert [found["figures"][name] for name in (*VIEWS, "uniform")] == [1.0, 1.0, 1.0]


def test_random_weights_of_crops_are_not_trusted(tiny: Dataset, tmp_path: Path) -> None:
    crops = {"embeddings__mode": "crop", "embeddings__crop_px": 32}
    other = {"embeddings__backbone": "datus_t8", "embeddings__weights": "random"}
    assert RANDOM in verdict_of(tiny, tmp_path / "run", **crops, **other)["reasons"]


def test_images_that_could_not_be_read_are_left_out_and_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may crash or hang the decoder: that is for workers and children to see, not for this."""
    dataset = make_dataset(tmp_path / "photos", IDS[:5])
    path = dataset.images / "a1.png"
    path.write_bytes(path.read_bytes()[:-200])
    config = dataset.config(tmp_path / "run", {**UNSCORED, "speed.max_failed": 1})
    go(config, until="tallies")
    read, seen = features.read_image, set()

    def noting(config: Any, record: ImageRecord) -> Array:
        seen.add(record.image_id)
        return read(config, record)

    monkeypatch.setattr(features, "read_image", noting)
    result, _ = go(config, until="views")
    looked_at = {record.image_id for record in viewed(result.index.records)}
    assert seen == looked_at - {"a1"}
    result, _ = go(config)
    assert "a1" in {record.image_id for record in viewed(result.index.records)}
    assert not any(name.endswith("/a1") for name in views_of(result, tmp_path / "run"))
    assert set(report_of(tmp_path / "run")["verdict"]["figures"]) == FIGURES


@pytest.mark.parametrize("n_images", [1, 2])
def test_one_image_and_two_have_a_verdict(n_images: int, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", IDS[:n_images])
    found = verdict_of(dataset, tmp_path / "run", clusters__k=[2])
    if n_images == 1:
        assert found["figures"]["place"] == 0.0


def test_too_few_valid_segments_are_not_trusted(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", IDS[:6])
    more = {
        "features__backbone": EMBEDDED_BACKBONE,
        "embeddings__min_patches": 15,
        "graphs__threshold": 0.95,
        "clusters__k": [1],
    }
    found = verdict_of(dataset, tmp_path / "run", **more)
    numbers = report_of(tmp_path / "run")["numbers"]["embeddings"]["valid_patch_share"]
    assert 0 < numbers["mean"] < 0.2
    (said,) = few_valid(numbers["mean"])
    assert found["word"] == "do not trust this"
    assert found["reasons"][0][:40] == said[:40]
    assert any(text.startswith(said[:30]) for text in report_of(tmp_path / "run")["warnings"])


def test_masks_without_a_label_are_not_trusted(tiny: Dataset, tmp_path: Path) -> None:
    found = verdict_of(tiny, tmp_path / "run", masks__min_confidence=1.0)
    assert report_of(tmp_path / "run")["coverage"] == 0.0
    assert found["word"] == "do not trust this"
    assert found["reasons"] == ["no pixel of any mask has a label"]


def test_a_few_sure_pixels_are_not_trusted() -> None:
    """Their labels stay, whatever the views show of the others."""
    assert few_labelled(0.2) == []
    (said,) = few_labelled(0.123)
    assert said.startswith("12.3 % of all pixels have a label, expected 20 % or more")


def test_little_is_labelled_and_the_verdict_says_so(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datus.stages.masks.LOW_VALID_SHARE", 0.99)
    monkeypatch.setattr("datus.stages.report.few_valid", lambda share: [])
    found = verdict_of(tiny, tmp_path / "run", masks__min_confidence=0.5)
    assert 0 < report_of(tmp_path / "run")["coverage"] < 99
    assert found["word"] == "do not trust this"
    assert "of all pixels have a label, expected 99 %" in found["reasons"][0]


def test_views_write_nothing_else(tiny: Dataset, run_copy: Path) -> None:
    """What is stored of the images themselves stays as it was."""
    for path in run_copy.glob("views/*/shard-*"):
        path.unlink()
    before = {name: one for name, one in snapshot(run_copy).items() if "views/" not in name}
    go(tiny.config(run_copy), until="views")
    after = snapshot(run_copy)
    assert {name: after[name] for name in before} == before

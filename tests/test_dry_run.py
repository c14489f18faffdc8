"""What a run would take, said before it: bytes, seconds, memory; and what would stop it."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from commands import call, error_of, rows_of
from run_tree import tree
from tiny_runs import IDS, SHIPPED, SHIPPED_OPTIONS, Dataset, go, make_dataset, save, snapshot

import datus.dry_run
import datus.engine.budget
from datus.config import Config
from datus.dry_run import Estimate, _Measured, _Sample, dry_run
from datus.engine.run import QUIET
from datus.inputs.index import make_index, read_index
from datus.method.consistency import VIEWS
from datus.models.vit import Backbone
from datus.pipeline import make_plan
from datus.stages.views import n_viewed
from datus.store.store import Store

MANY = tuple(f"i{number:02}" for number in range(24))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """More images than go through the stages. Only to read."""
    return make_dataset(tmp_path_factory.mktemp("many") / "photos", MANY)


def dry(config: Config, **more: Any) -> Estimate:
    return dry_run(config, Store(config.run_path), QUIET, **more)


def by_name(found: Estimate) -> dict[str, tuple[int, int]]:
    """stage -> (images to do, bytes)."""
    return {row.name: (row.images, row.n_bytes or 0) for row in found.rows}


def written(run_dir: Path) -> dict[str, int]:
    """stage -> bytes in its folder."""
    store = Store(run_dir)
    return {stage: store.disk_bytes(stage) for stage in store.folders() if stage != "latest"}


# --- bytes and seconds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"graphs.center": "position"}, marks=pytest.mark.slow),
        pytest.param({"embeddings.mode": "crop"}, marks=pytest.mark.slow),
    ],
)
def test_the_bytes_of_every_stage_are_those_of_the_run(
    more: dict[str, Any], photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # four images say little of four others
    monkeypatch.setattr("datus.stages.views.n_viewed", lambda n_images: n_images)
    # spherical: the clusters of the sample are those of all images, so tallies hold as much
    steady = {"clusters.spherical": True, "embeddings.crop_px": 32}
    config = photos.config(tmp_path / "run", {**more, **steady, **SHIPPED})
    found = dry(config)
    assert found.problems == []
    go(config)
    real = written(tmp_path / "run")
    guess = {name.split(" ")[0]: n_bytes for name, (_, n_bytes) in by_name(found).items()}
    assert guess.keys() == real.keys()
    for stage, n_bytes in guess.items():
        # a tiny run's JSON says how many digits a figure has; the report counts pictures
        luck = 10 * 776 if stage == "samples" else None  # one vector in 16, of a few hundred
        # tallies grow with the images of a shard, but less and less, and shards differ in size
        rel = 0.2 if stage in ("report", "tallies") else 0.1
        near = pytest.approx(real[stage], rel=rel, abs=luck)
        assert n_bytes == near, stage
    assert found.n_bytes == pytest.approx(sum(real.values()), rel=0.1)


def test_finished_stages_cost_nothing(tiny: Dataset, finished: Path) -> None:
    found = dry(tiny.config(finished))
    assert found.rows[0].n_bytes == 0
    assert {(row.images, row.seconds, row.n_bytes) for row in found.rows[1:]} == {(0, 0.0, 0)}
    assert found.facts[-1] == "everything is done: the run would make nothing"
    assert (found.warnings, found.problems) == ([], [])


def test_only_what_is_missing_is_counted(
    tiny: Dataset, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another K: nothing before the clusters, and no model is loaded."""

    def no_model(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("datus.models.vit.load_backbone", no_model)
    # spherical: these two clusters do not depend on the order in which vectors come
    config = tiny.config(run_copy, {"clusters.k": [2], "clusters.spherical": True})
    before = written(run_copy)
    found = by_name(dry(config))
    n = len(IDS)
    assert {name: images for name, (images, _) in found.items() if images} == {
        "index": n,
        "clusters (K = 2)": n,
        "masks (K = 2)": n,
        "evaluate (K = 2)": n,
        "tallies (K = 2)": n,
        "report": n,
    }
    go(config)
    after = written(run_copy)
    for name, (_, n_bytes) in found.items():
        stage = name.split(" ")[0]
        assert n_bytes == pytest.approx(after[stage] - before[stage], rel=0.15), stage


def test_missing_shards_alone_are_counted(tiny: Dataset, run_copy: Path) -> None:
    done = sorted(run_copy.glob("features/*/shard-*.json"))
    done[0].unlink()
    config = tiny.config(run_copy)
    (n_images,) = {len(s.records) for s in index_of(run_copy).shards if s.key in done[0].name}
    rows = by_name(dry(config))
    assert rows["features"][0] == n_images
    assert 0 < rows["features"][1] < Store(run_copy).disk_bytes("features")
    assert rows["graphs"] == (0, 0)


def index_of(run_dir: Path) -> Any:
    index = read_index(Store(run_dir))
    assert index is not None
    return index


@pytest.mark.slow
def test_features_that_are_not_kept_are_counted_each_time_they_are_made(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the mean over the dataset, for the graphs, for the embeddings."""
    config = photos.config(tmp_path / "run", {"features.keep": False, "graphs.center": "position"})
    rows = by_name(dry(config))
    assert rows["graphs"][0] == len(MANY)
    assert rows["features"][1] < 40_000
    seen: list[int] = []
    whole = Backbone.features

    def counted(self: Backbone, images: Any, *rest: Any) -> Any:
        seen.append(len(images))
        return whole(self, images, *rest)

    monkeypatch.setattr(Backbone, "features", counted)
    go(config)
    # views of a few images are made without storing anything between
    assert sum(seen) == rows["features"][0] + len(VIEWS) * n_viewed(len(MANY))


def test_every_k_of_a_sweep_has_its_rows(tiny: Dataset, tmp_path: Path) -> None:
    rows = by_name(dry(tiny.config(tmp_path / "run", {"clusters.k": [2, 3]})))
    assert [name for name in rows if name.startswith("masks")] == ["masks (K = 2)", "masks (K = 3)"]


@pytest.mark.parametrize(("workers", "expected"), [(1, 124), (4, 112), (9, 112)])
def test_workers_share_the_seconds_but_not_the_start(
    workers: int, expected: int, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datus.dry_run.n_cores", lambda: 2)
    speed = {"speed.executor": "processes", "speed.workers": workers, "speed.threads": 1}
    config = photos.config(tmp_path / "run", speed)
    store = Store(tmp_path / "run")
    plan = make_plan(config, make_index(config, store, QUIET.bar))
    sample = _Sample(config, plan, store, plan.shards[0].records)
    sample.measured[plan.nodes[0].fingerprint] = _Measured(start=100.0, seconds=1.0)
    assert sample.row(plan.nodes[0], plan.shards).seconds == expected


# --- nothing is written -------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(tiny: Dataset, tmp_path: Path, run_copy: Path) -> None:
    result = call("run", *tiny.arguments(tmp_path / "new"), "--dry-run")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "new").exists()
    for path in run_copy.glob("graphs/*/shard-*"):
        path.unlink()
    before, folders = snapshot(run_copy), sorted(run_copy.rglob("*"))
    assert call("run", *tiny.arguments(run_copy), "--dry-run").exit_code == 0
    assert (snapshot(run_copy), sorted(run_copy.rglob("*"))) == (before, folders)


def test_a_run_after_a_dry_run_has_the_same_bytes(
    tiny: Dataset, tmp_path: Path, finished: Path
) -> None:
    config = tiny.config(tmp_path / "run")
    dry(config)
    go(config)
    assert tree(tmp_path / "run") == tree(finished)


# --- what is printed ----------------------------------------------------------------------------


def test_the_table(tiny: Dataset, tmp_path: Path) -> None:
    result = call("run", *tiny.arguments(tmp_path / "run"), *SHIPPED_OPTIONS, "--dry-run")
    rows = rows_of(result.stdout)
    assert rows["stage"] == ["images to do", "seconds", "bytes"]
    assert list(rows)[:3] == ["stage", "index", "features"]
    assert rows["features"][0] == rows["total"][0] == str(len(IDS))
    lines = result.stdout.splitlines()
    assert "licence: Apache-2.0 (shipped with this package)" in lines
    assert f"images: {len(IDS)} of {len(IDS)} looked at can be decoded" in lines
    assert (
        f"true masks: {len(IDS)} for {len(IDS)} images; {len(IDS)} of {len(IDS)} looked at fit "
        "the class table"
    ) in lines
    assert [line.split(":")[0] for line in lines if line.startswith(("disk", "memory"))] == [
        "disk",
        "memory",
    ]


def test_one_stage(tiny: Dataset, tmp_path: Path, run_copy: Path) -> None:
    given = ["run-stage", "segments", *tiny.arguments(tmp_path / "new"), "--dry-run"]
    text = error_of(call(*given), exit_code=1)
    assert text == (
        "segments needs graphs, which lacks 3 of its 3 shards: run that first, or add --with-needs"
    )
    result = call(*given, "--with-needs")
    assert result.exit_code == 0
    assert list(rows_of(result.stdout))[1:6] == ["index", "features", "graphs", "segments", "total"]
    for path in run_copy.glob("segments/*/shard-*"):
        path.unlink()
    result = call("run-stage", "segments", *tiny.arguments(run_copy), "--dry-run")
    assert result.exit_code == 0, result.output
    assert list(rows_of(result.stdout))[1:4] == ["index", "segments", "total"]


def test_the_size_of_images_is_that_of_the_typical_one(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(30, 60), (60, 80), (80, 60)]):
        image = np.full((height, width, 3), 40 * number, np.uint8)
        save(tmp_path / "images" / f"{number}.png", image)
    given = {"data.images": str(tmp_path / "images"), "features.weights": "random"}

    def told(more: dict[str, Any]) -> str:
        config = Config.load(None, {**given, "run_dir": str(tmp_path / "run"), **more})
        facts = dry(config, until="features").facts
        return next(one for one in facts if " pixels a side for " in one)

    assert told({}) == (
        "images: 224 pixels a side for patches of 8: 24 x 32 patches for an image of 60 x 80"
    )
    assert told({"features.image_px": 64}) == (
        "images: 64 pixels a side for patches of 8: 7 x 9 patches for an image of 60 x 80"
    )
    assert told({"features.backbone": "beit_base_patch16_224"}) == (
        "images: 224 pixels a side for patches of 16: 14 x 14 patches for an image of 60 x 80"
    )


def test_random_weights_and_unknown_terms(tiny: Dataset, tmp_path: Path) -> None:
    more = {**SHIPPED, "features.weights": "random"}
    found = dry(tiny.config(tmp_path / "run", more), until="features")
    assert "weights: datus_t8, random, for tests only" in found.facts
    assert "licence: none, nobody trained them" in found.facts


def test_warnings_of_a_stage_are_told_of_the_sample(tiny: Dataset, tmp_path: Path) -> None:
    config = tiny.config(tmp_path / "run", {"embeddings.min_patches": 10**6})
    found = dry(config)
    n = len(IDS)
    assert found.warnings[-1] == (
        f"embeddings, in the sample: {n} of {n} images have no valid segment: "
        "their masks are all 255"
    )
    assert [row.seconds for row in found.rows if row.name == "masks (K = 3)"] == [None]


# --- what would stop the run --------------------------------------------------------------------


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", IDS[:6])
    (dataset.images / "a0.png").write_bytes(b"")
    damaged = (dataset.images / "a1.png").read_bytes()
    (dataset.images / "a1.png").write_bytes(damaged[: len(damaged) // 2])
    given = [*dataset.arguments(tmp_path / "run"), "--dry-run"]
    lines = error_of(call("run", *given), exit_code=1).splitlines()
    assert lines[0] == (
        "index: 1 image cannot be used, for example a0: empty file (0 bytes); 0 are allowed: "
        "mend or remove them, or add --max-failed 1 or more"
    )
    assert lines[1].startswith("features: 1 image cannot be used, for example a1: damaged PNG: ")
    assert len(lines) == 2
    allowed = call("run", *given, "--max-failed", 1)
    assert allowed.exit_code == 0
    assert "warning: index: 1 image cannot be used, for example a0: empty file" in allowed.stdout
    assert not (tmp_path / "run").exists()


def test_no_image_is_left(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    given = ["--images", tmp_path / "images", "--run-dir", tmp_path / "run", "--max-failed", 9]
    text = error_of(call("run", *given, "--dry-run"), exit_code=1)
    assert text == "index: no image is left, mend or replace them"


def test_true_masks_that_do_not_fit_the_class_table(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", IDS[:3])
    save(dataset.truth / "a1.png", np.full((7, 9), 200, np.uint8))
    text = error_of(call("run", *dataset.arguments(tmp_path / "run"), "--dry-run"), exit_code=1)
    assert text.startswith("evaluate: 1 image cannot be used, for example a1: truth is 7x9, the ")


@pytest.mark.parametrize(
    ("more", "exit_code", "says"),
    [
        (["--images", "nowhere"], 2, "nowhere: no such folder; check the path"),
        (["--weights", "no.pth"], 2, "features.weights: expected auto, hub, random or a file"),
        (["--backbone", "datus_vit_t9"], 1, "datus_vit_t9: this package does not ship that model"),
        (["--backbone", "vit_small_patch8_224.dino", "--offline"], 1, "vit_small_patch8_224.dino"),
    ],
)
def test_wrong_settings_end_as_in_a_run(
    more: list[str],
    exit_code: int,
    says: str,
    tiny: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-hub"))
    monkeypatch.setenv("DATUS_OFFLINE", "0")  # --offline sets it: so it is put back
    given = ["run", *tiny.arguments(tmp_path / "run", truth=False), *more]
    text = error_of(call(*given, "--dry-run"), exit_code)
    assert text.startswith(says)
    assert text == error_of(call(*given), exit_code)
    assert list(tmp_path.glob("run/features/*/shard-*")) == []


def test_too_many_clusters(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", IDS[:2])
    config = dataset.config(tmp_path / "run", {"clusters.k": [200]})
    found = dry(config)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("clusters (K = 200): ")
    assert found.problems[0].endswith(" or fewer, or more images")


def test_too_many_clusters_for_a_sample_are_a_warning(
    tmp_path: Path, photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datus.dry_run, "SAMPLE_IMAGES", 4)
    found = dry(photos.config(tmp_path / "run", {"clusters.k": [250]}))
    assert found.problems == []
    assert any(text.startswith("clusters (K = 250): ") for text in found.warnings)


def test_a_disk_that_is_too_small(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    given = (*tiny.arguments(run_dir), *SHIPPED_OPTIONS)
    needed = dry(tiny.config(run_dir, SHIPPED)).n_bytes
    for module in (datus.dry_run, datus.engine.budget):
        monkeypatch.setattr(module, "free_bytes", lambda store: 400_000)
    text = error_of(call("run", *given, "--dry-run"), exit_code=1)
    assert text == (
        f"{run_dir}: the run will write {datus.errors.size_text(needed)} or more, 400.0 KB are "
        "free: free some space, choose another --run-dir or add --set features.keep=false"
    )
    floor = error_of(call("run", *given), exit_code=1)
    assert floor.startswith(f"{run_dir}: the run will write 541.5 KB or more, 400.0 KB are free: ")
    assert not (run_dir / "features").exists()
    monkeypatch.setattr(datus.dry_run, "free_bytes", lambda store: int(1.1 * needed))
    found = dry(tiny.config(run_dir, SHIPPED))
    assert found.problems == []
    assert any(text.startswith("the disk is tight: ") for text in found.warnings)


def test_a_run_folder_that_cannot_be_written(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"keep me")
    text = error_of(call("run", *tiny.arguments(tmp_path / "file"), "--dry-run"), exit_code=1)
    assert text == (f"{tmp_path / 'file'} is a file, expected a folder: choose another --run-dir")
    monkeypatch.setattr("os.access", lambda *_: False)
    text = error_of(call("run", *tiny.arguments(tmp_path / "new"), "--dry-run"), exit_code=1)
    assert text == f"{tmp_path} may not be written: make it writable or choose another --run-dir"


def test_a_folder_in_use_is_a_warning(tiny: Dataset, run_copy: Path) -> None:
    with Store(run_copy).lock():
        found = dry(tiny.config(run_copy))
    assert found.warnings[0].startswith(f"{run_copy} is in use, or its last run was killed: ")


def test_little_memory_is_a_warning(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datus.dry_run, "free_memory", lambda: 10**8)
    found = dry(tiny.config(tmp_path / "run"))
    assert found.warnings[-1].startswith("memory may not suffice, ")
    assert found.warnings[-1].endswith("use fewer --workers, or add --set data.shard_images=8")
    monkeypatch.setattr(datus.dry_run, "free_memory", lambda: None)
    assert dry(tiny.config(tmp_path / "run")).facts[-1].endswith(" at the peak, free: unknown")


# --- remote run folders -------------------------------------------------------------------------


def test_of_a_remote_run_folder_nobody_knows_the_room(tiny: Dataset) -> None:
    address = f"memory://preflight-{uuid4().hex}"
    found = dry(tiny.config(address))
    assert found.facts[-2] == (
        f"disk: {datus.errors.size_text(found.n_bytes)} to write, free: unknown"
    )
    assert Store(address).folders() == []
    go(tiny.config(address))
    assert dry(tiny.config(address)).facts[-1].startswith("everything is done")

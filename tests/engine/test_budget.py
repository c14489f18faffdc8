"""What is left to make, the least it writes, and room for it: without a model or an image."""

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import IDS, SHIPPED, Dataset, Listener, go

import datus.engine.budget
from datus.config import Config
from datus.engine.budget import free_bytes, free_memory, min_bytes, nearest_folder, todo
from datus.engine.plan import Plan, wanted_groups
from datus.errors import BackboneError, WorkError, size_text
from datus.inputs.index import Index, read_index
from datus.pipeline import make_plan, run
from datus.stages import features
from datus.stages.features import model_shape
from datus.store.store import Store


def index_of(run_dir: Path) -> Index:
    index = read_index(Store(run_dir))
    assert index is not None
    return index


def planned(config: Config, run_dir: Path) -> tuple[Store, Plan, Any]:
    plan = make_plan(config, index_of(run_dir))
    return Store(run_dir), plan, wanted_groups(plan, "report", only=False)


def left(config: Config, run_dir: Path) -> dict[str, int]:
    """stage -> shards to make, where there are any."""
    store, plan, groups = planned(config, run_dir)
    missing = todo(store, plan, groups)
    return {
        node.name: len(missing[node.fingerprint])
        for node in plan.nodes
        if missing[node.fingerprint]
    }


# --- what is missing ----------------------------------------------------------------------------


def test_nothing_is_left_of_a_finished_run(tiny: Dataset, finished: Path) -> None:
    assert left(tiny.config(finished), finished) == {}


MASKED = {"masks": 3, "evaluate": 3, "tallies": 3, "report": 1}


def test_of_a_new_run_everything_is_left(tiny: Dataset, finished: Path, tmp_path: Path) -> None:
    _, plan, groups = planned(tiny.config(finished), finished)
    missing = todo(Store(tmp_path / "new"), plan, groups)
    for node in plan.nodes:
        assert len(missing[node.fingerprint]) == (len(plan.shards) if not node.is_dataset else 1)
        assert sum(len(shard.records) for shard in missing[node.fingerprint]) == len(IDS)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"clusters.k": [2]},
            {"clusters": 1, "masks": 3, "evaluate": 3, "tallies": 3, "report": 1},
        ),
        ({"masks.noise": "ignore"}, {"masks": 3, "evaluate": 3, "tallies": 3, "report": 1}),
        ({"report.browse": 1}, {"report": 1}),
    ],
)
def test_what_a_changed_setting_leaves_is_what_the_run_makes(
    more: dict[str, Any], expected: dict[str, int], tiny: Dataset, run_copy: Path
) -> None:
    config = tiny.config(run_copy, more)
    assert left(config, run_copy) == expected
    result, _ = go(config)
    rows = {row.name.split(" ")[0]: row.made for row in result.stages if row.name != "index"}
    assert {stage: n for stage, n in rows.items() if n} == expected


def test_removed_shards_are_left(tiny: Dataset, run_copy: Path) -> None:
    next(iter(run_copy.glob("segments/*/shard-*.json"))).unlink()
    assert left(tiny.config(run_copy), run_copy) == {"segments": 1}


# --- bytes from shapes --------------------------------------------------------------------------


def test_the_floor_is_a_little_below_what_features_and_graphs_take(
    tiny: Dataset, tmp_path: Path
) -> None:
    shipped = tmp_path / "run"
    config = tiny.config(shipped, SHIPPED)
    go(config)
    _, plan, groups = planned(config, shipped)
    floor = min_bytes(config, plan, todo(Store(tmp_path / "new"), plan, groups))
    real = sum(Store(shipped).disk_bytes(stage) for stage in ("features", "graphs"))
    assert floor is not None
    assert 0.95 * real < floor < real
    twice = tiny.config(shipped, {**SHIPPED, "features.store": "float32"})
    plan = make_plan(twice, index_of(shipped))
    groups = wanted_groups(plan, "segments", only=False)
    larger = min_bytes(twice, plan, todo(Store(tmp_path / "new"), plan, groups))
    assert larger is not None
    assert larger > 1.6 * floor


def test_what_is_not_kept_needs_no_room(tiny: Dataset, finished: Path, tmp_path: Path) -> None:
    config = tiny.config(finished, {"features.keep": False, "graphs.keep": False})
    _, plan, groups = planned(config, finished)
    assert min_bytes(config, plan, todo(Store(tmp_path / "new"), plan, groups)) == 0


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("datus_t8", (8, 210)),
        ("vit_small_patch8_224.dino", (8, 384)),
        ("vit_giant_patch14_dinov2.lvd142m", (14, 1536)),
        ("vit_huge_patch14_224", (14, 1280)),
        ("deit3_small_patch16_224", (16, 384)),
        ("eva02_large_patch14_224", (14, 1024)),
        ("vit_medium_patch16_gap_256", None),
        ("swin_tiny_patch4_window7_224", None),
        ("resnet50", None),
        ("nowhere/vit_base_patch16.safetensors", None),
    ],
)
def test_shapes_from_names(name: str, shape: tuple[int, int] | None) -> None:
    assert model_shape(name) == shape


@pytest.mark.slow
def test_names_mean_in_timm_what_they_mean_here() -> None:
    """One of every family and size; built without memory for the weights."""
    import timm
    import torch

    families: dict[tuple[str, str], str] = {}
    for name in timm.list_models():
        match = features._NAME.search(name)
        if match:
            families.setdefault((name.partition("_")[0], match[1]), name)
    assert len(families) > 8
    for name in families.values():
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
        patch_px = model.patch_embed.feat_ratio(as_scalar=True)
        assert model_shape(name) == (patch_px, model.embed_dim), name


# --- at the door --------------------------------------------------------------------------------


def test_a_disk_that_is_surely_too_small_stops_a_run_before_its_first_shard(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setattr(datus.engine.budget, "free_bytes", lambda store: 450_000)
    with pytest.raises(WorkError) as caught:
        go(tiny.config(run_dir, SHIPPED))
    assert str(caught.value) == (
        f"{run_dir}: the run will write 541.5 KB or more, 450.0 KB are free: free some space, "
        "choose another --run-dir or add --set features.keep=false"
    )
    assert [path.name for path in run_dir.iterdir() if path.is_dir()] == ["index"]
    lean = tiny.config(run_dir, {**SHIPPED, "features.keep": False})
    result, _ = go(lean)
    assert result.stages[-1].made == 1
    monkeypatch.setattr(datus.engine.budget, "free_bytes", lambda store: 10)
    with pytest.raises(WorkError, match=r"free some space or choose another --run-dir$"):
        go(tiny.config(run_dir, {**SHIPPED, "features.keep": False, "graphs.threshold": 0.5}))


def test_a_finished_run_needs_no_room(
    tiny: Dataset, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datus.engine.budget, "free_bytes", lambda store: 0)
    result, _ = go(tiny.config(run_copy))
    assert not any(row.made for row in result.stages if row.name != "index")


def test_a_long_run_says_what_it_will_write(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datus.engine.budget, "LONG_RUN_IMAGES", len(IDS))
    monkeypatch.setattr(datus.engine.budget, "free_bytes", lambda store: 72 * 10**9)
    config, listener = tiny.config(tmp_path / "run", SHIPPED), Listener()
    run(config, Store(config.run_path), listener)
    assert listener.said == [
        "10 images to do: 541.5 KB or more will be written, 72.0 GB are free; --dry-run says more"
    ]
    _, listener = go(config)
    assert listener.said == []


def test_the_model_of_the_crops_is_asked_for_before_the_first_shard(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATUS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-hub"))
    crops = {"embeddings.mode": "crop", "embeddings.backbone": "vit_small_patch16_224.dino"}
    with pytest.raises(BackboneError) as caught:
        go(tiny.config(tmp_path / "run", crops))
    text = str(caught.value)
    start = "vit_small_patch16_224.dino: offline, and its weights are not on this machine; run "
    assert text.startswith(start)
    assert not list(tmp_path.glob("run/features/*/shard-*"))


def test_a_misspelt_model_is_not_asked_of_the_hub(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATUS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-hub"))
    misspelt = {"features.backbone": "vit_smal_patch8_224.dino", "features.weights": "hub"}
    with pytest.raises(BackboneError) as caught:
        go(tiny.config(tmp_path / "run", misspelt))
    text = "vit_smal_patch8_224.dino: timm has no such model; did you mean vit_small_patch8_224."
    assert str(caught.value).startswith(text)


# --- the machine --------------------------------------------------------------------------------


def test_free_bytes(tmp_path: Path) -> None:
    import shutil

    store = Store(tmp_path / "not" / "there")
    assert nearest_folder(store) == tmp_path
    assert free_bytes(store) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert free_bytes(Store("memory://budget")) is None


@pytest.mark.parametrize(
    ("own", "files", "room"),
    [
        ("0::/job\n", {"job/memory.max": "1000", "job/memory.current": "900"}, 100 + 50),
        ("0::/job\n", {"memory.max": "5000", "memory.current": "900"}, 4100 + 50),
        ("0::/job\n", {"job/memory.max": "max", "job/memory.current": "900"}, None),
        (
            "4:cpu:/job\n3:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": "1000", "memory/job/memory.usage_in_bytes": "1"},
            999 + 50,
        ),
        ("4:cpu:/job\n", {}, None),
    ],
)
def test_memory_of_a_cgroup(
    own: str,
    files: dict[str, str],
    room: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own").write_text(own, encoding="utf-8")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        path.with_name("memory.stat").write_text("anon 1\ninactive_file 50\n", encoding="utf-8")
    monkeypatch.setattr(datus.engine.budget, "CGROUP_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(datus.engine.budget, "OWN_CGROUPS", tmp_path / "own")
    whole = free_memory()
    if whole is None:
        pytest.skip("this system does not tell its free memory")
    assert whole == room if room is not None else whole > 10**6


def test_sizes_in_messages() -> None:
    assert size_text(985_600) == "985.6 KB"

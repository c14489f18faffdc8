"""What a setting changes, which stages run in one go, and why a stage is not done."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tiny_runs import SHIPPED, SPEED, Dataset, make_dataset

from datus.config import EMBEDDED_BACKBONE, Config
from datus.engine.plan import Plan, find_node, why
from datus.inputs.index import Index
from datus.models.weights import model_path
from datus.pipeline import make_plan
from datus.store.store import Store
from datus.types import ImageRecord

RECORDS = tuple(
    ImageRecord(name, f"{name}.png", 9, 9, f"content of {name}", key, f"{name}.png", "truth")
    for name, key in (("a", "aaa"), ("b", "aaa"), ("c", "ccc"))
)
INDEX = Index(RECORDS, {}, 0)

IN_ORDER = (
    "features",
    "graphs",
    "segments",
    "embeddings",
    "samples",
    "clusters",
    "masks",
    "evaluate",
    "tallies",
    "views",
    "report",
)

BEFORE_VIEWS = IN_ORDER[: IN_ORDER.index("embeddings") + 1]
"""Views of images are made as these say; clusters, masks and truth are nothing to them."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("plan") / "photos", ids=("a",))


def plan_of(dataset: Dataset, more: Mapping[str, Any] | None = None, index: Index = INDEX) -> Plan:
    return make_plan(dataset.config("run", more), index)


def marks(plan: Plan) -> dict[str, str]:
    return {node.label: node.fingerprint for node in plan.nodes}


def changed(before: Plan, after: Plan) -> tuple[str, ...]:
    """Stages whose fingerprint differs, in the order of work."""
    old = {(node.name, node.k): node.fingerprint for node in before.nodes}
    names = [n.name for n in after.nodes if old.get((n.name, n.k)) != n.fingerprint]
    return tuple(dict.fromkeys(names))


def from_on(stage: str | None) -> tuple[str, ...]:
    """What a setting of `stage` changes."""
    names = IN_ORDER[IN_ORDER.index(stage) :] if stage else ()
    return tuple(name for name in names if name != "views" or stage in BEFORE_VIEWS)


# --- fingerprints -------------------------------------------------------------------------------

FIRST_CHANGED: dict[str, tuple[Any, str | None]] = {
    "preset": ("paper", "features"),
    "seed": (1, "segments"),
    "run_dir": ("elsewhere", None),
    "data.images": ("elsewhere/photos/images", None),
    "data.truth": ("elsewhere", None),
    "data.classes": (None, None),  # a copy at another path, below
    "data.shard_images": (9, None),
    "data.max_pixels": (10**6, None),
    "features.backbone": ("vit_tiny_patch16_224", "features"),
    "features.weights": ("random", "features"),
    "features.allow_missing": (["head.*"], "features"),
    "features.allow_unexpected": (["head.*"], "features"),
    "features.image_px": (80, "features"),
    "features.resize": ("squash", "features"),
    "features.precision": ("bfloat16", "features"),
    "features.store": ("float32", "features"),
    "features.keep": (False, None),
    "graphs.center": ("none", "graphs"),
    "graphs.density": (0.1, "graphs"),  # and the threshold it sets, below
    "graphs.threshold": (0.1, "graphs"),
    "graphs.keep": (False, None),
    "segments.backend": ("python-louvain", "segments"),
    "segments.restarts": (9, "segments"),
    "embeddings.mode": ("crop", "embeddings"),
    "embeddings.min_patches": (9, "embeddings"),
    "embeddings.crop": ("paper", None),  # of no meaning while embeddings are pooled
    "embeddings.crop_px": (96, None),
    "embeddings.backbone": ("vit_tiny_patch16_224", None),
    "embeddings.weights": ("random", None),
    "clusters.k": ([4], "clusters"),
    "clusters.pca": (2, "clusters"),
    "clusters.spherical": (True, "clusters"),
    "clusters.restarts": (9, "clusters"),
    "clusters.sample": (999, "clusters"),
    "clusters.frozen": ("", None),  # an earlier run: engine/test_growing.py
    "clusters.corrections": ("", None),  # a folder: test_corrections_run.py
    "clusters.edits": ("", None),  # a file: engine/test_edits_run.py
    "masks.noise": ("ignore", "masks"),
    "masks.refine": ("none", "masks"),
    "masks.min_confidence": (0.5, "masks"),
    "denoise.enabled": (True, "evaluate"),  # and two stages of its own, below
    "denoise.kind": ("deeplabv3", None),  # of no meaning while de-noising is off
    "denoise.head": ("conv", None),
    "denoise.freeze": (False, None),
    "denoise.image_px": (80, None),
    "denoise.epochs": (9, None),
    "denoise.batch": (9, None),
    "denoise.rate": (0.1, None),
    "denoise.drop_share": (0.5, None),
    "denoise.augment": (True, None),
    "report.baselines": (False, "report"),
    "report.browse": (1, "report"),
    "speed.executor": ("processes", None),
    "speed.workers": (9, None),
    "speed.threads": (9, None),
    "speed.batch": (9, None),
    "speed.device": ("cuda", None),
    "speed.max_failed": (9, None),
    "speed.decode_seconds": (9.0, None),
    "speed.isolate": (True, None),
    "speed.shards": ("1/2", None),
    "speed.ray_address": ("local", None),
    "speed.ray_cpus": (2.0, None),
    "speed.ray_gpus": (1.0, None),
    "speed.read_ahead": (1, None),
    "speed.ray_wait": (9.0, None),
}
"""Every setting: another value, and the first stage that is made anew for it."""


def test_the_table_names_every_setting() -> None:
    names = set()
    for one in dataclasses.fields(Config):
        section = getattr(Config(), one.name)
        inner = dataclasses.fields(section) if dataclasses.is_dataclass(section) else ()
        names |= {f"{one.name}.{f.name}" for f in inner} or {one.name}
    assert set(FIRST_CHANGED) == names


@pytest.mark.parametrize("name", FIRST_CHANGED)
def test_a_setting_changes_its_own_stage_and_all_after_it_and_no_other(
    name: str, dataset: Dataset, tmp_path: Path
) -> None:
    value, first = FIRST_CHANGED[name]
    if name == "data.classes":
        value = str(shutil.copy(dataset.classes, tmp_path / "copy.toml"))
    more = {name: value}
    if name == "features.backbone":
        more["features.weights"] = "random"
    before: dict[str, Any] = {}
    if name == "graphs.density":  # without a threshold, which sets the links alone
        before = {"graphs.threshold": "auto"}
    found = changed(plan_of(dataset, before), plan_of(dataset, {**before, **more}))
    of_their_own = ("denoise-fit", "denoise", "center")
    assert tuple(stage for stage in found if stage not in of_their_own) == from_on(first)
    assert ("center" in found) == (name == "graphs.density")


DENOISE = ("denoise-fit", "denoise", "evaluate", "tallies", "report")


@pytest.mark.parametrize(
    "name",
    [name for name in FIRST_CHANGED if name.startswith("denoise.") and name != "denoise.enabled"],
)
def test_settings_of_denoising_count_where_it_is_on(name: str, dataset: Dataset) -> None:
    on: dict[str, Any] = {"denoise.enabled": True}
    if name in ("denoise.image_px", "denoise.augment"):
        on["denoise.freeze"] = False
    more = {**on, name: FIRST_CHANGED[name][0]}
    assert changed(plan_of(dataset, on), plan_of(dataset, more)) == DENOISE


def test_denoising_adds_stages_and_changes_none_before_them(dataset: Dataset) -> None:
    on = {"denoise.enabled": True}
    assert changed(plan_of(dataset), plan_of(dataset, on)) == DENOISE
    tokens = {node.name: node.needs for node in plan_of(dataset, on).nodes}
    assert tokens["denoise-fit"] == ("features", "masks")
    assert tokens["denoise"] == ("features", "masks", "denoise-fit")
    assert tokens["evaluate"] == ("segments", "masks", "denoise")
    tuned = plan_of(dataset, {**on, "denoise.freeze": False})
    assert next(n.needs for n in tuned.nodes if n.name == "denoise-fit") == ("masks",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embeddings.crop", "paper"),
        ("embeddings.crop_px", 96),
        ("embeddings.weights", "random"),
        ("embeddings.backbone", "vit_tiny_patch16_224"),
    ],
)
def test_settings_of_crops_count_where_crops_are_made(
    name: str, value: Any, dataset: Dataset
) -> None:
    crops = {"embeddings.mode": "crop"}
    if name != "embeddings.crop":  # `weights` are those of `backbone`, and "same" has its own
        crops |= {"embeddings.backbone": EMBEDDED_BACKBONE}
    more = {**crops, name: value}
    if name == "embeddings.backbone":
        more["embeddings.weights"] = "random"
    assert changed(plan_of(dataset, crops), plan_of(dataset, more)) == from_on("embeddings")


VIT_S16 = {"features.backbone": "vit_small_patch16_224.dino", "features.weights": "random"}
BEIT = {"features.backbone": "beit_base_patch16_224", "features.weights": "random"}


@pytest.mark.parametrize(
    ("auto", "given"),
    [
        ({}, {"features.image_px": 224}),
        (VIT_S16, {**VIT_S16, "features.image_px": 448}),
        (BEIT, {**BEIT, "features.image_px": 224, "features.resize": "squash"}),
    ],
)
def test_auto_is_the_number_that_it_stands_for(
    auto: dict[str, Any], given: dict[str, Any], dataset: Dataset
) -> None:
    on = {"denoise.enabled": True, "features.image_px": "auto"}
    assert marks(plan_of(dataset, {**on, **auto})) == marks(plan_of(dataset, {**on, **given}))


def test_fingerprints_of_features_stay_what_they_are() -> None:
    def of(preset: str, more: Mapping[str, Any]) -> str:
        config = Config.load(None, {"data.images": "photos", "preset": preset, **more})
        return marks(make_plan(config, INDEX))["features"]

    assert of("paper", VIT_S16) == "7456ebb32f3af307"
    assert of("best", {**VIT_S16, "features.image_px": 224}) == "243af3f71fcb603b"


def test_the_seed_of_random_weights_counts(dataset: Dataset) -> None:
    random = {"features.weights": "random"}
    seeded = plan_of(dataset, {**random, "seed": 1})
    assert changed(plan_of(dataset, random), seeded) == from_on("features")


def test_the_same_weights_elsewhere_change_nothing(dataset: Dataset, tmp_path: Path) -> None:
    shipped = model_path(EMBEDDED_BACKBONE)
    assert shipped is not None
    before = marks(plan_of(dataset, SHIPPED))
    for name in ("one.safetensors", "two.safetensors"):
        path = shutil.copy(shipped, tmp_path / name)
        assert marks(plan_of(dataset, {**SHIPPED, "features.weights": str(path)})) == before
    with (tmp_path / "two.safetensors").open("ab") as file:
        file.write(b"\n")
    other = plan_of(dataset, {**SHIPPED, "features.weights": str(tmp_path / "two.safetensors")})
    assert changed(plan_of(dataset, SHIPPED), other) == from_on("features")


def test_a_folder_of_another_name_changes_the_title_of_the_report(dataset: Dataset) -> None:
    other = plan_of(dataset, {"data.images": "elsewhere/pictures/images"})
    assert changed(plan_of(dataset), other) == ("report",)


def classes_with(tmp_path: Path, dataset: Dataset, old: str, new: str) -> dict[str, str]:
    text = dataset.classes.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "other.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    return {"data.classes": str(tmp_path / "other.toml")}


def test_a_class_table_counts_by_what_it_says(dataset: Dataset, tmp_path: Path) -> None:
    before = plan_of(dataset)
    ids = classes_with(tmp_path, dataset, "ids = [0]", "ids = [0, 7]")
    assert changed(before, plan_of(dataset, ids)) == from_on("evaluate")
    name = classes_with(tmp_path, dataset, '"c0"', '"sea"')
    assert changed(before, plan_of(dataset, name)) == from_on("evaluate")
    colour = classes_with(tmp_path, dataset, "colour = [0,", "colour = [9,")
    assert changed(before, plan_of(dataset, colour)) == ("report",)


def with_first(**values: Any) -> Index:
    return Index((dataclasses.replace(RECORDS[0], **values), *RECORDS[1:]), {}, 0)


def test_images_count_where_all_of_them_are_looked_at(dataset: Dataset) -> None:
    before = plan_of(dataset)
    other = plan_of(dataset, index=with_first(sha256="other"))
    expected = (*IN_ORDER[IN_ORDER.index("clusters") :],)
    assert changed(before, other) == expected, "shards are told apart by their keys"
    truth = plan_of(dataset, index=with_first(truth_sha256="other"))
    assert changed(before, truth) == ("report",), "shards are told apart by their keys"
    moved = plan_of(dataset, index=with_first(truth_path="x.png", path="a.jpg"))
    assert changed(before, moved) == ()
    failed = plan_of(dataset, index=dataclasses.replace(INDEX, failures={"z": "empty"}))
    assert changed(before, failed) == ("report",)


def test_a_mean_over_the_dataset_makes_graphs_depend_on_all_images(dataset: Dataset) -> None:
    more = {"graphs.center": "dataset"}
    before = plan_of(dataset, more)
    assert [node.name for node in before.nodes] == [
        "features",
        "keysums",
        "center",
        *IN_ORDER[1:],
    ]
    other = plan_of(dataset, more, with_first(sha256="other"))
    assert changed(before, other) == ("center", *from_on("graphs"))


def test_a_threshold_over_the_dataset_makes_graphs_depend_on_all_images(dataset: Dataset) -> None:
    more = {"graphs.center": "none", "graphs.threshold": "auto"}
    before = plan_of(dataset, more)
    assert [node.name for node in before.nodes] == [
        "features",
        "keysums",
        "center",
        *IN_ORDER[1:],
    ]
    other = plan_of(dataset, more, with_first(sha256="other"))
    assert changed(before, other) == ("center", *from_on("graphs"))
    denser = plan_of(dataset, {**more, "graphs.density": 0.2})
    assert changed(before, denser) == ("center", *from_on("graphs"))


def test_views_wait_for_no_cluster_and_only_the_report_waits_for_them(dataset: Dataset) -> None:
    for center, more in ((), {}), (("center",), {"graphs.threshold": "auto"}):
        plan = plan_of(dataset, {**more, "clusters.k": [3, 5]})
        (views,) = (node for node in plan.nodes if node.name == "views")
        assert views.needs == ("features", *center, "graphs", "segments", "embeddings")
        assert [node.name for node in plan.nodes if "views" in node.needs] == ["report"]


# --- nodes --------------------------------------------------------------------------------------


def test_nodes_are_in_the_order_of_work_with_labels(dataset: Dataset) -> None:
    plan = plan_of(dataset)
    assert [node.label for node in plan.nodes] == [
        "features",
        "graphs",
        "segments",
        "embeddings",
        "samples",
        "clusters (K = 3)",
        "masks (K = 3)",
        "evaluate (K = 3)",
        "tallies (K = 3)",
        "views",
        "report",
    ]
    for node in plan.nodes:
        for need in node.needs:
            upstream = find_node(plan.nodes, need, 3)
            assert plan.nodes.index(upstream) < plan.nodes.index(node)
            assert upstream.fingerprint in node.recipe["upstream"].values()


def test_without_truth_nothing_is_evaluated(dataset: Dataset) -> None:
    less = {"data.truth": "", "data.classes": ""}
    assert "evaluate" not in {node.name for node in plan_of(dataset, less).nodes}
    assert changed(plan_of(dataset), plan_of(dataset, less)) == ("tallies", "report")


def test_places_are_shards_or_the_whole_dataset(dataset: Dataset) -> None:
    plan = plan_of(dataset)
    graphs, clusters = (find_node(plan.nodes, name, 3) for name in ("graphs", "clusters"))
    assert list(plan.places(graphs)) == [
        ("graphs", graphs.fingerprint, "aaa"),
        ("graphs", graphs.fingerprint, "ccc"),
    ]
    assert list(plan.places(clusters)) == [("clusters", clusters.fingerprint, "all")]


def test_a_true_mask_that_changes_concerns_its_own_shard(dataset: Dataset) -> None:
    before, after = plan_of(dataset), plan_of(dataset, index=with_first(truth_sha256="other"))
    for stage in IN_ORDER[:-1]:
        node = find_node(before.nodes, stage, 3)
        assert find_node(after.nodes, stage, 3).fingerprint == node.fingerprint
        old, new = ([place[2] for place in plan.places(node)] for plan in (before, after))
        is_other = [one != other for one, other in zip(old, new, strict=True)]
        seen = stage in ("evaluate", "tallies")
        assert is_other == ([True, False] if seen else [False] * len(old))
        assert seen == (old != ["aaa", "ccc"] and not node.is_dataset)


def test_without_true_masks_shards_have_one_key(dataset: Dataset) -> None:
    masks = find_node(plan_of(dataset).nodes, "masks", 3)
    none = Index(tuple(dataclasses.replace(r, truth_sha256=None) for r in RECORDS), {}, 0)
    for index, more in ((none, {}), (INDEX, {"data.truth": "", "data.classes": ""})):
        plan = plan_of(dataset, more, index)
        tallies = find_node(plan.nodes, "tallies", 3)
        assert [key for _, _, key in plan.places(tallies)] == ["aaa", "ccc"]
        assert plan.key_of(masks, "c") == "ccc"


def test_a_sweep_shares_everything_before_clusters(dataset: Dataset) -> None:
    three, both = plan_of(dataset), plan_of(dataset, {"clusters.k": [3, 5]})
    single, sweep = marks(three), marks(both)
    assert list(sweep) == [
        *IN_ORDER[:5],
        *(f"{stage} (K = {k})" for k in (3, 5) for stage in IN_ORDER[5:-2]),
        "views",
        "report",
    ]
    assert {label for label in single if single[label] != sweep[label]} == {"report"}
    assert len(set(sweep.values())) == len(sweep)
    report = both.nodes[-1].recipe["upstream"]
    assert {name for name in report if ":" in name} == {
        f"{stage}:{k}" for k in (3, 5) for stage in IN_ORDER[5:-2]
    }


# --- groups -------------------------------------------------------------------------------------

GROUPS: list[tuple[bool, bool, str, list[str]]] = [
    # features kept, graphs kept, embeddings.mode -> groups before clusters
    (True, True, "pool", ["features", "graphs", "segments", "embeddings"]),
    (True, True, "crop", ["features", "graphs", "segments", "embeddings"]),
    (True, False, "pool", ["features", "graphs segments", "embeddings"]),
    (True, False, "crop", ["features", "graphs segments", "embeddings"]),
    (False, True, "pool", ["features graphs segments embeddings"]),
    (False, True, "crop", ["features graphs", "segments", "embeddings"]),
    (False, False, "pool", ["features graphs segments embeddings"]),
    (False, False, "crop", ["features graphs segments", "embeddings"]),
]


@pytest.mark.parametrize(("features", "graphs", "mode", "expected"), GROUPS)
def test_what_is_not_kept_runs_with_all_that_need_it(
    features: bool, graphs: bool, mode: str, expected: list[str], dataset: Dataset
) -> None:
    keep = {"features.keep": features, "graphs.keep": graphs, "embeddings.mode": mode}
    plan = plan_of(dataset, keep)
    found = [" ".join(node.name for node in group) for group in plan.groups()]
    assert found == [*expected, *IN_ORDER[4:]]
    assert [node for group in plan.groups() for node in group] == list(plan.nodes)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("features", [True, False])
def test_a_stage_over_the_dataset_runs_alone(
    features: bool, graphs: bool, dataset: Dataset
) -> None:
    keep = {"features.keep": features, "graphs.keep": graphs, "graphs.center": "position"}
    plan = plan_of(dataset, {**keep, "clusters.k": [3, 5]})
    for group in plan.groups():
        assert len(group) == 1 or all(not node.is_dataset for node in group)
    assert [node for group in plan.groups() for node in group] == list(plan.nodes)


# --- why ----------------------------------------------------------------------------------------


def ran(plan: Plan) -> Store:
    """A run folder where `plan` was begun."""
    store = Store(f"memory://{uuid4().hex}")
    for node in plan.nodes:
        store.write_recipe(node.name, node.fingerprint, node.recipe)
    return store


def reasons(store: Store, plan: Plan) -> dict[str, str]:
    return {node.label: why(store, plan, node) for node in plan.nodes}


def test_why_nothing_ran_yet(dataset: Dataset) -> None:
    plan = plan_of(dataset, {"clusters.k": [3, 5]})
    for store in (Store(f"memory://{uuid4().hex}"), ran(plan)):
        found = reasons(store, plan)
        assert found.pop("clusters (K = 3)") == "it never ran with these settings"
        assert (
            found["clusters (K = 5)"]
            == found["masks (K = 5)"]
            == ("it never ran with these settings")
        )
        assert {found[name] for name in (*IN_ORDER[:4], "report")} == {"it never ran"}


def test_why_names_the_first_setting_that_differs(dataset: Dataset) -> None:
    plan = plan_of(dataset, {"segments.restarts": 2})
    found = reasons(ran(plan_of(dataset)), plan)
    cause = "segments.restarts: 1 -> 2"
    for stage in ("segments", "embeddings", "clusters (K = 3)", "masks (K = 3)", "report"):
        assert found[stage] == cause, "the root, not the chain of stages down from it"


WHYS: list[tuple[dict[str, Any], str, str]] = [
    ({"seed": 7}, "segments", "segments.seed: 0 -> 7"),
    ({"graphs.center": "none"}, "graphs", "graphs.center: 'image' -> 'none'"),
    ({"clusters.k": 4}, "clusters", "clusters.k: 3 -> 4"),
    ({"report.browse": 5}, "report", "report.browse: 10000 -> 5"),
    ({"clusters.k": [3, 4]}, "report", "clusters (K = 4) is new"),
    (
        {"features.allow_missing": ["x" * 80]},
        "features",
        f"features.allow_missing: [] -> ['{'x' * 55}...",
    ),
]


@pytest.mark.parametrize(("more", "stage", "text"), WHYS, ids=lambda value: str(value)[:30])
def test_why_says_from_what_to_what(
    more: dict[str, Any], stage: str, text: str, dataset: Dataset
) -> None:
    plan = plan_of(dataset, more)
    node = next(node for node in plan.nodes if node.name == stage)
    assert why(ran(plan_of(dataset)), plan, node) == text


def test_why_a_part_of_a_sweep_or_the_truth_is_gone(dataset: Dataset) -> None:
    before = ran(plan_of(dataset, {"clusters.k": [3, 4]}))
    plan = plan_of(dataset)
    assert why(before, plan, plan.nodes[-1]) == "clusters (K = 4) is no longer part of the run"
    plan = plan_of(dataset, {"data.truth": ""})
    text = why(ran(plan_of(dataset)), plan, plan.nodes[-1])
    assert text == "evaluate (K = 3) is no longer part of the run"


def test_why_after_other_images_or_masks(dataset: Dataset) -> None:
    before = ran(plan_of(dataset))
    images = plan_of(dataset, index=with_first(sha256="other"))
    assert reasons(before, images)["clusters (K = 3)"] == "the images changed"
    assert reasons(before, images)["masks (K = 3)"] == "clusters (K = 3): the images changed"
    truth = plan_of(dataset, index=with_first(truth_sha256="other"))
    assert reasons(before, truth)["report"] == "the true masks changed"
    failed = plan_of(dataset, index=dataclasses.replace(INDEX, failures={"z": "empty"}))
    assert reasons(before, failed)["report"] == "other images failed"


def test_why_some_shards_are_missing(dataset: Dataset) -> None:
    plan = plan_of(dataset)
    store = ran(plan)
    graphs = find_node(plan.nodes, "graphs", 3)
    store.write(b"{}", "graphs", graphs.fingerprint, "shard-aaa.json")
    assert why(store, plan, graphs) == "some shards are new or were removed"


def test_why_a_new_version_of_a_stage_runs_again(dataset: Dataset) -> None:
    plan = plan_of(dataset)
    graphs = find_node(plan.nodes, "graphs", 3)
    version = graphs.recipe["version"]
    store = Store(f"memory://{uuid4().hex}")
    store.write_recipe("graphs", "old", {**graphs.recipe, "version": version - 1})
    expected = f"the stage itself changed: version {version - 1} -> {version}"
    assert why(store, plan, graphs) == expected


def test_why_compares_with_the_same_number_of_clusters_if_it_can(dataset: Dataset) -> None:
    before = ran(plan_of(dataset, {"clusters.k": [3, 4, 5]}))
    plan = plan_of(dataset, {"clusters.k": [4], "clusters.pca": 2})
    assert reasons(before, plan)["clusters (K = 4)"] == "clusters.pca: 32 -> 2"


def test_speed_settings_of_these_tests_are_known() -> None:
    assert set(SPEED) <= set(FIRST_CHANGED)

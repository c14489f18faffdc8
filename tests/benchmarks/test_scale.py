"""The calculator of docs/scale.md: by hand, against the stages that there are, and the page."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datus.pipeline import STAGE_NAMES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "scale.md"
SIZES = (100_000, 10_000_000, 1_000_000_000)


@pytest.fixture(scope="module")
def scale() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("scale")


def test_a_stage_by_hand(scale: Any) -> None:
    stage = scale.Stage(
        "features",
        bytes_image=100,
        bytes_shard=1000,
        files_image=1,
        files_shard=2,
        core_ms=8.0,
        driver_ms=3.6,
        driver_s=3600.0,
        wide=True,
        gpu=True,
    )
    at = scale.Scenario(36_000, shard_images=100, width=384, gpu_images=10.0, gpus=3, cores=8)
    cost = scale.cost_of(stage, at)
    assert cost.n_bytes == 2 * (100 * 36_000 + 1000 * 360)
    assert cost.n_files == 36_000 + 2 * 360 + 1
    assert cost.node_hours == pytest.approx(36_000 * (0.001 + 0.1) / 3600)
    assert cost.driver_hours == pytest.approx(1 + 0.036)
    assert cost.price == pytest.approx(2 * (cost.node_hours + 3 * cost.driver_hours))


def test_a_last_shard_that_is_not_full_is_a_shard(scale: Any) -> None:
    stage = scale.Stage("graphs", files_shard=2, files_run=0)
    assert scale.cost_of(stage, scale.Scenario(33, shard_images=32)).n_files == 4


def test_larger_shards_are_fewer_files_and_the_same_work(scale: Any) -> None:
    small, large = (
        scale.total([scale.cost_of(stage, at) for stage in scale.STAGES])
        for at in (scale.Scenario(10**6, 32), scale.Scenario(10**6, 1024))
    )
    assert large.n_files < small.n_files
    assert large.node_hours == small.node_hours
    assert large.driver_hours < small.driver_hours


def test_the_stages_are_those_of_a_run(scale: Any) -> None:
    names = [stage.name for stage in scale.STAGES]
    others = {"edits", "denoise-fit", "denoise"}
    assert names == ["index", *(name for name in STAGE_NAMES if name not in others)]
    played = [step.name for step in scale.simulated_plan()]
    assert [name for step in played for name in step.split(" + ")] == names


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(1.5e3, "1.5 kB"), (2e6, "2 MB"), (1.2e9, "1.2 GB"), (3.45e12, "3.45 TB"), (2e18, "2,000 PB")],
)
def test_bytes_as_people_read_them(scale: Any, n_bytes: float, text: str) -> None:
    assert scale.size(n_bytes) == text


@pytest.mark.parametrize(("number", "text"), [(0, "–"), (1e-5, "0.001"), (0.25, "0.25")])
def test_hours_as_people_read_them(scale: Any, number: float, text: str) -> None:
    assert scale.hours(number) == text


def test_the_page_has_the_tables_of_the_calculator(scale: Any) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for n in SIZES:
        assert scale.table(scale.Scenario(n)) in page
    assert scale.holds(SIZES) in page

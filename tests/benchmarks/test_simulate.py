"""The simulated farm: cases counted by hand, and bounds that hold for any shards."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ("dynamic", "static")


@pytest.fixture(scope="module")
def farm() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("farm")


def tasks(farm: Any, seconds: list[float], gpu: float = 0.0, parts: int = 1) -> Any:
    before = np.array(seconds, float)
    return farm.Tasks(before, np.full(len(before), gpu), np.zeros(len(before)), parts)


def run(farm: Any, given: Any, losses: dict[int, list[float]] | None = None, **of: Any) -> Any:
    machines = farm.Farm(**of)
    found = [np.array((losses or {}).get(n, [])) for n in range(machines.gpus)]
    return farm.run_group(given, machines, 0.0, found)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_worker_takes_the_sum(farm: Any, policy: str) -> None:
    played = run(farm, tasks(farm, [1, 2, 3], gpu=1), gpus=1, policy=policy)
    assert (played.end, played.gpu, played.lost) == (9, 3, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_shards_are_divided_by_the_workers(farm: Any, policy: str) -> None:
    assert run(farm, tasks(farm, [2] * 12), gpus=4, policy=policy).end == 6


@pytest.mark.parametrize(("policy", "end"), [("dynamic", 10), ("static", 11)])
def test_a_slow_shard_holds_up_only_those_dealt_behind_it(
    farm: Any, policy: str, end: float
) -> None:
    assert run(farm, tasks(farm, [10, 1, 1, 1]), gpus=2, policy=policy).end == end


@pytest.mark.parametrize(("policy", "end"), [("dynamic", 6), ("static", 12)])
def test_a_slow_node_gets_fewer_shards_if_they_are_not_dealt_beforehand(
    farm: Any, policy: str, end: float
) -> None:
    assert run(farm, tasks(farm, [1] * 8), gpus=2, policy=policy, slow_nodes=1).end == end


@pytest.mark.parametrize("policy", POLICIES)
def test_a_loss_repeats_exactly_the_lost_shard(farm: Any, policy: str) -> None:
    given = tasks(farm, [1, 1, 1, 1], gpu=0)
    played = run(farm, given, {0: [2.5]}, gpus=1, policy=policy, back_after=10)
    # two shards until 2, half of the third, away until 12.5, two shards
    assert (played.end, played.lost, played.losses) == (14.5, 0.5, 1)


def test_shards_handed_out_together_lose_one_of_them(farm: Any) -> None:
    given = tasks(farm, [2], gpu=2, parts=4)
    played = run(farm, given, {0: [2.5]}, gpus=1, back_after=10)
    assert (played.end, played.lost, played.gpu) == (14.5, 0.5, 2)


def test_another_node_does_what_one_lost(farm: Any) -> None:
    played = run(farm, tasks(farm, [4, 1, 1]), {0: [2]}, gpus=2, back_after=100)
    # node 1 does both short ones until 2 and the lost one until 6
    assert (played.end, played.lost) == (6, 2)


def test_a_static_share_waits_for_its_node(farm: Any) -> None:
    played = run(farm, tasks(farm, [4, 1]), {0: [2]}, gpus=2, policy="static", back_after=100)
    assert played.end == 106


def test_a_loss_while_nothing_runs_costs_nothing(farm: Any) -> None:
    assert run(farm, tasks(farm, [1]), {0: [5]}, gpus=1).lost == 0


def test_the_driver_hands_out_one_shard_after_the_other(farm: Any) -> None:
    played = run(farm, tasks(farm, [0] * 6), gpus=6, driver_give=1.0)
    assert played.end == 6


def test_who_comes_back_waits_while_the_driver_looks_at_what_others_made(farm: Any) -> None:
    # both start at 0 and come back at 1; node 0 is given its next at 1, looked at until 2
    played = run(farm, tasks(farm, [1] * 4), gpus=2, latency=1.0)
    assert played.end == 3


def test_two_in_flight_keep_the_gpu_busy(farm: Any) -> None:
    given = tasks(farm, [1] * 4, gpu=1)
    assert run(farm, given, gpus=1).end == 8
    assert run(farm, given, gpus=1, flights=2).end == 5


def test_a_whole_run_adds_its_steps(farm: Any) -> None:
    plan = (
        farm.Group("features", gpu=0.5, cpu=4.0, per_shard=1.0, spread=0.0),
        farm.Whole("center", per_image=0.1, per_shard=1.0, once=3.0),
    )
    machines = farm.Farm(gpus=2, cores=4)
    played = farm.play(plan, machines, 20, 5)
    # 4 shards on 2 nodes: 2 x (5 x (1 + 0.5) + 1); then 2 + 4 + 3
    assert played.spans == [("features", 0.0, 17.0), ("center", 17.0, 26.0)]
    assert played.gpu == 10
    rounds = farm.Farm(gpus=2, cores=4, policy="static", round_start=10.0, index_look=0.1)
    assert farm.play(plan, rounds, 20, 5).end == 26 + 2 * (10 + 2)


def test_the_same_seed_plays_the_same(farm: Any) -> None:
    plan = (farm.Group("features", 0.01, 0.1, 0.1, spread=0.3),)
    machines = farm.Farm(gpus=3, slow_shards=0.1, hours_to_loss=0.01, back_after=5.0)
    first, again, other = (farm.play(plan, machines, 5000, 10, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.end != other.end
    assert first.losses > 0


def test_luck_has_the_mean_that_was_measured(farm: Any) -> None:
    group = farm.Group("features", 1.0, 0.0, 0.0, spread=0.5)
    drawn = farm.draw(group, farm.Farm(), 10_000, 1, np.random.default_rng(0))
    assert drawn.gpu.mean() == pytest.approx(1.0, rel=0.02)
    assert np.log(drawn.gpu).std() == pytest.approx(0.5, rel=0.05)


def test_handing_out_several_at_once_changes_little(
    farm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = (farm.Group("features", 0.01, 0.1, 0.05, spread=0.3),)
    machines = farm.Farm(gpus=4, slow_shards=0.01, driver_give=0.001)
    alone = farm.play(plan, machines, 40_000, 8)
    monkeypatch.setattr(farm, "MOST_HANDED", 1000)
    together = farm.play(plan, machines, 40_000, 8)
    assert together.end == pytest.approx(alone.end, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 6))
def test_no_worse_than_the_bound_of_list_scheduling(
    farm: Any, seconds: list[int], gpus: int
) -> None:
    end = run(farm, tasks(farm, list(map(float, seconds))), gpus=gpus).end
    assert max(*seconds, sum(seconds) / gpus) <= end
    assert end <= sum(seconds) / gpus + max(seconds)

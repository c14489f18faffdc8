"""From a sample to the whole: which images, how much memory, how many workers help."""

from pathlib import Path

import pytest
from tiny_runs import Dataset

import datus.forecast
from datus.config import Config
from datus.engine.plan import make_plan
from datus.forecast import Findings, Forecast, Row, spread
from datus.inputs.index import read_index
from datus.store.store import Store
from datus.types import ImageRecord


def record(number: int) -> ImageRecord:
    name = f"{number:03}"
    return ImageRecord(name, f"{name}.png", 40, 60, "0" * 64, "s", None, None)


def forecast(config: Config, run_dir: Path) -> Forecast:
    index = read_index(Store(run_dir))
    assert index is not None
    return Forecast(config, Store(run_dir), make_plan(config, index), [], {})


@pytest.mark.parametrize(
    ("n_images", "n_wanted", "expected"),
    [
        (1, 17, [0]),
        (3, 17, [0, 1, 2]),
        (10, 5, [1, 3, 5, 7, 9]),
        (100, 4, [12, 37, 62, 87]),
    ],
)
def test_a_sample_is_spread_evenly(n_images: int, n_wanted: int, expected: list[int]) -> None:
    records = [record(number) for number in range(n_images)]
    assert [int(one.image_id) for one in spread(records, n_wanted)] == expected


def test_of_no_images_there_is_no_sample() -> None:
    assert spread([], 17) == []


def test_sums_leave_out_what_was_not_measured() -> None:
    found = Findings([Row("a", 3, 1.5, 100), Row("b", 3, None, None), Row("c", 0, 0.0, 0)])
    assert (found.seconds, found.n_bytes) == (1.5, 100)


@pytest.mark.parametrize(
    ("settings", "n_cores", "n_shards", "expected"),
    [
        ({}, 8, 100, 1),
        ({"speed.executor": "processes"}, 8, 100, 8),
        ({"speed.executor": "processes", "speed.workers": 4}, 8, 100, 4),
        ({"speed.executor": "processes", "speed.workers": 4}, 8, 2, 2),
        ({"speed.executor": "processes", "speed.workers": 32, "speed.threads": 1}, 8, 100, 8),
        ({"speed.executor": "processes", "speed.workers": 4, "speed.threads": 4}, 8, 100, 2),
    ],
)
def test_workers_help_as_far_as_there_are_cores_and_shards(
    settings: dict[str, object],
    n_cores: int,
    n_shards: int,
    expected: int,
    tiny: Dataset,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("engine.resources", "forecast"):
        monkeypatch.setattr(f"datus.{module}.n_cores", lambda: n_cores)
    one = forecast(tiny.config(finished, settings), finished)
    assert one._speedup(n_shards) == expected


def test_the_report_shows_more_pictures_of_more_images(tiny: Dataset, finished: Path) -> None:
    """Ten images, two in the sample: 10 + 3 clusters of 8 + 10 to browse + 4 beside the
    baselines, against 2 + 3 of up to 2 + 2 + 2; without baselines 4 and 2 less."""
    one = forecast(tiny.config(finished), finished)
    assert one._pictures(2) == (1 + 10 + 24 + 10 + 4) / (1 + 2 + 6 + 2 + 2)
    bare = forecast(tiny.config(finished, {"report.baselines": False}), finished)
    assert bare._pictures(2) == (1 + 10 + 24 + 10) / (1 + 2 + 6 + 2)
    assert one._pictures(10) == 1.0


def test_starting_a_worker_takes_time() -> None:
    assert 0.1 < datus.forecast._worker_seconds() < 120
    assert datus.forecast._resident_bytes() > 10**7

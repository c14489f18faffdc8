"""Drift by hand: a few segments whose places in the old distribution are known."""

import dataclasses
import json
import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import inputs_of

from datus.config import ClustersConfig
from datus.inputs.index import Shard
from datus.method.clusters import assign, fit_clusters, offsets
from datus.method.drift import (
    FEW_SEGMENTS,
    LARGE_PERCENT,
    MEASURES,
    MIN_MEMBERS,
    SEGMENTS,
    Drift,
    Gathered,
    Reference,
    drift,
    reference,
    warning,
)
from datus.report import build_report
from datus.report import drift as drift_tables
from datus.review.cluster_arrays import cluster_arrays
from datus.review.frozen import drift_of, reference_arrays
from datus.types import Array, ImageRecord, SegmentEmbeddings, ShardData


def lengths(*rows: Array | list[float]) -> Array:
    return np.array(rows, np.float32)


def known_of(sizes: tuple[int, ...], scale: tuple[float, ...], outside: float = 0.0) -> Reference:
    """Clusters whose distances are 0, ..., scale in even steps."""
    rows = [np.linspace(0, top, n) for n, top in zip(sizes, scale, strict=True)]
    distance = np.concatenate(rows)
    cluster = np.repeat(np.arange(len(sizes)), sizes).astype(np.int16)
    return reference(lengths(distance, distance * outside), cluster, len(sizes))


# --- what is kept -------------------------------------------------------------------------------


def test_a_reference_holds_percentiles_of_each_cluster_and_of_all() -> None:
    known = known_of((101, 101), (1.0, 3.0))
    assert known.quantiles.shape == (2, 3, 101)
    assert known.quantiles.dtype == np.float32
    assert known.quantiles[0, 0] == pytest.approx(np.linspace(0, 1, 101))
    assert known.quantiles[0, 1, 95] == pytest.approx(2.85)
    assert known.quantiles[0, 2, 100] == 3.0
    assert known.members.tolist() == [101, 101]


def test_a_small_cluster_borrows_the_tail_of_all() -> None:
    known = known_of((200, MIN_MEMBERS - 1), (1.0, 0.1))
    own, borrowed = known.limits(95)[0]
    assert own == pytest.approx(0.95)
    assert borrowed == known.quantiles[0, -1, 95]
    assert known_of((200, MIN_MEMBERS), (1.0, 0.1)).limits(95)[0, 1] == pytest.approx(0.095)


def test_a_measure_that_is_nothing_is_left_out() -> None:
    assert known_of((50,), (1.0,)).used == (0,)
    assert known_of((50,), (1.0,), outside=0.5).used == (0, 1)


# --- new segments -------------------------------------------------------------------------------


def test_shares_are_counted_against_a_segments_own_cluster() -> None:
    known = known_of((101, 101), (1.0, 10.0))
    # beyond 0.95 in cluster 0 is far; in cluster 1 that is near
    measures = lengths([0.96, 0.5, 0.96, 9.96], [0, 0, 0, 0])
    found = drift(known, measures, np.array([0, 0, 1, 1], np.int16), np.array([7, 7, 7, 9]))
    (distance,) = found.measures
    assert (found.n_images, found.n_segments) == (2, 4)
    assert distance.far == 50.0
    assert distance.very_far == 25.0  # 9.96 is beyond 9.9
    assert distance.images == 50.0  # one of three, one of one
    assert [(c.n_before, c.n_now, c.far) for c in found.clusters] == [
        (101, 2, (50.0,)),
        (101, 2, (50.0,)),
    ]
    assert found.clusters[0].median_now == pytest.approx(0.73)
    assert distance.now[[0, 100]] == pytest.approx([0.5, 9.96])


def test_both_measures_stand_side_by_side() -> None:
    known = known_of((101,), (1.0,), outside=0.5)
    found = drift(known, lengths([0.2, 0.3], [0.1, 0.49]), np.zeros(2, np.int16), np.arange(2))
    assert [(one.name, one.far) for one in found.measures] == [
        (MEASURES[0], 0.0),
        (MEASURES[1], 50.0),
    ]
    assert found.clusters[0].far == (0.0, 50.0)


def test_a_cluster_without_new_segments_has_no_figures() -> None:
    found = drift(
        known_of((50, 50), (1.0, 1.0)), lengths([0.2], [0]), np.ones(1, np.int16), np.ones(1)
    )
    assert found.clusters[0].n_now == 0
    assert math.isnan(found.clusters[0].median_now)
    assert all(map(math.isnan, found.clusters[0].far))


@pytest.mark.parametrize(
    ("n_old", "k", "n_axes", "sure"),
    [
        (60, 4, 3, (True, True)),
        (59, 4, 0, (False, True)),
        (60, 4, 4, (True, False)),
    ],
)
def test_few_old_segments_are_no_yardstick(
    n_old: int, k: int, n_axes: int, sure: tuple[bool, bool]
) -> None:
    rng = np.random.default_rng(0)
    cluster = np.arange(n_old, dtype=np.int16) % k
    known = reference(rng.random((2, n_old)).astype(np.float32), cluster, k, n_axes)
    assert known.sure == sure
    new = np.full((2, FEW_SEGMENTS), 2, np.float32)
    found = drift(known, new, np.zeros(FEW_SEGMENTS, np.int16), np.arange(FEW_SEGMENTS))
    assert [one.far for one in found.measures] == [100.0, 100.0]
    assert [name in found.words for name in MEASURES] == list(sure)


def test_nothing_new_is_no_drift() -> None:
    nothing = np.zeros((2, 0), np.float32)
    found = drift(known_of((50,), (1.0,)), nothing, np.zeros(0, np.int16), np.zeros(0, np.int64))
    assert (found.n_images, found.n_segments, found.words) == (0, 0, "")
    assert found.figures == {SEGMENTS: 0.0}
    assert math.isnan(found.measures[0].far)


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_the_old_segments_themselves_do_not_drift(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(1, 6)), int(rng.integers(300, 900))
    cluster = np.r_[np.arange(k), rng.integers(0, k, n - k)].astype(np.int16)
    measures = rng.gamma(4.0, 0.1, (2, n)).astype(np.float32)
    found = drift(reference(measures, cluster, k), measures, cluster, rng.integers(0, 20, n))
    for one in found.measures:
        assert one.far == pytest.approx(5.0, abs=3.0)
        assert one.very_far <= one.far
        assert one.now == pytest.approx(one.before, abs=1e-6)
    assert found.words == ""


# --- in parts -----------------------------------------------------------------------------------


def many(n_images: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Measures, clusters and images of 30 segments each."""
    rng, n = np.random.default_rng(seed), 30 * n_images
    measures = rng.gamma(4.0, 0.1, (2, n)).astype(np.float32)
    return measures, rng.integers(0, 3, n).astype(np.int16), np.repeat(np.arange(n_images), 30)


def gathered(known: Reference, measures: Array, cluster: Array, image: Array) -> Gathered:
    """Ten images at a time."""
    found = Gathered(known)
    for start in range(0, len(cluster), 300):
        rows = slice(start, start + 300)
        found.add(measures[:, rows], cluster[rows], image[rows])
    return found


def test_parts_are_as_good_as_the_whole() -> None:
    known, new = reference(*many(40, 1)[:2], 3), many(80)
    one, two = (
        drift_tables.as_json(found) for found in (gathered(known, *new).drift(), drift(known, *new))
    )
    assert one == two
    assert drift_tables.as_json(Gathered(known).drift())["n_new_segments"] == 0


def test_of_many_segments_a_sample_is_kept_and_shares_are_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, new = reference(*many(40, 1)[:2], 3), many(2000)
    exact = drift(known, *new)
    monkeypatch.setattr("datus.method.drift.KEPT", 4000)
    monkeypatch.setattr("datus.method.drift.KEPT_OF_CLUSTER", 2000)
    found = gathered(known, *new).drift()
    for one, whole in zip(found.measures, exact.measures, strict=True):
        assert (one.far, one.very_far, one.images) == (whole.far, whole.very_far, whole.images)
        assert one.now[5:-5] == pytest.approx(whole.now[5:-5], rel=0.08)
        assert not np.array_equal(one.now, whole.now)
    for part, full in zip(found.clusters, exact.clusters, strict=True):
        assert (part.n_now, part.far) == (full.n_now, full.far)
        assert part.median_now == pytest.approx(full.median_now, rel=0.05)
    assert drift_tables.as_json(found) == drift_tables.as_json(gathered(known, *new).drift())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datus.method.drift.KEPT", 2000)
    monkeypatch.setattr("datus.method.drift.KEPT_OF_CLUSTER", 500)
    old = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)
    model = fit_clusters(old, 3, ClustersConfig(k=(3,), pca=0), 0, "cpu")
    arrays = {**cluster_arrays(model), **reference_arrays(*many(40, 1)[:2], 3, [])}

    def shards(n: int) -> Iterator[tuple[Shard, ShardData]]:
        rng = np.random.default_rng(0)
        for number in range(n):
            ids = [f"{number}/{one}" for one in range(20)]
            records = [ImageRecord(one, one, 4, 4, rng.bytes(32).hex(), "") for one in ids]
            vectors = rng.normal(size=(30, 2)).astype(np.float32)
            row = {"vectors": vectors, "valid": np.ones(30, bool)}
            yield Shard(str(number), tuple(records)), ShardData(arrays=dict.fromkeys(ids, row))

    peaks = []
    for n in (150, 450):
        tracemalloc.start()
        assert drift_of(arrays, shards(n)).n_segments == n * 20 * 30
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("far", "n_segments", "warns"),
    [
        ((LARGE_PERCENT + 1, 0.0), FEW_SEGMENTS, True),
        ((0.0, LARGE_PERCENT + 1), FEW_SEGMENTS, True),
        ((LARGE_PERCENT, LARGE_PERCENT), FEW_SEGMENTS, False),
        ((100.0, 100.0), FEW_SEGMENTS - 1, False),
    ],
)
def test_a_warning_needs_large_shares_and_enough_segments(
    far: tuple[float, float], n_segments: int, warns: bool
) -> None:
    text = warning({SEGMENTS: n_segments, **dict(zip(MEASURES, far, strict=True))})
    assert bool(text) == warns
    if warns:
        name = MEASURES[0] if far[0] else MEASURES[1]
        assert f"of {n_segments} new segments 16 % by {name} lie farther out" in text


def test_figures_of_other_stages_say_nothing() -> None:
    assert warning({"density": 0.5}) == ""


# --- in the report ------------------------------------------------------------------------------


def reported(found: Drift) -> tuple[dict[str, Any], str, str]:
    """Drift in report.json, report.md and the page."""
    files = build_report(dataclasses.replace(inputs_of(), drift=found))
    table = json.loads(files["report.json"], parse_constant=pytest.fail)
    return table["drift"], files["report.md"].decode(), files["report.html"].decode()


def test_the_report_shows_then_and_now() -> None:
    known = known_of((101, 101), (1.0, 10.0), outside=0.5)
    measures = lengths([0.96, 0.5, 0.96, 9.96], [0.1, 0.1, 0.1, 0.1])
    found = drift(known, measures, np.array([0, 0, 1, 1], np.int16), np.array([7, 7, 7, 9]))
    table, text, page = reported(found)
    assert (table["n_new_images"], table["n_new_segments"]) == (2, 4)
    distance, outside = table["measures"]
    assert distance["percent_beyond_95"] == 50.0
    assert distance["percent_beyond_99"] == 25.0
    assert distance["percent_of_images_mostly_beyond"] == 50.0
    assert (
        distance["before"].keys() == distance["now"].keys() == {"5", "25", "50", "75", "95", "99"}
    )
    assert outside["percent_beyond_95"] == 0.0
    assert table["clusters"][0]["segments_before"] == 101
    assert table["clusters"][1]["percent_beyond_95"] == [50.0, 0.0]
    for shown in (text, page):
        assert "2 images with 4 segments were not part of it" in shown
        assert f"{MEASURES[0]}, now" in shown
        assert "50.0 / 0.0" in shown
    assert page.count("percent of segments up to this") == 4  # two plots, each with its label
    assert "nan" not in text.lower()


def test_the_report_of_a_run_without_new_images_says_so() -> None:
    nothing = np.zeros((2, 0), np.float32)
    empty = np.zeros(0, np.int64)
    table, text, page = reported(drift(known_of((50,), (1.0,)), nothing, empty, empty))
    assert table["measures"][0]["now"]["50"] is None
    for shown in (text, page):
        assert "none is new, so there is no drift" in shown
        assert ", now" not in shown


# --- offsets: where the measures come from ------------------------------------------------------


def unit(n: int, size: int, seed: int = 0) -> Array:
    vectors = np.random.default_rng(seed).normal(size=(n, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("pca", [0, 3, -1])
def test_offsets_add_up_to_the_distance_in_the_whole_space(pca: int) -> None:
    vectors, new = unit(60, 8), unit(9, 8, seed=1)
    model = fit_clusters(vectors, 4, ClustersConfig(pca=pca, restarts=2), seed=0)
    cluster, measures = offsets(model, new)
    found = assign(model, SegmentEmbeddings(new, np.ones(9, bool)))
    assert cluster.dtype == np.int16
    assert np.array_equal(cluster, found.cluster)
    centroids = model.centroids
    if pca:
        centroids = centroids @ model.pca_axes + model.pca_mean
    whole = np.linalg.norm(new - centroids[cluster], axis=1)
    assert np.hypot(*measures.astype(np.float64)) == pytest.approx(whole, abs=1e-5)
    if pca != 3:
        assert measures[1] == pytest.approx(np.zeros(9), abs=1e-3)


def test_offsets_of_nothing() -> None:
    model = fit_clusters(unit(20, 8), 4, ClustersConfig(restarts=2), seed=0)
    cluster, measures = offsets(model, np.zeros((0, 8), np.float32))
    assert (cluster.shape, measures.shape) == ((0,), (2, 0))

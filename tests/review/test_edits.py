"""edits.json: what it may say, and what it does to labels, checked by hand."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.errors import UsageError
from datus.review.edits import (
    Edit,
    Edits,
    Replay,
    as_json,
    base_of,
    edited,
    follow,
    gone,
    groups,
    n_labels,
    names,
    packed,
    parse,
    relabelled,
)

CENTROIDS = np.eye(4, dtype=np.float32)


def file_of(*edits: dict[str, Any], **more: Any) -> bytes:
    table = {"format": "datus-edits", "version": 1, "clusters": base_of(4, "sha256:a", CENTROIDS)}
    return json.dumps({**table, "edits": list(edits), **more}).encode()


def edits_of(*edits: dict[str, Any]) -> Edits:
    return parse(file_of(*edits), "edits.json")


MERGE = {"op": "merge", "clusters": [1, 3]}
SPLIT = {"op": "split", "cluster": 0, "parts": 3}
RENAME = {"op": "rename", "cluster": 1, "name": " water "}
DROP = {"op": "drop", "cluster": 2}


def test_a_file_is_read_and_written_back() -> None:
    found = edits_of(MERGE, SPLIT, RENAME, DROP)
    assert found.edits == (
        Edit("merge", (1, 3)),
        Edit("split", (0,), parts=3, fresh=(4, 5)),
        Edit("rename", (1,), "water"),
        Edit("drop", (2,)),
    )
    assert (found.k, found.identity) == (4, "sha256:a")
    assert as_json(found.edits) == [MERGE, SPLIT, {**RENAME, "name": "water"}, DROP]
    assert n_labels(found, 4) == 6
    assert n_labels(None, 4) == 4
    assert [str(one) for one in found.edits] == [
        "merge 1 and 3", "split 0 into 3", "rename 1 to 'water'", "drop 2",
    ]  # fmt: skip


def test_parts_can_be_edited_on() -> None:
    more = edits_of(SPLIT, {"op": "split", "cluster": 5, "parts": 2}, {"op": "drop", "cluster": 6})
    assert [one.fresh for one in more.edits] == [(4, 5), (6,), ()]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "e: not JSON: "),
        (b"[" * 100_000, "e: not JSON: "),
        (b"[]", "e: expected a file that the report page saved, edits.json"),
        (file_of(version=9), "e: version 9, this DatUS reads 1: save it again"),
        (file_of(clusters=3), "e: expected clusters and a list of edits"),
        (file_of(clusters={"k": 2, "centroids": [[1]]}), "e: expected 2 centroids, got (1, 1)"),
        (file_of(clusters={"k": 1, "centroids": [["x"]]}), "e: its clusters cannot be read"),
        (file_of(clusters={"k": 1, "centroids": [[float("nan")]]}), "e: centroids that are no num"),
        (file_of({"op": "paint"}), "e: edit 1: expected op merge, split, rename or drop, got 'pai"),
        (file_of(3), "e: edit 1: expected op merge, split, rename or drop, got None"),
        (file_of({"op": "merge", "clusters": [1]}), "e: edit 1 (merge): expected two or more clus"),
        (file_of({"op": "merge", "clusters": [1, 1]}), "e: edit 1 (merge): expected two or more"),
        (file_of({"op": "merge", "clusters": [True, 1]}), "e: edit 1 (merge): expected numbers of"),
        (file_of({"op": "drop", "cluster": "1"}), "e: edit 1 (drop): expected numbers of clusters"),
        (file_of({**RENAME, "name": "\n"}), "e: edit 1 (rename): expected a name of 1 to 100 char"),
        (file_of({**RENAME, "name": "x" * 101}), "e: edit 1 (rename): expected a name of 1 to 100"),
        (file_of({**SPLIT, "parts": 1}), "e: edit 1 (split): expected 2 to 16 parts, got 1"),
        (file_of({"op": "drop", "cluster": 4}), "e: edit 1 (drop 4): there is no cluster 4"),
        (file_of(MERGE, {"op": "drop", "cluster": 3}),
         "e: edit 2 (drop 3): it is gone since edit 1 (merge 1 and 3)"),
        (file_of(*[{**SPLIT, "parts": 16}] * 17), "e: 259 labels with all parts of splits, masks"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(data, "e")
    assert str(error.value).startswith(message)


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.just("merge"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["format", "version", "clusters", "edits", "op", "cluster", "parts", "k"]),
        inner, max_size=6),
    max_leaves=12,
).map(lambda table: json.dumps(table).encode()))  # fmt: skip
def test_whatever_a_file_holds_it_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        parse(data, "e")


# --- on other clusters --------------------------------------------------------------------------


def test_the_same_clusters_need_no_search() -> None:
    found = follow(edits_of(MERGE, DROP), CENTROIDS, "sha256:a")
    assert found == Replay((Edit("merge", (1, 3)), Edit("drop", (2,))), ())


def test_clusters_are_followed_by_their_centroid() -> None:
    order = [2, 0, 3, 1]  # the new number of 0 is 1, of 1 is 3, of 2 is 0, of 3 is 2
    moved = CENTROIDS[order] + np.float32(0.05)
    found = follow(edits_of(MERGE, SPLIT, DROP, RENAME), moved, "sha256:b")
    assert found.edits == (
        Edit("merge", (3, 2)),
        Edit("split", (1,), parts=3, fresh=(4, 5)),
        Edit("drop", (0,)),
        Edit("rename", (3,), "water"),
    )
    assert not found.conflicts


def test_parts_come_after_the_clusters_however_many_there_are() -> None:
    more = np.concatenate([CENTROIDS, np.full((2, 4), -1, np.float32)])
    steps = edits_of(SPLIT, {"op": "rename", "cluster": 5, "name": "x"})
    found = follow(steps, more, "sha256:b")
    assert found.edits == (
        Edit("split", (0,), parts=3, fresh=(6, 7)), Edit("rename", (7,), "x"),
    )  # fmt: skip


def test_an_unclear_cluster_is_a_conflict_and_is_named() -> None:
    moved = CENTROIDS.copy()
    moved[2] = moved[1] = [0, 0.7, 0.7, 0]  # 1 and 2 fell together
    steps = edits_of(MERGE, {"op": "rename", "cluster": 0, "name": "sky"}, DROP)
    found = follow(steps, moved, "sha256:b")
    assert found.edits == (Edit("rename", (0,), "sky"),)
    assert found.conflicts == (
        "merge 1 and 3 is left out: cluster 1 has no clear counterpart: clusters 1 and 2 are "
        "nearly as near",
        "drop 2 is left out: cluster 2 has no clear counterpart: clusters 1 and 2 are nearly as "
        "near",
    )


def test_fewer_clusters_leave_one_without_a_counterpart() -> None:
    steps = edits_of(SPLIT, {"op": "drop", "cluster": 4})
    found = follow(steps, CENTROIDS[1:], "sha256:b")
    assert found.edits == ()
    assert found.conflicts == (
        "split 0 into 3 is left out: cluster 0 has no counterpart among 3 clusters",
        "drop 4 is left out: cluster 4 is of a split left out",
    )


def test_another_embedding_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        follow(edits_of(DROP), np.zeros((4, 3), np.float32), "sha256:b")
    assert str(error.value) == (
        "clusters.edits: made on embeddings of size 4, this run has 3: they hold for runs of one "
        "backbone"
    )


# --- labels -------------------------------------------------------------------------------------


def test_each_edit_on_labels() -> None:
    labels = np.array([0, 1, 2, 3, 0, -1], np.int16)
    steps = edits_of(MERGE, SPLIT, DROP, RENAME).edits
    assert edited(labels, steps[0]).tolist() == [0, 1, 2, 1, 0, -1]
    assert edited(labels, steps[1], np.array([2, 1])).tolist() == [5, 1, 2, 3, 4, -1]
    assert edited(labels, steps[2]).tolist() == [0, 1, -1, 3, 0, -1]
    assert edited(labels, steps[3]).tolist() == labels.tolist()
    assert labels.tolist() == [0, 1, 2, 3, 0, -1]


def test_what_a_stage_keeps_does_the_same() -> None:
    steps = edits_of(SPLIT, {"op": "merge", "clusters": [1, 4]}, DROP).edits
    places = np.array([[0, 0], [9, 0], [0, 9], [5, 5], [5, 5]], np.float32)
    parts = np.array([[0, 1], [8, 0], [0, 8]], np.float32)
    middle = np.arange(8, dtype=np.float32).reshape(4, 2)
    arrays = packed(Replay(steps, ()), middle, {0: parts})
    cluster = np.array([0, 0, 0, 2, 1], np.int16)
    assert relabelled(arrays, cluster, places).tolist() == [0, 1, 5, -1, 1]
    assert arrays["centroids"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 0], [0, 8]]


def test_names_and_what_is_gone() -> None:
    replay = Replay(edits_of(MERGE, RENAME, DROP, {**RENAME, "name": "sea"}).edits, ())
    assert names(replay, 4) == ("", "sea", "", "")
    assert gone(replay) == {2, 3}


def test_merged_clusters_are_one_group() -> None:
    steps = edits_of(MERGE, {"op": "merge", "clusters": [0, 1]}).edits
    assert groups(Replay(steps, ()), 4).tolist() == [0, 0, 2, 0]
    parts = edits_of(SPLIT, {"op": "merge", "clusters": [2, 4]}, MERGE).edits
    assert groups(Replay(parts, ()), 4).tolist() == [0, 1, 2, 1]

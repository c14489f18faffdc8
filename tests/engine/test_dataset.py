"""What stages over the whole dataset read: in order, ahead, no more than they need."""

import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_tree import tree
from tiny_runs import IDS, Dataset, flip_byte, go, made

from datus.config import Config
from datus.engine import dataset as datasets
from datus.errors import StoreError
from datus.inputs.index import read_index
from datus.pipeline import make_plan
from datus.stages.report import BASELINE_IMAGES
from datus.stages.views import placed, viewed
from datus.store.store import Store
from datus.types import evenly


def opened(config: Config, said: list[str] | None = None) -> datasets.Dataset:
    store = Store(config.run_path)
    index = read_index(store)
    assert index is not None
    plan = make_plan(config, index)
    say = (said if said is not None else []).append
    return datasets.Dataset(config, store, plan, index, plan.nodes[-1], say)


@pytest.mark.parametrize("at_once", [1, 4])
def test_shards_in_order_with_what_was_stored(tiny: Dataset, finished: Path, at_once: int) -> None:
    dataset = opened(tiny.config(finished, {"speed.read_ahead": at_once}))
    found = list(dataset.data("masks", 3))
    assert [shard for shard, _ in found] == list(dataset.plan.shards)
    assert [name for _, data in found for name in data.arrays] == sorted(IDS)
    assert [len(report.images) for report in dataset.reports("masks", 3)] == [
        len(data.arrays) for _, data in found
    ]
    ((whole, clusters),) = dataset.data("clusters", 3)
    assert (whole.key, "centroids" in clusters.arrays[""]) == ("all", True)


def test_only_shards_that_hold_one_of_some_images(tiny: Dataset, finished: Path) -> None:
    dataset = opened(tiny.config(finished))
    ((shard, data),) = dataset.data("segments", 3, {"b/c1"})
    assert "b/c1" in {record.image_id for record in shard.records} == set(data.arrays)
    assert list(dataset.data("segments", 3, set())) == []


def test_damaged_shards_are_made_again_in_their_turn_and_said(
    tiny: Dataset, run_copy: Path, finished: Path
) -> None:
    said: list[str] = []
    dataset = opened(tiny.config(run_copy), said)
    whole = list(dataset.data("segments", 3))
    keys = [shard.key for shard in dataset.plan.shards]
    for key in keys[1:]:
        (path,) = run_copy.glob(f"segments/*/shard-{key}.safetensors")
        flip_byte(path)
    for (_, data), (_, before) in zip(dataset.data("segments", 3), whole, strict=True):
        for name, arrays in data.arrays.items():
            for key, array in arrays.items():
                np.testing.assert_array_equal(array, before.arrays[name][key])
    assert said == [
        f"segments: shard {key} does not match its checksum: made again" for key in keys[1:]
    ]
    assert made(go(dataset.config)[0]) == {}
    assert tree(run_copy) == tree(finished)


def test_an_error_ends_the_reading(
    tiny: Dataset, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(tiny.config(finished))
    read, last = Store.read_shard, dataset.plan.shards[-1].key

    def broken(store: Store, place: tuple[str, str, str], files: bool = True) -> Any:
        if place[2] == last:
            raise StoreError("the store is down")
        return read(store, place, files)

    monkeypatch.setattr(Store, "read_shard", broken)
    seen = []
    with pytest.raises(StoreError, match="the store is down"):
        seen.extend(shard.key for shard, _ in dataset.data("masks", 3))
    assert not [one for one in threading.enumerate() if one.name.startswith("datus-read")]


def test_who_takes_the_first_shard_leaves_no_thread(tiny: Dataset, finished: Path) -> None:
    shards = opened(tiny.config(finished)).data("masks", 3)
    next(shards)
    shards.close()  # type: ignore[attr-defined]  # the protocol promises less than a generator
    assert not [one for one in threading.enumerate() if one.name.startswith("datus-read")]


@pytest.mark.parametrize(("browse", "wide"), [(0, set()), (1, {"masks", "segments", "embeddings"})])
def test_the_report_reads_tallies_and_the_shards_of_the_page(
    browse: int, wide: set[str], tiny: Dataset, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run_copy / "report")
    read, asked = Store.read_shard, Counter[str]()

    def counting(store: Store, place: tuple[str, str, str], files: bool = True) -> Any:
        asked[place[0]] += 1
        return read(store, place, files)

    monkeypatch.setattr(Store, "read_shard", counting)
    monkeypatch.setattr("datus.stages.views.N_PLACED", 1)
    result, _ = go(tiny.config(run_copy, {"report.browse": browse}))
    n_shards = len(result.plan.shards)
    assert n_shards > 2
    assert made(result) == {"report": 1}
    by_shard = {name: n for name, n in asked.items() if name != "clusters"}
    page = dict.fromkeys(wide | {"evaluate"}, 1) if wide else {}
    records = result.index.records
    looked_at = {record.image_id for record in (*viewed(records), *placed(records))}
    again = [one for one in result.plan.shards if looked_at & {r.image_id for r in one.records}]
    views = {"views": 1, "embeddings": len(again), "segments": len(again)}
    assert len(again) < n_shards
    tallies = {"tallies": n_shards}
    scored = evenly([one for one in records if one.truth_path], BASELINE_IMAGES)
    shown = {record.image_id for record in scored}
    beside = sum(bool(shown & {r.image_id for r in one.records}) for one in result.plan.shards)
    page |= {"masks": page.get("masks", 0) + beside}
    assert by_shard == Counter(tallies) + Counter(page) + Counter(views)


def test_a_true_mask_that_changes_scores_its_own_shard_again(
    tiny: Dataset, run_copy: Path, tmp_path: Path
) -> None:

    dataset = Dataset(Path(shutil.copytree(tiny.root, tmp_path / "photos")))
    assert made(go(dataset.config(run_copy))[0]) == {}
    path = dataset.truth / "d0.png"
    truth = np.array(Image.open(path))
    Image.fromarray(np.where(truth == 1, 2, truth)).save(path)
    result, _ = go(dataset.config(run_copy))
    assert made(result) == {"evaluate (K = 3)": 1, "tallies (K = 3)": 1, "report": 1}

"""A new stage is one object: it runs, resumes and is explained like those that there are."""

from pathlib import Path
from typing import Any

import numpy as np
from tiny_runs import IDS, Dataset, Listener

from datus import pipeline
from datus.config import Config
from datus.engine.plan import find_node
from datus.engine.stage import Context, Inputs, ShardWork, Stage, one_image, per_image
from datus.inputs.index import Index
from datus.status import status_rows
from datus.store.store import Store
from datus.types import ImageRecord, ShardData


def needs(config: Config) -> tuple[str, ...]:
    return ("masks",)


def settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    return {"largest": 3}


def build(context: Context) -> ShardWork:
    def work(record: ImageRecord, inputs: Inputs) -> ShardData:
        pixels = inputs["masks"].arrays[record.image_id]["pixels"]
        return one_image(record, {"largest": np.argsort(-pixels)[:3]}, {"n": 3.0})

    return per_image(context, work)


LARGEST = Stage("largest", 1, "shard", needs, settings, build, per_k=True)


def test_a_stage_is_one_file_and_one_row(tiny: Dataset, run_copy: Path, monkeypatch: Any) -> None:
    stages = list(pipeline.STAGES)
    stages.insert(pipeline.STAGE_NAMES.index("masks") + 1, LARGEST)
    monkeypatch.setattr(pipeline, "STAGES", tuple(stages))
    config, store = tiny.config(run_copy), Store(run_copy)
    result = pipeline.run(config, store, Listener())
    assert {row.name for row in result.stages if row.made} == {"index", "largest (K = 3)"}
    node = find_node(result.plan.nodes, "largest", 3)
    stored = [store.read_shard(place) for place in result.plan.places(node)]
    arrays = {name: array for data in stored if data for name, array in data.arrays.items()}
    assert sorted(arrays) == sorted(IDS)
    next(run_copy.glob("largest/*/shard-*.json")).unlink()
    states = {row[0]: row[2:] for row in status_rows(config, explain=True)}
    assert states["largest (K = 3)"] == ("partly", "2/3", "some shards are new or were removed")
    again = pipeline.run(config, store, Listener(), "largest", only=True)
    assert [row.made for row in again.stages if row.name == "largest (K = 3)"] == [1]

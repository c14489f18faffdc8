"""Files that people give to a run and change while it works: nothing false is stored."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import Dataset, Listener, go

from datus.config import Config
from datus.engine.plan import make_plan, unchanged
from datus.engine.stage import Stage
from datus.engine.workers import Advance
from datus.errors import StoreError, WorkError
from datus.inputs.index import Index
from datus.pipeline import run
from datus.store.store import Store

pytestmark = pytest.mark.usefixtures("one_backbone")


class Meddler(Listener):
    """A console in front of which somebody changes a file when a stage begins."""

    def __init__(self, stage: str, change: Callable[[], Any]) -> None:
        super().__init__()
        self._stage, self._change = stage, change

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        if self._stage in name:
            self._change()
        yield lambda n: None


def meddle(config: Config, stage: str, change: Callable[[], Any]) -> str:
    """What the error says; the stage has stored nothing."""
    with pytest.raises(WorkError) as caught:
        run(config, Store(config.run_path), Meddler(stage, change))
    return str(caught.value)


def stored(run_dir: Path, stage: str) -> list[Path]:
    return sorted(run_dir.glob(f"{stage}/*/shard-*"))


def test_another_class_table_in_the_middle_is_not_taken_for_the_first(
    tiny: Dataset, run_copy: Path, tmp_path: Path
) -> None:
    shutil.rmtree(run_copy / "evaluate")
    shutil.rmtree(run_copy / "report")
    classes = Path(shutil.copy(tiny.classes, tmp_path / "classes.toml"))
    config = tiny.config(run_copy, {"data.classes": str(classes)})
    before = classes.read_text()
    found = meddle(config, "evaluate", lambda: classes.write_text(before.replace("c1", "other")))
    assert found.endswith(
        "evaluate (K = 3): the file that its classes come from changed during the run: run the "
        "same command again"
    )
    assert not stored(run_copy, "evaluate")
    classes.write_text(before)
    go(config, until="evaluate")
    found = meddle(config, "report", lambda: classes.write_text(before.replace("c1", "other")))
    assert found == (
        "evaluate (K = 3): the file that its classes come from changed during the run: run the "
        "same command again"
    )
    assert not stored(run_copy, "report")


def test_other_corrections_in_the_middle_are_not_taken_for_the_first(
    tiny: Dataset, run_copy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "corrections"
    folder.mkdir()
    for name in ("a1.png", "d2.png"):
        shutil.copy(tiny.truth / name, folder)
    config = tiny.config(run_copy, {"clusters.corrections": str(folder), "clusters.k": [4]})
    found = meddle(config, "clusters", (folder / "d2.png").unlink)
    assert found == (
        "clusters (K = 4): the file that its corrections come from changed during the run: run "
        "the same command again"
    )
    assert len(stored(run_copy, "clusters")) == 2, "those of K = 3"


def test_what_changes_while_a_stage_works_is_seen_at_its_end() -> None:
    content = {"weights": "one"}
    stage = Stage(
        *("features", 1, "dataset"),
        needs=lambda config: (),
        settings=lambda config, k, index: dict(content),
        build=lambda context: None,
    )
    index = Index((), {}, 0)
    plan = make_plan(Config(), index, [stage])
    with unchanged(Config(), plan, plan.nodes[0], index):
        pass
    with (
        pytest.raises(WorkError, match="features: the file that its weights come from changed"),
        unchanged(Config(), plan, plan.nodes[0], index),
    ):
        content["weights"] = "two"


def test_a_full_disk_under_the_work_of_a_stage_is_said(
    tiny: Dataset, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, pieces: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("datus.segmenter.examples.whole_file", SimpleNamespace(write=full))
    config = tiny.config(run_copy, {"denoise.enabled": True, "denoise.epochs": 1})
    with pytest.raises(StoreError) as caught:
        go(config, until="denoise-fit")
    assert str(caught.value) == (
        f"cannot write {run_copy}: No space left on device; free some space and run the same "
        "command again, finished shards are kept"
    )

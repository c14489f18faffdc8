"""A run that dies between any two writes ends, run again, with the bytes of an undisturbed one.

The child kills itself with SIGKILL at a chosen write: before it, between the temporary file and its
rename, or right after. Children are forked from a server that has loaded the package once.
"""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_tree import tree
from tiny_runs import TINY_VIT

STAGES = (
    *("index", "features", "keysums", "center", "graphs", "segments"),
    *("embeddings", "samples", "clusters", "masks", "tallies", "views", "report"),
)
MOMENTS = ("before", "between", "after")


def run_here(images: str, run_dir: str) -> None:
    from datus.config import Config
    from datus.pipeline import run
    from datus.store.store import Store

    overrides = {
        "data.images": images,
        "data.shard_images": 3,
        "run_dir": run_dir,
        "features.backbone": TINY_VIT,
        "features.image_px": 64,
        "segments.restarts": 1,
        "clusters.k": [3],
        "clusters.restarts": 2,
        "speed.device": "cpu",
    }
    config = Config.load(None, overrides)
    run(config, Store(config.run_path))


def run_and_die(images: str, run_dir: str, stage: str, number: int, moment: str) -> None:
    """Dies at write `number` of a stage; lives if the stage writes less than that."""
    from datus.store import store

    count = 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
        nonlocal count
        here = f"/{stage}/" in path.as_posix()
        count += here
        chosen = here and count == number
        if chosen and moment == "before":
            die()
        if chosen and moment == "between":
            path.parent.mkdir(parents=True, exist_ok=True)
            data = b"".join(pieces)
            (path.parent / f"{store.TEMPORARY}torn").write_bytes(data[: len(data) // 2])
            die()
        whole(path, pieces)
        if chosen:
            die()

    whole, store._write_local = store._write_local, write
    run_here(images, run_dir)


def in_child(function, *arguments: object) -> int:
    """Exit code of a forked child; -9 if it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "timm", "faiss", "datus.pipeline", "sknetwork.clustering"]
    )
    child = context.Process(target=function, args=arguments)
    child.start()
    child.join()
    return int(child.exitcode or 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(8):
        colours = rng.integers(0, 255, (2, 2, 3), dtype=np.uint8)
        picture = colours.repeat(30, 0).repeat(40, 1)
        noisy = picture // 2 + rng.integers(0, 100, picture.shape, dtype=np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    assert in_child(run_here, str(images), str(run_dir)) == 0
    return tree(run_dir)


@pytest.mark.parametrize(
    "stage", [s if s == "clusters" else pytest.param(s, marks=pytest.mark.slow) for s in STAGES]
)
def test_death_at_any_write_of_a_stage(
    stage: str, images: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    numbers = np.random.default_rng(STAGES.index(stage)).permutation(3)[:3] + 1
    deaths = 0
    for number, moment in zip(numbers.tolist(), MOMENTS, strict=True):
        deaths += in_child(run_and_die, str(images), str(run_dir), stage, number, moment) == -9
    assert deaths > 0
    assert in_child(run_here, str(images), str(run_dir)) == 0
    assert tree(run_dir) == expected

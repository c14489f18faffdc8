"""A tiny dataset and runs on it in this process. Shared by the tests of the machine."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datus.config import EMBEDDED_BACKBONE, Config
from datus.engine.run import RunResult
from datus.engine.workers import Advance
from datus.pipeline import run
from datus.store.store import Store

TINY_VIT = str(Path(__file__).with_name("tiny_vit.safetensors"))
"""One random block of width 24, with the channels of appearance of the shipped backbone. It groups
by colour, and a pass takes hardly any time."""

SPEED: dict[str, Any] = {
    "data.shard_images": 4,
    "features.backbone": TINY_VIT,
    "features.image_px": 64,
    "graphs.center": "image",
    "graphs.threshold": 0.7,  # no stage over all images before the graphs
    "segments.restarts": 1,
    "embeddings.min_patches": 2,  # enough valid segments, whatever the weights are
    "clusters.restarts": 2,
    "clusters.k": [3],
    "speed.device": "cpu",
}
"""Settings that make a run take less than a second."""

SHIPPED = {"features.backbone": EMBEDDED_BACKBONE}
"""For what is said of the shipped backbone, or does not come out alike with random weights."""

SHIPPED_OPTIONS = ("--set", f"features.backbone={EMBEDDED_BACKBONE}")

IDS = ("a0", "a1", "a2", "b/c0", "b/c1", "b/c2", "d0", "d1", "d2", "d3")
COLOURS = np.array([[40, 90, 200], [60, 160, 60], [220, 60, 40]])


@dataclass(frozen=True)
class Dataset:
    """A folder with images/, truth/ and classes.toml."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def truth(self) -> Path:
        return self.root / "truth"

    @property
    def classes(self) -> Path:
        return self.root / "classes.toml"

    def config(self, run_dir: Path | str, more: Mapping[str, Any] | None = None) -> Config:
        """Settings of a fast run with truth."""
        return Config.load(None, {**self.settings(run_dir), **(more or {})})

    def settings(self, run_dir: Path | str) -> dict[str, Any]:
        """The same as a table."""
        where = {
            "data.images": str(self.images),
            "data.truth": str(self.truth),
            "data.classes": str(self.classes),
            "run_dir": str(run_dir),
        }
        return {**SPEED, **where}

    def arguments(self, run_dir: Path | str, truth: bool = True) -> list[str]:
        """The same as options of the command line."""
        given = ["--images", str(self.images), "--run-dir", str(run_dir)]
        if truth:
            given += ["--truth", str(self.truth), "--classes", str(self.classes)]
        for name, value in SPEED.items():
            given += ["--set", f"{name}={value}"]
        return given


def make_dataset(root: Path, ids: tuple[str, ...] = IDS) -> Dataset:
    """Images of 40 to 90 pixels with three regions each, and their true masks."""
    dataset = Dataset(root)
    for number, image_id in enumerate(ids):
        write_pair(dataset, image_id, number)
    blocks = [
        f'[[classes]]\nname = "c{i}"\ncolour = [{80 * i}, 0, 90]\nids = [{i}]\n' for i in range(3)
    ]
    dataset.classes.write_text('name = "tiny"\n' + "".join(blocks), encoding="utf-8")
    return dataset


def write_pair(dataset: Dataset, image_id: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(40, 90, 2))
    truth = np.zeros((height, width), np.uint8)
    truth[height // 2 :] = 1
    truth[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 2
    noisy = COLOURS[truth] + rng.normal(0, 12, (height, width, 3))
    save(dataset.images / f"{image_id}.png", np.clip(noisy, 0, 255).astype(np.uint8))
    truth[:2] = 255
    save(dataset.truth / f"{image_id}.png", truth)


def save(path: Path, array: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@dataclass
class Listener:
    """A console that remembers."""

    said: list[str] = field(default_factory=list)
    bars: dict[str, list[int]] = field(default_factory=dict)
    """name -> [total, counted]."""

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        self.bars[name] = [total, 0]

        def advance(n: int) -> None:
            self.bars[name][1] += n

        yield advance

    def say(self, text: str) -> None:
        self.said.append(text)


def go(config: Config, until: str = "report", only: bool = False) -> tuple[RunResult, Listener]:
    listener = Listener()
    return run(config, Store(config.run_path), listener, until, only), listener


def made(result: RunResult) -> dict[str, int]:
    """Shards made, by stage, of the stages that made any; without the index."""
    return {row.name: row.made for row in result.stages if row.made and row.name != "index"}


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file: when it was written, and the hash of what is in it."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != ".lock"
    }


def flip_byte(path: Path, position: int = -5) -> None:
    """Damage that keeps the size."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)

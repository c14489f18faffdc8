"""What one process waits for on a slow store: clusters and report of a run of many shards.

    python benchmarks/bench_ahead.py [--images 400] [--ms 20] [--at-once 1,16] [--set name=value]

In:  small made-up images, run once on the disk with shards of 2 images.
Out: Markdown: for each value of speed.read_ahead the seconds of the stages over all shards, made
     again on the same folder behind calls of --ms on average (chaos_faults.object_store), the whole
     command with all its looks, calls, and whether the files are those of the first row.
"""

import argparse
import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from chaos_faults import object_store
from PIL import Image

from datus import runner
from datus.config import Config, parse_override
from datus.store import Store

STAGES = ("clusters", "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--ms", type=float, default=20.0)
    parser.add_argument("--at-once", default="1,16")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    args = parser.parse_args()
    more = dict(parse_override(text) for text in args.set)
    with tempfile.TemporaryDirectory(prefix="datus-ahead-") as folder:
        root = Path(folder)
        make_images(root / "data", args.images)
        runner.run(_config(root, str(root / "run"), more), Store(root / "run"))
        object_store(wait=2 * args.ms / 1000)()
        print("| shards at a time | clusters, s | report, s | the whole command, s | files |")
        print("|---|---|---|---|---|")
        first: dict[str, str] = {}
        for at_once in map(int, args.at_once.split(",")):
            forget(root / "run")
            config = _config(root, f"flaky://{root}/run", more, at_once)
            started = time.monotonic()
            result = runner.run(config, Store(config.run_path))
            whole = time.monotonic() - started
            n_shards = len(result.plan.shards)
            seconds = {row.name.split(" ")[0]: row.seconds for row in result.stages}
            made = hashes(root / "run")
            first = first or made
            same = "the same" if made == first else "OTHERS"
            cells = " | ".join(f"{seconds[name]:.1f}" for name in STAGES)
            print(f"| {at_once} | {cells} | {whole:.1f} | {same} |", flush=True)
        print(f"\n{args.images} images, {n_shards} shards, {args.ms:g} ms a call on average")


def _config(root: Path, run_dir: str, more: dict[str, Any], at_once: int = 16) -> Config:
    return Config.load(
        None,
        {
            "data.images": str(root / "data" / "images"),
            "data.truth": str(root / "data" / "truth"),
            "data.classes": str(root / "data" / "classes.toml"),
            "data.shard_images": 2,
            "features.image_px": 64,
            "graphs.center": "image",
            "embeddings.min_patches": 2,
            "clusters.k": [3],
            "clusters.restarts": 2,
            "run_dir": run_dir,
            "speed.device": "cpu",
            "speed.read_ahead": at_once,
            **more,
        },
    )


def make_images(root: Path, n: int) -> None:
    """Noise of three colours, and its true classes."""
    colours = np.array([[40, 90, 200], [60, 160, 60], [220, 60, 40]])
    for name in ("images", "truth"):
        (root / name).mkdir(parents=True)
    for number in range(n):
        rng = np.random.default_rng(number)
        truth = np.zeros((64, 64), np.uint8)
        truth[32:], truth[16:48, 16:48] = 1, 2
        image = np.clip(colours[truth] + rng.normal(0, 12, (64, 64, 3)), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{number:06d}.png")
        Image.fromarray(truth).save(root / "truth" / f"{number:06d}.png")
    blocks = [
        f'[[classes]]\nname = "c{i}"\ncolour = [{80 * i}, 0, 90]\nids = [{i}]\n' for i in range(3)
    ]
    (root / "classes.toml").write_text('name = "made up"\n' + "".join(blocks), encoding="utf-8")


def forget(run: Path) -> None:
    for stage in STAGES:
        for path in run.glob(f"{stage}/*/shard-*"):
            path.unlink()
        shutil.rmtree(run / stage / "files", ignore_errors=True)


def hashes(run: Path) -> dict[str, str]:
    """Of what these stages made; not of reports, which hold seconds."""
    made = (path for stage in STAGES for path in (run / stage).rglob("*") if path.is_file())
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in made
        if path.suffix != ".json" or path.parent.name == "files"
    }


if __name__ == "__main__":
    main()

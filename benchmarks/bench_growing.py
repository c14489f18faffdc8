"""What is made again when images are added: shards and seconds of every stage.

    python benchmarks/bench_growing.py --images DIR --more DIR [--truth DIR --more-truth DIR
        --classes TOML] [--n 4000] [--added 20] [--out FOLDER] [--set section.key=value]

The images of --images are copied under new names until there are --n of them. Then, in this order:

    first          a run of all of them
    again          the same command: nothing is made
    added          --added images of --more go in; new clusters
    taken          the same images, in the folder as it was after `first`, with --frozen-clusters
    taken, again   as many more

One table: for every stage the shards made and the seconds that they took, and below the seconds of
the whole command, on the clock and of the processor.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from datus.config import Config, parse_override
from datus.pipeline import run
from datus.store.store import Store


@dataclass(frozen=True)
class Step:
    name: str
    made: dict[str, tuple[int, int, float]]
    """Stage -> shards made, of how many, seconds."""
    wall: float
    processor: float


@dataclass(frozen=True)
class Pool:
    """Where images and their true masks come from, in order of name."""

    images: Path
    truth: Path | None

    def put(self, folder: Path, start: int, n: int, prefix: str) -> None:
        """Images `start` to `start + n`, over and over, under new names, with their masks."""
        found = sorted(path for path in self.images.iterdir() if path.is_file())
        for number in range(start, start + n):
            path = found[number % len(found)]
            name = f"{prefix}{number // len(found):03d}_{path.stem}"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "images" / f"{name}{path.suffix}")
            if self.truth is not None:
                (folder / "truth").mkdir(exist_ok=True)
                mask = self.truth / f"{path.stem}.png"
                shutil.copyfile(mask, folder / "truth" / f"{name}.png")


def step(name: str, settings: dict[str, object]) -> Step:
    """One command."""
    config = Config.load(None, settings)
    wall, processor = time.perf_counter(), time.process_time()
    result = run(config, Store(config.run_path))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    made = {one.name: (one.made, one.shards, one.seconds) for one in result.stages}
    print(f"{name}: {wall:.1f} s on the clock, {processor:.1f} s of the processor", flush=True)
    return Step(name, made, wall, processor)


def steps(args: argparse.Namespace, folder: Path) -> list[Step]:
    pool = Pool(Path(args.images), Path(args.truth) if args.truth else None)
    more = Pool(Path(args.more), Path(args.more_truth) if args.truth else None)
    data = folder / "data"
    pool.put(data, 0, args.n, "a")
    settings: dict[str, object] = {
        "data.images": str(data / "images"),
        "clusters.k": [args.clusters],
        "speed.device": "cpu",
        "run_dir": str(folder / "run"),
        **({"data.truth": str(data / "truth"), "data.classes": args.classes} if args.truth else {}),
        **dict(parse_override(text) for text in args.set),
    }
    found = [step("first", settings), step("again", settings)]
    kept = folder / "kept"
    shutil.copytree(folder / "run", kept, symlinks=True)
    more.put(data, 0, args.added, "m")
    found.append(step("added", settings))
    taken = {**settings, "run_dir": str(kept), "clusters.frozen": str(kept)}
    found.append(step("taken", taken))
    more.put(data, args.added, args.added, "m")
    return [*found, step("taken, again", taken)]


def table(found: list[Step]) -> str:
    """Markdown: shards made of all / seconds."""
    stages = list(dict.fromkeys(stage for one in found for stage in one.made))
    lines = [f"| stage | {' | '.join(one.name for one in found)} |"]
    lines.append(f"|---|{'---|' * len(found)}")
    for stage in stages:
        cells = []
        for one in found:
            made, of, seconds = one.made.get(stage, (0, 0, 0.0))
            cells.append(f"{made}/{of}, {seconds:.1f} s" if made else "0" if of else "–")
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    for name, key in (("seconds on the clock", "wall"), ("seconds of the processor", "processor")):
        cells = [f"{getattr(one, key):.1f}" for one in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--more", required=True, help="other images, to be added")
    parser.add_argument("--truth", default="")
    parser.add_argument("--more-truth", default="")
    parser.add_argument("--classes", default="")
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--added", type=int, default=20)
    parser.add_argument(
        "--out", default="", help="keep the files here; default: a temporary folder"
    )
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    args = parser.parse_args()
    if args.out:
        found = steps(args, Path(args.out))
    else:
        with tempfile.TemporaryDirectory(prefix="datus-growing-") as folder:
            found = steps(args, Path(folder))
    print(table(found))


if __name__ == "__main__":
    main()

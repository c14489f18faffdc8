"""One `datus compare` over backbones and K against the same cells as separate runs.

    python benchmarks/bench_compare.py --images IMAGES --truth MASKS --classes TOML \
        [--backbones NAME:WEIGHTS,...] [--clusters 6,8,11,16] [--set section.key=value]

Every command is a process of its own, as one would type it; separate runs start in fresh folders.
Both sides do the same work to the end, reports included. Prints the seconds of each by the clock
and of the processor (the ones to trust where other work runs beside it), the sum, the ratio, what a
second compare takes, and whether all masks are the same bytes.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKBONES = "datus_t8,vit_tiny_patch16_224:random,vit_small_patch16_224:random"


Seconds = tuple[float, float]
"""By the clock, and of the processor."""


def seconds_now() -> Seconds:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def show(what: str, seconds: Seconds) -> None:
    print(what.ljust(50), f"{seconds[0]:8.1f} s {seconds[1]:8.1f} s of processor", flush=True)


def timed(arguments: list[str]) -> tuple[Seconds, str]:
    """(seconds, standard output) of one datus command."""
    clock, processor = seconds_now()
    done = subprocess.run(
        [sys.executable, "-m", "datus", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"datus {' '.join(arguments)}\n{done.stderr[-2000:]}")
    now = seconds_now()
    return (now[0] - clock, now[1] - processor), done.stdout


def masks_of(run_dir: Path) -> dict[str, bytes]:
    """Every mask of a run folder, by fingerprint and name."""
    folder = run_dir / "masks"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def separate(args: argparse.Namespace, folder: Path, given: list[str]) -> tuple[Seconds, bool]:
    """(seconds of all runs, whether their masks are those of the comparison)."""
    together = masks_of(folder / "together")
    clock = processor = 0.0
    same = True
    for name in args.backbones.split(","):
        for k in args.clusters.split(","):
            run_dir = folder / f"alone-{name.partition(':')[0]}-{k}"
            backbone, _, weights = name.partition(":")
            more = ["--backbone", backbone, "--clusters", k, "--run-dir", str(run_dir)]
            more += ["--weights", weights] if weights else []
            seconds, _ = timed(["run", *given, *more])
            alone = masks_of(run_dir)
            same = same and bool(alone) and alone.items() <= together.items()
            show(f"datus run, {backbone}, K = {k}", seconds)
            clock, processor = clock + seconds[0], processor + seconds[1]
    return (clock, processor), same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--backbones", default=BACKBONES)
    parser.add_argument("--clusters", default="6,8,11,16")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    args = parser.parse_args()
    given = ["--images", args.images, "--truth", args.truth, "--classes", args.classes]
    for text in args.set:
        given += ["--set", text]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = folder / "grid.toml"
        grid.write_text('table = "VII"\nreports = true\n[base]\n', encoding="utf-8")
        lists = ["--backbones", args.backbones, "--clusters", args.clusters]
        command = ["compare", str(grid), *given, *lists, "--run-dir", str(folder / "together")]
        together, table = timed(command)
        print(table)
        again, said = timed(command)
        alone, same = separate(args, folder, given)
    made = next(line for line in said.splitlines() if line.endswith("shards made"))
    show("sum of the separate runs", alone)
    show("datus compare", together)
    print(f"ratio {alone[0] / together[0]:.2f}, of processor {alone[1] / together[1]:.2f}")
    show(f"the same command again, {made}", again)
    print(f"masks are the same bytes: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()

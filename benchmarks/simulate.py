"""A run of 10⁷ images on 64 GPUs: what shard size, stragglers and losses do to it.

    python benchmarks/simulate.py [--images 10000000] [--gpus 64] [--plot docs/scale_shards]

In:  the figures of benchmarks/scale.py; the rules of benchmarks/farm.py.
Out: Markdown tables: makespan, share of the time that the GPUs computed, work that was lost; with
     --plot a picture of the makespan against the shard size, and of what the time goes to.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from farm import HOUR, Farm, Group, Played, Whole, play
from scale import Scenario, simulated_farm, simulated_plan
from scale_plot import draw_plots

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

WORLD = {
    "slow_nodes": 1,
    "slow_shards": 0.01,
    "hours_to_loss": 24.0,
}
"""A farm as it is: one slow node, one shard in a hundred slow, a node lost once a day of its."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", default="", help="path of an SVG and a PNG, without suffix")
    args = parser.parse_args()
    farm = replace(simulated_farm(), gpus=args.gpus)
    plans = {n: simulated_plan(Scenario(args.images, shard_images=n)) for n in SIZES}
    worlds = {name: replace(farm, **change) for name, change in kinds(farm).items()}
    found = {
        name: [play(plans[size], one, args.images, size, args.seed) for size in SIZES]
        for name, one in worlds.items()
    }
    print(f"{args.images:,} images, {args.gpus} GPUs, makespan in hours\n")
    print(by_size(found, args.gpus))
    for latency in (farm.latency, 0.02):
        one = replace(farm, latency=latency)
        print(f"\nShards of 512, {1000 * latency:g} ms a request:\n")
        print(by_trouble(plans[512], one, args.images, args.seed))
    if args.plot:
        draw_plots(found, SIZES, Path(args.plot))


def kinds(farm: Farm) -> dict[str, dict[str, Any]]:
    """Name -> how shards are handed out. All in a world with troubles."""
    ray: dict[str, Any] = {**WORLD, "policy": "dynamic"}
    return {
        "dynamic": {**ray, "flights": 1},
        "dynamic, two in flight": {**ray, "flights": 2},
        "static, two in flight": {**WORLD, "policy": "static", "flights": 2},
        "dynamic, object store": {**ray, "flights": 1, "latency": 0.02},
        "object store, one shard read at a time": {**ray, "latency": 0.02, "read_at_once": 1},
    }


TROUBLES: dict[str, dict[str, Any]] = {
    "none": {},
    "one node at a third of the speed": {"slow_nodes": 1},
    "1 % of the shards five times slower": {"slow_shards": 0.01},
    "a node lost every 24 h of node time": {"hours_to_loss": 24.0},
    "preempted: every 2 h, back after 10 min": {"hours_to_loss": 2.0, "back_after": 600.0},
    "the first three together": dict(WORLD),
}


def by_size(found: dict[str, list[Played]], gpus: int) -> str:
    """Markdown: a row for each shard size, two columns for each kind."""
    lines = [f"| images a shard | {' | '.join(f'{one}: hours / GPU busy' for one in found)} |"]
    lines.append(f"|---|{'---|' * len(found)}")
    for place, size in enumerate(SIZES):
        cells = [
            f"{p[place].end / HOUR:.2f} / {busy(p[place], gpus):.1f} %" for p in found.values()
        ]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_trouble(plan: Sequence[Group | Whole], farm: Farm, n_images: int, seed: int) -> str:
    """Markdown: a row for each trouble, dynamic and static."""
    lines = ["| trouble | dynamic: shard stages, h | lost, h | static: shard stages, h | lost, h |"]
    lines.append("|---|---|---|---|---|")
    for name, change in TROUBLES.items():
        cells = []
        for policy in ("dynamic", "static"):
            one = replace(farm, policy=policy, flights=2, **change)
            played = play(plan, one, n_images, 512, seed)
            cells.append(f"{in_groups(plan, played) / HOUR:.2f} | {played.lost / HOUR:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def busy(played: Played, gpus: int) -> float:
    """Percent of the time of all GPUs that they computed what was kept."""
    return 100 * played.gpu / (gpus * played.end)


def in_groups(plan: Sequence[Group | Whole], played: Played) -> float:
    """Seconds of the shard stages: without the stages that need all shards."""
    names = {step.name for step in plan if isinstance(step, Group)}
    return sum(end - start for name, start, end in played.spans if name in names)


if __name__ == "__main__":
    main()

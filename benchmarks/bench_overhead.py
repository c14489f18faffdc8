"""Overhead: wall time of a whole run over wall time of the same ViT passes alone.

    python benchmarks/bench_overhead.py --images FOLDER [--truth DIR --classes TOML] [--clusters 12]

Both in this process, one after the other, same images, batch, precision and device. 1.0 would mean
that everything around the ViT is free. Prints the seconds of every stage and the ratio.
"""

import argparse
import tempfile
import time
from pathlib import Path

from datus.backbones import load_backbone
from datus.config import Config
from datus.images import fit_size, normalise
from datus.index import Index
from datus.runner import RunResult, run, runtime_of
from datus.shardwork import vit_image
from datus.store import Store


def whole_run(config: Config) -> tuple[RunResult, float]:
    started = time.perf_counter()
    result = run(config, Store(config.run_path))
    return result, time.perf_counter() - started


def passes_alone(config: Config, index: Index) -> float:
    """Seconds of the forward passes on decoded images; loading the model is not counted."""
    runtime, settings = runtime_of(config), config.features
    backbone = load_backbone(
        settings.backbone, settings.weights, settings, runtime.device, config.seed
    )
    seconds = 0.0
    for start in range(0, len(index.records), 32):  # as many decoded images in memory as a shard
        images = []
        for record in index.records[start : start + 32]:
            size = fit_size(
                record.height,
                record.width,
                settings.image_px,
                backbone.patch_px,
                settings.resize,
            )
            images.append(normalise(vit_image(config, record, size), settings.channels))
        started = time.perf_counter()
        backbone.features(images, runtime.threads, runtime.batch)
        seconds += time.perf_counter() - started
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--truth", default="")
    parser.add_argument("--classes", default="")
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    args = parser.parse_args()
    from datus.config import parse_override

    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            "data.images": args.images,
            "data.truth": args.truth,
            "data.classes": args.classes,
            "clusters.k": [args.clusters],
            "run_dir": str(Path(folder) / "run"),
            **dict(parse_override(text) for text in args.set),
        }
        config = Config.load(None, overrides)
        result, whole = whole_run(config)
        alone = passes_alone(config, result.index)
    n_images = len(result.index.records)
    for stage in result.stages:
        print(f"{stage.name:20} {stage.seconds:8.2f} s")
    print(f"{'whole run':20} {whole:8.2f} s  {1000 * whole / n_images:.1f} ms an image")
    print(f"{'ViT passes alone':20} {alone:8.2f} s  {1000 * alone / n_images:.1f} ms an image")
    print(f"overhead {whole / alone:.2f}")


if __name__ == "__main__":
    main()

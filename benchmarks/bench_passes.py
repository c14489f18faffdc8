"""A pass of a ViT on one core of a CPU: by torch's own products and by those of oneDNN.

    python benchmarks/bench_passes.py [--backbones datus_t8,vit_small_patch8_224:random]

Prints a table: milliseconds an image, the best of some rounds in turns, and how far the keys are
apart. Images are noise of 192 x 256 pixels, 768 patches of 8 x 8. NAME:WEIGHTS as `--backbones` of
`datus compare`. `datus/compute/onednn.py` says where a run takes which.
"""

import argparse
import time
from unittest import mock

import numpy as np

from datus.compute import onednn
from datus.config import Config
from datus.models.vit import Backbone, load_backbone
from datus.types import Array

N_IMAGES, N_ROUNDS = 12, 4


def passes(model: Backbone, images: list[Array], by_onednn: bool) -> tuple[float, Array]:
    """(seconds an image, float32 keys of all images)."""
    with mock.patch.object(onednn, "wanted", return_value=by_onednn):
        started = time.perf_counter()
        grids = model.features(images, 1, 1)
        seconds = time.perf_counter() - started
    return seconds / len(images), np.stack([grid.keys for grid in grids])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", default="datus_t8,vit_small_patch8_224:random")
    names = parser.parse_args().backbones.split(",")
    if not onednn.available():
        raise SystemExit("this torch has no product of oneDNN")
    print(f"runs on this machine multiply by {'oneDNN' if onednn.wanted() else 'torch'}\n")
    print("| backbone | torch, ms | oneDNN, ms | keys apart | float16 keys that differ |")
    print("|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(3, 192, 256)).astype(np.float32) for _ in range(N_IMAGES)]
    features = Config.load(None, {"data.images": "."}).features
    for name in names:
        backbone, _, weights = name.partition(":")
        model = load_backbone(backbone, weights or "auto", features, "cpu", 0)
        best, keys = [np.inf, np.inf], [np.zeros(0)] * 2
        for _ in range(N_ROUNDS):
            for way in (False, True):
                seconds, keys[way] = passes(model, images, way)
                best[way] = min(best[way], seconds)
        apart = np.abs(keys[0] - keys[1]).max()
        differ = np.mean(keys[0].astype(np.float16) != keys[1].astype(np.float16))
        print(
            f"| {name} | {1e3 * best[0]:.0f} | {1e3 * best[1]:.0f} | {apart:.1e} | "
            f"{100 * differ:.2f} % |"
        )


if __name__ == "__main__":
    main()

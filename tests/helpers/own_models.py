"""Backbones of the user's own: a file of weights and its record."""

import json
from pathlib import Path
from typing import Any

import torch

SMALL: dict[str, Any] = {
    "img_size": 128,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 0,
}


def write_own(path: Path, architecture: dict[str, Any]) -> None:
    from safetensors.torch import save_file
    from timm.models.eva import Eva

    torch.manual_seed(0)
    model = Eva(**{**architecture, "dynamic_img_size": True})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    record = {"class": "Eva", "architecture": architecture}
    path.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")


TINY: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 0,
}


def write_tiny_vit(path: Path) -> None:
    """tiny_vit.safetensors: random, but for the scale of the channels of appearance."""
    from safetensors.torch import load_file, save_file

    from datus.models.appearance import BUFFERS, HybridTransformer
    from datus.models.weights import MODELS

    torch.manual_seed(0)
    state = HybridTransformer(**TINY, dynamic_img_size=True).state_dict()
    shipped = load_file(MODELS / "datus_t8.safetensors")
    for name in set(BUFFERS) - {"place_keys"}:
        state[name] = shipped[name].float()
    save_file(state, path)
    record = {"class": "HybridTransformer", "architecture": TINY}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_tiny_vit(Path(__file__).with_name("tiny_vit.safetensors"))

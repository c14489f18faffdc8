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

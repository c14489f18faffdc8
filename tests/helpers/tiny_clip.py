"""A text-image model of two layers with random weights, as a folder that open_clip reads."""

import json
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
}


def make_clip(folder: Path, name: str = "tiny.safetensors", config: Any = None) -> Path:
    """The path of the weights; open_clip_config.json is beside them."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config or CONFIG)
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**CONFIG["model_cfg"])
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(model.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": wrapped(model.state_dict())}, path)
    return path


def wrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    """As training on several devices saves them."""
    return {f"module.{name}": value for name, value in tensors.items()}

"""What fuzz.py feeds: every reader of the package with valid files to start from.

A reader takes bytes and gives a result or raises a DatusError. Where a wrong result can be told
from a right one, it is: sizes against headers, a canary that code in a checkpoint would touch.
What people give to a run beside images, and finished runs, are in fuzz_given.py.
"""

import contextlib
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_given import GIVEN
from fuzz_seeds import (
    CLASSES,
    CONFIG,
    GRID,
    MAX_PIXELS,
    OVERRIDES,
    Reader,
    mended_png,
    mended_table,
    mended_zip,
    pictures,
    without_seal,
    zip_bomb,
)

# --- readers ------------------------------------------------------------------------------------


def image_reader(scratch: Path) -> Reader:
    from datus.errors import ImageError
    from datus.inputs.decode import decode_image, image_size

    def read(data: bytes) -> None:
        size = None
        with contextlib.suppress(ImageError):
            size = image_size(data, MAX_PIXELS)
        image = decode_image(data, MAX_PIXELS)
        if image.shape != (*(size or ()), 3) or image.dtype != "uint8":
            raise AssertionError(f"{image.dtype} {image.shape}, but its header says {size}")

    return Reader(read, tuple(pictures().values()), mended_png)


def labels_reader(scratch: Path) -> Reader:
    from datus.inputs.labels import decode_labels

    def read(data: bytes) -> None:
        labels = decode_labels(data, MAX_PIXELS)
        if labels.ndim != 2 or labels.dtype != "uint8":
            raise AssertionError(f"labels of type {labels.dtype} and shape {labels.shape}")

    kept = [data for name, data in pictures().items() if name.startswith(("png", "bmp", "tiff"))]
    return Reader(read, tuple(kept), mended_png)


class Canary:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def pickle_reader(scratch: Path) -> Reader:
    """Zip and older checkpoints. Code in them must never run."""
    import torch

    from datus.models.checkpoints import read_checkpoint

    file, canary = scratch / "model.pth", scratch / "canary"
    tensors = {"model": {"patch_embed.proj.weight": torch.ones(3, 2), "pos": torch.arange(4)}}
    hostile = {**tensors, "args": Canary(canary)}
    seeds = []
    for content in (tensors, hostile, {"state_dict": {"x": torch.ones(2).half()}}):
        for is_zip in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
            seeds.append(buffer.getvalue())
    seeds += [
        zip_bomb(seeds[0]),
        b"\x80\x02cos\nsystem\n(S'mkdir " + os.fsencode(canary) + b"'\ntR.",
    ]

    def read(data: bytes) -> None:
        file.write_bytes(data)
        try:
            read_checkpoint(file)
        finally:
            if canary.exists():
                canary.rmdir()
                raise AssertionError("the checkpoint ran code")

    return Reader(read, tuple(seeds), mended_zip)


def safetensors_reader(scratch: Path) -> Reader:
    import torch
    from safetensors.torch import save

    from datus.models.checkpoints import read_checkpoint

    file = scratch / "model.safetensors"
    valid = save({"blocks.0.attn.qkv.weight": torch.ones(4, 3), "norm": torch.ones(2).bfloat16()})

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_checkpoint(file)

    nested = b'{"a":' * 50_000
    return Reader(read, (valid, struct.pack("<Q", len(nested)) + nested))


def config_reader(scratch: Path) -> Reader:
    from datus.config import Config

    def read(data: bytes) -> None:
        (scratch / "config.toml").write_bytes(data)
        Config.load(scratch / "config.toml", {"segments.restarts": 2})

    return Reader(read, (CONFIG.encode(),), is_text=True)


def override_reader(scratch: Path) -> Reader:
    from datus.config import Config, parse_override

    def read(data: bytes) -> None:
        name, value = parse_override(data.decode("utf-8", "surrogateescape"))
        Config.load(None, {name: value})

    return Reader(read, tuple(text.encode() for text in OVERRIDES), is_text=True)


def grid_reader(scratch: Path) -> Reader:
    from datus.compare.grid import load_grid

    def read(data: bytes) -> None:
        (scratch / "grid.toml").write_bytes(data)
        load_grid(scratch / "grid.toml")

    return Reader(read, (GRID.encode(),), is_text=True)


def classes_reader(scratch: Path) -> Reader:
    from datus.inputs.labels import load_classes

    def read(data: bytes) -> None:
        (scratch / "classes.toml").write_bytes(data)
        load_classes(scratch / "classes.toml")

    return Reader(read, (CLASSES.encode(),), is_text=True)


PLACE = ("graphs", "0123456789abcdef", "00ff00ff00ff")


def example_shard(scratch: Path) -> tuple[Any, bytes, bytes]:
    """(store, arrays, report) of a written shard."""
    import numpy as np

    from datus.store.store import Store
    from datus.types import ShardData

    store = Store(scratch / "run")
    arrays = {
        "b/two": {"bits": np.arange(6, dtype=np.uint64).reshape(3, 2), "size": np.zeros(2, "i4")},
        "one": {"bits": np.ones((1, 1), np.uint64), "half": np.ones(3, np.float16)},
    }
    data = ShardData(arrays, {"one": {"density": 0.25}}, {"bad": "empty"}, {"b/two.png": b"png"})
    store.write_shard(PLACE, data, 1.5, keep=True)
    stage, mark, key = PLACE
    suffixes = ("safetensors", "json")
    return store, *(store.read(stage, mark, f"shard-{key}.{suffix}") for suffix in suffixes)


def shard_reader(scratch: Path) -> Reader:
    """Arrays whose checksum is right: what stands behind it must be safe too."""
    from datus.store.store import _sha256, sealed

    store, arrays, report = example_shard(scratch)
    stage, mark, key = PLACE

    def read(data: bytes) -> None:
        table = json.loads(report) | {"sha256": _sha256(data), "n_bytes": len(data)}
        store.write(data, stage, mark, f"shard-{key}.safetensors")
        store.write(json.dumps(sealed(table)).encode(), stage, mark, f"shard-{key}.json")
        store.read_shard(PLACE)

    return Reader(read, (arrays,))


def report_reader(scratch: Path) -> Reader:
    store, _, report = example_shard(scratch)
    stage, mark, key = PLACE

    def read(data: bytes) -> None:
        store.write(data, stage, mark, f"shard-{key}.json")
        store.report(*PLACE)
        store.read_shard(PLACE)

    return Reader(read, (report, without_seal(report)), mended_table, is_text=True)


def recipe_reader(scratch: Path) -> Reader:
    from datus.store.store import Store

    store = Store(scratch / "run")
    stage, mark, _ = PLACE
    store.write_recipe(stage, mark, {"stage": stage, "settings": {"k": 3}, "upstream": {"a": "b"}})
    recipe = store.read(stage, mark, "stage.json")

    def read(data: bytes) -> None:
        store.write(data, stage, mark, "stage.json")
        store.recipes(stage)
        store.write_recipe(stage, mark, {"stage": stage})

    return Reader(read, (recipe, without_seal(recipe)), mended_table, is_text=True)


def index_readers(scratch: Path) -> dict[str, Reader]:
    """Each file of the index, read by `datus status` and by the next run."""
    from datus.config import Config
    from datus.engine.run import QUIET
    from datus.inputs.index import make_index, read_index
    from datus.store.store import Store, unsealed

    (scratch / "images").mkdir()
    (scratch / "images" / "a.png").write_bytes(pictures()["png"])
    config, store = (
        Config.load(None, {"data.images": str(scratch / "images")}),
        Store(scratch / "r"),
    )
    make_index(config, store, QUIET.bar)

    def reader(name: str) -> Reader:
        valid = store.read("index", name)

        def read(data: bytes) -> None:
            store.write(data, "index", name)
            try:
                read_index(store)
            finally:
                make_index(config, store, QUIET.bar)
                sealed = name == "seen.json" and unsealed(data, ("rows",), must=True)
                if not sealed and store.read("index", name) != valid:
                    raise AssertionError("damage stayed")

        seeds = (valid,) if name == "index.jsonl" else (valid, without_seal(valid))
        return Reader(read, seeds, bytes if name == "index.jsonl" else mended_table, is_text=True)

    return {name: reader(name) for name in ("index.jsonl", "index.json", "seen.json")}


def model_reader(scratch: Path) -> Reader:
    """The JSON of a saved model, and its tensors."""
    import torch
    from safetensors.torch import save

    from datus.segmenter.files import read_record, read_tensors
    from datus.store.store import _sha256

    weights = scratch / "segmenter.safetensors"
    weights.write_bytes(save({"head": torch.ones(2, 2)}))
    table = {"format": 1, "datus": "0.1", "weights": {"sha256": _sha256(weights.read_bytes())}}

    def read(data: bytes) -> None:
        (scratch / "segmenter.json").write_bytes(data)
        read_tensors(weights, read_record(weights))

    return Reader(read, (json.dumps(table).encode(),), is_text=True)


READERS: dict[str, Callable[[Path], Reader]] = {
    "image": image_reader,
    "labels": labels_reader,
    "pth": pickle_reader,
    "safetensors": safetensors_reader,
    "config": config_reader,
    "override": override_reader,
    "grid": grid_reader,
    "classes": classes_reader,
    "shard": shard_reader,
    "report": report_reader,
    "recipe": recipe_reader,
    "index.jsonl": lambda scratch: index_readers(scratch)["index.jsonl"],
    "index.json": lambda scratch: index_readers(scratch)["index.json"],
    "seen.json": lambda scratch: index_readers(scratch)["seen.json"],
    "model": model_reader,
    **GIVEN,
}

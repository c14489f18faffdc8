"""What fuzz.py feeds: every reader of the package with valid files to start from.

A reader takes bytes and gives a result or raises a DatusError. Where a wrong result can be told
from a right one, it is: sizes against headers, a canary that code in a checkpoint would touch.
"""

import contextlib
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_PIXELS = 1_000_000

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Reader:
    """What reads, and valid bytes for it."""

    read: Read
    seeds: tuple[bytes, ...]
    mend: Callable[[bytes], bytes] = bytes
    """Puts checksums right, so that changes get past them."""
    is_text: bool = False


# --- valid files --------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """Small pictures of every format and pixel type that is read."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    grey, palette, cmyk = rgb.convert("L"), rgb.convert("P"), rgb.convert("CMYK")
    deep = Image.fromarray(rng.integers(0, 65535, (9, 11), dtype=np.uint16))
    ids = Image.fromarray(rng.integers(0, 6, (20, 30), dtype=np.uint8))
    labels = ids.convert("P")
    labels.putpalette([i // 3 for i in range(768)])
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: tuple[tuple[str, Any, str, dict[str, Any]], ...] = (
        ("baseline", rgb, "JPEG", {"exif": exif}),
        ("progressive", rgb, "JPEG", {"progressive": True}),
        ("cmyk", cmyk, "JPEG", {}),
        ("grey-jpeg", grey, "JPEG", {}),
        ("png", rgb, "PNG", {"exif": exif}),
        ("png-alpha", rgb.convert("RGBA"), "PNG", {}),
        ("png-palette", palette, "PNG", {"transparency": 3}),
        ("png-deep", deep, "PNG", {}),
        ("png-labels", labels, "PNG", {"bits": 4}),
        ("png-ids", ids, "PNG", {}),
        ("png-bits", ids.convert("1"), "PNG", {}),
        ("bmp", rgb, "BMP", {}),
        ("bmp-ids", labels, "BMP", {}),
        ("tiff", rgb, "TIFF", {"tiffinfo": {0x0112: 8}}),
        ("tiff-lzw", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff-deflate", ids, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("tiff-fax", ids.convert("1"), "TIFF", {"compression": "group4"}),
        ("tiff-jpeg", rgb, "TIFF", {"compression": "jpeg"}),
        ("tiff-float", deep.convert("F"), "TIFF", {}),
        ("gif", palette, "GIF", {"save_all": True, "append_images": [palette.rotate(90)]}),
        ("webp", rgb, "WEBP", {}),
        ("webp-lossless", rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        ("ppm", rgb, "PPM", {}),
        ("pgm", deep, "PPM", {}),
        ("pbm", ids.convert("1"), "PPM", {}),
    )
    found = {}
    for name, image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    return found | {"plain-ppm": b"P3 3 2 255 " + b"1 2 3 " * 6, "bombs": bomb(60_000, 60_000)}


def bomb(height: int, width: int) -> bytes:
    """A PNG of a few kilobytes that unpacks to a megabyte, with a text that unpacks to ten."""
    zeros = zlib.compress(bytes(1 << 20), 9)
    text = b"a\0\0" + zlib.compress(bytes(10 << 20), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"zTXt", text), (b"IDAT", zeros), (b"IEND", b"")])


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mended_png(data: bytes) -> bytes:
    """Checksums of the chunks put right; anything else is left as it is."""
    if not data.startswith(b"\x89PNG"):
        return data
    fixed, start = bytearray(data), 8
    while start + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, start)
        end = start + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[start + 4 : end]))
        start = end + 4
    return bytes(fixed)


def mended_zip(data: bytes) -> bytes:
    """Checksums of the members put right, as far as their local headers can be found."""
    fixed = bytearray(data)
    for match in re.finditer(rb"PK\x03\x04", data):
        start = match.start()
        if start + 30 > len(data):
            break
        size, _, name, extra = struct.unpack_from("<IIHH", data, start + 18)
        body = start + 30 + name + extra
        check = struct.pack("<I", zlib.crc32(data[body : body + size]))
        old = bytes(fixed[start + 14 : start + 18])
        fixed[start + 14 : start + 18] = check
        for entry in re.finditer(rb"PK\x01\x02", data):
            place = entry.start() + 16
            if data[place : place + 4] == old:
                fixed[place : place + 4] = check
    return bytes(fixed)


# --- readers ------------------------------------------------------------------------------------


def image_reader(scratch: Path) -> Reader:
    from datus.errors import ImageError
    from datus.images import decode_image, image_size

    def read(data: bytes) -> None:
        size = None
        with contextlib.suppress(ImageError):
            size = image_size(data, MAX_PIXELS)
        image = decode_image(data, MAX_PIXELS)
        if image.shape != (*(size or ()), 3) or image.dtype != "uint8":
            raise AssertionError(f"{image.dtype} {image.shape}, but its header says {size}")

    return Reader(read, tuple(pictures().values()), mended_png)


def labels_reader(scratch: Path) -> Reader:
    from datus.masks import decode_labels

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

    from datus.checkpoints import read_checkpoint

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


def zip_bomb(checkpoint: bytes) -> bytes:
    """The checkpoint with a member that unpacks to four gigabytes' worth of memory limits."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(checkpoint)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            data = old.read(info)
            large = bytes(256 << 20) if info.filename.endswith("/data/0") else b""
            new.writestr(info.filename, data + large)
    return buffer.getvalue()


def safetensors_reader(scratch: Path) -> Reader:
    import torch
    from safetensors.torch import save

    from datus.checkpoints import read_checkpoint

    file = scratch / "model.safetensors"
    valid = save({"blocks.0.attn.qkv.weight": torch.ones(4, 3), "norm": torch.ones(2).bfloat16()})

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_checkpoint(file)

    nested = b'{"a":' * 50_000
    return Reader(read, (valid, struct.pack("<Q", len(nested)) + nested))


CONFIG = """preset = "paper"
seed = 3
run_dir = "r"
[data]
images = "photos"
max_pixels = 1000
[features]
allow_missing = ["a.*", 'b']
image_px = 0x60
[graphs]
threshold = 0.5
center = "image"
keep = false
[clusters]
k = [6, 7]
[speed]
executor = "processes"
"""

GRID = """base = { data = { images = "i", truth = "t", classes = "c" } }
k = [6, 7]
seeds = [0, 1]
presets = ["best", "paper"]
table = "full"
[[backbones]]
name = "datus_vit_t8"
label = "ours"
[[embedders]]
mode = "crop"
"""

CLASSES = """name = "tiny"
source = "here"
ignore = [255, 7]
[[classes]]
name = "sky"
colour = [0, 10, 255]
ids = [0, 2]
[[classes]]
name = "rest"
colour = [1, 2, 3]
ids = [1]
"""

OVERRIDES = (
    *("segments.restarts=8", "clusters.k=[3, 4]", 'features.allow_missing=["a"]', "seed=1"),
    *("graphs.threshold=0.25", "data.images=a folder", "speed.executor='serial'", "run_dir=x"),
    *("graphs.keep=true", "denoise.enabled=true", "preset=paper", "data={images='a'}"),
)


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
    from datus.grid import load_grid

    def read(data: bytes) -> None:
        (scratch / "grid.toml").write_bytes(data)
        load_grid(scratch / "grid.toml")

    return Reader(read, (GRID.encode(),), is_text=True)


def classes_reader(scratch: Path) -> Reader:
    from datus.classes import load_classes

    def read(data: bytes) -> None:
        (scratch / "classes.toml").write_bytes(data)
        load_classes(scratch / "classes.toml")

    return Reader(read, (CLASSES.encode(),), is_text=True)


PLACE = ("graphs", "0123456789abcdef", "00ff00ff00ff")


def example_shard(scratch: Path) -> tuple[Any, bytes, bytes]:
    """(store, arrays, report) of a written shard."""
    import numpy as np

    from datus.records import ShardData
    from datus.store import Store

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
    from datus.store import _sha256, sealed

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
    from datus.store import Store

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
    from datus.index import make_index, read_index
    from datus.runner import QUIET
    from datus.store import Store, unsealed

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

    from datus.modelfiles import read_record, read_tensors
    from datus.store import _sha256

    weights = scratch / "segmenter.safetensors"
    weights.write_bytes(save({"head": torch.ones(2, 2)}))
    table = {"format": 1, "datus": "0.1", "weights": {"sha256": _sha256(weights.read_bytes())}}

    def read(data: bytes) -> None:
        (scratch / "segmenter.json").write_bytes(data)
        read_tensors(weights, read_record(weights))

    return Reader(read, (json.dumps(table).encode(),), is_text=True)


def without_seal(data: bytes) -> bytes:
    table = json.loads(data)
    table.pop("seal")
    return json.dumps(table).encode()


def mended_table(data: bytes) -> bytes:
    """The seal of a stored table put right, if it is a table still."""
    from datus.store import sealed

    with contextlib.suppress(ValueError, RecursionError):
        table = json.loads(data)
        if isinstance(table, dict) and "seal" in table:
            del table["seal"]
            return json.dumps(sealed(table)).encode()
    return data


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
}

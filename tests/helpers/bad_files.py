"""Hostile files and places, and the command line to try them on. For the tests of bad input."""

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_runs import COLOURS, SPEED
from typer.testing import CliRunner

from datus.cli.app import app
from datus.compute import threads
from datus.store.leftovers import TEMPORARY
from datus.store.store import Store

FAST = [
    part
    for name, value in (SPEED | {"data.shard_images": 1}).items()
    for part in ("--set", f"{name}={value}")
]
"""Every image is a shard, so that what is made again is counted by image."""

# --- the command line ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """After 'error: ', without the last line end; empty if there was none."""
        return self.stderr.rpartition("error: ")[2].removesuffix("\n") if self.exit_code else ""

    @property
    def made(self) -> dict[str, int]:
        """Shards made, by stage, of the stages that made any; without the index."""
        rows = [re.split(r" {2,}", line) for line in self.stdout.splitlines()]
        counts = {row[0]: int(row[1]) for row in rows if len(row) == 6 and row[1].isdigit()}
        return {name: n for name, n in counts.items() if n and name != "index"}


def datus(*arguments: object, run_dir: Path | None = None) -> Answer:
    """Run a command in this process. It may fail, but with a clear error and whole files."""
    given = [str(one) for one in arguments]
    given += ["--run-dir", str(run_dir)] if run_dir else []
    result = CliRunner().invoke(app, given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr
    if run_dir:
        check_whole(run_dir)
    return Answer(result.exit_code, result.stdout, result.stderr)


def run(images: Path, run_dir: Path, *more: object) -> Answer:
    return datus("run", "--images", images, *FAST, *more, run_dir=run_dir)


def status(images: Path, run_dir: Path, *more: object) -> Answer:
    return datus("status", "--images", images, *FAST, *more, run_dir=run_dir)


def states(answer: Answer) -> dict[str, str]:
    """stage -> done, missing or partly."""
    rows = [re.split(r" {2,}", line) for line in answer.stdout.splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) == 4}


def check_whole(run_dir: Path) -> None:
    """No temporary file, no owner, and all that is called done has the data that it claims."""
    names = [path.name for path in run_dir.rglob("*")]
    assert not [name for name in names if name.startswith(TEMPORARY) or name == "owner.json"]
    store = Store(run_dir)
    for path in run_dir.glob("*/*/shard-*.json"):
        stage, mark, key = path.parts[-3], path.parts[-2], path.stem.removeprefix("shard-")
        assert store.report(stage, mark, key) is not None
        if json.loads(path.read_text())["stored"]:
            assert store.read_shard((stage, mark, key)) is not None
    for report in run_dir.glob("report/*/shard-all.json"):
        content = (report.parent / "files" / "report.json").read_text(encoding="utf-8")
        assert json.loads(content)["n_images"] > 0


def report_of(run_dir: Path) -> dict[str, Any]:
    content = (run_dir / "latest" / "report" / "report.json").read_text(encoding="utf-8")
    return dict(json.loads(content))


def masks_of(run_dir: Path, k: int = 3) -> dict[str, Any]:
    """image id -> labels."""
    folder = run_dir / "latest" / f"masks-k{k}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix().removesuffix(".png"): np.array(Image.open(path))
        for path in files
    }


def left_out(run_dir: Path) -> dict[str, str]:
    """image id -> 'stage: reason'."""
    return {r["image_id"]: f"{r['stage']}: {r['reason']}" for r in report_of(run_dir)["failures"]}


def same(text: str, pattern: str) -> bool:
    """A star at the end of the pattern stands for anything but nothing."""
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1]) and len(text) > len(pattern)
    return text == pattern


# --- images -------------------------------------------------------------------------------------


def scene(height: int = 48, width: int = 64, seed: int = 0) -> Any:
    """uint8 (height, width, 3): three regions and noise."""
    regions = np.zeros((height, width), np.uint8)
    regions[height // 2 :] = 1
    regions[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 2
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return np.clip(COLOURS[regions] + noise, 0, 255).astype(np.uint8)


def encoded(array: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(height: int, width: int) -> bytes:
    """A few bytes that claim any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def turned(array: Any, orientation: int, kind: str = "PNG") -> bytes:
    """A file whose EXIF tag says how to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(array, kind, exif=exif)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


# --- places -------------------------------------------------------------------------------------


def mount(folder: Path, size: str) -> str:
    """A small disk at `folder`; the reason if it cannot be had."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"mount: {error}"
    return done.stderr.strip() if done.returncode else ""


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


def rights_count() -> Any:
    """A context in which file permissions hold, for root too."""
    return _without_capabilities() if os.geteuid() == 0 else nullcontext()


CAPABILITIES_VERSION_3 = 0x20080522
READ_AND_WRITE_ANYTHING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def _new_threads() -> None:
    """Threads that wait for work have the rights of their start."""
    threads.end_waiting()


@contextmanager
def _without_capabilities() -> Iterator[None]:
    """Linux only. Holds for this thread and those that it starts meanwhile."""
    if sys.platform != "linux":
        raise OSError("only Linux lets root lay down its rights")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # (effective, permitted, inheritable) twice
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    before = sets[0]
    sets[0] &= ~READ_AND_WRITE_ANYTHING & 0xFFFFFFFF
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
    _new_threads()
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(header, sets)
        _new_threads()

"""Hostile bytes into every reader: a result or a DatusError, or it is a bug.

    python benchmarks/fuzz.py --seconds 60 [--only image --only labels] [--seed 0]

Each reader starts from valid files. An input is one of them, changed: flipped bits, cuts, splices,
numbers at their limits, nested brackets, checksums put right again so that the damage gets past
them. It runs in a child with a memory limit, so that a crash of the interpreter, a bomb and a hang
are seen as well. Prints inputs per reader and every crash once; exits 1 if there is one.
"""

import argparse
import contextlib
import json
import random
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_readers import READERS, Reader

HANG_SECONDS = 30.0
"""An input that takes longer hangs. They take milliseconds, on a busy machine tenths."""

MEMORY = 1 << 30
"""Bytes that a reader may take beyond what it holds at the start. Pictures take far less."""

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
ROUND_SECONDS = 0.5

# --- changes ------------------------------------------------------------------------------------

LIMITS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
WORDS = (
    *(bytes([one]) for one in b"[]{}\"'=.,\n#\\\0\xff-"),
    *(b"nan", b"inf", b"-1", b"1e999", b"true", b"null", b"9" * 30, b"9" * 5000, b"[]", b"{}"),
    *(b"[[classes]]\n", b"\\ud800", b"1979-05-27", b"0x", b'"""', b"../../x", b"__proto__"),
)


def changed(rng: random.Random, reader: Reader) -> bytes:
    """One to four changes of a seed, and now and then its checksums put right."""
    data = rng.choice(reader.seeds)
    for _ in range(rng.choice((1, 1, 2, 4))):
        change = rng.choice(TEXT if reader.is_text else BINARY)
        data = change(rng, data, reader.seeds)
    return reader.mend(data) if rng.random() < 0.6 else data


def flip(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    fresh = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if fresh:
            fresh[rng.randrange(len(fresh))] ^= 1 << rng.randrange(8)
    return bytes(fresh)


def head(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    """A flip where headers are."""
    return flip(rng, data[:200], seeds) + data[200:]


def cut(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def leave_out(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def repeat(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] * rng.choice((1, 2, 30)) + data[end:]


def splice(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def number(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    """A whole number in place of the bytes that stand there."""
    code = rng.choice("BHIQ")
    one = struct.pack(rng.choice("<>") + code, rng.choice(LIMITS) % 256 ** struct.calcsize(code))
    place = rng.randrange(min(len(data), rng.choice((64, 1 << 30))) + 1)
    return data[:place] + one + data[place + len(one) :]


def word(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(WORDS) + data[place + rng.choice((0, 0, 1, 5)) :]


def value(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    """Another value in place of a number or a text."""
    found = list(re.finditer(rb'\d{1,99}|"[^"]{0,99}"|\[[^\[\]]{0,99}\]', data))
    if not found:
        return data
    place = rng.choice(found)
    return data[: place.start()] + rng.choice(WORDS) + data[place.end() :]


def nest(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    place, deep = rng.randrange(len(data) + 1), rng.choice((50, 2000, 100_000))
    opening = rng.choice((b"[", b"{", b'{"a":', b"a.", b"[[", b"{a="))
    return data[:place] + opening * deep + data[place:]


BINARY = (flip, head, cut, leave_out, repeat, splice, number, number)
TEXT = (flip, cut, leave_out, repeat, splice, word, word, value, value, nest)


# --- the child: inputs, one after the other -----------------------------------------------------


def work(name: str, seed: int) -> None:
    """A line for each round: inputs, errors, the slowest; a line for each crash."""
    import resource

    from datus.errors import DatusError

    rng = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory(prefix="datus-fuzz-", dir=SCRATCH) as folder:
        scratch = Path(folder)
        reader = READERS[name](scratch)
        for valid in reader.seeds:
            with contextlib.suppress(DatusError):
                reader.read(valid)  # loads what is loaded once
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
        while True:
            print(json.dumps(rounds(reader, rng, DatusError)), flush=True)


def rounds(reader: Reader, rng: random.Random, allowed: type[Exception]) -> dict[str, Any]:
    """What became of some inputs."""
    told: dict[str, Any] = {"inputs": 0, "errors": 0, "slowest": 0.0, "crashes": []}
    end = time.monotonic() + ROUND_SECONDS
    while time.monotonic() < end:
        data = changed(rng, reader)
        Path(sys.argv[-1]).write_bytes(data)  # survives a crash of the interpreter
        started = time.monotonic()
        try:
            reader.read(data)
        except allowed:
            told["errors"] += 1
        except Exception as error:
            told["crashes"].append((where(error), data[:100_000].hex()))
        told["inputs"] += 1
        told["slowest"] = max(told["slowest"], time.monotonic() - started)
    return told


def where(error: Exception) -> str:
    """The kind of the error and the line of this project that let it through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/datus/" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    return f"{type(error).__name__} at {place}: {str(error)[:120]}"


# --- the parent ---------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a reader went through."""

    inputs: int = 0
    errors: int = 0
    slowest: float = 0.0
    seconds: float = 0.0


def fuzz(name: str, seconds: float, seed: int, crashes: dict[str, bytes]) -> Tally:
    """One reader for some seconds; a child that dies or hangs is a crash, and another starts."""
    tally, end, start = Tally(), time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory(prefix="datus-fuzz-", dir=SCRATCH) as folder:
        last = Path(folder) / "input"
        while time.monotonic() < end:
            for told in child(name, seed + 1000 * start, last, end):
                if isinstance(told, str):
                    crashes.setdefault(
                        f"{name}: {told}", last.read_bytes() if last.exists() else b""
                    )
                    break
                tally.inputs += told["inputs"]
                tally.errors += told["errors"]
                tally.slowest = max(tally.slowest, told["slowest"])
                for text, data in told["crashes"]:
                    kind = text.split(": ")[0]
                    if not any(f"{name}: {kind}" in known for known in crashes):
                        crashes[f"{name}: {text}"] = bytes.fromhex(data)
            start += 1
    tally.seconds = seconds
    return tally


def child(name: str, seed: int, last: Path, end: float) -> Iterator[dict[str, Any] | str]:
    command = [sys.executable, __file__, "--child", name, "--seed", str(seed), str(last)]
    said = last.with_name("stderr")  # a pipe would fill up with the warnings of libtiff
    with (
        said.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        limit = 4 * HANG_SECONDS  # it loads torch first
        try:
            while time.monotonic() < end or limit > HANG_SECONDS:
                if not select.select([process.stdout], [], [], limit)[0]:
                    yield f"hang: longer than {limit:.0f} s"
                    return
                line = process.stdout.readline()
                if not line:
                    code = process.wait()
                    end_of_it = said.read_text(errors="replace")[-300:]
                    yield f"died: {signal.Signals(-code).name if code < 0 else code} {end_of_it}"
                    return
                limit = HANG_SECONDS
                yield json.loads(line)
        finally:
            process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of all readers together")
    parser.add_argument("--only", action="append", choices=list(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the inputs of crashes to this folder")
    args = parser.parse_args()
    names, crashes = args.only or list(READERS), dict[str, bytes]()
    print("| reader | inputs | refused | slowest | crashes |\n|---|--:|--:|--:|--:|")
    total: Counter[str] = Counter()
    for name in names:
        known = len(crashes)
        tally = fuzz(name, args.seconds / len(names), args.seed, crashes)
        total["inputs"] += tally.inputs
        found = len(crashes) - known
        figures = f"{tally.inputs} | {tally.errors} | {1000 * tally.slowest:.0f} ms | {found}"
        print(f"| {name} | {figures} |", flush=True)
    print(f"\n{total['inputs']} inputs, {len(crashes)} crashes")
    for number_, (text, data) in enumerate(crashes.items()):
        print(f"\n{number_}. {text}\n   {data[:160]!r}")
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"crash-{number_}").write_bytes(data)
    return 1 if crashes else 0


if __name__ == "__main__":
    if "--child" in sys.argv:
        work(sys.argv[sys.argv.index("--child") + 1], int(sys.argv[sys.argv.index("--seed") + 1]))
    sys.exit(main())

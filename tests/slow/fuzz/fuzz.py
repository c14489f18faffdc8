"""Hostile bytes into every reader: a result or a DatusError, or it is a bug.

    python tests/slow/fuzz/fuzz.py --seconds 60 [--only image --only labels] [--seed 0]

Each reader starts from valid files. An input is one of them, changed: flipped bits, cuts, splices,
numbers at their limits, nested brackets, checksums put right again so that the damage gets past
them. It runs in a child with a memory limit, so that a crash of the interpreter, a bomb and a hang
are seen as well. Prints inputs per reader and every crash once; exits 1 if there is one.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import random
import select
import signal
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

from fuzz_changes import changed
from fuzz_given import RUN
from fuzz_readers import READERS
from fuzz_seeds import Reader

HANG_SECONDS = 30.0
"""An input that takes longer hangs. They take milliseconds, on a busy machine tenths."""

MEMORY = 1 << 30
"""Bytes that a reader may take beyond what it holds at the start. Pictures take far less."""

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
ROUND_SECONDS = 0.5

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
    """What became of some inputs. One that takes long says where, shortly before it is ended."""
    told: dict[str, Any] = {"inputs": 0, "errors": 0, "slowest": 0.0, "crashes": []}
    begun = time.monotonic()
    end = begun + ROUND_SECONDS
    while time.monotonic() < end:
        data = changed(rng, reader)
        Path(sys.argv[-1]).write_bytes(data)  # survives a crash of the interpreter
        started = time.monotonic()
        faulthandler.dump_traceback_later(0.8 * HANG_SECONDS, repeat=False)
        try:
            reader.read(data)
        except allowed:
            told["errors"] += 1
        except Exception as error:
            told["crashes"].append((where(error), data[:100_000].hex()))
        told["inputs"] += 1
        told["slowest"] = max(told["slowest"], time.monotonic() - started)
    told["seconds"] = time.monotonic() - begun
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
    tally, start = Tally(), 0
    with tempfile.TemporaryDirectory(prefix="datus-fuzz-", dir=SCRATCH) as folder:
        last = Path(folder) / "input"
        while tally.seconds < seconds:
            for told in child(name, seed + 1000 * start, last, seconds - tally.seconds):
                if isinstance(told, str):
                    data = last.read_bytes() if last.exists() else b""
                    crashes.setdefault(f"{name}: {told}", data)
                    tally.seconds += ROUND_SECONDS  # one that dies at once comes to an end, too
                    break
                tally.seconds += told["seconds"]
                tally.inputs += told["inputs"]
                tally.errors += told["errors"]
                tally.slowest = max(tally.slowest, told["slowest"])
                for text, found in told["crashes"]:
                    kind = text.split(": ")[0]
                    if not any(f"{name}: {kind}" in known for known in crashes):
                        crashes[f"{name}: {text}"] = bytes.fromhex(found)
            start += 1
    return tally


def child(name: str, seed: int, last: Path, seconds: float) -> Iterator[dict[str, Any] | str]:
    """What it tells, for so many seconds of work: those that it takes to start do not count."""
    command = [sys.executable, __file__, "--child", name, "--seed", str(seed), str(last)]
    said = last.with_name("stderr")  # a pipe would fill up with the warnings of libtiff
    with (
        said.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        limit = 4 * HANG_SECONDS  # it loads torch first
        worked = 0.0
        try:
            while worked < seconds:
                if not select.select([process.stdout], [], [], limit)[0]:
                    where_ = said.read_text(errors="replace")[-900:]
                    yield f"hang: longer than {limit:.0f} s {where_}"
                    return
                line = process.stdout.readline()
                if not line:
                    code = process.wait()
                    end_of_it = said.read_text(errors="replace")[-300:]
                    yield f"died: {signal.Signals(-code).name if code < 0 else code} {end_of_it}"
                    return
                limit = HANG_SECONDS
                told = json.loads(line)
                worked += told["seconds"]
                yield told
        finally:
            process.kill()


@contextlib.contextmanager
def finished_run() -> Iterator[None]:
    """A run of ten small images, for the readers of runs."""
    root = Path(__file__).resolve().parents[3]
    make = "import sys; from pathlib import Path; from tiny_runs import go, make_dataset; "
    make += "go(make_dataset(Path(sys.argv[1]) / 'data').config(Path(sys.argv[1]) / 'run'))"
    with tempfile.TemporaryDirectory(prefix="datus-fuzz-run-", dir=SCRATCH) as folder:
        paths = f"{root / 'tests' / 'helpers'}:{root}:{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", make, folder], env=environment, check=True)
        os.environ[RUN] = f"{folder}/run"
        yield


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
    with finished_run():
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

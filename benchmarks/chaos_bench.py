"""A small dataset, an undisturbed run on it, commands with faults in them, and what came of those.

For chaos.py. Commands are forked from this process once it has run the pipeline itself: what they
import, compile and load is there, and a whole run takes a second.
"""

import contextlib
import functools
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_faults import Fault

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))  # the small dataset, and how run folders are compared

STAGES = (
    *("index", "features", "keysums", "center", "graphs", "segments", "embeddings", "clusters"),
    *("masks", "denoise-fit", "denoise", "evaluate", "report"),
)
MORE = ("graphs.center=position", "denoise.enabled=true", "denoise.epochs=2")
LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Ended:
    """A command that ended, or was ended."""

    code: int
    stderr: str

    @property
    def is_clear(self) -> bool:
        """Done, or one error of at most a few lines."""
        error = self.stderr.rpartition("error: ")[2]
        said = "Traceback" not in self.stderr and 0 < len(error.splitlines()) <= 4
        return self.code == 0 or (self.code in (1, 2) and "error: " in self.stderr and said)


@dataclass
class Bench:
    """A dataset, an undisturbed run on it, and what came of all others."""

    folder: Path
    rng: random.Random
    stages: tuple[str, ...]
    dataset: Any = None
    expected: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def prepare(self) -> None:
        from tiny_runs import make_dataset

        self.dataset = make_dataset(self.folder / "data")
        self.warm_up()
        self.run(self.base)
        started = time.monotonic()
        done = self.run(self.folder / "second")
        self.seconds = time.monotonic() - started
        self.expected = tree_of(self.base)
        if done.code or tree_of(self.folder / "second") != self.expected:
            raise SystemExit(f"two undisturbed runs differ:\n{done.stderr[-2000:]}")

    def warm_up(self) -> None:
        """A run in this process, so that what the forked ones import and compile is there."""
        from tqdm import tqdm

        from datus import backbones
        from datus.cli import app

        tqdm.monitor_interval = 0  # a thread, and threads do not outlive a fork

        backbones.load_backbone = functools.lru_cache(backbones.load_backbone)
        with (
            (self.folder / "log").open("w") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
            contextlib.suppress(SystemExit),
        ):
            app(["run", *self.arguments(self.folder / "warm")])
        if threading.active_count() > 1:
            raise SystemExit(f"threads are left: {threading.enumerate()}")

    # --- commands -------------------------------------------------------------------------------

    def arguments(self, run_dir: Path | str, *more: str) -> list[str]:
        given = [*self.dataset.arguments(run_dir), *more]
        return given + [part for text in MORE for part in ("--set", text)]

    def start(self, command: list[str], log: Path, fault: Fault | None = None) -> int:
        """Process id of a command line in a forked process."""
        self.counts["commands"] += 1
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            os.setsid()
            number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(number, 1)
            os.dup2(number, 2)
            sys.argv = ["datus", *command]
            if fault:
                fault()
            from datus.__main__ import main

            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, child: int, log: Path, seconds: float = LIMIT_SECONDS) -> Ended:
        """Until it ends; after `seconds` it is killed, code -9."""
        end = time.monotonic() + seconds
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return Ended(code, log.read_text(errors="replace") if log.exists() else "")
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                end = float("inf")
            time.sleep(0.002)

    def run(
        self,
        run_dir: Path | str,
        *more: str,
        fault: Fault | None = None,
        seconds: float = LIMIT_SECONDS,
        command: str = "run",
    ) -> Ended:
        log = self.folder / "log"
        child = self.start([command, *self.arguments(run_dir, *more)], log, fault)
        return self.wait(child, log, seconds)

    # --- outcomes -------------------------------------------------------------------------------

    def fresh(self, without: str = "") -> Path:
        """A copy of the finished run; `without` a stage and all after it."""
        run_dir = self.folder / "run"
        shutil.rmtree(run_dir, ignore_errors=True)
        if without == "index":
            return run_dir
        shutil.copytree(self.base, run_dir, symlinks=True)
        for stage in STAGES[STAGES.index(without) :] if without else ():
            shutil.rmtree(run_dir / stage, ignore_errors=True)
        return run_dir

    def heals(self, run_dir: Path, address: str = "", fault: Fault | None = None) -> str:
        """The same command until it is done; how many errors on the way, and the same bytes?"""
        where, errors = address or run_dir, 0
        done = self.run(where, fault=fault)
        while done.code and done.is_clear and errors < 2:
            errors += 1
            done = self.run(where, fault=fault)
        if done.code:
            return self.problem(f"exit code {done.code}: {done.stderr[-1500:]}")
        if tree_of(run_dir) == self.expected:
            return "e=" if errors else "="
        mended = self.run(where, "--mend", command="verify", fault=fault)
        if mended.code == 0 and self.run(where, fault=fault).code == 0:
            found = tree_of(run_dir)
            if found == self.expected:
                return "v="
        found = tree_of(run_dir)
        names = {n for n in self.expected.keys() | found if found.get(n) != self.expected.get(n)}
        return self.problem(f"other bytes: {', '.join(sorted(names)[:5])}")

    def problem(self, text: str) -> str:
        self.problems.append(text)
        return "X"

    def note(self, fault: str, stage: str, outcome: str) -> None:
        """The worst outcome of a cell stands."""
        order = ("", "=", "e=", "v=", "X")
        before = self.cells.get((fault, stage), "")
        self.cells[fault, stage] = max(before, outcome, key=order.index)
        self.counts["cases"] += 1
        self.counts[outcome] += 1
        if outcome == "X":
            self.problems[-1] = f"{fault}, {stage}: {self.problems[-1]}"
            print(f"PROBLEM {self.problems[-1]}", file=sys.stderr, flush=True)


def tree_of(run_dir: Path) -> dict[str, str]:
    """Files by content, without times. `seen.json` holds the times of images: the same here."""
    from run_tree import tree

    return dict(tree(run_dir))

"""A small dataset, an undisturbed run on it, commands with faults in them, and what came of those.

For chaos.py. Commands are forked from this process once it has run the pipeline itself: what they
import, compile and load is there, and a whole run takes a second.
"""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chaos_faults import Fault

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(
    str(ROOT / "tests" / "helpers")
)  # the small dataset, and how run folders are compared

STAGES = (
    *("index", "features", "keysums", "center", "graphs", "segments", "embeddings", "samples"),
    *("clusters", "edits", "masks", "denoise-fit", "denoise", "evaluate", "tallies"),
    *("views", "report"),
)
MORE = ("graphs.center=position", "denoise.enabled=true", "denoise.epochs=2")
EDITS = (
    {"op": "merge", "clusters": [0, 1]},
    {"op": "split", "cluster": 2, "parts": 2},
    {"op": "rename", "cluster": 3, "name": "sky"},
)
"""On the clusters of the first run."""

ANY = "any"
"""The column of faults that are not of one stage."""

SEEN = "index/seen.json"
"""Holds the times of images: others where one was removed and put back."""
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
    options: tuple[str, ...] = ()
    """Of every command line, beside those of the dataset."""
    ignored: tuple[str, ...] = ()
    """Files of the run folder that are not compared."""
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
        self.options = settings(*MORE)
        self.warm_up()
        self.options += ("--edits", str(write_edits(self.folder / "warm", self.folder)))
        self.go()

    def beside(self, name: str, options: tuple[str, ...], ids: tuple[str, ...] = ()) -> "Bench":
        """Another dataset of the same kind and another undisturbed run; one matrix for both."""
        from tiny_runs import IDS, make_dataset

        folder = self.folder / name
        dataset = make_dataset(folder / "data", ids or IDS)
        return replace(
            self, folder=folder, options=options, dataset=dataset, expected={}, ignored=(SEEN,)
        )

    def go(self) -> "Bench":
        """The undisturbed run, twice; the bench itself."""
        done = self.run(self.base)
        if done.code:
            raise SystemExit(f"the undisturbed run fails:\n{done.stderr[-2000:]}")
        started = time.monotonic()
        self.run(self.folder / "second")
        self.seconds = time.monotonic() - started
        self.expected = tree_of(self.base)
        if tree_of(self.folder / "second") != self.expected:
            raise SystemExit(f"two undisturbed runs differ: {self.base}")
        return self

    def warm_up(self) -> None:
        """A run in this process, so that what the forked ones import and compile is there."""
        from tqdm import tqdm

        from datus.cli.app import app
        from datus.compute.threads import end_waiting
        from datus.models import vit

        tqdm.monitor_interval = 0  # a thread, and threads do not outlive a fork

        vit.load_backbone = functools.lru_cache(vit.load_backbone)
        with (
            (self.folder / "log").open("w") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
            contextlib.suppress(SystemExit),
        ):
            app(["run", *self.arguments(self.folder / "warm")])
        end_waiting()
        if threading.active_count() > 1:
            raise SystemExit(f"threads are left: {threading.enumerate()}")

    # --- commands -------------------------------------------------------------------------------

    def arguments(self, run_dir: Path | str, *more: str) -> list[str]:
        return [*self.dataset.arguments(run_dir), *self.options, *more]

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
            _own_lock_for_bars()
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

    def anew(
        self,
        command: list[str],
        seconds: float = LIMIT_SECONDS,
        path: str = "",
        send: int = signal.SIGKILL,
    ) -> Ended:
        """A command in a process that is started anew, `path` first on its path; after `seconds`
        it gets the signal `send`, as all processes that a terminal would send it to do."""
        self.counts["commands"] += 1
        paths = [path, str(ROOT), *os.environ.get("PYTHONPATH", "").split(":")]
        environment = os.environ | {"PYTHONPATH": ":".join(filter(None, paths))}
        log = self.folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "datus", *command],
                env=environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        for number, limit in ((send, seconds), (signal.SIGKILL, LIMIT_SECONDS)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(limit)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        return Ended(process.wait(), log.read_text(errors="replace"))

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

    def heals(
        self,
        run_dir: Path,
        address: str = "",
        fault: Fault | None = None,
        expected: dict[str, str] | None = None,
    ) -> str:
        """The same command until it is done; how many errors on the way, and the same bytes?

        expected: those of another run, which must be there, whatever else is; else nothing else.
        """
        where, errors = address or run_dir, 0
        done = self.run(where, fault=fault)
        while done.code and done.is_clear and errors < 2:
            errors += 1
            done = self.run(where, fault=fault)
        if done.code:
            return self.problem(f"exit code {done.code}: {done.stderr[-1500:]}")
        if not self.differing(run_dir, expected):
            return "e=" if errors else "="
        mended = self.run(where, "--mend", command="verify", fault=fault)
        done = self.run(where, fault=fault)
        if mended.code == done.code == 0 and not self.differing(run_dir, expected):
            return "v="
        return self.problem(f"other bytes: {', '.join(self.differing(run_dir, expected)[:5])}")

    def differing(self, run_dir: Path, expected: dict[str, str] | None = None) -> list[str]:
        """Names of files that are not as they must be."""
        found = tree_of(run_dir)
        wanted = self.expected if expected is None else expected
        names = wanted.keys() | (found if expected is None else ())
        differing = {name for name in names if found.get(name) != wanted.get(name)}
        return sorted(differing - {*self.ignored})

    def after_error(self, stopped: Ended, healed: Callable[[], str]) -> str:
        """e= if a command ended with one clear error, and what comes then heals."""
        if stopped.code == 0 or not stopped.is_clear:
            return self.problem(f"no clear error: {stopped.code} {stopped.stderr[-800:]}")
        outcome = healed()
        return "e=" if outcome == "=" else outcome

    def after_end(self, ended: Ended, healed: Callable[[], str]) -> str:
        """As above, where the command may be done as well."""
        return healed() if ended.code == 0 else self.after_error(ended, healed)

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


def settings(*texts: str) -> tuple[str, ...]:
    """Options of the command line."""
    return tuple(part for text in texts for part in ("--set", text))


def _own_lock_for_bars() -> None:
    """A fork shares the lock that tqdm holds while it writes: who is killed then would keep it for
    ever, and every later command would wait for it. A command that is started anew has its own."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def write_edits(run_dir: Path, folder: Path) -> Path:
    """An edits.json made on the clusters of a finished run."""
    from datus.review.replay import read_base
    from datus.store.store import Store

    store = Store(run_dir)
    data = store.read_shard(("clusters", store.recipes("clusters")[0][0], "all"))
    assert data
    table = {"format": "datus-edits", "version": 1, "clusters": read_base(data.arrays[""])}
    path = folder / "edits.json"
    path.write_text(json.dumps({**table, "edits": EDITS}))
    return path


def tree_of(run_dir: Path) -> dict[str, str]:
    """Files by content, without times. `seen.json` holds the times of images: the same here."""
    from run_tree import tree

    return dict(tree(run_dir))

"""For chaos.py: shares of the shards (`--shards 1/2`), and ends by SIGTERM and SIGINT (Ctrl-C)."""

import contextlib
import os
import re
import signal
import time
from functools import partial
from pathlib import Path

from chaos_bench import ANY, Bench, Ended
from chaos_faults import at_write, full_disk, slow_writes

SHARES = ("1/2", "2/2", "none")
WHOLE = ("center", "clusters", "edits", "denoise-fit", "views", "report")
"""Stages over the whole dataset: no share makes them."""


# --- shares -------------------------------------------------------------------------------------


def shares(bench: Bench) -> None:
    for stage in bench.stages:
        _share_killed(bench, stage)
        _share_without_disk(bench, stage)
    _two_shares(bench)
    _share_and_whole(bench)


def _share_killed(bench: Bench, stage: str) -> None:
    """At a write of its stage, three times; the others go on."""
    run_dir = bench.fresh(without=stage)
    share = "none" if stage in WHOLE else "1/2"
    for number, moment in enumerate(("before", "torn", "after"), 1):
        fault = at_write(stage, min(number, 2), moment)
        killed = bench.run(run_dir, "--shards", share, fault=fault)
        bench.counts["kills"] += killed.code == -signal.SIGKILL
    bench.note("share: kill -9 at a write", stage, _finished(bench, run_dir))


def _share_without_disk(bench: Bench, stage: str) -> None:
    run_dir = bench.fresh(without=stage)
    share = "none" if stage in WHOLE else "1/2"
    stopped = bench.run(run_dir, "--shards", share, fault=full_disk(stage, 0))
    bench.note(
        "share: disk full", stage, bench.after_error(stopped, lambda: _finished(bench, run_dir))
    )


def _two_shares(bench: Bench, n_rounds: int = 3) -> None:
    """Side by side, one of them killed at random each time."""
    run_dir = bench.fresh(without="index")
    logs = [bench.folder / f"log{number}" for number in range(2)]
    for _ in range(n_rounds):
        children = [
            bench.start(["run", *bench.arguments(run_dir, "--shards", share)], log, slow_writes)
            for share, log in zip(SHARES, logs, strict=False)
        ]
        chosen = bench.rng.randrange(2)
        seconds = [bench.rng.uniform(0.1, 1.5) if one == chosen else 300.0 for one in range(2)]
        ended = [bench.wait(*one) for one in zip(children, logs, seconds, strict=True)]
        bench.counts["kills"] += ended[chosen].code == -signal.SIGKILL
        other = ended[1 - chosen]
        if not other.is_clear:
            text = f"{other.code} {other.stderr[-800:]}"
            bench.note("two shares, one killed", ANY, bench.problem(text))
            return
        bench.run(run_dir, "--shards", "none")
    bench.note("two shares, one killed", ANY, _finished(bench, run_dir))


def _share_and_whole(bench: Bench) -> None:
    """One holds the folder, the other says so."""
    for row, first, second in (
        ("a share while a whole run works", (), ("--shards", "1/2")),
        ("a whole run while a share works", ("--shards", "1/2"), ()),
    ):
        run_dir, log = bench.fresh(without="index"), bench.folder / "log0"
        child = bench.start(["run", *bench.arguments(run_dir, *first)], log, slow_writes)
        end = time.monotonic() + 60
        while not list(run_dir.glob("features/*/shard-*")) and time.monotonic() < end:
            time.sleep(0.01)
        refused = bench.run(run_dir, *second)
        worked = bench.wait(child, log)
        if refused.code != 1 or " is in use by " not in refused.stderr or worked.code:
            text = f"{refused.code} {refused.stderr[-600:]} / {worked.code} {worked.stderr[-600:]}"
            bench.note(row, ANY, bench.problem(text))
        else:
            bench.note(row, ANY, "=" if bench.heals(run_dir) == "=" else "X")


def _finished(bench: Bench, run_dir: Path) -> str:
    """Rounds of shares, until a whole run finds nothing left to do."""
    for _ in range(5):
        for share in SHARES:
            ended = bench.run(run_dir, "--shards", share)
            if not ended.is_clear:
                return bench.problem(f"share {share}: {ended.code} {ended.stderr[-800:]}")
    return bench.heals(run_dir)


# --- signals ------------------------------------------------------------------------------------

SAID = "interrupted: the same command goes on where it stopped"


def signals(bench: Bench, n_runs: int = 3, n_each: int = 5) -> None:
    """At random moments of runs in this process's children; then of processes started anew."""
    for number in (signal.SIGINT, signal.SIGTERM):
        row = f"{number.name} at random"
        for _ in range(n_runs):
            run_dir, unclear, n_ended = bench.fresh(without="index"), "", 0
            for _ in range(n_each):
                ended = _signalled(bench, run_dir, number)
                n_ended += ended.code != 0
                unclear = unclear or _unclear(ended, number)
            bench.counts["signals"] += n_ended
            unclear = unclear or ("" if n_ended else "no run was ended by it")
            outcome = bench.problem(unclear) if unclear else bench.heals(run_dir)
            bench.note(row, ANY, outcome)
        for way in ((), ("--executor", "processes", "--workers", "2"), ("--workers", "2")):
            said = f"{row}: {' '.join(way) or 'from the first moment'}"
            _terminal(bench, said, number, way)


def _signalled(bench: Bench, run_dir: Path, number: int) -> Ended:
    log = bench.folder / "log"
    log.unlink(missing_ok=True)
    child = bench.start(["run", *bench.arguments(run_dir)], log)
    while not log.exists():  # until then it is a copy of this process
        time.sleep(0.001)
    time.sleep(bench.rng.uniform(0.02, 0.6 * bench.seconds))
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
    return bench.wait(child, log)


def _terminal(bench: Bench, row: str, number: signal.Signals, way: tuple[str, ...]) -> None:
    """To all processes of the command, as a terminal sends it, while it starts and later."""
    run_dir, unclear = bench.fresh(without="index"), ""
    moments = (4.0, 8.0, 12.0) if way else (0.05, 0.15, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0)
    for seconds in moments:
        wait = seconds * bench.rng.uniform(0.8, 1.2)
        ended = bench.anew(["run", *bench.arguments(run_dir, *way)], wait, send=number)
        bench.counts["signals"] += ended.code != 0
        unclear = unclear or _unclear(ended, number, wait)
    check = partial(bench.heals, run_dir)
    bench.note(row, ANY, bench.problem(unclear) if unclear else check())


def _unclear(ended: Ended, number: signal.Signals, seconds: float = 0.0) -> str:
    """What is wrong with how it ended; empty if nothing is."""
    # Python itself ends by SIGINT where it met Ctrl-C in code that is made as text
    codes = {signal.SIGINT: (0, 130, -signal.SIGINT), signal.SIGTERM: (0, 143, -signal.SIGTERM)}[
        number
    ]
    said = ended.code in (0, -signal.SIGTERM) or SAID in ended.stderr
    noise = any(word in ended.stderr for word in ("Traceback", "Exception ignored", "Fatal"))
    ours = re.search(r"/datus/(?!__init__)", ended.stderr) or SAID in ended.stderr
    if noise and ended.code in (1, -signal.SIGINT) and not ours:
        return ""  # Python itself was still starting
    if ended.code in codes and said and not noise:
        return ""
    return f"{number.name} after {seconds:.2f} s: {ended.code}: {ended.stderr[-900:]}"

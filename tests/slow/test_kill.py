"""kill -9 in every stage, ten times at random: the same command ends with the same bytes.

Real processes, real signals, real photographs where they are at hand (else rendered scenes). One
undisturbed run says what must come out. A disturbed run is started again and again, each time
killed at a random moment of the stage in question, and at last left alone.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from run_tree import tree

ROOT = Path(__file__).resolve().parents[2]
CAMVID = ROOT.parent / "shared" / "datasets" / "camvid11_val"
STAGES = (
    "index",
    "features",
    "keysums",
    "center",
    "graphs",
    "segments",
    "embeddings",
    "samples",
    "clusters",
    "masks",
    "evaluate",
    "tallies",
    "views",
    "report",
)
KILLS = 10

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images with truth: images/, masks/, classes.toml."""
    target = tmp_path_factory.mktemp("photographs")
    if not CAMVID.is_dir():
        command = [sys.executable, "data/make_scenes.py", str(target / "all"), "--n", "24"]
        subprocess.run(command, cwd=ROOT, check=True)
        return target / "all"
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        (target / kind).mkdir()
        for path in sorted((CAMVID / kind).glob(f"*{suffix}"))[::4][:24]:
            shutil.copy(path, target / kind)
    shutil.copy(ROOT / "data" / "classes" / "camvid11.toml", target / "classes.toml")
    return target


def command(folder: Path, run_dir: Path, executor: str) -> list[str]:
    return [
        *(sys.executable, "-m", "datus", "run"),
        *("--images", str(folder / "images"), "--truth", str(folder / "masks")),
        *("--classes", str(folder / "classes.toml"), "--clusters", "7"),
        *("--run-dir", str(run_dir), "--executor", executor, "--workers", "2"),
        *("--set", "data.shard_images=6", "--set", "features.image_px=160"),
    ]


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    subprocess.run(command(folder, run_dir, "serial"), check=True, capture_output=True)
    return tree(run_dir)


def wait_for_stage(process: subprocess.Popen[bytes], stage: str) -> bool:
    """Until the stage has begun, by its progress bar."""
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    seen = b""
    while process.poll() is None:
        seen += process.stderr.read() or b""
        if f"{stage} ".encode() in seen or f"{stage}:".encode() in seen:
            return True
        time.sleep(0.002)
    return False


# the stages with workers of their own run alike: three of them stand for all
CASES = [(stage, "serial") for stage in STAGES]
CASES += [(stage, "processes") for stage in ("features", "segments", "masks")]
CASES += [(stage, "auto") for stage in ("segments", "masks")]


@pytest.mark.parametrize(("stage", "executor"), CASES)
def test_kills_in_a_stage_leave_the_same_bytes(
    stage: str, executor: str, folder: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    rng = np.random.default_rng([STAGES.index(stage), len(executor)])
    kills = 0
    for _ in range(KILLS):
        if kills and stage != "index":  # put the stage back to its start, keep what is before it
            shutil.rmtree(run_dir / stage, ignore_errors=True)
        with subprocess.Popen(
            command(folder, run_dir, executor), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            if wait_for_stage(process, stage):
                time.sleep(float(rng.uniform(0, 0.4)))
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
    subprocess.run(command(folder, run_dir, executor), check=True, capture_output=True)
    assert kills >= KILLS - 1  # a stage of a few milliseconds may end before the signal arrives
    assert tree(run_dir) == expected

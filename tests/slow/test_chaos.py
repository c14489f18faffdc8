"""The fault matrix and the fuzzer in short: they end with exit code 0, or print what broke."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "command", [["chaos.py", "--quick"], ["fuzz.py", "--seconds", "60"]], ids=["chaos", "fuzz"]
)
def test_nothing_is_lost_and_nothing_crashes(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

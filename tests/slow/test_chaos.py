"""The fault matrix and the fuzzer in short: they end with exit code 0, or print what broke."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "command",
    [["chaos/chaos.py", "--quick"], ["fuzz/fuzz.py", "--seconds", "60"]],
    ids=["chaos", "fuzz"],
)
def test_nothing_is_lost_and_nothing_crashes(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""The notebook runs from beginning to end in a kernel, and what is kept of it is small."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "docs" / "tour.ipynb"


def outputs(notebook: Any) -> list[Any]:
    return [one for cell in notebook.cells for one in cell.get("outputs", [])]


def texts(notebook: Any) -> str:
    """All outputs but the pictures."""
    found = [one.get("text", "") for one in outputs(notebook)]
    found += [str(one.get("data", {}).get("text/plain", "")) for one in outputs(notebook)]
    found += [str(one.get("data", {}).get("text/html", "")) for one in outputs(notebook)]
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "", "\n".join(found))


def test_it_runs(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    path = tmp_path / "tour.ipynb"
    command = [sys.executable, ROOT / "docs" / "run_tour.py", "--out", path]
    known = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=known)
    assert done.returncode == 0, done.stderr[-3000:]
    ran, kept = (nbformat.read(one, as_version=4) for one in (path, TOUR))
    assert [cell.source for cell in ran.cells] == [cell.source for cell in kept.cells]
    assert [one.output_type for one in outputs(ran)] == [one.output_type for one in outputs(kept)]
    assert not [one for one in outputs(ran) if one.get("name") == "stderr"]


def test_what_is_kept_is_small_and_names_no_machine() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert TOUR.stat().st_size < 450_000
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert len(outputs(notebook)) > 10
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|opt|usr|var)/", texts(notebook))
    assert "error" not in {one.output_type for one in outputs(notebook)}

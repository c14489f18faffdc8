"""The notebook runs from beginning to end in a kernel, and what is kept of it is small."""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "docs" / "tour.ipynb"


def outputs(notebook: Any) -> list[Any]:
    return [one for cell in notebook.cells for one in cell.get("outputs", [])]


def texts(notebook: Any) -> str:
    """All outputs but the pictures."""
    found = [one.get("text", "") for one in outputs(notebook)]
    found += [str(one.get("data", {}).get("text/plain", "")) for one in outputs(notebook)]
    found += [str(one.get("data", {}).get("text/html", "")) for one in outputs(notebook)]
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "", "\n".join(found))


def test_its_cells_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with five images a set: no kernel has to start."""
    monkeypatch.chdir(TOUR.parent)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    for number, cell in enumerate(code(TOUR)):
        tree = ast.parse(cell.source.replace('"--n", "16"', '"--n", "5"'))
        last = tree.body[-1]
        if isinstance(last, ast.Expr):  # a notebook shows it
            shown = ast.Assign([ast.Name("_", ast.Store())], last.value)
            tree.body[-1] = ast.copy_location(shown, last)
        exec(compile(ast.fix_missing_locations(tree), f"cell {number}", "exec"), names)
        shows = [one for one in cell.outputs if one.output_type == "execute_result"]
        assert not shows or names["_"] is not None
    assert names["new"][0].mask.max() < 8


@pytest.mark.slow
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


def code(path: Path) -> list[Any]:
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_what_is_kept_is_small_and_names_no_machine() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert TOUR.stat().st_size < 450_000
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert len(outputs(notebook)) > 10
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|opt|usr|var)/", texts(notebook))
    assert "error" not in {one.output_type for one in outputs(notebook)}

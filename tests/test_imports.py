"""Imports go one way, and a command that only looks loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import datus

ROOT = Path(datus.__file__).parent

WINGS = (
    ("errors", "version"),
    ("types",),
    ("compute", "models.registry"),
    ("config",),
    ("models",),
    ("method",),
    ("store",),
    ("inputs",),
    ("engine",),
    ("segmenter", "formats", "report"),
    ("review",),
    ("stages",),
    ("pipeline",),
    ("compare", "finished_run", "status", "verify", "dry_run"),
    ("suggest",),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""From the ground up: a module imports wings of rows above its own, and of its own wing any."""

RANK = {name: rank for rank, row in enumerate(WINGS) for name in row}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def wing_of(module: str) -> str:
    """The entry of the table that a module belongs to."""
    return module if module in RANK else module.partition(".")[0]


def imported(path: Path) -> set[str]:
    """Modules below `datus` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "datus":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("datus."):
            module = str(node.module).removeprefix("datus.")
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name if name in RANK else module for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name[6:] for a in node.names if a.name.startswith("datus.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    own = wing_of(name_of(path))
    for module in imported(path):
        wing = wing_of(module)
        assert wing == own or RANK[wing] < RANK[own], f"{own} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_relative_imports(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--version"], ["--help"], ["status", "--help"], ["status", "--images", "nowhere"]),
        *(["backbones"], ["backbones", "vit_small_patch8_224.dino"]),
    ],
    ids=" ".join,
)
def test_looking_loads_no_torch(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "datus", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "datus.cli.app" in loaded
    assert not {name for name in loaded if name.split(".")[0] in {"torch", "timm", "faiss"}}

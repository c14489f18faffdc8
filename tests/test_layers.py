"""Imports go one way, and a command that only looks loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import datus

ROOT = Path(datus.__file__).parent

LAYERS = (
    {"errors"},
    {"records"},
    {"threads", "wholefile", "zoo"},
    {"aliases"},
    {"memory", "denoise_config", "clusters_config", "report_config", "shares"},
    {"config"},
    {"classes", "grid"},
    # the method: these do not import one another, but for the helpers of the first rows
    {"compiled", "png"},
    {"halves", "onednn"},
    {"converters"},
    {"pixels", "checkpoints", "louvain_kernel", "sources", "inference", "partitions"},
    {"appearance"},
    {"embedders", "selfsupervised", "textimage"},
    {"views", "trust"},
    {"images", "backbones", "affinity", "louvain", "segments"}
    | {"centering", "embeddings", "clusters", "masks", "metrics", "refine", "boundaries", "drift"}
    | {"confidence", "constraints", "edits", "verdicts", "naming", "consistency"},
    {"colours"},
    {"heads", "logits", "modelfiles", "labels", "imagesize", "download"},
    {"segmenter", "trainset"},
    {"predict", "denoise"},
    {"exports"},  # items in, folders out
    {"corrections"},  # and back
    {"report"},  # pure: inputs in, bytes out
    {"display"},
    {"remote", "disk", "shardfile", "leftovers", "predict_list"},
    {"store"},
    {"ahead"},
    {"latest", "ready"},
    {"executors", "isolation"},
    {"index"},
    {"shardwork"},
    {"resources"},
    {"modelarrays", "corrected", "vectors"},
    {"work"},
    {"frozen"},
    {"corrected_clusters"},
    {"review"},
    {"scoring", "stage_warnings", "tallies"},
    {"gather"},
    {"consistency_work"},
    {"reporting"},
    {"browsing"},
    {"denoising"},
    {"stages"},
    {"plan"},
    {"budget", "turns"},
    {"shardjobs"},
    {"dataset"},
    {"runner", "sampling"},
    {"forecast"},
    {"preflight"},
    {"status", "verify", "evaluation", "outcomes", "pretrain", "export_run"}
    | {"predict_folder", "onnx_export", "fit", "suggest"},
    {"compare"},
    {"options", "terminal"},
    {"intake", "finished"},
    {"masked", "name_run"},
    {"results"},
    {"commands", "commands_predict", "commands_fit", "commands_export", "commands_k"}
    | {"commands_names"},
    {"cli", "api"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def top(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Names below `datus` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "datus":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("datus."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("datus.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    mine = top(path)
    for name in imported(path) - {mine}:
        assert RANK[name] < RANK[mine], f"{mine} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
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
    assert "datus.cli" in loaded
    assert not {name for name in loaded if name.split(".")[0] in {"torch", "timm", "faiss"}}

"""ONNX files give what torch gives, at any size, under onnxruntime."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_models import SMALL, write_own

from datus.errors import MissingPackage, UsageError, WorkError
from datus.inputs.decode import normalise
from datus.segmenter import onnx
from datus.segmenter.files import cluster_classes
from datus.segmenter.model import Segmenter, SegmenterSpec, build_segmenter, save_segmenter
from datus.segmenter.onnx import TOLERANCE, export_model

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

# what torch and onnxscript warn about inside the exporter is not ours
pytestmark = pytest.mark.filterwarnings("ignore")

SPECS: dict[str, dict[str, Any]] = {
    "ours, no class token, rotary": {"backbone": "OWN", "head": "layers"},
    "timm's ViT, class token, learned positions": {"backbone": "vit_tiny_patch16_224"},
    "linear": {"backbone": "OWN", "head": "linear"},
    "deeplabv3": {"kind": "deeplabv3"},
}


def saved(name: str, folder: Path) -> Segmenter:
    given = {"weights": "random", "n_classes": 3, "image_px": 64, **SPECS[name]}
    if given.get("backbone") == "OWN":
        write_own(folder / "own.safetensors", SMALL)
        given |= {"backbone": str(folder / "own.safetensors"), "weights": "auto"}
    segmenter = build_segmenter(SegmenterSpec(**given), 0)
    save_segmenter(segmenter, folder / "model", cluster_classes(3), {})
    return segmenter


@pytest.mark.parametrize(
    "name", [n if "ours" in n else pytest.param(n, marks=pytest.mark.slow) for n in SPECS]
)
def test_onnxruntime_gives_what_torch_gives_at_any_size(name: str, tmp_path: Path) -> None:
    segmenter = saved(name, tmp_path)
    out = tmp_path / "model.onnx"
    found = export_model(tmp_path / "model", out)
    print(f"{name}: {found.difference:.1e} of {found.scale:.2f}")
    assert found.difference < 1e-5
    assert found.n_bytes == out.stat().st_size
    session = onnxruntime.InferenceSession(out)
    record = json.loads(session.get_modelmeta().custom_metadata_map["datus"])
    assert record["classes"]["names"][2] == "cluster 2"
    rng, side = np.random.default_rng(5), segmenter.stride
    for rows, columns in ((4, 4), (3, 11), (13, 2)):
        images = rng.integers(0, 256, (2, rows * side, columns * side, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
        (logits,) = session.run(None, {"image": pixels})
        normal = np.stack([normalise(one) for one in images])
        with torch.no_grad():
            expected = segmenter(torch.from_numpy(normal)).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
def test_a_size_can_be_fixed(tmp_path: Path) -> None:
    saved("linear", tmp_path)
    found = export_model(tmp_path / "model", tmp_path / "model.onnx", (32, 48))
    assert found.shapes == {"image": [1, 3, 32, 48], "logits": [1, 3, 4, 6]}
    with pytest.raises(UsageError, match=r"--size 33x48: .*multiples of 8"):
        export_model(tmp_path / "model", tmp_path / "model.onnx", (33, 48))


@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("linear", tmp_path)
    monkeypatch.setattr(onnx, "_compare", lambda *given: (10 * TOLERANCE, 0.5))
    with pytest.raises(WorkError, match=r"not written: onnxruntime differs from torch by 1\.0e-03"):
        export_model(tmp_path / "model", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackage, match=r"needs onnxscript.*pip install 'datus\[onnx\]'"):
        export_model(tmp_path / "model", tmp_path / "model.onnx")

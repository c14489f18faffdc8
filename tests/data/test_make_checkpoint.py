"""data/make_checkpoint.py: files that load without a setting, and are read from the teacher."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))

import make_checkpoint

from datus.models import vit
from datus.models.checkpoints import load_checkpoint
from datus.models.registry import ROWS, SIZES, find

NAMES = [
    "vit_small_patch16_224.dino",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_giant_patch14_dinov2.lvd142m",
]


@pytest.fixture(autouse=True)
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes with 24 channels and six blocks."""
    for size in SIZES:
        monkeypatch.setitem(SIZES, size, (24, 6, 3))


@pytest.mark.parametrize("name", NAMES)
def test_the_file_loads_and_is_the_teachers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "file.pth"
    monkeypatch.setattr(sys, "argv", ["make_checkpoint.py", name, str(out), "--seed", "3"])
    make_checkpoint.main()
    assert "layout dino" in capsys.readouterr().out
    row = find(name)
    assert row is not None
    thin_row = replace(row, options={"embed_dim": 24, "depth": 6, "num_heads": 3})
    model = vit._table_model(thin_row)
    load_checkpoint(model, out, name)
    teacher = torch.load(out, weights_only=False)["teacher"]
    chunked = "backbone.blocks.2.5.norm1.bias"
    wanted = teacher[chunked if "dinov2" in name else "backbone.blocks.5.norm1.bias"]
    assert torch.equal(model.blocks[5].norm1.bias, wanted)


@pytest.mark.parametrize("name", ["resnet50.dino", "vit_base_patch16_224.mae", "nothing"])
def test_other_models_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_checkpoint.py", name, "out.pth"])
    with pytest.raises(SystemExit):
        make_checkpoint.main()
    assert f"{name}: expected a ViT of DINO or DINOv2" in capsys.readouterr().err


def test_every_vit_of_both_schemes_can_be_made() -> None:
    rows = [r for r in ROWS if r.family.layout in ("dino", "dinov2") and not r.is_cnn]
    assert len(rows) == 12
    for row in rows:
        assert "teacher" in make_checkpoint.checkpoint(row, 0)

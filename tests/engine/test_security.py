"""What hostile files and names cannot do (docs/security.md). Bombs of pictures: test_pixels."""

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from bad_files import datus
from safetensors.torch import save

from datus.config import MAX_DOTS, MAX_TOML_BYTES, MAX_WORD, Config, parse_override
from datus.engine.progress import printable
from datus.errors import BackboneError, StoreError, UsageError
from datus.models.checkpoints import read_checkpoint
from datus.segmenter.files import read_record
from datus.store.store import Store

# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "a/.."])
def test_nothing_is_read_or_written_outside_the_run_folder(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for call in (lambda: store.write(b"x", "files", name), lambda: store.read("files", name)):
        with pytest.raises(StoreError, match="is not a place in the run folder"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_names_with_two_dots_inside_are_names(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.write(b"x", "files", "a..b/..c.png")
    assert store.read("files", "a..b/..c.png") == b"x"


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    assert printable("a\x1b[2Jb\rc\u202ed\te\nf") == "a\\x1b[2Jb\\rc\\u202ed\te\nf"
    assert printable("café 😀 漢字") == "café 😀 漢字"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "\x1b[2J\x1b]0;title\x07.png").write_bytes(b"no picture")
    answer = datus("run", "--images", tmp_path / "images", run_dir=tmp_path / "run")
    assert answer.exit_code == 1
    assert "\\x1b[2J\\x1b]0;title\\x07: not an image" in answer.stderr
    status = datus("status", "--images", tmp_path / "images", run_dir=tmp_path / "run")
    for text in (answer.stdout, answer.stderr, status.stdout, status.stderr):
        assert "\x1b" not in text


# --- settings -----------------------------------------------------------------------------------

HOSTILE_TOML = {
    "a = " + "[" * 100_000: "brackets nested too deep",
    "a = " + "{a=" * 50_000: "brackets nested too deep",
    "seed = " + "9" * 5000: f"a word or number of {MAX_WORD} characters or more",
    "seed = 0x" + "f" * 5000: f"a word or number of {MAX_WORD} characters or more",
    "a." * 50_000 + "a = 1": f"more than {MAX_DOTS} dots in a line",
    "# much\n" * 40_000: f"more than {MAX_TOML_BYTES} bytes",
}


@pytest.mark.parametrize(("text", "reason"), HOSTILE_TOML.items(), ids=range(len(HOSTILE_TOML)))
def test_a_config_that_would_crash_or_hang_its_reader(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        Config.load(path)
    assert str(caught.value) == f"{path}: not valid TOML: {reason}"


def test_an_override_that_would_crash_its_reader_is_text() -> None:
    assert parse_override("a.b=" + "[" * 100_000) == ("a.b", "[" * 100_000)
    assert parse_override("a.b=" + "9" * 5000) == ("a.b", "9" * 5000)


# --- weights ------------------------------------------------------------------------------------


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_not_opened(tmp_path: Path) -> None:
    plain = io.BytesIO()
    torch.save({"x": torch.ones(3)}, plain)
    path = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(plain) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info) + bytes(1 << 22))
    with pytest.raises(BackboneError, match=r"unpacks to \d+\.\d MB from \d+\.\d KB"):
        read_checkpoint(path)
    path.write_bytes(plain.getvalue())
    assert list(read_checkpoint(path)) == ["x"]


@pytest.mark.parametrize("length", [2**63, 2**32, 200])
def test_safetensors_with_a_header_longer_than_the_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + save({"x": torch.ones(3)})[8:])
    with pytest.raises(BackboneError, match="damaged or not a safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize("number", ["1e999", "[" * 100_000, '{"a":' * 100_000, "[]"])
def test_the_record_of_a_model_that_would_crash_its_reader(number: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(save({"x": torch.ones(3)}))
    (tmp_path / "m.json").write_text(f'{{"datus": "0.1", "format": {number}}}')
    with pytest.raises(BackboneError, match="damaged or changed"):
        read_record(tmp_path / "m")
    (tmp_path / "m.json").write_text(json.dumps({"datus": "0.1", "format": 1}))
    assert read_record(tmp_path / "m")["format"] == 1

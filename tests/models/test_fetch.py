"""`datus backbones NAME --fetch` against a hub on this machine, and what a run finds afterwards."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_server import COMMIT, Hub, hub
from safetensors.torch import save
from typer.testing import CliRunner

from datus.cli.app import app
from datus.config import FeaturesConfig
from datus.engine.budget import _check_hub
from datus.errors import BackboneError
from datus.models import weights as sources
from datus.models.vit import load_backbone
from datus.models.weights import fetch, hub_file, presence

NAME = "vit_small_patch8_224.dino"
PLAIN = "vit_tiny_patch16_224"
TAGGED = f"{PLAIN}.augreg_in21k_ft_in1k"
VARIABLES = ("DATUS_WEIGHTS", "DATUS_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN")

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Of a DINO ViT-S/8, random."""
    torch.manual_seed(5)
    return dict(timm.create_model("vit_small_patch8_224", num_classes=0).state_dict())


@pytest.fixture(scope="module")
def content(weights: Weights) -> bytes:
    return save(weights)


@pytest.fixture
def server(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in (*VARIABLES, "HUGGINGFACE_HUB_CACHE", *sources.PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with hub({f"timm/{NAME}/model.safetensors": content}) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        yield started


def call(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, ["backbones", *arguments])


def failed(*arguments: str, exit_code: int = 1) -> str:
    result = call(*arguments, "--fetch")
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    return str(result.stderr.split("error: ", 1)[1])


def nothing_is_kept() -> bool:
    left = [path for path in sources.hub_cache().rglob("*") if path.is_file()]
    return hub_file(NAME) is None and all(path.stat().st_size < 1000 for path in left)


# --- what is fetched is found -------------------------------------------------------------------


@pytest.mark.slow
def test_a_later_run_without_network_has_exactly_the_weights(
    server: Hub, weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = call("dino_vits8", "--fetch")
    assert done.exit_code == 0, done.output
    path = hub_file(NAME)
    assert path is not None
    assert path.parent.name == COMMIT
    assert f"fetched from the hub\nfile      {path}\nsize      86.7 MB" in done.stdout
    assert "licence   Apache-2.0 (https://github.com/facebookresearch/dino)" in done.stdout
    assert presence(NAME) == "hub cache"
    server.mood = "500"
    code = (
        "import sys, torch; from datus.models.vit import load_backbone\n"
        "from datus.config import FeaturesConfig\n"
        f"model = load_backbone({NAME!r}, 'auto', FeaturesConfig())._model\n"
        "torch.save(model.state_dict(), sys.argv[1])"
    )
    asked = list(server.asked)
    offline = {**os.environ, "DATUS_OFFLINE": "1"}
    loaded = str(tmp_path / "loaded.pth")
    subprocess.run([sys.executable, "-c", code, loaded], check=True, env=offline)
    found = torch.load(loaded, weights_only=True)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert server.asked == asked


def test_what_is_here_is_not_fetched_again(server: Hub) -> None:
    fetch(NAME)
    asked = list(server.asked)
    result = call(NAME, "--fetch")
    assert result.exit_code == 0, result.output
    assert f"already in the hub's cache\nfile      {hub_file(NAME)}\n" in result.stdout
    assert server.asked == asked


def test_a_file_of_ones_own_comes_first(
    server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / f"{NAME}.pth"
    own.write_bytes(b"mine")
    monkeypatch.setenv("DATUS_WEIGHTS", str(tmp_path))
    facts = dict(fetch(NAME))
    assert facts["file"] == str(own)
    assert facts["weights"] == "already in DATUS_WEIGHTS, which is used before the hub"
    assert server.asked == []


def test_weights_in_the_older_format(server: Hub, content: bytes) -> None:
    server.files = {f"timm/{NAME}/pytorch_model.bin": content}
    assert dict(fetch(NAME))["file"].endswith("pytorch_model.bin")
    assert hub_file(NAME) is not None


def test_a_model_outside_the_table_whose_tag_is_left_to_timm(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    model = timm.create_model(PLAIN)
    server.files = {f"timm/{TAGGED}/model.safetensors": save(model.state_dict())}
    facts = dict(fetch(PLAIN))
    assert facts["file"] == str(hub_file(TAGGED))
    assert facts["licence"] == "apache-2.0, as timm states it"
    monkeypatch.setenv("DATUS_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(sources.hub_cache()))
    _check_hub(PLAIN)  # what a run asks before its first shard
    loaded = load_backbone(PLAIN, "auto", FeaturesConfig())
    assert torch.equal(loaded._model.cls_token, model.cls_token)


def test_the_version_asked_for_last_counts(server: Hub) -> None:
    """As timm finds it offline: an older version beside it is not taken."""
    fetch(NAME)
    (sources.hub_cache() / f"models--timm--{NAME}" / "refs" / "main").write_text("other")
    assert hub_file(NAME) is None


# --- what cannot be fetched ---------------------------------------------------------------------


def test_there_is_nothing_to_fetch(server: Hub) -> None:
    assert failed("datus_t8", exit_code=2).startswith(
        f"datus_t8: needs no download, its weights are {sources.MODELS}"
    )
    text = failed("vit_base_patch16_224.ibot")
    assert text.startswith("vit_base_patch16_224.ibot: timm has no weights for it; put https://lf3")
    assert "did you mean vit_small_patch8_224.dino" in failed("dino_vits9", exit_code=2)
    assert failed("vit_tinny_patch16").startswith("vit_tinny_patch16: timm has no such model; did")
    assert failed(exit_code=2).startswith("--fetch: expected the name of a model before it")
    assert server.asked == []


@pytest.mark.parametrize("variable", ["DATUS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(variable: str, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    text = failed(NAME)
    assert text.startswith(f"{NAME}: DATUS_OFFLINE or HF_HUB_OFFLINE is set, so nothing is fetched")
    assert "or put dino_deitsmall8_pretrain.pth (https://dl.fbaipublicfiles.com/" in text
    assert server.asked == []


def test_a_hub_that_does_not_answer(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        text = failed(NAME)
    assert text.startswith(f"{NAME}: {address} does not answer; check the network, HTTPS_PROXY and")
    assert nothing_is_kept()


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("401", "the hub refuses {page} (401); accept its terms on that page, log in with hf auth"),
        ("403", "the hub refuses {page} (403); accept its terms on that page, log in with hf auth"),
        ("404", "no weights at {page} (404); check HF_ENDPOINT if it is set, or put dino_deit"),
        ("410", "the hub answered 410 for {page}; try again later, or put dino_deitsmall8"),
        pytest.param(
            *("short", "the hub answered 500 for {page}; try again later, or put dino_deitsmall8"),
            marks=pytest.mark.slow,
        ),
        ("lies", "the download broke off (OSError) and nothing of it was kept; run the same comm"),
    ],
)
def test_a_hub_that_refuses_or_breaks_off(mood: str, message: str, server: Hub) -> None:
    server.mood = mood
    page = f"{server.address}/timm/{NAME}"
    assert failed(NAME).startswith(f"{NAME}: {message.format(page=page)}")
    assert nothing_is_kept()
    server.mood = ""
    assert dict(fetch(NAME))["weights"] == "fetched from the hub"


def test_what_is_no_file_of_weights_is_not_kept(server: Hub, content: bytes) -> None:
    server.files = {f"timm/{NAME}/model.safetensors": b"<html>please log in</html>"}
    assert "is not a file of weights" in failed(NAME)
    assert nothing_is_kept()
    server.files = {f"timm/{NAME}/model.safetensors": content[:-4]}
    with pytest.raises(BackboneError, match="is not a file of weights"):
        fetch(NAME)
    assert nothing_is_kept()


def test_a_cache_that_cannot_be_written(
    server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    text = failed(NAME)
    assert text.startswith(f"{tmp_path}/file/hub: Not a directory; make room there or make it wri")

"""Where weights are looked for, in which order, and what is said when they are nowhere."""

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from datus.config import Config, FeaturesConfig
from datus.errors import BackboneError, UsageError
from datus.models import weights
from datus.models.registry import LARGER, RECOMMENDED, ROWS, find
from datus.models.vit import load_backbone
from datus.models.weights import (
    advice,
    better_backbone,
    cure,
    describe,
    file_names,
    find_weights,
    hub_answers,
    hub_cache,
    hub_file,
    is_offline,
    listing,
    local_file,
    notice,
    presence,
    weights_id,
)

DINO = "vit_small_patch8_224.dino"
IBOT = "vit_base_patch16_224.ibot"
DINOV3 = "vit_small_patch16_dinov3.lvd1689m"
VARIABLES = (
    *("DATUS_WEIGHTS", "DATUS_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_ENDPOINT"),
    *("HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", *weights.PROXIES),
)
AUTHORS = "dino_deitsmall8_pretrain.pth"
ADDRESS = f"https://dl.fbaipublicfiles.com/dino/dino_deitsmall8_pretrain/{AUTHORS}"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv("DATUS_WEIGHTS", str(path))
    return path


def cached(name: str, file: str = "model.safetensors", content: bytes = b"x") -> Path:
    """A file where the hub's client would have put it."""
    root = hub_cache() / f"models--timm--{name}"
    path = root / "snapshots" / "0123" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123")
    return path


def raised(kind: type[Exception], function: Any, *arguments: Any) -> str:
    with pytest.raises(kind) as error:
        function(*arguments)
    return str(error.value)


# --- DATUS_WEIGHTS ------------------------------------------------------------------------------


def test_the_folder_comes_before_the_hub(folder: Path) -> None:
    assert find_weights(DINO, "auto") == find_weights(DINO, "hub") == "hub"
    for file in (AUTHORS, f"{DINO}.pth.tar", f"{DINO}.pth", f"{DINO}.safetensors"):
        (folder / file).write_bytes(file.encode())
        assert local_file(DINO) == folder / file
        assert find_weights(DINO, "auto") == find_weights(DINO, "hub") == folder / file
        sha256 = hashlib.sha256(file.encode()).hexdigest()
        assert weights_id(DINO, "auto") == f"sha256:{sha256}"
    assert find_weights(DINO, "random") == "random"


def test_any_timm_model_may_lie_there(folder: Path) -> None:
    (folder / "vit_tiny_patch16_224.bin").write_bytes(b"x")
    assert find_weights("vit_tiny_patch16_224", "auto") == folder / "vit_tiny_patch16_224.bin"
    assert file_names("vit_tiny_patch16_224")[-1] == "vit_tiny_patch16_224.pth.tar"


def test_the_shipped_model_is_not_looked_for_there(folder: Path) -> None:
    (folder / "datus_t8.safetensors").write_bytes(b"x")
    assert find_weights("datus_t8", "auto") == weights.MODELS / "datus_t8.safetensors"


def test_a_folder_that_is_not_there_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATUS_WEIGHTS", "/nowhere")
    assert raised(UsageError, find_weights, DINO, "auto") == (
        "DATUS_WEIGHTS: expected a folder, got '/nowhere', which is not there"
    )


def test_weights_found_there_are_loaded(folder: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(model.state_dict(), folder / "vit_tiny_patch16_224.safetensors")
    backbone = load_backbone("vit_tiny_patch16_224", "auto", FeaturesConfig())
    assert torch.equal(backbone._model.cls_token, model.cls_token)


# --- what is nowhere ----------------------------------------------------------------------------


def test_what_timm_has_not_says_which_file_to_put_where(folder: Path) -> None:
    for function in (find_weights, weights_id):
        assert raised(BackboneError, function, IBOT, "auto") == (
            f"{IBOT}: timm has no weights for it; put https://lf3-nlp-opensource.bytetos.com/obj/"
            "nlp-opensource/archive/2022/ibot/vitb_16_rand_mask/checkpoint_teacher.pth as "
            f"{IBOT}.pth into {folder}, or set features.weights to the file"
        )
    assert weights_id(IBOT, "random") == f"random:{IBOT}"


@pytest.mark.parametrize("variable", ["DATUS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_says_so_and_names_the_file(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(weights, "hub_answers", lambda: pytest.fail("the network was touched"))
    assert weights_id(DINO, "auto") == f"hub:{DINO}"  # what was made before needs no weights
    assert raised(BackboneError, load_backbone, DINO, "auto", FeaturesConfig()) == (
        f"{DINO}: offline, and its weights are not on this machine; run datus backbones {DINO} "
        f"--fetch where there is a network, or put {AUTHORS} ({ADDRESS}) into a folder and set "
        "DATUS_WEIGHTS to the folder, or set features.weights to the file"
    )


def test_a_hub_out_of_reach_says_the_same_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text = raised(BackboneError, load_backbone, DINO, "auto", FeaturesConfig())
    assert text.startswith(f"{DINO}: the hub is out of reach, and its weights are not on this mach")
    assert text.endswith("or set features.weights to the file")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert hub_answers()


def test_what_the_hub_gave_before_is_read_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from huggingface_hub import constants
    from safetensors.torch import save

    name = "vit_tiny_patch16_224.augreg_in21k"
    model = timm.create_model(name, num_classes=0)
    cached(name, content=save(model.state_dict()))
    monkeypatch.setenv("DATUS_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_cache()))
    backbone = load_backbone(name, "auto", FeaturesConfig())
    assert torch.equal(backbone._model.cls_token, model.cls_token)
    assert constants.HF_HUB_OFFLINE is False


def test_gated_models_say_so_before_anything_is_tried(folder: Path) -> None:
    ask = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
    assert notice(DINOV3, "auto") == (
        f"{DINOV3}: the weights have the DINOv3 License. Its authors give their own files to those "
        f"who accept it ({ask}); timm's copy on the hub was not gated when this was written, but "
        "has the same licence"
    )
    assert f"(gated: ask at {ask})" in cure(DINOV3)
    assert notice(DINO, "auto") == notice(DINOV3, "random") == ""
    assert notice("vit_tiny_patch16_224", "hub") == ""
    (folder / f"{DINOV3}.pth").write_bytes(b"x")
    assert notice(DINOV3, "auto") == ""


def test_any_other_model_is_pointed_to_timm_on_the_hub() -> None:
    assert cure("vit_tiny_patch16_224") == (
        "put model.safetensors of https://huggingface.co/timm/vit_tiny_patch16_224 as "
        "vit_tiny_patch16_224.safetensors into a folder and set DATUS_WEIGHTS to the folder, "
        "or set features.weights to the file"
    )


# --- variables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("yes", True), ("0", False), ("", False), ("off", False)]
)
def test_offline_is_a_switch(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATUS_OFFLINE", value)
    assert is_offline() is expected


def test_the_cache_is_where_the_hubs_client_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_file(DINO) is None
    assert hub_cache().name == "hub"
    path = cached(DINO, "pytorch_model.bin")
    assert hub_file(DINO) == path
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub_cache() == Path.home() / ".cache/huggingface/hub"
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert hub_cache() == Path("/c")


# --- for people ---------------------------------------------------------------------------------


def test_the_listing_has_every_row_and_where_its_weights_are(folder: Path) -> None:
    (folder / AUTHORS).write_bytes(b"x")
    cached("vit_small_patch16_224.dino")
    header, *rows = listing()
    assert header[0] == "name"
    assert [row[0] for row in rows] == [row.name for row in ROWS]
    here = {row[0]: row[header.index("weights here")] for row in rows}
    assert here["datus_t8"] == "shipped"
    assert here[DINO] == presence(DINO) == "DATUS_WEIGHTS"
    assert here["vit_small_patch16_224.dino"] == "hub cache"
    assert here[IBOT] == "no, a file is needed"
    assert here[DINOV3] == "downloads on first use (86 MB)"
    gated = {row[0] for row in rows if row[header.index("gated")] == "authors' files"}
    assert gated == {row.name for row in ROWS if row.family.gated}
    marked = {row[0]: row[-1] for row in rows if row[-1]}
    assert marked == {DINO: "yes", "vit_base_patch14_reg4_dinov2.lvd142m": "yes, larger"}
    assert all(name in advice() for name in marked)


def test_the_size_of_a_download_is_that_of_its_parameters() -> None:
    """timm.create_model(DINO).state_dict() has 21,670,272 numbers of four bytes."""
    row = find(DINO)
    assert row is not None
    assert row.download_size == "87 MB"
    assert dict(describe(DINO))["on the hub"] == f"timm/{DINO}, 87 MB"
    assert dict(describe(DINO))["weights here"] == "downloads on first use (87 MB)"


def test_a_recommended_model_is_a_free_one_on_the_hub() -> None:
    for name in (RECOMMENDED, LARGER):
        row = find(name)
        assert row is not None
        assert (row.family.on_hub, row.family.gated) == (True, "")
        assert row.family.licence == "Apache-2.0"


def test_notes_say_what_is_gated_and_which_tokens_are_outliers() -> None:
    assert "facebook/dinov3-* on the hub are gated" in dict(describe(DINOV3))["note"]
    assert dict(describe("vit_base_patch14_dinov2.lvd142m"))["note"].endswith(
        "prefer vit_base_patch14_reg4_dinov2.lvd142m"
    )
    assert "note" not in dict(describe("vit_base_patch14_reg4_dinov2.lvd142m"))


def test_a_better_backbone_is_named_for_the_shipped_one() -> None:
    begin = "datus_t8 is a small model: for better masks"
    assert better_backbone(Config()) == (
        f"{begin} add --backbone {DINO} to the same command (it downloads 87 MB on first use)"
    )
    command = f"datus run --images photos --backbone {DINO}"
    line = better_backbone(Config(), command)
    assert line == f"{begin} run  {command}  (downloads 87 MB on first use)"
    cached(DINO)
    assert better_backbone(Config(), command) == f"{begin} run  {command}  (its weights are here)"
    assert better_backbone(Config()).endswith("(it downloads 87 MB on first use)")


@pytest.mark.parametrize(
    "settings",
    [
        {"features.backbone": DINOV3},
        {"features.weights": "random"},
        {"clusters.frozen": "runs/other"},
        {"clusters.edits": "edits.json"},
    ],
)
def test_no_better_backbone_is_named_for_other_runs(settings: dict[str, Any]) -> None:
    assert better_backbone(Config.load(None, settings)) == ""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_description_has_all_of_a_row(row: Any) -> None:
    facts = dict(describe(row.name))
    assert facts["licence"] == row.family.licence
    assert facts["source"] == row.family.source
    assert facts["parameters"] == f"{row.parameters:,}"
    assert facts["layout"].startswith(row.family.layout)
    assert all(facts[f"shape of {name}"] == str(shape) for name, shape in row.shapes.items())
    assert ("to use a file" in facts) == (row.family.source != "shipped with this package")


def test_a_description_says_whether_the_file_is_the_released_one(folder: Path) -> None:
    name = "vit_base_patch16_224.unicom"
    file = folder / "FP16-ViT-B-16.pt"
    file.write_bytes(b"something else")
    here = dict(describe(name))["weights here"]
    assert here == f"{file}, NOT the file that the digest is of"
    own = folder / f"{name}.pth"
    own.write_bytes(b"mine")
    assert dict(describe(name))["weights here"] == str(own)


def test_a_description_of_what_is_not_there_names_near_ones() -> None:
    text = raised(UsageError, describe, "vit_small_patch8_224.dinoo")
    assert text.startswith("vit_small_patch8_224.dinoo: not in the table; did you mean vit_small_p")
    assert raised(UsageError, describe, "qqq") == (
        "qqq: not in the table\nAny other ViT of timm works too, by name"
    )

"""A small random model against open_clip's own way, and every file and name that is refused."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import CONFIG, make_clip

from datus.cli.suggest_names import suggest_names
from datus.errors import BackboneError, MissingPackage, UsageError
from datus.suggest.text_image import DEFAULT, load_text_image
from datus.types import Array

pytest.importorskip("open_clip")

import open_clip

HUB = "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No folder of weights, an empty cache, offline."""
    monkeypatch.delenv("DATUS_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DATUS_OFFLINE", "1")
    return tmp_path


def crops(n: int) -> list[Array]:
    rng = np.random.default_rng(0)
    sides = [(1, 1), (40, 9), (32, 32), (5, 70)]
    return [rng.integers(0, 256, (*sides[i % 4], 3), np.uint8) for i in range(n)]


def error_of(model: str) -> str:
    with pytest.raises((UsageError, BackboneError)) as error:
        load_text_image(model)
    return str(error.value)


def test_crops_are_seen_as_by_open_clip(weights: Path) -> None:
    theirs = open_clip.create_model(f"local-dir:{weights.parent}").eval()
    found = load_text_image(str(weights)).images(crops(4), n_threads=1)
    assert found.shape == (4, 16)
    assert found.dtype == np.float32
    for one, vector in zip(crops(4), found, strict=True):
        small = np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC))
        normal = (small / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
        pixels = torch.tensor(normal, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = theirs.encode_image(pixels)[0].numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_words_are_read_as_by_open_clip(weights: Path) -> None:
    theirs = open_clip.create_model(f"local-dir:{weights.parent}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{weights.parent}")
    groups = [["sky", "a photo of sky"], ["tree"], ["road " * 40]]  # the last is cut
    found = load_text_image(str(weights)).texts(groups, n_threads=1)
    for group, vector in zip(groups, found, strict=True):
        with torch.no_grad():
            each = theirs.encode_text(tokens(group)).numpy()
        mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_threads_and_company_change_no_byte(weights: Path) -> None:
    one, two = load_text_image(str(weights)), load_text_image(str(weights))
    whole = one.images(crops(6), n_threads=1)
    assert whole.tobytes() == two.images(crops(6), n_threads=2).tobytes()
    assert whole[2:3].tobytes() == two.images(crops(6)[2:3], n_threads=1).tobytes()
    words = [["sky", "a photo of sky"], ["tree", "a photo of tree"]]
    texts = one.texts(words, n_threads=1)
    assert texts.tobytes() == two.texts(words, n_threads=2).tobytes()
    assert texts[1:].tobytes() == two.texts(words[1:], n_threads=1).tobytes()


def test_loading_leaves_random_numbers_alone(weights: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_text_image(str(weights))
    assert torch.equal(torch.rand(3), expected)


def test_a_training_checkpoint_is_the_same_model(weights: Path, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "training", "epoch_3.pt")
    expected = load_text_image(str(weights)).images(crops(2), 1)
    assert load_text_image(str(other)).images(crops(2), 1).tobytes() == expected.tobytes()


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_no_code_runs(tmp_path: Path) -> None:
    path, mark = make_clip(tmp_path, "evil.pt"), tmp_path / "it ran"
    torch.save({"state_dict": Payload(mark)}, path)
    assert "could run code, and was not opened" in error_of(str(path))
    path.write_bytes(pickle.dumps(Payload(mark)))
    error_of(str(path))
    assert not mark.exists()


def test_what_does_not_fit(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = make_clip(tmp_path)
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if "ln_post" not in k}, path)
    cure = "is the architecture the one that it was made for?"
    assert error_of(str(path)) == (
        f"{path}: does not fit the model: it lacks visual.ln_post.weight, visual.ln_post.bias; "
        + cure
    )
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    assert error_of(str(path)) == f"{path}: does not fit the model: it has extra; {cure}"
    save_file({**tensors, "text_projection": torch.zeros(2, 2)}, path)
    assert f"it has another shape of text_projection; {cure}" in error_of(str(path))
    path.write_bytes(b"damaged")
    assert "damaged or not a safetensors file" in error_of(str(path))


def changed(part: str, **more: Any) -> dict[str, Any]:
    model = CONFIG["model_cfg"]
    return {"model_cfg": {**model, part: {**model[part], **more}}}


def test_a_config_that_looks_elsewhere_is_refused(tmp_path: Path) -> None:
    texts = []
    for number, config in enumerate(
        (
            changed("text_cfg", hf_model_name="someone/roberta"),
            changed("text_cfg", tokenizer_kwargs={"bpe_path": "x"}),
            changed("vision_cfg", timm_model_name="hf-hub:someone/vit"),
            {"model_cfg": {"embed_dim": 3}},
            changed("vision_cfg", width="wide"),
        )
    ):
        path = make_clip(tmp_path / str(number), config=config)
        texts.append(error_of(str(path)).replace(str(path), "FILE"))
    foreign = (
        "FILE: needs a tokeniser that open_clip does not bring; take a model with its own, "
        f"such as {DEFAULT}"
    )
    assert texts[:4] == [
        foreign,
        foreign,
        "FILE: open_clip_config.json: expected a model of timm by name, not by address",
        "FILE: open_clip_config.json: expected text_cfg and vision_cfg in model_cfg",
    ]
    assert texts[4].startswith("FILE: open_clip cannot build local-dir:")


def test_a_config_that_is_no_json(tmp_path: Path) -> None:
    path = make_clip(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{", encoding="utf-8")
    assert error_of(str(path)).startswith(f"{path}: open_clip cannot build local-dir:{tmp_path} (")


def test_names_that_are_refused(nothing_here: Path) -> None:
    kinds = ".safetensors, .pth, .pt, .bin, .pth.tar"
    assert error_of("clip") == (
        f"--model clip: expected ARCHITECTURE/TAG of open_clip, such as {DEFAULT}, or a file that "
        f"ends in {kinds}"
    )
    assert error_of("none.pt") == "--model none.pt: no such file"
    assert error_of("ViT-B-33/openai").startswith(
        "--model ViT-B-33/openai: open_clip has no ViT-B-33; did you mean ViT-B-3"
    )
    assert (
        error_of("RN50x64/mine")
        == "--model RN50x64/mine: open_clip's weights of RN50x64 are: openai"
    )
    assert error_of("ViT-B-16-SigLIP/webli").startswith("ViT-B-16-SigLIP/webli: needs a tokeniser")


def test_offline_says_which_file_to_put_where(nothing_here: Path) -> None:
    assert error_of(DEFAULT) == (
        f"{DEFAULT}: offline, and its weights are not on this machine; put "
        f"open_clip_model.safetensors of {HUB} as ViT-B-32.laion2b_s34b_b79k.safetensors into a "
        "folder and set DATUS_WEIGHTS to the folder, or set --model to the file"
    )


def test_a_file_of_unknown_architecture(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.touch()
    assert error_of(str(path)) == (
        f"--model {path}: of which architecture? Put its open_clip_config.json beside it, or name "
        "it ARCHITECTURE.ANYTHING, such as ViT-B-32.mine.safetensors"
    )


def small_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model takes the place of ViT-B-32, whose weights nobody has here."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", CONFIG["model_cfg"])


def test_weights_are_found_in_the_folder_and_in_the_cache(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_architecture(monkeypatch)
    cached = "cache/models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K/snapshots/abc"
    path = make_clip(nothing_here / cached, "open_clip_pytorch_model.bin")
    one = load_text_image(DEFAULT)
    assert one.name == DEFAULT
    folder = nothing_here / "weights"
    make_clip(folder, "ViT-B-32.laion2b_s34b_b79k.safetensors")
    (folder / "open_clip_config.json").unlink()
    monkeypatch.setenv("DATUS_WEIGHTS", str(folder))
    two = load_text_image(DEFAULT)
    assert one.digest != two.digest  # the folder comes first
    monkeypatch.delenv("DATUS_WEIGHTS")
    three = load_text_image(str(folder / "ViT-B-32.laion2b_s34b_b79k.safetensors"))
    assert two.digest == three.digest
    assert path.is_file()
    with torch.no_grad():
        mean = two._mean
    np.testing.assert_allclose(mean, open_clip.OPENAI_DATASET_MEAN, rtol=1e-6)


def test_weights_are_fetched_by_open_clip(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_architecture(monkeypatch)
    monkeypatch.setenv("DATUS_OFFLINE", "0")
    monkeypatch.setattr("datus.models.weights.hub_answers", lambda: True)
    path = make_clip(nothing_here / "fetched")
    asked = []

    def fetch(known: dict[str, Any]) -> str:
        asked.append(known["hf_hub"])
        return str(path)

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fetch)
    load_text_image(DEFAULT)
    assert asked == ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K/"]

    def fail(known: dict[str, Any]) -> str:
        raise ConnectionError("no")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fail)
    assert error_of(DEFAULT).startswith(
        f"{DEFAULT}: its weights could not be fetched from the hub (ConnectionError); put "
    )


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingPackage) as error:
        load_text_image(DEFAULT)
    assert str(error.value) == (
        "suggest-names needs open_clip, which is not installed: pip install 'datus[names]'"
    )


def test_the_default_is_one() -> None:
    import inspect

    assert inspect.signature(suggest_names).parameters["model"].default == DEFAULT


def test_broken_numbers_are_told(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = make_clip(tmp_path)
    tensors = load_file(path)
    save_file({**tensors, "visual.proj": tensors["visual.proj"] * float("nan")}, path)
    with pytest.raises(BackboneError, match="infinite values or NaN came out"):
        load_text_image(str(path)).images(crops(1), 1)
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]

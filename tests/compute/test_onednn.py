"""Products by oneDNN: what torch gives, to the last bits, and torch itself for all else."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from datus.compute import onednn
from datus.config import Config
from datus.models.forward import forward_pass
from datus.models.vit import load_backbone

needs_onednn = pytest.mark.skipif(
    not onednn.available(), reason="this torch has no product of oneDNN"
)
pytestmark = needs_onednn


def drawn(*shape):
    return torch.from_numpy(np.random.default_rng(len(shape)).normal(size=shape)).float()


@pytest.fixture
def inside(monkeypatch):
    """The mode, whatever the processor."""
    monkeypatch.setattr(onednn, "wanted", lambda: True)
    with torch.inference_mode():
        yield onednn.products


@pytest.fixture
def calls(monkeypatch):
    """Names of our products as they are called."""
    seen = []
    for name in ("linear", "attention"):
        known = getattr(onednn, name)

        def noted(*args, name=name, known=known):
            seen.append(name)
            return known(*args)

        monkeypatch.setattr(onednn, name, noted)
    return seen


@pytest.mark.parametrize("shape", [(5, 7), (1, 769, 192), (2, 3, 4, 8)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_is_torchs(inside, calls, shape, has_bias):
    inputs, weight = drawn(*shape), drawn(6, shape[-1])
    bias = drawn(6) if has_bias else None
    expected = functional.linear(inputs, weight, bias)
    with inside():
        found = functional.linear(inputs, weight, bias)
    assert calls == ["linear"]
    torch.testing.assert_close(found, expected)
    exact = inputs.double() @ weight.double().T + (0 if bias is None else bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("n_patches", [1, 50, onednn.ROWS, onednn.ROWS + 1, 2 * onednn.ROWS + 7])
@pytest.mark.parametrize("scale", [None, 0.3, 0.0])
def test_attention_is_torchs(inside, calls, n_patches, scale):
    # as timm makes them: views of one array
    queries, keys, values = drawn(2, n_patches, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
    expected = functional.scaled_dot_product_attention(queries, keys, values, scale=scale)
    with inside():
        found = functional.scaled_dot_product_attention(
            queries, keys, values, dropout_p=0.0, scale=scale
        )
    assert calls[0] == "attention"
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)


def test_arguments_may_be_named(inside, calls):
    inputs, weight, bias = drawn(5, 7), drawn(6, 7), drawn(6)
    heads = drawn(1, 2, 9, 8)
    with inside():
        found = functional.linear(input=inputs, weight=weight, bias=bias)
        mixed = functional.scaled_dot_product_attention(query=heads, key=heads, value=heads)
    assert calls[:2] == ["linear", "attention"]
    torch.testing.assert_close(found, functional.linear(inputs, weight, bias))
    expected = functional.scaled_dot_product_attention(heads, heads, heads)
    torch.testing.assert_close(mixed, expected)


def test_attention_against_the_formula_by_hand():
    one = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    with torch.inference_mode():
        found = onednn.attention(one, one, 10 * one, 2.0)
    high, low = np.exp(2) / (np.exp(2) + 1), 1 / (np.exp(2) + 1)
    np.testing.assert_allclose(found[0, 0], 10 * np.array([[high, low], [low, high]]), rtol=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        {"attn_mask": torch.ones(9, 9).tril().bool()},
        {"is_causal": True},
        {"attn_mask": torch.zeros(9, 9)},
    ],
    ids=["mask", "causal", "added"],
)
def test_what_it_does_not_know_is_left_to_torch(inside, calls, more):
    queries = drawn(1, 2, 9, 8)
    expected = functional.scaled_dot_product_attention(queries, queries, queries, **more)
    with inside():
        found = functional.scaled_dot_product_attention(queries, queries, queries, **more)
    assert calls == []
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(0, 4), (3, 4)])
def test_other_types_and_nothing_are_left_to_torch(inside, calls, shape):
    inputs = drawn(*shape).to(torch.bfloat16 if shape[0] else torch.float32)
    weight = drawn(2, 4).to(inputs.dtype)
    with inside():
        assert functional.linear(inputs, weight).shape == (shape[0], 2)
    assert calls == []


def test_gradients_are_left_to_torch(monkeypatch, calls):
    monkeypatch.setattr(onednn, "wanted", lambda: True)
    weight = drawn(2, 4).requires_grad_()
    with onednn.products():
        functional.linear(drawn(3, 4), weight).sum().backward()
    assert calls == []
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", ["linear"]), ("bfloat16", [])], ids=str
)
def test_a_pass_in_float32_uses_it_and_nothing_after(monkeypatch, calls, precision, expected):
    monkeypatch.setattr(onednn, "wanted", lambda: True)
    image, weight = np.ones((3, 4, 4), np.float32), drawn(2, 4)
    with forward_pass([image], "cpu", precision) as pixels:
        functional.linear(pixels, weight)
    with torch.inference_mode():
        functional.linear(torch.from_numpy(image), weight)
    assert calls == expected


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "capability", "expected"),
    [
        ("vendor_id : AuthenticAMD", "x86_64", "AVX512", True),
        ("vendor_id : AuthenticAMD", "x86_64", "AVX2", False),
        ("vendor_id : GenuineIntel", "x86_64", "AVX512", False),
        ("", "aarch64", "DEFAULT", False),
    ],
)
def test_only_where_mkl_holds_back(monkeypatch, tmp_path, cpuinfo, machine, capability, expected):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(onednn, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(onednn.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    onednn.wanted.cache_clear()
    try:
        assert onednn.wanted() is (expected and torch.backends.mkl.is_available())
    finally:
        onednn.wanted.cache_clear()


def test_without_a_list_of_processors_torch_stays_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(onednn, "CPUINFO", tmp_path / "nothing")
    monkeypatch.setattr(onednn.platform, "machine", lambda: "x86_64")
    onednn.wanted.cache_clear()
    try:
        assert not onednn.wanted()
    finally:
        onednn.wanted.cache_clear()


def test_a_whole_model_says_the_same_and_threads_change_no_byte(monkeypatch, calls):
    config = Config.load(None, {"data.images": "images"})
    names = config.features.backbone, config.features.weights
    model = load_backbone(*names, config.features, "cpu", 0)
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(3, 64, 48)).astype(np.float32) for _ in range(4)]
    monkeypatch.setattr(onednn, "wanted", lambda: False)
    expected = model.features(images, n_threads=1, batch=1)
    assert calls == []
    monkeypatch.setattr(onednn, "wanted", lambda: True)
    alone = model.features(images, n_threads=1, batch=1)
    assert calls.count("attention") == len(images) * len(model._model.blocks)
    together = model.features(images, n_threads=2, batch=4)
    for one, other, torchs in zip(alone, together, expected, strict=True):
        for part in ("keys", "tokens", "cls"):
            found = getattr(one, part)
            assert found.tobytes() == getattr(other, part).tobytes()
            np.testing.assert_allclose(found, getattr(torchs, part), atol=1e-4, rtol=1e-4)

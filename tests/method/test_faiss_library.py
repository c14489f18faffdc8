"""Which FAISS is installed: wheels, cures for what is missing, GPUs."""

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from datus.errors import ClusterError, MissingPackage
from datus.method.faiss_library import faiss_library, gpu_number, load_faiss


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name.replace("-", "_") in versions:
            return versions[name.replace("-", "_")]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


def test_the_library_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, faiss_cpu="1.15.1")
    assert faiss_library() == "faiss-cpu 1.15.1"
    installed(monkeypatch, faiss_gpu_cu12="1.9")
    assert faiss_library() == "faiss-gpu-cu12 1.9"
    installed(monkeypatch)
    assert faiss_library() == "faiss"


def test_both_wheels_at_once_are_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, faiss_cpu="1.15.1", faiss_gpu_cu12="1.9")
    for attempt in (faiss_library, load_faiss):
        with pytest.raises(MissingPackage) as caught:
            attempt()
        assert str(caught.value) == (
            "faiss-cpu and faiss-gpu-cu12 are installed together, but share one module: "
            "pip uninstall -y faiss-cpu faiss-gpu-cu12, then "
            "pip install 'datus[cpu]' (or 'datus[gpu]' on a CUDA machine; never both)"
        )


def test_missing_faiss_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    with pytest.raises(MissingPackage) as caught:
        load_faiss()
    assert str(caught.value) == (
        "faiss is not installed: pip install 'datus[cpu]' "
        "(or 'datus[gpu]' on a CUDA machine; never both)"
    )


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "raise ImportError('libcublas.so.12: no such file')",
            "faiss is installed but cannot be loaded (libcublas.so.12: no such file): "
            "pip install 'datus[cpu]' (or 'datus[gpu]' on a CUDA machine; never both)",
        ),
        ("import no_such_module", "faiss needs no_such_module, which is not installed"),
    ],
)
def test_faiss_that_cannot_be_loaded_says_why(
    code: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faiss.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    with pytest.raises(MissingPackage) as caught:
        load_faiss()
    assert str(caught.value) == text


def test_a_gpu_is_used_only_where_the_build_and_the_caller_allow() -> None:
    plain = SimpleNamespace(get_num_gpus=lambda: 2)
    built = SimpleNamespace(get_num_gpus=lambda: 2, GpuIndexFlat=object)
    blind = SimpleNamespace(get_num_gpus=lambda: 0, GpuIndexFlat=object)
    assert gpu_number(plain, "cuda") is None
    assert gpu_number(blind, "auto") is None
    assert gpu_number(built, "cpu") is None
    assert gpu_number(built, "auto") == 0
    assert gpu_number(built, "cuda:1") == 1
    with pytest.raises(
        ClusterError, match=r"device cuda:2: faiss sees 2 GPU\(s\), numbered from 0"
    ):
        gpu_number(built, "cuda:2")

"""float16 and back, with torch's instructions and without: the same bits as numpy."""

import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from datus.compute.float16 import as_float16, as_float32
from datus.compute.threads import loaded_torch, map_threads

EVERY = np.arange(2**16, dtype=np.uint16).view(np.float16)


class HalfLoaded(ModuleType):
    """torch while another thread imports it: what is used of it may crash."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.__spec__ = ModuleSpec("torch", None)
        self.__spec__._initializing = True

    def __getattr__(self, name):
        raise AssertionError(f"torch.{name} was used")


@pytest.fixture(params=["torch", "numpy", "half"])
def _with_and_without_torch(request, monkeypatch):
    if request.param == "torch":
        pytest.importorskip("torch")
    elif request.param == "half":
        monkeypatch.setitem(sys.modules, "torch", HalfLoaded())
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.usefixtures("_with_and_without_torch")
class TestHalves:
    def test_every_number_is_kept(self):
        numbers = EVERY[np.isfinite(EVERY)]
        found = as_float32(numbers)
        assert found.dtype == np.float32
        assert np.array_equal(found.astype(np.float64), numbers.astype(np.float64))
        assert np.array_equal(as_float16(found).view(np.uint16), numbers.view(np.uint16))

    def test_what_lies_between_goes_to_the_nearest_even_number(self):
        steps = np.sort(EVERY[np.isfinite(EVERY)]).astype(np.float32)
        between = ((steps[1:].astype(np.float64) + steps[:-1]) / 2).astype(np.float32)
        assert np.array_equal(
            as_float16(between).view(np.uint16), between.astype(np.float16).view(np.uint16)
        )

    def test_what_is_too_large_becomes_infinite_and_what_is_no_number_stays_none(self):
        values = np.array([1e6, -1e6, np.inf, np.nan, 65504, 65519.9, 65520], np.float32)
        expected = np.array([np.inf, -np.inf, np.inf, np.nan, 65504, 65504, np.inf])
        assert np.array_equal(as_float16(values), expected, equal_nan=True)

    def test_shapes_stay_and_memory_that_cannot_be_written_to_is_read(self):
        values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
        values.flags.writeable = False
        assert np.array_equal(as_float32(values), values)
        assert np.array_equal(as_float32(values[:, ::2].copy()[:, :, 1:]), values[:, ::2, 1:])
        assert np.array_equal(as_float16(as_float32(values)), values)

    def test_an_array_of_that_type_is_handed_back(self):
        single, half = np.ones(3, np.float32), np.ones(3, np.float16)
        assert as_float32(single) is single
        assert as_float16(half) is half


def test_torch_is_used_once_its_import_has_ended(tmp_path, monkeypatch):
    """Another thread imports it meanwhile, as Python does that."""
    (tmp_path / "torch.py").write_text("import sys\nsys.begun.set()\nassert sys.go_on.wait(30)\n")
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "begun", begun, raising=False)
    monkeypatch.setattr(sys, "go_on", go_on, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)  # so that it is put back
    del sys.modules["torch"]
    other = threading.Thread(target=lambda: __import__("torch"))
    other.start()
    try:
        assert begun.wait(30)
        assert "torch" in sys.modules
        assert loaded_torch() is None
        assert map_threads(abs, [-1, 2, -3], 2) == [1, 2, 3]
    finally:
        go_on.set()
        other.join()
    assert loaded_torch() is sys.modules["torch"]

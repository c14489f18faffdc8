"""The installed FAISS: the module, the wheel that it comes from, and the GPU that it can use."""

import warnings
from importlib import metadata
from types import ModuleType
from typing import Any

from datus.errors import ClusterError, MissingPackage

_INSTALL = "pip install 'datus[cpu]' (or 'datus[gpu]' on a CUDA machine; never both)"

_CPU_WHEELS = ("faiss-cpu",)
_GPU_WHEELS = ("faiss-gpu-cu13", "faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu")


def load_faiss() -> ModuleType:
    """The faiss module. Raises MissingPackage with the command that helps."""
    faiss_library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its generated wrappers warn on newer Pythons
            import faiss
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise MissingPackage(f"faiss needs {error.name}, which is not installed") from error
        raise MissingPackage(f"faiss is not installed: {_INSTALL}") from None
    except ImportError as error:
        raise MissingPackage(
            f"faiss is installed but cannot be loaded ({error}): {_INSTALL}"
        ) from error
    return faiss


def faiss_library() -> str:
    """The installed wheel and version, such as 'faiss-cpu 1.15.1'; 'faiss' if it is no known wheel.

    Raises MissingPackage if a CPU and a GPU wheel are both there: they share one module.
    """
    wheels = [name for name in (*_CPU_WHEELS, *_GPU_WHEELS) if _version(name)]
    if len(wheels) > 1:
        raise MissingPackage(
            f"{' and '.join(wheels)} are installed together, but share one module: "
            f"pip uninstall -y {' '.join(wheels)}, then {_INSTALL}"
        )
    return f"{wheels[0]} {_version(wheels[0])}" if wheels else "faiss"


def _version(wheel: str) -> str | None:
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return None


def gpu_number(faiss: Any, device: str) -> int | None:
    """The GPU to use; None for the CPU, if it was asked for or the build has nothing else.

    device: "auto", "cpu", "cuda" or "cuda:1". Raises ClusterError: no GPU of that number.
    """
    n_gpus = int(faiss.get_num_gpus()) if hasattr(faiss, "GpuIndexFlat") else 0
    if device == "cpu" or n_gpus == 0:
        return None
    number = int(device.partition(":")[2] or 0)
    if number >= n_gpus:
        raise ClusterError(f"device {device}: faiss sees {n_gpus} GPU(s), numbered from 0")
    return number

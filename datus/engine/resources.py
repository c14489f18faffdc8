"""What a run may use: processes, threads, shards at a time, a device. Never what it makes."""

from collections.abc import Callable
from dataclasses import replace

from datus.compute.threads import n_cores
from datus.config import Config
from datus.engine.stage import Runtime


def parallel(config: Config) -> tuple[int, int]:
    """(worker processes, threads in each)."""
    speed, cores = config.speed, n_cores()
    workers = (speed.workers or cores) if speed.executor == "processes" else 1
    return workers, speed.threads or max(1, cores // workers)


IN_FLIGHT = 2
"""Shards that are under way in one process. A third one would only take memory."""

APART = 1000, 4
"""Images and cores from which on worker processes are worth their start, a second, and their
memory, a quarter of a gigabyte each."""


def placed(config: Config, n_images: int, on_device: Callable[[], bool]) -> Config:
    """`config` for one group of stages, with `auto` decided.

    n_images: that lack a stage of it; on_device: whether it runs a model or a GPU. Threads of one
    process share one interpreter and wait for it, the more the more there are. Models are loaded
    once, and keep their threads busy outside the interpreter (docs/decisions.md 62).
    """
    speed = config.speed
    if speed.executor != "auto":
        return config
    workers = speed.workers or speed.threads or n_cores()
    few = not speed.workers and (n_images < APART[0] or workers < APART[1])
    if workers == 1 or few or on_device():
        return replace(config, speed=replace(speed, executor="serial"))
    device = resolve_device(config)  # auto would load torch in each of them
    apart = replace(speed, executor="processes", workers=workers, threads=1, device=device)
    return replace(config, speed=apart)


def at_a_time(config: Config) -> int:
    """Shards that are under way in all processes."""
    return parallel(config)[0] if config.speed.executor == "processes" else IN_FLIGHT


def in_workers(config: Config) -> Config:
    """A Ray worker has as many threads as CPUs of its own, not the cores of its node."""
    speed = config.speed
    if speed.executor != "ray" or speed.threads:
        return config
    return replace(config, speed=replace(speed, threads=max(1, int(speed.ray_cpus))))


def runtime_of(config: Config) -> Runtime:
    """Device, threads and batch of one worker process."""
    return Runtime(resolve_device(config), parallel(config)[1], config.speed.batch)


def resolve_device(config: Config) -> str:
    """auto = a CUDA device if torch sees one, else the CPU."""
    if config.speed.device != "auto":
        return config.speed.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

"""A stage: one object that holds all there is to know of it, and what its work is made of.

    STAGE = Stage(name="segments", version=4, scope="shard", needs=..., settings=..., build=...)

Work on a shard is `work(shard, inputs, advance) -> ShardData`; `per_image` makes it from a function
of one image. Work on the dataset is `work(dataset, advance) -> ShardData`. Images run in threads,
each on one thread (`compute.threads`); one that cannot be used is recorded while the others go on.

Stages travel to worker processes, so their functions are those of a module, never lambdas.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datus.compute.threads import map_threads
from datus.config import Config
from datus.engine.workers import Advance
from datus.errors import ImageError
from datus.inputs.index import Index, Shard
from datus.store.store import ShardReport
from datus.types import WHOLE, Array, ImageRecord, ShardData

Arrays = Mapping[str, Array]
Inputs = Mapping[str, ShardData]
"""Name of a stage -> what it made of the shard, or of the dataset."""

ShardWork = Callable[[Shard, Inputs, Advance], ShardData]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and how fast a stage runs; never what it makes."""

    device: str
    """cpu, cuda or cuda:N."""
    threads: int
    batch: int

    @property
    def images_at_a_time(self) -> int:
        """A GPU wants full batches; a CPU wants every thread busy and progress often."""
        return 2 * self.threads if self.device == "cpu" else max(self.batch, self.threads)


@dataclass(frozen=True, slots=True)
class Context:
    """What `build` may look at. `k` is the number of clusters of this branch of a sweep."""

    config: Config
    k: int
    runtime: Runtime
    view: Literal["", "mirror", "crop"] = ""
    """How each image is looked at; what is stored is made of the images themselves."""


def always(config: Config) -> bool:
    """For stages that every run has."""
    return True


def never(config: Config) -> bool:
    """For stages that run no model."""
    return False


def no_settings(config: Config, k: int, index: Index) -> dict[str, Any]:
    """For stages whose output follows from their inputs alone."""
    return {}


def no_warnings(reports: Iterable[ShardReport]) -> list[str]:
    """For stages of which there is nothing to warn about."""
    return []


def no_links(config: Config, k: int) -> dict[str, tuple[str, str]]:
    """For stages that write nothing that people open."""
    return {}


def constant(config: Config, n_images: int) -> float:
    """For what is the same for any number of images."""
    return 1.0


def per_image_cost(config: Config, n_images: int) -> float:
    """For stages whose work grows with the number of images."""
    return float(n_images)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run."""

    name: str
    version: int
    """Raise it when the same input would give other bytes."""
    scope: Literal["shard", "dataset"]
    needs: Callable[[Config], tuple[str, ...]]
    """Names of the stages whose output it reads."""
    settings: Callable[[Config, int, Index], dict[str, Any]]
    """(config, k, index) -> everything besides name, version and needs that can change its bytes.
    The hash of all that names the folder of its output."""
    build: Callable[[Context], Any]
    """Loads what is needed once in a process and returns a ShardWork or, of a stage on the
    dataset, a `dataset.DatasetWork`."""
    is_active: Callable[[Config], bool] = always
    """A run with this config has the stage."""
    per_k: bool = False
    """It runs once for each K of a sweep."""
    is_last: bool = False
    """It reads what was made for every K, or nothing of any, and no stage on shards waits for it:
    it runs after all others."""
    on_device: Callable[[Config], bool] = never
    """It runs a model or has work for a GPU: what it loads is too large to be loaded often."""
    sees_truth: bool = False
    """Where there are true masks, its shards are named by their contents, too."""
    reads_files: bool = False
    """Its settings come from files that people may change during a run."""
    warn: Callable[[Iterable[ShardReport]], list[str]] = no_warnings
    """What people should know of the finished stage. Reports go by once, one at a time."""
    figures: tuple[str, ...] = ()
    """Figures of each image that the report of the run shows the distribution of."""
    drops_images: bool = False
    """It may leave an image out, which is then a failure in the report of the run."""
    links: Callable[[Config, int], dict[str, tuple[str, str]]] = no_links
    """(config, k) -> {what people are told: (name in RUN/latest, file in that folder or "")}."""
    min_bytes: Callable[[Config, ImageRecord], int | None] | None = None
    """The least that it writes for an image, as far as that is known before it runs."""
    cost: Callable[[Config, int], float] = per_image_cost
    """(config, number of images) -> what its time grows with, for the estimate of a run."""
    size: Callable[[Config, int], float] = constant
    """The same of its bytes, of a stage on the dataset."""


# --- the images of a shard ----------------------------------------------------------------------


def per_image(context: Context, function: Callable[[ImageRecord, Inputs], ShardData]) -> ShardWork:
    """Work that does each image on its own."""
    runtime = context.runtime

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        def counted(record: ImageRecord) -> ShardData:
            try:
                return function(record, inputs)
            finally:
                advance(1)

        return each_image(shard.records, inputs, runtime.threads, counted)

    return work


def each_image(
    records: Sequence[ImageRecord],
    inputs: Inputs,
    n_threads: int,
    function: Callable[[ImageRecord], ShardData],
) -> ShardData:
    """`function` on every image that all inputs have; an ImageError is recorded as a failure."""

    def recorded(record: ImageRecord) -> ShardData:
        try:
            return function(record)
        except ImageError as error:
            return ShardData(arrays={}, failures={record.image_id: str(error)})

    by_image = [data.arrays for data in inputs.values() if WHOLE not in data.arrays]
    usable = [r for r in records if all(r.image_id in arrays for arrays in by_image)]
    return merged(map_threads(recorded, usable, n_threads))


def one_image(
    record: ImageRecord, arrays: dict[str, Array], figures: dict[str, float] | None = None
) -> ShardData:
    """The output of one image."""
    return ShardData(
        arrays={record.image_id: arrays}, numbers={record.image_id: figures} if figures else {}
    )


def merged(parts: Sequence[ShardData]) -> ShardData:
    """The outputs of several images as one."""
    total = ShardData(arrays={})
    for part in parts:
        total.arrays.update(part.arrays)
        total.numbers.update(part.numbers)
        total.failures.update(part.failures)
        total.files.update(part.files)
    return total


def chunks(records: Sequence[ImageRecord], size: int) -> Iterator[Sequence[ImageRecord]]:
    """`size` records at a time."""
    for start in range(0, len(records), max(1, size)):
        yield records[start : start + max(1, size)]


def numbers_of(reports: Iterable[ShardReport], name: str) -> list[float]:
    """One figure of all images, or of the dataset, that have it."""
    return [row[name] for report in reports for row in report.numbers.values() if name in row]

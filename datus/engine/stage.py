"""What stage bodies are made of: where they run, what they read, how they go over images.

A body is `work(shard, inputs, advance) -> ShardData`. `per_image` makes one from a function of one
image. Images run in threads, each on one thread (module `threads`); one that cannot be used is
recorded while the others go on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datus.compute.threads import map_threads
from datus.config import Config
from datus.engine.workers import Advance
from datus.errors import ImageError, WorkError
from datus.inputs.index import UNREADABLE, Shard
from datus.inputs.safe_decode import reading
from datus.method.consistency import View, picture_of
from datus.types import WHOLE, Array, ImageRecord, ShardData

Arrays = Mapping[str, Array]
Inputs = Mapping[str, ShardData]
ShardWork = Callable[[Shard, Inputs, Advance], ShardData]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and how fast; never what."""

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
    view: View = ""
    """Of every image; what is stored is made of the images themselves."""


# --- reading ------------------------------------------------------------------------------------


def vit_image(config: Config, record: ImageRecord, size: tuple[int, int], view: View = "") -> Array:
    """uint8 (h, w, 3): the image, or a view of it, as the ViT sees it."""
    from datus.inputs.decode import resize_image

    return resize_image(picture_of(read_image(config, record), view), size)


def read_image(config: Config, record: ImageRecord) -> Array:
    """uint8 (H, W, 3). Raises ImageError if it cannot be decoded, WorkError if it changed."""
    from datus.inputs.decode import decode_image

    data = _read(Path(config.data.images) / record.path, record.sha256)
    with reading(config, record.sha256):
        return decode_image(data, config.data.max_pixels)


def read_truth(config: Config, record: ImageRecord) -> Array | None:
    """uint8 (H, W) ids as in the file, or None if the image has no true mask."""
    from datus.method.masks import decode_labels

    if record.truth_path is None:
        return None
    path, sha256 = Path(config.data.truth) / record.truth_path, record.truth_sha256 or ""
    try:
        if sha256.startswith(UNREADABLE):
            raise ImageError(sha256)
        data = _read(path, sha256)
        with reading(config, sha256):
            return decode_labels(data, config.data.max_pixels)
    except ImageError as error:
        raise ImageError(f"true mask {record.truth_path}: {error}") from None


def _read(path: Path, sha256: str) -> bytes:
    """The bytes that the index saw. WorkError: nothing is recorded, the shard is made again."""
    from datus.inputs.find import sha256_of

    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkError(f"{path}: {error.strerror}; run the same command again") from None
    if sha256_of(data) != sha256:
        raise WorkError(f"{path} changed during the run: run the same command again")
    return data


# --- the images of a shard ----------------------------------------------------------------------


def per_image(context: Context, function: Callable[[ImageRecord, Inputs], ShardData]) -> ShardWork:
    """Work that does each image on its own."""
    runtime = context.runtime

    def work(shard: Shard, inputs: Inputs, advance: Advance) -> ShardData:
        def one(record: ImageRecord) -> ShardData:
            try:
                return function(record, inputs)
            finally:
                advance(1)

        return each_image(shard.records, inputs, runtime.threads, one)

    return work


def each_image(
    records: Sequence[ImageRecord],
    inputs: Inputs,
    n_threads: int,
    function: Callable[[ImageRecord], ShardData],
) -> ShardData:
    """`function` on every image that all inputs have; ImageError is recorded, the others go on."""

    def one(record: ImageRecord) -> ShardData:
        try:
            return function(record)
        except ImageError as error:
            return ShardData(arrays={}, failures={record.image_id: str(error)})

    by_image = [data.arrays for data in inputs.values() if WHOLE not in data.arrays]
    usable = [r for r in records if all(r.image_id in arrays for arrays in by_image)]
    return merged(map_threads(one, usable, n_threads))


def one_image(
    record: ImageRecord, arrays: dict[str, Array], figures: dict[str, float] | None = None
) -> ShardData:
    """The output of one image."""
    return ShardData(
        arrays={record.image_id: arrays},
        numbers={record.image_id: figures} if figures else {},
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

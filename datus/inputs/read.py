"""Images and true masks of a run, as they were when the run looked at them first.

read_image(config, record)      uint8 (H, W, 3) RGB
read_truth(config, record)      uint8 (H, W) ids as in the file, or None
"""

from pathlib import Path

from datus.config import Config
from datus.errors import ImageError, WorkError
from datus.inputs.decode import decode_image
from datus.inputs.find import sha256_of
from datus.inputs.index import UNREADABLE
from datus.inputs.labels import decode_labels
from datus.inputs.safe_decode import reading
from datus.types import Array, ImageRecord


def read_image(config: Config, record: ImageRecord) -> Array:
    """uint8 (H, W, 3). Raises ImageError if it cannot be decoded, WorkError if it changed."""
    data = _read(Path(config.data.images) / record.path, record.sha256)
    with reading(config, record.sha256):
        return decode_image(data, config.data.max_pixels)


def read_truth(config: Config, record: ImageRecord) -> Array | None:
    """uint8 (H, W) ids as in the file, or None if the image has no true mask."""
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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkError(f"{path}: {error.strerror}; run the same command again") from None
    if sha256_of(data) != sha256:
        raise WorkError(f"{path} changed during the run: run the same command again")
    return data

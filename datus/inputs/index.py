"""The first stage: which images there are, what they hold, which shard each falls in.

In:  the folders of [data].
Out: Index: one ImageRecord for every usable image, in order of id; who cannot be used and why.

The index stands in the chain by content: sorted ids and hashes of the files' bytes. Touching a
file changes nothing; adding images changes only the shards they fall in. Shards are cut where the
hash of an image id says so (content-defined chunking), never by the number of workers.
"""

import dataclasses
import errno
import hashlib
import json
import stat
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

from datus.compute.threads import map_threads, n_cores
from datus.config import Config
from datus.errors import ImageError, StoreError, UsageError
from datus.inputs.decode import image_size
from datus.inputs.find import find_images, image_id_of, sha256_of
from datus.inputs.labels import find_labels, load_classes
from datus.inputs.safe_decode import Decoder
from datus.store.store import Store, canonical_json, sealed, unsealed
from datus.types import ImageRecord

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(name, total) -> a progress bar: with bar(...) as advance: advance(n)."""

UNREADABLE = "cannot be read: "
"""Before the reason, in place of the hash of a true mask that cannot be read."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Images that are worked on together."""

    key: str
    """12 hex digits of the hash of the ids and contents of its images."""
    records: tuple[ImageRecord, ...]
    truth_key: str = ""
    """The same of the key and the contents of its true masks; empty if it has none."""


@dataclass(frozen=True)
class Index:
    records: tuple[ImageRecord, ...]
    failures: dict[str, str]
    """image id -> reason."""
    n_other: int
    """Files that do not have the suffix of an image."""
    n_replaced: int = 0
    """Images that the last look saw, if none of them is among these. Not stored."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        by_key: dict[str, list[ImageRecord]] = {}
        for record in self.records:
            by_key.setdefault(record.shard, []).append(record)
        return tuple(
            Shard(key, tuple(records), _truth_key(key, records)) for key, records in by_key.items()
        )

    @cached_property
    def content(self) -> str:
        """Hash of all ids and contents, without truth."""
        return _hash([[r.image_id, r.sha256] for r in self.records])

    @cached_property
    def truth_content(self) -> str:
        return _hash([[r.image_id, r.truth_sha256] for r in self.records])


def check_inputs(config: Config) -> None:
    """Before anything is written. Raises UsageError: folders do not fit, a wrong class table."""
    folder = Path(config.data.images)
    if Path(config.run_path).resolve() == folder.resolve():
        raise UsageError(f"run_dir: {folder} is the folder of images: choose another --run-dir")
    _find_truth(config.data.truth, find_images(folder).paths)
    if config.data.truth:
        load_classes(Path(config.data.classes))


def make_index(config: Config, store: Store, bar: Bar, isolate: bool = False) -> Index:
    """Read every image once (again only if its size or time changed) and write RUN/index.

    isolate: headers are read in a child process first (`inputs.safe_decode`).
    """
    folder = Path(config.data.images)
    paths = find_images(folder)
    truths = _find_truth(config.data.truth, paths.paths)
    known = _known(store)

    def look(path: str) -> list[Any] | str:
        row = _look(folder / path, known.get(path), config.data.max_pixels, decoder)
        advance(1)
        return row

    child = Decoder(config.data.max_pixels, config.speed.decode_seconds) if isolate else None
    with bar("index", len(paths.paths)) as advance, child or nullcontext() as decoder:
        looked = map_threads(look, paths.paths, n_cores())
    by_path = dict(zip(paths.paths, looked, strict=True))
    seen = {path: row for path, row in by_path.items() if not isinstance(row, str)}
    failures = {image_id_of(path): row for path, row in by_path.items() if isinstance(row, str)}
    true_masks = _hash_truth(Path(config.data.truth), truths, known, seen)
    records = []
    for path in (path for path in paths.paths if path in seen):
        _, _, sha256, height, width = seen[path]
        true_mask = true_masks.get(image_id_of(path), (None, None))
        records.append(ImageRecord(image_id_of(path), path, height, width, sha256, "", *true_mask))
    shards = _sharded(records, config.data.shard_images)
    index = Index(shards, failures, paths.n_other, _n_replaced(known, records))
    _write(store, index, seen)
    return index


def _n_replaced(known: Mapping[str, Any], records: list[ImageRecord]) -> int:
    """How many images were here before, if all of them are gone: 0 as soon as one is the same."""
    if any(record.path in known and known[record.path][2] == record.sha256 for record in records):
        return 0
    before = {row[2] for path, row in known.items() if not path.startswith("truth:")}
    return 0 if any(record.sha256 in before for record in records) else len(before)


def read_index(store: Store) -> Index | None:
    """The index of the last run, or None."""
    try:
        lines, table = store.read("index", "index.jsonl"), store.read("index", "index.json")
    except FileNotFoundError:
        return None
    rest = unsealed(table, ("failures", "n_other", "records"), must=True)
    rest = rest or unsealed(table, ("failures", "n_other"))  # of an earlier version
    try:
        if rest is None or rest.get("records") not in (None, hashlib.sha256(lines).hexdigest()):
            raise ValueError("changed")
        records = tuple(ImageRecord(**json.loads(line)) for line in lines.decode().splitlines())
        return Index(records, dict(rest["failures"]), int(rest["n_other"]))
    except (ValueError, TypeError, RecursionError):
        raise StoreError(
            f"{store.address('index')} is damaged or half written: datus run makes it again"
        ) from None


def _look(
    path: Path, known: list[Any] | None, max_pixels: int, decoder: Decoder | None = None
) -> list[Any] | str:
    """[bytes, times, sha256, height, width] of an image, or the reason why it cannot be used."""
    try:
        stamp = _stamp(path)
        if known and known[:2] == stamp and known[3] * known[4] <= max_pixels:
            return known
        if decoder and (reason := decoder.reason("size", str(path))):
            return reason
        data = path.read_bytes()
        height, width = image_size(data, max_pixels)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"{UNREADABLE}{error.strerror}"
    return [*stamp, sha256_of(data), height, width]


def _stamp(path: Path) -> list[Any]:
    """[bytes, times] of a file. Raises OSError, also for a pipe: to read one could take forever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    # the time of change too: a copy that keeps the time of modification may have the same size
    return [status.st_size, [status.st_mtime_ns, status.st_ctime_ns]]


def _find_truth(folder: str, images: tuple[str, ...]) -> dict[str, str]:
    """image id -> relative path of its true mask, for the images that have one."""
    if not folder:
        return {}
    masks = find_labels(Path(folder))
    wanted = {image_id_of(path) for path in images}
    matched = {image_id: path for image_id, path in masks.items() if image_id in wanted}
    # disks and archives of some systems spell 'é' as 'e' and an accent: the same name to people
    spelled = {unicodedata.normalize("NFC", name): name for name in masks.keys() - matched.keys()}
    for image_id in sorted(wanted - matched.keys()):
        other = spelled.pop(unicodedata.normalize("NFC", image_id), None)
        if other is not None:
            matched[image_id] = masks[other]
    if not matched:
        example = image_id_of(images[0])
        raise UsageError(
            f"truth folder {folder}: none of its {len(masks)} masks has the name of an image; "
            f"expected for example {example}.png"
        )
    return matched


def _hash_truth(
    folder: Path, truths: Mapping[str, str], known: Mapping[str, Any], seen: dict[str, Any]
) -> dict[str, tuple[str, str]]:
    """image id -> (relative path, sha256); a mask that cannot be read hashes to its reason."""

    def look(relative: str) -> list[Any] | str:
        try:
            stamp, row = _stamp(folder / relative), known.get(f"truth:{relative}")
            if row and row[:2] == stamp:
                return list(row)
            return [*stamp, sha256_of((folder / relative).read_bytes())]
        except OSError as error:
            return f"{UNREADABLE}{error.strerror}"

    # side by side: what a file on a network takes is mostly waiting
    looked = map_threads(look, truths.values(), n_cores())
    hashes = {}
    for (image_id, relative), row in zip(truths.items(), looked, strict=True):
        if not isinstance(row, str):
            seen[f"truth:{relative}"] = row
        hashes[image_id] = (relative, row if isinstance(row, str) else row[2])
    return hashes


def _sharded(records: list[ImageRecord], mean_size: int) -> tuple[ImageRecord, ...]:
    """Cut after an image whose id hashes to 0, between half and twice the mean size."""
    records_of_shards: list[ImageRecord] = []
    shard: list[ImageRecord] = []
    half = max(1, mean_size // 2)
    for position, record in enumerate(records):
        shard.append(record)
        full = len(shard) >= 2 * mean_size
        marked = len(shard) >= half and crc32(record.image_id.encode()) % half == 0
        if full or marked or position == len(records) - 1:
            key = _hash([[r.image_id, r.sha256] for r in shard])[:12]
            records_of_shards.extend(dataclasses.replace(r, shard=key) for r in shard)
            shard = []
    return tuple(records_of_shards)


def _truth_key(key: str, records: list[ImageRecord]) -> str:
    hashes = [r.truth_sha256 for r in records]
    return _hash([key, hashes])[:12] if any(hashes) else ""


def _known(store: Store) -> dict[str, Any]:
    """What the last look saw: path -> [bytes, times, sha256, ...]. Lost or torn: look again."""
    try:
        table = unsealed(store.read("index", "seen.json"), ("rows",), must=True)
    except FileNotFoundError:
        return {}
    rows = table["rows"] if table and isinstance(table["rows"], dict) else {}
    return {path: row for path, row in rows.items() if _is_seen(row)}


def _is_seen(row: Any) -> bool:
    """[bytes, times, sha256], of images [..., height, width] too; a seal may hold on anything."""
    is_list = isinstance(row, list) and len(row) in (3, 5) and isinstance(row[2], str)
    return is_list and all(type(side) is int for side in row[3:])


def _write(store: Store, index: Index, seen: Mapping[str, Any]) -> None:
    """Each file only if it changed, so that a second run writes nothing."""
    lines = "".join(
        json.dumps(dataclasses.asdict(record), sort_keys=True) + "\n" for record in index.records
    )
    rest = {"failures": index.failures, "n_other": index.n_other}
    rest["records"] = hashlib.sha256(lines.encode()).hexdigest()
    files = (
        ("index.jsonl", lines.encode()),
        ("index.json", canonical_json(sealed(rest)) + b"\n"),
        ("seen.json", canonical_json(sealed({"rows": seen}))),
    )
    for name, content in files:
        try:
            same = store.read("index", name) == content
        except FileNotFoundError:
            same = False
        if not same:
            store.write(content, "index", name)


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()

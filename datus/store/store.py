"""Run folders: content-addressed stages, shards written whole or not at all, reports, locks.

    RUN/index/index.jsonl                       one ImageRecord a line
    RUN/STAGE/FINGERPRINT/stage.json            the hashed recipe; beside it, unhashed, what ran it
    RUN/STAGE/FINGERPRINT/shard-KEY.safetensors arrays, named ROW/NAME
    RUN/STAGE/FINGERPRINT/shard-KEY.json        written last = done: images, failures, figures
    RUN/STAGE/FINGERPRINT/files/...             outputs that are files of their own (mask PNGs)

A file appears under its name only when it is complete and on disk (temporary name in the same
folder, fsync, rename). Metadata lives in the JSON: safetensors headers do not keep its order. Paths
go through fsspec, so a run folder can be on an object store, where one put is atomic already.
"""

import errno
import hashlib
import json
import os
import socket
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from datus.errors import CorruptShard, StoreError, WorkError
from datus.store import leftovers, whole_file
from datus.store.array_file import NO_ARRAYS, pack, read_writable, sync_folder, unpack
from datus.store.disk import RUN_DIR, explained
from datus.store.remote import Patient, opened
from datus.store.whole_file import TEMPORARY
from datus.types import ShardData


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same value: sorted keys, no spaces, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode()


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of a recipe."""
    return hashlib.sha256(canonical_json(recipe)).hexdigest()[:16]


DATASET_KEY = "all"
"""The shard key of stages that work on the whole dataset."""

Pieces = Sequence[bytes | memoryview]
"""A file, in parts that follow one another."""

SEAL = "seal"
"""In a stored table: sha256 of the rest of it, so that a flipped bit is seen."""


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with its seal. Seconds are not under it: no two runs have the same."""
    lasting = {name: value for name, value in table.items() if name not in (SEAL, "seconds")}
    return {**table, SEAL: _sha256(canonical_json(lasting))}


def unsealed(data: bytes, names: Iterable[str], must: bool = False) -> dict[str, Any] | None:
    """The table in `data` without its seal; None if it is torn, changed or has other `names`.

    A table without a seal passes unless it `must` have one: versions before the seal wrote such.
    """
    try:
        table = json.loads(data)
        seal = table.pop(SEAL, None)
        proper = (sealed(table)[SEAL],) if must else (sealed(table)[SEAL], None)
        whole = table.keys() == set(names) and seal in proper
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    return table if whole else None


REPORT = ("images", "numbers", "failures", "files", "stored", "sha256", "n_bytes", "seconds")
"""Names in the report of a shard."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What is known of a finished shard without reading its arrays."""

    images: tuple[str, ...]
    numbers: dict[str, dict[str, float]]
    failures: dict[str, str]
    files: dict[str, tuple[int, str]]
    """Relative path -> (bytes, sha256)."""
    stored: bool
    """False: made in memory (`keep = false`); it can be made again but not read."""
    sha256: str
    n_bytes: int
    seconds: float


class Store:
    """One run folder. All methods raise StoreError with the cure."""

    def __init__(self, root: str | Path, option: str = RUN_DIR) -> None:
        """option: the one that names the folder, for errors; see `explained`."""
        self.fs, self.root = opened(str(root))
        self._option = option
        self.is_local = not isinstance(self.fs, Patient)
        self.url = self.root if self.is_local else str(self.fs.unstrip_protocol(self.root))
        """Leads back here from another process; `root` does not say which file system."""

    def path(self, *parts: str) -> str:
        if any(part.startswith("/") or ".." in part.split("/") for part in parts):
            raise StoreError(f"{'/'.join(parts)!r} is not a place in the run folder")
        return "/".join((self.root.rstrip("/"), *parts))

    def address(self, *parts: str) -> str:
        """The same for people and other processes: with s3:// and the like before it."""
        return self.path(*parts) if self.is_local else "/".join((self.url.rstrip("/"), *parts))

    # --- files ---------------------------------------------------------------------------------

    def exists(self, *parts: str) -> bool:
        return bool(self.fs.exists(self.path(*parts)))

    def size(self, *parts: str) -> int:
        """Bytes of a file; -1 if there is none, or none can have that name."""
        try:
            return int(self.fs.size(self.path(*parts)))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return -1
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return -1
            raise

    def read(self, *parts: str, n_bytes: int = 0) -> bytes:
        """Raises FileNotFoundError if there is no such file. n_bytes: about so many, if known."""
        path = self.path(*parts)
        with explained(path, "read", self._option):
            read = self.fs.cat_file if self.is_local else self.fs.read
            return bytes(read(path) if self.is_local else read(path, n_bytes))

    def read_writable(self, *parts: str, n_bytes: int = 0) -> memoryview:
        """The same, for arrays that lie in it: torch wants memory that could be written to."""
        path = self.path(*parts)
        if not self.is_local:
            return memoryview(bytearray(self.read(*parts, n_bytes=n_bytes)))
        with explained(path, "read", self._option):
            return read_writable(path)

    def write(self, data: bytes, *parts: str) -> None:
        """The whole file or nothing, on disk when this returns."""
        self._write([data], *parts)
        self._sync_folders([self.path(*parts)])

    def _write(self, pieces: Pieces, *parts: str) -> str:
        """The same, but the name is on disk only after `_sync_folders`. Returns the path."""
        path = self.path(*parts)
        with explained(path, "write", self._option):
            if self.is_local:
                leftovers.note(self.root, parts)
                _write_local(Path(path), pieces)
            else:
                self.fs.pipe_file(path, b"".join(pieces))
        return path

    def _sync_folders(self, paths: Iterable[str]) -> None:
        """Bring the names of files to the disk: once a folder, not once a file."""
        folders = {os.path.dirname(path): path for path in paths} if self.is_local else {}
        for folder, path in folders.items():
            with explained(path, "write", self._option):
                sync_folder(folder)

    def remove(self, *parts: str) -> None:
        """A file or a folder and all below it; nothing if it is not there."""
        path = self.path(*parts)
        with explained(path, "remove", self._option), suppress(FileNotFoundError):
            self.fs.rm(path, recursive=True)

    def folders(self, *parts: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        return sorted(self._names("directory", *parts))

    def files(self, *parts: str) -> list[str]:
        """Names of the files in a folder, sorted."""
        return sorted(self._names("file", *parts))

    def sizes(self, *parts: str) -> dict[str, int]:
        """Name -> bytes of the files in a folder: one request for a thousand of them."""
        return self._names("file", *parts)

    def _names(self, kind: str, *parts: str) -> dict[str, int]:
        path = self.path(*parts)
        try:
            entries = self.fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        below = ((one["name"].rstrip("/"), one) for one in entries if one["type"] == kind)
        return {
            name.rsplit("/", 1)[1]: int(one["size"] or 0) for name, one in below if name != path
        }

    def disk_bytes(self, *parts: str) -> int:
        """Bytes of all files below a folder."""
        path = self.path(*parts)
        return int(self.fs.du(path)) if self.fs.exists(path) else 0

    def sweep_temporary(self, everywhere: bool = False) -> None:
        """Remove what killed writers left (`store.leftovers`). Only while holding the lock."""
        if self.is_local and Path(self.root).is_dir():
            with explained(self.root, "write", self._option):
                leftovers.sweep(self.root, everywhere)

    # --- stages --------------------------------------------------------------------------------

    def write_recipe(self, stage: str, fingerprint: str, recipe: Mapping[str, Any]) -> None:
        """stage.json, once; again if it was damaged."""
        if self._recipe(stage, fingerprint) is None:
            from datus.version import __version__

            unhashed = {
                "datus": __version__,
                "python": sys.version.split()[0],
                "numpy": np.__version__,
                "host": socket.gethostname(),
            }
            table = sealed({"recipe": recipe, "unhashed": unhashed})
            text = json.dumps(table, indent=1, sort_keys=True)
            self.write(text.encode() + b"\n", stage, fingerprint, "stage.json")

    def _recipe(self, stage: str, fingerprint: str) -> Any:
        """What stage.json says; None if it is not there or damaged."""
        try:
            data = self.read(stage, fingerprint, "stage.json")
        except FileNotFoundError:
            return None
        return (unsealed(data, ("recipe", "unhashed")) or {}).get("recipe")

    def recipes(self, stage: str) -> list[tuple[str, dict[str, Any]]]:
        """(fingerprint, recipe) of every stored version of a stage, newest first."""
        found = []
        for fingerprint in self.folders(stage):
            recipe = self._recipe(stage, fingerprint)
            if isinstance(recipe, dict):
                found.append((self._written(stage, fingerprint, "stage.json"), fingerprint, recipe))
        return [
            (fingerprint, recipe)
            for _, fingerprint, recipe in sorted(found, key=lambda f: f[:2])[::-1]
        ]

    def _written(self, *parts: str) -> float:
        """When a file was written, in seconds; 0 where nobody knows."""
        if self.is_local:
            return float(self.fs.info(self.path(*parts)).get("mtime", 0.0))
        try:
            return float(self.fs.modified(self.path(*parts)).timestamp())
        except (NotImplementedError, AttributeError, KeyError):
            return 0.0

    def report(
        self, stage: str, fingerprint: str, key: str, files: bool = True
    ) -> ShardReport | None:
        """The report of a finished shard, or None. files: only if all have the right size."""
        try:
            table = unsealed(self.read(stage, fingerprint, f"shard-{key}.json"), REPORT) or {}
            report = ShardReport(
                images=tuple(table["images"]),
                numbers=table["numbers"],
                failures=table["failures"],
                files={name: (size, digest) for name, (size, digest) in table["files"].items()},
                stored=table["stored"],
                sha256=table["sha256"],
                n_bytes=table["n_bytes"],
                seconds=table["seconds"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not files:
            return report
        if (
            report.stored
            and self.size(stage, fingerprint, f"shard-{key}.safetensors") != report.n_bytes
        ):
            return None
        if any(
            self.size(stage, fingerprint, "files", f) != size
            for f, (size, _) in report.files.items()
        ):
            return None
        return report

    def write_shard(
        self, place: tuple[str, str, str], data: ShardData, seconds: float, keep: bool
    ) -> None:
        """Files, then arrays, then the report that says done. `place` = (stage, mark, key)."""
        stage, fingerprint, key = place
        self._sync_folders(
            [
                self._write([content], stage, fingerprint, "files", name)
                for name, content in data.files.items()
            ]
        )
        images = sorted(data.arrays)
        packed = pack(images, data.arrays) if keep else []
        if keep:
            self._write(
                packed, stage, fingerprint, f"shard-{key}.safetensors"
            )  # its name: with the report's
        table = {
            "images": images,
            "numbers": data.numbers,
            "failures": data.failures,
            "files": data.written
            | {n: (len(file), _sha256(file)) for n, file in data.files.items()},
            "stored": keep,
            "sha256": _sha256(*packed),
            "n_bytes": sum(map(len, packed)),
            "seconds": round(seconds, 3),
        }
        text = json.dumps(sealed(table), indent=1, sort_keys=True, allow_nan=False)
        self.write(text.encode() + b"\n", stage, fingerprint, f"shard-{key}.json")

    def read_shard(self, place: tuple[str, str, str], files: bool = True) -> ShardData | None:
        """A stored shard or None. Raises CorruptShard if its bytes changed. files: see `report`."""
        stage, fingerprint, key = place
        # from afar: who reads a file need not ask for its size first
        report = self.report(stage, fingerprint, key, files and self.is_local)
        if report is None or not report.stored:
            return None
        name = f"shard-{key}.safetensors"
        try:
            packed = self.read_writable(stage, fingerprint, name, n_bytes=report.n_bytes)
        except FileNotFoundError:
            raise CorruptShard(f"{stage}: the arrays of shard {key} are gone") from None
        if _sha256(packed) != report.sha256:
            raise CorruptShard(f"{stage}: shard {key} does not match its checksum")
        try:
            arrays = unpack(report.images, packed)
        except NO_ARRAYS as error:
            raise CorruptShard(f"{stage}: shard {key} cannot be read: {error}") from None
        return ShardData(arrays=arrays, numbers=report.numbers, failures=report.failures)

    def read_file(self, place: tuple[str, str, str], name: str) -> bytes:
        """A file that a shard has beside its arrays.

        Raises WorkError if it is not as it was written; the next run makes the shard again then.
        """
        stage, fingerprint, key = place
        report = self.report(stage, fingerprint, key, files=False)
        try:
            data = self.read(stage, fingerprint, "files", name)
        except FileNotFoundError:
            data = b""
        if report is None or report.files.get(name) != (len(data), _sha256(data)):
            self.forget_shard(place)
            raise WorkError(f"{stage}: {name} was damaged and is gone: run the same command again")
        return data

    def forget_shard(self, place: tuple[str, str, str]) -> None:
        """The report goes first: a half-removed shard must not look finished."""
        stage, fingerprint, key = place
        self.remove(stage, fingerprint, f"shard-{key}.json")
        self.remove(stage, fingerprint, f"shard-{key}.safetensors")

    # --- one process at a time -----------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder. The system frees the lock when its owner dies, however it dies."""
        if not self.is_local:
            yield
            return
        owner = Path(self.root) / "owner.json"
        with explained(self.root, "write", self._option):
            Path(self.root).mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(Path(self.root) / ".lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise StoreError(in_use(self.root)) from None
        try:
            me = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
            self.write(me.encode(), "owner.json")
            yield
        finally:
            with suppress(OSError):  # a disk that broke under us: its own error says more
                owner.unlink(missing_ok=True)
            lock.release()


def in_use(root: str) -> str:
    """What is said to those that find the run folder locked."""
    try:
        table = json.loads((Path(root) / "owner.json").read_text(encoding="utf-8"))
        who = f"process {table['pid']} on {table['host']}"
    except FileNotFoundError:
        who = "shares of a run (--shards)"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return f"{root} is in use by {who}: wait for it, stop it, or choose another --run-dir"


def _write_local(path: Path, pieces: Pieces) -> None:
    whole_file.write(path, pieces, f"{TEMPORARY}{uuid.uuid4().hex}")


def _sha256(*pieces: bytes | memoryview) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()

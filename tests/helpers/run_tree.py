"""What a run folder holds, to compare two runs byte by byte."""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import fsspec


def tree(run_dir: Path) -> dict[str, str]:
    """Every file by the hash of its content; times, owners, links and notes left out."""
    paths = ((path, path.relative_to(run_dir).as_posix()) for path in sorted(run_dir.rglob("*")))
    return _hashes((name, path.read_bytes()) for path, name in paths if path.is_file())


def tree_at(address: str) -> dict[str, str]:
    """The same of a run folder on an object store."""
    fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
    return _hashes((path.removeprefix(f"{root}/"), fs.cat_file(path)) for path in fs.find(root))


def _hashes(files: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    found = {}
    for name, data in files:
        content = data
        if name in (".lock", "owner.json") or name.startswith(("latest/", "writing/")):
            continue
        if name.rpartition("/")[2].startswith("shard-") and name.endswith(".json"):
            table = json.loads(data)
            table.pop("seconds")
            content = json.dumps(table, sort_keys=True).encode()
        found[name] = sha256(content).hexdigest()
    return found

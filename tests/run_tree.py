"""What a run folder holds, to compare two runs byte by byte."""

import json
from hashlib import sha256
from pathlib import Path


def tree(run_dir: Path) -> dict[str, str]:
    """Every file by the hash of its content; times, owners and links left out."""
    found = {}
    for path in sorted(run_dir.rglob("*")):
        name = path.relative_to(run_dir).as_posix()
        if not path.is_file() or name in (".lock", "owner.json") or name.startswith("latest/"):
            continue
        content = path.read_bytes()
        if path.name.startswith("shard-") and path.suffix == ".json":
            table = json.loads(content)
            table.pop("seconds")
            content = json.dumps(table, sort_keys=True).encode()
        found[name] = sha256(content).hexdigest()
    return found

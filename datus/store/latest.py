"""RUN/latest: what the last run made, by names that stay.

    point(store, "masks-k12", "masks", MARK, "files")    RUN/latest/masks-k12 leads there
    pointed(store, "report")                             the fingerprint that it leads to
    last_finished(store, "report")                       fingerprint and recipe of the last one

Links on a local disk; on an object store, which has none, small files with the target in them.
"""

import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from datus.errors import StoreError
from datus.store.store import DATASET_KEY, Store
from datus.store.whole_file import TEMPORARY

FOLDER = "latest"


def point(store: Store, name: str, *target: str) -> str:
    """Its path, or where it leads on file systems without links and on object stores.

    Raises StoreError where a folder is in its place: it would be taken for what was made last.
    """
    path = store.address(*target)
    if not store.is_local:
        text = "/".join(target)
        if _text(store, name) != text:
            store.write(text.encode(), FOLDER, name)
        return path
    link = Path(store.root) / FOLDER / name
    if link.is_dir() and not link.is_symlink():
        raise StoreError(
            f"{link}: a folder where a link belongs, as a copy without links makes it: remove "
            f"{link.parent} and run the same command again; all that was made is kept"
        )
    fresh = link.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        link.parent.mkdir(exist_ok=True)
        fresh.symlink_to(os.path.relpath(path, link.parent))
        fresh.replace(link)
    except OSError:  # a file system without links: the path itself is as good
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        return path
    return str(link)


def target(store: Store, name: str) -> list[str]:
    """What `point` was given, on an object store."""
    return _text(store, name).split("/")


def pointed(store: Store, name: str) -> str:
    """Fingerprint of what RUN/latest/NAME leads to; empty where there is no such name."""
    if not store.is_local:
        return [*target(store, name), ""][1]
    link = Path(store.root) / FOLDER / name
    return link.resolve().parent.name if link.exists() else ""


def last_finished(store: Store, stage: str) -> tuple[str, dict[str, Any]] | None:
    """(fingerprint, recipe) of the last finished output of a stage over the dataset: the one that
    RUN/latest shows, or else the newest; None where there is none."""
    recipes = {
        fingerprint: recipe for fingerprint, recipe in store.recipes(stage) if is_recipe(recipe)
    }
    for fingerprint in (pointed(store, stage), *recipes):
        if fingerprint in recipes and store.report(stage, fingerprint, DATASET_KEY) is not None:
            return fingerprint, recipes[fingerprint]
    return None


def is_recipe(recipe: Any) -> bool:
    """A table with the parts of a recipe; its checksum may hold for any other table, too."""
    upstream = recipe.get("upstream") if isinstance(recipe, dict) else None
    return (
        isinstance(upstream, dict)
        and all(isinstance(fingerprint, str) for fingerprint in upstream.values())
        and isinstance(recipe.get("settings"), dict)
        and type(recipe.get("version")) is int
    )


def names(store: Store) -> list[str]:
    """What is in RUN/latest, sorted."""
    if not store.is_local:
        return store.files(FOLDER)
    return sorted(link.name for link in (Path(store.root) / FOLDER).glob("*"))


def _text(store: Store, name: str) -> str:
    try:
        return store.read(FOLDER, name).decode(errors="replace")
    except FileNotFoundError:
        return ""

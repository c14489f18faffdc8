"""Which format a path holds, told by its content, and the reader for it.

    open_corrections(path)     -> Corrections

A path is a folder, a zip or a JSON file.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from datus.errors import UsageError
from datus.formats.coco import is_coco, read_coco
from datus.formats.files import Files, open_files
from datus.formats.labelstudio import is_tasks, read_tasks
from datus.formats.pngs import CLASS_MASKS, CVAT_ARCHIVE, LABELMAP, read_labelmap, read_labels
from datus.formats.records import Corrections
from datus.inputs.labels import LABEL_SUFFIXES

EXPECTED = (
    "expected label PNGs, COCO instances or panoptic, CVAT's Segmentation mask 1.1, "
    "or Label Studio's JSON: docs/corrections.md"
)


def open_corrections(path: Path) -> Corrections:
    """Raises UsageError: nothing there, no format that is read, more than one."""
    corrections = _read(path)
    if not corrections.images:
        raise UsageError(
            f"corrections: {path}: {corrections.format} without a single image: {EXPECTED}"
        )
    return corrections


def _read(path: Path) -> Corrections:
    files = open_files(path)
    if CVAT_ARCHIVE in files.names:
        files = open_files(path / CVAT_ARCHIVE)
    roots = _labelmaps(files)
    if roots:
        return read_labelmap(files, _only(path, LABELMAP, roots))
    tables = {name: table for name in _candidates(files) if (table := _table(files, name))}
    if tables:
        name = _only(path, "annotation file", list(tables))
        read = read_tasks if isinstance(tables[name], list) else read_coco
        return read(files, name, tables[name])
    if files.below("", LABEL_SUFFIXES):
        return read_labels(files, _png_root(files))
    raise UsageError(f"corrections: {path}: nothing in it that is read: {EXPECTED}")


def _only(path: Path, what: str, names: list[str]) -> str:
    if len(names) > 1:
        listed = ", ".join(sorted(names)[:4])
        raise UsageError(f"corrections: {path}: more than one {what}: {listed}; keep one")
    return names[0]


def _labelmaps(files: Files) -> list[str]:
    """Folders that hold a labelmap and masks."""
    folders = [_parent(name) for name in files.names if PurePosixPath(name).name == LABELMAP]
    masks = f"/{CLASS_MASKS}"
    return [one for one in folders if files.below(f"{one}{masks}".strip("/"), (".png",))]


def _candidates(files: Files) -> list[str]:
    """JSON files that may hold annotations: on top, or in a folder of that name."""
    return [
        name
        for name in files.names
        if name.lower().endswith(".json")
        and _parent(name) in ("", "annotations")
        and PurePosixPath(name).name not in ("classes.json", "labels.json")
    ]


def _table(files: Files, name: str) -> Any:
    """The JSON if it is of a known kind, else None."""
    table = files.json(name)
    first = table[0] if isinstance(table, list) and table else None
    if isinstance(first, dict) and "image" in first and "data" not in first:
        raise UsageError(
            f"corrections: {files.where(name)}: this is Label Studio's JSON-MIN, which leaves out "
            "the sizes: export as JSON"
        )
    return table if is_coco(table) or is_tasks(table) else None


def _png_root(files: Files) -> str:
    """The folder of the class file, in a zip perhaps one further down; else the top."""
    for name in files.names:
        if PurePosixPath(name).name in ("classes.json", "classes.txt"):
            return _parent(name)
    return ""


def _parent(name: str) -> str:
    """Empty for what lies on top."""
    return name.rpartition("/")[0]

"""Export a finished run to every format, read it back with the tools it is for, compare pixels.

    python benchmarks/roundtrip.py RUN --images FOLDER --results rows.json --page docs/export.md

The importers want environments that exclude one another, so run it in each: rows of --results of
tools that are not installed here stay as they are. --page replaces the table between its two marks.
fiftyone needs a database: FIFTYONE_DATABASE_URI.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from importers import MODULES, QUIET, READERS, Reader  # noqa: E402

from datus.formats.export import Request, export_run, find_masks  # noqa: E402
from datus.formats.formats import find_format  # noqa: E402
from datus.formats.records import Options  # noqa: E402
from datus.inputs.labels import decode_labels  # noqa: E402
from datus.store.store import Store  # noqa: E402

BEGIN, END = "<!-- round trips -->", "<!-- end of round trips -->"


def main() -> None:
    os.environ.update(QUIET)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--k", type=int, default=0)
    parser.add_argument("--denoised", action="store_true")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    rows = json.loads(given.results.read_text()) if given.results.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, readers in READERS.items():
            here = [one for one in readers if importlib.util.find_spec(MODULES[one])]
            if here:
                folder = Path(temporary) / name.replace(" ", "")
                counts = export(given, name, folder)
            for package in here:
                work = Path(temporary) / f"{folder.name}-{package}"
                work.mkdir()
                row = try_reader(readers[package], folder, work, truth_of(given))
                print(name, package, row, flush=True)
                if row:
                    rows[f"{name}|{package}"] = {"version": version_of(package), **counts, **row}
    given.results.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    if given.page:
        put_table(given.page, table(rows))


def export(given: Any, name: str, folder: Path) -> dict[str, int]:
    """What the command `datus export --to NAME` does."""
    word, *more = name.split()
    store = Store(given.run)
    masks = find_masks(store, given.k, given.denoised)
    options = Options(polygons="--polygons" in more)
    done = export_run(
        store, masks, Request(word, find_format(word), options, folder, "", given.images)
    )
    return {"images": done.n_images}


def truth_of(given: Any) -> dict[str, Any]:
    """image id -> uint8 (H, W): the masks as the run wrote them."""
    store = Store(given.run)
    masks = find_masks(store, given.k, given.denoised)
    found = {}
    for record in masks.index.records:
        data = store.read(masks.stage, masks.fingerprint, "files", f"{record.image_id}.png")
        found[record.image_id] = decode_labels(data, record.height * record.width)
    return found


def try_reader(reader: Reader, folder: Path, work: Path, truth: dict[str, Any]) -> dict[str, Any]:
    try:
        found = reader(folder, work)
    except ModuleNotFoundError as error:
        print(f"not run: {error}")
        return {}
    except Exception as error:  # a table of what works lists what does not
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    total = sum(mask.size for mask in truth.values())
    same = sum(
        int((found[one] == mask).sum())
        for one, mask in truth.items()
        if found.get(one) is not None and found[one].shape == mask.shape
    )
    return {"found": len(found), "same": same, "pixels": total}


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(importlib.import_module(MODULES[package]), "__version__", "?"))


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| format | read by | version | images | identical pixels |", "|---|---|---|---|---|"]
    for name, readers in READERS.items():
        for package in readers:
            row = rows.get(f"{name}|{package}")
            if row is None:
                lines.append(f"| {name} | {package} | not run | | |")
            elif "error" in row:
                lines.append(f"| {name} | {package} | {row['version']} | | {row['error']} |")
            else:
                share = "all" if row["same"] == row["pixels"] else f"{row['same']:,}"
                pixels = f"{share} of {row['pixels']:,}"
                images = f"{row['found']} of {row['images']}"
                lines.append(f"| {name} | {package} | {row['version']} | {images} | {pixels} |")
    return "\n".join(lines) + "\n"


def put_table(page: Path, text: str) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    np.seterr(all="raise")
    main()

"""hf: Parquet files that `datasets.load_dataset` reads, with images, masks and class names.

    data/train-00000.parquet ...     image_id, image, mask, classes
    id2label.json, README.md         what the values mean; the README is the dataset's card

image and mask are files inside the table, in the `Image` layout of Hugging Face datasets. A mask
is an 8-bit PNG, 0..C-1 are classes, 255 is no label. `classes` lists those that are in the mask, by
name, also where a class has no pixels anywhere. Needs pyarrow (the extra `exports`).
"""

import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datus.errors import MissingPackage
from datus.formats.folder import put, write_json
from datus.formats.records import Classes, Item, Options
from datus.method.label_png import encode_png
from datus.types import IGNORE

ROW_BYTES = 32_000_000
"""Of a row group, which is what lies in memory at a time."""
FILE_BYTES = 500_000_000
"""Of a file; the hub shows larger ones badly."""


def write_parquet(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """Raises MissingPackage where pyarrow is not installed."""
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingPackage("hf needs pyarrow: pip install 'datus[exports]'") from None
    (folder / "data").mkdir()
    schema = _schema(pyarrow, classes)
    file, file_bytes, n_files, n_rows = None, 0, 0, 0
    try:
        for rows, n_bytes in _row_groups(items, classes):
            if file is None:
                name = f"train-{n_files:05d}.parquet"
                file, n_files = parquet.ParquetWriter(folder / "data" / name, schema), n_files + 1
            file.write_table(pyarrow.Table.from_pylist(rows, schema))
            n_rows, file_bytes = n_rows + len(rows), file_bytes + n_bytes
            if file_bytes >= FILE_BYTES:
                file.close()
                file, file_bytes = None, 0
    finally:
        if file is not None:
            file.close()
    write_json(folder / "id2label.json", {str(i): name for i, name in enumerate(classes.names)})
    put(folder, "README.md", _card(classes, n_rows).encode())


def _row_groups(
    items: Iterable[Item], classes: Classes
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """(rows, bytes of their images and masks), ROW_BYTES or a little more at a time. At least one
    group, without rows if there are no items."""
    rows, n_bytes, n_groups = list[dict[str, Any]](), 0, 0
    for item in items:
        rows.append(_row(item, classes))
        n_bytes += len(rows[-1]["image"]["bytes"]) + len(rows[-1]["mask"]["bytes"])
        if n_bytes >= ROW_BYTES:
            yield rows, n_bytes
            rows, n_bytes, n_groups = [], 0, n_groups + 1
    if rows or not n_groups:
        yield rows, n_bytes


def _schema(pyarrow: Any, classes: Classes) -> Any:
    file = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    labels = pyarrow.list_(pyarrow.int64())
    fields = [("image_id", pyarrow.string()), ("image", file), ("mask", file), ("classes", labels)]
    features = {
        "image_id": {"dtype": "string", "_type": "Value"},
        "image": {"_type": "Image"},
        "mask": {"_type": "Image"},
        "classes": {
            "feature": {"names": [*classes.names], "_type": "ClassLabel"},
            "_type": "Sequence",  # the name that versions before 4 know; later ones read it too
        },
    }
    return pyarrow.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _row(item: Item, classes: Classes) -> dict[str, Any]:
    mask = encode_png(item.labels, classes.colours)
    return {
        "image_id": item.image_id,
        "image": {"bytes": item.image or b"", "path": item.file_name},
        "mask": {"bytes": mask, "path": f"{item.image_id}.png"},
        "classes": np.unique(item.labels[item.labels != IGNORE]).tolist(),
    }


def _card(classes: Classes, n_rows: int) -> str:
    rows = [
        f"| {i} | {name.replace('|', chr(92) + '|')} |\n" for i, name in enumerate(classes.names)
    ]
    return (
        "---\ntask_categories:\n- image-segmentation\nconfigs:\n- config_name: default\n"
        "  data_files:\n  - split: train\n    path: data/train-*\n---\n\n"
        f"{n_rows} images with masks made by DatUS. Values of `mask`: 255 is no label.\n\n"
        f"| value | class |\n|---|---|\n{''.join(rows)}"
    )

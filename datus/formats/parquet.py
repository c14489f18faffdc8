"""hf: Parquet files that `datasets.load_dataset` reads, with images, masks and class names.

    data/train-00000.parquet ...     image_id, image, mask, classes
    id2label.json, README.md         what the values mean; the README is the dataset's card

image and mask are files inside the table, in the `Image` layout of Hugging Face datasets. A mask
is an 8-bit PNG, 0..C-1 are classes, 255 is no label. `classes` lists those that are in the mask, by
name, also where a class has no pixels anywhere. Needs pyarrow (the extra `exports`).
"""

import importlib
import json
from collections.abc import Iterable
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
    writer = _Writer(folder, _schema(pyarrow, classes), pyarrow, parquet)
    try:
        for item in items:
            writer.add(_row(item, classes))
    finally:
        writer.close()
    write_json(folder / "id2label.json", {str(i): name for i, name in enumerate(classes.names)})
    put(folder, "README.md", _card(classes, writer.n_rows).encode())


class _Writer:
    """Rows to files of bounded size, in groups of bounded size."""

    def __init__(self, folder: Path, schema: Any, pyarrow: Any, parquet: Any) -> None:
        self._folder, self._schema = folder / "data", schema
        self._pyarrow, self._parquet = pyarrow, parquet
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = self._file_bytes = self._n_files = self.n_rows = 0
        self._file: Any = None
        self._folder.mkdir()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self.n_rows += 1
        self._row_bytes += len(row["image"]["bytes"]) + len(row["mask"]["bytes"])
        if self._row_bytes >= ROW_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            path = self._folder / f"train-{self._n_files:05d}.parquet"
            self._file = self._parquet.ParquetWriter(path, self._schema)
            self._n_files += 1
        self._file.write_table(self._pyarrow.Table.from_pylist(self._rows, self._schema))
        self._file_bytes += self._row_bytes
        self._rows, self._row_bytes = [], 0
        if self._file_bytes >= FILE_BYTES:
            self._file.close()
            self._file, self._file_bytes = None, 0

    def close(self) -> None:
        if self._rows or not self._n_files:
            self._flush()
        if self._file is not None:
            self._file.close()


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

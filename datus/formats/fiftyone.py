"""fiftyone: a FiftyOneDataset on disk, read by `fiftyone.Dataset.from_dir`.

    data/ID.jpg                      the images
    fields/segmentation/ID.png       1..C are classes, 255 is no label
    samples.json, metadata.json      samples, and what the values mean

0 is background to FiftyOne and is never drawn, so classes begin at 1; 255 is named "ignore".
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datus.errors import UsageError
from datus.formats.folder import put, write_json, write_rows
from datus.formats.records import Classes, Item, Options
from datus.method.label_png import encode_png
from datus.types import IGNORE

FIELD = "segmentation"


def write_fiftyone(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """Raises UsageError for more than 254 classes."""
    n_classes = len(classes.names)
    if n_classes > IGNORE - 1:
        raise UsageError(f"fiftyone: expected at most {IGNORE - 1} classes, got {n_classes}")
    with (folder / "samples.json").open("w", encoding="utf-8") as file:
        file.write('{"samples": [')
        write_rows(file, (_write_sample(folder, item) for item in items))
        file.write("\n]}\n")
    targets = {str(label + 1): name for label, name in enumerate(classes.names)}
    info = {
        "classes": {FIELD: [*classes.names]},
        "mask_targets": {FIELD: {**targets, str(IGNORE): "ignore"}},
        "info": options.about or {},
    }
    # no "version": that would promise every field of one FiftyOne release
    write_json(folder / "metadata.json", {"media_type": "image", "info": info})


def _write_sample(folder: Path, item: Item) -> dict[str, Any]:
    """The row of samples.json; image and mask are written."""
    path, mask_path = f"data/{item.file_name}", f"fields/{FIELD}/{item.image_id}.png"
    labels = np.where(item.labels == IGNORE, IGNORE, item.labels + np.uint8(1)).astype(np.uint8)
    put(folder, path, item.image or b"")
    # in grey: FiftyOne takes a palette for three channels
    put(folder, mask_path, encode_png(labels))
    mask = {"_cls": "Segmentation", "mask_path": mask_path}
    return {"filepath": path, "tags": [], "image_id": item.image_id, FIELD: mask}

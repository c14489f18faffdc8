"""fiftyone: a FiftyOneDataset on disk, read by `fiftyone.Dataset.from_dir`.

    data/ID.jpg                      the images
    fields/segmentation/ID.png       1..C are classes, 255 is no label
    samples.json, metadata.json      samples, and what the values mean

0 is background to FiftyOne and is never drawn, so classes begin at 1; 255 is named "ignore".
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datus.errors import UsageError
from datus.formats.folder import put, write_json
from datus.formats.records import Classes, Item, Options
from datus.method.label_png import png_of
from datus.types import IGNORE, Array

FIELD = "segmentation"


def write_fiftyone(folder: Path, items: Iterable[Item], classes: Classes, options: Options) -> None:
    """Raises UsageError for more than 254 classes."""
    n_classes = len(classes.names)
    if n_classes > IGNORE - 1:
        raise UsageError(f"fiftyone: expected at most {IGNORE - 1} classes, got {n_classes}")
    with (folder / "samples.json").open("w", encoding="utf-8") as file:
        file.write('{"samples": [')
        for number, item in enumerate(items):
            sample = _sample(item)
            put(folder, sample["filepath"], item.image or b"")
            put(folder, sample[FIELD]["mask_path"], _grey(item.labels))
            file.write((",\n" if number else "\n") + json.dumps(sample, ensure_ascii=False))
        file.write("\n]}\n")
    targets = {str(label + 1): name for label, name in enumerate(classes.names)}
    info = {
        "classes": {FIELD: [*classes.names]},
        "mask_targets": {FIELD: {**targets, str(IGNORE): "ignore"}},
        "info": options.about or {},
    }
    # no "version": that would promise every field of one FiftyOne release
    write_json(folder / "metadata.json", {"media_type": "image", "info": info})


def _sample(item: Item) -> dict[str, Any]:
    mask = {"_cls": "Segmentation", "mask_path": f"fields/{FIELD}/{item.image_id}.png"}
    sample = {"filepath": f"data/{item.file_name}", "tags": [], "image_id": item.image_id}
    return {**sample, FIELD: mask}


def _grey(labels: Array) -> bytes:
    """Grey, not in colours: FiftyOne takes a palette for three channels."""
    shifted = np.where(labels == IGNORE, IGNORE, labels + np.uint8(1)).astype(np.uint8)
    return png_of(shifted)

"""The table of formats."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from datus.errors import UsageError
from datus.formats.coco import write_coco, write_panoptic
from datus.formats.fiftyone import write_fiftyone
from datus.formats.labelstudio import write_labelstudio
from datus.formats.parquet import write_parquet
from datus.formats.pngs import write_cvat, write_png, write_voc
from datus.formats.records import Classes, Item, Options
from datus.formats.yolo import write_yolo

Write = Callable[[Path, Iterable[Item], Classes, Options], None]


@dataclass(frozen=True, slots=True)
class Format:
    write: Write
    next_step: str
    """What a person does with the folder."""
    needs_images: bool = False
    """The layout is nothing without the images themselves."""
    polygons: bool = False
    """--polygons means something."""


FORMATS: dict[str, Format] = {
    "png": Format(write_png, "palette PNGs; names are in classes.json"),
    "coco": Format(write_coco, "read annotations/instances_default.json", polygons=True),
    "coco-panoptic": Format(write_panoptic, "read annotations/panoptic_default.json"),
    "yolo": Format(write_yolo, "train on data.yaml; images belong in images/train"),
    "cvat": Format(
        write_cvat, "make a task with labels.json; upload annotations.zip: Segmentation mask 1.1"
    ),
    "label-studio": Format(
        write_labelstudio, "make a project with label_config.xml; import tasks.json"
    ),
    "fiftyone": Format(
        write_fiftyone,
        "fiftyone.Dataset.from_dir(FOLDER, fiftyone.types.FiftyOneDataset)",
        needs_images=True,
    ),
    "hf": Format(write_parquet, "datasets.load_dataset(FOLDER)", needs_images=True),
    "voc": Format(write_voc, "Pascal VOC's folders; names are in labelmap.txt"),
}


def find_format(name: str) -> Format:
    """Raises UsageError that lists what there is."""
    if name not in FORMATS:
        raise UsageError(f"--to {name}: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]

"""What other tools read back from an export: for each image the clusters that they saw.

    READERS[format][importer](folder, work) -> {image id: uint8 (H, W)}

Each goes through the importer's own code and finds classes by the names "cluster 3" that it gives.
`work` is an empty folder. Importers are not part of the project: a test asks for one with
`pytest.importorskip`, `benchmarks/roundtrip.py` says which were there.
"""

import contextlib
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from PIL import Image

Masks = dict[str, Any]
IGNORE = 255


def number(name: str) -> int:
    """ "cluster 3" -> 3."""
    word, digits = name.split()
    assert word == "cluster"
    return int(digits)


def stem(file_name: str) -> str:
    return str(PurePosixPath(file_name).with_suffix(""))


def blank(height: int, width: int) -> Any:
    return np.full((height, width), IGNORE, np.uint8)


def draw(mask: Any, where: Any, label: int) -> None:
    """No pixel may be claimed twice."""
    where = np.asarray(where).astype(bool)
    assert (mask[where] == IGNORE).all(), "two annotations overlap"
    mask[where] = label


# --- png ----------------------------------------------------------------------------------------


def png_pillow(folder: Path, work: Path) -> Masks:
    root = folder / "annotations" / "training"
    names = json.loads((folder / "classes.json").read_text(encoding="utf-8"))["classes"]
    assert [number(name) for name in names] == list(range(len(names)))
    return {
        stem(path.relative_to(root).as_posix()): np.array(Image.open(path))
        for path in root.rglob("*.png")
    }


def png_mmseg(folder: Path, work: Path) -> Masks:
    """mmsegmentation's own dataset, without mmcv's compiled operations, which it does not use."""
    sys.modules.setdefault("mmcv._ext", MagicMock())
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    meta = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    found = {}
    for suffix in {path.suffix for path in (folder / "images").rglob("*.*")}:
        dataset = BaseSegDataset(
            data_root=str(folder),
            data_prefix={"img_path": "images/training", "seg_map_path": "annotations/training"},
            metainfo={"classes": meta["classes"], "palette": meta["palette"]},
            img_suffix=suffix,
            seg_map_suffix=".png",
            pipeline=[LoadAnnotations()],
        )
        for index in range(len(dataset)):
            row = dataset[index]
            path = Path(row["seg_map_path"]).relative_to(folder / "annotations" / "training")
            found[stem(path.as_posix())] = row["gt_seg_map"].astype(np.uint8)
    return found


# --- coco ---------------------------------------------------------------------------------------


def coco_pycocotools(folder: Path, work: Path) -> Masks:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(None):
        coco = COCO(str(folder / "annotations" / "instances_default.json"))
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        mask = blank(image["height"], image["width"])
        for row in coco.loadAnns(coco.getAnnIds(image["id"])):
            where = coco.annToMask(row)
            assert where.sum() == row["area"]
            draw(mask, where, number(coco.loadCats(row["category_id"])[0]["name"]))
        found[stem(image["file_name"])] = mask
    return found


def coco_supervision(folder: Path, work: Path) -> Masks:
    import supervision

    dataset = supervision.DetectionDataset.from_coco(
        str(folder / "images" / "default"),
        str(folder / "annotations" / "instances_default.json"),
        force_masks=True,
    )
    return _supervised(dataset, folder / "images" / "default")


def _supervised(dataset: Any, images: Path) -> Masks:
    found = {}
    for path, image, seen in dataset:
        mask = blank(*image.shape[:2])
        for where, label in zip(seen.mask if len(seen) else (), seen.class_id, strict=True):
            draw(mask, where, number(dataset.classes[label]))
        found[stem(Path(path).relative_to(images).as_posix())] = mask
    return found


def coco_fiftyone(folder: Path, work: Path) -> Masks:
    import fiftyone

    with _fiftyone_dataset(
        dataset_type=fiftyone.types.COCODetectionDataset,
        data_path=str(folder / "images" / "default"),
        labels_path=str(folder / "annotations" / "instances_default.json"),
        label_types="segmentations",
    ) as dataset:
        dataset.compute_metadata(progress=False)
        found = {}
        for sample in dataset:
            size = (sample.metadata.width, sample.metadata.height)
            mask = blank(size[1], size[0])
            for one in sample.ground_truth.detections if sample.ground_truth else ():
                # what is stored; to_segmentation() stretches it to a box rounded another way
                left, top = (round(one.bounding_box[i] * size[i]) for i in (0, 1))
                box = mask[top : top + one.mask.shape[0], left : left + one.mask.shape[1]]
                draw(box, one.mask, number(one.label))
            path = Path(sample.filepath).relative_to(folder / "images" / "default")
            found[stem(path.as_posix())] = mask
    return found


def coco_datumaro(folder: Path, work: Path) -> Masks:
    return _datumaro(folder, "coco_instances")


def panoptic_datumaro(folder: Path, work: Path) -> Masks:
    return _datumaro(folder, "coco_panoptic")


def panoptic_pillow(folder: Path, work: Path) -> Masks:
    """As the format is described: id = red + 256 green + 65536 blue."""
    table = json.loads((folder / "annotations/panoptic_default.json").read_text(encoding="utf-8"))
    names = {row["id"]: row["name"] for row in table["categories"]}
    found = {}
    for row in table["annotations"]:
        path = folder / "annotations" / "panoptic_default" / row["file_name"]
        ids = np.array(Image.open(path)).astype(np.int64) @ [1, 256, 65536]
        mask = blank(*ids.shape)
        for one in row["segments_info"]:
            assert (ids == one["id"]).sum() == one["area"]
            draw(mask, ids == one["id"], number(names[one["category_id"]]))
        assert set(np.unique(ids)) - {0} == {one["id"] for one in row["segments_info"]}
        found[stem(row["file_name"])] = mask
    return found


# --- voc and cvat -------------------------------------------------------------------------------


def voc_datumaro(folder: Path, work: Path) -> Masks:
    return _datumaro(folder, "voc_segmentation")


def cvat_datumaro(folder: Path, work: Path) -> Masks:
    """Much as a CVAT server does with the upload: unpack it, read it as datumaro's VOC."""
    with zipfile.ZipFile(folder / "annotations.zip") as archive:
        archive.extractall(work)
    return _datumaro(work, "voc_segmentation")


def _datumaro(folder: Path, name: str) -> Masks:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    dataset = Dataset.import_from(str(folder), name)
    labels = dataset.categories()[AnnotationType.label]
    found = {}
    for item in dataset:
        shapes = [one for one in item.annotations if one.type != AnnotationType.bbox]
        size = item.media.size if item.media is not None else None
        mask = None if size is None else blank(*size)
        for one in shapes:
            is_polygon = one.type == AnnotationType.polygon
            where = _filled(one, mask) if is_polygon else one.image
            mask = blank(*where.shape) if mask is None else mask
            draw(mask, where, number(labels[one.label].name))
        found[item.id] = mask
    return found


def _filled(polygon: Any, mask: Any) -> Any:
    """A polygon of datumaro as its own export to pixels makes it: by pycocotools."""
    from pycocotools import mask as tools

    return tools.decode(tools.merge(tools.frPyObjects([polygon.points], *mask.shape)))


# --- yolo ---------------------------------------------------------------------------------------


def _yolo_images(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "images" / "train").rglob("*.*") if path.is_file())


def yolo_ultralytics(folder: Path, work: Path) -> Masks:
    from ultralytics.data.utils import img2label_paths, polygon2mask, verify_image_label

    names = _yolo_names(folder)
    found = {}
    for path in _yolo_images(folder):
        label_file = img2label_paths([str(path)])[0]
        arguments = (str(path), label_file, "", False, len(names), 0, 0, False)
        _, rows, (height, width), segments, *_, n_corrupt, message = verify_image_label(arguments)
        assert not n_corrupt, message
        mask = blank(height, width)
        for row, segment in zip(rows, segments, strict=True):
            polygon = (segment * np.array([width, height], np.float32)).reshape(-1)
            draw(mask, polygon2mask((height, width), [polygon]), number(names[int(row[0])]))
        found[stem(path.relative_to(folder / "images" / "train").as_posix())] = mask
    return found


def _yolo_names(folder: Path) -> dict[int, str]:
    import yaml

    return dict(yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"])


def yolo_supervision(folder: Path, work: Path) -> Masks:
    """It reads one folder, without those below."""
    import supervision

    images, found = folder / "images" / "train", {}
    for place in {path.parent for path in _yolo_images(folder)}:
        labels = folder / "labels" / "train" / place.relative_to(images)
        dataset = supervision.DetectionDataset.from_yolo(
            str(place), str(labels), str(folder / "data.yaml"), force_masks=True
        )
        found |= _supervised(dataset, images)
    return found


# --- label studio -------------------------------------------------------------------------------


def labelstudio_sdk(folder: Path, work: Path) -> Masks:
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    config = (folder / "label_config.xml").read_text(encoding="utf-8")
    interface = LabelInterface(config)
    found = {}
    for task in json.loads((folder / "tasks.json").read_text(encoding="utf-8")):
        assert interface.validate_task({"data": task["data"]})
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction), prediction["result"][:1]
        mask = None
        for one in prediction["result"]:
            size = one["original_height"], one["original_width"]
            mask = blank(*size) if mask is None else mask
            pixels = decode_rle(one["value"]["rle"]).reshape(*size, 4)
            assert (pixels == pixels[..., :1]).all()
            draw(mask, pixels[..., 3] > 0, number(one["value"]["brushlabels"][0]))
        found[task["data"]["image_id"]] = mask
    return found


# --- fiftyone and hugging face ------------------------------------------------------------------


@contextlib.contextmanager
def _fiftyone_dataset(**options: Any) -> Iterator[Any]:
    import fiftyone

    dataset = fiftyone.Dataset.from_dir(progress=False, **options)
    try:
        yield dataset
    finally:
        dataset.delete()


def fiftyone_disk(folder: Path, work: Path) -> Masks:
    import fiftyone

    found = {}
    with _fiftyone_dataset(
        dataset_dir=str(folder), dataset_type=fiftyone.types.FiftyOneDataset
    ) as dataset:
        targets = dataset.mask_targets["segmentation"]
        assert targets[IGNORE] == "ignore"
        for sample in dataset:
            values = sample.segmentation.get_mask()
            mask = blank(*values.shape)
            for value in np.unique(values[values != IGNORE]).tolist():
                draw(mask, values == value, number(targets[value]))
            assert Path(sample.filepath).is_file()
            found[sample.image_id] = mask
    return found


def hf_datasets(folder: Path, work: Path) -> Masks:
    import datasets

    dataset = datasets.load_dataset(str(folder), split="train", cache_dir=str(work))
    names = dataset.features["classes"].feature.names
    found = {}
    for row in dataset:
        mask = np.array(row["mask"])
        assert row["image"].size == row["mask"].size
        assert sorted(row["classes"]) == sorted(set(np.unique(mask).tolist()) - {IGNORE})
        assert all(number(names[label]) == label for label in row["classes"])
        found[row["image_id"]] = mask
    return found


Reader = Callable[[Path, Path], Masks]

READERS: dict[str, dict[str, Reader]] = {
    "png": {"pillow": png_pillow, "mmsegmentation": png_mmseg},
    "coco": {
        "pycocotools": coco_pycocotools,
        "datumaro": coco_datumaro,
        "supervision": coco_supervision,
        "fiftyone": coco_fiftyone,
    },
    "coco --polygons": {"pycocotools": coco_pycocotools, "datumaro": coco_datumaro},
    "coco-panoptic": {"pillow": panoptic_pillow, "datumaro": panoptic_datumaro},
    "yolo": {"ultralytics": yolo_ultralytics, "supervision": yolo_supervision},
    "cvat": {"datumaro": cvat_datumaro},
    "label-studio": {"label-studio-sdk": labelstudio_sdk},
    "fiftyone": {"fiftyone": fiftyone_disk},
    "hf": {"datasets": hf_datasets},
    "voc": {"datumaro": voc_datumaro},
}
"""By format, then by the name of the package on PyPI."""

MODULES = {
    "pillow": "PIL",
    "mmsegmentation": "mmseg",
    "pycocotools": "pycocotools",
    "datumaro": "datumaro",
    "supervision": "supervision",
    "ultralytics": "ultralytics",
    "label-studio-sdk": "label_studio_sdk",
    "fiftyone": "fiftyone",
    "datasets": "datasets",
}
"""Package -> module."""

QUIET = {"YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1", "FIFTYONE_DO_NOT_TRACK": "true"}
"""Environment in which importers keep off the network."""

__all__ = ["MODULES", "QUIET", "READERS"]

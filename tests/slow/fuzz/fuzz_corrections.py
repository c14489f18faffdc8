"""For the fuzzer: corrections of every format, as tools would give them back.

One file of a layout is changed, the others are as they should be. What is read is matched to the
images of a run, drawn and hashed, as a run does.
"""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_seeds import Made, Reader, mended_png, mended_zip

NAMES = ("ground", "sky", "thing")
SIZES = {"a": (6, 8), "b/c": (5, 4)}
"""Image id -> height, width of the images that corrections are of."""


def _labels() -> dict[str, Any]:
    """uint8 (H, W) of each image, with pixels of every class and of none."""
    import numpy as np

    rng = np.random.default_rng(0)
    found = {name: rng.integers(0, 4, size, dtype=np.uint8) for name, size in SIZES.items()}
    return {name: np.where(one == 3, 255, one).astype(np.uint8) for name, one in found.items()}


def _use(path: Path) -> None:
    """As a run does."""
    import numpy as np

    from datus.formats.matching import matched
    from datus.formats.read import open_corrections
    from datus.types import ImageRecord

    records = [
        ImageRecord(name, f"{name}.png", *size, sha256="00" * 32, shard="")
        for name, size in SIZES.items()
    ]
    found = matched(path, open_corrections(path), records)
    repr((found.digest, found.names, found.unused)).encode("utf-8", "surrogateescape")
    json.dumps(found.names)
    for name in found.images:
        labels = found.labels(name)
        highest = labels[labels != 255].max(initial=0)
        if (labels.shape, labels.dtype) != (SIZES[name], np.uint8) or highest >= len(found.names):
            raise AssertionError(f"{name}: {labels.shape} {labels.dtype} {highest}")


def corrections(name: str, is_json: bool = False, is_text: bool = False, mend: Any = bytes) -> Made:
    """A reader of one file, the others of its folder as they should be."""

    def make(scratch: Path) -> Reader:
        folder = scratch / "given"
        folder.mkdir()
        for path, content in LAYOUTS[name]().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        changed = folder / CHANGED[name]
        seed = changed.read_bytes()

        def read(data: bytes) -> None:
            changed.write_bytes(data)
            _use(folder if len(list(folder.rglob("*"))) > 1 else changed)

        return Reader(read, (seed,), mend, is_text, is_json)

    return make


def _coco() -> dict[str, bytes]:
    import numpy as np

    from datus.formats.coco import coco_text

    rows: list[dict[str, Any]] = []
    for number, labels in enumerate(_labels().values()):
        for label in range(3):
            flat = np.r_[False, (labels == label).T.ravel()]
            counts = np.diff(np.r_[0, np.flatnonzero(flat[1:] != flat[:-1]), labels.size])
            shapes: tuple[Any, ...] = (
                {"size": list(labels.shape), "counts": coco_text(counts)},
                {"size": list(labels.shape), "counts": counts.tolist()},
                [[0, 0, 3, 0, 3.5, 2, 0, 4]],
            )
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": label + 1})
            rows[-1] |= {"segmentation": shapes[label], "iscrowd": 0, "area": 1}
    return {"instances.json": json.dumps({**_coco_head(), "annotations": rows}).encode()}


def _coco_head() -> dict[str, Any]:
    return {
        "info": {},
        "images": [
            {"id": number, "file_name": f"{name}.png", "height": height, "width": width}
            for number, (name, (height, width)) in enumerate(SIZES.items())
        ],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(NAMES)],
    }


def _panoptic() -> dict[str, bytes]:
    import numpy as np

    files, rows = {}, []
    for number, (name, labels) in enumerate(_labels().items()):
        picture = np.zeros((*labels.shape, 3), np.uint8)
        picture[..., 0] = np.where(labels == 255, 0, labels + 1)
        files[f"panoptic/{name}.png"] = _png(picture)
        segments = [{"id": one + 1, "category_id": one + 1} for one in range(3)]
        rows.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    return {"panoptic.json": json.dumps({**_coco_head(), "annotations": rows}).encode(), **files}


def _studio() -> dict[str, bytes]:
    from datus.formats.labelstudio import pack

    tasks = []
    for number, (name, labels) in enumerate(_labels().items()):
        height, width = labels.shape
        common = {"original_height": height, "original_width": width, "image_rotation": 0}
        brush = {"format": "rle", "rle": pack(labels == 1).tolist(), "brushlabels": [NAMES[1]]}
        points = {"points": [[0, 0], [50, 0], [50.5, 90]], "polygonlabels": [NAMES[2]]}
        result = [
            {"id": "x", "type": "brushlabels", "value": brush, **common},
            {"id": "y", "type": "polygonlabels", "value": points, **common},
        ]
        data = {"image_id": name} if number else {"image": f"/data/local-files/?d=x/{name}.png"}
        tasks.append({"id": number, "data": data, "annotations": [{"result": result}]})
    config = "".join(f'<Label value="{name}"/>' for name in NAMES)
    xml = f'<View><BrushLabels name="l" toName="image">{config}</BrushLabels></View>'
    return {"tasks.json": json.dumps(tasks).encode(), "label_config.xml": xml.encode()}


def _pngs() -> dict[str, bytes]:
    from datus.method.masks import PALETTE, encode_mask

    palette = PALETTE[:3].tolist()
    table = {"classes": list(NAMES), "palette": palette, "ignore_index": 255}
    files = {f"{name}.png": encode_mask(labels) for name, labels in _labels().items()}
    return {"classes.json": json.dumps(table).encode(), **files}


def _lines() -> dict[str, bytes]:
    rows = "".join(f"{number}\t{name}\n" for number, name in enumerate(NAMES))
    pictures = {name: data for name, data in _pngs().items() if name.endswith(".png")}
    return {**pictures, "classes.txt": rows.encode()}


def _labelmap() -> dict[str, bytes]:
    import numpy as np

    colours = np.zeros((256, 3), np.uint8)
    colours[:3] = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    rows = "".join(
        f"{name}:{','.join(map(str, colour))}::\n"
        for name, colour in zip(NAMES, colours.tolist(), strict=False)
    )
    masks = {
        f"SegmentationClass/{name}.png": _png(colours[labels]) for name, labels in _labels().items()
    }
    text = f"# label:color_rgb:parts:actions\nbackground:0,0,0::\n{rows}"
    return {"labelmap.txt": text.encode(), **masks}


def _zipped() -> dict[str, bytes]:
    """CVAT's archive: the labelmap and its masks."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _labelmap().items():
            archive.writestr(name, content)
    return {"given.zip": buffer.getvalue()}


def _png(array: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


LAYOUTS: dict[str, Callable[[], dict[str, bytes]]] = {
    "coco": _coco,
    "panoptic": _panoptic,
    "panoptic-png": _panoptic,
    "label-studio": _studio,
    "label-studio-xml": _studio,
    "png": _pngs,
    "png-classes": _pngs,
    "png-lines": _lines,
    "labelmap": _labelmap,
    "labelmap-png": _labelmap,
    "cvat-zip": _zipped,
}

CHANGED = {
    "coco": "instances.json",
    "panoptic": "panoptic.json",
    "panoptic-png": "panoptic/a.png",
    "label-studio": "tasks.json",
    "label-studio-xml": "label_config.xml",
    "png": "a.png",
    "png-classes": "classes.json",
    "png-lines": "classes.txt",
    "labelmap": "labelmap.txt",
    "labelmap-png": "SegmentationClass/a.png",
    "cvat-zip": "given.zip",
}

CORRECTIONS: dict[str, Made] = {
    "coco": corrections("coco", is_json=True, is_text=True),
    "coco-panoptic": corrections("panoptic", is_json=True, is_text=True),
    "panoptic-png": corrections("panoptic-png", mend=mended_png),
    "label-studio": corrections("label-studio", is_json=True, is_text=True),
    "label-studio-xml": corrections("label-studio-xml", is_text=True),
    "png-masks": corrections("png", mend=mended_png),
    "png-classes": corrections("png-classes", is_json=True, is_text=True),
    "png-lines": corrections("png-lines", is_text=True),
    "labelmap": corrections("labelmap", is_text=True),
    "labelmap-png": corrections("labelmap-png", mend=mended_png),
    "cvat-zip": corrections("cvat-zip", mend=mended_zip),
}

"""Corrections of any format as the folder of label PNGs and the class table that `datus fit` reads.

as_folder(images, path, out)     -> (folder of labels, classes.toml), written below `out`
"""

import json
from pathlib import Path

import numpy as np

from datus.formats.folder import put
from datus.formats.matching import places
from datus.formats.names import make_classes
from datus.formats.read import open_corrections
from datus.inputs.find import find_images, image_id_of
from datus.method.masks import encode_mask
from datus.types import IGNORE


def as_folder(images: Path, path: Path, out: Path) -> tuple[Path, Path]:
    """Only classes with a pixel are in the table. Raises UsageError: nothing fits, nothing said."""
    corrections = open_corrections(path)
    ids = [image_id_of(path) for path in find_images(images).paths]
    used = np.zeros(256, bool)
    for image_id, name in sorted(places(path, corrections, ids).items()):
        labels = corrections.images[name].draw()
        used[np.unique(labels)] = True
        put(out, f"labels/{image_id}.png", encode_mask(labels))
    classes, _ = make_classes(corrections.names)
    blocks = [
        # as JSON, which TOML reads too but for one sign
        f"[[classes]]\nname = {json.dumps(name, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
        + f"colour = {classes.colour(label)}\nids = [{label}]\n"
        for label, name in enumerate(corrections.names)
        if used[label] and label != IGNORE
    ]
    put(out, "classes.toml", "".join(['name = "corrections"\n', *blocks]).encode())
    return out / "labels", out / "classes.toml"

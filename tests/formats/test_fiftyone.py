"""fiftyone: what is written."""

from pathlib import Path

import numpy as np
from export_cases import read_json, traps, write
from PIL import Image

from datus.types import IGNORE


def test_fiftyone_shifts_classes_past_its_background(tmp_path: Path) -> None:
    folder = write("fiftyone", tmp_path / "out")
    targets = read_json(folder, "metadata.json")["info"]["mask_targets"]["segmentation"]
    assert targets["1"] == "cluster 0"
    assert targets[str(IGNORE)] == "ignore"
    for sample in read_json(folder, "samples.json")["samples"]:
        assert (folder / sample["filepath"]).is_file()
        with Image.open(folder / sample["segmentation"]["mask_path"]) as image:
            assert image.mode == "L", "a palette would be read as three channels"
            labels = traps()[sample["image_id"]]
            wanted = np.where(labels == IGNORE, IGNORE, labels + 1)
            np.testing.assert_array_equal(np.array(image), wanted)

"""label-studio: tasks, the config, and brushes bit by bit."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from export_cases import K, read_json, traps, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datus.formats.labelstudio import pack
from datus.formats.names import default_names, make_classes
from datus.formats.records import Options
from datus.types import Array

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def test_label_studio_tasks_and_config(tmp_path: Path) -> None:
    odd = make_classes(['a "b" <c> & d', *default_names(K)[1:]])[0]
    options = Options(image_url="https://example.org/i/")
    folder = write("label-studio", tmp_path / "out", options, classes=odd)
    tasks = read_json(folder, "tasks.json")
    assert [task["data"]["image_id"] for task in tasks] == list(traps())
    assert tasks[2]["data"]["image"] == "https://example.org/i/b/with%20space.png"
    (prediction,) = tasks[0]["predictions"]
    labels = [one["value"]["brushlabels"] for one in prediction["result"]]
    assert labels == [[name] for name in odd.names[:3]]
    assert prediction["score"] == 0.25
    assert {one["type"] for one in prediction["result"]} == {"brushlabels"}
    assert tasks[4]["predictions"][0]["result"] == []
    config = ElementTree.parse(folder / "label_config.xml")
    assert [label.get("value") for label in config.iter("Label")] == list(odd.names)


def unpack(data: Array) -> Array:
    """Label Studio's brush run lengths, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data.tolist())
    place = 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    n_values, width = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < n_values:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(width)] * length if repeated else [read(width) for _ in range(length)]
    return np.array(values)


@settings(max_examples=40)
@given(arrays(bool, SIZES))
def test_label_studio_brush_is_white_rgba(mask: Array) -> None:
    pixels = unpack(pack(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(pixels, np.where(mask[..., None], 255, 0) + np.zeros(4))


def test_label_studio_brush_splits_long_runs() -> None:
    mask = np.zeros((160, 300), bool)
    mask[100:, 10:] = True
    mask[80:] = True
    pixels = unpack(pack(mask)).reshape(160, 300, 4)
    np.testing.assert_array_equal(pixels[..., 3] > 0, mask)
    assert len(pack(mask)) < 60

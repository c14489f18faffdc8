"""data/classes/*.toml: the right ids, the right names, colours that differ."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datus.inputs.labels import load_classes
from datus.types import IGNORE

CLASSES = Path(__file__).resolve().parents[2] / "data" / "classes"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "datasets"

N_CLASSES = {
    "camvid11": 11,
    "cityscapes27": 27,
    "clothing9": 9,
    "cocostuff27": 27,
    "labelmefacade8": 8,
    "rock4": 4,
    "suim6": 6,
    "suim8": 8,
    "voc21": 21,
}

DROPPED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}


def ids_by_name(name):
    table = tomllib.loads((CLASSES / f"{name}.toml").read_text(encoding="utf-8"))
    return {entry["name"]: entry["ids"] for entry in table["classes"]}


def fine_names():
    """id -> name, from the comments of cocostuff27.toml."""
    text = (CLASSES / "cocostuff27.toml").read_text(encoding="utf-8")
    return {int(one): name for one, name in re.findall(r"^ +(\d+), +# (.+)$", text, re.M)}


def test_there_is_a_table_for_every_dataset_and_no_other():
    assert {path.stem for path in CLASSES.iterdir()} == set(N_CLASSES)


@pytest.mark.parametrize("name", N_CLASSES)
def test_table_loads_under_its_own_name_with_different_colours_and_names(name):
    table = load_classes(CLASSES / f"{name}.toml")
    assert table.name == name
    assert table.source
    assert table.n_classes == N_CLASSES[name]
    assert len(set(table.colours)) == table.n_classes
    assert len(set(table.names)) == table.n_classes
    assert set(table.lookup.tolist()) == {*range(table.n_classes), IGNORE}


def test_suim8_ids_are_the_three_bits_of_the_colours():
    table = load_classes(CLASSES / "suim8.toml")
    for number, (red, green, blue) in enumerate(table.colours):
        assert {red, green, blue} <= {0, 255}
        assert 4 * (red == 255) + 2 * (green == 255) + (blue == 255) == number
        assert table.lookup[number] == number


def test_suim6_is_suim8_with_water_plants_and_floor_as_one():
    eight = load_classes(CLASSES / "suim8.toml")
    six = load_classes(CLASSES / "suim6.toml")
    merged = {"waterbody", "plants_sea_grass", "sea_floor_rocks"}
    for number, name in enumerate(eight.names):
        wanted = "background" if name in merged else name
        assert six.names[six.lookup[number]] == wanted
    assert six.known[:8].all()
    assert not six.known[8:255].any()


def test_cocostuff27_covers_80_things_and_91_stuff_classes_without_the_dropped_ids():
    ids = ids_by_name("cocostuff27")
    things = sorted(one for name, group in ids.items() if name.endswith("_things") for one in group)
    stuff = sorted(one for name, group in ids.items() if name.endswith("_stuff") for one in group)
    assert things == [one for one in range(91) if one not in DROPPED]
    assert stuff == list(range(91, 182))
    assert sum(name.endswith("_things") for name in ids) == 12
    assert sum(name.endswith("_stuff") for name in ids) == 15


def test_cocostuff27_names_every_id_in_the_order_of_the_label_list():
    names = fine_names()
    assert set(names) == set(range(182)) - DROPPED
    assert len(set(names.values())) == 171
    assert (names[0], names[1], names[24], names[89]) == (
        "person",
        "bicycle",
        "giraffe",
        "toothbrush",
    )
    stuff = [names[one] for one in range(91, 182)]
    assert stuff == sorted(stuff)  # the label list is alphabetical from banner to wood
    assert (stuff[0], stuff[-1]) == ("banner", "wood")


@pytest.mark.parametrize(
    ("fine", "coarse"),
    [
        ("person", "person_things"),
        ("boat", "vehicle_things"),
        ("bench", "outdoor_things"),
        ("giraffe", "animal_things"),
        ("umbrella", "accessory_things"),
        ("tennis racket", "sports_things"),
        ("cup", "kitchen_things"),
        ("pizza", "food_things"),
        ("potted plant", "furniture_things"),
        ("laptop", "electronic_things"),
        ("sink", "appliance_things"),
        ("scissors", "indoor_things"),
        ("clouds", "sky_stuff"),
        ("sky-other", "sky_stuff"),
        ("sea", "water_stuff"),
        ("sand", "ground_stuff"),
        ("tree", "plant_stuff"),
        ("house", "building_stuff"),
        ("mountain", "solid_stuff"),
        ("fence", "structural_stuff"),
        ("wall-brick", "wall_stuff"),
        ("window-blind", "window_stuff"),
        ("ceiling-tile", "ceiling_stuff"),
        ("carpet", "floor_stuff"),
        ("salad", "food_stuff"),
        ("table", "furniture_stuff"),
        ("plastic", "raw_material_stuff"),
        ("towel", "textile_stuff"),
    ],
)
def test_cocostuff27_puts_fine_classes_where_they_belong(fine, coarse):
    number = {name: one for one, name in fine_names().items()}[fine]
    assert number in ids_by_name("cocostuff27")[coarse]


def test_cocostuff27_refuses_the_dropped_ids():
    table = load_classes(CLASSES / "cocostuff27.toml")
    assert not table.known[sorted(DROPPED)].any()
    assert not table.known[182:255].any()


def test_cityscapes27_scores_ids_7_to_33_and_ignores_0_to_6():
    table = load_classes(CLASSES / "cityscapes27.toml")
    assert table.lookup[7:34].tolist() == list(range(27))
    assert table.known[:34].all()
    assert not table.known[34:255].any()
    assert (table.lookup[:7] == IGNORE).all()
    assert (table.names[0], table.names[16], table.names[26]) == ("road", "sky", "bicycle")


def test_voc21_has_the_colours_of_the_voc_palette():
    def palette(number):
        channels = []
        for channel in range(3):
            bits = [number >> (channel + 3 * turn) & 1 for turn in range(8)]
            channels.append(sum(bit << (7 - turn) for turn, bit in enumerate(bits)))
        return tuple(channels)

    table = load_classes(CLASSES / "voc21.toml")
    assert table.colours == tuple(palette(number) for number in range(21))
    assert table.lookup[:21].tolist() == list(range(21))


def test_camvid11_also_ignores_the_unlabelled_id_of_segnet_masks():
    table = load_classes(CLASSES / "camvid11.toml")
    assert table.lookup[:11].tolist() == list(range(11))
    assert table.known[11]
    assert table.lookup[11] == IGNORE


@pytest.mark.parametrize(
    ("folder", "name"),
    [("camvid11_val", "camvid11"), ("ccp_clothing", "clothing9"), ("suim_test8", "suim8")],
)
def test_table_knows_every_id_of_real_masks(folder, name):
    masks = sorted((SHARED / folder / "masks").glob("*.png"))[:20]
    if not masks:
        pytest.skip(f"{folder} is not here")
    known = load_classes(CLASSES / f"{name}.toml").known
    for path in masks:
        with Image.open(path) as mask:
            assert known[np.unique(np.asarray(mask))].all(), path.name

"""data/make_scenes.py: repeatable bytes, exact labels, a class table that loads."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))

import make_scenes
import scene_objects
import scene_textures

from datus.inputs.labels import load_classes


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*g")}


def empty_scene(height, width):
    rng = np.random.default_rng(0)
    light = scene_textures.make_light(rng)
    return scene_objects.new_scene(rng, (height, width), height / 2, light)


def test_a_scene_is_an_rgb_image_and_labels_of_the_same_size():
    image, labels = make_scenes.render_scene(0, 0)
    assert image.dtype == labels.dtype == np.uint8
    assert image.shape == (*labels.shape, 3)
    assert labels.max() < len(make_scenes.CLASSES)
    assert image.std() > 10


def test_same_seed_and_index_give_the_same_bytes_and_others_do_not():
    first, labels = make_scenes.render_scene(3, 5)
    again, labels_again = make_scenes.render_scene(3, 5)
    assert first.tobytes() == again.tobytes()
    assert labels.tobytes() == labels_again.tobytes()
    assert make_scenes.render_scene(3, 6)[0].tobytes() != first.tobytes()
    assert make_scenes.render_scene(4, 5)[0].tobytes() != first.tobytes()


def test_bytes_do_not_depend_on_how_many_are_made_or_in_which_order(tmp_path, capsys):
    assert make_scenes.main([str(tmp_path / "few"), "--n", "3"]) == 0
    assert make_scenes.main([str(tmp_path / "more"), "--n", "6"]) == 0
    few, more = files(tmp_path / "few"), files(tmp_path / "more")
    assert len(few) == 6
    assert len(more) == 12
    assert all(more[name] == content for name, content in few.items())
    image, labels = make_scenes.render_scene(0, 2)
    assert (read(tmp_path / "few/images/scene_00002.png") == image).all()
    assert (read(tmp_path / "few/masks/scene_00002.png") == labels).all()
    assert "3 scenes in" in capsys.readouterr().out


def test_sizes_and_aspect_ratios_vary_within_the_limits():
    shapes = {make_scenes.render_scene(1, index, 64, 128)[1].shape for index in range(12)}
    assert len(shapes) > 8
    assert all(64 <= side <= 128 for shape in shapes for side in shape)
    assert any(h > w for h, w in shapes)
    assert any(w > h for h, w in shapes)


@pytest.mark.slow
def test_every_class_occurs_and_none_fills_the_set():
    counts = np.zeros(len(make_scenes.CLASSES))
    for index in range(60):
        labels = make_scenes.render_scene(0, index, 64, 128)[1]
        counts += np.bincount(labels.ravel(), minlength=len(counts))
    share = counts / counts.sum()
    assert share.min() > 0.001
    assert share.max() < 0.5


@pytest.mark.parametrize("layout", make_scenes.LAYOUTS)
@pytest.mark.parametrize("shape", [(32, 32), (32, 57), (96, 64)])
def test_every_layout_renders_at_any_size(layout, shape):
    scene = empty_scene(*shape)
    for _ in range(3):
        layout(scene)
    assert scene.image.shape == (*shape, 3)
    assert np.isfinite(scene.image).all()
    assert len(np.unique(scene.labels)) >= 2


def test_paint_changes_labels_exactly_where_at_least_half_is_covered():
    scene = empty_scene(3, 4)
    cover = np.array(
        [[0, 0.2, 0.49, 0.5], [0.51, 1, 1, 0], [0, 0, 0, 0]],
        np.float32,
    )
    scene_objects.paint(scene, cover, (1.0, 0.0, 0.0), scene_objects.ROCK)
    assert (scene.labels == scene_objects.ROCK).tolist() == (cover >= 0.5).tolist()
    assert np.allclose(scene.image[..., 0], cover)
    scene_objects.paint(scene, np.ones((3, 4), np.float32), (0.0, 0.0, 0.0), None)
    assert (scene.labels == scene_objects.ROCK).tolist() == (cover >= 0.5).tolist()


def test_paint_part_labels_the_pixels_that_a_polygon_changes():
    scene = empty_scene(20, 20)
    square = [(5.0, 5.0), (14.0, 5.0), (14.0, 14.0), (5.0, 14.0)]
    scene_objects.paint_part(scene, square, (1.0, 1.0, 1.0), scene_objects.BOAT)
    painted = scene.image[..., 0] >= 0.5
    assert painted.sum() == 100
    assert ((scene.labels == scene_objects.BOAT) == painted).all()
    before = scene.labels.copy()
    away = [(-9.0, -9.0), (-5.0, -9.0), (-5.0, -5.0)]
    scene_objects.paint_part(scene, away, (1.0, 1.0, 1.0), scene_objects.ROCK)
    assert (scene.labels == before).all()


def test_class_table_loads_and_matches_the_labels(tmp_path):
    assert make_scenes.main([str(tmp_path), "--n", "1", "--seed", "7"]) == 0
    table = load_classes(tmp_path / "classes.toml")
    assert table.names == tuple(name for name, _ in make_scenes.CLASSES)
    assert table.lookup[:8].tolist() == list(range(8))
    assert len(set(table.colours)) == 8
    assert table.source == "rendered by data/make_scenes.py, seed 7"


def test_masks_are_8_bit_one_channel_and_jpeg_images_can_be_asked_for(tmp_path):
    arguments = ["--n", "2", "--format", "jpg", "--size-min", "64", "--size-max", "96"]
    assert make_scenes.main([str(tmp_path), *arguments]) == 0
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [
        "scene_00000.jpg",
        "scene_00001.jpg",
    ]
    with Image.open(tmp_path / "masks" / "scene_00001.png") as mask:
        assert mask.mode == "L"
    with Image.open(tmp_path / "images" / "scene_00001.jpg") as image:
        assert image.mode == "RGB"


def test_an_earlier_set_is_replaced_only_with_overwrite(tmp_path, capsys):
    small = ["--size-min", "64", "--size-max", "96"]
    assert make_scenes.main([str(tmp_path), "--n", "3", *small]) == 0
    with pytest.raises(SystemExit) as stop:
        make_scenes.main([str(tmp_path), "--n", "1", *small])
    assert stop.value.code == 2
    assert "holds scenes already; use --overwrite to replace them" in capsys.readouterr().err
    assert make_scenes.main([str(tmp_path), "--n", "1", "--overwrite", *small]) == 0
    assert [p.name for p in (tmp_path / "masks").iterdir()] == ["scene_00000.png"]


def test_a_folder_with_something_else_is_never_touched(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scene_mine.jpg").write_bytes(b"mine")
    with pytest.raises(SystemExit) as stop:
        make_scenes.main([str(tmp_path), "--overwrite"])
    assert stop.value.code == 2
    assert "is not empty and holds no scenes; choose a new folder" in capsys.readouterr().err
    assert (tmp_path / "images" / "scene_mine.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "--n must be 1 or more"),
        (["--seed", "-1"], "--seed 0 or more"),
        (["--size-min", "300", "--size-max", "200"], "expected 32 <= --size-min <= --size-max"),
        (["--format", "gif"], "invalid choice"),
    ],
)
def test_wrong_usage_exits_2_with_the_reason(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        make_scenes.main([str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err

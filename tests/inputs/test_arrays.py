"""What users give becomes folders: the same bytes each time, and nothing of theirs is touched."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from datus.errors import UsageError
from datus.inputs.arrays import cache_folder, class_table, is_cached, label_array, lay_out
from datus.inputs.decode import decode_image
from datus.inputs.find import find_images
from datus.inputs.labels import decode_labels, load_classes

RED = np.full((4, 6, 3), (200, 10, 20), np.uint8)


def placed(images: Any, run: Path, **more: Any) -> dict[str, bytes]:
    """What lies in the image folder of a run."""
    folder = Path(lay_out(run, images, **more)["data.images"])
    return {path: (folder / path).read_bytes() for path in find_images(folder).paths}


def test_a_folder_stays_where_it_is(tmp_path: Path) -> None:
    found = lay_out(tmp_path, tmp_path / "photos", tmp_path / "t", tmp_path / "c.toml")
    assert found == {
        "data.images": str(tmp_path / "photos"),
        "data.truth": str(tmp_path / "t"),
        "data.classes": str(tmp_path / "c.toml"),
    }
    assert not list(tmp_path.iterdir())


@given(
    hnp.arrays(
        np.uint8,
        st.one_of(
            hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
            hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9).map(
                lambda shape: (*shape, 3)
            ),
        ),
    )
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_come_back_as_they_were(tmp_path: Path, array: Any) -> None:
    (data,) = placed([array], tmp_path / "run").values()
    colour = array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)
    assert np.array_equal(decode_image(data, 1000), colour)


def test_16_bits_and_transparency_are_kept(tmp_path: Path) -> None:
    deep = np.array([[0, 256, 65535]], np.uint16)
    clear = np.zeros((1, 2, 4), np.uint8)
    first, second = placed([deep, clear], tmp_path / "run").values()
    assert decode_image(first, 10)[0, :, 0].tolist() == [0, 1, 255]
    assert np.all(decode_image(second, 10) == 255)  # over white


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pil_images_of_every_mode(tmp_path: Path, mode: str) -> None:
    picture = Image.new(mode, (5, 3))
    (data,) = placed([picture], tmp_path / "run").values()
    assert decode_image(data, 100).shape == (3, 5, 3)


def test_a_pil_image_on_its_side_is_turned(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RED).save(buffer, "JPEG", exif=exif)
    (data,) = placed([Image.open(buffer)], tmp_path / "run").values()
    assert decode_image(data, 100).shape == (6, 4, 3)


def test_files_are_linked_under_names_that_tell_them_apart(tmp_path: Path) -> None:
    for name in ("one/a.png", "two/deep/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(RED).save(tmp_path / name)
    paths = [str(tmp_path / "one/a.png"), tmp_path / "two/deep/a.png"]
    run = tmp_path / "run"
    found = placed(paths, run)
    assert list(found) == ["one/a.png", "two/deep/a.png"]
    assert os.readlink(run / "images/one/a.png") == str(tmp_path / "one/a.png")
    assert list(placed(paths[:1], run)) == ["a.png"]  # those of the earlier call are gone
    assert (tmp_path / "two/deep/a.png").is_file()  # the user's are not


def test_the_same_pictures_are_not_written_again(tmp_path: Path) -> None:
    placed([RED, RED + 1], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    placed([RED, RED + 1], tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(before) == 2


def test_a_folder_of_the_user_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(RED).save(tmp_path / "images/mine.png")
    with pytest.raises(UsageError) as error:
        placed([RED], tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'images'} is there already and was not made by this: choose another out="
    )
    assert (tmp_path / "images/mine.png").is_file()


def test_labels_and_names_become_truth_and_a_class_table(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255]], np.int64)
    names = ['a "b"\\', "\x7f é 🙂"]
    found = lay_out(tmp_path, [RED[:1, :3]], [labels], names)
    data = (Path(found["data.truth"]) / "000000.png").read_bytes()
    assert decode_labels(data, 10).tolist() == [[0, 1, 255]]
    table = load_classes(Path(found["data.classes"]))
    assert table.names == tuple(names)
    assert table.lookup[:3].tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (([],), "images: the list is empty: expected at least one image"),
        ((RED,), "images: expected a list of pictures, got one array: use [array]"),
        (
            (Image.new("L", (1, 1)),),
            "images: expected a list of pictures, got one: use [picture]",
        ),
        (
            (3,),
            "images: expected a folder, a list of files or a list of pictures, got int",
        ),
        (
            (["x.png", RED],),
            "images: expected all paths or all pictures, got both: use one kind",
        ),
        (
            ([RED / np.float32(255)],),
            "images: picture 0: expected uint8 (height, width, 3) RGB or (height, width), got "
            "float32 (4, 6, 3); of values from 0 to 1: (255 * array).round().astype('uint8')",
        ),
        (
            ([RED.transpose(2, 0, 1)],),
            "images: picture 0: expected uint8 (height, width, 3) RGB or (height, width), got "
            "uint8 (3, 4, 6); of channels first: array.transpose(1, 2, 0)",
        ),
        (
            ([Image.new("F", (1, 1))],),
            "images: picture 0 has floating-point pixels: use 8 or 16 bit",
        ),
        (("x", "y"), "truth and classes go together: classes say what the true ids mean"),
        (
            ("x", [RED[..., 0]], ["a"]),
            "truth: a list of labels needs a list of images: give a folder of masks",
        ),
        (
            ([RED], [], ["a"]),
            "truth: expected 1 label arrays, as images, got 0",
        ),
        (
            ([RED], [RED], ["a"]),
            "truth: labels 0: expected whole numbers 0 to 255, (height, width), "
            "got uint8 (4, 6, 3)",
        ),
        (("x", "y", []), "classes: expected 1 to 255 names, got []"),
    ],
)
def test_refusals(tmp_path: Path, wanted: tuple[Any, ...], text: str) -> None:
    with pytest.raises(UsageError) as error:
        lay_out(tmp_path, *wanted)
    assert str(error.value) == text


def test_a_file_that_is_not_there_or_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(UsageError, match=r"a\.png: no such file; a folder is given alone"):
        lay_out(tmp_path, [path])
    Image.fromarray(RED).save(path)
    with pytest.raises(UsageError, match=r"a\.png is in the list twice: leave one out"):
        lay_out(tmp_path, [path, path])


def test_negative_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="mask 3: expected whole numbers 0 to 255"):
        label_array(np.array([[-1]]), "mask 3")


def test_too_many_names() -> None:
    with pytest.raises(UsageError, match="classes: expected 1 to 255 names"):
        class_table([str(number) for number in range(256)])


def test_the_cache_is_the_same_for_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATUS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = cache_folder("photos")
    assert folder == cache_folder(tmp_path / "photos")
    assert folder.parent == tmp_path / "runs"
    assert folder.name.startswith("photos-")
    assert cache_folder("trip/images").name.startswith("trip-")
    assert cache_folder([RED]) == cache_folder(RED[None])
    others = [cache_folder([RED]), cache_folder([RED.reshape(6, 4, 3)]), cache_folder([RED, RED])]
    others += [folder, cache_folder("photos", "salt"), cache_folder(["a.png"])]
    assert len(set(others)) == 6
    assert all(map(is_cached, others))
    assert not is_cached(tmp_path / "runs")
    assert not is_cached(tmp_path)
    monkeypatch.delenv("DATUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("photos").parent == tmp_path / "xdg" / "datus" / "runs"

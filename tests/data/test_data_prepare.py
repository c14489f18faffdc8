"""data/prepare: ids are right, images untouched, and every mistake ends in one clear message."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data" / "prepare"))

import camvid_style
import cocostuff
import common
import suim

from datus.errors import WorkError
from datus.inputs.labels import load_classes

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "datasets"
CLASSES = ROOT / "data" / "classes"
SUIM_COLOURS = [(255 * (i >> 2 & 1), 255 * (i >> 1 & 1), 255 * (i & 1)) for i in range(8)]


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def read(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def picture(height=3, width=4):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def colour_mask():
    """3 x 4 pixels, SUIM ids 0..7, 0..3."""
    ids = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]], np.uint8)
    return ids, np.array(SUIM_COLOURS, np.uint8)[ids]


@pytest.fixture
def suim_folder(tmp_path):
    """train_val with two pairs, TEST with one, as published."""
    ids, colours = colour_mask()
    for split, name in (("train_val", "a_1_"), ("train_val", "b_2_"), ("TEST", "c_3_")):
        save(tmp_path / "SUIM" / split / "images" / f"{name}.jpg", picture())
        save(tmp_path / "SUIM" / split / "masks" / f"{name}.bmp", colours)
    save(tmp_path / "SUIM" / "TEST" / "masks" / "HD" / "c_3_.bmp", colours)
    return tmp_path / "SUIM", ids


@pytest.fixture
def plain(tmp_path):
    """images/ and masks/ with ids; pairs x and deep/y."""
    ids = np.array([[0, 1, 2, 10], [3, 3, 3, 3], [255, 5, 6, 7]], np.uint8)
    for name in ("x", "deep/y"):
        save(tmp_path / "set" / "images" / f"{name}.png", picture())
        save(tmp_path / "set" / "masks" / f"{name}.png", ids)
    return tmp_path / "set", ids


# --- SUIM ---------------------------------------------------------------------------------------


def test_rgb_to_ids_is_4r_2g_1b():
    ids, colours = colour_mask()
    got, n_inexact = suim.rgb_to_ids(colours)
    assert got.tolist() == ids.tolist()
    assert got.dtype == np.uint8
    assert n_inexact == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_rgb_to_ids_agrees_with_a_slow_loop(seed):
    rgb = np.random.default_rng(seed).choice([0, 1, 127, 128, 254, 255], (5, 6, 3)).astype(np.uint8)
    got, n_inexact = suim.rgb_to_ids(rgb)
    slow_inexact = 0
    for row in range(5):
        for column in range(6):
            red, green, blue = (int(value) for value in rgb[row, column])
            slow = 4 * (red >= 128) + 2 * (green >= 128) + (blue >= 128)
            assert got[row, column] == slow
            slow_inexact += any(value not in (0, 255) for value in (red, green, blue))
    assert n_inexact == slow_inexact


def test_suim_keeps_the_splits_and_leaves_out_the_masks_per_class(suim_folder, tmp_path):
    source, ids = suim_folder
    assert suim.main([str(source), str(tmp_path / "out")]) == 0
    made = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert made == {
        "images/train_val/a_1_.jpg",
        "images/train_val/b_2_.jpg",
        "images/TEST/c_3_.jpg",
        "masks/train_val/a_1_.png",
        "masks/train_val/b_2_.png",
        "masks/TEST/c_3_.png",
        "prepared.json",
    }
    assert read(tmp_path / "out/masks/TEST/c_3_.png").tolist() == ids.tolist()


def test_suim_reads_a_single_split(suim_folder, tmp_path):
    source, _ = suim_folder
    assert suim.main([str(source / "TEST"), str(tmp_path / "out")]) == 0
    assert [p.name for p in (tmp_path / "out/masks").iterdir()] == ["c_3_.png"]


def test_images_are_copied_byte_for_byte(suim_folder, tmp_path):
    source, _ = suim_folder
    assert suim.main([str(source), str(tmp_path / "out")]) == 0
    for path in (source / "train_val" / "images").iterdir():
        assert (tmp_path / "out/images/train_val" / path.name).read_bytes() == path.read_bytes()


def test_suim_counts_noisy_pixels_and_cuts_them_at_128(tmp_path, capsys):
    colours = np.zeros((10, 20, 3), np.uint8)
    colours[0, 0] = (3, 0, 251)  # id 1
    colours[0, 1] = (128, 127, 0)  # id 4; two pixels of 200 are 1 %
    save(tmp_path / "s/images/a.png", picture(10, 20))
    save(tmp_path / "s/masks/a.bmp", colours)
    assert suim.main([str(tmp_path / "s"), str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out/masks/a.png")[0, :3].tolist() == [1, 4, 0]
    out = capsys.readouterr().out
    assert "pixels not exactly 0 or 255: 2\n" in out
    assert "masks with such pixels: 1\n" in out


def test_suim_refuses_a_mask_with_more_than_one_percent_noise(tmp_path, capsys):
    colours = np.zeros((10, 20, 3), np.uint8)
    colours[0, :3] = 40
    save(tmp_path / "s/images/a.png", picture(10, 20))
    save(tmp_path / "s/masks/a.bmp", colours)
    assert suim.main([str(tmp_path / "s"), str(tmp_path / "out")]) == 1
    mask = tmp_path / "s/masks/a.bmp"
    assert capsys.readouterr().err == (
        f"error: {mask}: 1.5 % of the pixels are neither 0 nor 255, expected at most 1 %; "
        "is it a SUIM mask?\n"
    )


def test_suim_says_which_folders_it_expects(tmp_path, capsys):
    assert suim.main([str(tmp_path), str(tmp_path.parent / "out")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: expected images/ and masks/ in it, or train_val/ and TEST/\n"
    )


def test_suim_gives_the_known_ids_for_the_published_test_images(tmp_path):
    raw, truth = SHARED / "suim_test8_raw", SHARED / "suim_test8" / "masks"
    if not raw.is_dir():
        pytest.skip("the SUIM samples are not here")
    assert suim.main([str(raw), str(tmp_path / "out")]) == 0
    wanted = {read(path).tobytes() for path in truth.glob("*.png")}
    got = {read(path).tobytes() for path in (tmp_path / "out/masks").glob("*.png")}
    assert len(wanted) == 8
    assert got == wanted
    for path in (raw / "images").iterdir():
        assert (tmp_path / "out/images" / path.name).read_bytes() == path.read_bytes()


# --- COCO-Stuff ---------------------------------------------------------------------------------


def coco(tmp_path, ids):
    save(tmp_path / "coco/images/val2017/000000000139.jpg", picture())
    save(tmp_path / "coco/stuffthingmaps/val2017/000000000139.png", ids)
    return tmp_path / "coco"


def test_cocostuff_links_or_copies_and_keeps_the_ids(tmp_path):
    ids = np.array([[0, 1, 10, 12], [91, 181, 255, 255], [24, 26, 89, 91]], np.uint8)
    source = coco(tmp_path, ids)
    assert cocostuff.main([str(source), str(tmp_path / "a")]) == 0
    assert cocostuff.main([str(source), str(tmp_path / "b"), "--link"]) == 0
    for out, is_link in ((tmp_path / "a", False), (tmp_path / "b", True)):
        image = out / "images/val2017/000000000139.jpg"
        assert image.is_symlink() == is_link
        assert image.read_bytes() == next(source.rglob("*.jpg")).read_bytes()
        assert read(out / "masks/val2017/000000000139.png").tolist() == ids.tolist()


@pytest.mark.parametrize("wrong", [11, 25, 90, 182, 254])
def test_cocostuff_refuses_ids_that_pixel_maps_do_not_have(tmp_path, capsys, wrong):
    source = coco(tmp_path, np.full((3, 4), wrong))
    assert cocostuff.main([str(source), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"000000000139.png: ids {wrong} are not used by pixel maps" in error
    assert "does this file count from 1?" in error


def test_cocostuff_unused_ids_are_those_of_the_class_table():
    known = load_classes(CLASSES / "cocostuff27.toml").known
    assert tuple(np.flatnonzero(~known[:182])) == cocostuff.UNUSED


def test_cocostuff_says_which_folder_is_missing(tmp_path, capsys):
    save(tmp_path / "coco/images/a.jpg", picture())
    assert cocostuff.main([str(tmp_path / "coco"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'coco'}: no folder stuffthingmaps or stuffthingmaps_trainval2017 or "
        "annotations or masks in it; say which with --masks NAME\n"
    )


# --- camvid_style -------------------------------------------------------------------------------


def test_ids_pass_through_and_ignored_ones_become_255(plain, tmp_path):
    source, ids = plain
    save(source / "masks/x.png", np.where(ids == 10, 11, ids))
    classes = str(CLASSES / "camvid11.toml")
    assert camvid_style.main([str(source), str(tmp_path / "out"), "--classes", classes]) == 0
    assert read(tmp_path / "out/masks/deep/y.png").tolist() == ids.tolist()
    assert read(tmp_path / "out/masks/x.png")[0].tolist() == [0, 1, 2, 255]


def test_palette_masks_give_their_indices(tmp_path):
    ids = np.array([[0, 1, 20], [255, 2, 3]], np.uint8)
    save(tmp_path / "voc/JPEGImages/a.jpg", picture(2, 3))
    mask = Image.fromarray(ids)
    mask.putpalette(bytes(range(256)) * 3)
    (tmp_path / "voc/SegmentationClass").mkdir()
    mask.save(tmp_path / "voc/SegmentationClass/a.png")
    folders = ["--images", "JPEGImages", "--masks", "SegmentationClass"]
    classes = ["--classes", str(CLASSES / "voc21.toml")]
    source, out = str(tmp_path / "voc"), str(tmp_path / "out")
    assert camvid_style.main([source, out, *folders, *classes]) == 0
    assert read(tmp_path / "out/masks/a.png").tolist() == ids.tolist()


def test_colours_become_the_smallest_id_of_their_class(tmp_path):
    table = tmp_path / "my.toml"
    table.write_text(
        'name = "my"\n[[classes]]\nname = "a"\ncolour = [10, 20, 30]\nids = [7, 4]\n'
        '[[classes]]\nname = "b"\ncolour = [40, 50, 60]\nids = [0]\n'
    )
    colours = [[(10, 20, 30), (40, 50, 60)], [(0, 0, 0), (10, 20, 30)]]
    save(tmp_path / "s/images/f.png", picture(2, 2))
    save(tmp_path / "s/masks/f_L.png", colours)
    arguments = ["--mask-ending", "_L", "--classes", str(table), "--void", "0,0,0"]
    assert camvid_style.main([str(tmp_path / "s"), str(tmp_path / "out"), *arguments]) == 0
    assert read(tmp_path / "out/masks/f.png").tolist() == [[4, 0], [255, 4]]


def test_an_unknown_colour_is_an_error_that_names_it(tmp_path, capsys):
    save(tmp_path / "s/images/f.png", picture(2, 2))
    save(tmp_path / "s/masks/f.png", np.full((2, 2, 3), (1, 2, 3)))
    classes = ["--classes", str(CLASSES / "camvid11.toml")]
    assert camvid_style.main([str(tmp_path / "s"), str(tmp_path / "out"), *classes]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 's/masks/f.png'}: 1 colours are not in the class table: 1,2,3; "
        "add them to it, or say --void R,G,B for those that mean not known\n"
    )


def test_colour_masks_need_a_class_table(tmp_path, capsys):
    save(tmp_path / "s/images/f.png", picture())
    save(tmp_path / "s/masks/f.png", picture())
    assert camvid_style.main([str(tmp_path / "s"), str(tmp_path / "out")]) == 1
    assert "is a colour mask; give the colours with --classes TOML" in capsys.readouterr().err


def test_unknown_ids_are_an_error_that_names_them(plain, tmp_path, capsys):
    source, _ = plain
    save(source / "masks/x.png", np.full((3, 4), 77))
    classes = ["--classes", str(CLASSES / "camvid11.toml")]
    assert camvid_style.main([str(source), str(tmp_path / "out"), *classes]) == 1
    assert "x.png: ids 77 are not in camvid11; add them to a class or to" in capsys.readouterr().err


def test_cityscapes_endings_are_dropped_and_other_files_passed_over(tmp_path):
    city = tmp_path / "city"
    save(city / "leftImg8bit/val/lindau/lindau_0_leftImg8bit.png", picture())
    save(city / "gtFine/val/lindau/lindau_0_gtFine_labelIds.png", np.full((3, 4), 7))
    save(city / "gtFine/val/lindau/lindau_0_gtFine_color.png", picture())
    arguments = ["--images", "leftImg8bit", "--image-ending", "_leftImg8bit", "--masks", "gtFine"]
    arguments += ["--mask-ending", "_gtFine_labelIds"]
    arguments += ["--classes", str(CLASSES / "cityscapes27.toml")]
    assert camvid_style.main([str(city), str(tmp_path / "out"), *arguments]) == 0
    assert (tmp_path / "out/images/val/lindau/lindau_0.png").is_file()
    assert (read(tmp_path / "out/masks/val/lindau/lindau_0.png") == 7).all()


@pytest.mark.parametrize("text", ["1,2", "1,2,300", "a,b,c", "-1,0,0"])
def test_void_must_be_a_colour(plain, tmp_path, capsys, text):
    source, _ = plain
    arguments = ["--classes", str(CLASSES / "camvid11.toml"), f"--void={text}"]
    assert camvid_style.main([str(source), str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err == (
        f"error: --void {text}: expected R,G,B with 0 to 255 each, as 0,0,0\n"
    )


def test_void_needs_a_table_and_must_not_be_a_class(plain, tmp_path, capsys):
    source, _ = plain
    assert camvid_style.main([str(source), str(tmp_path / "out"), "--void", "0,0,0"]) == 2
    assert "--void: needs the other colours too" in capsys.readouterr().err
    arguments = ["--classes", str(CLASSES / "camvid11.toml"), "--void", "128,0,0"]
    assert camvid_style.main([str(source), str(tmp_path / "out"), *arguments]) == 2
    assert "128,0,0: is the colour of a class in camvid11" in capsys.readouterr().err


# --- what all share -----------------------------------------------------------------------------


def test_missing_partners_are_listed_ten_at_most(tmp_path, capsys):
    for number in range(12):
        save(tmp_path / f"s/images/i{number:02d}.png", picture())
    save(tmp_path / "s/images/ok.png", picture())
    save(tmp_path / "s/masks/ok.png", np.zeros((3, 4)))
    save(tmp_path / "s/masks/a_lonely.png", np.zeros((3, 4)))
    assert camvid_style.main([str(tmp_path / "s"), str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "error: 13 of 14 names lack a partner; complete the data set or use --skip-missing:"
    )
    assert lines[1:3] == ["  a_lonely: no image", "  i00: no mask"]
    assert lines[-1] == "  ..."
    assert len(lines) == 12
    assert not (tmp_path / "out").exists()


def test_skip_missing_leaves_them_out_and_says_how_many(tmp_path, capsys):
    for name in ("a", "b"):
        save(tmp_path / f"s/images/{name}.png", picture())
    save(tmp_path / "s/masks/b.png", np.zeros((3, 4)))
    assert camvid_style.main([str(tmp_path / "s"), str(tmp_path / "out"), "--skip-missing"]) == 0
    assert [p.name for p in (tmp_path / "out/images").iterdir()] == ["b.png"]
    assert "left out: no partner: 1\n" in capsys.readouterr().out


def test_no_pair_at_all_is_an_error_even_with_skip_missing(tmp_path, capsys):
    save(tmp_path / "s/images/a.png", picture())
    save(tmp_path / "s/masks/a_L.png", np.zeros((3, 4)))
    assert camvid_style.main([str(tmp_path / "s"), str(tmp_path / "out"), "--skip-missing"]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 's'}: no image has a mask of the same name: 1 images (first: a), "
        "1 masks (first: a_L)\n"
    )


def test_list_takes_only_the_named_pairs(plain, tmp_path, capsys):
    source, _ = plain
    names = tmp_path / "names.txt"
    names.write_text("y\n\n")
    arguments = [str(source), str(tmp_path / "out"), "--list", str(names)]
    assert camvid_style.main(arguments) == 0
    made = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")]
    assert sorted(made) == ["images/deep/y.png", "masks/deep/y.png"]
    names.write_text("deep/y\nz\n")
    assert camvid_style.main([*arguments, "--overwrite"]) == 1
    assert "1 of 2 names lack a partner" in capsys.readouterr().err


def test_a_finished_output_is_kept_unless_overwrite(plain, tmp_path, capsys):
    source, _ = plain
    out = tmp_path / "out"
    assert camvid_style.main([str(source), str(out)]) == 0
    assert camvid_style.main([str(source), str(out)]) == 2
    message = f"error: {out}: already prepared; use --overwrite to replace it\n"
    assert capsys.readouterr().err == message
    (source / "images/x.png").unlink()
    (source / "masks/x.png").unlink()
    assert camvid_style.main([str(source), str(out), "--overwrite"]) == 0
    assert sorted(p.name for p in out.rglob("*.png")) == ["y.png", "y.png"]


def test_an_interrupted_output_is_made_anew_without_overwrite(plain, tmp_path):
    source, ids = plain
    out = tmp_path / "out"
    save(source / "masks/x.png", np.zeros((3, 4, 3)))
    assert camvid_style.main([str(source), str(out)]) == 1
    assert json.loads((out / "prepared.json").read_text())["finished"] is False
    save(source / "masks/x.png", ids)
    assert camvid_style.main([str(source), str(out)]) == 0
    report = json.loads((out / "prepared.json").read_text())
    assert report == {"finished": True, "source": "set", "masks of ids": 2, "pairs": 2}
    assert not list(out.rglob("*.part"))


def test_a_folder_with_something_else_is_never_touched(plain, tmp_path, capsys):
    source, _ = plain
    mine = tmp_path / "mine"
    save(mine / "images/holiday.png", picture())
    assert camvid_style.main([str(source), str(mine), "--overwrite"]) == 2
    assert capsys.readouterr().err == (
        f"error: {mine}: not empty and not made by this script; choose a new folder for OUT\n"
    )
    assert (mine / "images/holiday.png").is_file()
    assert camvid_style.main([str(source), str(source / "out")]) == 2
    assert "OUT and SOURCE lie in one another" in capsys.readouterr().err


def test_sizes_that_differ_stop_or_are_skipped_or_resized(plain, tmp_path, capsys):
    source, _ = plain
    save(source / "masks/x.png", np.array([[1, 2]]))
    out = str(tmp_path / "out")
    assert camvid_style.main([str(source), out]) == 1
    assert capsys.readouterr().err == (
        f"error: {source / 'masks/x.png'}: 2x1 pixels, its image has 4x3; "
        "use --size-mismatch skip or resize\n"
    )
    assert camvid_style.main([str(source), out, "--size-mismatch", "resize"]) == 0
    assert read(tmp_path / "out/masks/x.png").tolist() == [[1, 1, 2, 2]] * 3
    assert "masks resized: 1\n" in capsys.readouterr().out
    skip = ["--size-mismatch", "skip", "--overwrite"]
    assert camvid_style.main([str(source), out, *skip]) == 0
    assert not (tmp_path / "out/masks/x.png").exists()
    assert "left out: image and mask differ in size: 1\n" in capsys.readouterr().out


def test_broken_files_are_named(plain, tmp_path, capsys):
    source, ids = plain
    (source / "masks/x.png").write_bytes(b"not a png")
    assert camvid_style.main([str(source), str(tmp_path / "out")]) == 1
    assert f"error: {source / 'masks/x.png'}: cannot be read as an image" in capsys.readouterr().err
    save(source / "masks/x.png", ids)
    (source / "images/x.png").write_bytes(b"not a png")
    assert camvid_style.main([str(source), str(tmp_path / "out")]) == 1
    assert f"{source / 'images/x.png'}: cannot be read as an image" in capsys.readouterr().err


def test_two_files_of_one_name_are_an_error(plain, tmp_path, capsys):
    source, _ = plain
    save(source / "images/x.jpg", picture())
    assert camvid_style.main([str(source), str(tmp_path / "out")]) == 2
    assert "x.png: same name as x.jpg; remove one of the two" in capsys.readouterr().err


def test_hidden_files_are_passed_over(plain, tmp_path):
    source, _ = plain
    (source / "images/._x.png").write_bytes(b"left by another system")
    assert camvid_style.main([str(source), str(tmp_path / "out")]) == 0


def test_ids_of_more_than_8_bits_are_an_error():
    wide = Image.fromarray(np.array([[0, 300]], np.int32))
    with pytest.raises(WorkError, match="one channel of ids 0 to 255, got an image of mode I"):
        common.mask_ids(wide, Path("wide.png"))
    narrow = Image.fromarray(np.array([[0, 200]], np.int32))
    assert common.mask_ids(narrow, Path("narrow.png")).tolist() == [[0, 200]]


@pytest.mark.parametrize("script", ["suim", "cocostuff", "camvid_style"])
def test_scripts_run_from_anywhere_and_report_mistakes_without_a_traceback(script, tmp_path):
    path = ROOT / "data" / "prepare" / f"{script}.py"
    command = [sys.executable, str(path), "nowhere", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: nowhere: no such folder; SOURCE is the data set as published\n"
    assert done.stdout == ""

"""data/make_imperfect.py: what each kind does to a mask, and that it does it again."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))

import make_imperfect
from make_imperfect import KINDS, imperfect


def scene():
    """Three classes, an unknown rim, and a part too small to see."""
    labels = np.zeros((60, 80), np.uint8)
    labels[30:] = 1
    labels[20:40, 30:50] = 2
    labels[5:8, 5:8] = 2
    labels[:1] = 255
    return labels


def made(kind, level, seed=0, name="a"):
    return imperfect(scene(), kind, level, seed, name)


@pytest.mark.parametrize("kind", ["points", "scribbles", "erode"])
def test_what_is_left_is_right(kind):
    labels = made(kind, 3)
    kept = labels != 255
    assert 0 < kept.mean() < 0.95
    assert np.array_equal(labels[kept], scene()[kept])
    assert set(np.unique(labels[kept])) == {0, 1, 2}


def test_points_are_few_and_one_disc_each():
    one, three = made("points", 1), made("points", 3)
    assert (one != 255).sum() < (three != 255).sum() < 3 * 3 * 21 + 1
    assert (one[5:8, 5:8] != 2).all()  # nobody sees it


@given(level=st.integers(1, 20), seed=st.integers(0, 50))
def test_scribbles_stay_within_their_share(level, seed):
    labels = made("scribbles", level, seed)
    for label in (0, 1, 2):
        size = (scene() == label).sum()
        assert (labels == label).sum() <= max(level / 100 * size, 20) + 9


def test_eroding_takes_the_rim_and_no_more():
    labels = made("erode", 2)
    assert (labels[28:32, :28] == 255).all()
    assert (labels[4:27, :3] == 0).all()  # the edge of the image is no rim
    assert (labels[23:37, 33:47] == 2).all()


def test_dilating_lets_the_rare_class_grow():
    labels = made("dilate", 3)
    assert (labels == 2).sum() > (scene() == 2).sum()
    assert labels[18, 40] == labels[42, 40] == 2
    assert np.array_equal(labels == 255, scene() == 255)


@pytest.mark.parametrize("level", [0, 5, 10])
def test_shifting_moves_the_whole_mask(level):
    labels = made("shift", level)
    reach = level / 100 * 80
    gone = (labels == 255).sum() - 80
    assert gone <= 2 * 80 * (reach + 1)
    if level == 0:
        assert np.array_equal(labels, scene())
    else:
        assert not np.array_equal(labels, scene())
        assert np.bincount(labels.ravel(), minlength=3)[2] == (scene() == 2).sum()


def test_flipping_changes_whole_regions():
    assert np.array_equal(made("flip", 0), scene())
    labels = made("flip", 100)
    known = scene() != 255
    assert (labels[known] != scene()[known]).all()
    for _, inside in make_imperfect.regions(scene()):
        assert len(np.unique(labels[inside])) == 1


def test_flips_hit_the_asked_share_of_regions():
    wrong = [
        labels[inside][0] != label
        for name in map(str, range(200))
        for labels in [made("flip", 30, name=name)]
        for label, inside in make_imperfect.regions(scene())
    ]
    assert 0.24 < np.mean(wrong) < 0.36


def test_blocks_are_of_one_label():
    labels = made("blocks", 16)
    for top in range(0, 60, 16):
        for left in range(0, 80, 16):
            assert len(np.unique(labels[top : top + 16, left : left + 16])) == 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_mask_depends_on_seed_and_name_alone(kind):
    assert np.array_equal(made(kind, 3), made(kind, 3))
    if kind in ("points", "scribbles", "shift"):
        assert not np.array_equal(made(kind, 3), made(kind, 3, seed=1))
        assert not np.array_equal(made(kind, 3), made(kind, 3, name="b"))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_known_stays_unknown(kind):
    labels = np.full((9, 9), 255, np.uint8)
    assert np.array_equal(imperfect(labels, kind, 3, 0, "a"), labels)


def test_the_script_writes_a_folder_of_the_same_names(tmp_path, capsys):
    (tmp_path / "masks" / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png"):
        Image.fromarray(scene()).save(tmp_path / "masks" / name)
    given = [str(tmp_path / "masks"), str(tmp_path / "out"), "--kind", "flip", "--level", "50"]
    assert make_imperfect.main(given) == 0
    assert capsys.readouterr().out == f"2 masks in {tmp_path / 'out'}\n"
    with Image.open(tmp_path / "out" / "b" / "c.png") as image:
        assert np.array_equal(np.asarray(image), made("flip", 50, name="b/c"))


def test_a_folder_without_masks_is_told(tmp_path, capsys):
    given = [str(tmp_path), str(tmp_path / "out"), "--kind", "flip", "--level", "50"]
    assert make_imperfect.main(given) == 2
    assert "no label file in it" in capsys.readouterr().err

"""Crops: where, how much they share, and that they come from (seed, step) alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datus.errors import WorkError
from datus.views import Phase, Photographs, cut, random_box, read, recoloured

PHASES = Phase(0, 3, 4, False), Phase(3, 5, 2, True)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for place in range(5):
        pixels = rng.integers(0, 256, (40 + place, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
    return sorted(tmp_path.glob("*.png"))


def test_a_step_is_the_same_whenever_it_is_asked_for(paths: list[Path]) -> None:
    one, other = (Photographs(paths, PHASES, 16, seed=7) for _ in range(2))
    steps = dict(one.batches(0))
    assert list(steps) == [0, 1, 2, 3, 4]
    for step, views in other.batches(2):
        for part, expected in zip(views, steps[step], strict=True):
            assert torch.equal(part, expected)
    assert not torch.equal(steps[0].first, steps[1].first)


def test_phases_have_their_own_batch_and_number_of_crops(paths: list[Path]) -> None:
    photographs = Photographs(paths, PHASES, 16, seed=0)
    alone, pair = photographs.batch(2), photographs.batch(3)
    assert alone.first.shape == (4, 3, 16, 16)
    assert not alone.second.any()
    assert pair.first.shape == pair.second.shape == (2, 3, 16, 16)
    assert pair.first.min() >= 0
    assert pair.first.max() <= 1


def test_unreadable_images_are_passed_over_and_counted(paths: list[Path]) -> None:
    paths[1].write_bytes(b"not an image")
    photographs = Photographs(paths, PHASES, 16, seed=0)
    assert len(list(photographs.batches(0))) == 5
    assert photographs.n_bad == 1


def test_a_folder_of_unreadable_images_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"not an image")
    with pytest.raises(WorkError, match=r"^1 of 1 images cannot be read; the last: .*a\.jpg \("):
        Photographs([path], PHASES, 16, seed=0).batch(0)


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 1000),
    least=st.sampled_from([0.2, 0.3]),
)  # fmt: skip
def test_boxes_lie_in_the_image_and_can_be_cut(
    height: int, width: int, seed: int, least: float
) -> None:
    rng = np.random.default_rng(seed)
    first = random_box((height, width), rng, least, None)
    second = random_box((height, width), rng, least, first)
    image = np.zeros((height, width, 3), np.uint8)
    for box in (first, second):
        left, right = sorted(box[[1, 3]])
        assert 0 <= box[0] < box[2] <= max(8, height) + 1e-3
        assert 0 <= left < right <= max(8, width) + 1e-3
        assert cut(image, box, 16).shape == (16, 16, 3)


def test_two_boxes_share_a_quarter_of_the_smaller() -> None:
    shares = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        boxes = [random_box((100, 140), rng, 0.2, None)]
        boxes.append(random_box((100, 140), rng, 0.2, boxes[0]))
        covers = []
        for top, left, bottom, right in boxes:
            cover = np.zeros((1000, 1400), bool)
            rows, columns = sorted((top, bottom)), sorted((left, right))
            cover[
                int(10 * rows[0]) : int(10 * rows[1]), int(10 * columns[0]) : int(10 * columns[1])
            ] = 1
            covers.append(cover)
        shares.append((covers[0] & covers[1]).sum() / min(c.sum() for c in covers))
    assert min(shares) > 0.24


def test_a_mirrored_box_gives_a_mirrored_crop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    box = np.array([0, 0, 32, 32], np.float32)
    assert np.array_equal(cut(image, box[[0, 3, 2, 1]], 32), cut(image, box, 32)[:, ::-1])


def test_colours_move_and_stay_in_range() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found = [recoloured(crop, np.random.default_rng(seed)) for seed in range(30)]
    assert all(one.dtype == np.uint8 and one.shape == crop.shape for one in found)
    assert len({one.tobytes() for one in found}) == 30
    grey = [one for one in found if np.ptp(one.astype(int), axis=2).max() < 60]
    assert grey  # saturation 0 happens


def test_large_jpegs_are_decoded_small_but_large_enough(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 1200), (200, 10, 10)).save(tmp_path / "a.jpg")
    found = read(tmp_path / "a.jpg", 256)
    assert 256 <= found.shape[0] < 600
    assert found.shape[2] == 3

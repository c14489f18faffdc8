"""k-means on colours: what it finds, its bytes, and how the report shows it beside the masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import Dataset, go, make_dataset

from datus.method.baselines import colour_masks, nearest, pixel_features, renumbered
from datus.types import Array


def halves(left: int, right: int, height: int = 12, width: int = 16) -> Array:
    """uint8 (height, width, 3): two greys side by side."""
    image = np.full((height, width, 3), left, np.uint8)
    image[:, width // 2 :] = right
    return image


def test_features_of_a_pixel() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    found = pixel_features(image, True, np.array([0, 6]))
    expected = [[0, 1 / 255, 2 / 255, 0, 0], [18 / 255, 19 / 255, 20 / 255, 0.5, 0.5]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(pixel_features(image, False, np.array([0, 6])), found[:, :3])


def test_two_colours_are_two_clusters_in_all_images() -> None:
    first, second = colour_masks([halves(10, 200), halves(190, 15)], 2, False, 0)
    assert len(np.unique(first)) == 2
    np.testing.assert_array_equal(first[:, :8], first[:1, :1].repeat(12, 0).repeat(8, 1))
    np.testing.assert_array_equal(first, second[:, ::-1])


def test_position_parts_what_colour_does_not() -> None:
    even = np.full((20, 20, 3), 90, np.uint8)
    (mask,) = colour_masks([even], 2, True, 0)
    assert set(np.unique(mask)) == {0, 1}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_the_same_images_give_the_same_masks(k: int, n_images: int, position: bool) -> None:
    rng = np.random.default_rng(k)
    images = [rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(n_images)]
    once, again = (colour_masks(images, k, position, 3) for _ in range(2))
    assert all(np.array_equal(*pair) for pair in zip(once, again, strict=True))
    assert all(mask.shape == (9, 7) and mask.dtype == np.uint8 for mask in once)
    assert max(int(mask.max()) for mask in once) < k


def test_fewer_colours_than_clusters() -> None:
    (mask,) = colour_masks([np.zeros((1, 2, 3), np.uint8)], 5, False, 0)
    np.testing.assert_array_equal(mask, [[0, 0]])
    (mask,) = colour_masks([halves(0, 255)], 7, False, 0)
    assert set(np.unique(mask)) == {0, 1}


def test_nearest_equals_all_distances() -> None:
    rng = np.random.default_rng(0)
    points, centroids = rng.random((50, 5), np.float32), rng.random((4, 5), np.float32)
    distances = ((points[:, None] - centroids[None]) ** 2).sum(2)
    np.testing.assert_array_equal(nearest(points, centroids), distances.argmin(1))


def test_numbers_follow_the_masks_beside_them() -> None:
    like = np.array([[0, 0, 1, 1, 2, 2, 255]], np.uint8)
    mask = np.array([[2, 2, 0, 0, 1, 1, 1]], np.uint8)
    (found,) = renumbered([mask], [like], 3)
    np.testing.assert_array_equal(found, [[0, 0, 1, 1, 2, 2, 2]])


# --- in the report ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data"))


def report(tiny: Dataset, folder: Path, **changes: object) -> tuple[dict, str]:
    done, _ = go(tiny.config(folder, {key.replace("__", "."): v for key, v in changes.items()}))
    node = done.plan.nodes[-1]
    files = folder / "report" / node.fingerprint / "files"
    return json.loads((files / "report.json").read_text()), (files / "report.html").read_text()


def test_the_report_scores_them_on_the_same_pixels(tiny: Dataset, tmp_path: Path) -> None:
    found, page = report(tiny, tmp_path / "run")
    rows = found["baselines"]["rows"]
    assert [row["name"] for row in rows] == ["this run", "colour", "colour + position"]
    assert all(0 <= row["miou"] <= 100 and 0 <= row["accuracy"] <= 100 for row in rows)
    assert all(row["place"] is None or -1 <= row["place"] <= 1 for row in rows)
    assert found["baselines"]["n_images"] == found["n_images"]
    assert "Beside k-means on colour" in page


def test_without_truth_there_are_pictures_and_places(tiny: Dataset, tmp_path: Path) -> None:
    found, page = report(tiny, tmp_path / "run", data__truth="", data__classes="")
    assert {row["miou"] for row in found["baselines"]["rows"]} == {None}
    assert 'class="tag">colour + position</span>' in page


def test_they_can_be_left_out(tiny: Dataset, tmp_path: Path) -> None:
    found, page = report(tiny, tmp_path / "run", report__baselines=False)
    assert found["baselines"] is None
    assert "Beside k-means on colour" not in page

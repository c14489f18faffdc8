"""Mean keys of places and the threshold of a density, against loops over images and patches."""

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datus.method import centering
from datus.method.affinity import affinity_graph, density
from datus.method.centering import (
    GRID,
    MAX_THRESHOLD,
    SAMPLE_IMAGES,
    SAMPLE_KEYS,
    KeySample,
    KeySums,
    add,
    cosine_threshold,
    dataset_mean,
    join,
    key_sample,
    key_sums,
    position_mean,
    position_share,
    resample,
    without,
)
from datus.types import AffinityGraph, Array


def triangle(place: int, n_out: int, n_in: int, at: int) -> float:
    centre = min(max((place + 0.5) * n_in / n_out - 0.5, 0), n_in - 1)
    return max(0.0, 1 - abs(centre - at) / max(1.0, n_in / n_out))


def slow_resample(grid: Array, shape: tuple[int, int]) -> Array:
    """Each output is the mean of inputs under a triangle around its centre."""
    out = np.zeros((*shape, grid.shape[2]))
    rows, columns = grid.shape[:2]
    for y, x in np.ndindex(shape):
        total = 0.0
        for i, j in np.ndindex(rows, columns):
            weight = triangle(y, shape[0], rows, i) * triangle(x, shape[1], columns, j)
            out[y, x] += weight * grid[i, j]
            total += weight
        out[y, x] /= total
    return out


@given(
    seed=st.integers(0, 10**6),
    sides=st.tuples(*[st.integers(1, 6)] * 4),
)
def test_resample_equals_the_loop(seed: int, sides: tuple[int, int, int, int]) -> None:
    grid = np.random.default_rng(seed).normal(size=(*sides[:2], 3))
    np.testing.assert_allclose(resample(grid, sides[2:]), slow_resample(grid, sides[2:]))


def test_same_shape_is_untouched_and_constants_stay() -> None:
    grid = np.random.default_rng(0).normal(size=(5, 7, 2))
    np.testing.assert_array_equal(resample(grid, (5, 7)), grid)
    np.testing.assert_allclose(resample(np.ones((3, 4, 2)), (9, 5)), 1.0)


def frames(n_images: int, place: float, noise: float) -> list[Array]:
    rng = np.random.default_rng(1)
    by_place = place * rng.normal(size=(GRID, GRID, 4))
    return [by_place + noise * rng.normal(size=by_place.shape) for _ in range(n_images)]


def test_means_equal_numpy_means() -> None:
    images = frames(5, 1.0, 1.0)
    sums = add([key_sums(image) for image in images])
    np.testing.assert_allclose(position_mean(sums), np.mean(images, axis=0), atol=1e-6)
    np.testing.assert_allclose(dataset_mean(sums)[0, 0], np.mean(images, axis=(0, 1, 2)), atol=1e-6)


def test_keys_without_the_position_mean_have_mean_zero_at_each_place() -> None:
    images = frames(6, 3.0, 1.0)
    mean = position_mean(add([key_sums(image) for image in images]))
    left = [without(image, mean) for image in images]
    assert left[0].dtype == np.float32
    np.testing.assert_allclose(np.mean(left, axis=0), 0.0, atol=1e-5)


@pytest.mark.parametrize(("place", "noise", "expected"), [(0, 1, 0.0), (1, 0, 1.0), (1, 1, 0.5)])
def test_position_share(place: float, noise: float, expected: float) -> None:
    share = position_share(add([key_sums(image) for image in frames(12, place, noise)]))
    assert share == pytest.approx(expected, abs=0.02)


def test_position_share_of_one_image_or_of_nothing_is_zero() -> None:
    image = frames(1, 1.0, 1.0)[0]
    assert position_share(key_sums(image)) == 0.0
    flat = KeySums(np.zeros((GRID, GRID, 4)), 0.0, 5)
    assert position_share(flat) == 0.0


def test_sums_of_two_sets_add_up() -> None:
    images = [image[:9, :13] for image in frames(4, 1.0, 1.0)]
    parts = [key_sums(image) for image in images]
    whole, halves = add(parts), add([add(parts[:2]), add(parts[2:])])
    np.testing.assert_allclose(whole.keys, halves.keys)
    assert whole.n_images == halves.n_images == 4
    assert whole.squares == pytest.approx(halves.squares)


@pytest.mark.parametrize(
    ("n_images", "place", "expected"),
    [(12, 3, "position"), (12, 0.3, "dataset"), (7, 3, "dataset")],
)
def test_auto_takes_position_where_it_explains_most_and_images_are_many(
    n_images: int, place: float, expected: str
) -> None:
    sums = add([key_sums(image) for image in frames(n_images, place, 1.0)])
    assert centering.best_center(sums) == expected


def test_parts_are_added_one_at_a_time() -> None:
    """A shard's sums are a megabyte; all of them would fill the memory of a long run."""
    alive: list[weakref.ref[KeySums]] = []
    most = 0

    class Watched(KeySums):
        __slots__ = ("__weakref__",)

    def parts() -> Iterator[KeySums]:
        nonlocal most
        for number in range(6):
            part = Watched(np.full((2, 2, 1), 0.1 * number), 0.1 * number, 1)
            alive.append(weakref.ref(part))
            most = max(most, sum(one() is not None for one in alive))
            yield part
            del part

    found = add(parts())
    assert most <= 2
    whole = add([KeySums(np.full((2, 2, 1), 0.1 * n), 0.1 * n, 1) for n in range(6)])
    assert found.keys.tobytes() == whole.keys.tobytes()
    assert (found.squares, found.n_images) == (whole.squares, 6)


def test_nothing_to_add_is_said() -> None:
    with pytest.raises(ValueError, match=r"^nothing to add: expected at least one KeySums$"):
        add(iter(()))


# --- the threshold of a density ------------------------------------------------------------------

SEEDS = st.integers(0, 10**6)
CENTERS = ("none", "image", "dataset", "position")
Images = dict[str, Array]
"""Image id -> keys (gh, gw, D)."""


def structured(
    seed: int, n_images: int, shape: tuple[int, int] = (9, 11), noise: float = 0.5
) -> dict[str, Array]:
    """Keys of images with a few regions each: what they have in common, place, region, noise."""
    rng = np.random.default_rng(seed)
    common, by_place, things = (
        rng.normal(size=(size, 16)) for size in (1, shape[0] * shape[1], 12)
    )
    images: Images = {}
    for number in range(n_images):
        corners = rng.integers(0, 12, (2, 2)).repeat(-(-shape[0] // 2), 0)
        region = corners.repeat(-(-shape[1] // 2), 1)[: shape[0], : shape[1]].ravel()
        keys = common + 0.5 * by_place + things[region]
        keys = keys + noise * rng.normal(size=keys.shape)
        images[f"i{number}"] = keys.reshape(*shape, 16).astype(np.float32)
    return images


def sample_of(images: Images) -> KeySample:
    return join(key_sample(keys, image_id) for image_id, keys in images.items())


def mean_of(images: Images, center: str) -> Array:
    sums = add(key_sums(keys) for keys in images.values())
    return position_mean(sums) if center == "position" else dataset_mean(sums)


def threshold_of(images: Images, center: str, share: float) -> float:
    return cosine_threshold(sample_of(images), center, mean_of(images, center), share)


def graphs_of(images: Images, center: str, threshold: float) -> list[AffinityGraph]:
    """As the stage graphs makes them."""
    mean = mean_of(images, center)
    seen = (
        without(keys, mean) if center in ("dataset", "position") else keys
        for keys in images.values()
    )
    return [affinity_graph(k, "image" if center == "image" else "none", threshold) for k in seen]


def linked_pairs(graphs: list[AffinityGraph]) -> int:
    """Of two different patches of one image."""
    return sum(round(density(one) * one.n_nodes * (one.n_nodes - 1) / 2) for one in graphs)


def mean_density(graphs: list[AffinityGraph]) -> float:
    """Of images of one size."""
    return float(np.mean([density(one) for one in graphs]))


def slow_cosines(images: Images, center: str) -> Array:
    """Of all pairs of patches within an image, one after the other."""
    mean, found = mean_of(images, center), []
    for keys in images.values():
        flat = keys.reshape(-1, keys.shape[2]).astype(np.float64)
        if center == "image":
            flat = flat - flat.mean(axis=0)
        if center in ("dataset", "position"):
            flat = flat - resample(mean, keys.shape[:2]).reshape(flat.shape[0], -1)
        for one in range(len(flat)):
            for other in range(one + 1, len(flat)):
                lengths = np.linalg.norm(flat[one]) * np.linalg.norm(flat[other])
                found.append(flat[one] @ flat[other] / lengths)
    return np.array(found)


@pytest.mark.parametrize("center", CENTERS)
@given(seed=SEEDS, share=st.floats(0.01, 0.9), n_images=st.integers(2, 4))
@settings(max_examples=25)
def test_the_asked_share_of_the_pairs_of_small_images_is_linked(
    center: str, seed: int, share: float, n_images: int
) -> None:
    images = structured(seed, n_images, (3, 4))
    threshold = threshold_of(images, center, share)
    cosines = slow_cosines(images, center)
    asked = max(1, int(share * len(cosines)))
    near = int((np.abs(cosines - threshold) < 1e-4).sum())  # it is rounded to four digits
    linked = linked_pairs(graphs_of(images, center, threshold))
    assert abs(linked - asked) <= max(1, near)
    assert linked == pytest.approx((cosines > threshold).sum(), abs=near)


@pytest.mark.parametrize("center", CENTERS)
@given(seed=SEEDS, share=st.floats(0.01, 0.9), exponent=st.integers(-8, 8))
@settings(max_examples=25)
def test_the_scale_of_keys_changes_neither_threshold_nor_graph(
    center: str, seed: int, share: float, exponent: int
) -> None:
    """By powers of two, which floats are scaled by without rounding."""
    images = structured(seed, 3, (4, 5))
    scaled = {image_id: keys * np.float32(2.0**exponent) for image_id, keys in images.items()}
    threshold = threshold_of(images, center, share)
    assert threshold_of(scaled, center, share) == threshold
    before, after = (graphs_of(one, center, threshold) for one in (images, scaled))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.bits, other.bits)


@given(seed=SEEDS, factor=st.floats(1e-3, 1e3))
def test_any_scale_changes_the_threshold_by_no_more_than_its_last_digit(
    seed: int, factor: float
) -> None:
    images = structured(seed, 3, (4, 5))
    scaled = {image_id: keys * np.float32(factor) for image_id, keys in images.items()}
    before, after = (threshold_of(one, "position", 0.1) for one in (images, scaled))
    assert after == pytest.approx(before, abs=1.1e-4)


def same_sample(one: KeySample, other: KeySample) -> bool:
    return all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes()
        for name in KeySample.__slots__
    )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms(), st.integers(1, 20))
def test_what_is_kept_does_not_depend_on_parts_or_their_order(
    sizes: list[int], random: Any, n_images: int
) -> None:
    ids = [f"{part}/{number}" for part, size in enumerate(sizes) for number in range(size)]
    rng = np.random.default_rng(len(ids))
    each = {one: key_sample(rng.normal(size=(3, 3, 2)), one) for one in ids}
    whole = join(each.values(), n_images)
    mixed = random.sample(ids, len(ids))
    assert same_sample(join((each[one] for one in mixed), n_images), whole)
    parts = []
    for size in sizes:
        taken, mixed = mixed[:size], mixed[size:]
        parts.append(join((each[one] for one in taken), n_images))
    assert same_sample(join(parts, n_images), whole)
    lowest = sorted(float(one.draw[0]) for one in each.values())[:n_images]
    assert whole.draw.tolist() == lowest


def test_what_is_drawn_of_an_image_depends_on_its_id_alone() -> None:
    keys = structured(0, 1, (12, 14))["i0"]
    one = key_sample(keys, "a/b")
    assert same_sample(one, key_sample(keys.copy(), "a/b"))
    assert key_sample(keys, "a/c").draw != one.draw
    assert one.keys.shape == (1, SAMPLE_KEYS, 16)
    assert one.grid.tolist() == [[12, 14]]
    drawn = one.place[0]
    assert len(set(drawn.tolist())) == SAMPLE_KEYS, "without replacement"
    assert 0 <= drawn.min() <= drawn.max() < 12 * 14
    np.testing.assert_array_equal(one.keys[0], keys.reshape(-1, 16)[drawn])
    np.testing.assert_allclose(one.mean[0], keys.mean(axis=(0, 1)), rtol=1e-5)


def test_an_image_of_fewer_patches_is_taken_whole_and_no_padding_counts() -> None:
    keys = structured(0, 1, (5, 3))["i0"]
    one = key_sample(keys, "a")
    assert one.place[0].tolist() == [*range(15), *[-1] * (SAMPLE_KEYS - 15)]
    np.testing.assert_array_equal(one.keys[0, :15], keys.reshape(-1, 16))
    assert not one.keys[0, 15:].any()
    cosines = slow_cosines({"a": keys}, "none")
    found = cosine_threshold(one, "none", np.zeros((1, 1, 16), np.float32), 0.5)
    assert (cosines > found).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_sample_keeps_the_precision_of_its_keys(dtype: Any) -> None:
    images = {name: keys.astype(dtype) for name, keys in structured(0, 3).items()}
    assert sample_of(images).keys.dtype == dtype
    threshold = threshold_of(images, "position", 0.1)
    assert mean_density(graphs_of(images, "position", threshold)) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_noise_in_the_keys_leaves_the_density_as_asked(center: str, noise: float) -> None:
    """It lowers every cosine; a fixed threshold would link less and less."""
    plain = structured(3, 30, (14, 14), noise=0.3)
    rng = np.random.default_rng(4)
    noisy = {
        image_id: (keys + noise * rng.normal(size=keys.shape)).astype(np.float32)
        for image_id, keys in plain.items()
    }
    threshold = threshold_of(noisy, center, 0.1)
    assert mean_density(graphs_of(noisy, center, threshold)) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("n_images", "tolerance"), [(8, 0.01), (400, 0.005)])
def test_few_and_many_images_of_one_kind_get_the_asked_density(
    n_images: int, tolerance: float
) -> None:
    images = structured(5, n_images, (12, 12))
    for share in (0.07, 0.2):
        threshold = threshold_of(images, "position", share)
        found = mean_density(graphs_of(images, "position", threshold))
        assert found == pytest.approx(share, abs=tolerance)


def test_more_images_than_are_kept_are_no_other_density() -> None:
    images = structured(6, SAMPLE_IMAGES + 200, (5, 5))
    sample = sample_of(images)
    assert len(sample.draw) == SAMPLE_IMAGES
    threshold = cosine_threshold(sample, "image", np.zeros((1, 1, 16), np.float32), 0.1)
    found = mean_density(graphs_of(images, "image", threshold))
    assert found == pytest.approx(0.1, abs=0.005)


def test_images_of_several_sizes_share_one_threshold() -> None:
    images = structured(7, 6, (12, 12)) | {
        f"small {name}": keys for name, keys in structured(7, 6, (4, 4)).items()
    }
    for center in CENTERS:
        threshold = threshold_of(images, center, 0.1)
        assert linked_pairs(graphs_of(images, center, threshold)) > 0
    assert threshold_of(dict(reversed(images.items())), "none", 0.1) == threshold_of(
        images, "none", 0.1
    )


ALIKE: Images = {name: np.ones((5, 5, 8), np.float16) for name in "abcde"}
"""Images of one colour, if the backbone knew no place."""


@pytest.mark.parametrize("share", [0.001, 0.07, 0.9])
@pytest.mark.parametrize("center", CENTERS)
def test_keys_that_are_all_alike_give_a_threshold_that_graphs_take(
    center: str, share: float
) -> None:
    threshold = threshold_of(ALIKE, center, share)
    assert -1 < threshold < 1
    links = {mean_density(graphs_of({k: v}, center, threshold)) for k, v in ALIKE.items()}
    if center == "none":
        assert (threshold, links) == (MAX_THRESHOLD, {1.0})
    if center == "image":
        assert links == {0.0}, "keys without their mean are zero, and zero keys are not linked"


def test_zero_keys_count_and_are_not_linked() -> None:
    keys = np.zeros((4, 4, 3), np.float32)
    keys[0] = np.eye(4, 3) + 1
    threshold = cosine_threshold(key_sample(keys, "a"), "none", keys[:1, :1], 0.9)
    graph = affinity_graph(keys, "none", threshold)
    assert density(graph) == pytest.approx(4 * 3 / (16 * 15)), "those that have a key, no more"


def test_opposite_keys_alone_give_a_threshold_that_graphs_take() -> None:
    """Two patches less their mean: the cosine is -1, whatever they are."""
    two = {"a": np.random.default_rng(0).normal(size=(1, 2, 5)).astype(np.float32)}
    threshold = threshold_of(two, "image", 0.5)
    assert -1 < threshold < 1
    assert mean_density(graphs_of(two, "image", threshold)) == 0


@pytest.mark.parametrize("center", CENTERS)
def test_images_of_one_patch_have_no_pairs(center: str) -> None:
    ones = {name: np.ones((1, 1, 4), np.float32) for name in "ab"}
    assert threshold_of(ones, center, 0.1) == 0.0
    more = ones | {"c": structured(0, 1, (4, 4))["i0"][:, :, :4]}
    assert threshold_of(more, "none", 0.1) == threshold_of({"c": more["c"]}, "none", 0.1)


def test_no_sample_to_join_is_said() -> None:
    with pytest.raises(ValueError, match=r"^nothing to join: expected at least one KeySample$"):
        join(iter(()))

"""The evaluator against a pixel-by-pixel reference that never builds a matrix."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.errors import ImageError, WorkError
from datus.method.metrics import RULES, Scores, add, count_pixels, fit_match, score, score_all
from datus.types import IGNORE, Array, Confusion

U = IGNORE
ONE_TO_ONE = ("hungarian_strict", "hungarian_covered", "hungarian_legacy")

# The example that all hand-made figures below are about: 3 clusters, 2 classes, 3 x 4 pixels.
#
#     mask        truth          counts   class 0   class 1
#     0 0 0 1     0 0 0 0        0           3         1
#     0 1 1 2     1 1 1 0        1           1         2
#     2 U U U     1 0 1 U        2           1         1
#                                U           1         1      (+ 1 pixel without truth)
#
# Best one to one: 0 -> class 0 (3) and 1 -> class 1 (2); cluster 2 is left over. 11 known pixels.
MASK = np.array([[0, 0, 0, 1], [0, 1, 1, 2], [2, U, U, U]], np.uint8)
TRUTH = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 1, U]], np.uint8)


def example() -> Confusion:
    return count_pixels(MASK, TRUTH, 3, 2)


def confusion_of(*rows: list[int]) -> Confusion:
    return Confusion(np.array(rows, np.int64))


def test_counts_of_the_example() -> None:
    np.testing.assert_array_equal(example().counts, [[3, 1], [1, 2], [1, 1], [1, 1]])


def test_strict_by_hand() -> None:
    # class 0: 6 true pixels, 3 hit, 4 predicted (cluster 0) -> IoU 3 / 7, F1 6 / 10
    # class 1: 5 true pixels, 2 hit, 3 predicted (cluster 1) -> IoU 2 / 6, F1 4 / 8
    got = score(example(), "hungarian_strict")
    np.testing.assert_array_equal(got.match, [0, 1, -1])
    assert got.n_pixels == 11
    assert got.accuracy == pytest.approx(100 * 5 / 11)
    assert got.coverage == pytest.approx(100 * 9 / 11)
    np.testing.assert_allclose(got.iou, [100 * 3 / 7, 100 * 2 / 6])
    np.testing.assert_allclose(got.precision, [100 * 3 / 4, 100 * 2 / 3])
    np.testing.assert_allclose(got.recall, [100 * 3 / 6, 100 * 2 / 5])
    np.testing.assert_allclose(got.f1_per_class, [60, 50])
    assert got.miou == pytest.approx(50 * (3 / 7 + 2 / 6))
    assert got.f1 == pytest.approx(55)


def test_covered_by_hand() -> None:
    # without the unlabelled pixels class 0 has 5 true pixels -> IoU 3 / 6
    # and class 1 has 4 -> IoU 2 / 5
    got = score(example(), "hungarian_covered")
    assert got.n_pixels == 9
    assert got.accuracy == pytest.approx(100 * 5 / 9)
    assert got.coverage == pytest.approx(100 * 9 / 11)
    np.testing.assert_allclose(got.iou, [50, 40])
    np.testing.assert_allclose(got.f1_per_class, [100 * 6 / 9, 100 * 4 / 7])


def test_legacy_by_hand() -> None:
    # cluster 2 is deleted too: class 0 has 4 true pixels -> IoU 3 / 5, class 1 has 3 -> IoU 2 / 4
    got = score(example(), "hungarian_legacy")
    assert got.n_pixels == 7
    assert got.accuracy == pytest.approx(100 * 5 / 7)
    assert got.coverage == pytest.approx(100 * 9 / 11)
    np.testing.assert_allclose(got.iou, [60, 50])


def test_majority_by_hand() -> None:
    # cluster 2 ties 1 : 1 and takes the lower class 0: 4 hits, 6 predicted, 6 true -> IoU 4 / 8
    got = score(example(), "majority")
    np.testing.assert_array_equal(got.match, [0, 1, 0])
    assert got.n_pixels == 11
    assert got.accuracy == pytest.approx(100 * 6 / 11)
    np.testing.assert_allclose(got.iou, [50, 100 * 2 / 6])


def test_merge_nearest_by_hand() -> None:
    # cluster 2 lies at 4, nearer to cluster 1 at 5 than to cluster 0 at 0, so it takes class 1:
    # 3 hits, 5 predicted, 5 true -> IoU 3 / 7
    centroids = np.array([[0], [5], [4]], np.float32)
    got = score(example(), "merge_nearest", centroids=centroids)
    np.testing.assert_array_equal(got.match, [0, 1, 1])
    assert got.accuracy == pytest.approx(100 * 6 / 11)
    np.testing.assert_allclose(got.iou, [100 * 3 / 7, 100 * 3 / 7])


def test_a_leftover_cluster_between_two_joins_the_lower() -> None:
    centroids = np.array([[0], [2], [1]], np.float32)
    np.testing.assert_array_equal(fit_match(example(), "merge_nearest", centroids), [0, 1, 0])


def test_a_leftover_cluster_joins_no_other_leftover() -> None:
    confusion = confusion_of([9, 0], [1, 0], [1, 0], [0, 9], [0, 0])
    centroids = np.array([[0], [8], [9], [10]], np.float32)  # 1 is nearest to 2, also left over
    np.testing.assert_array_equal(fit_match(confusion, "merge_nearest", centroids), [0, 1, 1, 1])


# --- the reference: loops over pixels, and over all one-to-one matches ---


def all_matches(n_clusters: int, n_classes: int) -> list[tuple[int, ...]]:
    """Every way to give as many clusters as possible a class of their own."""
    if n_clusters <= n_classes:
        return list(itertools.permutations(range(n_classes), n_clusters))
    found = []
    for owners in itertools.permutations(range(n_clusters), n_classes):
        match = [-1] * n_clusters
        for one_class, owner in enumerate(owners):
            match[owner] = one_class
        found.append(tuple(match))
    return found


def percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def reference(mask: Array, truth: Array, n_classes: int, rule: str, match: Array) -> dict[str, Any]:
    pairs = [(int(m), int(t)) for m, t in zip(mask.flat, truth.flat, strict=True) if t != U]
    covered = sum(m != U for m, _ in pairs)
    present = sorted({t for _, t in pairs})
    pixels = []  # (predicted class or None, true class)
    for m, t in pairs:
        predicted = None if m == U or match[m] == -1 else int(match[m])
        if m == U and rule in ("hungarian_covered", "hungarian_legacy"):
            continue
        if predicted is None and rule == "hungarian_legacy":
            continue
        pixels.append((predicted, t))
    iou, f1, precision, recall = ([float("nan")] * n_classes for _ in range(4))
    for c in present:
        both = sum(p == c and t == c for p, t in pixels)
        either = sum(c in (p, t) for p, t in pixels)
        predicted_c, true_c = sum(p == c for p, _ in pixels), sum(t == c for _, t in pixels)
        iou[c] = percent(both, either)
        f1[c] = percent(2 * both, predicted_c + true_c)
        precision[c], recall[c] = percent(both, predicted_c), percent(both, true_c)
    return {
        "miou": sum(iou[c] for c in present) / len(present),
        "f1": sum(f1[c] for c in present) / len(present),
        "accuracy": percent(sum(p == t for p, t in pixels), len(pixels)),
        "coverage": percent(covered, len(pairs)),
        "n_pixels": len(pixels),
        "iou": iou,
        "precision": precision,
        "recall": recall,
        "f1_per_class": f1,
    }


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Array, Array, int, int]:
    n_clusters, n_classes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    n_pixels = draw(st.integers(1, 24))
    cluster_ids = st.sampled_from([*range(n_clusters), U])
    class_numbers = st.sampled_from([*range(n_classes), U])
    mask = draw(st.lists(cluster_ids, min_size=n_pixels, max_size=n_pixels))
    truth = draw(st.lists(class_numbers, min_size=n_pixels, max_size=n_pixels))
    truth[0] = 0  # at least one known pixel
    return np.array([mask], np.uint8), np.array([truth], np.uint8), n_clusters, n_classes


def hits(mask: Array, truth: Array, match: tuple[int, ...]) -> int:
    return sum(
        U not in (m, t) and match[m] == t for m, t in zip(mask.flat, truth.flat, strict=True)
    )


@given(scenes(), st.sampled_from(RULES))
def test_every_rule_equals_the_reference(scene: tuple[Array, Array, int, int], rule: str) -> None:
    mask, truth, n_clusters, n_classes = scene
    centroids = np.arange(n_clusters, dtype=np.float32)[:, None]
    got = score(count_pixels(mask, truth, n_clusters, n_classes), rule, centroids=centroids)
    for name, want in reference(mask, truth, n_classes, rule, got.match).items():
        np.testing.assert_allclose(getattr(got, name), want, err_msg=name)


@given(scenes())
def test_hungarian_finds_the_best_of_all_matches(scene: tuple[Array, Array, int, int]) -> None:
    mask, truth, n_clusters, n_classes = scene
    match = tuple(fit_match(count_pixels(*scene), "hungarian_strict").tolist())
    candidates = all_matches(n_clusters, n_classes)
    assert match in candidates
    assert hits(mask, truth, match) == max(hits(mask, truth, one) for one in candidates)


@given(scenes())
def test_majority_takes_the_most_frequent_class(scene: tuple[Array, Array, int, int]) -> None:
    mask, truth, n_clusters, n_classes = scene
    match = fit_match(count_pixels(*scene), "majority")
    for cluster in range(n_clusters):
        inside = truth[(mask == cluster) & (truth != U)].tolist()
        most = max(range(n_classes), key=inside.count) if inside else -1
        assert match[cluster] == most


@given(scenes())
def test_leaving_pixels_out_never_lowers_a_score(scene: tuple[Array, Array, int, int]) -> None:
    every = score_all(count_pixels(*scene), np.zeros((scene[2], 1), np.float32))
    strict, covered, legacy = (every[rule] for rule in ONE_TO_ONE)
    tiny = 1e-9
    for name in ("accuracy", "miou", "f1"):
        assert getattr(strict, name) <= getattr(covered, name) + tiny
        assert getattr(covered, name) <= getattr(legacy, name) + tiny
    assert strict.accuracy <= every["majority"].accuracy + tiny
    assert strict.accuracy <= every["merge_nearest"].accuracy + tiny
    assert len({one.coverage for one in every.values()}) == 1


@given(scenes())
def test_merge_nearest_is_strict_where_no_cluster_is_left(
    scene: tuple[Array, Array, int, int],
) -> None:
    mask, truth, n_clusters, n_classes = scene
    confusion = count_pixels(mask, truth, n_clusters, max(n_clusters, n_classes))
    merged = score(confusion, "merge_nearest").as_dict()
    assert merged == {**score(confusion, "hungarian_strict").as_dict(), "rule": "merge_nearest"}


@given(scenes(), st.integers(1, 23))
def test_counts_of_parts_add_up(scene: tuple[Array, Array, int, int], cut: int) -> None:
    mask, truth, n_clusters, n_classes = scene
    parts = [slice(None, cut), slice(cut, None)]
    pieces = [count_pixels(mask[:, p], truth[:, p], n_clusters, n_classes) for p in parts]
    np.testing.assert_array_equal(add(pieces).counts, count_pixels(*scene).counts)


# --- corners ---


def test_fewer_clusters_than_classes_leave_classes_unpredicted() -> None:
    # one cluster over classes 0 (3 px) and 1 (1 px): class 1 is never predicted and scores 0
    got = score(confusion_of([3, 1], [0, 0]), "hungarian_strict")
    np.testing.assert_array_equal(got.match, [0])
    np.testing.assert_allclose(got.iou, [75, 0])
    np.testing.assert_allclose(got.precision, [75, 0])
    assert got.miou == pytest.approx(37.5)


def test_a_class_absent_from_the_truth_is_nan_and_not_in_the_means() -> None:
    got = score(confusion_of([4, 0, 0], [0, 0, 1], [0, 0, 0]), "hungarian_strict")
    np.testing.assert_array_equal(np.isnan(got.iou), [False, True, False])
    assert got.miou == got.f1 == got.accuracy == 100
    assert got.as_dict()["iou"] == [100.0, None, 100.0]
    assert got.as_dict()["f1_per_class"] == [100.0, None, 100.0]


def test_pixels_given_to_an_absent_class_are_errors() -> None:
    # cluster 1 (2 px, truly class 0) can only be matched to class 1, which is absent
    got = score(confusion_of([4, 0], [2, 0], [0, 0]), "hungarian_legacy")
    np.testing.assert_array_equal(got.match, [0, 1])
    assert got.accuracy == pytest.approx(100 * 4 / 6)
    assert got.miou == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize("rule", ["hungarian_covered", "hungarian_legacy"])
def test_a_class_left_out_entirely_scores_zero_and_stays_in_the_mean(rule: str) -> None:
    got = score(confusion_of([4, 0], [0, 0], [0, 6]), rule)
    np.testing.assert_allclose(got.iou, [100, 0])
    assert got.miou == 50
    assert got.accuracy == 100
    assert got.coverage == 40


@pytest.mark.parametrize("rule", RULES)
def test_a_mask_without_any_label_scores_zero(rule: str) -> None:
    mask, truth = np.full((3, 4), U, np.uint8), np.zeros((3, 4), np.uint8)
    got = score(count_pixels(mask, truth, 2, 2), rule)
    assert (got.miou, got.accuracy, got.f1, got.coverage) == (0, 0, 0, 0)
    assert got.n_pixels == (0 if rule in ("hungarian_covered", "hungarian_legacy") else 12)


@pytest.mark.parametrize("rule", RULES)
def test_no_clusters_at_all_scores_zero(rule: str) -> None:
    got = score(confusion_of([5, 5]), rule)
    assert (got.miou, got.accuracy, got.match.size) == (0, 0, 0)


def test_majority_leaves_a_cluster_without_pixels_unmatched() -> None:
    np.testing.assert_array_equal(
        fit_match(confusion_of([0, 0], [0, 3], [9, 9]), "majority"), [-1, 1]
    )


def test_a_perfect_mask_is_100_under_every_rule_in_any_numbering() -> None:
    truth = np.array([[0, 0, 1, 2], [U, 1, 1, 2], [2, 2, 0, 0]], np.uint8)
    mask = np.array([2, 0, 1], np.uint8)[np.where(truth == U, 0, truth)]
    for got in score_all(count_pixels(mask, truth, 3, 3)).values():
        assert (got.miou, got.accuracy, got.f1, got.coverage) == (100, 100, 100, 100)


def test_a_match_of_another_split_is_applied_as_it_is() -> None:
    train, test = confusion_of([9, 0], [0, 9], [0, 0]), confusion_of([0, 2], [3, 1], [0, 0])
    fitted = fit_match(train, "hungarian_strict")
    got = score(test, "hungarian_strict", match=fitted)
    assert got.accuracy == pytest.approx(100 / 6)  # only cluster 1 on class 1 is right
    np.testing.assert_array_equal(got.match, [0, 1])


def test_a_cluster_new_on_this_split_is_an_error_under_majority() -> None:
    fitted = fit_match(confusion_of([9, 0], [0, 0], [0, 0]), "majority")
    got = score(confusion_of([6, 0], [4, 0], [0, 0]), "majority", match=fitted)
    np.testing.assert_allclose(got.iou, [60, np.nan])


def test_over_clustering_with_many_clusters_and_large_counts_is_exact() -> None:
    counts = np.zeros((251, 3), np.int64)
    counts[np.arange(250), np.arange(250) % 3] = 10**12
    got = score_all(Confusion(counts))
    assert "merge_nearest" not in got
    assert got["majority"].accuracy == 100
    assert got["hungarian_strict"].accuracy == pytest.approx(100 * 3 / 250)
    assert got["hungarian_legacy"].accuracy == 100


def test_score_all_has_every_rule_where_all_can_be_computed() -> None:
    assert tuple(score_all(example(), np.zeros((3, 1), np.float32))) == RULES
    assert tuple(score_all(confusion_of([1, 0], [0, 1], [0, 0]))) == RULES
    assert tuple(score_all(example())) == RULES[:-1]


def test_as_dict_is_json_without_nan() -> None:
    got = score(confusion_of([4, 0], [1, 0], [2, 0]), "hungarian_strict")
    text = json.dumps(got.as_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["rule"] == "hungarian_strict"
    assert back["match"] == [0, 1]
    assert set(back) == set(Scores.__dataclass_fields__)


# --- what is refused ---


def test_masks_of_different_size_are_refused() -> None:
    with pytest.raises(ImageError) as caught:
        count_pixels(MASK, TRUTH[:2], 3, 2)
    assert str(caught.value) == (
        "the mask is 4 x 3 pixels but the true mask is 4 x 2: both must have the size of the image"
    )


def test_an_id_that_is_no_cluster_is_refused() -> None:
    with pytest.raises(ImageError) as caught:
        count_pixels(MASK, TRUTH, 2, 2)
    assert str(caught.value) == (
        "the mask holds id 2; expected cluster ids below 2, or 255: "
        "was it made with another class table or number of clusters?"
    )


def test_an_id_that_is_no_class_is_refused_even_under_unlabelled_pixels() -> None:
    truth = TRUTH.copy()
    truth[2, 3] = 7
    with pytest.raises(
        ImageError, match=r"the true mask holds id 7; expected class numbers below 2"
    ):
        count_pixels(MASK, truth, 3, 2)


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"mask: expected uint8 \(H, W\), got int32 \(3, 4\)"):
        count_pixels(MASK.astype(np.int32), TRUTH, 3, 2)
    with pytest.raises(ValueError, match="expected at most 255 clusters and 1 to 255 classes"):
        count_pixels(MASK, TRUTH, 256, 2)


def test_nothing_to_score_is_refused_with_the_cure() -> None:
    nothing = confusion_of([0, 0], [0, 0])
    for attempt in (fit_match, score):
        with pytest.raises(WorkError) as caught:
            attempt(nothing, "majority")
        assert str(caught.value) == (
            "no pixel has a known true class, so there is nothing to score: "
            "check the true masks and the class table's ids"
        )


def test_merge_nearest_without_centroids_is_refused_with_the_cure() -> None:
    with pytest.raises(WorkError) as caught:
        score(example(), "merge_nearest")
    assert str(caught.value) == (
        "merge_nearest: 3 clusters for 2 classes need centroids, got none: "
        "score a run that has them, or use majority"
    )
    with pytest.raises(ValueError, match=r"centroids: expected shape \(3, any\), got \(2, 1\)"):
        score(example(), "merge_nearest", centroids=np.zeros((2, 1), np.float32))


def test_unknown_rules_and_bad_matches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rule: expected one of hungarian_.*, got 'best'"):
        score(example(), "best")
    for bad, text in (
        (np.array([0, 1], np.int16), r"match: expected int16 \(3,\), got int16 \(2,\)"),
        (np.array([0, 1, 2], np.int16), "expected -1 or classes 0 to 1"),
        (np.array([0, 0, -1], np.int16), "one to one, but a class is used twice"),
    ):
        with pytest.raises(ValueError, match=text):
            score(example(), "hungarian_strict", match=bad)


def test_adding_needs_equal_shapes_and_something_to_add() -> None:
    with pytest.raises(ValueError, match="nothing to add"):
        add([])
    with pytest.raises(ValueError, match=r"cannot add counts \(2, 2\) to counts \(4, 2\)"):
        add([example(), confusion_of([1, 1], [0, 0])])


def test_adding_leaves_the_parts_alone() -> None:
    one = example()
    add([one, one])
    np.testing.assert_array_equal(one.counts, example().counts)

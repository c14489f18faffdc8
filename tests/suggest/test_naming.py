"""Hand-made vectors: which words a cluster gets, and drafts that the readers of names take."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.errors import UsageError
from datus.formats.names import read_names
from datus.review.edits import parse
from datus.suggest.suggest_names import (
    MAX_WORD,
    TEMPLATES,
    Guess,
    Suggested,
    as_dict,
    check_words,
    prompts,
    read_words,
    renames,
    suggest,
    to_toml,
)
from datus.types import Array

WORDS = ("road", "sky", "tree")
AXES = np.eye(3, dtype=np.float32)


def unit(*rows: list[float]) -> Array:
    found = np.array(rows, np.float32).reshape(-1, 3)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_mean_cosine_ranks_and_the_margin_is_to_the_next_word() -> None:
    crops = [unit([0, 1, 0], [0.6, 0.8, 0]), unit([0.6, 0, 0.8])]
    sky, tree = suggest(crops, AXES, WORDS, top=2)
    assert [one.word for one in sky.guesses] == ["sky", "road"]
    np.testing.assert_allclose([one.score for one in sky.guesses], [0.9, 0.3], atol=1e-7)
    np.testing.assert_allclose([one.margin for one in sky.guesses], [0.6, 0.3], atol=1e-7)
    assert (sky.cluster, sky.n_crops, sky.share) == (0, 2, 1.0)
    assert [one.word for one in tree.guesses] == ["tree", "road"]
    assert (tree.cluster, tree.n_crops) == (1, 1)


def test_the_share_counts_crops_whose_own_best_word_it_is() -> None:
    crops = unit([0, 1, 0], [0, 1, 0], [0, 1, 0], [0.8, 0.6, 0])
    (found,) = suggest([crops], AXES, WORDS, top=1)
    assert found.share == 0.75


def test_a_cluster_without_crops_gets_no_word() -> None:
    found = suggest([np.zeros((0, 3), np.float32), unit([1, 0, 0])], AXES, WORDS, top=3)
    assert found[0] == Suggested(0, 0, 0.0, ())
    assert found[1].guesses[0].word == "road"


def test_words_of_one_score_keep_their_order_and_the_last_has_no_margin() -> None:
    (found,) = suggest([unit([0, 0, 1])], AXES, WORDS, top=9)
    assert [one.word for one in found.guesses] == ["tree", "road", "sky"]
    assert [one.margin for one in found.guesses] == [1.0, 0.0, 0.0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 6))
def test_it_is_the_slow_sum(seed: int, n_crops: int, n_words: int) -> None:
    rng = np.random.default_rng(seed)
    crops, vectors = (rng.normal(size=(n, 4)).astype(np.float32) for n in (n_crops, n_words))
    words = [f"w{number}" for number in range(n_words)]
    (found,) = suggest([crops], vectors, words, top=n_words)
    for one in found.guesses:
        vector = vectors[words.index(one.word)]
        each = [sum(float(a) * float(b) for a, b in zip(c, vector, strict=True)) for c in crops]
        assert one.score == pytest.approx(sum(each) / n_crops, abs=1e-9)
    scores = [one.score for one in found.guesses]
    assert scores == sorted(scores, reverse=True)
    assert sorted(one.word for one in found.guesses) == words


def test_prompts_put_a_space_where_a_table_has_a_bar() -> None:
    assert prompts("traffic_sign")[:2] == ("traffic sign", "a photo of traffic sign")
    assert len(prompts("sky")) == len(TEMPLATES)


def test_words_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "w.txt"
    path.write_bytes("# things\nsky\n\n  traffic sign \r\nGrün\n".encode())
    assert read_words(path) == ("sky", "traffic sign", "Grün")


BAD = {
    "": "expected two words or more, one a line, got none",
    "# sky\n \n": "expected two words or more, one a line, got none",
    "sky\n": "expected two words or more, one a line, got only 'sky'",
    "sky\nSky\n": "'Sky' is there twice",
    "sky\ncluster 3\n": "'cluster 3' is what a cluster without a name is called",
    "sky\na\x07b\n": "expected words of 1 to 60 characters, got 'a\\x07b'",
    "sky\n" + "x" * 61: f"expected words of 1 to 60 characters, got '{'x' * 61}'",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:12]))
def test_lists_that_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_words(path)
    assert str(error.value) == f"--words {path}: {BAD[text]}"


def test_an_empty_class_name_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^t\.toml: expected words of 1 to 60 characters, got ''$"
    ):
        check_words(["sky", ""], "t.toml")


FOUND = (
    Suggested(0, 2, 1.0, (Guess("sky", 0.3, 0.05), Guess("tree", 0.25, 0.1))),
    Suggested(1, 0, 0.0, ()),
    Suggested(2, 1, 0.5, (Guess('a "b" \\ c', 0.2, 0.0),)),
    Suggested(3, 1, 0.5, (Guess("road", 0.2, 0.0),)),
)
GIVEN = ("", "", "", "street")


def test_the_draft_of_names() -> None:
    assert to_toml(FOUND, GIVEN, ["about"]).splitlines() == [
        "# about",
        "[names]",
        '0 = "sky"  # 0.300; next: tree 0.250',
        "# 1: no segments to look at",
        '2 = "a \\"b\\" \\\\ c"  # 0.200',
        "# 3 keeps its name: street",
    ]


def test_the_draft_is_read_by_export(tmp_path: Path) -> None:
    path = tmp_path / "names.toml"
    path.write_text(to_toml(FOUND, GIVEN, ["about"]), encoding="utf-8")
    known = ["cluster 0", "cluster 1", "cluster 2", "street"]
    assert read_names(path, known) == ["sky", "cluster 1", 'a "b" \\ c', "street"]


EVERY_WORD = st.text(min_size=1, max_size=MAX_WORD).filter(
    lambda word: word.isprintable() and word.strip() == word and word != ""
)


@given(st.lists(EVERY_WORD, min_size=2, max_size=3))
def test_any_allowed_word_comes_back(words: list[str]) -> None:
    try:
        check_words(words, "w")
    except UsageError:
        return
    found = [Suggested(0, 1, 1.0, tuple(Guess(word, 0.5, 0.1) for word in words))]
    from datus.config import parse_toml

    table = parse_toml(to_toml(found, [""], ["about"]))
    assert table == {"names": {"0": words[0]}}


def test_words_of_dots_fit_into_a_line() -> None:
    from datus.config import parse_toml

    words = ["." * (MAX_WORD - i) for i in range(3)]
    found = [Suggested(0, 1, 1.0, tuple(Guess(word, 0.5, 0.1) for word in words))]
    assert parse_toml(to_toml(found, [""], []))["names"]["0"] == words[0]


def test_renames_are_edits() -> None:
    steps = renames(FOUND, GIVEN)
    base = {"k": 4, "id": "x", "centroids": [[0.0]] * 4}
    table = {"format": "datus-edits", "version": 1, "clusters": base, "edits": steps}
    read = parse(json.dumps(table).encode(), "edits.json")
    assert [(one.op, one.clusters, one.name) for one in read.edits] == [
        ("rename", (0,), "sky"),
        ("rename", (2,), 'a "b" \\ c'),
    ]


def test_plain_values() -> None:
    assert as_dict(FOUND[1]) == {"cluster": 1, "crops": 0, "share": 0.0, "words": []}
    assert as_dict(FOUND[0])["words"][0] == {"word": "sky", "score": 0.3, "margin": 0.05}

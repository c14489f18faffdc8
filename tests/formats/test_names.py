"""Names of clusters, from files and from matches."""

from pathlib import Path

import pytest

from datus.errors import UsageError
from datus.formats import pngs
from datus.formats.names import default_names, make_classes, matched_names, read_names
from datus.method.masks import PALETTE
from datus.types import IGNORE


def names_file(folder: Path, text: str) -> Path:
    path = folder / "names.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_clusters_of_one_name_become_one_class(tmp_path: Path) -> None:
    path = names_file(tmp_path, '[names]\n1 = "sky"\n3 = "sky"\n0 = "road"\n')
    names = read_names(path, default_names(4))
    assert names == ["road", "sky", "cluster 2", "sky"]
    found, lookup = make_classes(names)
    assert found.names == ("road", "sky", "cluster 2")
    assert lookup[:4].tolist() == [0, 1, 2, 1]
    assert (lookup[4:] == IGNORE).all()
    assert found.colour(1) == PALETTE[1].tolist()
    assert found.colours[IGNORE].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'expected a block [names] with lines such as 3 = "sky"'),
        ('[names]\n4 = "a"', "expected clusters 0 to 3, got 4"),
        ('[names]\nroad = "a"', "expected clusters 0 to 3, got road"),
        ("[names]\n1 = 2", "cluster 1: expected a name, got 2"),
        ('[names]\n1 = " "', "cluster 1: expected a name, got ' '"),
        ('[names]\n1 = "a\\nb"', "cluster 1: expected a name, got 'a\\nb'"),
        ('[names]\n1 = "cluster 2"', "cluster 1: 'cluster 2' is the name of another cluster"),
    ],
)
def test_wrong_names_say_what_is_expected(text: str, message: str, tmp_path: Path) -> None:
    path = names_file(tmp_path, text)
    with pytest.raises(UsageError) as error:
        read_names(path, default_names(4))
    assert str(error.value) == f"{path}: {message}"


def test_matched_names_are_those_of_the_rule() -> None:
    scores = {"majority": {"match": [1, 1, 0]}, "hungarian_strict": {"match": [1, -1, 0]}}
    row = {"k": 3, "scores": scores, "denoised": {"scores": {"majority": {"match": [0, 0, 0]}}}}
    report, known = {"classes": {"name": "x", "names": ["road", "sky"]}}, default_names(3)
    assert matched_names(report, row, known, "hungarian_strict") == ["sky", "cluster 1", "road"]
    assert matched_names(report, row, known, "majority") == ["sky", "sky", "road"]
    assert matched_names(report, row, known, "majority", denoised=True) == ["road"] * 3
    for broken in (({"classes": None}, row), (report, {})):
        with pytest.raises(UsageError, match="was not scored by majority for K = 3"):
            matched_names(*broken, known, "majority")


def test_a_cluster_that_is_gone_makes_no_class() -> None:
    classes, lookup = make_classes(["road", None, "sky"])
    assert classes.names == ("road", "sky")
    assert lookup[:4].tolist() == [0, 255, 1, 255]


def test_colours_of_classes_differ_and_none_is_black() -> None:
    colours = {tuple(colour) for colour in PALETTE[:IGNORE].tolist()}
    assert len(colours) == IGNORE
    assert (0, 0, 0) not in colours
    assert pngs.VOID not in colours

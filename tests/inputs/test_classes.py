"""Class tables: which ids of a truth file make up which class, and an error for all else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datus.errors import UsageError
from datus.inputs.classes import load_classes
from datus.types import IGNORE

Write = Callable[[str], Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        (tmp_path / "some.toml").write_text(text, encoding="utf-8")
        return tmp_path / "some.toml"

    return write


CLASS = '[[classes]]\nname = "{}"\ncolour = [{}, 0, 255]\nids = {}\n'


def test_a_class_table(file: Write) -> None:
    text = 'name = "two"\nsource = "made up"\nignore = [9]\n'
    table = load_classes(file(text + CLASS.format("sea", 1, [4, 0]) + CLASS.format("fish", 2, [7])))
    assert (table.name, table.source) == ("two", "made up")
    assert table.names == ("sea", "fish")
    assert table.colours == ((1, 0, 255), (2, 0, 255))
    assert np.flatnonzero(table.known).tolist() == [0, 4, 7, 9, 255]
    expected = np.full(256, IGNORE)
    expected[[0, 4, 7]] = [0, 0, 1]
    np.testing.assert_array_equal(table.lookup, expected)


def test_a_class_table_without_a_name_has_that_of_its_file(file: Write) -> None:
    assert load_classes(file(CLASS.format("sea", 1, [4]))).name == "some"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one [[classes]] block per class, got none"),
        ("classes = []", "expected one [[classes]] block per class, got none"),
        ("classes = 3", "expected one [[classes]] block per class, got none"),
        ("classes = [3]", "class 0: expected name, colour and ids"),
        ('[[classes]]\nname = "a"\nids = [1]', "class 0: expected name, colour and ids"),
        (CLASS.format("a", 1, [1]) + "color = 3", "class 0: expected name, colour and ids"),
        (CLASS.format("a", 1, [256]), "class 'a': expected ids 0 to 255, got 256"),
        (CLASS.format("a", 1, [-1]), "class 'a': expected ids 0 to 255, got -1"),
        (
            CLASS.format("a", 1, ["1"]).replace("'", '"'),
            "class 'a': expected ids 0 to 255, got '1'",
        ),
        (CLASS.format("a", 1, "[true]"), "class 'a': expected ids 0 to 255, got True"),
        (CLASS.format("a", 1, 5), "class 'a': expected a list of ids, got 5"),
        (CLASS.format("a", 1, [1, 1]), "class 'a': id 1 is used twice"),
        (
            CLASS.format("a", 1, [1]) + CLASS.format("b", 1, [2, 1]),
            "class 'b': id 1 is used twice",
        ),
        ("ignore = [1]\n" + CLASS.format("a", 1, [1]), "class 'a': id 1 is used twice"),
        (CLASS.format("a", 1, [255]), "class 'a': id 255 is used twice"),
        ("ignore = 4\n" + CLASS.format("a", 1, [1]), "ignore: expected a list of ids, got 4"),
        ("ignore = [300]\n" + CLASS.format("a", 1, [1]), "ignore: expected ids 0 to 255, got 300"),
        (CLASS.format("a", 256, [1]), "class 'a': expected colour = [r, g, b], got [256, 0, 255]"),
        (
            CLASS.format("a", 1, [1]).replace("[1, 0, 255]", "[1, 0]"),
            "class 'a': expected colour = [r, g, b], got [1, 0]",
        ),
        (
            CLASS.format("a", 1, [1]).replace("[1, 0, 255]", '"red"'),
            "class 'a': expected colour = [r, g, b], got red",
        ),
    ],
)
def test_a_wrong_class_table(text: str, message: str, file: Write) -> None:
    path = file(text)
    with pytest.raises(UsageError) as caught:
        load_classes(path)
    assert str(caught.value) == f"{path}: {message}"


def test_no_class_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_classes(tmp_path / "none.toml")

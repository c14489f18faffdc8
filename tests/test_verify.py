"""What flipped while nobody read it is found, and made again."""

from pathlib import Path

import pytest
from bad_files import datus
from run_tree import tree
from tiny_runs import Dataset, flip_byte


def test_a_whole_run_has_nothing_damaged(tiny: Dataset, finished: Path) -> None:
    answer = datus("verify", *tiny.arguments(finished))
    assert answer.exit_code == 0
    kept = [name for name in tree(finished) if not name.startswith("index/")]
    n_files = len([name for name in kept if "stage" not in name])
    assert answer.stdout == f"{n_files} files read, 0 damaged\n"


def test_flipped_bits_are_found_and_with_mend_the_next_run_has_the_old_bytes(
    tiny: Dataset, finished: Path, run_copy: Path
) -> None:
    arrays = next(run_copy.glob("graphs/*/shard-*.safetensors"))
    mask = next(run_copy.glob("masks/*/files/*.png"))
    torn = next(run_copy.glob("segments/*/shard-*.json"))
    flip_byte(arrays)
    flip_byte(mask)
    torn.write_bytes(b"{")
    names = [path.relative_to(run_copy).as_posix() for path in (arrays, torn, mask)]
    found = datus("verify", *tiny.arguments(run_copy))
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert lines[:3] == [f"damaged: {name}" for name in names]
    assert lines[3].endswith(" files read, 3 damaged")
    assert found.error == "damaged files: add --mend, then datus run makes them again"
    assert arrays.exists()

    assert datus("verify", *tiny.arguments(run_copy), "--mend").exit_code == 0
    assert not arrays.exists()
    assert datus("run", *tiny.arguments(run_copy)).exit_code == 0
    assert tree(run_copy) == tree(finished)


@pytest.mark.parametrize("how", ["cut short", "gone"])
@pytest.mark.parametrize("which", ["embeddings/*/shard-*.safetensors", "masks/*/files/*.png"])
def test_files_that_are_cut_short_or_gone_are_damaged(
    which: str, how: str, tiny: Dataset, finished: Path, run_copy: Path
) -> None:
    path = next(run_copy.glob(which))
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    found = datus("verify", *tiny.arguments(run_copy))
    assert found.exit_code == 1
    line, last = found.stdout.splitlines()
    assert line == f"damaged: {path.relative_to(run_copy).as_posix()}"
    assert last.endswith(" files read, 1 damaged")
    assert datus("verify", *tiny.arguments(run_copy), "--mend").exit_code == 0
    assert datus("run", *tiny.arguments(run_copy)).exit_code == 0
    assert tree(run_copy) == tree(finished)


def test_a_shard_that_was_never_made_is_not_damaged(tiny: Dataset, run_copy: Path) -> None:
    report = next(run_copy.glob("embeddings/*/shard-*.json"))
    report.unlink()
    report.with_suffix(".safetensors").unlink()
    found = datus("verify", *tiny.arguments(run_copy))
    assert found.exit_code == 0
    assert found.stdout.endswith(" files read, 0 damaged, 1 shards are not finished\n")


def test_a_damaged_index_is_said_and_a_run_makes_it_again(
    tiny: Dataset, finished: Path, run_copy: Path
) -> None:
    flip_byte(run_copy / "index" / "index.jsonl", 30)
    for command in ("verify", "status"):
        answer = datus(command, *tiny.arguments(run_copy))
        assert answer.exit_code == 1
        assert answer.error.endswith("index is damaged or half written: datus run makes it again")
    assert datus("run", *tiny.arguments(run_copy)).exit_code == 0
    assert tree(run_copy) == tree(finished)


@pytest.mark.parametrize("name", ["seen.json", "index.json", "index.jsonl"])
def test_a_flipped_digit_in_the_index_does_not_stay(
    name: str, tiny: Dataset, finished: Path, run_copy: Path
) -> None:
    """The cache of hashes is believed: a wrong digit in it would stop every later run."""
    path = run_copy / "index" / name
    path.write_text(path.read_text().replace("e", "f", 1))
    assert datus("run", *tiny.arguments(run_copy)).exit_code == 0
    seen = {"index/seen.json"}  # it holds times of the copied files
    left, right = tree(run_copy), tree(finished)
    assert {n: h for n, h in left.items() if n not in seen} == {
        n: h for n, h in right.items() if n not in seen
    }


def test_nothing_has_run(tiny: Dataset, tmp_path: Path) -> None:
    answer = datus("verify", *tiny.arguments(tmp_path / "run"))
    assert answer.exit_code == 1
    assert answer.error.endswith("nothing has run here yet: datus run does")

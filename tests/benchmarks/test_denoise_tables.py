"""Tables of the de-noising benchmark: what shares a column, what is a difference."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> Any:
    path = ROOT / "benchmarks" / "denoise_tables.py"
    spec = importlib.util.spec_from_file_location("denoise_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(strict: float, covered: float, majority: float) -> dict[str, Any]:
    rules = {"hungarian_strict": strict, "hungarian_covered": covered, "majority": majority}
    return {"scores": {rule: {"miou": value} for rule, value in rules.items()}}


def learnt(model: str, seed: int, miou: float) -> dict[str, Any]:
    found = {"model": model, "seed": seed, "labels": "flip", "part": "labels"}
    return {**found, "miou": miou, "accuracy": 2 * miou}


def test_rules_share_a_column_only_if_they_agree_in_every_line(tables: Any) -> None:
    same, other = line(20.01, 19.99, 30.0), line(20.0, 21.0, 30.0)
    assert tables.groups_of_rules([same]) == [
        ["hungarian_strict", "hungarian_covered"],
        ["majority"],
    ]
    assert len(tables.groups_of_rules([same, other])) == 3


def test_a_difference_is_of_the_seeds_that_both_have(tables: Any) -> None:
    lines = [learnt("conv frozen", seed, 20.0 + seed) for seed in range(3)]
    lines += [learnt("conv tuned", 0, 19.0), learnt("conv tuned", 2, 19.0)]
    assert tables.difference(lines) == "2.0 ± 1.0 / 4.0 ± 2.0 (of 2)"
    assert tables.difference(lines[:3]) == ""


def test_what_was_measured_twice_counts_once(tables: Any, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [learnt("conv frozen", 0, 1.0), learnt("conv frozen", 0, 3.0)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [one["miou"] for one in tables.read(path)] == [3.0]


def test_one_seed_has_no_spread(tables: Any) -> None:
    assert tables.spread([1.25]) == "1.2"
    assert tables.spread([1.0, 3.0]) == "2.0 ± 1.0"

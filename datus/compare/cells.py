"""What a comparison is made of: one result a cell, joined over seeds into lines.

Plain values; nothing here reads a disk. Scores and shares are percent, NaN is "not there".
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datus.method.metrics import Scores

METRICS: dict[str, str] = {"miou": "mIoU", "accuracy": "accuracy", "f1": "mean F1"}
"""Name in `Scores` -> name in tables, in the paper's order."""

SEGMENTS: dict[str, str] = {
    "n_segments": "segments",
    "valid_segments": "% valid segments",
    "valid_patches": "% valid patches",
    "coverage": "% coverage",
}


@dataclass(frozen=True, slots=True)
class CellResult:
    """What was asked of one cell and what came out."""

    backbone: str
    """Label of the scheme."""
    k: int
    run: str = ""
    """Which finished run; empty in a grid."""
    preset: str = "best"
    embedder: str = "pool"
    seed: int = 0
    group: str = ""
    params: str = ""
    pretraining: str = ""
    reason: str = ""
    """Why it failed; empty if it did not."""
    n_images: int = 0
    """Scored."""
    n_segments: int = 0
    n_valid: int = 0
    """Segments with more than five patches (embeddings.min_patches)."""
    valid_patches: float = math.nan
    """Percent of all patches that lie in a valid segment."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Rule -> scores."""
    class_names: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds that its shards took when they were made, by this cell or another."""
    n_shards: int = 0
    n_shared: int = 0
    """Of these, the ones that an earlier cell of the comparison has, too."""
    pictures: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """Image id -> (its small picture as JPEG, its small mask as PNG), of some images."""
    report: str = ""
    """Where report.html is, if it was made."""

    def value(self, name: str, rule: str = "") -> float:
        """A figure by its name in METRICS (with the rule) or SEGMENTS; NaN if there is none."""
        if self.reason:
            return math.nan
        if rule:
            return float(getattr(self.scores[rule], name)) if rule in self.scores else math.nan
        if name == "valid_segments":
            return 100.0 * self.n_valid / self.n_segments if self.n_segments else math.nan
        if name == "coverage":
            return next((one.coverage for one in self.scores.values()), math.nan)
        return float(getattr(self, name))


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A figure over the seeds that gave one."""

    mean: float
    sd: float | None
    """Sample standard deviation; None where there is one seed."""
    digits: int = 2

    @staticmethod
    def of(values: Iterable[float], digits: int = 2) -> "OverSeeds | None":
        """None where no value is finite."""
        array = np.array([value for value in values if math.isfinite(value)], np.float64)
        if not array.size:
            return None
        sd = float(array.std(ddof=1)) if array.size > 1 else None
        return OverSeeds(float(array.mean()), sd, digits)


Value = str | int | OverSeeds | None


@dataclass(frozen=True, slots=True)
class Line:
    """The cells that differ in nothing but the seed."""

    cells: tuple[CellResult, ...]

    @property
    def first(self) -> CellResult:
        return self.cells[0]

    def measured(self, name: str, rule: str = "") -> OverSeeds | None:
        values = [cell.value(name, rule) for cell in self.cells]
        return OverSeeds.of(values, 0 if name == "n_segments" else 2)


IDENTITY: dict[str, str] = {
    "run": "run",
    "preset": "preset",
    "backbone": "scheme",
    "embedder": "embedder",
    "k": "K",
}
"""What makes a line -> its name in tables."""


def lines_of(results: Sequence[CellResult]) -> list[Line]:
    """Cells joined over seeds, in the order of their first cell."""
    lines: dict[tuple[Any, ...], list[CellResult]] = {}
    for cell in results:
        lines.setdefault(tuple(getattr(cell, name) for name in IDENTITY), []).append(cell)
    return [Line(tuple(cells)) for cells in lines.values()]


def varying(results: Sequence[CellResult]) -> list[str]:
    """The names of IDENTITY that differ between cells."""
    return [name for name in IDENTITY if len({getattr(cell, name) for cell in results}) > 1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All cells, and how to show them."""

    name: str
    table: str
    """One of tables.LAYOUTS."""
    rules: tuple[str, ...]
    """To show, the one of the figures first."""
    results: tuple[CellResult, ...]
    run_path: str
    """The run folder of the grid, or of the first of several finished runs."""
    made: int = 0
    """Shards that this command made; the others were there."""

    @property
    def n_failed(self) -> int:
        return sum(bool(cell.reason) for cell in self.results)

"""Every format through the importer it is for: holes, several parts, empty classes and 255.

Importers are no part of the project's environment: what is not installed is skipped here.
benchmarks/roundtrip.py writes down which were run, on a real run; see docs/export.md.
"""

import os
from pathlib import Path

import pytest
from export_cases import classes, items, same
from importers import MODULES, QUIET, READERS

from datus.formats.formats import FORMATS
from datus.formats.records import Options

PAIRS = [(name, package) for name, readers in READERS.items() for package in readers]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of other people's code
@pytest.mark.parametrize(("name", "package"), PAIRS, ids=[f"{a} {b}" for a, b in PAIRS])
def test_importers_read_the_same_pixels(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in QUIET.items():
        monkeypatch.setenv(variable, value)
    pytest.importorskip(
        MODULES[package], reason=f"{package} is not installed", exc_type=ImportError
    )
    if package == "fiftyone" and "FIFTYONE_DATABASE_URI" not in os.environ:
        pytest.skip("fiftyone needs a database: FIFTYONE_DATABASE_URI")
    word, *more = name.split()
    folder, work = tmp_path / "out", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    FORMATS[word].write(folder, items(), classes(), Options(polygons="--polygons" in more))
    same(READERS[name][package](folder, work))

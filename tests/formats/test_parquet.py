"""hf: what is written."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from export_cases import K, read_json, same, traps, write
from PIL import Image

from datus.formats.names import default_names


def test_parquet_holds_files_and_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra exports")
    from datus.formats import parquet as ours

    monkeypatch.setattr(ours, "ROW_BYTES", 1)  # a row group each
    monkeypatch.setattr(ours, "FILE_BYTES", 3000)
    folder = write("hf", tmp_path / "out")
    files = sorted((folder / "data").iterdir())
    assert len(files) > 1
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    assert [row["image_id"] for row in rows] == list(traps())
    found = {r["image_id"]: np.array(Image.open(io.BytesIO(r["mask"]["bytes"]))) for r in rows}
    same(found)
    assert [row["classes"] for row in rows] == [[0, 1, 2], [0, 1, 4], [1, 2], [4], []]
    features = json.loads(parquet.read_schema(files[0]).metadata[b"huggingface"])["info"][
        "features"
    ]
    assert features["classes"]["feature"]["names"] == default_names(K)
    assert read_json(folder, "id2label.json")["3"] == "cluster 3"

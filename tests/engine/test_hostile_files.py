"""Damaged and hostile files that people hand on: corrections, edits, clusters, models, reports.

All were found by tests/slow/fuzz/fuzz.py; each led to a crash, or to memory out of all proportion.
"""

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from datus.errors import CorruptShard, UsageError, WorkError
from datus.finished_run import PLACES, open_run, read_places
from datus.formats import files, pngs
from datus.formats.coco import coco_mask
from datus.formats.export import read_report
from datus.formats.labelstudio import brush_mask
from datus.formats.matching import Matched, matched
from datus.formats.polygons import polygon_mask
from datus.formats.read import open_corrections
from datus.inputs.find import sha256_of
from datus.review import edits, frozen
from datus.segmenter.files import check_architecture
from datus.segmenter.predict_folder import LIST, PredictionLog
from datus.store.store import Store, sealed
from datus.types import ImageRecord, ShardData

RUN = [ImageRecord("a", "a.png", 6, 8, "00" * 32, "")]


def match(path: Path) -> Matched:
    return matched(path, open_corrections(path), RUN)


def error_of(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        match(path)
    return str(caught.value).replace(str(path), "PATH")


def png(array: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array(array, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, table: Any) -> Path:
    path.write_text(json.dumps(table))
    return path


# --- corrections --------------------------------------------------------------------------------


def coco(height: Any, width: Any, shape: Any = ()) -> dict[str, Any]:
    row = {"id": 1, "image_id": 0, "category_id": 1, "segmentation": shape}
    return {
        "images": [{"id": 0, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "sky"}],
        "annotations": [row],
    }


def test_coco_images_of_no_size_are_refused(tmp_path: Path) -> None:
    found = error_of(put(tmp_path / "one.json", coco(-6, 8)))
    assert found == (
        "corrections: PATH: not as COCO wants it: a.png: -6 x 8 pixels; export it again"
    )


def test_the_size_is_looked_at_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("load_picture", "decode_labels"):  # a header is enough
        monkeypatch.setattr(files, name, None)
    expected = "is 300x400, its image 6x8 (height x width): expected the same size"
    assert expected in error_of(put(tmp_path / "one.json", coco(300, 400)))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "classes.txt").write_text("0\tsky\n")
    with Image.new("L", (400, 300)) as large:
        large.save(tmp_path / "masks" / "a.png")
    assert expected in error_of(tmp_path / "masks")
    region = {"type": "brushlabels", "original_height": 300, "original_width": 400}
    region["value"] = {"brushlabels": ["sky"], "rle": []}
    task = {"data": {"image_id": "a"}, "annotations": [{"result": [region]}]}
    assert expected in error_of(put(tmp_path / "tasks.json", [task]))


def test_run_lengths_that_add_up_only_after_an_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="do not add up to 3 x 4 pixels"):
        coco_mask([2**62] * 4 + [12], 3, 4)


def test_a_number_in_place_of_brush_runs_is_no_request_for_memory() -> None:
    packed: Any = 10**15
    with pytest.raises(ValueError, match="expected numbers 0 to 255"):
        brush_mask(packed, 3, 4)


def test_outlines_of_many_corners_are_filled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(-2, 30, (200, 2))
    whole = polygon_mask(corners, 25, 31)
    monkeypatch.setattr("datus.formats.polygons.BLOCK_ROWS", 7)
    np.testing.assert_array_equal(polygon_mask(corners, 25, 31), whole)
    assert 0 < whole.mean() < 1


def test_colours_are_told_apart_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.random.default_rng(0).choice(np.array([[0, 0, 0], [9, 8, 7], [1, 2, 3]]), (6, 8))
    colours = {(9, 8, 7): 0, (1, 2, 3): 1, (0, 0, 0): 255}
    whole, unknown = pngs._by_colour(rgb.astype(np.uint8), colours)
    assert unknown == ""
    monkeypatch.setattr(pngs, "BLOCK_PIXELS", 5)
    np.testing.assert_array_equal(pngs._by_colour(rgb.astype(np.uint8), colours)[0], whole)
    n_pixels = int((rgb[..., 0] == 9).sum())
    del colours[9, 8, 7]
    _, unknown = pngs._by_colour(rgb.astype(np.uint8), colours)
    assert unknown == f"{n_pixels} pixels of colour #090807"


@pytest.mark.parametrize(
    "palette", [[[9, 8, 7], [1, 2, 3]], [[9, 8, float("inf")]]], ids=["too long", "no number"]
)
def test_a_palette_longer_than_the_names_names_nothing(palette: Any, tmp_path: Path) -> None:
    table = {"classes": ["sky"], "palette": palette, "ignore_index": 255}
    put(tmp_path / "classes.json", table)
    (tmp_path / "a.png").write_bytes(png(np.full((6, 8, 3), [1, 2, 3])))
    assert "a.png: " in error_of(tmp_path)


def test_a_task_without_data_belongs_to_no_image(tmp_path: Path) -> None:
    region = {"type": "brushlabels", "original_height": 6, "original_width": 8}
    region["value"] = {"brushlabels": ["sky"], "rle": []}
    path = put(tmp_path / "tasks.json", [{"data": {}, "annotations": [{"result": [region]}]}])
    assert "none of its 1 images is in the run" in error_of(path)


def zipped(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(np.zeros((6, 8))))
    data = path.read_bytes()
    for old, new in changes:
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def test_zips_with_hostile_directories_are_refused(tmp_path: Path) -> None:
    assert match(zipped(tmp_path / "good.zip")).names == ("class 0",)
    no_name = zipped(tmp_path / "1.zip", (b"a.png", b"\0.png"))
    assert "nothing in it that is read" in error_of(no_name)
    path = zipped(tmp_path / "2.zip", (b"a.png", b"\xee.png"))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 9] |= 8  # its names are UTF-8
    path.write_bytes(data)
    assert error_of(path).startswith("corrections: PATH: cannot be read: 'utf-8' codec can't")
    size = len(png(np.zeros((6, 8)))).to_bytes(4, "little")
    large = zipped(tmp_path / "3.zip", (size + size, (10**9).to_bytes(4, "little") * 2))
    assert error_of(large) == ("corrections: PATH: cannot be read: a.png is larger than the zip")


# --- edits, clusters ----------------------------------------------------------------------------


def test_edits_with_infinite_numbers_are_refused() -> None:
    for base in ({"k": float("inf"), "centroids": [[1.0]]}, {"k": 1, "centroids": [[10**400]]}):
        table = {"format": "datus-edits", "version": 1, "clusters": base, "edits": []}
        with pytest.raises(UsageError, match=r"edits\.json: its clusters cannot be read"):
            edits.parse(json.dumps(table).encode(), "edits.json")


def changed(path: Path, name: str, array: Any) -> Path:
    """One array of a file of `datus freeze`, and its hash put right."""
    tensors = load_tensors(path.read_bytes())
    about = json.loads(tensors.pop("about").tobytes())
    tensors[name] = np.ascontiguousarray(array(tensors[name]))
    about["sha256"] = frozen.arrays_id(tensors)
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path.write_bytes(save_tensors({**tensors, "about": text}))
    return path


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("figures", lambda one: np.array([1, np.inf, 1.0])),
        ("centroids", lambda one: np.full_like(one, np.nan)),
        ("centroids", lambda one: one[:0]),
        ("pca_axes", lambda one: one[:1]),
        ("members", lambda one: one[None]),
        ("images", lambda one: one.astype(np.int8)),
        ("quantiles", lambda one: one.astype(np.float64)),
    ],
)
def test_frozen_clusters_of_another_shape_are_refused(
    name: str, array: Any, finished: Path, tmp_path: Path
) -> None:
    file = tmp_path / "words.safetensors"
    frozen.save(frozen.load(str(finished), 3), file)
    changed(file, f"clusters/{name}", array)
    with pytest.raises(UsageError, match="expected a run folder or a file of datus freeze"):
        frozen.load(str(file), 3)


@pytest.mark.parametrize("stage", ["features", "report"])
@pytest.mark.parametrize("recipe", [{}, {"settings": 2, "upstream": {}, "version": 1}, [1]])
def test_recipes_of_another_kind_count_as_gone(stage: str, recipe: Any, run_copy: Path) -> None:
    (path,) = run_copy.glob(f"{stage}/*/stage.json")
    table = json.loads(path.read_bytes())
    path.write_text(json.dumps(sealed({**table, "recipe": recipe})))
    with pytest.raises(WorkError, match=r"is gone: run it again|no run is finished there"):
        frozen.load(str(run_copy), 3)


# --- finished runs, models ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"sweep": []},
        {"sweep": 0.5},
        {"sweep": [{"k": "3"}]},
        {"sweep": [{"k": 3, "names": ["a", 1]}]},
        {"classes": {"names": [["a"]]}},
        {"sweep": [{"k": 3, "scores": {"majority": {"match": [7]}}}]},
        {"sweep": [{"k": 3, "scores": {"majority": {}}}]},
        {"sweep": [{"k": 3, "scores": {"majority": {"match": [0, 1, 0, 1]}}}]},
    ],
)
def test_a_report_of_another_kind_counts_as_gone(change: Any, run_copy: Path) -> None:
    (place,) = (path for path in (run_copy / "report").iterdir())
    file, shard = place / "files" / "report.json", place / "shard-all.json"
    data = json.dumps({**json.loads(file.read_bytes()), **change}).encode()
    file.write_bytes(data)
    table = json.loads(shard.read_bytes())
    table["files"]["report.json"] = [len(data), sha256_of(data)]
    shard.write_text(json.dumps(sealed(table)))
    with pytest.raises(ValueError, match=r"report\.json"):
        read_report(Store(run_copy), place.name)
    with pytest.raises(WorkError, match="parts of this run are gone or damaged: mine again"):
        open_run(Store(run_copy)).names(3)


def test_the_report_of_a_run_is_sound(finished: Path) -> None:
    assert open_run(Store(finished)).names(3) == ["cluster 0", "cluster 1", "cluster 2"]


def test_brackets_nested_too_deep_are_passed_over(tmp_path: Path) -> None:
    deep = "[" * 100_000
    (tmp_path / PLACES).write_text(deep)
    assert read_places(Store(tmp_path)) == {}
    out = tmp_path / "out"
    out.mkdir()
    line = '{"image": "a", "ours": ["."], "sha256": "00", "mask": 3}'
    lines = ['{"model": 1}', deep, '{"image": ["a"]}', line]
    (out / LIST).write_text("\n".join(lines))
    (out / "a.png").write_bytes(b"png")
    done = PredictionLog({"mask": out}, {"model": 1})
    done.begin({"a": tmp_path / "a.jpg"})
    assert done.has("a", "00")


@pytest.mark.parametrize("ours", [7, [7], [["."]], {"..": 1}, [".", "..", "../.."]], ids=str)
def test_a_list_that_claims_other_folders_removes_nothing_there(ours: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / LIST).write_text(f'{{"model": 1}}\n{json.dumps({"image": "a", "ours": ours})}\n')
    (tmp_path / "a.png").write_bytes(b"png")
    done = PredictionLog({"mask": out}, {"model": 1})
    done.begin({"a": tmp_path / "a.jpg"})
    done.fail({"a": "empty file (0 bytes)"})
    assert (tmp_path / "a.png").read_bytes() == b"png"


@pytest.mark.parametrize(
    "header",
    [b"[" * 100_000, b'{"000000/x": {"dtype": "U8", "shape": [%d], "data_offsets": [0, %d]}}'],
    ids=["nested", "too large"],
)
def test_arrays_that_match_their_checksum_and_are_none(header: bytes, tmp_path: Path) -> None:
    store, place = Store(tmp_path), ("graphs", "0" * 16, "0" * 12)
    store.write_shard(place, ShardData({"a": {"x": np.zeros(1, np.uint8)}}), 0.0, keep=True)
    text = header.replace(b"%d", str(2**70).encode())
    data = len(text).to_bytes(8, "little") + text
    stage, mark, key = place
    table = json.loads(store.read(stage, mark, f"shard-{key}.json"))
    table |= {"sha256": sha256_of(data), "n_bytes": len(data)}
    store.write(data, stage, mark, f"shard-{key}.safetensors")
    store.write(json.dumps(sealed(table)).encode(), stage, mark, f"shard-{key}.json")
    with pytest.raises(CorruptShard, match="cannot be read"):
        store.read_shard(place)


@pytest.mark.parametrize(
    "change", [{"embed_dim": 10**9}, {"depth": 10**9}, {"patch_size": 0}, {"img_size": [8, 10**9]}]
)
def test_a_model_larger_than_its_file_is_not_built(change: dict[str, Any]) -> None:
    sound = {"depth": 2, "embed_dim": 8, "img_size": 16, "num_classes": 0, "patch_size": 8}
    tensors: Any = {str(number): SimpleNamespace(numel=lambda: 100) for number in range(9)}
    check_architecture(sound, tensors)
    with pytest.raises(ValueError, match="a model of "):
        check_architecture({**sound, **change}, tensors)

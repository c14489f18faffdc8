"""`datus suggest-names` on a small run with a small random model: files, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_clip import make_clip
from tiny_runs import Dataset, go, snapshot
from typer.testing import CliRunner

pytest.importorskip("open_clip")

from datus.cli.app import app
from datus.cli.suggest_names import rows_of
from datus.config import read_toml
from datus.errors import UsageError
from datus.finished_run import crop, open_run, picture, write_places
from datus.store.store import Store
from datus.suggest.suggest_names import NOTE, Suggested, prompts, read_words
from datus.suggest.text_image import load_text_image


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("sky\ntree\nred thing\nwater\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def images(tiny: Dataset) -> Iterator[None]:
    """Where `command` says that images are."""
    IMAGES.append(str(tiny.images))
    yield
    IMAGES.clear()


IMAGES: list[str] = []


def command(run: Path, words: Path, weights: Any, *more: str) -> tuple[int, str]:
    given = ["--words", str(words), "--model", str(weights), "--threads", "1", "--device", "cpu"]
    given += ["--images", *IMAGES]
    done = CliRunner().invoke(app, ["suggest-names", str(run), *given, *more])
    return done.exit_code, done.output


def test_it_prints_and_writes_and_changes_nothing_else(
    run_copy: Path, words: Path, weights: Path
) -> None:
    before = snapshot(run_copy)
    code, output = command(run_copy, words, weights)
    assert code == 0, output
    assert "suggestions of a model, not checked on these images" in output
    new = {name for name in snapshot(run_copy) if name not in before}
    assert new == {"suggested_names.json", "names.toml"}
    assert {name: one for name, one in snapshot(run_copy).items() if name in before} == before
    table = json.loads((run_copy / "suggested_names.json").read_text())
    assert (table["format"], table["version"], table["k"]) == ("datus-suggested-names", 1, 3)
    assert table["note"] == NOTE
    assert len(table["model"]["sha256"]) == 64
    assert [row["cluster"] for row in table["clusters"]] == [0, 1, 2]
    assert all(len(row["words"]) == 3 for row in table["clusters"] if row["crops"])
    names = read_toml(run_copy / "names.toml")["names"]
    firsts = {str(r["cluster"]): r["words"][0]["word"] for r in table["clusters"] if r["crops"]}
    assert names == firsts


def test_scores_are_mean_cosines_of_the_best_segments(
    run_copy: Path, tiny: Dataset, words: Path, weights: Path
) -> None:
    command(run_copy, words, weights, "--crops", "4", "--top", "4")
    table = json.loads((run_copy / "suggested_names.json").read_text())
    run, model = open_run(Store(run_copy)), load_text_image(str(weights))
    records = {record.image_id: record for record in run.index.records}
    texts = model.texts([prompts(word) for word in table["words"]], 1)
    for cluster, row in enumerate(run.best_segments(3, 4)):
        cut = [crop(picture(records[one.image_id], str(tiny.images)), one) for one in row]
        mean = (model.images(cut, 1) @ texts.T).mean(axis=0)
        told = table["clusters"][cluster]
        assert told["crops"] == len(row) <= 4
        scores = {one["word"]: one["score"] for one in told["words"]}
        np.testing.assert_allclose([scores[w] for w in table["words"]], mean, atol=2e-6)


def test_same_input_same_bytes(finished: Path, words: Path, weights: Path, tmp_path: Path) -> None:
    found = []
    for name, threads in (("one", "1"), ("two", "2")):
        out = tmp_path / name
        code, output = command(
            finished, words, weights, "--out", str(out), "--edits", str(out / "edits.json"),
            "--threads", threads,
        )  # fmt: skip
        assert code == 0, output
        found.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert list(found[0]) == ["edits.json", "names.toml", "suggested_names.json"]
    assert found[0] == found[1]


def test_the_edits_are_replayed_and_the_names_exported(
    tiny: Dataset, run_copy: Path, words: Path, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "edits.json"
    code, output = command(run_copy, words, weights, "--edits", str(path))
    assert code == 0, output
    names = read_toml(run_copy / "names.toml")["names"]
    to = ["export", str(run_copy), "--to", "png", "--out", str(tmp_path / "png")]
    done = CliRunner().invoke(app, [*to, "--names", str(run_copy / "names.toml")])
    assert done.exit_code == 0, done.output
    assert f"{len(set(names.values()))} classes" in done.output
    result, _ = go(tiny.config(run_copy, {"clusters.edits": str(path)}))
    assert result.links
    edited = open_run(Store(run_copy))
    called = {str(i): name for i, name in enumerate(edited.names(3)) if str(i) in names}
    assert called == names
    # names that a person has taken stay, and edits cannot be written over edits
    code, output = command(run_copy, words, weights, "--out", str(tmp_path / "again"))
    assert code == 0, output
    assert "keeps its name" in (tmp_path / "again" / "names.toml").read_text()
    code, output = command(
        run_copy, words, weights, "--out", str(tmp_path / "no"), "--edits", str(tmp_path / "e")
    )
    assert code == 2
    assert output == (
        "error: --edits: this run has edits already, and a file takes the place of the other: add "
        "the names of names.toml to that file, or give names.toml to datus export --names\n"
    )


def test_nothing_is_overwritten(run_copy: Path, words: Path, weights: Path) -> None:
    kept = run_copy / "names.toml"
    kept.write_text("[names]\n0 = 'mine'\n", encoding="utf-8")
    code, output = command(run_copy, words, weights)
    assert (code, output) == (
        2, f"error: {kept} is there: add --overwrite, or choose another --out\n",
    )  # fmt: skip
    assert "mine" in kept.read_text()
    assert not (run_copy / "suggested_names.json").exists()
    code, output = command(run_copy, words, weights, "--overwrite")
    assert code == 0, output
    assert "mine" not in kept.read_text()


def test_a_class_table_gives_words(finished: Path, tiny: Dataset) -> None:
    assert read_words(tiny.classes) == ("c0", "c1", "c2")


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "w.txt"
    texts: dict[bytes, str] = {
        b"": "expected two words or more, one a line, got none",
        b"\xff\xfea": "expected text in UTF-8, one word a line",
        b"a\n" * 200_000: "more than 256,000 bytes: not a list of words",
    }
    for data, text in texts.items():
        path.write_bytes(data)
        with pytest.raises(UsageError) as error:
            read_words(path)
        assert str(error.value) == f"--words {path}: {text}"
    with pytest.raises(UsageError, match=r"No such file or directory$"):
        read_words(tmp_path / "none.txt")


def refused(run: Path, words: Path, weights: Any, *more: str) -> str:
    code, output = command(run, words, weights, *more)
    assert code in (1, 2)
    return output.splitlines()[-1].removeprefix("error: ")


def test_what_is_refused(
    finished: Path, words: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert refused(finished, words, weights, "--top", "0") == "--top 0: expected 1 or more"
    assert refused(finished, words, weights, "--k", "9", *out) == (
        f"--k 9: {finished} has masks of K = 3"
    )
    monkeypatch.setenv("DATUS_WEIGHTS", "")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("DATUS_OFFLINE", "")  # --offline sets it; put back afterwards
    said = refused(finished, words, "ViT-B-32/openai", "--offline", *out)
    assert said.startswith("ViT-B-32/openai: offline, and its weights are not on this machine; put")
    said = refused(finished, words, weights, "--images", str(tmp_path), *out)
    assert said.endswith("if the images were moved: --images FOLDER")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    assert "not a run folder" in refused(tmp_path / "empty", words, weights)


def test_a_run_may_know_its_images(
    run_copy: Path, tiny: Dataset, words: Path, weights: Path
) -> None:
    assert refused(run_copy, words, weights, "--images", "") == (
        f"{run_copy} does not know where its images are: add --images FOLDER"
    )
    write_places(tiny.config(run_copy), Store(run_copy))
    code, output = command(run_copy, words, weights, "--images", "")
    assert code == 0, output


def test_a_cluster_without_segments_has_a_line() -> None:
    assert rows_of([Suggested(4, 0, 0.0, ())], [""])[1][:3] == ("4", "0", "-")

"""From a run folder to a suggestion: which embeddings, which images, and the command itself."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import Dataset, flip_byte, go
from typer.testing import CliRunner

import datus.suggest.suggest_k as suggest_module
from datus.cli.app import app
from datus.cli.suggest_k import judged_ks, wanted_k
from datus.config import ClustersConfig
from datus.errors import ClusterError, UsageError, WorkError
from datus.inputs.index import Index
from datus.store.store import Store
from datus.suggest.stability import StabilitySettings, make_points, overview, usable_k
from datus.suggest.suggest_k import Source, find_source, fit_with, read_points, suggest
from datus.types import Array, Verdict

QUICK = StabilitySettings(starts=1, repeats=2, clouds=2, cloud_repeats=1)


def command(run: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["suggest-k", str(run), "--threads", "1", *more])
    return done.exit_code, done.output


def stored_valid(run: Path, source: Source) -> int:
    store = Store(run)
    reports = [store.report("embeddings", source.embeddings, s.key) for s in source.index.shards]
    return sum(int(row["n_valid"]) for one in reports if one for row in one.numbers.values())


def test_the_last_run_is_judged_with_its_k_means(finished: Path) -> None:
    source = find_source(Store(finished))
    assert source.clusters == ClustersConfig(k=(3,), restarts=2)
    assert source.embeddings == (finished / "embeddings").iterdir().__next__().name
    points = read_points(Store(finished), source, 0)
    seen = overview(points)
    assert seen.n_segments == stored_valid(finished, source)
    assert seen.n_images == 10
    np.testing.assert_allclose(points.view, points.places)


def test_a_run_that_got_as_far_as_embeddings_will_do(tiny: Dataset, tmp_path: Path) -> None:
    config = tiny.config(tmp_path / "run", {"clusters.k": [2, 4], "clusters.spherical": True})
    go(config, until="embeddings")
    source = find_source(Store(tmp_path / "run"))
    assert source.clusters == ClustersConfig(k=(2, 4), restarts=2, spherical=True)
    points = read_points(Store(tmp_path / "run"), source, 0)
    assert points.spherical
    np.testing.assert_allclose(np.linalg.norm(points.view, axis=1), 1)


def test_the_finished_run_counts_and_not_a_newer_half_one(tiny: Dataset, run_copy: Path) -> None:
    before = find_source(Store(run_copy))
    go(tiny.config(run_copy, {"embeddings.min_patches": 3}), until="embeddings")
    assert len(list((run_copy / "embeddings").iterdir())) == 2
    assert find_source(Store(run_copy)).embeddings == before.embeddings


def test_a_sample_is_whole_images_and_the_same_each_time(finished: Path) -> None:
    store, source = Store(finished), find_source(Store(finished))
    whole = read_points(store, source, 0)
    sizes = np.bincount(whole.image)
    some = read_points(store, source, 0, limit=int(sizes.sum()) // 2)
    assert 0 < overview(some).n_images < 10
    assert set(np.bincount(some.image).tolist()) <= set(sizes.tolist())
    again = read_points(store, source, 0, limit=int(sizes.sum()) // 2)
    np.testing.assert_array_equal(some.places, again.places)


def test_threads_change_nothing(finished: Path) -> None:
    store, source = Store(finished), find_source(Store(finished))
    points = read_points(store, source, 0)
    assert usable_k(overview(points), [2, 4, *source.clusters.k]) == [
        2,
        3,
        4,
    ]  # the run's own K among them
    one, two = (
        suggest(points, source, [2, 4], 0, n_threads=n, settings=QUICK).as_dict() for n in (1, 2)
    )
    assert one == two
    assert one["recommended"]["k"] in (2, 4)
    assert "3" in one["verdicts"]


def test_a_k_that_k_means_cannot_make_is_left_out() -> None:
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.normal(size=(8, 3)), 4, axis=0)
    pairs += rng.normal(size=(32, 3)) * [0.01, 0, 0]
    points = make_points(pairs.astype(np.float32), np.arange(32), np.zeros((32, 5)), False)

    def fit(places: Array, k: int, starts: int, seed: int) -> Array:
        if k > 8:
            raise ClusterError("a cluster is empty")
        return places[:: len(places) // k][:k]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datus.suggest.suggest_k.fit_with", lambda clusters: fit)
        source = Source(Index((), {}, 0), "", "", ClustersConfig(k=(9,)))
        found = suggest(points, source, [4, 9], 0, settings=QUICK)
    assert [one.k for one in found.found] == [4]
    assert list(found.verdicts) == [4]


def test_no_segment_is_an_error(tmp_path: Path) -> None:
    source = Source(Index((), {}, 0), "", "", ClustersConfig())
    with pytest.raises(ClusterError) as caught:
        read_points(Store(tmp_path), source, 0)
    assert str(caught.value) == (
        "no image gave a valid segment, so there is nothing to judge: lower embeddings.min_patches"
    )


def test_k_means_is_that_of_the_run() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(40, 3)).astype(np.float32)
    centroids = fit_with(ClustersConfig(spherical=True))(places, 4, 2, 0)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)


def test_what_the_report_says_counts_where_it_is_worse(tiny: Dataset, finished: Path) -> None:
    store = Store(finished)
    source = find_source(store)
    (said,) = source.reported.values()
    told = json.loads((finished / "latest" / "report" / "report.json").read_bytes())["verdict"]
    assert (said.word, [*said.reasons]) == (told["word"], told["reasons"])
    points = read_points(store, source, 0)

    def judged(reported: dict[int, Verdict]) -> Verdict:
        one = dataclasses.replace(source, reported=reported)
        return suggest(points, one, (2, 3), 0, settings=QUICK).verdicts[3]

    alone = judged({})
    bad = Verdict("do not trust this", ("weights are random",))
    found = judged({3: bad})
    assert found.word == bad.word
    assert set(bad.reasons) <= set(found.reasons)
    assert judged({3: Verdict("no objection", ("fine",))}).word == alone.word
    assert judged({2: bad}) == alone, "of another K"


def test_the_verdict_of_an_edited_run_is_that_of_its_k(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row counts labels: more than K after a split."""
    store = Store(run_copy)
    mark, recipe = suggest_module.last_finished(store, "report")
    (k,), (verdict,) = find_source(store).clusters.k, find_source(store).reported.values()
    monkeypatch.setattr(suggest_module, "_reported", lambda store, mark: {k + 2: verdict})
    assert find_source(store).reported == {k + 2: verdict}, "not edited"
    edited = {"upstream": {**recipe["upstream"], f"edits:{k}": "0123"}}
    monkeypatch.setattr(suggest_module, "last_finished", lambda store, stage: (mark, edited))
    assert find_source(store).reported == {k: verdict}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"sweep": 3}',
        b'{"sweep": [3]}',
        b'{"sweep": [{}]}',
        b'{"sweep": [{"k": [3]}]}',
        b'{"sweep": [{"k": 3}]}',
        b'{"sweep": [{"k": 3, "verdict": null}]}',
        b'{"sweep": [{"k": 3, "verdict": "no objection"}]}',
        b'{"sweep": [{"k": 3, "verdict": {"word": "fine", "reasons": []}}]}',
        b'{"sweep": [{"k": 3, "verdict": {"word": ["fine"], "reasons": []}}]}',
        b'{"sweep": [{"k": 3, "verdict": {"word": "no objection", "reasons": 7}}]}',
        b"[" * 10**5,
    ],
)
def test_a_report_without_a_verdict_that_can_be_read_counts_for_nothing(
    content: bytes, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum holds: it was written by another version."""
    read = Store.read

    def other(store: Store, *parts: str) -> bytes:
        return content if parts[-1] == "report.json" else read(store, *parts)

    assert find_source(Store(run_copy)).reported != {}
    monkeypatch.setattr(Store, "read", other)
    assert find_source(Store(run_copy)).reported == {}


def test_the_command_prints_and_writes(run_copy: Path) -> None:
    code, output = command(run_copy, "--k", "2-4")
    assert code == 0, output
    names = [part for name in ("stability", "silhouette", "content") for part in (name, "chance")]
    assert " ".join(["K", *names, "unexplained", "gap"]) in " ".join(output.split())
    table = json.loads((run_copy / "suggest_k.json").read_text())
    k = table["recommended"]["k"]
    assert f"recommended: --clusters {k}: with K = {k} " in output
    assert [row["k"] for row in table["by_k"]] == [2, 3, 4]
    assert set(table["verdicts"]) == {str(k), "3"}
    assert table["overview"]["n_images"] == 10
    row = table["by_k"][0]["stability"]
    assert set(row) == {"mean", "sd", "chance", "chance_sd"}
    assert f"K = {k}: {table['verdicts'][str(k)]['word']}: " in output
    assert b"<svg" in (run_copy / "suggest_k.svg").read_bytes()
    assert (run_copy / "suggest_k.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_writes_the_same_bytes(run_copy: Path) -> None:
    names = ("suggest_k.json", "suggest_k.svg", "suggest_k.png")
    assert command(run_copy, "--k", "2,3")[0] == 0
    first = [(run_copy / name).read_bytes() for name in names]
    assert command(run_copy, "--k", "2,3", "--threads", "2")[0] == 0
    assert first == [(run_copy / name).read_bytes() for name in names]


def test_what_it_writes_disturbs_no_other_command(tiny: Dataset, run_copy: Path) -> None:
    assert command(run_copy, "--k", "2,3")[0] == 0
    result, _ = go(tiny.config(run_copy))
    assert not any(row.made for row in result.stages if row.name != "index")
    for name in ("prune", "verify"):
        done = CliRunner().invoke(app, [name, *tiny.arguments(run_copy)])
        assert done.exit_code == 0, done.output
        assert "suggest_k" not in done.output


@pytest.mark.parametrize(
    ("text", "expected"), [("2-5", [2, 3, 4, 5]), ("8,4", [4, 8]), ("2-3,9", [2, 3, 9]), ("7", [7])]
)
def test_numbers_of_clusters_are_read(text: str, expected: list[int]) -> None:
    assert wanted_k(text) == expected


@pytest.mark.parametrize("text", ["", "two", "2-", "-5", "2-x", "4,,6", "2.5", "²", "9" * 5000])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        wanted_k(text)
    assert str(caught.value) == (
        f"--k {text}: expected a range such as 2-30, or numbers with commas"
    )


@pytest.mark.parametrize("text", ["1-5", "9-2", "2-300", "0", "2-99999999999"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        wanted_k(text)
    assert str(caught.value) == f"--k {text}: expected numbers from 2 to 255, rising"


def test_verdicts_of_few_k_are_printed() -> None:
    assert judged_ks(4, (3, 4, 5, 6), [3, 4, 5, 6]) == [4, 3, 5]
    assert judged_ks(4, (90,), [4]) == [4]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sample", "9"), "error: --sample 9: expected at least 256 segments"),
        (("--seed", "-1"), "error: --seed -1: expected 0 or more"),
    ],
)
def test_wrong_options(finished: Path, more: tuple[str, ...], message: str) -> None:
    code, output = command(finished, *more)
    assert (code, output.strip()) == (2, message)


def test_a_thread_less_than_none(finished: Path) -> None:
    code, output = command(finished, "--threads", "-1")
    assert code == 2
    assert "Invalid value for '--threads'" in output


def test_a_run_folder_that_cannot_be_written_is_seen_first(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(
        "datus.suggest.suggest_k.read_points", lambda *_: pytest.fail("read segments")
    )
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    code, output = command(run_copy)
    assert (code, output) == (
        1,
        f"error: cannot write {run_copy}/suggest_k.json: Read-only file system; make its folder "
        "writable\n",
    )


def test_a_disk_that_is_full_at_the_end(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("datus.store.store._write_local", full)
    code, output = command(run_copy, "--k", "2")
    assert code == 1
    assert output.splitlines()[-1] == (
        f"error: cannot write {run_copy}/suggest_k.json: No space left on device; free some space "
        "and run the same command again"
    )


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    code, output = command(tmp_path)
    assert code == 2
    assert output.strip() == f"error: {tmp_path}: not a run folder; datus run makes one"


def test_no_embeddings_yet(tiny: Dataset, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    go(tiny.config(run_dir), until="segments")
    with pytest.raises(WorkError) as caught:
        find_source(Store(run_dir))
    assert str(caught.value) == (
        "embeddings lack 3 of 3 shards: run the same datus run again, or datus run-stage "
        "embeddings --with-needs with its options"
    )


def test_damaged_embeddings(run_copy: Path) -> None:
    path = next((run_copy / "embeddings").glob("*/*.safetensors"))
    flip_byte(path)
    code, output = command(run_copy)
    assert code == 1
    assert "does not match its checksum: run the same datus run again" in output


def test_segments_that_were_not_kept(run_copy: Path) -> None:
    path = next((run_copy / "segments").glob("*/*.safetensors"))
    path.unlink()
    code, output = command(run_copy)
    assert code == 1
    assert "segments: shard " in output
    assert "is gone: run the same datus run again" in output


def test_too_few_segments_for_any_k(finished: Path) -> None:
    source = find_source(Store(finished))
    points = read_points(Store(finished), source, 0, limit=1)
    with pytest.raises(ClusterError, match="too few different segments for any K"):
        suggest(points, source, [200], 0, settings=QUICK)

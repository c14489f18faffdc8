"""The commands: what they print, where, and how they end."""

import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import call, error_of, rows_of
from run_tree import tree
from tiny_runs import SHIPPED, SHIPPED_OPTIONS, SPEED, Dataset, go, snapshot

import datus
import datus.cli.app
import datus.engine.run
import datus.method.affinity
from datus.__main__ import main
from datus.cli.app import app
from datus.cli.options import OPTIONS
from datus.config import Config
from datus.errors import WorkError, size_text
from datus.method.metrics import RULES
from datus.models.registry import ROWS
from datus.store.store import Store
from datus.types import Verdict

COMMANDS = ("run", "run-stage", "status", "evaluate", "backbones", "prune")


# --- help and version ---------------------------------------------------------------------------


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"datus {datus.__version__}\n")


def test_help_names_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", result.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_says_what_it_does_and_explains_every_option(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout
    commands = {
        command.name or command.callback.__name__: command for command in app.registered_commands
    }
    assert str(commands[name].callback.__doc__).strip() in result.stdout


@pytest.mark.parametrize("arguments", [["fly"], ["run", "--colour"], ["run", "--workers", "two"]])
def test_what_the_command_line_does_not_know_is_wrong_usage(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


# --- run ----------------------------------------------------------------------------------------


def test_run_says_what_it_made_the_scores_and_where_the_results_are(
    tiny: Dataset, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    go(tiny.config(run_dir, SHIPPED))
    before = tree(run_dir)
    result = call("run", *tiny.arguments(run_dir), *SHIPPED_OPTIONS, "--clusters", "3")
    assert result.exit_code == 0, result.output
    stages, scores, beside, end = result.stdout.split("\n\n")
    header, *rows = stages.splitlines()
    assert header.split("  ")[0] == "stage"
    assert re.split(" {2,}", header) == [
        "stage",
        "shards made",
        "of",
        "images",
        "failed",
        "seconds",
    ]
    assert len(rows) == 12
    made = {name: cells[0] for name, cells in rows_of(stages).items()}
    assert {name for name, count in made.items() if count != "0"} == {"stage", "index"}
    found = rows_of(scores)
    assert set(RULES) < set(found)
    for rule in RULES:
        assert all(re.fullmatch(r"\d+\.\d\d", cell) for cell in found[rule])
    report = json.loads((run_dir / "latest" / "report" / "report.json").read_bytes())
    beside_scores = [f"{row['name']} {row['miou']:.1f}" for row in report["baselines"]["rows"]]
    n_images = report["baselines"]["n_images"]
    what = f"mIoU (hungarian_strict) on small pictures of {n_images} images"
    assert beside == f"{what}: {', '.join(beside_scores)}"
    verdict = Verdict(report["verdict"]["word"], tuple(report["verdict"]["reasons"]))
    assert end.splitlines()[:2] == [
        f"verdict: {verdict.words}",
        f"masks of K = 3: {run_dir}/latest/masks-k3",
    ]
    folder = f"{run_dir}/latest/report"
    links = f"report: {folder}/report.html\nbrowser: {folder}/browse.html\n"
    *_, last = result.stdout.splitlines()
    assert result.stdout.endswith(f"{links}{last}\n")
    assert last.startswith("datus_t8 is a small model: for better masks run  datus run --images")
    assert re.search(r"^K = 3, coverage \d+\.\d %$", result.stdout, re.MULTILINE)
    assert tree(run_dir) == before


@pytest.mark.parametrize("in_file", [False, True])
def test_the_command_for_a_better_backbone_is_the_same_run(
    in_file: bool, tmp_path: Path, loaded: list[Config]
) -> None:
    settings = {"data.images": "my photos", "clusters.k": [4, 6], "seed": 7, "preset": "paper"}
    given = ["--images", "my photos", "--clusters", "4,6", "--seed", "7", "--preset", "paper"]
    if in_file:
        path = tmp_path / "a run.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        path.write_text("\n".join(lines), encoding="utf-8")
        given = [str(path)]
    given += ["--truth", "it's true", "--classes", "c.toml", "--no-baselines"]
    given += ["--set", "segments.backend=bits", "--set", "speed.isolate=true"]
    share = ["--shards", "2/3", "--set", "features.weights=hub"]
    said = call("run", *given, *share).stdout.splitlines()[-1].split("  ")
    assert said[0] == "datus_t8 is a small model: for better masks run"
    assert call(*shlex.split(said[1])[1:]).exit_code == 0
    assert call("run", *given, "--backbone", "dino_vits8").exit_code == 0
    first, again, expected = loaded
    assert again == expected
    assert (first.speed.shards, again.speed.shards) == ("2/3", "")
    assert again.clusters.k == (4, 6)


def test_a_sweep_says_which_k_its_verdict_is_of_and_the_words_of_the_others(
    tiny: Dataset, run_copy: Path
) -> None:
    result = call("run", *tiny.arguments(run_copy, truth=False), "--clusters", "4,3,2")
    assert result.exit_code == 0, result.output
    report = json.loads((run_copy / "latest" / "report" / "report.json").read_bytes())
    word = {row["k"]: row["verdict"]["word"] for row in report["sweep"]}
    verdict = Verdict(report["verdict"]["word"], tuple(report["verdict"]["reasons"]))
    assert (
        f"\nverdict of K = 4: {verdict.words}\n"
        f"verdicts of the others: K = 3: {word[3]}, K = 2: {word[2]}\n"
    ) in result.stdout
    rows = (run_copy / "latest" / "report" / "report.md").read_text().splitlines()
    assert [row.split("|")[-2].strip() for row in rows if re.match(r"\| [234] +\|", row)] == [
        word[2],
        word[3],
        word[4],
    ]


def test_run_without_truth_needs_nothing_but_images(tiny: Dataset, run_copy: Path) -> None:
    result = call("run", *tiny.arguments(run_copy, truth=False))
    assert result.exit_code == 0, result.output
    assert "hungarian" not in result.stdout
    assert "report.html" in result.stdout


def test_run_from_a_file_with_options_over_it(
    tiny: Dataset, run_copy: Path, tmp_path: Path
) -> None:
    given = {**SPEED, "data.images": str(tiny.images), "run_dir": str(run_copy), "clusters.k": 7}
    lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
    (tmp_path / "run.toml").write_text("\n".join(lines), encoding="utf-8")
    result = call("status", tmp_path / "run.toml", "--clusters", "3")
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert rows["masks (K = 3)"][1] == "done"
    assert "masks (K = 7)" not in rows


def test_progress_goes_to_stderr(tiny: Dataset, run_copy: Path) -> None:
    result = call("run", *tiny.arguments(run_copy), "--clusters", "2")
    assert result.exit_code == 0
    for name in ("index", "clusters (K = 2)", "report"):
        assert f"{name}: 100%" in result.stderr
        assert f"{name}: " not in result.stdout.split("\n\n")[0]


# --- options ------------------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The settings that `run` arrives at; it does not run."""
    configs: list[Config] = []

    def record(config: Config, **_: object) -> bool:
        configs.append(config)
        return True

    monkeypatch.setattr(datus.cli.app, "_run", record)
    return configs


@pytest.mark.parametrize("option", ["--seed", "--max-failed", "--workers"])
def test_a_negative_number_is_not_taken_for_none(option: str, tmp_path: Path) -> None:
    result = call("run", "--images", str(tmp_path), option, "-1")
    assert result.exit_code == 2
    assert result.stderr.endswith("got -1\n")


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (["--clusters", "6"], "clusters.k", (6,)),
        (["--clusters", "6,8"], "clusters.k", (6, 8)),
        (["--clusters", "6, 8,12"], "clusters.k", (6, 8, 12)),
        (["--set", "clusters.k=[6, 8]"], "clusters.k", (6, 8)),
        (["--set", "seed=3", "--seed", "4"], "seed", 4),
        (["--seed", "0", "--set", "seed=3"], "seed", 0),
        (["--set", "segments.restarts=8", "--set", "segments.restarts=9"], "segments.restarts", 9),
        (["--workers", "0"], "speed.workers", 0),
        (["--executor", "processes"], "speed.executor", "processes"),
        (["--max-failed", "7"], "speed.max_failed", 7),
        (["--device", "cuda:1"], "speed.device", "cuda:1"),
        (["--preset", "paper"], "graphs.center", "none"),
        (["--backbone", "vit_x"], "features.backbone", "vit_x"),
        (["--weights", "random"], "features.weights", "random"),
        (["--run-dir", "s3://bucket/run"], "run_path", "s3://bucket/run"),
    ],
)
def test_options_become_settings(
    options: list[str], name: str, value: Any, loaded: list[Config]
) -> None:
    result = call("run", "--images", "photos", *options)
    assert result.exit_code == 0, result.output
    found: Any = loaded[0]
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value


def test_every_option_has_a_setting() -> None:
    config = Config()
    for name in OPTIONS.values():
        section, _, key = name.rpartition(".")
        assert hasattr(getattr(config, section) if section else config, key)


WRONG: list[tuple[list[str], str]] = [
    ([], "no images: give --images FOLDER, or data.images in a config file"),
    (
        ["--images", "x", "--truth", "y"],
        "--truth and --classes go together: classes say what the true ids mean",
    ),
    (
        ["--images", "x", "--classes", "y"],
        "--truth and --classes go together: classes say what the true ids mean",
    ),
    (
        ["--images", "x", "--clusters", "6-8"],
        "--clusters 6-8: expected a number or numbers with commas",
    ),
    (
        ["--images", "x", "--clusters", "6,"],
        "--clusters 6,: expected a number or numbers with commas",
    ),
    (["--images", "x", "--clusters", "0"], "clusters.k: expected 1 to 255, got 0"),
    (["--images", "x", "--set", "segments"], "--set segments: expected section.key=value"),
    (
        ["--images", "x", "--set", "segments.restart=8"],
        "segments.restart: unknown setting; did you mean segments.restarts?",
    ),
    (["--images", "x", "--preset", "papre"], "preset: expected best or paper, got 'papre'"),
    (["none.toml"], "none.toml: no such file"),
    (["--images", "no/where"], "no/where: no such folder; check the path"),
]


@pytest.mark.parametrize(("options", "text"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_usage_is_one_line_with_the_cure(
    options: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of(call("run", *options), exit_code=2) == text
    assert list(tmp_path.iterdir()) == [], "nothing is written"


# --- run-stage ----------------------------------------------------------------------------------


def test_one_stage_alone_and_with_its_needs(tiny: Dataset, tmp_path: Path) -> None:
    given = tiny.arguments(tmp_path / "run")
    text = error_of(call("run-stage", "graphs", *given), exit_code=1)
    assert re.fullmatch(
        r"graphs needs features, which lacks (\d) of its \1 shards: "
        r"run that first, or add --with-needs",
        text,
    )
    result = call("run-stage", "graphs", "--with-needs", *given)
    assert result.exit_code == 0, result.output
    assert list(rows_of(result.stdout)) == ["stage", "index", "features", "graphs"]
    result = call("run-stage", "segments", *given)
    assert list(rows_of(result.stdout)) == ["stage", "index", "segments"]


def test_a_stage_that_is_none(tiny: Dataset, tmp_path: Path) -> None:
    text = error_of(call("run-stage", "masques", *tiny.arguments(tmp_path)), exit_code=2)
    assert text == (
        "stage masques: expected one of features, graphs, segments, embeddings, samples, "
        "clusters, masks, evaluate, tallies, views, report"
    )


# --- status and prune ---------------------------------------------------------------------------


def test_status_of_a_sweep_with_reasons(tiny: Dataset, finished: Path) -> None:
    result = call("status", *tiny.arguments(finished), "--clusters", "3,5", "--why")
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert rows["stage"] == ["fingerprint", "state", "shards", "why"]
    assert rows["masks (K = 3)"][1] == "done"
    assert rows["clusters (K = 5)"][1:] == ["missing", "0/1", "it never ran with these settings"]
    assert rows["report"][1:] == ["missing", "0/1", "clusters (K = 5) is new"]


def test_status_where_nothing_ran_is_an_error(tiny: Dataset, tmp_path: Path) -> None:
    text = error_of(call("status", *tiny.arguments(tmp_path / "run")), exit_code=1)
    assert text == f"{tmp_path}/run: nothing has run here yet: datus run does"


def test_prune_lists_and_then_removes(tiny: Dataset, run_copy: Path, finished: Path) -> None:
    given = tiny.arguments(run_copy)
    assert call("prune", *given).stdout == "nothing to remove\n"
    assert call("run", *given, "--clusters", "2").exit_code == 0
    before = snapshot(run_copy)
    listed = call("prune", *given)
    assert listed.exit_code == 0
    assert re.search(r"^\d+\.\d KB to remove: add --yes$", listed.stdout, re.MULTILINE)
    assert {line.split()[0] for line in listed.stdout.splitlines()[1:-1]} == {
        "clusters",
        "masks",
        "evaluate",
        "tallies",
        "report",
    }
    assert snapshot(run_copy) == before
    removed = call("prune", "--yes", *given)
    assert removed.stdout.splitlines()[-1].endswith(" KB removed")
    assert tree(run_copy) == tree(finished)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (2_560_000, "2.6 MB"),
        (142 * 10**9, "142.0 GB"),
    ],
)
def test_sizes_for_people(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


# --- evaluate -----------------------------------------------------------------------------------


def test_evaluate_prints_all_rules_and_writes_them(
    tiny: Dataset, finished: Path, tmp_path: Path
) -> None:
    masks, out = finished / "latest" / "masks-k3", tmp_path / "scores.json"
    result = call("evaluate", masks, tiny.truth, "--classes", tiny.classes, "--json", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("10 images, K = 3, 3 classes\n")
    table = json.loads(out.read_bytes())
    printed = rows_of(result.stdout)
    for rule in RULES:
        assert printed[rule][0] == f"{table['scores'][rule]['miou']:.2f}"


def test_evaluate_errors(tiny: Dataset, tmp_path: Path) -> None:
    text = error_of(call("evaluate", tmp_path, tiny.truth, "--classes", tiny.classes), exit_code=2)
    assert text.startswith(f"{tmp_path}: no label file in it")
    given = [tiny.truth, tiny.truth, "--classes", tiny.classes]
    text = error_of(call("evaluate", *given, "--clusters", 2), exit_code=2)
    assert text == "--clusters 2: the masks hold label 2"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c0.png").write_bytes((tiny.truth / "b" / "c0.png").read_bytes())
    given = [tmp_path, tiny.truth, "--classes", tiny.classes]
    assert error_of(call("evaluate", *given), exit_code=1).startswith("9 masks cannot be used")
    assert call("evaluate", *given, "--max-failed", 9).exit_code == 0


# --- how it ends --------------------------------------------------------------------------------


def test_an_error_of_the_work_is_one_line_and_debug_shows_where(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise WorkError("the work failed: do this")

    monkeypatch.setattr(datus.engine.run, "run", fail)
    given = ["run", *tiny.arguments(tmp_path / "run")]
    assert error_of(call(*given), exit_code=1) == "the work failed: do this"
    result = call(*given, "--debug")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert "in fail" in result.stderr
    assert result.stderr.endswith("error: the work failed: do this\n")


def test_a_folder_in_use_is_an_error_that_names_its_user(tiny: Dataset, run_copy: Path) -> None:
    with Store(run_copy).lock():
        text = error_of(call("run", *tiny.arguments(run_copy)), exit_code=1)
    assert text.startswith(f"{run_copy} is in use by process {os.getpid()} on ")


def test_an_interrupted_run_says_so_and_the_same_command_goes_on(
    tiny: Dataset, run_copy: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)  # the main thread hears of it before this image fails

    for path in run_copy.glob("graphs/*/shard-*"):
        path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(datus.method.affinity, "affinity_graph", interrupted)
        result = call("run", *tiny.arguments(run_copy))
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert result.stderr.endswith("interrupted: the same command goes on where it stopped\n")
    assert not (run_copy / "owner.json").exists()
    assert call("run", *tiny.arguments(run_copy)).exit_code == 0
    assert tree(run_copy) == tree(finished)


def test_ctrl_c_before_a_command_works_is_said_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    last: list[tuple[object, ...]] = []
    monkeypatch.setattr(signal, "signal", lambda *given: last.append(given))
    options = typer.Typer()
    options.command()(interrupted)  # as where options are read
    for command in (interrupted, options):
        monkeypatch.setattr("datus.cli.app.app", command)
        monkeypatch.setattr(sys, "argv", ["datus"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 130
        said = capsys.readouterr().err
        assert said == "interrupted: the same command goes on where it stopped\n"
        assert last.pop() == (signal.SIGINT, signal.SIG_IGN), "nothing is left to interrupt"


# --- backbones ----------------------------------------------------------------------------------


def test_backbones_lists_every_model_and_where_its_weights_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mae_pretrain_vit_base.pth").write_bytes(b"x")
    monkeypatch.setenv("DATUS_WEIGHTS", str(tmp_path))
    result = call("backbones")
    assert result.exit_code == 0, result.output
    listed, advice = result.stdout.split("\n\n")
    header, *lines = listed.splitlines()
    assert header.split()[:3] == ["name", "scheme", "patch"]
    assert len(lines) == len(ROWS)
    here = {line.split()[0]: line.rsplit("  ", 1)[1] for line in lines}
    assert here["datus_t8"] == "shipped"
    assert here["vit_base_patch16_224.mae"] == "DATUS_WEIGHTS"
    assert here["vit_small_patch8_224.dino"] == "yes"
    assert advice.startswith("recommended: vit_small_patch8_224.dino; ")


def test_backbones_of_one_model_says_which_file_to_put_where() -> None:
    result = call("backbones", "vit_large_patch7_224.msn")
    assert result.exit_code == 0, result.output
    assert re.search(r"^to use a file +put vitl7_200ep.pth.tar ", result.stdout, re.MULTILINE)
    text = error_of(call("backbones", "vit_large_patch7_224.msm"), exit_code=2)
    assert "did you mean vit_large_patch7_224.msn" in text


def test_offline_without_weights_ends_with_one_clear_error(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATUS_OFFLINE", "")  # put back afterwards: --offline sets it
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    given = tiny.arguments(tmp_path / "run")
    text = error_of(
        call("run", *given, "--backbone", "vit_small_patch16_dinov3.lvd1689m", "--offline"), 1
    )
    assert "lvd1689m: offline, and its weights are not on this machine; run datus backbones" in text
    assert "or put dinov3_vits16" in text
    assert os.environ["DATUS_OFFLINE"] == "1"


def test_gated_weights_are_announced_before_the_work(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATUS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    given = tiny.arguments(tmp_path / "run")
    result = call("run", *given, "--backbone", "vit_small_patch16_dinov3.lvd1689m")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "vit_small_patch16_dinov3.lvd1689m: the weights have the DINOv3 License. Its authors give"
    )

"""`datus compare`: cells share one run folder, fail alone, resume, and end in tables."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from run_tree import tree
from tiny_runs import SPEED, TINY_VIT, Dataset, Listener, flip_byte, snapshot
from typer.testing import CliRunner

import datus.compare.compare
import datus.engine.run
from datus.cli.app import app
from datus.compare.compare import compare, compare_files
from datus.compare.documents import write
from datus.compare.grid import load_grid
from datus.config import Config
from datus.errors import StoreError
from datus.inputs.index import read_index
from datus.pipeline import make_plan, run
from datus.store.store import Store

BACKBONES = [
    {"name": "datus_t8", "label": "ours"},
    {"name": "test_vit", "weights": "random", "label": "small"},
]

SWEPT = ("clusters.k", "features.backbone")


def grid_text(tiny: Dataset, run_dir: Path) -> str:
    """Two backbones, two K."""
    base = {name: value for name, value in SPEED.items() if name not in SWEPT}
    where = {"images": tiny.images, "truth": tiny.truth, "classes": tiny.classes}
    base |= {f"data.{name}": str(path) for name, path in where.items()}
    lines = ["k = [2, 3]", "[base]", f"run_dir = {json.dumps(str(run_dir))}"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in base.items()]
    for row in BACKBONES:
        lines += ["[[backbones]]", *(f"{key} = {json.dumps(one)}" for key, one in row.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture
def grid_file(tiny: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(grid_text(tiny, tmp_path / "run"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.toml and its finished run. Only to read."""
    folder = tmp_path_factory.mktemp("compared")
    path = folder / "small.toml"
    path.write_text(grid_text(tiny, folder / "run"), encoding="utf-8")
    write(compare(load_grid(path)))
    return folder


def call(*arguments: object) -> Any:
    runner = CliRunner(env={"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"})
    return runner.invoke(app, ["compare", *(str(argument) for argument in arguments)])


# --- cells share work, and it is the same work --------------------------------------------------


def test_stages_are_the_bytes_of_separate_runs(done: Path, tmp_path: Path) -> None:
    together = tree(done / "run")
    grid = load_grid(done / "small.toml")
    for number, cell in enumerate(grid.cells):
        config = Config.load(None, _settings(cell.config))
        alone = Store(tmp_path / str(number))
        run(config, alone, until="evaluate")
        apart = tree(Path(alone.root))
        assert {name.split("/")[0] for name in apart} >= {"features", "masks", "evaluate"}
        assert apart.items() <= together.items()


def _settings(config: Config) -> dict[str, Any]:
    """A config as overrides, so that the separate run is set up without the grid."""
    found: dict[str, Any] = {"preset": config.preset, "seed": config.seed}
    sections = ("data", "features", "graphs", "segments", "embeddings", "clusters", "masks")
    for section in (*sections, "report"):
        inner = getattr(config, section)
        found |= {f"{section}.{n}": getattr(inner, n) for n in inner.__dataclass_fields__}
    if not config.graphs.by_density:  # one rule, not both
        del found["graphs.density"]
    return found


def test_a_backbone_is_computed_once_for_all_k_and_embedders(
    grid_file: Path, tmp_path: Path
) -> None:
    lists = {"embedders": [{"mode": "pool"}, {"mode": "crop"}]}
    small = {"embeddings.crop_px": 32, "data.shard_images": 100}
    grid = load_grid(grid_file, small, lists)
    assert [cell.embedder for cell in grid.cells] == ["pool", "pool", "crop", "crop"] * 2
    found = compare(grid)
    assert [cell.reason for cell in found.results] == [""] * 8
    folders = {
        stage: len(list((tmp_path / "run" / stage).iterdir()))
        for stage in ("features", "segments", "embeddings", "clusters", "masks", "evaluate")
    }
    assert folders["features"] == folders["segments"] == 2
    assert folders["embeddings"] == 4
    assert folders["clusters"] == folders["masks"] == folders["evaluate"] == 8
    shards = [(cell.n_shards, cell.n_shared) for cell in found.results]
    assert shards == [(9, 0), (9, 5), (9, 3), (9, 5)] * 2


def test_a_second_run_does_nothing_and_says_the_same(done: Path) -> None:
    before = snapshot(done / "run" / "features") | snapshot(done / "run" / "evaluate")
    documents = {
        path.name: path.read_bytes() for path in (done / "run" / "compare" / "small").iterdir()
    }
    found = compare(load_grid(done / "small.toml"))
    assert found.made == 0
    write(found, str(done / "again"))
    assert {path.name: path.read_bytes() for path in (done / "again").iterdir()} == documents
    assert snapshot(done / "run" / "features") | snapshot(done / "run" / "evaluate") == before


def test_figures_are_those_of_the_report(tiny: Dataset, finished: Path, tmp_path: Path) -> None:
    """Independently: report.json of an ordinary run."""
    config = tiny.config(finished)
    lines = [f"{name} = {json.dumps(value)}" for name, value in _settings(config).items()]
    path = tmp_path / "run.toml"
    path.write_text("\n".join([f'run_dir = "{finished}"', *lines]), encoding="utf-8")
    [cell] = compare_files([path], {}, {}).results
    report = json.loads((finished / "latest" / "report" / "report.json").read_bytes())
    assert (cell.reason, cell.run, cell.backbone, cell.k) == ("", "run", TINY_VIT, 3)
    assert cell.n_images == report["n_images"] == 10
    for rule, scores in report["scores"].items():
        for name in ("miou", "accuracy", "f1", "coverage"):
            assert round(getattr(cell.scores[rule], name), 4) == scores[name]
    numbers = report["numbers"]
    assert cell.n_segments == round(10 * numbers["segments"]["n_segments"]["mean"])
    assert cell.n_valid == round(10 * numbers["embeddings"]["n_valid"]["mean"])
    assert cell.value("valid_segments") == 100 * cell.n_valid / cell.n_segments
    assert set(cell.seconds) >= {"features", "evaluate"}


def test_valid_patches_are_counted_over_the_dataset(done: Path) -> None:
    grid = load_grid(done / "small.toml")
    store, config = Store(done / "run"), grid.cells[0].config
    index = read_index(store)
    assert index is not None
    plan = make_plan(config, index)
    inside = total = 0
    marks = {node.name: node.fingerprint for node in plan.nodes}
    for shard in plan.shards:
        segments = store.read_shard(("segments", marks["segments"], shard.key))
        assert segments is not None
        for arrays in segments.arrays.values():
            sizes = arrays["n_patches"]
            inside += int(sizes[sizes >= config.embeddings.min_patches].sum())
            total += int(sizes.sum())
    found = compare(grid).results[0]
    assert found.valid_patches == pytest.approx(100 * inside / total)


# --- failing and going on -----------------------------------------------------------------------


def test_a_failing_cell_is_recorded_and_the_others_go_on(grid_file: Path, tmp_path: Path) -> None:
    given = ["--clusters", "2,200", "--backbones", f"datus_t8,test_vit:{tmp_path}/no.pth"]
    result = call(grid_file, *given)
    assert result.exit_code == 1
    assert result.stderr.endswith("error: 3 of 4 cells failed, see the table\n")
    assert "warning: 2 cells with test_vit will fail: features.weights: expected" in result.stderr
    assert "cell 4 of 4: test_vit, pool, preset best, K = 200, seed 0" in result.stderr
    path = tmp_path / "run" / "compare" / "small" / "compare.json"
    reasons = [row.get("failed", "") for row in json.loads(path.read_bytes())["cells"]]
    assert [reason[:8] for reason in reasons] == ["", "200 clus", "features", "features"]
    failed = "- failed: best, datus_t8, pool, K = 200, seed 0: 200 clusters asked"
    assert failed in result.stdout


def test_a_surprise_in_one_cell_does_not_end_the_others(
    grid_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(config: Config, *arguments: Any, **named: Any) -> Any:
        if config.clusters.k == (2,):
            raise RuntimeError("out of memory")
        return run(config, *arguments, **named)

    monkeypatch.setattr(datus.compare.compare, "run", odd)
    listener = Listener()
    found = compare(load_grid(grid_file), listener)
    reasons = [cell.reason for cell in found.results]
    assert reasons == ["RuntimeError: out of memory", ""] * 2
    assert "failed: RuntimeError: out of memory" in listener.said


def test_a_broken_disk_ends_all(grid_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise StoreError("cannot write run: No space left on device; free some space")

    monkeypatch.setattr(datus.compare.compare, "run", full)
    with pytest.raises(StoreError, match="No space left"):
        compare(load_grid(grid_file))


def test_a_folder_in_use_is_an_error(done: Path) -> None:
    with Store(done / "run").lock():
        result = call(done / "small.toml")
    assert result.exit_code == 1
    assert "is in use by process" in result.stderr


@pytest.mark.parametrize("stage", ["clusters", "evaluate"])
def test_a_damaged_shard_is_made_again(
    stage: str, done: Path, tiny: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(done / "run", tmp_path / "run", symlinks=True)
    path = tmp_path / "small.toml"
    path.write_text(grid_text(tiny, tmp_path / "run"), encoding="utf-8")
    flip_byte(sorted((tmp_path / "run" / stage).glob("*/shard-*.safetensors"))[0])
    listener = Listener()
    found = compare(load_grid(path), listener)
    assert found.n_failed == 0
    said = [text for text in listener.said if text.endswith("made again")]
    assert len(said) == 1
    assert said[0].startswith(f"{stage}: shard ")
    assert tree(tmp_path / "run") == tree(done / "run")


@pytest.mark.slow
def test_resume_after_a_kill_gives_the_same_bytes(
    done: Path, tiny: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(grid_text(tiny, tmp_path / "run"), encoding="utf-8")
    command = [sys.executable, "-m", "datus", "compare", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list((tmp_path / "run").glob("masks/*/shard-*.json")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    found = compare(load_grid(path))
    assert found.n_failed == 0
    write(found)
    expected, got = tree(done / "run"), tree(tmp_path / "run")
    unlike = {name for name in expected if expected[name] != got.get(name)}
    # seen.json holds the times of files, compare.json the seconds
    assert unlike <= {"index/seen.json", "compare/small/compare.json"}
    assert expected.keys() == got.keys()


# --- progress -----------------------------------------------------------------------------------


def test_progress_names_the_cell_and_the_time_left(grid_file: Path) -> None:
    listener = Listener()
    compare(load_grid(grid_file), listener)
    lines = [text for text in listener.said if text.startswith("cell ")]
    assert lines[0] == "cell 1 of 4: ours, pool, preset best, K = 2, seed 0"
    assert lines[3].startswith("cell 4 of 4: small, pool, preset best, K = 3, seed 0, some ")
    assert lines[3].endswith(" left")
    others = [text for text in listener.said if text.startswith("warning")]
    assert len(others) == len(set(others))


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (120, "2 min"), (9000, "2.5 h")]
)
def test_time_text(seconds: float, text: str) -> None:
    assert datus.compare.compare.time_text(seconds) == text


# --- the command --------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_where_all_is(done: Path) -> None:
    result = call(done / "small.toml", "--out", done / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("## Scores under hungarian_strict, percent\n\n| scheme | K |")
    end = f"table: {done}/out/table.md\npictures: {done}/out/pictures.png\n"
    end += f"figure 7: {done}/out/figure7.svg\n"
    assert result.stdout.endswith(f"0 shards made\n{end}figure 9: {done}/out/figure9.svg\n")
    names = {path.name for path in (done / "out").iterdir()}
    assert {"table.md", "table.tex", "compare.json", "segments.csv", "figure7.png"} <= names
    for name in ("figure7.png", "figure9.png"):
        assert (done / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_pictures_show_every_line_beside_the_image(done: Path) -> None:
    with Image.open(done / "out" / "pictures.png") as sheet:
        width, height = sheet.size
    found = json.loads((done / "out" / "compare.json").read_text(encoding="utf-8"))
    names = ("run", "preset", "backbone", "embedder", "k")
    lines = {tuple(one[n] for n in names) for one in found["cells"] if "failed" not in one}
    n = 1 + min(8, len(lines))
    assert n * 256 <= width <= n * 256 + 2 * n + 12
    assert height > 256


def test_another_layout_leaves_no_file_of_the_one_before(done: Path) -> None:
    out = done / "layouts"
    assert call(done / "small.toml", "--out", out).exit_code == 0
    (out / "mine.csv").write_text("keep", encoding="utf-8")
    assert (
        call(done / "small.toml", "--out", out, "--table", "II", "--clusters", "3").exit_code == 0
    )
    names = {path.name for path in out.iterdir()}
    figures = {"figure7.png", "figure7.svg", "pictures.png"}
    assert names == {"table.md", "table.tex", "compare.json", "segments.csv", "mine.csv", *figures}


def test_reports_of_every_cell(grid_file: Path, tmp_path: Path) -> None:
    text = grid_file.read_text(encoding="utf-8")
    grid_file.write_text("reports = true\n" + text, encoding="utf-8")
    found = compare(load_grid(grid_file, {}, {"k": [2]}))
    paths = [Path(cell.report) for cell in found.results]
    assert len(set(paths)) == 2
    assert all(path.read_bytes().startswith(b"<!") for path in paths)


def test_no_grid_file_at_all(tiny: Dataset, done: Path) -> None:
    given = ["--backbones", "datus_t8", "--clusters", "2,3", "--run-dir", done / "run"]
    given += ["--images", tiny.images, "--truth", tiny.truth, "--classes", tiny.classes]
    for name, value in SPEED.items():
        given += ["--set", f"{name}={value}"] if name not in SWEPT else []
    result = call(*given)
    assert result.exit_code == 0, result.output
    assert "\n0 shards made\n" in result.stdout
    assert (done / "run" / "compare" / "grid" / "table.md").exists()


def test_one_backbone_with_several_weights(grid_file: Path, tmp_path: Path) -> None:
    given = ["--backbones", "datus_t8,datus_t8:random", "--clusters", "3"]
    result = call(grid_file, *given, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert re.findall(r"^\| (datus_t8\S*) ", result.stdout, re.MULTILINE)[:2] == [
        "datus_t8",
        "datus_t8:random",
    ]
    cells = json.loads((tmp_path / "out" / "compare.json").read_bytes())["cells"]
    assert [cell["backbone"] for cell in cells] == ["datus_t8", "datus_t8:random"]
    assert "datus_t8:random" in (tmp_path / "out" / "figure7.svg").read_text(encoding="utf-8")
    result = call(grid_file, *given, "--labels", "trained,not trained", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for name in ("table.md", "table.tex", "segments.csv", "compare.json", "figure7.svg"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "not trained" in text
        assert "datus_t8" not in text


# --- finished runs ------------------------------------------------------------------------------


def run_toml(path: Path, config: Config) -> Path:
    lines = [f"run_dir = {json.dumps(config.run_dir)}"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in _settings(config).items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_finished_runs_side_by_side(tiny: Dataset, finished: Path, tmp_path: Path) -> None:
    one = run_toml(tmp_path / "one.toml", tiny.config(finished))
    two = run_toml(tmp_path / "two.toml", tiny.config(finished, {"clusters.k": [3, 4]}))
    before = snapshot(finished)
    result = call(one, two, "--out", tmp_path / "out", "--table", "VII")
    assert result.exit_code == 1
    assert snapshot(finished) == before
    assert "| run | K |" in result.stdout.replace("  ", "")
    assert (
        f"- failed: two, best, {TINY_VIT}, pool, K = 4, seed 0: "
        f"clusters (K = 4) lacks 1 shards: datus run {two}\n"
    ) in result.stdout


def test_a_run_that_ended_with_its_scores_is_compared(tiny: Dataset, run_copy: Path) -> None:
    """Views and the report are made after them."""
    for stage in ("views", "report", "latest"):
        shutil.rmtree(run_copy / stage)
    path = run_toml(run_copy / "one.toml", tiny.config(run_copy))
    [cell] = compare_files([path], {}, {}).results
    assert cell.reason == ""
    assert not {"views", "report"} & cell.seconds.keys()


def test_a_run_that_never_ran(tiny: Dataset, tmp_path: Path) -> None:
    path = run_toml(tmp_path / "one.toml", tiny.config(tmp_path / "nowhere"))
    [cell] = compare_files([path], {}, {}).results
    assert cell.reason == f"nothing has run in {tmp_path}/nowhere: datus run {path}"
    assert not (tmp_path / "nowhere").exists()


# --- wrong usage --------------------------------------------------------------------------------


def error_of(result: Any) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return str(result.stderr.split("error: ", 1)[1]).rstrip()


def test_a_grid_stands_alone(done: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("", encoding="utf-8")
    text = error_of(call(done / "small.toml", other))
    assert text == f"{done}/small.toml is a grid: expected one grid alone, or configs of runs"
    text = error_of(call(other, "--clusters", "3"))
    assert text == (
        f"k: {other} is a finished run, which has none to choose; expected a grid, a file with "
        "base = or [base]"
    )
    assert error_of(call(other)) == (
        f"{other}: a comparison needs data.images, data.truth and data.classes, got '', '' and ''"
    )


def test_the_door_is_before_the_first_cell(done: Path, tmp_path: Path) -> None:
    grid, run_dir = done / "small.toml", tmp_path / "run"
    where = ["--run-dir", run_dir]
    assert error_of(call(grid, *where, "--truth", tmp_path / "no")).startswith(f"{tmp_path}/no")
    text = error_of(call(grid, *where, "--table", "IX"))
    assert text.startswith("table: expected I or II or III or VI or VII or full, got 'IX'")
    assert error_of(call(grid, *where, "--seeds", "one")) == (
        "--seeds one: expected a number or numbers with commas"
    )
    text = error_of(call(grid, *where, "--set", "clusters.k=4"))
    assert text == "--set clusters.k: the grid's list k decides; use --clusters"
    assert not run_dir.exists()

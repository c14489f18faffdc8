"""The command line. Thin: a command reads its settings, calls one function, prints what it did.

    datus run --images photos/ --clusters 12          a folder of images, no config at all
    datus run pipelines/suim.toml                     everything in a file
    datus run pipelines/suim.toml --dry-run           what it would do and take; writes nothing
    datus run-stage segments pipelines/suim.toml      one stage, or --with-needs
    datus status pipelines/suim.toml --why            what is done, what is not, why
    datus evaluate masks/ truth/ --classes C.toml     any masks, ours or not
    datus compare pipelines/paper/table1_suim.toml    schemes side by side, the paper's tables
    datus backbones                                   every model: terms, and whether it is here
    datus prune pipelines/suim.toml                   what no current setting needs

Exit codes: 0 done, 1 the work failed, 2 wrong usage or config, 130 interrupted (and resumable).
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from datus import __version__
from datus.config import Config, parse_override
from datus.errors import DatusError, UsageError, WorkError, size_text

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Semantic masks from unlabelled images.",
)

Row = tuple[str, ...]

ConfigFile = Annotated[Path | None, typer.Argument(help="TOML file", metavar="CONFIG")]
Images = Annotated[str, typer.Option("--images", help="folder of images, sub-folders included")]
Truth = Annotated[str, typer.Option("--truth", help="folder of true masks, to score against")]
Classes = Annotated[str, typer.Option("--classes", help="TOML: what the ids in true masks mean")]
Clusters = Annotated[str, typer.Option("--clusters", help="number of clusters; 6,8,12 sweeps")]
RunDir = Annotated[str, typer.Option("--run-dir", help="default: runs/<name of the image folder>")]
Preset = Annotated[str, typer.Option("--preset", help="best (default) or paper")]
Backbone = Annotated[str, typer.Option("--backbone", help="see datus backbones; or any timm ViT")]
Weights = Annotated[str, typer.Option("--weights", help="auto, hub, random, or a checkpoint file")]
Executor = Annotated[str, typer.Option("--executor", help="serial (default) or processes")]
Workers = Annotated[
    int, typer.Option("--workers", help="processes; 0 = one per core", show_default=False)
]
Device = Annotated[str, typer.Option("--device", help="auto (default), cpu, cuda, cuda:1")]
MaxFailed = Annotated[
    int, typer.Option("--max-failed", help="unusable images allowed (0)", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", help="of everything random (0)", show_default=False)]


def _go_offline(value: bool) -> None:
    if value:
        os.environ["DATUS_OFFLINE"] = "1"  # worker processes inherit it


Offline = Annotated[
    bool, typer.Option("--offline", callback=_go_offline, help="never touch the network")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="any setting: segments.restarts=8")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would do and take; stop")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]


@app.command()
def run(
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    executor: Executor = "",
    workers: Workers = -1,
    device: Device = "",
    max_failed: MaxFailed = -1,
    seed: Seed = -1,
    offline: Offline = False,
    settings: Set = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """All stages, with progress, and where the report is."""
    with _errors(debug):
        begin = _dry_run if dry_run else _run
        begin(_load(locals()), until="report", only=False)


@app.command("run-stage")
def run_stage(
    stage: Annotated[str, typer.Argument(help="its name, for example segments")],
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    executor: Executor = "",
    workers: Workers = -1,
    device: Device = "",
    max_failed: MaxFailed = -1,
    seed: Seed = -1,
    offline: Offline = False,
    settings: Set = None,
    with_needs: Annotated[bool, typer.Option("--with-needs", help="run upstream first")] = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """One stage; what it needs must exist, or --with-needs."""
    with _errors(debug):
        loaded = _load(locals())
        from datus.stages import active_stages

        names = [one.name for one in active_stages(loaded)]
        if stage not in names:
            raise UsageError(f"stage {stage}: expected one of {', '.join(names)}")
        begin = _dry_run if dry_run else _run
        begin(loaded, until=stage, only=not with_needs)


@app.command()
def status(
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    seed: Seed = -1,
    settings: Set = None,
    explain: Annotated[bool, typer.Option("--why", help="why a stage is not done")] = False,
    debug: Debug = False,
) -> None:
    """What is done and what is not. Reads only."""
    with _errors(debug):
        from datus.status import failure_lines, status_rows

        loaded = _load(locals())
        print(_table(status_rows(loaded, explain)))
        for line in failure_lines(loaded):
            print(line)


@app.command()
def evaluate(
    masks: Annotated[Path, typer.Argument(help="folder of label PNGs, made by anything")],
    truth: Annotated[Path, typer.Argument(help="folder of true masks with the same names")],
    classes: Annotated[Path, typer.Option("--classes", help="TOML: what the true ids mean")],
    clusters: Annotated[int, typer.Option("--clusters", help="default: highest label + 1")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="also write the scores here")] = None,
    max_failed: MaxFailed = 0,
    debug: Debug = False,
) -> None:
    """Score any two folders of label PNGs under all matching rules."""
    with _errors(debug):
        from datus.evaluation import evaluate_folders

        found = evaluate_folders(masks, truth, classes, clusters, max_failed)
        if out is not None:
            _write(out, json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{found['n_images']} images, K = {found['clusters']}, {found['classes']} classes")
        for image_id, reason in found["failures"].items():
            print(f"left out: {image_id}: {reason}")
        print(_scores(found["scores"]))


@app.command()
def compare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="one grid, or the configs of finished runs", metavar="GRID | RUN ..."),
    ] = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    run_dir: RunDir = "",
    backbones: Annotated[str, typer.Option("--backbones", help="NAME or NAME:WEIGHTS, ...")] = "",
    embedders: Annotated[str, typer.Option("--embedders", help="pool, crop, crop:NAME:...")] = "",
    clusters: Annotated[str, typer.Option("--clusters", help="numbers of clusters: 6,8,12")] = "",
    presets: Annotated[str, typer.Option("--presets", help="best,paper")] = "",
    seeds: Annotated[str, typer.Option("--seeds", help="0,1,2 gives means and spreads")] = "",
    table: Annotated[str, typer.Option("--table", help="I, II, III, VI, VII or full")] = "",
    out: Annotated[str, typer.Option("--out", help="default: RUN/compare/NAME")] = "",
    offline: Offline = False,
    settings: Set = None,
    debug: Debug = False,
) -> None:
    """Schemes, embedders and numbers of clusters side by side: the paper's tables and figures."""
    with _errors(debug):
        from datus.compare import compare_files, write
        from datus.report.documents import summary

        given = {"images": images, "truth": truth, "classes": classes, "run_dir": run_dir}
        overrides = dict(parse_override(text) for text in settings or [])
        overrides |= {OPTIONS[name]: value for name, value in given.items() if value}
        lists = {"backbones": backbones, "embedders": embedders, "k": clusters}
        lists |= {"presets": presets, "seeds": seeds, "table": table}
        found = compare_files(files or [], overrides, lists, _Bars())
        print(summary(found, write(found, out)))
        if found.n_failed:
            raise WorkError(f"{found.n_failed} of {len(found.results)} cells failed, see the table")


@app.command()
def backbones(
    name: Annotated[str, typer.Argument(help="all that is known of one model")] = "",
    debug: Debug = False,
) -> None:
    """The table of backbones: scheme, terms, and whether the weights are on this machine."""
    with _errors(debug):
        from datus.sources import describe, listing

        print(_table(list(describe(name)) if name else listing()))


@app.command()
def prune(
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    seed: Seed = -1,
    settings: Set = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it only list")] = False,
    debug: Debug = False,
) -> None:
    """Remove what the current settings do not need. Lists first; --yes removes."""
    with _errors(debug):
        from datus.status import prune_rows

        rows, total = prune_rows(_load(locals()), remove=yes)
        print(_table([("stage", "folder", "size"), *rows]) if rows else "nothing to remove")
        if rows:
            print(f"{size_text(total)} {'removed' if yes else 'to remove: add --yes'}")


def _version(value: bool) -> None:
    if value:
        print(f"datus {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="and leave")
    ] = False,
) -> None:
    """Semantic masks from unlabelled images."""


# --- settings -----------------------------------------------------------------------------------

OPTIONS = {
    "images": "data.images",
    "truth": "data.truth",
    "classes": "data.classes",
    "run_dir": "run_dir",
    "preset": "preset",
    "backbone": "features.backbone",
    "weights": "features.weights",
    "executor": "speed.executor",
    "workers": "speed.workers",
    "device": "speed.device",
    "max_failed": "speed.max_failed",
    "seed": "seed",
}
"""Command-line option -> setting. An empty text or a negative number means: not given."""


def _load(given: dict[str, Any]) -> Config:
    overrides = dict(parse_override(text) for text in given["settings"] or [])
    for option, name in OPTIONS.items():
        value = given.get(option, "")
        if value not in ("", -1):
            overrides[name] = value
    if given["clusters"]:
        overrides["clusters.k"] = _numbers(given["clusters"])
    loaded = Config.load(given["config"], overrides)
    if not loaded.data.images:
        raise UsageError("no images: give --images FOLDER, or data.images in a config file")
    if bool(loaded.data.truth) != bool(loaded.data.classes):
        raise UsageError("--truth and --classes go together: classes say what the true ids mean")
    return loaded


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--clusters {text}: expected a number or numbers with commas") from None


# --- running ------------------------------------------------------------------------------------


class _Bars:
    """Progress on stderr: a bar with an ETA for each stage."""

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Any]:
        from tqdm import tqdm

        interval = 0.2 if sys.stderr.isatty() else 15.0  # a batch log wants few lines
        with tqdm(total=total, desc=name, unit="image", mininterval=interval) as progress:
            yield progress.update

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)


def _run(config: Config, until: str, only: bool) -> None:
    from datus.runner import run as run_stages
    from datus.sources import notice
    from datus.store import Store

    store, console = Store(config.run_path), _Bars()
    for section in (config.features, config.embeddings):
        if note := notice(section.backbone, section.weights):
            console.say(note)
    result = run_stages(config, store, console, until=until, only=only)
    rows: list[Row] = [("stage", "shards made", "of", "images", "failed", "seconds")]
    for one in result.stages:
        numbers = (one.made, one.shards, one.images, one.failed)
        rows.append((one.name, *map(str, numbers), f"{one.seconds:.1f}"))
    print(_table(rows))
    if until != "report":
        return
    node = result.plan.nodes[-1]
    report = json.loads(store.read("report", node.mark, "files", "report.json"))
    if report["scores"]:
        print(f"\nK = {report['clusters']}, coverage {report['coverage']:.1f} %")
        print(_scores(report["scores"]))
    for label, path in result.links.items():
        print(f"{label}: {path}")


def _dry_run(config: Config, until: str, only: bool) -> None:
    """Print what a run would do; WorkError if it could not succeed."""
    from datus.preflight import look
    from datus.store import Store

    found = look(config, Store(config.run_path), _Bars(), until, only)
    rows: list[Row] = [("stage", "images to do", "seconds", "bytes")]
    for one in found.rows:
        seconds = "?" if one.seconds is None else f"{one.seconds:.1f}"
        rows.append((one.name, str(one.images), seconds, size_text(one.n_bytes or 0)))
    n_images = str(found.rows[0].images)
    rows.append(("total", n_images, f"{found.seconds:.1f}", size_text(found.n_bytes)))
    print(_table(rows))
    for text in found.facts:
        print(text)
    for text in found.warnings:
        print(f"warning: {text}")
    if found.problems:
        raise WorkError("\n".join(found.problems))


def _write(path: Path, text: str) -> None:
    """The whole file or, on a full disk, what was there before."""
    fresh = path.with_name(f".tmp-{path.name}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise WorkError(f"cannot write {path}: {error.strerror}; choose another --json") from None


def _scores(scores: dict[str, dict[str, Any]]) -> str:
    rows: list[Row] = [("rule", "mIoU", "accuracy", "F1", "coverage")]
    for rule, row in scores.items():
        figures = (row[name] for name in ("miou", "accuracy", "f1", "coverage"))
        rows.append((rule, *(f"{figure:.2f}" for figure in figures)))
    return _table(rows)


def _table(rows: list[Row]) -> str:
    """Aligned columns; the first to the left, figures to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 or not rows[-1][i][:1].isdigit() else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


@contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Errors are one or two lines with the cure; --debug shows the traceback."""
    try:
        yield
    except DatusError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None

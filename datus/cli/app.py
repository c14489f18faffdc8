"""The command line. Thin: a command reads its settings, calls one function, prints what it did.

    datus run --images photos/ --clusters 12          a folder of images, no config at all
    datus run pipelines/suim.toml                     everything in a file
    datus run pipelines/suim.toml --dry-run           what it would do and take; writes nothing
    datus run pipelines/suim.toml --shards 3/64       a share of it, beside others (array jobs)
    datus run-stage segments pipelines/suim.toml      one stage, or --with-needs
    datus status pipelines/suim.toml --why            what is done, what is not, why
    datus evaluate masks/ truth/ --classes C.toml     any masks, ours or not
    datus compare pipelines/paper/table1_suim.toml    schemes side by side, the paper's tables
    datus backbones                                   every model: terms, and whether it is here
    datus fit --images I --labels L --classes C.toml --out MODEL      a model from imperfect masks
    datus predict MODEL photos/ --out masks/          a trained model on new images
    datus run --images photos/ --frozen-clusters runs/photos          more images, the same clusters
    datus freeze runs/photos --out words.safetensors  its clusters in one file, for other machines
    datus export RUN --to coco --out DIR              the masks for another tool
    datus suggest-k RUN                               how many clusters, and whether to believe them
    datus suggest-names RUN --words words.txt         a model's guesses at what clusters are
    datus prune pipelines/suim.toml                   what no current setting needs
    datus verify pipelines/suim.toml --mend           every stored byte against its checksum

Exit codes: 0 done, 1 the work failed, 2 wrong usage or config, 130 interrupted (and resumable).
"""

import json
from typing import Annotated, Any

import typer

from datus import __version__
from datus.cli import commands
from datus.cli import export as commands_export
from datus.cli import fit as commands_fit
from datus.cli import predict as commands_predict
from datus.cli import suggest_k as commands_k
from datus.cli import suggest_names as commands_names
from datus.cli.options import (
    Backbone,
    Classes,
    Clusters,
    ConfigFile,
    Corrections,
    Debug,
    Device,
    DryRun,
    EditsFile,
    Executor,
    FrozenClusters,
    Images,
    MaxFailed,
    NoBaselines,
    Offline,
    Preset,
    RunDir,
    Seed,
    Set,
    Shards,
    Truth,
    Weights,
    Workers,
    load_config,
    run_command,
)
from datus.cli.terminal import Bars, Row, errors, scores_table, shown, table
from datus.config import Config
from datus.errors import UsageError, WorkError, size_text
from datus.models.registry import RECOMMENDED
from datus.models.weights import better_backbone

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Semantic masks from unlabelled images.",
)


@app.command()
def run(
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    frozen_clusters: FrozenClusters = "",
    edits: EditsFile = "",
    corrections: Corrections = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    executor: Executor = "",
    workers: Workers = None,
    shards: Shards = "",
    device: Device = "",
    max_failed: MaxFailed = None,
    seed: Seed = None,
    offline: Offline = False,
    no_baselines: NoBaselines = False,
    settings: Set = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """All stages, with progress, and where the report is."""
    with errors(debug):
        loaded = load_config(locals())
        if dry_run:
            _dry_run(loaded, until="report", only=False)
        elif _run(loaded, until="report", only=False):
            command = run_command(loaded, config, RECOMMENDED)
            if better := better_backbone(loaded, command):
                print(shown(better))


@app.command("run-stage")
def run_stage(
    stage: Annotated[str, typer.Argument(help="its name, for example segments")],
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    frozen_clusters: FrozenClusters = "",
    edits: EditsFile = "",
    corrections: Corrections = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    executor: Executor = "",
    workers: Workers = None,
    shards: Shards = "",
    device: Device = "",
    max_failed: MaxFailed = None,
    seed: Seed = None,
    offline: Offline = False,
    no_baselines: NoBaselines = False,
    settings: Set = None,
    with_needs: Annotated[bool, typer.Option("--with-needs", help="run upstream first")] = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """One stage; what it needs must exist, or --with-needs."""
    with errors(debug):
        loaded = load_config(locals())
        from datus.pipeline import active_stages

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
    frozen_clusters: FrozenClusters = "",
    edits: EditsFile = "",
    corrections: Corrections = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    seed: Seed = None,
    settings: Set = None,
    explain: Annotated[bool, typer.Option("--why", help="why a stage is not done")] = False,
    debug: Debug = False,
) -> None:
    """What is done and what is not. Reads only."""
    with errors(debug):
        from datus.status import failure_lines, graph_lines, status_rows

        loaded = load_config(locals())
        print(table(status_rows(loaded, explain)))
        for line in (*graph_lines(loaded), *failure_lines(loaded)):
            print(shown(line))


@app.command()
def prune(
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    frozen_clusters: FrozenClusters = "",
    edits: EditsFile = "",
    corrections: Corrections = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    seed: Seed = None,
    settings: Set = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it only list")] = False,
    debug: Debug = False,
) -> None:
    """Remove what the current settings do not need. Lists first; --yes removes."""
    with errors(debug):
        from datus.status import prune_rows

        rows, total = prune_rows(load_config(locals()), remove=yes)
        print(table([("stage", "folder", "size"), *rows]) if rows else "nothing to remove")
        if rows:
            print(f"{size_text(total)} {'removed' if yes else 'to remove: add --yes'}")


@app.command()
def verify(
    config: ConfigFile = None,
    images: Images = "",
    truth: Truth = "",
    classes: Classes = "",
    clusters: Clusters = "",
    frozen_clusters: FrozenClusters = "",
    edits: EditsFile = "",
    corrections: Corrections = "",
    run_dir: RunDir = "",
    preset: Preset = "",
    backbone: Backbone = "",
    weights: Weights = "",
    seed: Seed = None,
    settings: Set = None,
    mend: Annotated[
        bool, typer.Option("--mend", help="remove damage: datus run remakes it")
    ] = False,
    debug: Debug = False,
) -> None:
    """Read all that is stored and compare it with its checksums. Exit code 1 if it differs."""
    with errors(debug):
        from datus.verify import verify

        found = verify(load_config(locals()), mend, Bars().bar)
        for name in found.damaged:
            print(shown(f"damaged: {name}"))
        missing = f", {found.n_missing} shards are not finished" if found.n_missing else ""
        print(f"{found.n_files} files read, {len(found.damaged)} damaged{missing}")
        if found.damaged and not mend:
            raise WorkError("damaged files: add --mend, then datus run makes them again")


for command in (
    *(commands.evaluate, commands.compare, commands.backbones, commands.freeze),
    *(commands_fit.fit, commands_predict.predict, commands_predict.export_onnx),
    commands_export.export,
    commands_k.suggest_k,
    commands_names.suggest_names,
):
    app.command(command.__name__.replace("_", "-"))(command)


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


# --- running ------------------------------------------------------------------------------------


def _run(config: Config, until: str, only: bool) -> bool:
    """Run, and print what was made. Whether the run is complete, with its report."""
    from datus.models.weights import notice
    from datus.pipeline import run as run_stages
    from datus.store.store import Store

    store, console = Store(config.run_path), Bars()
    for section in (config.features, config.embeddings):
        if note := notice(section.backbone, section.weights):
            console.say(note)
    result = run_stages(config, store, console, until=until, only=only)
    rows: list[Row] = [("stage", "shards made", "of", "images", "failed", "seconds")]
    for one in result.stages:
        numbers = (one.made, one.shards, one.images, one.failed)
        rows.append((one.name, *map(str, numbers), f"{one.seconds:.1f}"))
    print(table(rows))
    if result.next_step:
        print(result.next_step)
    if until != "report" or result.next_step:
        return False
    node = result.plan.nodes[-1]
    report = json.loads(store.read("report", node.fingerprint, "files", "report.json"))
    if report["scores"]:
        print(f"\nK = {report['clusters']}, coverage {report['coverage']:.1f} %")
        print(scores_table(report["scores"]))
    for line in (*_baseline_lines(report), *_verdict_lines(report)):
        print(shown(line))
    for label, path in result.links.items():
        print(f"{label}: {path}")
    return True


def _baseline_lines(report: dict[str, Any]) -> list[str]:
    """Scores of the run and of k-means on colour, where there is truth."""
    found = report["baselines"]
    if not found or found["rows"][0]["miou"] is None:
        return []
    parts = ", ".join(f"{row['name']} {row['miou']:.1f}" for row in found["rows"])
    what = "mIoU (hungarian_strict)"
    return ["", f"{what} on small pictures of {found['n_images']} images: {parts}"]


def _verdict_lines(report: dict[str, Any]) -> list[str]:
    """That of the main K; where there are several, the words of the others follow."""
    verdict, rows, main = report["verdict"], report["sweep"], report["clusters"]
    if not verdict:
        return []
    which, others = "", []
    if len(rows) > 1:  # of an edited run there is one row, whose K counts what is gone, too
        which = f" of K = {main}"
        rest = [f"K = {one['k']}: {one['verdict']['word']}" for one in rows if one["k"] != main]
        others = [f"verdicts of the others: {', '.join(rest)}"]
    return ["", f"verdict{which}: {verdict['word']}: {'; '.join(verdict['reasons'])}", *others]


def _dry_run(config: Config, until: str, only: bool) -> None:
    """Print what a run would do; WorkError if it could not succeed."""
    if config.speed.shards:
        raise UsageError("--dry-run looks at the whole run: leave --shards out")
    from datus.dry_run import dry_run
    from datus.store.store import Store

    found = dry_run(config, Store(config.run_path), Bars(), until, only)
    rows: list[Row] = [("stage", "images to do", "seconds", "bytes")]
    for one in found.rows:
        seconds = "?" if one.seconds is None else f"{one.seconds:.1f}"
        rows.append((one.name, str(one.images), seconds, size_text(one.n_bytes or 0)))
    n_images = str(found.rows[0].images)
    rows.append(("total", n_images, f"{found.seconds:.1f}", size_text(found.n_bytes)))
    print(table(rows))
    for text in found.facts:
        print(text)
    for text in found.warnings:
        print(f"warning: {text}")
    if found.problems:
        raise WorkError("\n".join(found.problems))

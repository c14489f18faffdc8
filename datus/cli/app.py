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

from datus.api.tables import Row, scores_table, text_table
from datus.cli import commands, export, fit, predict, suggest_k, suggest_names
from datus.cli.options import RunOptions, WorkOptions, load_config, run_command
from datus.cli.terminal import command
from datus.config import Config
from datus.engine.progress import ProgressBars, printable
from datus.errors import UsageError, WorkError, size_text
from datus.models.registry import RECOMMENDED
from datus.models.weights import better_backbone
from datus.version import __version__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Semantic masks from unlabelled images.",
)


def run(options: WorkOptions) -> None:
    """All stages, with progress, and where the report is."""
    config = load_config(options)
    if options.dry_run:
        _dry_run(config, until="report", only=False)
    elif _run(config, until="report", only=False):
        again = run_command(options, RECOMMENDED)
        if better := better_backbone(config, again):
            print(printable(better))


def run_stage(
    stage: Annotated[str, typer.Argument(help="its name, for example segments")],
    options: WorkOptions,
    with_needs: Annotated[bool, typer.Option("--with-needs", help="run upstream first")] = False,
) -> None:
    """One stage; what it needs must exist, or --with-needs."""
    from datus.pipeline import active_stages

    config = load_config(options)
    names = [active.name for active in active_stages(config)]
    if stage not in names:
        raise UsageError(f"stage {stage}: expected one of {', '.join(names)}")
    begin = _dry_run if options.dry_run else _run
    begin(config, until=stage, only=not with_needs)


def status(
    options: RunOptions,
    explain: Annotated[bool, typer.Option("--why", help="why a stage is not done")] = False,
) -> None:
    """What is done and what is not. Reads only."""
    from datus.status import failure_lines, graph_lines, status_rows

    config = load_config(options)
    print(text_table(status_rows(config, explain)))
    for line in (*graph_lines(config), *failure_lines(config)):
        print(printable(line))


def prune(
    options: RunOptions,
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it only list")] = False,
) -> None:
    """Remove what the current settings do not need. Lists first; --yes removes."""
    from datus.status import prune_rows

    rows, n_bytes = prune_rows(load_config(options), remove=yes)
    if not rows:
        print("nothing to remove")
        return
    print(text_table([("stage", "folder", "size"), *rows]))
    print(f"{size_text(n_bytes)} {'removed' if yes else 'to remove: add --yes'}")


def verify(
    options: RunOptions,
    mend: Annotated[
        bool, typer.Option("--mend", help="remove damage: datus run remakes it")
    ] = False,
) -> None:
    """Read all that is stored and compare it with its checksums. Exit code 1 if it differs."""
    from datus.verify import verify

    result = verify(load_config(options), mend, ProgressBars().bar)
    for name in result.damaged:
        print(printable(f"damaged: {name}"))
    missing = f", {result.n_missing} shards are not finished" if result.n_missing else ""
    print(f"{result.n_files} files read, {len(result.damaged)} damaged{missing}")
    if result.damaged and not mend:
        raise WorkError("damaged files: add --mend, then datus run makes them again")


for function in (
    *(run, run_stage, status, prune, verify),
    *(commands.evaluate, commands.compare, commands.backbones, commands.freeze),
    *(fit.fit, predict.predict, predict.export_onnx),
    *(export.export, suggest_k.suggest_k, suggest_names.suggest_names),
):
    app.command(function.__name__.replace("_", "-"))(command(function))


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

    store, console = Store(config.run_path), ProgressBars()
    for section in (config.features, config.embeddings):
        if note := notice(section.backbone, section.weights):
            console.say(note)
    result = run_stages(config, store, console, until=until, only=only)
    rows: list[Row] = [("stage", "shards made", "of", "images", "failed", "seconds")]
    for stage in result.stages:
        counts = map(str, (stage.made, stage.shards, stage.images, stage.failed))
        rows.append((stage.name, *counts, f"{stage.seconds:.1f}"))
    print(text_table(rows))
    if result.next_step:
        print(result.next_step)
    if until != "report" or result.next_step:
        return False
    report = json.loads(store.read_file(result.plan.nodes[-1].place(), "report.json"))
    if report["scores"]:
        print(f"\nK = {report['clusters']}, coverage {report['coverage']:.1f} %")
        print(scores_table(report["scores"]))
    for line in (*_baseline_lines(report), *_verdict_lines(report)):
        print(printable(line))
    for label, path in result.links.items():
        print(f"{label}: {path}")
    return True


def _baseline_lines(report: dict[str, Any]) -> list[str]:
    """Scores of the run and of k-means on colour, where there is truth."""
    baselines = report["baselines"]
    if not baselines or baselines["rows"][0]["miou"] is None:
        return []
    scores = ", ".join(f"{row['name']} {row['miou']:.1f}" for row in baselines["rows"])
    where = f"small pictures of {baselines['n_images']} images"
    return ["", f"mIoU (hungarian_strict) on {where}: {scores}"]


def _verdict_lines(report: dict[str, Any]) -> list[str]:
    """That of the main K; where there are several, the words of the others follow."""
    verdict, rows, main = report["verdict"], report["sweep"], report["clusters"]
    if not verdict:
        return []
    which, others = "", []
    if len(rows) > 1:  # of an edited run there is one row, whose K counts what is gone, too
        which = f" of K = {main}"
        words = [f"K = {row['k']}: {row['verdict']['word']}" for row in rows if row["k"] != main]
        others = [f"verdicts of the others: {', '.join(words)}"]
    return ["", f"verdict{which}: {verdict['word']}: {'; '.join(verdict['reasons'])}", *others]


def _dry_run(config: Config, until: str, only: bool) -> None:
    """Print what a run would do; WorkError if it could not succeed."""
    if config.speed.shards:
        raise UsageError("--dry-run looks at the whole run: leave --shards out")
    from datus.dry_run import dry_run
    from datus.store.store import Store

    forecast = dry_run(config, Store(config.run_path), ProgressBars(), until, only)
    rows: list[Row] = [("stage", "images to do", "seconds", "bytes")]
    for row in forecast.rows:
        seconds = "?" if row.seconds is None else f"{row.seconds:.1f}"
        rows.append((row.name, str(row.images), seconds, size_text(row.n_bytes or 0)))
    n_images = str(forecast.rows[0].images)
    rows.append(("total", n_images, f"{forecast.seconds:.1f}", size_text(forecast.n_bytes)))
    print(text_table(rows))
    for text in forecast.facts:
        print(text)
    for text in forecast.warnings:
        print(f"warning: {text}")
    if forecast.problems:
        raise WorkError("\n".join(forecast.problems))

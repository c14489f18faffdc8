"""DatUS in Python: the command line's work as functions (docs/api.md).

    import datus
    result = datus.mine("photos", clusters=12)        run what is missing
    result[0].mask, result.plot(), result.scores      look
    result.export("coco", "out")                      use
    datus.load("runs/photos")                         a run that is done
    datus.evaluate("masks", "truth", "classes.toml")  any masks, ours or not
    datus.compare_runs("grid.toml")                   schemes side by side

The functions make the same bytes as the command line. They raise the errors of `datus.errors`,
whose messages name options of the command line, never end the process, and print nothing with
progress = False.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from datus.api.result import Result, run_result
from datus.compare.cells import Comparison
from datus.compare.compare import compare_files
from datus.compare.documents import write
from datus.compare.folders import count_folders, fitted
from datus.config import Config
from datus.engine.progress import ProgressBars
from datus.engine.run import QUIET
from datus.errors import ImageError, UsageError
from datus.finished_run import open_run, settings_of_run
from datus.formats.export import Exported
from datus.inputs.arrays import (
    Classes,
    Images,
    Truth,
    cache_folder,
    label_array,
    lay_out,
    listed,
    local_folder,
)
from datus.inputs.labels import load_classes, truth_classes
from datus.method.metrics import Scores, count_pixels, score_all
from datus.models.weights import notice
from datus.store.store import Store
from datus.types import MAX_CLUSTERS, Array, ClassTable


def mine(
    images: Images,
    clusters: int | Sequence[int] = 12,
    *,
    truth: Truth | None = None,
    classes: Classes | None = None,
    out: str | Path | None = None,
    preset: Literal["best", "paper"] = "best",
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Result:
    """Masks for unlabelled images: `datus run`. The same call again resumes where it stopped.

    images: a folder, a list of files, or a list of arrays (uint8 (H, W, 3), (H, W, 4), (H, W) or
        uint16 (H, W)) or PIL images, of any sizes. A mask has the size of its image.
    clusters: how many, or several numbers, for which nothing before the clustering runs twice.
    truth, classes: true masks and what their numbers mean, to score against: folder and TOML file,
        or a list of arrays and a list of names.
    out: the run folder. Without it one in the user's cache (or in the folder DATUS_CACHE), the
        same for the same images: `result.folder` says where, `result.remove()` removes it.
    settings: anything of docs/settings.md, {"graphs.threshold": 0.6}.
    progress: bars and warnings on stderr.

    Raises UsageError (wrong arguments), WorkError (the work failed); what is finished is kept.
    """
    for name in settings or {}:
        if name in _ARGUMENTS:
            argument = _ARGUMENTS[name]
            raise UsageError(f"settings: {name} has an argument of its own: use {argument}=")
    images = listed(images)
    folder = local_folder(out) if out else cache_folder(images)
    paths = lay_out(folder, images, truth, classes)
    named = {"clusters.k": _k_setting(clusters), "run_dir": str(folder), "preset": preset}
    config = Config.load(None, {**(settings or {}), **paths, **named})
    for section in (config.features, config.embeddings):
        if progress and (note := notice(section.backbone, section.weights)):
            ProgressBars().say(note)
    return run_result(config, progress)


_ARGUMENTS = {
    "data.images": "images",
    "data.truth": "truth",
    "data.classes": "classes",
    "clusters.k": "clusters",
    "run_dir": "out",
    "preset": "preset",
}
"""Setting -> the argument of `mine` that says it."""


def _k_setting(clusters: Any) -> list[Any]:
    """A list of numbers of Python, where they may be numpy's. Config checks their range."""
    if isinstance(clusters, int | str | Integral):
        clusters = [clusters]
    try:
        return [int(k) if isinstance(k, Integral) else k for k in clusters]
    except TypeError:
        raise UsageError(f"clusters: expected a number or several, got {clusters!r}") from None


def load(run: str | Path, *, images: str | Path | None = None) -> Result:
    """The last finished run of a folder, of `mine` or of `datus run`. Runs nothing.

    run: also an address, s3://bucket/run.
    images: its image folder, where the run does not know it (`datus run`) or it was moved.
    Raises UsageError (no run there) and WorkError (not finished).
    """
    address = str(run) if "://" in str(run) else str(Path(run).expanduser())
    finished = open_run(Store(address))
    settings = settings_of_run(finished)
    if images is not None:
        settings["data.images"] = str(Path(images).expanduser())
    return Result(finished, Config.load(None, {**settings, "run_dir": address}))


def evaluate(
    masks: str | Path | Iterable[Array],
    truth: str | Path | Iterable[Array],
    classes: str | Path | Sequence[str],
    *,
    clusters: int = 0,
    max_failed: int = 0,
) -> dict[str, Scores]:
    """Rule -> scores in percent, of any masks: `datus evaluate`.

    masks, truth: two folders of label files with the same names, or arrays (H, W) in the same
        order, 255 = no label.
    classes: a class table; with arrays also names, which count the classes of the truth from 0.
    clusters: how many there are; 0 = the highest label + 1.
    Raises UsageError, TooManyFailures; ImageError if two arrays do not fit.
    """
    if isinstance(masks, str | Path) and isinstance(truth, str | Path):
        if not isinstance(classes, str | Path):
            raise UsageError("classes: folders of truth need a class table, a TOML file")
        folders = Path(masks).expanduser(), Path(truth).expanduser()
        table = Path(classes).expanduser()
        return score_all(count_folders(*folders, table, clusters, max_failed).confusion)
    if isinstance(masks, str | Path) or isinstance(truth, str | Path):
        raise UsageError("masks, truth: expected two folders or two lists of arrays, got one each")
    counts = list(_counts(list(masks), list(truth), classes))
    return score_all(fitted(counts, clusters))


def export(
    run: str | Path, to: str, out: str | Path, *, images: str | Path | None = None, **more: Any
) -> Exported:
    """`load(run).export(to, out)`: a run's masks for another tool (docs/export.md).

    images: the run's image folder, to export them too; more: as of `Result.export`.
    """
    result = load(run, images=images)
    return result.export(to, out, images=bool(result.config.data.images), **more)


def compare_runs(
    *files: str | Path,
    lists: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path = "",
    progress: bool = True,
) -> Comparison:
    """Schemes side by side, as tables and figures: `datus compare` (docs/compare.md).

    files: one grid, or the configs of finished runs; lists: keys of a grid as the command line
        spells them, {"backbones": "datus_t8", "k": "6,8,12"}; out: folder of the documents,
        else RUN/compare/NAME.
    """
    console = ProgressBars() if progress else QUIET
    paths = [Path(file).expanduser() for file in files]
    comparison = compare_files(paths, settings or {}, lists or {}, console)
    write(comparison, str(out))
    return comparison


def _counts(
    masks: list[Array], truth: list[Array], classes: str | Path | Sequence[str]
) -> Iterable[Array]:
    """int64 (256, C) of each image: pixels by (label, class)."""
    table: ClassTable | None
    if len(masks) != len(truth) or not masks:
        raise UsageError(f"expected as many masks as true masks, got {len(masks)}, {len(truth)}")
    if isinstance(classes, str | Path):
        table = load_classes(Path(classes).expanduser())
        n_classes = table.n_classes
    else:
        table, n_classes = None, len(classes)
    for number, (mask, true_mask) in enumerate(zip(masks, truth, strict=True)):
        labels = label_array(mask, f"mask {number}")
        true_classes = label_array(true_mask, f"true mask {number}")
        try:
            if table:
                true_classes = truth_classes(true_classes, table, labels.shape)
            yield count_pixels(labels, true_classes, MAX_CLUSTERS, n_classes).counts
        except ImageError as error:
            raise ImageError(f"mask {number}: {error}") from None

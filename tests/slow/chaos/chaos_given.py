"""For chaos.py: what people give to a run beside images, damaged: edits, corrections, frozen runs.

Each is damaged before the run and in the middle of it, then put back: one clear error or none, and
then the same bytes. Runs with corrections and with frozen clusters are killed and starved, too.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from chaos_bench import MORE, Bench, settings, tree_of
from chaos_faults import at_write, at_write_do, full_disk
from chaos_files import KINDS, WAYS, damage

Change = Callable[[], None]
MOMENTS = ("before", "after", "torn")


def edits(bench: Bench) -> None:
    """edits.json and the class table of the main run."""
    file = bench.folder / "edits.json"
    table = json.loads(file.read_bytes())
    other = json.dumps({**table, "edits": [{"op": "drop", "cluster": 0}]}).encode()
    renamed = json.dumps({**table, "edits": [*table["edits"][:2]]}).encode()
    for way, content in {"torn": file.read_bytes()[:99], "changes": other}.items():
        given(bench, f"edits.json {way}", file, partial(file.write_bytes, content))
    given(bench, "edits.json: only names change", file, partial(file.write_bytes, renamed))
    given(bench, "edits.json vanishes", file, file.unlink)
    classes = bench.dataset.classes
    text = classes.read_text().replace("c1", "other").replace("ids = [2]", "ids = [2, 7]")
    given(bench, "class table changes", classes, partial(classes.write_text, text))


def corrections(bench: Bench) -> None:
    here = bench.beside("corrected", ())
    folder = write_corrections(here)
    here.options = (*settings("clusters.k=[4]"), "--corrections", str(folder))
    here.go()
    disturbed(here, "with corrections", ("clusters", "masks", "report"))
    one, classes = folder / "a1.png", folder / "classes.json"
    torn, other = one.read_bytes()[:60], (here.folder / "o.png").read_bytes()
    row = "corrections: {}"
    given(here, row.format("a mask torn"), folder, partial(one.write_bytes, torn))
    given(here, row.format("a mask changes"), folder, partial(one.write_bytes, other))
    given(here, row.format("a mask vanishes"), folder, one.unlink)
    given(here, row.format("class names torn"), folder, partial(classes.write_bytes, b'{"cla'))
    given(here, row.format("all of it vanishes"), folder, partial(shutil.rmtree, folder))


def frozen(bench: Bench) -> None:
    """The clusters of another run, for more images than that one had."""
    ids = ("a0", "a1", "b/c0", "d0", "d1", "e0", "e1", "f0")
    earlier = bench.beside("earlier", settings(*MORE[:1])).go()
    here = bench.beside("taken", (), ids)
    here.options = (*settings(*MORE[:1]), "--frozen-clusters", str(earlier.base))
    here.go()
    disturbed(here, "with frozen clusters", ("center", "clusters", "masks", "report"))
    for kind, stage in (("arrays", "clusters"), ("report", "clusters"), ("recipe", "features")):
        for way in WAYS:
            change = partial(damage, here, earlier.base / stage, KINDS[kind], way)
            given(here, f"frozen run: {stage}, {kind} {way}", earlier.base, change)
    given(here, "frozen run deleted", earlier.base, partial(shutil.rmtree, earlier.base))
    _frozen_file(here, earlier.base)


def _frozen_file(bench: Bench, earlier: Path) -> None:
    """The same from a file of `datus freeze`."""
    file = bench.folder / "words.safetensors"
    made = bench.wait(
        bench.start(["freeze", str(earlier), "--out", str(file)], bench.folder / "log"),
        bench.folder / "log",
    )
    assert made.code == 0, made.stderr
    bench.options = (*settings(*MORE[:1]), "--frozen-clusters", str(file))
    for way in WAYS:
        change = partial(damage, bench, bench.folder, "words.safetensors", way)
        given(bench, f"frozen clusters in a file: {way}", file, change)


def growing(bench: Bench) -> None:
    """A run goes on with more images and its own clusters, in its own folder."""
    from tiny_runs import make_dataset

    here = bench.beside("growing", settings(*MORE[:1])).go()
    before = here.base.rename(here.folder / "before")
    make_dataset(here.folder / "data", ("a0", "e0", "e1"))
    shutil.copytree(before, here.base, symlinks=True)
    here.options += ("--frozen-clusters", str(here.base))
    done = here.run(here.base)
    assert done.code == 0, done.stderr
    here.expected = tree_of(here.base)
    run_dir = here.folder / "run"
    here.options = (*here.options[:-1], str(run_dir))
    for stage in ("index", "features", "masks", "report"):
        for number, moment in enumerate(MOMENTS, 1):
            shutil.rmtree(run_dir, ignore_errors=True)
            shutil.copytree(before, run_dir, symlinks=True)
            killed = here.run(run_dir, fault=at_write(stage, number, moment))
            here.counts["kills"] += killed.code == -9
            here.note("growing in its own folder: kill -9", stage, here.heals(run_dir))


# --- a run that has more to read ----------------------------------------------------------------


def disturbed(bench: Bench, words: str, stages: tuple[str, ...]) -> None:
    """Kills, full disks and torn arrays in some stages of a run."""
    for stage in stages:
        run_dir = bench.fresh(without=stage)
        for number, moment in enumerate(MOMENTS, 1):
            killed = bench.run(run_dir, fault=at_write(stage, min(number, 2), moment))
            bench.counts["kills"] += killed.code == -9
        bench.note(f"{words}: kill -9 at a write", stage, bench.heals(run_dir))
        run_dir = bench.fresh(without=stage)
        stopped = bench.run(run_dir, fault=full_disk(stage, 0))
        outcome = bench.after_error(stopped, partial(bench.heals, run_dir))
        bench.note(f"{words}: disk full", stage, outcome)
        for way in WAYS:
            run_dir = bench.fresh()
            damage(bench, run_dir / stage, KINDS["arrays"], way)
            bench.note(f"{words}: arrays {way}", stage, bench.heals(run_dir))


def given(bench: Bench, row: str, path: Path, change: Change) -> None:
    """`path` is changed before a run, and in the middle: where the index, the embeddings, the
    clusters, the masks and the counts are written for the first time. Then it is put back."""
    kept = bench.folder / "kept"
    copy(path, kept)
    for moment in ("any", *(one for one in MIDDLE if one in (*bench.stages, "index"))):
        run_dir = bench.fresh(without="index")
        fault = at_write_do(moment, change)
        if moment == "any":
            change()
        ended = bench.run(run_dir, fault=None if moment == "any" else fault)
        copy(kept, path)
        # what a run made of other content may lie beside
        check = partial(bench.heals, run_dir, expected=bench.expected)
        bench.note(row, moment, bench.after_end(ended, check))


MIDDLE = ("index", "embeddings", "clusters", "masks", "evaluate")


def copy(source: Path, target: Path) -> None:
    """A file or a folder, in place of what is there."""
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def write_corrections(bench: Bench) -> Path:
    """The true masks of three images, as a folder of label PNGs with names; and another mask."""
    import numpy as np
    from PIL import Image

    folder = bench.folder / "corrections"
    folder.mkdir(parents=True)
    for image_id in ("a1", "d0", "d2"):
        shutil.copy(bench.dataset.truth / f"{image_id}.png", folder)
    labels = np.array(Image.open(folder / "a1.png"))
    Image.fromarray(np.where(labels == 2, 1, labels).astype(np.uint8)).save(bench.folder / "o.png")
    names = {"classes": ["ground", "sky", "thing"], "ignore_index": 255}
    (folder / "classes.json").write_text(json.dumps(names))
    return folder

"""For chaos.py: damaged files of a run folder, folders that cannot be written, inputs that change.

Inputs change in the middle: an action is done at a chosen write of a stage, from inside the run.
"""

import io
import os
import shutil
import sys
from functools import partial
from pathlib import Path

from chaos_bench import ANY, SEEN, STAGES, Bench, settings, tree_of
from chaos_faults import at_write_do, without_rights

WAYS = ("torn", "flipped", "deleted")
KINDS = {"arrays": "shard-*.safetensors", "report": "shard-*.json", "recipe": "stage.json"}
PAGE = {"browse.html": "browse.html", "a file of browse/": "browse/*.js"}


def damages(bench: Bench) -> None:
    """Torn, flipped and deleted files of a stage; where all is done, and where it will be read."""
    for stage in bench.stages:
        kinds = dict(KINDS) if stage != "index" else {"index": "*.json*"}
        if any(name.startswith(f"{stage}/") and "/files/" in name for name in bench.expected):
            kinds["output"] = "files/**/*"
        later = STAGES[STAGES.index(stage) + 1 :]
        for kind, pattern in kinds.items():
            read = kind in ("arrays", "output") and bool(later)
            for way in WAYS:
                for without in ("", later[0]) if read else ("",):
                    run_dir = bench.fresh(without)
                    damage(bench, run_dir / stage, pattern, way)
                    row = f"{kind} {way}" + (", later stages to do" if without else "")
                    bench.note(row, stage, bench.heals(run_dir))


def pages(bench: Bench) -> None:
    """The browser page and its data, which nothing but a browser reads."""
    for what, pattern in PAGE.items():
        for way in WAYS:
            run_dir = bench.fresh()
            damage(bench, run_dir / "report", pattern, way)
            bench.note(f"{what} {way}", "report", bench.heals(run_dir))


def damage(bench: Bench, folder: Path, pattern: str, way: str) -> None:
    """To one file of those that fit, drawn by lot."""
    paths = sorted(p for p in folder.rglob(pattern) if p.is_file() and p.stat().st_size)
    path = bench.rng.choice(paths or sorted(p for p in folder.rglob(pattern) if p.is_file()))
    data = bytearray(path.read_bytes())
    if way == "deleted" or not data:
        path.unlink()
    elif way == "torn":
        path.write_bytes(data[: bench.rng.randrange(len(data))])
    else:
        place = bench.rng.randrange(len(data))
        while path.suffix == ".json" and b'"seconds"' in data[max(0, place - 20) : place]:
            place = bench.rng.randrange(len(data))  # seconds are not under the seal
        data[place] ^= 1 << bench.rng.randrange(8)
        path.write_bytes(data)


# --- folders that cannot be written -------------------------------------------------------------


def read_only(bench: Bench) -> None:
    """By rights, which root lays down first, and by the disk; half done, and all done."""
    for stage in (ANY, *(name for name in ("masks", "report") if name in bench.stages)):
        run_dir = bench.fresh(without="" if stage == ANY else stage)
        modes = [(p, p.stat().st_mode) for p in (run_dir, *run_dir.rglob("*")) if p.is_dir()]
        for path, mode in modes:
            path.chmod(mode & ~0o222)
        stopped = bench.run(run_dir, fault=without_rights)
        for path, mode in modes:
            path.chmod(mode)
        check = partial(bench.heals, run_dir)
        bench.note("run folder read-only: rights", stage, bench.after_error(stopped, check))
    _read_only_disk(bench)


def _read_only_disk(bench: Bench) -> None:
    from bad_files import mount, remount, unmount

    disk = bench.folder / "read-only"
    reason = mount(disk, "64m")
    if reason:
        print(f"no disk can be mounted here: {reason}", file=sys.stderr)
        disk.rmdir()
        return
    try:
        shutil.copytree(bench.fresh(without="masks"), disk / "run", symlinks=True)
        remount(disk, "ro")
        stopped = bench.run(disk / "run")
        remount(disk, "rw")
        outcome = bench.after_error(stopped, partial(bench.heals, disk / "run"))
        bench.note("run folder read-only: disk", ANY, outcome)
    finally:
        unmount(disk)
        disk.rmdir()


# --- images and true masks that change ----------------------------------------------------------

MOMENTS = ("index", "features", "masks", "evaluate", "report")
"""The action is done at the first write of this stage: what it read was read before."""


def images(bench: Bench) -> None:
    """An image goes, changes or comes while the run is under way; then back, or for good."""
    folder = bench.folder / "images"
    here = bench.beside("images", settings("graphs.center=position")).go()
    picture = here.dataset.images / "b" / "c1.png"
    truth = here.dataset.truth / "b" / "c1.png"
    others = {
        "an image vanishes": (picture, None),
        "an image changes": (picture, mirrored(picture)),
        "a true mask vanishes": (truth, None),
        "a true mask changes": (truth, mirrored(truth)),
        "an image is added": (here.dataset.images / "e0.png", mirrored(picture)),
    }
    for row, (path, content) in others.items():
        changed = _undisturbed(here, path, content, folder / row.replace(" ", "-"))
        for stage in (name for name in MOMENTS if name in bench.stages):
            for back in (True, False):
                said = f"{row}, and is as before" if back else row
                outcome = _changing(here, (path, content), stage, None if back else changed)
                bench.note(said, stage, outcome)


def mirrored(path: Path) -> bytes:
    """The picture from left to right, as PNG."""
    from PIL import Image, ImageOps

    buffer = io.BytesIO()
    with Image.open(path) as picture:
        ImageOps.mirror(picture).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, content: bytes | None) -> None:
    """Over a new file, as tools do; None removes it."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def _undisturbed(bench: Bench, path: Path, content: bytes | None, run_dir: Path) -> dict[str, str]:
    """What a run ends with that meets the change before it starts."""
    before = path.read_bytes() if path.exists() else None
    put(path, content)
    done = bench.run(run_dir)
    put(path, before)
    assert done.code == 0, done.stderr[-2000:]
    return {name: digest for name, digest in tree_of(run_dir).items() if name != SEEN}


def _changing(
    bench: Bench,
    change: tuple[Path, bytes | None],
    stage: str,
    changed: dict[str, str] | None,
) -> str:
    """changed: what a run with the change ends with; None: it is undone, and nothing is left."""
    path, content = change
    before = path.read_bytes() if path.exists() else None
    run_dir = bench.fresh(without="index")
    try:
        ended = bench.run(run_dir, fault=at_write_do(stage, partial(put, path, content)))
        if changed is None:
            put(path, before)
            return bench.after_end(ended, partial(bench.heals, run_dir))
        return bench.after_end(ended, partial(bench.heals, run_dir, expected=changed))
    finally:
        put(path, before)

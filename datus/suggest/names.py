"""A finished run and a list of words -> suggested names in files: `datus suggest-names`.

    request = Request(words=Path("words.txt"), images="photos/", model=DEFAULT)
    done = suggest_names(Store("runs/photos"), request, ProgressBars().bar)
    done.found, done.given, done.files

In:  the most confident segments of each cluster, one from an image, cut from the images.
Out: suggested_names.json, names.toml (as `datus export --names` reads it) and, if asked for, an
     edits.json with renames. Nothing is overwritten unless asked. Images are read one at a time.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datus.engine.finished_run import Finished, crop, open_run, picture, read_places
from datus.engine.plan import DATASET_KEY
from datus.errors import CorruptShard, UsageError, WorkError
from datus.inputs.classes import load_classes
from datus.review.edits import FORMAT, VERSION
from datus.review.review import read_base
from datus.segmenter.files import write_whole
from datus.stages.totals import Candidate
from datus.store.store import Store
from datus.suggest.naming import (
    TEMPLATES,
    Suggested,
    as_dict,
    check_words,
    parse_words,
    prompts,
    renames,
    suggest,
    to_toml,
)
from datus.suggest.text_image import DEFAULT, TextImage, load_text_image
from datus.types import WHOLE, Array

JSON, TOML = "suggested_names.json", "names.toml"

MAX_BYTES = 256_000
"""Of a list of words."""

NOTE = "Suggestions of a model, not checked on these images: a person decides."
SAME = "Clusters of one name become one class in an export."


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    words: Path
    """One a line, or a class table (.toml)."""
    images: str = ""
    """Folder; empty: where the run had them, which runs of the Python interface remember."""
    model: str = DEFAULT
    k: int = 0
    """0: the only K there is."""
    top: int = 3
    crops: int = 16
    """Of each cluster, at most."""
    out: Path | None = None
    """Folder; None: the run's."""
    edits: Path | None = None
    overwrite: bool = False
    device: str = "auto"
    n_threads: int = 1


@dataclass(frozen=True, slots=True)
class Done:
    """The answer, and where it is."""

    k: int
    found: tuple[Suggested, ...]
    given: tuple[str, ...]
    """(L,) what a person called each label before; empty where nobody did."""
    files: tuple[Path, ...]


Bar = Callable[[str, int], AbstractContextManager[Any]]
"""Progress: (what, how many) -> a context that gives a function of how many are done."""


def suggest_names(store: Store, request: Request, bar: Bar) -> Done:
    """Look, ask the model, write.

    Raises UsageError, WorkError, BackboneError or MissingPackage; files come last.
    """
    files = _free_files(store, request)
    words = read_words(request.words)
    run = open_run(store)
    k = _chosen_k(run, request.k)
    base = _base(run, k) if request.edits else {}
    model = load_text_image(request.model, request.device)
    vectors = model.texts([prompts(word) for word in words], request.n_threads)
    crops = _look(run, k, model, request, bar)
    if not any(map(len, crops)):
        raise WorkError(f"{store.url}: no segment has a cluster: nothing to name")
    given = tuple(run.row(k).get("names") or [""] * len(crops))
    found = suggest(crops, vectors, words, request.top)
    head = (f"{model.name}, mean cosine with up to {request.crops} segments.", NOTE, SAME)
    texts = [_json(k, model, request, words, found), to_toml(found, given, head)]
    if request.edits:
        steps = {"clusters": base, "edits": renames(found, given)}
        texts.append(json.dumps({"format": FORMAT, "version": VERSION, **steps}) + "\n")
    for path, text in zip(files, texts, strict=True):
        write_whole(path, text.encode())
    return Done(k, found, given, files)


def read_words(path: Path) -> tuple[str, ...]:
    """Words of a text file, or the classes of a class table (.toml). Raises UsageError."""
    if path.suffix == ".toml":
        return check_words(load_classes(path).names, str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--words {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--words {path}: expected text in UTF-8, one word a line") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"--words {path}: more than {MAX_BYTES:,} bytes: not a list of words")
    return parse_words(text, f"--words {path}")


# --- parts --------------------------------------------------------------------------------------


def _free_files(store: Store, request: Request) -> tuple[Path, ...]:
    """What will be written. Raises UsageError if it is there, before anything is computed."""
    if request.out is None and not store.is_local:
        raise UsageError(f"{store.url}: add --out FOLDER, a folder on this machine")
    folder = Path(store.root) if request.out is None else request.out
    files = [folder / JSON, folder / TOML, *([request.edits] if request.edits else [])]
    taken = [str(path) for path in files if path.exists()]
    if taken and not request.overwrite:
        verb = "is" if len(taken) == 1 else "are"
        raise UsageError(
            f"{' and '.join(taken)} {verb} there: add --overwrite, or choose another --out"
        )
    return tuple(files)


def _chosen_k(run: Finished, k: int) -> int:
    known = " and ".join(map(str, sorted(run.ks)))
    if not k and len(run.ks) > 1:
        raise UsageError(f"{run.store.url} has masks of K = {known}: add --k to choose")
    if k and k not in run.ks:
        raise UsageError(f"--k {k}: {run.store.url} has masks of K = {known}")
    return k or run.ks[0]


def _base(run: Finished, k: int) -> dict[str, Any]:
    """The clusters that renames are about."""
    if run.made("edits", k):
        raise UsageError(
            "--edits: this run has edits already, and a file takes the place of the other: "
            f"add the names of {TOML} to that file, or give {TOML} to datus export --names"
        )
    try:
        found = run.store.read_shard(("clusters", run.made("clusters", k), DATASET_KEY))
    except CorruptShard:
        found = None
    if found is None:
        raise WorkError(f"{run.store.url}: clusters of K = {k} are gone or damaged: mine again")
    return read_base(found.arrays[WHOLE])


def _look(run: Finished, k: int, model: TextImage, request: Request, bar: Bar) -> list[Array]:
    """Of each label float32 (n, E): vectors of its most confident segments."""
    images = request.images or read_places(run.store).get("data.images", "")
    if not images:
        raise UsageError(f"{run.store.url} does not know where its images are: add --images FOLDER")
    wanted: dict[str, list[tuple[int, Candidate]]] = {}
    found: list[list[Array]] = [[] for _ in run.names(k)]
    for label, row in enumerate(run.best_segments(k, request.crops)):
        for one in row:
            wanted.setdefault(one.image_id, []).append((label, one))
    records = [record for record in run.index.records if record.image_id in wanted]
    with bar("look at segments", len(records)) as advance:
        for record in records:
            image = picture(record, images, "--images FOLDER")
            cut = [crop(image, one) for _, one in wanted[record.image_id]]
            rows = model.images(cut, request.n_threads)
            for (label, _), vector in zip(wanted[record.image_id], rows, strict=True):
                found[label].append(vector)
            advance(1)
    size = next((len(row[0]) for row in found if row), 0)
    return [np.array(row, np.float32).reshape(len(row), size) for row in found]


def _json(
    k: int, model: TextImage, request: Request, words: Sequence[str], found: Sequence[Suggested]
) -> str:
    table = {
        "format": "datus-suggested-names",
        "version": 1,
        "note": NOTE,
        "k": k,
        "model": {"name": model.name, "sha256": model.digest},
        "templates": list(TEMPLATES),
        "max_crops": request.crops,
        "words": list(words),
        "clusters": [as_dict(one) for one in found],
    }
    return json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

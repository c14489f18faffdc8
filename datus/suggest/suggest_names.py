"""A finished run and a list of words -> suggested names in files: `datus suggest-names`.

    request = Request(words=Path("words.txt"), images="photos/", model=DEFAULT)
    done = suggest_names(Store("runs/photos"), request, ProgressBars().bar)
    done.clusters, done.given, done.files

In:  the most confident segments of each cluster, one from an image, cut from the images, and words;
     a text-image model places both in one space (Radford et al., 2021, zero-shot classification).
Out: suggested_names.json, names.toml (as `datus export --names` reads it) and, if asked for, an
     edits.json with renames. Nothing is overwritten unless asked. Images are read one at a time.

A suggestion is a guess of a model that nobody has checked on these images: a person decides.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datus.errors import CorruptShard, UsageError, WorkError
from datus.finished_run import Finished, crop, open_run, picture, read_places
from datus.inputs.index import Bar
from datus.inputs.labels import load_classes
from datus.review.edits import FORMAT, VERSION
from datus.review.replay import read_base
from datus.stages.totals import Candidate
from datus.store.store import DATASET_KEY, Store
from datus.store.whole_file import write_output
from datus.suggest.text_image import DEFAULT, TextImage, load_text_image
from datus.types import WHOLE, Array

JSON, TOML = "suggested_names.json", "names.toml"

MAX_BYTES = 256_000
"""Of a list of words."""

NOTE = "Suggestions of a model, not checked on these images: a person decides."
SAME = "Clusters of one name become one class in an export."

TEMPLATES = (
    "{}",
    "a photo of {}",
    "a photo of a {}",
    "a cropped photo of {}",
    "part of a photo that shows {}",
)
"""A word alone reads like a headline; sentences are what text-image models were trained on."""

MAX_WORD = 60
"""Characters: three words of dots still fit into a line that a TOML file of ours may have."""

DIGITS = 6
"""Of scores, behind the point."""


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
class Guess:
    """A word for a cluster."""

    word: str
    score: float
    """Mean cosine with the cluster's crops, -1..1."""
    margin: float
    """How much the next word scores less; 0 for the last word of all."""


@dataclass(frozen=True, slots=True)
class Suggested:
    """What a cluster may be called."""

    cluster: int
    n_crops: int
    share: float
    """Of the crops, those whose own best word is the first guess, 0..1."""
    guesses: tuple[Guess, ...]
    """Best first; none where the cluster has no crops."""


@dataclass(frozen=True, slots=True)
class Done:
    """The answer, and where it is."""

    clusters: tuple[Suggested, ...]
    given: tuple[str, ...]
    """(L,) what a person called each label before; empty where nobody did."""
    files: tuple[Path, ...]


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
    crops = _crop_vectors(run, k, model, request, bar)
    if not any(map(len, crops)):
        raise WorkError(f"{store.url}: no segment has a cluster: nothing to name")
    given = tuple(run.row(k).get("names") or [""] * len(crops))
    clusters = suggest(crops, vectors, words, request.top)
    head = (f"{model.name}, mean cosine with up to {request.crops} segments.", NOTE, SAME)
    texts = [_json(k, model, request, words, clusters), to_toml(clusters, given, head)]
    if request.edits:
        steps = {"clusters": base, "edits": renames(clusters, given)}
        texts.append(json.dumps({"format": FORMAT, "version": VERSION, **steps}) + "\n")
    for path, text in zip(files, texts, strict=True):
        write_output(path, text.encode())
    return Done(clusters, given, files)


# --- words ----------------------------------------------------------------------------------------


def read_words(path: Path) -> tuple[str, ...]:
    """Words of a text file, one a line, without empty lines and those that start with #, or the
    classes of a class table (.toml). Raises UsageError."""
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
    lines = (line.strip() for line in text.splitlines())
    return check_words([line for line in lines if line and line[0] != "#"], f"--words {path}")


def check_words(words: Sequence[str], origin: str) -> tuple[str, ...]:
    """The words. Raises UsageError: fewer than two, too long, twice, or the name of a cluster."""
    if len(words) < 2:
        have = f"only {words[0]!r}" if words else "none"
        raise UsageError(f"{origin}: expected two words or more, one a line, got {have}")
    seen = set[str]()
    for word in words:
        if not word.strip() or len(word) > MAX_WORD or not word.isprintable():
            raise UsageError(
                f"{origin}: expected words of 1 to {MAX_WORD} characters, got {word[:80]!r}"
            )
        if re.fullmatch(r"cluster \d+", word):
            raise UsageError(f"{origin}: {word!r} is what a cluster without a name is called")
        if word.casefold() in seen:
            raise UsageError(f"{origin}: {word!r} is there twice")
        seen.add(word.casefold())
    return tuple(words)


def prompts(word: str) -> tuple[str, ...]:
    """A word in each of TEMPLATES; class tables write "traffic_sign" where people write a space."""
    return tuple(template.format(word.replace("_", " ")) for template in TEMPLATES)


# --- the run --------------------------------------------------------------------------------------


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
    shard = None
    with contextlib.suppress(CorruptShard):
        shard = run.store.read_shard(("clusters", run.made("clusters", k), DATASET_KEY))
    if shard is None:
        raise WorkError(f"{run.store.url}: clusters of K = {k} are gone or damaged: mine again")
    return read_base(shard.arrays[WHOLE])


def _crop_vectors(
    run: Finished, k: int, model: TextImage, request: Request, bar: Bar
) -> list[Array]:
    """Of each label float32 (n, E): vectors of its most confident segments; (0,) without any."""
    images = request.images or read_places(run.store).get("data.images", "")
    if not images:
        raise UsageError(f"{run.store.url} does not know where its images are: add --images FOLDER")
    wanted: dict[str, list[tuple[int, Candidate]]] = {}
    vectors: list[list[Array]] = [[] for _ in run.names(k)]
    for label, segments in enumerate(run.best_segments(k, request.crops)):
        for segment in segments:
            wanted.setdefault(segment.image_id, []).append((label, segment))
    records = [record for record in run.index.records if record.image_id in wanted]
    with bar("look at segments", len(records)) as advance:
        for record in records:
            image = picture(record, images, "--images FOLDER")
            crops = [crop(image, segment) for _, segment in wanted[record.image_id]]
            rows = model.images(crops, request.n_threads)
            for (label, _), vector in zip(wanted[record.image_id], rows, strict=True):
                vectors[label].append(vector)
            advance(1)
    return [np.array(rows, np.float32) for rows in vectors]


# --- suggestions ----------------------------------------------------------------------------------


def suggest(
    crops: Sequence[Array], vectors: Array, words: Sequence[str], top: int
) -> tuple[Suggested, ...]:
    """Of each label the `top` words with the largest mean cosine.

    crops: of each label float32 (n, E), vectors float32 (W, E): unit rows. Words of one score stand
    in their own order.
    """
    wide = vectors.astype(np.float64)
    return tuple(_of_cluster(i, rows, wide, words, top) for i, rows in enumerate(crops))


def _of_cluster(
    number: int, rows: Array, vectors: Array, words: Sequence[str], top: int
) -> Suggested:
    """rows float32 (n, E), vectors float64 (W, E)."""
    if not len(rows):
        return Suggested(number, 0, 0.0, ())
    # no BLAS: one order of sums on every machine
    cosine = np.einsum("ne,we->nw", rows.astype(np.float64), vectors, optimize=False)
    score = cosine.mean(axis=0)
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    margins = np.append(ranked[:-1] - ranked[1:], 0.0)
    guesses = [
        Guess(words[int(place)], float(value), float(margin))
        for place, value, margin in zip(order[:top], ranked[:top], margins[:top], strict=True)
    ]
    share = float((cosine.argmax(axis=1) == order[0]).mean())
    return Suggested(number, len(cosine), share, tuple(guesses))


# --- files ----------------------------------------------------------------------------------------


def _json(
    k: int, model: TextImage, request: Request, words: Sequence[str], clusters: Sequence[Suggested]
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
        "clusters": [as_dict(cluster) for cluster in clusters],
    }
    return json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_dict(cluster: Suggested) -> dict[str, Any]:
    """Plain values for JSON."""
    guesses = [
        {"word": guess.word, "score": _round(guess.score), "margin": _round(guess.margin)}
        for guess in cluster.guesses
    ]
    return {
        "cluster": cluster.cluster,
        "crops": cluster.n_crops,
        "share": _round(cluster.share),
        "words": guesses,
    }


def to_toml(clusters: Sequence[Suggested], given: Sequence[str], about: Sequence[str]) -> str:
    """A names.toml with the first guess of each cluster, the others behind it as a comment.

    given: what a person called each label, empty where nobody did. Such labels keep their names.
    about: lines for the head of the file.
    """
    lines = [*(f"# {line}" for line in about), "[names]"]
    for cluster, name in zip(clusters, given, strict=True):
        if name:
            lines.append(f"# {cluster.cluster} keeps its name: {name}")
        elif not cluster.guesses:
            lines.append(f"# {cluster.cluster}: no segments to look at")
        else:
            others = ", ".join(f"{guess.word} {guess.score:.3f}" for guess in cluster.guesses[1:3])
            first = cluster.guesses[0]
            more = f"; next: {others}" if others else ""
            word = json.dumps(first.word, ensure_ascii=False)  # as TOML writes printable text
            lines.append(f"{cluster.cluster} = {word}  # {first.score:.3f}{more}")
    return "\n".join(lines) + "\n"


def renames(clusters: Sequence[Suggested], given: Sequence[str]) -> list[dict[str, Any]]:
    """The first guesses as edits of an edits.json; labels that have a name are left out."""
    return [
        {"op": "rename", "cluster": cluster.cluster, "name": cluster.guesses[0].word}
        for cluster, name in zip(clusters, given, strict=True)
        if cluster.guesses and not name
    ]


def _round(value: float) -> float:
    return round(value, DIGITS) + 0.0  # no minus before zero

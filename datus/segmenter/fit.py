"""Train a segmenter on your own images and labels, however imperfect: `datus fit`.

    fit_folders(config, out, console)     config: data.images, data.truth (the labels), data.classes
    new_model("models/reef")              the file of weights, if it can be written

Labels are PNGs of ids as the class table spells them, 255 where nothing is known: dense masks,
scribbles, points, masks from another model. Images without labels are passed over; what cannot be
used is recorded and the others go on. A killed training goes on where it stopped when the same
command is given again: what is under way lies in a hidden folder beside the model. Another model of
that name, or any other file, is replaced only with `overwrite`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from datus.compute.threads import map_threads, n_cores
from datus.config import Config, settings_of
from datus.engine.resources import resolve_device
from datus.engine.run import Console, listed_failures
from datus.engine.workers import Advance
from datus.errors import ImageError, TooManyFailures, UsageError
from datus.inputs.decode import decode_image, image_size
from datus.inputs.find import find_images, image_id_of, read_file, sha256_of
from datus.inputs.labels import decode_labels, find_labels, load_classes, truth_classes
from datus.models.image_size import denoise_size
from datus.segmenter.examples import (
    CacheWriter,
    Examples,
    FeatureSet,
    ImageSet,
    Source,
    training_view,
)
from datus.segmenter.files import CHECKPOINT, model_files, table_classes
from datus.store.disk import check_writable, explained
from datus.store.store import fingerprint
from datus.types import Array, ClassTable

if TYPE_CHECKING:
    from datus.segmenter.model import Segmenter

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Pair:
    """One image and its labels."""

    image_id: str
    image: Path
    labels: Path


@dataclass(slots=True)
class Fitted:
    """What came of it."""

    model: Path
    n_bytes: int
    n_trained: int
    n_dropped: int
    """Without any label, or nearly all of one class."""
    n_unlabelled: int
    """Images that have no label file."""
    curve: Array
    """float64 (epochs,): mean losses."""
    failures: dict[str, str] = field(default_factory=dict)


def fit_folders(
    config: Config, out: str | Path, console: Console, overwrite: bool = False
) -> Fitted:
    """Train and save OUT.safetensors and OUT.json.

    Raises UsageError (folders, classes, name), TooManyFailures, WorkError (nothing to learn from,
    a disk that refuses).
    """
    from datus.segmenter.model import build_segmenter, save_segmenter, segmenter_spec

    model = new_model(out)
    classes = load_classes(Path(config.data.classes))
    pairs, n_unlabelled, failures = find_pairs(Path(config.data.images), Path(config.data.truth))
    pairs, digest = _digest(pairs, failures)
    spec = segmenter_spec(config, classes.n_classes)
    segmenter = build_segmenter(spec, config.seed, resolve_device(config))
    recipe = _recipe(config, classes, segmenter.origin.get("id", ""))
    recipe |= {"files": digest, "n_files": len(pairs)}
    folder = model.with_name(f".{model.stem}-{fingerprint(recipe)}")
    if not overwrite:
        _check_free(model, folder, recipe)
    n_threads = config.speed.threads or n_cores()
    job = _Job(config, classes, segmenter, folder, n_threads, failures)
    try:
        with explained(str(folder), "write", "--out"):
            examples, curve = job.train(pairs, console)
    except BaseException:
        if FeatureSet.stored(folder) is None and not (folder / CHECKPOINT).exists():
            shutil.rmtree(folder, ignore_errors=True)  # it holds nothing to go on from
        raise
    provenance = {"made_by": "datus fit", "recipe": recipe}
    n_bytes = save_segmenter(segmenter, model, table_classes(classes), provenance)
    n_trained, n_dropped = len(examples), len(examples.dropped)
    shutil.rmtree(folder, ignore_errors=True)
    return Fitted(model, n_bytes, n_trained, n_dropped, n_unlabelled, curve, job.failures)


def new_model(out: str | Path) -> Path:
    """OUT.safetensors. Raises UsageError (no name), StoreError (it cannot be written)."""
    name = os.path.basename(out)  # of a text: "models/" has none
    for suffix in (".safetensors", ".json"):
        name = name.removesuffix(suffix)
    if name in ("", ".", "..") or os.path.isdir(os.path.expanduser(out)):
        raise UsageError(f"--out {out}: expected the name of a new model, such as models/reef")
    weights, beside = model_files(Path(out))
    for path in (weights, beside):
        check_writable(path, "--out")
    return weights


def _check_free(model: Path, folder: Path, recipe: Mapping[str, object]) -> None:
    """UsageError if the name is taken, and not by what this training made or was about to end."""
    there = [path for path in model_files(model) if os.path.lexists(path)]
    if not there:
        return
    if there == [model]:  # its table is written last
        same = (folder / CHECKPOINT).exists()
    else:
        same = _made_by(model_files(model)[1]) == fingerprint(recipe)
    if not same:
        raise UsageError(f"{there[0]} is there already: choose another --out, or add --overwrite")


def _made_by(beside: Path) -> str:
    """Fingerprint of the recipe of a model; empty if it has none."""
    try:
        return fingerprint(json.loads(beside.read_bytes())["provenance"]["recipe"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def find_pairs(images: Path, labels: Path) -> tuple[list[Pair], int, dict[str, str]]:
    """(pairs of one name, images without labels, labels without image and why that is wrong)."""
    image_paths = {image_id_of(path): path for path in find_images(images).paths}
    label_paths = find_labels(labels)
    shared = sorted(image_paths.keys() & label_paths.keys())
    if not shared:
        raise UsageError(
            f"{images} and {labels} share no file name: expected for example "
            f"{next(iter(image_paths))}.png in {labels}"
        )
    alone = sorted(label_paths.keys() - image_paths.keys())
    pairs = [Pair(name, images / image_paths[name], labels / label_paths[name]) for name in shared]
    return pairs, len(image_paths) - len(shared), dict.fromkeys(alone, f"no image in {images}")


def _digest(pairs: Sequence[Pair], failures: dict[str, str]) -> tuple[list[Pair], str]:
    """(pairs that can be read, hash of their files); the others are recorded."""
    digest, readable = hashlib.sha256(), []
    for pair in pairs:
        try:
            sums = [sha256_of(read_file(path)) for path in (pair.image, pair.labels)]
        except ImageError as error:
            failures[pair.image_id] = str(error)
            continue
        readable.append(pair)
        for sha256 in sums:
            digest.update(f"{pair.image_id} {sha256}\n".encode())
    return readable, digest.hexdigest()


def _recipe(config: Config, classes: ClassTable, weights: str) -> dict[str, object]:
    """All that the model depends on, but for the files."""
    settings = {**settings_of(config.denoise), "seed": config.seed}
    del settings["enabled"]
    settings["backbone"] = config.features.backbone
    settings |= denoise_size(config)._asdict()
    names = [classes.name, list(classes.names), classes.lookup.tolist()]
    return {"settings": settings, "weights": weights, "classes": names}


@dataclass(slots=True)
class _Job:
    """What reading the pairs and learning from them needs."""

    config: Config
    classes: ClassTable
    segmenter: "Segmenter"
    folder: Path
    n_threads: int
    failures: dict[str, str]

    def train(self, pairs: list[Pair], console: Console) -> tuple[Examples, Array]:
        """(what was learnt from, the loss curve); the segmenter is trained in place."""
        from datus.segmenter.train import Place, train

        examples, own = self._examples(pairs, console), self.config.denoise
        with console.bar("fit", len(examples) * own.epochs) as advance:
            seed, n_threads = self.config.seed, self.n_threads
            place = Place(self.folder, seed, n_threads, lambda done, total: advance(len(examples)))
            return examples, train(self.segmenter, examples, own, place)

    def _examples(self, pairs: list[Pair], console: Console) -> Examples:
        """Features on the disk for a frozen backbone, else the images themselves."""
        is_frozen, n_classes = self.segmenter.is_frozen, self.classes.n_classes
        if is_frozen and (stored := FeatureSet.stored(self.folder)):
            return stored
        with console.bar("read", len(pairs)) as advance:
            if is_frozen:
                return self._cached(pairs, advance)
            usable = [pair for pair, _ in self._each(self._labels, pairs, advance)]
        sources = (
            Source(pair.image_id, partial(self._image, pair), partial(self._labels, pair))
            for pair in usable
        )
        view = training_view(self.config, self.segmenter)
        return ImageSet(sources, n_classes, self.config.denoise.drop_share, view)

    def _cached(self, pairs: list[Pair], advance: Advance) -> FeatureSet:
        from datus.segmenter.model import features_of, prepared

        def read(pair: Pair) -> tuple[Array, Array]:
            labels, image = self._labels(pair), self._image(pair)
            return labels, features_of(self.segmenter, prepared(self.segmenter, image))

        writer = CacheWriter(self.folder, self.classes.n_classes, self.config.denoise.drop_share)
        for pair, (labels, features) in self._each(read, pairs, advance):
            if writer.wants(pair.image_id, labels):
                writer.add(features, labels)
        return writer.finish()

    def _each(
        self, work: Callable[[Pair], Result], pairs: list[Pair], advance: Advance
    ) -> Iterator[tuple[Pair, Result]]:
        """`work` on every pair, a few at a time; what cannot be used is recorded and left out.

        Raises TooManyFailures, after the last one.
        """

        def attempt(pair: Pair) -> Result | ImageError:
            try:
                return work(pair)
            except ImageError as error:
                return error

        for start in range(0, len(pairs), 2 * self.n_threads):
            some = pairs[start : start + 2 * self.n_threads]
            for pair, result in zip(some, map_threads(attempt, some, self.n_threads), strict=True):
                if isinstance(result, ImageError):
                    self.failures[pair.image_id] = str(result)
                else:
                    yield pair, result
            advance(len(some))
        allowed, failed = self.config.speed.max_failed, self.failures
        if len(failed) > allowed:
            text = f"fit: {len(failed)} images or labels cannot be used, {allowed} are allowed: "
            text += f"mend or remove them, or add --max-failed {len(failed)}"
            raise TooManyFailures(f"{text}\n{listed_failures(failed)}")

    def _image(self, pair: Pair) -> Array:
        return decode_image(read_file(pair.image), self.config.data.max_pixels)

    def _labels(self, pair: Pair) -> Array:
        """uint8 (H, W): classes of the table, IGNORE where nothing is known."""
        limit = self.config.data.max_pixels
        labels = decode_labels(read_file(pair.labels), limit)
        return truth_classes(labels, self.classes, image_size(read_file(pair.image), limit))

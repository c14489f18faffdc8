"""A finished run in Python: its images, masks, clusters and scores, and what can be done with them.

    result = run_result(config, console)     run what is missing, then look
    one = result[0], result["a/b"]           one image
    one.image, one.mask                      uint8 (H, W, 3) and uint8 (H, W), the image's own size
    one.segments, one.confidence             int32 (H, W) and float32 (H, W)
    one.overlay()                            a PIL image
    result.clusters, result.scores, result.plot(), result.export("coco", "out")
    result.predict("new/")                   more images, the same clusters

A result keeps names and fingerprints. Pictures and masks are read when they are asked for, so a
result of many images takes no more memory than its index.
"""

import difflib
import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from datus.api.tables import scores_table
from datus.config import Config
from datus.engine.progress import ProgressBars
from datus.engine.run import QUIET, Console
from datus.errors import DatusError, UsageError
from datus.finished_run import Finished, copied, crop, picture, with_settings, write_places
from datus.formats.export import Exported, Request, cluster_names, export_run
from datus.formats.formats import find_format
from datus.formats.records import Options
from datus.inputs.arrays import Images, cache_folder, is_cached, lay_out, listed, local_folder
from datus.inputs.labels import decode_labels, load_classes, truth_classes
from datus.method.masks import PALETTE
from datus.method.metrics import Scores, score_all
from datus.pipeline import run
from datus.report.display import Card, Entry, Look, contact_sheet, overlay_picture, page, png_bytes
from datus.report.pictures import shrunk
from datus.review.frozen import read_made, save
from datus.store.store import Store
from datus.types import IGNORE, Array, Confusion, ImageRecord, Verdict, evenly

EXAMPLES = 6
"""Crops of a cluster, images of a gallery."""

NOTEBOOK, GALLERY = Look(PALETTE, 0.6, side_px=480), Look(PALETTE, 0.6, side_px=150)


class NoSuchImage(UsageError, LookupError):
    """`result[...]` has no image of that number or id."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster of a result."""

    number: int
    """Its value in the masks."""
    name: str
    share: float
    """0 to 1, of all pixels."""
    n_pixels: int
    colour: tuple[int, int, int]
    """RGB, in overlays and palettes."""
    examples: tuple[Array, ...]
    """uint8 (h, w, 3): its most confident segments, cut out, one from an image."""


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """One image of a result. Every property reads the files of the run when it is asked for, and
    keeps nothing."""

    result: "Result"
    record: ImageRecord

    @property
    def image_id(self) -> str:
        """Path below the image folder without suffix."""
        return self.record.image_id

    @property
    def image(self) -> Array:
        """uint8 (H, W, 3) RGB, upright. Raises UsageError if the file was moved or changed."""
        return picture(self.record, self.result.config.data.images)

    @property
    def mask(self) -> Array:
        """uint8 (H, W): cluster of each pixel, 255 = no label."""
        return self.result.finished.labels(self.record, self.result.k)

    @property
    def denoised(self) -> Array:
        """As `mask`, drawn by the trained model. Raises UsageError if de-noising was off."""
        return self.result.finished.labels(self.record, self.result.k, "denoise")

    @property
    def segments(self) -> Array:
        """int32 (H, W): segment of each pixel, 0..S-1, in blocks of patches."""
        return self.result.finished.segments(self.record, self.result.k)

    @property
    def confidence(self) -> Array:
        """float32 (H, W): how sure the label of each pixel's segment is, 0 to 1, NaN where it took
        its neighbours' (docs/confidence.md)."""
        return self.result.finished.sure(self.record, self.result.k)

    @property
    def margin(self) -> Array:
        """float32 (H, W): as `confidence`, from the distances to the centroids alone."""
        return self.result.finished.sure(self.record, self.result.k, "margin")

    @property
    def truth(self) -> Array | None:
        """uint8 (H, W): true class, 255 = not known; None where the image has no true mask."""
        data = self.result.config.data
        if not data.truth or self.record.truth_path is None:
            return None
        path = Path(data.truth) / self.record.truth_path
        try:
            labels = decode_labels(path.read_bytes(), data.max_pixels)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; mine again") from None
        size = self.record.height, self.record.width
        return truth_classes(labels, load_classes(Path(data.classes)), size)

    def overlay(self, opacity: float = 0.6, side_px: int = 0) -> Image.Image:
        """The image under the colours of its clusters; `side_px` > 0 makes it small."""
        return overlay_picture(self.image, self.mask, Look(PALETTE, opacity, side_px))

    def card(self, title: str = "", small: bool = False) -> Card:
        """Photo and mask. The photo is the small one of the run folder if `small`, which saves the
        decoding, and where the image file was moved."""
        image: Array | None = None
        if not small:
            with suppress(DatusError):
                image = self.image
        if image is None:
            image = self.result.finished.preview(self.record, self.result.k)
        return Card(title or self.image_id, image, self.mask)

    def __repr__(self) -> str:
        return f"<{self.image_id}: {self.record.height} x {self.record.width}>"

    def _repr_png_(self) -> bytes:
        card = self.card()
        return png_bytes(overlay_picture(card.image, card.mask, NOTEBOOK))

    def _repr_html_(self) -> str:
        card = self.card("mask")
        counts = np.bincount(card.mask.ravel(), minlength=IGNORE + 1)[:IGNORE]
        order = [n for n in np.argsort(-counts, kind="stable").tolist() if counts[n]]
        names = self.result.names
        legend = [Entry(names[n], colour_of(n), counts[n] / card.mask.size) for n in order]
        cards = [card]
        if card.image is not None:
            cards = [Card("image", card.image, np.full_like(card.mask, IGNORE)), card]
        size = f"{self.record.height} x {self.record.width} pixels"
        return page(self.image_id, [size], cards, legend, NOTEBOOK)


def run_result(config: Config, progress: bool) -> "Result":
    """Run what is missing. Raises a DatusError; what is finished is kept."""
    console: Console = ProgressBars() if progress else QUIET
    store = Store(config.run_path)
    with warnings.catch_warnings():  # timm loads it: without ipywidgets it warns in a notebook
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")
    outcome = run(config, store, console)
    if outcome.next_step:
        raise UsageError("speed.shards: a share of a run has no result: leave it empty")
    write_places(config, store)
    report = next(node for node in outcome.plan.nodes if node.name == "report")
    return Result(Finished(store, outcome.index, report.fingerprint), config, progress=progress)


class Result(Sequence[MaskedImage]):
    """All images of a finished run that have a mask, in order of id.

    len(result), result[3], result[-1], result["folder/name"], `for one in result`.
    """

    def __init__(
        self,
        finished: Finished,
        config: Config,
        k: int = 0,
        names: Sequence[str] = (),
        progress: bool = True,
    ) -> None:
        self.finished = finished
        """What is stored of the run."""
        self.config = config
        """Its settings; `config.data` says where images and truth are."""
        self.k = k or finished.ks[0]
        """Number of clusters."""
        self.names = tuple(names) or tuple(finished.names(self.k))
        """Name of each label in the masks: K, and more where clusters were split."""
        self.progress = progress
        """As given to `mine`; the default of `predict`."""

    def _with(self, **changes: Any) -> "Result":
        """The same but for some arguments of the constructor."""
        names = ("finished", "config", "k", "names", "progress")
        arguments = {name: getattr(self, name) for name in names}
        return Result(**(arguments | changes))

    # --- images ---------------------------------------------------------------------------------

    @cached_property
    def _records(self) -> list[ImageRecord]:
        return self.finished.have(self.k)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[MaskedImage]:
        return (MaskedImage(self, record) for record in self._records)

    @overload
    def __getitem__(self, which: int | str) -> MaskedImage: ...
    @overload
    def __getitem__(self, which: slice) -> list[MaskedImage]: ...
    def __getitem__(self, which: int | str | slice) -> MaskedImage | list[MaskedImage]:
        if isinstance(which, slice):
            return [MaskedImage(self, record) for record in self._records[which]]
        if isinstance(which, str):
            return MaskedImage(self, self._find(which))
        if not -len(self) <= which < len(self):
            raise NoSuchImage(f"image {which}: the result has {len(self)}: 0 to {len(self) - 1}")
        return MaskedImage(self, self._records[which])

    def __contains__(self, image: object) -> bool:
        image_id = image.image_id if isinstance(image, MaskedImage) else image
        return any(record.image_id == image_id for record in self._records)

    def _find(self, image_id: str) -> ImageRecord:
        for record in self._records:
            if record.image_id == image_id:
                return record
        if image_id in self.failures:
            raise NoSuchImage(f"{image_id}: left out: {self.failures[image_id]}")
        ids = [record.image_id for record in self._records]
        near = difflib.get_close_matches(image_id, ids, n=1)
        cure = f"did you mean {near[0]!r}?" if near else f"one of them is {ids[0]!r}"
        raise NoSuchImage(f"{image_id!r}: no such image in the result; {cure}")

    @property
    def failures(self) -> dict[str, str]:
        """image id -> why it was left out: settings={"speed.max_failed": 10} allows ten."""
        return {row["image_id"]: row["reason"] for row in self.finished.report["failures"]}

    # --- figures --------------------------------------------------------------------------------

    @property
    def ks(self) -> tuple[int, ...]:
        """All numbers of clusters of the run, the main one first."""
        return self.finished.ks

    def at(self, k: int) -> "Result":
        """The same run with another number of its clusters. Raises UsageError."""
        self.finished.masks(k)
        return self._with(k=k, names=())

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Rule -> scores in percent, "hungarian_strict" first; {} without truth."""
        counts = self.finished.row(self.k)["confusion"]
        if counts is None:
            return {}
        confusion = Confusion(np.array(counts, np.int64))
        return score_all(confusion, self.finished.centroids(self.k))

    @property
    def coverage(self) -> float:
        """Percent of all pixels that have a label."""
        return float(self.finished.row(self.k)["coverage"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the report warns of."""
        return tuple(self.finished.report["warnings"])

    @property
    def verdict(self) -> Verdict | None:
        """What speaks against the masks, seen without truth (docs/choosing_k.md). None where the
        report is of an earlier version that had no verdict."""
        verdict = self.finished.row(self.k).get("verdict")
        return Verdict(verdict["word"], tuple(verdict["reasons"])) if verdict else None

    @cached_property
    def _crops(self) -> list[tuple[Array, ...]]:
        try:
            segments = self.finished.best_segments(self.k, EXAMPLES)
            image_ids = {segment.image_id for row in segments for segment in row}
            crops: list[list[Array]] = [[] for _ in segments]
            for record in self._records:  # each image is decoded once
                if record.image_id not in image_ids:
                    continue
                image = picture(record, self.config.data.images)
                for row, cut in zip(segments, crops, strict=True):
                    cut += [crop(image, one) for one in row if one.image_id == record.image_id]
        except DatusError:  # images moved or segments pruned: the figures are still there
            return [()] * len(self.names)
        return [tuple(row) for row in crops]

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """In order of number, without those that edits merged or dropped. Examples are kept."""
        crops, gone = self._crops, self.finished.row(self.k).get("gone", ())
        return tuple(
            Cluster(n, self.names[n], share, pixels, colour_of(n), crops[n])
            for n, (share, pixels) in enumerate(self._shares())
            if n not in gone
        )

    def _shares(self) -> list[tuple[float, int]]:
        """(share of all pixels, pixels) of each label."""
        pixels = self.finished.row(self.k)["cluster_pixels"]
        total = sum(pixels) or 1
        return [(count / total, count) for count in pixels[:-1]]

    # --- names ----------------------------------------------------------------------------------

    def named(self, names: Mapping[int, str] | str | Path) -> "Result":
        """The same result with names: {3: "sky"}, a names.toml, or "matched" or "majority": those
        of the true classes. Raises UsageError."""
        if isinstance(names, Mapping):
            return self._with(names=self._renamed(names))
        of_run = cluster_names(self.finished.store, self.finished.masks(self.k), str(names))
        return self._with(names=[name or f"cluster {n}" for n, name in enumerate(of_run)])

    def _renamed(self, names: Mapping[int, str]) -> list[str]:
        renamed = list(self.names)
        for number, name in names.items():
            if not (isinstance(number, int) and 0 <= number < len(renamed)):
                last = len(renamed) - 1
                raise UsageError(f"names: expected clusters 0 to {last}, got {number!r}")
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise UsageError(f"names: cluster {number}: expected a name, got {name!r}")
            renamed[number] = name
        return renamed

    # --- out ------------------------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """The run folder; `datus status`, `export` and the others work on it."""
        return str(self.finished.store.url)

    @property
    def report(self) -> str:
        """Path of report.html."""
        return self.finished.store.address(
            "report", self.finished.fingerprint, "files", "report.html"
        )

    def export(
        self,
        to: str,
        out: str | Path,
        *,
        images: bool = True,
        denoised: bool = False,
        overwrite: bool = False,
        min_confidence: float = 0.0,
        options: Options | Mapping[str, Any] | None = None,
    ) -> Exported:
        """Masks for another tool, named as `names`: docs/export.md. Raises UsageError, WorkError.

        to: "png", "coco", "yolo", "cvat" ...; images: copy them too; min_confidence: less sure
        segments get no label; options: `datus.formats.records.Options`, {"polygons": True}.
        """
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence: expected 0 to 1, got {min_confidence}")
        masks = self.finished.masks(self.k, "denoise" if denoised else "masks")
        folder = Path(self.config.data.images) if images else None
        with tempfile.TemporaryDirectory() as temporary:
            names = self._write_names(Path(temporary) / "names.toml")
            chosen, more = find_format(to), Options.of(options)
            request = Request(to, chosen, more, Path(out), names, folder, overwrite, min_confidence)
            return export_run(self.finished.store, masks, request)

    def _write_names(self, path: Path) -> str:
        """The names that were given, as `datus export --names` reads them; empty if there are
        none."""
        given = {n: name for n, name in enumerate(self.names) if name != f"cluster {n}"}
        lines = [f"{n} = {json.dumps(name, ensure_ascii=False)}" for n, name in given.items()]
        path.write_text("\n".join(["[names]", *lines]) + "\n", encoding="utf-8")
        return str(path) if given else ""

    def predict(
        self,
        images: Images,
        *,
        out: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        progress: bool | None = None,
    ) -> "Result":
        """New images under these clusters, which stay as they are: docs/growing.md.

        images, out, settings: as of `mine`. progress: as given to `mine`, unless it is given here.
        The result keeps the names.
        """
        edits = (settings or {}).get("clusters.edits", self.config.clusters.edits)
        if self.finished.made("edits", self.k) and not edits:
            raise UsageError("this run was edited: add settings={'clusters.edits': FILE}")
        images, store = listed(images), self.finished.store
        salt = self.finished.made("clusters", self.k)
        folder = local_folder(out) if out else cache_folder(images, salt)
        fixed: dict[str, Any] = {
            "run_dir": str(folder),
            **lay_out(folder, images),
            "clusters.k": [self.k],
            "clusters.frozen": str(folder / "clusters.safetensors"),
            "denoise.enabled": False,  # it would learn from the new images alone
        }
        frozen = read_made(store, store.url, self.k, self.finished.recipe["upstream"])
        save(frozen, folder / "clusters.safetensors")
        config = with_settings(self.config, {**(settings or {}), **fixed})
        result = run_result(config, self.progress if progress is None else progress)
        return result._with(k=self.k, names=self.names)

    def save(self, folder: str | Path) -> "Result":
        """A copy of the run folder, to keep or to carry elsewhere. Raises UsageError."""
        target = Path(folder).expanduser()
        if target.exists():
            raise UsageError(f"{target} is there already: choose another folder")
        store = copied(self.finished.store, target)
        finished = Finished(store, self.finished.index, self.finished.fingerprint)
        moved = {"run_dir": str(target)}
        for name in ("images", "truth", "classes"):
            path = Path(getattr(self.config.data, name))
            if path.is_relative_to(self.folder) and path.parts:
                moved[f"data.{name}"] = str(target / path.relative_to(self.folder))
        return self._with(finished=finished, config=with_settings(self.config, moved))

    def remove(self) -> None:
        """Remove the run folder, if it is one in the cache. Raises UsageError for any other."""
        if not is_cached(Path(self.folder)):
            raise UsageError(f"{self.folder}: not in the cache, so it is yours: remove it yourself")
        shutil.rmtree(self.folder)

    # --- to look at -----------------------------------------------------------------------------

    def plot(
        self,
        which: int | str | Sequence[int | str] = EXAMPLES,
        *,
        columns: int = 2,
        side_px: int = 240,
        opacity: float = 0.6,
        truth: bool = False,
    ) -> Image.Image:
        """A picture: photo, overlay and, if asked for, truth of some images; below, the legend.

        A true class has the colour of the cluster that it was matched to, or is grey.

        which: how many, spread over all, or an id, or several ids and numbers.
        """
        if isinstance(which, int):
            images = [self[i] for i in evenly(range(len(self)), which)]
        else:
            images = [self[key] for key in ([which] if isinstance(which, str) else which)]
        if not images or columns < 1 or side_px < 1:
            raise UsageError("plot: expected at least one image, one column and one pixel")
        look = Look(PALETTE, opacity, side_px)
        best = self.scores.get("hungarian_strict") if truth else None
        palette = truth_palette(best.match.tolist(), len(best.iou)) if best else None
        rows = [sheet_row(image, look, palette) for image in images]
        return contact_sheet(rows, columns, side_px, self._legend())

    def _legend(self) -> list[Entry]:
        """Largest cluster first."""
        shares = self._shares()
        order = sorted(range(len(shares)), key=lambda n: -shares[n][0])
        return [Entry(self.names[n], colour_of(n), shares[n][0]) for n in order if shares[n][1]]

    def __repr__(self) -> str:
        score = ""
        if self.scores:
            score = f", mIoU {self.scores['hungarian_strict'].miou:.1f} % (hungarian_strict)"
        word = f", verdict: {self.verdict.word}" if self.verdict else ""
        return f"<{len(self)} images, K = {self.k}{score}{word}>"

    def _repr_html_(self) -> str:
        lines = [f"coverage {self.coverage:.1f} %"]
        if best := self.scores.get("hungarian_strict"):
            lines[0] += f", mIoU {best.miou:.1f} %, accuracy {best.accuracy:.1f} %"
            lines[0] += " (hungarian_strict)"
        lines += [f"verdict: {self.verdict.words}"] if self.verdict else []
        lines += [f"warning: {text}" for text in self.warnings]
        cards = [self[i].card(small=True) for i in evenly(range(len(self)), EXAMPLES)]
        title = f"{len(self)} images, K = {self.k}"
        return page(title, lines, cards, self._legend()[:24], GALLERY)

    def table(self) -> str:
        """Scores of all rules, as text."""
        return scores_table({rule: scores.as_dict() for rule, scores in self.scores.items()})


def colour_of(cluster: int) -> tuple[int, int, int]:
    """RGB of a cluster in overlays and in the palette of mask files."""
    red, green, blue = PALETTE[cluster].tolist()
    return red, green, blue


def sheet_row(
    image: MaskedImage, look: Look, truth_palette: Array | None
) -> tuple[str, Sequence[Image.Image]]:
    """Id and pictures: photo, overlay, and the truth if there is a palette for it."""
    card = image.card()
    pictures = [overlay_picture(card.image, card.mask, look)]
    if card.image is not None:
        pictures.insert(0, shrunk(card.image, look.side_px))
    if truth_palette is not None and (truth := image.truth) is not None:
        pictures.append(overlay_picture(None, truth, Look(truth_palette, 1.0, look.side_px)))
    return image.image_id, pictures


def truth_palette(match: Sequence[int], n_classes: int) -> Array:
    """uint8 (256, 3): a class has the colour of the cluster that it was matched to, else a grey.

    match: (K,) class of each cluster, or -1.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[:n_classes] = np.linspace(60, 200, n_classes).astype(np.uint8)[:, None]
    for cluster, label in enumerate(match):
        if label >= 0:
            palette[label] = PALETTE[cluster]
    return palette

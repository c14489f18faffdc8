"""A finished run in Python: its images, masks, clusters and scores, and what can be done with them.

    result = run_result(config, console)     run what is missing, then look
    result[0].mask, result["a/b"]            one image: module `masked`
    result.clusters, result.scores, result.plot(), result.export("coco", "out")
    result.predict("new/")                   more images, the same clusters

Nothing is kept but names and fingerprints: pictures and masks are read when they are asked for, so
a result of many images is as small as its index.
"""

import difflib
import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from datus.api.masked import MaskedImage, Source, colour_of, sheet_row, truth_palette
from datus.api.tables import scores_table
from datus.config import Config
from datus.engine.finished_run import Finished, copied, crop, picture, with_settings, write_places
from datus.engine.progress import ProgressBars
from datus.engine.run import QUIET, Console, run
from datus.errors import DatusError, UsageError
from datus.formats.export import Exported, Request, cluster_names, export_run
from datus.formats.formats import find_format
from datus.formats.records import Options
from datus.inputs.arrays import (
    Images,
    Wanted,
    cache_folder,
    is_cached,
    lay_out,
    listed,
    local_folder,
)
from datus.method.masks import PALETTE
from datus.method.metrics import Scores, score_all
from datus.report.display import Entry, Look, contact_sheet, page
from datus.review.frozen import read_made, save
from datus.store.store import Store
from datus.types import Array, Confusion, ImageRecord, Verdict

EXAMPLES = 6
"""Crops of a cluster, images of a gallery."""

THUMB_PX = 150


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


def run_result(config: Config, progress: bool) -> "Result":
    """Run what is missing. Raises a DatusError; what is finished is kept."""
    console: Console = ProgressBars() if progress else QUIET
    store = Store(config.run_path)
    with warnings.catch_warnings():  # in a notebook without ipywidgets it warns; we need none
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")
    done = run(config, store, console)
    if done.next_step:
        raise UsageError("speed.shards: a share of a run has no result: leave it empty")
    write_places(config, store)
    report = next(node for node in done.plan.nodes if node.stage == "report")
    return Result(Finished(store, done.index, report.mark), config, progress=progress)


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
        """What was said to `mine`; `predict` does the same unless told otherwise."""

    # --- images ---------------------------------------------------------------------------------

    @cached_property
    def _records(self) -> list[ImageRecord]:
        return self.finished.have(self.k)

    @property
    def _source(self) -> Source:
        return Source(self.finished, self.config.data, self.k, self.names)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[MaskedImage]:
        return (MaskedImage(self._source, record) for record in self._records)

    @overload
    def __getitem__(self, which: int | str) -> MaskedImage: ...
    @overload
    def __getitem__(self, which: slice) -> list[MaskedImage]: ...
    def __getitem__(self, which: int | str | slice) -> MaskedImage | list[MaskedImage]:
        if isinstance(which, slice):
            return [MaskedImage(self._source, record) for record in self._records[which]]
        if isinstance(which, str):
            return MaskedImage(self._source, self._find(which))
        if not -len(self) <= which < len(self):
            raise NoSuchImage(f"image {which}: the result has {len(self)}: 0 to {len(self) - 1}")
        return MaskedImage(self._source, self._records[which])

    def __contains__(self, one: object) -> bool:
        image_id = one.image_id if isinstance(one, MaskedImage) else one
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
        return Result(self.finished, self.config, k, progress=self.progress)

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
        found = self.finished.row(self.k).get("verdict")
        return Verdict(found["word"], tuple(found["reasons"])) if found else None

    @cached_property
    def _crops(self) -> list[tuple[Array, ...]]:
        try:
            best = self.finished.best_segments(self.k, EXAMPLES)
            wanted = {one.image_id: picture for row in best for one in row}
            records = {r.image_id: r for r in self._records if r.image_id in wanted}
            crops: list[list[Array]] = [[] for _ in best]
            for image_id, record in records.items():  # each image is decoded once
                image = picture(record, self.config.data.images)
                for number, row in enumerate(best):
                    crops[number] += [crop(image, one) for one in row if one.image_id == image_id]
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
            whole = self._checked(names)
        else:
            found = cluster_names(self.finished.store, self.finished.masks(self.k), str(names))
            whole = [name or f"cluster {n}" for n, name in enumerate(found)]
        return Result(self.finished, self.config, self.k, whole, self.progress)

    def _checked(self, names: Mapping[int, str]) -> list[str]:
        whole = list(self.names)
        for number, name in names.items():
            if not (isinstance(number, int) and 0 <= number < len(whole)):
                raise UsageError(f"names: expected clusters 0 to {len(whole) - 1}, got {number!r}")
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise UsageError(f"names: cluster {number}: expected a name, got {name!r}")
            whole[number] = name
        return whole

    # --- out ------------------------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """The run folder; `datus status`, `export` and the others work on it."""
        return str(self.finished.store.url)

    @property
    def report(self) -> str:
        """Path of report.html."""
        return self.finished.store.address("report", self.finished.mark, "files", "report.html")

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
        given = {n: name for n, name in enumerate(self.names) if name != f"cluster {n}"}
        folder = Path(self.config.data.images) if images else None
        with tempfile.TemporaryDirectory() as temporary:
            names = str(_names_file(Path(temporary), given)) if given else ""
            chosen, more = find_format(to), Options.of(options)
            request = Request(to, chosen, more, Path(out), names, folder, overwrite, min_confidence)
            return export_run(self.finished.store, masks, request)

    def predict(
        self,
        images: Images,
        *,
        out: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        progress: bool | None = None,
    ) -> "Result":
        """New images under these clusters, which stay as they are: docs/growing.md.

        images, out, settings: as of `mine`. progress: as was said to `mine`, unless it is given.
        The result keeps the names.
        """
        mark = self.finished.made("clusters", self.k)
        edits = (settings or {}).get("clusters.edits", self.config.clusters.edits)
        if self.finished.made("edits", self.k) and not edits:
            raise UsageError("this run was edited: add settings={'clusters.edits': FILE}")
        images = listed(images)
        folder = local_folder(out) if out else cache_folder(images, mark)
        given = lay_out(Wanted(images), folder)
        store = self.finished.store
        frozen = read_made(store, store.url, self.k, self.finished.recipe["upstream"])
        file = folder / "clusters.safetensors"
        save(frozen, file)
        fixed: dict[str, Any] = {
            "run_dir": str(folder),
            "data.images": given.images,
            "clusters.k": [self.k],
        }
        fixed |= {"data.truth": "", "data.classes": "", "clusters.frozen": str(file)}
        fixed["denoise.enabled"] = False  # it would learn from the new images alone
        config = with_settings(self.config, {**(settings or {}), **fixed})
        found = run_result(config, self.progress if progress is None else progress)
        return Result(found.finished, config, self.k, self.names, found.progress)

    def save(self, folder: str | Path) -> "Result":
        """A copy of the run folder, to keep or to carry elsewhere. Raises UsageError."""
        target = Path(folder).expanduser()
        if target.exists():
            raise UsageError(f"{target} is there already: choose another folder")
        store = copied(self.finished.store, target)
        finished = Finished(store, self.finished.index, self.finished.mark)
        moved = {"run_dir": str(target)}
        for name in ("images", "truth", "classes"):
            path = Path(getattr(self.config.data, name))
            if path.is_relative_to(self.folder) and path.parts:
                moved[f"data.{name}"] = str(target / path.relative_to(self.folder))
        return Result(
            finished, with_settings(self.config, moved), self.k, self.names, self.progress
        )

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
        wanted = [which] if isinstance(which, str) else which
        chosen = self._spread(wanted) if isinstance(wanted, int) else [self[one] for one in wanted]
        if not chosen or columns < 1 or side_px < 1:
            raise UsageError("plot: expected at least one image, one column and one pixel")
        look = Look(PALETTE, opacity, side_px)
        best = self.scores.get("hungarian_strict") if truth else None
        true = truth_palette(best.match.tolist(), len(best.iou)) if best else None
        rows = [sheet_row(one, look, true) for one in chosen]
        return contact_sheet(rows, columns, side_px, self._legend())

    def _spread(self, n_wanted: int) -> list[MaskedImage]:
        n_taken = max(0, min(n_wanted, len(self)))
        return [self[(2 * i + 1) * len(self) // (2 * n_taken)] for i in range(n_taken)]

    def _legend(self) -> list[Entry]:
        """Largest cluster first."""
        shares = self._shares()
        order = sorted(range(len(shares)), key=lambda n: -shares[n][0])
        return [Entry(self.names[n], colour_of(n), shares[n][0]) for n in order if shares[n][1]]

    def __repr__(self) -> str:
        figure = ""
        if self.scores:
            figure = f", mIoU {self.scores['hungarian_strict'].miou:.1f} % (hungarian_strict)"
        word = f", verdict: {self.verdict.word}" if self.verdict else ""
        return f"<{len(self)} images, K = {self.k}{figure}{word}>"

    def _repr_html_(self) -> str:
        lines = [f"coverage {self.coverage:.1f} %"]
        if best := self.scores.get("hungarian_strict"):
            lines[0] += f", mIoU {best.miou:.1f} %, accuracy {best.accuracy:.1f} %"
            lines[0] += " (hungarian_strict)"
        lines += [f"verdict: {self.verdict.words}"] if self.verdict else []
        lines += [f"warning: {text}" for text in self.warnings]
        cards = [one.card(small=True) for one in self._spread(EXAMPLES)]
        title = f"{len(self)} images, K = {self.k}"
        return page(title, lines, cards, self._legend()[:24], Look(PALETTE, 0.6, THUMB_PX))

    def table(self) -> str:
        """Scores of all rules, as text."""
        return scores_table({rule: one.as_dict() for rule, one in self.scores.items()})


def _names_file(folder: Path, names: Mapping[int, str]) -> Path:
    """names.toml, as `datus export --names` reads it."""
    lines = [f"{n} = {json.dumps(name, ensure_ascii=False)}" for n, name in names.items()]
    path = folder / "names.toml"
    path.write_text("\n".join(["[names]", *lines]) + "\n", encoding="utf-8")
    return path

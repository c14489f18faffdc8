"""Small runs to report on, and a reader for the page. Shared by the tests of the report."""

import base64
import dataclasses
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from datus.method.metrics import add, count_pixels, score_all
from datus.report import build_report
from datus.report.records import Distribution, Example, GalleryItem, KResult, ReportInputs
from datus.types import ClassTable

N_CLASSES = 3


def classes_of(names: tuple[str, ...] = ("sea", "rock", "fish")) -> ClassTable:
    lookup = np.full(256, 255, np.uint8)
    lookup[: len(names)] = np.arange(len(names))
    colours = tuple((10 * n + 5, 200 - 10 * n, 90) for n in range(len(names)))
    return ClassTable("test", names, colours, lookup, lookup < 255)


def example_of(image_id: str, k: int, seed: int, size: tuple[int, int] = (40, 60)) -> Example:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, k + 1, size).astype(np.uint8)
    mask[mask == k] = 255
    truth = rng.integers(0, 2, size).astype(np.uint8)  # class 2 is never there
    truth[:3] = 255
    return Example(image_id, rng.integers(0, 256, (*size, 3)).astype(np.uint8), mask, truth)


def result_of(k: int, examples: tuple[Example, ...], centroids: bool = True) -> KResult:
    masks = [np.where(one.mask < k, one.mask, 255).astype(np.uint8) for one in examples]
    pixels = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)
    truths = [one.truth for one in examples if one.truth is not None]
    confusion = scores = None
    if truths:
        pairs = zip(masks, truths, strict=True)
        confusion = add(count_pixels(mask, truth, k, N_CLASSES) for mask, truth in pairs)
        points = np.random.default_rng(k).normal(size=(k, 4)).astype(np.float32)
        scores = score_all(confusion, points if centroids else None)
    counts = np.r_[pixels[:k], pixels[255:]].astype(np.int64)
    return KResult(k, counts, 1234.5 / k, 500, "faiss-cpu 1.12.0", confusion, scores or {})


def inputs_of(k: int = 5, sweep: tuple[int, ...] = (), truth: bool = True) -> ReportInputs:
    examples = tuple(example_of(f"dir/{n}", k, n) for n in range(3))
    if not truth:
        examples = tuple(dataclasses.replace(one, truth=None) for one in examples)
    rng = np.random.default_rng(9)
    pictures = [rng.integers(0, 256, (30, 200, 3)).astype(np.uint8) for _ in range(2)]
    return ReportInputs(
        title="suim & co",
        preset="best",
        n_images=3,
        sweep=tuple(result_of(one, examples) for one in (k, *sweep)),
        settings={"clusters": {"k": [k], "pca": 0}, "data": {"images": "/home/someone/photos"}},
        provenance={"torch": "2.4.0", "weights": "sha256:00ff"},
        failures=(("features", "dir/9", "cannot read JPEG"),),
        warnings=("1 of 3 graphs is degenerate",),
        numbers={"graphs": {"density": Distribution.of([0.4, 0.5, 0.7])}},
        classes=classes_of() if truth else None,
        examples=examples,
        gallery=tuple(
            tuple(GalleryItem("dir/0", picture, 0.25) for picture in pictures) for _ in range(k)
        ),
    )


class Page(HTMLParser):
    """What a reader of the page gets: its text, its pictures, its tags."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._in_style else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


def decoded(uri: str | None) -> Image.Image:
    assert uri is not None
    head, _, body = uri.partition(";base64,")
    assert head in ("data:image/jpeg", "data:image/png")
    image = Image.open(io.BytesIO(base64.b64decode(body, validate=True)))
    image.load()
    return image


def summary(inputs: ReportInputs) -> dict[str, object]:
    found = json.loads(build_report(inputs)["report.json"], parse_constant=pytest.fail)
    assert isinstance(found, dict)
    return found

"""A browser page from made-up images, written as the report stage writes it. Shared by tests and
the benchmark of the page."""

import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datus.method.masks import encode_small
from datus.report import browse, browse_tally
from datus.report.browse import BrowseImage
from datus.types import Array

K, N_CLASSES, DIMS = 4, 3, 6


def jpeg(pixels: Any, quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def image_of(image_id: str, seed: int, truth: bool = True, k: int = K) -> BrowseImage:
    """Four segments in the quarters of a 4 x 6 grid, 32 x 48 pixels; segment s has cluster
    (seed + s) % k, and the last one none."""
    rng = np.random.default_rng(seed)
    segments = np.kron(np.arange(4).reshape(2, 2), np.ones((2, 3))).astype(np.int32)
    cluster = np.array([(seed + s) % k for s in range(3)] + [-1], np.int16)
    mask = np.kron(cluster.astype(np.uint8)[segments], np.ones((8, 8), np.uint8))
    pixels = np.bincount(mask.ravel(), minlength=256)
    places = np.zeros((4, DIMS), np.float32)
    places[np.arange(4), np.maximum(cluster, 0) % DIMS] = 1
    places += rng.normal(0, 0.05, places.shape).astype(np.float32)
    figures = {
        name: rng.uniform(0.2, 0.9, 4).astype(np.float32) * (cluster >= 0)
        for name in browse.FIGURES
    }
    colours = rng.integers(40, 220, (4, 3))
    known = np.where(mask < N_CLASSES, mask, 255).astype(np.uint8)
    return BrowseImage(
        image_id=image_id,
        size=(320, 480),
        preview=jpeg(colours[np.kron(segments, np.ones((8, 8), int))].astype(np.uint8)),
        shape=mask.shape,
        mask=encode_small(mask, *mask.shape),
        segments=segments,
        n_patches=np.full(4, 6, np.int32),
        cluster=cluster,
        figures=figures,
        places=places,
        valid=np.array([True, True, True, False]),
        pixels=np.r_[pixels[:k], pixels[255:]].astype(np.int64),
        truth=encode_small(known, *mask.shape) if truth else None,
        score=float(rng.uniform(0, 1)) if truth else None,
    )


def centroids_of(k: int = K) -> Array:
    return np.eye(k, max(DIMS, k), dtype=np.float32)


def pack(number: int, images: list[BrowseImage]) -> bytes:
    return browse.pack(number, [browse.packed(image) for image in images])


@dataclass
class Site:
    """What a page is written from."""

    images: list[BrowseImage]
    truth: bool = True
    title: str = "test & co"
    k: int = K
    match: list[int] = field(default_factory=lambda: [0, 1, 2, -1])
    before: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: ["sea", "rock", "fish"])

    def files(self) -> dict[str, bytes]:
        tally, packs, vectors = browse_tally.Tally(self.k, 0), {}, {}
        for row, image in enumerate(self.images):
            tally.add(row, image, np.linspace(0, 1, len(image.cluster)))
        for kind, size, made in (
            ("pack", browse.PACK_IMAGES, packs),
            ("vectors", browse.VECTOR_IMAGES, vectors),
        ):
            write = pack if kind == "pack" else browse.vectors
            for number, start in enumerate(range(0, len(self.images), size)):
                content = write(number, self.images[start : start + size])
                made[f"{browse.FOLDER}/{kind}-{number:05d}.js"] = content
        pixels = np.sum([image.pixels for image in self.images], axis=0)
        about = {
            "title": self.title,
            "version": "0",
            "n_images": len(self.images),
            "classes": self.names if self.truth else None,
            "match": self.match if self.truth else None,
            "rule": "hungarian_strict" if self.truth else None,
            "base": {
                "k": K if self.before else self.k,
                "id": "sha256:00",
                "centroids": np.eye(K).tolist(),
            },
            "before": self.before,
            "n_packs": len(packs),
            "n_vectors": len(vectors),
        }
        facts = browse_tally.facts_of(tally, centroids_of(self.k), pixels, about)
        rows = [browse.row_of(image) for image in self.images]
        made = {f"{browse.FOLDER}/index.js": browse.index(facts, rows)}
        return {**packs, **vectors, **made, "browse.html": browse.page(self.title)}

    def write(self, folder: Path) -> Path:
        for name, content in self.files().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / "browse.html"


def read(script: bytes) -> tuple[str, int, Any]:
    """(kind, number, value) of a data script."""
    found = re.fullmatch(r'datus\("(\w+)",(\d+),(.*)\);\n', script.decode("ascii"), re.S)
    assert found
    return found[1], int(found[2]), json.loads(found[3])

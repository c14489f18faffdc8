"""browse.html and the data beside it: every image of a run in a page without a server.

In: `BrowseImage` of each image, in the order of their ids, and what `browse_tally` knows at the
end. Out: bytes of files. Data stand in scripts that call `datus(kind, number, value)`: a page that
was opened from a disk may load scripts, not JSON. Nothing here reads a disk.

    page(title)                       browse.html: markup, style and code, no data
    pack(number, [packed(image)])     browse/pack-00012.js: PACK_IMAGES images to look at
    vectors(number, images)           browse/vectors-00003.js: places of VECTOR_IMAGES images
    index(facts, rows)                browse/index.js: what sorting and filtering need, of all

`<` is escaped in all data, so that no file name can end a script; the page shows text as text.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from datus.types import Array

FOLDER = "browse"
"""Of all files but the page, beside it."""
PACK_IMAGES = 32
"""Few, because sorted by score the images on the screen come from as many packs."""
VECTOR_IMAGES = 512

SCRIPTS = (
    *("core", "packs", "looks", "paint", "grid"),
    *("large", "retrieve", "clusters", "edits", "review", "main"),
)
STYLES = ("browse", "parts")


@dataclass(frozen=True, slots=True)
class BrowseImage:
    """One image as the page shows it. S segments, h x w pixels of the preview."""

    image_id: str
    size: tuple[int, int]
    """(height, width) of the image itself."""
    preview: bytes
    """JPEG, RGB, h x w."""
    shape: tuple[int, int]
    """(h, w) of the preview."""
    mask: bytes
    """Grey PNG, h x w: cluster or IGNORE."""
    segments: Array
    """int32 (gh, gw): segment of each patch."""
    n_patches: Array
    """int32 (S,)."""
    cluster: Array
    """int16 (S,), -1 = none."""
    figures: Mapping[str, Array]
    """"margin", "votes", "together", "confidence": float32 (S,), 0..1."""
    places: Array
    """float32 (S, P): vectors in the space of the clusters."""
    valid: Array
    """bool (S,): segments that have a place."""
    pixels: Array
    """int64 (K + 1,): pixels of each cluster at full size; the last counts unlabelled ones."""
    truth: bytes | None = None
    """Grey PNG, h x w: class or IGNORE; None where there is no truth."""
    score: float | None = None
    """Share of the known pixels that are right under the headline rule."""


FIGURES = ("margin", "votes", "together", "confidence")


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of an image for the index when its pack is written."""

    image_id: str
    coverage: float
    confidence: float
    """Mean over the patches that have a cluster; 0 where none has."""
    score: float | None
    shares: bytes
    """(K,) in 255ths, at least 1 where a cluster has any pixel."""


def row_of(image: BrowseImage) -> Row:
    total = max(int(image.pixels.sum()), 1)
    shares = np.ceil(255 * image.pixels[:-1] / total).astype(np.uint8)
    weight = image.n_patches * (image.cluster >= 0)
    mean = float((image.figures["confidence"] * weight).sum() / max(int(weight.sum()), 1))
    coverage = float(image.pixels[:-1].sum() / total)
    return Row(image.image_id, coverage, mean, image.score, shares.tobytes())


def pack(number: int, images: Sequence[Mapping[str, Any]]) -> bytes:
    """A script with what `packed` made of these images."""
    return call("pack", number, images)


def packed(image: BrowseImage) -> dict[str, Any]:
    """Everything that is drawn of an image, ready for JSON; most of it is the photo."""
    kind = np.dtype(np.uint8 if len(image.cluster) <= 256 else "<u2")
    table = {
        "id": image.image_id,
        "size": list(image.size),
        "preview": list(image.shape),
        "photo": _text(image.preview),
        "mask": _text(image.mask),
        "truth": None if image.truth is None else _text(image.truth),
        "grid": list(image.segments.shape),
        "wide": kind.itemsize == 2,
        "segments": _text(image.segments.astype(kind).tobytes()),
        "cluster": _text(image.cluster.astype(np.uint8).tobytes()),  # -1 becomes 255
        "patches": image.n_patches.tolist(),
    }
    return table | {name: _percent(image.figures[name]) for name in FIGURES}


def vectors(number: int, images: Sequence[BrowseImage]) -> bytes:
    """A script with the places of all valid segments, int8 with one scale for the file."""
    counts = [int(image.valid.sum()) for image in images]
    places = np.concatenate([image.places[image.valid] for image in images])
    top = float(np.abs(places).max(initial=0.0)) or 1.0
    table = {
        "counts": counts,
        "dims": int(places.shape[1]),
        "scale": top / 127,
        "segment": _joined([np.flatnonzero(image.valid).astype("<u2") for image in images]),
        "cluster": _joined([image.cluster[image.valid].astype("<i2") for image in images]),
        "values": _text(np.rint(places * (127 / top)).astype(np.int8).tobytes()),
    }
    return call("vectors", number, table)


def index(facts: Mapping[str, Any], rows: Sequence[Row]) -> bytes:
    """A script with `facts` (see `browse_tally.facts_of`) and one entry per image and column."""
    columns = {
        "id": [row.image_id for row in rows],
        "coverage": [_thousandths(row.coverage) for row in rows],
        "confidence": [_thousandths(row.confidence) for row in rows],
        "score": [None if row.score is None else _thousandths(row.score) for row in rows],
        "shares": _text(b"".join(row.shares for row in rows)),
    }
    files = {"pack_images": PACK_IMAGES, "vector_images": VECTOR_IMAGES}
    return call("index", 0, {**facts, **files, "images": columns})


def call(kind: str, number: int, value: Any) -> bytes:
    """A script that hands `value` to the page; ASCII, without `<`."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return f"datus({json.dumps(kind)},{number},{text});\n".replace("<", "\\u003c").encode()


def page(title: str) -> bytes:
    """browse.html. A content security policy lets in the code written here and what it loads."""
    code = _code()
    style = "\n" + "\n".join(_resource(f"{name}.css") for name in STYLES)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("datus.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    text = environment.get_template("browse.html.j2").render(
        title=title,
        folder=FOLDER,
        code=code,
        style=style,
        code_hash=_csp_hash(code),
        style_hash=_csp_hash(style),
    )
    return text.encode("utf-8", "backslashreplace")


def _code() -> str:
    scripts = "\n".join(_resource(f"{name}.js") for name in SCRIPTS)
    return f"\n(() => {{\n{scripts}}})();\n"


def _resource(name: str) -> str:
    return (resources.files("datus.report") / "browser" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + _text(hashlib.sha256(text.encode()).digest())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _joined(arrays: Sequence[Array]) -> str:
    return _text(b"".join(array.tobytes() for array in arrays))


def _percent(values: Array) -> str:
    percent = np.rint(100 * values.astype(np.float64)).clip(0, 100)
    return _text(percent.astype(np.uint8).tobytes())


def _thousandths(share: float) -> int:
    return round(1000 * share)

"""A drawing of strokes, markers and words, as SVG and as PNG from the same parts.

Pixels from the left and from the top. The PNG is drawn by Pillow, three times as large and then
made small, with the font that Pillow ships; the SVG takes the reader's sans-serif font.
"""

import functools
import io
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

from PIL import Image, ImageDraw, ImageFont

Place = tuple[float, float]

INK, GREY, PALE = "#222222", "#6b6b6b", "#e4e4e4"

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette without its yellow, which is too light for lines on white."""

MARKERS: tuple["Marker", ...] = ("circle", "square", "triangle", "diamond", "down", "pentagon")

Marker = Literal["circle", "square", "triangle", "diamond", "down", "pentagon"]

_CORNERS: dict[str, tuple[Place, ...]] = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
    "pentagon": ((0, -1.1), (1.05, -0.34), (0.65, 0.9), (-0.65, 0.9), (-1.05, -0.34)),
}
"""In radii around the middle."""

_FINER = 3
"""The PNG is drawn this many times as large as it comes out."""

FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Stroke:
    """A polyline."""

    points: tuple[Place, ...]
    colour: str = INK
    width: float = 1.0
    dash: float = 0.0
    """Length of dashes and of gaps; 0 = none."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A marker with a white rim, so that neighbours stay apart."""

    at: Place
    kind: Marker
    colour: str
    radius: float = 4.5


@dataclass(frozen=True, slots=True)
class Words:
    """One line of text; `at` is on its baseline."""

    at: Place
    text: str
    size: float = 12.0
    anchor: Literal["start", "middle", "end"] = "start"
    colour: str = INK


@dataclass(frozen=True, slots=True)
class Drawing:
    title: str
    """For those who cannot see it."""
    width: int
    height: int
    marks: tuple[Stroke | Spot | Words, ...]


def text_width(text: str, size: float) -> float:
    """Pixels, in the PNG's font."""
    return float(_font(round(size * 10)).getlength(text)) / 10


def to_svg(drawing: Drawing) -> bytes:
    """UTF-8; no script and no request to anywhere."""
    size = f'width="{drawing.width}" height="{drawing.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {drawing.width} {drawing.height}" role="img" '
        f'font-family="{FONT}">',
        f"<title>{escape(drawing.title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *(_svg_of(mark) for mark in drawing.marks),
        "</svg>",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def to_png(drawing: Drawing, scale: float = 2.0) -> bytes:
    """`scale` pixels for each of the drawing's."""
    factor = scale * _FINER
    size = (round(drawing.width * factor), round(drawing.height * factor))
    image = Image.new("RGB", size, "#ffffff")
    pen = ImageDraw.Draw(image)
    for mark in drawing.marks:
        _draw(pen, mark, factor)
    small = (round(drawing.width * scale), round(drawing.height * scale))
    buffer = io.BytesIO()
    image.resize(small, Image.Resampling.BOX).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _corners(spot: Spot) -> list[Place]:
    x, y = spot.at
    return [(x + dx * spot.radius, y + dy * spot.radius) for dx, dy in _CORNERS[spot.kind]]


def _svg_of(mark: Stroke | Spot | Words) -> str:
    if isinstance(mark, Stroke):
        dash = f' stroke-dasharray="{mark.dash:g}"' if mark.dash else ""
        style = f'fill="none" stroke="{mark.colour}" stroke-width="{mark.width:g}"{dash}'
        return f'<polyline points="{_pairs(mark.points)}" {style} stroke-linejoin="round"/>'
    if isinstance(mark, Words):
        x, y = mark.at
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{mark.size:g}" fill="{mark.colour}"'
        return f"<text {place} text-anchor={quoteattr(mark.anchor)}>{escape(mark.text)}</text>"
    style = f'fill="{mark.colour}" stroke="#ffffff" stroke-width="1"'
    if mark.kind == "circle":
        x, y = mark.at
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{mark.radius:g}" {style}/>'
    return f'<polygon points="{_pairs(_corners(mark))}" {style}/>'


def _pairs(points: tuple[Place, ...] | list[Place]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _draw(pen: Any, mark: Stroke | Spot | Words, factor: float) -> None:
    if isinstance(mark, Words):
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
        at = (mark.at[0] * factor, mark.at[1] * factor)
        font = _font(round(mark.size * factor))
        pen.text(at, mark.text, fill=mark.colour, font=font, anchor=anchor)
    elif isinstance(mark, Stroke):
        width = max(1, round(mark.width * factor))
        for piece in _dashes(mark):
            points = [(x * factor, y * factor) for x, y in piece]
            pen.line(points, fill=mark.colour, width=width, joint="curve")
    elif mark.kind == "circle":
        x, y = (value * factor for value in mark.at)
        for radius, colour in ((mark.radius + 1, "#ffffff"), (mark.radius, mark.colour)):
            r = radius * factor
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    else:
        points = [(x * factor, y * factor) for x, y in _corners(mark)]
        pen.line([*points, points[0], points[1]], fill="#ffffff", width=round(2 * factor))
        pen.polygon(points, fill=mark.colour)


def _dashes(stroke: Stroke) -> list[tuple[Place, ...]]:
    """The parts of a polyline that are inked; the pattern goes on around corners."""
    if not stroke.dash:
        return [stroke.points]
    pieces: list[tuple[Place, ...]] = []
    done = 0.0
    for (x0, y0), (x1, y1) in zip(stroke.points, stroke.points[1:], strict=False):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        at = 0.0
        while at < length - 1e-9:
            step = min(length - at, stroke.dash - (done + at) % stroke.dash)
            if int((done + at + step / 2) // stroke.dash) % 2 == 0:
                ends = [at / length, (at + step) / length]
                pieces.append(tuple((x0 + s * (x1 - x0), y0 + s * (y1 - y0)) for s in ends))
            at += max(step, 1e-6)
        done += length
    return pieces


@functools.cache
def _font(pixels: int) -> Any:
    return ImageFont.load_default(pixels)

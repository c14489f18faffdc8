"""Masks for people: pictures and small HTML. Arrays and words in, PIL images and text out.

    overlay_picture(image, mask, look)       one image under its colours
    contact_sheet(rows, side_px)             several side by side, with captions
    page(...)                                HTML for a notebook: every word escaped, no script

Everything is made small before it is painted, so a picture of 100 megapixels costs no more memory
than its own pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datus.method.masks import labels_to_pixels, overlay
from datus.report.pictures import Colours, css_colour, layer, photo, resized, small_size
from datus.types import Array

_CAPTION_PX, _GAP_PX, _FONT_PX = 18, 6, 12

_INK, _PAPER = "#222222", "#ffffff"


@dataclass(frozen=True, slots=True)
class Look:
    """How a mask is painted over an image."""

    palette: Array
    """uint8 (256, 3) RGB."""
    opacity: float = 0.6
    """0 = the photo, 1 = the colours."""
    side_px: int = 0
    """Of the longer side, at most; 0 = as large as the image."""


@dataclass(frozen=True, slots=True)
class Card:
    """One image of a page."""

    title: str
    image: Array | None
    """uint8 (H, W, 3); None where it cannot be read any more."""
    mask: Array
    """uint8 (H, W)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a legend."""

    name: str
    colour: tuple[int, int, int]
    share: float
    """0 to 1, of all pixels."""


def overlay_picture(image: Array | None, mask: Array, look: Look) -> Image.Image:
    """image: uint8 (H, W, 3), or a small one, or None for the colours alone; mask: uint8 (H, W)."""
    height, width = mask.shape
    wide, high = small_size(height, width, look.side_px or max(height, width))
    labels = labels_to_pixels(mask, high, wide)
    if image is None:
        return Image.fromarray(look.palette[labels])
    small = np.asarray(resized(image, (wide, high)))
    return Image.fromarray(overlay(small, labels, look.palette, look.opacity))


def contact_sheet(
    groups: Sequence[tuple[str, Sequence[Image.Image]]],
    columns: int,
    side_px: int,
    legend: Sequence[Entry] = (),
) -> Image.Image:
    """Groups of pictures, `columns` groups in a row, a caption under each, the legend below."""
    n_each = max(len(pictures) for _, pictures in groups)
    wide = n_each * side_px + (n_each - 1) * 2
    columns = min(columns, len(groups))
    rows = [groups[start : start + columns] for start in range(0, len(groups), columns)]
    tall = [max(picture.height for _, pictures in row for picture in pictures) for row in rows]
    width = columns * (wide + _GAP_PX) + _GAP_PX
    swatches = _swatches(legend, width)
    height = sum(tall) + len(rows) * (_CAPTION_PX + _GAP_PX) + _GAP_PX + swatches.height
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    top = _GAP_PX
    for row, high in zip(rows, tall, strict=True):
        for number, (caption, pictures) in enumerate(row):
            left = _GAP_PX + number * (wide + _GAP_PX)
            for place, picture in enumerate(pictures):
                sheet.paste(picture, (left + place * (side_px + 2), top))
            pen.text((left, top + high + 2), _fitting(caption, wide), _INK, font)
        top += high + _CAPTION_PX + _GAP_PX
    sheet.paste(swatches, (0, height - swatches.height))
    return sheet


def _swatches(legend: Sequence[Entry], width: int) -> Image.Image:
    """A strip of colours and names, as many lines as it takes; no height without a legend."""
    font = ImageFont.load_default(_FONT_PX)
    places, x, y = [], _GAP_PX, 0
    for entry in legend:
        text = _fitting(f"{entry.name}: {100 * entry.share:.0f} %", width // 2)
        need = 16 + round(font.getlength(text)) + 14
        if x + need > width and x > _GAP_PX:
            x, y = _GAP_PX, y + _CAPTION_PX
        places.append((x, y, text, entry.colour))
        x += need
    strip = Image.new("RGB", (width, y + _CAPTION_PX + _GAP_PX if legend else 0), _PAPER)
    pen = ImageDraw.Draw(strip)
    for x, y, text, colour in places:
        pen.rectangle((x, y + 2, x + 11, y + 13), fill=colour)
        pen.text((x + 16, y), text, _INK, font)
    return strip


def _fitting(text: str, width: int) -> str:
    """The end of a caption that is too long; what the font cannot draw becomes a box."""
    font = ImageFont.load_default(_FONT_PX)
    line = " ".join(text.split())
    while len(line) > 4 and font.getlength(line) > width:
        line = "…" + line[max(2, len(line) // 20 + 1) :]
    return line


def png_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def page(
    title: str, lines: Sequence[str], cards: Sequence[Card], legend: Sequence[Entry], look: Look
) -> str:
    """HTML of a title, lines of text, a gallery and a legend. Pictures are inside, as data."""
    colours = Colours(look.palette, np.zeros(256, bool))
    figures = "".join(_figure(card, colours, look) for card in cards)
    names = "".join(
        f'<span style="margin-right:14px;white-space:nowrap"><span style="display:inline-block;'
        f'width:11px;height:11px;background:{css_colour(entry.colour)}"></span> '
        f"{escape(entry.name)}: {100 * entry.share:.0f} %</span> "
        for entry in legend
    )
    text = "<br>".join(escape(line) for line in lines)
    return (
        f'<div style="font-family:sans-serif;font-size:13px"><b>{escape(title)}</b><br>{text}'
        f'<div style="display:flex;flex-wrap:wrap;gap:6px;margin:6px 0">{figures}</div>'
        f"<div>{names}</div></div>"
    )


def _figure(card: Card, colours: Colours, look: Look) -> str:
    """The mask lies over the photo as a layer of its own."""
    height, width = card.mask.shape
    wide, high = small_size(height, width, look.side_px)
    size, title = f"width:{wide}px;height:{high}px", f'"{escape(card.title)}"'
    below, strength = "", 1.0
    if card.image is not None:
        below = f'<img style="{size}" alt="" src="{photo(card.image, look.side_px)}">'
        strength = look.opacity
    return (
        f'<figure style="margin:0;width:{max(wide, 60)}px" title={title}>'
        f'<div style="position:relative;{size}">{below}<img style="position:absolute;left:0;top:0;'
        f'{size};opacity:{strength:g};image-rendering:pixelated" alt={title} '
        f'src="{layer(card.mask, colours, look.side_px)}"></div>'
        '<figcaption style="overflow:hidden;text-overflow:ellipsis;'
        f'white-space:nowrap;font-size:11px">{escape(card.title)}</figcaption></figure>'
    )

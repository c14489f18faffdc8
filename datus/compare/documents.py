"""A comparison to its files: tables, figures, pictures and compare.json.

    links = write(found)           into RUN/compare/NAME: what -> where
    print(summary(found, links))

Same cells, same bytes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import datus
from datus.compare import figures, plots, tables
from datus.compare.cells import SEGMENTS, CellResult, Comparison, lines_of, varying
from datus.inputs.decode import decode_image
from datus.inputs.labels import decode_labels
from datus.method.baselines import renumbered
from datus.method.masks import PALETTE
from datus.report.display import Look, contact_sheet, overlay_picture, png_bytes
from datus.report.numbers import rounded
from datus.report.pictures import shrunk
from datus.report.summary import HEADLINE, RULES
from datus.store.store import Store

SHOWN = {
    "table": "table.md",
    "pictures": "pictures.png",
    "figure 7": "figure7.svg",
    "figure 9": "figure9.svg",
}
"""What the command names of its files."""

ONLY_SOME = re.compile(
    r"pictures\.png|figure[79]\.(svg|png)|(scores|scores_.*|segments|embedders_.*)\.csv"
)
"""Files that only some comparisons have."""


def write(comparison: Comparison, out: str = "") -> dict[str, str]:
    """All documents into `out`, or RUN/compare/NAME. What they are -> where they are."""
    store = Store(out or Store(comparison.run_path).address("compare", comparison.name))
    files = documents(comparison)
    for name in store.files():
        if ONLY_SOME.fullmatch(name) and name not in files:  # of another layout of the same cells
            store.remove(name)
    for name, content in files.items():
        store.write(content, name)
    return {label: store.address(name) for label, name in SHOWN.items() if name in files}


def summary(comparison: Comparison, links: Mapping[str, str]) -> str:
    """What the command prints: the table, what was made, and where it all is."""
    made = tables.layout(comparison.table, comparison.results, comparison.rules)
    text = tables.to_markdown(made, tables.notes_of(comparison.results, made))
    places = (f"{label}: {path}" for label, path in links.items())
    return "\n".join([text, f"{comparison.made} shards made", *places])


def documents(comparison: Comparison) -> dict[str, bytes]:
    """table.md, table.tex, compare.json, a CSV a table, and figures and pictures of those that
    have enough points."""
    made = tables.layout(comparison.table, comparison.results, comparison.rules)
    files = {
        "table.md": tables.to_markdown(made, tables.notes_of(comparison.results, made)).encode(),
        "table.tex": tables.to_latex(made).encode(),
        "compare.json": _json(comparison),
        **{f"{table.key}.csv": tables.to_csv(table).encode() for table in made},
    }
    with plots.look():
        drawn = {
            "figure7": figures.figure7(comparison.results, comparison.rules[0]),
            "figure9": figures.figure9(comparison.results, comparison.rules),
        }
        for name, figure in drawn.items():
            files |= {} if figure is None else plots.rendered(figure, name)
    sheet = pictures(comparison)
    return files if sheet is None else {**files, "pictures.png": sheet}


def _json(comparison: Comparison) -> bytes:
    """Everything: all rules, classes, seconds, shared shards. Nothing of this command's history."""
    document = {
        "datus": datus.__version__,
        "name": comparison.name,
        "table": comparison.table,
        "headline": HEADLINE,
        "rules": RULES,
        "classes": next((cell.class_names for cell in comparison.results if cell.class_names), ()),
        "cells": [_cell_json(cell) for cell in comparison.results],
    }
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _cell_json(cell: CellResult) -> dict[str, Any]:
    asked = ("run", "preset", "backbone", "embedder", "k", "seed")
    row: dict[str, Any] = {name: getattr(cell, name) for name in asked}
    if cell.reason:
        return {**row, "failed": cell.reason}
    return {
        **row,
        "n_images": cell.n_images,
        "n_valid_segments": cell.n_valid,
        "n_segments": cell.n_segments,
        **{n: rounded(cell.value(n)) for n in SEGMENTS if n != "n_segments"},
        "scores": {
            rule: rounded(cell.scores[rule].as_dict()) for rule in RULES if rule in cell.scores
        },
        "seconds": dict(cell.seconds),
        "shards": {"all": cell.n_shards, "shared_with_earlier_cells": cell.n_shared},
        "report": cell.report,
    }


# --- pictures -----------------------------------------------------------------------------------

MAX_COLUMNS = 8
"""Masks beside one another; of more lines, the first."""

SIDE_PX = 256
"""Of a picture, at most: that of the pictures that runs keep."""

MAX_PIXELS = SIDE_PX**2


def pictures(comparison: Comparison) -> bytes | None:
    """A PNG: some images, each with its masks of every line, in the colours of the first line's
    clusters; None where there are fewer than two lines to compare."""
    lines = [line for line in lines_of(comparison.results) if line.first.pictures][:MAX_COLUMNS]
    if len(lines) < 2:
        return None
    shared = set.intersection(*(set(line.first.pictures) for line in lines))
    first = lines[0].first
    image_ids = [image_id for image_id in first.pictures if image_id in shared]
    if not image_ids:
        return None
    names = [name for name in varying(comparison.results) if name != "seed"]
    labels = [" ".join(str(getattr(line.first, name)) for name in names) for line in lines]
    columns = [
        [decode_labels(line.first.pictures[image_id][1], MAX_PIXELS) for image_id in image_ids]
        for line in lines
    ]
    for line, masks in zip(lines[1:], columns[1:], strict=True):
        masks[:] = renumbered(masks, columns[0], max(line.first.k, first.k))
    look, groups = Look(PALETTE, 0.6, SIDE_PX), []
    for image_id, *masks in zip(image_ids, *columns, strict=True):
        photo = decode_image(first.pictures[image_id][0], MAX_PIXELS)
        shown = [overlay_picture(photo, mask, look) for mask in masks]
        groups.append((f"{image_id}: image, {', '.join(labels)}", [shrunk(photo, SIDE_PX), *shown]))
    return png_bytes(contact_sheet(groups, 1, SIDE_PX))

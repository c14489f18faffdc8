"""Pictures and HTML for people."""

import numpy as np
from PIL import Image

from datus.method.masks import PALETTE
from datus.report.display import Card, Entry, Look, contact_sheet, overlay_picture, page
from datus.report.pictures import shrunk

IMAGE = np.full((20, 40, 3), 100, np.uint8)
MASK = np.zeros((20, 40), np.uint8)
MASK[:, 20:] = 1
LOOK = Look(PALETTE, 1.0)


def test_overlay_has_the_colours_of_the_palette() -> None:
    found = np.asarray(overlay_picture(IMAGE, MASK, LOOK))
    assert found.shape == (20, 40, 3)
    assert found[5, 5].tolist() == PALETTE[0].tolist()
    assert found[5, 30].tolist() == PALETTE[1].tolist()
    bare = np.asarray(overlay_picture(IMAGE, MASK, Look(PALETTE, 0.0)))
    assert bare[5, 5].tolist() == [100, 100, 100]


def test_overlay_is_made_small_and_does_without_a_photo() -> None:
    assert overlay_picture(IMAGE, MASK, Look(PALETTE, 1.0, 10)).size == (10, 5)
    assert overlay_picture(IMAGE, MASK, Look(PALETTE, 1.0, 400)).size == (40, 20)
    found = np.asarray(overlay_picture(None, MASK, LOOK))
    assert found[0, 0].tolist() == PALETTE[0].tolist()


def test_shrunk_never_enlarges() -> None:
    assert shrunk(IMAGE, 400).size == (40, 20)
    assert shrunk(IMAGE, 0).size == (40, 20)
    assert shrunk(IMAGE, 8).size == (8, 4)


def test_a_sheet_holds_every_picture() -> None:
    red, blue = Image.new("RGB", (40, 20), "#ff0000"), Image.new("RGB", (20, 40), "#0000ff")
    legend = [Entry("sky", (0, 255, 0), 0.5), Entry("a very long name " * 9, (1, 2, 3), 0.1)]
    sheet = contact_sheet(
        [("one", [red, blue]), ("two", [red]), ("x" * 300, [blue])], 2, 40, legend
    )
    pixels = np.asarray(sheet).reshape(-1, 3)
    count = {colour: int((pixels == colour).all(1).sum()) for colour in ((255, 0, 0), (0, 0, 255))}
    assert count == {(255, 0, 0): 1600, (0, 0, 255): 1600}
    assert (pixels == (0, 255, 0)).all(1).any()


def test_a_page_escapes_every_word() -> None:
    bad = "<b>\"'&"
    card = Card(bad, IMAGE, MASK)
    text = page(bad, [bad], [card, Card(bad, None, MASK)], [Entry(bad, (1, 2, 3), 0.25)], LOOK)
    assert "<b>\"'" not in text
    assert text.count("&lt;b&gt;&quot;&#x27;&amp;") >= 6
    assert "#010203" in text
    assert "25 %" in text
    assert text.count("data:image/jpeg") == 1
    assert text.count("data:image/png") == 2

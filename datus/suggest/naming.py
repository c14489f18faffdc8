"""Vectors of crops and of words -> suggested names for clusters. Pure: no model, no files.

    words = parse_words(text, "words.txt")              one a line, checked
    prompts("traffic_sign")                             the sentences that stand for a word
    found = suggest(crops, vectors, words, top=3)
    to_toml(found, given, about), renames(found, given)     drafts of names.toml, of edits.json

In:  of each cluster float32 (n, E) unit vectors of crops; float32 (W, E) unit vectors of
     words in the same space (Radford et al., 2021, zero-shot classification).
Out: of each cluster its best words by mean cosine over its crops. A suggestion is a guess of a
     model that nobody has checked on these images: a person decides.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datus.errors import UsageError
from datus.types import Array

TEMPLATES = (
    "{}",
    "a photo of {}",
    "a photo of a {}",
    "a cropped photo of {}",
    "part of a photo that shows {}",
)
"""A word alone reads like a headline; sentences are what text-image models were trained on."""

MAX_WORD = 60
"""Characters: three words of dots still fit into a line that a TOML file of ours may have."""

DIGITS = 6
"""Of scores, behind the point."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A word for a cluster."""

    word: str
    score: float
    """Mean cosine with the cluster's crops, -1..1."""
    margin: float
    """How much the next word scores less; 0 for the last word of all."""


@dataclass(frozen=True, slots=True)
class Suggested:
    """What a cluster may be called."""

    cluster: int
    n_crops: int
    share: float
    """Of the crops, those whose own best word is the first guess, 0..1."""
    guesses: tuple[Guess, ...]
    """Best first; none where the cluster has no crops."""


def parse_words(text: str, origin: str) -> tuple[str, ...]:
    """Words, one a line; empty lines and those that start with # are left out.

    Raises UsageError: see `check_words`. `origin` is the file, for messages.
    """
    lines = (line.strip() for line in text.splitlines())
    return check_words([line for line in lines if line and not line.startswith("#")], origin)


def check_words(words: Sequence[str], origin: str) -> tuple[str, ...]:
    """The words. Raises UsageError: fewer than two, too long, twice, or the name of a cluster."""
    if len(words) < 2:
        have = f"only {words[0]!r}" if words else "none"
        raise UsageError(f"{origin}: expected two words or more, one a line, got {have}")
    seen = set[str]()
    for word in words:
        if not word.strip() or len(word) > MAX_WORD or not word.isprintable():
            raise UsageError(
                f"{origin}: expected words of 1 to {MAX_WORD} characters, got {word[:80]!r}"
            )
        if re.fullmatch(r"cluster \d+", word):
            raise UsageError(f"{origin}: {word!r} is what a cluster without a name is called")
        if word.casefold() in seen:
            raise UsageError(f"{origin}: {word!r} is there twice")
        seen.add(word.casefold())
    return tuple(words)


def prompts(word: str) -> tuple[str, ...]:
    """A word in each of TEMPLATES; class tables write "traffic_sign" where people write a space."""
    return tuple(one.format(word.replace("_", " ")) for one in TEMPLATES)


def suggest(
    crops: Sequence[Array], vectors: Array, words: Sequence[str], top: int
) -> tuple[Suggested, ...]:
    """Of each label the `top` words with the largest mean cosine.

    crops: of each label float32 (n, E), vectors float32 (W, E): unit rows. Words of one score stand
    in their own order. Raises ValueError if shapes do not fit.
    """
    if len(vectors) != len(words) or any(one.shape[1:] != vectors.shape[1:] for one in crops):
        shapes = sorted({one.shape[1:] for one in crops})
        raise ValueError(
            f"expected (n, E) crops and (W, E) words, got rows of {shapes}, {vectors.shape} and "
            f"{len(words)} words"
        )
    wide = vectors.astype(np.float64)
    return tuple(_of_cluster(i, rows, wide, words, top) for i, rows in enumerate(crops))


def as_dict(one: Suggested) -> dict[str, Any]:
    """Plain values for JSON."""
    guesses = [
        {"word": each.word, "score": _round(each.score), "margin": _round(each.margin)}
        for each in one.guesses
    ]
    return {
        "cluster": one.cluster,
        "crops": one.n_crops,
        "share": _round(one.share),
        "words": guesses,
    }


def to_toml(found: Sequence[Suggested], given: Sequence[str], about: Sequence[str]) -> str:
    """A names.toml with the first guess of each cluster, the others behind it as a comment.

    given: what a person called each label, empty where nobody did. Such labels keep their names.
    about: lines for the head of the file.
    """
    lines = [*(f"# {line}" for line in about), "[names]"]
    for one, name in zip(found, given, strict=True):
        if name:
            lines.append(f"# {one.cluster} keeps its name: {name}")
        elif not one.guesses:
            lines.append(f"# {one.cluster}: no segments to look at")
        else:
            others = ", ".join(f"{each.word} {each.score:.3f}" for each in one.guesses[1:3])
            first = one.guesses[0]
            more = f"; next: {others}" if others else ""
            lines.append(f"{one.cluster} = {_quoted(first.word)}  # {first.score:.3f}{more}")
    return "\n".join(lines) + "\n"


def renames(found: Sequence[Suggested], given: Sequence[str]) -> list[dict[str, Any]]:
    """The first guesses as edits of an edits.json; labels that have a name are left out."""
    return [
        {"op": "rename", "cluster": one.cluster, "name": one.guesses[0].word}
        for one, name in zip(found, given, strict=True)
        if one.guesses and not name
    ]


# --- parts --------------------------------------------------------------------------------------


def _of_cluster(
    number: int, rows: Array, vectors: Array, words: Sequence[str], top: int
) -> Suggested:
    """rows float32 (n, E), vectors float64 (W, E)."""
    if not len(rows):
        return Suggested(number, 0, 0.0, ())
    # no BLAS: one order of sums on every machine
    cosine = np.einsum("ne,we->nw", rows.astype(np.float64), vectors, optimize=False)
    score = cosine.mean(axis=0)
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    margins = np.append(ranked[:-1] - ranked[1:], 0.0)
    guesses = [
        Guess(words[int(place)], float(value), float(margin))
        for place, value, margin in zip(order[:top], ranked[:top], margins[:top], strict=True)
    ]
    share = float((cosine.argmax(axis=1) == order[0]).mean())
    return Suggested(number, len(cosine), share, tuple(guesses))


def _round(value: float) -> float:
    return round(value, DIGITS) + 0.0  # no minus before zero


def _quoted(word: str) -> str:
    """A basic string of TOML; printable text is written in it as in JSON."""
    return json.dumps(word, ensure_ascii=False)

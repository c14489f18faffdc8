"""How the fuzzer changes valid bytes: as bytes, as text, as a tree of JSON."""

import json
import random
import re
import struct
from collections.abc import Iterator
from typing import Any

from fuzz_seeds import Reader

LIMITS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
WORDS = (
    *(bytes([one]) for one in b"[]{}\"'=.,\n#\\\0\xff-"),
    *(b"nan", b"inf", b"-1", b"1e999", b"true", b"null", b"9" * 30, b"9" * 5000, b"[]", b"{}"),
    *(b"[[classes]]\n", b"\\ud800", b"1979-05-27", b"0x", b'"""', b"../../x", b"__proto__"),
)


JSON_SHARE = 0.7
"""Of changes of JSON that keep it JSON."""


def changed(rng: random.Random, reader: Reader) -> bytes:
    """One to four changes of a seed, and now and then its checksums put right."""
    data = rng.choice(reader.seeds)
    for _ in range(rng.choice((1, 1, 2, 4))):
        change = rng.choice(TEXT if reader.is_text else BINARY)
        if reader.is_json and rng.random() < JSON_SHARE:
            change = tree
        data = change(rng, data, reader.seeds)
    return reader.mend(data) if rng.random() < 0.6 else data


def flip(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    fresh = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if fresh:
            fresh[rng.randrange(len(fresh))] ^= 1 << rng.randrange(8)
    return bytes(fresh)


def head(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    """A flip where headers are."""
    return flip(rng, data[:200], seeds) + data[200:]


def cut(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def leave_out(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def repeat(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] * rng.choice((1, 2, 30)) + data[end:]


def splice(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def number(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    """A whole number in place of the bytes that stand there."""
    code = rng.choice("BHIQ")
    one = struct.pack(rng.choice("<>") + code, rng.choice(LIMITS) % 256 ** struct.calcsize(code))
    place = rng.randrange(min(len(data), rng.choice((64, 1 << 30))) + 1)
    return data[:place] + one + data[place + len(one) :]


def word(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(WORDS) + data[place + rng.choice((0, 0, 1, 5)) :]


def value(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    """Another value in place of a number or a text."""
    found = list(re.finditer(rb'\d{1,99}|"[^"]{0,99}"|\[[^\[\]]{0,99}\]', data))
    if not found:
        return data
    place = rng.choice(found)
    return data[: place.start()] + rng.choice(WORDS) + data[place.end() :]


def nest(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    place, deep = rng.randrange(len(data) + 1), rng.choice((50, 2000, 100_000))
    opening = rng.choice((b"[", b"{", b'{"a":', b"a.", b"[[", b"{a="))
    return data[:place] + opening * deep + data[place:]


BINARY = (flip, head, cut, leave_out, repeat, splice, number, number)
TEXT = (flip, cut, leave_out, repeat, splice, word, word, value, value, nest)


# --- JSON as a tree -----------------------------------------------------------------------------

DEEP: list[Any] = []
for _ in range(60):
    DEEP = [DEEP]

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 65536, 2**31, 2**63, -(2**63), 10**40),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "a", "a" * 3000, "\ud800", "\0", "..", "../../x", "/", "0", "nan", "\u202e"),
    *([], {}, [[]], [{}], {"": {}}, [0] * 300, ["a"] * 300, [None], {"a": 1}, DEEP),
)
"""In place of a value."""


def tree(rng: random.Random, data: bytes, seeds: tuple[bytes, ...]) -> bytes:
    """One to five changes of a valid JSON; other bytes are left as they are."""
    try:
        top = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        top = _changed_tree(rng, top)
    try:
        return json.dumps(top).encode()
    except (ValueError, RecursionError):
        return data


def _changed_tree(rng: random.Random, top: Any) -> Any:
    places = list(_places(top))
    if not places:
        return rng.choice(HOSTILE)
    parent, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.extend(parent[: rng.choice((1, 5, 300))])
    elif kind == 2:
        parent[key] = [parent[key]]
    elif kind == 3:
        other, name = rng.choice(places)
        with_it = _value(other, name)
        parent[key] = json.loads(json.dumps(with_it))
    elif kind == 4 and isinstance(parent[key], int | float):
        factor = rng.choice((-1, 2, 1000, 1e9, 0.5))
        parent[key] = type(parent[key])(parent[key] * factor) if parent[key] == parent[key] else 0
    elif kind == 5 and isinstance(parent, dict):
        parent[str(rng.choice(HOSTILE))[:20]] = parent.pop(key)
    else:
        parent[key] = json.loads(json.dumps(rng.choice(HOSTILE)))
    return top


def _places(top: Any) -> Iterator[tuple[Any, Any]]:
    """(parent, key) of all values, but for those deep inside long lists of numbers."""
    todo = [top]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            pairs = list(one.items())
        elif isinstance(one, list):
            pairs = list(enumerate(one[:40]))
        else:
            continue
        for key, value in pairs:
            yield one, key
            todo.append(value)


def _value(parent: Any, key: Any) -> Any:
    return parent[key] if not isinstance(parent, list) or key < len(parent) else None

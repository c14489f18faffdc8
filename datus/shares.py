"""Which shards are this process's: `--shards 3/64`.

In:  "3/64" (the third of 64 shares, counted from 1), "none", or nothing.
Out: Share, and what it picks of a list of shard keys.

The split follows from the keys alone, in their order, one after the other as cards are dealt. Keys
are hashes, so that large and small shards are mixed. All processes that see the same index agree.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from datus.errors import ConfigError

MOST = 100_000


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of the stages that do one shard after the other."""

    number: int
    """From 1; 0 = none of the shards, only what needs all of them."""
    of: int

    @property
    def is_none(self) -> bool:
        return self.number == 0

    def keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of `keys` that are this share's."""
        if self.is_none:
            return frozenset()
        return frozenset(sorted(set(keys))[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return "none" if self.is_none else f"{self.number}/{self.of}"


def parse_share(text: str) -> Share | None:
    """None for an empty text: all shards are this process's. Raises ConfigError."""
    if not text:
        return None
    if text == "none":
        return Share(0, 1)
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= MOST:
        raise ConfigError(
            f"speed.shards: expected NUMBER/OF such as 3/64, counted from 1, or none; got {text!r}"
        )
    return Share(int(match[1]), int(match[2]))

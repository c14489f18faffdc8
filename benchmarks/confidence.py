"""What each sign of confidence is worth: accuracy of the surest pixels, as a Markdown table.

    python benchmarks/confidence.py RUN --truth DIR --classes TOML [--k 11]

RUN is a finished run folder. Segments are put in order by a sign, the surest first; the table
shows how many of the first 20, 40, 60 and 80 % of the pixels have the right class, under the match
of all pixels, and the mean of that over all shares. `random` is no sign, `the truth` is the best
that any could do.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datus.formats.export import find_masks
from datus.inputs.labels import decode_labels, load_classes, truth_classes
from datus.method.masks import labels_to_pixels
from datus.method.metrics import add, count_pixels, fit_match
from datus.store.store import Store
from datus.types import IGNORE, Array, ClassTable, Confusion

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
RULES = ("hungarian_strict", "majority")


@dataclass(frozen=True, slots=True)
class Segments:
    """Of one image."""

    cluster: Array
    signs: dict[str, Array]
    pixels: Array
    """int64 (S, C): pixels by true class."""
    confusion: Confusion


def segments_of(args: argparse.Namespace, table: ClassTable) -> Iterator[Segments]:
    store = Store(str(args.run))
    masks = find_masks(store, args.k)
    for shard in masks.index.shards:
        drawn = store.read_shard(("masks", masks.scored[0], shard.key))
        cut = store.read_shard(("segments", masks.scored[1], shard.key))
        for record in shard.records:
            if record.truth_path is None or not drawn or record.image_id not in drawn.arrays:
                continue
            size = record.height, record.width
            labels = decode_labels((args.truth / record.truth_path).read_bytes(), 10**9)
            truth = truth_classes(labels, table, size)
            found, segmented = drawn.arrays[record.image_id], cut.arrays[record.image_id]
            segment = labels_to_pixels(segmented["labels"], *size).astype(np.int64)
            known, n_classes = truth != IGNORE, table.n_classes
            n_segments = len(found["cluster"])
            codes = segment[known] * n_classes + truth[known]
            pixels = np.bincount(codes, minlength=n_segments * n_classes)
            mask = decode_labels(found["png"].tobytes(), 10**9)
            yield Segments(
                found["cluster"],
                {
                    "margin": found["margin"],
                    "votes": found["votes"],
                    "together": segmented["together"],
                    "size": segmented["n_patches"].astype(np.float32),
                    "confidence": found["confidence"],
                },
                pixels.reshape(n_segments, n_classes),
                count_pixels(mask, truth, masks.k, n_classes),
            )


def surest_first(sign: Array, right: Array, pixels: Array) -> tuple[float, ...]:
    """Percent right of each of SHARES, and the mean over all shares."""
    order = np.argsort(-sign, kind="stable")
    done = np.cumsum(pixels[order])
    accuracy = 100 * np.cumsum(right[order]) / np.maximum(done, 1)
    places = np.minimum(np.searchsorted(done, np.array(SHARES) * done[-1]), len(done) - 1)
    mean = float((accuracy * pixels[order]).sum() / done[-1])
    return (*accuracy[places].tolist(), mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--k", type=int, default=0)
    args = parser.parse_args()
    found = list(segments_of(args, load_classes(args.classes)))
    cluster = np.concatenate([one.cluster for one in found])
    by_class = np.concatenate([one.pixels for one in found])
    pixels = by_class.sum(axis=1)
    signs = {name: np.concatenate([one.signs[name] for one in found]) for name in found[0].signs}
    confusion = add(one.confusion for one in found)
    head = " | ".join(f"{100 * share:.0f} %" for share in SHARES)
    for rule in RULES:
        match = fit_match(confusion, rule)[np.maximum(cluster, 0)]
        matched = (match >= 0) & (cluster >= 0)
        right = np.where(matched, by_class[np.arange(len(match)), np.maximum(match, 0)], 0)
        rows = {"random": np.random.default_rng(0).random(len(pixels)), **signs}
        rows["the truth"] = right / np.maximum(pixels, 1)
        print(f"\n| `{rule}`, surest | {head} | mean |\n|---|" + "---|" * (len(SHARES) + 1))
        for name, sign in rows.items():
            values = surest_first(sign, right, pixels)
            print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")


if __name__ == "__main__":
    main()

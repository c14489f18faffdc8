"""What an export costs, format by format, beside reading the masks.

    python benchmarks/bench_export.py RUN IMAGES

RUN: a finished run (with several K: the first); IMAGES: its images. Prints milliseconds an image,
and how many times as long that is as reading and checking the masks alone.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datus.formats.export import Masks, Request, export_run, find_masks, read_labels
from datus.formats.formats import FORMATS
from datus.formats.records import Options
from datus.store.latest import names
from datus.store.reports import reports
from datus.store.store import Store


def main() -> None:
    store, images = Store(sys.argv[1]), Path(sys.argv[2])
    found = [name.removeprefix("masks-k") for name in names(store) if name.startswith("masks-k")]
    masks = find_masks(store, min(map(int, found)))
    n_images = sum(len(shard.records) for shard in masks.index.shards)
    with tempfile.TemporaryDirectory() as folder:

        def export(name: str, out: str) -> None:
            target = Path(folder) / out
            request = Request(name, FORMATS[name], Options(), target, images=images)
            export_run(store, masks, request)

        for name in FORMATS:
            export(name, f"{name}-first")  # libraries are loaded, kernels compiled
        alone = seconds(read_all, store, masks)
        print(f"| {n_images} images | ms an image | times reading |\n|---|---|---|")
        print(f"| reading the masks | {1000 * alone / n_images:.2f} | 1.0 |")
        for name in FORMATS:
            taken = seconds(export, name, name)
            print(f"| {name} | {1000 * taken / n_images:.2f} | {taken / alone:.1f} |")


def read_all(store: Store, masks: Masks) -> None:
    places = [(masks.stage, masks.fingerprint, shard.key) for shard in masks.index.shards]
    for shard, report in zip(masks.index.shards, reports(store, places), strict=True):
        assert report is not None
        for record in shard.records:
            read_labels(store, masks, record, report)


def seconds(function: Callable[..., Any], *given: Any) -> float:
    start = time.perf_counter()
    function(*given)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

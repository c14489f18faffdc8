"""browse.html with many images: seconds to write it, bytes, seconds to the first view, scrolling.

    python benchmarks/bench_browse.py --run runs/photos --images 10000 --out page

Takes the previews, masks and segments of a finished run, repeats them under new names until there
are as many as asked for, writes the page as the report stage does, and opens it in Chromium
(needs playwright and a Chromium on the PATH; without them it only writes).
"""

import argparse
import json
import resource
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datus.config import Config
from datus.engine.stage import Context, Runtime
from datus.inputs.index import Index, Shard
from datus.stages import browse_page as browsing
from datus.store.store import ShardReport, Store
from datus.types import ImageRecord, ShardData


@dataclass
class Repeated:
    """A finished run whose shards come again and again (gather.Dataset)."""

    store: Store
    marks: dict[str, str]
    shards: tuple[Shard, ...]
    n_images: int
    out: Path
    n_bytes: int = 0
    n_files: int = 0
    warnings: tuple[str, ...] = ()
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        records = tuple(record for shard in self._rounds() for record in shard.records)
        self.index = Index(records, {}, 0)

    def _rounds(self) -> Iterator[Shard]:
        left, turn = self.n_images, 0
        while left > 0:
            for shard in self.shards:
                taken = shard.records[: max(left, 0)]
                left -= len(taken)
                named = tuple(replace(r, image_id=_name(turn, r.image_id)) for r in taken)
                yield Shard(shard.key, named)
            turn += 1

    def data(self, stage: str, k: int) -> Iterator[tuple[Shard, ShardData]]:
        if stage == "clusters":
            found = self.store.read_shard((stage, self.marks[stage], "all"))
            assert found
            yield Shard("all", ()), found
            return
        for shard in self._rounds():
            found = self.store.read_shard((stage, self.marks[stage], shard.key))
            assert found
            turn = shard.records[0].image_id.split("/")[0] if shard.records else ""
            arrays = {f"{turn}/{name}": one for name, one in found.arrays.items()}
            yield shard, ShardData(arrays)

    def reports(self, stage: str, k: int) -> Iterator[ShardReport]:
        images = tuple(record.image_id for record in self.index.records)
        yield ShardReport(images, {}, {}, {}, True, "", 0, 0.0)

    def keep(self, name: str, content: bytes) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.n_bytes += len(content)
        self.n_files += 1

    def file(self, stage: str, k: int, name: str) -> bytes:
        raise NotImplementedError

    def workplace(self, stage: str, k: int) -> Any:
        raise NotImplementedError


def _name(turn: int, image_id: str) -> str:
    return f"{turn:05d}/{image_id}"


def build(run: str, n_images: int, out: Path, threads: int) -> dict[str, float]:
    """Write the page; what it took. Without true masks: reading them again is not the page's."""
    store = Store(run)
    report = store.recipes("report")[0][1]
    upstream = {name.partition(":")[0]: mark for name, mark in report["upstream"].items()}
    lines = store.read("index", "index.jsonl").decode().splitlines()
    shards = _shards(lines)
    k = next(recipe for _, recipe in store.recipes("clusters"))["settings"]["k"]
    config = Config.load(None, {"clusters.k": [k], "report.browse": n_images, "data.images": run})
    dataset = Repeated(store, upstream, shards, n_images, out)
    started, worked = time.perf_counter(), time.process_time()
    context = Context(config, k, Runtime("cpu", threads, 1))
    browsing.write_browser(context, dataset, lambda n: None)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    return {
        "images": n_images,
        "seconds to write": round(seconds, 1),
        "seconds of all cores": round(worked, 1),
        "MB": round(dataset.n_bytes / 1e6, 1),
        "KB an image": round(dataset.n_bytes / 1e3 / n_images, 1),
        "files": dataset.n_files,
        "index MB": round((out / "browse" / "index.js").stat().st_size / 1e6, 2),
        "peak MB of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _shards(lines: list[str]) -> tuple[Shard, ...]:
    found: dict[str, list[ImageRecord]] = {}
    for line in lines:
        table = json.loads(line)
        if "image_id" in table:
            names = ImageRecord.__slots__
            record = ImageRecord(**{name: table[name] for name in names if name in table})
            found.setdefault(record.shard, []).append(record)
    return tuple(Shard(key, tuple(records)) for key, records in found.items())


SCROLL = """async () => {
  const scroller = document.getElementById("scroller");
  const gaps = [], empty = [];
  let before = performance.now();
  for (let frame = 0; frame < 300; frame += 1) {
    scroller.scrollTop += 60;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - before);
    before = now;
    empty.push(document.querySelectorAll(".card canvas.waiting").length);
  }
  return {gaps, empty};
}"""


def look(page_path: Path) -> dict[str, float]:
    """Open it, wait for the first pictures, scroll, jump to the end, sort, find segments."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome") or ""
    ready = "document.querySelectorAll('.card canvas:not(.waiting)').length > 10"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900}, bypass_csp=True)
        begun = time.perf_counter()
        page.goto(page_path.as_uri())
        page.wait_for_function(ready)
        first = time.perf_counter() - begun
        found = page.evaluate(SCROLL)
        gaps = sorted(found["gaps"][5:])
        jump = _timed(page, "document.getElementById('scroller').scrollTop = 1e9")
        page.keyboard.press("Home")
        sort = _timed(
            page,
            "document.getElementById('sort').value = 'confidence';"
            "document.getElementById('sort').dispatchEvent(new Event('input'))",
        )
        page.locator(".card").first.click()
        page.wait_for_selector("#segment-list button", state="attached")
        begun = time.perf_counter()
        page.evaluate("document.querySelector('#segment-list button').click()")
        page.wait_for_selector("#retrieval .crop", timeout=60_000)
        searched = time.perf_counter() - begun
        page.evaluate("document.querySelectorAll('#segment-list button')[1].click()")
        page.wait_for_timeout(2000)
        again = page.locator("#retrieval p").inner_text().rsplit(";", 1)[1]
        heap = page.evaluate("performance.memory ? performance.memory.usedJSHeapSize / 1e6 : 0")
        browser.close()
    return {
        "seconds to the first pictures": round(first, 2),
        "ms a frame, median": round(statistics.median(gaps), 1),
        "ms a frame, 95 %": round(gaps[int(0.95 * len(gaps))], 1),
        "ms a frame, worst": round(gaps[-1], 1),
        "empty cards, mean": round(statistics.mean(found["empty"]), 1),
        "seconds from the top to the end": round(jump, 2),
        "seconds to sort and show": round(sort, 2),
        "seconds of the first search": round(searched, 2),
        "a later search": again.strip(),
        "MB of the page's heap": round(heap),
    }


def _timed(page: Any, action: str) -> float:
    begun = time.perf_counter()
    page.evaluate(action)
    page.wait_for_timeout(30)
    page.wait_for_function("document.querySelectorAll('.card canvas.waiting').length === 0")
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the page into")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for name, value in build(
        arguments.run, arguments.images, arguments.out, arguments.threads
    ).items():
        print(f"{name:32}{value:>12}")
    if shutil.which("chromium") or shutil.which("google-chrome"):
        for name, figure in look(arguments.out / "browse.html").items():
            print(f"{name:32}{figure:>12}")


if __name__ == "__main__":
    main()

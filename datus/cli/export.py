"""The command `datus export`: the masks of a finished run in the layout of another tool."""

from pathlib import Path
from typing import Annotated

import typer

from datus.engine.progress import ProgressBars
from datus.errors import UsageError


def export(
    run: Annotated[str, typer.Argument(help="folder of a finished run", metavar="RUN")],
    to: Annotated[
        str,
        typer.Option(
            help="png, coco, coco-panoptic, yolo, cvat, label-studio, fiftyone, hf or voc"
        ),
    ],
    out: Annotated[Path, typer.Option(help="a new folder")],
    k: Annotated[int, typer.Option(help="where the run has several")] = 0,
    denoised: Annotated[bool, typer.Option("--denoised", help="the de-noised masks")] = False,
    names: Annotated[
        str, typer.Option(help="names.toml; matched or majority: the true classes'")
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="the run's images, to export them too")
    ] = None,
    polygons: Annotated[bool, typer.Option("--polygons", help="coco: outlines, not RLE")] = False,
    min_area: Annotated[
        int, typer.Option(help="coco, yolo: leave smaller parts out, in pixels")
    ] = 1,
    min_confidence: Annotated[
        float, typer.Option(help="0 to 1: less sure pixels get no label")
    ] = 0.0,
    image_url: Annotated[
        str, typer.Option(help="label-studio: what stands before an image's path")
    ] = "/data/local-files/?d=images/",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an earlier export")
    ] = False,
) -> None:
    """Write a run's masks for another tool: annotation tools, trainers, viewers."""
    from datus.formats.export import Request, export_run, find_masks
    from datus.formats.formats import find_format
    from datus.formats.records import Options
    from datus.store.store import Store

    chosen = find_format(to)
    if polygons and not chosen.polygons:
        raise UsageError(f"--polygons is for --to coco, not for {to}")
    if min_area < 1:
        raise UsageError(f"--min-area {min_area}: expected at least 1 pixel")
    if not 0 <= min_confidence <= 1:
        raise UsageError(f"--min-confidence {min_confidence}: expected 0 to 1")
    store = Store(run)
    masks = find_masks(store, k, denoised)
    options = Options(polygons=polygons, min_area=min_area, image_url=image_url)
    request = Request(to, chosen, options, out, names, images, overwrite, min_confidence)
    n_images = len(masks.index.records)
    with ProgressBars().bar(f"export {to}", n_images) as advance:
        result = export_run(store, masks, request, advance)
    print(f"{out}: {result.n_images} images, {result.n_classes} classes, K = {masks.k}")
    if result.n_turned:
        print(f"{result.n_turned} images with a rotation tag were written upright, as PNG")
    if result.n_unscored:
        print(f"{result.n_unscored} images without scores: their segments were pruned")
    print(f"next: {chosen.next_step}")

"""Commands for a trained model: `datus predict` and `datus export-onnx`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from datus.cli.options import Debug, Device, FailuresAllowed
from datus.cli.terminal import Bars, errors
from datus.errors import UsageError, size_text

Model = Annotated[Path, typer.Argument(help="NAME.safetensors, with NAME.json beside it")]


def predict(
    model: Model,
    images: Annotated[Path, typer.Argument(help="folder of images of any size, or one image")],
    out: Annotated[Path, typer.Option("--out", help="folder for the masks")],
    confidence: Annotated[
        Path | None, typer.Option("--confidence", help="folder for PNGs of how sure the model is")
    ] = None,
    image_px: Annotated[
        str,
        typer.Option("--image-px", help="size an image is seen at; native; default: as trained"),
    ] = "0",
    tile_px: Annotated[int, typer.Option("--tile-px", help="larger images go in tiles")] = 512,
    overlap_px: Annotated[int, typer.Option("--overlap-px", help="that tiles share")] = 128,
    device: Device = "auto",
    threads: Annotated[int, typer.Option("--threads", help="0 = the cores")] = 0,
    batch: Annotated[int, typer.Option("--batch", help="tiles at a time on a GPU")] = 8,
    max_failed: FailuresAllowed = 0,
    debug: Debug = False,
) -> None:
    """Label new images with a trained model: one PNG each, at the image's own size."""
    with errors(debug):
        from datus.segmenter.predict_folder import Folders, predict_folder
        from datus.segmenter.tiles import Prediction

        settings = Prediction(
            image_px=_image_px(image_px),
            tile_px=tile_px,
            overlap_px=overlap_px,
            device=device,
            threads=threads,
            batch=batch,
        )
        folders = Folders(images, out, confidence, max_failed=max_failed)
        found = predict_folder(model, folders, settings, Bars().bar)
        print(f"{out}: {found.made} masks made, {found.kept} were there")
        for image_id, reason in found.failures.items():
            print(f"left out: {image_id}: {reason}")


def export_onnx(
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="the .onnx file")],
    size: Annotated[
        str, typer.Option("--size", help="HEIGHTxWIDTH of its images; default: as trained, square")
    ] = "",
    debug: Debug = False,
) -> None:
    """Write a trained model as ONNX and compare it with torch under onnxruntime."""
    with errors(debug):
        from datus.segmenter.onnx import export_model

        found = export_model(model, out, _sides(size))
        print(f"{out}: {size_text(found.n_bytes)}, {json.dumps(found.shapes)}")
        print(f"largest difference from torch: {found.difference:.1e} of {found.scale:.1f}")


def _image_px(text: str) -> int:
    if text == "native":
        return -1
    if not text.isdecimal():
        raise UsageError(f"--image-px {text}: expected a number of pixels, or native")
    return int(text)


def _sides(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    height, _, width = text.lower().partition("x")
    if not height.isdecimal() or not width.isdecimal():
        raise UsageError(f"--size {text}: expected HEIGHTxWIDTH, for example 224x320")
    return int(height), int(width)

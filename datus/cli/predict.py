"""Commands for a trained model: `datus predict` and `datus export-onnx`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from datus.cli.options import Device, FailuresAllowed
from datus.engine.progress import ProgressBars, printable
from datus.errors import UsageError, size_text

Model = Annotated[Path, typer.Argument(help="NAME.safetensors, with NAME.json beside it")]


def predict(
    model: Model,
    images: Annotated[Path, typer.Argument(help="folder of images of any size, or one image")],
    out: Annotated[Path, typer.Option(help="folder for the masks")],
    confidence: Annotated[
        Path | None, typer.Option(help="folder for PNGs of how sure the model is")
    ] = None,
    image_px: Annotated[
        str, typer.Option(help="size an image is seen at; native; default: as trained")
    ] = "0",
    tile_px: Annotated[int, typer.Option(help="larger images go in tiles")] = 512,
    overlap_px: Annotated[int, typer.Option(help="that tiles share")] = 128,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="0 = the cores")] = 0,
    batch: Annotated[int, typer.Option(help="tiles at a time on a GPU")] = 8,
    max_failed: FailuresAllowed = 0,
) -> None:
    """Label new images with a trained model: one PNG each, at the image's own size."""
    from datus.segmenter.predict_folder import Folders, predict_folder
    from datus.segmenter.tiles import Prediction

    settings = Prediction(
        _image_px(image_px), tile_px, overlap_px, device=device, threads=threads, batch=batch
    )
    folders = Folders(images, out, confidence, max_failed=max_failed)
    result = predict_folder(model, folders, settings, ProgressBars().bar)
    print(f"{out}: {result.made} masks made, {result.kept} were there")
    for image_id, reason in result.failures.items():
        print(printable(f"left out: {image_id}: {reason}"))


def export_onnx(
    model: Model,
    out: Annotated[Path, typer.Option(help="the .onnx file")],
    size: Annotated[
        str, typer.Option(help="HEIGHTxWIDTH of its images; default: as trained, square")
    ] = "",
) -> None:
    """Write a trained model as ONNX and compare it with torch under onnxruntime."""
    from datus.segmenter.onnx import export_model

    result = export_model(model, out, _sides(size))
    print(f"{out}: {size_text(result.n_bytes)}, {json.dumps(result.shapes)}")
    print(f"largest difference from torch: {result.difference:.1e} of {result.scale:.1f}")


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

"""Which model should the package ship? Scores over what colour alone gives, on several sets.

    python benchmarks/embedded_models.py --data DATASETS --out FILE.jsonl
        [--models datus_t8,datus_filters_p8,path/to/own.safetensors] [--sets camvid11_val,rock_ct]
    python benchmarks/embedded_models.py --out FILE.jsonl --table

Every model runs the whole pipeline (preset best, borders refined) on all images of a set, with as
many clusters as classes and three seeds. A cell is the mean mIoU, `hungarian_strict`, divided by
the better of k-means on colour and k-means on colour and position of every pixel (module
`baselines`, the same images, K and evaluator). A model is judged by the mean of this ratio over the
sets and by the worst set, with the agreement between labels of images and of their mirror images
(Cohen's kappa) beside it.

`facades` is halved: every second image was used for tuning, the others for choosing.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from baselines import Job, colour_baseline, find_items
from common import Row, add_rows, by_key, class_table, markdown, mean, read_rows, report_of

from datus.config import EMBEDDED_BACKBONE
from datus.inputs.labels import load_classes
from datus.method.metrics import score

SETS = {
    "camvid11_train": "camvid11",
    "facades/even": "labelmefacade8",
    "ccp_clothing": "clothing9",
    "facades/odd": "labelmefacade8",
    "camvid11_val": "camvid11",
    "rock_ct": "rock4",
    "suim_test8": "suim6",
    "camvid11_test": "camvid11",
}
"""Three to tune on, three to choose on, two to report; and the table of their classes."""

BASELINES = {"colour": False, "colour + position": True}
"""Name -> the position counts."""


def halves(data: Path, name: str, folder: Path) -> tuple[Path, Path]:
    """(images, masks) of a set; of "NAME/even" links to every second image."""
    base, _, half = name.partition("/")
    source = data / base
    if not half:
        return source / "images", source / "masks"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / part).iterdir())[half == "odd" :: 2]:
            link = folder / part / path.name
            if not link.exists():
                link.symlink_to(path.resolve())
    return folder / "images", folder / "masks"


def measure(model: str, name: str, data: Path, seeds: Sequence[int], work: Path) -> list[Row]:
    """Rows of one model, or of a baseline, on one set."""
    images, masks = halves(data, name, work / name.replace("/", "-"))
    table = class_table(SETS[name])
    classes = load_classes(table)
    rows = []
    for seed in seeds:
        row: Row = {"model": model, "set": name, "seed": seed}
        if model in BASELINES:
            job = Job(tuple(find_items(images, masks)), classes, classes.n_classes, seed)
            strict = score(colour_baseline(job, BASELINES[model])[0], "hungarian_strict")
            row |= {"miou": strict.miou, "accuracy": strict.accuracy}
        else:
            settings = {
                "data.images": str(images),
                "data.truth": str(masks),
                "data.classes": str(table),
                "seed": seed,
                "clusters.k": [classes.n_classes],
                "features.backbone": model,
                "run_dir": str(work / "run"),
            }
            report = report_of(settings)
            scores, agreement = report["scores"]["hungarian_strict"], report["verdict"]["figures"]
            row |= {figure: scores[figure] for figure in ("miou", "accuracy")}
            row |= {figure: agreement[figure] for figure in ("mirror", "crop")}
        rows.append(row)
    shutil.rmtree(work / "run", ignore_errors=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: mIoU / accuracy, ratio and kappa of each set; mean and worst ratio."""
    cells = by_key(rows, "model", "set")
    sets = [name for name in SETS if any(name == s for _, s in cells)]
    colour = {
        name: max(
            (miou(cells[model, name]) for model in BASELINES if (model, name) in cells),
            default=np.nan,
        )
        for name in sets
    }
    lines = []
    for model in dict.fromkeys(model for model, _ in cells):
        own = {name: cells[model, name] for name in sets if (model, name) in cells}
        ratios = {name: miou(cell) / colour[name] for name, cell in own.items()}
        texts = [cell_text(own[name], ratios[name]) if name in own else "-" for name in sets]
        photographs = [ratio for name, ratio in ratios.items() if name != "rock_ct"]
        for chosen in (photographs, list(ratios.values())):
            texts.append(f"{mean(chosen):.2f}, {min(chosen):.2f}" if chosen else "-")
        label = Path(model).stem if model.endswith(".safetensors") else model
        lines.append((label, *texts))
    return markdown(("", *sets, "photographs: mean, worst", "all: mean, worst"), lines)


def miou(cell: Sequence[Row]) -> float:
    return mean(row["miou"] for row in cell)


def cell_text(cell: Sequence[Row], ratio: float) -> str:
    spread, accuracy = np.std([row["miou"] for row in cell]), mean(row["accuracy"] for row in cell)
    text = f"{miou(cell):.1f} ± {spread:.1f} / {accuracy:.1f}, **{ratio:.2f}**"
    if "mirror" in cell[0]:
        text += f", κ {mean(row['mirror'] for row in cell):.2f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets"))
    parser.add_argument("--out", type=Path, required=True, help="rows are added to this file")
    parser.add_argument("--models", default=EMBEDDED_BACKBONE)
    parser.add_argument("--sets", default=",".join(list(SETS)[:6]), help="the first six by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true", help="only print what the file holds")
    args = parser.parse_args()
    if not args.table:
        seeds = [int(seed) for seed in args.seeds.split(",")]
        for name in args.sets.split(","):
            for model in args.models.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    add_rows(args.out, measure(model, name, args.data, seeds, Path(folder)))
    print(table(read_rows(args.out)))


if __name__ == "__main__":
    main()

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
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from baselines import Job, colour_baseline, find_items

from datus.config import EMBEDDED_BACKBONE, Config
from datus.inputs.labels import load_classes
from datus.method.metrics import score
from datus.pipeline import run
from datus.store.store import Store

CLASSES = Path(__file__).resolve().parents[1] / "data" / "classes"

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


def measure(model: str, name: str, data: Path, seeds: Sequence[int], work: Path) -> list[dict]:
    """Rows of one model, or of a baseline, on one set."""
    images, masks = halves(data, name, work / name.replace("/", "-"))
    table = CLASSES / f"{SETS[name]}.toml"
    classes = load_classes(table)
    rows = []
    for seed in seeds:
        row: dict[str, Any] = {"model": model, "set": name, "seed": seed}
        if model in BASELINES:
            items = tuple(find_items(images, masks))
            counts, _ = colour_baseline(
                Job(items, classes, classes.n_classes, seed), BASELINES[model]
            )
            found = score(counts, "hungarian_strict")
            row |= {"miou": found.miou, "accuracy": found.accuracy}
        else:
            row |= mined(model, images, masks, table, classes.n_classes, seed, work / "run")
        rows.append(row)
    shutil.rmtree(work / "run", ignore_errors=True)
    return rows


def mined(
    model: str, images: Path, masks: Path, table: Path, k: int, seed: int, folder: Path
) -> dict[str, Any]:
    given = {"data.images": str(images), "data.truth": str(masks), "data.classes": str(table)}
    config = Config.load(
        None,
        {
            **given,
            "seed": seed,
            "clusters.k": [k],
            "features.backbone": model,
            "run_dir": str(folder),
        },
    )
    store = Store(config.run_path)
    report = run(config, store).plan.nodes[-1]
    found = json.loads(store.read("report", report.fingerprint, "files", "report.json"))
    strict = found["scores"]["hungarian_strict"]
    figures = found["verdict"]["figures"]
    return {
        "miou": strict["miou"],
        "accuracy": strict["accuracy"],
        "mirror": figures["mirror"],
        "crop": figures["crop"],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mIoU / accuracy, ratio and kappa of each set; mean and worst ratio."""
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in {(r["model"], r["set"], r["seed"]): r for r in rows}.values():
        cells[row["model"], row["set"]].append(row)
    sets = [name for name in SETS if any(name == one for _, one in cells)]

    def mean(model: str, name: str, figure: str) -> float:
        return float(np.mean([row[figure] for row in cells[model, name]]))

    best = {
        name: max(
            (mean(one, name, "miou") for one in BASELINES if cells[one, name]), default=np.nan
        )
        for name in sets
    }
    photographs = [name for name in sets if name != "rock_ct"]
    lines = [
        f"| | {' | '.join(sets)} | photographs: mean, worst | all: mean, worst |",
        "|---" * (len(sets) + 3) + "|",
    ]
    for model in dict.fromkeys(model for model, _ in cells):
        ratios, shown = {}, []
        for name in sets:
            if not cells[model, name]:
                shown.append("-")
                continue
            spread = np.std([row["miou"] for row in cells[model, name]])
            ratios[name] = mean(model, name, "miou") / best[name]
            text = f"{mean(model, name, 'miou'):.1f} ± {spread:.1f} / "
            text += f"{mean(model, name, 'accuracy'):.1f}, **{ratios[name]:.2f}**"
            if "mirror" in cells[model, name][0]:
                text += f", κ {mean(model, name, 'mirror'):.2f}"
            shown.append(text)
        sums = []
        for some in (photographs, sets):
            mine = [ratios[name] for name in some if name in ratios]
            sums.append(f"{np.mean(mine):.2f}, {min(mine):.2f}" if mine else "-")
        label = Path(model).stem if model.endswith(".safetensors") else model
        lines.append(f"| {label} | {' | '.join((*shown, *sums))} |")
    return "\n".join(lines)


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
        seeds = [int(one) for one in args.seeds.split(",")]
        for name in args.sets.split(","):
            for model in args.models.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    rows = measure(model, name, args.data, seeds, Path(folder))
                with args.out.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    print(table([json.loads(line) for line in args.out.read_text(encoding="utf-8").splitlines()]))


if __name__ == "__main__":
    main()

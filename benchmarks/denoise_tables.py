"""The lines that `denoise.py` wrote, as Markdown tables: mean and spread over seeds.

    python benchmarks/denoise_tables.py FILE.jsonl

A cell is mIoU / accuracy in percent, ± the standard deviation of each over the seeds (of all the
seeds, not of a sample). A row of one seed says so. Rules that agree in every row share a column.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Line = dict[str, Any]

KEY = ("part", "model", "seed", "drawn", "split", "match", "labels")

PLAIN = "probe linear"
"""What the noise-aware options are compared to."""

OPTIONS = ("confidence = margin", "symmetric = 0.5", "ema = 0.99", "rounds = 3")

SPLITS = (
    ("train", "own", "Train, its own match"),
    ("val", "train", "Val, the match of train"),
    ("val", "own", "Val, its own match"),
)


def read(path: Path) -> list[Line]:
    """Without what was measured twice: the last time counts."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({tuple(line.get(name) for name in KEY): line for line in lines}.values())


def distinct(lines: Iterable[Line], *names: str) -> list[tuple[Any, ...]]:
    """What occurs under these names, in order of first appearance."""
    return list(dict.fromkeys(tuple(line[name] for name in names) for line in lines))


def chosen(lines: Iterable[Line], **wanted: Any) -> list[Line]:
    return [line for line in lines if all(line.get(k) == v for k, v in wanted.items())]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; the value alone if there is one."""
    plus = f" ± {np.std(values):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{plus}"


def pair(lines: Sequence[dict[str, float]]) -> str:
    return " / ".join(spread([one[figure] for one in lines]) for figure in ("miou", "accuracy"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def groups_of_rules(lines: Sequence[Line]) -> list[list[str]]:
    """Rules whose figures agree to a tenth in every line belong together."""
    groups: list[list[str]] = []
    for rule in lines[0]["scores"]:
        same = (
            group
            for group in groups
            if all(rounded(line, rule) == rounded(line, group[0]) for line in lines)
        )
        group = next(same, None)
        if group is None:
            groups.append([rule])
        else:
            group.append(rule)
    return groups


def rounded(line: Line, rule: str) -> list[float]:
    return [round(value, 1) for value in line["scores"][rule].values()]


# --- part masks ---------------------------------------------------------------------------------


def masks_tables(lines: list[Line]) -> list[str]:
    with_borders = [line for line in lines if "boundary_any" in line]
    groups = groups_of_rules(lines)
    head = ["masks", *(" = ".join(f"`{rule}`" for rule in group) for group in groups)]
    head += ["coverage", "boundary F, classes", "boundary F, any", "minutes"]
    parts = []
    for split, match, title in SPLITS:
        some = chosen(with_borders, split=split, match=match)
        rows = [masks_row(chosen(some, model=m, drawn=d), groups) for m, d in named(some)]
        sizes = f"{some[0]['n_images']} images, borders of {some[0]['n_borders']}"
        parts.append(f"**{title}** ({sizes})\n\n{table(head, rows)}")
    return parts


def named(lines: Sequence[Line]) -> list[tuple[Any, ...]]:
    """(model, way to draw), model by model."""
    models = [model for (model,) in distinct(lines, "model")]
    return sorted(distinct(lines, "model", "drawn"), key=lambda pair: models.index(pair[0]))


def masks_row(lines: list[Line], groups: list[list[str]]) -> list[str]:
    one_seed = ", one seed" if len(lines) == 1 else ""
    cells = [f"{lines[0]['model']}, {lines[0]['drawn']}{one_seed}"]
    cells += [pair([line["scores"][group[0]] for line in lines]) for group in groups]
    cells.append(spread([line["scores"]["majority"]["coverage"] for line in lines]))
    cells += [spread([line[name] for line in lines]) for name in BOUNDARIES]
    return [*cells, f"{np.mean([line['minutes'] for line in lines]):.1f}"]


BOUNDARIES = ("boundary_classes", "boundary_any")


def summary_table(lines: list[Line]) -> str:
    """What the guide shows: both splits under their own match, borders of train."""
    some = [line for line in lines if "boundary_any" in line]
    head = ["masks", *(f"{split}, `{rule}`" for split in ("train", "val") for rule in SHOWN)]
    head += ["boundary F, classes", "boundary F, any", "minutes"]
    rows = []
    for model, drawn in named(some):
        mine = chosen(some, model=model, drawn=drawn, match="own")
        train = chosen(mine, split="train")
        cells = [f"{model}, {drawn}{', one seed' if len(train) == 1 else ''}"]
        for split in ("train", "val"):
            of_split = chosen(mine, split=split)
            cells += [pair([line["scores"][rule] for line in of_split]) for rule in SHOWN]
        cells += [spread([line[name] for line in train]) for name in BOUNDARIES]
        rows.append([*cells, f"{np.mean([line['minutes'] for line in train]):.1f}"])
    return table(head, rows)


def options_table(lines: list[Line]) -> str:
    """Differences to the plain probe of the same seed, in points."""
    head = ["", *(f"{title}, `{rule}`" for _, _, title in SPLITS for rule in SHOWN)]
    plain = chosen(lines, model=PLAIN, drawn="as the model draws")
    first = [f"{PLAIN}", *option_cells(plain, [])]
    rows = []
    for (model,) in distinct([line for line in lines if line["model"] in OPTIONS], "model"):
        some = chosen(lines, model=model, drawn="as the model draws")
        rows.append([f"`{model}`", *option_cells(some, plain)])
    return table(head, [first, *rows])


SHOWN = ("hungarian_strict", "majority")


def option_cells(lines: list[Line], plain: list[Line]) -> list[str]:
    cells = []
    for split, match, _ in SPLITS:
        for rule in SHOWN:
            some = chosen(lines, split=split, match=match)
            found = [line["scores"][rule] for line in some]
            others = {
                line["seed"]: line["scores"][rule]
                for line in chosen(plain, split=split, match=match)
            }
            if others:
                found = [
                    {name: one[name] - others[line["seed"]][name] for name in one}
                    for line, one in zip(some, found, strict=True)
                ]
            cells.append(pair(found))
    return cells


# --- part labels --------------------------------------------------------------------------------


def labels_table(lines: list[Line]) -> str:
    models = [model for (model,) in distinct(lines, "model")]
    rows = []
    for (name,) in distinct(lines, "labels"):
        cells = [name]
        for model in models:
            some = chosen(lines, labels=name, model=model)
            text = pair(some) if some else ""
            if some and "coverage" in some[0]:
                text += f" ({np.mean([line['coverage'] for line in some]):.0f})"
            cells.append(text)
        rows.append([*cells, difference(chosen(lines, labels=name))])
    minutes = [np.mean([line.get("minutes", 0) for line in chosen(lines, model=m)]) for m in models]
    seeds = [len(distinct(chosen(lines, model=m), "seed")) for m in models]
    rows.append(["minutes a training", *(f"{one:.1f}" if one else "" for one in minutes), ""])
    rows.append(["seeds, at most", *map(str, seeds), ""])
    return table(["mIoU / accuracy (coverage), %", *models, "frozen less tuned"], rows)


def difference(lines: list[Line]) -> str:
    """Frozen less tuned, of the seeds that both have: the same wrong labels, so it says more."""
    frozen, tuned = (
        {line["seed"]: line for line in chosen(lines, model=model)}
        for model in ("conv frozen", "conv tuned")
    )
    shared = sorted(frozen.keys() & tuned.keys())
    figures = ("miou", "accuracy")
    found = [{name: frozen[s][name] - tuned[s][name] for name in figures} for s in shared]
    return f"{pair(found)} (of {len(shared)})" if shared else ""


def main() -> None:
    lines = read(Path(sys.argv[1]))
    masks, labels = (chosen(lines, part=part) for part in ("masks", "labels"))
    parts = []
    if masks:
        parts.append(f"**Summary**, each split under its own match\n\n{summary_table(masks)}")
        parts += masks_tables(masks)
    if any(line["model"] in OPTIONS for line in masks):
        parts.append(f"**Noise-aware options**: difference to {PLAIN}\n\n{options_table(masks)}")
    if labels:
        parts.append(f"**Imperfect labels**\n\n{labels_table(labels)}")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()

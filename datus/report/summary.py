"""report.json: everything the report knows, for programs.

`summarise(inputs)` gives plain JSON values; `to_json` gives the bytes. Percent values have four
decimals, other measured figures six significant digits. NaN does not exist in JSON: what is not
defined (the IoU of a class that is not in the truth) is null.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import datus
from datus.method.metrics import Scores
from datus.report import drift
from datus.report.numbers import rounded, significant
from datus.report.records import Baselines, Denoised, Distribution, KResult, ReportInputs

HEADLINE = "hungarian_strict"
"""The rule behind the number at the top, the masks' colours and the clusters' classes."""

RULES: dict[str, str] = {
    "hungarian_strict": "One cluster for one class, matched for the most pixels; unmatched "
    "clusters and unlabelled pixels count as errors.",
    "hungarian_covered": "The same match, unlabelled pixels left out, as in the paper; unmatched "
    "clusters count as errors.",
    "hungarian_legacy": "Unlabelled pixels left out and pixels of unmatched clusters deleted; "
    "only to compare with numbers printed for more clusters than classes.",
    "majority": "Every cluster takes the class most frequent in it, several clusters may share "
    "one; unlabelled pixels count as errors.",
    "merge_nearest": "Matched one to one, then each leftover cluster joins the matched cluster "
    "with the nearest centroid; unlabelled pixels count as errors.",
}
"""Every rule in one sentence, in the order of all tables."""

NO_TRUTH = "No true masks were given, so there is nothing to score against."

DEFINITIONS: dict[str, str] = {
    "coverage": "percent of all pixels that got a label",
    "scores.coverage": "percent of the pixels with a known true class that got a label",
    "cluster_pixels": "pixels of each cluster; the last value counts unlabelled pixels",
    "confusion": "pixels by cluster (rows; the last row is unlabelled) and true class (columns)",
    "names": "what a person called each cluster; empty = nobody named it",
    "gone": "clusters that a person merged into others or dropped",
    "match": "class of each cluster; -1 = no class",
    "verdict": "what speaks against the masks, seen without true masks; figures: kappa of labels "
    "between an image and its mirror image (mirror) and its enlarged, recoloured middle (crop), "
    "kappa of the labels with those that the place alone predicts (place), and the share of images "
    "that are one label (uniform)",
    "baselines": "the masks beside those of k-means on colour, and on colour and position, with as "
    "many clusters, all on the same small pictures of the same images: scores under "
    "hungarian_strict, and kappa of the labels with those that the place alone predicts",
    "by_confidence": "scores of the pixels whose segment is at least so sure, under the match of "
    "hungarian_strict on all of them",
}


def to_json(inputs: ReportInputs) -> bytes:
    """The bytes of report.json: sorted keys, UTF-8. A broken file name becomes a JSON escape."""
    text = json.dumps(
        summarise(inputs), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
    )
    return (text + "\n").encode("utf-8", "backslashreplace")


def summarise(inputs: ReportInputs) -> dict[str, Any]:
    """report.json before it is text."""
    main = inputs.main
    classes = inputs.classes
    return {
        "datus": datus.__version__,
        "title": inputs.title,
        "preset": inputs.preset,
        "n_images": inputs.n_images,
        "clusters": main.n_clusters,
        "coverage": round(main.coverage, 4),
        "classes": None if classes is None else {"name": classes.name, "names": [*classes.names]},
        "verdict": _verdict(main),
        "baselines": _baselines(inputs.baselines),
        "headline": HEADLINE if HEADLINE in main.scores else None,
        "rules": RULES,
        "definitions": DEFINITIONS,
        "scores": _scores(main.scores),
        "scores_note": "" if main.scores else NO_TRUTH,
        "sweep": [_k_result(result) for result in inputs.sweep],
        "numbers": {
            stage: {name: _distribution(one) for name, one in figures.items()}
            for stage, figures in inputs.numbers.items()
        },
        **({} if inputs.drift is None else {"drift": drift.as_json(inputs.drift)}),
        "failures": [
            {"stage": stage, "image_id": image_id, "reason": reason}
            for stage, image_id, reason in inputs.failures
        ],
        "warnings": list(inputs.warnings),
        "better_backbone": inputs.better_backbone,
        "settings": portable(inputs.settings),
        "provenance": portable(inputs.provenance),
    }


def ordered(scores: Mapping[str, Scores]) -> list[tuple[str, Scores]]:
    """The rules in the order of `RULES`, unknown ones after them."""
    known = [(rule, scores[rule]) for rule in RULES if rule in scores]
    return known + [(rule, one) for rule, one in scores.items() if rule not in RULES]


def portable(value: Any) -> Any:
    """Settings without what differs between machines: absolute paths keep their last part."""
    if isinstance(value, Mapping):
        return {str(key): portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [portable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name
    return value


def _k_result(result: KResult) -> dict[str, Any]:
    confusion, denoised = result.confusion, result.denoised
    return {
        "k": result.k,
        "verdict": _verdict(result),
        "names": list(result.names),
        "gone": list(result.gone),
        "coverage": round(result.coverage, 4),
        "inertia": significant(result.inertia),
        "n_trained": result.n_trained,
        "library": result.library,
        "cluster_pixels": result.cluster_pixels.tolist(),
        "confusion": None if confusion is None else confusion.counts.tolist(),
        "scores": _scores(result.scores),
        "by_confidence": [rounded(asdict(kept)) for kept in result.kept],
        **({} if denoised is None else {"denoised": _denoised(denoised)}),
    }


def _verdict(result: KResult) -> dict[str, Any] | None:
    verdict = result.verdict
    if verdict is None:
        return None
    figures = {name: significant(value) for name, value in result.consistency.items()}
    return {"word": verdict.word, "reasons": list(verdict.reasons), "figures": figures}


def _baselines(baselines: Baselines | None) -> dict[str, Any] | None:
    if baselines is None:
        return None
    rows = [rounded(asdict(row)) for row in baselines.rows]
    return {"n_images": baselines.n_images, "rows": rows}


def _denoised(denoised: Denoised) -> dict[str, Any]:
    return {
        "coverage": round(denoised.coverage, 4),
        "cluster_pixels": denoised.cluster_pixels.tolist(),
        "n_trained": denoised.n_trained,
        "n_dropped": denoised.n_dropped,
        "loss": [significant(loss) for loss in denoised.curve],
        "scores": _scores(denoised.scores),
    }


def _scores(scores: Mapping[str, Scores]) -> dict[str, Any]:
    return {rule: rounded(scored.as_dict()) for rule, scored in scores.items()}


def _distribution(distribution: Distribution) -> dict[str, float | int | None]:
    names = {"minimum": "min", "maximum": "max"}
    row = {names.get(key, key): significant(value) for key, value in asdict(distribution).items()}
    return {**row, "n": distribution.n}

"""Confidence through whole runs: the threshold, and the curve that the report shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import Dataset, go

from datus.formats.export import find_masks
from datus.inputs.labels import decode_labels
from datus.method.masks import labels_to_pixels
from datus.store.store import Store

PLAIN = {"masks.refine": "none", "clusters.restarts": 4}


def report(run_dir: Path) -> dict[str, Any]:
    found = json.loads((run_dir / "latest" / "report" / "report.json").read_text())
    return dict(found["sweep"][0])


def test_segments_below_the_threshold_are_unlabelled(tiny: Dataset, tmp_path: Path) -> None:
    go(tiny.config(tmp_path / "run", {**PLAIN, "masks.min_confidence": 0.4}))
    store = Store(tmp_path / "run")
    masks, n_sure, n_unsure = find_masks(store), 0, 0
    for shard in masks.index.shards:
        drawn = store.read_shard(("masks", masks.scored[0], shard.key))
        cut = store.read_shard(("segments", masks.scored[1], shard.key))
        assert drawn
        assert cut
        for image_id, found in drawn.arrays.items():
            sure = found["confidence"] >= 0.4
            assert ((found["cluster"] >= 0) == sure).all()
            mask = decode_labels(found["png"].tobytes(), 10**6)
            by_pixel = labels_to_pixels(sure[cut.arrays[image_id]["labels"]], *mask.shape)
            assert ((mask != 255) == by_pixel).all()
            n_sure, n_unsure = n_sure + int(sure.sum()), n_unsure + int((~sure).sum())
    assert n_sure > 0
    assert n_unsure > 0


def test_the_curve_is_what_a_run_with_that_threshold_scores(tiny: Dataset, tmp_path: Path) -> None:
    go(tiny.config(tmp_path / "all", PLAIN))
    go(tiny.config(tmp_path / "sure", {**PLAIN, "masks.min_confidence": 0.4}))
    whole, sure = report(tmp_path / "all"), report(tmp_path / "sure")
    curve = {row["min_confidence"]: row for row in whole["by_confidence"]}
    covered = whole["scores"]["hungarian_covered"]
    for name in ("miou", "accuracy", "coverage"):
        assert curve[0.0][name] == pytest.approx(covered[name], abs=1e-3)
    assert curve[0.4]["coverage"] == pytest.approx(sure["scores"]["majority"]["coverage"], abs=1e-3)
    shares = [row["coverage"] for row in whole["by_confidence"]]
    assert shares == sorted(shares, reverse=True)
    counts, match = np.array(sure["confusion"]), covered["match"]
    right = sum(counts[k, c] for k, c in enumerate(match) if c >= 0)
    assert curve[0.4]["accuracy"] == pytest.approx(100 * right / counts[:-1].sum(), abs=1e-3)


def test_the_page_shows_the_curve_only_with_truth(tiny: Dataset, tmp_path: Path) -> None:
    go(tiny.config(tmp_path / "run"))
    page = (tmp_path / "run" / "latest" / "report" / "report.html").read_text()
    assert 'id="confidence"' in page
    assert "Scores by least confidence" in page
    go(tiny.config(tmp_path / "blind", {"data.truth": "", "data.classes": ""}))
    page = (tmp_path / "blind" / "latest" / "report" / "report.html").read_text()
    assert 'id="confidence"' not in page
    assert "masks.confidence" in page

"""masks.refine in a run: what is written is what is scored, and without it nothing changes."""

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import Dataset, go, made, make_dataset

from datus.engine.plan import find_node
from datus.inputs.labels import decode_labels, load_classes, truth_classes
from datus.method.metrics import count_pixels
from datus.store.store import Store
from datus.types import Array

BLOCKS, REFINED = {"masks.refine": "none"}, {"masks.refine": "bilateral"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data"), ("a0", "b/c0", "d0"))


def written(run_dir: Path) -> dict[str, Array]:
    """image id -> labels in the mask file."""
    folder = run_dir / "latest" / "masks-k3"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): decode_labels(path.read_bytes(), 10**6)
        for path in sorted(folder.rglob("*.png"))
    }


def mask_settings(run_dir: Path) -> list[dict[str, object]]:
    """Of all recipes of masks in the run folder, newest first."""
    return [recipe["settings"] for _, recipe in Store(str(run_dir)).recipes("masks")]


def test_refined_masks_are_written_and_scored(dataset: Dataset, tmp_path: Path) -> None:
    go(dataset.config(tmp_path, BLOCKS))
    blocks = written(tmp_path)
    config = dataset.config(tmp_path, REFINED)
    result, _ = go(config)
    assert list(made(result)) == [
        *("masks (K = 3)", "evaluate (K = 3)", "tallies (K = 3)", "report")
    ]
    expected = {"noise": "nearest", "refine": "bilateral", "min_confidence": 0.0}
    assert expected in mask_settings(tmp_path)
    masks = written(tmp_path)
    assert masks.keys() == blocks.keys() == {"a0", "b/c0", "d0"}
    assert any(not np.array_equal(masks[name], blocks[name]) for name in masks)

    classes, store = load_classes(dataset.classes), Store(str(tmp_path))
    node = find_node(result.plan.nodes, "evaluate", 3)
    for shard in result.plan.shards:
        scored = store.read_shard(("evaluate", node.fingerprint, node.key(shard)))
        assert scored is not None
        for name, arrays in scored.arrays.items():
            truth = decode_labels((dataset.truth / f"{name}.png").read_bytes(), 10**6)
            truth = truth_classes(truth, classes, masks[name].shape)
            counts = count_pixels(masks[name], truth, 3, classes.n_classes).counts
            assert np.array_equal(arrays["counts"], counts), name


def test_refined_masks_do_not_depend_on_threads(dataset: Dataset, tmp_path: Path) -> None:
    found = []
    for threads in (1, 3):
        run_dir = tmp_path / str(threads)
        go(dataset.config(run_dir, {**REFINED, "speed.threads": threads}))
        found.append(written(run_dir))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_refinement_moves_no_share_of_coverage(dataset: Dataset, tmp_path: Path) -> None:
    more = {"masks.noise": "ignore", "embeddings.min_patches": 6}
    go(dataset.config(tmp_path, {**more, **BLOCKS}))
    blocks = written(tmp_path)
    go(dataset.config(tmp_path, {**more, **REFINED}))
    refined = written(tmp_path)
    assert any((mask == 255).any() for mask in blocks.values())
    for name, mask in blocks.items():
        assert np.array_equal(mask == 255, refined[name] == 255)

"""Grids: what becomes a cell, in which order, and what is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from datus.compare.grid import is_grid, load_grid, parse_backbones, parse_embedders, parse_lists
from datus.config import Config
from datus.errors import ConfigError, UsageError
from datus.models.registry import ROWS

ROOT = Path(__file__).resolve().parents[2]

BASE = """
[base.data]
images = "photos"
truth = "masks"
classes = "classes.toml"
"""


def grid_of(tmp_path: Path, text: str, base: str = BASE, **more: Any) -> Any:
    path = tmp_path / "g.toml"
    path.write_text(text + base, encoding="utf-8")
    return load_grid(path, **more)


def error_of(tmp_path: Path, text: str, base: str = BASE, **more: Any) -> str:
    with pytest.raises(UsageError) as found:
        grid_of(tmp_path, text, base, **more)
    return str(found.value)


# --- cells --------------------------------------------------------------------------------------


def test_cells_are_every_combination_in_the_order_of_reuse(tmp_path: Path) -> None:
    text = """
k = [3, 4]
seeds = [0, 1]
presets = ["best", "paper"]
backbones = [{name = "a", label = "A"}, {name = "b", weights = "random"}]
embedders = [{mode = "crop"}, {mode = "crop", backbone = "c", label = "CNN"}]
"""
    cells = grid_of(tmp_path, text).cells
    assert len(cells) == len(set(cells)) == 32
    rows = [(c.config.preset, c.scheme.label, c.config.seed, c.embedder, c.k) for c in cells]
    assert rows[:5] == [
        ("best", "A", 0, "crop", 3),
        ("best", "A", 0, "crop", 4),
        ("best", "A", 0, "CNN", 3),
        ("best", "A", 0, "CNN", 4),
        ("best", "A", 1, "crop", 3),
    ]
    assert rows == [
        (preset, label, seed, way, k)
        for preset in ("best", "paper")
        for label in ("A", "b")
        for seed in (0, 1)
        for way in ("crop", "CNN")
        for k in (3, 4)
    ]
    assert cells[0].label == "A, crop, preset best, K = 3, seed 0"


def test_a_cell_is_the_config_that_one_would_write_by_hand(tmp_path: Path) -> None:
    text = """
k = [5]
seeds = [7]
presets = ["paper"]
embedders = [{mode = "crop", backbone = "resnet18", weights = "random"}]
[[backbones]]
name = "vit"
weights = "vit.pth"
set = {"features.image_px" = 336}
"""
    [cell] = grid_of(tmp_path, text, overrides={"masks.noise": "nearest"}).cells
    assert cell.config == Config.load(
        None,
        {
            "preset": "paper",
            "seed": 7,
            "data.images": "photos",
            "data.truth": "masks",
            "data.classes": "classes.toml",
            "features.backbone": "vit",
            "features.weights": "vit.pth",
            "features.image_px": 336,
            "embeddings.mode": "crop",
            "embeddings.backbone": "resnet18",
            "embeddings.weights": "random",
            "clusters.k": [5],
            "masks.noise": "nearest",
        },
    )


def test_without_lists_the_base_is_the_only_cell(tmp_path: Path) -> None:
    base = BASE + '[base.clusters]\nk = [4, 9]\n[base.features]\nbackbone = "vit"\n'
    cells = grid_of(tmp_path, "", base).cells
    assert [(c.scheme.label, c.embedder, c.k) for c in cells] == [
        ("vit", "pool", 4),
        ("vit", "pool", 9),
    ]
    assert cells[0].config.clusters.k == (4,)


def labels_of(tmp_path: Path, given: str, embedders: bool = False) -> list[str]:
    if embedders:
        cells = grid_of(tmp_path, "", lists={"embedders": parse_embedders(given)}).cells
        return [cell.embedder for cell in cells]
    cells = grid_of(tmp_path, "", lists={"backbones": parse_backbones(given)}).cells
    return [cell.scheme.label for cell in cells]


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("x,x:random", ["x", "x:random"]),
        ("x:random,y", ["x", "y"]),
        ("x:hub,x:random,y", ["x:hub", "x:random", "y"]),
        ("x:w/a.pth,x:w/b.pth.tar", ["x:a", "x:b"]),
        ("x:random,x:w/random.pth", ["x:random", "x:random.pth"]),
        ("x:w/a.pth,x:w/a.pt", ["x:a.pth", "x:a.pt"]),
        ("x:1/w/a.pth,x:2/w/a.pth,x", ["x:1/w/a", "x:2/w/a", "x"]),
    ],
)
def test_weights_are_part_of_the_label_where_the_name_is_not_enough(
    given: str, labels: list[str], tmp_path: Path
) -> None:
    assert labels_of(tmp_path, given) == labels
    ways = ",".join(f"crop:{one}" for one in given.split(","))
    assert labels_of(tmp_path, ways, embedders=True) == [f"crop {label}" for label in labels]


def test_a_label_of_the_grid_stays(tmp_path: Path) -> None:
    text = "backbones = [{name = 'x', label = 'A'}, {name = 'x', weights = 'random'}]"
    cells = grid_of(tmp_path, text).cells
    assert [cell.scheme.label for cell in cells] == ["A", "x:random"]


def test_labels_from_the_command_line(tmp_path: Path) -> None:
    lists = parse_lists({"backbones": "x,x:random", "labels": "trained, not trained"})
    cells = grid_of(tmp_path, "", lists=lists).cells
    assert [cell.scheme.label for cell in cells] == ["trained", "not trained"]
    text = "backbones = [{name = 'x', label = 'old'}, {name = 'y'}]"
    cells = grid_of(tmp_path, text, lists=parse_lists({"labels": "A,B"})).cells
    assert [cell.scheme.label for cell in cells] == ["A", "B"]
    [cell] = grid_of(tmp_path, "", lists=parse_lists({"labels": "ours"})).cells
    assert cell.scheme.label == "ours"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("A", "--labels: expected 2, one for each backbone in this order: x, y; got 1: A"),
        ("A,B,C", "--labels: expected 2, one for each backbone in this order: x, y; got 3: A, B,"),
        ("A,A", "--labels: expected different texts, got 'A, A'"),
        ("A,", "--labels: expected different texts, got 'A, '"),
    ],
)
def test_wrong_labels(labels: str, message: str, tmp_path: Path) -> None:
    lists = parse_lists({"backbones": "x,y", "labels": labels})
    assert error_of(tmp_path, "", lists=lists).startswith(message)


def test_a_base_in_a_file_and_a_grid_like_another(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(BASE.replace("base.", ""), encoding="utf-8")
    (tmp_path / "one.toml").write_text('base = "run.toml"\nk = [2]\ntable = "I"', encoding="utf-8")
    (tmp_path / "two.toml").write_text('like = "one.toml"\nk = [3]', encoding="utf-8")
    grid = load_grid(tmp_path / "two.toml")
    assert (grid.settings.name, grid.settings.table) == ("two", "I")
    assert [cell.k for cell in grid.cells] == [3]
    (tmp_path / "three.toml").write_text('like = "two.toml"', encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a grid that is not like another one"):
        load_grid(tmp_path / "three.toml")


def test_what_is_a_grid(tmp_path: Path) -> None:
    assert is_grid(ROOT / "pipelines" / "paper" / "table1_suim.toml")
    assert not is_grid(ROOT / "pipelines" / "suim.toml")
    with pytest.raises(UsageError, match="no such file"):
        is_grid(tmp_path / "none.toml")


# --- refused at the door ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = [1]", "seed: unknown setting; did you mean seeds?"),
        (
            "k = [0]",
            "cell datus_t8, the base's embedder, K = 0: clusters.k: expected 1 to 255, got 0",
        ),
        ("k = [3, 3]", "k: expected different entries, got 3 twice"),
        ('k = ["x"]', "k: expected int, got 'x'"),
        (
            'presets = ["old"]',
            "cell datus_t8, the base's embedder, K = 12: preset: expected best or paper, got 'old'",
        ),
        ('name = "a/b"', "name: expected a folder's name, got 'a/b'"),
        ('backbones = ["vit"]', "backbones: expected blocks [[backbones]], got ['vit']"),
        ("backbones = [{label = 'x'}]", "backbones 1: name: expected a model, got none"),
        (
            "backbones = [{name = 'x', weight = 'y'}]",
            "backbones 1: weight: unknown setting; did you mean backbones 1: weights?",
        ),
        (
            "backbones = [{name = 'x', label = 'A'}, {name = 'x', label = 'B'}]",
            "backbones: expected different entries, got x with weights auto twice; "
            "leave one of them out",
        ),
        (
            "backbones = [{name = 'dino_vits8'}, {name = 'vit_small_patch8_224.dino'}]",
            "backbones: expected different entries, got vit_small_patch8_224.dino with weights "
            "auto twice; leave one of them out",
        ),
        (
            "backbones = [{name = 'x'}, {name = 'x', set = {'features.image_px' = 96}}]",
            "backbones: expected different entries, got 'x' twice; give each a label",
        ),
        (
            "embedders = [{mode = 'crop'}, {mode = 'crop'}]",
            "embedders: expected different entries, got crop with weights auto twice; "
            "leave one of them out",
        ),
        ("backbones = [{name = 'ibot'}]", "backbones 1: name: ibot: 3 models have this name; give"),
        (
            "backbones = [{name = 'x', set = 3}]",
            'backbones 1: set: expected { "section.key" = value }, got 3',
        ),
        (
            "backbones = [{name = 'x', set = {'features.image' = 3}}]",
            "cell x, the base's embedder, K = 12: features.image: unknown setting; "
            "did you mean features.image_px?",
        ),
        (
            "embedders = [{mode = 'crops'}]",
            "embedders 1: mode: expected pool or crop, got 'crops'; did you mean 'crop'?",
        ),
    ],
)
def test_wrong_grids(text: str, message: str, tmp_path: Path) -> None:
    found = error_of(tmp_path, text)
    assert found == message or ("models have this name" in message and found.startswith(message))


def test_wrong_bases(tmp_path: Path) -> None:
    assert error_of(tmp_path, "k = [3]", "") == (
        "base: expected a run's settings, a file name or a section [base], got nothing"
    )
    no_truth = '[base]\ndata.images = "photos"\n'
    assert error_of(tmp_path, "", no_truth) == (
        "data.truth and data.classes: a comparison needs true masks and their classes: give "
        "--truth FOLDER and --classes FILE, or set them in the grid's base"
    )
    no_classes = no_truth + 'data.truth = "masks"\n'
    assert error_of(tmp_path, "", no_classes).startswith("data.classes: a comparison needs")
    assert error_of(tmp_path, "", "[base]\n").startswith("no images: give --images FOLDER")
    assert error_of(tmp_path, "", BASE + "[base.mask]\nnoise = 'pool'") == (
        "mask: unknown setting; did you mean masks?"
    )


def test_a_cell_that_cannot_be_is_named(tmp_path: Path) -> None:
    text = "embedders = [{mode = 'pool'}, {mode = 'crop'}]"
    assert error_of(tmp_path, text, BASE + "[base.masks]\nnoise = 'pool'").startswith(
        "cell datus_t8, crop, K = 12: masks.noise: pool needs embeddings.mode = pool"
    )


def test_lists_and_set_do_not_fight(tmp_path: Path) -> None:
    text = error_of(tmp_path, "seeds = [1, 2]", overrides={"seed": 3})
    assert text == "--set seed: the grid's list seeds decides; use --seeds"
    assert [c.config.seed for c in grid_of(tmp_path, "", overrides={"seed": 3}).cells] == [3]


def test_one_run_folder_for_all(tmp_path: Path) -> None:
    text = "backbones = [{name = 'a'}, {name = 'b', set = {run_dir = 'other'}}]"
    assert error_of(tmp_path, text).startswith("run_dir: the cells of a grid share one folder, got")


# --- the command line's lists -------------------------------------------------------------------


def test_lists_in_words() -> None:
    assert parse_backbones("a,b:random") == [
        {"name": "a", "weights": "auto"},
        {"name": "b", "weights": "random"},
    ]
    assert parse_embedders("pool, crop:c:d.pth") == [
        {"mode": "pool", "backbone": "same", "weights": "auto"},
        {"mode": "crop", "backbone": "c", "weights": "d.pth"},
    ]


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_backbones, "a,", "--backbones a,: expected NAME or NAME:WEIGHTS, with commas"),
        (parse_embedders, "pool:a", "--embedders pool:a: expected pool, crop or crop:NAME:WEIGHTS"),
        (parse_embedders, "cls", "--embedders cls: expected pool, crop or crop:NAME:WEIGHTS"),
    ],
)
def test_lists_in_wrong_words(parse: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError) as found:
        parse(text)
    assert str(found.value).startswith(message)


# --- the paper's grids --------------------------------------------------------------------------

PAPER = sorted((ROOT / "pipelines" / "paper").glob("*.toml"))


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_grids_load_and_name_known_models(path: Path) -> None:
    grid = load_grid(path)
    known = {row.name for row in ROWS} | {"same"}
    for cell in grid.cells:
        assert {cell.config.features.backbone, cell.config.embeddings.backbone} <= known
        assert cell.config.preset == "paper"
        assert (ROOT / cell.config.data.classes).exists()


def test_the_papers_tables_are_complete() -> None:
    sizes = {path.stem: len(load_grid(path).cells) for path in PAPER}
    assert sizes == {
        "table1_suim": 18,
        "table2_suim": 18,
        "table3_cocostuff": 4,
        "table6_suim": 36,
        "table7_suim": 7,
        "figure9_suim": 14,
    }

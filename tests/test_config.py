"""Settings: presets, precedence, and an error with the cure for everything else."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datus.config import PRESETS, Config, parse_override, settings_of
from datus.errors import ConfigError, UsageError


def load(**settings: Any) -> Config:
    """load(clusters__k=3): the double underscore stands for the dot."""
    return Config.load(None, {name.replace("__", "."): value for name, value in settings.items()})


def error(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**settings)
    return str(caught.value)


def leaves(config: Config) -> dict[str, Any]:
    """Dotted name -> value, of every setting."""
    found = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{one.name}.{name}": v for name, v in leaves(value).items()}
        else:
            found[one.name] = value
    return found


@pytest.fixture
def file(tmp_path: Path) -> typing.Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        return tmp_path / "run.toml"

    return write


Write = typing.Callable[[str], Path]

# --- presets and precedence ---------------------------------------------------------------------


def test_best_is_the_default_and_is_what_the_classes_say() -> None:
    assert load() == load(preset="best") == Config()
    assert PRESETS["best"] == {}


def test_paper_differs_from_best_in_the_documented_settings_and_no_other() -> None:
    best, paper = leaves(load()), leaves(load(preset="paper"))
    differ = {name: (best[name], paper[name]) for name in best if best[name] != paper[name]}
    assert differ == {
        "preset": ("best", "paper"),
        "features.image_px": ("auto", 224),
        "features.resize": ("keep", "squash"),
        "graphs.center": ("auto", "none"),
        "features.store": ("float16", "float32"),
        "graphs.threshold": ("auto", 0.0),
        "segments.backend": ("bits", "scikit-network"),
        "segments.restarts": (2, 1),
        "embeddings.mode": ("pool", "crop"),
        "embeddings.crop": ("whole", "paper"),
        "clusters.pca": (32, -1),
        "clusters.restarts": (10, 1),
        "masks.noise": ("nearest", "ignore"),
        "masks.refine": ("bilateral", "none"),
    }


def test_what_both_presets_share_is_what_the_paper_says() -> None:
    for preset in PRESETS:
        config = load(preset=preset)
        assert config.embeddings.crop_px == 224
        assert config.embeddings.min_patches == 6


def test_a_file_wins_over_the_preset_and_an_override_over_the_file(file: Write) -> None:
    path = file('preset = "paper"\n[segments]\nrestarts = 2\n[clusters]\nk = [3, 5]\npca = 7\n')
    config = Config.load(path, {"clusters.pca": 9, "data.images": "photos"})
    assert config.preset == "paper"
    assert config.features.resize == "squash", "from the preset"
    assert config.segments.restarts == 2, "the file over the preset"
    assert config.clusters.k == (3, 5), "from the file"
    assert config.clusters.pca == 9, "the override over both"
    assert config.data.images == "photos", "from the override alone"
    assert config.clusters.spherical is False, "a section of the file leaves the rest of the preset"


def test_an_override_can_choose_the_preset_of_a_file(file: Write) -> None:
    path = file('preset = "best"\n[graphs]\ncenter = "image"\n')
    config = Config.load(path, {"preset": "paper"})
    assert (config.features.resize, config.graphs.center) == ("squash", "image")


def test_a_density_takes_the_place_of_the_threshold_of_a_preset(file: Write) -> None:
    plain, paper = load(), load(preset="paper")
    assert (plain.graphs.threshold, paper.graphs.threshold) == ("auto", 0.0)
    assert (plain.graphs.by_density, paper.graphs.by_density) == (True, False)
    asked = load(preset="paper", graphs__density=0.2).graphs
    assert (asked.threshold, asked.density, asked.center) == ("auto", 0.2, "none")
    path = file('preset = "paper"\n[graphs]\ndensity = 0.2\n')
    assert Config.load(path).graphs == asked
    both = {"preset": "paper", "graphs.threshold": "auto", "graphs.density": 0.2}
    assert Config.load(None, both).graphs == asked
    assert load(graphs__threshold=0.5).graphs.by_density is False


def test_a_density_and_a_threshold_are_one_too_many(file: Write) -> None:
    expected = (
        "graphs.density: graphs.threshold = {} is given too, which sets the links alone: leave one "
        "of them out"
    )
    for threshold in (0.5, 0, 0.0):
        assert error(graphs__density=0.1, graphs__threshold=threshold) == expected.format(threshold)
    with pytest.raises(ConfigError) as caught:
        Config.load(file("[graphs]\ndensity = 0.1\nthreshold = 0.7\n"))
    assert str(caught.value) == expected.format(0.7)


def test_an_override_of_one_takes_the_place_of_the_other_in_a_file(file: Write) -> None:
    by_density = file("[graphs]\ndensity = 0.1\ncenter = 'image'\n")
    graphs = Config.load(by_density, {"graphs.threshold": 0.7}).graphs
    assert (graphs.by_density, graphs.threshold, graphs.center) == (False, 0.7, "image")
    by_threshold = file("[graphs]\nthreshold = 0.7\n")
    graphs = Config.load(by_threshold, {"graphs.density": 0.2}).graphs
    assert (graphs.by_density, graphs.density) == (True, 0.2)


@pytest.mark.parametrize(
    ("center", "threshold", "expected"),
    [
        *((center, "auto", True) for center in ("none", "image", "dataset", "position", "auto")),
        *((center, 0.7, False) for center in ("none", "image")),
        *((center, 0.7, True) for center in ("dataset", "position", "auto")),
    ],
)
def test_what_is_needed_over_the_dataset(center: str, threshold: Any, expected: bool) -> None:
    graphs = load(graphs__center=center, graphs__threshold=threshold).graphs
    assert graphs.over_dataset is expected


def test_loading_leaves_presets_and_overrides_as_they_were() -> None:
    before, overrides = {**PRESETS["paper"]["clusters"]}, {"clusters.k": [3]}
    Config.load(None, {**overrides, "preset": "paper"})
    assert PRESETS["paper"]["clusters"] == before
    assert overrides == {"clusters.k": [3]}


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().seed = 1
    assert hash(load()) == hash(load())


# --- unknown settings ---------------------------------------------------------------------------

ALL_NAMES = sorted(leaves(Config()))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sede", "sede: unknown setting; did you mean seed?"),
        ("segment.restarts", "segment: unknown setting; did you mean segments?"),
        (
            "segments.restart",
            "segments.restart: unknown setting; did you mean segments.restarts?",
        ),
        ("clusters.K", "clusters.K: unknown setting; did you mean clusters.k?"),
        ("report.xyz", "report.xyz: unknown setting; known: baselines, browse"),
        (
            "a.b.c",
            "a.b: unknown setting; known: preset, seed, run_dir, data, features, graphs, segments, "
            "embeddings, clusters, masks, denoise, report, speed",
        ),
    ],
)
def test_an_unknown_setting_names_the_nearest_one(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(None, {name: 1})
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_setting_with_one_letter_too_many_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(None, {f"{name}q": 1})
    assert str(caught.value) == f"{name}q: unknown setting; did you mean {name}?"


def test_a_section_that_is_none(file: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(file("features = 3\n"))
    assert str(caught.value) == "features: expected a section [features], got 3"
    with pytest.raises(ConfigError) as caught:
        Config.load(file('preset = "paper"\nfeatures = 3\n'))
    assert str(caught.value) == "features: expected a section [features], got 3"
    with pytest.raises(ConfigError) as caught:
        Config.load(file("seed = 3\n"), {"seed.x": 1})
    assert str(caught.value) == "seed.x: there is no section [seed]"


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("seed", "one", "seed: expected int, got 'one'"),
        ("seed", 1.0, "seed: expected int, got 1.0"),
        ("seed", True, "seed: expected int, got True"),
        ("seed", {"x": 1}, "seed: expected int, got {'x': 1}"),
        ("clusters.spherical", 1, "clusters.spherical: expected bool, got 1"),
        ("preset", "\udcdb", "preset: expected best or paper, got '\\udcdb'"),
        ("clusters.spherical", "\udcdb", "clusters.spherical: expected bool, got '\\udcdb'"),
        ("clusters.k", "3", "clusters.k: expected int, got '3'"),
        ("clusters.k", [3, 4.5], "clusters.k: expected int, got 4.5"),
        ("graphs.density", "1", "graphs.density: expected float, got '1'"),
        ("data.images", 3, "data.images: expected str, got 3"),
        ("preset", "peper", "preset: expected best or paper, got 'peper'"),
        ("preset", [], "preset: expected best or paper, got []"),
        (
            "features.resize",
            "squas",
            "features.resize: expected keep or squash, got 'squas'; did you mean 'squash'?",
        ),
        ("features.resize", 0, "features.resize: expected keep or squash, got 0"),
        ("features.resize", ["keep"], "features.resize: expected keep or squash, got ['keep']"),
    ],
)
def test_a_value_of_the_wrong_kind(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(None, {name: value})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("seed", -1, "seed: expected 0 to 2147483647, got -1"),
        ("clusters.k", 0, "clusters.k: expected 1 to 255, got 0"),
        ("clusters.k", [3, 256], "clusters.k: expected 1 to 255, got 256"),
        ("clusters.k", [], "clusters.k: expected different numbers, got ()"),
        ("clusters.k", [3, 4, 3], "clusters.k: expected different numbers, got (3, 4, 3)"),
        ("features.image_px", 0, "features.image_px: expected 8 to 4096 or 'auto', got 0"),
        ("features.image_px", 7, "features.image_px: expected 8 to 4096 or 'auto', got 7"),
        ("graphs.density", float("nan"), "graphs.density: expected 0.001 to 0.9, got nan"),
        ("graphs.density", float("inf"), "graphs.density: expected 0.001 to 0.9, got inf"),
        ("speed.batch", 0, "speed.batch: expected 1 to 65536, got 0"),
        ("data.shard_images", 0, "data.shard_images: expected 1 to 100000, got 0"),
    ],
)
def test_a_value_out_of_range(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(None, {name: value})
    assert str(caught.value) == text


def test_settings_that_do_not_go_together() -> None:
    on = {"denoise__enabled": True}
    assert error(**on, clusters__k=[1, 3]) == (
        "denoise: a model needs two clusters or more, got clusters.k = [1, 3]"
    )
    assert error(**on, denoise__augment=True) == (
        "denoise.augment: a frozen probe learns on the tokens of [features]; "
        "leave it out, or set freeze = false"
    )
    assert load(denoise__augment=True).denoise.augment  # of no meaning while it is off
    assert error(masks__noise="pool", embeddings__mode="crop") == (
        "masks.noise: pool needs embeddings.mode = pool, got crop; use nearest or ignore"
    )


def test_a_number_passes_for_a_list_and_a_whole_one_for_a_fraction() -> None:
    assert load(clusters__k=6).clusters.k == (6,)
    rate = load(denoise__rate=2).denoise.rate
    assert rate == 2.0
    assert type(rate) is float
    assert load(features__allow_missing="head.*").features.allow_missing == ("head.*",)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_setting_takes_its_default_and_no_other_type(name: str) -> None:
    default = leaves(Config())[name]
    assert leaves(Config.load(None, {name: default}))[name] == default
    with pytest.raises(ConfigError, match=f"^{name}: "):
        Config.load(None, {name: object()})


# --- files --------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(file: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Config.load(tmp_path / "none.toml")
    assert str(caught.value) == f"{tmp_path}/none.toml: no such file"
    with pytest.raises(UsageError) as caught:
        Config.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: Is a directory"
    path = file("seed = = 1")
    with pytest.raises(UsageError) as caught:
        Config.load(path)
    assert str(caught.value).startswith(f"{path}: not valid TOML: Invalid value")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not valid TOML"):
        Config.load(path)


# --- overrides in text --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("segments.restarts=8", "segments.restarts", 8),
        (" segments.restarts = 8 ", "segments.restarts", 8),
        ("clusters.k=[6, 8]", "clusters.k", [6, 8]),
        ("clusters.spherical=false", "clusters.spherical", False),
        ("graphs.density=1e-1", "graphs.density", 0.1),
        ("graphs.center=none", "graphs.center", "none"),
        ('graphs.center="none"', "graphs.center", "none"),
        ("features.weights=/a b/c=d.pth", "features.weights", "/a b/c=d.pth"),
        ("data.truth=", "data.truth", ""),
    ],
)
def test_an_override_is_toml_or_plain_text(text: str, name: str, value: Any) -> None:
    found = parse_override(text)
    assert found == (name, value)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize("text", ["segments.restarts", "=8", " = 8", ""])
def test_an_override_without_name_or_value(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_override(text)
    assert str(caught.value) == f"--set {text}: expected section.key=value"


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_an_override_of_any_text_is_a_setting_or_an_error_with_the_cure(text: str) -> None:
    try:
        name, value = parse_override(text)
        Config.load(None, {name: value})
    except UsageError:
        pass


# --- what follows from settings -----------------------------------------------------------------


def test_the_run_folder_is_named_after_the_images() -> None:
    assert load(data__images="somewhere/photos").run_path == "runs/photos"
    assert load(data__images="somewhere/photos/").run_path == "runs/photos"
    assert load(data__images="suim/images").run_path == "runs/suim"
    assert load(data__images="photos", run_dir="elsewhere/x").run_path == "elsewhere/x"
    assert load(data__images="photos", run_dir="s3://bucket/x").run_path == "s3://bucket/x"


def test_hashed_settings_are_plain_and_leave_out_what_is_only_kept() -> None:
    config = load(features__allow_missing=["a", "b"], clusters__k=[3, 4])
    report = {"baselines": True, "browse": 10_000}
    assert settings_of(config.report) == report
    assert settings_of(config.features)["allow_missing"] == ["a", "b"]
    for section in (config.features, config.graphs):
        assert set(settings_of(section)) == {f.name for f in dataclasses.fields(section)} - {"keep"}
    assert settings_of(config.clusters)["k"] == [3, 4]


def test_the_mark_of_notepad_before_a_file_is_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 7\n")
    assert Config.load(path).seed == 7

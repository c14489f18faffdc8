"""The README's commands parse, its files exist, and the shell scripts name real configs."""

import os
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from datus.cli.app import app
from datus.config import Config
from datus.inputs.labels import load_classes

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def datus_commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.split(r" {3,}|  +#", line)[0] for line in lines if line.startswith("datus ")]


@pytest.mark.parametrize("command", datus_commands())
def test_commands_parse(command: str) -> None:
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(command)[1:]
    group.commands[name].make_context(name, arguments)  # raises on an unknown option


def test_there_are_commands() -> None:
    assert len(datus_commands()) >= 8


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_exist(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.toml")), ids=lambda p: p.name)
def test_pipelines_load(path: Path) -> None:
    config = Config.load(path)
    assert config.data.images
    if not config.data.classes.startswith("demo/"):
        load_classes(ROOT / config.data.classes)


def test_make_targets_are_the_readmes() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines" / "batch").glob("*.sh")), ids=str)
def test_batch_scripts_name_real_configs(path: Path) -> None:
    named = re.findall(r"pipelines/\S+\.toml", path.read_text(encoding="utf-8"))
    assert named
    assert all((ROOT / name).exists() for name in named)
    assert os.access(path, os.X_OK)


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"@[A-Z]+@", README)

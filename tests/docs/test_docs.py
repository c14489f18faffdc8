"""The documentation: links lead somewhere, commands parse, quoted messages are the code's."""

import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main

from datus.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COMING = {"report.md", "choosing_k.md", "corrections.md"}
"""Pages that are linked before they are there."""

OURS = ("index", "start", "own_data", "choosing_backbone", "from_masks_to_model", "api")


LINKING = [*PAGES, DOCS / "tour.ipynb", ROOT / "README.md"]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    inside = [link for link in links if not re.match(r"[a-z]+:", link) and link not in COMING]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_the_index_leads_to_every_page() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)]+)\)", text))
    assert {page.name for page in PAGES} - {"index.md"} <= linked
    assert "tour.ipynb" in linked


def commands() -> list[str]:
    found = []
    for name in OURS:
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.S | re.M)
        for block in (inside for language, inside in fenced if not language):
            lines = re.sub(r"\\\n\s*", " ", block).splitlines()
            found += [line.strip() for line in lines if line.strip().startswith("datus ")]
        found += re.findall(r"`(datus (?:run|export|predict|fit) --?[^`…]+)`", text)
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    group.commands[name].make_context(name, arguments)  # raises on an unknown option


def test_there_are_commands() -> None:
    assert len(commands()) >= 12


def test_settings_are_those_of_the_code() -> None:
    page = runpy.run_path(str(DOCS / "make_settings.py"))["page"]()
    kept = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert kept.splitlines() == page.splitlines(), "stale: python docs/make_settings.py"


def texts_of_the_code() -> list[str]:
    """Every piece of text in the package; f-strings in pieces."""
    found = []
    for path in sorted((ROOT / "datus").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def messages() -> list[list[str]]:
    """The fixed parts of each message of troubleshooting.md."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    lines = re.findall(r"^- \*\*`(.+)`\*\*$", text, re.M)
    return [[part for part in line.split("…") if part.strip()] for line in lines]


CODE = texts_of_the_code()


@pytest.mark.parametrize("parts", messages(), ids=lambda parts: parts[0].strip()[:50])
def test_messages_are_word_for_word(parts: list[str]) -> None:
    assert [part for part in parts if not any(part in text for text in CODE)] == []


def test_there_are_forty_messages_each_once() -> None:
    found = [tuple(parts) for parts in messages()]
    assert len(found) == len(set(found))
    assert len(found) >= 40


def test_no_machine_is_named() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"(?<![\w.~])/(?:home|root|tmp|work|Users)/", text), page.name

"""Commands called in this process, and what they print."""

import re
from typing import Any

from typer.testing import CliRunner

from datus.cli.app import app

PLAIN = {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}


def call(*arguments: object) -> Any:
    return CliRunner(env=PLAIN).invoke(app, [str(argument) for argument in arguments])


def error_of(result: Any, exit_code: int) -> str:
    """What came after 'error: ', on stderr alone and without a traceback."""
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    assert "error: " not in result.stdout
    (text,) = re.findall(r"^error: (.*)\Z", result.stderr, re.DOTALL | re.MULTILINE)
    return str(text).rstrip("\n")


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell -> other cells, of a table with at least two spaces between cells."""
    rows = (re.split(r" {2,}", line.strip()) for line in text.splitlines())
    return {first: cells for first, *cells in rows}

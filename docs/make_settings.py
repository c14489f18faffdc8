"""Write docs/settings.md from the classes of datus/config.py: every setting, once.

    python docs/make_settings.py             write it
    python docs/make_settings.py --check     exit code 1 if it is not what the code says

Texts are the docstrings of the settings, so the page cannot say anything else than the code does.
"""

import argparse
import ast
import inspect
import itertools
import sys
import textwrap
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from datus.cli.options import OPTIONS
from datus.config import PRESETS, Config

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings

<!-- Written by docs/make_settings.py from datus/config.py. Edit the docstrings there. -->

A setting has a section and a key. It comes, the later the stronger, from the preset, from a TOML
file, and from the command line or from Python:

```
datus run pipelines/demo.toml --set graphs.threshold=0.6 --set 'clusters.k=[6, 12]'
```

```toml
[graphs]
threshold = 0.6
```

```python
datus.mine("photos", settings={"graphs.threshold": 0.6})
```

A key that is not here is an error that names the nearest one. *paper* is the value of the preset
`paper` where it is another one; *option* is the option of `datus run` that says the same. What is
in `[speed]` never changes a byte of the results on a CPU, `keep` does not either. Everything else
is part of the fingerprint of the stages that read it, and of all after them.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    hints = typing.get_type_hints(Config)
    top = [one.name for one in fields(Config) if not is_dataclass(hints[one.name])]
    parts.append(_section("Of the run", "In a file, above all sections.", Config, "", top))
    for one in fields(Config):
        if is_dataclass(hints[one.name]):
            about = " ".join((hints[one.name].__doc__ or "").split())
            names = [key.name for key in fields(hints[one.name])]
            title = f"[{one.name}]"
            parts.append(_section(title, about, hints[one.name], f"{one.name}.", names))
    return "\n".join(parts)


def _section(title: str, about: str, cls: Any, before: str, names: list[str]) -> str:
    texts, hints = _texts(cls), typing.get_type_hints(cls, include_extras=True)
    lines = [f"## {title}", "", about, "", "| setting | default | allowed | |", "|---|---|---|---|"]
    defaults = cls()
    for name in names:
        full = before + name
        default = _value(getattr(defaults, name))
        said = [_cell(texts.get(name, ""))]
        paper = PRESETS["paper"].get(before.rstrip("."), {}) if before else {}
        if name in paper:
            said.append(f"*paper: {_value(paper[name])}*")
        option = next((key for key, value in OPTIONS.items() if value == full), "")
        option = "clusters" if full == "clusters.k" else option
        if option:
            said.append(f"*option: `--{option.replace('_', '-')}`*")
        text = " ".join(filter(None, said))
        lines.append(f"| `{full}` | {default} | {_allowed(hints[name])} | {text} |")
    return "\n".join(lines) + "\n"


def _texts(cls: Any) -> dict[str, str]:
    """Name of a field -> the string that stands below it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for one, after in itertools.pairwise(body):
        named = isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        string = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if named and string:
            found[one.target.id] = " ".join(str(after.value.value).split())
    return found


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value}`" if value != "" else "empty"


def _allowed(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # a number, or a word
        return f"{_allowed(parts[0])}, or {_allowed(parts[1])}"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    if origin is tuple:
        return "texts" if parts[0] is str else f"{_allowed(parts[0])}, one or several"
    if origin is Annotated:
        return f"{parts[1].ge:,.10g} to {parts[1].le:,.10g}"
    return "`true`, `false`" if hint is bool else "text"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit(f"{PAGE.name} is stale: python docs/make_settings.py")
        return
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(page().splitlines())} lines")


if __name__ == "__main__":
    main()

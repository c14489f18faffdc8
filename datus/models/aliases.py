"""Names of models as people type them, and the names of the table that they stand for.

    resolve("dinov2_vits14_reg")      "vit_small_patch14_reg4_dinov2.lvd142m"
    resolve("facebook/dino-vits8")    "vit_small_patch8_224.dino"
    resolve("dinov2")                 UsageError that lists the models of that name
    suggestions("vit_small_dino8")    names of the table that are spelled like it

A row of the table is known by its own name, by the authors' names (torch.hub, the released file,
the repository on Hugging Face) and by its scheme and size. Upper case, dots, dashes, slashes and
underscores make no difference. Loads nothing.
"""

import difflib
import functools
import re
from collections.abc import Iterator

from datus.errors import UsageError
from datus.models.registry import LARGER, RECOMMENDED, ROWS, SUFFIXES, Row, find

_PLACE = re.compile(
    r"(?:https?://huggingface\.co/|hf[-_]hub:)?(?:(timm|facebook|facebookresearch)/)?", re.I
)
"""What may stand before the name: where the model lies, and who published it."""

_SCHEMES = re.compile(r"(?:dino|ibot|mugs|unicom|mae|moco|msn)(?:v\d|[^a-z]|$)", re.I)
"""How names of authors begin, and no architecture of timm."""


def resolve(name: str) -> str:
    """The name in the table, or `name` itself where it may be another model of timm, or a file.

    Raises UsageError if several models have the name, or if no model can have it.
    """
    if find(name) or name.endswith(".safetensors"):
        return name
    match = _PLACE.match(name)
    publisher, rest = (match[1] or "", name[match.end() :]) if match else ("", name)
    exact, loose = _names()
    rows = exact.get(_key(rest)) or loose.get(_key(rest), [])
    if len(rows) > 1:
        raise UsageError(_choice(name, rows))
    if rows:
        return rows[0].name
    if publisher.lower() == "timm":
        return resolve(rest)
    if "/" in name or _SCHEMES.match(name):
        raise UsageError(_unknown(name))
    return name


def suggestions(name: str) -> str:
    """Up to three names of the table that are spelled like `name`, with commas."""
    exact, _ = _names()
    near = difflib.get_close_matches(_key(name), list(exact), n=12, cutoff=0.6)
    return ", ".join(list(dict.fromkeys(exact[one][0].name for one in near))[:3])


def _choice(name: str, rows: list[Row]) -> str:
    names = [row.name for row in rows]
    picked = next((one for one in (LARGER, RECOMMENDED) if one in names), "")
    width = max(map(len, names))
    lines = [f"{name}: {len(rows)} models have this name; give one of them in full:"]
    for row in rows:
        kind = "CNN, for crops only" if row.is_cnn else f"ViT-{row.size}/{row.patch_px}"
        kind = kind.removeprefix("ViT-") if row.size == "filters" else kind
        mark = "  recommended" if row.name == picked else ""
        lines.append(f"  {row.name:{width}}  {kind}, {row.parameters / 1e6:.1f}M parameters{mark}")
    if not picked:
        lines.append(f"None of these is recommended over {RECOMMENDED}")
    return "\n".join(lines)


def _unknown(name: str) -> str:
    near = suggestions(_PLACE.sub("", name, count=1))
    text = f"{name}: there is no such model" + (f"; did you mean {near}?" if near else "")
    if name.lower().endswith(SUFFIXES):
        return f"{text}\nTo use a file, give the model's name here and the file as weights"
    return f"{text}\ndatus backbones lists the models; any other ViT of timm works too, by its name"


# --- names of a row -----------------------------------------------------------------------------


@functools.cache
def _names() -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Key -> rows: by names that mean one model, and by those that may mean several."""
    exact: dict[str, list[Row]] = {}
    loose: dict[str, list[Row]] = {}
    for row in ROWS:
        for names, table in ((_own(row), exact), (_shared(row), loose)):
            for key in dict.fromkeys(map(_key, names)):
                table.setdefault(key, []).append(row)
    return exact, loose


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _own(row: Row) -> Iterator[str]:
    """The names of one model: of the table, the released file, torch.hub and Hugging Face."""
    scheme, kind, code = _scheme(row), _kind(row), f"vit{row.size[:1]}{row.patch_px}"
    yield row.name
    if row.file:
        stem = re.sub(r"(?:\.pth)?\.\w+$", "", row.file)
        yield from (stem, stem.removesuffix("_pretrain"))
        if scheme == "dinov3":  # the digits are the beginning of the file's hash
            yield stem.rpartition("-")[0]
    if row.is_cnn:
        yield f"{scheme}_{row.model}"
        return
    if row.size in ("t8", "filters"):  # ours have one name each
        return
    code += "plus" if "_plus_" in row.name else ""
    code += "_336" if "_336." in row.name else ""
    if "_reg4_" in row.name:
        yield from (f"{scheme}_{code}_reg", f"{scheme}_{code}_reg4")
        yield f"{scheme}_with_registers_{kind}"
        return
    yield f"{scheme}_{code}"
    if scheme == "dinov2":
        yield f"dinov2_{kind}"
    if scheme == "msn":
        yield f"vit_msn_{kind}" + (f"_{row.patch_px}" if row.patch_px != 16 else "")


def _shared(row: Row) -> Iterator[str]:
    """Names that leave something open: the scheme, or the scheme and the size."""
    scheme, kind = _scheme(row), _kind(row)
    yield scheme
    if "_reg4_" in row.name:
        yield from (f"{scheme}_reg", f"{scheme}_reg4", f"{scheme}_with_registers")
    if scheme in ("dinov2", "dinov3"):
        yield row.model  # timm gives these architectures the weights of the table
    if kind:
        letter = row.size[:1]
        yield from (f"{scheme}_{kind}", f"{scheme}_vit{letter}", f"{scheme}_vit_{kind}")
        yield from (f"vit_{scheme}_{kind}", f"vit_{kind}_{scheme}")
        yield f"{scheme}_vit_{kind}_patch{row.patch_px}"


def _scheme(row: Row) -> str:
    """As it stands in names."""
    return "datus" if row.family.layout == "timm" else row.family.layout


def _kind(row: Row) -> str:
    """small, base, ...; empty where the name has none."""
    found = re.match(r"vit_(\w+?)_patch", row.name)
    return found[1] if found else ""

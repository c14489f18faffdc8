"""The table of backbones: what each model is, who made it, on what terms, and what its file holds.

    find("vit_small_patch8_224.dino")     the row, or None: timm knows many more models
    resolve("dino_vits8")                 "vit_small_patch8_224.dino", the name in the table
    fitting({"pos_embed": (1, 785, 384), ...})   names of the rows whose file has these shapes

A name is timm's where timm has the model, and is made the same way where it has not:
ARCHITECTURE.SCHEME. Facts are those that the authors state; an empty text means that they state
none, or that it was not found out. Loads nothing heavy.
"""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from datus.errors import UsageError

Shape = tuple[int, ...]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
"""Of weight files; the order in which a folder is searched."""

PATCHES_PER_SIDE = 28
"""Of the grid that an image has at image_px = "auto", as at 224 pixels with patches of 8."""

N_APPEARANCE = 18
"""Channels that a HybridTransformer has behind its keys and tokens."""

SIZES: dict[str, tuple[int, int, int]] = {
    # width, blocks, heads
    "t8": (192, 8, 3),
    "S": (384, 12, 6),
    "S (12 heads)": (384, 12, 12),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
    "H+": (1280, 32, 20),
    "g": (1536, 40, 24),
    "filters": (72, 0, 0),  # the size of a code; there are no blocks
}

CNN_SHAPES: dict[str, dict[str, Shape]] = {
    "resnet18": {"layer4.1.conv2.weight": (512, 512, 3, 3)},
    "resnet50": {"layer4.2.conv3.weight": (2048, 512, 1, 1)},
}


@dataclass(frozen=True, slots=True)
class Family:
    """What the models of one training scheme share."""

    scheme: str
    licence: str
    """Of the weights."""
    source: str
    """The authors' repository."""
    layout: str
    """Short name of how the authors' files spell their tensors."""
    looks: str
    """What such a file looks like inside."""
    heads: tuple[str, ...] = ()
    """Patterns of tensors beyond the backbone; they are left out without a word."""
    file: str = ""
    """Name of the released files; `Row.released` and the digest fill the places in it."""
    url: str = ""
    """Address of the released files; {file} and {stem} stand for the name."""
    data: str = "ImageNet-1k"
    """Pretraining images."""
    on_hub: bool = False
    """timm has the weights."""
    gated: str = ""
    """Where the licence is accepted before the authors' own file can be had; empty = not asked."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One model."""

    name: str
    family: Family
    parameters: int
    size: str
    """Key of SIZES; empty = a CNN."""
    patch_px: int
    """0 = a CNN."""
    grid: int = 0
    """Side of the grid of position embeddings in the file; 0 = none, positions are rotary."""
    released: str = ""
    """Words that fill the places in the family's `file` and `url`; empty = no file is known."""
    digest: str = ""
    """sha256:... or md5:... of that file, or how it begins, where its authors state it."""
    architecture: str = ""
    """timm's; empty = the name before the dot."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from timm's architecture."""
    note: str = ""

    @property
    def model(self) -> str:
        """timm's name of the architecture."""
        return self.architecture or self.name.partition(".")[0]

    @property
    def file(self) -> str:
        """The authors' name for the file; empty = not known, or the same for several models."""
        return self._filled(self.family.file)

    @property
    def url(self) -> str:
        stem = self.file.removesuffix(".tar").removesuffix(".pth")
        return self._filled(self.family.url, file=self.file, stem=stem)

    def _filled(self, template: str, **parts: str) -> str:
        words = [*self.released.split(), "", ""]  # some templates have a place that may stay empty
        digits = self.digest.partition(":")[2]
        return template.format(*words, digits=digits, **parts) if self.released else ""

    @property
    def download_size(self) -> str:
        """Of the weights on the hub, '87 MB': four bytes for each parameter. The header of the file
        adds some KB."""
        return f"{4 * self.parameters / 1e6:.0f} MB"

    @property
    def key_size(self) -> int:
        """Of a key, and of a token, of a model that is no CNN."""
        return SIZES[self.size][0] + (N_APPEARANCE if self.size == "t8" else 0)

    @property
    def is_cnn(self) -> bool:
        """No patches and no keys: it can embed crops and nothing else."""
        return not self.patch_px

    @property
    def kind(self) -> str:
        """ViT-S/8, for example."""
        if self.is_cnn:
            return "CNN, for crops only"
        if self.family is FILTERS:
            return f"filters on patches of {self.patch_px} pixels, no ViT"
        return f"ViT-{self.size}/{self.patch_px}"

    @property
    def shapes(self) -> dict[str, Shape]:
        """The decisive tensors of the authors' file, without prefixes."""
        if self.is_cnn:
            return {"conv1.weight": (64, 3, 7, 7), **CNN_SHAPES[self.model]}
        width, depth, _ = SIZES[self.size]
        if not depth:
            return {"phases": (6, 6)}
        shapes: dict[str, Shape] = {
            "patch_embed.proj.weight": (width, 3, self.patch_px, self.patch_px),
            "blocks.0.attn.qkv.weight": (3 * width, width),
            f"blocks.{depth - 1}.norm1.weight": (width,),
        }
        if self.grid:
            n_prefix = 0 if self.family is UNICOM else 1
            shapes["pos_embed"] = (1, self.grid**2 + n_prefix, width)
        return shapes


# --- who made them ------------------------------------------------------------------------------

GITHUB, META = "https://github.com/", "https://dl.fbaipublicfiles.com/"
APACHE, NON_COMMERCIAL = "Apache-2.0", "CC-BY-NC-4.0"
SHIPPED = "shipped with this package"
BOTH_BEHIND_BACKBONE = "student and teacher, names behind backbone. or module.backbone."

DATUS = Family(
    *("masked features", APACHE, SHIPPED, "timm", "tensors by timm's names"), data="14k photos"
)
FILTERS = replace(DATUS, scheme="filters", data="none")
DINO = Family(
    *("DINO", APACHE, f"{GITHUB}facebookresearch/dino", "dino"),
    f"backbone alone, or {BOTH_BEHIND_BACKBONE}",
    heads=("head.*", "fc.*"),
    file="dino_{}_pretrain.pth",
    url=f"{META}dino/{{stem}}/{{file}}",
    on_hub=True,
)
DINO_CNN = replace(DINO, on_hub=False)
IBOT = Family(
    *("iBOT", APACHE, f"{GITHUB}bytedance/ibot", "ibot", f"state_dict, or {BOTH_BEHIND_BACKBONE}"),
    heads=("head.*", "masked_embed"),
    url="https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/{}/"
    "checkpoint_teacher.pth",
    note="the authors call it checkpoint_teacher.pth at every size: rename it",
)
MUGS = Family(
    *("Mugs", APACHE, f"{GITHUB}sail-sg/mugs", "mugs", f"state_dict, or {BOTH_BEHIND_BACKBONE}"),
    heads=("relation_blocks.*", "instance_head.*", "local_group_head.*", "group_head.*"),
    file="vit_{}_backbone_{}ep.pth",
    url="https://huggingface.co/zhoupans/Mugs/resolve/main/pretrained%20models/vit_{}_{}ep/{file}",
)
DINOV2 = Family(
    *("DINOv2", APACHE, f"{GITHUB}facebookresearch/dinov2", "dinov2"),
    "backbone alone, or teacher with backbone. in front; blocks may be chunked (blocks.0.3.)",
    heads=("dino_head.*", "ibot_head.*", "mask_token"),
    file="dinov2_vit{}{}_pretrain.pth",
    url=f"{META}dinov2/dinov2_vit{{}}/{{file}}",
    data="LVD-142M",
    on_hub=True,
)
UNICOM = Family(
    *("Unicom", "MIT", f"{GITHUB}deepglint/unicom", "unicom"),
    "float16 tensors; no class token; feature.* is the head",
    heads=("feature.*",),
    file="FP16-ViT-{}.pt",
    url=f"{GITHUB}deepglint/unicom/releases/download/{{1}}/{{file}}",
    data="LAION-400M",
    note="trained with the mean and deviation of CLIP's images; here it sees ImageNet's",
)
DINOV3 = Family(
    *("DINOv3", "DINOv3 License", f"{GITHUB}facebookresearch/dinov3", "dinov3"),
    "backbone alone, or teacher with backbone. in front; storage_tokens, qkv.bias_mask",
    heads=("dino_head.*", "ibot_head.*", "mask_token", "local_cls_norm.*"),
    file="dinov3_{}_pretrain_lvd1689m-{digits}.pth",
    data="LVD-1689M",
    on_hub=True,
    gated="https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/",
    note="Meta's own files and facebook/dinov3-* on the hub are gated: accept the licence first; "
    "timm's copy was not gated when this was written, but has the same licence",
)
MAE = Family(
    *("MAE", NON_COMMERCIAL, f"{GITHUB}facebookresearch/mae", "mae"),
    "model: the encoder, the decoder in full files",
    heads=("decoder_*", "mask_token"),
    file="mae_pretrain_vit_{}.pth",
    url=f"{META}mae/pretrain/{{file}}",
    on_hub=True,
)
MOCO_V3 = Family(
    *("MoCo v3", NON_COMMERCIAL, f"{GITHUB}facebookresearch/moco-v3", "mocov3"),
    "state_dict, names behind module.base_encoder.; head.* is the projector",
    heads=("head.*", "momentum_encoder.*", "predictor.*"),
    file="vit-{}-300ep.pth.tar",
    url=f"{META}moco-v3/{{stem}}/{{file}}",
)
MSN = Family(
    *("MSN", "see source", f"{GITHUB}facebookresearch/msn", "msn"),
    "target_encoder, names behind module.; fc.* is the head",
    heads=("fc.*", "pred.*"),
    file="{}.pth.tar",
    url=f"{META}msn/{{file}}",
    note="Meta's copies on Hugging Face say apache-2.0; read the repository's LICENSE too",
)
MOCO_V2 = Family(
    *("MoCo v2", NON_COMMERCIAL, f"{GITHUB}facebookresearch/moco", "mocov2"),
    "state_dict, names behind module.encoder_q.; fc.* is the projector",
    heads=("fc.*", "encoder_k.*", "queue", "queue_ptr"),
    file="moco_v2_{}_pretrain.pth.tar",
    url=f"{META}moco/moco_checkpoints/moco_v2_{{}}/{{file}}",
)

# --- the rows -----------------------------------------------------------------------------------

# Patches of 8 pixels follow borders more closely than patches of 14 or 16; ViT-S is the smallest
# of the usual sizes: 21.7 million parameters still run on a CPU. The weights are Apache-2.0 and on
# the hub without a login. The paper's Table I has this model, too.
RECOMMENDED = "vit_small_patch8_224.dino"
# Four times the parameters, trained on 142 million images. The registers keep the outliers of
# DINOv2 out of the patch tokens. The weights are Apache-2.0 and on the hub without a login as well.
LARGER = "vit_base_patch14_reg4_dinov2.lvd142m"

FILTERS_NOTE = (
    "colour alone, nothing is learned: for microscope, CT and satellite images whose classes "
    "differ in colour or brightness; for photographs take a ViT"
)
UNICOM_OPTIONS: dict[str, Any] = {
    # no class token, no biases in qkv, ReLU6, torch's default epsilon
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
    "qkv_bias": False,
    "act_layer": "relu6",
    "norm_eps": 1e-5,
}


def _dinov2(size: str, kind: str, parameters: int, registers: bool = False) -> Row:
    name, released = f"vit_{kind}_patch14_reg4_dinov2.lvd142m", f"{size.lower()}14"
    if registers:
        return Row(name, DINOV2, parameters, size, 14, 37, f"{released} _reg4")
    note = (
        "some patch tokens of the background have very large norms (Darcet et al. 2024, Vision "
        f"Transformers Need Registers), which disturbs the graph of patches; prefer {name}"
    )
    name = name.replace("_reg4", "")
    return Row(name, DINOV2, parameters, size, 14, 37, released, note=note)


def _unicom(name: str, parameters: int, released: str, digits: str, **more: Any) -> Row:
    size, patch = released[0], int(released[2:4])
    side = 336 if "336" in name else 224
    options = UNICOM_OPTIONS | ({"img_size": side} if side != 224 else {})
    given = (parameters, size, patch, side // patch, released, f"sha256:{digits}")
    return Row(f"vit_{name}.unicom", UNICOM, *given, options=options, **more)


def _dinov3(size: str, kind: str, parameters: int, released: str, digits: str) -> Row:
    name = f"vit_{kind}_patch16_dinov3.lvd1689m"
    return Row(name, DINOV3, parameters, size, 16, 0, released, f"sha256:{digits}")


ROWS: tuple[Row, ...] = (
    Row("datus_t8", DATUS, 3_645_888, "t8", 8, 16, note="small; runs anywhere"),
    Row("datus_filters", FILTERS, 0, "filters", 2, note=f"{FILTERS_NOTE}; masks are finest, slow"),
    Row("datus_filters_p4", FILTERS, 0, "filters", 4, note=FILTERS_NOTE),
    Row("datus_filters_p8", FILTERS, 0, "filters", 8, note=f"{FILTERS_NOTE}; the fastest"),
    # the paper's Table I
    Row("vit_small_patch8_224.dino", DINO, 21_670_272, "S", 8, 28, "deitsmall8"),
    Row("vit_small_patch16_224.dino", DINO, 21_665_664, "S", 16, 14, "deitsmall16"),
    Row("vit_base_patch8_224.dino", DINO, 85_807_872, "B", 8, 28, "vitbase8"),
    Row("vit_base_patch16_224.dino", DINO, 85_798_656, "B", 16, 14, "vitbase16"),
    Row("vit_small_patch16_224.ibot", IBOT, 21_665_664, "S", 16, 14, "vits_16"),
    Row("vit_base_patch16_224.ibot", IBOT, 85_798_656, "B", 16, 14, "vitb_16_rand_mask"),
    Row("vit_large_patch16_224.ibot", IBOT, 303_301_632, "L", 16, 14, "vitl_16_rand_mask"),
    Row("vit_small_patch16_224.mugs", MUGS, 21_665_664, "S", 16, 14, "small 800"),
    Row("vit_base_patch16_224.mugs", MUGS, 85_798_656, "B", 16, 14, "base 400"),
    Row("vit_large_patch16_224.mugs", MUGS, 303_301_632, "L", 16, 14, "large 250"),
    _dinov2("S", "small", 22_056_192),
    _dinov2("B", "base", 86_579_712),
    _dinov2("L", "large", 304_367_616),
    _dinov2("g", "giant", 1_136_479_232),
    _unicom(
        *("base_patch16_224", 85_769_472, "B-16 b16"),
        "c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef",
    ),
    _unicom(
        *("base_patch32_224", 87_426_048, "B-32 b32"),
        "f9d5696a9b58dbbbefee2d31615ca59084f2895a0fdd2ca4c235e0f9b2793f7a",
    ),
    _unicom(
        *("large_patch14_224", 303_102_976, "L-14 l14"),
        "ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd",
    ),
    _unicom(
        *("large_patch14_336", 303_430_656, "L-14-336px l14_336px"),
        "3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea",
        architecture="vit_large_patch14_224",
    ),
    # since then
    _dinov2("S", "small", 22_057_344, registers=True),
    _dinov2("B", "base", 86_582_016, registers=True),
    _dinov2("L", "large", 304_370_688, registers=True),
    _dinov2("g", "giant", 1_136_483_840, registers=True),
    _dinov3("S", "small", 21_586_944, "vits16", "08c60483"),
    _dinov3("S", "small_plus", 28_683_264, "vits16plus", "4057cbaa"),
    _dinov3("B", "base", 85_641_216, "vitb16", "73cec8be"),
    _dinov3("L", "large", 303_079_424, "vitl16", "8aa4cbdd"),
    _dinov3("H+", "huge_plus", 840_509_440, "vith16plus", "7c1da9a5"),
    Row("vit_base_patch16_224.mae", MAE, 85_798_656, "B", 16, 14, "base", "md5:8cad7c"),
    Row("vit_large_patch16_224.mae", MAE, 303_301_632, "L", 16, 14, "large", "md5:b8b06e"),
    Row("vit_huge_patch14_224.mae", MAE, 630_764_800, "H", 14, 16, "huge", "md5:9bdbb0"),
    Row(
        *("vit_small_patch16_224.mocov3", MOCO_V3, 21_665_664, "S (12 heads)", 16, 14, "s"),
        options={"num_heads": 12},
        note="twelve heads, where other small ViTs have six",
    ),
    Row("vit_base_patch16_224.mocov3", MOCO_V3, 85_798_656, "B", 16, 14, "b"),
    Row("vit_small_patch16_224.msn", MSN, 21_665_664, "S", 16, 14, "vits16_800ep"),
    Row("vit_base_patch16_224.msn", MSN, 85_798_656, "B", 16, 14, "vitb16_600ep"),
    Row(
        *("vit_base_patch8_224.msn", MSN, 85_807_872, "B", 8, 28),
        note=f"no released file is known; {MSN.note}",
    ),
    Row(
        *("vit_base_patch4_224.msn", MSN, 87_503_616, "B", 4, 56, "vitb4_300ep"),
        architecture="vit_base_patch16_224",  # timm has it at this size of patches only
        options={"patch_size": 4},
    ),
    Row("vit_large_patch16_224.msn", MSN, 303_301_632, "L", 16, 14, "vitl16_600ep"),
    Row(
        *("vit_large_patch7_224.msn", MSN, 303_513_600, "L", 7, 32, "vitl7_200ep"),
        architecture="vit_large_patch16_224",
        options={"patch_size": 7},
    ),
    # CNNs, for crops only
    Row("resnet50.mocov2", MOCO_V2, 23_508_032, "", 0, 0, "800ep", "md5:a04e12f8"),
    Row(
        *("resnet18.mocov2", MOCO_V2, 11_176_512, "", 0),
        note="no file was released: train one with main_moco.py -a resnet18",
    ),
    Row("resnet50.dino", DINO_CNN, 23_508_032, "", 0, 0, "resnet50"),
)

_BY_NAME = {row.name: row for row in ROWS}


def find(name: str) -> Row | None:
    """The row of the model `name`, or None if it is not in the table."""
    return _BY_NAME.get(name)


# --- what a file is of --------------------------------------------------------------------------


def fitting(shapes: Mapping[str, Shape]) -> list[str]:
    """Names of the models whose decisive tensors have these shapes, in the order of the table.

    shapes: of the tensors of an authors' file, by name, prefixes stripped.
    """
    return [
        row.name
        for row in ROWS
        if all(shapes.get(name) == shape for name, shape in row.shapes.items())
        and _depth(shapes) == _depth(row.shapes)
        and all((name in shapes) == has for name, has in _marks(row).items())
    ]


def _marks(row: Row) -> dict[str, bool]:
    """Tensors that some layouts have and others have not; whether the file of the row does."""
    layout = row.family.layout
    return {
        "blocks.0.ls1.gamma": layout in ("dinov2", "dinov3"),
        "register_tokens": "_reg4_" in row.name,
        "storage_tokens": layout == "dinov3",
        "blocks.0.mlp.w1.weight": "_plus_" in row.name,
    }


def _depth(shapes: Mapping[str, Shape]) -> int:
    """The highest block number."""
    numbers = (key.split(".")[1] for key in shapes if key.startswith("blocks."))
    return max((int(number) for number in numbers if number.isdigit()), default=-1)


# --- names as people type them ------------------------------------------------------------------

_PLACE = re.compile(
    r"(?:https?://huggingface\.co/|hf[-_]hub:)?(?:(timm|facebook|facebookresearch)/)?", re.I
)
"""What may stand before the name: where the model lies, and who published it."""

_SCHEMES = re.compile(r"(?:dino|ibot|mugs|unicom|mae|moco|msn)(?:v\d|[^a-z]|$)", re.I)
"""How names of authors begin, and no architecture of timm."""


def resolve(name: str) -> str:
    """The name in the table, or `name` itself where it may be another model of timm, or a file.

    A row is known by its own name, by the authors' names (torch.hub, the released file, the
    repository on Hugging Face) and by its scheme and size. Upper case, dots, dashes, slashes and
    underscores make no difference. Raises UsageError if several models have the name, or if no
    model can have it.
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
    return ", ".join(list(dict.fromkeys(exact[key][0].name for key in near))[:3])


def _choice(name: str, rows: list[Row]) -> str:
    names = [row.name for row in rows]
    picked = next((one for one in (LARGER, RECOMMENDED) if one in names), "")
    width = max(map(len, names))
    lines = [f"{name}: {len(rows)} models have this name; give one of them in full:"]
    for row in rows:
        mark = "  recommended" if row.name == picked else ""
        size = f"{row.parameters / 1e6:.1f}M parameters"
        lines.append(f"  {row.name:{width}}  {row.kind}, {size}{mark}")
    if not picked:
        lines.append(f"None of these is recommended over {RECOMMENDED}")
    return "\n".join(lines)


def _unknown(name: str) -> str:
    near = suggestions(_PLACE.sub("", name, count=1))
    text = f"{name}: there is no such model" + (f"; did you mean {near}?" if near else "")
    if name.lower().endswith(SUFFIXES):
        return f"{text}\nTo use a file, give the model's name here and the file as weights"
    return f"{text}\ndatus backbones lists the models; any other ViT of timm works too, by its name"


@functools.cache
def _names() -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Key -> rows: by names that mean one model, and by those that may mean several."""
    exact: dict[str, list[Row]] = {}
    loose: dict[str, list[Row]] = {}
    for row in ROWS:
        for names, table in ((_exact_names(row), exact), (_loose_names(row), loose)):
            for key in dict.fromkeys(map(_key, names)):
                table.setdefault(key, []).append(row)
    return exact, loose


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _exact_names(row: Row) -> Iterator[str]:
    """The names of one model: of the table, the released file, torch.hub and Hugging Face."""
    scheme, kind, code = row.family.layout, _kind(row), f"vit{row.size[:1]}{row.patch_px}"
    yield row.name
    if row.file:
        stem = re.sub(r"(?:\.pth)?\.\w+$", "", row.file)
        yield from (stem, stem.removesuffix("_pretrain"))
        if scheme == "dinov3":  # the digits are the beginning of the file's hash
            yield stem.rpartition("-")[0]
    if row.is_cnn:
        yield f"{scheme}_{row.model}"
        return
    if row.family.source == SHIPPED:
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


def _loose_names(row: Row) -> Iterator[str]:
    """Names that leave something open: the scheme, or the scheme and the size."""
    scheme, kind = row.family.layout, _kind(row)
    yield "datus" if row.family.source == SHIPPED else scheme
    if "_reg4_" in row.name:
        yield from (f"{scheme}_reg", f"{scheme}_reg4", f"{scheme}_with_registers")
    if scheme in ("dinov2", "dinov3"):
        yield row.model  # timm gives these architectures the weights of the table
    if kind:
        letter = row.size[:1]
        yield from (f"{scheme}_{kind}", f"{scheme}_vit{letter}", f"{scheme}_vit_{kind}")
        yield from (f"vit_{scheme}_{kind}", f"vit_{kind}_{scheme}")
        yield f"{scheme}_vit_{kind}_patch{row.patch_px}"


def _kind(row: Row) -> str:
    """small, base, ...; empty where the name has none."""
    match = re.match(r"vit_(\w+?)_patch", row.name)
    return match[1] if match else ""

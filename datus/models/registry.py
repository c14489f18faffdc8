"""The table of backbones: what each model is, who made it, on what terms, and what its file holds.

    find("vit_small_patch8_224.dino")     the row, or None: timm knows many more models
    fitting({"pos_embed": (1, 785, 384), ...})   names of the rows whose file has these shapes

A name is timm's where timm has the model, and is made the same way where it has not:
ARCHITECTURE.SCHEME. Facts are those that the authors state; an empty text means that they state
none, or that it was not found out. Loads nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
"""Of weight files; the order in which a folder is searched."""


PATCHES_PER_SIDE = 28
"""Of the grid that an image has at image_px = "auto", as at 224 pixels with patches of 8."""


@dataclass(frozen=True, slots=True)
class Family:
    """What the models of one training scheme share."""

    scheme: str
    layout: str
    """Key of LAYOUTS in `converters`: how the authors' file spells its tensors."""
    licence: str
    """Of the weights."""
    source: str
    """The authors' repository."""
    data: str = "ImageNet-1k"
    """Pretraining images."""
    on_hub: bool = False
    """timm has the weights."""
    gated: str = ""
    """Where the licence is accepted before the authors' own file can be had; empty = not asked."""


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
    file: str = ""
    """The authors' name for the file; empty = not known, or the same for several models."""
    url: str = ""
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
    def n_bytes(self) -> int:
        """Of a file of the weights: four bytes for each parameter. Its header adds some KB."""
        return 4 * self.parameters

    @property
    def key_size(self) -> int:
        """Of a key, and of a token, of a model that is no CNN."""
        return SIZES[self.size][0] + (N_APPEARANCE if self.size == "t8" else 0)

    @property
    def is_cnn(self) -> bool:
        """No patches and no keys: it can embed crops and nothing else."""
        return not self.patch_px

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

# --- who made them ------------------------------------------------------------------------------

GITHUB = "https://github.com/"
META = "https://dl.fbaipublicfiles.com/"
ASK_DINOV3 = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"

DATUS = Family("masked features", "timm", "Apache-2.0", "shipped with this package", "14k photos")
FILTERS = Family("filters", "timm", "Apache-2.0", "shipped with this package", "none")
DINO = Family("DINO", "dino", "Apache-2.0", f"{GITHUB}facebookresearch/dino", on_hub=True)
IBOT = Family("iBOT", "ibot", "Apache-2.0", f"{GITHUB}bytedance/ibot")
MUGS = Family("Mugs", "mugs", "Apache-2.0", f"{GITHUB}sail-sg/mugs")
DINOV2 = Family(
    "DINOv2", "dinov2", "Apache-2.0", f"{GITHUB}facebookresearch/dinov2", "LVD-142M", on_hub=True
)
UNICOM = Family("Unicom", "unicom", "MIT", f"{GITHUB}deepglint/unicom", "LAION-400M")
DINOV3 = Family(
    *("DINOv3", "dinov3", "DINOv3 License", f"{GITHUB}facebookresearch/dinov3", "LVD-1689M"),
    on_hub=True,
    gated=ASK_DINOV3,
)
MAE = Family("MAE", "mae", "CC-BY-NC-4.0", f"{GITHUB}facebookresearch/mae", on_hub=True)
MOCO_V3 = Family("MoCo v3", "mocov3", "CC-BY-NC-4.0", f"{GITHUB}facebookresearch/moco-v3")
MSN = Family("MSN", "msn", "see source", f"{GITHUB}facebookresearch/msn")
MOCO_V2 = Family("MoCo v2", "mocov2", "CC-BY-NC-4.0", f"{GITHUB}facebookresearch/moco")
DINO_CNN = Family("DINO", "dino", "Apache-2.0", f"{GITHUB}facebookresearch/dino")

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
DINOV2_NOTE = (
    "some patch tokens of the background have very large norms (Darcet et al. 2024, Vision "
    "Transformers Need Registers), which disturbs the graph of patches; prefer {}"
)
DINOV3_NOTE = (
    "Meta's own files and facebook/dinov3-* on the hub are gated: accept the licence first; timm's "
    "copy was not gated when this was written, but has the same licence"
)
IBOT_NOTE = "the authors call it checkpoint_teacher.pth at every size: rename it"
MSN_NOTE = "Meta's copies on Hugging Face say apache-2.0; read the repository's LICENSE too"
UNICOM_NOTE = "trained with the mean and deviation of CLIP's images; here it sees ImageNet's"
UNICOM_OPTIONS: dict[str, Any] = {
    # no class token, no biases in qkv, ReLU6, torch's default epsilon
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
    "qkv_bias": False,
    "act_layer": "relu6",
    "norm_eps": 1e-5,
}
RELEASES = f"{GITHUB}deepglint/unicom/releases/download/"
MUGS_FILES = "https://huggingface.co/zhoupans/Mugs/resolve/main/pretrained%20models/"
IBOT_FILES = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/"


def _dino(size: str, patch: int, grid: int, parameters: int, word: str) -> Row:
    kind = {"S": "small", "B": "base"}[size]
    name = f"vit_{kind}_patch{patch}_224.dino"
    stem = f"dino_{word}{patch}_pretrain"
    url = f"{META}dino/{stem}/{stem}.pth"
    return Row(name, DINO, parameters, size, patch, grid, f"{stem}.pth", url)


def _dinov2(size: str, letter: str, kind: str, parameters: int, registers: bool) -> Row:
    part = "_reg4" if registers else ""
    name = f"vit_{kind}_patch14{part}_dinov2.lvd142m"
    file = f"dinov2_vit{letter}14{part}_pretrain.pth"
    url = f"{META}dinov2/dinov2_vit{letter}14/{file}"
    note = "" if registers else DINOV2_NOTE.format(f"vit_{kind}_patch14_reg4_dinov2.lvd142m")
    return Row(name, DINOV2, parameters, size, 14, 37, file, url, note=note)


def _dinov3(size: str, kind: str, parameters: int, word: str, digits: str) -> Row:
    file = f"dinov3_{word}_pretrain_lvd1689m-{digits}.pth"
    name = f"vit_{kind}_patch16_dinov3.lvd1689m"
    digest = f"sha256:{digits}"
    return Row(name, DINOV3, parameters, size, 16, 0, file, "", digest, note=DINOV3_NOTE)


def _msn(name: str, size: str, patch: int, grid: int, parameters: int, more: Any) -> Row:
    file, architecture = more
    url = f"{META}msn/{file}" if file else ""
    note = MSN_NOTE if file else f"no released file is known; {MSN_NOTE}"
    model, options = (architecture, {"patch_size": patch}) if architecture else ("", {})
    return Row(
        *(f"{name}.msn", MSN, parameters, size, patch, grid, file, url),
        architecture=model,
        options=options,
        note=note,
    )


ROWS: tuple[Row, ...] = (
    Row("datus_t8", DATUS, 3_645_888, "t8", 8, 16, note="small; runs anywhere"),
    Row("datus_filters", FILTERS, 0, "filters", 2, note=f"{FILTERS_NOTE}; masks are finest, slow"),
    Row("datus_filters_p4", FILTERS, 0, "filters", 4, note=FILTERS_NOTE),
    Row("datus_filters_p8", FILTERS, 0, "filters", 8, note=f"{FILTERS_NOTE}; the fastest"),
    # the paper's Table I
    _dino("S", 8, 28, 21_670_272, "deitsmall"),
    _dino("S", 16, 14, 21_665_664, "deitsmall"),
    _dino("B", 8, 28, 85_807_872, "vitbase"),
    _dino("B", 16, 14, 85_798_656, "vitbase"),
    Row(
        *("vit_small_patch16_224.ibot", IBOT, 21_665_664, "S", 16, 14),
        url=f"{IBOT_FILES}vits_16/checkpoint_teacher.pth",
        note=IBOT_NOTE,
    ),
    Row(
        *("vit_base_patch16_224.ibot", IBOT, 85_798_656, "B", 16, 14),
        url=f"{IBOT_FILES}vitb_16_rand_mask/checkpoint_teacher.pth",
        note=IBOT_NOTE,
    ),
    Row(
        *("vit_large_patch16_224.ibot", IBOT, 303_301_632, "L", 16, 14),
        url=f"{IBOT_FILES}vitl_16_rand_mask/checkpoint_teacher.pth",
        note=IBOT_NOTE,
    ),
    Row(
        *("vit_small_patch16_224.mugs", MUGS, 21_665_664, "S", 16, 14),
        file="vit_small_backbone_800ep.pth",
        url=f"{MUGS_FILES}vit_small_800ep/vit_small_backbone_800ep.pth",
    ),
    Row(
        *("vit_base_patch16_224.mugs", MUGS, 85_798_656, "B", 16, 14),
        file="vit_base_backbone_400ep.pth",
        url=f"{MUGS_FILES}vit_base_400ep/vit_base_backbone_400ep.pth",
    ),
    Row(
        *("vit_large_patch16_224.mugs", MUGS, 303_301_632, "L", 16, 14),
        file="vit_large_backbone_250ep.pth",
        url=f"{MUGS_FILES}vit_large_250ep/vit_large_backbone_250ep.pth",
    ),
    _dinov2("S", "s", "small", 22_056_192, registers=False),
    _dinov2("B", "b", "base", 86_579_712, registers=False),
    _dinov2("L", "l", "large", 304_367_616, registers=False),
    _dinov2("g", "g", "giant", 1_136_479_232, registers=False),
    Row(
        *("vit_base_patch16_224.unicom", UNICOM, 85_769_472, "B", 16, 14, "FP16-ViT-B-16.pt"),
        f"{RELEASES}b16/FP16-ViT-B-16.pt",
        "sha256:c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef",
        options=UNICOM_OPTIONS,
        note=UNICOM_NOTE,
    ),
    Row(
        *("vit_base_patch32_224.unicom", UNICOM, 87_426_048, "B", 32, 7, "FP16-ViT-B-32.pt"),
        f"{RELEASES}b32/FP16-ViT-B-32.pt",
        "sha256:f9d5696a9b58dbbbefee2d31615ca59084f2895a0fdd2ca4c235e0f9b2793f7a",
        options=UNICOM_OPTIONS,
        note=UNICOM_NOTE,
    ),
    Row(
        *("vit_large_patch14_224.unicom", UNICOM, 303_102_976, "L", 14, 16, "FP16-ViT-L-14.pt"),
        f"{RELEASES}l14/FP16-ViT-L-14.pt",
        "sha256:ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd",
        options=UNICOM_OPTIONS,
        note=UNICOM_NOTE,
    ),
    Row(
        *("vit_large_patch14_336.unicom", UNICOM, 303_430_656, "L", 14, 24),
        "FP16-ViT-L-14-336px.pt",
        f"{RELEASES}l14_336px/FP16-ViT-L-14-336px.pt",
        "sha256:3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea",
        architecture="vit_large_patch14_224",
        options={**UNICOM_OPTIONS, "img_size": 336},
        note=UNICOM_NOTE,
    ),
    # since then
    _dinov2("S", "s", "small", 22_057_344, registers=True),
    _dinov2("B", "b", "base", 86_582_016, registers=True),
    _dinov2("L", "l", "large", 304_370_688, registers=True),
    _dinov2("g", "g", "giant", 1_136_483_840, registers=True),
    _dinov3("S", "small", 21_586_944, "vits16", "08c60483"),
    _dinov3("S", "small_plus", 28_683_264, "vits16plus", "4057cbaa"),
    _dinov3("B", "base", 85_641_216, "vitb16", "73cec8be"),
    _dinov3("L", "large", 303_079_424, "vitl16", "8aa4cbdd"),
    _dinov3("H+", "huge_plus", 840_509_440, "vith16plus", "7c1da9a5"),
    Row(
        *("vit_base_patch16_224.mae", MAE, 85_798_656, "B", 16, 14, "mae_pretrain_vit_base.pth"),
        f"{META}mae/pretrain/mae_pretrain_vit_base.pth",
        "md5:8cad7c",
    ),
    Row(
        *("vit_large_patch16_224.mae", MAE, 303_301_632, "L", 16, 14),
        "mae_pretrain_vit_large.pth",
        f"{META}mae/pretrain/mae_pretrain_vit_large.pth",
        "md5:b8b06e",
    ),
    Row(
        *("vit_huge_patch14_224.mae", MAE, 630_764_800, "H", 14, 16, "mae_pretrain_vit_huge.pth"),
        f"{META}mae/pretrain/mae_pretrain_vit_huge.pth",
        "md5:9bdbb0",
    ),
    Row(
        *("vit_small_patch16_224.mocov3", MOCO_V3, 21_665_664, "S (12 heads)", 16, 14),
        "vit-s-300ep.pth.tar",
        f"{META}moco-v3/vit-s-300ep/vit-s-300ep.pth.tar",
        options={"num_heads": 12},
        note="twelve heads, where other small ViTs have six",
    ),
    Row(
        *("vit_base_patch16_224.mocov3", MOCO_V3, 85_798_656, "B", 16, 14, "vit-b-300ep.pth.tar"),
        f"{META}moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
    ),
    _msn("vit_small_patch16_224", "S", 16, 14, 21_665_664, ("vits16_800ep.pth.tar", "")),
    _msn("vit_base_patch16_224", "B", 16, 14, 85_798_656, ("vitb16_600ep.pth.tar", "")),
    _msn("vit_base_patch8_224", "B", 8, 28, 85_807_872, ("", "")),
    _msn(
        *("vit_base_patch4_224", "B", 4, 56, 87_503_616),
        ("vitb4_300ep.pth.tar", "vit_base_patch16_224"),
    ),
    _msn("vit_large_patch16_224", "L", 16, 14, 303_301_632, ("vitl16_600ep.pth.tar", "")),
    _msn(
        *("vit_large_patch7_224", "L", 7, 32, 303_513_600),
        ("vitl7_200ep.pth.tar", "vit_large_patch16_224"),
    ),
    # CNNs, for crops only
    Row(
        *("resnet50.mocov2", MOCO_V2, 23_508_032, "", 0, 0, "moco_v2_800ep_pretrain.pth.tar"),
        f"{META}moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        "md5:a04e12f8",
    ),
    Row(
        *("resnet18.mocov2", MOCO_V2, 11_176_512, "", 0, 0),
        note="no file was released: train one with main_moco.py -a resnet18",
    ),
    Row(
        *("resnet50.dino", DINO_CNN, 23_508_032, "", 0, 0, "dino_resnet50_pretrain.pth"),
        f"{META}dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
    ),
)

_BY_NAME = {row.name: row for row in ROWS}


def find(name: str) -> Row | None:
    """The row of the model `name`, or None if it is not in the table."""
    return _BY_NAME.get(name)


def fitting(shapes: Mapping[str, Shape]) -> list[str]:
    """Names of the models whose decisive tensors have these shapes, in the order of the table.

    shapes: of the tensors of an authors' file, by name, prefixes stripped.
    """
    return [
        row.name
        for row in ROWS
        if all(shapes.get(name) == shape for name, shape in row.shapes.items())
        and _depth(shapes) == _depth(row.shapes)
        and _marks(shapes) == _own_marks(row)
    ]


def _marks(shapes: Mapping[str, Shape]) -> tuple[bool, ...]:
    """Tensors that some layouts have and others have not."""
    names = ("blocks.0.ls1.gamma", "register_tokens", "storage_tokens", "blocks.0.mlp.w1.weight")
    return tuple(name in shapes for name in names)


def _own_marks(row: Row) -> tuple[bool, ...]:
    layout = row.family.layout
    scaled = layout in ("dinov2", "dinov3")
    return (scaled, "_reg4_" in row.name, layout == "dinov3", "_plus_" in row.name)


def _depth(shapes: Mapping[str, Shape]) -> int:
    """The highest block number."""
    numbers = (key.split(".")[1] for key in shapes if key.startswith("blocks."))
    return max((int(number) for number in numbers if number.isdigit()), default=-1)

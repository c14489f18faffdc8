"""Render landscapes with exact truth, to try the whole pipeline on: no download, no photograph.

    python data/make_scenes.py scenes        300 scenes: images/, masks/ and classes.toml in scenes/

Eight classes, six kinds of landscape, five kinds of weather. Image i depends on (seed, i) and the
size limits only: the same bytes, however many are made and in whatever order.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scene_objects import (
    GRASS,
    SAND,
    SKY,
    WATER,
    Scene,
    boat,
    boulder,
    bush,
    forest,
    house,
    mountains,
    new_scene,
    paint,
    shadow,
    tree,
)
from scene_textures import Array, fbm, grass, make_light, nearness, sand, sky, vary, water

CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("sky", (140, 200, 245)),
    ("water", (25, 95, 185)),
    ("sand", (245, 215, 130)),
    ("grass", (140, 200, 60)),
    ("trees", (20, 110, 50)),
    ("building", (195, 75, 60)),
    ("rock", (130, 120, 125)),
    ("boat", (150, 60, 190)),
)
"""Name and colour, in order of the ids."""

TABLE_NAME = 'name = "scenes"'
"""First line of classes.toml: shows that a folder was made here and may be replaced."""

ASPECTS = (1.0, 4 / 3, 4 / 3, 3 / 2, 16 / 9, 3 / 4)
"""Width / height of the images."""


def render_scene(
    seed: int, index: int, size_min: int = 160, size_max: int = 320
) -> tuple[Array, Array]:
    """Image `index` of the set `seed`: uint8 (H, W, 3) RGB, and its labels uint8 (H, W), 0..7.

    Sides lie between `size_min` and `size_max` pixels.
    """
    rng = np.random.default_rng([seed, index])
    shape = _shape(rng, size_min, size_max)
    light = make_light(rng)
    layout = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    horizon = shape[0] * float(rng.uniform(0.36, 0.54))
    scene = new_scene(rng, shape, horizon, light)
    paint(scene, np.ones(shape, np.float32), sky(rng, shape, horizon, light), SKY)
    layout(scene)
    return _develop(scene), scene.labels


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 wrong usage."""
    parser = argparse.ArgumentParser(description="Render landscapes with exact truth.")
    parser.add_argument("out", type=Path, metavar="OUT", help="gets images/, masks/, classes.toml")
    parser.add_argument("--n", type=int, default=300, help="number of images (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size-min", type=int, default=160, help="shortest side in pixels (160)")
    parser.add_argument("--size-max", type=int, default=320, help="longest side in pixels (320)")
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier set in OUT")
    args = parser.parse_args(argv)
    if args.n < 1 or args.seed < 0:
        parser.error("--n must be 1 or more and --seed 0 or more")
    if not 32 <= args.size_min <= args.size_max <= 4096:
        parser.error("sizes: expected 32 <= --size-min <= --size-max <= 4096")
    if (problem := _cannot_write(args.out, args.overwrite)) is not None:
        parser.error(problem)
    try:
        write_scenes(args.out, args.n, args.seed, (args.size_min, args.size_max), args.format)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; use --overwrite to start again", file=sys.stderr)
        return 130
    print(f"{args.n} scenes in {args.out}: images/, masks/, classes.toml")
    return 0


def write_scenes(out: Path, n: int, seed: int, sizes: tuple[int, int], suffix: str) -> None:
    """Render `n` scenes into OUT, several at a time; those of an earlier set are removed first."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "classes.toml", classes_toml(seed).encode())
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
        for old in (out / name).glob("scene_*"):
            old.unlink()

    def one(index: int) -> None:
        image, labels = render_scene(seed, index, *sizes)
        stem = f"scene_{index:05d}"
        kind = {"format": "PNG"} if suffix == "png" else {"format": "JPEG", "quality": 92}
        for path, array, options in (
            (out / "images" / f"{stem}.{suffix}", image, kind),
            (out / "masks" / f"{stem}.png", labels, {"format": "PNG"}),
        ):
            memory = io.BytesIO()
            Image.fromarray(array).save(memory, **options)
            _write(path, memory.getvalue())

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # scenes run side by side instead
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(one, range(n)))
    finally:
        cv2.setNumThreads(before)


def classes_toml(seed: int) -> str:
    """The class table in the project's format."""
    lines = [TABLE_NAME, f'source = "rendered by data/make_scenes.py, seed {seed}"']
    for number, (name, colour) in enumerate(CLASSES):
        lines += ["", "[[classes]]", f'name = "{name}"', f"colour = {list(colour)}"]
        lines += [f"ids = [{number}]"]
    return "\n".join(lines) + "\n"


def _coast(scene: Scene) -> None:
    """Sea, boats, a beach in front, rocks, sometimes land far off."""
    rng, (height, width) = scene.rng, scene.shape
    if rng.random() < 0.6:
        slope = np.linspace(0.2, 1.0, width)[:: int(rng.choice((-1, 1)))] ** 2
        tall = height * rng.uniform(0.08, 0.2) * slope * (1 + 0.3 * _curve(rng, width, 60))
        mountains(scene, scene.horizon - tall, float(rng.uniform(0.1, 0.4)), 0)
    _flat(scene, np.full(width, scene.horizon), water, WATER)
    for share in sorted(rng.uniform(0.08, 0.3, int(rng.integers(1, 4)))):
        y = scene.horizon + (height - scene.horizon) * share
        size = height * float(rng.uniform(0.24, 0.4)) * (0.7 + 1.5 * share)
        boat(scene, width * float(rng.uniform(0.1, 0.9)), y, size)
    shore = _shore(scene, 0.45, 0.85)
    _foam(scene, shore)
    _flat(scene, shore, sand, SAND)
    _populate(scene, shore, [(boulder, (0, 4), (0.1, 0.28))])


def _lake(scene: Scene) -> None:
    """Mountains, woods, still water, a bank with a tree in front."""
    rng, (height, width) = scene.rng, scene.shape
    _range(scene, 0.2, 0.34)
    foot = scene.horizon + 2 + 2 * _curve(rng, width, 40)
    forest(scene, foot, height * float(rng.uniform(0.08, 0.16)), bool(rng.random() < 0.7))
    upside = scene.image[: int(scene.horizon)][::-1].copy()
    _flat(scene, foot, water, WATER)
    _mirror(scene, upside, foot)
    if rng.random() < 0.6:
        boat(scene, width * float(rng.uniform(0.2, 0.8)), height * 0.62, height * 0.28)
    bank = _shore(scene, 0.5, 0.85)
    _flat(scene, bank, grass, GRASS)
    _populate(scene, bank, [(_leafy, (1, 2), (0.4, 0.7)), (boulder, (0, 2), (0.12, 0.25))])


def _meadow(scene: Scene) -> None:
    """Hills or mountains, woods, a meadow with houses and trees."""
    rng, (height, width) = scene.rng, scene.shape
    if rng.random() < 0.7:
        _range(scene, 0.12, 0.28)
    line = scene.horizon + height * 0.03 * _curve(rng, width, 90)
    forest(scene, line + 3, height * float(rng.uniform(0.1, 0.2)), bool(rng.random() < 0.4))
    _flat(scene, line, grass, GRASS)
    _path(scene, line)
    _populate(scene, line, [(_cottage, (1, 2), (0.25, 0.45)), (_leafy, (1, 4), (0.3, 0.65))])


def _town(scene: Scene) -> None:
    """A row of brick houses behind a green or a square of sand, trees in front."""
    rng, (height, width) = scene.rng, scene.shape
    ground = scene.horizon + height * float(rng.uniform(0.12, 0.2))
    line = np.full(width, scene.horizon + height * 0.05)
    surface, label = (grass, GRASS) if rng.random() < 0.55 else (sand, SAND)
    _flat(scene, line, surface, label)
    x = -width * float(rng.uniform(0, 0.2))
    while x < width * 0.95:
        wide = width * float(rng.uniform(0.22, 0.4))
        pitched = bool(rng.random() < 0.5)
        storeys = int(rng.integers(1, 3)) if pitched else int(rng.integers(2, 5))
        foot = ground + height * float(rng.uniform(-0.03, 0.05))
        house(scene, (x, foot), min(wide, height * 0.62 / (0.4 * storeys)), storeys, pitched)
        x += wide * float(rng.uniform(1.2, 1.6))
    front = np.full(width, ground + height * 0.05)
    _populate(scene, front, [(_leafy, (1, 3), (0.3, 0.6)), (_shrub, (0, 3), (0.12, 0.25))])


def _desert(scene: Scene) -> None:
    """Rock towers, dunes and boulders."""
    rng, (height, width) = scene.rng, scene.shape
    flat = np.clip(1.6 * _curve(rng, width, 70), -0.4, 1.0) + 0.05 * _curve(rng, width, 9)
    mountains(scene, scene.horizon - height * rng.uniform(0.12, 0.28) * (flat + 0.3), 0.15, 0)
    line = scene.horizon + height * 0.03 * _curve(rng, width, 120)
    for depth in (0.0, 0.12, 0.28):
        _flat(scene, line + height * (depth + 0.05 * _curve(rng, width, 110)), sand, SAND)
    _populate(scene, line, [(boulder, (2, 6), (0.1, 0.35)), (_shrub, (0, 3), (0.1, 0.2))])


def _woods(scene: Scene) -> None:
    """High trees around a clearing, with rocks or a cottage."""
    rng, (height, width) = scene.rng, scene.shape
    if rng.random() < 0.5:
        _range(scene, 0.2, 0.3)
    line = scene.horizon + height * 0.02 * _curve(rng, width, 60)
    forest(scene, line + 3, height * float(rng.uniform(0.2, 0.36)), bool(rng.random() < 0.5))
    _flat(scene, line, grass, GRASS)
    _path(scene, line)
    things = [(boulder, (1, 4), (0.12, 0.3)), (_leafy, (2, 4), (0.5, 0.85))]
    _populate(scene, line, [(_cottage, (0, 1), (0.25, 0.4)), *things])


Thing = Callable[[Scene, float, float, float], None]

LAYOUTS: tuple[Callable[[Scene], None], ...] = (_coast, _lake, _meadow, _town, _desert, _woods)


def _shape(rng: np.random.Generator, size_min: int, size_max: int) -> tuple[int, int]:
    """Height and width: a random area and aspect ratio, both sides within the limits."""
    aspect = float(ASPECTS[int(rng.integers(len(ASPECTS)))])
    long_side = float(rng.uniform((size_min + size_max) / 2, size_max))
    width, height = long_side * min(aspect, 1.0), long_side / max(aspect, 1.0)
    return max(round(height), size_min), max(round(width), size_min)


def _curve(rng: np.random.Generator, width: int, cell_px: float) -> Array:
    """A smooth random curve (W,) with mean 0 and deviation 1."""
    knots = rng.standard_normal((1, max(4, round(width / cell_px) + 2)), dtype=np.float32)
    curve = cv2.resize(knots, (width, 1), interpolation=cv2.INTER_CUBIC)[0]
    return np.asarray((curve - curve.mean()) / (curve.std() + 1e-6))


def _flat(scene: Scene, line: Array, surface: Callable[..., Array], label: int) -> None:
    """Cover everything below `line` (W,) with a surface that ends at the horizon."""
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None] + 0.5
    picture = surface(scene.rng, scene.shape, min(scene.horizon, float(line.min())), scene.light)
    paint(scene, np.clip(rows - line[None, :] + 0.5, 0, 1), picture, label)


def _range(scene: Scene, low: float, high: float) -> None:
    """One or two mountain ranges at the horizon."""
    rng, (height, width) = scene.rng, scene.shape
    for haze in (0.55, 0.22) if rng.random() < 0.6 else (0.3,):
        tall = height * float(rng.uniform(low, high)) * (1 if haze > 0.25 else 0.75)
        peaks = _curve(rng, width, 80) + 0.35 * _curve(rng, width, 24)
        peaks += 0.12 * _curve(rng, width, 7)
        snow = tall * 0.35 if rng.random() < 0.35 else 0.0
        mountains(scene, scene.horizon - tall * (0.75 + 0.28 * peaks), haze, snow)


def _shore(scene: Scene, low: float, high: float) -> Array:
    """A bent waterline (W,) in the lower part of the picture."""
    rng, (height, width) = scene.rng, scene.shape
    ends = scene.horizon + (height - scene.horizon) * rng.uniform(low, high, 2)
    return np.linspace(ends[0], ends[1], width) + height * 0.03 * _curve(rng, width, 90)


def _foam(scene: Scene, shore: Array) -> None:
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None]
    rough = fbm(scene.rng, scene.shape, 12, 3, 2.0)
    for away in (2.0, 9.0):
        distance = np.abs(rows - shore[None, :] + away + 1.5 * rough)
        paint(scene, np.clip(1.6 - distance / 1.6, 0, 0.75), (0.96, 0.97, 0.97), None)


def _mirror(scene: Scene, upside: Array, line: Array) -> None:
    """Blend what stands above the water into it, upside down and broken by ripples."""
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None] + 0.5
    start = int(scene.horizon)
    n_rows = min(len(upside), scene.shape[0] - start)
    picture = scene.image.copy()
    picture[start : start + n_rows] = cv2.GaussianBlur(upside[:n_rows], (0, 0), 1.2)
    near = np.broadcast_to(nearness(scene.shape, scene.horizon), scene.shape)
    ripples = fbm(scene.rng, scene.shape, 4, 2, 8.0)
    below = (rows > line[None, :]) & (rows < start + n_rows)
    paint(scene, below * np.clip(0.6 - 0.7 * near + 0.08 * ripples, 0, 1), picture, None)


def _path(scene: Scene, line: Array) -> None:
    """Sometimes a sandy path that winds towards the horizon."""
    rng, width = scene.rng, scene.shape[1]
    if rng.random() < 0.5:
        return
    start = float(line.mean()) + 3
    near = nearness(scene.shape, start)
    swing = rng.uniform(-0.3, 0.3) * np.sin(near * rng.uniform(2, 5))
    bend = width * (rng.uniform(0.2, 0.8) + swing)
    columns = np.arange(width, dtype=np.float32)[None, :] + 0.5
    half = width * float(rng.uniform(0.1, 0.2)) * near + 1.0
    rough = 1.5 * fbm(rng, scene.shape, 8, 3)
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None]
    cover = np.clip(half - np.abs(columns - bend) + rough * near + 0.5, 0, 1)
    cover *= (near > 0) & (rows > line[None, :] + 1)
    picture = sand(rng, scene.shape, scene.horizon, scene.light)
    paint(scene, cover.astype(np.float32), picture, SAND)


def _populate(
    scene: Scene, line: Array, things: list[tuple[Thing, tuple[int, int], tuple[float, float]]]
) -> None:
    """Put things on the ground below `line`, the far ones first and smaller.

    `things`: what, how many (from, to), and how large (from, to) as a share of the image.
    """
    rng, (height, width) = scene.rng, scene.shape
    placed: list[tuple[float, int, float, float, Thing]] = []
    for thing, number, sizes in things:
        for _ in range(int(rng.integers(number[0], number[1] + 1))):
            x = width * float(rng.uniform(0.02, 0.98))
            first = min(float(line[int(np.clip(x, 0, width - 1))]), height * 0.9)
            share = float(rng.uniform(0.12, 0.8))
            size = min(height, width) * float(rng.uniform(*sizes)) * (0.6 + 0.6 * share)
            placed.append((first + (height * 1.02 - first) * share, len(placed), x, size, thing))
    for y, _, x, size, thing in sorted(placed, key=lambda one: one[:2]):
        thing(scene, x, y, size)


def _leafy(scene: Scene, x: float, y: float, size: float) -> None:
    greens = ((0.20, 0.42, 0.14), (0.26, 0.46, 0.16), (0.15, 0.34, 0.14), (0.50, 0.42, 0.12))
    shadow(scene, x, y, size * 0.6)
    tree(scene, x, y, size, vary(scene.rng, greens))


def _shrub(scene: Scene, x: float, y: float, size: float) -> None:
    shadow(scene, x, y, size)
    bush(scene, x, y, size, vary(scene.rng, ((0.20, 0.36, 0.14), (0.28, 0.40, 0.18))))


def _cottage(scene: Scene, x: float, y: float, size: float) -> None:
    storeys = int(scene.rng.integers(1, 3))
    house(scene, (x - size * 0.6, y), size * (1.15 if storeys == 1 else 0.9), storeys, True)


def _develop(scene: Scene) -> Array:
    """Tint, vignette and grain of a camera -> uint8 (H, W, 3)."""
    height, width = scene.shape
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    edge = 1 - 0.10 * (rows**2 + columns**2)
    image = scene.image * scene.light.tint * edge[..., None]
    image = image + scene.rng.normal(0, 0.008, image.shape)
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8))


def _cannot_write(out: Path, overwrite: bool) -> str | None:
    """Why OUT cannot be used, or None."""
    if out.exists() and not out.is_dir():
        return f"{out} is a file; OUT must be a folder"
    if not out.exists() or not any(out.iterdir()):
        return None
    table = out / "classes.toml"
    if not table.is_file() or TABLE_NAME not in table.read_text(encoding="utf-8", errors="replace"):
        return f"{out} is not empty and holds no scenes; choose a new folder"
    return None if overwrite else f"{out} holds scenes already; use --overwrite to replace them"


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())

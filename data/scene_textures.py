"""Surfaces for the rendered scenes: noise in, colour out. Used by make_scenes.py.

Images are float32 (H, W, 3), RGB, 0..1 with some overshoot; textures are float32 (H, W) with mean 0
and deviation 1. Every function takes the random generator that it may use up.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rng = np.random.Generator
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Light:
    """The weather and the hour."""

    sky_top: Array
    sky_low: Array
    tint: Array
    """Colour that everything is multiplied with."""
    sun_x: float
    """Where the sun stands over the image, 0 = left edge, 1 = right edge; may lie outside."""
    contrast: float
    """Strength of lit and shaded sides: 1 in the sun, less under clouds."""

    @property
    def side(self) -> float:
        """+1 if the light comes from the right, -1 from the left."""
        return 1.0 if self.sun_x > 0.5 else -1.0


MOODS: tuple[tuple[Colour, Colour, Colour, float], ...] = (
    # sky at the top, sky at the horizon, tint, contrast
    ((0.16, 0.42, 0.80), (0.70, 0.85, 0.97), (1.02, 1.01, 0.98), 1.0),
    ((0.30, 0.55, 0.86), (0.90, 0.92, 0.92), (1.04, 1.00, 0.95), 1.0),
    ((0.30, 0.44, 0.70), (1.00, 0.80, 0.55), (1.12, 0.98, 0.80), 1.1),
    ((0.27, 0.29, 0.56), (0.98, 0.62, 0.54), (1.02, 0.86, 0.88), 0.8),
    ((0.50, 0.57, 0.65), (0.83, 0.86, 0.88), (0.92, 0.95, 0.98), 0.55),
)


def make_light(rng: Rng) -> Light:
    top, low, tint, contrast = MOODS[rng.choice(len(MOODS), p=(0.3, 0.25, 0.2, 0.1, 0.15))]
    return Light(
        np.array(top, np.float32) * rng.uniform(0.9, 1.1),
        np.array(low, np.float32) * rng.uniform(0.95, 1.03),
        np.array(tint, np.float32) * rng.uniform(0.93, 1.05),
        float(rng.uniform(-0.1, 1.1)),
        contrast * float(rng.uniform(0.9, 1.1)),
    )


def fbm(
    rng: Rng, shape: tuple[int, int], cell_px: float, octaves: int = 4, stretch: float = 1.0
) -> Array:
    """Fractal noise (H, W): the largest lumps are `cell_px` high and `stretch` times as wide."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        size = cell_px / 2**octave
        if size < 1 and octave:
            break
        rows = max(2, round(height / size)) + 1
        columns = max(2, round(width / (size * stretch))) + 1
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        total += 0.55**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    total -= total.mean()
    return np.asarray(total / (total.std() + 1e-6))


def emboss(height_map: Array, side: float, step: int = 1) -> Array:
    """Light from one side and above on a height map, mean 0 and deviation 1."""
    shift = step if side > 0 else -step
    across = height_map - np.roll(height_map, -shift, axis=1)
    down = np.roll(height_map, step, axis=0) - height_map
    lit = -across - 0.7 * down
    return np.asarray(lit / (lit.std() + 1e-6))


def nearness(shape: tuple[int, int], horizon: float) -> Array:
    """(H, 1): 0 at the horizon and above, 1 at the lower edge; 1 / distance on flat ground."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + 0.5
    return np.asarray(np.clip((rows - horizon) / (shape[0] - horizon), 0.0, 1.0))


def on_ground(tile: Array, shape: tuple[int, int], horizon: float) -> Array:
    """A texture laid on flat ground that ends at `horizon`: true size at the lower edge."""
    height, width = shape
    depth = 1.0 / np.clip(nearness(shape, horizon), 0.03, 1.0)
    across = (np.arange(width, dtype=np.float32)[None, :] - width / 2) * depth
    away = np.broadcast_to(depth * (height - horizon), shape)
    seen: Array = cv2.remap(
        tile,
        (across + tile.shape[1] / 2).astype(np.float32),
        np.ascontiguousarray(away, np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return seen


def mix(first: Array | Colour, second: Array | Colour, share: Array | float) -> Array:
    """first where share is 0, second where it is 1; share is (H, W) or one number."""
    weight = np.asarray(share, np.float32)
    weight = weight[..., None] if weight.ndim == 2 else weight
    low, high = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return np.asarray(low + (high - low) * weight)


def vary(rng: Rng, colours: tuple[Colour, ...], spread: float = 0.05) -> Array:
    """One of the colours or something between two of them, moved a little."""
    one, two = rng.integers(len(colours), size=2)
    between = mix(colours[one], colours[two], float(rng.uniform(0, 0.5)))
    moved = between + rng.normal(0, spread / 2, 3) + rng.normal(0, spread / 2)
    return np.asarray(moved, np.float32)


def sky(rng: Rng, shape: tuple[int, int], horizon: float, light: Light) -> Array:
    """A gradient, a glow around the sun, and clouds on a ceiling that recedes to the horizon."""
    height, width = shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    share = np.broadcast_to(np.clip(rows / max(horizon, 1.0), 0, 1) ** 1.3, shape)
    image = mix(light.sky_top, light.sky_low, share)
    columns = np.arange(width, dtype=np.float32)[None, :]
    sun_y = horizon * float(rng.uniform(0.25, 0.85))
    away = np.hypot(columns - light.sun_x * width, rows - sun_y) / max(height, width)
    image += (0.35 * light.contrast * np.exp(-away * 5))[..., None] * (light.sky_low - 0.25)
    lumps = on_ground(fbm(rng, (384, 512), 90, 6, 1.6), shape, height - horizon * 1.05)
    lumps = np.ascontiguousarray(np.flipud(lumps))
    cover = float(rng.uniform(-0.2, 1.3)) if light.contrast > 0.7 else -0.5
    near = np.clip(4 - 4 * rows / max(horizon, 1.0), 0, 1)
    thick = np.clip((lumps - cover) * 0.8, 0, 1) * near
    lit = 0.94 + 0.07 * np.clip(emboss(cv2.GaussianBlur(lumps, (0, 0), 2), light.side), -2, 1)
    cloud = mix(light.sky_low, (1.0, 1.0, 1.0), 0.6) * lit[..., None]
    return mix(image, cloud, thick * 0.9)


def water(rng: Rng, shape: tuple[int, int], horizon: float, light: Light) -> Array:
    """Waves that shrink with distance, the sky's colour far off, a deep one near."""
    near = nearness(shape, horizon)
    deep = vary(
        rng, ((0.02, 0.22, 0.36), (0.03, 0.34, 0.42), (0.05, 0.27, 0.30), (0.06, 0.42, 0.52))
    )
    far = mix(deep, light.sky_low, 0.45)
    image = mix(far, deep, np.broadcast_to(near**0.6, shape))
    swell = float(rng.uniform(10, 24))
    waves = on_ground(fbm(rng, (512, 512), swell, 4, float(rng.uniform(2.5, 4))), shape, horizon)
    image += (waves * (0.025 + 0.05 * near))[..., None] * mix(light.sky_low, (1.0, 1.0, 1.0), 0.5)
    columns = np.arange(shape[1], dtype=np.float32)[None, :] / shape[1]
    glitter = np.exp(-(((columns - light.sun_x) / (0.06 + 0.12 * near)) ** 2)) * (waves > 0.7)
    crests = np.clip(waves - 1.7, 0, 1) * np.clip(near * 2, 0, 1)
    image += (0.35 * light.contrast * glitter)[..., None] * light.sky_low
    return np.asarray(image + 0.5 * crests[..., None])


def sand(rng: Rng, shape: tuple[int, int], horizon: float, light: Light) -> Array:
    """Warm ground with wind ripples and grain."""
    near = nearness(shape, horizon)
    base = vary(
        rng, ((0.86, 0.75, 0.55), (0.90, 0.80, 0.62), (0.80, 0.63, 0.42), (0.88, 0.70, 0.50))
    )
    dunes = on_ground(fbm(rng, (512, 512), 120, 3, 2.0), shape, horizon)
    ripples = on_ground(
        emboss(fbm(rng, (512, 512), float(rng.uniform(7, 14)), 2, 5.0), light.side), shape, horizon
    )
    grain = rng.standard_normal(shape, dtype=np.float32)
    shade = 1 + 0.05 * dunes + (0.055 * ripples + 0.03 * grain) * np.clip(0.2 + near, 0, 1)
    far = np.broadcast_to(0.25 * (1 - near), shape)
    return mix(base * shade[..., None], light.sky_low * 0.9, far)


def grass(rng: Rng, shape: tuple[int, int], horizon: float, light: Light) -> Array:
    """Blades that grow towards the viewer, drier patches, now and then flowers."""
    near = nearness(shape, horizon)
    fresh = vary(
        rng, ((0.27, 0.50, 0.12), (0.36, 0.58, 0.18), (0.22, 0.44, 0.16), (0.42, 0.56, 0.16))
    )
    dry = fresh * np.array([1.45, 1.15, 0.9], np.float32)
    patches = on_ground(fbm(rng, (512, 512), 90, 4), shape, horizon) * np.clip(near * 4, 0, 1)
    image = mix(fresh, dry, np.clip(0.4 + 0.35 * patches, 0, 1))
    blades = fbm(rng, shape, 9, 4, 0.3)
    fine = fbm(rng, shape, 4, 2, 0.4)
    weight = np.clip(near * 1.6, 0.15, 1)
    image *= (1 + (0.13 * blades * weight + 0.07 * fine))[..., None]
    if rng.random() < 0.35:
        petals = vary(rng, ((0.98, 0.95, 0.90), (0.98, 0.85, 0.20), (0.90, 0.30, 0.35)))
        lumps = on_ground(fbm(rng, (512, 512), 60, 3), shape, horizon)
        dots = (rng.random(shape) < 0.03 * np.clip(lumps, 0, 2)) & (near > 0.12)
        size = cv2.dilate(dots.astype(np.float32), np.ones((2, 2), np.uint8))
        image = mix(image, petals, size * np.broadcast_to(np.clip(near * 2, 0.4, 0.9), shape))
    return mix(image, light.sky_low * 0.8, np.broadcast_to(0.22 * (1 - near) ** 3, shape))


def rock(rng: Rng, shape: tuple[int, int], cell_px: float, light: Light) -> Array:
    """Lit and shaded faces with cracks; `cell_px` is the size of a face."""
    base = vary(
        rng, ((0.47, 0.45, 0.44), (0.52, 0.46, 0.40), (0.40, 0.41, 0.45), (0.56, 0.45, 0.38))
    )
    heights = -np.abs(fbm(rng, shape, cell_px, 5)) + 0.4 * fbm(rng, shape, cell_px / 2, 4)
    faces = emboss(heights, light.side, max(1, round(cell_px / 24)))
    cracks = np.clip(0.12 - np.abs(fbm(rng, shape, cell_px * 0.7, 3)), 0, 1)
    shade = 0.95 + 0.20 * light.contrast * np.clip(faces, -2, 2) - 2.0 * cracks
    return np.asarray(base * np.clip(shade, 0.25, 1.6)[..., None])


def leaves(rng: Rng, shape: tuple[int, int], light: Light) -> Array:
    """Brightness of foliage (H, W) around 1: clumps of leaves, lit from the sun's side."""
    clumps, single = fbm(rng, shape, 8, 2), fbm(rng, shape, 3, 1)
    lit = emboss(clumps + 0.6 * single, light.side)
    shade = 1 + 0.12 * clumps + 0.08 * single + 0.10 * light.contrast * lit
    return np.asarray(np.clip(shade, 0.5, 1.6), np.float32)


def bricks(rng: Rng, shape: tuple[int, int], brick_px: int, base: Array) -> Array:
    """A wall of bricks, each `brick_px` high and 2.2 times as wide, in pale mortar."""
    height, width = shape
    rows = np.arange(height)[:, None]
    course = rows // brick_px
    long_px = max(3, round(2.2 * brick_px))
    columns = np.arange(width)[None, :] + (course % 2) * (long_px // 2)
    number = course * 977 + columns // long_px
    tone = rng.normal(0, 0.09, 4096).astype(np.float32)[number % 4096]
    mortar = (rows % brick_px == 0) | (columns % long_px == 0)
    image = base * (1 + tone[..., None] + 0.04 * fbm(rng, shape, 30, 3)[..., None])
    return mix(image, mix(base, (0.80, 0.78, 0.74), 0.6), 0.75 * mortar.astype(np.float32))

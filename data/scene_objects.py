"""Things that stand in the rendered scenes: houses, trees, boulders, boats. Used by make_scenes.py.

A Scene holds the picture and its true labels. Everything is painted back to front through `paint`,
which changes both in one place, so the labels are exact: a pixel belongs to what covers at least
half of it. Positions are (x, y) in pixels, y downwards.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scene_textures import Array, Colour, Light, Rng, bricks, fbm, leaves, mix, rock, vary

SKY, WATER, SAND, GRASS, TREES, BUILDING, ROCK, BOAT = range(8)

Points = list[tuple[float, float]]


@dataclass(slots=True)
class Scene:
    """A picture in the making."""

    rng: Rng
    light: Light
    horizon: float
    image: Array
    """float32 (H, W, 3)."""
    labels: Array
    """uint8 (H, W)."""
    foliage: Array
    """float32 (H, W): brightness of leaves, see scene_textures.leaves."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.labels.shape[0], self.labels.shape[1]


def paint(scene: Scene, cover: Array, colour: Array | Colour, label: int | None) -> None:
    """Lay `colour` over the picture where `cover` (H, W), 0..1, says; None leaves the labels."""
    scene.image = mix(scene.image, colour, cover)
    if label is not None:
        scene.labels[cover >= 0.5] = label


def paint_part(scene: Scene, points: Points, colour: Array | Colour, label: int | None) -> None:
    """`paint` for a polygon, only in its bounding box. `colour` is (3,) or a whole picture."""
    height, width = scene.shape
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right = max(0, int(min(xs)) - 1), min(width, int(max(xs)) + 3)
    top, bottom = max(0, int(min(ys)) - 1), min(height, int(max(ys)) + 3)
    if left >= right or top >= bottom:
        return
    cover = np.zeros((bottom - top, right - left), np.uint8)
    shifted = (np.array(points) - (left, top)) * 16
    cv2.fillPoly(cover, [np.round(shifted).astype(np.int32)], 255, cv2.LINE_AA, 4)
    box = np.s_[top:bottom, left:right]
    share = cover.astype(np.float32) / 255
    over = np.asarray(colour, np.float32)
    scene.image[box] = mix(scene.image[box], over[box] if over.ndim == 3 else over, share)
    if label is not None:
        scene.labels[box][share >= 0.5] = label


def shadow(scene: Scene, x: float, y: float, width: float, strength: float = 0.45) -> None:
    """A soft dark ellipse on the ground, away from the sun."""
    height = max(2.0, width * 0.16)
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None]
    columns = np.arange(scene.shape[1], dtype=np.float32)[None, :]
    x -= scene.light.side * width * 0.25
    away = ((columns - x) / (width * 0.7)) ** 2 + ((rows - y) / height) ** 2
    dark = strength * scene.light.contrast * np.clip(1.2 - away, 0, 1)
    scene.image *= 1 - dark[..., None]


def blob(
    rng: Rng, center: tuple[float, float], radius: float, rough: float, squash: float = 1.0
) -> Points:
    """A closed outline around `center`, `rough` of its radius in bumps, `squash` times as high."""
    n_points, (x, y) = 28, center
    angles = np.linspace(0, 2 * np.pi, n_points, endpoint=False)
    bumps = np.zeros(n_points)
    for wave in (2, 3, 5, 7):
        bumps += rng.normal(0, 1 / wave) * np.sin(wave * angles + rng.uniform(0, 6.3))
    radii = radius * (1 + rough * bumps)
    return [
        (x + r * float(np.cos(a)), y + squash * r * float(np.sin(a)))
        for r, a in zip(radii, angles, strict=True)
    ]


def tree(scene: Scene, x: float, y: float, size: float, colour: Array) -> None:
    """A broad-leaved tree: trunk at (x, y), `size` high."""
    rng = scene.rng
    trunk, bark = size * 0.05, mix((0.30, 0.21, 0.14), (0.42, 0.36, 0.30), float(rng.random()))
    fork = y - size * 0.6
    sides = [(x - trunk, y), (x - trunk * 0.6, fork), (x + trunk * 0.6, fork), (x + trunk, y)]
    paint_part(scene, sides, bark, TREES)
    middle, spread = y - size * 0.64, size * 0.28
    for turn in range(22):
        angle, away = rng.uniform(0, 2 * np.pi), spread * float(np.sqrt(rng.random()))
        if turn < 4:
            away *= 0.3
        cx = x + away * float(np.cos(angle))
        cy = middle + 0.85 * away * float(np.sin(angle))
        lit = scene.light.side * (cx - x) / spread * 0.16 - (cy - middle) / spread * 0.20
        shade = 0.86 + (lit + 0.008 * turn) * scene.light.contrast
        outline = blob(rng, (cx, cy), size * float(rng.uniform(0.07, 0.16)), 0.18)
        paint_part(scene, outline, leaf_picture(scene, outline, colour * shade), TREES)


def conifer(scene: Scene, x: float, y: float, size: float, colour: Array) -> None:
    """A fir: stacked skirts with ragged rims."""
    rng = scene.rng
    half = size * float(rng.uniform(0.17, 0.24))
    trunk, knee = size * 0.03, y - size * 0.2
    sides = [(x - trunk, y), (x - trunk, knee), (x + trunk, knee), (x + trunk, y)]
    paint_part(scene, sides, (0.28, 0.20, 0.14), TREES)
    n_skirts = 6
    for skirt in range(n_skirts):
        low = y - size * (0.08 + 0.14 * skirt)
        high = low - size * 0.26
        wide = half * (1 - skirt / (n_skirts + 0.3))
        rim = [
            (x + wide * float(s), low + size * 0.03 * float(rng.normal()))
            for s in np.linspace(1, -1, 7)
        ]
        outline = [(x, max(high, y - size)), *rim]
        shade = 0.80 + 0.05 * skirt
        paint_part(scene, outline, leaf_picture(scene, outline, colour * shade), TREES)
        dark = 1 - 0.22 * scene.light.contrast
        away = [(x, max(high, y - size)), *(rim[:4] if scene.light.side < 0 else rim[3:])]
        paint_part(scene, away, leaf_picture(scene, away, colour * shade * dark), None)


def leaf_picture(scene: Scene, outline: Points, colour: Array) -> Array:
    """A whole picture that holds leaves of this colour in the outline's box, for `paint_part`."""
    picture = np.empty_like(scene.image)
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    box = np.s_[
        max(0, int(min(ys)) - 1) : max(0, int(max(ys)) + 3),
        max(0, int(min(xs)) - 1) : max(0, int(max(xs)) + 3),
    ]
    picture[box] = scene.foliage[box][..., None] * colour
    return picture


def boulder(scene: Scene, x: float, y: float, size: float) -> None:
    """A stone that lies at (x, y), `size` wide."""
    shadow(scene, x, y, size * 0.7)
    outline = blob(scene.rng, (x, y - size * 0.25), size / 2, 0.16, 0.66)
    outline = [(px, min(py, y)) for px, py in outline]
    faces = rock(scene.rng, scene.shape, max(6.0, size * 0.35), scene.light)
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None, None]
    faces = faces * np.clip(1.2 - 0.5 * (rows - (y - size * 0.5)) / (size * 0.5), 0.6, 1.2)
    paint_part(scene, outline, faces, ROCK)


def wall(scene: Scene, corners: Points, texture: Array, shade: float) -> None:
    """A flat texture (h, w, 3) as a wall; corners: top left, top right, lower right, lower left."""
    height, width = texture.shape[:2]
    flat = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    to_wall = cv2.getPerspectiveTransform(flat, np.array(corners, np.float32))
    size = (scene.shape[1], scene.shape[0])
    picture = cv2.warpPerspective(
        texture * np.float32(shade),
        to_wall,
        size,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    paint_part(scene, corners, picture, BUILDING)


def facade(rng: Rng, size: tuple[int, int], base: Array, storeys: int, door: bool) -> Array:
    """Bricks (h, w, 3) with rows of windows, and a door at the bottom if asked for."""
    height, width = size
    image = np.ascontiguousarray(bricks(rng, size, max(3, height // (storeys * 9)), base))
    floor = height / storeys
    columns = max(1, round(width / (floor * float(rng.uniform(0.75, 1.05)))))
    frame = mix((0.93, 0.92, 0.88), base, 0.1)
    door_at, wood = int(rng.integers(columns)) if door else -1, vary(rng, DOORS)
    for storey in range(storeys):
        for column in range(columns):
            x = width * (column + 0.5) / columns
            y = floor * (storey + 0.52)
            if storey == storeys - 1 and column == door_at:
                box(image, (x - floor * 0.17, y - floor * 0.22, x + floor * 0.17, height), wood)
                continue
            pane = mix((0.16, 0.20, 0.26), (0.55, 0.65, 0.75), float(rng.uniform(0, 0.6)))
            if rng.random() < 0.12:
                pane = np.array((0.98, 0.85, 0.50), np.float32)
            window(image, (x, y), floor, pane, frame)
    return image


def window(
    image: Array, middle: tuple[float, float], floor: float, pane: Array, frame: Array
) -> None:
    """A framed window with a bar, for a storey of `floor` pixels."""
    (x, y), half_w, half_h, rim = middle, floor * 0.17, floor * 0.25, max(1.0, floor * 0.035)
    box(image, (x - half_w - rim, y - half_h - rim, x + half_w + rim, y + half_h + rim), frame)
    box(image, (x - half_w, y - half_h, x + half_w, y + half_h), pane)
    box(image, (x - rim / 2, y - half_h, x + rim / 2, y + half_h), frame)


def box(image: Array, edges: tuple[float, float, float, float], colour: Array) -> None:
    """Fill left, top, right, bottom."""
    left, top, right, bottom = (max(0, round(edge)) for edge in edges)
    image[top : max(bottom, top + 1), left : max(right, left + 1)] = colour


DOORS: tuple[Colour, ...] = ((0.35, 0.20, 0.12), (0.16, 0.30, 0.28), (0.45, 0.12, 0.12))
WALLS: tuple[Colour, ...] = (
    (0.64, 0.32, 0.24),
    (0.72, 0.42, 0.30),
    (0.56, 0.27, 0.22),
    (0.74, 0.50, 0.36),
)
ROOFS: tuple[Colour, ...] = ((0.42, 0.20, 0.16), (0.33, 0.24, 0.24), (0.50, 0.26, 0.18))


def house(
    scene: Scene, corner: tuple[float, float], width: float, storeys: int, pitched: bool
) -> None:
    """A brick house seen from one end; the front's lower left corner is at `corner`."""
    rng, light, (x, y) = scene.rng, scene.light, corner
    base = vary(rng, WALLS, 0.04)
    height = width * (0.36 * storeys if pitched else 0.30 * storeys)
    side, rise = width * float(rng.uniform(0.30, 0.45)), width * 0.05
    top = y - height
    shadow(scene, x + width * 0.6, y, width * 1.2, 0.35)
    front_shade, end_shade = (0.92, 1.05) if light.side > 0 else (1.05, 1 - 0.38 * light.contrast)
    right, far = x + width, x + width + side
    end = [(right, top), (far, top + rise), (far, y - rise), (right, y)]
    scale = max(1.0, 96 / max(width, 1.0))  # textures of at least 96 pixels, so that bricks show
    front_px = (max(24, round(height * scale)), max(24, round(width * scale)))
    end_px = (front_px[0], max(12, round(side * scale)))
    wall(scene, end, facade(rng, end_px, base, storeys, False), end_shade)
    front = [(x, top), (right, top), (right, y), (x, y)]
    wall(scene, front, facade(rng, front_px, base, storeys, True), front_shade)
    if pitched:
        roof(scene, (x, right, far), top, base, end_shade)
        return
    thick = max(1.5, width * 0.03)
    upper = [(x - thick, top), (right, top), (far + thick, top + rise)]
    ledge = [(px, py - thick) for px, py in upper] + [(px, py + thick) for px, py in upper[::-1]]
    paint_part(scene, ledge, mix(base, (0.8, 0.78, 0.74), 0.6), BUILDING)


def roof(
    scene: Scene, xs: tuple[float, float, float], top: float, base: Array, end_shade: float
) -> None:
    """A gable over the end wall and a tiled slope over the front; xs: left, corner, far end."""
    left, right, far = xs
    width, side = right - left, far - right
    rise, peak = width * 0.05, (right + side * 0.5, top - width * 0.32)
    gable = [(right, top + 1), peak, (far, top + rise + 1)]
    paint_part(scene, gable, base * end_shade * 0.97, BUILDING)
    tiles = bricks(scene.rng, (60, 160), 6, vary(scene.rng, ROOFS, 0.04))
    slope = [
        (peak[0] - width * 1.02, peak[1]),
        (peak[0] + width * 0.02, peak[1]),
        (right + width * 0.02, top + width * 0.03),
        (left - width * 0.06, top + width * 0.03),
    ]
    wall(scene, slope, tiles, 1.08 if scene.light.side < 0 else 0.85)


HULLS: tuple[Colour, ...] = (
    (0.85, 0.15, 0.12),
    (0.95, 0.94, 0.90),
    (0.12, 0.20, 0.45),
    (0.30, 0.18, 0.10),
)
SAILS: tuple[Colour, ...] = (
    (0.98, 0.97, 0.93),
    (0.98, 0.97, 0.93),
    (0.90, 0.30, 0.20),
    (0.95, 0.78, 0.30),
)


def boat(scene: Scene, x: float, y: float, size: float) -> None:
    """A sailing boat, `size` high, with a broken reflection in the water."""
    rng = scene.rng
    turn = 1.0 if rng.random() < 0.5 else -1.0
    hull, cloth = vary(rng, HULLS), vary(rng, SAILS)
    half = size * 0.34

    def place(points: Points) -> Points:
        return [(x + turn * px * half, y + py * size) for px, py in points]

    for depth in range(5):
        low = 0.03 + 0.06 * depth
        wide = 0.9 - 0.15 * depth
        end = low + 0.03
        mirrored = place([(-wide, low), (wide, low), (wide * 0.8, end), (-wide * 0.9, end)])
        paint_part(scene, mirrored, mix(scene.image, mix(hull, cloth, depth / 5), 0.45), None)
    mast = [(-0.03, 0.0), (-0.03, -1.0), (0.03, -1.0), (0.03, 0.0)]
    paint_part(scene, place(mast), (0.35, 0.25, 0.18), BOAT)
    main_sail = [(-0.06, -0.98), (-0.06, -0.2), (-0.95, -0.2), (-0.55, -0.55)]
    fore_sail = [(0.06, -0.85), (0.06, -0.18), (0.85, -0.18)]
    paint_part(scene, place(main_sail), cloth * 0.97, BOAT)
    paint_part(scene, place(fore_sail), cloth * (1 - 0.15 * scene.light.contrast), BOAT)
    paint_part(scene, place([(-1, -0.14), (1.1, -0.16), (0.75, 0.02), (-0.8, 0.02)]), hull, BOAT)
    paint_part(scene, place([(-1, -0.14), (1.1, -0.16), (1.04, -0.12), (-0.98, -0.1)]), cloth, BOAT)


def mountains(scene: Scene, line: Array, haze: float, snow: float) -> None:
    """Rock below the ridge `line` (W,), paler with `haze` 0..1, snow on its top `snow` pixels."""
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None] + 0.5
    below = rows - line[None, :]
    faces = rock(scene.rng, scene.shape, max(24.0, min(scene.shape) * 0.22), scene.light)
    if snow > 0:
        edge = snow * (1 + 0.35 * fbm(scene.rng, scene.shape, 26, 4)) - below
        bright = faces.mean(axis=2, keepdims=True)
        white = np.clip(0.62 + 0.75 * bright, 0.6, 1.05) * np.array((0.97, 0.99, 1.03), np.float32)
        faces = mix(faces, white, np.clip(edge / 4, 0, 1))
    faces = mix(faces, scene.light.sky_low * 0.95, haze)
    paint(scene, np.clip(below + 0.5, 0, 1), faces, ROCK)


def forest(scene: Scene, line: Array, size: float, firs: bool) -> None:
    """A belt of trees along `line` (W,) of their feet, the rear ones first."""
    rng = scene.rng
    colour = vary(
        rng, ((0.13, 0.30, 0.12), (0.18, 0.36, 0.14), (0.10, 0.25, 0.15), (0.30, 0.34, 0.12))
    )
    width = scene.shape[1]
    rows = np.arange(scene.shape[0], dtype=np.float32)[:, None] + 0.5
    rear = np.abs(rows - (line[None, :] - 0.3 * size)) < 0.34 * size
    paint(scene, rear.astype(np.float32), scene.foliage[..., None] * colour * 0.6, TREES)
    for row, lift in enumerate((0.5, 0.25, 0.0)):
        step = size * (0.22 if firs else 0.36)
        for x in np.arange(-step, width + step, step):
            at = float(x + rng.normal(0, step * 0.25))
            foot = float(line[int(np.clip(at, 0, width - 1))]) - lift * size
            tone = colour * float(rng.uniform(0.85, 1.15)) * (0.85 + 0.1 * row)
            one = size * float(rng.uniform(0.75, 1.1))
            (conifer if firs else bush)(scene, at, foot, one, tone)


def bush(scene: Scene, x: float, y: float, size: float, colour: Array) -> None:
    """A round crown without a trunk, for the belts of trees and the ground."""
    for turn in range(4):
        cx = x + size * 0.2 * float(scene.rng.uniform(-1, 1))
        cy = y - size * (0.25 + 0.14 * turn)
        shade = 0.75 + 0.11 * turn * scene.light.contrast
        outline = blob(scene.rng, (cx, cy), size * (0.34 - 0.04 * turn), 0.16)
        paint_part(scene, outline, leaf_picture(scene, outline, colour * shade), TREES)


def new_scene(rng: Rng, shape: tuple[int, int], horizon: float, light: Light) -> Scene:
    """An empty scene, all sky."""
    return Scene(
        rng,
        light,
        horizon,
        np.zeros((*shape, 3), np.float32),
        np.full(shape, SKY, np.uint8),
        leaves(rng, shape, light),
    )

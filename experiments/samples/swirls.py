"""Swirls: a night sky of whirls and glowing discs over dark hills, in thick strokes of oil."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from strokes import (
    HEIGHT,
    OVERSIZE,
    SHAPE,
    WIDTH,
    Array,
    blend,
    light_relief,
    normals_of,
    shrink,
    smooth_noise,
    value_at,
)

SEED = 3
LAYERS = ((18, 21.0, 84.0), (14, 15.0, 62.0), (14, 11.5, 46.0))  # spacing, width, length
STEPS = 11  # along each stroke
VORTICES = (  # x, y, radius, sense of rotation
    (235, 215, 150, 1), (440, 135, 88, -1), (606, 268, 135, 1), (84, 84, 62, 1),
    (700, 78, 60, 1), (70, 372, 62, -1), (385, 350, 58, 1), (330, 40, 40, 1),
)  # fmt: skip
LIGHTS = (  # x, y, radius, paleness
    (606, 268, 66, 0.0), (84, 84, 30, 0.25), (700, 78, 27, 0.5), (385, 350, 20, 0.15),
    (330, 40, 17, 0.5), (70, 372, 22, 0.45), (530, 45, 12, 0.5),
)  # fmt: skip
SKY = ((13, 17, 62), (20, 32, 108), (28, 58, 158), (36, 96, 190), (34, 126, 170), (66, 160, 172),
       (140, 194, 190), (222, 226, 190))  # fmt: skip
GLOW = ((255, 250, 226), (255, 240, 168), (252, 212, 70), (244, 178, 44), (232, 140, 44),
        (190, 190, 110), (110, 170, 165))  # fmt: skip
STREAKS = ((250, 210, 90), (246, 232, 180), (232, 150, 60))
FAR_LAND = ((18, 20, 58), (22, 38, 84), (30, 62, 110), (34, 92, 116), (84, 136, 130),
            (190, 196, 130))  # fmt: skip
NEAR_LAND = ((10, 12, 28), (14, 28, 42), (24, 52, 44), (60, 88, 46), (132, 124, 50),
             (206, 156, 62))  # fmt: skip


def paint() -> npt.NDArray[np.uint8]:
    """Paint a night sky of whirls and glowing discs over dark hills, in three layers of oil.

    Returns
    -------
    numpy.ndarray
        Shape (608, 768, 3), sRGB.
    """
    rng = np.random.default_rng(SEED)
    noise = smooth_noise(rng, (3 * HEIGHT, 3 * WIDTH), 62)
    canvas = np.full((HEIGHT * OVERSIZE, WIDTH * OVERSIZE, 4), (20, 30, 80, 60), np.uint8)
    for spacing, width, length in LAYERS:
        _paint_layer(canvas, rng, noise, spacing, width, length)
    height = cv2.GaussianBlur(canvas[..., 3].astype(np.float32), (0, 0), 1.1)
    return shrink(light_relief(canvas[..., :3].astype(np.float32), height, 0.0024))


def _paint_layer(
    canvas: Array,
    rng: np.random.Generator,
    noise: Array,
    spacing: int,
    width: float,
    length: float,
) -> None:
    """Cover the canvas with strokes in random order, the sky before the land."""
    x, y = np.meshgrid(*(np.arange(-spacing, side + spacing, spacing) for side in SHAPE[::-1]))
    jitter = spacing * rng.uniform(-0.6, 0.6, (x.size, 2))
    starts = rng.permutation(np.stack([x.ravel(), y.ravel()], -1) + jitter)
    step = length * rng.uniform(0.7, 1.25, (len(starts), 1)) / STEPS
    paths = _streamlines(starts, step, STEPS)
    widths = width * rng.uniform(0.8, 1.2, len(starts))
    colours = _stroke_colours(rng, starts, noise)
    in_land = starts[:, 1] > _ridges(starts[:, 0])[0]
    for i in np.argsort(in_land, kind="stable"):
        _stroke(canvas, rng, paths[i], widths[i], colours[i])


def _ridges(x: Array) -> tuple[Array, Array]:
    """Heights, as y, of the far and the near line of hills."""
    far = 470 - 42 * np.sin(x / 148 + 0.5) - 16 * np.sin(x / 53 + 1)
    return far, 520 + 38 * np.sin(x / 128 + 0.2) + 9 * np.sin(x / 41)


def _flow(points: Array) -> Array:
    """Give unit flow vectors at points (..., 2).

    A drift (1, a wave of x and y) yields, by the weight exp(-(distance/radius)^4), to each
    vortex's inward spiral, and in the land to the tangent of the hills.
    """
    x, y = points[..., 0], points[..., 1]
    wave = 0.55 * np.sin(x / 120 + y / 210) + 0.15 * np.cos(y / 60)
    flow = np.stack([np.ones_like(x), wave], -1)
    for centre_x, centre_y, radius, sense in VORTICES:
        away = points - (centre_x, centre_y)
        distance = np.linalg.norm(away, axis=-1, keepdims=True) + 1e-6
        weight = np.exp(-((distance / radius) ** 4))
        spiral = sense * np.stack([-away[..., 1], away[..., 0]], -1) - 0.17 * away
        flow = flow * (1 - weight) + weight * spiral / distance
    far, near = _ridges(x)
    next_far, next_near = _ridges(x + 1)
    slope = np.where(y > near - 4, next_near - near, next_far - far)
    land = 1 / (1 + np.exp(-(y - far + 6) / 8))[..., None]
    flow = flow * (1 - land) + land * np.stack([np.ones_like(x), slope], -1)
    unit: Array = flow / (np.linalg.norm(flow, axis=-1, keepdims=True) + 1e-6)
    return unit


def _streamlines(starts: Array, step: Array | float, count: int) -> Array:
    """Follow the flow from each start by the midpoint rule; gives (n, count + 1, 2)."""
    path = [starts]
    for _ in range(count):
        middle = path[-1] + 0.5 * step * _flow(path[-1])
        path.append(path[-1] + step * _flow(middle))
    return np.stack(path, 1)


def _stroke_colours(rng: np.random.Generator, starts: Array, noise: Array) -> Array:
    """Colour each stroke: night sky or land."""
    jitter, chance = rng.standard_normal(len(starts)), rng.random((2, len(starts)))
    sky = _sky_colours(rng, starts, noise, jitter, chance)
    land = _land_colours(starts, noise, jitter)
    far, _ = _ridges(starts[:, 0])
    return np.where((starts[:, 1] > far)[:, None], land, sky)


def _sky_colours(
    rng: np.random.Generator, starts: Array, noise: Array, jitter: Array, chance: Array
) -> Array:
    """Colour strokes of the sky.

    They take their tone from noise far upstream, so that colours run in streams along the flow;
    discs of light glow in rings, and a few strokes between them are bright streaks.
    """
    upstream = _streamlines(starts, -8.0, 22)[:, -1]
    ring, pale = np.full(len(starts), 9.0), np.zeros(len(starts))
    for x, y, radius, paleness in LIGHTS:
        distance = np.linalg.norm(starts - (x, y), axis=-1) / radius
        pale = np.where(distance < ring, paleness, pale)
        ring = np.minimum(ring, distance)
    tone = 0.38 + 0.44 * value_at(noise, upstream + 200) + 0.42 * np.exp(-((ring / 2.4) ** 2))
    night = blend(SKY, tone + 0.075 * jitter)
    glow = blend(GLOW, np.clip(ring / 2.1 + 0.07 * jitter, 0, 1) * (1 - 0.6 * pale))
    lit = (np.clip((2.2 - ring) / 0.7, 0, 1) * (chance[0] < 2.7 - ring))[:, None]
    sky: Array = night * (1 - lit) + glow * lit
    streak = (chance[1] < 0.16) & (value_at(noise, upstream + 700) > 0.42) & (lit[:, 0] < 0.2)
    sky[streak] = blend(STREAKS, rng.random(np.count_nonzero(streak)))
    return sky


def _land_colours(starts: Array, noise: Array, jitter: Array) -> Array:
    """Colour strokes of the land, which darkens below the crest of each hill."""
    far, near = _ridges(starts[:, 0])
    is_near = starts[:, 1] > near
    below = np.maximum(starts[:, 1] - np.where(is_near, near, far), 0)
    depth = 0.33 + 0.34 * np.exp(-below / 16) + 0.12 * jitter
    depth = depth + 0.38 * value_at(noise, starts * (0.8, 2.2) + 50)
    return np.where(is_near[:, None], blend(NEAR_LAND, depth), blend(FAR_LAND, depth))


def _stroke(
    canvas: Array, rng: np.random.Generator, path: Array, width: float, colour: Array
) -> None:
    """Lay a stroke as a row of bristle lines; the canvas holds red, green, blue and height."""
    count = max(5, int(width / 1.6))
    across = np.linspace(-1, 1, count)
    light = np.convolve(rng.normal(0, 0.15, count + 2), (0.45, 0.85, 0.45), "valid")
    height = 110 + 70 * (1 - across**2) + rng.uniform(-32, 32, count) + rng.uniform(-25, 40)
    normals = normals_of(path)
    for bristle in rng.permutation(count):
        side = across[bristle]
        ends = np.round(1.6 * abs(side) ** 2.5 + rng.random(2) * (0.9, 1.9)).astype(int)
        line = (path + normals * side * (width - 2.5) / 2)[ends[0] : len(path) - ends[1]]
        shade = np.clip(colour * (1 + light[bristle]) + 30 * light[bristle], 0, 255)
        corners = np.round(line * OVERSIZE * 8).astype(np.int32)
        paint_and_height = (*shade.tolist(), float(height[bristle]))
        cv2.polylines(canvas, [corners], False, paint_and_height, 5, cv2.LINE_8, 3)

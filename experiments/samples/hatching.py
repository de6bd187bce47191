"""Hatching: a village among hills in pen and ink."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from strokes import (
    HEIGHT,
    OVERSIZE,
    SHAPE,
    WIDTH,
    Array,
    normals_of,
    pixel_grid,
    shrink,
    smooth_noise,
    value_at,
)

SEED = 5
PAPER, INK = 250, 10
STEP = 3.0  # pixels between two points of a hatching line
LAYERS = (  # turn from the direction of the form, darkness from which it is drawn, spacing
    (0.0, 0.1, 5.6), (0.95, 0.44, 5.8), (-0.8, 0.64, 6.0), (1.6, 0.8, 5.6),
)  # fmt: skip
CLOUDS = ((150, 120, 1.25), (430, 80, 0.85), (610, 165, 1.15))  # x, y, scale
PUFFS = (  # x and y from the middle of a cloud, radius
    (-70, 12, 30), (-30, -12, 42), (25, -18, 48), (70, 8, 34), (0, 14, 40), (105, 18, 20),
    (-104, 20, 18),
)  # fmt: skip
CROWN = (  # x, y, radius
    (48, 165, 58), (150, 148, 66), (222, 205, 58), (28, 240, 60), (120, 222, 78),
    (205, 280, 58), (52, 308, 62), (138, 318, 56),
)  # fmt: skip
CYPRESSES = ((742, 520, 190), (706, 545, 215))  # x and y of the foot, height


def paint() -> npt.NDArray[np.uint8]:
    """Draw a village among hills in pen and ink: darker tones get more layers of hatching.

    Returns
    -------
    numpy.ndarray
        Shape (608, 768, 3), sRGB; the three channels are equal.
    """
    rng = np.random.default_rng(SEED)
    broad, leaves, wobble = (smooth_noise(rng, SHAPE, cell) for cell in (90, 13, 30))
    scene = _compose(broad, leaves)
    canvas = np.full((HEIGHT * OVERSIZE, WIDTH * OVERSIZE), PAPER, np.uint8)
    for turn, above, spacing in LAYERS:
        _hatch(canvas, scene, rng, scene.angle + turn + 0.1 * wobble, above, spacing)
    canvas[np.kron(scene.tone >= 1, np.ones((OVERSIZE, OVERSIZE), bool))] = INK
    _outline(canvas, scene, rng)
    return np.repeat(shrink(canvas)[..., None], 3, axis=-1)


# ---------------------------------------------------------------- the scene, from back to front


class _Scene:
    """What the pen follows: each pixel's darkness, the direction of its form, and its part."""

    def __init__(self) -> None:
        self.tone, self.angle = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
        self.part = np.zeros(SHAPE, np.int32)
        self.x, self.y = pixel_grid()

    def put(self, where: Array, tone: Array | float, angle: Array | float) -> None:
        """Lay a new part over what is there."""
        self.part[where] = self.part.max() + 1
        self.tone[where] = np.broadcast_to(tone, SHAPE)[where]
        self.angle[where] = np.broadcast_to(angle, SHAPE)[where]

    def polygon(
        self, corners: Sequence[tuple[float, float]], tone: float, angle: float = 0.0
    ) -> None:
        """Lay a polygon of one tone; tone 1 is solid black."""
        inside = np.zeros(SHAPE, np.uint8)
        cv2.fillPoly(inside, [np.round(np.array(corners)).astype(np.int32)], 1)
        self.put(inside > 0, tone, angle)

    def ball(self, x: float, y: float, radius: float, leaves: Array) -> None:
        """Lay a ball of foliage, lit from the upper left, its edge roughened by noise."""
        dx, dy = (self.x - x) / radius, (self.y - y) / (0.9 * radius)
        tone = 0.54 + 0.3 * dx + 0.4 * dy + 0.12 * leaves
        inside = np.hypot(dx, dy) < 1 + 0.22 * leaves
        self.put(inside, np.clip(tone, 0.12, 0.93), -0.75 + 0.75 * dx + 0.45 * dy)

    def house(self, x: float, y: float, width: float) -> None:
        """Lay a gabled house with its foot at (x, y), its long side turned away to the right."""
        wall, depth, gable = 0.77 * width, 1.35 * width, 0.65 * width
        top, right, rise = y - wall, x + width, 0.1 * depth
        peak, back = (x + width / 2, top - gable - 2), right + depth
        self.polygon([(right, y), (back, y - rise), (back, top - rise), (right, top)], 0.45, 1.57)
        self.polygon([(x, y), (right, y), (right, top), peak, (x, top)], 0.11, 0.05)
        roof = [(right + 4, top + 4), peak, (peak[0] + depth, peak[1] - rise)]
        self.polygon([*roof, (back + 5, top - rise + 4)], 0.7, math.atan2(gable, width / 2))
        self.polygon([(x - 4, top + 5), peak, (peak[0] + 3, peak[1] + 5), (x + 1, top + 7)], 0.9)
        self._opening(x + 0.2 * width, y - 0.8 * wall, 0.17 * width, 0.3 * wall)
        self._opening(x + 0.58 * width, y - 0.55 * wall, 0.2 * width, 0.55 * wall)
        for along in (0.25, 0.65):
            sill = y - 0.75 * wall - along * rise
            self._opening(right + along * depth, sill, 0.16 * depth, 0.3 * wall)

    def _opening(self, x: float, y: float, width: float, height: float) -> None:
        """Lay a black window or door."""
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], 1.0)


def _compose(broad: Array, leaves: Array) -> _Scene:
    """Lay out the whole scene; `broad` and `leaves` are coarse and fine noise."""
    scene = _Scene()
    _put_sky(scene, broad, leaves)
    _put_hills(scene)
    _put_fields(scene)
    _put_village(scene, leaves)
    _put_meadow_and_road(scene, broad)
    _put_tree(scene, leaves)
    _put_cypresses(scene, leaves)
    return scene


def _put_sky(scene: _Scene, broad: Array, leaves: Array) -> None:
    x, y = scene.x, scene.y
    corner = np.clip(1 - y / 230, 0, 1) ** 1.3 * (0.35 + 0.65 * np.abs(x - 384) / 384)
    bend = 0.32 * np.sin(x / 170 + y / 260) + 0.22 * broad
    scene.put(y >= 0, np.clip(0.3 + 0.45 * corner + 0.12 * broad, 0.16, 0.8), bend - 0.3)
    for cloud_x, cloud_y, scale in CLOUDS:
        dx, dy = (x - cloud_x) / scale, (y - cloud_y) / scale
        inside = np.any([np.hypot(dx - px, dy - py) < r for px, py, r in PUFFS], axis=0) & (dy < 34)
        tone = np.clip(dy / 90 + 0.12 + 0.15 * leaves + 0.12 * broad, 0, 0.6)
        scene.put(inside, tone, 0.15 + 0.5 * np.sin((x - cloud_x) / 60))


def _put_hills(scene: _Scene) -> None:
    x, y = scene.x, scene.y
    far = 270 + 38 * np.sin(x / 105 + 0.6) + 18 * np.sin(x / 47)
    middle = 318 + 30 * np.sin(x / 140 + 2.4) + 8 * np.sin(x / 39)
    directions = (1.0 + 0.5 * np.sin(x / 60), -0.75 + 0.5 * np.sin(x / 95))
    for ridge, base, direction in zip((far, middle), (0.4, 0.3), directions, strict=True):
        tone = base + 0.25 * np.exp(-(y - ridge) / 14) + 0.22 * np.sin(x / 52 + y / 60)
        scene.put(y > ridge, np.clip(tone, 0.08, 0.85), direction)


def _put_fields(scene: _Scene) -> None:
    """Lay nine fields that fan out over the valley, with four kinds of furrows by turns."""
    x, y = scene.x, scene.y
    valley, fan = 372 - 26 * np.sin(x / 190 + 0.2), np.arctan2(y - 250, x - 400)
    furrows = (fan, fan + 0.5, -0.4 + 0.2 * np.sin(x / 60), fan - 0.6)
    for field in range(9):
        inside = (y > valley) & (np.floor((fan + 0.1) / 0.4) == field)
        scene.put(inside, (0.14, 0.55, 0.3, 0.66)[field % 4], furrows[field % 4])


def _put_village(scene: _Scene, leaves: Array) -> None:
    """Lay houses before and behind a church tower, and bushes."""
    for x, y, width in ((455, 372, 44), (585, 384, 40), (330, 380, 42)):
        scene.house(x, y, width)
    scene.polygon([(420, 392), (452, 392), (452, 262), (420, 262)], 0.14)
    scene.polygon([(452, 392), (470, 388), (470, 259), (452, 262)], 0.8, 1.57)
    scene.polygon([(414, 264), (438, 150), (456, 264)], 0.35, 1.35)
    scene.polygon([(438, 150), (456, 264), (475, 260)], 0.86, 1.2)
    scene.polygon([(430, 300), (430, 283), (436, 276), (442, 283), (442, 300)], 1.0)
    for x, y, width in ((505, 420, 60), (365, 428, 58), (250, 412, 50), (650, 430, 58)):
        scene.house(x, y, width)
    for x, y, radius in ((335, 425, 22), (492, 425, 18), (640, 425, 24), (235, 418, 20)):
        scene.ball(x, y, radius, leaves)


def _put_meadow_and_road(scene: _Scene, broad: Array) -> None:
    x, y = scene.x, scene.y
    edge = 452 + 20 * np.sin(x / 120 + 1) + 0.05 * (x - 384)
    tone = np.clip(0.34 + (y - edge) / 230 + 0.22 * broad, 0.2, 0.86)
    scene.put(y > edge, tone, -0.2 + 0.35 * np.sin(x / 120 + y / 110))
    middle = 470 - 150 * (y - 440) / 170 + 46 * np.sin((y - 430) / 38)
    across = (x - middle) / np.maximum(8 + 0.42 * (y - 430), 1)
    road = (np.abs(across) < 1) & (y > 440)
    scene.put(road, 0.05 + 0.35 * np.abs(across) ** 3 + 0.08 * broad, 0.05 + 0.3 * across)


def _put_tree(scene: _Scene, leaves: Array) -> None:
    x, y = scene.x, scene.y
    up = (HEIGHT - y) / 360
    across = x - (115 + 22 * np.sin(y / 70) - 10 * up)
    half = 12 + 14 * np.clip(1 - 1.6 * up, 0, 1) ** 2 + 26 * np.clip((y - 560) / 60, 0, 1) ** 2
    bark = 1.57 + 0.3 * np.cos(y / 70)
    scene.put((np.abs(across) < half) & (y > 270), 0.62 + 0.3 * across / half, bark)
    for ball_x, ball_y, radius in CROWN:
        scene.ball(ball_x, ball_y, radius, leaves)


def _put_cypresses(scene: _Scene, leaves: Array) -> None:
    x, y = scene.x, scene.y
    for foot_x, foot_y, height in CYPRESSES:
        up = np.clip((foot_y - y) / height, 0, 1)
        half = 27 * np.sqrt(np.minimum(1.6 * up, 1) * (1 - up)) * (1 + 0.2 * leaves)
        tone = np.clip(0.8 + (x - foot_x) / 66, 0.4, 0.98)
        scene.put(np.abs(x - foot_x) < half, tone, 1.57 + 0.25 * np.sin(y / 14))


# ---------------------------------------------------------------- the pen


def _pen_line(canvas: Array, path: Array, width: Array) -> None:
    """Draw a line in black whose width changes along its path, as a filled outline."""
    side = normals_of(path) * width[:, None] / 2
    outline = (np.concatenate([path + side, (path - side)[::-1]]) + 0.5) * OVERSIZE * 16
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32)], 0, cv2.LINE_AA, 4)


def _walk(
    allowed: Callable[[int, int], bool], angle: Array, start: Array, step: float, limit: int
) -> list[tuple[float, float]]:
    """Follow the directions from a start for as long as the pen is allowed on the pixel."""
    (x, y), path = start, []
    for _ in range(limit):
        direction = angle[int(y), int(x)]
        x, y = x + step * math.cos(direction), y + step * math.sin(direction)
        if not allowed(math.floor(x), math.floor(y)):
            break
        path.append((x, y))
    return path


def _hatch(
    canvas: Array,
    scene: _Scene,
    rng: np.random.Generator,
    angle: Array,
    above: float,
    spacing: float,
) -> None:
    """Fill what is darker than `above` with evenly spaced lines along the given directions.

    Each line seeds its neighbours at one spacing to either side and marks a lane as taken, where
    no later line may run; lines end at the edge of their part and where the tone grows too light.
    """
    taken = np.zeros(SHAPE, np.uint8)
    x, y = np.meshgrid(*(np.arange(2, side - 2, 0.8 * spacing) for side in SHAPE[::-1]))
    seeds = np.stack([x.ravel(), y.ravel()], -1) + rng.uniform(-2, 2, (x.size, 2))
    remaining, beside = rng.permutation(seeds).tolist(), deque[Any]()
    while remaining or beside:
        start = beside.popleft() if beside else remaining.pop()
        column, row = math.floor(start[0]), math.floor(start[1])
        threshold = above + 0.06 * rng.standard_normal()
        part = scene.part[row, column] if 0 <= row < HEIGHT and 0 <= column < WIDTH else -1

        def allowed(i: int, j: int, part: int = part, threshold: float = threshold) -> bool:
            on_page = 0 <= i < WIDTH and 0 <= j < HEIGHT
            free = on_page and not taken[j, i] and scene.part[j, i] == part
            return bool(free and scene.tone[j, i] >= threshold)

        if not allowed(column, row):
            continue
        limit = int(rng.integers(9, 26))
        before = _walk(allowed, angle, start, -STEP, limit)[::-1]
        path = np.array([*before, tuple(start), *_walk(allowed, angle, start, STEP, limit)])
        if len(path) < 3:
            continue
        lane = path[1:-1] if len(path) > 4 else path
        cv2.polylines(taken, [lane.astype(np.int32)], False, 1, int(1.35 * spacing))
        pressure = 0.45 + 0.55 * np.sin(np.linspace(0.25, math.pi - 0.15, len(path))) ** 0.6
        width = (0.85 + 1.25 * value_at(scene.tone, path) ** 1.5) * rng.uniform(0.85, 1.2)
        _pen_line(canvas, path, width * pressure)
        aside = spacing * normals_of(path)[1::4]
        beside.extend(np.concatenate([path[1::4] - aside, path[1::4] + aside]).tolist())


def _outline(canvas: Array, scene: _Scene, rng: np.random.Generator) -> None:
    """Draw the visible edge of every part with a slightly shaking pen."""
    shake = np.stack([smooth_noise(rng, SHAPE, 24) for _ in range(2)], -1)
    for part in range(2, scene.part.max() + 1):
        inside = (scene.part == part).astype(np.uint8)
        for edge in cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]:
            loop = np.concatenate([edge[:, 0], edge[:1, 0]]).astype(float)
            off_border = ((loop > 1) & (loop < (WIDTH - 2, HEIGHT - 2))).all(axis=1)
            cuts = np.flatnonzero(np.diff(off_border)) + 1
            for piece, drawn in zip(np.split(loop, cuts), np.split(off_border, cuts), strict=True):
                if not drawn[0] or len(piece) < 12:
                    continue
                smooth = cv2.blur(piece, (1, 5), borderType=cv2.BORDER_REPLICATE)[::3]
                wobble = value_at(shake, smooth)
                _pen_line(canvas, smooth + 1.2 * wobble, 1.5 + 0.9 * wobble[:, 0])

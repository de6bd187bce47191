"""Sample pictures for those who have none at hand: a photograph and three painted styles.

The styles are painted by code: "swirls" in thick oil strokes, "hatching" with pen and ink,
"mosaic" in laid stones. All are drawn `SS` times too large and shrunk, which smooths their edges.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from workbench.errors import InputError
from workbench.images import Box, crop_image, from_array, load_image, resize

if TYPE_CHECKING:
    import torch

PHOTOGRAPH = "astronaut"
STYLES = ("swirls", "hatching", "mosaic")
PREFIX = "sample:"

Array = npt.NDArray[Any]
Colours = Sequence[tuple[int, int, int]]
WIDTH, HEIGHT = 768, 608
SHAPE = (HEIGHT, WIDTH)
SS = 2


def photograph() -> torch.Tensor:
    """Give the sample photograph: the astronaut Eileen Collins (NASA, public domain).

    Returns
    -------
    torch.Tensor
        Shape (1, 3, 512, 512), float32 sRGB in [0, 1].
    """
    from skimage import data

    pixels: Array = data.astronaut()  # type: ignore[no-untyped-call]
    return from_array(pixels)


def style(name: str) -> torch.Tensor:
    """Paint one of the sample style pictures; the same name always gives the same picture.

    Parameters
    ----------
    name : str
        One of `STYLES`.

    Returns
    -------
    torch.Tensor
        Shape (1, 3, 608, 768), float32 sRGB in [0, 1].

    Raises
    ------
    InputError
        If there is no style of that name.
    """
    if name not in STYLES:
        raise InputError(f"no sample style {name!r}; there are: {', '.join(STYLES)}")
    return from_array(_painting(name))


def load_picture(
    name: str | os.PathLike[str],
    size: int | None = None,
    *,
    crop: Box | None = None,
) -> torch.Tensor:
    """Load a picture from a file, or a sample picture by its name.

    Parameters
    ----------
    name : str or os.PathLike
        "sample:astronaut", "sample:swirls", "sample:hatching", "sample:mosaic" or a file path.
    size : int, optional
        Longest side in pixels; by default the picture keeps its own.
    crop : tuple of float, optional
        Box to cut out before resizing, as `workbench.images.crop_image` takes it.

    Returns
    -------
    torch.Tensor
        Shape (1, 3, H, W), float32 sRGB in [0, 1].

    Raises
    ------
    InputError
        If there is no sample of that name, or the file cannot be read.
    """
    if not (isinstance(name, str) and name.startswith(PREFIX)):
        return load_image(name, size, crop=crop)
    sample = name.removeprefix(PREFIX)
    if sample != PHOTOGRAPH and sample not in STYLES:
        known = ", ".join(PREFIX + each for each in (PHOTOGRAPH, *STYLES))
        raise InputError(f"no sample picture {name!r}; there are: {known}")
    image = photograph() if sample == PHOTOGRAPH else style(sample)
    if crop is not None:
        image = crop_image(image, crop)
    return image if size is None else resize(image, size)


@cache
def _painting(name: str) -> Array:
    painters = {"swirls": _paint_swirls, "hatching": _paint_hatching, "mosaic": _paint_mosaic}
    return painters[name]()


# ---------------------------------------------------------------- tools shared by the painters


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cell: float) -> Array:
    """Smooth noise in about [-1, 1]: a coarse random grid enlarged by cubic interpolation."""
    rows, columns = (int(side / cell) + 3 for side in shape)
    coarse = rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _grid(shape: tuple[int, ...] = SHAPE) -> tuple[Array, Array]:
    """Give the x and the y coordinate of every pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return x, y


def _at(field: Array, points: Array) -> Array:
    """Look up a field of pixels at points (..., 2), given as x and y."""
    x = np.clip(points[..., 0], 0, field.shape[1] - 1).astype(int)
    y = np.clip(points[..., 1], 0, field.shape[0] - 1).astype(int)
    values: Array = field[y, x]
    return values


def _ramp(colours: Colours, t: Array) -> Array:
    """Interpolate along a row of colours; t runs from 0 (first) to 1 (last)."""
    table, places = np.asarray(colours, dtype=float), np.linspace(0, 1, len(colours))
    return np.stack([np.interp(t, places, table[:, channel]) for channel in range(3)], axis=-1)


def _normals(path: Array) -> Array:
    """Give unit vectors at right angles to a path (n, 2)."""
    along = np.gradient(path, axis=0)
    length = np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-6
    normals: Array = np.stack([-along[:, 1], along[:, 0]], -1) / length
    return normals


def _relief(rgb: Array, height: Array, strength: float) -> Array:
    """Light a relief from the upper left: slopes that face the light brighten, others darken."""
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)
    light = np.clip(strength * slope, -0.9, 0.9)[..., None]
    lit: Array = rgb + np.where(light > 0, 0.6 * (255 - rgb) * light, rgb * light)
    return lit


def _shrink(picture: Array) -> Array:
    """Round to uint8 and shrink to the final size."""
    whole = np.clip(picture, 0, 255).astype(np.uint8)
    return cv2.resize(whole, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


# ---------------------------------------------------------------- swirls: oil strokes in a flow

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
    """Colour each stroke.

    The sky takes its tone from noise far upstream, so that colours run in streams along the flow;
    discs of light glow in rings; the land darkens below the crest of each hill.
    """
    jitter, chance = rng.standard_normal(len(starts)), rng.random((2, len(starts)))
    upstream = _streamlines(starts, -8.0, 22)[:, -1]
    ring, pale = np.full(len(starts), 9.0), np.zeros(len(starts))
    for x, y, radius, paleness in LIGHTS:
        distance = np.linalg.norm(starts - (x, y), axis=-1) / radius
        pale = np.where(distance < ring, paleness, pale)
        ring = np.minimum(ring, distance)
    tone = 0.38 + 0.44 * _at(noise, upstream + 200) + 0.42 * np.exp(-((ring / 2.4) ** 2))
    sky = _ramp(SKY, tone + 0.075 * jitter)
    glow = _ramp(GLOW, np.clip(ring / 2.1 + 0.07 * jitter, 0, 1) * (1 - 0.6 * pale))
    lit = (np.clip((2.2 - ring) / 0.7, 0, 1) * (chance[0] < 2.7 - ring))[:, None]
    sky = sky * (1 - lit) + glow * lit
    streak = (chance[1] < 0.16) & (_at(noise, upstream + 700) > 0.42) & (lit[:, 0] < 0.2)
    sky[streak] = _ramp(STREAKS, rng.random(np.count_nonzero(streak)))
    far, near = _ridges(starts[:, 0])
    is_near = starts[:, 1] > near
    below = np.maximum(starts[:, 1] - np.where(is_near, near, far), 0)
    depth = 0.33 + 0.34 * np.exp(-below / 16) + 0.12 * jitter
    depth = depth + 0.38 * _at(noise, starts * (0.8, 2.2) + 50)
    land = np.where(is_near[:, None], _ramp(NEAR_LAND, depth), _ramp(FAR_LAND, depth))
    return np.where((starts[:, 1] > far)[:, None], land, sky)


def _stroke(
    canvas: Array, rng: np.random.Generator, path: Array, width: float, colour: Array
) -> None:
    """Lay a stroke as a row of bristle lines; the canvas holds red, green, blue and height."""
    count = max(5, int(width / 1.6))
    across = np.linspace(-1, 1, count)
    light = np.convolve(rng.normal(0, 0.15, count + 2), (0.45, 0.85, 0.45), "valid")
    height = 110 + 70 * (1 - across**2) + rng.uniform(-32, 32, count) + rng.uniform(-25, 40)
    normals = _normals(path)
    for bristle in rng.permutation(count):
        side = across[bristle]
        ends = np.round(1.6 * abs(side) ** 2.5 + rng.random(2) * (0.9, 1.9)).astype(int)
        line = (path + normals * side * (width - 2.5) / 2)[ends[0] : len(path) - ends[1]]
        shade = np.clip(colour * (1 + light[bristle]) + 30 * light[bristle], 0, 255)
        corners = np.round(line * SS * 8).astype(np.int32)
        ink = (*shade.tolist(), float(height[bristle]))
        cv2.polylines(canvas, [corners], False, ink, 5, cv2.LINE_8, 3)


def _paint_swirls(seed: int = 3) -> Array:
    """Paint a night sky of whirls and glowing discs over dark hills, in three layers of oil."""
    rng = np.random.default_rng(seed)
    noise = _noise(rng, (3 * HEIGHT, 3 * WIDTH), 62)
    canvas = np.full((HEIGHT * SS, WIDTH * SS, 4), (20, 30, 80, 60), np.uint8)
    for spacing, width, length in ((18, 21.0, 84.0), (14, 15.0, 62.0), (14, 11.5, 46.0)):
        x, y = np.meshgrid(*(np.arange(-spacing, side + spacing, spacing) for side in SHAPE[::-1]))
        jitter = spacing * rng.uniform(-0.6, 0.6, (x.size, 2))
        starts = rng.permutation(np.stack([x.ravel(), y.ravel()], -1) + jitter)
        step = length * rng.uniform(0.7, 1.25, (len(starts), 1)) / 11
        paths = _streamlines(starts, step, 11)
        widths = width * rng.uniform(0.8, 1.2, len(starts))
        colours = _stroke_colours(rng, starts, noise)
        in_land = starts[:, 1] > _ridges(starts[:, 0])[0]
        for i in np.argsort(in_land, kind="stable"):
            _stroke(canvas, rng, paths[i], widths[i], colours[i])
    height = cv2.GaussianBlur(canvas[..., 3].astype(np.float32), (0, 0), 1.1)
    return _shrink(_relief(canvas[..., :3].astype(np.float32), height, 0.0024))


# ---------------------------------------------------------------- hatching: a village in ink

STEP = 3.0  # pixels between two points of a hatching line


class _Scene:
    """What the pen follows: each pixel's darkness, the direction of its form, and its part."""

    def __init__(self) -> None:
        self.tone, self.angle = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
        self.part = np.zeros(SHAPE, np.int32)
        self.x, self.y = _grid()

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
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], 1.0)


def _draw_sky_and_hills(scene: _Scene, broad: Array, leaves: Array) -> None:
    x, y = scene.x, scene.y
    corner = np.clip(1 - y / 230, 0, 1) ** 1.3 * (0.35 + 0.65 * np.abs(x - 384) / 384)
    bend = 0.32 * np.sin(x / 170 + y / 260) + 0.22 * broad
    scene.put(y >= 0, np.clip(0.3 + 0.45 * corner + 0.12 * broad, 0.16, 0.8), bend - 0.3)
    puffs = ((-70, 12, 30), (-30, -12, 42), (25, -18, 48), (70, 8, 34), (0, 14, 40), (105, 18, 20),
             (-104, 20, 18))  # fmt: skip
    for cloud_x, cloud_y, scale in ((150, 120, 1.25), (430, 80, 0.85), (610, 165, 1.15)):
        dx, dy = (x - cloud_x) / scale, (y - cloud_y) / scale
        inside = np.any([np.hypot(dx - px, dy - py) < r for px, py, r in puffs], axis=0) & (dy < 34)
        tone = np.clip(dy / 90 + 0.12 + 0.15 * leaves + 0.12 * broad, 0, 0.6)
        scene.put(inside, tone, 0.15 + 0.5 * np.sin((x - cloud_x) / 60))
    far = 270 + 38 * np.sin(x / 105 + 0.6) + 18 * np.sin(x / 47)
    middle = 318 + 30 * np.sin(x / 140 + 2.4) + 8 * np.sin(x / 39)
    directions = (1.0 + 0.5 * np.sin(x / 60), -0.75 + 0.5 * np.sin(x / 95))
    for ridge, base, direction in zip((far, middle), (0.4, 0.3), directions, strict=True):
        tone = base + 0.25 * np.exp(-(y - ridge) / 14) + 0.22 * np.sin(x / 52 + y / 60)
        scene.put(y > ridge, np.clip(tone, 0.08, 0.85), direction)
    valley, fan = 372 - 26 * np.sin(x / 190 + 0.2), np.arctan2(y - 250, x - 400)
    furrows = (fan, fan + 0.5, -0.4 + 0.2 * np.sin(x / 60), fan - 0.6)
    for field in range(9):
        inside = (y > valley) & (np.floor((fan + 0.1) / 0.4) == field)
        scene.put(inside, (0.14, 0.55, 0.3, 0.66)[field % 4], furrows[field % 4])


def _draw_village(scene: _Scene, leaves: Array) -> None:
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


def _draw_foreground(scene: _Scene, broad: Array, leaves: Array) -> None:
    x, y = scene.x, scene.y
    edge = 452 + 20 * np.sin(x / 120 + 1) + 0.05 * (x - 384)
    tone = np.clip(0.34 + (y - edge) / 230 + 0.22 * broad, 0.2, 0.86)
    scene.put(y > edge, tone, -0.2 + 0.35 * np.sin(x / 120 + y / 110))
    middle = 470 - 150 * (y - 440) / 170 + 46 * np.sin((y - 430) / 38)
    across = (x - middle) / np.maximum(8 + 0.42 * (y - 430), 1)
    road = (np.abs(across) < 1) & (y > 440)
    scene.put(road, 0.05 + 0.35 * np.abs(across) ** 3 + 0.08 * broad, 0.05 + 0.3 * across)
    up = (HEIGHT - y) / 360
    across = x - (115 + 22 * np.sin(y / 70) - 10 * up)
    half = 12 + 14 * np.clip(1 - 1.6 * up, 0, 1) ** 2 + 26 * np.clip((y - 560) / 60, 0, 1) ** 2
    bark = 1.57 + 0.3 * np.cos(y / 70)
    scene.put((np.abs(across) < half) & (y > 270), 0.62 + 0.3 * across / half, bark)
    crown = ((48, 165, 58), (150, 148, 66), (222, 205, 58), (28, 240, 60), (120, 222, 78),
             (205, 280, 58), (52, 308, 62), (138, 318, 56))  # fmt: skip
    for ball_x, ball_y, radius in crown:
        scene.ball(ball_x, ball_y, radius, leaves)
    for foot_x, foot_y, height in ((742, 520, 190), (706, 545, 215)):
        up = np.clip((foot_y - y) / height, 0, 1)
        half = 27 * np.sqrt(np.minimum(1.6 * up, 1) * (1 - up)) * (1 + 0.2 * leaves)
        tone = np.clip(0.8 + (x - foot_x) / 66, 0.4, 0.98)
        scene.put(np.abs(x - foot_x) < half, tone, 1.57 + 0.25 * np.sin(y / 14))


def _pen_line(canvas: Array, path: Array, width: Array) -> None:
    """Draw a line in black whose width changes along its path, as a filled outline."""
    side = _normals(path) * width[:, None] / 2
    outline = (np.concatenate([path + side, (path - side)[::-1]]) + 0.5) * SS * 16
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32)], 0, cv2.LINE_AA, 4)


def _walk(allowed: Callable[[int, int], bool], angle: Array, start: Array, step: float,
          limit: int) -> list[tuple[float, float]]:  # fmt: skip
    """Follow the directions from a start for as long as the pen is allowed on the pixel."""
    (x, y), path = start, []
    for _ in range(limit):
        direction = angle[int(y), int(x)]
        x, y = x + step * math.cos(direction), y + step * math.sin(direction)
        if not allowed(math.floor(x), math.floor(y)):
            break
        path.append((x, y))
    return path


def _hatch(canvas: Array, scene: _Scene, rng: np.random.Generator, angle: Array, above: float,
           spacing: float) -> None:  # fmt: skip
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
        width = (0.85 + 1.25 * _at(scene.tone, path) ** 1.5) * rng.uniform(0.85, 1.2)
        _pen_line(canvas, path, width * pressure)
        aside = spacing * _normals(path)[1::4]
        beside.extend(np.concatenate([path[1::4] - aside, path[1::4] + aside]).tolist())


def _outline(canvas: Array, scene: _Scene, rng: np.random.Generator) -> None:
    """Draw the visible edge of every part with a slightly shaking pen."""
    shake = np.stack([_noise(rng, SHAPE, 24)[:HEIGHT, :WIDTH] for _ in range(2)], -1)
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
                wobble = _at(shake, smooth)
                _pen_line(canvas, smooth + 1.2 * wobble, 1.5 + 0.9 * wobble[:, 0])


def _paint_hatching(seed: int = 5) -> Array:
    """Draw a village among hills in pen and ink: darker tones get more layers of hatching."""
    rng = np.random.default_rng(seed)
    broad, leaves, wobble = (_noise(rng, SHAPE, cell) for cell in (90, 13, 30))
    scene = _Scene()
    _draw_sky_and_hills(scene, broad, leaves)
    _draw_village(scene, leaves)
    _draw_foreground(scene, broad, leaves)
    canvas = np.full((HEIGHT * SS, WIDTH * SS), 250, np.uint8)
    layers = ((0.0, 0.1, 5.6), (0.95, 0.44, 5.8), (-0.8, 0.64, 6.0), (1.6, 0.8, 5.6))
    for turn, above, spacing in layers:
        _hatch(canvas, scene, rng, scene.angle + turn + 0.1 * wobble, above, spacing)
    canvas[np.kron(scene.tone >= 1, np.ones((SS, SS), bool))] = 10
    _outline(canvas, scene, rng)
    return np.repeat(_shrink(canvas)[..., None], 3, axis=-1)


# ---------------------------------------------------------------- mosaic: a fish in laid stones

STONE = 14.0  # width of a stone in pixels
GROUT = (92, 84, 74)
GOLD = ((120, 78, 24), (176, 122, 38), (218, 166, 60), (244, 208, 108))
LAPIS = ((14, 22, 78), (22, 40, 120), (34, 66, 160), (70, 112, 190))
TURQUOISE = ((14, 84, 104), (26, 128, 140), (58, 172, 170), (150, 214, 200))
TERRACOTTA = ((104, 32, 22), (158, 54, 32), (196, 88, 46), (228, 138, 80))
AMBER = ((150, 66, 20), (208, 106, 32), (238, 150, 54), (250, 204, 112))
IVORY = ((168, 150, 120), (206, 192, 160), (232, 222, 196), (246, 240, 222))
NIGHT = ((16, 16, 34), (28, 28, 52), (44, 42, 70), (60, 60, 92))
PALETTES: tuple[Colours, ...] = (GOLD, LAPIS, TURQUOISE, TERRACOTTA, AMBER, IVORY, NIGHT)


class _Cartoon:
    """The design under the stones: each pixel's region, palette and tone within the palette."""

    def __init__(self) -> None:
        self.region, self.palette = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.int32)
        self.tone = np.zeros(SHAPE, np.float32)
        self.x, self.y = _grid()

    def put(self, where: Array, palette: Colours, tone: Array | float) -> None:
        """Lay a new region, which stones do not cross, over what is there."""
        self.region[where] = self.region.max() + 1
        self.recolour(where, palette, tone)

    def recolour(self, where: Array, palette: Colours, tone: Array | float) -> None:
        """Change colours without a new region."""
        self.palette[where] = PALETTES.index(palette)
        self.tone[where] = np.broadcast_to(tone, SHAPE)[where]


def _lay_sun(plan: _Cartoon, x: float, y: float) -> None:
    distance, turn = np.hypot(plan.x - x, plan.y - y), np.arctan2(plan.y - y, plan.x - x)
    ray, within = np.divmod(turn * 8 / math.pi, 1)
    off_axis = 2 * np.abs(within - 0.5)
    reach = np.where(ray % 2 == 0, 136, 112)
    rays = (distance < 78 + 1.25 * (reach - 78) * (1 - off_axis)) & (distance < reach)
    plan.put(rays, TERRACOTTA, np.clip(0.95 - (distance - 70) / 110, 0.2, 1))
    plan.put(distance < 80, GOLD, 0.85)
    plan.recolour((distance < 80) & (distance > 66), AMBER, 0.45)
    plan.recolour((distance < 66) & (distance > 52), GOLD, 0.5)
    plan.recolour(distance < 24, IVORY, 0.9)


def _lay_waves(plan: _Cartoon, noise: Array) -> None:
    rows = ((TURQUOISE, 0.75), (LAPIS, 0.75), (TURQUOISE, 0.42), (LAPIS, 0.38), (TURQUOISE, 0.2))
    for row, (palette, tone) in enumerate(rows):
        arch = np.abs(np.sin(math.pi * (plan.x / 118 + row * 0.633))) ** 0.8
        crest = 408 + 37 * row - 30 * arch
        plan.put(plan.y > crest, palette, np.clip(tone + 0.15 * noise, 0, 1))
        plan.recolour((plan.y > crest) & (plan.y < crest + 14), IVORY, 0.8 - 0.08 * row)


def _lay_fish(plan: _Cartoon, x: float, y: float) -> None:
    """Lay a leaping fish: `along` runs from -1 (tail) to 1 (snout), `across` over the bent body."""
    cosine, sine, length = math.cos(-0.42), math.sin(-0.42), 194
    dx, dy = plan.x - x, plan.y - y
    forward, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    across = across - 22 * np.cos(forward / 150) + 14
    along = forward / length
    taper = np.clip((along + 1.12) / 0.55, 0.12, 1) ** 0.9
    half = 77 * np.sqrt(np.clip(1 - along**2, 0, 1)) * (1 + 0.2 * along) * taper
    side = across / np.maximum(half, 1)
    tail = (along < -0.8) & (along > -1.34) & (np.abs(across) < 20 - (0.8 + along) * 175)
    tail &= np.abs(across) > -(1.1 + along) * 190
    plan.put(tail, TERRACOTTA, np.clip(0.35 + np.abs(across) / 100, 0, 1))
    arch = np.sqrt(np.sin(np.clip((along + 0.45) / 0.87, 0, 1) * 3.14))
    back_fin = (np.abs(along + 0.015) < 0.435) & (across < 0) & (across > -half - 32 * arch)
    plan.put(back_fin, TERRACOTTA, np.clip(0.3 - (across + 60) / 80, 0, 1))
    belly_fin = (along > -0.25) & (along < 0.2) & (across > 0)
    plan.put(belly_fin & (across < half + 84 * np.clip(0.2 - along, 0, 1)), TERRACOTTA, 0.6)
    body, gill = (np.abs(across) < half) & (np.abs(along) < 1), along - 0.4 - 0.12 * (1 - side**2)
    plan.put(body, GOLD, np.clip(0.75 + 0.25 * side, 0, 1))
    plan.recolour(body & (side < -0.42), TERRACOTTA, np.clip(1 + 0.6 * side, 0, 1))
    plan.recolour(body & (side > 0.5), IVORY, 0.75)
    plan.recolour(body & (np.abs(side + 0.02) < 0.13), TURQUOISE, 0.65)
    plan.put(body & (gill > 0), AMBER, np.clip(0.6 + 0.4 * side, 0, 1))
    plan.put(body & (np.abs(gill) < 0.036), NIGHT, 0.5)
    plan.put(body & (along > 0.8) & (np.abs(across - 14) < 6), TERRACOTTA, 0.05)
    eye = np.hypot(forward - 0.7 * length, across + 24)
    plan.put(eye < 23, IVORY, 0.9)
    plan.put(eye < 9.5, NIGHT, 0.1)


def _lay_frame(plan: _Cartoon) -> None:
    right, below = WIDTH - 1 - plan.x, HEIGHT - 1 - plan.y
    beside, beyond = np.minimum(plan.x, right), np.minimum(plan.y, below)
    edge = np.minimum(beside, beyond)
    position = np.where(beside < beyond, plan.y - HEIGHT / 2, plan.x - WIDTH / 2)
    plan.put(edge < 45, GOLD, 0.7)
    plan.put(edge < 30, IVORY, 0.75)
    plan.recolour((edge < 30) & (np.floor(position / 32) % 2 == 0), LAPIS, 0.5)
    plan.put(edge < 15, TERRACOTTA, 0.45)


def _cartoon(rng: np.random.Generator) -> _Cartoon:
    """Design a fish that leaps from the waves under sun and stars, in a frame."""
    plan, noise = _Cartoon(), _noise(rng, SHAPE, 80)
    plan.put(plan.y >= 0, LAPIS, np.clip(0.1 + 0.62 * plan.y / 430 + 0.2 * noise, 0, 1))
    for x, y in ((105, 110), (235, 95), (390, 90), (110, 245), (688, 345)):
        distance, turn = np.hypot(plan.x - x, plan.y - y), np.arctan2(plan.y - y, plan.x - x)
        plan.put(distance < 19 + 8 * np.cos(4 * turn), GOLD, 0.95)
    _lay_sun(plan, 598, 166)
    _lay_waves(plan, noise)
    _lay_fish(plan, 286, 300)
    _lay_frame(plan)
    return plan


def _distance_to_edge(region: Array) -> Array:
    inner = np.zeros(SHAPE, np.uint8)
    inner[1:-1, 1:-1] = 1
    inner[:, 1:] &= region[:, 1:] == region[:, :-1]
    inner[1:] &= region[1:] == region[:-1]
    return cv2.distanceTransform(inner, cv2.DIST_L2, 5)


def _courses(region: Array, distance: Array, rng: np.random.Generator) -> Array:
    """Place stones (n, 2) in courses: along lines of equal distance to the edge of a region."""
    taken, stones = np.zeros(SHAPE, np.uint8), []
    for number in range(1, region.max() + 1):
        depth = np.where(region == number, distance, 0)
        for level in np.arange(min(STONE / 2, 0.7 * depth.max()), depth.max(), STONE):
            above = (depth >= max(level, 1)).astype(np.uint8)
            for line in cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]:
                points = line[:, 0]
                steps = np.hypot(*np.diff(points, axis=0, append=points[:1]).T)
                count = max(1, round(steps.sum() / (1.12 * STONE)))
                places = (np.arange(count) + rng.uniform(-0.12, 0.12, count)) / count
                chosen = np.searchsorted(np.cumsum(steps), places * steps.sum())
                for x, y in points[np.minimum(chosen, len(points) - 1)].tolist():
                    if not taken[y, x]:
                        stones.append((x, y))
                        cv2.circle(taken, (x, y), int(0.62 * STONE), 1, -1)
    return np.array(stones, dtype=float)


def _cells(stones: Array, region: Array, axes: Array, scale: float) -> Array:
    """Give every pixel the number of its nearest stone in its region, or -1.

    Near is meant in the larger of |u| and |v|, coordinates turned along the course (`axes` holds
    the cosine and sine of the turn), which makes the cells roughly square and lines them up.
    """
    shape = (int(HEIGHT * scale), int(WIDTH * scale))
    region_there = cv2.resize(region, shape[::-1], interpolation=cv2.INTER_NEAREST)
    owner, nearest = np.full(shape, -1, np.int32), np.full(shape, np.inf, np.float32)
    reach = int(1.6 * STONE * scale)
    own_region, turns = _at(region, stones), _at(axes, stones)
    for number, (x, y) in enumerate(stones * scale):
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        window = np.s_[top : int(y) + reach + 1, left : int(x) + reach + 1]
        rows, columns = owner[window].shape
        dx = np.arange(left, left + columns, dtype=np.float32) - x
        dy = (np.arange(top, top + rows, dtype=np.float32) - y)[:, None]
        cosine, sine = turns[number]
        away = np.maximum(np.abs(cosine * dx + sine * dy), np.abs(cosine * dy - sine * dx))
        away = away + 0.12 * (np.abs(dx) + np.abs(dy))
        closer = (away < nearest[window]) & (region_there[window] == own_region[number])
        nearest[window][closer], owner[window][closer] = away[closer], number
    return owner


def _centred(stones: Array, region: Array, axes: Array) -> Array:
    """Move each stone to the middle of its cell, and drop those left without room."""
    owner = _cells(stones, region, axes, 0.5)
    rows, columns = np.nonzero(owner >= 0)
    numbers = owner[rows, columns]
    size = np.bincount(numbers, minlength=len(stones))
    sums = [np.bincount(numbers, places, len(stones)) for places in (columns, rows)]
    middle = 2 * np.stack(sums, -1) / np.maximum(size, 1)[:, None] + 0.5
    stays = _at(region, middle) == _at(region, stones)
    return np.where(stays[:, None], middle, stones)[size > 6]


def _stone_colours(plan: _Cartoon, stones: Array, rng: np.random.Generator) -> Array:
    tone, palette = _at(plan.tone, stones), _at(plan.palette, stones)
    tone = np.clip(tone + 0.17 * rng.standard_normal(len(stones)), 0, 1)
    ramps = np.stack([_ramp(colours, tone) for colours in PALETTES])
    colours = ramps[palette, np.arange(len(stones))]
    return colours * rng.uniform(0.86, 1.12, (len(stones), 1)) + rng.normal(0, 6, colours.shape)


def _paint_mosaic(seed: int = 2) -> Array:
    """Lay a mosaic: plan, courses of stones, cells, then bevelled stones in sunken grout."""
    rng = np.random.default_rng(seed)
    plan = _cartoon(rng)
    distance = _distance_to_edge(plan.region)
    smooth = cv2.GaussianBlur(distance, (0, 0), 4)
    axes = np.stack([cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)], -1)
    axes = axes / (np.linalg.norm(axes, axis=-1, keepdims=True) + 1e-6)
    stones = _courses(plan.region, distance, rng)
    for _ in range(2):
        stones = _centred(stones, plan.region, axes)
    owner = _cells(stones, plan.region, axes, SS)
    joint = owner < 0
    joint[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    joint[1:] |= owner[1:] != owner[:-1]
    inward: Array = cv2.distanceTransform((~joint).astype(np.uint8), cv2.DIST_L2, 3)
    inward = inward + 0.7 * _noise(rng, owner.shape, 7)
    # Each stone leans its own way, so that one side of its face is lighter.
    x, y = _grid(owner.shape)
    lean = rng.normal(0, 0.016, (len(stones), 2))
    middle_x, middle_y = stones[owner, 0], stones[owner, 1]
    face = lean[owner, 0] * (x / SS - middle_x) + lean[owner, 1] * (y / SS - middle_y)
    grain = _noise(rng, owner.shape, 3)[..., None]
    colours = _stone_colours(plan, stones, rng)[owner] * (1 + face[..., None] + 0.06 * grain)
    bevel = cv2.GaussianBlur(np.clip(inward - 2, 0, 5), (0, 0), 0.9)
    picture = _relief(colours, bevel, 0.055)
    sunken = np.clip((2.6 - inward) / 1.2, 0, 1)[..., None]
    return _shrink(picture * (1 - sunken) + np.array(GROUT) * (1 + 0.12 * grain) * sunken)

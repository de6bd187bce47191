"""Mosaic: a leaping fish under sun and stars, in laid stones."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from strokes import (
    HEIGHT,
    OVERSIZE,
    SHAPE,
    WIDTH,
    Array,
    Colours,
    blend,
    light_relief,
    pixel_grid,
    shrink,
    smooth_noise,
    value_at,
)

SEED = 2
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


def paint() -> npt.NDArray[np.uint8]:
    """Lay a mosaic: cartoon, courses of stones, cells, then bevelled stones in sunken grout.

    Returns
    -------
    numpy.ndarray
        Shape (608, 768, 3), sRGB.
    """
    rng = np.random.default_rng(SEED)
    plan = _cartoon(rng)
    distance = _distance_to_edge(plan.region)
    axes = _axes(distance)
    stones = _courses(plan.region, distance, rng)
    for _ in range(2):
        stones = _centred(stones, plan.region, axes)
    owner = _cells(stones, plan.region, axes, OVERSIZE)
    inward = _distance_to_joint(owner) + 0.7 * smooth_noise(rng, owner.shape, 7)
    face = _leaning_faces(stones, owner, rng)
    grain = smooth_noise(rng, owner.shape, 3)[..., None]
    colours = _stone_colours(plan, stones, rng)[owner] * (1 + face[..., None] + 0.06 * grain)
    bevel = cv2.GaussianBlur(np.clip(inward - 2, 0, 5), (0, 0), 0.9)
    picture = light_relief(colours, bevel, 0.055)
    sunken = np.clip((2.6 - inward) / 1.2, 0, 1)[..., None]
    return shrink(picture * (1 - sunken) + np.array(GROUT) * (1 + 0.12 * grain) * sunken)


# ---------------------------------------------------------------- the cartoon


class _Cartoon:
    """The design under the stones: each pixel's region, palette and tone within the palette."""

    def __init__(self) -> None:
        self.region, self.palette = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.int32)
        self.tone = np.zeros(SHAPE, np.float32)
        self.x, self.y = pixel_grid()

    def put(self, where: Array, palette: Colours, tone: Array | float) -> None:
        """Lay a new region, which stones do not cross, over what is there."""
        self.region[where] = self.region.max() + 1
        self.recolour(where, palette, tone)

    def recolour(self, where: Array, palette: Colours, tone: Array | float) -> None:
        """Change colours without a new region."""
        self.palette[where] = PALETTES.index(palette)
        self.tone[where] = np.broadcast_to(tone, SHAPE)[where]


def _cartoon(rng: np.random.Generator) -> _Cartoon:
    """Design a fish that leaps from the waves under sun and stars, in a frame."""
    plan, noise = _Cartoon(), smooth_noise(rng, SHAPE, 80)
    plan.put(plan.y >= 0, LAPIS, np.clip(0.1 + 0.62 * plan.y / 430 + 0.2 * noise, 0, 1))
    for x, y in ((105, 110), (235, 95), (390, 90), (110, 245), (688, 345)):
        distance, turn = np.hypot(plan.x - x, plan.y - y), np.arctan2(plan.y - y, plan.x - x)
        plan.put(distance < 19 + 8 * np.cos(4 * turn), GOLD, 0.95)
    _lay_sun(plan, 598, 166)
    _lay_waves(plan, noise)
    _lay_fish(plan, 286, 300)
    _lay_frame(plan)
    return plan


def _lay_sun(plan: _Cartoon, x: float, y: float) -> None:
    """Lay a ringed sun with sixteen rays, long and short by turns."""
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
    """Lay five rows of waves, each with a pale crest, from back to front."""
    rows = ((TURQUOISE, 0.75), (LAPIS, 0.75), (TURQUOISE, 0.42), (LAPIS, 0.38), (TURQUOISE, 0.2))
    for row, (palette, tone) in enumerate(rows):
        arch = np.abs(np.sin(math.pi * (plan.x / 118 + row * 0.633))) ** 0.8
        crest = 408 + 37 * row - 30 * arch
        plan.put(plan.y > crest, palette, np.clip(tone + 0.15 * noise, 0, 1))
        plan.recolour((plan.y > crest) & (plan.y < crest + 14), IVORY, 0.8 - 0.08 * row)


class _Fish:
    """Where the fish is: `along` runs from -1 (tail) to 1 (snout), `across` over the bent body.

    `half` is half the body's thickness, and `side` runs from -1 (back) to 1 (belly).
    """

    def __init__(self, plan: _Cartoon, x: float, y: float) -> None:
        cosine, sine, length = math.cos(-0.42), math.sin(-0.42), 194
        dx, dy = plan.x - x, plan.y - y
        forward, across = dx * cosine + dy * sine, dy * cosine - dx * sine
        self.across = across - 22 * np.cos(forward / 150) + 14
        self.along = forward / length
        taper = np.clip((self.along + 1.12) / 0.55, 0.12, 1) ** 0.9
        oval = 77 * np.sqrt(np.clip(1 - self.along**2, 0, 1))
        self.half = oval * (1 + 0.2 * self.along) * taper
        self.side = self.across / np.maximum(self.half, 1)
        self.eye = np.hypot(forward - 0.7 * length, self.across + 24)


def _lay_fish(plan: _Cartoon, x: float, y: float) -> None:
    """Lay a leaping fish, its middle at (x, y)."""
    fish = _Fish(plan, x, y)
    _lay_fins(plan, fish)
    _lay_body(plan, fish)
    plan.put(fish.eye < 23, IVORY, 0.9)
    plan.put(fish.eye < 9.5, NIGHT, 0.1)


def _lay_fins(plan: _Cartoon, fish: _Fish) -> None:
    """Lay the tail, the fin on the back and the one on the belly."""
    along, across, half = fish.along, fish.across, fish.half
    tail = (along < -0.8) & (along > -1.34) & (np.abs(across) < 20 - (0.8 + along) * 175)
    tail &= np.abs(across) > -(1.1 + along) * 190
    plan.put(tail, TERRACOTTA, np.clip(0.35 + np.abs(across) / 100, 0, 1))
    arch = np.sqrt(np.sin(np.clip((along + 0.45) / 0.87, 0, 1) * 3.14))
    back_fin = (np.abs(along + 0.015) < 0.435) & (across < 0) & (across > -half - 32 * arch)
    plan.put(back_fin, TERRACOTTA, np.clip(0.3 - (across + 60) / 80, 0, 1))
    belly_fin = (along > -0.25) & (along < 0.2) & (across > 0)
    plan.put(belly_fin & (across < half + 84 * np.clip(0.2 - along, 0, 1)), TERRACOTTA, 0.6)


def _lay_body(plan: _Cartoon, fish: _Fish) -> None:
    """Lay the striped body, the head beyond the gill, and the mouth."""
    along, across, side = fish.along, fish.across, fish.side
    body = (np.abs(across) < fish.half) & (np.abs(along) < 1)
    gill = along - 0.4 - 0.12 * (1 - side**2)
    plan.put(body, GOLD, np.clip(0.75 + 0.25 * side, 0, 1))
    plan.recolour(body & (side < -0.42), TERRACOTTA, np.clip(1 + 0.6 * side, 0, 1))
    plan.recolour(body & (side > 0.5), IVORY, 0.75)
    plan.recolour(body & (np.abs(side + 0.02) < 0.13), TURQUOISE, 0.65)
    plan.put(body & (gill > 0), AMBER, np.clip(0.6 + 0.4 * side, 0, 1))
    plan.put(body & (np.abs(gill) < 0.036), NIGHT, 0.5)
    plan.put(body & (along > 0.8) & (np.abs(across - 14) < 6), TERRACOTTA, 0.05)


def _lay_frame(plan: _Cartoon) -> None:
    """Lay a frame of blue and ivory checks between two plain borders."""
    right, below = WIDTH - 1 - plan.x, HEIGHT - 1 - plan.y
    beside, beyond = np.minimum(plan.x, right), np.minimum(plan.y, below)
    edge = np.minimum(beside, beyond)
    position = np.where(beside < beyond, plan.y - HEIGHT / 2, plan.x - WIDTH / 2)
    plan.put(edge < 45, GOLD, 0.7)
    plan.put(edge < 30, IVORY, 0.75)
    plan.recolour((edge < 30) & (np.floor(position / 32) % 2 == 0), LAPIS, 0.5)
    plan.put(edge < 15, TERRACOTTA, 0.45)


# ---------------------------------------------------------------- the stones


def _distance_to_edge(region: Array) -> Array:
    """Measure how far every pixel lies from the edge of its region."""
    inner = np.zeros(SHAPE, np.uint8)
    inner[1:-1, 1:-1] = 1
    inner[:, 1:] &= region[:, 1:] == region[:, :-1]
    inner[1:] &= region[1:] == region[:-1]
    return cv2.distanceTransform(inner, cv2.DIST_L2, 5)


def _axes(distance: Array) -> Array:
    """Give every pixel the unit vector (..., 2) that points away from its region's edge."""
    smooth = cv2.GaussianBlur(distance, (0, 0), 4)
    axes = np.stack([cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)], -1)
    unit: Array = axes / (np.linalg.norm(axes, axis=-1, keepdims=True) + 1e-6)
    return unit


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
    own_region, turns = value_at(region, stones), value_at(axes, stones)
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
    stays = value_at(region, middle) == value_at(region, stones)
    return np.where(stays[:, None], middle, stones)[size > 6]


def _distance_to_joint(owner: Array) -> Array:
    """Measure how far inside its stone every pixel lies; joints are where the owner changes."""
    joint = owner < 0
    joint[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    joint[1:] |= owner[1:] != owner[:-1]
    return cv2.distanceTransform((~joint).astype(np.uint8), cv2.DIST_L2, 3)


def _leaning_faces(stones: Array, owner: Array, rng: np.random.Generator) -> Array:
    """Lean each stone its own way, so that one side of its face is lighter."""
    x, y = pixel_grid(owner.shape)
    lean = rng.normal(0, 0.016, (len(stones), 2))
    middle_x, middle_y = stones[owner, 0], stones[owner, 1]
    across = lean[owner, 0] * (x / OVERSIZE - middle_x)
    lighter: Array = across + lean[owner, 1] * (y / OVERSIZE - middle_y)
    return lighter


def _stone_colours(plan: _Cartoon, stones: Array, rng: np.random.Generator) -> Array:
    """Colour each stone from its palette, no two quite alike."""
    tone, palette = value_at(plan.tone, stones), value_at(plan.palette, stones)
    tone = np.clip(tone + 0.17 * rng.standard_normal(len(stones)), 0, 1)
    ramps = np.stack([blend(colours, tone) for colours in PALETTES])
    colours = ramps[palette, np.arange(len(stones))]
    return colours * rng.uniform(0.86, 1.12, (len(stones), 1)) + rng.normal(0, 6, colours.shape)

"""What the painters share: the size of the page, noise, ramps of colour, light on a relief."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Colours = Sequence[tuple[int, int, int]]

WIDTH, HEIGHT = 768, 608
SHAPE = (HEIGHT, WIDTH)
OVERSIZE = 2  # canvas pixels to a side of each final pixel


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cell: float) -> Array:
    """Smooth noise in about [-1, 1]: a coarse random grid enlarged by cubic interpolation."""
    rows, columns = (int(side / cell) + 3 for side in shape)
    coarse = rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def pixel_grid(shape: tuple[int, ...] = SHAPE) -> tuple[Array, Array]:
    """Give the x and the y coordinate of every pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return x, y


def value_at(field: Array, points: Array) -> Array:
    """Look up a field of pixels at points (..., 2), given as x and y."""
    x = np.clip(points[..., 0], 0, field.shape[1] - 1).astype(int)
    y = np.clip(points[..., 1], 0, field.shape[0] - 1).astype(int)
    values: Array = field[y, x]
    return values


def blend(colours: Colours, t: Array) -> Array:
    """Interpolate along a row of colours; t runs from 0 (first) to 1 (last)."""
    table, places = np.asarray(colours, dtype=float), np.linspace(0, 1, len(colours))
    return np.stack([np.interp(t, places, table[:, channel]) for channel in range(3)], axis=-1)


def normals_of(path: Array) -> Array:
    """Give unit vectors at right angles to a path (n, 2)."""
    along = np.gradient(path, axis=0)
    length = np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-6
    normals: Array = np.stack([-along[:, 1], along[:, 0]], -1) / length
    return normals


def light_relief(rgb: Array, height: Array, strength: float) -> Array:
    """Light a relief from the upper left: slopes that face the light brighten, others darken."""
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)
    light = np.clip(strength * slope, -0.9, 0.9)[..., None]
    lit: Array = rgb + np.where(light > 0, 0.6 * (255 - rgb) * light, rgb * light)
    return lit


def shrink(canvas: Array) -> npt.NDArray[np.uint8]:
    """Clip to 0-255, drop the fractions and shrink to the final size."""
    whole = np.clip(canvas, 0, 255).astype(np.uint8)
    small = cv2.resize(whole, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)

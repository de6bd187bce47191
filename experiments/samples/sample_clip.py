"""The sample clip, whose optical flow is known: bundled photographs that are moved by code."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sound import Sound

from workbench.errors import InputError
from workbench.images import Frame

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CLIP_FRAMES, CLIP_CUT, CLIP_FPS = 75, 38, Fraction(25)
CLIP_WIDTH, CLIP_HEIGHT = 320, 240
SOUND_RATE = 48000
FIGURE_SHRINK = 0.3  # of the photograph that it is cut from
FIGURE_MIDDLE = (83.0, 62.0)  # in its shrunk picture


@dataclass(frozen=True, eq=False)
class SampleClip:
    """A clip of two scenes with known motion: a flying saucer of coffee over a panned photograph.

    Attributes
    ----------
    frames
        75 pictures of 320 x 240.
    fps
        Frames a second: 25.
    cut
        Index of the first frame of the second scene.
    sound
        A melody of 3 s, stereo, 48 kHz; it changes at the cut.
    placements
        `(75, 2, 3, 3)`: for every frame the matrices that take a point `(x, y, 1)` of the
        background's (first) and of the figure's picture (second) to its place in the frame.
    """

    frames: tuple[Frame, ...]
    fps: Fraction
    cut: int
    sound: Sound
    placements: Floats

    def flow(self, i: int, j: int) -> torch.Tensor:
        """True flow: where each pixel of frame `i` lies in frame `j`.

        Convention:
            As in `workbench.video.flow.flow`: in pixels, channel 0 = x to the right, channel 1
            = y down, on the grid of frame `i`. Where a point is not seen in frame `j`, the flow
            still says where it would be.

        Returns
        -------
        torch.Tensor
            `(1, 2, H, W)`, float32.

        Raises
        ------
        InputError
            Unless both frames are there and of the same scene.
        """
        field = self._targets(i, j) - _frame_grid()
        return torch.from_numpy(field.astype(np.float32))[None]

    def occluded(self, i: int, j: int) -> torch.Tensor:
        """What frame `i` shows and frame `j` does not: covered there, or out of the picture.

        Returns
        -------
        torch.Tensor
            `(1, 1, H, W)`, bool, on the grid of frame `i`.

        Raises
        ------
        InputError
            Unless both frames are there and of the same scene.
        """
        x, y = target = self._targets(i, j)
        outside = (x < -0.5) | (y < -0.5) | (x > CLIP_WIDTH - 0.5) | (y > CLIP_HEIGHT - 0.5)
        covered = ~self._shows_figure(i) & (_figure_depth(self.placements[j, 1], target) > 0)
        return torch.from_numpy(outside | covered)[None, None]

    def _targets(self, i: int, j: int) -> Floats:
        """Where the points that frame `i` shows lie in frame `j`: (2, H, W), x and y."""
        for index in (i, j):
            if not 0 <= index < len(self.frames):
                raise InputError(f"frame {index}: the clip has frames 0 to {len(self.frames) - 1}.")
        if (i < self.cut) != (j < self.cut):
            raise InputError(f"frames {i} and {j}: there is no flow across the cut at {self.cut}.")
        background, figure = (
            _apply(self.placements[j, layer] @ np.linalg.inv(self.placements[i, layer]))
            for layer in (0, 1)
        )
        return np.where(self._shows_figure(i), figure, background)

    def _shows_figure(self, i: int) -> Bools:
        return _figure_depth(self.placements[i, 1], _frame_grid()) > 0


@cache
def clip() -> SampleClip:
    """Make the sample clip; it is the same every time.

    The camera pans over the astronaut while a cup of coffee on its saucer flies by; after the
    cut it pans over a cat, and the saucer comes back. Both photographs and the cup are bundled
    with scikit-image.
    """
    from skimage import data

    placements = np.concatenate([_first_scene(CLIP_CUT), _second_scene(CLIP_FRAMES - CLIP_CUT)])
    photographs = [data.astronaut()] * CLIP_CUT + [data.chelsea()] * (CLIP_FRAMES - CLIP_CUT)
    frames = tuple(map(_render, photographs, placements))
    return SampleClip(frames, CLIP_FPS, CLIP_CUT, _melody(), placements)


def _first_scene(count: int) -> Floats:
    """Camera from the flag to the shuttle; the saucer dips below the face and climbs."""
    t = np.linspace(0, 1, count)
    eased = t + 0.05 * np.sin(2 * np.pi * t)
    background = _place(
        scale=1.0, middle=(168 + 158 * eased, 131 + 7 * np.sin(np.pi * t)), at=(160, 120)
    )
    figure = _place(
        scale=0.86 + 0.12 * t,
        angle=-16 + 30 * t,
        middle=FIGURE_MIDDLE,
        at=(18 + 262 * t - 10 * np.sin(2 * np.pi * t), 150 + 70 * np.sin(np.pi * t) - 55 * t),
    )
    return np.stack([background, figure], axis=1)


def _second_scene(count: int) -> Floats:
    """Camera closing in on the cat; the saucer crosses the other way."""
    t = np.linspace(0, 1, count)
    eased = t - 0.05 * np.sin(2 * np.pi * t)
    background = _place(
        scale=1.0 + 0.1 * t, middle=(270 - 90 * eased, 135 + 20 * eased), at=(160, 120)
    )
    figure = _place(
        scale=1.05 - 0.2 * t,
        angle=18 - 40 * t,
        middle=FIGURE_MIDDLE,
        at=(300 - 262 * t + 8 * np.sin(2 * np.pi * t), 70 + 105 * np.sin(1.3 * np.pi * t) ** 2),
    )
    return np.stack([background, figure], axis=1)


def _place(
    *,
    scale: Floats | float,
    angle: Floats | float = 0.0,
    middle: tuple[Floats | float, Floats | float],
    at: tuple[Floats | float, Floats | float],
) -> Floats:
    """Matrices (n, 3, 3) that turn by `angle` (degrees) and scale about `middle`, put `at`."""
    size, turn, x, y, to_x, to_y = np.broadcast_arrays(scale, np.deg2rad(angle), *middle, *at)
    cos, sin = size * np.cos(turn), size * np.sin(turn)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    rows = (
        (cos, -sin, to_x - cos * x + sin * y),
        (sin, cos, to_y - sin * x - cos * y),
        (zero, zero, one),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _render(photograph: Frame, placement: Floats) -> Frame:
    """One frame: the background, and the figure over it."""
    background, figure = (
        cv2.warpAffine(
            picture.astype(np.float32),
            matrix[:2],
            (CLIP_WIDTH, CLIP_HEIGHT),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for picture, matrix in zip((photograph, _figure()[0]), placement, strict=True)
    )
    alpha = np.clip(_figure_depth(placement[1], _frame_grid()) + 0.5, 0, 1)[..., None]
    mixed = alpha * figure + (1 - alpha) * background
    frame = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    frame.setflags(write=False)  # the clip is made once and given to everybody
    return frame


@cache
def _frame_grid() -> Floats:
    """The x and the y coordinate of every pixel of a frame, (2, H, W)."""
    y, x = np.mgrid[:CLIP_HEIGHT, :CLIP_WIDTH].astype(np.float64)
    return np.stack([x, y])


def _apply(matrix: npt.NDArray[np.floating], points: Floats | None = None) -> Floats:
    """Move points (2, H, W), by default those of the frame, by an affine matrix (3, 3)."""
    points = _frame_grid() if points is None else points
    moved: Floats = np.tensordot(matrix[:2, :2], points, axes=1) + matrix[:2, 2, None, None]
    return moved


def _figure_depth(placement: Floats, points: Floats) -> Floats:
    """How deep inside of the figure's outline points of a frame lie, in pixels; outside < 0."""
    x, y = _apply(np.linalg.inv(placement), points).astype(np.float32)
    depth = cv2.remap(
        _figure()[1], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-9.0
    )
    scale: float = np.sqrt(np.linalg.det(placement[:2, :2]))
    return depth.astype(np.float64) * scale


@cache
def _figure() -> tuple[Frame, npt.NDArray[np.float32]]:
    """The cup on its saucer: its picture, and how deep inside of its outline each pixel lies."""
    from skimage import data

    coffee: Frame = data.coffee()
    outline = np.zeros(coffee.shape[:2], np.uint8)
    cv2.ellipse(outline, (279, 221), (199, 166), 3, 0, 360, 1, -1)  # saucer
    cv2.ellipse(outline, (290, 113), (116, 94), 6, 0, 360, 1, -1)  # rim of the cup
    spoon = np.array([(398, 72), (407, 67), (421, 69), (423, 78), (408, 130), (398, 140)])
    cv2.fillPoly(outline, [spoon], 1)
    inside, outside = (
        cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for mask in (outline, 1 - outline)
    )
    small = (round(coffee.shape[1] * FIGURE_SHRINK), round(coffee.shape[0] * FIGURE_SHRINK))
    picture = cv2.resize(coffee, small, interpolation=cv2.INTER_AREA)
    depth = FIGURE_SHRINK * cv2.resize(inside - outside, small, interpolation=cv2.INTER_AREA)
    return picture.astype(np.uint8), depth.astype(np.float32)


def _melody() -> Sound:
    """Eight plucked notes for the first scene, eight bells in another key for the second."""
    # Semitones above the A of 220 Hz, over a bass note; partials as (multiple, loudness, decay/s).
    plucked = ((1.0, 1.0, 5.0), (2.0, 0.4, 8.0), (3.0, 0.15, 12.0))
    bells = ((1.0, 1.0, 4.0), (2.76, 0.5, 7.0), (5.4, 0.25, 12.0))
    scenes = (
        _tune((3, 7, 10, 15, 12, 10, 7, 10), -21, plucked, CLIP_CUT / CLIP_FPS),
        _tune((20, 24, 27, 22, 32, 27, 24, 20), -16, bells, (CLIP_FRAMES - CLIP_CUT) / CLIP_FPS),
    )
    samples = np.concatenate(scenes, axis=1)
    return Sound((0.7 * samples / np.abs(samples).max()).astype(np.float32), SOUND_RATE)


def _tune(
    notes: tuple[int, ...],
    bass: int,
    partials: tuple[tuple[float, float, float], ...],
    seconds: Fraction,
) -> Floats:
    """Play notes one after the other, from left to right, each ringing on: (2, samples)."""
    count = round(seconds * SOUND_RATE)
    t = np.arange(count) / SOUND_RATE
    # The bass breathes in and out, so that a scene begins and ends in silence.
    sound = np.tile(0.35 * _partial(t, bass, 1.0) * np.sin(np.pi * t / t[-1]), (2, 1))
    for k, note in enumerate(notes):
        start = k * count // len(notes)
        rest = t[: count - start]
        tone = sum(
            loudness * np.exp(-decay * rest) * _partial(rest, note, multiple)
            for multiple, loudness, decay in partials
        )
        side = 0.25 + 0.5 * k / (len(notes) - 1)
        attack = np.minimum(rest / 0.005, 1)
        sound[:, start:] += np.outer((np.sqrt(1 - side), np.sqrt(side)), attack * tone)
    faded: Floats = sound * np.minimum((t[-1] - t) / 0.03, 1)
    return faded


def _partial(t: Floats, note: int, multiple: float) -> Floats:
    wave: Floats = np.sin(2 * np.pi * 220 * 2 ** (note / 12) * multiple * t)
    return wave

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from sample_clip import clip

from workbench.images import Frame
from workbench.video.cuts import is_cut


def scene(seed: int, colour: tuple[int, int, int], width: int = 64) -> Frame:
    """Blobs of a few pixels in shades of a colour, 48 pixels high."""
    noise = np.random.default_rng(seed).uniform(0, 1, (48, width)).astype(np.float32)
    blobs = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 127, cv2.NORM_MINMAX)
    return (blobs[..., None] + np.array(colour) / 2).astype(np.uint8)


WARM, COLD, DARK = (250, 170, 60), (20, 60, 130), (30, 30, 30)


def test_a_change_of_scene_is_a_cut() -> None:
    for a, b in [(WARM, COLD), (COLD, WARM), (DARK, WARM)]:
        assert is_cut(scene(1, a), scene(2, b))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_sample_clip_is_cut_once(stride: int) -> None:
    film = clip()
    frames = film.frames[film.cut % stride :: stride]
    cuts = [stride * (i + 1) for i, pair in enumerate(pairwise(frames)) if is_cut(*pair)]
    assert cuts == [film.cut - film.cut % stride]


@pytest.mark.parametrize("speed", [1, 8, 32])
def test_a_pan_is_no_cut(speed: int) -> None:
    wall = scene(1, WARM, width=64 + 6 * speed)
    film = [wall[:, speed * i : speed * i + 64] for i in range(6)]
    assert not any(is_cut(*pair) for pair in pairwise(film))


def test_fine_detail_in_motion_is_no_cut() -> None:
    y, x = np.mgrid[:480, :640]
    board = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    assert not is_cut(board, 255 - board)


def test_flashes_fades_and_dissolves_are_no_cuts() -> None:
    picture = clip().frames[0].astype(np.float64)
    other = clip().frames[-1].astype(np.float64)
    films = {
        "flash": [np.minimum(picture * gain, 255) for gain in (1, 0.7, 1, 1.3, 1)],
        "fade": [picture * (1 - t) for t in np.linspace(0, 1, 11)],
        "fade in": [picture * t for t in np.linspace(0, 1, 11)],
        "dissolve": [picture * (1 - t) + other * t for t in np.linspace(0, 1, 13)],
    }
    for name, film in films.items():
        frames = [frame.astype(np.uint8) for frame in film]
        assert [i for i, pair in enumerate(pairwise(frames)) if is_cut(*pair)] == [], name


def test_a_plain_picture_that_stays_is_no_cut() -> None:
    for value in (0, 100, 255):
        plain = np.full((48, 64, 3), value, np.uint8)
        assert not is_cut(plain, plain)

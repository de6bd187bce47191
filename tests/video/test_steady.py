from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest

from workbench.errors import InputError
from workbench.images import Frame, from_array
from workbench.video.metrics import sharpness, warping_error
from workbench.video.steady import check_steady, steadied

SHAPE = (72, 96)


def wall(seed: int = 0, width: int = SHAPE[1]) -> Frame:
    """Blobs of a few pixels in many colours."""
    noise = np.random.default_rng(seed).uniform(0, 1, (SHAPE[0], width, 3)).astype(np.float32)
    blobs = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.asarray(255 * cv2.normalize(blobs, None, 0.1, 0.9, cv2.NORM_MINMAX), dtype=np.uint8)


def pan(count: int, speed: int) -> list[Frame]:
    whole = wall(width=SHAPE[1] + speed * count)
    return [whole[:, speed * i : speed * i + SHAPE[1]] for i in range(count)]


def painted(frames: list[Frame], flicker: float = 16.0) -> list[Frame]:
    """Other colours, and noise that is new in each frame."""
    random = np.random.default_rng(1)
    noisy = [255.0 - frame + random.normal(0, flicker, frame.shape) for frame in frames]
    return [np.asarray(np.clip(each, 0, 255), dtype=np.uint8) for each in noisy]


def grey(value: int) -> Frame:
    return np.full((*SHAPE, 3), value, np.uint8)


@pytest.mark.parametrize("speed", [0, 3])
def test_flicker_is_stilled_and_strokes_stay_sharp(speed: int) -> None:
    source = pan(8, speed)
    flickering = painted(source)
    still = list(steadied(zip(flickering, source, strict=True)))
    errors = [
        warping_error(map(from_array, film), map(from_array, source))
        for film in (still, flickering)
    ]
    assert errors[0] < 0.35 * errors[1]
    sharp = [sharpness(from_array(film[-1])) for film in (still, flickering)]
    assert sharp[0] > 0.8 * sharp[1]


def test_two_sweeps_leave_a_ninth_of_an_even_change() -> None:
    # (w - Laplacian) c = w d with even d has c = d; a sweep leaves 4 / (4 + w) of the rest.
    source = wall()
    _, second = steadied([(grey(40), source), (grey(130), source)])
    assert np.abs(second.astype(int) - (40 + 90 / 9)).max() <= 1


def test_where_the_source_changes_the_painting_stays_as_it_is() -> None:
    source = wall()
    changed = source.copy()
    changed[:, 48:] = 255 - changed[:, 48:]
    _, second = steadied([(grey(40), source), (grey(130), changed)])
    assert np.abs(second[:, 60:].astype(int) - 130).mean() < 12
    assert np.abs(second[:, :36].astype(int) - 50).mean() < 12


def test_what_comes_in_at_the_edge_is_as_painted() -> None:
    source = [np.asarray(frame // 8 + 100, dtype=np.uint8) for frame in pan(4, 4)]  # hardly differs
    film = list(steadied(zip([grey(value) for value in (40, 40, 40, 130)], source, strict=True)))
    last = film[-1].astype(int)
    assert np.abs(last[8:-8, -2:] - 130).mean() < 6
    assert np.abs(last[8:-8, 8:-8] - 50).mean() < 6


def test_a_stronger_hand_is_stiller_and_none_changes_nothing() -> None:
    source = [wall()] * 4
    flickering = painted(source)
    changes = []
    for strength in (0.0, 0.2, 1.0):
        film = list(steadied(zip(flickering, source, strict=True), strength))
        changes.append(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairwise(film)]))
        if strength == 0:
            assert all(np.array_equal(a, b) for a, b in zip(film, flickering, strict=True))
    assert changes[0] > 1.3 * changes[1] > 1.3 * changes[2]


def test_a_cut_begins_anew() -> None:
    colours = np.array([1.0, 0.4, 0.1])
    source = [
        np.asarray(wall(seed) * tint, dtype=np.uint8)
        for seed, tint in ((0, colours), (0, colours), (5, colours[::-1]))
    ]
    flickering = painted(source)
    film = list(steadied(zip(flickering, source, strict=True)))
    assert not np.array_equal(film[1], flickering[1])
    assert np.array_equal(film[2], flickering[2])


def test_a_film_goes_on_from_where_it_was_left() -> None:
    source = pan(5, 2)
    pairs = list(zip(painted(source), source, strict=True))
    whole = list(steadied(pairs))
    rest = list(steadied(pairs[3:], before=(whole[2], source[2])))
    assert all(np.array_equal(a, b) for a, b in zip(whole[3:], rest, strict=True))


@pytest.mark.parametrize("shape", [(2, 2), (6, 90), (34, 47)])
def test_films_of_any_size(shape: tuple[int, int]) -> None:
    small = np.random.default_rng(0).integers(0, 255, (3, *shape, 3), dtype=np.uint8)
    film = list(steadied(zip(small, small, strict=True)))
    assert [frame.shape for frame in film] == [(*shape, 3)] * 3
    assert {frame.dtype for frame in film} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_no_strength_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match=r"steady = .*such as 1"):
        check_steady(strength)

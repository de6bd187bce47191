from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workbench import forecast
from workbench.errors import InputError
from workbench.forecast import (
    MOST_EFFORT,
    Countdown,
    Expected,
    FilmOutline,
    Outline,
    Pace,
    SeriesOutline,
    about,
    expect,
    schedule,
    time_steps,
)
from workbench.problem import Problem
from workbench.settings import ClipSettings, Settings

SQUARE = (512, 512)
STEADY = Pace(((1000.0, 1.0),))  # a thousand pixels a second


def outline(settings: Settings, styles: Sequence[tuple[int, int]] = (SQUARE,)) -> Outline:
    return Outline((768, 1024), tuple(styles), settings)


# --- memory ------------------------------------------------------------------------------


# Megabytes on top of program and weights, measured with experiments/benchmarks/memory.py.
MEASURED = [
    (256, "lbfgs", "max", 350),
    (256, "adam", "max", 316),
    (512, "lbfgs", "max", 767),
    (512, "adam", "max", 673),
    (512, "adam", "average", 635),
    (768, "adam", "average", 1068),
    (1024, "adam", "max", 1896),
]


@pytest.mark.parametrize(("size", "optimizer", "pooling", "megabytes"), MEASURED)
def test_the_forecast_is_what_was_measured(
    size: int, optimizer: str, pooling: str, megabytes: float
) -> None:
    settings = Settings(size=size, optimizer=optimizer, pooling=pooling, steps=(22,))
    told = outline(settings).megabytes((size * 3 // 4, size))
    assert told == pytest.approx(megabytes, rel=0.15)


def test_what_makes_a_painting_take_more() -> None:
    shape, normal = (768, 1024), outline(Settings(size=1024), [(900, 900)])
    base = normal.megabytes(shape)
    assert replace(normal, precision=torch.bfloat16).megabytes(shape) < 0.8 * base
    shallow = normal.changed(content_layers=("relu2_1",), style_layers=("relu1_1",))
    assert shallow.megabytes(shape) < 0.9 * base
    assert normal.changed(backbone="vgg19", style_layers=("relu5_4",)).megabytes(shape) > base
    assert replace(normal, masks=2).megabytes(shape) > 1.2 * base
    assert replace(normal, styles=()).megabytes(shape) == base
    assert normal.changed(style_scale=3.0).megabytes(shape) > 2 * base


def test_tiles_are_as_large_as_memory_allows() -> None:
    large = outline(Settings(size=4096))
    shape = large.shape
    assert shape == (3072, 4096)
    needed = {side: large.megabytes(shape, side) for side in large.sides}
    assert sorted(needed.values(), reverse=True) == [*needed.values()]
    assert large.tile(shape, None) is None
    for side, megabytes in needed.items():
        assert large.tile(shape, megabytes) == side
    assert large.tile(shape, 1.0) == 256  # the least that there is
    assert large.changed(normalize_gradients=True).tile(shape, 1.0) is None
    assert large.least_megabytes() == needed[256]


# --- time --------------------------------------------------------------------------------


def test_a_pace_is_a_line_through_what_was_timed() -> None:
    pace = Pace(((100, 1.0), (200, 1.5), (400, 3.5)))
    assert pace.seconds(50) == 0.5  # by pixels, where all is small
    assert pace.seconds(150) == pytest.approx(1.25)
    assert pace.seconds(400) == 3.5
    assert pace.seconds(600) == pytest.approx(5.5)
    assert STEADY.seconds(64_000) == 64
    assert Pace(((100, 1.0), (200, 0.9))).seconds(1000) == 0.9  # noise makes nothing negative


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_steps_that_are_left_take_what_is_left(first: int, second: int) -> None:
    plan = outline(Settings(size=256, steps=(10, 20)))
    whole = plan.seconds(STEADY)
    assert whole == pytest.approx(forecast._BESIDE * (12 * 96 * 128 + 22 * 192 * 256) / 1000)
    early, late = sorted((first, second))
    assert plan.seconds(STEADY, after=late) <= plan.seconds(STEADY, after=early) <= whole
    assert plan.seconds(STEADY, after=30) == 0
    assert plan.seconds(STEADY, after=29) == pytest.approx(plan.step_seconds(STEADY, (192, 256)))


def test_tiles_take_longer_and_small_ones_longer_still() -> None:
    large = outline(Settings(size=1024))
    whole, *tiled = (large.step_seconds(STEADY, (768, 1024), side) for side in large.sides)
    assert whole == pytest.approx(forecast._BESIDE * 768 * 1024 / 1000)
    assert sorted([whole, *tiled]) == [whole, *tiled]
    assert tiled[0] == pytest.approx(forecast._IN_TILES * whole)  # one tile that is all of it
    least = large.megabytes((768, 1024), 256)
    assert large.seconds(STEADY, free=least) > large.seconds(STEADY)


def test_steps_are_timed_at_growing_sizes_until_a_second_is_spent(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [torch.nn.functional.interpolate(each, (300, 400)) for each in (photo, painting)]
    problem = Problem.of(pictures[0], pictures[1:], replace(tiny, size=512, steps=(1,)))
    clock: Iterator[float] = itertools.count(0, 0.01)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: next(clock))
    pixels = [96 * 128, 192 * 256, 384 * 512]
    quick = time_steps(problem)
    assert [each for each, _ in quick.timings] == pixels
    assert quick.seconds(pixels[-1]) == pytest.approx(0.01)
    clock = itertools.count(0, 0.2)
    slow = time_steps(problem)
    assert [each for each, _ in slow.timings] == pixels[:2]
    small = Problem.of(pictures[0], pictures[1:], replace(tiny, size=48, steps=(1,)))
    assert [each for each, _ in time_steps(small).timings] == [36 * 48]


# --- a budget ----------------------------------------------------------------------------


def test_coarse_scales_have_as_many_steps_within_limits() -> None:
    told = {1: (1, 1, 1), 12: (12, 12, 1), 30: (20, 20, 15), 55: (40, 40, 40), 135: (60, 60, 120)}
    assert {effort: schedule(effort, 512) for effort in told} == told
    assert schedule(55, 64) == (40,)
    assert schedule(55, 256) == (40, 40)
    assert schedule(55, 2048) == (40, 40, 40, 40, 40)


@given(st.floats(0.01, 30), st.sampled_from([64, 256, 384, 512, 1024]), st.sampled_from([1, 50]))
def test_a_budget_is_used_and_kept(minutes: float, size: int, speed: int) -> None:
    normal, pace = outline(Settings(size=size)), Pace(((1e4 * speed, 1.0),))

    def seconds(effort: int) -> float:
        return normal.changed(steps=schedule(effort, size)).seconds(pace)

    if seconds(1) > 60 * minutes:
        with pytest.raises(InputError, match="a step at each scale takes"):
            Expected(normal, pace).fitted(minutes)
        return
    settings = Expected(normal, pace).fitted(minutes).settings
    assert replace(settings, steps=(1,)) == replace(normal.settings, steps=(1,))
    chosen = [each for each in range(1, MOST_EFFORT + 1) if schedule(each, size) == settings.steps]
    assert seconds(chosen[0]) <= 60 * minutes
    assert chosen[-1] == MOST_EFFORT or seconds(chosen[-1] + 1) > 60 * minutes


def test_a_film_is_its_first_frame_and_later_ones() -> None:
    settings, film = Settings(size=256, steps=(10, 20)), ClipSettings(later_steps=7)
    one = outline(settings)
    first, step = one.seconds(STEADY), one.step_seconds(STEADY, one.shape)
    whole = FilmOutline(**vars(one), frames=5, film=film)
    assert whole.seconds(STEADY) == pytest.approx(first + 4 * 9 * step)
    assert whole.seconds(STEADY, after=0.25) == pytest.approx(0.75 * first + 4 * 9 * step)
    assert whole.seconds(STEADY, after=2.5) == pytest.approx(2.5 * 9 * step)
    assert whole.seconds(STEADY, after=5) == 0
    alone = replace(whole, film=film.changed(mode="per-frame"))
    assert alone.seconds(STEADY, after=1) == pytest.approx(4 * first)
    assert whole.megabytes(whole.shape) == one.megabytes(one.shape)
    told = Expected(whole, STEADY).fitted(30)
    assert told.seconds(STEADY) <= 1800
    assert told.film.later_steps == round(told.settings.steps[-1] / 2)


def test_a_series_is_its_paintings_one_after_the_other() -> None:
    small, large = (outline(Settings(size=size, steps=(10,))) for size in (128, 256))
    one, other = small.seconds(STEADY), large.seconds(STEADY)
    series = SeriesOutline(**vars(large), each=(small, large, small))
    assert series.seconds(STEADY) == pytest.approx(2 * one + other)
    assert series.seconds(STEADY, after=1.25) == pytest.approx(0.75 * other + one)
    assert series.seconds(STEADY, after=3) == 0
    assert series.changed(size=128).seconds(STEADY) == pytest.approx(3 * one)
    assert series.megabytes(series.shape) == large.megabytes(large.shape)


def test_what_was_just_timed_is_not_timed_again(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, paces = 1000.0, [Pace(((1.0, seconds),)) for seconds in (1.0, 2.0, 3.0)]
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now)
    monkeypatch.setattr(forecast, "time_steps", lambda problem: paces.pop(0))

    def seconds(settings: Settings) -> float:
        problem = Problem.of(photo, [painting], settings)
        return expect(problem, problem.outline).pace.seconds(1.0)

    assert [seconds(tiny), seconds(tiny.changed(steps=(3,)))] == [1.0, 1.0]
    assert seconds(tiny.changed(style_layers=("relu1_1",))) == 2.0
    now += forecast._KNOWN
    assert seconds(tiny.changed(style_layers=("relu1_1",))) == 3.0


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_no_time_is_refused(minutes: float) -> None:
    with pytest.raises(InputError, match=r"minutes = .*: give a number above 0"):
        Expected(outline(Settings()), STEADY).fitted(minutes)


def test_a_countdown_is_set_right_by_the_clock() -> None:
    def left(step: int) -> float:
        return 100.0 - step

    assert Countdown(left)(0, 50.0) == 100
    as_forecast, slow, resumed = Countdown(left), Countdown(left), Countdown(left)
    for step in range(51):
        told = as_forecast(step, 7.0 + step), slow(step, 7.0 + 2 * step)
    assert told[0] == pytest.approx(50)
    assert told[1] == pytest.approx(100, rel=0.05)
    assert resumed(90, 0.0) == 10  # what came before does not count
    assert resumed(100, 30.0) == 0


# --- in words ----------------------------------------------------------------------------


def test_what_is_said() -> None:
    fast, normal = Pace(((1e6, 1.0),)), outline(Settings(size=512, steps=(60, 120)))
    assert Expected(normal, fast).sentence() == (
        "About 31 s on this machine, 0.7 GB of memory; size 384 would take 18 s."
    )
    assert Expected(normal, fast).sentence(after=100) == (
        "About 18 s on this machine, 0.7 GB of memory."
    )
    assert Expected(normal.changed(size=128), fast).sentence() == (
        "About 2 s on this machine, 0.3 GB of memory."
    )
    assert " GB of memory in tiles of 1024 px; size 1024 would take 2 min." in (
        Expected(normal.changed(size=4096), fast, free=8000.0).sentence()
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.2, "1 s"), (89.9, "90 s"), (90, "2 min"), (5000, "83 min"), (5400, "1.5 h")],
)
def test_a_time_as_one_says_it(seconds: float, words: str) -> None:
    assert about(seconds) == words

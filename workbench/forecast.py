"""What a painting takes, known before it begins: its scales, time and memory.

Functions of sizes, settings and a few timings; only `expect` and `time_steps` look at the clock.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
import torch

from workbench.errors import InputError
from workbench.images import fit
from workbench.settings import SIZES, ClipSettings, Settings
from workbench.tiles import reach, tiles
from workbench.weights import BACKBONES, block_of

if TYPE_CHECKING:
    from workbench.problem import Problem

Shape = tuple[int, int]  # (H, W)
Whole = TypeVar("Whole", bound="Outline")

MIN_COARSE_SIDE = 64  # pixels; a coarse scale with a shorter side is left out
TILES = (1024, 768, 512, 384, 256)  # px; sides of tiles of what memory cannot hold as a whole
FEW_STEPS = 20  # of the last scale: with fewer, losses are several times as high
COARSEST = 96  # px; longest side that a budget's schedule begins at
MOST_EFFORT = 315  # of a `schedule`: 300 steps at full size; more gain next to nothing
HISTORY = 20  # pairs that L-BFGS remembers; more gains nothing
LEAST_HISTORY = 3  # pairs of a large picture
_PAIRS_MEGABYTES = 450  # for all of them

# Of the measurements in experiments/benchmarks/memory.py, on a CPU.
# Megabytes, whatever the size: compiled kernels, filters in their order.
_FIXED = {torch.float32: 255.0, torch.bfloat16: 205.0}
_AT_WORK = 2.75  # times the largest activation: gradients and what a convolution reorders
_WIDTHS = (64, 128, 256, 512, 512)  # channels of VGG's blocks
# Of those in experiments/benchmarks/forecast.py.
_BESIDE = 1.12  # times loss and gradient: the optimiser, and what is kept of a step
_BEGINNING = 2  # steps that targets and the first look at a scale take as long as
_IN_TILES = 1.45  # times a pixel seen as a whole: tiles are looked at twice
_LONG = 20.0  # seconds, from which on a smaller size is offered
_TRUSTED = 3.0  # seconds for which a forecast stands before the clock has a say
_OF_LATER = 0.5  # times the steps of the last scale: those of a film's later frames
_COARSE = (20, 60)  # steps of coarse scales, at least and at most
_TIMED_SECONDS = 1.0  # that timing is to take, or little more
_KNOWN = 60.0  # seconds for which it is not done again
_newest: list[tuple[Outline, float, Pace]] = []  # what was timed, when, and its pace


# --- scales ------------------------------------------------------------------------------


def scales(shape: Shape, settings: Settings) -> list[tuple[Shape, int]]:
    """What `optimize` works through, coarse to fine: `((H, W), steps)` of each scale.

    `shape` is `(H, W)` of the content picture.
    """
    plan = []
    for halvings, steps in enumerate(reversed(settings.steps)):
        fitted = fit(shape, round(settings.size / 2**halvings))
        if halvings == 0 or min(fitted) >= MIN_COARSE_SIDE:
            plan.append((fitted, steps))
    return plan[::-1]


def history(shape: Shape) -> int:
    """Pairs that L-BFGS remembers of a picture `(H, W)`: fewer of one beyond a megapixel or so.

    By its size alone, so that the picture does not depend on what memory happens to be free.
    """
    fits = int(_PAIRS_MEGABYTES * 2**20 / (2 * 12 * shape[0] * shape[1]))
    return min(HISTORY, max(LEAST_HISTORY, fits))


# --- memory and time ---------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """How long steps of some sizes take, from which follows what others take."""

    timings: tuple[tuple[float, float], ...]  # pixels and seconds, the smallest first

    def seconds(self, pixels: float) -> float:
        """Of a step at so many pixels: on the line between timings, or through the last two.

        One timing alone stands for all, by pixels.
        """
        (most, slowest) = self.timings[-1]
        if len(self.timings) == 1 or pixels < self.timings[0][0]:
            return pixels * self.timings[0][1] / self.timings[0][0]
        if pixels <= most:
            sizes, seconds = zip(*self.timings, strict=True)
            return float(np.interp(pixels, sizes, seconds))
        (fewer, faster) = self.timings[-2]
        return slowest + (pixels - most) * max(0.0, slowest - faster) / (most - fewer)


@dataclass(frozen=True)
class Outline:
    """All of a painting that its time and memory depend on."""

    content: Shape  # of the photograph
    styles: tuple[Shape, ...]
    settings: Settings
    masks: int = 0  # regions that have a style of their own
    precision: torch.dtype = torch.float32  # of the activations

    def changed(self, **changes: Any) -> Self:
        """The same with some settings changed."""
        return replace(self, settings=self.settings.changed(**changes))

    def scheduled(self, effort: int) -> Self:
        """The same with the steps of a `schedule`."""
        return self.changed(steps=schedule(effort, self.settings.size))

    @property
    def scales(self) -> list[tuple[Shape, int]]:
        """What is worked through, from coarse to fine; see the function of that name."""
        return scales(self.content, self.settings)

    @property
    def shape(self) -> Shape:
        """Of the result."""
        return self.scales[-1][0]

    @property
    def seen(self) -> tuple[str, ...]:
        """Layers down to the deepest that is looked at."""
        known = BACKBONES[self.settings.backbone].layers
        return known[: max(map(known.index, self.settings.layers)) + 1]

    @property
    def grid(self) -> int:
        """Pixels of a side of what becomes one value of the deepest layer."""
        return int(2 ** (block_of(self.seen[-1]) - 1))

    def style_shape(self, style: Shape, size: int) -> Shape:
        """`(H, W)` that a style picture is seen at beside pictures whose longest side is `size`.

        The shorter side is kept large enough for the deepest layer to see something.
        """
        smallest = math.ceil(self.grid * max(style) / min(style))
        return fit(style, max(math.ceil(self.settings.style_scale * size), smallest))

    @property
    def sides(self) -> tuple[int | None, ...]:
        """Of tiles that a picture may be seen in, the fastest first; None: as a whole."""
        # A gradient can be brought to a length only by who sees all of it.
        return (None,) if self.settings.normalize_gradients else (None, *TILES)

    def tile(self, shape: Shape, free: float | None) -> int | None:
        """Side in pixels of the tiles that pictures `(H, W)` are seen in; None: as a whole.

        The largest that fits into `free` megabytes.
        """
        for side in self.sides:
            if free is None or self.megabytes(shape, side) <= free:
                break
        return side

    def memory(self, free: float | None) -> str:
        """In words, what the result takes at most where `free` megabytes are there."""
        tile = self.tile(self.shape, free)
        told = f"{self.megabytes(self.shape, tile) / 1024:.1f} GB of memory"
        return f"{told} in tiles of {tile} px" if tile else told

    def least_megabytes(self) -> float:
        """What the result takes in whichever tiles take least."""
        return min(self.megabytes(self.shape, side) for side in self.sides)

    def megabytes(self, shape: Shape, side: int | None = None) -> float:
        """What steps at pictures `(H, W)` take, on top of the program and its weights.

        With `side`, they are seen in tiles of so many pixels. Within 20% of what was measured on
        a CPU from 256 to 1024 pixels.
        """
        settings, each, layers = self.settings, self.precision.itemsize, self.seen
        values: dict[str, float] = {  # layer -> activations for each pixel of the picture
            layer: _WIDTHS[block_of(layer) - 1] / 4 ** (block_of(layer) - 1) for layer in layers
        }
        widest = max(values.values())
        seen = each * (sum(values.values()) + _AT_WORK * widest)  # bytes a pixel
        for block in range(2, block_of(layers[-1]) + 1):  # what pooling leaves
            seen += _WIDTHS[block - 2] / 4 ** (block - 1) * (each + 8 * (settings.pooling == "max"))
        matched = sum(values[layer] for layer in settings.style_layers)
        if self.precision != torch.float32:
            seen += 4 * max(values[layer] for layer in settings.style_layers)
        seen += each * self.masks * matched
        pairs = min(history(shape), settings.steps[-1])
        held = 12.0 * (8 + (2 * pairs if settings.optimizer == "lbfgs" else 2))
        if side is not None:  # what the whole is drawn to; gradients, and what a stop would keep
            held += each * sum(values[layer] for layer in settings.content_layers) + 36

        def at_once(picture: Shape) -> int:
            pixels = picture[0] * picture[1]
            return pixels if side is None else min(pixels, (side + 2 * reach(layers)) ** 2)

        painting = seen * at_once(shape) + held * shape[0] * shape[1]
        styles = (at_once(self.style_shape(style, max(shape))) for style in self.styles)
        of_styles = each * (matched + 3 * widest) * max(styles, default=0)
        return _FIXED[self.precision] + max(painting, of_styles) / 2**20

    def checkpoint_megabytes(self) -> float:
        """What the optimiser needs to go on at full size: pictures in float32."""
        adam = self.settings.optimizer == "adam"
        return (4 + (0 if adam else 2 * history(self.shape))) * 12 * math.prod(self.shape) / 2**20

    def seconds(self, pace: Pace, *, after: float = 0, free: float | None = None) -> float:
        """How long the steps take that come after so many, where `free` megabytes are there."""
        total, done = 0.0, 0
        for shape, steps in self.scales:
            left = max(0, done + steps - max(after, done))
            left += _BEGINNING if after <= done else 0
            total += left * self.step_seconds(pace, shape, self.tile(shape, free))
            done += steps
        return total

    def step_seconds(self, pace: Pace, shape: Shape, side: int | None = None) -> float:
        """How long a step at pictures `(H, W)` takes, seen in tiles of `side` or as a whole."""
        if side is None:
            return _BESIDE * pace.seconds(math.prod(shape))
        outer = [tile.outer for tile in tiles(shape, side, reach(self.seen), self.grid)]
        areas = [math.prod(end - start for start, end in spans) for spans in outer]
        return _BESIDE * _IN_TILES * sum(map(pace.seconds, areas))


@dataclass(frozen=True, kw_only=True)
class FilmOutline(Outline):
    """All of a film that its time and memory depend on; `content` is the shape of its frames."""

    frames: int
    film: ClipSettings

    def seconds(self, pace: Pace, *, after: float = 0, free: float | None = None) -> float:
        """How long the frames take that come after so many: the first afresh, later ones less."""
        first, shape = super().seconds(pace, free=free), self.shape
        steps: float = self.film.later_steps
        if self.film.mode == "keyframes":
            steps = self.film.mean_steps
        later = (steps + _BEGINNING) * self.step_seconds(pace, shape, self.tile(shape, free))
        if self.film.mode == "per-frame":
            later = first
        return first * max(0, 1 - after) + later * max(0, self.frames - max(1, after))

    def scheduled(self, effort: int) -> Self:
        """The same with the steps of a `schedule`, later frames with some of the last scale's."""
        outline = super().scheduled(effort)
        later = max(1, round(_OF_LATER * outline.settings.steps[-1]))
        return replace(outline, film=self.film.changed(later_steps=later))


@dataclass(frozen=True, kw_only=True)
class SeriesOutline(Outline):
    """All that several paintings depend on; the rest is that of one that takes the most memory."""

    each: tuple[Outline, ...]

    def changed(self, **changes: Any) -> Self:
        """The same with some settings of each changed."""
        each = tuple(outline.changed(**changes) for outline in self.each)
        return replace(super().changed(**changes), each=each)

    def seconds(self, pace: Pace, *, after: float = 0, free: float | None = None) -> float:
        """How long the paintings take that come after so many."""
        times = {each: each.seconds(pace, free=free) for each in {*self.each}}  # of most, alike
        shares = (max(0.0, min(1.0, number - after)) for number in range(1, len(self.each) + 1))
        return sum(share * times[each] for share, each in zip(shares, self.each, strict=True))


def time_steps(problem: Problem) -> Pace:
    """Time steps of this very problem at growing sizes, for a second or so in all.

    Each is the best of three, so that a busy moment does not count.
    """
    torch.optim.Adam([torch.zeros(1)])  # the first one in a process loads modules for a second
    sizes = [problem.settings.size // 2**halvings for halvings in (4, 3, 2, 1, 0)]
    shapes = [fit(problem.outline.content, size) for size in sizes]
    able = [each for each in shapes if min(each) >= MIN_COARSE_SIDE]
    timings: list[tuple[float, float]] = []
    spent = 0.0
    for shape in able or shapes[-1:]:
        pixels, times = math.prod(shape), list[float]()
        if len(timings) > 1 and spent + 3 * Pace((*timings,)).seconds(pixels) > _TIMED_SECONDS:
            break
        evaluate = problem.at(shape)
        picture = problem.pixels(problem.content, shape).requires_grad_()
        for _ in range(3):
            began = time.perf_counter()
            total, _ = evaluate(picture)
            total.backward()
            total.item()  # waits for the device
            times.append(time.perf_counter() - began)
        spent += sum(times)
        timings.append((pixels, min(times)))
    return Pace((*timings,))


# --- ahead of a painting -----------------------------------------------------------------


def schedule(effort: int, size: int) -> tuple[int, ...]:
    """Steps at each scale for pictures of a size, the best found for what they cost.

    From 35 on as many at every scale (docs/figures.md, "Drafts"): coarse ones cost next to nothing,
    and beyond `_COARSE[1]` they change no loss, but lose content. Fewer than `_COARSE[0]` shake a
    picture up and no more.
    """
    least, most = _COARSE
    last = max(1, effort - 15)
    coarse = min(effort, max(least, min(most, last)))
    return (*[coarse] * max(0, int(math.log2(size / COARSEST))), last)


def check_minutes(minutes: float) -> None:
    """Refuse what is no time to paint in."""
    if not 0 < minutes < math.inf:
        raise InputError(f"minutes = {minutes:g}: give a number above 0.")


@dataclass
class Countdown:
    """What is left of some work, by a forecast that is set right by the clock."""

    left: Callable[[float], float]  # the forecast: seconds behind so much of it
    _began: tuple[float, float] | None = None  # when, and what was left then

    def __call__(self, done: float, now: float) -> float:
        """Seconds that are left at a time behind so much of it."""
        ahead = self.left(done)
        self._began = self._began or (now, ahead)
        spent, expected = now - self._began[0], self._began[1] - ahead
        # The first steps, which are the slowest, do not turn it over.
        return ahead * (spent + _TRUSTED) / (expected + _TRUSTED)


@dataclass(frozen=True)
class Expected(Generic[Whole]):
    """What is to be painted, how fast that goes here, and the memory that there is for it."""

    outline: Whole
    pace: Pace
    free: float | None = None  # megabytes; None: nobody knows

    def seconds(self, after: float = 0) -> float:
        """How long all takes that comes behind so many steps, frames or pictures."""
        return self.outline.seconds(self.pace, after=after, free=self.free)

    def fitted(self, minutes: float) -> Whole:
        """The outline with the steps that give the best picture within so many minutes.

        An `InputError` says that they are too few for a step at each scale.
        """

        def seconds(effort: int) -> float:
            return replace(self, outline=self.outline.scheduled(effort)).seconds()

        check_minutes(minutes)
        effort = bisect.bisect(range(1, MOST_EFFORT + 1), 60 * minutes, key=seconds)
        if effort == 0:
            raise InputError(
                f"minutes = {minutes:g}: a step at each scale takes {about(seconds(1))}; give more"
                " time, or a smaller size."
            )
        return self.outline.scheduled(effort)

    def sentence(self, after: float = 0) -> str:
        """Say what is to come behind so many steps, frames or pictures."""
        seconds = self.seconds(after)
        told = f"About {about(seconds)} on this machine, {self.outline.memory(self.free)}"
        smaller = [each for each in SIZES if each <= 0.8 * self.outline.settings.size]
        if seconds > _LONG and smaller and not after:
            other = replace(self, outline=self.outline.changed(size=smaller[-1]))
            told += f"; size {smaller[-1]} would take {about(other.seconds())}"
        return f"{told}."

    def say(self, after: float = 0) -> Countdown:
        """Print that sentence; returns what counts the time down."""
        print(self.sentence(after), flush=True)
        return Countdown(self.seconds)


def expect(problem: Problem, outline: Whole) -> Expected[Whole]:
    """Look ahead to an outline of a problem, or of many like it, by timing steps of this one.

    Refused is what takes more memory than there is. What was timed within the last minute is not
    timed again.
    """
    problem.check_memory()
    timed, now = problem.outline.changed(steps=(1,)), time.monotonic()
    if not any(each == timed and now - when < _KNOWN for each, when, _ in _newest):
        _newest[:] = [(timed, now, time_steps(problem))]
    return Expected(outline, _newest[0][2], problem.free())


def about(seconds: float) -> str:
    """A time as one says it: "50 s", "2 min", "1.5 h"."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"

"""Settings + targets -> a stream of Iterates, coarse to fine."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workbench.checkpoints import Checkpoints, Moment
from workbench.devices import ran_out_of_memory
from workbench.errors import MemoryExceeded, OptimizationError
from workbench.forecast import history
from workbench.images import check_image, shape_of
from workbench.losses import Losses, TemporalTarget, to_losses
from workbench.problem import Evaluate, Problem, kept_targets
from workbench.settings import Settings
from workbench.tiles import in_smaller_tiles

WARMUP_STEPS = 20  # of Adam before L-BFGS at the first scale, where it would explode at once
FIRST_STEP = 0.25  # grey levels (root mean square) of the first step of L-BFGS
ENLARGED_FIRST_STEP = 3.0  # likewise, of a picture that was enlarged, which lacks all that is fine
EXPLOSION = 2.0  # times the lowest loss so far: a step of L-BFGS beyond that is taken back
MAX_EXPLOSIONS = 8  # in a row, each of which halves the steps
CALM_STEPS = 10  # without an explosion, after which steps have their full length again


@dataclass(frozen=True, eq=False)
class Iterate:
    """A picture on its way, and what it measures."""

    step: int  # steps taken so far over all scales; 0 is the start picture
    steps: int  # that the whole run will take
    size: int  # longest side of this picture in pixels; grows from scale to scale
    image: Tensor  # (1, 3, H, W), float32, sRGB in [0, 1]; a copy that may be kept
    losses: Losses  # of exactly this picture, at the precision of the run


def optimize(
    content: Tensor,
    styles: Sequence[Tensor],
    settings: Settings,
    *,
    start: Tensor | None = None,
    masks: Sequence[Tensor] = (),
    temporal: Sequence[TemporalTarget] = (),
    checkpoints: Checkpoints | None = None,
) -> Iterator[Iterate]:
    """Paint a content picture in the style of others, step by step.

    Gatys, Ecker and Bethge 2015 (arXiv 1508.06576), minimised coarse to fine. Differs from the
    paper in that the gamut is part of the problem: the network sees the pixels clipped to 0..255
    while the gradient passes straight through, so the picture that is saved is the picture that was
    optimised.

    What a picture is drawn to is computed once for each size and kept as long as the picture
    itself, so hand in the same tensor again in a series of calls. When torch writes into it, it is
    looked at anew; that NumPy does, through an array that shares its memory, is not noticed.

    Parameters
    ----------
    content
        Photograph, `(1, 3, H, W)`, sRGB in [0, 1]; resized to `settings.size`.
    styles
        One or more style pictures, likewise, of any shape.
    start
        Picture to start from, likewise; None: as `settings.init` says. It is taken to be near the
        goal already (an earlier result, the frame before), so that L-BFGS begins without the steps
        of Adam that would shake it up.
    masks
        One for each style, `(1, 1, H, W)` in [0, 1]: where in the picture that style is painted.
        Stretched to the picture's shape. Where masks overlap, their styles share the place; where
        there is none, no style is painted and the photograph stays. None given: every style is
        everywhere.
    temporal
        Earlier frames of a film that the picture is to agree with.
    checkpoints
        Where what a stopped run needs to go on is kept, and found again.

    Yields
    ------
    Iterate
        The start picture as step 0, then one after every step. Leave the loop to stop; closing the
        generator frees its memory. A run that goes on begins with the picture that it was stopped
        at.

    Raises
    ------
    InputError
        If a picture is too small or not a picture, or a setting names an unknown thing, or there is
        not enough memory; the message says what would fit.
    OptimizationError
        If the loss keeps exploding; the last good iterate comes with it.
    MemoryExceeded
        If memory runs out all the same, likewise.
    """
    painted = paint(
        content,
        styles,
        settings,
        start=start,
        masks=masks,
        temporal=temporal,
        checkpoints=checkpoints,
    )
    with contextlib.closing(painted):
        for iterate, _ in painted:
            yield iterate


def paint(
    content: Tensor,
    styles: Sequence[Tensor],
    settings: Settings,
    *,
    start: Tensor | None = None,
    masks: Sequence[Tensor] = (),
    temporal: Sequence[TemporalTarget] = (),
    checkpoints: Checkpoints | None = None,
    begin: Moment | None = None,
    before: Settings | None = None,
    glimpse: Callable[[Tensor], object] | None = None,
) -> Generator[tuple[Iterate, Moment]]:
    """As `optimize`, with the moment that each iterate is of.

    Given a moment to `begin` with, the painting goes on from there; `before` is what it was painted
    with, if the settings have changed. `glimpse` is handed the picture of each step as soon as it
    is taken, a look at it before its losses are known; a step that explodes is taken anew.
    """
    last: Iterate | None = None
    try:
        problem = Problem.of(content, styles, settings, masks, temporal)
        painted = _paint(problem, start, checkpoints, begin, before, glimpse)
        del problem
        with contextlib.closing(painted):
            for last, moment in painted:
                yield last, moment
                del moment
        return
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
    kept_targets.clear()
    # Out here, because that error holds on to all the memory.
    adam = ", or optimizer adam" if settings.optimizer == "lbfgs" else ""
    raise MemoryExceeded(
        f"memory ran out after {last.step if last else 0} steps towards size {settings.size}; use"
        f" a smaller size{adam}, or close other programs.",
        last,
    )


def stylize(content: Tensor, styles: Sequence[Tensor], settings: Settings) -> Tensor:
    """Run `optimize` to its end; returns the last picture, `(1, 3, H, W)`, sRGB in [0, 1]."""
    for iterate in optimize(content, styles, settings):  # noqa: B007
        pass
    return iterate.image


def measure(
    image: Tensor,
    content: Tensor,
    styles: Sequence[Tensor],
    settings: Settings,
    *,
    masks: Sequence[Tensor] = (),
) -> Losses:
    """Losses of any picture under the settings, in float32, with no step taken.

    The referee for every comparison: what `optimize` minimises, whoever made the picture. The
    `image` is `(1, 3, H, W)`, sRGB in [0, 1], and resized to `settings.size` if it has another
    size; all else is as for `optimize`.
    """
    check_image(image, "image")
    problem = Problem.of(content, styles, replace(settings, precision="float32"), masks)
    shape, _ = problem.scales[-1]
    # On CUDA, convolutions in float32 are TF32 otherwise, with 10 bits of mantissa.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        evaluate = problem.at(shape)
        pixels = problem.pixels(image, shape).clamp(0, settings.white)
        return to_losses(in_smaller_tiles(lambda: evaluate(pixels), evaluate.sides)[1])


def _paint(
    problem: Problem,
    start: Tensor | None,
    checkpoints: Checkpoints | None,
    begin: Moment | None,
    before: Settings | None,
    glimpse: Callable[[Tensor], object] | None,
) -> Generator[tuple[Iterate, Moment]]:
    """As `paint`, but memory that runs out is torch's error."""
    problem.check_memory()
    if checkpoints is not None:
        begin = checkpoints.find(problem.identity(start))
    moments = _moments(problem, start, begin, before, glimpse)
    del begin
    if checkpoints is not None:
        moments = checkpoints.keep(moments)
    with contextlib.closing(moments):
        for moment in moments:
            yield _iterate(problem, moment), moment


def _moments(
    problem: Problem,
    start: Tensor | None,
    begin: Moment | None,
    before: Settings | None,
    glimpse: Callable[[Tensor], object] | None,
) -> Generator[Moment]:
    """Every moment from the start picture, or from `begin`, to the end of the last scale."""
    # A picture that comes from a coarser scale is near enough for L-BFGS to start at once.
    near = start is not None or problem.settings.init not in ("content", "random")
    warmup, end = 0 if near else WARMUP_STEPS, 0
    if begin is not None:
        yield begin
        warmup = 0 if _is_of_lbfgs(begin.optimizer) else warmup
    for number, (shape, steps) in enumerate(problem.scales):
        end += steps
        if problem.settings.optimizer == "adam":
            warmup = end
        elif number > 0:
            warmup = 0
        if begin is not None and begin.step >= end:
            continue
        evaluate = problem.at(shape, None if begin is None else begin.tile)
        if begin is None:
            picture = problem.start() if start is None else start
            check_image(picture, "start")
            begin = _begin(problem, evaluate, problem.pixels(picture.detach(), shape))
            yield begin
        elif shape_of(begin.pixels) != shape:
            pixels = problem.pixels(problem.picture(begin.pixels), shape)
            begin = _begin(problem, evaluate, pixels, begin.step)
            del pixels
        elif before is not None:
            begin = _moved(problem, evaluate, begin, before)
        before = None
        enlarged = number > 0 and begin.step == end - steps
        moments = _descend(
            problem,
            evaluate,
            begin,
            end=end,
            warmup=warmup,
            first_step=ENLARGED_FIRST_STEP if enlarged else FIRST_STEP,
            glimpse=glimpse,
        )
        for begin in moments:  # which is not held any longer than the others
            yield begin


def _begin(problem: Problem, evaluate: Evaluate, pixels: Tensor, step: int = 0) -> Moment:
    """The moment before the first step at a scale."""
    # L-BFGS flattens its parameters, so they must lie in memory as they are indexed.
    pixels = pixels.contiguous().requires_grad_()
    losses, gradient = _loss_and_gradient(pixels, evaluate, problem.settings.white)
    tile = evaluate.sides[0]
    moment = Moment(step, pixels.detach(), gradient, losses, lowest=losses.total, tile=tile)
    if not math.isfinite(losses.total):
        raise OptimizationError(
            "the loss of the start picture is not a finite number; lower the weights.",
            _iterate(problem, moment),
        )
    return moment


def _moved(problem: Problem, evaluate: Evaluate, begin: Moment, before: Settings) -> Moment:
    """A moment where the loss has become another; what the optimiser has learnt stays.

    Its curvature is taken to have grown as the gradient has, so that the gradient is handed to it
    in units that grow as much.
    """
    old, white = begin.grad.to(problem.device), problem.settings.white / before.white
    now = _begin(problem, evaluate, begin.pixels.to(problem.device) * white, begin.step)
    unit = begin.unit * float(now.grad.norm() / old.norm())
    if not begin.optimizer or white != 1 or not (math.isfinite(unit) and unit > 0):
        return now
    memory = _memory(begin.optimizer)
    if _is_of_lbfgs(memory):
        # L-BFGS will take the change of the gradient for what its last step has done.
        state = memory["state"][0]
        then = state["prev_flat_grad"]
        state["prev_flat_grad"] = then + (now.grad / unit - old / begin.unit).flatten().to(then)
    return replace(now, optimizer=memory, unit=unit, rate=begin.rate, calm=begin.calm)


def _descend(
    problem: Problem,
    evaluate: Evaluate,
    good: Moment,
    *,
    end: int,
    warmup: int,
    first_step: float,
    glimpse: Callable[[Tensor], object] | None,
) -> Generator[Moment]:
    """Minimise at one scale from a moment up to the step `end`, up to step `warmup` with Adam.

    Where L-BFGS begins at that moment, `first_step` is the length of its first step.
    """
    begins_at = good.step
    settings = problem.settings
    pixels = good.pixels.to(problem.device, copy=True).requires_grad_()
    optimizer: torch.optim.Optimizer | None = None
    if good.optimizer and _is_of_lbfgs(good.optimizer) == (good.step >= warmup):
        pixels.grad = good.grad.to(problem.device)
        optimizer = _optimizer(pixels, settings, good.rate, FIRST_STEP, adam=good.step < warmup)
        optimizer.load_state_dict(_memory(good.optimizer))

    while good.step < end:
        adam, lowest, rate, calm = good.step < warmup, good.lowest, good.rate, good.calm + 1
        pixels.grad = good.grad.to(problem.device)
        if good.unit != 1:
            pixels.grad = pixels.grad / good.unit
        if optimizer is None or good.step == warmup:
            length = first_step if good.step == begins_at else FIRST_STEP
            optimizer = _optimizer(pixels, settings, rate, length, adam=adam)
            lowest = good.losses.total
        else:
            optimizer.param_groups[0]["lr"] = rate * (settings.learning_rate if adam else 1.0)
        # Loss and gradient at `pixels` are known; the optimiser only has to take its step.
        _step(optimizer, pixels, good.losses.total)
        if glimpse:
            glimpse(problem.picture(pixels.detach()))
        losses, gradient = _loss_and_gradient(pixels, evaluate, settings.white)
        # Adam climbs out of a perfect start, and may do so.
        if not math.isfinite(losses.total) or (not adam and losses.total > EXPLOSION * lowest):
            with torch.no_grad():
                pixels.copy_(good.pixels)
            optimizer = None
            good = replace(good, rate=rate / 2, calm=0)
            if good.rate < 0.5**MAX_EXPLOSIONS:
                raise OptimizationError(
                    f"the loss exploded {MAX_EXPLOSIONS + 1} times at {max(pixels.shape[-2:])} px,"
                    f" the last time at step {good.step + 1}; lower style_weight, or use"
                    " optimizer adam.",
                    _iterate(problem, good),
                )
            continue
        good = Moment(
            step=good.step + 1,
            pixels=pixels.detach().clone(),
            grad=gradient,
            losses=losses,
            lowest=min(lowest, losses.total),
            rate=1.0 if calm == CALM_STEPS else rate,
            calm=calm,
            unit=good.unit,
            tile=evaluate.sides[0],
            optimizer=_memory(optimizer.state_dict()),
        )
        yield good


def _iterate(problem: Problem, moment: Moment) -> Iterate:
    steps, size = sum(steps for _, steps in problem.scales), max(moment.pixels.shape[-2:])
    return Iterate(moment.step, steps, size, problem.picture(moment.pixels), moment.losses)


def _loss_and_gradient(pixels: Tensor, evaluate: Evaluate, white: float) -> tuple[Losses, Tensor]:
    """The losses at the pixels, and the gradient; where memory runs out, in smaller tiles."""
    pixels.grad = None

    def look() -> tuple[Losses, Tensor]:
        # Straight-through clipping: y = clamp(x), dy/dx = 1, so that a pixel at the edge of
        # the gamut can come back. Costs nothing.
        clipped = pixels.detach().clamp(0, white).requires_grad_()
        total, terms = evaluate(clipped)
        total.backward()
        assert clipped.grad is not None
        return to_losses(terms), clipped.grad

    return in_smaller_tiles(look, evaluate.sides)


def _optimizer(
    pixels: Tensor, settings: Settings, rate: float, first_step: float, *, adam: bool
) -> torch.optim.Optimizer:
    """A new one, for pixels whose gradient is known; `rate` is the share of its full steps.

    `first_step` is the length of the first one of L-BFGS in grey levels.
    """
    if adam:
        return torch.optim.Adam([pixels], lr=rate * settings.learning_rate)
    # torch would begin with a step of one grey level over all pixels together. That is nothing,
    # and in bfloat16 the gradient's change, from which L-BFGS learns, would be noise.
    assert pixels.grad is not None
    begins_with = pixels.grad / pixels.grad.abs().sum().clamp(min=1.0)
    length = float(begins_with.square().mean().sqrt())
    first = rate * first_step / length if length > 0 else rate
    return torch.optim.LBFGS([pixels], lr=first, max_iter=1, history_size=history(shape_of(pixels)))


def _step(optimizer: torch.optim.Optimizer, pixels: Tensor, loss: float) -> None:
    """Take a step; what L-BFGS then remembers is in memory once, and what it did unchanged."""
    state = optimizer.state[pixels]
    before, direction = state.get("prev_flat_grad"), state.get("d")
    if before is not None:
        state["prev_flat_grad"] = before.clone()  # which torch writes over
    optimizer.step(lambda: loss)
    if "prev_flat_grad" in state:
        assert pixels.grad is not None
        state["prev_flat_grad"] = pixels.grad.flatten()  # a view
    steps = state.get("old_stps")
    if steps and direction is not None and torch.equal(steps[-1], direction):
        steps[-1] = direction


def _memory(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A `state_dict` with copies of what the next step will change."""
    state = {
        # L-BFGS adds to its lists, but leaves the tensors in them as they are; see `_step`.
        name: value.clone() if name in ("exp_avg", "exp_avg_sq", "step") else copy.copy(value)
        for name, value in tree["state"][0].items()
    }
    return {**tree, "state": {0: state}}


def _is_of_lbfgs(tree: Mapping[str, Any]) -> bool:
    return bool(tree) and "old_dirs" in tree["state"][0]

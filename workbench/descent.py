"""Settings + targets -> a stream of Iterates, coarse to fine."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import (
    Callable,
    Generator,
    Hashable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

import workbench
from workbench.checkpoints import Checkpoints, Moment
from workbench.devices import (
    HISTORY,
    choose_device,
    choose_precision,
    free_megabytes,
    ran_out_of_memory,
    still_megabytes,
)
from workbench.errors import InputError, MemoryExceeded, OptimizationError
from workbench.features import Network, build_network
from workbench.images import check_image, fit, load_image, resize, share_masks
from workbench.losses import (
    Losses,
    LossWeights,
    Region,
    Targets,
    TemporalTarget,
    blend,
    gram_matrix,
    to_losses,
    weighted_losses,
)
from workbench.runs import Identity, digest
from workbench.settings import MIN_SIZE, Settings
from workbench.weights import BACKBONES, cache_folder, load_weights

SMALLEST_COARSE_SIDE = 64  # pixels; a coarse scale with a shorter side is left out
WARM_UP_STEPS = 20  # of Adam before L-BFGS at the first scale, where it would explode at once
FIRST_STEP = 0.25  # grey levels (root mean square) of the first step of L-BFGS
EXPLODED = 2.0  # times the lowest loss so far: a step of L-BFGS beyond that is taken back
MAX_RESCUES = 8  # in a row, each with half the step of the one before
TARGETS_KEPT = 8  # of each picture: sizes, networks
CALM_STEPS = 10  # without an explosion, after which steps have their full length again


@dataclass(frozen=True, eq=False)
class Iterate:
    """A picture on its way, and what it measures.

    Attributes
    ----------
    step
        Steps taken so far over all scales; 0 is the start picture.
    steps
        Steps that the whole run will take.
    size
        Longest side of this picture in pixels; grows from scale to scale.
    image
        `(1, 3, H, W)`, float32, sRGB in [0, 1]; a copy that may be kept.
    losses
        Of exactly this picture, at the precision of the run.
    """

    step: int
    steps: int
    size: int
    image: Tensor
    losses: Losses


def optimize(
    content: Tensor,
    styles: Sequence[Tensor],
    settings: Settings,
    *,
    start: Tensor | None = None,
    masks: Sequence[Tensor] = (),
    temporal: Sequence[TemporalTarget] = (),
    targets: TargetCache | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Iterate]:
    """Paint a content picture in the style of others, step by step.

    Gatys, Ecker and Bethge 2015 (arXiv 1508.06576), minimised coarse to fine. Differs from
    the paper in that the gamut is part of the problem: the network sees the pixels clipped
    to 0..255 while the gradient passes straight through, so the picture that is saved is
    the picture that was optimised.

    Parameters
    ----------
    content
        Photograph, `(1, 3, H, W)`, sRGB in [0, 1]; resized to `settings.size`.
    styles
        One or more style pictures, likewise, of any shape.
    settings
        See `Settings`.
    start
        Picture to start from, likewise; None: as `settings.init` says. It is taken to be
        near the goal already (an earlier result, the frame before), so that L-BFGS begins
        without the steps of Adam that would shake it up.
    masks
        One for each style, `(1, 1, H, W)` in [0, 1]: where in the picture that style is
        painted. Stretched to the picture's shape. Where masks overlap, their styles share
        the place; where there is none, no style is painted and the photograph stays. None
        given: every style is everywhere.
    temporal
        Earlier frames of a film that the picture is to agree with; see `TemporalTarget`.
    targets
        Where targets of earlier calls are kept; see `TargetCache`. None: nothing is.
    checkpoints
        Where what a stopped run needs to go on is kept, and found again; see `Checkpoints`.

    Yields
    ------
    Iterate
        The start picture as step 0, then one after every step. Leave the loop to stop;
        closing the generator frees its memory. A run that goes on begins with the picture
        that it was stopped at.

    Raises
    ------
    InputError
        If a picture is too small or not a picture, or a setting names an unknown thing, or
        there is not enough memory; the message says what would fit.
    OptimizationError
        If the loss keeps exploding; the last good iterate comes with it.
    MemoryExceeded
        If memory runs out all the same, likewise.
    """
    last: Iterate | None = None
    iterates = _optimize(
        content,
        styles,
        settings,
        start=start,
        masks=masks,
        temporal=temporal,
        targets=targets,
        checkpoints=checkpoints,
    )
    with contextlib.closing(iterates):
        try:
            for last in iterates:
                yield last
            return
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
    # Out here, because that error holds on to all the memory.
    adam = ", or optimizer adam" if settings.optimizer == "lbfgs" else ""
    raise MemoryExceeded(
        f"memory ran out after {last.step if last else 0} steps towards size {settings.size}; use"
        f" a smaller size{adam}, or close other programs.",
        last,
    )


def _optimize(
    content: Tensor,
    styles: Sequence[Tensor],
    settings: Settings,
    *,
    start: Tensor | None,
    masks: Sequence[Tensor],
    temporal: Sequence[TemporalTarget],
    targets: TargetCache | None,
    checkpoints: Checkpoints | None,
) -> Generator[Iterate]:
    """As `optimize`, but memory that runs out is torch's error."""
    problem = Problem.of(content, styles, settings, masks, temporal, targets)
    problem.check_memory()
    steps = sum(steps for _, steps in problem.scales())
    if checkpoints is None:
        moments = _paint(problem, start)
    else:
        begin = checkpoints.find(_identity(problem, masks, start))
        moments = checkpoints.keep(_paint(problem, start, begin, remember=True))
    with contextlib.closing(moments):
        for moment in moments:
            yield _iterate(moment, steps, settings)


def stylize(content: Tensor, styles: Sequence[Tensor], settings: Settings) -> Tensor:
    """Run `optimize` to its end.

    Returns
    -------
    Tensor
        The last picture, `(1, 3, H, W)`, float32, sRGB in [0, 1].
    """
    for iterate in optimize(content, styles, settings):  # noqa: B007
        pass
    return iterate.image


def scales(shape: tuple[int, int], settings: Settings) -> list[tuple[tuple[int, int], int]]:
    """What `optimize` works through, from coarse to fine.

    Parameters
    ----------
    shape
        `(H, W)` of the content picture in pixels.

    Returns
    -------
    list
        `((H, W), steps)` of each scale.
    """
    plan = []
    for halvings, steps in enumerate(reversed(settings.steps)):
        fitted = fit(shape, round(settings.size / 2**halvings))
        if halvings == 0 or min(fitted) >= SMALLEST_COARSE_SIDE:
            plan.append((fitted, steps))
    return plan[::-1]


class TargetCache:
    """Content activations and Gram matrices, kept from one call of `optimize` to the next.

    Hand the same one to a series of calls (a grid of settings, many styles for a photograph,
    a slider that moves), and what does not change between them is computed once. A picture
    is known as an object: hand in the same tensor again, and do not write into it. What is
    kept of a picture goes when the picture does.
    """

    def __init__(self) -> None:
        self._kept: MutableMapping[Tensor, dict[Hashable, dict[str, Tensor]]] = (
            WeakTensorKeyDictionary()
        )

    def get(
        self,
        picture: Tensor,
        seen_as: Hashable,
        layers: Sequence[str],
        compute: Callable[[Sequence[str]], Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Layer -> tensor, of which only those are computed that are not there.

        Parameters
        ----------
        picture
            Whose they are.
        seen_as
            All else that they depend on: the size, the network.
        layers
            That are wanted.
        compute
            Makes those of the layers it is given.
        """
        kept = self._kept.setdefault(picture, {})
        there = kept.pop(seen_as, {})
        missing = [layer for layer in layers if layer not in there]
        if missing:
            there = {**there, **compute(missing)}
        kept[seen_as] = there
        if len(kept) > TARGETS_KEPT:
            del kept[next(iter(kept))]  # the one that was not asked for the longest
        return {layer: there[layer] for layer in layers}


def measure(
    image: Tensor,
    content: Tensor,
    styles: Sequence[Tensor],
    settings: Settings,
    *,
    masks: Sequence[Tensor] = (),
    targets: TargetCache | None = None,
) -> Losses:
    """Losses of any picture under the settings, in float32, with no step taken.

    The referee for every comparison: what `optimize` minimises, whoever made the picture.

    Parameters
    ----------
    image
        `(1, 3, H, W)`, sRGB in [0, 1]; resized to `settings.size` if it has another size.
    content, styles, settings, masks, targets
        As for `optimize`.
    """
    check_image(image, "image")
    exact = replace(settings, precision="float32")
    problem = Problem.of(content, styles, exact, masks, targets=targets)
    shape = problem.scales()[-1][0]
    # On CUDA, convolutions in float32 are TF32 otherwise, with 10 bits of mantissa.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        evaluate = problem.at(shape)
        pixels = problem.pixels(image, shape).clamp(0, settings.white)
        return to_losses(evaluate(pixels)[1])


def loss_weights(settings: Settings) -> LossWeights:
    """What the settings say about how much each loss counts."""
    return LossWeights(
        content=settings.content_weight_of(),
        style=settings.style_weight_of(),
        tv=settings.tv_weight,
        tv_kind=settings.tv_kind,
        normalize_gradients=settings.normalize_gradients,
        white=settings.white,
    )


# A function of pixels (1, 3, H, W), float32, 0..white: the total loss and its weighted terms.
_Evaluate = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


@functools.lru_cache(maxsize=2)
def _network(
    backbone: str,
    deepest: str,
    pooling: str,
    device: torch.device,
    dtype: torch.dtype,
    cache: Path,  # where the weights lie; another folder may hold others
) -> Network:
    """Kept from call to call: a film calls `optimize` and `measure` for every frame."""
    weights = load_weights(backbone)
    return build_network(weights, [deepest], pooling=pooling, device=device, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Problem:
    """Pictures, network and weights of one run, before a scale is chosen; `of` makes one."""

    content: Tensor
    styles: tuple[Tensor, ...]
    settings: Settings
    network: Network
    device: torch.device
    masks: tuple[Tensor, ...]
    temporal: tuple[TemporalTarget, ...]
    targets: TargetCache

    @classmethod
    def of(
        cls,
        content: Tensor,
        styles: Sequence[Tensor],
        settings: Settings,
        masks: Sequence[Tensor] = (),
        temporal: Sequence[TemporalTarget] = (),
        targets: TargetCache | None = None,
    ) -> Problem:
        """Check what `optimize` is handed, and load the network; raises as it does."""
        if isinstance(styles, Tensor):
            raise InputError("styles: give a list of pictures, such as [style].")
        if not styles:
            raise InputError("styles is empty; give at least one style picture.")
        blends = settings.style_blend_weights
        if blends and len(blends) != len(styles):
            raise InputError(
                f"style_blend_weights has {len(blends)} numbers for {len(styles)} style"
                " pictures; give one for each, or none."
            )
        check_image(content, "content")
        for number, style in enumerate(styles, start=1):
            check_image(style, f"style {number}")
        if masks and len(masks) != len(styles):
            raise InputError(
                f"there are {len(masks)} masks for {len(styles)} style pictures; give one for"
                " each, or none."
            )
        for number, mask in enumerate(masks, start=1):
            check_image(mask, f"mask {number}", channels=1)
        for number, target in enumerate(temporal, start=1):
            check_image(target.picture, f"temporal target {number}")
            check_image(target.visible, f"what is visible of temporal target {number}", channels=1)
        device = choose_device(settings.device)
        precision = choose_precision(settings.precision, device)
        deepest = max(settings.layers, key=BACKBONES[settings.backbone].layers.index)
        network = _network(
            settings.backbone, deepest, settings.pooling, device, precision, cache_folder()
        )
        if targets is None:
            targets = TargetCache()
        problem = cls(
            content,
            tuple(styles),
            settings,
            network,
            device,
            share_masks(masks, (int(content.shape[-2]), int(content.shape[-1]))),
            tuple(temporal),
            targets,
        )
        problem._check_sizes()
        return problem

    def _check_sizes(self) -> None:
        smallest = self.network.smallest_side
        pictures = [("the content picture", self.content)]
        pictures += [("a style picture", style) for style in self.styles]
        for name, picture in pictures:
            height, width = picture.shape[-2:]
            if min(height, width) < smallest:
                raise InputError(
                    f"{name} is {width}x{height} pixels; its shorter side needs at least"
                    f" {smallest} for the layers asked for."
                )
        height, width = self.scales()[-1][0]
        if min(height, width) < smallest:
            raise InputError(
                f"the content picture becomes {width}x{height} pixels at size {self.settings.size};"
                f" its shorter side needs at least {smallest}: crop it or raise size."
            )

    def check_memory(self) -> None:
        """Refuse, in a sentence that says what fits, what takes more memory than there is."""
        free, settings = free_megabytes(self.device), self.settings
        if free is None:
            return
        if self.device.type != "cpu":
            free /= 0.8  # what is forecast was measured on a CPU
        if self._megabytes(settings) <= free:
            return
        ways = []
        fits = [size for size in range(MIN_SIZE, settings.size, 16) if self._fits(free, size=size)]
        if fits:
            ways.append(f"size {fits[-1]}")
        if self._fits(free, optimizer="adam"):
            ways.append("optimizer adam")
        height, width = self.scales()[-1][0]
        raise InputError(
            f"size = {settings.size}: a painting of {width}x{height} pixels takes"
            f" {_gigabytes(self._megabytes(settings))} of memory, and there are"
            f" {_gigabytes(free)}; use {' or '.join(ways) or 'a machine with more'}."
        )

    def _fits(self, free: float, **changes: Any) -> bool:
        return self._megabytes(replace(self.settings, **changes)) <= free

    def _megabytes(self, settings: Settings) -> float:
        height, width = self.content.shape[-2:]
        return still_megabytes(
            scales((height, width), settings)[-1][0],
            settings,
            precision=self.network.dtype,
            styles=[self._style_shape(style, settings.size) for style in self.styles],
            masks=len(self.masks),
        )

    def _style_shape(self, style: Tensor, size: int) -> tuple[int, int]:
        """`(H, W)` that a style picture is looked at beside pictures whose longest side is `size`.

        The shorter side is kept large enough for the deepest layer to see something.
        """
        height, width = int(style.shape[-2]), int(style.shape[-1])
        smallest = math.ceil(self.network.smallest_side * max(height, width) / min(height, width))
        return fit((height, width), max(math.ceil(self.settings.style_scale * size), smallest))

    def scales(self) -> list[tuple[tuple[int, int], int]]:
        """What is worked through, from coarse to fine; see the function of that name."""
        height, width = self.content.shape[-2:]
        return scales((height, width), self.settings)

    def start(self) -> Tensor:
        """The picture that `settings.init` asks for, `(1, 3, H, W)` in [0, 1]."""
        if self.settings.init == "content":
            return self.content
        if self.settings.init == "random":
            # On the CPU, so that a seed means the same noise on every device.
            generator = torch.Generator().manual_seed(self.settings.seed)
            shape = self.scales()[0][0]
            return (0.5 + 0.1 * torch.randn(1, 3, *shape, generator=generator)).clamp(0, 1)
        return load_image(self.settings.init, for_size=self.settings.size)

    def at(self, shape: tuple[int, int]) -> _Evaluate:
        """The loss at one scale, for content pictures of `shape`."""
        settings, network = self.settings, self.network
        weights = loss_weights(settings)
        with torch.no_grad():
            content = self._content_target(shape)
            styles: Mapping[str, Tensor] = {}
            regions = []
            if self.masks:
                grams, blends = self._style_grams(max(shape)), self._blends()
                mean = sum(blends) / len(blends)
                for mask, gram, share in zip(self.masks, grams, blends, strict=True):
                    regions.append(Region(self._shrunk(mask, shape), gram, share / mean))
            else:
                styles = self.style_targets(max(shape))
            temporal = [
                TemporalTarget(
                    resize(target.picture.to(self.device, torch.float32), shape),
                    _averaged(target.visible, shape).to(self.device),
                    target.weight,
                )
                for target in self.temporal
            ]
        targets = Targets(content, styles, regions, temporal)

        def evaluate(pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return weighted_losses(pixels, network(pixels, settings.layers), targets, weights)

        return evaluate

    def _shrunk(self, mask: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Style layer -> the mask of a picture of `shape`, as large as the activation."""
        mask, shrunk = resize(mask.cpu(), shape), {}
        for layer in self.settings.style_layers:
            cell = 2 ** (int(layer.removeprefix("relu").partition("_")[0]) - 1)
            shrunk[layer] = _averaged(mask, (shape[0] // cell, shape[1] // cell)).to(self.device)
        return shrunk

    def _content_target(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Content layer -> activation of the content picture at `shape`."""

        def look(layers: Sequence[str]) -> dict[str, Tensor]:
            return self.network(self.pixels(self.content, shape), layers)

        seen_as = ("content", shape, *self._eye())
        return self.targets.get(self.content, seen_as, self.settings.content_layers, look)

    def style_targets(self, size: int) -> dict[str, Tensor]:
        """Style layer -> Gram matrix that pictures whose longest side is `size` are drawn to."""
        with torch.no_grad():
            grams, blends = self._style_grams(size), self._blends()
            return {
                layer: blend([gram[layer] for gram in grams], blends)
                for layer in self.settings.style_layers
            }

    def _blends(self) -> tuple[float, ...]:
        return self.settings.style_blend_weights or (1.0,) * len(self.styles)

    def _style_grams(self, size: int) -> list[dict[str, Tensor]]:
        return [self._grams(style, self._style_shape(style, size)) for style in self.styles]

    def _grams(self, style: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Style layer -> Gram matrix of a style picture at `shape`."""

        def look(layers: Sequence[str]) -> dict[str, Tensor]:
            activations = self.network(self.pixels(style, shape), layers)
            return {layer: gram_matrix(activation) for layer, activation in activations.items()}

        seen_as = ("style", shape, *self._eye())
        return self.targets.get(style, seen_as, self.settings.style_layers, look)

    def pixels(self, picture: Tensor, size: int | tuple[int, int]) -> Tensor:
        """A picture as the network takes it, in 0..white."""
        return resize(picture.to(self.device, torch.float32), size) * self.settings.white

    def _eye(self) -> tuple[Hashable, ...]:
        """What activations depend on beside the picture."""
        settings = self.settings
        network = settings.backbone, settings.pooling, self.network.dtype, cache_folder()
        return *network, settings.white, self.device


def _identity(problem: Problem, masks: Sequence[Tensor], start: Tensor | None) -> Identity:
    """Everything that the picture depends on."""
    settings = problem.settings
    values = settings.as_dict()
    if start is None and settings.init not in ("content", "random"):
        start, values["init"] = problem.start(), "a picture"
    pictures = {"the photograph": problem.content}
    pictures |= {f"style picture {i}": each for i, each in enumerate(problem.styles, start=1)}
    pictures |= {f"mask {i}": each for i, each in enumerate(masks, start=1)}
    if start is not None:
        pictures["the start picture"] = start
    for i, target in enumerate(problem.temporal, start=1):
        pictures[f"earlier frame {i}"] = target.picture
        pictures[f"what is visible of earlier frame {i}"] = target.visible
    digests = {name: digest(picture) for name, picture in pictures.items()}
    values = {
        **digests,
        "the set of weights": load_weights(settings.backbone).sha256,
        **values,
        "temporal_weights": [target.weight for target in problem.temporal],
        "device": problem.device.type,
        "precision": str(problem.network.dtype).removeprefix("torch."),
        "workbench": workbench.__version__,
        "torch": torch.__version__,
    }
    return Identity(values)


def _paint(
    problem: Problem, start: Tensor | None, begin: Moment | None = None, *, remember: bool = False
) -> Generator[Moment]:
    """Every moment from the start picture, or from `begin`, to the end of the last scale.

    `remember` says whether they are to hold what the optimiser remembers.
    """
    if begin is None:
        image = start if start is not None else problem.start()
        check_image(image, "start")
    done = 0
    for shape, steps in problem.scales():
        if begin is None or begin.step <= done + steps:
            beginning = begin or resize(image.detach().to(problem.device, torch.float32), shape)
            fresh = done == 0 and start is None
            for moment in _descend(
                problem, shape, beginning, steps, done=done, fresh=fresh, remember=remember
            ):
                if moment.step > done or done == 0:  # a later scale starts with the last one's end
                    yield moment
            image, begin = _picture(moment, problem.settings), None
        done += steps


def _descend(
    problem: Problem,
    shape: tuple[int, int],
    begin: Tensor | Moment,
    steps: int,
    *,
    done: int,
    fresh: bool,
    remember: bool,
) -> Generator[Moment]:
    """Minimise at one scale; yields where it begins and then every step.

    `done` counts the steps of coarser scales; `fresh` says that the start picture has not been
    through one.
    """
    settings, evaluate = problem.settings, problem.at(shape)
    white = settings.white
    if isinstance(begin, Moment):
        pixels = begin.pixels.to(problem.device, copy=True).requires_grad_()
        pixels.grad = begin.grad.to(problem.device)
    else:
        # L-BFGS flattens its parameters, so they must lie in memory as they are indexed.
        pixels = (begin * white).contiguous().requires_grad_()

    def look() -> Losses:
        # Straight-through clipping: y = clamp(x), dy/dx = 1, so that a pixel at the edge of
        # the gamut can come back. Costs nothing.
        clipped = pixels + (pixels.clamp(0, white) - pixels).detach()
        pixels.grad = None
        total, terms = evaluate(clipped)
        total.backward()
        return to_losses(terms)

    def now() -> Moment:
        assert pixels.grad is not None
        memory = _memory(optimizer) if remember and optimizer is not None else {}
        state = pixels.detach().clone(), pixels.grad, losses, lowest, rate, rescues, calm, memory
        return Moment(done + step, *state)

    # A picture that comes from a coarser scale is near enough for L-BFGS to start at once.
    warm_up = steps if settings.optimizer == "adam" else WARM_UP_STEPS if fresh else 0
    optimizer: torch.optim.Optimizer | None = None
    if isinstance(begin, Moment):
        good, step, losses = begin, begin.step - done, begin.losses
        lowest, rate, rescues, calm = begin.lowest, begin.rate, begin.rescues, begin.calm
        if begin.optimizer and step != warm_up:
            optimizer = _optimizer(pixels, settings, rate, adam=step < warm_up)
            optimizer.load_state_dict(copy.deepcopy(dict(begin.optimizer)))
    else:
        losses = look()
        lowest, rate, rescues, calm, step = losses.total, 1.0, 0, 0, 0
        good = now()
        if not math.isfinite(losses.total):
            raise OptimizationError(
                "the loss of the start picture is not a finite number; lower the weights.",
                _iterate(good, done + steps, settings),
            )
    yield good

    while step < steps:
        if optimizer is None or step == warm_up:
            optimizer = _optimizer(pixels, settings, rate, adam=step < warm_up)
            lowest = losses.total
        # Loss and gradient at `pixels` are known; the optimiser only has to take its step.
        optimizer.step(lambda loss=losses.total: loss)  # type: ignore[misc]
        if step >= warm_up:
            optimizer.param_groups[0]["lr"] = rate  # from L-BFGS's second step on
        losses = look()
        if _exploded(losses.total, lowest, adam=step < warm_up):
            with torch.no_grad():
                pixels.copy_(good.pixels)
            pixels.grad, losses, optimizer = good.grad, good.losses, None
            rate, rescues, calm = rate / 2, rescues + 1, 0
            if rescues > MAX_RESCUES:
                raise OptimizationError(
                    f"the loss exploded {rescues} times at {max(pixels.shape[-2:])} px, the last"
                    f" time at step {step + 1}; lower style_weight, or use optimizer adam.",
                    _iterate(good, done + steps, settings),
                )
            continue
        lowest = min(lowest, losses.total)
        step, calm = step + 1, calm + 1
        if rescues and calm == CALM_STEPS:
            optimizer.param_groups[0]["lr"] /= rate
            rate, rescues = 1.0, 0
        good = now()
        yield good


def _averaged(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """Each cell as the mean of what it covers; on the CPU, as MPS cannot if sizes do not divide."""
    return F.interpolate(mask.to("cpu", torch.float32), shape, mode="area")


def _gigabytes(megabytes: float) -> str:
    return f"{megabytes / 1024:.1f} GB"


def _iterate(moment: Moment, steps: int, settings: Settings) -> Iterate:
    size = max(moment.pixels.shape[-2:])
    return Iterate(moment.step, steps, size, _picture(moment, settings), moment.losses)


def _picture(moment: Moment, settings: Settings) -> Tensor:
    """`(1, 3, H, W)`, sRGB in [0, 1]."""
    return moment.pixels.clamp(0, settings.white) / settings.white


def _optimizer(
    pixels: Tensor, settings: Settings, rate: float, *, adam: bool
) -> torch.optim.Optimizer:
    if adam:
        return torch.optim.Adam([pixels], lr=rate * settings.learning_rate)
    # torch would begin with a step of one grey level over all pixels together. That is nothing,
    # and in bfloat16 the gradient's change, from which L-BFGS learns, would be noise.
    assert pixels.grad is not None
    begins_with = pixels.grad / pixels.grad.abs().sum().clamp(min=1.0)
    length = float(begins_with.square().mean().sqrt())
    first = rate * FIRST_STEP / length if length > 0 else rate
    return torch.optim.LBFGS([pixels], lr=first, max_iter=1, history_size=HISTORY)


def _memory(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The `state_dict`, with copies of what the next step will change."""
    tree = optimizer.state_dict()
    state = {
        # L-BFGS adds to its lists, but leaves the tensors in them as they are.
        name: value.clone() if isinstance(value, Tensor) else copy.copy(value)
        for name, value in tree["state"][0].items()
    }
    return {**tree, "state": {0: state}}


def _exploded(loss: float, lowest: float, *, adam: bool) -> bool:
    """Whether a step must be taken back. Adam climbs out of a perfect start and may do so."""
    return not math.isfinite(loss) or (not adam and loss > EXPLODED * lowest)

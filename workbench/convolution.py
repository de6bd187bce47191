"""The 3x3 convolutions of a frozen network, by whichever algorithm is fastest here.

oneDNN's direct convolution runs near the peak of a processor, so that only an algorithm with fewer
products is faster: Winograd's, which NNPACK has in torch's wheels. Its error is 2e-6 of the result.
Both give the same bits from run to run.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from workbench.devices import ran_out_of_memory, remembered
from workbench.weights import block_of

Convolution = tuple[str, Tensor, Tensor]  # layer, weight (O, I, 3, 3), bias (O,)

SIDES = (128, 192, 256, 384)  # px of the squares that stand for pictures of their area
SMALLEST = 96 * 96  # px; what is smaller takes no time
WORTH = 0.95  # of the time of direct ones, at most, for a change of layout and of bits


def direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve `(1, I, H, W)` with `(O, I, 3, 3)`, edges padded with zeros."""
    return F.conv2d(x, weight, bias, padding=1)


def winograd(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `direct`, for float32 on the CPU: F(6x6, 3x3) of Lavin and Gray 2015 (arXiv 1509.09308).

    The weights are constants: no gradient reaches them.
    """
    convolved: Tensor = _Winograd.apply(x.contiguous(), weight, bias)
    return convolved


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.weight = weight  # type: ignore[attr-defined]
        return nnpack(x, weight.contiguous(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        weight: Tensor = ctx.weight  # type: ignore[attr-defined]
        # The gradient of a convolution is one with its filters turned around.
        return nnpack(grad.contiguous(), weight.transpose(0, 1).flip(2, 3), None), None, None


def nnpack(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 1) -> Tensor:
    """As `winograd`, without a gradient, of contiguous tensors."""
    try:
        return torch._nnpack_spatial_convolution(x, weight, bias, padding=padding)
    except (AttributeError, RuntimeError) as error:  # a private name: other versions may lack it
        if ran_out_of_memory(error):
            raise
        _say(f"NNPACK's convolution failed ({error}); the slower direct one takes its place.")
        return F.conv2d(x, weight, bias, padding=padding)


@functools.lru_cache
def _say(sentence: str) -> None:
    """Warn, once."""
    warnings.warn(sentence, stacklevel=2)


def has_winograd(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether NNPACK is there, and can compute in that precision."""
    # Without that call first, every convolution of NNPACK's fails.
    available: Callable[[], bool] = getattr(torch, "_nnpack_available", lambda: False)
    return device.type == "cpu" and dtype == torch.float32 and available()


def fastest(convolutions: Sequence[Convolution], shape: tuple[int, int]) -> tuple[str, ...]:
    """The layers that are faster by Winograd's algorithm here, for pictures `(H, W)`.

    Every layer is timed both ways, there and back, once for each size on a machine.
    """
    _, weight, _ = convolutions[0]
    area = shape[0] * shape[1]
    if area < SMALLEST or not has_winograd(weight.device, weight.dtype):
        return ()
    side = min(SIDES, key=lambda side: abs(math.log(side**2 / area)))
    layers = [layer for layer, _, _ in convolutions]

    def measure() -> str:
        times = [_times(each, side // 2 ** (block_of(each[0]) - 1)) for each in convolutions]
        start, end = fastest_stretch(*zip(*times, strict=True))
        return " ".join(layers[start:end])

    what = f"Winograd's layers down to {layers[-1]} at {side} px"
    found = remembered(what, weight.device, measure, lambda text: {*text.split()} <= {*layers})
    return tuple(found.split())


def fastest_stretch(
    direct: Sequence[float], winograd: Sequence[float], switch: Sequence[float]
) -> tuple[int, int]:
    """Which layers, from the first number to before the second, to take by Winograd's algorithm.

    For each layer: seconds either way, and those of changing the layout of what comes in. Equal
    numbers: none is worth it.
    """

    def seconds(stretch: tuple[int, int]) -> float:
        start, end = stretch
        changes = switch[start] + (switch[end] if end < len(direct) else 0.0)
        return sum(direct[:start]) + sum(winograd[start:end]) + sum(direct[end:]) + changes

    count = len(direct)
    stretches = [(i, j) for i in range(count) for j in range(i + 1, count + 1)]
    best = min(stretches, key=seconds)
    return best if seconds(best) < WORTH * sum(direct) else (0, 0)


def _times(convolution: Convolution, side: int) -> tuple[float, float, float]:
    """Seconds of a layer, there and back: direct, by Winograd, and of a change of layout before it.

    The best of three, in turns.
    """
    _, weight, bias = convolution
    plain = torch.ones(1, weight.shape[1], side, side)
    last, filters = plain.to(memory_format=torch.channels_last), weight.contiguous()

    def change(x: Tensor) -> Tensor:
        return x.to(memory_format=torch.channels_last)

    def seconds(function: Callable[[Tensor], Tensor], picture: Tensor) -> float:
        x = picture.detach().requires_grad_()
        start = time.perf_counter()
        y = function(x)
        y.backward(torch.ones_like(y))
        return time.perf_counter() - start

    turns = [
        (
            seconds(lambda x: direct(x, weight, bias), last),
            seconds(lambda x: winograd(x, filters, bias), plain),
            seconds(change, plain),
        )
        for _ in range(3)
    ]
    one, other, change_of_layout = map(min, zip(*turns, strict=True))
    return one, other, change_of_layout

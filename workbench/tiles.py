"""The losses of a picture that is too large to be seen at once, and their gradient, in tiles.

All that the losses need of a network's activations are means over places. A first pass adds these
up over tiles, without a gradient. Their own gradients are known then, and a second pass takes each
tile again with them. Galerne, Raad, Lezama and Morel 2023 (arXiv 2212.13459), section 4, do so for
Gram matrices. It is exact, but for rounding: a tile is seen with as much around it as its
activations depend on, and lies on the grid on which the whole picture would be pooled.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from workbench.devices import ran_out_of_memory
from workbench.features import Network
from workbench.losses import Targets, means_over_places, of_pixels, style_statistic, weigh
from workbench.settings import Settings
from workbench.weights import block_of

Result = TypeVar("Result")
Span = tuple[int, int]  # from the first pixel to behind the last


@dataclass(frozen=True)
class Tile:
    """A part of a picture, in rows and columns of pixels."""

    inner: tuple[Span, Span]  # which no other tile has
    outer: tuple[Span, Span]  # with what its activations depend on

    def crop(self, picture: Tensor) -> Tensor:
        """The outer part of a picture `(1, C, H, W)`."""
        (top, bottom), (left, right) = self.outer
        return picture[..., top:bottom, left:right]

    def own(self, activation: Tensor, layer: str) -> Tensor:
        """The inner part of the outer part's activation."""
        rows, columns = (
            ((start - first) // _cell(layer), (end - first) // _cell(layer))
            for (start, end), (first, _) in zip(self.inner, self.outer, strict=True)
        )
        height, width = activation.shape[-2:]
        # Padding less than nothing: unlike that of a slice, its gradient keeps the memory layout.
        around = (-columns[0], columns[1] - width, -rows[0], rows[1] - height)
        return F.pad(activation, around) if any(around) else activation

    def of_whole(self, values: Tensor, layer: str) -> Tensor:
        """The inner part of the whole picture's activation, or mask."""
        rows, columns = (
            slice(start // _cell(layer), end // _cell(layer)) for start, end in self.inner
        )
        return values[..., rows, columns]


def _cell(layer: str) -> int:
    """Pixels of a side of what becomes one of its values by pooling."""
    return int(2 ** (block_of(layer) - 1))


def reach(layers: Sequence[str]) -> int:
    """Pixels on each side that activations depend on, rounded up to the grid of the last pooling.

    `layers` are those down to the deepest: each 3x3 convolution looks one of its cells further.
    """
    grid = _cell(layers[-1])
    pixels = sum(map(_cell, layers))
    return -(-pixels // grid) * grid


def tiles(shape: tuple[int, int], side: int, margin: int, grid: int) -> list[Tile]:
    """Cut a picture `(H, W)` into tiles of about the same size, of at most `side`.

    That is a multiple of `grid`, as `margin` is. What the deepest layer does not see at the end is
    of the last tile.
    """

    def spans(length: int) -> list[tuple[Span, Span]]:
        cells = length // grid
        count = max(1, -(-cells * grid // side))
        starts = [number * cells // count * grid for number in range(count)]
        inner = zip(starts, [*starts[1:], length], strict=True)
        return [((a, b), (max(0, a - margin), min(length, b + margin))) for a, b in inner]

    return [
        Tile((row[0], column[0]), (row[1], column[1]))
        for row, column in itertools.product(*map(spans, shape))
    ]


def in_smaller_tiles(look: Callable[[], Result], sides: list[int | None]) -> Result:
    """What `look` gives, which looks in tiles of the first of `sides`.

    Where memory runs out, that is taken off, which is said, and the next is tried.
    """
    while True:
        try:
            return look()
        except (MemoryError, RuntimeError) as error:
            if len(sides) == 1 or not ran_out_of_memory(error):
                raise
        del sides[0]  # out here, because that error holds on to all the memory
        warnings.warn(f"Memory ran out; on in tiles of {sides[0]} pixels.", stacklevel=2)


@dataclass(frozen=True, eq=False)
class Tiled:
    """A network that looks at a picture tile by tile."""

    network: Network
    side: int  # of a tile's inner part in pixels; a multiple of `network.smallest_side`

    def tiles(self, picture: Tensor) -> list[Tile]:
        """Those of a picture `(1, 3, H, W)`."""
        height, width = picture.shape[-2:]
        grid = self.network.smallest_side
        return tiles((height, width), self.side, reach(self.network.layers), grid)

    def __call__(self, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Activations of the whole picture, without a gradient; as `Network` gives them."""
        whole: dict[str, Tensor] = {}
        cut = self.tiles(pixels)
        if len(cut) == 1:
            return self._look(cut[0], pixels, layers)
        for tile in cut:
            for layer, own in self._look(tile, pixels, layers).items():
                if layer not in whole:
                    height, width = (length // _cell(layer) for length in pixels.shape[-2:])
                    whole[layer] = own.new_empty(1, own.shape[1], height, width)
                tile.of_whole(whole[layer], layer).copy_(own)
        return whole

    def statistics(
        self, pixels: Tensor, looked_at: Sequence[tuple[str, ...]], kind: str
    ) -> dict[tuple[str, ...], Tensor]:
        """The `style_statistic` of a whole picture at the last of each of these layers."""
        layers = tuple(dict.fromkeys(itertools.chain(*looked_at)))
        means: dict[tuple[str, ...], Tensor] = {}
        for tile in self.tiles(pixels):
            seen = self._look(tile, pixels, layers)
            for each in looked_at:
                own = [seen[layer] for layer in each]
                places = math.prod(length // _cell(each[-1]) for length in pixels.shape[-2:])
                share = own[-1][0, 0].numel() / places
                means[each] = means.get(each, 0) + share * style_statistic(own, kind)
        return means

    def weighted_losses(
        self, pixels: Tensor, targets: Targets, settings: Settings
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `losses.weighted_losses`, of the picture alone; at most one tile is in memory."""
        cut = self.tiles(pixels)
        parts = [_part(targets, tile) for tile in cut]
        means: dict[tuple[str, str, int], Tensor] = {}
        shares = []
        with torch.no_grad():
            for tile, part in zip(cut, parts, strict=True):
                own = self._look(tile, pixels, settings.layers)
                shares.append(_counts(own, part, settings))
                for key, mean in means_over_places(own, part, settings).items():
                    means[key] = means.get(key, 0) + shares[-1][key] * mean
            del own
            whole = {key: sum(share[key] for share in shares) for key in means}
            means = {key: total / max(whole[key], 1e-6) for key, total in means.items()}
        if not torch.is_grad_enabled():
            return weigh(pixels, means, targets, settings)
        means = {key: mean.requires_grad_() for key, mean in means.items()}
        total, terms = weigh(pixels.detach(), means, targets, settings)
        back = torch.autograd.grad(total, list(means.values()))
        seen = pixels.detach().requires_grad_()
        torch.stack([*of_pixels(seen, targets, settings).values()]).sum().backward()
        gradient = seen.grad
        assert gradient is not None
        for tile, part, share in zip(cut, parts, shares, strict=True):
            crop = tile.crop(pixels).detach().requires_grad_()
            own = {k: tile.own(v, k) for k, v in self.network(crop, settings.layers).items()}
            sums = means_over_places(own, part, settings)
            weighted = [
                (grad * (share[key] / max(whole[key], 1e-6)) * sums[key]).sum()
                for key, grad in zip(means, back, strict=True)
            ]
            torch.stack(weighted).sum().backward()
            assert crop.grad is not None
            tile.crop(gradient).add_(crop.grad)
            del own, sums, weighted  # before the next tile is looked at
        return total.detach() + _Known.apply(pixels, gradient), terms

    def _look(self, tile: Tile, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            seen = self.network(tile.crop(pixels), layers)
        return {layer: tile.own(seen[layer], layer) for layer in layers}


class _Known(torch.autograd.Function):
    """Zero, with a gradient that is known already."""

    @staticmethod
    def forward(ctx: FunctionCtx, pixels: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return pixels.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        gradient: Tensor = ctx.saved_tensors[0]  # type: ignore[attr-defined]
        return grad * gradient, None


def _part(targets: Targets, tile: Tile) -> Targets:
    """The targets of a tile's inner part."""
    content = {layer: tile.of_whole(each, layer) for layer, each in targets.content.items()}
    regions = [
        replace(region, masks={k: tile.of_whole(mask, k) for k, mask in region.masks.items()})
        for region in targets.regions
    ]
    return replace(targets, content=content, regions=regions)


def _counts(
    own: dict[str, Tensor], part: Targets, settings: Settings
) -> dict[tuple[str, str, int], float]:
    """Over how many places each of a tile's `means_over_places` is a mean."""
    counts: dict[tuple[str, str, int], float] = {
        ("content", layer, 0): own[layer][0, 0].numel() for layer in settings.content_layers
    }
    for layer in settings.compared_layers():
        if not part.regions:
            counts["style", layer, 0] = own[layer][0, 0].numel()
        for number, region in enumerate(part.regions):
            counts["style", layer, number] = float(region.masks[layer].sum())
    return counts

"""Pictures + settings -> the loss of any picture: what `descent` minimises."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from workbench.convolution import fastest
from workbench.devices import choose_device, choose_precision, free_megabytes, machine, trim_memory
from workbench.errors import InputError
from workbench.features import Network, build_network
from workbench.forecast import Outline
from workbench.images import check_image, fit, load_image, resize, shape_of, share_masks
from workbench.losses import Region, Targets, TemporalTarget, blend, weighted_losses
from workbench.runs import Identity, digest
from workbench.settings import MIN_SIZE, Settings
from workbench.tiles import Tiled, in_smaller_tiles
from workbench.weights import BACKBONES, block_of, cache_folder, load_weights

TARGETS_KEPT = 8  # of each picture: sizes, networks
LARGEST_KEPT = 64 * 2**20  # bytes; larger ones take no time beside their steps

Seen = dict[tuple[str, ...], Tensor]  # layers that were looked at -> activation or style statistic

# Picture -> all else that its targets depend on -> these.
kept_targets: MutableMapping[Tensor, dict[Hashable, Seen]] = WeakTensorKeyDictionary()


@dataclass(eq=False)
class Evaluate:
    """The loss at one scale: a function of pixels `(1, 3, H, W)`, float32, in 0..white."""

    network: Network
    targets: Targets
    settings: Settings
    sides: list[int | None]  # of tiles in pixels, from those in use on; None: as a whole

    def __call__(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss, and its weighted terms."""
        if side := self.sides[0]:
            tiled = Tiled(self.network, side)
            return tiled.weighted_losses(pixels, self.targets, self.settings)
        seen = self.network(pixels, self.settings.layers)
        return weighted_losses(pixels, seen, self.targets, self.settings)


@functools.lru_cache(maxsize=2)
def _network(
    backbone: str,
    deepest: str,
    pooling: str,
    device: torch.device,
    dtype: torch.dtype,
    cache: Path,  # where the weights lie; another folder may hold others
) -> Network:
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

    @classmethod
    def of(
        cls,
        content: Tensor,
        styles: Sequence[Tensor],
        settings: Settings,
        masks: Sequence[Tensor] = (),
        temporal: Sequence[TemporalTarget] = (),
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
        if masks and len(masks) != len(styles):
            raise InputError(
                f"there are {len(masks)} masks for {len(styles)} style pictures; give one for"
                " each, or none."
            )
        check_image(content, "content")
        for number, style in enumerate(styles, start=1):
            check_image(style, f"style {number}")
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
        shared = share_masks(masks, shape_of(content))
        problem = cls(content, tuple(styles), settings, network, device, shared, tuple(temporal))
        problem._check_sizes()
        return problem

    def _check_sizes(self) -> None:
        self.network.check_side(self.content, "the content picture")
        for style in self.styles:
            self.network.check_side(style, "a style picture")
        (height, width), _ = self.scales[-1]
        smallest = self.network.smallest_side
        if min(height, width) < smallest:
            raise InputError(
                f"the content picture becomes {width}x{height} pixels at size {self.settings.size};"
                f" its shorter side needs at least {smallest}: crop it or raise size."
            )

    def check_memory(self) -> None:
        """Refuse, in a sentence that says what fits, what takes more memory than there is."""
        free = self.free()

        def needed(**changes: Any) -> float:
            return self.outline.changed(**changes).least_megabytes()

        if free is None or needed() <= free:
            return
        size = self.settings.size
        fits = [each for each in range(MIN_SIZE, size, 16) if needed(size=each) <= free]
        ways = [f"size {fits[-1]}"] if fits else []
        if needed(optimizer="adam") <= free:
            ways.append("optimizer adam")
        (height, width), _ = self.scales[-1]
        raise InputError(
            f"size = {size}: a painting of {width}x{height} pixels takes"
            f" {needed() / 1024:.1f} GB of memory, and there are {free / 1024:.1f} GB;"
            f" use {' or '.join(ways) or 'a machine with more'}."
        )

    @property
    def outline(self) -> Outline:
        """What time and memory depend on."""
        styles = tuple(shape_of(style) for style in self.styles)
        masks, precision = len(self.masks), self.network.dtype
        return Outline(shape_of(self.content), styles, self.settings, masks, precision)

    def sides(self, shape: tuple[int, int], tile: int | None = None) -> list[int | None]:
        """Of the tiles that pictures `(H, W)` may be seen in: for what is free, then smaller ones.

        In pixels; None: as a whole. None is larger than `tile`.
        """
        sides = self.outline.sides
        first = sides.index(self.outline.tile(shape, self.free()))
        longest = max(1.0, self.settings.style_scale) * max(shape)  # of all that is seen
        if tile in sides and tile is not None and tile < longest:
            first = max(first, sides.index(tile))
        return [sides[first], *(each for each in sides[first + 1 :] if each and each < longest)]

    def free(self) -> float | None:
        """Megabytes, in units of a CPU, where what is forecast was measured."""
        free = free_megabytes(self.device)
        return free if free is None or self.device.type == "cpu" else free / 0.8

    @property
    def scales(self) -> list[tuple[tuple[int, int], int]]:
        """What is worked through, from coarse to fine; see `forecast.scales`."""
        return self.outline.scales

    def start(self) -> Tensor:
        """The picture that `settings.init` asks for, `(1, 3, H, W)` in [0, 1]."""
        if self.settings.init == "content":
            return self.content
        if self.settings.init == "random":
            # On the CPU, so that a seed means the same noise on every device.
            generator = torch.Generator().manual_seed(self.settings.seed)
            shape, _ = self.scales[0]
            return (0.5 + 0.1 * torch.randn(1, 3, *shape, generator=generator)).clamp(0, 1)
        return load_image(self.settings.init, for_size=self.settings.size)

    def at(self, shape: tuple[int, int], tile: int | None = None) -> Evaluate:
        """The loss at one scale, for content pictures of `shape`, in tiles no larger than `tile`.

        Where memory runs out on the way, tiles are smaller.
        """
        settings, network, sides = self.settings, self.network, self.sides(shape, tile)
        if sides[0] is not None:
            trim_memory()
        if torch.is_grad_enabled():  # one look alone is not worth timing
            network = network.planned(shape)
        with torch.no_grad():
            layers = {layer: (layer,) for layer in settings.content_layers}
            content = self._targets(self.content, shape, layers, sides)
            temporal = [
                TemporalTarget(
                    resize(target.picture.to(self.device, torch.float32), shape),
                    _averaged(target.visible, shape).to(self.device),
                    target.weight,
                )
                for target in self.temporal
            ]
            if self.masks:
                targets = Targets(content, {}, self._regions(shape, sides), temporal)
            else:
                targets = Targets(content, self.style_targets(max(shape), sides), (), temporal)
        return Evaluate(network, targets, settings, sides)

    def _regions(self, shape: tuple[int, int], sides: list[int | None]) -> list[Region]:
        """Where each style is painted in pictures of `shape`."""
        styles, blends, regions = self.style_statistics(max(shape), sides), self._blends(), []
        mean = sum(blends) / len(blends)
        for mask, style, share in zip(self.masks, styles, blends, strict=True):
            resized, shrunk = resize(mask.cpu(), shape), {}
            for layer in style:
                cell = 2 ** (block_of(layer) - 1)
                cells = shape[0] // cell, shape[1] // cell
                shrunk[layer] = _averaged(resized, cells).to(self.device)
            regions.append(Region(shrunk, style, share / mean))
        return regions

    def style_targets(self, size: int, sides: list[int | None] | None = None) -> dict[str, Tensor]:
        """Style layer -> statistic that pictures whose longest side is `size` are drawn to.

        `sides` are those of `Evaluate`; None: what memory has room for.
        """
        styles = self.style_statistics(size, sides)
        return {
            layer: blend([style[layer] for style in styles], self._blends()) for layer in styles[0]
        }

    def _blends(self) -> tuple[float, ...]:
        return self.settings.style_blend_weights or (1.0,) * len(self.styles)

    def style_statistics(
        self, size: int, sides: list[int | None] | None = None
    ) -> list[dict[str, Tensor]]:
        """As `style_targets`, of each style on its own."""
        outline, kind = self.outline, self.settings.style_loss
        layers = self.settings.compared_layers()
        sides = sides or self.sides(fit(shape_of(self.content), size))
        return [
            self._targets(style, outline.style_shape(shape_of(style), size), layers, sides, kind)
            for style in self.styles
        ]

    def _targets(
        self,
        picture: Tensor,
        shape: tuple[int, int],
        layers: Mapping[str, tuple[str, ...]],
        sides: list[int | None],
        style_loss: str | None = None,
    ) -> dict[str, Tensor]:
        """Layer -> activation, or style statistic, of a picture at `shape`; kept while it lives."""
        settings = self.settings
        if picture.is_inference():  # torch does not count how often it is written to
            kept, version = dict[Hashable, Seen](), 0
        else:
            kept, version = kept_targets.setdefault(picture, {}), picture._version
        tf32 = self.device.type == "cuda" and torch.backends.cudnn.allow_tf32
        key: Hashable = (
            (style_loss, shape, version, tf32),
            (settings.backbone, settings.pooling, settings.white, cache_folder()),
            (self.network.dtype, self.device),
        )
        targets = dict(kept.pop(key, {}))
        missing = [looked_at for looked_at in layers.values() if looked_at not in targets]

        def look() -> Seen:
            tiled, pixels = Tiled(self.network, sides[0] or max(shape)), self.pixels(picture, shape)
            if style_loss:
                return tiled.statistics(pixels, missing, style_loss)
            new = tiled(pixels, [layer for (layer,) in missing])
            return {(layer,): activation for layer, activation in new.items()}

        if missing:
            targets |= in_smaller_tiles(look, sides)
        if sum(each.nbytes for each in targets.values()) <= LARGEST_KEPT:
            kept[key] = targets
        if len(kept) > TARGETS_KEPT:
            del kept[next(iter(kept))]  # the one that was not asked for the longest
        return {layer: targets[looked_at] for layer, looked_at in layers.items()}

    def pixels(self, picture: Tensor, shape: tuple[int, int]) -> Tensor:
        """A picture as the network takes it, in 0..white."""
        return resize(picture.to(self.device, torch.float32), shape) * self.settings.white

    def picture(self, pixels: Tensor) -> Tensor:
        """The picture that pixels stand for, `(1, 3, H, W)`, sRGB in [0, 1]."""
        return pixels.clamp(0, self.settings.white).div_(self.settings.white)

    def identity(self, start: Tensor | None) -> Identity:
        """Everything that the painting depends on; `start` is not what `settings.init` says."""
        values = self.settings.as_dict()
        if start is None and values["init"] not in ("content", "random"):
            start, values["init"] = self.start(), "a picture"
        pictures = {"the photograph": self.content}
        if start is not None:
            pictures["the start picture"] = start
        pictures |= {f"style picture {i}": each for i, each in enumerate(self.styles, start=1)}
        pictures |= {f"mask {i}": each for i, each in enumerate(self.masks, start=1)}
        for i, target in enumerate(self.temporal, start=1):
            pictures[f"earlier frame {i}"] = target.picture
            pictures[f"what is visible of earlier frame {i}"] = target.visible
        digests = {name: digest(each) for name, each in pictures.items()}
        values = {
            **digests,
            **values,
            "the set of weights": load_weights(self.settings.backbone).sha256,
            "temporal_weights": [target.weight for target in self.temporal],
            **machine(self.device, self.network.dtype),
        }
        return Identity(values)

    def machine(self) -> dict[str, str]:
        """What this was computed with: that of the identity, and which layers went by Winograd."""
        plans = {
            f"winograd at {width}x{height}": " ".join(fastest(self.network.convolutions, shape))
            for shape, _ in self.scales
            for height, width in [shape]
        }
        return machine(self.device, self.network.dtype) | plans


def _averaged(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """Each cell as the mean of what it covers; on the CPU, as MPS cannot if sizes do not divide."""
    return F.interpolate(mask.to("cpu", torch.float32), shape, mode="area")

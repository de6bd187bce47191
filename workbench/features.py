"""Picture -> named VGG activations ("relu4_2")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.convolution import direct, fastest, winograd
from workbench.errors import InputError
from workbench.weights import BACKBONES, Weights, block_of

# Average and L2 pooling give smaller activations than the max pooling that the network was
# trained with; these factors bring the mean activation back. They are the means over the four
# poolings of VGG-16 and five photographs and paintings, where they go from 1.3 to 2.1 and from
# 1.2 to 1.6 with depth.
POOLING_SCALE = {"max": 1.0, "average": 1.75, "average-unscaled": 1.0, "l2": 1.45}


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen VGG, cut behind the deepest layer asked for. Call it with a picture.

    Between its blocks, a 2x2 block of pixels becomes one value. "max" is what the network was
    trained with; "average" and "l2" (root of the mean square) give smoother pictures (Gatys et
    al. 2015, section 2) and are rescaled so that the activations keep the size they have with
    "max", and the weights their meaning; "average-unscaled" is the plain average.
    """

    convolutions: tuple[tuple[str, Tensor, Tensor], ...]  # (layer, weight, bias), in their order
    mean: Tensor  # (1, 3, 1, 1), float32, RGB in 0..255; subtracted from the picture
    pooling: str = "max"
    winograd: frozenset[str] = frozenset()  # layers that go by that algorithm, not directly

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the activations."""
        return self.convolutions[0][1].dtype

    @property
    def layers(self) -> tuple[str, ...]:
        """All that it has, down to the deepest."""
        return tuple(layer for layer, _, _ in self.convolutions)

    @property
    def smallest_side(self) -> int:
        """Pixels that the shorter side of a picture needs for the deepest layer to see one."""
        return int(2 ** (block_of(self.convolutions[-1][0]) - 1))

    def check_side(self, picture: Tensor, name: str) -> None:
        """Refuse a picture, naming it, of which the deepest layer would not see anything."""
        height, width = picture.shape[-2:]
        if min(height, width) < self.smallest_side:
            raise InputError(
                f"{name} is {width}x{height} pixels; its shorter side needs at least"
                f" {self.smallest_side} for the layers asked for."
            )

    def __call__(self, picture: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Activations of the named layers, none deeper than the network was cut.

        The picture is `(1, 3, H, W)`, float32, sRGB in 0..255; the activations are
        `(1, C, H / 2**(block - 1), W / 2**(block - 1))`, in the network's dtype.
        """
        activations = {}
        x = (picture - self.mean).to(self.dtype)
        for layer, weight, bias in self.convolutions:
            if layer.endswith("_1") and layer != "relu1_1":
                x = self._pool(x)
            if layer in self.winograd:
                x = winograd(x, weight, bias)
            else:
                x = direct(x.contiguous(memory_format=torch.channels_last), weight, bias)
            x = F.relu_(x)
            if layer in layers:
                activations[layer] = x
                if len(activations) == len(set(layers)):
                    break  # nothing is asked for behind it
        return activations

    def planned(self, shape: tuple[int, int]) -> Network:
        """The same network, with the convolutions that are fastest here for pictures `(H, W)`."""
        layers = frozenset(fastest(self.convolutions, shape))
        convolutions = tuple(
            (layer, weight.contiguous() if layer in layers else weight, bias)
            for layer, weight, bias in self.convolutions
        )
        return replace(self, convolutions=convolutions, winograd=layers) if layers else self

    def _pool(self, x: Tensor) -> Tensor:
        if self.pooling == "max":
            return F.max_pool2d(x, 2)
        if self.pooling == "l2":
            # The small constant keeps the gradient of the root finite where all four are zero.
            return (F.avg_pool2d(x * x, 2) + 1e-8).sqrt() * POOLING_SCALE["l2"]
        return F.avg_pool2d(x, 2) * POOLING_SCALE[self.pooling]


def build_network(
    weights: Weights,
    layers: Sequence[str],
    *,
    pooling: str = "max",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Network:
    """Set up the part of a backbone that the named layers need; nothing behind the deepest is kept.

    `pooling` is "max", "average", "average-unscaled" or "l2"; see `Network`. The convolutions run
    on `device`, in the precision `dtype`.
    """
    known = BACKBONES[weights.name].layers
    for layer in layers:
        if layer not in known:
            raise InputError(f"no layer {layer!r} in {weights.name}; there are {', '.join(known)}.")
    if pooling not in POOLING_SCALE:
        raise InputError(f"pooling {pooling!r}: use one of {', '.join(POOLING_SCALE)}.")
    deepest = max(known.index(layer) for layer in layers)
    convolutions = []
    for layer in known[: deepest + 1]:
        name = layer.replace("relu", "conv")
        weight = weights.tensors[f"{name}.weight"].to(device, dtype)
        bias = weights.tensors[f"{name}.bias"].to(device, dtype)
        convolutions.append((layer, weight.contiguous(memory_format=torch.channels_last), bias))
    mean = weights.tensors["mean"].to(device, torch.float32).view(1, 3, 1, 1)
    return Network(tuple(convolutions), mean, pooling)
